"""`FlowNetwork`: a min-cost-flow problem that is solved, changed a little and solved again.

Ids are stable: nodes and arcs keep theirs until removed, and a removed id may be given to a later one. The network
keeps the caller's columns; what the last solve left, a tree or a flow with prices, is kept by `Planted`, `Contracted`
or `Priced`, which hear of every change.
"""

from typing import cast

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import simplex
from policies.kernels.mincost.columns import grown, objective
from policies.kernels.mincost.contracted import Contracted, contracted
from policies.kernels.mincost.dispatch import KERNELS, Kernel, first_kernel, hands_over, simplex_reason
from policies.kernels.mincost.gate import (
    Flags,
    Integers,
    bounds_of,
    check_cost,
    check_flow_total,
    check_range,
    column,
    size,
    sum_of,
)
from policies.kernels.mincost.ids import Ids
from policies.kernels.mincost.model import FLOW_MAX, NO_BOUND, POTENTIAL_MAX, UNLIMITED, NetworkError, Result
from policies.kernels.mincost.planted import Arcs, Planted
from policies.kernels.mincost.priced import OPTIMAL, Priced, priced
from policies.kernels.mincost.repair import arcs_at
from policies.kernels.mincost.residual import ID_MAX

_NONE = np.empty(0, np.int64)


