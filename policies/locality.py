"""Locality: Quincy's costs (Isard et al., SOSP 2009), solved as the same min-cost flow as `flow`.

A task costs what it must pull: bytes from agents of its own site through the rack switch at `rack_us_per_gb`, bytes
from other sites through the core at `core_us_per_gb`, whatever their links measure. Against that stands waiting: a task
waits for an agent that holds its data as long as pulling would cost. What runs continues where it is, for nothing,
unless the master asks to weigh it anew (`Snapshot.continuing`): such a round is `flow`'s, and may move it. So it knows
where data is and not how long it takes: the difference to `flow` is the worth of measuring.
"""

import numpy as np

from policies.cost import CostModel, Costs, costs
from policies.flow import Flow
from policies.lower import SIZE_BYTES_MAX, TIME_US_MAX, Columns, Int64s, clip

_MB = 1_000_000


class Locality(Flow):
    """Cost of a round: `flow`'s."""

    takes_terms = False

    # Through a gigabit switch a gigabyte takes 8 s; Quincy charges the core twice the rack, oversubscription and all.
    def __init__(self, rack_us_per_gb: int = 8_000_000, core_us_per_gb: int = 16_000_000) -> None:
        super().__init__(CostModel())
        self._rack, self._core = rack_us_per_gb, core_us_per_gb

    def costs(self, columns: Columns) -> Costs:
        measured = costs(columns, self._model)
        transfer_us = self._pulls(columns)
        nothing = np.zeros_like(transfer_us)
        declared = np.array([clip(demand.run_us, TIME_US_MAX) for demand in columns.snapshot.demands], np.int64)
        run_us = np.repeat(declared[:, None], columns.n_groups, axis=1)
        return Costs(
            obstacle=measured.obstacle,
            transfer_us=transfer_us,
            run_us=run_us,  # Equal everywhere, so it decides nothing but how long an agent is taken.
            latency_us=nothing,
            price_us=nothing,
            total_us=np.minimum(transfer_us + run_us, TIME_US_MAX),
            uplink=np.full_like(transfer_us, -1),
            uplinks=(),
            level=measured.level,
        )

    def _pulls(self, columns: Columns) -> Int64s:
        """[C, G] what the bytes that are not there cost; each shard from the nearest replica."""
        per_shard: dict[int, Int64s] = {}
        out = np.zeros((len(columns.reads), columns.n_groups), np.int64)
        for c, shards in enumerate(columns.reads):
            for s in shards:
                if s not in per_shard:
                    per_shard[s] = self._pull(columns, s)
                out[c] = np.minimum(out[c] + per_shard[s], TIME_US_MAX)
        return out

    def _pull(self, columns: Columns, s: int) -> Int64s:
        megabytes = clip(columns.shards[s].size_bytes, SIZE_BYTES_MAX) // _MB + 1
        near = columns.same_site[list(columns.sources[s])].any(axis=0)
        cost = np.where(near, self._rack, self._core) * megabytes // 1000
        cost[columns.group[list(columns.holders[s])]] = 0
        bounded: Int64s = np.minimum(cost, TIME_US_MAX)
        return bounded
