"""A first tree that is worth more than artificial arcs: everything takes its cheapest way to the root without a bound.

In a scheduling network that means: nothing is placed yet and all work waits. Under contention this is close to where
the simplex must end, and it spares it the pivots that drive artificial arcs out.
"""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import NO_BOUND, OPEN
from policies.kernels.mincost.tree import COLUMNS, LOWER, TREE, Columns, carry, graft, limit_of

PASSES_MAX = 12  # Ways with more arcs than this that lie unluckily stay artificial; measured: 2 to 4 suffice.


@kernel(types.int64(COLUMNS, types.int64[::1], types.int64, types.int64, types.int64, types.int64))
def lean(net: Columns, supply: Int64s, n_nodes: int, n_arcs: int, root: int, detour: int) -> int:
    """Hang every node that can reach the root on its cheapest way there, arcs with a bound counting `detour` more.

    The tree must be planted. Supplies become excess, for `rebalance` to send. Returns how many nodes left the root's
    artificial arcs. Time O(passes x A). Negative costs count as 0: the ways are then not the cheapest, but no cycles.
    """
    distance = supply * 0 + NO_BOUND
    way = supply * 0 - 1
    distance[root] = 0
    for _ in range(PASSES_MAX):
        changed = False
        for arc in range(n_arcs):
            to = distance[net.head[arc]]
            if to >= OPEN or net.state[arc] != LOWER or net.capacity[arc] == 0:
                continue
            through = to + max(net.cost[arc], 0) + (0 if net.capacity[arc] == NO_BOUND else detour)
            if through < distance[net.tail[arc]]:
                distance[net.tail[arc]] = through
                way[net.tail[arc]] = arc
                changed = True
        if not changed:
            break
    hung = 0
    for node in range(n_nodes):
        if node == root:
            continue
        net.excess[node] += supply[node]
        carry(net.rows, node, 0)
    for node in range(n_nodes):
        arc = way[node]
        if arc >= 0:
            room, limit = net.capacity[arc], limit_of(net, arc)
            graft(net.rows, net.after, net.before, node, node, net.head[arc], root, arc, room, 0, 1, limit)
            net.state[arc] = TREE
            hung += 1
    return hung
