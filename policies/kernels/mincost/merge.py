"""Nodes that are as good as one: what can only come to a node, or only leave it, by one arc whose bound never binds.

A machine's sockets, cores and threads hang together so, and tasks that have but one place. Node and neighbour are then
taken for one: the node's potential is the neighbour's and the arc's cost, the arc's flow is what the node's other arcs
leave over. The merged network has the same optimum, and no arc of it earns where none did.

Sources: the reduction in series of Valdes, Tarjan, Lawler, The recognition of series parallel digraphs (1982), here for
arcs that cannot bind; disjoint sets (Tarjan 1975) whose members know what their potential is apart from their set's, so
that no arc moves while nodes merge.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.gate import Flags, cost_limit
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.planted import Arcs

ARCS_MIN = 5_000  # Below, the looking is a twentieth of a solve.
SOURCES_FEW = 2  # One node in so many may supply, no more: tasks have several places each, and stay.
# So much of the nodes has to go; else merging and unfolding take what they spare. A tree is dearer to unfold, and half
# of the nodes merged (machines that no class prefers) spares the simplex less than half.
PERCENT, PERCENT_TREE = 50, 75
IN, OUT = range(2)  # Sides of a node.
COUNT, WHICH, SUM = range(3)  # Of the arcs on a side: how many, the exclusive or of their ids, the sum of their bounds.
Sides = npt.NDArray[np.int64]  # [N, 2, 3]
_INT, _ROW, _FLAGS, _SIDES = types.int64, types.int64[::1], types.boolean[::1], types.int64[:, :, ::1]


class Merged(NamedTuple):
    """A network some of whose nodes were merged. Its nodes are sets of the whole network's."""

    arcs: Arcs
    supply: Int64s
    ids: Int64s  # Of each of its arcs, in the whole network.
    number: Int64s  # By node of the whole network: of its set.
    apart: Int64s  # By node of the whole network: what its potential is more than its set's.
    inside: Flags  # By arc of the whole network: it holds a set together, and what it carries follows.


@kernel(_INT(_INT, _INT))
def both(one: int, other: int) -> int:
    """The sum of two bounds."""
    total: int = NO_BOUND
    if max(one, other) < NO_BOUND:
        total = min(one + other, NO_BOUND)
    return total


@kernel(_SIDES(_ROW, _ROW, _FLAGS, _ROW, _INT))
def sides(tail: Int64s, head: Int64s, alive: Flags, bound: Int64s, n_nodes: int) -> Sides:
    """What arcs there are on each side of each node. Loops and arcs without room count for nothing. Time O(N + A)."""
    side = np.zeros((n_nodes, 2, 3), np.int64)
    for arc in range(tail.shape[0]):
        if alive[arc] and bound[arc] > 0 and tail[arc] != head[arc]:
            for node, which in ((tail[arc], OUT), (head[arc], IN)):
                side[node, which, COUNT] += 1
                side[node, which, WHICH] ^= arc
                side[node, which, SUM] = both(side[node, which, SUM], bound[arc])
    return side


@kernel(_INT(_ROW, _ROW, _INT))
def name_of(into: Int64s, apart: Int64s, node: int) -> int:
    """The node that names the node's set; `into` is then that one, `apart` counted from it. Amortised O(log N)."""
    name: int = node
    total = 0
    while into[name] != name:
        total += apart[name]
        name = into[name]
    while into[node] != name:
        following, less = into[node], apart[node]
        into[node] = name
        apart[node] = total
        total -= less
        node = following
    return name


@kernel(_INT(*[_ROW] * 5, _SIDES, _ROW, _ROW, _FLAGS))
def join(
    tail: Int64s,
    head: Int64s,
    bound: Int64s,
    cost: Int64s,
    supply: Int64s,
    side: Sides,
    out_into: Int64s,
    out_apart: Int64s,
    out_inside: Flags,
) -> int:
    """Merge every node that can be; flag the arcs inside. Returns how many nodes went. Time O(N log N).

    A node with one way in must not supply, one with one way out not consume: that way would carry less than nothing.
    """
    n_nodes = supply.shape[0]
    own = supply.copy()
    out_inside[:] = False
    out_apart[:] = 0
    waiting = np.empty(n_nodes + 1, np.int64)
    for each in range(n_nodes):
        out_into[each] = each
        waiting[n_nodes - 1 - each] = each
    n_waiting = n_nodes
    count: int = 0
    while n_waiting > 0:
        n_waiting -= 1
        node = waiting[n_waiting]
        if out_into[node] != node:
            continue
        for near in (IN, OUT):
            far = 1 - near
            sign = 1 if near == IN else -1
            if side[node, near, COUNT] != 1 or sign * own[node] > 0:
                continue
            arc = side[node, near, WHICH]
            if side[node, far, SUM] - sign * own[node] > bound[arc]:
                continue
            start, end = name_of(out_into, out_apart, tail[arc]), name_of(out_into, out_apart, head[arc])
            above = start if near == IN else end
            if above == node:  # A loop by now.
                continue
            out_inside[arc] = True
            out_into[node] = above
            out_apart[node] = sign * (cost[arc] + out_apart[tail[arc]] - out_apart[head[arc]])
            own[above] += own[node]
            side[above, far, COUNT] += side[node, far, COUNT] - 1
            side[above, far, WHICH] ^= side[node, far, WHICH] ^ arc
            if side[above, far, SUM] < NO_BOUND:
                side[above, far, SUM] = both(side[above, far, SUM] - bound[arc], side[node, far, SUM])
            count += 1
            waiting[n_waiting] = above
            n_waiting += 1
            break
    return count


