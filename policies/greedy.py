"""What greedy policies share: an order of the work, a choice of agents, and everything else done once.

A policy of this kind says who comes first (`rank`) and where it goes (`choose`); constraints, quotas, gangs, books and
reasons are kept here. Cost of a round: O(demands × agents) array work, times what `choose` adds.
"""

from collections.abc import Sequence

import numpy as np

from policies.communication import tuned
from policies.cost import FREE, CostModel, Costs, costs, obstacles
from policies.explain import Explainer
from policies.gpus import milli_of
from policies.ledger import Ledger
from policies.lower import Columns, Int64s, Lowerer
from policies.model import Blocker, Candidate, Demand, Eviction, Miss, Placement, Plan, Reason, Refusal, Snapshot
from policies.resources import PPM

Parts = Sequence[tuple[int, int]]
"""(node, tasks), in the order in which they are booked; each node once."""

Rank = tuple[int | str, ...]


class Greedy:
    """Base of the greedy policies; by itself it is first in, first out. State is kept for speed only."""

    kernel = "first-fit"

    def __init__(self) -> None:
        self._lowerer = Lowerer()

    def plan(self, snapshot: Snapshot) -> Plan:
        books = Round(self, self._lowerer.lower(snapshot))
        self.give_out(books)
        return tuned(snapshot, books.plan())

    def give_out(self, books: "Round") -> None:
        """Serve every class once, in order of rank."""
        for c in sorted(range(len(books.demands)), key=lambda c: self.rank(books, c)):
            books.serve(c)

    def rank(self, books: "Round", c: int) -> Rank:
        """Smaller comes first; must end in what tells classes apart."""
        return seniority(books.demands[c])

    def choose(self, books: "Round", c: int, room: Int64s, count: int) -> Parts:
        """Give up to `count` tasks of a class to nodes with room for `room[node]` of them each."""
        scores = self.scores(books, c)
        nodes = np.flatnonzero(room > 0)
        return fill(nodes if scores is None else nodes[np.argsort(scores[nodes], kind="stable")], room, count)

    def scores(self, books: "Round", c: int) -> Int64s | None:
        """[N] nodes are filled one after the other, lowest first; None: in order of id."""
        return None

    def obstacles(self, books: "Round") -> Int64s:
        """[C, G] the constraint that forbids a group to a class, or FREE."""
        return obstacles(books.columns)


def seniority(demand: Demand) -> Rank:
    """Highest priority first, then the longest wait."""
    return -demand.priority, demand.oldest_us, demand.demand_id


def fill(nodes: Int64s, room: Int64s, count: int) -> list[tuple[int, int]]:
    """As many as fit on each node, in the order given."""
    before = np.cumsum(room[nodes]) - room[nodes]
    parts: list[tuple[int, int]] = []
    for node in nodes[before < count].tolist():
        part = min(int(room[node]), count)
        parts.append((node, part))
        count -= part
    return parts


