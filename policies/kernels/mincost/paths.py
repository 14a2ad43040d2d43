"""All that waits routed by exchange paths: prices first where more is wanted than there is, searches, prices again.

Each step leaves prices right for the flow, whichever way it went: it is the order of steps that is chosen here, by what
they were measured to take (docs/kernels.md).
"""

from typing import NamedTuple

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import aim, clearing, exchange, leaves
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.leaves import Int32s, Leaves
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.residual import Residual

SCANS_ONCE = 3  # After so many scans of all it is looked whether searches have come to be long, each of more than
LONG = 128  # a part in so many of all, and whether those that are left would take as much again.
TURNS_MAX = 8  # In which prices rise before anything is searched for; a single market needs one.
FULL = 32  # A market of which all is wanted, or all but a part in so many, is cleared as if there were fewer places
HELD = 64  # than are wanted, by a part in so many: where some are left to wait, searches that end there are short.
FEW = 8  # Lacks that are left over: searches from the hub find them at once.
_NONE = np.empty(0, np.int64)


class Backwards(NamedTuple):
    """The slots that lead to each node (see `aim.list_backwards`)."""

    first: Int64s
    leaf: Int32s
    cost: Int32s


class Paths:
    """The searches of one solve. `work` is added to."""

    def __init__(self, net: Residual, table: Leaves, hub: int, scratch: Int64s, work: Int64s) -> None:
        """hub: the only consumer; -1: there are several."""
        self._net, self._table, self._hub, self._scratch, self._work = net, table, hub, scratch, work
        self._size = net.to.size + int(table.ends[leaves.N_SLOTS])  # What one scan of all looks at.
        self._backwards: Backwards | None = None
        self._ways = np.empty((aim.N_WAYS, 0), np.int64)

    def route(self, waiting: Int64s, scans_max: int, from_nothing: bool) -> int:
        """Settle all that waits, so many entries at most. The status, as of `exchange.route`."""
        status, market = self._cleared(waiting) if from_nothing and self._hub >= 0 else (exchange.FINE, None)
        if status == exchange.FINE:
            status = self._settle(waiting, scans_max)
        left = OPEN
        while status == exchange.FINE and market is not None:
            waiting, left = self._released(market, left)
            if not waiting.size or self._work[exchange.SCANNED] > scans_max:
                break
            # At once, for the next search may move the prices by which these ways cost nothing.
            aim.follow(self._net, self._table, waiting, self._hub, self._ways, self._scratch, self._work)
            status = self._drain(self._lack_in_queues(market), scans_max)
            if status == exchange.FINE:
                status = self._settle(waiting, scans_max)
        return self._drain(OPEN, scans_max) if status == exchange.FINE and self._hub >= 0 else status

    def _settle(self, waiting: Int64s, scans_max: int) -> int:
        """Waiting leaves, then the core; where searches come to be long ones, prices are set anew between them."""
        net, table, work, size = self._net, self._table, self._work, self._size
        while True:
            waiting = waiting[net.excess[waiting] > 0]
            searches, scanned = int(work[exchange.SEARCHES]), int(work[exchange.SCANNED])
            most = min(scans_max - scanned, SCANS_ONCE * size)
            status = int(exchange.route(net, table, waiting, self._hub, most, self._scratch, work))
            if status != exchange.GREW or work[exchange.SCANNED] > scans_max:
                return status
            waiting = waiting[net.excess[waiting] > 0]
            each = (int(work[exchange.SCANNED]) - scanned) // max(1, int(work[exchange.SEARCHES]) - searches)
            if LONG * each < size or each * waiting.size < SCANS_ONCE * size:
                continue
            went = size
            nobody = np.zeros(net.price.size, np.bool_)
            while waiting.size and went * each >= size:  # As many searches look at more.
                far = self._aim(self._hub, nobody)
                aim.approach(net, table, self._ways, far)
                went = int(aim.follow(net, table, waiting, self._hub, self._ways, self._scratch, work))
                waiting = waiting[net.excess[waiting] > 0]

    def _drain(self, wanted: int, scans_max: int) -> int:
        """Settle so much of what the hub has too much of."""
        most = scans_max - int(self._work[exchange.SCANNED])
        return int(exchange.drain(self._net, self._table, self._hub, wanted, most, self._scratch, self._work))

    def _aim(self, hub: int, outside: Flags) -> int:
        """Ways to what lacks; how far the farthest is."""
        if self._backwards is None:
            n_slots = int(self._table.ends[leaves.N_SLOTS]) + aim.AHEAD
            first = np.zeros(self._table.is_leaf.size + 1, np.int64)
            self._backwards = Backwards(first, np.empty(n_slots, np.int32), np.empty(n_slots, np.int32))
            aim.list_backwards(self._table, *self._backwards)
            self._ways = np.empty((aim.N_WAYS, self._scratch.shape[1]), np.int64)
        slots = self._backwards
        return int(aim.aim(self._net, self._table, hub, outside, *slots, self._ways, self._scratch, self._work))

    def _cleared(self, waiting: Int64s) -> tuple[int, Int64s | None]:
        """Raise prices in markets that are full, or nearly, or overfull. Each node's market; None: there are no such.

        STUCK where more can go nowhere else than there is.
        """
        net, table = self._net, self._table
        market, room = np.empty(net.price.size, np.int64), np.empty(net.price.size, np.int64)
        room = room[: int(clearing.find_markets(net, table, self._hub, market, room))]
        least_full = room - room // FULL
        if (waiting.size < least_full).all():
            return exchange.FINE, None
        columns, target = np.empty((4, waiting.size), np.int64), room
        for turn in range(TURNS_MAX + 1):
            count = int(clearing.bid(net, table, waiting, market, *columns))
            leaf, where, saving, other = columns[:, :count]
            wanted = np.bincount(where[saving > 0], minlength=room.size)
            if not turn:
                target = np.where((least_full <= wanted) & (wanted <= room), wanted - wanted // HELD, room)
            if (np.bincount(where[saving == OPEN], minlength=room.size) > room).any():
                return exchange.STUCK, None
            amount = _clearing_amounts(where, saving, target)
            if turn == TURNS_MAX or not amount.any():
                break
            clearing.raise_prices(net, market, amount)
        if not turn:
            return exchange.FINE, None
        clearing.fill(net, market)
        even = np.bincount(where[(saving == 0) & (other >= 0)], minlength=room.size)
        clearing.let_wait(net, table, leaf, where, saving, other, even - np.maximum(target - wanted, 0))
        return exchange.FINE, market

    def _released(self, market: Int64s, before: int) -> tuple[Int64s, int]:
        """Bring prices down where places are left over. Leaves that come back for them, and how many were left over.

        None come where few are left over, or not an eighth less than `before`.
        """
        net, table = self._net, self._table
        wanted = -int(net.excess[(market >= 0) & (net.excess < 0)].sum())
        if wanted < FEW or 8 * wanted > 7 * before:
            return _NONE, wanted
        self._aim(-1, market < 0)
        most = int(self._ways[aim.FAR, : market.size][market < 0].min())  # By entries alone; leaves are never told.
        leaf, distance = np.empty(table.is_leaf.size, np.int64), np.empty(table.is_leaf.size, np.int64)
        count = int(clearing.list_distances(net, table, market, self._ways, leaf, distance))
        if not count:
            return _NONE, wanted
        leaf, distance = leaf[:count], distance[:count]
        nth = min(wanted, count) - 1
        within = min(int(np.partition(distance, nth)[nth]), most)
        waiting = np.empty(count, np.int64)
        waiting = waiting[: clearing.release(net, table, leaf, distance, within, waiting)]
        aim.approach(net, table, self._ways, within)
        return waiting, wanted

    def _lack_in_queues(self, market: Int64s) -> int:
        """What nodes outside of markets lack that hand on to the hub, since leaves left them."""
        excess, table = self._net.excess, self._table
        lacks = (market < 0) & ~table.is_leaf[: market.size] & (excess < 0)
        lacks[self._hub] = False
        return -int(excess[lacks].sum())


def _clearing_amounts(where: Int64s, saving: Int64s, room: Int64s) -> Int64s:
    """By how much each market's price must rise: by the highest bid that finds no room; 0 where there is enough.

    Those that can do nothing else (OPEN) find room. Their bids tell no price.
    """
    amount = np.zeros(room.size, np.int64)
    bids = np.flatnonzero((saving > 0) & (saving < OPEN))
    bids = bids[np.lexsort((saving[bids], where[bids]))]
    end = np.searchsorted(where[bids], np.arange(room.size), side="right")
    begin = np.searchsorted(where[bids], np.arange(room.size), side="left")
    room = np.maximum(room - np.bincount(where[saving == OPEN], minlength=room.size), 0)
    over = np.flatnonzero(end - begin > room)
    amount[over] = saving[bids[end[over] - room[over] - 1]]
    return amount
