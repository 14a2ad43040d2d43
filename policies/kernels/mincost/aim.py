"""Prices that know how far away what lacks is: all set anew at once, between searches for exchange paths.

Where a network is nearly or exactly full, the last searches pass through most of it, for they go the same way in every
direction. One search from all that lacks, backwards, tells each node's distance to the nearest; taken off the prices,
every node has a way there that costs nothing more. What waits takes these ways at once as long as they are free
(`follow`), and later searches find others until the nearest lacks are used up.

Source: Goldberg, An efficient implementation of a scaling minimum-cost flow algorithm (1997), global price updates.
"""

import numpy as np
from numba import types

from policies.kernels.fetch import prefetch
from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.exchange import (
    DISTANCE,
    FROM,
    LEAF,
    LEVEL,
    N_COUNT,
    N_HEAP,
    N_SEEN,
    PLATEAU,
    Q_BEGIN,
    Q_END,
    SCANNED,
    SEEN,
    SETTLED,
    SLOT,
    augment,
    label,
    pop,
)
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.leaves import AT, COST, FIRST, LEAVES, STOP, TO, Int32s, Leaves, best_slot
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import RESIDUAL, Residual

AHEAD = 16  # Slots: so far ahead their leaves are loaded.
NODE, PRICE = range(2)  # Of a leaf: where it is (-1: nowhere), and its price.
# Rows of `ways` int64[N_WAYS, N], the tree of ways to what lacks: the next node (THERE at what lacks, LOST where no way
# is), the leaf that goes there (-1: none), else the entry, as in `exchange`; and how far it is, OPEN where no way is.
NEXT, GOES, ENTRY, FAR = range(4)
N_WAYS = 4
THERE, LOST = -1, -2
_INT, _ROW, _GRID, _IDS = types.int64, types.int64[::1], types.int64[:, ::1], types.int32[::1]


@kernel(types.void(LEAVES, _ROW, _IDS, _IDS))
def list_backwards(table: Leaves, out_first: Int64s, out_leaf: Int32s, out_cost: Int32s) -> None:
    """List the slots that lead to each node: v's from out_first[v] to out_first[v + 1], with their leaves and costs.

    out_first int64[N + 1], zeros; the others have room for all slots and AHEAD more. Time O(N + S).
    """
    is_leaf, row, slot_of = table.is_leaf, table.row, table.slot
    n_nodes = row.shape[0]
    for leaf in range(n_nodes):
        for slot in range(row[leaf, FIRST], row[leaf, STOP] if is_leaf[leaf] else row[leaf, FIRST]):
            out_first[Index(slot_of[Index(slot), TO] + 1)] += 1
    total = 0
    for node in range(n_nodes):  # Where each begins, one place late: the next pass moves it there.
        count = out_first[Index(node + 1)]
        out_first[Index(node + 1)] = total
        total += count
    for leaf in range(n_nodes):
        for slot in range(row[leaf, FIRST], row[leaf, STOP] if is_leaf[leaf] else row[leaf, FIRST]):
            at = Index(slot_of[Index(slot), TO] + 1)
            place = Index(out_first[at])
            out_leaf[place] = leaf
            out_cost[place] = slot_of[Index(slot), COST]
            out_first[at] += 1
    out_leaf[total : total + AHEAD] = 0


