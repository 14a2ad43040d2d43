"""A spanning tree out of that of a merged network, where the simplex goes on with the whole one."""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.tree import (
    COLUMNS,
    DOWN,
    LAST,
    LIMIT,
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
