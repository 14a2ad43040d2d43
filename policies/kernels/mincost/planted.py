"""A network kept as a spanning tree, for the simplex: changed in place, repaired, solved again.

Inside, arcs lie in another order than their ids' (`position`): neighbours in the caller's order, which tend to be
alike, are spread over the blocks that pricing scans, so that every block holds good candidates.
"""

from typing import NamedTuple

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import basis, crash, repair, scaling, simplex, tree
from policies.kernels.mincost.columns import grown, spread
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.residual import build

SOURCES_SPARSE = 32  # One consumer and a source in that many nodes or more: a scheduling network, worth a crash tree.
# In large scheduling networks scaling comes near the optimum at about the same cost whatever the load, and the tree it
# leaves is a few hundred pivots from the end. The simplex from the crash tree takes a third of that or four times as
# much; it shows early, by how many pivots it has made for its first scans.
NEAR_ARCS_MIN = 10_000  # Below, scaling saves nothing.
PROBE = 100  # After so many scans of all arcs …
PROBE_PIVOTS = 41  # … fewer pivots than that for each 100 nodes are dear ones, …
PROBE_PIVOTS_CROWDED = 95  # … or than that where, of the slots, more than …
CROWDED_PERCENT = 90  # … are wanted.
NEAR_STEP = 12  # ε begins at that part of the largest cost and is divided by as much …
NEAR_LAST = 2  # … down to so many units of cost: a phase more costs more than the pivots it spares.


class Arcs(NamedTuple):
    """A network's columns by arc id; bounds are NO_BOUND where there is none."""

    tail: Int64s
    head: Int64s
    alive: Flags
    bound: Int64s
    cost: Int64s


