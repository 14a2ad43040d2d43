"""Why tasks stay pending: every reason with the number of agents it rules out and the nearest miss.

Each agent is counted once, under the first reason that rules it out: place, data, links, deadline, then resources.
Reasons come most telling first: what concerns the class as a whole, what others took, what is short, what is
forbidden. Cost: O(N) for each distinct (needs, constraints) that is refused.
"""

from typing import Literal

import numpy as np

from policies.cost import CODE, FREE, REASONS, time_left_us
from policies.gpus import WHOLE, is_share
from policies.ledger import Ledger
from policies.lower import KINDS, UNKNOWN, Columns, Int64s
from policies.model import Blocker, GpuNeed, Miss, Reason
from policies.resources import share_shortfall

_RESOURCES = (Reason.CPU, Reason.MEMORY, Reason.DISK, Reason.GPU)
_UNITS: tuple[Literal["milli", "bytes", "count"], ...] = ("milli", "bytes", "bytes", "count")
_QUEUE = CODE[Reason.QUEUE]
# Per agent, most telling first.
_ORDER = (
    Reason.QUEUE, Reason.LINK_BANDWIDTH, Reason.LINK_RTT, Reason.LINK_UNMEASURED, Reason.DEADLINE, *_RESOURCES,
    Reason.RESIDENCY, Reason.AVOIDED, Reason.LABEL, Reason.SITE, Reason.TIER,
)  # fmt: skip


