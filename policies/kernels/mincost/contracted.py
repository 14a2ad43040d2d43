"""A network kept as a core and its leaves, for exchange paths: changed in place, mended, solved anew."""

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes, exchange, leaves, patch, placement
from policies.kernels.mincost.changes import Bounds, Costs, NewArcs, Supplies
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.leaves import Leaves
from policies.kernels.mincost.paths import Paths
from policies.kernels.mincost.planted import All, Arcs
from policies.kernels.mincost.priced import GAVE_UP, OPTIMAL, SPARE, priced
from policies.kernels.mincost.residual import Residual, build, with_nodes

SCANS_COLD = 400  # Scans of all slots and entries that paths may take before scaling does it; a bound, not tuned.
SCANS_WARM = 200
SCANS_FORCED = 1 << 20  # Never give up.
_Any = TypeVar("_Any", bound=np.generic)
_NONE = np.empty(0, np.int64)


@dataclass
class Contracted:
    """The residual network of the core, the leaves, what changed since the last solve, and what that took."""

    net: Residual  # Of the arcs that are no leaf's. A leaf's excess is its unit, where it is nowhere.
    table: Leaves
    scratch: Int64s
    touched: list[Int64s] = field(default_factory=list)  # Nodes whose arcs changed.
    moved: list[Int64s] = field(default_factory=list)  # Leaves among these may have to go, come or leave.
    flow: Int64s | None = None  # By arc, once what is a leaf changed: all is then built anew before it is solved.
    is_warm: bool = False  # It was solved before.
    has_closed: bool = False  # Leaves have arcs without room, which are no slots.
    never_scales: bool = False  # Paths are never given up.
    work: dict[str, int] = field(default_factory=dict)
    kernel: str = "exchange"

    # As in `Planted`; who sets supplies notes who has moved.

    def set_cost(self, wanted: Costs, tail: Int64s) -> bool:
        if not changes.set_costs(*wanted):
            return False
        arcs, values, *_, totals = wanted
        tails = tail[arcs]
        self.touched.append(tails)
        if self.flow is None and totals[changes.COST_MAX] > leaves.SLOT_COST_MAX:
            self._give_up_leaves()  # Before long the simplex takes over: see `dispatch`.
        if self.flow is None:
            leaves.change_costs(self.table, arcs, tails, values)
            patch.change_costs(self.net, arcs, values)
        return True

    def set_capacity(self, wanted: Bounds, tail: Int64s) -> bool:
        if not changes.set_bounds(*wanted):
            return False
        arcs, *_, values = wanted
        tails = tail[arcs]
        self.touched.append(tails)
        if self.flow is None and leaves.opens_or_closes(self.table, arcs, tails, values):
            self._give_up_leaves()
        if self.flow is None:
            patch.change_capacities(self.net, arcs, values)
        else:
            self.flow[arcs] = np.minimum(self.flow[arcs], values)
        return True

    def drop_arcs(self, arcs: Int64s, tail: Int64s) -> None:
        tails = tail[arcs]
        self.moved.append(tails)
        if self.flow is None:
            leaves.drop_arcs(self.table, arcs, tails, self.net.excess)
            patch.drop_arcs(self.net, arcs)
        else:
            self.flow[arcs] = 0

    def arcs_at(self, nodes: Int64s) -> Int64s | None:
        """The arcs at these nodes, each once; None where not all are leaves, or not all their arcs are known."""
        if self.flow is not None or self.has_closed or not self.table.is_leaf[nodes].all():
            return None
        begin, end = self.table.row[nodes, leaves.FIRST], self.table.row[nodes, leaves.STOP]
        count = end - begin
        slots = np.arange(int(count.sum())) + np.repeat(begin - np.cumsum(count) + count, count)
        found: Int64s = self.table.arc[slots].astype(np.int64)
        return found

    def add_nodes(self, wanted: Supplies, n_nodes: int) -> bool:
        """There will be so many ids of nodes."""
        if not changes.add_supplies(*wanted, self.net.excess):
            return False
        *_, supply, ids = wanted
        if n_nodes > self.net.price.size:
            self.net = with_nodes(self.net, supply[:n_nodes])
            self.table = leaves.with_nodes(self.table, n_nodes)
        if self.scratch.shape[1] < n_nodes:
            self.scratch = exchange.scratch_for(self.table.is_leaf.size)
        self.moved.append(ids.copy())
        return True

    def add_arcs(self, wanted: NewArcs, n_arcs: int, all_columns: All) -> bool:
        """There will be so many ids of arcs."""
        if not changes.add_arcs(*wanted):
            return False
        tail, head, _, cost, _, _, _, totals, *_, bound, ids = wanted
        self.touched.append(tail.copy())
        if n_arcs > self.net.entry.size:
            longer = n_arcs + n_arcs // 8
            entry, of_arc = (_extended(column, longer, -1) for column in (self.net.entry, self.table.of_arc))
            self.net = self.net._replace(entry=entry, flow=_extended(self.net.flow, longer, 0))
            self.table = self.table._replace(of_arc=of_arc)
        if self.flow is None and totals[changes.COST_MAX] > leaves.SLOT_COST_MAX:
            self._give_up_leaves()
        if self.flow is not None:
            self.flow = _extended(self.flow, n_arcs, 0)
            self.flow[ids] = 0
            return True
        begin = np.zeros(1, np.int64)
        status = leaves.join_arcs(self.table, ids, tail, head, bound, cost, begin)
        while status == leaves.FULL:
            self.table = leaves.with_slots(self.table, 2 * ids.size)
            status = leaves.join_arcs(self.table, ids, tail, head, bound, cost, begin)
        core = ~self.table.is_leaf[tail]
        fits = status == leaves.FINE
        if fits and core.any():
            columns = (column[core] for column in (ids, tail, head, bound, cost))
            fits = bool(patch.join_arcs(self.net, *columns) == np.count_nonzero(core))
        self.has_closed = self.has_closed or bool((bound < 1).any())
        if not fits:
            flow = self._give_up_leaves()
            flow[ids] = 0
        return True

    def solve(self, arcs: Arcs, supply: Int64s, cost_max: int) -> int:
        """Route what is unrouted by paths while that takes few scans of all slots and entries, else by scaling.

        GAVE_UP: no feasible flow was found, or magnitudes could wrap; nothing here is of use then.
        """
        scans = SCANS_FORCED if self.never_scales else SCANS_WARM if self.is_warm else SCANS_COLD
        from_nothing = not self.is_warm
        self.is_warm = True
        work = np.zeros(exchange.N_WORK, np.int64)
        self.kernel = "exchange"
        self.work = {}
        waiting = self._mended(arcs, supply)
        if waiting is None:
            return GAVE_UP
        most = scans * (self.net.to.size + self.table.arc.size) + 1000
        hub = int(exchange.only_consumer(supply))
        status = Paths(self.net, self.table, hub, self.scratch, work).route(waiting, most, from_nothing)
        if status == exchange.GREW:
            status = self._scale(arcs, supply, cost_max)
        self.work |= {
            "searches": int(work[exchange.SEARCHES]),
            "nodes_settled": int(work[exchange.SETTLED]),
            "entries_scanned": int(work[exchange.SCANNED]) + self.work.get("entries_scanned", 0),
        }
        return OPTIMAL if status == exchange.FINE else GAVE_UP

    def objective(self) -> tuple[int, float]:
        """What all flow costs, where no loop earns, and about the sum of |flow x cost|."""
        total = np.zeros(1, np.int64)
        size = placement.add_up(self.net, self.table, total)
        return int(total[0]), size

    def read_flow(self, n_arcs: int) -> Int64s:
        """Flow by arc, where no loop earns."""
        flow = np.empty(n_arcs, np.int64)
        placement.read_flow(self.net, self.table, flow)
        return flow

    def read_potential(self, alive: Flags, solved: bool = True) -> Int64s:
        """Potential by node; `solved`: nothing changed since."""
        potential = np.empty(alive.size, np.int64)
        placement.read_potential(self.net, self.table, alive, solved, potential)
        return potential

    def read(self, arcs: Arcs, alive: Flags) -> tuple[Int64s, Int64s, float]:
        """Flow by arc, potential by node, and about the sum of |flow x cost|."""
        flow = self.read_flow(arcs.tail.size)
        size = placement.fill_loops(self.net, self.table, arcs.bound, arcs.cost, flow)
        return flow, self.read_potential(alive, solved=False), size

    def _mended(self, arcs: Arcs, supply: Int64s) -> Int64s | None:
        """Mend what changed. Returns the leaves that have to go somewhere; None where prices cannot be mended."""
        moved = np.concatenate([*self.moved, *self.touched]) if self.moved or self.touched else _NONE
        touched = np.concatenate(self.touched) if self.touched else _NONE
        self.moved.clear()
        self.touched.clear()
        if self.flow is None and not leaves.are_leaves(self.table, moved, supply):
            self._give_up_leaves()
        if self.flow is not None:
            self._build(arcs, supply, self.flow, self.net.price)
            self.flow = None
            moved = np.arange(supply.size)
        core = touched[~self.table.is_leaf[touched]]
        if core.size:
            before = self.net.price.copy()
            if patch.mend_all(self.net, core):
                return None
            if (self.net.price != before).any():
                moved = np.arange(supply.size)
        waiting = np.empty(moved.size, np.int64)
        count = leaves.reassess(self.table, moved, self.net.price, self.net.excess, waiting)
        return waiting[:count]

    def _give_up_leaves(self) -> Int64s:
        """Note the flow by arc and each node's price; until the next solve only they are kept. Returns the flow."""
        self.flow = self.read_flow(self.table.of_arc.size)
        alive = np.ones(self.net.price.size, np.bool_)
        self.net = self.net._replace(price=self.read_potential(alive, solved=False))
        return self.flow

    def _build(self, arcs: Arcs, supply: Int64s, flow: Int64s, price: Int64s) -> None:
        self.net, self.table = _parts(arcs, supply, flow[: arcs.tail.size], price)
        self.has_closed = _has_closed(arcs, self.table)
        if self.scratch.shape[1] < supply.size:
            self.scratch = exchange.scratch_for(supply.size)

    def _scale(self, arcs: Arcs, supply: Int64s, cost_max: int) -> int:
        """Go on with cost scaling, from this flow and these prices, on the whole network."""
        flow, potential, _ = self.read(arcs, np.ones(supply.size, np.bool_))
        held = priced(arcs, supply, flow, potential)
        status = held.solve(arcs, supply, cost_max)
        self.kernel, self.work = "exchange+scaling", held.work
        if status == OPTIMAL:
            flow, potential, _ = held.read(arcs, np.ones(supply.size, np.bool_))
            self._build(arcs, supply, flow, potential)
        return status


