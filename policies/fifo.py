"""First in, first out: the network-blind baseline.

Highest priority first, then the longest wait; each task goes to the first agent in order of id on which it fits.
Links and the place of data count only where they are hard constraints (link needs, residency).
"""

from policies.constraints import Links, Obstacle, obstacle, shards_by_id, unreachable
from policies.model import (
    Amount,
    Blocker,
    Demand,
    Miss,
    Node,
    Placement,
    Plan,
    Reason,
    Refusal,
    Resources,
    Role,
    Snapshot,
)
from policies.resources import add, amount_of, copies, quota_copies, role_chain, shortfalls, take_copies

_RANK = {reason: rank for rank, reason in enumerate(Reason)}


class Fifo:
    """Keeps nothing between rounds. Cost: O(demands × agents)."""

    def plan(self, snapshot: Snapshot) -> Plan:
        return _Round(snapshot).plan()


class _Round:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.shards = shards_by_id(snapshot)
        self.links = Links(snapshot.links)
        self.left: dict[str, Resources] = {node.agent_id: node.free for node in snapshot.nodes}
        self.roles: dict[str, Role] = {role.path: role for role in snapshot.roles}
        self.started: dict[str, Amount] = {}

    def plan(self) -> Plan:
        placements: list[Placement] = []
        refusals: list[Refusal] = []
        done: set[str] = set()
        for demand in sorted(self.snapshot.demands, key=lambda d: (-d.priority, d.oldest_us, d.demand_id)):
            if demand.demand_id in done:
                continue
            group = self._together(demand)
            done |= {member.demand_id for member in group}
            self._place(group, placements, refusals)
        refusals.sort(key=lambda refusal: refusal.demand_id)
        return Plan(placements=tuple(placements), refusals=tuple(refusals), kernel="first-fit")

    def _together(self, demand: Demand) -> list[Demand]:
        """The demands that must be placed with this one: its gang's, or it alone."""
        if demand.gang is None:
            return [demand]
        gang_id = demand.gang.gang_id
        return [d for d in self.snapshot.demands if d.gang is not None and d.gang.gang_id == gang_id]

    def _place(self, group: list[Demand], placements: list[Placement], refusals: list[Refusal]) -> None:
        left, started = dict(self.left), dict(self.started)
        placed = {demand.demand_id: self._fill(demand) for demand in group}
        counts = {key: sum(p.count for p in found) for key, found in placed.items()}
        gang = group[0].gang
        broken = gang is not None and sum(counts.values()) < max(gang.size, sum(d.count for d in group))
        if broken:
            self.left, self.started = left, started
        for demand in group:
            short = demand.count if broken else demand.count - counts[demand.demand_id]
            if not broken:
                placements += placed[demand.demand_id]
            if short:
                refusals.append(self._refusal(demand, short, counts[demand.demand_id] if broken else None))

    def _fill(self, demand: Demand) -> list[Placement]:
        """Place what fits, agent by agent, and book it."""
        if unreachable(demand, self.shards):
            return []
        remaining = self._quota_room(demand)
        found: list[Placement] = []
        for node in self.snapshot.nodes:
            if remaining == 0:
                break
            count = copies(demand.needs, self.left[node.agent_id], remaining)
            if count == 0 or obstacle(demand, node, self.shards, self.links) is not None:
                continue
            self.left[node.agent_id] = take_copies(demand.needs, self.left[node.agent_id], count)
            found.append(Placement(demand_id=demand.demand_id, agent_id=node.agent_id, count=count))
            remaining -= count
        amount = amount_of(demand.needs, sum(p.count for p in found))
        for path in role_chain(demand.role):
            self.started[path] = add(self.started.get(path, Amount()), amount)
        return found

    def _quota_room(self, demand: Demand) -> int:
        count = demand.count
        for path in role_chain(demand.role):
            role = self.roles.get(path)
            if role is not None:
                allocated = add(role.allocated, self.started.get(path, Amount()))
                count = quota_copies(demand.needs, allocated, role.quota, count)
        return count

    def _refusal(self, demand: Demand, short: int, gang_placed: int | None) -> Refusal:
        blockers: list[Blocker] = []
        if gang_placed is not None:
            miss = Miss(agent_id="", needs=demand.count, has=gang_placed, unit="count")
            blockers.append(Blocker(reason=Reason.GANG, nearest=miss))
        if unreachable(demand, self.shards):
            blockers.append(Blocker(reason=Reason.DATA_UNREACHABLE))
        if self._quota_room(demand) == 0:
            blockers += [
                Blocker(reason=Reason.QUOTA, role=path)
                for path in role_chain(demand.role)
                if path in self.roles
                and quota_copies(
                    demand.needs,
                    add(self.roles[path].allocated, self.started.get(path, Amount())),
                    self.roles[path].quota,
                    1,
                )
                == 0
            ]
        if not self.snapshot.nodes:
            blockers.append(Blocker(reason=Reason.NO_AGENTS))
        blockers += self._per_agent(demand)
        return Refusal(demand_id=demand.demand_id, count=short, blockers=tuple(blockers))

    def _per_agent(self, demand: Demand) -> list[Blocker]:
        found: dict[Reason, list[Miss | None]] = {}
        for node in self.snapshot.nodes:
            what = self._why_not(demand, node)
            if what is not None:
                found.setdefault(what.reason, []).append(what.miss)
        return [
            Blocker(reason=reason, agents=len(misses), nearest=_nearest([m for m in misses if m is not None]))
            for reason, misses in sorted(found.items(), key=lambda item: _RANK[item[0]])
        ]

    def _why_not(self, demand: Demand, node: Node) -> Obstacle | None:
        what = obstacle(demand, node, self.shards, self.links)
        if what is not None:
            return what
        for short in shortfalls(demand.needs, self.left[node.agent_id]):
            if not shortfalls(demand.needs, node.free):
                return Obstacle(Reason.QUEUE)
            miss = Miss(agent_id=node.agent_id, needs=short.needs, has=short.has, unit=short.unit)
            return Obstacle(short.reason, miss)
        return None


def _nearest(misses: list[Miss]) -> Miss | None:
    return min(misses, key=lambda m: (m.has is None, abs(m.needs - (m.has or 0)), m.agent_id), default=None)
