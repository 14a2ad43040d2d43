"""Keep a spanning tree when the network under it changes: the start of a warm solve.

A change leaves the tree and disturbs only the flow balance, kept in `excess`. `rebalance` sends the excess along the
tree; where an arc's bounds do not allow that, the rest is rerouted, or the subtree is cut off and hung under the root
by an artificial arc that carries it, and the simplex drives it out again. Potentials follow each change at once. So
what a small change costs grows with the ways from what changed to the root and with what lies below it, not with the
network.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost import changes
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.tree import (
    COLUMNS,
    DEAD,
    DOWN,
    LAST,
    LIMIT,
    LOWER,
    OVER,
    PARENT,
    PRED,
    RISES,
    SIZE,
    STALE,
    TREE,
    UP,
    UPPER,
    Columns,
    Int32s,
    append,
    carried,
    carry,
    cut,
    level,
    limit_of,
)

_INT, _BOOL, _ROW = types.int64, types.boolean, types.int64[::1]
_IDS, _FLAGS = types.int32[::1], types.boolean[::1]


@kernel(types.void(COLUMNS, _ROW, _INT))
def plant(net: Columns, supply: Int64s, root: int) -> None:
    """Start over: every node hangs under the root by an artificial arc that carries its supply. Time O(N)."""
    net.excess[:] = 0
    net.after[root] = root
    net.before[root] = root
    net.potential[root] = 0
    net.rows[root, :] = -1
    net.rows[root, SIZE] = 1
    net.rows[root, LAST] = root
    net.notes[STALE] = 1
    append(net.rows, net.after, net.before, net.potential, net.notes, 0, root, root)
    append(net.rows, net.after, net.before, net.potential, net.notes, root + 1, supply.shape[0], root)
    for node in range(supply.shape[0]):
        if node != root:
            carry(net.rows, node, supply[node])


@kernel(_INT(COLUMNS, _INT, _BOOL), inline=True)
def send_up(net: Columns, node: int, bounds: bool) -> int:
    """Send a node's excess to its parent. 1 where some stays: what its arc has no bounds for, or all by an artificial.

    bounds: one that was dropped and would be passed is put back; else that is noted (OVER).
    """
    rows, capacity, excess, notes = net.rows, net.capacity, net.excess, net.notes
    more, pred, limit = excess[node], rows[node, PRED], rows[node, LIMIT]
    up, down = rows[node, UP], rows[node, DOWN]
    is_real, rises = pred >= 0, rows[node, RISES] == 1
    flow = down if rises else up
    wanted = flow + more if rises else flow - more
    passes = wanted > limit
    room = up + down
    notes[OVER] |= passes and not bounds
    puts_back = passes and bounds
    place = Index(pred if puts_back else 0)  # Nearly always the first arc's, which is at hand.
    known = capacity[place]
    capacity[place] = limit if puts_back else known
    rows[node, LIMIT] = NO_BOUND if puts_back else limit
    room = limit if puts_back else room
    kept = min(max(wanted, 0), room) if is_real else 0  # An artificial arc takes nothing: what it carried comes back.
    left = room - kept if is_real else (up if rises else down)
    sent = kept - flow if rises else flow - kept
    rows[node, UP] = left if rises else kept
    rows[node, DOWN] = kept if rises else left
    excess[rows[node, PARENT]] += sent if is_real else 0
    excess[node] = more - sent
    return 0 if is_real and kept == wanted else 1


@kernel(types.void(COLUMNS, _INT, _INT))
def hang(net: Columns, node: int, root: int) -> None:
    """Hang a node whose excess can go no further under the root, by an artificial arc that carries it."""
    surplus, pred = net.excess[node], net.rows[node, PRED]
    net.excess[node] = 0
    if pred < 0:
        carry(net.rows, node, surplus)
        level(net, node, root)
        return
    net.state[pred] = LOWER if carried(net.rows, node) == 0 else UPPER
    cut(net, node, root, surplus)


@kernel(_INT(COLUMNS, _INT, _BOOL, _ROW))
def rebalance(net: Columns, root: int, bounds: bool, out_blocked: Int64s) -> int:
    """Send all excess up the tree; what a bound keeps from going on is left at the nodes blocked. Returns how many.

    A node sends when all below it that have to have sent: `waits` counts those, and itself. Time O(N) for a look at
    each node's excess, O(ways to the root) for the rest.
    """
    rows, excess = net.rows, net.excess
    n_nodes = excess.shape[0]
    waits = np.zeros(n_nodes, np.int32)
    owing = np.empty(n_nodes, np.int64)
    excess[root] = 0
    count = 0
    for node in range(n_nodes):
        if excess[node] != 0:
            owing[count] = node
            count += 1
    for index in range(count):
        node = owing[index]
        is_first = waits[node] == 0
        above = rows[node, PARENT] if is_first else root
        waits[node] = 1 if is_first else waits[node]
        while (above != root) & (waits[above] == 0):
            waits[above] = 2
            above = rows[above, PARENT]
        waits[above] += above != root
    blocked: int = 0
    for index in range(count):
        node = owing[index]
        while waits[node] == 1:
            waits[node] = 0
            if excess[node] != 0:
                out_blocked[blocked] = node
                blocked += send_up(net, node, bounds)
            node = rows[node, PARENT]
            waits[node] -= node != root
    excess[root] = 0
    return blocked


@kernel(_INT(COLUMNS, _INT), inline=True)
def below(net: Columns, arc: int) -> int:
    """The lower end of an arc in the tree; -1: it is not in it. Time O(1)."""
    rows, tail, head = net.rows, net.tail, net.head
    one, other = tail[arc], head[arc]
    is_tree = net.state[arc] == TREE  # Or dead.
    up, down = is_tree & (rows[one, PRED] == arc), is_tree & (rows[other, PRED] == arc)
    node: int = -1
    if up or down:
        node = one if up else other
    return node


@kernel(_INT(COLUMNS, _INT), inline=True)
def flow_of(net: Columns, arc: int) -> int:
    """The arc's flow. Time O(1)."""
    rows, node = net.rows, below(net, arc)
    room, is_full = net.capacity[arc], net.state[arc] == UPPER
    outside = room if is_full else 0
    inside = carried(rows, max(node, 0))
    flow: int = inside if node >= 0 else outside
    return flow