@kernel(_INT(RESIDUAL, LEAVES, _INT, types.boolean[::1], _ROW, _IDS, _IDS, _GRID, _GRID, _ROW))
def aim(
    net: Residual,
    table: Leaves,
    hub: int,
    outside: Flags,
    slot_first: Int64s,
    slot_leaf: Int32s,
    slot_cost: Int32s,
    ways: Int64s,
    scratch: Int64s,
    work: Int64s,
) -> int:
    """Tell each node's way to the nearest that lacks, or to the hub (-1: none), and how far that is.

    Leaves that are at a node outside stay there. slot_*: as `list_backwards` has them. Prices must be right. Returns
    the greatest distance. Time O(S + E) and a heap's.
    """
    price, excess, to, cost, left, sister = net.price, net.excess, net.to, net.cost, net.left, net.sister
    first, stop, arc_of, entry_of = net.first, net.stop, net.arc, net.entry
    is_leaf, row, slot_of = table.is_leaf, table.row, table.slot
    distance = scratch[DISTANCE]
    n_nodes = price.shape[0]
    count = np.zeros(N_COUNT, np.int64)
    own = np.empty((n_nodes, 2), np.int64)
    for node in range(n_nodes):
        at = row[node, AT] if is_leaf[node] else -1
        own[node, NODE], own[node, PRICE] = -1, 0
        ways[NEXT, node] = LOST
        if at >= 0:
            here = slot_of[Index(at), TO]
            own[node, NODE] = here
            own[node, PRICE] = price[Index(here)] - slot_of[Index(at), COST]
        if (not is_leaf[node]) & ((node == hub) | (excess[node] < 0)):
            label(scratch, count, node, 0, -1, -1, -1)
            ways[NEXT, node] = THERE
    scanned = 0
    while count[Q_BEGIN] < count[Q_END] or count[N_HEAP] > 0:
        if count[Q_BEGIN] < count[Q_END]:
            node = scratch[PLATEAU, Index(count[Q_BEGIN])]
            count[Q_BEGIN] += 1
        else:
            node = pop(scratch, count[N_HEAP])
            count[N_HEAP] -= 1
            count[LEVEL] = distance[Index(node)]
        base = count[LEVEL] - price[Index(node)]
        for entry in range(first[Index(node)], stop[Index(node)]):
            other = to[Index(entry)]
            new = base - cost[Index(entry)] + price[Index(other)]
            back = Index(sister[Index(entry)])
            if left[back] > 0 and new < distance[Index(other)]:
                label(scratch, count, other, new, -1, -1, -1)
                arc = arc_of[back]
                ways[NEXT, Index(other)] = node
                ways[GOES, Index(other)] = -1
                ways[ENTRY, Index(other)] = 2 * arc + (entry_of[Index(arc)] == sister[Index(entry)])
        begin, end = slot_first[Index(node)], slot_first[Index(node + 1)]
        for place in range(begin, end):
            prefetch(own, 2 * np.int64(slot_leaf[Index(place + AHEAD)]))
            leaf = Index(slot_leaf[Index(place)])
            other = own[leaf, NODE]
            new = base + slot_cost[Index(place)] + own[leaf, PRICE]
            if other >= 0 and new < distance[Index(other)] and not outside[Index(other)]:
                label(scratch, count, other, new, -1, -1, -1)
                ways[NEXT, Index(other)] = node
                ways[GOES, Index(other)] = np.int64(leaf)
        scanned += stop[Index(node)] - first[Index(node)] + end - begin
    for node in range(n_nodes):
        ways[FAR, node] = distance[node]
    for index in range(count[N_SEEN]):
        distance[Index(scratch[SEEN, Index(index)])] = OPEN
    work[SETTLED] += count[N_SEEN]
    work[SCANNED] += scanned
    far: int = count[LEVEL]
    return far


@kernel(types.void(RESIDUAL, LEAVES, _GRID, _INT))
def approach(net: Residual, table: Leaves, ways: Int64s, far: int) -> None:
    """Take each node's distance, or `far` where it is more, off its price: from those nearer ways cost nothing then."""
    price, is_leaf = net.price, table.is_leaf
    for node in range(price.shape[0]):
        price[node] -= min(ways[FAR, node], far) * (not is_leaf[node])


@kernel(_INT(LEAVES, _INT, _INT), inline=True)
def slot_to(table: Leaves, leaf: int, node: int) -> int:
    """The leaf's cheapest slot at that node; -1: it has none."""
    row, slot_of = table.row, table.slot
    found: int = -1
    least = OPEN
    for slot in range(row[leaf, FIRST], row[leaf, STOP]):
        cost = slot_of[Index(slot), COST]
        is_better = (slot_of[Index(slot), TO] == node) & (cost < least)
        found = slot if is_better else found
        least = cost if is_better else least
    return found


@kernel(_INT(RESIDUAL, LEAVES, _ROW, _INT, _GRID, _GRID, _ROW), entry=True)
def follow(net: Residual, table: Leaves, waiting: Int64s, hub: int, ways: Int64s, scratch: Int64s, work: Int64s) -> int:
    """Send what waits along the `ways` that `aim` told, each as long as nothing before it has taken a part of it.

    Returns how many went. Time O(length of a way) each.
    """
    price, excess, is_leaf, slot_of = net.price, net.excess, table.is_leaf, table.slot
    went: int = 0
    for index in range(waiting.shape[0]):
        root = waiting[index]
        leaf, slot = (root, best_slot(table, root, price)) if is_leaf[root] else (-1, -1)
        node = int(slot_of[max(slot, 0), TO]) if leaf >= 0 else root
        if excess[root] > 0 and (slot >= 0 or leaf < 0):
            scratch[FROM, node] = -1
            scratch[LEAF, node] = leaf
            scratch[SLOT, node] = slot
            following = ways[NEXT, node]
            while following >= 0:
                goes = ways[GOES, node]
                scratch[FROM, following] = node
                scratch[LEAF, following] = goes
                scratch[SLOT, following] = slot_to(table, goes, following) if goes >= 0 else ways[ENTRY, node]
                node = following
                following = ways[NEXT, node]
            if following == THERE:
                went += augment(net, table, node, hub, scratch, work) > 0
    return went
