"""From a tree that changes left to the answer: repair, pivot, put back bounds that bind after all, add up; and read.

One call a solve: what a small round takes is mostly what is around the pivots.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.columns import OBJECTIVE_SURE
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.incidence import INCIDENCE, Incidence
from policies.kernels.mincost.repair import bound_overfull, hang, rebalance
from policies.kernels.mincost.reroute import reroute
from policies.kernels.mincost.runs import optimise_by_runs
from policies.kernels.mincost.simplex import BIG_MAX, BLOCK_MAX, CAPPED, HEAVY, LARGE, OPTIMAL, PASSED, STATUS, optimise
from policies.kernels.mincost.tree import (
    ARTIFICIAL_UP,
    BIG,
    COLUMNS,
    DOWN,
    MOVED,
    OVER,
    PRED,
    STALE,
    UP,
    UPPER,
    Columns,
    Int8s,
    Int32s,
    carried,
    refresh,
)

BLOCK_MIN = 16  # Arcs a pricing block has at least: below, the cursor's bookkeeping costs more than it saves.
ROUND_BLOCK = 8  # In rounds so many times as large: better arcs enter, a third fewer of them for as many looked at.
RUN = 128  # Arcs that are looked at together: few are full.
REROUTE_SCANS = 4  # Of all arcs, that other ways may take before the rest is the simplex's.
TURNS_MAX = 1000  # Solves after a bound was put back; measured: 1, at times 2.
WANDERED = 1 << 58  # The root's potential moves, though only differences count: from here on it is brought back to 0.
OBJECTIVE, SENT_UP, SENT_DOWN = range(3)  # Fields of what is told.
N_TOLD = 3
_INT, _ROW, _IDS, _FLAGS = types.int64, types.int64[::1], types.int32[::1], types.boolean[::1]
_ROWS, _STATES = types.int64[:, ::1], types.int8[::1]


@kernel(_INT(_STATES), inline=True)
def count_full(state: Int8s) -> int:
    """How many arcs of a run are full. Without a branch, so that many are looked at at once."""
    count: int = 0
    for index in range(state.shape[0]):
        count += state[index] == UPPER
    return count


@kernel(types.void(_ROWS, _STATES, _ROW, _IDS, _INT, _ROW), entry=True)
def read_flow(rows: Int64s, state: Int8s, capacity: Int64s, ids: Int32s, n_nodes: int, out_flow: Int64s) -> None:
    """Write each arc's flow, by id. ids: whose arc lies where. Time O(A + N); of most arcs only the state is read."""
    out_flow[:] = 0
    for arc in range(out_flow.shape[0]):
        if state[arc] == UPPER:
            out_flow[Index(ids[arc])] = capacity[arc]
    for node in range(n_nodes):
        pred = rows[node, PRED]
        if pred >= 0:
            out_flow[Index(ids[Index(pred)])] = carried(rows, node)


@kernel(types.void(_ROW, _FLAGS, _INT, _ROW), entry=True)
def read_potential(potential: Int64s, alive: Flags, root: int, out_potential: Int64s) -> None:
    """Write each node's potential: to the root's, 0 where a node is not alive. Time O(N)."""
    base = potential[root]
    for node in range(out_potential.shape[0]):
        out_potential[node] = potential[node] - base if alive[node] else 0


