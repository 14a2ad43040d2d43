"""Find other ways for what a change left without one: pivots of the dual simplex.

Where a tree arc's bounds do not let pass what the nodes below it send, that arc leaves the tree and the subtree is hung
on by the arc that takes what is left at the least reduced cost: no arc that was not violated comes to be so. Machines
that fill up by one task pass it on in one such pivot; the primal simplex would take several to find the cheapest way,
and move the subtree each time. Whatever is left is hung under the root by artificial arcs and is the simplex's.

Source: Ahuja, Magnanti, Orlin, Network Flows (1993), §11.9 (parametric and dual network simplex).
"""

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.incidence import INCIDENCE, Incidence
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.repair import hang, send_up
from policies.kernels.mincost.simplex import PIVOTS, SCANNED, SHIFTED
from policies.kernels.mincost.tree import (
    COLUMNS,
    LAST,
    LOWER,
    PARENT,
    PRED,
    SIZE,
    TREE,
    UPPER,
    Columns,
    Int32s,
    carried,
    graft,
    limit_of,
    shift,
    told_by_parent,
)

LOOK = 200  # Entries; a way found after so many will do: 100 to 400 are alike, 1,000 took a tenth longer.
LARGE = 64  # Nodes: so large a subtree is dear to look through and to move.
_INT, _ROW, _MARKS = types.int64, types.int64[::1], types.int32[::1]


@kernel(_INT(COLUMNS, INCIDENCE, *[_INT] * 3, _MARKS, _ROW), inline=True)
def way_out(net: Columns, incidence: Incidence, node: int, root: int, mark: int, marks: Int32s, work: Int64s) -> int:
    """The arc by which the subtree of `node` can send what is in excess there (or get what it lacks) for the least.

    Returns twice the arc, and one more where its tail is in the subtree; -1: there is none. The least reduced cost,
    that is; it looks at the arcs of the smaller side, until one is tight or it has looked at LOOK. mark: one that no
    node has in `marks`.
    """
    rows, after, before, state, cost, potential = net.rows, net.after, net.before, net.state, net.cost, net.potential
    first, stop, ways, others = incidence.first, incidence.stop, incidence.way, incidence.other
    capacity = net.capacity
    count, everyone = rows[node, SIZE], rows[root, SIZE]
    is_inside = 2 * count <= everyone
    last = rows[node, LAST]
    start = node if is_inside else after[last]
    last = last if is_inside else before[node]
    count = count if is_inside else everyone - count
    enough = 0 if rows[node, PRED] >= 0 else -NO_BOUND  # Behind an artificial arc all look cheap.
    side = 1 if (net.excess[node] > 0) == is_inside else -1  # Of an empty arc that begins here.
    ahead, behind = Index(start), Index(last)
    for _ in range((count + 1) >> 1):
        marks[ahead] = mark
        marks[behind] = mark
        ahead = Index(after[ahead])
        behind = Index(before[behind])
    best: int = -1
    least = NO_BOUND
    scanned = 0
    each = Index(start)
    left = count
    while left > 0:
        begin, end, here = first[each], stop[each], potential[each]
        scanned += end - begin
        for at in range(begin, end):
            other, way = Index(others[Index(at)]), ways[Index(at)]
            arc, sign = Index(way >> 1), 2 * (way & 1) - 1
            reduced = side * (sign * cost[arc] + here - potential[other])
            if (marks[other] != mark) & (state[arc] * sign == side) & (reduced < least):
                if capacity[arc] != 0:
                    least = reduced
                    best = way
        each = Index(after[each])
        left = 0 if least <= enough or (best >= 0 and scanned > LOOK) else left - 1
    work[SCANNED] += scanned + count // 4
    return best if is_inside or best < 0 else best ^ 1


@kernel(types.void(COLUMNS, _INT, _INT, _INT, _ROW), inline=True)
def swap(net: Columns, node: int, root: int, way: int, work: Int64s) -> None:
    """Hang the subtree of `node` on by that way (see `way_out`); its arc, at a bound, leaves the tree."""
    rows, tail, head, state, potential = net.rows, net.tail, net.head, net.state, net.potential
    old, arc = rows[node, PRED], way >> 1
    place = Index(max(old, 0))
    outside, known = LOWER if carried(rows, node) == 0 else UPPER, state[place]
    state[place] = outside if old >= 0 else known
    room = net.capacity[arc]
    flow = 0 if state[arc] == LOWER else room
    left = room - flow
    state[arc] = TREE
    low, high = tail[arc], head[arc]
    up, down = left, flow
    if way & 1 == 0:
        low, high = high, low
        up, down = down, up
    graft(rows, net.after, net.before, low, node, high, root, arc, up, down, way & 1, limit_of(net, arc))
    change = told_by_parent(net, low) - potential[low]
    work[SHIFTED] += shift(net, low, root, change)
    work[PIVOTS] += 1


@kernel(types.void(COLUMNS, INCIDENCE, _INT, _ROW, _INT, _INT, _ROW))
def reroute(
    net: Columns, incidence: Incidence, root: int, waiting: Int64s, n_waiting: int, scans_max: int, work: Int64s
) -> None:
    """Send on the excess of the nodes waiting, whose arcs do not let it pass; it is 0 everywhere afterwards.

    What comes to large subtrees is gathered there until the small ones are done: what some have too much others lack.
    Past so many entries scanned, what is left is hung under the root. waiting has room for every node.
    """
    rows, excess = net.rows, net.excess
    n_nodes = excess.shape[0]
    listed = np.zeros(n_nodes, np.bool_)
    marks = np.zeros(n_nodes, np.int32)
    late = np.empty(n_nodes, np.int64)
    n_late = 0
    mark = 0
    limit = work[SCANNED] + scans_max
    for index in range(n_waiting):
        listed[waiting[index]] = True
    while n_waiting + n_late > 0:
        gathers = n_waiting > 0
        n_waiting -= gathers
        n_late -= not gathers
        node = waiting[n_waiting] if gathers else late[n_late]
        listed[node] = False
        goes_on = (node != root) & (excess[node] != 0)
        while goes_on:
            count = rows[node, SIZE]
            is_late = gathers & (min(count, rows[root, SIZE] - count) > LARGE)
            if is_late:
                listed[node] = True
                late[n_late] = node
                n_late += 1
            else:
                blocked = send_up(net, node, True)
                gathers = True
                above = rows[node, PARENT]
                if blocked == 0:
                    node = above
                else:
                    if (above != root) & (excess[above] != 0) & (not listed[above]):
                        listed[above] = True
                        waiting[n_waiting] = above
                        n_waiting += 1
                    mark += 1
                    way = way_out(net, incidence, node, root, mark, marks, work) if work[SCANNED] <= limit else -1
                    if way < 0:
                        hang(net, node, root)
                    else:
                        swap(net, node, root, way, work)
                        gathers = False
            goes_on = (not is_late) & (node != root) & (excess[node] != 0) & (not listed[node])
    excess[root] = 0
