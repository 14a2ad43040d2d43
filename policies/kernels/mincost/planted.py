"""A network kept as a spanning tree, for the simplex: changed in place, repaired, solved again.

Inside, arcs lie in another order than their ids' (`position`): neighbours in the caller's order, which tend to be
alike, are spread over the blocks that pricing scans, so that every block holds good candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import answer, basis, crash, repair, simplex, tree
from policies.kernels.mincost.changes import Bounds, Costs, NewArcs, Supplies
from policies.kernels.mincost.columns import grown, spread
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.incidence import UNKNOWN, Incidence, enter_some, incidence_of, take_out, with_nodes

SOURCES_SPARSE = 32  # One consumer and a source in that many nodes or more: a scheduling network, worth a crash tree.
REROUTE_ARCS_MIN = 5_000  # Below, the simplex is as fast by itself in rounds.

_WORK = ("pivots", "degenerate_pivots", "arcs_scanned", "nodes_shifted", "cycle_steps")  # As in `simplex`.


class Arcs(NamedTuple):
    """A network's columns by arc id; bounds are NO_BOUND where there is none."""

    tail: Int64s
    head: Int64s
    alive: Flags
    bound: Int64s
    cost: Int64s


# A network's columns by arc id, of all or of so many, and supplies by node, when they are asked for.
All = Callable[..., tuple[Arcs, Int64s]]


