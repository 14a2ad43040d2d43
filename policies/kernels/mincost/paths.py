"""Successive shortest paths with prices: route what little is unrouted, one local search after the other.

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), §9.7 (successive shortest paths), §9.8 (primal-dual); for slack
networks and small changes, where a search ends after a few nodes. A search starts at a node that has too much, or
backward at one that lacks, and ends at the nearest node that can settle it. What lies far is left to `pairs`.

In a network with one consumer, the hub, every search may end there: first all excess goes to it, then every lack is
filled from it. Both kinds of search stay local, where one from arrival to departure would cross the whole network.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import RESIDUAL, Residual, send

# Fields of `work` int64[N_WORK].
SEARCHES, SETTLED, SCANNED, PATHS = range(4)
N_WORK = 4
FINE, STUCK, GREW = range(3)
NOWHERE, FAR = -1, -2
_INT, _ROW = types.int64, types.int64[::1]


@kernel(_INT(_ROW))
def only_consumer(supply: Int64s) -> int:
    """The one node with a negative supply; -1 where there are several or none."""
    found: int = -1
    for node in range(supply.shape[0]):
        if supply[node] < 0:
            if found >= 0:
                return -1
            found = node
    return found


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


@kernel(types.int64(RESIDUAL, *[_INT] * 4, _ROW, _ROW, _ROW, _ROW, _ROW, _ROW))
def search(
    net: Residual,
    source: int,
    sign: int,
    hub: int,
    scans_max: int,
    distance: Int64s,
    place: Int64s,
    heap: Int64s,
    way: Int64s,
    seen: Int64s,
    work: Int64s,
) -> int:
    """Dijkstra from `source`, forward (sign 1) or backward (-1), to the nearest node of the other kind or the hub.

    Prices change so that the way there is tight. Returns that node, NOWHERE when there is none, FAR (and no price
    changes) when it lies past `scans_max` entries. way[node]: the entry that leads to it from the source's side.
    distance must be OPEN everywhere, and is again.
    """
    price, excess = net.price, net.excess
    distance[source] = 0
    way[source] = -1
    seen[0] = source
    n_seen = 1
    n_heap = 0
    bottom = distance.shape[0]  # Nodes no farther than the one at hand lie at the heap's end, as a stack.
    heap[bottom - 1] = source
    top = bottom - 1
    target: int = NOWHERE
    nearest = OPEN
    scanned = 0
    while top < bottom or n_heap > 0:
        node = heap[top] if top < bottom else heap[0]
        if distance[node] >= nearest:
            break
        end = net.shut[node] if sign > 0 else net.stop[node]
        if scanned + end - net.first[node] > scans_max:
            target = FAR
            nearest = 0
            break
        if top < bottom:
            top += 1
        else:
            pop(heap, place, distance, n_heap)
            n_heap -= 1
        level = distance[node]
        here = level + sign * price[node]
        scanned += end - net.first[node]
        for at in range(net.first[node], end):
            to = net.to[at]
            new = here + sign * (net.cost[at] - price[to])
            known = distance[to]
            if new >= nearest or new >= known:
                continue
            used = at
            if sign < 0:
                used = net.sister[at]
                if net.left[used] <= 0:
                    continue
            distance[to] = new
            way[to] = used
            if known < OPEN:
                rise(heap, place, distance, place[to])
            else:
                seen[n_seen] = to
                n_seen += 1
                if new == level:
                    top -= 1
                    heap[top] = to
                else:
                    heap[n_heap] = to
                    place[to] = n_heap
                    n_heap += 1
                    rise(heap, place, distance, n_heap - 1)
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
    excess = net.excess
    amount: int = sign * excess[source]
    if target != hub:
        amount = min(amount, -sign * excess[target])
    node = target
    for _ in range(way.shape[0]):
        if node == source:
            break
        at = way[node]
        amount = min(amount, net.left[at])
        node = net.to[net.sister[at]] if sign > 0 else net.to[at]
    node = target
    for _ in range(way.shape[0]):
        if node == source:
            break
        at = way[node]
        node = net.to[net.sister[at]] if sign > 0 else net.to[at]
        send(net, at, amount)  # Moves no entry of the way still to go.
    excess[source] -= sign * amount
    excess[target] += sign * amount
    return amount


@kernel(types.int64(RESIDUAL, *[_INT] * 4, _ROW))
def route(net: Residual, sign: int, hub: int, near: int, scans_max: int, work: Int64s) -> int:
    """Settle every excess (sign 1) or lack (-1) by shortest paths; the hub, if any (-1), takes or gives the rest.

    Those that lie past `near` entries stay. Prices must be right (no entry with room has a negative reduced cost) and
    stay so. GREW: past `scans_max`. STUCK: something can go nowhere.
    """
    n_nodes = net.price.shape[0]
    distance = np.full(n_nodes, OPEN, np.int64)
    place = np.empty(n_nodes, np.int64)
    heap = np.empty(n_nodes, np.int64)
    way = np.empty(n_nodes, np.int64)
    seen = np.empty(n_nodes, np.int64)
    limit = work[SCANNED] + scans_max
    for node in range(n_nodes):
        if node == hub:
            continue
        while sign * net.excess[node] > 0:
            target = search(net, node, sign, hub, near, distance, place, heap, way, seen, work)
            if target == NOWHERE:
                return STUCK
            if target == FAR:
                break
            augment(net, node, target, sign, hub, way)
            work[PATHS] += 1
            if work[SCANNED] > limit:
                return GREW
    return FINE
