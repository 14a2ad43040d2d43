"""First in, first out: the network-blind baseline.

Highest priority first, then the longest wait; each task goes to the first agent in order of id on which it fits.
Links and the place of data count only where they are hard constraints (link needs, residency); deadlines do not.
"""

import numpy as np

from policies.cost import FREE, obstacles
from policies.explain import Explainer
from policies.ledger import Ledger
from policies.lower import Columns, Lowerer
from policies.model import Blocker, Miss, Placement, Plan, Reason, Refusal, Snapshot


class Fifo:
    """Keeps what it lowered of unchanged agents, for speed only. Cost of a round: O(demands × agents) array work."""

    def __init__(self) -> None:
        self._lowerer = Lowerer()

    def plan(self, snapshot: Snapshot) -> Plan:
        return _Round(self._lowerer.lower(snapshot)).plan()


class _Round:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.demands = columns.snapshot.demands
        self.obstacle = obstacles(columns)
        self.ledger = Ledger(columns)
        self.placed: list[tuple[int, int, int]] = []  # class, node, tasks
        self.remaining = columns.count.tolist()
        self.broken: dict[str, int] = {}  # gang → members that did fit
        self.gangs: dict[str, list[int]] = {}

    def plan(self) -> Plan:
        for c, demand in enumerate(self.demands):
            if demand.gang is not None:
                self.gangs.setdefault(demand.gang.gang_id, []).append(c)
        done: set[str] = set()
        order = sorted(range(len(self.demands)), key=lambda c: self._rank(c))
        for c in order:
            gang = self.demands[c].gang
            if gang is None:
                self._fill(c)
            elif gang.gang_id not in done:
                done.add(gang.gang_id)
                self._fill_gang(gang.gang_id)
        return Plan(placements=self._placements(), refusals=self._refusals(), kernel="first-fit")

    def _rank(self, c: int) -> tuple[int, int, str]:
        demand = self.demands[c]
        return -demand.priority, demand.oldest_us, demand.demand_id

    def _fill(self, c: int) -> None:
        """Place what fits of a class, agent by agent, and book it."""
        if self.columns.unreachable[c]:
            return
        count = self.ledger.quota_room(c, self.remaining[c])
        room = self.ledger.slots(int(self.columns.needs_of[c]))
        room[(self.obstacle[c] != FREE)[self.columns.group]] = 0
        before = np.cumsum(room) - room
        for node in np.flatnonzero((room > 0) & (before < count)).tolist():
            part = min(int(room[node]), count)
            self.ledger.take(c, node, part)
            self.placed.append((c, node, part))
            self.remaining[c] -= part
            count -= part

    def _fill_gang(self, gang_id: str) -> None:
        """All pending tasks of a gang or none."""
        books = self.ledger.copy(), len(self.placed), list(self.remaining)
        members = self.gangs[gang_id]
        for c in members:
            self._fill(c)
        short = sum(self.remaining[c] for c in members)
        if short:
            self.broken[gang_id] = sum(books[2][c] for c in members) - short
            self.ledger, self.remaining = books[0], books[2]
            del self.placed[books[1] :]

    def _placements(self) -> tuple[Placement, ...]:
        nodes = self.columns.snapshot.nodes
        return tuple(
            Placement(demand_id=self.demands[c].demand_id, agent_id=nodes[node].agent_id, count=count)
            for c, node, count in self.placed
        )

    def _refusals(self) -> tuple[Refusal, ...]:
        explainer = Explainer(self.columns, self.obstacle, self.ledger)
        out: list[Refusal] = []
        for c, demand in enumerate(self.demands):
            short = demand.count - (int(self.columns.count[c]) - self.remaining[c])
            if short > 0:
                first: list[Blocker] = []
                if demand.gang is not None and demand.gang.gang_id in self.broken:
                    wanted = sum(self.remaining[each] for each in self.gangs[demand.gang.gang_id])
                    miss = Miss(agent_id="", needs=wanted, has=self.broken[demand.gang.gang_id], unit="count")
                    first.append(Blocker(reason=Reason.GANG, nearest=miss))
                blockers = explainer.blockers(c, first)
                out.append(Refusal(demand_id=demand.demand_id, count=short, blockers=blockers))
        return tuple(out)