@kernel(types.void(COLUMNS, _INT, _ROW, _IDS), entry=True)
def drop_arcs(net: Columns, root: int, arcs: Int64s, position: Int32s) -> None:
    """Take arcs out, their flow becoming excess; subtrees that hung on them hang under the root. Time O(`cut`) each."""
    tail, head, state, excess = net.tail, net.head, net.state, net.excess
    bound, capacity, cost = net.bound, net.capacity, net.cost
    for index in range(arcs.shape[0]):
        arc = int(position[arcs[index]])
        flow, node = flow_of(net, arc), below(net, arc)
        excess[Index(tail[arc])] += flow
        excess[Index(head[arc])] -= flow
        if node >= 0:
            cut(net, node, root, 0)
        state[arc] = DEAD
        bound[arc] = 0
        capacity[arc] = 0
        cost[arc] = 0


@kernel(_BOOL(_ROW, _ROW, _INT, _ROW, _INT, _FLAGS, _ROW, _ROW, COLUMNS, _INT), entry=True)
def add_nodes(
    values: Int64s,
    totals: Int64s,
    count: int,
    free: Int64s,
    n_free: int,
    alive: Flags,
    supply: Int64s,
    out_ids: Int64s,
    net: Columns,
    root: int,
) -> bool:
    """Add nodes (`changes.add_supplies`), idle and owing what they supply: new ones under the root. O(1) each.

    False where refused.
    """
    excess = net.excess
    if not changes.add_supplies(values, totals, count, free, n_free, alive, supply, out_ids, excess):
        return False
    stop = count + max(values.shape[0] - n_free, 0)
    append(net.rows, net.after, net.before, net.potential, net.notes, count, stop, root)
    for node in range(count, stop):
        excess[node] = supply[node]
    return True


