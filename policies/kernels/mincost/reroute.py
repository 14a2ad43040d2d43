"""Find other ways for what a change left without one: pivots of the dual simplex.

Where a tree arc's bounds do not let pass what the nodes below it send, that arc leaves the tree and the subtree is hung
on by the arc that takes what is left at the least reduced cost: no arc that was not violated comes to be so. Machines
that fill up by one task pass it on in one such pivot; the primal simplex would take several to find the cheapest way,
and move the subtree each time. Whatever is left is hung under the root by artificial arcs and is the simplex's.

Source: Ahuja, Magnanti, Orlin, Network Flows (1993), §11.9 (parametric and dual network simplex).
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.incidence import INCIDENCE, Incidence
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.repair import hang, send_up
from policies.kernels.mincost.simplex import PIVOTS, SCANNED, SHIFTED
from policies.kernels.mincost.tree import (
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
    Int8s,
    graft,
    shift,
    told_by_parent,
)

LOOK = 1000  # Entries; a way found after so many will do.
LARGE = 64  # Nodes: so large a subtree is dear to look through and to move.
_INT, _ROW, _MARKS = types.int64, types.int64[::1], types.int8[::1]


@kernel(_INT(COLUMNS, INCIDENCE, _INT, _INT, _MARKS, _ROW))
def way_out(net: Columns, incidence: Incidence, node: int, root: int, marks: Int8s, work: Int64s) -> int:
    """The arc by which the subtree of `node` can send what is in excess there (or get what it lacks) for the least.

    Returns twice the arc, and one more where its tail is in the subtree; -1: there is none. The least reduced cost,
    that is; it looks at the arcs of the smaller side, until one is tight or it has looked at LOOK. marks: all 0, and
    again afterwards.
    """
    after, state, cost, potential = net.after, net.state, net.cost, net.potential
    first, stop, ways, others = incidence.first, incidence.stop, incidence.way, incidence.other
    count = net.rows[node, SIZE]
    start = node
    is_inside = 2 * count <= net.rows[root, SIZE]
    if not is_inside:
        start = after[net.rows[node, LAST]]
        count = net.rows[root, SIZE] - count
    enough = 0 if net.rows[node, PRED] >= 0 else -NO_BOUND  # Behind an artificial arc all look cheap.
    side = 1 if (net.excess[node] > 0) == is_inside else -1  # Of an empty arc that begins here.
    each = start
    for _ in range(count):
        marks[each] = 1
        each = after[each]
    best: int = -1
    least = NO_BOUND
    scanned = 0
    each = start
    for _ in range(count):
        begin, end, here = first[each], stop[each], potential[each]
        scanned += end - begin
        for at in range(begin, end):
            way, other = ways[at], others[at]
            if marks[other] != 0:
                continue
            arc, sign = way >> 1, 2 * (way & 1) - 1
            if state[arc] * sign != side:
                continue
            reduced = side * (sign * cost[arc] + here - potential[other])
            if reduced < least and net.capacity[arc] != 0:
                least = reduced
                best = way if is_inside else way ^ 1
        if least <= enough or (best >= 0 and scanned > LOOK):
            break
        each = after[each]
    each = start
    for _ in range(count):
        marks[each] = 0
        each = after[each]
    work[SCANNED] += scanned + count // 4
    return best


@kernel(types.void(COLUMNS, _INT, _INT, _INT, _ROW))
def swap(net: Columns, node: int, root: int, way: int, work: Int64s) -> None:
    """Hang the subtree of `node` on by that way (see `way_out`); its arc, at a bound, leaves the tree."""
    rows, tail, head, state = net.rows, net.tail, net.head, net.state
    old, arc = rows[node, PRED], way >> 1
    if old >= 0:
        old_flow = rows[node, DOWN] if tail[old] == node else rows[node, UP]
        state[old] = LOWER if old_flow == 0 else UPPER
    flow = 0 if state[arc] == LOWER else net.capacity[arc]
    left = net.capacity[arc] - flow
    state[arc] = TREE
    if way & 1:
        low = tail[arc]
        graft(rows, net.after, net.before, low, node, head[arc], root, arc, left, flow)
    else:
        low = head[arc]
        graft(rows, net.after, net.before, low, node, tail[arc], root, arc, flow, left)
    change = told_by_parent(net, low) - net.potential[low]
    if change != 0:
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
    listed = np.zeros(n_nodes, np.int8)
    marks = np.zeros(n_nodes, np.int8)
    late = np.empty(n_nodes, np.int64)
    n_late = 0
    limit = work[SCANNED] + scans_max
    for index in range(n_waiting):
        listed[waiting[index]] = 1
    while n_waiting + n_late > 0:
        gathers = n_waiting > 0
        if gathers:
            n_waiting -= 1
            node = waiting[n_waiting]
        else:
            n_late -= 1
            node = late[n_late]
        listed[node] = 0
        while node != root and excess[node] != 0 and listed[node] == 0:
            count = rows[node, SIZE]
            if gathers and min(count, rows[root, SIZE] - count) > LARGE:
                listed[node] = 1
                late[n_late] = node
                n_late += 1
                break
            gathers = True
            blocked = send_up(net, node, True)
            above = rows[node, PARENT]
            if blocked == 0:
                node = above
                continue
            if above != root and excess[above] != 0 and listed[above] == 0:
                listed[above] = 1
                waiting[n_waiting] = above
                n_waiting += 1
            way = way_out(net, incidence, node, root, marks, work) if work[SCANNED] <= limit else -1
            if way < 0:
                hang(net, node, root)
            else:
                swap(net, node, root, way, work)
                gathers = False
    excess[root] = 0
