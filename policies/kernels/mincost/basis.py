"""A spanning tree out of a flow with prices: where the simplex goes on from what scaling only came near.

Source: Bixby, Saltzman, Recovering an optimal LP basis from an interior point solution (1994), for the order: what lies
between its bounds must be in the basis, and of the rest what is nearest to being tight is the best guess.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.residual import RESIDUAL, Residual
from policies.kernels.mincost.tree import (
    COLUMNS,
    DEAD,
    DOWN,
    LAST,
    LIMIT,
    LOWER,
    PARENT,
    PRED,
    RISES,
    SIZE,
    TREE,
    UP,
    UPPER,
    Columns,
    Int32s,
    carry,
    limit_of,
)

_INT, _ROW, _IDS = types.int64, types.int64[::1], types.int32[::1]
_BETWEEN = 1 << 61  # Less than this: an arc's flow lies between its bounds.


@kernel(types.void(COLUMNS, RESIDUAL, _IDS, *[_ROW] * 3))
def lay(net: Columns, near: Residual, position: Int32s, out_flow: Int64s, out_reduced: Int64s, out_key: Int64s) -> None:
    """Write where the arcs lie in `net` what `near` has of them, by id: flow, reduced cost in units of 1 / (N + 1).

    In the order of the keys they should enter a tree: between its bounds first, then by distance from being tight.
    """
    scale = near.price.shape[0] + 1
    for arc in range(position.shape[0]):
        at, forth = position[arc], near.entry[arc]
        flow = near.left[near.sister[forth]] if forth >= 0 else 0
        reduced = net.cost[at] * scale + near.price[net.tail[at]] - near.price[net.head[at]]
        out_flow[at] = flow
        out_reduced[at] = reduced
        out_key[at] = abs(reduced) + (0 if 0 < flow < net.capacity[at] else _BETWEEN)


@kernel(_INT(_ROW, _INT))
def part_of(above: Int64s, node: int) -> int:
    """The name of the node's part, in a forest of disjoint sets."""
    while above[node] != node:
        above[node] = above[above[node]]
        node = above[node]
    return node


@kernel(_INT(COLUMNS, *[_ROW] * 4))
def choose(net: Columns, flow: Int64s, reduced: Int64s, order: Int64s, out_chosen: Int64s) -> int:
    """Choose a forest of arcs in that order; the others are put at a bound, and excess is what they leave to the tree.

    Few of the others lie between their bounds (their flow closes a cycle): they go where their price sends them.
    Returns how many were chosen. All arcs must be LOWER or DEAD. Time O(A).
    """
    tail, head, state, capacity, excess = net.tail, net.head, net.state, net.capacity, net.excess
    above = np.arange(excess.shape[0])
    count: int = 0
    for index in range(order.shape[0]):
        arc = order[index]
        if state[arc] == DEAD:
            continue
        one, other = part_of(above, tail[arc]), part_of(above, head[arc])
        if one != other:
            above[one] = other
            out_chosen[count] = arc
            count += 1
        elif 0 < flow[arc] and capacity[arc] != NO_BOUND and (reduced[arc] < 0 or flow[arc] >= capacity[arc]):
            state[arc] = UPPER
            excess[tail[arc]] -= capacity[arc]
            excess[head[arc]] += capacity[arc]
        else:
            state[arc] = LOWER
    for index in range(count):
        state[out_chosen[index]] = TREE
    return count


@kernel(_INT(COLUMNS, COLUMNS, *[_IDS] * 3, types.boolean[::1], _ROW))
def adopt(
    net: Columns,
    small: Columns,
    from_places: Int32s,
    to_places: Int32s,
    position: Int32s,
    inside: Flags,
    out_chosen: Int64s,
) -> int:
    """Choose the tree of the network with nodes merged, and the arcs inside them; the others stay at their bounds.

    from_places and to_places: where the merged network's arcs lie there and here; position: where all arcs lie here.
    Excess is what the others leave to the tree. Returns how many were chosen. Time O(A).
    """
    count: int = 0
    for index in range(from_places.shape[0]):
        there, here = from_places[index], to_places[index]
        capacity = small.capacity[there]
        net.capacity[here] = capacity
        net.state[here] = small.state[there]
        if small.state[there] == TREE:
            out_chosen[count] = here
            count += 1
        elif small.state[there] == UPPER:
            net.excess[net.tail[here]] -= capacity
            net.excess[net.head[here]] += capacity
    for arc in range(inside.shape[0]):
        if inside[arc]:
            here = position[arc]
            net.capacity[here] = NO_BOUND
            net.state[here] = TREE
            out_chosen[count] = here
            count += 1
    return count


@kernel(types.void(_IDS, _IDS, _ROW, _ROW, _ROW))
def list_by_node(tail: Int32s, head: Int32s, chosen: Int64s, out_first: Int64s, out_arcs: Int64s) -> None:
    """List the chosen arcs at each node: out_arcs[out_first[node] : out_first[node + 1]]."""
    out_first[:] = 0
    for arc in chosen:
        out_first[tail[arc]] += 1
        out_first[head[arc]] += 1
    for node in range(1, out_first.shape[0]):
        out_first[node] += out_first[node - 1]
    for arc in chosen:
        for node in (tail[arc], head[arc]):
            out_first[node] -= 1
            out_arcs[out_first[node]] = arc


@kernel(types.void(COLUMNS, _INT, _ROW))
def hang(net: Columns, root: int, chosen: Int64s) -> None:
    """Make the forest the tree, parents first; parts that do not hold the root hang under it by idle artificial arcs.

    Flow on tree arcs is 0 then: `rebalance` sends what is in excess. Time O(N).
    """
    rows, after, before, tail, head = net.rows, net.after, net.before, net.tail, net.head
    n_nodes = net.excess.shape[0]
    first, arcs = np.empty(n_nodes + 1, np.int64), np.empty(2 * chosen.shape[0], np.int64)
    list_by_node(tail, head, chosen, first, arcs)
    rows[:, SIZE] = 0  # Not hung yet.
    order, waiting = np.empty(n_nodes, np.int64), np.empty(n_nodes, np.int64)
    count = 0
    for start in range(-1, n_nodes):
        top = root if start < 0 else start
        if rows[top, SIZE] > 0:
            continue
        rows[top, SIZE] = 1
        rows[top, PARENT] = rows[top, PRED] = -1
        if top != root:
            rows[top, PARENT] = root
            carry(rows, top, 0)
        waiting[0] = top
        n_waiting = 1
        while n_waiting > 0:
            n_waiting -= 1
            node = waiting[n_waiting]
            order[count] = node
            count += 1
            for index in range(first[node], first[node + 1]):
                arc = arcs[index]
                below = head[arc] if tail[arc] == node else tail[arc]
                if rows[below, SIZE] == 0:
                    rows[below, SIZE] = 1
                    rows[below, PARENT] = node
                    rows[below, PRED] = arc
                    rows[below, UP] = net.capacity[arc] if tail[arc] == below else 0
                    rows[below, DOWN] = net.capacity[arc] if head[arc] == below else 0
                    rows[below, RISES] = tail[arc] == below
                    rows[below, LIMIT] = limit_of(net, arc)
                    waiting[n_waiting] = below
                    n_waiting += 1
    for index in range(n_nodes - 1, -1, -1):
        node = order[index]
        rows[node, LAST] = order[index + rows[node, SIZE] - 1]
        if node != root:
            rows[rows[node, PARENT], SIZE] += rows[node, SIZE]
        following = order[index + 1] if index + 1 < n_nodes else root
        after[node] = following
        before[following] = node
