"""From a tree that changes left to the answer: repair, pivot, put back bounds that bind after all, read.

One call a solve: what a small round takes is mostly what is around the pivots.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.repair import bound_overfull, rebalance
from policies.kernels.mincost.simplex import CAPPED, OPTIMAL, STATUS, UNBOUNDED, optimise
from policies.kernels.mincost.tree import (
    ARTIFICIAL_UP,
    COLUMNS,
    DOWN,
    MOVED,
    PRED,
    STALE,
    UP,
    UPPER,
    Columns,
    Int32s,
    refresh,
)

BLOCK_MIN = 16  # Arcs a pricing block has at least: below, the cursor's bookkeeping costs more than it saves.
TURNS_MAX = 1000  # Solves after a bound was put back; measured: 1, at times 2.
WANDERED = 1 << 58  # The root's potential moves, though only differences count: from here on it is brought back to 0.
OBJECTIVE, SENT_UP, SENT_DOWN, OVERFULL = range(4)  # Fields of what is told.
N_TOLD = 4
_INT, _ROW, _IDS, _FLAGS = types.int64, types.int64[::1], types.int32[::1], types.boolean[::1]


@kernel(types.float64(COLUMNS, _IDS, _FLAGS, *[_INT] * 3, *[_ROW] * 3))
def read(
    net: Columns,
    ids: Int32s,
    alive: Flags,
    n_nodes: int,
    n_arcs: int,
    root: int,
    out_flow: Int64s,
    out_potential: Int64s,
    out_told: Int64s,
) -> float:
    """Write each arc's flow (by id) and each node's potential: to the root's, 0 where a node is not alive.

    Told int64[N_TOLD]: the objective, what artificial arcs carry up and down, how many arcs in the tree pass a bound
    that was dropped. Returns about the sum of |flow x cost|: whether the objective can be trusted to int64. ids: whose
    arc lies where. Time O(A + N), but of most arcs only the state is looked at.
    """
    rows, cost = net.rows, net.cost
    out_flow[:] = 0
    out_told[:] = 0
    size = 0.0
    for arc in range(n_arcs):
        if net.state[arc] == UPPER:
            flow = net.capacity[arc]
            out_flow[ids[arc]] = flow
            out_told[OBJECTIVE] += flow * cost[arc]
            size += abs(float(flow) * float(cost[arc]))
    base = net.potential[root]
    for node in range(n_nodes):
        out_potential[node] = net.potential[node] - base if alive[node] else 0
        pred = rows[node, PRED]
        if node == root:
            continue
        if pred < 0:
            if pred == ARTIFICIAL_UP:
                out_told[SENT_UP] += rows[node, DOWN]
            else:
                out_told[SENT_DOWN] += rows[node, UP]
            continue
        flow = rows[node, DOWN] if net.tail[pred] == node else rows[node, UP]
        if flow == 0:
            continue
        out_flow[ids[pred]] = flow
        out_told[OBJECTIVE] += flow * cost[pred]
        size += abs(float(flow) * float(cost[pred]))
        if flow > net.bound[pred] and net.capacity[pred] != net.bound[pred]:
            out_told[OVERFULL] += 1
    return size


@kernel(types.float64(COLUMNS, _IDS, _FLAGS, *[_INT] * 6, *[_ROW] * 4))
def resolve(
    net: Columns,
    ids: Int32s,
    alive: Flags,
    n_nodes: int,
    n_arcs: int,
    root: int,
    list_max: int,
    pivots_max: int,
    effort_max: int,
    work: Int64s,
    out_flow: Int64s,
    out_potential: Int64s,
    out_told: Int64s,
) -> float:
    """Repair the tree, pivot until nothing is violated, no bound that was dropped either, and `read`. work[STATUS] out.

    A bound once put back stays, so there are at most as many turns as arcs; more than TURNS_MAX is CAPPED. Where the
    network is unbounded nothing is read.
    """
    block = max(int(np.sqrt(n_arcs)), BLOCK_MIN)
    size = 0.0
    for _ in range(TURNS_MAX):
        rebalance(net, root)
        net.notes[MOVED] = 0
        if net.notes[STALE] or abs(net.potential[root]) > WANDERED:
            refresh(net, root)
        optimise(net, root, n_arcs, block, list_max, pivots_max, effort_max, work)
        if work[STATUS] == UNBOUNDED:
            return size
        size = read(net, ids, alive, n_nodes, n_arcs, root, out_flow, out_potential, out_told)
        if work[STATUS] != OPTIMAL or out_told[OVERFULL] == 0:
            return size
        bound_overfull(net, n_nodes)
    work[STATUS] = CAPPED
    return size
