"""Successive shortest paths with prices: route what little is unrouted, one local search after the other.

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), §9.7 (successive shortest paths), §9.8 (primal-dual); for slack
networks and small changes, where a search ends after a few nodes. A search starts at a few nodes that have too much, or
backward at those that lack, and ends at the nearest node that can settle it; a blocking flow over the arcs that became
tight settles what it can of the rest.

In a network with one consumer, the hub, every search may end there: first all excess goes to it, then every lack is
filled from it. Both kinds of search stay local, where one from arrival to departure would cross the whole network.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import COST, LEFT, RESIDUAL, SISTER, TO, Residual

# Fields of `work` int64[N_WORK].
SEARCHES, SETTLED, SCANNED, PATHS = range(4)
N_WORK = 4
FINE, STUCK, GREW = range(3)
REVIEW = 64  # Searches between two looks at what the rest would cost.
_INT, _ROW = types.int64, types.int64[::1]


@kernel(types.void(_ROW, _ROW, _ROW, _INT))
def rise(heap: Int64s, place: Int64s, distance: Int64s, at: int) -> None:
    node = heap[at]
    key = distance[node]
    while at > 0:
        above = (at - 1) >> 1
        other = heap[above]
        if distance[other] <= key:
            break
        heap[at] = other
        place[other] = at
        at = above
    heap[at] = node
    place[node] = at


@kernel(types.int64(_ROW, _ROW, _ROW, _INT))
def pop(heap: Int64s, place: Int64s, distance: Int64s, n_heap: int) -> int:
    """Take the nearest node off the heap of `n_heap`; return it. Its place becomes -1."""
    top: int = heap[0]
    place[top] = -1
    n_heap -= 1
    if n_heap == 0:
        return top
    node = heap[n_heap]
    key = distance[node]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= n_heap:
            break
        if below + 1 < n_heap and distance[heap[below + 1]] < distance[heap[below]]:
            below += 1
        if distance[heap[below]] >= key:
            break
        heap[at] = heap[below]
        place[heap[at]] = at
        at = below
    heap[at] = node
    place[node] = at
    return top


@kernel(types.int64(RESIDUAL, _INT, _INT, _INT, _ROW, _ROW, _ROW, _ROW, _ROW, _ROW))
def search(
    net: Residual,
    source: int,
    sign: int,
    hub: int,
    distance: Int64s,
    place: Int64s,
    heap: Int64s,
    way: Int64s,
    seen: Int64s,
    work: Int64s,
) -> int:
    """Dijkstra from `source`, forward (sign 1) or backward (-1), to the nearest node of the other kind or the hub.

    Prices change so that the way there is tight. Returns that node, -1 when there is none. way[node]: the entry that
    leads to it from the source's side. distance must be OPEN everywhere, and is again.
    """
    entries, price, excess = net.entries, net.price, net.excess
    distance[source] = 0
    way[source] = -1
    heap[0] = source
    place[source] = 0
    n_heap = 1
    seen[0] = source
    n_seen = 1
    target: int = -1
    nearest = OPEN
    scanned = 0
    while n_heap > 0:
        if distance[heap[0]] >= nearest:
            break
        node = pop(heap, place, distance, n_heap)
        n_heap -= 1
        here = distance[node] + sign * price[node]
        scanned += net.stop[node] - net.first[node]
        for at in range(net.first[node], net.stop[node]):
            to = entries[at, TO]
            new = here + sign * (entries[at, COST] - price[to])
            if new >= nearest or new >= distance[to]:
                continue
            used = at
            if sign < 0:
                used = entries[at, SISTER]
            if entries[used, LEFT] <= 0:
                continue
            if distance[to] == OPEN:
                seen[n_seen] = to
                n_seen += 1
                heap[n_heap] = to
                place[to] = n_heap
                n_heap += 1
            distance[to] = new
            way[to] = used
            rise(heap, place, distance, place[to])
            if to == hub or sign * excess[to] < 0:
                nearest = new
                target = to
    for index in range(n_seen):
        node = seen[index]
        if target >= 0 and distance[node] < nearest:
            price[node] -= sign * (nearest - distance[node])
        distance[node] = OPEN
    work[SEARCHES] += 1
    work[SETTLED] += n_seen
    work[SCANNED] += scanned
    return target


@kernel(types.int64(RESIDUAL, _INT, _INT, _INT, _INT, _ROW))
def augment(net: Residual, source: int, target: int, sign: int, hub: int, way: Int64s) -> int:
    """Send along the way what fits, what the source has and what the target can take. Returns how much."""
    entries, excess = net.entries, net.excess
    amount: int = sign * excess[source]
    if target != hub:
        amount = min(amount, -sign * excess[target])
    node = target
    while node != source:
        at = way[node]
        amount = min(amount, entries[at, LEFT])
        node = entries[entries[at, SISTER], TO] if sign > 0 else entries[at, TO]
    node = target
    while node != source:
        at = way[node]
        entries[at, LEFT] -= amount
        entries[entries[at, SISTER], LEFT] += amount
        node = entries[entries[at, SISTER], TO] if sign > 0 else entries[at, TO]
    excess[source] -= sign * amount
    excess[target] += sign * amount
    return amount


@kernel(types.int64(RESIDUAL, _INT, _INT, _INT, _ROW))
def route(net: Residual, sign: int, hub: int, scans_max: int, work: Int64s) -> int:
    """Settle every excess (sign 1) or lack (-1) by shortest paths; the hub, if any (-1), takes or gives the rest.

    Prices must be right (no entry with room has a negative reduced cost) and stay so. GREW: at the rate of the last
    searches the rest would scan more than `scans_max` entries. STUCK: something can go nowhere.
    """
    n_nodes = net.price.shape[0]
    distance = np.full(n_nodes, OPEN, np.int64)
    place = np.empty(n_nodes, np.int64)
    heap = np.empty(n_nodes, np.int64)
    way = np.empty(n_nodes, np.int64)
    seen = np.empty(n_nodes, np.int64)
    rest = 0
    for node in range(n_nodes):
        if node != hub:
            rest += max(sign * net.excess[node], 0)
    limit = work[SCANNED] + scans_max
    trial = min(scans_max, net.entries.shape[0])  # One scan of all is spent before the rest is guessed.
    reviewed = work[SCANNED]
    largest = 1
    searches = 0
    for node in range(n_nodes):
        if node == hub:
            continue
        while sign * net.excess[node] > 0:
            target = search(net, node, sign, hub, distance, place, heap, way, seen, work)
            if target < 0:
                return STUCK
            amount = augment(net, node, target, sign, hub, way)
            largest = max(largest, amount)
            work[PATHS] += 1
            rest -= amount
            searches += 1
            if work[SCANNED] > limit:
                return GREW
            if searches % REVIEW == 0:
                rate = (work[SCANNED] - reviewed) // REVIEW
                reviewed = work[SCANNED]
                if reviewed - limit + scans_max > trial and reviewed + rate * rest // max(largest, 1) > limit:
                    return GREW
    return FINE
