"""Keep a residual network through changes: entries in and out, costs and bounds, prices mended where they changed."""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import RESIDUAL, Residual, sort_in, sort_node, swap

_INT, _ROW = types.int64, types.int64[::1]


@kernel(types.void(RESIDUAL, *[_INT] * 5))
def join(net: Residual, tail: int, head: int, capacity: int, cost: int, arc: int) -> None:
    """Write the entries of an idle arc behind the others of its ends, where there must be room."""
    forth, back = net.stop[tail], net.stop[head]
    net.stop[tail] += 1
    net.stop[head] += 1
    net.to[forth] = head
    net.cost[forth] = cost
    net.left[forth] = capacity
    net.sister[forth] = back
    net.to[back] = tail
    net.cost[back] = -cost
    net.left[back] = 0
    net.sister[back] = forth
    net.arc[forth] = arc
    net.arc[back] = arc
    net.entry[arc] = forth
    net.flow[arc] = 0
    sort_in(net, tail, forth)


@kernel(types.int64(RESIDUAL, *[_ROW] * 5), entry=True)
def join_arcs(net: Residual, arcs: Int64s, tail: Int64s, head: Int64s, capacity: Int64s, cost: Int64s) -> int:
    """Add idle arcs; columns are in the order of `arcs`. Returns how many found room at both their ends."""
    for index in range(arcs.shape[0]):
        net.entry[arcs[index]] = -1
    for index in range(arcs.shape[0]):
        down, up = tail[index], head[index]
        if down == up:
            continue
        if net.stop[down] == net.room[down] or net.stop[up] == net.room[up]:
            return index
        join(net, down, up, capacity[index], cost[index], arcs[index])
    count: int = arcs.shape[0]
    return count


@kernel(types.void(RESIDUAL, _INT, _INT))
def drop_entry(net: Residual, node: int, at: int) -> None:
    """Take an entry out; others take its place."""
    if at < net.shut[node]:
        net.shut[node] -= 1
        swap(net, at, net.shut[node])
        at = net.shut[node]
    net.stop[node] -= 1
    swap(net, at, net.stop[node])


@kernel(types.void(RESIDUAL, _ROW), entry=True)
def drop_arcs(net: Residual, arcs: Int64s) -> None:
    """Take arcs out; their flow becomes excess. Time O(1) an arc."""
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth < 0:
            continue
        back = net.sister[forth]
        head, tail, flow = net.to[forth], net.to[back], net.left[back]
        net.excess[tail] += flow
        net.excess[head] -= flow
        drop_entry(net, head, back)
        drop_entry(net, tail, forth)
        net.entry[arcs[index]] = -1
        net.flow[arcs[index]] = 0


@kernel(types.void(RESIDUAL, _ROW, _ROW), entry=True)
def change_costs(net: Residual, arcs: Int64s, values: Int64s) -> None:
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth >= 0:
            net.cost[forth] = values[index]
            net.cost[net.sister[forth]] = -values[index]


@kernel(types.void(RESIDUAL, _ROW, _ROW), entry=True)
def change_capacities(net: Residual, arcs: Int64s, values: Int64s) -> None:
    """Set capacities (NO_BOUND: none); what no longer fits becomes excess."""
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth < 0:
            continue
        back = net.sister[forth]
        tail, head = net.to[back], net.to[forth]
        surplus = max(net.left[back] - values[index], 0)
        net.left[back] -= surplus
        net.left[forth] = values[index] - net.left[back]
        net.flow[arcs[index]] -= surplus
        net.excess[tail] += surplus
        net.excess[head] -= surplus
        sort_in(net, head, back)
        sort_in(net, tail, net.entry[arcs[index]])


@kernel(types.int64(RESIDUAL, _ROW, _ROW), entry=True)
def arcs_at(net: Residual, nodes: Int64s, out_arcs: Int64s) -> int:
    """List the arcs at the nodes, each once (those between two of them too). Returns how many."""
    count = 0
    for index in range(nodes.shape[0]):
        node = nodes[index]
        for at in range(net.first[node], net.stop[node]):
            out_arcs[count] = net.arc[at]
            count += 1
    return count


@kernel(types.boolean(RESIDUAL, _INT))
def mend(net: Residual, node: int) -> bool:
    """Set the node's price so that none of its arcs violates, or empty or fill those that then do. Time O(degree).

    Of all that may leave, the price must be at least `low`, of all that may come at most `high`. Where low > high, what
    it sends over the arcs that got too dear comes back (low), or else what became cheap is filled (high). False when
    both would mean an arc without a bound; the node is then unchanged.
    """
    price, excess = net.price, net.excess
    low, high = -OPEN, OPEN
    for at in range(net.first[node], net.stop[node]):
        level = price[net.to[at]] - net.cost[at]
        if net.left[at] > 0:
            low = max(low, level)
        if net.left[net.sister[at]] > 0:
            high = min(high, level)
    here = price[node]
    if low <= high:
        if high == OPEN and low > -OPEN:
            here = low  # Nothing holds it: a new node, mostly, and the closer the sooner its searches end.
        price[node] = max(min(here, high), low)
        return True
    low_is_free = True
    high_is_free = True
    for at in range(net.first[node], net.stop[node]):
        level = price[net.to[at]] - net.cost[at]
        if net.left[net.sister[at]] >= OPEN and level < low:
            low_is_free = False
        if net.left[at] >= OPEN and level > high:
            high_is_free = False
    if not low_is_free and not high_is_free:
        return False
    price[node] = low if low_is_free else high
    for at in range(net.first[node], net.stop[node]):
        to = net.to[at]
        level = price[to] - net.cost[at]
        sister = net.sister[at]
        moved = 0
        if low_is_free and level < low:
            moved = -net.left[sister]
        elif not low_is_free and level > high:
            moved = net.left[at]
        if moved != 0:
            net.left[at] -= moved
            net.left[sister] += moved
            net.flow[net.arc[at]] += moved if net.entry[net.arc[at]] == at else -moved
            excess[node] -= moved
            excess[to] += moved
            sort_in(net, to, sister)
    sort_node(net, node)
    return True


@kernel(types.int64(RESIDUAL, _ROW), entry=True)
def mend_all(net: Residual, nodes: Int64s) -> int:
    """Mend these nodes, each may be named often. Returns how many could not be."""
    done = np.zeros(net.price.shape[0], np.bool_)
    failed = 0
    for index in range(nodes.shape[0]):
        node = nodes[index]
        if not done[node]:
            done[node] = True
            failed += not mend(net, node)
    return failed
