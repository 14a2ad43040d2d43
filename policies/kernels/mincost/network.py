"""`FlowNetwork`: a min-cost-flow problem that is solved, changed a little and solved again.

Ids are stable: nodes and arcs keep theirs until removed, and a removed id may be given to a later one. Inside, arcs lie
in another order (`_position`): neighbours in the caller's order, which tend to be alike, are spread over the blocks
that pricing scans, so that every block holds good candidates.
"""

from math import isqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from policies.kernels.jit import Int64s
from policies.kernels.mincost import crash, repair, simplex, tree
from policies.kernels.mincost.columns import grown, objective, spread
from policies.kernels.mincost.dispatch import KERNELS, Kernel, by_prices, starts_full
from policies.kernels.mincost.gate import (
    Integers,
    check_alive,
    check_cost,
    check_flow_total,
    check_range,
    column,
    total,
)
from policies.kernels.mincost.model import FLOW_MAX, NO_BOUND, POTENTIAL_MAX, UNLIMITED, NetworkError, Result
from policies.kernels.mincost.priced import OPTIMAL, SCANS_COLD, SCANS_FORCED, SCANS_WARM, Arcs, Priced, priced
from policies.kernels.mincost.residual import read_flow

_BLOCK_MIN = 16  # Arcs a pricing block has at least: below, the cursor's bookkeeping costs more than it saves.
_SOURCES_SPARSE = 32  # One consumer and a source in that many nodes or more: a scheduling network, worth a crash tree.
_NO_POSITIONS = np.empty(0, np.int64)


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
        heads, bounds = column("head", head, n_arcs), column("capacity", capacity, n_arcs)
        costs, supplies = column("cost", cost, n_arcs), column("supply", supply, int(n_nodes))
        check_range("tail", tails, 0, n_nodes - 1)
        check_range("head", heads, 0, n_nodes - 1)
        self._n_nodes, self._n_arcs = int(n_nodes), n_arcs
        self._node_alive = np.ones(n_nodes, np.bool_)
        self._arc_alive = np.ones(n_arcs, np.bool_)
        self._free_nodes: list[int] = []
        self._free_arcs: list[int] = []
        self._supply = supplies
        self._kernel: Kernel = kernel
        self._priced: Priced | None = None  # The last flow with prices, where paths or scaling found it.
        self._n_loops = int((tails == heads).sum())
        self._hands_over = False  # The simplex solves it from nothing, and prices from then on.
        self._is_spread = False  # Arcs lie in another order than their ids'.
        self._position = np.arange(n_arcs)
        self._tail, self._head, self._bound, self._cost = tails, heads, bounds, costs
        self._capacity = np.empty(n_arcs, np.int64)  # What the kernel sees: redundant bounds are dropped.
        self._state = np.full(n_arcs, tree.LOWER, np.int64)
        self._capacity_total = 0
        self._supply_total = 0
        self._cost_max = 0
        self._bound = self._checked_capacity(bounds, _NO_POSITIONS)
        self._check_supply(supplies)
        self._check_cost(costs, self._n_nodes)
        self._potential, self._excess = np.empty(0, np.int64), np.empty(0, np.int64)
        self._after, self._before = np.empty(0, np.int64), np.empty(0, np.int64)
        self._rows = np.empty((0, tree.ROW), np.int64)
        self._work = np.zeros(simplex.N_WORK, np.int64)
        self._root = 0
        self._planted = False  # A spanning tree exists that the next solve can start from.
        self._check_balance()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def n_nodes(self) -> int:
        """Node ids are below this; some may be removed."""
        return self._n_nodes

    @property
    def n_arcs(self) -> int:
        """Arc ids are below this; some may be removed."""
        return self._n_arcs

    @property
    def tail(self) -> Int64s:
        return self._by_id(self._tail)

    @property
    def head(self) -> Int64s:
        return self._by_id(self._head)

    @property
    def cost(self) -> Int64s:
        return self._by_id(self._cost)

    @property
    def capacity(self) -> Int64s:
        """Capacities by arc id; UNLIMITED where there is none, 0 for removed arcs."""
        bounds = self._by_id(self._bound)
        bounds[bounds == NO_BOUND] = UNLIMITED
        return bounds

    @property
    def supply(self) -> Int64s:
        return self._supply[: self._n_nodes].copy()

    @property
    def arc_alive(self) -> npt.NDArray[np.bool_]:
        return self._arc_alive.copy()

    @property
    def node_alive(self) -> npt.NDArray[np.bool_]:
        return self._node_alive.copy()

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_supply(self, nodes: Integers, values: Integers) -> None:
        """Set supplies (negative: demand). They need to sum to zero only at the next solve."""
        ids = column("nodes", nodes)
        new = column("values", values, ids.size)
        check_alive("nodes", ids, self._node_alive, unique=True)
        self._check_supply(new, replaced=self._supply[ids])
        if self._planted:
            self._excess[ids] += new - self._supply[ids]
        if self._priced:
            self._priced.set_supply(ids, new - self._supply[ids])
        self._supply[ids] = new

    def set_cost(self, arcs: Integers, values: Integers) -> None:
        """Set costs per unit of flow."""
        ids = column("arcs", arcs)
        new = column("values", values, ids.size)
        check_alive("arcs", ids, self._arc_alive, unique=True)
        self._check_cost(new, self._n_nodes)
        positions = self._position[ids]
        self._cost[positions] = new
        if self._priced:
            self._priced.set_cost(ids, self._tail[positions], new)

    def set_capacity(self, arcs: Integers, values: Integers) -> None:
        """Set capacities, 0 up or UNLIMITED."""
        ids = column("arcs", arcs)
        new = column("values", values, ids.size)
        check_alive("arcs", ids, self._arc_alive, unique=True)
        positions = self._position[ids]
        new = self._checked_capacity(new, positions)
        self._bound[positions] = new
        if self._planted:
            repair.change_capacity(self._columns(), positions, new)
        if self._priced:
            self._priced.set_capacity(ids, self._tail[positions], new)

    def add_nodes(self, supplies: Integers) -> Int64s:
        """Add nodes; return their ids."""
        new = column("supplies", supplies)
        self._check_supply(new)
        self._check_cost(_NO_POSITIONS, self._n_nodes + new.size)
        reused = min(new.size, len(self._free_nodes))
        fresh = np.arange(self._n_nodes, self._n_nodes + new.size - reused)
        ids = np.concatenate([np.array([self._free_nodes.pop() for _ in range(reused)], np.int64), fresh])
        first, self._n_nodes = self._n_nodes, self._n_nodes + fresh.size
        self._supply = grown(self._supply, self._n_nodes)
        self._node_alive = np.concatenate([self._node_alive, np.ones(fresh.size, np.bool_)])
        self._node_alive[ids] = True
        self._supply[ids] = new
        if self._planted:
            for name in ("_potential", "_excess", "_after", "_before", "_rows"):
                setattr(self, name, grown(getattr(self, name), self._n_nodes))
            tree.append(self._columns(), first, self._n_nodes, self._root)
            self._excess[ids] += new  # A removed id may still owe what its node sent.
        if self._priced:
            self._priced.add_nodes(self._n_nodes, ids, new)
        return ids

    def remove_nodes(self, nodes: Integers) -> None:
        """Remove nodes, their supply and every arc that touches them."""
        ids = column("nodes", nodes)
        check_alive("nodes", ids, self._node_alive, unique=True)
        gone = np.zeros(self._n_nodes, np.bool_)
        gone[ids] = True
        if self._priced and not self._n_loops:
            self.remove_arcs(self._priced.arcs_at(ids))
        else:
            touched = (gone[self.tail] | gone[self.head]) & self._arc_alive
            self.remove_arcs(np.flatnonzero(touched))
        self.set_supply(ids, np.zeros(ids.size, np.int64))
        self._node_alive[ids] = False
        self._free_nodes.extend(ids.tolist())
        if self._planted and gone[self._root]:
            self._planted = False

    def add_arcs(self, tail: Integers, head: Integers, capacity: Integers, cost: Integers) -> Int64s:
        """Add arcs; return their ids."""
        tails = column("tail", tail)
        heads, bounds = column("head", head, tails.size), column("capacity", capacity, tails.size)
        costs = column("cost", cost, tails.size)
        check_alive("tail", tails, self._node_alive)
        check_alive("head", heads, self._node_alive)
        self._check_cost(costs, self._n_nodes)
        bounds = self._checked_capacity(bounds, _NO_POSITIONS)
        reused = min(tails.size, len(self._free_arcs))
        fresh = np.arange(self._n_arcs, self._n_arcs + tails.size - reused)
        ids = np.concatenate([np.array([self._free_arcs.pop() for _ in range(reused)], np.int64), fresh])
        self._n_arcs += fresh.size
        for name in ("_tail", "_head", "_bound", "_capacity", "_cost", "_state"):
            setattr(self, name, grown(getattr(self, name), self._n_arcs))
        if fresh.size:
            self._position = np.concatenate([self._position, fresh])
            self._arc_alive = np.concatenate([self._arc_alive, np.ones(fresh.size, np.bool_)])
        self._arc_alive[ids] = True
        positions = self._position[ids]
        self._tail[positions], self._head[positions] = tails, heads
        self._bound[positions], self._cost[positions] = bounds, costs
        self._capacity[positions] = bounds
        self._state[positions] = tree.LOWER
        self._n_loops += int((tails == heads).sum())
        if self._priced:
            self._priced.add_arcs(self._arcs(), self._supply[: self._n_nodes], ids)
        return ids

    def remove_arcs(self, arcs: Integers) -> None:
        """Remove arcs."""
        ids = column("arcs", arcs)
        check_alive("arcs", ids, self._arc_alive, unique=True)
        positions = self._position[ids]
        if self._planted:
            repair.drop_arcs(self._columns(), self._root, positions)
        if self._priced:
            self._priced.drop_arcs(ids)
        self._checked_capacity(np.zeros(ids.size, np.int64), positions)
        self._bound[positions] = 0
        self._capacity[positions] = 0
        self._cost[positions] = 0
        self._state[positions] = tree.DEAD
        self._arc_alive[ids] = False
        self._free_arcs.extend(ids.tolist())

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self) -> Result:
        """The optimum; after a first solve, from the last one's tree or prices."""
        self._check_balance()
        if not self._node_alive.any():
            return self._finish("optimal", simplex_ran=False)
        if not self._planted and self._solve_by_prices():
            return self._finish_priced()
        hand_over = self._hands_over and not self._planted
        if not self._planted:
            self._plant()
        self._work[: simplex.CURSOR] = 0
        status = self._optimise()
        if status == simplex.CAPPED:  # Only an all-artificial tree is sure to be strongly feasible and never to cycle.
            self._plant(bare=True)
            status = self._optimise()
        if status == simplex.CAPPED:
            self._planted = False
            return self._finish("capped", simplex_ran=True)
        if status == simplex.UNBOUNDED:
            self._planted = False
            return self._unbounded()
        result = self._finish("optimal", simplex_ran=True)
        if hand_over and result.status == "optimal":
            self._lay(apart=False)
            self._planted = False
            self._priced = priced(self._arcs(), self._supply[: self._n_nodes], result.flow, result.potential)
        return result

    def _solve_by_prices(self) -> bool:
        """True when paths and scaling found the optimum; False when the simplex must, from nothing."""
        arcs, supply = self._arcs(), self._supply[: self._n_nodes]  # In whatever order, for now.
        self._hands_over = False
        if not by_prices(self._kernel, supply, arcs.bound, arcs.cost, self._cost_max):
            self._priced = None
            return False
        scans = SCANS_WARM
        if self._priced is None:
            self._hands_over = self._kernel == "auto" and starts_full(supply, arcs.head, arcs.bound)
            if self._hands_over:
                return False
            self._lay(apart=False)
            arcs = self._arcs()
            self._priced = priced(arcs, supply)
            scans = SCANS_COLD
        scans = {"paths": SCANS_FORCED, "scaling": 0}.get(self._kernel, scans)
        if self._priced.solve(arcs, supply, self._cost_max, scans) != OPTIMAL:
            self._priced = None
        return self._priced is not None

    def _lay(self, apart: bool) -> None:
        """Let the arcs lie as the kernel wants them: spread for the simplex, by id for the others."""
        if apart == self._is_spread:
            return
        position = spread(self._n_arcs) if apart else np.arange(self._n_arcs)
        for name in ("_tail", "_head", "_bound", "_cost"):
            column = getattr(self, name)
            column[position] = column[self._position]
        self._position, self._is_spread = position, apart

    def _by_id(self, column: Int64s) -> Int64s:
        return column[self._position] if self._is_spread else column[: self._n_arcs].copy()

    def _arcs(self) -> Arcs:
        """The columns by id; to be called while arcs are not spread."""
        tail, head, bound, cost = (
            column[: self._n_arcs] for column in (self._tail, self._head, self._bound, self._cost)
        )
        return Arcs(tail, head, self._arc_alive, bound, cost)

    def _finish_priced(self) -> Result:
        assert self._priced is not None
        net = self._priced.net
        flow = np.empty(self._n_arcs, np.int64)
        arcs = self._arcs()
        size = read_flow(net, arcs.bound, arcs.cost, flow)
        potential = np.where(self._node_alive, net.price - net.price[self._consumer()], 0)
        return Result(
            status="optimal",
            objective=int(np.dot(flow, arcs.cost)) if size < 2.0**62 else objective(flow, arcs.cost),
            flow=flow,
            potential=potential,
            kernel=self._priced.kernel,
            work=self._priced.work,
        )

    def _plant(self, bare: bool = False) -> None:
        """A first tree: every node hangs under the largest consumer, and no bound stays that cannot bind."""
        self._lay(apart=True)
        n_nodes, n_arcs = self._n_nodes, self._n_arcs
        self._potential, self._excess = np.zeros(n_nodes, np.int64), np.zeros(n_nodes, np.int64)
        self._after, self._before = np.empty(n_nodes, np.int64), np.empty(n_nodes, np.int64)
        self._rows = np.empty((n_nodes, tree.ROW), np.int64)
        self._root = self._consumer()
        repair.plant(self._columns(), self._supply[:n_nodes], self._root)
        repair.drop_redundant_bounds(
            self._tail[:n_arcs], self._head[:n_arcs], self._supply[:n_nodes], self._bound[:n_arcs], self._capacity
        )
        self._state[self._position] = np.where(self._arc_alive, tree.LOWER, tree.DEAD)
        self._cost_max = int(np.abs(self._cost[:n_arcs]).max(initial=0))
        supply = self._supply[:n_nodes]
        if not bare and (supply < 0).sum() == 1 and (supply > 0).sum() * _SOURCES_SPARSE >= n_nodes:
            crash.lean(self._columns(), supply, n_nodes, n_arcs, self._root, self._big())
        self._planted = True

    def _consumer(self) -> int:
        """The largest consumer."""
        return int(np.where(self._node_alive, self._supply[: self._n_nodes], np.iinfo(np.int64).max).argmin())

    def _optimise(self) -> int:
        """Repair and run the simplex until no dropped bound is passed. Returns its status."""
        n_nodes, n_arcs = self._n_nodes, self._n_arcs
        net = self._columns()
        order = np.empty(n_nodes, np.int64)
        big = self._big()
        block = max(isqrt(n_arcs), _BLOCK_MIN)
        pivots_max = 200 * (n_arcs + n_nodes) + 10_000
        while True:
            count = tree.refresh(net, self._root, big, order)
            repair.rebalance(net, self._root, order, count)
            tree.refresh(net, self._root, big, order)
            simplex.optimise(net, self._root, n_arcs, block, pivots_max, self._work)
            status = int(self._work[simplex.STATUS])
            if status == simplex.UNBOUNDED and not np.array_equal(self._capacity[:n_arcs], self._bound[:n_arcs]):
                self._plant()  # Changes since the first solve made a dropped bound matter: take none for granted.
                self._capacity[:n_arcs] = self._bound[:n_arcs]
                net = self._columns()
                continue
            if status != simplex.OPTIMAL:
                return status
            count = repair.find_overfull(net, self._bound, n_nodes, order)
            if count == 0:
                return status
            positions = order[:count].copy()
            repair.change_capacity(net, positions, self._bound[positions])

    def _columns(self) -> tree.Columns:
        return tree.Columns(
            self._tail, self._head, self._cost, self._capacity, self._state,
            self._potential, self._excess, self._after, self._before, self._rows,
        )  # fmt: skip

    def _big(self) -> int:
        """The cost of an artificial arc: more than twice any path, so that potentials tell which side of it one is."""
        return 2 * (self._n_nodes + 1) * (self._cost_max + 1)

    def _finish(self, status: Literal["optimal", "capped"], simplex_ran: bool) -> Result:
        flow = np.zeros(self._n_arcs, np.int64)
        potential = np.zeros(self._n_nodes, np.int64)
        artificial = np.zeros(2, np.int64)
        if simplex_ran:
            lying = np.empty(self._n_arcs, np.int64)
            simplex.read_flow(self._columns(), self._n_nodes, self._n_arcs, lying, artificial)
            flow = lying[self._position]
            potential = np.where(self._node_alive, self._potential[: self._n_nodes] - self._potential[self._root], 0)
        unrouted = int(artificial.max())
        witness = None
        if status == "optimal" and unrouted:
            half = self._big() // 2
            cut = potential < -half if artificial[0] else potential <= half
            witness = (cut & self._node_alive).astype(np.int64)
        return Result(
            status="infeasible" if witness is not None else status,
            objective=objective(flow, self.cost) if witness is None else None,
            flow=flow,
            potential=potential,
            kernel="simplex",
            unrouted=unrouted,
            witness=witness,
            work=self._counters(),
        )

    def _unbounded(self) -> Result:
        """Flag the cycle; but a network that has no feasible flow is infeasible, whatever its cycles."""
        n_nodes, n_arcs = self._n_nodes, self._n_arcs
        free = FlowNetwork(
            n_nodes,
            self.tail,
            self.head,
            self.capacity,
            np.zeros(n_arcs, np.int64),
            self._supply[:n_nodes],
            kernel="simplex",
        ).solve()
        if free.status != "optimal":
            return free
        entering = int(self._work[simplex.CURSOR])
        down, up = int(self._tail[entering]), int(self._head[entering])
        if self._state[entering] == tree.UPPER:
            down, up = up, down
        lying = np.zeros(n_arcs, np.int64)
        lying[entering] = 1
        while down != up:
            if self._rows[down, tree.SIZE] <= self._rows[up, tree.SIZE]:
                lying[self._rows[down, tree.PRED]] = 1
                down = int(self._rows[down, tree.PARENT])
            else:
                lying[self._rows[up, tree.PRED]] = 1
                up = int(self._rows[up, tree.PARENT])
        return Result(
            status="unbounded",
            objective=None,
            flow=free.flow,
            potential=np.zeros(n_nodes, np.int64),
            kernel="simplex",
            witness=lying[self._position],
            work=self._counters(),
        )

    def _counters(self) -> dict[str, int]:
        names = {
            "pivots": simplex.PIVOTS,
            "degenerate_pivots": simplex.DEGENERATE,
            "arcs_scanned": simplex.SCANNED,
            "nodes_shifted": simplex.SHIFTED,
            "cycle_steps": simplex.WALKED,
        }
        return {name: int(self._work[index]) for name, index in names.items()}

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _checked_capacity(self, bounds: Int64s, positions: Int64s) -> Int64s:
        """Capacities as the kernels want them (UNLIMITED → NO_BOUND), those at `positions` being replaced."""
        limited = bounds != UNLIMITED
        check_range("capacity", bounds[limited], 0, FLOW_MAX)
        old = self._bound[positions]
        capacity_total = self._capacity_total - total(old[old != NO_BOUND]) + total(bounds[limited])
        check_flow_total(self._supply_total, capacity_total)
        self._capacity_total = capacity_total
        return np.where(limited, bounds, NO_BOUND)

    def _check_supply(self, new: Int64s, replaced: Int64s = _NO_POSITIONS) -> None:
        check_range("supply", new, -FLOW_MAX, FLOW_MAX)
        supply_total = self._supply_total - total(np.abs(replaced)) + total(np.abs(new))
        check_flow_total(supply_total, self._capacity_total)
        self._supply_total = supply_total

    def _check_cost(self, new: Int64s, n_nodes: int) -> None:
        check_range("cost", new, -POTENTIAL_MAX, POTENTIAL_MAX)
        cost_max = max(self._cost_max, int(np.abs(new).max(initial=0)))
        check_cost(n_nodes, cost_max)
        self._cost_max = cost_max

    def _check_balance(self) -> None:
        balance = total(self._supply[: self._n_nodes])
        if balance:
            raise NetworkError(f"supplies sum to {balance}; they must sum to 0 (give the rest to a sink or a source)")
