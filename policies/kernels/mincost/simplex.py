"""Primal network simplex on a strongly feasible spanning tree, from any feasible tree (cold or repaired).

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), chapter 11; Cunningham, A network simplex method (1976), for the
leaving rule that keeps the tree strongly feasible and so cannot cycle; Király, Kovács, Efficient implementations of
minimum-cost flow algorithms (2012), for block search. Measurements: docs/kernels.md.
"""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN, POTENTIAL_MAX
from policies.kernels.mincost.tree import (
    ARTIFICIAL_UP,
    COLUMNS,
    DOWN,
    LAST,
    LOWER,
    PARENT,
    PRED,
    SIZE,
    TREE,
    UP,
    UPPER,
    Columns,
    graft,
)

# Fields of `work` int64[N_WORK]. CURSOR is kept from solve to solve: where the block search goes on.
STATUS, PIVOTS, DEGENERATE, SCANNED, SHIFTED, WALKED, CURSOR = range(7)
N_WORK = 7
OPTIMAL, UNBOUNDED, CAPPED = range(3)

# Where pivots move much of the tree, a better entering arc is worth a longer search: the block grows while moving costs
# more than scanning. A node moved, or a step along the cycle, costs about as much as MOVE_COST arcs scanned.
REVIEW = 32  # Pivots between two looks at the balance.
MOVE_COST = 4
BLOCK_GROWTH_MAX = 16


@kernel(types.int64(COLUMNS, types.int64, types.int64, types.int64[::1]))
def find_entering(net: Columns, n_arcs: int, block: int, work: Int64s) -> int:
    """The most violated arc of the first block that has one, from the cursor on; -1 when none is violated.

    Time O(A) when optimal, else O(block) in the good case.
    """
    tail, head, cost, state, potential = net.tail, net.head, net.cost, net.state, net.potential
    cursor = work[CURSOR]
    if cursor >= n_arcs:
        cursor = 0
    best = 0
    entering = -1
    scanned = 0
    while scanned < n_arcs:
        stop = min(cursor + block, n_arcs, cursor + n_arcs - scanned)
        for arc in range(cursor, stop):
            violation = state[arc] * (cost[arc] + potential[tail[arc]] - potential[head[arc]])
            if violation < best:
                best = violation
                entering = arc
        scanned += stop - cursor
        cursor = stop if stop < n_arcs else 0
        if entering >= 0:
            break
    work[CURSOR] = cursor
    work[SCANNED] += scanned
    return entering


@kernel(types.void(COLUMNS, types.int64, types.int64, types.int64, types.int64[::1]))
def shift(net: Columns, top: int, root: int, change: int, work: Int64s) -> None:
    """Raise the potentials at and below `top` by `change` over all others. Time O(the smaller side).

    Only differences count, so where most nodes are below, the others are lowered instead; that moves the root's own
    potential, which is kept from wandering off.
    """
    potential, after = net.potential, net.after
    count = net.rows[top, SIZE]
    node = top
    lowered = potential[root] - change
    if 2 * count > net.rows[root, SIZE] and -POTENTIAL_MAX < lowered < POTENTIAL_MAX:
        node = after[net.rows[top, LAST]]
        count = net.rows[root, SIZE] - count
        change = -change
    for _ in range(count):
        potential[node] += change
        node = after[node]
    work[SHIFTED] += count