def _extended(column: npt.NDArray[_Any], length: int, value: int) -> npt.NDArray[_Any]:
    longer = np.full(max(length, column.size), value, column.dtype)
    longer[: column.size] = column
    return longer


def _has_closed(arcs: Arcs, table: Leaves) -> bool:
    return bool((arcs.alive & table.is_leaf[arcs.tail] & (arcs.bound < 1)).any())


def _parts(arcs: Arcs, supply: Int64s, flow: Int64s, price: Int64s) -> tuple[Residual, Leaves]:
    table = leaves.plant(arcs.tail, arcs.head, arcs.alive, arcs.bound, supply)
    core = arcs.alive & ~table.is_leaf[arcs.tail]
    net = build(arcs.tail, arcs.head, core, arcs.bound, arcs.cost, flow, supply, price.copy(), SPARE)
    leaves.fill(arcs.tail, arcs.head, arcs.alive, arcs.bound, arcs.cost, flow, table, net.excess)
    return net, table


def contracted(arcs: Arcs, supply: Int64s, flow: Int64s | None, price: Int64s | None, never_scales: bool) -> Contracted:
    """The network with that flow and those prices, else nothing routed and prices of 0.

    Nodes with arcs that earn are mended at the first solve; given prices must be right already.
    """
    is_warm = flow is not None
    flow = np.zeros(arcs.tail.size, np.int64) if flow is None else flow
    price = np.zeros(supply.size, np.int64) if price is None else price
    net, table = _parts(arcs, supply, flow, price)
    earning = arcs.tail[arcs.cost < 0]
    first = np.flatnonzero(table.is_leaf & (net.excess > 0))
    scratch = exchange.scratch_for(supply.size)
    held = Contracted(net, table, scratch, [earning], [first], is_warm=is_warm, never_scales=never_scales)
    held.has_closed = _has_closed(arcs, table)
    return held