class Planted:
    """The tree of the last solve, and what changed since."""

    kernel = "simplex"

    def __init__(self, arcs: Arcs, supply: Int64s, root: int) -> None:
        """Everything hangs under `root`, a node that is alive."""
        n_nodes, n_arcs = supply.size, arcs.tail.size
        self._n_nodes, self._n_arcs, self.root = n_nodes, n_arcs, root
        self._position = spread(n_arcs)
        tail, head = np.empty(n_arcs, np.int32), np.empty(n_arcs, np.int32)
        cost, bound = np.empty(n_arcs, np.int64), np.empty(n_arcs, np.int64)
        for lying, column in ((tail, arcs.tail), (head, arcs.head), (cost, arcs.cost), (bound, arcs.bound)):
            lying[self._position] = column
        state = np.empty(n_arcs, np.int8)
        potential, excess, after, before = (np.zeros(n_nodes, np.int64) for _ in range(4))
        rows = np.empty((n_nodes, tree.ROW), np.int64)
        arc_columns = (tail, head, cost, bound, bound.copy(), state)
        self.net = tree.Columns(*arc_columns, potential, excess, after, before, rows)
        self._work = np.zeros(simplex.N_WORK, np.int64)
        self._near_work = np.zeros(scaling.N_WORK, np.int64)
        self._is_planted = False

    def _plant(self, alive: Flags, supply: Int64s, big: int, bare: bool) -> None:
        """A first tree. Bare: every node under the root by an artificial arc, every bound counts, no cycling; else
        nodes hang on their way to the root where that helps, and bounds that cannot bind are dropped.
        """
        net = self.net
        net.state[self._position[: self._n_arcs]] = np.where(alive, tree.LOWER, tree.DEAD)
        repair.plant(net, supply, self.root)
        net.capacity[:] = net.bound
        self._is_planted = True
        if bare:
            return
        repair.drop_redundant_bounds(net.tail, net.head, supply, net.bound, net.capacity)
        if is_scheduling(supply):
            crash.lean(net, supply, self._n_nodes, self._n_arcs, self.root, big)

    def _plant_near(self, arcs: Arcs, supply: Int64s) -> bool:
        """A first tree out of what scaling comes near the optimum with; False, and nothing changed, where it fails."""
        cost_max = int(np.abs(arcs.cost).max())
        tight = scaling.tightened(arcs.tail, arcs.head, arcs.bound, arcs.cost, supply, cost_max)
        if tight is None:
            return False
        near = build(*arcs, np.zeros(self._n_arcs, np.int64), supply, np.zeros(self._n_nodes, np.int64), 0)
        if scaling.approach(near, tight, cost_max // NEAR_STEP, NEAR_LAST, NEAR_STEP, self._near_work) != scaling.FINE:
            return False
        self._plant(arcs.alive, supply, 0, bare=True)
        net = self.net
        repair.drop_redundant_bounds(net.tail, net.head, supply, net.bound, net.capacity)
        net.excess[:] = supply
        flow, reduced, key = (np.empty(self._n_arcs, np.int64) for _ in range(3))
        basis.lay(net, near, self._position, flow, reduced, key)
        chosen = np.empty(self._n_nodes, np.int64)
        n_chosen = basis.choose(net, flow, reduced, np.argsort(key), chosen)
        basis.hang(net, self.root, chosen[:n_chosen])
        return True

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_supply(self, nodes: Int64s, more: Int64s) -> None:
        self.net.excess[nodes] += more

    def set_cost(self, arcs: Int64s, tails: Int64s, values: Int64s) -> None:
        repair.change_costs(self.net, arcs, values, self._position)

    def set_capacity(self, arcs: Int64s, tails: Int64s, values: Int64s) -> None:
        repair.change_capacities(self.net, arcs, values, self._position)

    def add_nodes(self, n_nodes: int, ids: Int64s, supplies: Int64s) -> None:
        """Make room for node ids below n_nodes; the new ones begin idle, the others may still owe what they sent."""
        net, first = self.net, self._n_nodes
        if n_nodes > net.excess.size:
            columns = ("potential", "excess", "after", "before", "rows")
            net = net._replace(**{name: grown(getattr(net, name), n_nodes) for name in columns})
            self.net = net
        if n_nodes > first:
            tree.append(net, first, n_nodes, self.root)
            self._n_nodes = n_nodes
        net.excess[ids] += supplies

    def add_arcs(self, arcs: Arcs, supply: Int64s, ids: Int64s) -> None:
        """Take in new arcs, given all columns as they are now."""
        net, n_arcs = self.net, arcs.tail.size
        if n_arcs > self._n_arcs:
            if n_arcs > net.tail.size:
                columns = ("tail", "head", "cost", "bound", "capacity", "state")
                net = net._replace(**{name: grown(getattr(net, name), n_arcs) for name in columns})
                self.net = net
                self._position = grown(self._position, n_arcs)
            self._position[self._n_arcs : n_arcs] = np.arange(self._n_arcs, n_arcs)
            self._n_arcs = n_arcs
        tail, head, bound, cost = (column[ids] for column in (arcs.tail, arcs.head, arcs.bound, arcs.cost))
        repair.join_arcs(net, ids, tail, head, bound, cost, self._position)

    def drop_arcs(self, arcs: Int64s, tails: Int64s) -> None:
        repair.drop_arcs(self.net, self.root, arcs, self._position)

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self, arcs: Arcs, supply: Int64s, big: int) -> int:
        """Repair the tree, or plant a first one, and run the simplex. Its status, as in `simplex`."""
        self._work[: simplex.CURSOR] = 0
        self._near_work[:] = 0
        status = simplex.CAPPED
        if self._is_planted:
            status = self._run(big, simplex.LIST_MAX)
            if status == simplex.UNBOUNDED and not np.array_equal(self.net.capacity, self.net.bound):
                status = simplex.CAPPED  # Changes made a dropped bound matter: take none for granted.
        else:
            status = self._solve_first(arcs, supply, big)
        if status == simplex.CAPPED:
            self._plant(arcs.alive, supply, big, bare=True)
            status = self._run(big, 0)
        return status

    def _solve_first(self, arcs: Arcs, supply: Int64s, big: int) -> int:
        """From nothing. CAPPED where only the bare tree is left to try."""
        self._plant(arcs.alive, supply, big, bare=False)
        if self._n_arcs < NEAR_ARCS_MIN or not is_scheduling(supply) or (arcs.cost < 0).any():
            return self._run(big, 0)
        status = self._run(big, 0, PROBE * self._n_arcs)
        if status != simplex.CAPPED:
            return status
        crowded = wants_more_than(CROWDED_PERCENT, arcs, supply)
        cheap = (PROBE_PIVOTS_CROWDED if crowded else PROBE_PIVOTS) * self._n_nodes
        if 100 * self._work[simplex.PIVOTS] < cheap:
            self._plant_near(arcs, supply)
        return self._run(big, 0)

    def _run(self, big: int, list_max: int, effort_max: int = NO_BOUND) -> int:
        pivots_max = 200 * (self._n_arcs + self._n_nodes) + 10_000
        size = (self._n_nodes, self._n_arcs)
        simplex.resolve(self.net, self.root, *size, big, list_max, pivots_max, effort_max, self._work)
        return int(self._work[simplex.STATUS])

    def read(self, arcs: Arcs, alive: Flags) -> tuple[Int64s, Int64s, Int64s, float]:
        """Flow by arc, potential by node, what artificial arcs carry (up, down), and about the sum of |flow x cost|."""
        flow, potential = np.empty(self._n_arcs, np.int64), np.empty(self._n_nodes, np.int64)
        artificial = np.empty(2, np.int64)
        position = self._position[: self._n_arcs]
        size = simplex.read(self.net, alive, arcs.cost, position, self._n_nodes, self.root, flow, potential, artificial)
        return flow, potential, artificial, size

    def cycle(self) -> Int64s:
        """Flags (1) of the arcs on the cycle without a bound that ended the last solve."""
        net, rows = self.net, self.net.rows
        entering = int(self._work[simplex.CURSOR])
        down, up = int(net.tail[entering]), int(net.head[entering])
        if net.state[entering] == tree.UPPER:
            down, up = up, down
        lying = np.zeros(net.tail.size, np.int64)
        lying[entering] = 1
        while down != up:
            if rows[down, tree.SIZE] <= rows[up, tree.SIZE]:
                lying[rows[down, tree.PRED]] = 1
                down = int(rows[down, tree.PARENT])
            else:
                lying[rows[up, tree.PRED]] = 1
                up = int(rows[up, tree.PARENT])
        return lying[self._position[: self._n_arcs]]

    @property
    def work(self) -> dict[str, int]:
        names = {
            "pivots": simplex.PIVOTS,
            "degenerate_pivots": simplex.DEGENERATE,
            "arcs_scanned": simplex.SCANNED,
            "nodes_shifted": simplex.SHIFTED,
            "cycle_steps": simplex.WALKED,
        }
        work = {name: int(self._work[index]) for name, index in names.items()}
        near = {"pushes": scaling.PUSHES, "relabels": scaling.RELABELS}
        return work | {name: int(self._near_work[index]) for name, index in near.items()}


def is_scheduling(supply: Int64s) -> bool:
    """One node consumes and many supply."""
    n_sources, n_sinks = int((supply > 0).sum()), int((supply < 0).sum())
    return n_sinks == 1 and n_sources * SOURCES_SPARSE >= supply.size


def wants_more_than(percent: int, arcs: Arcs, supply: Int64s) -> bool:
    """True where more than that part of the bounded ways into the one consumer is wanted. Time O(A)."""
    ways = arcs.bound[(arcs.head == int(supply.argmin())) & (arcs.bound != NO_BOUND)]
    return 100 * int(supply[supply > 0].sum()) > percent * int(ways.sum())
