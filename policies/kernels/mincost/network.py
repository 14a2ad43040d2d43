"""`FlowNetwork`: a min-cost-flow problem that is solved, changed a little and solved again.

Ids are stable: nodes and arcs keep theirs until removed, and a removed id may be given to a later one. The network
keeps the caller's columns; what the last solve left, a tree or a flow with prices, is kept by `Planted`, `Contracted`
or `Priced`, which hear of every change.
"""

from dataclasses import replace
from typing import NoReturn, cast
from weakref import ref

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes, simplex
from policies.kernels.mincost.changes import BALANCE, CAPACITY, COST_MAX, EARNS, SUPPLY
from policies.kernels.mincost.columns import OBJECTIVE_SURE, grown, objective
from policies.kernels.mincost.contracted import Contracted, contracted
from policies.kernels.mincost.dispatch import KERNELS, Kernel, first_kernel, simplex_reason
from policies.kernels.mincost.gate import (
    Flags,
    Integers,
    check_capacity,
    check_range,
    column,
    cost_error,
    cost_limit,
    flow_total_error,
    size,
)
from policies.kernels.mincost.ids import Ids
from policies.kernels.mincost.merge import PERCENT, PERCENT_TREE, is_worth_merging, merged, unfolded
from policies.kernels.mincost.model import (
    FLOW_MAX,
    LATER,
    NO_BOUND,
    POTENTIAL_MAX,
    UNLIMITED,
    NetworkError,
    Result,
    read_later,
)
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
        heads, capacities = column("head", head, tails.size), column("capacity", capacity, tails.size)
        costs, supplies = column("cost", cost, tails.size), column("supply", supply, int(n_nodes))
        self._nodes, self._arcs = Ids(0), Ids(0)
        self._kernel: Kernel = kernel
        self._held: Planted | Priced | Contracted | None = None
        self._unread: ref[Result] | None = None  # The last one, while it may still have to be read.
        self._totals = np.zeros(changes.N_TOTALS, np.int64)
        self._tail = self._head = self._cost = self._bound = self._supply = _NONE
        check_range("tail", tails, 0, n_nodes - 1)
        check_range("head", heads, 0, n_nodes - 1)
        self._enter_nodes(supplies)
        self._enter_arcs(tails, heads, capacities, costs)
        if self._totals[BALANCE]:
            self._refuse_balance()

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
        self._put_supply(ids, column("values", values, ids.size))

    def set_cost(self, arcs: Integers, values: Integers) -> None:
        """Set costs per unit of flow."""
        if self._unread:
            self._read_last()
        ids = column("arcs", arcs)
        new = column("values", values, ids.size)
        wanted = (ids, new, *self._arcs.flags, self._nodes.count, self._cost, self._totals)
        held = self._held
        if not (held.set_cost(wanted, self._tail) if held else changes.set_costs(*wanted)):
            self._arcs.check("arcs", ids)
            self._refuse_cost(new)

    def set_capacity(self, arcs: Integers, values: Integers) -> None:
        """Set capacities, 0 up or UNLIMITED."""
        if self._unread:
            self._read_last()
        ids = column("arcs", arcs)
        new = column("values", values, ids.size)
        bounds = np.empty(ids.size, np.int64)
        wanted = (ids, new, *self._arcs.flags, self._bound, self._totals, bounds)
        held = self._held
        if not (held.set_capacity(wanted, self._tail) if held else changes.set_bounds(*wanted)):
            self._arcs.check("arcs", ids)
            self._refuse_capacity(new, self._bound[ids])

    def add_nodes(self, supplies: Integers) -> Int64s:
        """Add nodes; return their ids."""
        return self._enter_nodes(column("supplies", supplies))

    def remove_nodes(self, nodes: Integers) -> None:
        """Remove nodes, their supply and every arc that touches them."""
        ids = column("nodes", nodes)
        if not ids.size:
            return
        self._nodes.check("nodes", ids)
        self.remove_arcs(self._arcs_at(ids))
        self._put_supply(ids, np.zeros(ids.size, np.int64))
        self._nodes.take_back(ids)
        if isinstance(self._held, Planted) and not self._nodes.alive[self._held.root]:
            self._held = None

    def add_arcs(self, tail: Integers, head: Integers, capacity: Integers, cost: Integers) -> Int64s:
        """Add arcs; return their ids."""
        tails = column("tail", tail)
        heads, capacities = column("head", head, tails.size), column("capacity", capacity, tails.size)
        return self._enter_arcs(tails, heads, capacities, column("cost", cost, tails.size))

    def remove_arcs(self, arcs: Integers) -> None:
        """Remove arcs."""
        if self._unread:
            self._read_last()
        ids = column("arcs", arcs)
        if not changes.clear_arcs(ids, *self._arcs.flags, self._bound, self._cost, self._totals):
            self._arcs.check("arcs", ids)
        if self._held:
            self._held.drop_arcs(ids, self._tail)
        self._arcs.take_back(ids)

    def _put_supply(self, ids: Int64s, new: Int64s) -> None:
        if self._unread:
            self._read_last()
        excess = self._held.net.excess if self._held else _NONE
        if not changes.set_supplies(ids, new, *self._nodes.flags, self._supply, self._totals, excess):
            self._nodes.check("nodes", ids)
            self._refuse_supply(new, self._supply[ids])
        if isinstance(self._held, Contracted):
            self._held.moved.append(ids.copy())

    def _enter_nodes(self, supplies: Int64s) -> Int64s:
        if self._unread:
            self._read_last()
        nodes, held, more = self._nodes, self._held, supplies.size
        most = nodes.count + more
        if most > ID_MAX:
            raise too_many(most, 0)
        count = nodes.make_room(more)
        if count > self._supply.size:
            self._supply = grown(self._supply, count)
        ids = np.empty(more, np.int64)
        wanted = (supplies, self._totals, nodes.count, nodes.free, nodes.n_free, nodes.flags[0], self._supply, ids)
        if not (held.add_nodes(wanted, count) if held else changes.add_supplies(*wanted, _NONE)):
            cost_max = int(self._totals[COST_MAX])
            if cost_max > cost_limit(most):
                raise cost_error(most, cost_max)
            self._refuse_supply(supplies, _NONE)
        nodes.gave(more, count)
        return ids

    def _enter_arcs(self, tails: Int64s, heads: Int64s, capacities: Int64s, costs: Int64s) -> Int64s:
        if self._unread:
            self._read_last()
        nodes, arcs, held, more = self._nodes, self._arcs, self._held, tails.size
        if 3 * (arcs.count + more) > ID_MAX:
            raise too_many(nodes.count, arcs.count + more)
        count = arcs.make_room(more)
        columns = (self._tail, self._head, self._bound, self._cost)
        if count > self._tail.size:
            tail, head, bound, cost = (grown(each, count) for each in columns)
            columns = self._tail, self._head, self._bound, self._cost = tail, head, bound, cost
        bounds, ids = np.empty(more, np.int64), np.empty(more, np.int64)
        of_nodes, of_arcs = (*nodes.flags, nodes.count), (arcs.count, arcs.free, arcs.n_free, arcs.flags[0])
        wanted = (tails, heads, capacities, costs, *of_nodes, self._totals, *of_arcs, *columns, bounds, ids)
        if not (held.add_arcs(wanted, count, self._all) if held else changes.add_arcs(*wanted)):
            nodes.check("tail", tails, unique=False)
            nodes.check("head", heads, unique=False)
            check_capacity(capacities)
            self._refuse_cost(costs, within=cost_limit(nodes.count))
            self._refuse_capacity(capacities, _NONE)
        arcs.gave(more, count)
        return ids

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self) -> Result:
        """The optimum; after a first solve, from the last one's tree or prices."""
        if self._totals[BALANCE]:
            self._refuse_balance()
        if self._unread:
            self._read_last()
        if isinstance(self._held, Planted):
            return self._solve_planted(self._held)
        if not self._nodes.any:
            return Result("optimal", 0, np.zeros(self.n_arcs, np.int64), np.zeros(self.n_nodes, np.int64), "simplex")
        if self._held is None:
            return self._solve_first(*self._all())
        return self._solve_by_prices(*self._all())

    def _solve_first(self, arcs: Arcs, supply: Int64s) -> Result:
        """From nothing."""
        kernel = first_kernel(self._kernel, supply, arcs)
        if kernel != "simplex" and self._simplex_reason(arcs, kernel == "exchange") is not None:
            kernel = "simplex"
        if self._kernel == "auto" and is_worth_merging(arcs, supply) and not self._totals[EARNS]:
            result = self._solve_merged(kernel, arcs, supply)
            if result is not None:
                return result
        if kernel == "simplex":
            return self._solve_by_simplex()
        self._held = self._by_prices(kernel, arcs, supply)
        return self._solve_by_prices(arcs, supply)

    def _solve_merged(self, kernel: Kernel, arcs: Arcs, supply: Int64s) -> Result | None:
        """From the optimum of the network with nodes merged; None where there are too few, or no optimum."""
        small = merged(arcs, supply, PERCENT_TREE if kernel == "simplex" else PERCENT)
        if small is None:
            return None
        bounds = np.where(small.arcs.bound == NO_BOUND, UNLIMITED, small.arcs.bound)
        columns = (small.arcs.tail, small.arcs.head, bounds, small.arcs.cost, small.supply)
        network = FlowNetwork(small.supply.size, *columns, kernel="auto" if kernel == "exchange" else kernel)
        first = network.solve()
        if first.status != "optimal":
            return None
        if kernel == "simplex":
            self._held = held = self._planted(arcs, supply)
            held.plant_merged(arcs, supply, small.ids, small.inside, cast(Planted, network._held))
            result = self._solve_planted(held)
        else:
            flow, potential = unfolded(small, arcs, supply, first.flow, first.potential)
            potential[~self._nodes.alive] = 0
            self._held = self._by_prices(kernel, arcs, supply, flow, potential)
            cost_size = float(np.dot(flow.astype(np.float64), arcs.cost.astype(np.float64)))
            result = self._optimum(flow, potential, cost_size)
        work = {name: count + first.work.get(name, 0) for name, count in result.work.items()} or first.work
        return replace(result, kernel=f"merged+{first.kernel}", work=work)

    def _solve_by_prices(self, arcs: Arcs, supply: Int64s) -> Result:
        """By what is held; from nothing by the simplex where that gives up."""
        held = cast(Priced | Contracted, self._held)
        reason = self._simplex_reason(arcs, isinstance(held, Contracted))
        if reason is not None or held.solve(arcs, supply, int(self._totals[COST_MAX])) != OPTIMAL:
            self._held = None
            return self._solve_by_simplex()
        alive = self._nodes.alive
        if isinstance(held, Contracted) and not self._totals[EARNS]:
            value, cost_size = held.objective()
            if cost_size < OBJECTIVE_SURE:
                return self._later(value, held)
        flow, potential, cost_size = held.read(arcs, alive)
        return self._optimum(flow, potential, cost_size)

    def _solve_by_simplex(self) -> Result:
        """From nothing."""
        self._held = held = self._planted(*self._all())
        return self._solve_planted(held)

    def _solve_planted(self, held: Planted) -> Result:
        status = held.solve(self._all, self._supply, int(self._totals[COST_MAX]))
        if status == simplex.UNBOUNDED:
            return self._unbounded(*self._all())
        value, sent_up, sent_down = held.told.tolist()
        unrouted = max(sent_up, sent_down)
        if status == simplex.OPTIMAL and not unrouted:
            return self._planted_optimum(held, value)
        flow, potential = held.read_flow(self.n_arcs), held.read_potential(self._nodes.alive)
        if status == simplex.CAPPED:
            self._held = None
            return Result("capped", None, flow, potential, "simplex", unrouted, None, held.work)
        cut = potential < -held.big // 2 if sent_up else potential <= held.big // 2
        witness = (cut & self._nodes.alive).astype(np.int64)
        return Result("infeasible", None, flow, potential, "simplex", unrouted, witness, held.work)

    def _planted_optimum(self, held: Planted, value: int) -> Result:
        if held.sum_size >= OBJECTIVE_SURE:
            flow, potential = held.read_flow(self.n_arcs), held.read_potential(self._nodes.alive)
            value = objective(flow, self._cost[: self.n_arcs])
            return Result("optimal", value, flow, potential, "simplex", 0, None, held.work)
        return self._later(value, held)

    def _later(self, value: int, held: Planted | Contracted) -> Result:
        """An optimum, the rest of which is read later."""
        result = read_later(value, held.kernel, self._read)
        self._unread = ref(result)
        return result

    def _read(self, name: str) -> Int64s | dict[str, int]:
        """Of the last optimum: what it did not tell at once."""
        held = self._held
        assert isinstance(held, Planted | Contracted)
        if name == "flow":
            return held.read_flow(self.n_arcs)
        return held.work if name == "work" else held.read_potential(self._nodes.alive)

    def _read_last(self) -> None:
        """Have the last result read, if somebody still has it, before what it would be read from changes."""
        result, self._unread = self._unread and self._unread(), None
        if result:
            for name in LATER:
                getattr(result, name)

    def _planted(self, arcs: Arcs, supply: Int64s) -> Planted:
        self._totals[COST_MAX] = np.abs(arcs.cost).max(initial=0)
        alive = np.where(self._nodes.alive, supply, np.iinfo(np.int64).max)
        return Planted(arcs, supply, int(alive.argmin()))

    def _by_prices(
        self, kernel: Kernel, arcs: Arcs, supply: Int64s, flow: Int64s | None = None, price: Int64s | None = None
    ) -> Priced | Contracted:
        if kernel == "scaling":
            return priced(arcs, supply, flow, price)
        return contracted(arcs, supply, flow, price, never_scales=self._kernel == "exchange")

    def _simplex_reason(self, arcs: Arcs, by_paths: bool) -> str | None:
        totals = self._totals.tolist()
        return simplex_reason(arcs, self.n_nodes, totals[SUPPLY] // 2, totals[COST_MAX], bool(totals[EARNS]), by_paths)

    def _optimum(self, flow: Int64s, potential: Int64s, cost_size: float) -> Result:
        assert self._held is not None
        cost = self._cost[: self.n_arcs]
        value = int(np.dot(flow, cost)) if cost_size < OBJECTIVE_SURE else objective(flow, cost)
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

    def _all(self, n_arcs: int | None = None) -> tuple[Arcs, Int64s]:
        """Columns of all arcs, or of so many ids, and supplies of all nodes."""
        stop = n_arcs or self.n_arcs
        tail, head, bound, cost = (each[:stop] for each in (self._tail, self._head, self._bound, self._cost))
        return Arcs(tail, head, self._arcs.flags[0][:stop], bound, cost), self._supply[: self.n_nodes]

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
        arcs, listed = self._all()[0], np.empty(self.n_arcs, np.int64)
        return listed[: arcs_at(arcs.tail, arcs.head, arcs.alive, gone, listed)]

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _refuse_supply(self, new: Int64s, old: Int64s) -> NoReturn:
        check_range("supply", new, -FLOW_MAX, FLOW_MAX)
        raise flow_total_error(int(self._totals[SUPPLY]) - size(old) + size(new), int(self._totals[CAPACITY]))

    def _refuse_capacity(self, new: Int64s, old: Int64s) -> NoReturn:
        check_capacity(new)
        raise flow_total_error(int(self._totals[SUPPLY]), int(self._totals[CAPACITY]) - size(old) + size(new))

    def _refuse_cost(self, new: Int64s, within: int = -1) -> None:
        """Unless all are `within`."""
        check_range("cost", new, -POTENTIAL_MAX, POTENTIAL_MAX)
        cost_max = max(int(new.max(initial=0)), -int(new.min(initial=0)))
        if cost_max > within:
            raise cost_error(self.n_nodes, cost_max)

    def _refuse_balance(self) -> NoReturn:
        balance = int(self._totals[BALANCE])
        raise NetworkError(f"supplies sum to {balance}; they must sum to 0 (give the rest to a sink or a source)")


def too_many(n_nodes: int, n_arcs: int) -> NetworkError:
    """Inside, ids of nodes and of the entries of arcs take 32 bits."""
    return NetworkError(f"{n_nodes} nodes, {n_arcs} arcs: at most {ID_MAX} and {ID_MAX // 3}")