@kernel(_INT(_ROW, _ROW, _FLAGS, *[_ROW] * 5, _FLAGS, *[_ROW] * 7))
def shrink(
    tail: Int64s,
    head: Int64s,
    alive: Flags,
    bound: Int64s,
    cost: Int64s,
    supply: Int64s,
    into: Int64s,
    apart: Int64s,
    inside: Flags,
    out_number: Int64s,
    out_supply: Int64s,
    out_ids: Int64s,
    out_tail: Int64s,
    out_head: Int64s,
    out_bound: Int64s,
    out_cost: Int64s,
) -> int:
    """Write the merged network, and each node's set. Returns how many arcs: those with room between two sets.

    `apart` is then counted from the sets' names. Time O(N + A).
    """
    count = 0
    for node in range(supply.shape[0]):
        if into[node] == node:
            out_number[node] = count
            count += 1
    out_supply[:] = 0
    for node in range(supply.shape[0]):
        out_number[node] = out_number[name_of(into, apart, node)]
        out_supply[out_number[node]] += supply[node]
    n_arcs: int = 0
    for arc in range(tail.shape[0]):
        start, end = out_number[tail[arc]], out_number[head[arc]]
        if alive[arc] and bound[arc] > 0 and not inside[arc] and start != end:
            out_ids[n_arcs] = arc
            out_tail[n_arcs] = start
            out_head[n_arcs] = end
            out_bound[n_arcs] = bound[arc]
            out_cost[n_arcs] = cost[arc] + apart[tail[arc]] - apart[head[arc]]
            n_arcs += 1
    return n_arcs


@kernel(types.void(_ROW, _ROW, _ROW, _FLAGS, *[_ROW] * 4))
def fill(
    tail: Int64s,
    head: Int64s,
    supply: Int64s,
    inside: Flags,
    ids: Int64s,
    flow: Int64s,
    out_flow: Int64s,
    out_left: Int64s,
) -> None:
    """Every arc's flow, from that between the sets: `flow` of the arcs `ids`. out_left int64[N] is 0 afterwards.

    The arcs inside are a forest: what each carries is what the nodes behind it leave over. Time O(N + A).
    """
    n_nodes = supply.shape[0]
    count, which = np.zeros(n_nodes, np.int64), np.zeros(n_nodes, np.int64)
    out_flow[:] = 0
    out_left[:] = supply
    for index in range(ids.shape[0]):
        arc = ids[index]
        out_flow[arc] = flow[index]
        out_left[tail[arc]] -= flow[index]
        out_left[head[arc]] += flow[index]
    for arc in range(tail.shape[0]):
        if inside[arc]:
            for node in (tail[arc], head[arc]):
                count[node] += 1
                which[node] ^= arc
    for first in range(n_nodes):
        node = first
        while count[node] == 1:
            arc = which[node]
            sent = out_left[node] if tail[arc] == node else -out_left[node]
            out_flow[arc] = sent
            out_left[tail[arc]] -= sent
            out_left[head[arc]] += sent
            for end in (tail[arc], head[arc]):
                count[end] -= 1
                which[end] ^= arc
            node = head[arc] if tail[arc] == node else tail[arc]


def is_worth_merging(arcs: Arcs, supply: Int64s) -> bool:
    """False where nothing is gained for sure: a small network, or one whose nodes supply, mostly. Time O(N)."""
    return arcs.tail.size >= ARCS_MIN and int(np.count_nonzero(supply > 0)) * SOURCES_FEW <= supply.size


def merged(arcs: Arcs, supply: Int64s, percent: int) -> Merged | None:
    """The network with nodes merged, where at least that part of them goes; None otherwise,
    or where its costs, sums of such, could wrap.

    No arc may earn: loops within a set are left out.
    """
    n_nodes, n_arcs = supply.size, arcs.tail.size
    into, apart, number = (np.empty(n_nodes, np.int64) for _ in range(3))
    inside = np.empty(n_arcs, np.bool_)
    side = sides(arcs.tail, arcs.head, arcs.alive, arcs.bound, n_nodes)
    went = join(arcs.tail, arcs.head, arcs.bound, arcs.cost, supply, side, into, apart, inside)
    if went == 0 or 100 * went < percent * n_nodes:
        return None
    few = np.empty(n_nodes - went, np.int64)
    columns = tuple(np.empty(n_arcs, np.int64) for _ in range(5))
    count = shrink(*arcs, supply, into, apart, inside, number, few, *columns)
    ids, tail, head, bound, cost = (column[:count].copy() for column in columns)
    if int(cost.max(initial=0)) > cost_limit(few.size):
        return None
    return Merged(Arcs(tail, head, np.ones(count, np.bool_), bound, cost), few, ids, number, apart, inside)


def unfolded(small: Merged, arcs: Arcs, supply: Int64s, flow: Int64s, potential: Int64s) -> tuple[Int64s, Int64s]:
    """The whole network's flow and potentials from the merged one's."""
    whole, left = np.empty(arcs.tail.size, np.int64), np.empty(supply.size, np.int64)
    fill(arcs.tail, arcs.head, supply, small.inside, small.ids, flow, whole, left)
    return whole, potential[small.number] + small.apart
