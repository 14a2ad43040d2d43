"""Predictive: any policy, and bytes that are brought where they will be read before anybody asks for them.

A host policy decides everything that waits now. This one remembers which shards its tasks read where and at what time
of the day, by kind of shard: names that differ only in their numbers are of one kind, so tomorrow's `model-2` stands
for today's `model-1`. Where a kind is due to be read at a site within `LEAD` of a day, and a shard of it that nobody
read yet lies elsewhere, it is copied there: once over each link at a time, and in the hours before in which that link
was the fastest, as far as they leave twice the time the copy takes.

It also forecasts how much work of each role and profile there will be (`policies.workload`). Where that is more tasks
at once than the sites that hold the shards they read have room for, copies go to as many other sites as it takes,
those that get them soonest first: then the work that overflows finds its bytes there.

Forecasts: of reads, that what was read in a slot of the day is read again in that slot a day later, with a weight that
halves each day it is not; of tasks, the most of each slot, the newest day counting half; of links, the mean of what was
measured in each slot (the near future is the link's own forecast, see docs/forecast.md). A day is `period_us`; a week
does where work has one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from policies.api import Policy
from policies.constraints import Links, obstacle
from policies.flow import Flow
from policies.model import Demand, Node, Plan, Shard, ShardMove, Snapshot
from policies.resources import copies
from policies.workload import Kind, Workload, kind_of

DAY_US = 86_400_000_000
SLOTS = 96  # of a day: a quarter of an hour each
LEAD = 24  # slots ahead that are prepared for: a quarter of a day
WEIGHT_MIN = 0.2  # expected reads below which nothing is moved: a habit three days old and not repeated
KINDS_MAX = 64  # remembered and watched; those read least go first
SHARDS_READ_MAX = 10_000  # remembered as read; the oldest are forgotten first
LOOK_US = 60_000_000  # between two looks at where work will overflow: each costs streams × agents
TASKS_MAX = 1 << 20  # of one class on one agent
MOVES_MAX = 16  # ordered in one round
BETTER = 1.25  # times as fast as now a later slot must have been, for a copy to wait for it
ARRIVAL_US = 60_000_000  # beside twice its time, before a copy that did not arrive may be ordered again


@dataclass(slots=True)
class Habit:
    """How often a kind of shard is read at a site, by slot of the day; `weight` decays a half each day."""

    weight: dict[int, float] = field(default_factory=dict)
    seen_us: dict[int, int] = field(default_factory=dict)

    def note(self, slot: int, now_us: int, period_us: int, count: int) -> None:
        self.weight[slot] = min(self.at(slot, now_us, period_us) + count, 1e6)
        self.seen_us[slot] = now_us

    def at(self, slot: int, now_us: int, period_us: int) -> float:
        """Expected reads in that slot when it comes next."""
        if slot not in self.weight:
            return 0.0
        days = (now_us - self.seen_us[slot]) // period_us
        return float(self.weight[slot] * 0.5 ** min(days, 60))


@dataclass(slots=True)
class Rates:
    """What a link carried in each slot of the day: the mean over days, newer ones counting half."""

    bps: dict[int, float] = field(default_factory=dict)

    def note(self, slot: int, bps: int) -> None:
        self.bps[slot] = bps if slot not in self.bps else (self.bps[slot] + bps) / 2


class Predictive:
    """Cost of a round: the host's, and O(kinds × sites + watched shards + running tasks); once a minute O(streams ×
    agents)."""

    takes_terms = False

    def __init__(self, make_host: Callable[[], Policy] = Flow, period_us: int = DAY_US) -> None:
        self._host = make_host()
        self._period_us = period_us
        self._habits: dict[tuple[Kind, str], Habit] = {}  # by kind and reading site
        self._rates: dict[tuple[str, str], Rates] = {}  # by pair of sites
        self._read: dict[str, None] = {}  # shards that somebody read, oldest first
        self._ordered: dict[tuple[str, str], int] = {}  # (shard, site) → until when it is on its way
        self._workload = Workload(period_us, SLOTS, LEAD)
        self._looked_us = -LOOK_US

    def plan(self, snapshot: Snapshot) -> Plan:
        plan = self._host.plan(snapshot)
        self._remember(snapshot, plan)
        self._workload.note(snapshot)
        moves = (*plan.moves, *self._prepare(snapshot, plan))
        return msgspec.structs.replace(
            plan, moves=moves, watches=self._watches(), kernel=f"predictive over {plan.kernel}"
        )

    def slot(self, at_us: int) -> int:
        return at_us % self._period_us * SLOTS // self._period_us

    # --- what was ----------------------------------------------------------------------------------------------------

    def _remember(self, snapshot: Snapshot, plan: Plan) -> None:
        now_us, slot = snapshot.now_us, self.slot(snapshot.now_us)
        sites = {node.agent_id: node.site for node in snapshot.nodes}
        names = {shard.shard_id: shard.name for shard in snapshot.shards}
        reads = {demand.demand_id: demand.reads for demand in snapshot.demands if demand.reads}
        for placement in plan.placements:
            for shard_id in reads.get(placement.demand_id, ()):
                if names.get(shard_id):
                    habit = self._habits.setdefault((kind_of(names[shard_id]), sites[placement.agent_id]), Habit())
                    habit.note(slot, now_us, self._period_us, placement.count)
                    self._read.pop(shard_id, None)
                    self._read[shard_id] = None
        while len(self._read) > SHARDS_READ_MAX:
            del self._read[next(iter(self._read))]
        if len(self._habits) > 4 * KINDS_MAX:
            worth = sorted(self._habits, key=lambda key: (-self._due(key, now_us, SLOTS), key))
            self._habits = {key: self._habits[key] for key in worth[: 2 * KINDS_MAX]}
        for link in snapshot.links:
            if link.bandwidth_bps and link.from_id.startswith("site:") and link.to_id.startswith("site:"):
                self._rates.setdefault((link.from_id[5:], link.to_id[5:]), Rates()).note(slot, link.bandwidth_bps)

    def _watches(self) -> tuple[str, ...]:
        """The names of all kinds as globs."""
        return tuple(sorted({kind.replace("[", "[[]").replace("#", "*") for kind, _ in self._habits})[:KINDS_MAX])

    # --- what will be ------------------------------------------------------------------------------------------------

    def _due(self, key: tuple[Kind, str], now_us: int, ahead: int) -> float:
        """Expected reads of a kind at a site in the slots after this one."""
        habit, slot = self._habits[key], self.slot(now_us)
        return sum(habit.at((slot + n) % SLOTS, now_us, self._period_us) for n in range(1, ahead + 1))

    def _first_due_us(self, key: tuple[Kind, str], now_us: int) -> int:
        """When the first of the slots ahead begins in which the kind is expected."""
        habit, slot, width_us = self._habits[key], self.slot(now_us), self._period_us // SLOTS
        begun_us = now_us - now_us % self._period_us % width_us
        for n in range(1, LEAD + 1):
            if habit.at((slot + n) % SLOTS, now_us, self._period_us) >= WEIGHT_MIN:
                return begun_us + n * width_us
        return begun_us + LEAD * width_us

    def _prepare(self, snapshot: Snapshot, plan: Plan) -> list[ShardMove]:
        now_us = snapshot.now_us
        self._ordered = {key: until_us for key, until_us in self._ordered.items() if until_us > now_us}
        busy = {(each.from_site, each.to_site) for each in snapshot.transfers}
        taken = {(move.shard_id, move.to_agent) for move in plan.moves}
        room = _room(snapshot, plan)
        out: list[ShardMove] = []
        for shard, site, due_us in (*self._read_soon(snapshot), *self._overflowing(snapshot)):
            if len(out) == MOVES_MAX:
                break
            move = self._move(snapshot, shard, site, room, busy, due_us)
            if move is not None and (move.shard_id, move.to_agent) not in taken:
                out.append(move)
        return out

    def _read_soon(self, snapshot: Snapshot) -> Iterator[tuple[Shard, str, int]]:
        """(shard that nobody read yet, site where its kind is due, when)"""
        fresh: dict[Kind, list[Shard]] = {}
        for shard in snapshot.shards:
            if shard.name and shard.shard_id not in self._read and shard.replicas:
                fresh.setdefault(kind_of(shard.name), []).append(shard)
        for key in sorted(self._habits):
            kind, site = key
            if kind in fresh and self._due(key, snapshot.now_us, LEAD) >= WEIGHT_MIN:
                for shard in fresh[kind]:
                    yield shard, site, self._first_due_us(key, snapshot.now_us)

    def _overflowing(self, snapshot: Snapshot) -> Iterator[tuple[Shard, str, int]]:
        """(shard, site, when): where work goes that the sites which hold what it reads will have no room for."""
        if snapshot.now_us < self._looked_us + LOOK_US:
            return
        self._looked_us = snapshot.now_us
        by_kind: dict[Kind, list[Shard]] = {}
        for shard in snapshot.shards:
            if shard.name and shard.replicas:
                by_kind.setdefault(kind_of(shard.name), []).append(shard)
        width_us = self._period_us // SLOTS
        begun_us = snapshot.now_us - snapshot.now_us % self._period_us % width_us
        links = Links(snapshot.links)
        for _, stream in sorted(self._workload.streams.items()):
            ahead = stream.peak.ahead()
            if max(ahead) <= 0:
                continue
            room = _tasks_by_site(snapshot, stream.demand, links)
            for kind, at_once in stream.kinds.items():
                # One of many shards is read by its part of the tasks; all of them are full where they have no room.
                peaks = [int(each / at_once + 0.5) for each in ahead]
                for shard in _newest(by_kind.get(kind, []), at_once):
                    held = [site for site in _sites_of(shard, snapshot) if site in room]
                    have = sum(room[site] for site in held) // at_once
                    due = next((n for n, each in enumerate(peaks) if each > have), None)
                    for site in self._nearest(shard, snapshot, links, set(room) - set(held)) if due is not None else ():
                        if have >= max(peaks):
                            break
                        have += room[site] // at_once
                        yield shard, site, begun_us + (due or 0) * width_us + width_us

    @staticmethod
    def _nearest(shard: Shard, snapshot: Snapshot, links: Links, sites: set[str]) -> list[str]:
        """Sites by how fast the shard comes to them, those it cannot come to left out."""
        rates: list[tuple[int, str]] = []
        for site in sites:
            ways = [links.from_site(source, "", site) for source in _sites_of(shard, snapshot)]
            best = max((way.bandwidth_bps or 0 for way in ways if way is not None), default=0)
            if best:
                rates.append((-best, site))
        return [site for _, site in sorted(rates)]

    def _move(
        self,
        snapshot: Snapshot,
        shard: Shard,
        site: str,
        room: dict[str, int],
        busy: set[tuple[str, str]],
        due_us: int,
    ) -> ShardMove | None:
        """The copy of a shard to a site, booked; None where it is there, may not be, has no way, or had better wait."""
        known = {node.agent_id: node.site for node in snapshot.nodes}
        sources = [
            (agent_id, known.get(agent_id) or (shard.replica_sites[n] if n < len(shard.replica_sites) else ""))
            for n, agent_id in enumerate(shard.replicas)
        ]
        if (shard.shard_id, site) in self._ordered or any(where == site for _, where in sources):
            return None
        if shard.sites and site not in shard.sites:
            return None
        links = Links(snapshot.links)
        ways = sorted(
            (-(link.bandwidth_bps or 0), agent_id, where)
            for agent_id, where in sources
            if (link := links.from_site(where, "", site)) is not None and link.bandwidth_bps
        )
        takers = [node for node in snapshot.nodes if node.site == site and room[node.agent_id] >= shard.size_bytes]
        if not ways or not takers or (ways[0][2], site) in busy:
            return None
        bps, from_agent, from_site = -ways[0][0], ways[0][1], ways[0][2]
        copy_us = shard.size_bytes * 8_000_000 // bps
        if self._better_later(from_site, site, bps, snapshot.now_us, due_us - 2 * copy_us):
            return None
        taker = max(takers, key=lambda node: (room[node.agent_id], node.agent_id))
        room[taker.agent_id] -= shard.size_bytes
        busy.add((from_site, site))
        self._ordered[shard.shard_id, site] = snapshot.now_us + 2 * copy_us + ARRIVAL_US
        return ShardMove(shard_id=shard.shard_id, from_agent=from_agent, to_agent=taker.agent_id, saving_us=copy_us)

    def _better_later(self, from_site: str, to_site: str, bps: int, now_us: int, last_us: int) -> bool:
        """Whether the link used to be clearly faster in a slot that begins before `last_us`."""
        rates = self._rates.get((from_site, to_site), Rates()).bps
        width_us = self._period_us // SLOTS
        begun_us = now_us - now_us % self._period_us % width_us
        ahead = max(0, min(LEAD, (last_us - begun_us) // width_us))
        slot = self.slot(now_us)
        return any(rates.get((slot + n) % SLOTS, 0.0) > BETTER * bps for n in range(1, ahead + 1))


def _tasks_by_site(snapshot: Snapshot, demand: Demand, links: Links) -> dict[str, int]:
    """How many tasks of a class each site could run, were it empty; sites where it may not run are left out."""
    room: dict[str, int] = {}
    for node in snapshot.nodes:
        if obstacle(demand, node, {}, links) is None:
            room[node.site] = room.get(node.site, 0) + copies(demand.needs, node.total, TASKS_MAX)
    return {site: count for site, count in room.items() if count}


def _sites_of(shard: Shard, snapshot: Snapshot) -> list[str]:
    known = {node.agent_id: node.site for node in snapshot.nodes}
    named = shard.replica_sites or ("",) * len(shard.replicas)
    return [known.get(agent_id) or site for agent_id, site in zip(shard.replicas, named, strict=True)]


def _newest(shards: list[Shard], count: int) -> list[Shard]:
    """The last by the numbers in their names, which count up."""
    order = sorted(shards, key=lambda shard: [int(each) for each in re.findall(r"\d+", shard.name)])
    return order[max(0, len(order) - count) :]


def _room(snapshot: Snapshot, plan: Plan) -> dict[str, int]:
    """Free disk of each agent once the plan has had its way."""
    room = {node.agent_id: _disk(node) for node in snapshot.nodes}
    needs = {demand.demand_id: demand.needs for demand in snapshot.demands}
    sizes = {shard.shard_id: shard.size_bytes for shard in snapshot.shards}
    for placement in plan.placements:
        room[placement.agent_id] -= needs[placement.demand_id].disk_bytes * placement.count
    for move in plan.moves:
        room[move.to_agent] -= sizes.get(move.shard_id, 0)
    return room


def _disk(node: Node) -> int:
    return node.free.disk_bytes
