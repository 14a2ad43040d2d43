"""A network kept as a flow with prices, for paths and scaling: changed in place, mended where it changed, solved again.

Arcs are known by their ids: positions and ids are the same here.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.kernels.jit import Int64s
from policies.kernels.mincost import patch, paths, scaling
from policies.kernels.mincost.residual import Residual, build, read_flow

SPARE = 2  # Room for so many more entries at each node, and a quarter: a rebuild costs as much as many small rounds.
SCANS_COLD = 30  # Scans of all entries that paths may take before scaling does it in 30 to 60; measured.
SCANS_WARM = 20  # Of 12,000 tasks, full or more, 1 % anew takes up to 10; scaling from good prices is dearer.
FIRST_EPSILON = 50  # Scaling from paths' prices begins at that part of the largest cost; 20 to 200 are alike.
SCANS_FORCED = 1 << 20  # Never give up.
OPTIMAL, GAVE_UP = range(2)


class Arcs(NamedTuple):
    """A network's columns by arc id; bounds are NO_BOUND where there is none."""

    tail: Int64s
    head: Int64s
    alive: npt.NDArray[np.bool_]
    bound: Int64s
    cost: Int64s


@dataclass
class Priced:
    """The residual network of the last flow, what changed since, and what the last solve took."""

    net: Residual
    touched: list[Int64s] = field(default_factory=list)  # Nodes whose arcs changed.
    work: dict[str, int] = field(default_factory=dict)
    kernel: str = "paths"

    def set_supply(self, nodes: Int64s, more: Int64s) -> None:
        self.net.excess[nodes] += more

    def set_cost(self, arcs: Int64s, tails: Int64s, values: Int64s) -> None:
        patch.change_costs(self.net, arcs, values)
        self.touched.append(tails)

    def set_capacity(self, arcs: Int64s, tails: Int64s, values: Int64s) -> None:
        patch.change_capacities(self.net, arcs, values)
        self.touched.append(tails)

    def drop_arcs(self, arcs: Int64s) -> None:
        patch.drop_arcs(self.net, arcs)

    def arcs_at(self, nodes: Int64s) -> Int64s:
        """The arcs at these nodes, loops aside, each once."""
        found = np.empty(int((self.net.stop[nodes] - self.net.first[nodes]).sum()), np.int64)
        patch.arcs_at(self.net, nodes, found)
        return np.unique(found)

    def add_nodes(self, n_nodes: int, ids: Int64s, supplies: Int64s) -> None:
        """Make room for node ids below n_nodes; the new ones begin idle."""
        more = n_nodes - self.net.price.size
        if more:
            end = np.full(more, self.net.arc.size, np.int64)
            none = np.zeros(more, np.int64)
            columns = (self.net.first, self.net.stop, self.net.room)
            first, stop, room = (np.concatenate([column, end]) for column in columns)
            excess, price = (np.concatenate([column, none]) for column in (self.net.excess, self.net.price))
            self.net = self.net._replace(first=first, stop=stop, room=room, excess=excess, price=price)
        self.net.excess[ids] += supplies

    def add_arcs(self, arcs: Arcs, supply: Int64s, ids: Int64s) -> None:
        """Take in new arcs, given all columns as they are now; where one finds no room, all is built anew."""
        self.touched.append(arcs.tail[ids])
        if arcs.tail.size > self.net.entry.size:
            longer = np.full(arcs.tail.size + arcs.tail.size // 8, -1, np.int64)
            longer[: self.net.entry.size] = self.net.entry
            self.net = self.net._replace(entry=longer)
        columns = (column[ids] for column in (arcs.tail, arcs.head, arcs.bound, arcs.cost))
        if patch.join_arcs(self.net, ids, *columns) < ids.size:
            flow = np.empty(arcs.tail.size, np.int64)
            read_flow(self.net, np.zeros_like(flow), arcs.cost, flow)
            self.net = build(*arcs, flow, supply, self.net.price, SPARE)

    def solve(self, arcs: Arcs, supply: Int64s, cost_max: int, scans: int) -> int:
        """Route what is unrouted: by paths while they promise to end within `scans` scans of all entries, else scaling.

        GAVE_UP: no feasible flow was found, or magnitudes could wrap; nothing here is of use then.
        """
        net = self.net
        touched = np.concatenate(self.touched) if self.touched else np.empty(0, np.int64)
        self.touched.clear()
        work = np.zeros(paths.N_WORK, np.int64)
        scaled = np.zeros(scaling.N_WORK, np.int64)
        consumers = np.flatnonzero(supply < 0)
        hub = int(consumers[0]) if consumers.size == 1 else -1
        self.kernel = "paths"
        status = paths.GREW
        if patch.mend_all(net, touched) == 0 and scans > 0:
            most = scans * net.arc.size + 1000
            status = paths.route(net, 1, hub, most, work)
            if status == paths.FINE:
                status = paths.route(net, -1, hub, most, work)
        if status == paths.GREW:
            self.kernel = "paths+scaling" if work[paths.PATHS] else "scaling"
            status = self._scale(arcs, supply, cost_max, scaled)
        self.work = {
            "searches": int(work[paths.SEARCHES]),
            "nodes_settled": int(work[paths.SETTLED]),
            "entries_scanned": int(work[paths.SCANNED] + scaled[scaling.SCANNED]),
            "pushes": int(scaled[scaling.PUSHES]),
            "relabels": int(scaled[scaling.RELABELS]),
            "price_updates": int(scaled[scaling.UPDATES]),
            "phases": int(scaled[scaling.PHASES]),
        }
        return OPTIMAL if status == 0 else GAVE_UP

    def _scale(self, arcs: Arcs, supply: Int64s, cost_max: int, work: Int64s) -> int:
        flow_total = int(np.maximum(supply, 0).sum()) + int(arcs.bound[arcs.cost < 0].sum())
        if scaling.magnitude_error(supply.size, arcs.tail.size, cost_max, flow_total) is not None:
            return scaling.CAPPED
        if int(np.abs(self.net.price).max(initial=0)) > scaling.PRICE_MAX // (8 * (supply.size + 1)):
            self.net.price[:] = 0
        tight = np.empty(arcs.tail.size, np.int64)
        scaling.tighten(arcs.tail, arcs.head, arcs.bound, supply, flow_total, tight)
        first = max(cost_max // FIRST_EPSILON, 1) if self.net.price.any() else max(cost_max, 1)
        return scaling.solve(self.net, arcs.bound, tight, first, work)


def priced(arcs: Arcs, supply: Int64s, flow: Int64s | None = None, price: Int64s | None = None) -> Priced:
    """The network with that flow and those prices, else nothing routed and prices of 0.

    Nodes with arcs that earn are mended at the first solve; given prices must be right already.
    """
    flow = np.zeros(arcs.tail.size, np.int64) if flow is None else flow
    net = build(*arcs, flow, supply, np.zeros(supply.size, np.int64) if price is None else price.copy(), SPARE)
    return Priced(net, [arcs.tail[arcs.cost < 0]])
