"""The network as kernels see it, and its spanning tree, kept as a list of nodes, parents first.

Axes: N nodes, A arcs, both below 2^31. A subtree is a run of the list, so that moving one is a few links to change,
and shifting its potentials is a walk through two dense arrays (child and sibling links were slower, see
docs/kernels.md). What a step along a path needs lies in one 64-byte row a node, `rows` int64[N, 8]:

PARENT the parent node, -1 at the root;
PRED   the arc to the parent; ARTIFICIAL_UP / ARTIFICIAL_DOWN for an artificial arc node → root / root → node, which
       has no bound and costs `big`;
UP     how much more flow fits from the node to its parent (OPEN or more: no bound), DOWN from the parent to the node;
SIZE   nodes in the subtree, LAST the last of them in the list;
RISES  1 where the arc goes from the node to its parent, 0 where it comes from there;
LIMIT  where the arc's bound was dropped, that bound; else NO_BOUND.

A tree arc's flow is kept only here: DOWN where it rises, else UP. An arc outside the tree has flow 0 (state LOWER) or
its capacity (UPPER). Reduced cost of an arc: cost + potential[tail] - potential[head]; 0 in the tree.

`notes` int64[4]: BIG, what an artificial arc costs; STALE, not 0 where potentials are no longer those of the tree;
MOVED, how many potentials changes have moved since they were last made anew; OVER, not 0 where flow was sent past a
bound that was dropped.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.model import NO_BOUND, POTENTIAL_MAX

Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
PARENT, PRED, UP, DOWN, SIZE, LAST, RISES, LIMIT = range(8)
ROW = 8
ARTIFICIAL_UP, ARTIFICIAL_DOWN = -2, -3
LOWER, TREE, UPPER, DEAD = 1, 0, -1, 0  # A dead arc is skipped by pricing exactly like a tree arc.
BIG, STALE, MOVED, OVER = range(4)
N_NOTES = 4


class Columns(NamedTuple):
    """A network and its tree, all changed in place. May be longer than A and N: the rest is room to grow."""

    tail: Int32s  # [A]
    head: Int32s  # [A]
    cost: Int64s  # [A]
    bound: Int64s  # [A]; NO_BOUND: none
    capacity: Int64s  # [A]; the same, but NO_BOUND too where the bound is taken never to bind
    state: Int8s  # [A]
    potential: Int64s  # [N]
    excess: Int64s  # [N]; what a node must send more than it does
    after: Int32s  # [N]; the list, a ring through the root
    before: Int32s  # [N]
    rows: Int64s  # [N, ROW]
    notes: Int64s  # [N_NOTES]


_INT, _ROW, _ROWS, _IDS = types.int64, types.int64[::1], types.int64[:, ::1], types.int32[::1]
COLUMNS: Any = types.NamedTuple(  # type: ignore[no-untyped-call]
    [_IDS, _IDS, _ROW, _ROW, _ROW, types.int8[::1], _ROW, _ROW, _IDS, _IDS, _ROWS, _ROW], Columns
)


@kernel(_INT(_ROWS, _INT), inline=True)
def carried(rows: Int64s, node: int) -> int:
    """The flow of the node's arc. Time O(1)."""
    up, down = rows[node, UP], rows[node, DOWN]
    flow: int = down if rows[node, RISES] == 1 else up
    return flow


@kernel(_INT(COLUMNS, _INT), inline=True)
def limit_of(net: Columns, arc: int) -> int:
    """What the row of a node with that arc has for its LIMIT."""
    bound, capacity = net.bound[arc], net.capacity[arc]
    limit: int = bound if capacity == NO_BOUND else NO_BOUND
    return limit


