"""What scarce places cost where more is wanted than there is, before anything is searched for.

From prices of 0 shortest paths are long under contention: everyone takes a cheap place, and each task too many raises
the prices of all, one search after another. But about what the places come to cost is known beforehand. A task saves so
much by its best place over what else it can do (wait): that is its bid, and the highest one that finds no room is the
price (`bid`, `raise_prices`). Then tasks that save less wait at once, for the others there are as many places as they
want, and those that are nearly even are never far: searches stay near. Where places are wanted by too few nearby, some
are left over in the end. So much dearer than they should be are they as a task that waits is far from them; prices come
down by that, all at once, and nearly as many tasks as places are left over come back (`release`), again and again.

Several markets, sites say, clear at prices of their own, each as if those of the others stood: these rise in turns.

It is exact, for only prices are guessed, and flow made to be right for them. Sources: Walras, Elements of Pure
Economics (1874), on prices that clear markets; Demange, Gale, Sotomayor, Multi-item auctions (1986), on prices that
rise while more is wanted; Bertsekas, The auction algorithm (1988), on finding assignments by prices.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.aim import FAR
from policies.kernels.mincost.leaves import AT, COST, FIRST, LEAVES, LISTED, PLACE, STOP, TO, Leaves, leave, settle
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import RESIDUAL, Residual, send

_INT, _ROW, _GRID = types.int64, types.int64[::1], types.int64[:, ::1]


@kernel(_INT(RESIDUAL, LEAVES, _INT, _ROW, _ROW))
def find_markets(net: Residual, table: Leaves, hub: int, out_market: Int64s, out_room: Int64s) -> int:
    """Number the markets: parts of the core that hang together and that no way without a bound leads to the hub from.

    out_market: of each node; -1: its places are not scarce, or it is a leaf. out_room: how much fits into each market,
    what it lacks and what passes the arcs from there to the rest, less what it sends itself; 0 at least, OPEN at most.
    Returns how many there are. Time O(N + E).

    Nodes on their own are one market together: what a dozen places cost is not told by who would have them first.
    """
    first, stop, to, left, sister, is_leaf = net.first, net.stop, net.to, net.left, net.sister, table.is_leaf
    excess = net.excess
    n_nodes = out_market.shape[0]
    queue = np.empty(n_nodes, np.int64)
    unknown = n_nodes
    for node in range(n_nodes):
        out_market[node] = -1 if is_leaf[node] or node == hub else unknown
    queue[0] = hub
    begin, end = 0, 1
    while begin < end:
        node = queue[begin]
        begin += 1
        for at in range(first[node], stop[node]):
            other = to[at]
            if out_market[other] == unknown and left[sister[at]] >= OPEN:
                out_market[other] = -1
                queue[end] = other
                end += 1
    count: int = 0
    pool = -1
    for root in range(n_nodes):
        if out_market[root] != unknown:
            continue
        room = 0
        out_market[root] = count
        queue[0] = root
        begin, end = 0, 1
        while begin < end:
            node = queue[begin]
            begin += 1
            room -= excess[node]
            for at in range(first[node], stop[node]):
                other = to[at]
                if out_market[other] == unknown:
                    out_market[other] = count
                    queue[end] = other
                    end += 1
                elif out_market[other] < 0:
                    room += min(left[at], OPEN - room)
        room = max(room, 0)
        if end == 1 and pool >= 0:
            out_market[root] = pool
            out_room[pool] += min(room, OPEN - out_room[pool])
        else:
            pool = count if end == 1 else pool
            out_room[count] = room
            count += 1
    return count


@kernel(_INT(RESIDUAL, LEAVES, *[_ROW] * 6))
def bid(
    net: Residual,
    table: Leaves,
    waiting: Int64s,
    market: Int64s,
    out_leaf: Int64s,
    out_market: Int64s,
    out_saving: Int64s,
    out_other: Int64s,
) -> int:
    """List which of these leaves have their best place in a market, in which, and what they save over anything else.

    OPEN: they can do nothing else. out_other: the slot of what else, -1 where that is in another market, or nothing.
    Returns how many. Time O(their slots).
    """
    price, row, slot_of, is_leaf, excess = net.price, table.row, table.slot, table.is_leaf, net.excess
    count: int = 0
    for index in range(waiting.shape[0]):
        leaf = Index(waiting[index])
        wants = is_leaf[leaf] & (excess[leaf] > 0)
        begin, end = row[leaf, FIRST], row[leaf, STOP] if wants else row[leaf, FIRST]
        least, where = OPEN, -1
        for slot in range(begin, end):
            node = Index(slot_of[Index(slot), TO])
            value = slot_of[Index(slot), COST] - price[node]
            where = market[node] if value < least else where
            least = min(least, value)
        second, other = OPEN, -1
        for slot in range(begin, end):
            node = Index(slot_of[Index(slot), TO])
            value = slot_of[Index(slot), COST] - price[node]
            is_better = (market[node] != where) & (value < second)
            other = slot if is_better else other
            second = value if is_better else second
        out_leaf[count] = np.int64(leaf)
        out_market[count] = where
        out_saving[count] = second - least if second < OPEN else OPEN
        out_other[count] = other if other >= 0 and market[slot_of[other, TO]] < 0 else -1
        count += where >= 0
    return count


@kernel(types.void(RESIDUAL, _ROW, _ROW))
def raise_prices(net: Residual, market: Int64s, amount: Int64s) -> None:
    """Make the places of each market dearer by so much. Time O(N)."""
    price = net.price
    for node in range(market.shape[0]):
        if market[node] >= 0:
            price[node] -= amount[market[node]]


@kernel(types.void(RESIDUAL, _ROW))
def fill(net: Residual, market: Int64s) -> None:
    """Fill what leads from a market to the rest and is too cheap at these prices. Time O(N + E)."""
    price, excess, first, shut, to, left, cost = net.price, net.excess, net.first, net.shut, net.to, net.left, net.cost
    for node in range(market.shape[0]):
        at = shut[node] - 1 if market[node] >= 0 else -1
        while at >= first[node]:  # From behind: what is filled changes places with the last one that has room.
            other = to[at]
            sent = left[at] if cost[at] + price[node] - price[other] < 0 else 0
            if sent > 0:
                send(net, at, sent)
                excess[node] -= sent
                excess[other] += sent
            at -= 1


@kernel(types.void(RESIDUAL, LEAVES, *[_ROW] * 5))
def let_wait(
    net: Residual, table: Leaves, leaves: Int64s, market: Int64s, saving: Int64s, other: Int64s, spare: Int64s
) -> None:
    """Let leaves that save nothing do without, so many of each market. The rest as `bid` lists it."""
    for index in range(leaves.shape[0]):
        leaf, where = leaves[index], market[index]
        if saving[index] == 0 and other[index] >= 0 and spare[where] > 0:
            settle(table, leaf, other[index])
            net.excess[leaf] -= 1
            net.excess[table.slot[other[index], TO]] += 1
            spare[where] -= 1


@kernel(_INT(RESIDUAL, LEAVES, _ROW, _GRID, _ROW, _ROW))
def list_distances(
    net: Residual, table: Leaves, market: Int64s, ways: Int64s, out_leaf: Int64s, out_distance: Int64s
) -> int:
    """List the leaves that do without a scarce place and have a way to a lack, and how much dearer that is.

    ways: as `aim` tells them. Returns how many. Time O(N + slots).
    """
    price, row, slot_of = net.price, table.row, table.slot
    count: int = 0
    for leaf in range(row.shape[0]):
        at = row[leaf, AT]
        if not table.is_leaf[leaf] or at < 0 or market[slot_of[at, TO]] >= 0:
            continue
        nearest = OPEN
        for slot in range(row[leaf, FIRST], row[leaf, STOP]):
            node = slot_of[slot, TO]
            far = ways[FAR, node]
            if market[node] >= 0 and far < OPEN:
                nearest = min(nearest, far + slot_of[slot, COST] - price[node])
        if nearest < OPEN:
            out_leaf[count] = leaf
            out_distance[count] = nearest - slot_of[at, COST] + price[slot_of[at, TO]]
            count += 1
    return count


@kernel(_INT(RESIDUAL, LEAVES, _ROW, _ROW, _INT, _ROW))
def release(net: Residual, table: Leaves, leaves: Int64s, distance: Int64s, within: int, out_waiting: Int64s) -> int:
    """Let the leaves that are nearer than that leave where they are; list them. Returns how many."""
    excess, row = net.excess, table.row
    count: int = 0
    for index in range(leaves.shape[0]):
        if distance[index] < within:
            leaf = leaves[index]
            node = table.slot[row[leaf, AT], TO]
            leave(table, leaf)
            excess[leaf] += 1
            excess[node] -= 1
            row[leaf, PLACE] = LISTED
            out_waiting[count] = leaf
            count += 1
    return count