class Explainer:
    """Explains the refusals of one round, after everything was given out.

    `obstacle` [C, G] is that of `cost.costs` (or `cost.obstacles`); `need_us` [C, G] the time a task takes there, for
    deadlines.
    """

    def __init__(self, columns: Columns, obstacle: Int64s, ledger: Ledger, need_us: Int64s | None = None) -> None:
        self._columns, self._obstacle, self._ledger, self._need_us = columns, obstacle, ledger, need_us
        self._sizes = np.array([len(nodes) for nodes in columns.members], np.int64)
        self._fresh = Ledger(columns)
        self._short: dict[int, Int64s] = {}
        self._known: dict[tuple[int, bytes], list[Blocker]] = {}

    def blockers(self, c: int, first: list[Blocker] | None = None) -> tuple[Blocker, ...]:
        """The reasons of class `c`, after those of `first` that the policy knows itself. Never empty."""
        columns = self._columns
        found = list(first or [])
        if columns.unreachable[c]:
            found.append(Blocker(reason=Reason.DATA_UNREACHABLE))
        found += [Blocker(reason=Reason.QUOTA, role=path) for path in self._ledger.full_roles(c)]
        if not columns.snapshot.nodes:
            found.append(Blocker(reason=Reason.NO_AGENTS))
        found += self._per_agent(c)
        if not found:
            found.append(Blocker(reason=Reason.QUEUE, agents=len(columns.snapshot.nodes)))
        return tuple(found)

    def _per_agent(self, c: int) -> list[Blocker]:
        columns, row = self._columns, self._obstacle[c]
        k = int(columns.needs_of[c])
        graded = bool(columns.snapshot.demands[c].needs.links) or bool((row == CODE[Reason.DEADLINE]).any())
        key = (k, row.tobytes())
        if not graded and key in self._known:
            return self._known[key]
        counts = np.bincount(row[row != FREE], weights=self._sizes[row != FREE], minlength=len(REASONS))
        short = np.where((row == FREE)[columns.group], self._shortages(k), FREE)
        counts = counts + np.bincount(short[short != FREE], minlength=len(REASONS))
        found = [
            Blocker(reason=reason, agents=int(counts[CODE[reason]]), nearest=self._nearest(c, k, reason, short))
            for reason in _ORDER
            if counts[CODE[reason]]
        ]
        if not graded:
            self._known[key] = found
        return found

    def _shortages(self, k: int) -> Int64s:
        """[N] the first resource each agent is short of; QUEUE where others took it this round, FREE where it fits."""
        if k not in self._short:
            columns = self._columns
            out = np.full(len(columns.free), FREE, np.int64)
            out[self._ledger.slots(k) == 0] = _QUEUE
            n_gpus = columns.gpu_count[k]
            if n_gpus and columns.gpu_milli[k] < WHOLE:
                out[self._fresh.shares(k).sum(axis=1) == 0] = CODE[Reason.GPU]
            elif n_gpus:
                out[columns.gpus[:, columns.gpu_mask[k]].sum(axis=1) < n_gpus] = CODE[Reason.GPU]
            for kind in reversed(range(KINDS)):
                out[columns.free[:, kind] < columns.amounts[k, kind]] = CODE[_RESOURCES[kind]]
            self._short[k] = out
        return self._short[k]

    def _nearest(self, c: int, k: int, reason: Reason, short: Int64s) -> Miss | None:
        if reason in _RESOURCES:
            return self._nearest_resource(k, reason, short)
        if reason is Reason.DEADLINE and self._need_us is not None:
            return self._nearest_deadline(c)
        if reason in (Reason.LINK_RTT, Reason.LINK_BANDWIDTH, Reason.LINK_UNMEASURED):
            return self._nearest_link(c, reason)
        return None

    def _nearest_resource(self, k: int, reason: Reason, short: Int64s) -> Miss:
        columns, kind = self._columns, _RESOURCES.index(reason)
        nodes = np.flatnonzero(short == CODE[reason])
        need = columns.needs[k].gpu
        if reason is Reason.GPU and need is not None and is_share(need):
            return self._nearest_share(need, nodes)
        if reason is Reason.GPU:
            has, needs = columns.gpus[nodes][:, columns.gpu_mask[k]].sum(axis=1), int(columns.gpu_count[k])
        else:
            has, needs = columns.free[nodes, kind], int(columns.amounts[k, kind])
        best = int(has.argmax())
        agent_id = columns.snapshot.nodes[int(nodes[best])].agent_id
        return Miss(agent_id=agent_id, needs=needs, has=int(has[best]), unit=_UNITS[kind])

    def _nearest_share(self, need: GpuNeed, nodes: Int64s) -> Miss:
        """The agent with the most of one GPU, or of its memory where none is short of thousandths."""
        snapshot = self._columns.snapshot
        missed = [(share_shortfall(need, snapshot.nodes[n].free.gpus), n) for n in nodes.tolist()]
        closest = [(short.unit == "bytes", short.has / max(1, short.needs), -n) for short, n in missed]
        short, n = missed[max(range(len(missed)), key=closest.__getitem__)]
        return Miss(agent_id=snapshot.nodes[n].agent_id, needs=short.needs, has=short.has, unit=short.unit)

    def _nearest_deadline(self, c: int) -> Miss:
        columns = self._columns
        assert self._need_us is not None
        late = np.flatnonzero(self._obstacle[c] == CODE[Reason.DEADLINE])
        g = int(late[self._need_us[c, late].argmin()])
        left_us = time_left_us(columns.snapshot.demands[c], columns.snapshot.now_us)
        return Miss(agent_id=self._agent(g), needs=int(self._need_us[c, g]), has=left_us, unit="us")

    def _nearest_link(self, c: int, reason: Reason) -> Miss | None:
        """Of the groups ruled out by it, the one whose link comes closest to the first need it breaks."""
        columns = self._columns
        best: tuple[float, int, Miss] | None = None
        for g in np.flatnonzero(self._obstacle[c] == CODE[reason]).tolist():
            miss = self._broken_link(c, g, reason)
            if miss is not None:
                ratio = 0.0 if miss.has is None else miss.needs / max(1, miss.has)
                far = ratio if reason is Reason.LINK_BANDWIDTH else 1 / max(ratio, 1e-9)
                if best is None or (far, int(columns.first[g])) < best[:2]:
                    best = (far, int(columns.first[g]), miss)
        return best[2] if best else None

    def _broken_link(self, c: int, g: int, reason: Reason) -> Miss | None:
        columns = self._columns
        for need in columns.snapshot.demands[c].needs.links:
            e = columns.end_index["", need.site]
            rtt_us, bps = int(columns.rtt_us[e, g]), int(columns.bandwidth_bps[e, g])
            age_us = int(columns.link_age_us[e, g]) if (rtt_us, bps) != (UNKNOWN, UNKNOWN) else None
            if need.rtt_us_max is not None and reason is not Reason.LINK_BANDWIDTH:
                has = None if rtt_us == UNKNOWN else rtt_us
                if (has is None) == (reason is Reason.LINK_UNMEASURED) and (has is None or has > need.rtt_us_max):
                    return Miss(
                        agent_id=self._agent(g),
                        needs=need.rtt_us_max,
                        has=has,
                        unit="us",
                        site=need.site,
                        age_us=age_us,
                    )
            if need.bandwidth_bps_min is not None and reason is not Reason.LINK_RTT:
                has = None if bps == UNKNOWN else bps
                short = has is None or has < need.bandwidth_bps_min
                if (has is None) == (reason is Reason.LINK_UNMEASURED) and short:
                    return Miss(
                        agent_id=self._agent(g),
                        needs=need.bandwidth_bps_min,
                        has=has,
                        unit="bps",
                        site=need.site,
                        age_us=age_us,
                    )
        return None

    def _agent(self, g: int) -> str:
        return self._columns.snapshot.nodes[int(self._columns.first[g])].agent_id
