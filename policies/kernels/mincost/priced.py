"""A network kept as a flow with prices, for scaling: changed in place, mended where it changed, solved again.

Arcs are known by their ids: positions and ids are the same here.
"""

from dataclasses import dataclass, field

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes, patch, scaling
from policies.kernels.mincost.changes import Bounds, Costs, NewArcs, Supplies
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.planted import All, Arcs
from policies.kernels.mincost.residual import Residual, build, read, with_nodes

SPARE = 2  # Room for so many more entries at each node, and a quarter: a rebuild costs as much as many small rounds.
FIRST_EPSILON = 50  # From prices nearly right it begins at that part of the largest cost; 20 to 200 are alike.
OPTIMAL, GAVE_UP = range(2)


@dataclass
class Priced:
    """The residual network of the last flow, what changed since, and what the last solve took."""

    net: Residual
    touched: list[Int64s] = field(default_factory=list)  # Nodes whose arcs changed.
    has_loops: bool = False  # They have no entries.
    work: dict[str, int] = field(default_factory=dict)
    kernel: str = "scaling"

    # As in `Planted`.

    def set_cost(self, wanted: Costs, tail: Int64s) -> bool:
        if not changes.set_costs(*wanted):
            return False
        arcs, values, *_ = wanted
        patch.change_costs(self.net, arcs, values)
        self.touched.append(tail[arcs])
        return True

    def set_capacity(self, wanted: Bounds, tail: Int64s) -> bool:
        if not changes.set_bounds(*wanted):
            return False
        arcs, *_, values = wanted
        patch.change_capacities(self.net, arcs, values)
        self.touched.append(tail[arcs])
        return True

    def drop_arcs(self, arcs: Int64s, tail: Int64s) -> None:
        patch.drop_arcs(self.net, arcs)

    def arcs_at(self, nodes: Int64s) -> Int64s:
        """The arcs at these nodes, loops aside, each once."""
        found = np.empty(int((self.net.stop[nodes] - self.net.first[nodes]).sum()), np.int64)
        patch.arcs_at(self.net, nodes, found)
        return np.unique(found)

    def add_nodes(self, wanted: Supplies, n_nodes: int) -> bool:
        """There will be so many ids of nodes."""
        if not changes.add_supplies(*wanted, self.net.excess):
            return False
        *_, supply, _ids = wanted
        self.net = with_nodes(self.net, supply[:n_nodes])
        return True

    def add_arcs(self, wanted: NewArcs, n_arcs: int, all_columns: All) -> bool:
        """There will be so many ids of arcs. Where one finds no room, all is built anew."""
        if not changes.add_arcs(*wanted):
            return False
        tail, head, _, cost, *_, bound, ids = wanted
        self.touched.append(tail.copy())
        if n_arcs > self.net.entry.size:
            longer = np.full(n_arcs + n_arcs // 8, -1, np.int32)
            longer[: self.net.entry.size] = self.net.entry
            flow = np.zeros(longer.size, np.int64)
            flow[: self.net.flow.size] = self.net.flow
            self.net = self.net._replace(entry=longer, flow=flow)
        self.has_loops = self.has_loops or bool((tail == head).any())
        if patch.join_arcs(self.net, ids, tail, head, bound, cost) < ids.size:
            arcs, supply = all_columns(n_arcs)
            self.net = build(*arcs, self.net.flow[:n_arcs].copy(), supply, self.net.price, SPARE)
        return True

    def solve(self, arcs: Arcs, supply: Int64s, cost_max: int) -> int:
        """Route what is unrouted by scaling, from the flow and the prices there are.

        GAVE_UP: no feasible flow was found, or magnitudes could wrap; nothing here is of use then.
        """
        touched = np.concatenate(self.touched) if self.touched else np.empty(0, np.int64)
        self.touched.clear()
        patch.mend_all(self.net, touched)  # What cannot be mended violates, and is filled by the first phase.
        work = np.zeros(scaling.N_WORK, np.int64)
        status = self._scale(arcs, supply, cost_max, work)
        self.work = {
            "entries_scanned": int(work[scaling.SCANNED]),
            "pushes": int(work[scaling.PUSHES]),
            "relabels": int(work[scaling.RELABELS]),
            "price_updates": int(work[scaling.UPDATES]),
            "phases": int(work[scaling.PHASES]),
        }
        return OPTIMAL if status == scaling.FINE else GAVE_UP

    def read(self, arcs: Arcs, alive: Flags) -> tuple[Int64s, Int64s, float]:
        """Flow by arc, potential by node, and about the sum of |flow x cost|."""
        flow, potential = np.empty(arcs.tail.size, np.int64), np.empty(alive.size, np.int64)
        size = read(self.net, arcs.bound, arcs.cost, alive, flow, potential)
        return flow, potential, size

    def _scale(self, arcs: Arcs, supply: Int64s, cost_max: int, work: Int64s) -> int:
        tight = scaling.tightened(arcs.tail, arcs.head, arcs.bound, arcs.cost, supply, cost_max)
        if tight is None:
            return scaling.CAPPED
        if int(np.abs(self.net.price).max(initial=0)) > scaling.PRICE_MAX // (8 * (supply.size + 1)):
            self.net.price[:] = 0
        first = max(cost_max // FIRST_EPSILON, 1) if self.net.price.any() else max(cost_max, 1)
        return scaling.solve(self.net, arcs.bound, tight, first, work)


def priced(arcs: Arcs, supply: Int64s, flow: Int64s | None = None, price: Int64s | None = None) -> Priced:
    """The network with that flow and those prices, else nothing routed and prices of 0.

    Nodes with arcs that earn are mended at the first solve; given prices must be right already.
    """
    flow = np.zeros(arcs.tail.size, np.int64) if flow is None else flow
    net = build(*arcs, flow, supply, np.zeros(supply.size, np.int64) if price is None else price.copy(), SPARE)
    has_loops = bool((arcs.tail == arcs.head).any())
    return Priced(net, [arcs.tail[arcs.cost < 0]], has_loops=has_loops)