class FlowNetwork:
    """Minimise the sum of cost x flow, 0 <= flow <= capacity, where what leaves a node less what enters is its supply.

    `capacity` may be UNLIMITED, costs may be negative, arcs parallel or loops. Supplies sum to zero at each `solve`.
    Raises NetworkError (a ValueError) for what is not such a problem; the network is then unchanged.
    """

    def __init__(
        self,
        n_nodes: int,
        tail: Integers,
        head: Integers,
        capacity: Integers,
        cost: Integers,
        supply: Integers,
        *,
        kernel: Kernel = "auto",
    ) -> None:
        if kernel not in KERNELS:
            raise NetworkError(f"kernel is {kernel!r}; {', '.join(KERNELS)} are known")
        if not isinstance(n_nodes, int | np.integer) or n_nodes < 0:
            raise NetworkError(f"n_nodes is {n_nodes!r}; a number from 0 up is wanted")
        tails = column("tail", tail)
        n_arcs = tails.size
        heads, capacities = column("head", head, n_arcs), column("capacity", capacity, n_arcs)
        costs, supplies = column("cost", cost, n_arcs), column("supply", supply, int(n_nodes))
        check_range("tail", tails, 0, n_nodes - 1)
        check_range("head", heads, 0, n_nodes - 1)
        self._nodes, self._arcs = Ids(int(n_nodes)), Ids(n_arcs)
        self._check_count(int(n_nodes), n_arcs)
        self._kernel: Kernel = kernel
        self._held: Planted | Priced | Contracted | None = None
        self._capacity_total = self._supply_total = self._cost_max = 0
        self._bound = bounds_of(capacities)
        self._count_capacity(self._bound, _NONE)
        self._count_supply(supplies, _NONE)
        self._raise_cost_max(costs, int(n_nodes))
        self._tail, self._head, self._cost, self._supply = tails.copy(), heads.copy(), costs.copy(), supplies.copy()
        self._earns = bool((costs < 0).any())  # An arc has, or had, a negative cost.
        self._check_balance()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def n_nodes(self) -> int:
        """Node ids are below this; some may be removed."""
        return self._nodes.count

    @property
    def n_arcs(self) -> int:
        """Arc ids are below this; some may be removed."""
        return self._arcs.count

    @property
    def tail(self) -> Int64s:
        return self._tail[: self.n_arcs].copy()

    @property
    def head(self) -> Int64s:
        return self._head[: self.n_arcs].copy()

    @property
    def cost(self) -> Int64s:
        return self._cost[: self.n_arcs].copy()

    @property
    def capacity(self) -> Int64s:
        """Capacities by arc id; UNLIMITED where there is none, 0 for removed arcs."""
        bounds = self._bound[: self.n_arcs].copy()
        bounds[bounds == NO_BOUND] = UNLIMITED
        return bounds

    @property
    def supply(self) -> Int64s:
        return self._supply[: self.n_nodes].copy()

    @property
    def arc_alive(self) -> Flags:
        return self._arcs.alive.copy()

    @property
    def node_alive(self) -> Flags:
        return self._nodes.alive.copy()

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_supply(self, nodes: Integers, values: Integers) -> None:
        """Set supplies (negative: demand). They need to sum to zero only at the next solve."""
        ids = column("nodes", nodes)
        new = column("values", values, ids.size)
        self._nodes.check("nodes", ids)
        old = self._supply[ids]
        self._count_supply(new, old)
        self._supply[ids] = new
        if self._held:
            self._held.set_supply(ids, new - old)

    def set_cost(self, arcs: Integers, values: Integers) -> None:
        """Set costs per unit of flow."""
        ids = column("arcs", arcs)
        new = column("values", values, ids.size)
        self._arcs.check("arcs", ids)
        self._raise_cost_max(new, self.n_nodes)
        self._cost[ids] = new
        if self._held:
            self._held.set_cost(ids, self._tail[ids], new)

    def set_capacity(self, arcs: Integers, values: Integers) -> None:
        """Set capacities, 0 up or UNLIMITED."""
        ids = column("arcs", arcs)
        new = bounds_of(column("values", values, ids.size))
        self._arcs.check("arcs", ids)
        self._count_capacity(new, self._bound[ids])
        self._bound[ids] = new
        if self._held:
            self._held.set_capacity(ids, self._tail[ids], new)

    def add_nodes(self, supplies: Integers) -> Int64s:
        """Add nodes; return their ids."""
        new = column("supplies", supplies)
        self._check_count(self.n_nodes + new.size, 0)
        check_cost(self.n_nodes + new.size, self._cost_max)
        self._count_supply(new, _NONE)
        ids = self._nodes.give(new.size)
        self._supply = grown(self._supply, self.n_nodes)
        self._supply[ids] = new
        if self._held:
            self._held.add_nodes(self.n_nodes, ids, new)
        return ids

    def remove_nodes(self, nodes: Integers) -> None:
        """Remove nodes, their supply and every arc that touches them."""
        ids = column("nodes", nodes)
        self._nodes.check("nodes", ids)
        if not ids.size:
            return
        self.remove_arcs(self._arcs_at(ids))
        self.set_supply(ids, np.zeros(ids.size, np.int64))
        self._nodes.take_back(ids)
        if isinstance(self._held, Planted) and not self._nodes.alive[self._held.root]:
            self._held = None

    def add_arcs(self, tail: Integers, head: Integers, capacity: Integers, cost: Integers) -> Int64s:
        """Add arcs; return their ids."""
        tails = column("tail", tail)
        heads, bounds = column("head", head, tails.size), bounds_of(column("capacity", capacity, tails.size))
        costs = column("cost", cost, tails.size)
        self._nodes.check("tail", tails, unique=False)
        self._nodes.check("head", heads, unique=False)
        self._check_count(0, self.n_arcs + tails.size)
        self._raise_cost_max(costs, self.n_nodes)
        self._count_capacity(bounds, _NONE)
        ids = self._arcs.give(tails.size)
        for name, values in (("_tail", tails), ("_head", heads), ("_bound", bounds), ("_cost", costs)):
            longer = grown(getattr(self, name), self.n_arcs)
            longer[ids] = values
            setattr(self, name, longer)
        if self._held:
            self._held.add_arcs(self._columns(), self._supply[: self.n_nodes], ids)
        return ids

    def remove_arcs(self, arcs: Integers) -> None:
        """Remove arcs."""
        ids = column("arcs", arcs)
        self._arcs.check("arcs", ids)
        if self._held:
            self._held.drop_arcs(ids, self._tail[ids])
        self._count_capacity(_NONE, self._bound[ids])
        self._bound[ids] = 0
        self._cost[ids] = 0
        self._arcs.take_back(ids)

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self) -> Result:
        """The optimum; after a first solve, from the last one's tree or prices."""
        self._check_balance()
        if not self._nodes.alive.any():
            return Result("optimal", 0, np.zeros(self.n_arcs, np.int64), np.zeros(self.n_nodes, np.int64), "simplex")
        arcs, supply = self._columns(), self._supply[: self.n_nodes]
        if not isinstance(self._held, Planted):
            result = self._solve_by_prices(arcs, supply)
            if result is not None:
                return result
        return self._solve_by_simplex(arcs, supply)

    def _solve_by_prices(self, arcs: Arcs, supply: Int64s) -> Result | None:
        """None: the simplex must solve it, from nothing."""
        kernel: Kernel = "auto"
        if self._held is None:
            kernel = first_kernel(self._kernel, supply, arcs)
            if kernel == "simplex" or self._hands_over(arcs, supply):
                return None
        if simplex_reason(arcs, self.n_nodes, self._supply_total // 2, self._cost_max, self._earns) is not None:
            self._held = None
            return None
        if self._held is None:
            self._held = self._by_prices(kernel, arcs, supply)
        held = cast(Priced | Contracted, self._held)
        if held.solve(arcs, supply, self._cost_max) != OPTIMAL:
            self._held = None
            return None
        flow, potential, cost_size = held.read(arcs, self._nodes.alive)
        return self._optimum(flow, potential, cost_size)

    def _solve_by_simplex(self, arcs: Arcs, supply: Int64s) -> Result:
        first = self._held is None
        if first:
            self._cost_max = int(np.abs(arcs.cost).max(initial=0))
            alive = np.where(self._nodes.alive, supply, np.iinfo(np.int64).max)
            self._held = Planted(arcs, supply, int(alive.argmin()))
        held = cast(Planted, self._held)
        big = 2 * (self.n_nodes + 1) * (self._cost_max + 1)  # More than twice any path: potentials tell the side.
        status = held.solve(arcs, supply, big)
        if status == simplex.UNBOUNDED:
            return self._unbounded(arcs, supply)
        flow, potential, artificial, cost_size = held.read(arcs, self._nodes.alive)
        if status == simplex.CAPPED:
            self._held = None
            return Result("capped", None, flow, potential, "simplex", int(artificial.max()), None, held.work)
        if artificial.any():
            cut = potential < -big // 2 if artificial[0] else potential <= big // 2
            witness = (cut & self._nodes.alive).astype(np.int64)
            return Result("infeasible", None, flow, potential, "simplex", int(artificial.max()), witness, held.work)
        result = self._optimum(flow, potential, cost_size)
        kernel = first_kernel(self._kernel, supply, arcs) if first else "simplex"
        if (
            kernel != "simplex"
            and self._hands_over(arcs, supply)
            and simplex_reason(arcs, self.n_nodes, self._supply_total // 2, self._cost_max, self._earns) is None
        ):
            self._held = self._by_prices(kernel, arcs, supply, flow, potential)
        return result

    def _by_prices(
        self, kernel: Kernel, arcs: Arcs, supply: Int64s, flow: Int64s | None = None, price: Int64s | None = None
    ) -> Priced | Contracted:
        if kernel == "scaling":
            return priced(arcs, supply, flow, price)
        return contracted(arcs, supply, flow, price, never_scales=self._kernel == "exchange")

    def _hands_over(self, arcs: Arcs, supply: Int64s) -> bool:
        return self._kernel == "auto" and hands_over(supply, arcs)

    def _optimum(self, flow: Int64s, potential: Int64s, cost_size: float) -> Result:
        assert self._held is not None
        cost = self._cost[: self.n_arcs]
        value = int(np.dot(flow, cost)) if cost_size < 2.0**62 else objective(flow, cost)
        return Result("optimal", value, flow, potential, self._held.kernel, work=self._held.work)

    def _unbounded(self, arcs: Arcs, supply: Int64s) -> Result:
        """Flag the cycle; but a network that has no feasible flow is infeasible, whatever its cycles."""
        held, self._held = cast(Planted, self._held), None
        bounds = self.capacity
        free = FlowNetwork(
            self.n_nodes, arcs.tail, arcs.head, bounds, np.zeros_like(arcs.cost), supply, kernel="simplex"
        ).solve()
        if free.status != "optimal":
            return free
        return Result("unbounded", None, free.flow, np.zeros_like(supply), "simplex", 0, held.cycle(), held.work)

    def _columns(self) -> Arcs:
        n_arcs = self.n_arcs
        return Arcs(
            self._tail[:n_arcs], self._head[:n_arcs], self._arcs.alive, self._bound[:n_arcs], self._cost[:n_arcs]
        )

    def _arcs_at(self, nodes: Int64s) -> Int64s:
        """The arcs at these nodes, each once."""
        if isinstance(self._held, Priced) and not self._held.has_loops:
            return self._held.arcs_at(nodes)
        if isinstance(self._held, Contracted):
            found = self._held.arcs_at(nodes)
            if found is not None:
                return found
        gone = np.zeros(self.n_nodes, np.bool_)
        gone[nodes] = True
        arcs, listed = self._columns(), np.empty(self.n_arcs, np.int64)
        return listed[: arcs_at(arcs.tail, arcs.head, arcs.alive, gone, listed)]

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _count_capacity(self, new: Int64s, old: Int64s) -> None:
        capacity_total = self._capacity_total - size(old) + size(new)
        check_flow_total(self._supply_total, capacity_total)
        self._capacity_total = capacity_total

    def _count_supply(self, new: Int64s, old: Int64s) -> None:
        check_range("supply", new, -FLOW_MAX, FLOW_MAX)
        supply_total = self._supply_total - size(old) + size(new)
        check_flow_total(supply_total, self._capacity_total)
        self._supply_total = supply_total

    def _raise_cost_max(self, new: Int64s, n_nodes: int) -> None:
        check_range("cost", new, -POTENTIAL_MAX, POTENTIAL_MAX)
        low, high = (int(new.min()), int(new.max())) if new.size else (0, 0)
        cost_max = max(self._cost_max, high, -low)
        check_cost(n_nodes, cost_max)
        self._cost_max = cost_max
        if low < 0:
            self._earns = True

    def _check_count(self, n_nodes: int, n_arcs: int) -> None:
        """Inside, ids of nodes and of the entries of arcs take 32 bits."""
        if max(n_nodes, 3 * n_arcs) > ID_MAX:
            raise NetworkError(f"{n_nodes} nodes, {n_arcs} arcs: at most {ID_MAX} and {ID_MAX // 3}")

    def _check_balance(self) -> None:
        balance = int(sum_of(self._supply[: self.n_nodes]))
        if balance:
            raise NetworkError(f"supplies sum to {balance}; they must sum to 0 (give the rest to a sink or a source)")
