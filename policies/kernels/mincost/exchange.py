"""Shortest exchange paths: route what is unrouted through the core, leaves changing places on the way.

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), §9.7 (successive shortest paths); Jonker, Volgenant, A shortest
augmenting path algorithm for dense and sparse linear assignment problems (1987), where a search passes through one side
of the network alone; Kennington, Wang, A shortest augmenting path algorithm for the semi-assignment problem (1992).

A search is Dijkstra's by reduced costs over the nodes of the core. From a node u it reaches what u's entries reach and,
for each leaf at u, wherever that leaf could be: the leaf's own price would be that of u less the cost of being there,
so it takes no label of its own. Prices change only where a search has been.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.columns import OBJECTIVE_SURE
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.leaves import (
    AT,
    BEGIN,
    CHUNK,
    COST,
    END,
    FIRST,
    HERE,
    LEAVES,
    STOP,
    TO,
    Leaves,
    best_slot,
    leave,
    settle,
)
from policies.kernels.mincost.leaves import LEAF as MEMBER
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import RESIDUAL, Residual, send

# Rows of the scratch int64[N_ROWS, N]. DISTANCE is OPEN everywhere between searches.
# How a node was reached: FROM a node (-1: it is a root, or what a root leaf chose) by LEAF's SLOT, or (LEAF -1) by the
# entry SLOT stands for, 2 x arc + 1 forward, 2 x arc backward: entries change places, arcs do not.
DISTANCE, PLACE, HEAP, PLATEAU, SEEN, FROM, LEAF, SLOT, FOUND = range(9)
N_ROWS = 9
# Fields of a search's count int64[N_COUNT].
N_HEAP, Q_BEGIN, Q_END, N_SEEN, LEVEL, N_FOUND = range(6)
N_COUNT = 6
# Fields of `work` int64[N_WORK].
SEARCHES, SETTLED, SCANNED, PATHS = range(4)
N_WORK = 4
FINE, STUCK, GREW = range(3)
NEAR_MAX = 16  # Nodes that are looked at for a way that costs nothing more.
_INT, _ROW, _GRID, _FLAGS = types.int64, types.int64[::1], types.int64[:, ::1], types.boolean[::1]


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


@kernel(types.void(_GRID, _ROW, *[_INT] * 5))
def label(scratch: Int64s, count: Int64s, node: int, distance: int, origin: int, leaf: int, slot: int) -> None:
    """Note a shorter way to the node. Those no farther than the level wait first in, first out: ways stay short."""
    known = scratch[DISTANCE, node]
    scratch[DISTANCE, node] = distance
    scratch[FROM, node] = origin
    scratch[LEAF, node] = leaf
    scratch[SLOT, node] = slot
    if known < OPEN:
        rise(scratch[HEAP], scratch[PLACE], scratch[DISTANCE], scratch[PLACE, node])
        return
    scratch[SEEN, count[N_SEEN]] = node
    count[N_SEEN] += 1
    if distance == count[LEVEL]:
        scratch[PLATEAU, count[Q_END]] = node
        count[Q_END] += 1
    else:
        at = count[N_HEAP]
        scratch[HEAP, at] = node
        scratch[PLACE, node] = at
        count[N_HEAP] += 1
        rise(scratch[HEAP], scratch[PLACE], scratch[DISTANCE], at)


@kernel(_INT(RESIDUAL, LEAVES, *[_INT] * 3, _GRID, _ROW, _ROW))
def grow(
    net: Residual,
    table: Leaves,
    root: int,
    hub: int,
    wanted: int,
    scratch: Int64s,
    count: Int64s,
    work: Int64s,
) -> int:
    """Search from `root`, a node of the core or a leaf that is nowhere, until so many units of lack are found.

    The hub, if any (-1), takes all. Prices change so that the ways there are tight. Returns how many nodes that lack,
    or the hub, are in FOUND. With wanted = 1 it is the nearest one, and what lies beyond it is not looked at.
    """
    price, excess, to, cost = net.price, net.excess, net.to, net.cost
    row, slot_of, member = table.row, table.slot, table.member
    distance = scratch[DISTANCE]
    count[:] = 0
    nearest = OPEN
    target = -1
    begin = 0
    end = 0
    here = 0
    if table.is_leaf[root]:
        best = best_slot(table, root, price)
        if best < 0:
            return 0
        here = price[slot_of[best, TO]] - slot_of[best, COST]
        begin = row[root, FIRST]
        end = row[root, STOP]
        label(scratch, count, slot_of[best, TO], 0, -1, root, best)
    else:
        label(scratch, count, root, 0, -1, -1, -1)
    met = 0
    scanned = 0
    while True:
        if count[Q_BEGIN] < count[Q_END]:
            node = scratch[PLATEAU, count[Q_BEGIN]]
            count[Q_BEGIN] += 1
        elif begin < end:  # The other places of a root leaf; most searches have ended before.
            scanned += end - begin
            for slot in range(begin, end):
                other = slot_of[slot, TO]
                new = here + slot_of[slot, COST] - price[other]
                if new < distance[other] and new < nearest:
                    label(scratch, count, other, new, -1, root, slot)
                    if other == hub or excess[other] < 0:
                        if wanted == 1:
                            nearest = new
                            target = other
            begin = end
            continue
        elif count[N_HEAP] > 0:
            if distance[scratch[HEAP, 0]] >= nearest:
                break
            node = pop(scratch[HEAP], scratch[PLACE], distance, count[N_HEAP])
            count[N_HEAP] -= 1
            count[LEVEL] = distance[node]
        else:
            break
        level = count[LEVEL]
        if node == hub or excess[node] < 0:
            if wanted == 1:
                nearest = level
                target = node
                break
            scratch[FOUND, count[N_FOUND]] = node
            count[N_FOUND] += 1
            met += OPEN if node == hub else -excess[node]
            if met >= wanted:
                break
        if level >= nearest:
            break
        base = level + price[node]
        scanned += net.shut[node] - net.first[node]
        for at in range(net.first[node], net.shut[node]):
            other = to[at]
            new = base + cost[at] - price[other]
            if new < distance[other] and new < nearest:
                arc = net.arc[at]
                label(scratch, count, other, new, node, -1, 2 * arc + (net.entry[arc] == at))
                if wanted == 1 and (other == hub or excess[other] < 0):
                    nearest = new
                    target = other
        if level >= nearest:
            break
        chunk = table.chunk[node]
        stop = chunk * CHUNK + table.filled[node]
        while chunk >= 0:
            for place in range(chunk * CHUNK, stop):
                moved = base - member[place, HERE]
                scanned += member[place, END] - member[place, BEGIN]
                for slot in range(member[place, BEGIN], member[place, END]):
                    other = slot_of[slot, TO]
                    new = moved + slot_of[slot, COST] - price[other]
                    if new < distance[other] and new < nearest:
                        label(scratch, count, other, new, node, member[place, MEMBER], slot)
                        if wanted == 1 and (other == hub or excess[other] < 0):
                            nearest = new
                            target = other
            chunk = table.following[chunk]
            stop = (chunk + 1) * CHUNK
    far = count[LEVEL]
    if wanted == 1:
        if target >= 0:
            scratch[FOUND, 0] = target
            count[N_FOUND] = 1
        far = min(nearest, far) if target < 0 else nearest
    for index in range(count[N_SEEN]):
        node = scratch[SEEN, index]
        if distance[node] < far:
            price[node] -= far - distance[node]
        distance[node] = OPEN
    work[SEARCHES] += 1
    work[SETTLED] += count[N_SEEN]
    work[SCANNED] += scanned
    found: int = count[N_FOUND]
    return found


@kernel(types.boolean(_GRID, _ROW, *[_INT] * 5))
def meet(scratch: Int64s, count: Int64s, node: int, distance: int, origin: int, leaf: int, slot: int) -> bool:
    """In a search that stays near: note a way to the node. True where it costs nothing more and is the first such.

    A node that was met before at a distance is not gone on from: `grow` comes to most such only after all the others.
    """
    known = scratch[DISTANCE, node]
    if known == 0 or (distance > 0 and known < OPEN):
        return False
    scratch[DISTANCE, node] = distance
    if known == OPEN:
        scratch[SEEN, count[N_SEEN]] = node
        count[N_SEEN] += 1
    if distance > 0:
        return False
    scratch[FROM, node] = origin
    scratch[LEAF, node] = leaf
    scratch[SLOT, node] = slot
    if known == OPEN:
        scratch[PLATEAU, count[Q_END]] = node
        count[Q_END] += 1
    return True


@kernel(_INT(RESIDUAL, LEAVES, _INT, _INT, _GRID, _ROW, _ROW))
def near(net: Residual, table: Leaves, leaf: int, hub: int, scratch: Int64s, count: Int64s, work: Int64s) -> int:
    """Search for a leaf that is nowhere along what costs no more than its best place, so that no price changes.

    In a slack network most leaves have such a way, and what lies farther needs neither label nor heap. Returns a node
    that lacks, or the hub, as near as what `grow` would find (nearly always that, by the same way); -1: none so near.
    """
    price, excess, to, cost = net.price, net.excess, net.to, net.cost
    slot_of, member = table.slot, table.member
    best = best_slot(table, leaf, price)
    found: int = -1
    count[:] = 0
    if best >= 0:
        meet(scratch, count, slot_of[best, TO], 0, -1, leaf, best)
    scanned = 0
    while found < 0 and count[Q_BEGIN] < min(count[Q_END], NEAR_MAX):
        node = scratch[PLATEAU, count[Q_BEGIN]]
        count[Q_BEGIN] += 1
        if node == hub or excess[node] < 0:
            found = node
            break
        base = price[node]
        scanned += net.shut[node] - net.first[node]
        for at in range(net.first[node], net.shut[node]):
            other, way = to[at], 0
            distance = base + cost[at] - price[other]
            if distance == 0:
                arc = net.arc[at]
                way = 2 * arc + (net.entry[arc] == at)
            if meet(scratch, count, other, distance, node, -1, way) and (other == hub or excess[other] < 0):
                found = other
                break
        chunk = table.chunk[node] if found < 0 else -1
        stop = chunk * CHUNK + table.filled[node]
        while chunk >= 0 and found < 0:
            for place in range(chunk * CHUNK, stop):
                moved = base - member[place, HERE]
                scanned += member[place, END] - member[place, BEGIN]
                for slot in range(member[place, BEGIN], member[place, END]):
                    other = slot_of[slot, TO]
                    distance = moved + slot_of[slot, COST] - price[other]
                    met = meet(scratch, count, other, distance, node, member[place, MEMBER], slot)
                    if met and found < 0 and (other == hub or excess[other] < 0):
                        found = other
            chunk = table.following[chunk]
            stop = (chunk + 1) * CHUNK
    for index in range(count[N_SEEN]):
        scratch[DISTANCE, scratch[SEEN, index]] = OPEN
    work[SEARCHES] += found >= 0
    work[SETTLED] += count[Q_END]
    work[SCANNED] += scanned
    return found


@kernel(_INT(RESIDUAL, LEAVES, _INT, _INT, _GRID, _ROW))
def augment(net: Residual, table: Leaves, target: int, hub: int, scratch: Int64s, work: Int64s) -> int:
    """Send what fits along the way found to `target`. Returns how much: 0 where an earlier way took what it needs."""
    row, excess = table.row, net.excess
    amount: int = OPEN if target == hub else -excess[target]
    root = node = target
    while node >= 0 and amount > 0:
        leaf, slot, origin = scratch[LEAF, node], scratch[SLOT, node], scratch[FROM, node]
        root = node
        if leaf >= 0:
            amount = min(amount, 1)
            at = row[leaf, AT]
            if (table.slot[at, TO] if at >= 0 else -1) != origin:
                amount = 0
            root = leaf
        elif slot >= 0:
            forth = net.entry[slot >> 1]
            amount = min(amount, net.left[forth if slot & 1 else net.sister[forth]])
        node = origin
    amount = min(amount, excess[root])
    if amount <= 0:
        return 0
    node = target
    while node >= 0:
        leaf, slot = scratch[LEAF, node], scratch[SLOT, node]
        if leaf >= 0:
            if row[leaf, AT] >= 0:
                leave(table, leaf)
            settle(table, leaf, slot)
        elif slot >= 0:
            forth = net.entry[slot >> 1]
            send(net, forth if slot & 1 else net.sister[forth], amount)
        node = scratch[FROM, node]
    excess[root] -= amount
    excess[target] += amount
    work[PATHS] += 1
    return amount


@kernel(_INT(RESIDUAL, LEAVES, _ROW, _INT, _INT, _GRID, _ROW))
def route(
    net: Residual,
    table: Leaves,
    waiting: Int64s,
    hub: int,
    scans_max: int,
    scratch: Int64s,
    work: Int64s,
) -> int:
    """Settle every excess: the waiting leaves one after the other, then the core's, each with the nearest lack.

    The hub, the only consumer of the network (-1: there are several), takes what it is nearest to; from there one
    search finds all the lacks that are left. Prices must be right (no entry with room has a negative reduced cost, no
    leaf would rather be elsewhere) and stay so. GREW: past `scans_max` entries. STUCK: something can go nowhere.
    """
    excess = net.excess
    n_nodes = excess.shape[0]
    n_waiting = waiting.shape[0]
    count = np.zeros(N_COUNT, np.int64)
    limit = work[SCANNED] + scans_max
    for index in range(n_waiting + n_nodes):
        root = waiting[index] if index < n_waiting else index - n_waiting
        if root == hub:
            continue
        if index < n_waiting and table.is_leaf[root]:
            target = near(net, table, root, hub, scratch, count, work)
            if target >= 0:
                augment(net, table, target, hub, scratch, work)
        while excess[root] > 0:
            if grow(net, table, root, hub, 1, scratch, count, work) == 0:
                return STUCK
            augment(net, table, scratch[FOUND, 0], hub, scratch, work)
            if work[SCANNED] > limit:
                return GREW
    while hub >= 0 and excess[hub] > 0:
        found = grow(net, table, hub, -1, excess[hub], scratch, count, work)
        if found == 0:
            return STUCK
        for index in range(found):
            augment(net, table, scratch[FOUND, index], -1, scratch, work)
        if work[SCANNED] > limit:
            return GREW
    return FINE


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


@kernel(types.float64(RESIDUAL, LEAVES, _FLAGS, *[_ROW] * 4))
def read(
    net: Residual,
    table: Leaves,
    alive: Flags,
    capacity: Int64s,
    cost: Int64s,
    out_flow: Int64s,
    out_potential: Int64s,
) -> float:
    """Write each arc's flow (a loop that earns carries all it can) and each node's price, 0 where it is not alive.

    Returns about the sum of |flow x cost|: whether the exact sum can be trusted to int64. Time O(A + N).
    """
    for arc in range(out_flow.shape[0]):
        out_flow[arc] = net.flow[arc]
        if net.entry[arc] < 0:
            out_flow[arc] = capacity[arc] if table.of_arc[arc] < 0 and cost[arc] < 0 else 0
    for node in range(out_potential.shape[0]):
        out_potential[node] = 0
        if not alive[node]:
            continue
        if not table.is_leaf[node]:
            out_potential[node] = net.price[node]
            continue
        best = best_slot(table, node, net.price)
        if best >= 0:
            out_potential[node] = net.price[table.slot[best, TO]] - table.slot[best, COST]
        if table.row[node, AT] >= 0:
            out_flow[table.arc[table.row[node, AT]]] = 1
    size = 0.0
    for arc in range(out_flow.shape[0]):
        size += abs(float(out_flow[arc]) * float(cost[arc]))
    return size


@kernel(types.float64(RESIDUAL, LEAVES, _ROW))
def add_up(net: Residual, table: Leaves, out_total: Int64s) -> float:
    """Write what all flow costs, loops aside, into out_total int64[1]. Returns about the sum of |flow x cost|.

    Where that is OBJECTIVE_SURE or more, what is written is of no use.

    Time O(N + entries of the core).
    """
    total = 0
    size = 0.0
    for node in range(net.first.shape[0]):
        for at in range(net.first[node], net.stop[node]):
            arc = net.arc[at]
            if net.entry[arc] == at:
                size += abs(float(net.flow[arc]) * float(net.cost[at]))
                if size < OBJECTIVE_SURE:
                    total += net.flow[arc] * net.cost[at]
        chunk = table.chunk[node]
        stop = chunk * CHUNK + table.filled[node]
        while chunk >= 0:
            for place in range(chunk * CHUNK, stop):
                size += abs(float(table.member[place, HERE]))
                if size < OBJECTIVE_SURE:
                    total += table.member[place, HERE]
            chunk = table.following[chunk]
            stop = (chunk + 1) * CHUNK
    out_total[0] = total
    return size


def scratch_for(n_nodes: int) -> Int64s:
    """What searches need between them, for that many nodes."""
    scratch = np.empty((N_ROWS, n_nodes), np.int64)
    scratch[DISTANCE] = OPEN
    return scratch