class Planted:
    """The tree of the last solve, and what changed since."""

    kernel = "simplex"

    def __init__(self, arcs: Arcs, supply: Int64s, root: int) -> None:
        """Everything hangs under `root`, a node that is alive."""
        n_nodes, n_arcs = supply.size, arcs.tail.size
        self._n_nodes, self._n_arcs, self.root = n_nodes, n_arcs, root
        most = max(n_arcs, 1)  # Kernels look at some arc even where none is.
        self._position, self._ids = spread(most)
        tail, head = np.zeros(most, np.int32), np.zeros(most, np.int32)
        cost, bound = np.zeros(most, np.int64), np.zeros(most, np.int64)
        for lying, column in ((tail, arcs.tail), (head, arcs.head), (cost, arcs.cost), (bound, arcs.bound)):
            lying[self._position[:n_arcs]] = column
        state = np.zeros(most, np.int8)
        potential, excess = np.zeros(n_nodes, np.int64), np.zeros(n_nodes, np.int64)
        after, before = np.zeros(n_nodes, np.int32), np.zeros(n_nodes, np.int32)
        rows = np.empty((n_nodes, tree.ROW), np.int64)
        arc_columns = (tail, head, cost, bound, bound.copy(), state)
        self.net = tree.Columns(*arc_columns, potential, excess, after, before, rows, np.zeros(tree.N_NOTES, np.int64))
        self._work = np.zeros(simplex.N_WORK, np.int64)
        self.big = 0  # What artificial arcs cost.
        self._incidence: Incidence | None = None  # From the first round on.
        self.told = np.zeros(answer.N_TOLD, np.int64)  # Of the last solve (see `answer`), and
        self.sum_size = 0.0  # a bound of the sum of the objective's terms.
        self._is_planted = self._is_solved = False

    def _plant(self, alive: Flags, supply: Int64s, bare: bool) -> None:
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
            crash.lean(net, supply, self._n_nodes, self._n_arcs, self.root, self.big)

    def plant_merged(self, arcs: Arcs, supply: Int64s, ids: Int64s, inside: Flags, small: "Planted") -> None:
        """A first tree out of that of the network with nodes merged, whose arcs are `ids`, and the arcs inside."""
        net = self.net
        self._plant(arcs.alive, supply, bare=True)
        net.excess[:] = supply
        chosen = np.empty(self._n_nodes, np.int64)
        there = small._position[: small._n_arcs]
        count = basis.adopt(net, small.net, there, self._position[ids], self._position, inside, chosen)
        basis.hang(net, self.root, chosen[:count])

    # --- changes ------------------------------------------------------------------------------------------------------

    # Excess of nodes whose supply is set is kept by who sets it. `tail` is the network's, by arc id. What is `wanted`
    # is written to the network's columns too, in the same call; False where it is refused.

    def set_cost(self, wanted: Costs, tail: Int64s) -> bool:
        return bool(repair.set_costs(*wanted, self.net, self.root, self._position))

    def set_capacity(self, wanted: Bounds, tail: Int64s) -> bool:
        return bool(repair.set_bounds(*wanted, self.net, self._position))

    def add_nodes(self, wanted: Supplies, n_nodes: int) -> bool:
        """There will be so many ids of nodes."""
        net = self.net
        if n_nodes > net.excess.size:
            names = ("potential", "excess", "after", "before", "rows")
            self.net = net = net._replace(**{name: grown(getattr(net, name), n_nodes) for name in names})
        if not repair.add_nodes(*wanted, net, self.root):
            return False
        if self._incidence:
            self._incidence = with_nodes(self._incidence, n_nodes)
        self._n_nodes = n_nodes
        return True

    def add_arcs(self, wanted: NewArcs, n_arcs: int, all_columns: All) -> bool:
        """There will be so many ids of arcs."""
        net = self.net
        if n_arcs > net.tail.size:
            names = ("tail", "head", "cost", "bound", "capacity", "state")
            self.net = net = net._replace(**{name: grown(getattr(net, name), n_arcs) for name in names})
            self._position, self._ids = grown(self._position, n_arcs), grown(self._ids, n_arcs)
        if not repair.add_arcs(*wanted, self._position, self._ids, net):
            return False
        self._n_arcs = n_arcs
        if self._incidence and not enter_some(self._incidence, net.tail, net.head, self._position, wanted[-1]):
            self._incidence = None
        return True

    def drop_arcs(self, arcs: Int64s, tail: Int64s) -> None:
        repair.drop_arcs(self.net, self.root, arcs, self._position)
        if self._incidence:
            take_out(self._incidence, self.net.tail, self.net.head, self._position, arcs)

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self, all_columns: All, supply: Int64s, cost_max: int) -> int:
        """Repair the tree, or plant a first one, and run the simplex. Its status, as in `simplex`; `told` says more.

        supply: by node, with room to grow.
        """
        self._work[: simplex.CURSOR] = 0
        self._raise_big(cost_max)
        status = simplex.CAPPED
        if self._is_planted:
            if self._is_solved and self._incidence is None and self._n_arcs >= REROUTE_ARCS_MIN:
                alive = all_columns()[0].alive[self._ids[: self._n_arcs]]
                self._incidence = incidence_of(self.net.tail, self.net.head, alive, self._n_nodes)
            status = self._run(supply, simplex.LIST_MAX)
            if status == simplex.UNBOUNDED and not np.array_equal(self.net.capacity, self.net.bound):
                status = simplex.CAPPED  # Changes made a dropped bound matter: take none for granted.
        else:
            arcs, supply = all_columns()
            self._plant(arcs.alive, supply, bare=False)
            status = self._run(supply, 0)
        if status == simplex.CAPPED:
            arcs, supply = all_columns()
            self._plant(arcs.alive, supply, bare=True)
            status = self._run(supply, 0)
        self._is_solved = True
        return status

    def _raise_big(self, cost_max: int) -> None:
        """More than twice any way costs, so that potentials tell the side; in steps, for potentials move with it."""
        least = 2 * (self._n_nodes + 1) * (cost_max + 1)
        if self.big < least:
            self.big = 1 << (least - 1).bit_length()
            self.net.notes[tree.BIG] = self.big
            self.net.notes[tree.STALE] = 1

    def _run(self, supply: Int64s, list_max: int) -> int:
        n_nodes, n_arcs = self._n_nodes, self._n_arcs
        limits = (list_max, 200 * (n_arcs + n_nodes) + 10_000)
        known = self._incidence if list_max and self._incidence else UNKNOWN
        self.sum_size = answer.resolve(
            self.net, known, n_nodes, n_arcs, self.root, *limits, supply, self._work, self.told
        )
        return int(self._work[simplex.STATUS])

    def read_flow(self, n_arcs: int) -> Int64s:
        """By arc, all of them."""
        net, flow = self.net, np.empty(n_arcs, np.int64)
        answer.read_flow(net.rows, net.state, net.capacity, self._ids, self._n_nodes, flow)
        return flow

    def read_potential(self, alive: Flags) -> Int64s:
        """By node. alive: likewise."""
        potential = np.empty(self._n_nodes, np.int64)
        answer.read_potential(self.net.potential, alive, self.root, potential)
        return potential

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
        """What the last solve took."""
        return dict(zip(_WORK, self._work.tolist()[1:], strict=False))


def is_scheduling(supply: Int64s) -> bool:
    """One node consumes and many supply."""
    n_sources, n_sinks = int((supply > 0).sum()), int((supply < 0).sum())
    return n_sinks == 1 and n_sources * SOURCES_SPARSE >= supply.size