@kernel(types.void(_ROWS, _IDS, _IDS, *[_INT] * 9), inline=True)
def graft(
    rows: Int64s,
    after: Int32s,
    before: Int32s,
    node: int,
    last: int,
    parent: int,
    top: int,
    pred: int,
    up: int,
    down: int,
    rises: int,
    limit: int,
) -> None:
    """Hang `node` under `parent` by that arc, reversing the path from `node` up to `last`, whose arc leaves the tree.

    The moved subtree is that of `last`, and its list becomes: all of the path's first node, then for each next node of
    the path what it has beyond the one before, which is at most two runs of the old list. `top` is an ancestor of both
    the old and the new parent; sizes change only below it. Time O(way from `node` and from `parent` to `top`), mostly.
    """
    old_parent = rows[last, PARENT]
    old_last = rows[last, LAST]
    old_size = rows[last, SIZE]
    preceding = before[last]
    following = after[old_last]
    # Take the subtree out.
    after[preceding] = following
    before[following] = preceding
    above = old_parent
    while above != top:
        rows[above, SIZE] -= old_size
        above = rows[above, PARENT]
    above = old_parent
    while above >= 0 and rows[above, LAST] == old_last:
        rows[above, LAST] = preceding
        above = rows[above, PARENT]
    # Turn it over.
    end = rows[node, LAST]
    next_node = after[end]  # What followed the last path node's subtree in the old list.
    previous = before[node]  # What preceded it.
    size = rows[node, SIZE]
    path = node
    path_parent = rows[path, PARENT]
    path_pred = rows[path, PRED]
    path_up = rows[path, UP]
    path_down = rows[path, DOWN]
    path_rises = rows[path, RISES]
    path_limit = rows[path, LIMIT]
    rows[node, PARENT] = parent
    rows[node, PRED] = pred
    rows[node, UP] = up
    rows[node, DOWN] = down
    rows[node, RISES] = rises
    rows[node, LIMIT] = limit
    rows[node, SIZE] = old_size
    path_last = end
    while path != last:
        turned = path_parent
        turned_last = rows[turned, LAST]
        turned_before = before[turned]
        turned_after = after[turned_last]
        after[end] = turned
        before[turned] = end
        end = previous
        if turned_last != path_last:
            after[end] = next_node
            before[next_node] = end
            end = turned_last
            next_node = turned_after
        previous = turned_before
        path_last = turned_last
        turned_size = rows[turned, SIZE]
        rows[turned, SIZE] = old_size - size
        size = turned_size
        turned_parent = rows[turned, PARENT]
        turned_pred = rows[turned, PRED]
        turned_up = rows[turned, UP]
        turned_down = rows[turned, DOWN]
        turned_rises = rows[turned, RISES]
        turned_limit = rows[turned, LIMIT]
        rows[turned, PARENT] = path
        rows[turned, PRED] = path_pred
        rows[turned, UP] = path_down
        rows[turned, DOWN] = path_up
        rows[turned, RISES] = 1 - path_rises
        rows[turned, LIMIT] = path_limit
        path = turned
        path_parent = turned_parent
        path_pred = turned_pred
        path_up = turned_up
        path_down = turned_down
        path_rises = turned_rises
        path_limit = turned_limit
    path = last
    while path != parent:
        rows[path, LAST] = end
        path = rows[path, PARENT]
    # Put it in, right behind the new parent.
    following = after[parent]
    after[parent] = node
    before[node] = parent
    after[end] = following
    before[following] = end
    above = parent
    while above != top:
        rows[above, SIZE] += old_size
        above = rows[above, PARENT]
    above = parent
    while above >= 0 and rows[above, LAST] == parent:
        rows[above, LAST] = end
        above = rows[above, PARENT]


@kernel(_INT(COLUMNS, _INT, _INT, _INT), inline=True)
def shift(net: Columns, top: int, root: int, change: int) -> int:
    """Raise the potentials at and below `top` by `change` over all others. Returns how many moved: the smaller side.

    Only differences count, so where most nodes are below, the others are lowered instead; that moves the root's own
    potential, which is kept from wandering off.
    """
    potential, after, before, rows = net.potential, net.after, net.before, net.rows
    count: int = rows[top, SIZE] if change != 0 else 0
    everyone, last = rows[root, SIZE], rows[top, LAST]
    lowered = potential[root] - change
    first = top
    if 2 * count > everyone and -POTENTIAL_MAX < lowered < POTENTIAL_MAX:
        first, last = after[last], before[top]
        count = everyone - count
        change = -change
    # From both ends: a step waits for the one before it, not for its counterpart.
    ahead, behind = Index(first), Index(last)
    for _ in range(count >> 1):
        potential[ahead] += change
        potential[behind] += change
        ahead = Index(after[ahead])
        behind = Index(before[behind])
    potential[ahead] += change * (count & 1)
    return count


