"""Cost scaling: push-relabel with approximately optimal prices, the approximation getting finer. For full networks.

Sources: Goldberg, Tarjan, Finding minimum-cost circulations by successive approximation (1990); Goldberg, An efficient
implementation of a scaling minimum-cost flow algorithm (1997), for look-ahead, price updates and price refinement;
Bünnagel, Korte, Vygen, Efficient implementation of the Goldberg-Tarjan minimum-cost flow algorithm (1998).

Prices are in units of 1 / scale. A flow is ε-optimal where no entry with room has a reduced cost below -ε; with
ε = 1 and scale > N it is optimal. Most runs end earlier: as soon as `settle_prices` finds exact prices.
"""

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.residual import RESIDUAL, Residual, settle_prices, sort_all

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
_INT, _ROW = types.int64, types.int64[::1]


@kernel(types.boolean(RESIDUAL, _INT, _INT, _ROW, _ROW))
def update_prices(net: Residual, scale: int, epsilon: int, current: Int64s, work: Int64s) -> bool:
    """Lower each price by ε times the rank: the least number of relabels towards a node that lacks. Time O(E).

    Buckets by rank (Dial), backward from the nodes that lack, until every excess is met. False when a price fell so
    low that it could wrap.
    """
    price, excess = net.price, net.excess
    n_nodes = price.shape[0]
    rank_max = RANK_GROWTH * n_nodes
    rank = np.full(n_nodes, rank_max, np.int64)
    bucket = np.full(rank_max + 1, -1, np.int64)
    following = np.empty(n_nodes, np.int64)
    preceding = np.empty(n_nodes, np.int64)
    open_excess = 0
    for node in range(n_nodes):
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
        scanned += net.stop[node] - net.first[node]
        for at in range(net.first[node], net.stop[node]):
            to = net.to[at]
            if rank[to] <= level or net.left[net.sister[at]] <= 0:
                continue
            reduced = price[to] - here - net.cost[at] * scale  # Of the way here from there.
            new = level + (reduced // epsilon + 1 if reduced >= 0 else 0)
            if new < rank[to]:
                if rank[to] < rank_max:
                    if preceding[to] >= 0:
                        following[preceding[to]] = following[to]
                    else:
                        bucket[rank[to]] = following[to]
                    if following[to] >= 0:
                        preceding[following[to]] = preceding[to]
                rank[to] = new
                following[to] = bucket[new]
                if bucket[new] >= 0:
                    preceding[bucket[new]] = to
                preceding[to] = -1
                bucket[new] = to
    lowest = 0
    for node in range(n_nodes):
        if rank[node] > 0:
            price[node] -= epsilon * min(rank[node], level)
        lowest = min(lowest, price[node])
        current[node] = net.first[node]
    work[SCANNED] += scanned
    work[UPDATES] += 1
    return lowest > -PRICE_MAX


@kernel(types.boolean(RESIDUAL, _INT, _INT, _INT, _ROW, _ROW))
def relabel(net: Residual, scale: int, epsilon: int, node: int, current: Int64s, work: Int64s) -> bool:
    """Lower the node's price until something can leave; false when nothing ever can. Time O(degree)."""
    price = net.price
    best = np.iinfo(np.int64).min
    for at in range(net.first[node], net.stop[node]):
        if net.left[at] > 0:
            best = max(best, price[net.to[at]] - net.cost[at] * scale)
    if best == np.iinfo(np.int64).min:
        return False
    price[node] = best - epsilon
    current[node] = net.first[node]
    work[RELABELS] += 1
    work[SCANNED] += net.stop[node] - net.first[node]
    return True


@kernel(types.boolean(RESIDUAL, _INT, _INT, _ROW))
def can_pass(net: Residual, scale: int, node: int, current: Int64s) -> bool:
    """True when something can leave the node at its price; moves `current` there."""
    price = net.price
    here = price[node]
    for at in range(current[node], net.stop[node]):
        if net.left[at] > 0 and net.cost[at] * scale + here - price[net.to[at]] < 0:
            current[node] = at
            return True
    current[node] = net.stop[node]
    return False


@kernel(types.int64(RESIDUAL, _INT, _INT, _INT, _ROW))
def refine(net: Residual, scale: int, epsilon: int, relabels_max: int, work: Int64s) -> int:
    """Make a flow ε-optimal and balanced: fill what violates, then push and relabel, first in, first out.

    No entry may be without a bound. STUCK: an excess cannot leave or prices fell too far, so the network is likely
    infeasible. CAPPED: past `relabels_max`.
    """
    price, excess = net.price, net.excess
    n_nodes = price.shape[0]
    current = net.first.copy()
    queue = np.empty(n_nodes + 1, np.int64)
    begin = 0
    end = 0
    for node in range(n_nodes):
        here = price[node]
        for at in range(net.first[node], net.stop[node]):
            left = net.left[at]
            if left > 0 and net.cost[at] * scale + here - price[net.to[at]] < 0:
                net.left[at] = 0
                net.left[net.sister[at]] += left
                excess[node] -= left
                excess[net.to[at]] += left
    for node in range(n_nodes):
        if excess[node] > 0:
            queue[end] = node
            end += 1
    limit = work[RELABELS] + relabels_max
    updated = work[RELABELS]
    if begin != end and not update_prices(net, scale, epsilon, current, work):
        return STUCK
    while begin != end:
        if work[RELABELS] - updated > n_nodes:
            if not update_prices(net, scale, epsilon, current, work):
                return STUCK
            updated = work[RELABELS]
        node = queue[begin]
        begin = begin + 1 if begin < n_nodes else 0
        while excess[node] > 0:
            if work[RELABELS] > limit:
                return CAPPED
            if not can_pass(net, scale, node, current):
                if not relabel(net, scale, epsilon, node, current, work):
                    return STUCK
                continue
            at = current[node]
            to = net.to[at]
            if excess[to] >= 0 and not can_pass(net, scale, to, current):  # Look ahead: it would only come back.
                if not relabel(net, scale, epsilon, to, current, work):
                    return STUCK
                if net.cost[at] * scale + price[node] - price[to] >= 0:
                    continue
            amount = min(excess[node], net.left[at])
            net.left[at] -= amount
            net.left[net.sister[at]] += amount
            excess[node] -= amount
            work[PUSHES] += 1
            if excess[to] <= 0 < excess[to] + amount:
                queue[end] = to
                end = end + 1 if end < n_nodes else 0
            excess[to] += amount
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