@kernel(types.float64(COLUMNS, *[_INT] * 3, _ROW, _ROW))
def add_up(net: Columns, n_nodes: int, n_arcs: int, root: int, supply: Int64s, out_told: Int64s) -> float:
    """Tell the objective of an optimal tree and what artificial arcs carry up and down, without reading any flow.

    Primal equals dual: the objective is what full arcs save by their reduced costs, less supply x potential. It is of
    no use where an artificial arc carries something, or where what is returned, a bound of the sum of |terms|, is
    OBJECTIVE_SURE or more. Time O(A + N), in order.
    """
    potential, rows, state, tail, head = net.potential, net.rows, net.state, net.tail, net.head
    cost, capacity = net.cost, net.capacity
    base, far = potential[root], net.notes[BIG] // 2
    total, up, down = 0, 0, 0
    size = 0.0
    for begin in range(0, n_arcs, RUN):
        stop = min(begin + RUN, n_arcs)
        for arc in range(begin, stop if count_full(state[begin:stop]) > 0 else begin):
            place = Index(arc)
            if state[place] == UPPER:
                reduced = cost[place] + potential[Index(tail[place])] - potential[Index(head[place])]
                size += abs(float(capacity[place]) * float(reduced))
                total += capacity[place] * reduced if size < OBJECTIVE_SURE else 0
    amounts, highest, lowest = 0, base, base
    for node in range(n_nodes):
        at = Index(node)
        highest = max(highest, potential[at])
        lowest = min(lowest, potential[at])
        amounts += abs(supply[at])
    size += float(amounts) * float(highest - lowest)
    for node in range(n_nodes if size < OBJECTIVE_SURE else 0):
        at = Index(node)
        total -= supply[at] * (potential[at] - base)
    if max(highest - base, base - lowest) > far:
        for node in range(n_nodes):
            if not -far <= potential[node] - base <= far and rows[node, PRED] < 0:
                if rows[node, PRED] == ARTIFICIAL_UP:
                    up += rows[node, DOWN]
                else:
                    down += rows[node, UP]
    out_told[OBJECTIVE] = total
    out_told[SENT_UP] = up
    out_told[SENT_DOWN] = down
    return size


@kernel(types.float64(COLUMNS, INCIDENCE, *[_INT] * 5, *[_ROW] * 3), entry=True)
def resolve(
    net: Columns,
    incidence: Incidence,
    n_nodes: int,
    n_arcs: int,
    root: int,
    list_max: int,
    pivots_max: int,
    supply: Int64s,
    work: Int64s,
    out_told: Int64s,
) -> float:
    """Repair the tree, pivot until nothing is violated, no dropped bound either, and `add_up`. work[STATUS] out.

    In rounds (list_max > 0) dropped bounds are watched as flow comes to pass them, else looked for in the end. With the
    arcs' incidence what changed is rerouted first.
    A bound once put back stays, so there are at most as many turns as arcs; more than TURNS_MAX is CAPPED.
    """
    block = min(max(int(np.sqrt(n_arcs)), BLOCK_MIN), BLOCK_MAX) * (ROUND_BLOCK if list_max > 0 else 1)
    blocked = np.empty(net.excess.shape[0], np.int64)
    watches, reroutes = list_max > 0, incidence.first.shape[0] > 0
    yields = not watches and n_arcs >= LARGE and net.notes[BIG] <= BIG_MAX
    for _ in range(TURNS_MAX):
        work[PASSED] = 0
        net.notes[OVER] = 0
        n_blocked = rebalance(net, root, reroutes, blocked)
        if net.notes[STALE] or abs(net.potential[root]) > WANDERED:
            refresh(net, root)
        if reroutes:
            reroute(net, incidence, root, blocked, n_blocked, REROUTE_SCANS * n_arcs, work)
        else:
            for index in range(n_blocked):
                hang(net, blocked[index], root)
        if net.notes[STALE]:
            refresh(net, root)
        net.notes[MOVED] = 0
        optimise(net, root, n_arcs, block, list_max, watches, yields, pivots_max, work)
        if work[STATUS] == HEAVY:
            optimise_by_runs(net, root, n_arcs, block, int(np.sqrt(n_nodes)), pivots_max, work)
        if work[STATUS] != OPTIMAL:
            return 0.0
        if (watches and work[PASSED] + net.notes[OVER] == 0) or bound_overfull(net, n_nodes) == 0:
            return add_up(net, n_nodes, n_arcs, root, supply, out_told)
    work[STATUS] = CAPPED
    return 0.0