@kernel(_INT(COLUMNS, _INT), inline=True)
def told_by_parent(net: Columns, node: int) -> int:
    """The potential that a node below the root has by its arc in the tree. Time O(1)."""
    rows, cost, potential = net.rows, net.cost, net.potential
    pred, rises, above = rows[node, PRED], rows[node, RISES] == 1, potential[rows[node, PARENT]]
    far, price = net.notes[BIG], cost[Index(max(pred, 0))]
    step = far if pred < 0 else price
    told: int = above - step if rises else above + step
    return told


@kernel(types.void(COLUMNS, _INT, _INT), inline=True)
def level(net: Columns, node: int, root: int) -> None:
    """Let the potentials at and below `node` follow its arc, which changed. Time O(the smaller side).

    Where changes have moved as many as there are, potentials become STALE: `refresh` is cheaper.
    """
    notes = net.notes
    change = told_by_parent(net, node) - net.potential[node]
    change = change if notes[STALE] == 0 else 0
    moved = shift(net, node, root, change)
    notes[MOVED] += moved
    notes[STALE] |= (moved > 0) & (notes[MOVED] > net.rows[root, SIZE])


@kernel(types.void(_ROWS, _INT, _INT), inline=True)
def carry(rows: Int64s, node: int, surplus: int) -> None:
    """Make the arc of `node`, a child of the root, artificial, carrying `surplus` (negative: towards the node)."""
    goes_up = surplus >= 0
    amount = abs(surplus)
    rows[node, PRED] = ARTIFICIAL_UP if goes_up else ARTIFICIAL_DOWN
    rows[node, UP] = NO_BOUND - amount if goes_up else amount
    rows[node, DOWN] = amount if goes_up else NO_BOUND - amount
    rows[node, RISES] = goes_up
    rows[node, LIMIT] = NO_BOUND


@kernel(types.void(COLUMNS, _INT, _INT, _INT), inline=True)
def cut(net: Columns, node: int, root: int, surplus: int) -> None:
    """Hang the subtree of `node` under the root by an artificial arc carrying `surplus`. Time O(depth + `level`)."""
    graft(net.rows, net.after, net.before, node, node, root, root, ARTIFICIAL_UP, 0, 0, 1, NO_BOUND)
    carry(net.rows, node, surplus)
    level(net, node, root)


@kernel(types.void(_ROWS, _IDS, _IDS, _ROW, _ROW, *[_INT] * 3))
def append(
    rows: Int64s, after: Int32s, before: Int32s, potential: Int64s, notes: Int64s, first: int, stop: int, root: int
) -> None:
    """Hang the new nodes first..stop-1 under the root, idle. Time O(new nodes)."""
    for node in range(first, stop):
        rows[node, PARENT] = root
        rows[node, SIZE] = 1
        rows[node, LAST] = node
        carry(rows, node, 0)
        potential[node] = potential[root] - notes[BIG]
        after[node] = after[root]
        before[after[root]] = node
        after[root] = node
        before[node] = root
        if rows[root, LAST] == root:
            rows[root, LAST] = node
        rows[root, SIZE] += 1


@kernel(types.void(COLUMNS, _INT))
def refresh(net: Columns, root: int) -> None:
    """Recompute the potential of every node from the root's, 0, down. Time O(N)."""
    net.potential[root] = 0
    node = net.after[root]
    while node != root:
        net.potential[node] = told_by_parent(net, node)
        node = net.after[node]
    net.notes[STALE] = 0
    net.notes[MOVED] = 0
