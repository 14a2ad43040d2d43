"""Where replicas go: a min-cost flow from shards to sites, solved by the same kernel as the tasks.

A shard with fewer replicas than wanted supplies what it lacks; one with enough that is about to be read from afar
supplies one copy, which it only sends when that saves more than twice the copying. A replica costs its copying plus
the coming reads at the best replica each would then have; a site takes what its agents' disks hold, and residency
closes sites. What was ordered is remembered until it has had time to arrive, so nothing is ordered twice. Copies and
reads alike wait behind what is already on its way over the same link: else a link that work is waiting for would look
the better for copying the longer they wait. Neither counts those of the same round: many reads that crowd a slow link
are what several copies over a faster one are for.

Cost: at most `SHARDS_MAX` shards a round, O(shards · sites · readers).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from policies.cost import CostModel, fetch_times
from policies.forecast.horizons import rate_bps
from policies.kernels.mincost.network import FlowNetwork
from policies.ledger import Ledger
from policies.lower import SIZE_BYTES_MAX, TIME_US_MAX, Columns, Int64s, clip
from policies.model import Shard, ShardMove

SHARDS_MAX = 32  # shards looked at in one round: those with most coming reads first, the others later
# A site that holds a replica already protects nothing by a second one: as dear as a minute of reading.
_SAME_SITE_US = 60_000_000
_MARGIN_US = 5_000_000  # a copy nobody asked for must save this much beyond twice its own time
_LACKING_US = 1 << 46  # leaving a wanted replica out costs more than any place
_COST_MAX_US = 1 << 44
_ARRIVAL_US = 30_000_000  # on top of twice the copying, before a move that did not arrive may be ordered again


@dataclass(slots=True)
class _Ordered:
    to_agent: str
    until_us: int


class SitePaths:
    """Time to bring bytes from one site to another, as the measured links say, behind what is already on its way."""

    def __init__(self, columns: Columns, model: CostModel) -> None:
        self._model = model
        self._links = {(link.from_id, link.to_id): link for link in columns.snapshot.links}
        self._queued: dict[tuple[str, str], int] = {}  # bytes
        for transfer in columns.snapshot.transfers:
            way = transfer.from_site, transfer.to_site
            self._queued[way] = min(self._queued.get(way, 0) + transfer.left_bytes, SIZE_BYTES_MAX)

    def time_us(self, from_site: str, to_site: str, size_bytes: int) -> int:
        model = self._model
        link = self._links.get((f"site:{from_site}", f"site:{to_site}"))
        local = from_site == to_site
        all_bytes = clip(size_bytes, SIZE_BYTES_MAX) + self._queued.get((from_site, to_site), 0)
        rtt_us = model.lan_rtt_us if local else model.wan_rtt_us
        rate = rate_bps(link, all_bytes) if link is not None else None
        bps = rate if rate is not None else model.lan_bandwidth_bps if local else model.wan_bandwidth_bps
        if link is not None and link.rtt_us is not None:
            rtt_us = link.rtt_us
        return min(rtt_us + all_bytes * 8000 // max(1, bps // 1000), TIME_US_MAX)


class ShardPlacer:
    """Decides moves round after round."""

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._ordered: dict[str, list[_Ordered]] = {}

    def moves(self, columns: Columns, ledger: Ledger, readers: dict[tuple[int, int], int]) -> tuple[ShardMove, ...]:
        """`readers`: (class, group) → pending tasks that will read there. `ledger` holds what the tasks left."""
        self._forget(columns)
        reads = self._reads(columns, readers)
        afar = self._read_from_afar(columns, reads)
        wanting = [
            n
            for n, shard in enumerate(columns.shards)
            if (shard.replicas or shard.in_store) and (self.lacking(shard) > 0 or n in afar)
        ]
        wanting.sort(key=lambda n: (self.lacking(columns.shards[n]) <= 0, -sum(reads.get(n, {}).values()), n))
        if not wanting or not columns.n_groups:
            return ()
        return _Round(self, columns, ledger, self._model, wanting[:SHARDS_MAX], reads).plan()

    def lacking(self, shard: Shard) -> int:
        """Replicas wanted that neither are there nor were ordered."""
        return shard.replicas_wanted - len(shard.replicas) - len(self._ordered.get(shard.shard_id, ()))

    def _read_from_afar(self, columns: Columns, reads: dict[int, dict[int, int]]) -> set[int]:
        """Shards whose coming reads take long enough that a copy could pay."""
        shards = sorted(reads)
        if not shards:
            return set()
        now_us, _ = fetch_times(columns, shards, self._model)
        total_us = [sum(int(now_us[n, g]) * tasks for g, tasks in reads[s].items()) for n, s in enumerate(shards)]
        return {s for s, time_us in zip(shards, total_us, strict=True) if time_us > _MARGIN_US}

    def ordered_to(self, shard: Shard) -> tuple[str, ...]:
        return tuple(order.to_agent for order in self._ordered.get(shard.shard_id, ()))

    def order(self, move: ShardMove, until_us: int) -> None:
        self._ordered.setdefault(move.shard_id, []).append(_Ordered(move.to_agent, until_us))

    def _forget(self, columns: Columns) -> None:
        """Drop orders that arrived, had their time, or whose agent or shard is gone."""
        now_us = columns.snapshot.now_us
        agents = {node.agent_id for node in columns.snapshot.nodes} if self._ordered else set()
        kept: dict[str, list[_Ordered]] = {}
        for shard_id, orders in self._ordered.items():
            n = columns.shard_index.get(shard_id)
            held = columns.shards[n].replicas if n is not None else ()
            alive = [o for o in orders if o.until_us > now_us and o.to_agent in agents and o.to_agent not in held]
            if n is not None and alive:
                kept[shard_id] = alive
        self._ordered = kept

    def _reads(self, columns: Columns, readers: dict[tuple[int, int], int]) -> dict[int, dict[int, int]]:
        """shard → group → coming reads"""
        out: dict[int, dict[int, int]] = {}
        for (c, g), tasks in readers.items():
            for n in columns.reads[c]:
                by_group = out.setdefault(n, {})
                by_group[g] = by_group.get(g, 0) + tasks
        return out


class _Round:
    def __init__(
        self,
        placer: ShardPlacer,
        columns: Columns,
        ledger: Ledger,
        model: CostModel,
        shards: list[int],
        reads: dict[int, dict[int, int]],
    ) -> None:
        self.placer, self.columns, self.shards, self.reads = placer, columns, shards, reads
        self.paths = SitePaths(columns, model)
        self.disk = ledger.free[:, 2].copy()
        nodes_at: dict[str, list[int]] = {}
        for n, node in enumerate(columns.snapshot.nodes):
            nodes_at.setdefault(node.site, []).append(n)
        self.sites = sorted(nodes_at)
        self.nodes_at = {site: np.array(nodes_at[site], np.int64) for site in self.sites}
        self.position = {node.agent_id: n for n, node in enumerate(columns.snapshot.nodes)}
        self.site_of = {node.agent_id: node.site for node in columns.snapshot.nodes}
        self.now_us, _ = fetch_times(columns, shards, model)

    def plan(self) -> tuple[ShardMove, ...]:
        """Shard nodes first, then sites, then the sink."""
        n_shards, n_sites = len(self.shards), len(self.sites)
        sink = n_shards + n_sites
        tail, head, capacity, cost = [], [], [], []
        supply = np.zeros(sink + 1, np.int64)
        ways: list[tuple[int, int]] = []
        for row, n in enumerate(self.shards):
            lacking = self.placer.lacking(self.columns.shards[n])
            supply[row] = max(lacking, 1)  # One that lacks none may still be worth a copy nearer to its readers.
            for column, site in enumerate(self.sites):
                room = len(self._able(n, site))
                if room:
                    ways.append((row, column))
                    tail.append(row)
                    head.append(n_shards + column)
                    capacity.append(room)
                    cost.append(self._place_us(row, site, wanted=lacking > 0))
            tail.append(row)
            head.append(sink)
            capacity.append(int(supply[row]))
            cost.append(_LACKING_US if lacking > 0 else self._reading_us(row, None))
            ways.append((row, -1))
        largest = max(1, *(self.columns.shards[n].size_bytes for n in self.shards))
        for column, site in enumerate(self.sites):
            tail.append(n_shards + column)
            head.append(sink)
            # One of the largest always enters if it fits alone; what then does not fit is left to the next round.
            capacity.append(int(np.maximum(1, self.disk[self.nodes_at[site]] // largest).sum()))
            cost.append(0)
        supply[sink] = -supply.sum()
        arrays = [np.array(each, np.int64) for each in (tail, head, capacity, cost)]
        result = FlowNetwork(sink + 1, arrays[0], arrays[1], arrays[2], arrays[3], supply).solve()
        assert result.status == "optimal", result.status
        moves = [
            move
            for arc, (row, column) in enumerate(ways)
            if column >= 0 and result.flow[arc]
            for move in self._order(row, self.sites[column], int(result.flow[arc]))
        ]
        return tuple(sorted(moves, key=lambda move: (move.shard_id, move.to_agent)))

    def _able(self, n: int, site: str) -> Int64s:
        """Agents of a site that may and can take a replica."""
        shard = self.columns.shards[n]
        if shard.sites and site not in shard.sites:
            return np.zeros(0, np.int64)
        nodes = self.nodes_at[site]
        able = nodes[self.disk[nodes] >= shard.size_bytes]
        ids = (*shard.replicas, *self.placer.ordered_to(shard))
        taken = [self.position[agent_id] for agent_id in ids if self.site_of.get(agent_id) == site]
        return able[~np.isin(able, taken)] if taken else able

    def _takers(self, n: int, site: str) -> list[int]:
        """The same, best first: those about to read it, then the emptiest disks."""
        reads, group = self.reads.get(n, {}), self.columns.group
        able: list[int] = self._able(n, site).tolist()
        return sorted(able, key=lambda m: (-reads.get(int(group[m]), 0), -int(self.disk[m]), m))

    def _replica_sites(self, shard: Shard) -> Iterable[tuple[str, str]]:
        """(agent id, site) of everyone who has the bytes; the master's store is ("", "")."""
        for n, agent_id in enumerate(shard.replicas):
            known = shard.replica_sites[n] if n < len(shard.replica_sites) else ""
            yield agent_id, self.site_of.get(agent_id, known)
        if shard.in_store:
            yield "", ""

    def _source(self, shard: Shard, site: str) -> tuple[int, str]:
        """The time to copy a shard to a site, and from whom."""
        return min(
            (self.paths.time_us(from_site, site, shard.size_bytes), agent_id)
            for agent_id, from_site in self._replica_sites(shard)
        )

    def _reading_us(self, row: int, site: str | None) -> int:
        """What coming reads take, each from its best replica, with one more at `site`."""
        shard = self.columns.shards[self.shards[row]]
        total = 0
        for g, tasks in self.reads.get(self.shards[row], {}).items():
            each = int(self.now_us[row, g])
            if site is not None:
                reader = self.columns.snapshot.nodes[int(self.columns.first[g])].site
                each = min(each, self.paths.time_us(site, reader, shard.size_bytes))
            total += each * tasks
        return min(total, _COST_MAX_US)

    def _place_us(self, row: int, site: str, *, wanted: bool) -> int:
        shard = self.columns.shards[self.shards[row]]
        copy_us = self._source(shard, site)[0]
        cost = self._reading_us(row, site) + copy_us
        if not wanted:
            return cost + copy_us + _MARGIN_US
        present = {where for _, where in self._replica_sites(shard)}
        present |= {self.site_of.get(agent_id, "") for agent_id in self.placer.ordered_to(shard)}
        return cost + (_SAME_SITE_US if site in present else 0)

    def _order(self, row: int, site: str, count: int) -> list[ShardMove]:
        n = self.shards[row]
        shard = self.columns.shards[n]
        copy_us, from_agent = self._source(shard, site)
        out: list[ShardMove] = []
        for m in self._takers(n, site)[:count]:
            self.disk[m] -= shard.size_bytes
            move = ShardMove(
                shard_id=shard.shard_id,
                from_agent=from_agent,
                to_agent=self.columns.snapshot.nodes[m].agent_id,
                saving_us=max(0, self._reading_us(row, None) - self._reading_us(row, site)),
            )
            self.placer.order(move, self.columns.snapshot.now_us + 2 * copy_us + _ARRIVAL_US)
            out.append(move)
        return out