class Round:
    """The books of one round. Classes and nodes are named by their place in the snapshot."""

    def __init__(self, policy: Greedy, columns: Columns) -> None:
        self.policy, self.columns, self.snapshot = policy, columns, columns.snapshot
        self.demands, self.nodes = columns.snapshot.demands, columns.snapshot.nodes
        self.ledger = Ledger(columns)
        self.remaining: list[int] = columns.count.tolist()
        self.evictions: list[Eviction] = []
        self.waits_for: dict[int, Candidate] = {}  # class → where room is being made for it
        self.wished: dict[int, tuple[str, ...]] = {}  # node → the GPUs that what is chosen next should get there
        self._costs: Costs | None = None
        self._placed: dict[tuple[int, int], int] = {}  # (class, node) → tasks
        self._broken: dict[str, int] = {}  # gang → members that did fit
        self._gangs: dict[str, list[int]] = {}
        for c, demand in enumerate(self.demands):
            if demand.gang is not None:
                self._gangs.setdefault(demand.gang.gang_id, []).append(c)
        self.obstacle = policy.obstacles(self)
        self.totals = _totals(columns)

    @property
    def costs(self) -> Costs:
        """Expected times and prices, by measured links and learned profiles; made when first asked for."""
        if self._costs is None:
            self._costs = costs(self.columns, CostModel())
        return self._costs

    def serve(self, c: int, at_most: int | None = None) -> int:
        """Place up to so many tasks of a class, of a gang all or none; how many tasks were placed."""
        gang = self.demands[c].gang
        if gang is None:
            return self._place(c, at_most)
        return 0 if gang.gang_id in self._broken else self._place_gang(gang.gang_id)

    def retry(self, c: int) -> None:
        """Let the gang of a class be tried again, in another way."""
        gang = self.demands[c].gang
        if gang is not None:
            self._broken.pop(gang.gang_id, None)

    def room(self, c: int) -> Int64s:
        """[N] how many tasks of a class fit on each node that may run them."""
        room = self.ledger.slots(int(self.columns.needs_of[c]))
        room[~self.allowed(c)] = 0
        return room

    def allowed(self, c: int) -> "np.typing.NDArray[np.bool_]":
        """[N] where no constraint forbids the class, whatever is free."""
        out: np.typing.NDArray[np.bool_] = (self.obstacle[c] == FREE)[self.columns.group]
        return out

    def by_node(self, of_groups: Int64s) -> Int64s:
        """[G] → [N]"""
        out: Int64s = of_groups[self.columns.group]
        return out

    def members(self, gang_id: str) -> list[int]:
        """The classes of a gang."""
        return self._gangs[gang_id]

    def _place(self, c: int, at_most: int | None = None) -> int:
        wanted = self.remaining[c] if at_most is None else min(at_most, self.remaining[c])
        count = self.ledger.quota_room(c, wanted)
        if count <= 0 or self.columns.unreachable[c]:
            return 0
        placed = 0
        for node, part in self.policy.choose(self, c, self.room(c), count):
            self.ledger.take(c, node, part, self.wished.pop(node, ()))
            self._placed[c, node] = self._placed.get((c, node), 0) + part
            placed += part
        self.remaining[c] -= placed
        return placed

    def _place_gang(self, gang_id: str) -> int:
        ledger, placed, remaining = self.ledger.copy(), dict(self._placed), list(self.remaining)
        members = self._gangs[gang_id]
        count = sum(self._place(c) for c in members)
        if any(self.remaining[c] for c in members):
            self._broken[gang_id] = count
            self.ledger, self._placed, self.remaining = ledger, placed, remaining
            return 0
        return count

    # --- the plan ----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        return Plan(
            placements=tuple(
                Placement(
                    demand_id=self.demands[c].demand_id,
                    agent_id=self.nodes[node].agent_id,
                    count=count,
                    gpus=self.ledger.named(c, node),
                )
                for (c, node), count in self._placed.items()
            ),
            refusals=self._refusals(),
            evictions=tuple(self.evictions),
            kernel=self.policy.kernel,
        )

    def _refusals(self) -> tuple[Refusal, ...]:
        need_us = self._costs.transfer_us + self._costs.run_us if self._costs is not None else None
        explainer = Explainer(self.columns, self.obstacle, self.ledger, need_us)
        out: list[Refusal] = []
        for c, demand in enumerate(self.demands):
            short = demand.count - (int(self.columns.count[c]) - self.remaining[c])
            if short <= 0:
                continue
            first: list[Blocker] = []
            if c in self.waits_for:
                first.append(Blocker(reason=Reason.PLANNED_WAIT, agents=1))
            if demand.gang is not None and demand.gang.gang_id in self._broken:
                wanted = sum(self.remaining[each] for each in self._gangs[demand.gang.gang_id])
                miss = Miss(agent_id="", needs=wanted, has=self._broken[demand.gang.gang_id], unit="count")
                first.append(Blocker(reason=Reason.GANG, nearest=miss))
            blockers = explainer.blockers(c, first)
            out.append(
                Refusal(demand_id=demand.demand_id, count=short, blockers=blockers, waits_for=self.waits_for.get(c))
            )
        return tuple(out)


def _totals(columns: Columns) -> Int64s:
    """[N, KINDS + 1] what each node has in all, thousandths of GPUs last."""
    rows = [
        (n.total.cpu_milli, n.total.memory_bytes, n.total.disk_bytes, milli_of(n.total.gpus))
        for n in columns.snapshot.nodes
    ]
    return np.clip(np.array(rows, np.int64).reshape(len(rows), 4), 0, 1 << 52)


def free_of(books: Round) -> Int64s:
    """[N, KINDS + 1] what is left on each node now, thousandths of GPUs last."""
    return np.column_stack([books.ledger.free, books.ledger.gpu_milli()])


def needs_of(books: Round, c: int) -> Int64s:
    """[KINDS + 1] what a task of a class takes, thousandths of GPUs last."""
    k, columns = int(books.columns.needs_of[c]), books.columns
    return np.append(columns.amounts[k], columns.gpu_count[k] * columns.gpu_milli[k])


def shares_ppm(amounts: Int64s, totals: Int64s) -> Int64s:
    """`amounts` in parts per million of `totals`, which stay below 2^43 each."""
    scale = np.maximum(1, totals >> 40)  # bytes past a tebibyte are compared in coarser units
    out: Int64s = (amounts // scale) * PPM // np.maximum(1, totals // scale)
    return out
