"""Cost scaling: push-relabel with approximately optimal prices, the approximation getting finer. For full networks.

Sources: Goldberg, Tarjan, Finding minimum-cost circulations by successive approximation (1990); Goldberg, An efficient
implementation of a scaling minimum-cost flow algorithm (1997), for look-ahead, price updates and price refinement;
Bünnagel, Korte, Vygen, Efficient implementation of the Goldberg-Tarjan minimum-cost flow algorithm (1998).

Prices are in units of 1 / scale. A flow is ε-optimal where no entry with room has a reduced cost below -ε; with
ε = 1 and scale > N it is optimal. Most runs end earlier: as soon as `settle_prices` finds exact prices.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.residual import RESIDUAL, Int32s, Residual, settle_prices, sort_all

# Fields of `work` int64[N_WORK].
PUSHES, RELABELS, UPDATES, SCANNED, PHASES = range(5)
N_WORK = 5
FINE, STUCK, CAPPED = range(3)
PRICE_MAX = 1 << 60
ALPHA = 5  # ε is divided by this from phase to phase.
SETTLE_FROM = 2  # From this ε on, in units of cost, exact prices are looked for after each phase …
SETTLE_SCANS = 6  # … for so many scans of all entries.
RELABELS_PER_NODE = 200  # A phase that needs more has gone wrong; measured: 2 to 20.
RANK_GROWTH = 4  # Ranks past that many times N are not told apart by a price update.
NEVER = np.iinfo(np.int64).min  # A price at which nothing can leave.
RANK, FOLLOWING, PRECEDING = range(3)  # Rows of a price update's scratch int64[3, N].
_INT, _ROW, _GRID, _IDS = types.int64, types.int64[::1], types.int64[:, ::1], types.int32[::1]


@kernel(types.boolean(RESIDUAL, _INT, _INT, _ROW, _ROW, _GRID, _ROW, _ROW))
def update_prices(
    net: Residual,
    scale: int,
    epsilon: int,
    total: Int64s,
    current: Int64s,
    scratch: Int64s,
    bucket: Int64s,
    work: Int64s,
) -> bool:
    """Lower each price by ε times the rank: the least number of relabels towards a node that lacks. Time O(E).

    Buckets by rank (Dial), backward from the nodes that lack, until every excess is met; ranks past the last bucket are
    not told apart. `total` is what each entry and its sister have room for together; `bucket` holds -1 everywhere, and
    does again. False when a price fell so low that it could wrap.
    """
    price, excess = net.price, net.excess
    first, stop, to, cost, left = net.first, net.stop, net.to, net.cost, net.left
    rank, following, preceding = scratch[RANK], scratch[FOLLOWING], scratch[PRECEDING]
    n_nodes = price.shape[0]
    rank_max = bucket.shape[0] - 1
    open_excess = 0
    for node in range(n_nodes):
        rank[node] = rank_max
        if excess[node] < 0:
            rank[node] = 0
            following[node] = bucket[0]
            if bucket[0] >= 0:
                preceding[bucket[0]] = node
            preceding[node] = -1
            bucket[0] = node
        elif excess[node] > 0:
            open_excess += excess[node]
    level = 0
    farthest = 0
    scanned = 0
    while level < rank_max and open_excess > 0:
        node = bucket[level]
        if node < 0:
            level += 1
            continue
        bucket[level] = following[node]
        if following[node] >= 0:
            preceding[following[node]] = -1
        if excess[node] > 0:
            open_excess -= excess[node]
        here = price[node]
        scanned += stop[node] - first[node]
        for at in range(Index(first[node]), Index(stop[node])):
            if left[at] >= total[at]:
                continue  # No room from there to here.
            other = Index(to[at])
            known = rank[other]
            if known <= level:
                continue
            reduced = price[other] - here - cost[at] * scale  # Of the way here from there.
            new = level
            if reduced >= 0:
                if reduced >= (known - level) * epsilon:
                    continue  # Dividing is dear.
                new += reduced // epsilon + 1
            if new >= known:
                continue
            if known < rank_max:
                if preceding[other] >= 0:
                    following[preceding[other]] = following[other]
                else:
                    bucket[known] = following[other]
                if following[other] >= 0:
                    preceding[following[other]] = preceding[other]
            rank[other] = new
            farthest = max(farthest, new)
            following[other] = bucket[new]
            if bucket[new] >= 0:
                preceding[bucket[new]] = other
            preceding[other] = -1
            bucket[new] = other
    bucket[level : farthest + 1] = -1
    lowest = 0
    for node in range(n_nodes):
        price[node] -= epsilon * min(rank[node], level)
        lowest = min(lowest, price[node])
        current[node] = first[node]
    work[SCANNED] += scanned
    work[UPDATES] += 1
    return lowest > -PRICE_MAX


@kernel(types.boolean(RESIDUAL, _INT, _INT, _INT, _ROW, _ROW), inline=True)
def relabel(net: Residual, scale: int, epsilon: int, node: int, current: Int64s, work: Int64s) -> bool:
    """Lower the node's price, from which nothing can leave, by ε or until something can; false when nothing ever can.

    ε is always right, and where an entry can pass then, those behind it need no look: hubs have thousands of them.
    `current` becomes an entry before which none can pass. Time O(degree).
    """
    price, begin, stop = net.price, net.first[node], net.stop[node]
    left, to, cost = net.left[begin:stop], net.to[begin:stop], net.cost[begin:stop]
    here = price[node]
    sure = here - epsilon
    best = NEVER
    count = 0
    while count < stop - begin and best <= sure:
        if left[count] > 0:
            best = max(best, price[Index(to[count])] - cost[count] * scale)
        count += 1
    where = begin
    if best > sure:
        count -= 1
        here = sure
        where += count
    elif best != NEVER:
        here = best - epsilon
    price[node] = here
    current[node] = where
    work[RELABELS] += 1
    work[SCANNED] += count
    ever: bool = best != NEVER
    return ever


@kernel(_INT(_ROW, _ROW, _IDS, _ROW, *[_INT] * 4), inline=True)
def passable(
    left: Int64s, cost: Int64s, to: Int32s, price: Int64s, scale: int, here: int, begin: int, stop: int
) -> int:
    """The first entry from `begin` on that something can leave by at the price `here`; `stop` when there is none.

    It takes columns rather than the network: handing all of that over costs more than the search.
    """
    for at in range(Index(begin), Index(stop)):
        if left[at] > 0 and cost[at] * scale + here - price[Index(to[at])] < 0:
            return int(np.int64(at))
    return stop


@kernel(types.void(RESIDUAL, _INT, _ROW))
def fill_violated(net: Residual, scale: int, out_total: Int64s) -> None:
    """Fill every entry with a negative reduced cost; what that moves becomes excess. Time O(E).

    Writes what each entry and its sister have room for together. Entries past a node's `stop` hold nothing to be read.
    """
    price, excess, to, cost, left, sister = net.price, net.excess, net.to, net.cost, net.left, net.sister
    for node in range(price.shape[0]):
        here = price[node]
        for at in range(Index(net.first[node]), Index(net.stop[node])):
            room = left[at]
            out_total[at] = room + left[Index(sister[at])]
            if room > 0 and cost[at] * scale + here - price[Index(to[at])] < 0:
                left[at] = 0
                left[sister[at]] += room
                excess[node] -= room
                excess[to[at]] += room


@kernel(_INT(RESIDUAL, _INT, _INT, _INT, _ROW))
def refine(net: Residual, scale: int, epsilon: int, relabels_max: int, work: Int64s) -> int:
    """Make a flow ε-optimal and balanced: fill what violates, then push and relabel, first in, first out.

    No entry may be without a bound. STUCK: an excess cannot leave or prices fell too far, so the network is likely
    infeasible. CAPPED: past `relabels_max`.
    """
    price, excess, to, cost, left, sister = net.price, net.excess, net.to, net.cost, net.left, net.sister
    stop = net.stop
    n_nodes = price.shape[0]
    total = np.empty(left.shape[0], np.int64)
    fill_violated(net, scale, total)
    current = net.first.copy()
    scratch = np.empty((3, n_nodes), np.int64)
    bucket = np.full(RANK_GROWTH * n_nodes + 1, -1, np.int64)
    queue = np.empty(n_nodes + 1, np.int64)
    begin = 0
    end = 0
    for node in range(n_nodes):
        if excess[node] > 0:
            queue[end] = node
            end += 1
    limit = work[RELABELS] + relabels_max
    updated = work[RELABELS] - n_nodes - 1  # Prices are updated at once.
    while begin != end:
        if work[RELABELS] - updated > n_nodes:
            if not update_prices(net, scale, epsilon, total, current, scratch, bucket, work):
                return STUCK
            updated = work[RELABELS]
        node = queue[begin]
        begin = begin + 1 if begin < n_nodes else 0
        while excess[node] > 0:
            if work[RELABELS] > limit:
                return CAPPED
            at = passable(left, cost, to, price, scale, price[node], current[node], stop[node])
            if at == stop[node]:
                if not relabel(net, scale, epsilon, node, current, work):
                    return STUCK
                continue
            current[node] = at
            over = to[at]
            if excess[over] >= 0:  # Look ahead: what cannot leave there would only come back.
                current[over] = passable(left, cost, to, price, scale, price[over], current[over], stop[over])
                if current[over] == stop[over]:
                    if not relabel(net, scale, epsilon, over, current, work):
                        price[over] = cost[at] * scale + price[node]  # Nothing leaves it yet: any lower price is right.
                    if cost[at] * scale + price[node] - price[over] >= 0:
                        continue
            amount = min(excess[node], left[at])
            left[at] -= amount
            left[sister[at]] += amount
            excess[node] -= amount
            work[PUSHES] += 1
            if excess[over] <= 0 < excess[over] + amount:
                queue[end] = over
                end = end + 1 if end < n_nodes else 0
            excess[over] += amount
    work[PHASES] += 1
    return FINE


@kernel(types.void(*[_ROW] * 4, _INT, _ROW))
def tighten(tail: Int64s, head: Int64s, bound: Int64s, supply: Int64s, total: int, out_capacity: Int64s) -> None:
    """Bound every arc by what can enter its tail, what can leave its head and `total`. Time O(N + A)."""
    for arc in range(tail.shape[0]):
        out_capacity[arc] = min(bound[arc], total)
    for _ in range(2):
        enter = np.maximum(supply, 0)
        leave = np.maximum(-supply, 0)
        for arc in range(tail.shape[0]):
            if tail[arc] != head[arc]:
                enter[head[arc]] = min(enter[head[arc]] + out_capacity[arc], total)
                leave[tail[arc]] = min(leave[tail[arc]] + out_capacity[arc], total)
        for arc in range(tail.shape[0]):
            if tail[arc] != head[arc]:
                out_capacity[arc] = min(out_capacity[arc], enter[tail[arc]], leave[head[arc]])


@kernel(types.void(RESIDUAL, _ROW))
def bound_by(net: Residual, capacity: Int64s) -> None:
    """Let the entries have the room that these capacities leave; a flow past them is cut. Time O(A)."""
    for arc in range(capacity.shape[0]):
        forth = net.entry[arc]
        if forth >= 0:
            back = net.sister[forth]
            surplus = net.left[back] - capacity[arc]
            if surplus > 0:
                net.left[back] = capacity[arc]
                net.excess[net.to[back]] += surplus
                net.excess[net.to[forth]] -= surplus
                surplus = 0
            net.left[forth] = -surplus


def magnitude_error(n_nodes: int, n_arcs: int, cost_max: int, flow_total: int) -> str | None:
    """Why these magnitudes could wrap int64 here, with the bound; None when they cannot."""
    scale = n_nodes + 1
    if 8 * scale * scale * (cost_max + 1) > PRICE_MAX:
        return f"8 x (nodes + 1)^2 x (|cost| + 1) = {8 * scale * scale * (cost_max + 1)} passes {PRICE_MAX} = 2^60"
    if n_arcs * flow_total > PRICE_MAX:
        return f"arcs x (supply + finite capacities) = {n_arcs * flow_total} passes {PRICE_MAX} = 2^60"
    return None


def tightened(tail: Int64s, head: Int64s, bound: Int64s, cost: Int64s, supply: Int64s, cost_max: int) -> Int64s | None:
    """Finite capacities that mean the same, for `solve`; None where magnitudes could wrap.

    Arcs that earn must have bounds.
    """
    flow_total = int(np.maximum(supply, 0).sum()) + int(bound[cost < 0].sum())
    if magnitude_error(supply.size, tail.size, cost_max, flow_total) is not None:
        return None
    tight = np.empty(tail.size, np.int64)
    tighten(tail, head, bound, supply, flow_total, tight)
    return tight


def solve(net: Residual, bound: Int64s, tight: Int64s, epsilon: int, work: Int64s) -> int:
    """Route every excess at the least cost, from the prices and the flow in `net`; exact prices are left there.

    `epsilon` is the first approximation, in units of cost; `bound` are the arcs' capacities, `tight` those of
    `tighten`. STUCK and CAPPED as in `refine`; flow and prices are then of no use. Time O(N²A log(N·C)) at worst.
    """
    n_nodes = net.price.size
    scale = n_nodes + 1
    bound_by(net, tight)
    net.price[:] *= scale
    exact = max(epsilon, 1) * scale
    while True:
        status = refine(net, scale, exact, RELABELS_PER_NODE * n_nodes, work)
        if status != FINE:
            return int(status)
        if exact <= scale * SETTLE_FROM or exact == 1:
            prices = net.price.copy()
            net.price[:] //= scale
            bound_by(net, bound)
            scanned = settle_prices(net, net.to.shape[0] * (SETTLE_SCANS if exact > 1 else n_nodes))
            if scanned >= 0:
                sort_all(net)
                return FINE
            if exact == 1:
                return CAPPED
            bound_by(net, tight)
            net.price[:] = prices
        exact = max(exact // ALPHA, 1)