@kernel(
    _BOOL(*[_ROW] * 4, _FLAGS, _FLAGS, _INT, _ROW, _INT, _ROW, _INT, _FLAGS, *[_ROW] * 6, _IDS, _IDS, COLUMNS),
    entry=True,
)
def add_arcs(
    tail: Int64s,
    head: Int64s,
    capacity: Int64s,
    cost: Int64s,
    nodes: Flags,
    marks: Flags,
    n_nodes: int,
    totals: Int64s,
    count: int,
    free: Int64s,
    n_free: int,
    alive: Flags,
    to_tail: Int64s,
    to_head: Int64s,
    to_bound: Int64s,
    to_cost: Int64s,
    out_bounds: Int64s,
    out_ids: Int64s,
    position: Int32s,
    ids: Int32s,
    net: Columns,
) -> bool:
    """Add arcs, here, idle, and (`changes.add_arcs`) by id. New ids get a place. False where refused. O(1) each."""
    given, of_nodes = (tail, head, capacity, cost), (nodes, marks, n_nodes)
    by_id = (to_tail, to_head, to_bound, to_cost)
    if not changes.add_arcs(*given, *of_nodes, totals, count, free, n_free, alive, *by_id, out_bounds, out_ids):
        return False
    tails, heads, bounds, capacities, costs = net.tail, net.head, net.bound, net.capacity, net.cost
    for index in range(out_ids.shape[0]):
        one = out_ids[index]
        if one >= count:
            position[one] = one
            ids[one] = one
        arc = position[one]
        tails[arc] = tail[index]
        heads[arc] = head[index]
        bounds[arc] = out_bounds[index]
        capacities[arc] = out_bounds[index]
        costs[arc] = cost[index]
        net.state[arc] = LOWER
    return True


@kernel(_BOOL(_ROW, _ROW, _FLAGS, _FLAGS, _INT, _ROW, _ROW, COLUMNS, _INT, _IDS), entry=True)
def set_costs(
    arcs: Int64s,
    values: Int64s,
    alive: Flags,
    marks: Flags,
    n_nodes: int,
    to_cost: Int64s,
    totals: Int64s,
    net: Columns,
    root: int,
    position: Int32s,
) -> bool:
    """Set costs, here and (`changes.set_costs`) by id. False where refused. O(1) each, `level` for arcs in the tree."""
    if not changes.set_costs(arcs, values, alive, marks, n_nodes, to_cost, totals):
        return False
    cost = net.cost
    for index in range(arcs.shape[0]):
        arc = int(position[arcs[index]])
        cost[arc] = values[index]
        node = below(net, arc)
        if node >= 0:
            level(net, node, root)
    return True


@kernel(types.void(COLUMNS, _INT, _INT), inline=True)
def bound_by(net: Columns, arc: int, value: int) -> None:
    """Set what a solve takes for the arc's capacity; flow that no longer fits becomes excess. Time O(1).

    A full arc outside the tree stays full, and empties when its bound goes.
    """
    rows, tail, head, state, excess = net.rows, net.tail, net.head, net.state, net.excess
    flow, node = flow_of(net, arc), below(net, arc)
    is_full = (node < 0) & (state[arc] == UPPER)
    kept = min(flow, value)
    if is_full:
        kept = 0 if value == NO_BOUND else value
    empties = is_full & (kept == 0)
    state[arc] = LOWER if empties else state[arc]
    excess[Index(tail[arc])] += flow - kept
    excess[Index(head[arc])] -= flow - kept
    net.capacity[arc] = value
    place, is_tree, limit = Index(max(node, 0)), node >= 0, limit_of(net, arc)
    rises = rows[place, RISES] == 1
    up, down = value - kept if rises else kept, kept if rises else value - kept
    rows[place, UP] = up if is_tree else rows[place, UP]
    rows[place, DOWN] = down if is_tree else rows[place, DOWN]
    rows[place, LIMIT] = limit if is_tree else rows[place, LIMIT]


