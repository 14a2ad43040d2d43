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

from policies.kernels.jit import Index, Int64s, kernel
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
    fetch_chunk,
    fetch_slots,
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


@kernel(types.void(_GRID, _INT), inline=True)
def rise(scratch: Int64s, place: int) -> None:
    """Let the node at that place of the heap rise to where it belongs."""
    node = scratch[HEAP, Index(place)]
    key = scratch[DISTANCE, Index(node)]
    rises = place > 0
    while rises:
        above = (place - 1) >> 1
        other = scratch[HEAP, Index(above)]
        rises = scratch[DISTANCE, Index(other)] > key
        if rises:
            scratch[HEAP, Index(place)] = other
            scratch[PLACE, Index(other)] = place
            place = above
            rises = place > 0
    scratch[HEAP, Index(place)] = node
    scratch[PLACE, Index(node)] = place


@kernel(_INT(_GRID, _INT), inline=True)
def pop(scratch: Int64s, n_heap: int) -> int:
    """Take the nearest node off the heap of `n_heap`; return it. Its place becomes -1."""
    top: int = scratch[HEAP, 0]
    last = n_heap - 1
    node = scratch[HEAP, Index(last)]
    key = scratch[DISTANCE, Index(node)]
    place, below = 0, 1
    sinks = below < last
    while sinks:
        other = scratch[HEAP, Index(below)]
        beside = scratch[HEAP, Index(below + 1)] if below + 1 < last else other
        if scratch[DISTANCE, Index(beside)] < scratch[DISTANCE, Index(other)]:
            below += 1
            other = beside
        sinks = scratch[DISTANCE, Index(other)] < key
        if sinks:
            scratch[HEAP, Index(place)] = other
            scratch[PLACE, Index(other)] = place
            place = below
            below = 2 * place + 1
            sinks = below < last
    scratch[HEAP, Index(place)] = node
    scratch[PLACE, Index(node)] = place
    scratch[PLACE, Index(top)] = -1
    return top


@kernel(types.void(_GRID, _ROW, *[_INT] * 5), inline=True)
def label(scratch: Int64s, count: Int64s, node: int, distance: int, origin: int, leaf: int, slot: int) -> None:
    """Note a shorter way to the node. Those no farther than the level wait first in, first out: ways stay short."""
    at = Index(node)
    known, place = scratch[DISTANCE, at], scratch[PLACE, at]
    scratch[FROM, at] = origin
    scratch[LEAF, at] = leaf
    scratch[SLOT, at] = slot
    scratch[DISTANCE, at] = distance
    is_new = known == OPEN
    waits = distance == count[LEVEL]
    if is_new:
        scratch[SEEN, Index(count[N_SEEN])] = node
        place = count[Q_END] if waits else count[N_HEAP]
        scratch[PLATEAU if waits else HEAP, Index(place)] = node
    count[N_SEEN] += is_new
    count[Q_END] += is_new & waits
    count[N_HEAP] += is_new & (not waits)
    if not (is_new & waits):
        rise(scratch, place)


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
    first, shut, entry, arc_of = net.first, net.shut, net.entry, net.arc
    row, slot_of, member = table.row, table.slot, table.member
    chunk_of, filled, following = table.chunk, table.filled, table.following
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
    fetched: int = -1  # The chunk whose members' slots are on their way.
    while True:
        if count[Q_BEGIN] < count[Q_END]:
            node = scratch[PLATEAU, count[Q_BEGIN]]
            count[Q_BEGIN] += 1
        elif begin < end:  # The other places of a root leaf; most searches have ended before.
            scanned += end - begin
            for slot in range(begin, end):
                other = slot_of[Index(slot), TO]
                new = here + slot_of[Index(slot), COST] - price[Index(other)]
                if new < distance[Index(other)] and new < nearest:
                    label(scratch, count, other, new, -1, root, slot)
                    if wanted == 1 and (other == hub or excess[Index(other)] < 0):
                        nearest = new
                        target = other
            begin = end
            continue
        elif count[N_HEAP] > 0:
            if distance[scratch[HEAP, 0]] >= nearest:
                break
            node = pop(scratch, count[N_HEAP])
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
        scanned += shut[node] - first[node]
        for at in range(first[node], shut[node]):
            other = to[Index(at)]
            new = base + cost[Index(at)] - price[Index(other)]
            if new < distance[Index(other)] and new < nearest:
                arc = arc_of[Index(at)]
                label(scratch, count, other, new, node, -1, 2 * arc + (entry[Index(arc)] == at))
                if wanted == 1 and (other == hub or excess[Index(other)] < 0):
                    nearest = new
                    target = other
        if level >= nearest:
            break
        chunk = chunk_of[node]
        stop = chunk * CHUNK + filled[node]
        while chunk >= 0:
            first_place = chunk * CHUNK
            ahead = following[chunk]
            if ahead < 0:  # What is looked at next, most likely.
                top = scratch[HEAP, 0] if count[N_HEAP] > 0 else node
                ahead = chunk_of[scratch[PLATEAU, count[Q_BEGIN]] if count[Q_BEGIN] < count[Q_END] else top]
            fetch_chunk(member, ahead)
            if chunk != fetched:
                fetch_slots(member, slot_of, first_place, stop)
            fetched = ahead
            middle = first_place + ((stop - first_place) >> 1)
            for place in range(first_place, stop):
                if place == middle:
                    fetch_slots(member, slot_of, max(ahead, 0) * CHUNK, (max(ahead, 0) + 1) * CHUNK)
                each, leaf = Index(place), member[Index(place), MEMBER]
                moved = base - member[each, HERE]
                first_slot, last_slot = member[each, BEGIN], member[each, END]
                scanned += last_slot - first_slot
                for slot in range(first_slot, last_slot):
                    other = slot_of[Index(slot), TO]
                    new = moved + slot_of[Index(slot), COST] - price[Index(other)]
                    if new < distance[Index(other)] and new < nearest:
                        label(scratch, count, other, new, node, leaf, slot)
                        if wanted == 1 and (other == hub or excess[Index(other)] < 0):
                            nearest = new
                            target = other
            chunk = following[chunk]
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


