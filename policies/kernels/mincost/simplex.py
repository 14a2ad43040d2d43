"""Primal network simplex on a strongly feasible spanning tree, from any feasible tree (cold or repaired).

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), chapter 11; Cunningham, A network simplex method (1976), for the
leaving rule that keeps the tree strongly feasible and so cannot cycle; Király, Kovács, Efficient implementations of
minimum-cost flow algorithms (2012), for block search. Measurements: docs/kernels.md.
"""

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.tree import (
    ARTIFICIAL_UP,
    CHILD,
    DEPTH,
    DOWN,
    LOWER,
    NEXT,
    PARENT,
    PRED,
    TREE,
    UP,
    UPPER,
    link,
    unlink,
)

# Fields of `work` int64[6]. CURSOR is kept from solve to solve: where the block search goes on.
STATUS, PIVOTS, DEGENERATE, SCANNED, CURSOR, SHIFTED = range(6)
OPTIMAL, UNBOUNDED, CAPPED = range(3)


@kernel("int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, int64, int64[::1])")
def find_entering(
    tail: Int64s, head: Int64s, cost: Int64s, state: Int64s, potential: Int64s, n_arcs: int, block: int, work: Int64s
) -> int:
    """The most violated arc of the first block that has one, from the cursor on; -1 when none is violated.

    Time O(A) when optimal, else O(block) in the good case.
    """
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


@kernel("void(int64[:, ::1], int64, int64, int64, int64, int64, int64)")
def graft(tree: Int64s, node: int, last: int, parent: int, pred: int, up: int, down: int) -> None:
    """Hang `node` under `parent`, reversing the path from `node` up to `last`, whose old arc leaves the tree.

    Time O(path).
    """
    while True:
        old_parent = tree[node, PARENT]
        old_pred = tree[node, PRED]
        old_up = tree[node, UP]
        old_down = tree[node, DOWN]
        unlink(tree, node)
        link(tree, node, parent)
        tree[node, PRED] = pred
        tree[node, UP] = up
        tree[node, DOWN] = down
        if node == last:
            return
        parent = node
        pred = old_pred
        up = old_down
        down = old_up
        node = old_parent


@kernel("int64(int64[:, ::1], int64[::1], int64, int64)")
def shift(tree: Int64s, potential: Int64s, top: int, change: int) -> int:
    """Add `change` to the potential of every node below and at `top`, and set their depths. Returns their number."""
    node = top
    count = 0
    while True:
        potential[node] += change
        tree[node, DEPTH] = tree[tree[node, PARENT], DEPTH] + 1
        count += 1
        if tree[node, CHILD] >= 0:
            node = tree[node, CHILD]
            continue
        while node != top and tree[node, NEXT] < 0:
            node = tree[node, PARENT]
        if node == top:
            return count
        node = tree[node, NEXT]


@kernel(
    "int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64, int64[::1])"
)
def pivot(
    tail: Int64s,
    head: Int64s,
    cost: Int64s,
    capacity: Int64s,
    state: Int64s,
    potential: Int64s,
    tree: Int64s,
    entering: int,
    work: Int64s,
) -> int:
    """Push what fits round the cycle that `entering` closes, and swap it for the arc that blocks. Status out.

    Of several blocking arcs the last one leaves, seen from the cycle's top in the direction of the push: this keeps
    every node able to send flow to the root. Time O(cycle + moved subtree).
    """
    if state[entering] == LOWER:
        source = tail[entering]
        target = head[entering]
    else:
        source = head[entering]
        target = tail[entering]
    amount = capacity[entering]
    leaving = -1
    source_side = False
    down = source
    up = target
    while down != up:
        if tree[down, DEPTH] >= tree[up, DEPTH]:
            if tree[down, DOWN] < amount:
                amount = tree[down, DOWN]
                leaving = down
                source_side = True
            down = tree[down, PARENT]
        else:
            if tree[up, UP] <= amount:
                amount = tree[up, UP]
                leaving = up
                source_side = False
            up = tree[up, PARENT]
    if amount >= OPEN:
        work[CURSOR] = entering
        return UNBOUNDED
    if amount > 0:
        top = down
        down = source
        while down != top:
            tree[down, DOWN] -= amount
            tree[down, UP] += amount
            down = tree[down, PARENT]
        up = target
        while up != top:
            tree[up, UP] -= amount
            tree[up, DOWN] += amount
            up = tree[up, PARENT]
    else:
        work[DEGENERATE] += 1
    if leaving < 0:
        state[entering] = -state[entering]
        return OPTIMAL
    old = tree[leaving, PRED]
    if old >= 0:
        old_flow = tree[leaving, DOWN] if tail[old] == leaving else tree[leaving, UP]
        state[old] = LOWER if old_flow == 0 else UPPER
    flow = amount if state[entering] == LOWER else capacity[entering] - amount
    state[entering] = TREE
    node = source if source_side else target
    parent = target if source_side else source
    reduced = cost[entering] + potential[tail[entering]] - potential[head[entering]]
    if tail[entering] == node:
        graft(tree, node, leaving, parent, entering, capacity[entering] - flow, flow)
        work[SHIFTED] += shift(tree, potential, node, -reduced)
    else:
        graft(tree, node, leaving, parent, entering, flow, capacity[entering] - flow)
        work[SHIFTED] += shift(tree, potential, node, reduced)
    return OPTIMAL


@kernel(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64, int64, int64,"
    " int64[::1])"
)
def optimise(
    tail: Int64s,
    head: Int64s,
    cost: Int64s,
    capacity: Int64s,
    state: Int64s,
    potential: Int64s,
    tree: Int64s,
    n_arcs: int,
    block: int,
    pivots_max: int,
    work: Int64s,
) -> None:
    """Pivot until no arc is violated. work[STATUS] out; on UNBOUNDED work[CURSOR] is the arc that closes the cycle.

    All arrays are int64 over arcs (A) or nodes (N), `tree` as in `tree`; state, potential and tree change in place.
    """
    work[STATUS] = CAPPED
    for _ in range(pivots_max):
        entering = find_entering(tail, head, cost, state, potential, n_arcs, block, work)
        if entering < 0:
            work[STATUS] = OPTIMAL
            return
        work[PIVOTS] += 1
        status = pivot(tail, head, cost, capacity, state, potential, tree, entering, work)
        if status != OPTIMAL:
            work[STATUS] = status
            return


@kernel("int64(int64[::1], int64[::1], int64[::1], int64[:, ::1], int64, int64[::1])")
def read_flow(tail: Int64s, capacity: Int64s, state: Int64s, tree: Int64s, n_arcs: int, out_flow: Int64s) -> int:
    """Write each arc's flow; return how many units of supply only artificial arcs route. Time O(A + N)."""
    for arc in range(n_arcs):
        out_flow[arc] = capacity[arc] if state[arc] == UPPER else 0
    stuck = 0
    missing = 0
    for node in range(tree.shape[0]):
        if tree[node, PARENT] < 0:
            continue
        pred = tree[node, PRED]
        if pred >= 0:
            out_flow[pred] = tree[node, DOWN] if tail[pred] == node else tree[node, UP]
        elif pred == ARTIFICIAL_UP:
            stuck += tree[node, DOWN]
        else:
            missing += tree[node, UP]
    return max(stuck, missing)