@kernel(_BOOL(_ROW, _ROW, _FLAGS, _FLAGS, *[_ROW] * 3, COLUMNS, _IDS), entry=True)
def set_bounds(
    arcs: Int64s,
    values: Int64s,
    alive: Flags,
    marks: Flags,
    to_bound: Int64s,
    totals: Int64s,
    out_bounds: Int64s,
    net: Columns,
    position: Int32s,
) -> bool:
    """Set capacities, here and (`changes.set_bounds`) by id. False where refused."""
    if not changes.set_bounds(arcs, values, alive, marks, to_bound, totals, out_bounds):
        return False
    bound = net.bound
    for index in range(arcs.shape[0]):
        arc = int(position[arcs[index]])
        bound[arc] = out_bounds[index]
        bound_by(net, arc, out_bounds[index])
    return True


@kernel(types.int64(_ROW, _ROW, _FLAGS, _FLAGS, _ROW))
def arcs_at(tail: Int64s, head: Int64s, alive: Flags, nodes: Flags, out_arcs: Int64s) -> int:
    """List the arcs alive at the flagged nodes. Returns how many. Time O(A)."""
    count: int = 0
    for arc in range(tail.shape[0]):
        if alive[arc] and (nodes[tail[arc]] or nodes[head[arc]]):
            out_arcs[count] = arc
            count += 1
    return count


@kernel(_INT(COLUMNS, _INT))
def bound_overfull(net: Columns, n_nodes: int) -> int:
    """Put back the bounds of tree arcs that were solved without and pass them. Returns how many. Time O(N)."""
    rows = net.rows
    count: int = 0
    for node in range(n_nodes):
        if rows[node, PRED] >= 0 and carried(rows, node) > rows[node, LIMIT]:
            bound_by(net, rows[node, PRED], rows[node, LIMIT])
            count += 1
    return count


@kernel(types.int64(_IDS, _IDS, _ROW, _ROW, _ROW))
def drop_redundant_bounds(tail: Int32s, head: Int32s, supply: Int64s, bound: Int64s, out_capacity: Int64s) -> int:
    """Copy `bound`, with NO_BOUND for every bound that no feasible flow can pass. Returns how many. Time O(A + N).

    An arc cannot carry more than its tail's supply plus all that may enter the tail, nor more than its head's demand
    plus all that may leave the head. Bounds go one by one, each judged by those that are still there; so none is
    justified by another that was itself dropped because of it.
    """
    n_nodes = supply.shape[0]
    enter = supply.copy()
    leave = -supply
    open_in = enter * 0
    open_out = enter * 0
    for arc in range(tail.shape[0]):
        out_capacity[arc] = bound[arc]
        if bound[arc] == NO_BOUND:
            open_in[head[arc]] += 1
            open_out[tail[arc]] += 1
        else:
            enter[head[arc]] += bound[arc]
            leave[tail[arc]] += bound[arc]
    dropped = 0
    for _ in range(min(3, n_nodes)):
        before = dropped
        for arc in range(tail.shape[0]):
            if out_capacity[arc] == NO_BOUND or tail[arc] == head[arc]:
                continue
            by_tail = open_in[tail[arc]] == 0 and bound[arc] >= max(enter[tail[arc]], 0)
            by_head = open_out[head[arc]] == 0 and bound[arc] >= max(leave[head[arc]], 0)
            if by_tail or by_head:
                out_capacity[arc] = NO_BOUND
                open_in[head[arc]] += 1
                open_out[tail[arc]] += 1
                enter[head[arc]] -= bound[arc]
                leave[tail[arc]] -= bound[arc]
                dropped += 1
        if dropped == before:
            break
    return dropped