@kernel(types.boolean(_GRID, _ROW, *[_INT] * 5), inline=True)
def meet(scratch: Int64s, count: Int64s, node: int, distance: int, origin: int, leaf: int, slot: int) -> bool:
    """In a search that stays near: note a way to the node. True where it costs nothing more and is the first such.

    A node that was met before at a distance is not gone on from: `grow` comes to most such only after all the others.
    """
    at = Index(node)
    known = scratch[DISTANCE, at]
    is_new = known == OPEN
    is_first: bool = (distance == 0) & (known != 0)
    n_seen, end = Index(count[N_SEEN]), Index(count[Q_END])
    if is_new:
        scratch[SEEN, n_seen] = node
    if is_first:
        scratch[FROM, at] = origin
        scratch[LEAF, at] = leaf
        scratch[SLOT, at] = slot
    if is_first & is_new:
        scratch[PLATEAU, end] = node
    scratch[DISTANCE, at] = distance if is_first | is_new else known
    count[N_SEEN] += is_new
    count[Q_END] += is_first & is_new
    return is_first


@kernel(_INT(RESIDUAL, LEAVES, _INT, _INT, _GRID, _ROW, _ROW), inline=True)
def near(net: Residual, table: Leaves, leaf: int, hub: int, scratch: Int64s, count: Int64s, work: Int64s) -> int:
    """Search for a leaf that is nowhere along what costs no more than its best place, so that no price changes.

    In a slack network most leaves have such a way, and what lies farther needs neither label nor heap. Returns a node
    that lacks, or the hub, as near as what `grow` would find (nearly always that, by the same way); -1: none so near.
    """
    price, excess, to, cost, first, shut = net.price, net.excess, net.to, net.cost, net.first, net.shut
    arc_of, entry, slot_of, member = net.arc, net.entry, table.slot, table.member
    chunk_of, filled, following = table.chunk, table.filled, table.following
    best = best_slot(table, leaf, price)
    found: int = -1
    count[N_SEEN] = 0
    count[Q_END] = 0
    begin = 0
    scanned = 0
    if best >= 0:
        meet(scratch, count, slot_of[best, TO], 0, -1, leaf, best)
    while found < 0 and begin < min(count[Q_END], NEAR_MAX):
        node = scratch[PLATEAU, Index(begin)]
        begin += 1
        base = price[Index(node)]
        at, stop = first[Index(node)], shut[Index(node)]
        chunk = chunk_of[Index(node)]
        if node == hub or excess[Index(node)] < 0:
            found = node
            stop = at
            chunk = -1
        while at < stop and found < 0:
            other, arc = to[Index(at)], arc_of[Index(at)]
            distance = base + cost[Index(at)] - price[Index(other)]
            way = 2 * arc + (entry[Index(arc)] == at)
            met = meet(scratch, count, other, distance, node, -1, way)
            if met and (other == hub or excess[Index(other)] < 0):
                found = other
            scanned += 1
            at += 1
        place = chunk * CHUNK
        end = place + filled[Index(node)]
        while chunk >= 0 and found < 0:
            here = Index(place)
            moved = base - member[here, HERE]
            slot, last = member[here, BEGIN], member[here, END]
            scanned += last - slot
            while slot < last and found < 0:
                other = slot_of[Index(slot), TO]
                distance = moved + slot_of[Index(slot), COST] - price[Index(other)]
                met = meet(scratch, count, other, distance, node, member[here, MEMBER], slot)
                if met and (other == hub or excess[Index(other)] < 0):
                    found = other
                slot += 1
            place += 1
            if place == end:
                chunk = following[Index(chunk)]
                place = chunk * CHUNK
                end = place + CHUNK
    for index in range(count[N_SEEN]):
        scratch[DISTANCE, Index(scratch[SEEN, Index(index)])] = OPEN
    work[SEARCHES] += found >= 0
    work[SETTLED] += count[Q_END]
    work[SCANNED] += scanned
    return found