@kernel(types.int64(COLUMNS, types.int64, types.int64, types.int64[::1]))
def pivot(net: Columns, root: int, entering: int, work: Int64s) -> int:
    """Push what fits round the cycle that `entering` closes, and swap it for the arc that blocks. Status out.

    Of several blocking arcs the last one leaves, seen from the cycle's top in the direction of the push: this keeps
    every node able to send flow to the root. Time O(cycle + depth + moved subtree).
    """
    rows, tail, head, state = net.rows, net.tail, net.head, net.state
    if state[entering] == LOWER:
        source = tail[entering]
        target = head[entering]
    else:
        source = head[entering]
        target = tail[entering]
    amount = net.capacity[entering]
    leaving = -1
    source_side = False
    down = source
    up = target
    steps = 0
    while down != up:
        steps += 1
        if rows[down, SIZE] <= rows[up, SIZE]:
            if rows[down, DOWN] < amount:
                amount = rows[down, DOWN]
                leaving = down
                source_side = True
            down = rows[down, PARENT]
        else:
            if rows[up, UP] <= amount:
                amount = rows[up, UP]
                leaving = up
                source_side = False
            up = rows[up, PARENT]
    if amount >= OPEN:
        work[CURSOR] = entering
        return UNBOUNDED
    work[WALKED] += steps
    top = down
    if amount > 0:
        down = source
        while down != top:
            rows[down, DOWN] -= amount
            rows[down, UP] += amount
            down = rows[down, PARENT]
        up = target
        while up != top:
            rows[up, UP] -= amount
            rows[up, DOWN] += amount
            up = rows[up, PARENT]
    else:
        work[DEGENERATE] += 1
    if leaving < 0:
        state[entering] = -state[entering]
        return OPTIMAL
    old = rows[leaving, PRED]
    if old >= 0:
        old_flow = rows[leaving, DOWN] if tail[old] == leaving else rows[leaving, UP]
        state[old] = LOWER if old_flow == 0 else UPPER
    flow = amount if state[entering] == LOWER else net.capacity[entering] - amount
    state[entering] = TREE
    node = source if source_side else target
    parent = target if source_side else source
    reduced = net.cost[entering] + net.potential[tail[entering]] - net.potential[head[entering]]
    if tail[entering] == node:
        graft(net, node, leaving, parent, top, entering, net.capacity[entering] - flow, flow)
        shift(net, node, root, -reduced, work)
    else:
        graft(net, node, leaving, parent, top, entering, flow, net.capacity[entering] - flow)
        shift(net, node, root, reduced, work)
    return OPTIMAL


@kernel(types.void(COLUMNS, types.int64, types.int64, types.int64, types.int64, types.int64[::1]))
def optimise(net: Columns, root: int, n_arcs: int, block: int, pivots_max: int, work: Int64s) -> None:
    """Pivot until no arc is violated. work[STATUS] out; on UNBOUNDED work[CURSOR] is the arc that closes the cycle."""
    work[STATUS] = CAPPED
    smallest = block
    scanned = work[SCANNED]
    moved = work[SHIFTED] + work[WALKED]
    for count in range(pivots_max):
        entering = find_entering(net, n_arcs, block, work)
        if entering < 0:
            work[STATUS] = OPTIMAL
            return
        work[PIVOTS] += 1
        status = pivot(net, root, entering, work)
        if status != OPTIMAL:
            work[STATUS] = status
            return
        if count % REVIEW == REVIEW - 1:
            moving = (work[SHIFTED] + work[WALKED] - moved) * MOVE_COST
            scanning = work[SCANNED] - scanned
            if moving > 2 * scanning:
                block = min(2 * block, BLOCK_GROWTH_MAX * smallest)
            elif 2 * moving < scanning:
                block = max(block // 2, smallest)
            scanned = work[SCANNED]
            moved = work[SHIFTED] + work[WALKED]


@kernel(types.void(COLUMNS, types.int64, types.int64, types.int64[::1], types.int64[::1]))
def read_flow(net: Columns, n_nodes: int, n_arcs: int, out_flow: Int64s, out_artificial: Int64s) -> None:
    """Write each arc's flow, and to out_artificial int64[2] what artificial arcs carry, up and down. Time O(A + N)."""
    rows = net.rows
    for arc in range(n_arcs):
        out_flow[arc] = net.capacity[arc] if net.state[arc] == UPPER else 0
    out_artificial[:] = 0
    for node in range(n_nodes):
        if rows[node, PARENT] < 0:
            continue
        pred = rows[node, PRED]
        if pred >= 0:
            out_flow[pred] = rows[node, DOWN] if net.tail[pred] == node else rows[node, UP]
        elif pred == ARTIFICIAL_UP:
            out_artificial[0] += rows[node, DOWN]
        else:
            out_artificial[1] += rows[node, UP]
