"""Keep a residual network through changes: entries in and out, costs and bounds, prices mended where they changed."""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import COST, ENTRY, LEFT, RESIDUAL, SISTER, TO, Residual, join

_INT, _ROW = types.int64, types.int64[::1]


@kernel(types.int64(RESIDUAL, *[_ROW] * 5))
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
        join(net, down, up, capacity[index], cost[index], 0, arcs[index])
    count: int = arcs.shape[0]
    return count


@kernel(types.void(RESIDUAL, _INT, _INT))
def drop_entry(net: Residual, node: int, at: int) -> None:
    """Take an entry out; the node's last one takes its place."""
    entries = net.entries
    last = net.stop[node] - 1
    net.stop[node] = last
    if last != at:
        for field in range(ENTRY):
            entries[at, field] = entries[last, field]
        arc = net.arc[last]
        net.arc[at] = arc
        entries[entries[at, SISTER], SISTER] = at
        if net.entry[arc] == last:
            net.entry[arc] = at


@kernel(types.void(RESIDUAL, _ROW))
def drop_arcs(net: Residual, arcs: Int64s) -> None:
    """Take arcs out; their flow becomes excess. Time O(1) an arc."""
    entries = net.entries
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth < 0:
            continue
        back = entries[forth, SISTER]
        head, tail, flow = entries[forth, TO], entries[back, TO], entries[back, LEFT]
        net.excess[tail] += flow
        net.excess[head] -= flow
        net.entry[arcs[index]] = -1
        drop_entry(net, head, back)
        drop_entry(net, tail, forth)


@kernel(types.void(RESIDUAL, _ROW, _ROW))
def change_costs(net: Residual, arcs: Int64s, values: Int64s) -> None:
    entries = net.entries
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth >= 0:
            entries[forth, COST] = values[index]
            entries[entries[forth, SISTER], COST] = -values[index]


@kernel(types.void(RESIDUAL, _ROW, _ROW))
def change_capacities(net: Residual, arcs: Int64s, values: Int64s) -> None:
    """Set capacities (NO_BOUND: none); what no longer fits becomes excess."""
    entries = net.entries
    for index in range(arcs.shape[0]):
        forth = net.entry[arcs[index]]
        if forth < 0:
            continue
        back = entries[forth, SISTER]
        surplus = max(entries[back, LEFT] - values[index], 0)
        entries[back, LEFT] -= surplus
        entries[forth, LEFT] = values[index] - entries[back, LEFT]
        net.excess[entries[back, TO]] += surplus
        net.excess[entries[forth, TO]] -= surplus


@kernel(types.int64(RESIDUAL, _ROW, _ROW))
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
    entries, price, excess = net.entries, net.price, net.excess
    low, high = -OPEN, OPEN
    for at in range(net.first[node], net.stop[node]):
        level = price[entries[at, TO]] - entries[at, COST]
        if entries[at, LEFT] > 0:
            low = max(low, level)
        if entries[entries[at, SISTER], LEFT] > 0:
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
        level = price[entries[at, TO]] - entries[at, COST]
        if entries[entries[at, SISTER], LEFT] >= OPEN and level < low:
            low_is_free = False
        if entries[at, LEFT] >= OPEN and level > high:
            high_is_free = False
    if not low_is_free and not high_is_free:
        return False
    price[node] = low if low_is_free else high
    for at in range(net.first[node], net.stop[node]):
        to = entries[at, TO]
        level = price[to] - entries[at, COST]
        sister = entries[at, SISTER]
        moved = 0
        if low_is_free and level < low:
            moved = -entries[sister, LEFT]
        elif not low_is_free and level > high:
            moved = entries[at, LEFT]
        entries[at, LEFT] -= moved
        entries[sister, LEFT] += moved
        excess[node] -= moved
        excess[to] += moved
    return True


@kernel(types.int64(RESIDUAL, _ROW))
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