@kernel(_INT(RESIDUAL, LEAVES, _INT, _INT, _GRID, _ROW), inline=True)
def augment(net: Residual, table: Leaves, target: int, hub: int, scratch: Int64s, work: Int64s) -> int:
    """Send what fits along the way found to `target`. Returns how much: 0 where an earlier way took what it needs."""
    row, excess, slot_of = table.row, net.excess, table.slot
    entry, left, sister = net.entry, net.left, net.sister
    amount: int = OPEN if target == hub else -excess[target]
    root = node = target
    while node >= 0:
        leaf, slot, origin = scratch[LEAF, node], scratch[SLOT, node], scratch[FROM, node]
        root = node
        if leaf >= 0:
            at = row[leaf, AT]
            is_there = (slot_of[at, TO] if at >= 0 else -1) == origin
            amount = min(amount, 1) if is_there else 0
            root = leaf
        elif slot >= 0:
            forth = entry[slot >> 1]
            amount = min(amount, left[forth if slot & 1 else sister[forth]])
        node = origin if amount > 0 else -1
    amount = min(amount, excess[root])
    node = target if amount > 0 else -1
    while node >= 0:
        leaf, slot = scratch[LEAF, node], scratch[SLOT, node]
        if leaf >= 0:
            if row[leaf, AT] >= 0:
                leave(table, leaf)
            settle(table, leaf, slot)
        elif slot >= 0:
            forth = entry[slot >> 1]
            send(net, forth if slot & 1 else sister[forth], amount)
        node = scratch[FROM, node]
    amount = max(amount, 0)
    excess[root] -= amount
    excess[target] += amount
    work[PATHS] += amount > 0
    return amount


@kernel(_INT(RESIDUAL, LEAVES, _ROW, _INT, _INT, _GRID, _ROW), entry=True)
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

    The hub, the only consumer of the network (-1: there are several), takes what it is nearest to, too much perhaps
    (see `drain`). Prices must be right (no entry with room has a negative reduced cost, no leaf would rather be
    elsewhere) and stay so. GREW: past `scans_max` entries. STUCK: something can go nowhere.
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
    return FINE


@kernel(_INT(RESIDUAL, LEAVES, *[_INT] * 3, _GRID, _ROW), entry=True)
def drain(net: Residual, table: Leaves, hub: int, wanted: int, scans_max: int, scratch: Int64s, work: Int64s) -> int:
    """Settle what the hub has too much of, all the lacks that are left by one search from there, again and again."""
    excess = net.excess
    count = np.zeros(N_COUNT, np.int64)
    limit = work[SCANNED] + scans_max
    until = excess[hub] - min(wanted, excess[hub])
    while excess[hub] > until:
        found = grow(net, table, hub, -1, excess[hub] - until, scratch, count, work)
        if found == 0:
            return STUCK
        for index in range(found):
            augment(net, table, scratch[FOUND, index], -1, scratch, work)
        if work[SCANNED] > limit:
            return GREW
    return FINE


@kernel(_INT(_ROW), entry=True)
def only_consumer(supply: Int64s) -> int:
    """The one node with a negative supply; -1 where there are several or none."""
    found: int = -1
    for node in range(supply.shape[0]):
        if supply[node] < 0:
            if found >= 0:
                return -1
            found = node
    return found


def scratch_for(n_nodes: int) -> Int64s:
    """What searches need between them, for that many nodes."""
    scratch = np.empty((N_ROWS, n_nodes), np.int64)
    scratch[DISTANCE] = OPEN
    return scratch
