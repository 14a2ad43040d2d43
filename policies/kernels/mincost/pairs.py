"""Shortest paths from what is too much to what lacks, searched from both ends, for what lies far apart.

Sources: Pohl, Bi-directional search (1971); Goldberg, Harrelson, Computing the shortest path (2005), §5, for the rule
that ends it. In a full network few gaps are left after a change and the way to one is long: a search from one end
alone passes through all that is as near as the gap, two that meet in the middle through about the square root of it.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.paths import FINE, GREW, PATHS, SCANNED, SEARCHES, SETTLED, STUCK, pop, rise
from policies.kernels.mincost.residual import RESIDUAL, Residual, send

_INT, _ROW, _GRID = types.int64, types.int64[::1], types.int64[:, ::1]
REVIEW = 64  # Searches between two looks at what the rest would cost.
DISTANCE, PLACE, HEAP, WAY, SEEN = range(5)  # Rows of a side int64[5, N].
# A side's nodes that are no farther than the last one taken lie at the end of its heap, as a stack.
N_HEAP, TOP, N_SEEN, LEVEL, SCANNED_HERE = range(5)  # Fields of its count int64[5].


@kernel(types.void(_GRID, _ROW, _INT, _INT, _INT))
def label(side: Int64s, count: Int64s, node: int, distance: int, way: int) -> None:
    """Note a shorter way to the node."""
    known = side[DISTANCE, node]
    side[DISTANCE, node] = distance
    side[WAY, node] = way
    if known < OPEN:
        rise(side[HEAP], side[PLACE], side[DISTANCE], side[PLACE, node])
        return
    side[SEEN, count[N_SEEN]] = node
    count[N_SEEN] += 1
    if distance == count[LEVEL]:
        count[TOP] -= 1
        side[HEAP, count[TOP]] = node
    else:
        at = count[N_HEAP]
        side[HEAP, at] = node
        side[PLACE, node] = at
        count[N_HEAP] += 1
        rise(side[HEAP], side[PLACE], side[DISTANCE], at)


@kernel(types.int64(_GRID, _ROW))
def nearest(side: Int64s, count: Int64s) -> int:
    """The nearest node not taken; -1: none."""
    n_nodes = side.shape[1]
    node: int = -1
    if count[TOP] < n_nodes:
        node = side[HEAP, count[TOP]]
    elif count[N_HEAP] > 0:
        node = side[HEAP, 0]
    return node


@kernel(types.void(_GRID, _ROW, _INT))
def take(side: Int64s, count: Int64s, degree: int) -> None:
    """Take the nearest node off."""
    if count[TOP] < side.shape[1]:
        count[TOP] += 1
    else:
        count[LEVEL] = side[DISTANCE, side[HEAP, 0]]
        pop(side[HEAP], side[PLACE], side[DISTANCE], count[N_HEAP])
        count[N_HEAP] -= 1
    count[SCANNED_HERE] += degree


@kernel(types.int64(RESIDUAL, *[_INT] * 3, _GRID, _GRID, _ROW))
def send_through(net: Residual, source: int, middle: int, length: int, fore: Int64s, back: Int64s, path: Int64s) -> int:
    """Send what fits from `source` through `middle` to the lack behind it. Returns how much.

    The two parts may touch where a way around is free; the node nearest to the source where they do is the middle, so
    that no entry is used twice.
    """
    node = middle
    while node != source:
        node = net.to[net.sister[fore[WAY, node]]]
        if fore[DISTANCE, node] + back[DISTANCE, node] == length:
            middle = node
    n_path = 0
    node = middle
    while node != source:
        path[n_path] = fore[WAY, node]
        node = net.to[net.sister[fore[WAY, node]]]
        n_path += 1
    path[:n_path] = path[:n_path][::-1].copy()
    node = middle
    while back[WAY, node] >= 0:
        path[n_path] = back[WAY, node]
        node = net.to[back[WAY, node]]
        n_path += 1
    amount: int = min(net.excess[source], -net.excess[node])
    for index in range(n_path):
        amount = min(amount, net.left[path[index]])
    for index in range(n_path - 1, -1, -1):  # From the end: `send` then moves no entry of the way still to go.
        send(net, path[index], amount)
    net.excess[source] -= amount
    net.excess[node] += amount
    return amount


@kernel(types.int64(RESIDUAL, _INT, _ROW, _INT, _GRID, _GRID, _ROW, _ROW))
def meet(
    net: Residual,
    source: int,
    lacks: Int64s,
    n_lacks: int,
    fore: Int64s,
    back: Int64s,
    path: Int64s,
    work: Int64s,
) -> int:
    """Find a shortest path from `source` to any of the lacks, make it tight and send along it what fits.

    Returns how much; 0 when there is no path. Distances must be OPEN everywhere, and are again.
    """
    price = net.price
    n_fore = np.zeros(5, np.int64)
    n_back = np.zeros(5, np.int64)
    n_fore[TOP] = price.shape[0]
    n_back[TOP] = price.shape[0]
    label(fore, n_fore, source, 0, -1)
    for index in range(n_lacks):
        label(back, n_back, lacks[index], 0, -1)
    best = OPEN
    middle = -1
    for _ in range(2 * price.shape[0] + 1):  # With prices that are right, each side takes a node once.
        one, other = nearest(fore, n_fore), nearest(back, n_back)
        if one < 0 or other < 0 or fore[DISTANCE, one] + back[DISTANCE, other] >= best:
            break
        degree_fore = net.shut[one] - net.first[one]
        degree_back = net.stop[other] - net.first[other]
        if n_fore[SCANNED_HERE] + degree_fore <= n_back[SCANNED_HERE] + degree_back:
            take(fore, n_fore, degree_fore)
            here = fore[DISTANCE, one] + price[one]
            for at in range(net.first[one], net.shut[one]):
                to = net.to[at]
                new = here + net.cost[at] - price[to]
                if new < best and new < fore[DISTANCE, to]:
                    label(fore, n_fore, to, new, at)
                    if new + back[DISTANCE, to] < best:
                        best = new + back[DISTANCE, to]
                        middle = to
        else:
            take(back, n_back, degree_back)
            here = back[DISTANCE, other] - price[other]
            for at in range(net.first[other], net.stop[other]):
                to = net.to[at]
                new = here - net.cost[at] + price[to]
                if new < best and new < back[DISTANCE, to] and net.left[net.sister[at]] > 0:
                    label(back, n_back, to, new, net.sister[at])
                    if new + fore[DISTANCE, to] < best:
                        best = new + fore[DISTANCE, to]
                        middle = to
    amount: int = 0
    if middle >= 0:
        other = nearest(back, n_back)
        radius = min(best, back[DISTANCE, other]) if other >= 0 else best
        amount = send_through(net, source, middle, best, fore, back, path)
        for index in range(n_fore[N_SEEN]):
            node = fore[SEEN, index]
            price[node] -= max(best - radius - fore[DISTANCE, node], 0)
        for index in range(n_back[N_SEEN]):
            node = back[SEEN, index]
            price[node] += max(radius - back[DISTANCE, node], 0)
    for index in range(n_fore[N_SEEN]):
        fore[DISTANCE, fore[SEEN, index]] = OPEN
    for index in range(n_back[N_SEEN]):
        back[DISTANCE, back[SEEN, index]] = OPEN
    work[SEARCHES] += 1
    work[SETTLED] += n_fore[N_SEEN] + n_back[N_SEEN]
    work[SCANNED] += n_fore[SCANNED_HERE] + n_back[SCANNED_HERE]
    return amount


@kernel(types.int64(RESIDUAL, _INT, _ROW))
def route(net: Residual, scans_max: int, work: Int64s) -> int:
    """Settle every excess with the nearest lack. Prices must be right and stay so. Status as in `paths.route`.

    GREW also where, at the rate of the last searches, the rest would scan more than `scans_max` entries.
    """
    n_nodes = net.price.shape[0]
    fore = np.empty((5, n_nodes), np.int64)
    back = np.empty((5, n_nodes), np.int64)
    fore[DISTANCE] = OPEN
    back[DISTANCE] = OPEN
    path = np.empty(2 * n_nodes, np.int64)
    lacks = np.flatnonzero(net.excess < 0)
    n_lacks = lacks.shape[0]
    begun = work[SCANNED]
    reviewed = begun
    trial = begun + net.to.shape[0]  # So much is spent before the rest is guessed.
    rest = 0
    for node in range(n_nodes):
        rest += max(net.excess[node], 0)
    largest = 1
    searches = 0
    for node in range(n_nodes):
        while net.excess[node] > 0:
            kept = 0
            for index in range(n_lacks):
                if net.excess[lacks[index]] < 0:
                    lacks[kept] = lacks[index]
                    kept += 1
            n_lacks = kept
            amount = meet(net, node, lacks, n_lacks, fore, back, path, work)
            if amount == 0:
                return STUCK
            work[PATHS] += 1
            rest -= amount
            largest = max(largest, amount)
            searches += 1
            if searches % REVIEW == 0:
                rate = (work[SCANNED] - reviewed) // REVIEW
                reviewed = work[SCANNED]
                if reviewed > trial and reviewed - begun + rate * (rest // largest) > scans_max:
                    return GREW
    return FINE
