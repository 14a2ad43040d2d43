"""The residual network: every arc as two entries, each node's entries side by side, built by a counting sort.

Axes: N nodes, A arcs, E entries, all below 2^31, so that ids take 32 bits: a search reads little more than `to` and
`cost`. An entry:

to     where it leads;
cost   per unit: the arc's forward, minus the arc's backward;
left   how much fits: capacity - flow forward (OPEN or more: no bound), the arc's flow backward;
sister the entry of the same arc the other way;
arc    whose entry it is.

A node's entries with room lie before those without: of the hundred tasks that could run on a machine, a search passes
only through the few that do.

Reduced cost of an entry u → v: cost + price[u] - price[v]. A flow is optimal where none with room is negative. Loops
have no entries (`entry` -1).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Index, Int64s, kernel

Flags = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
ID_MAX = (1 << 31) - 1


class Residual(NamedTuple):
    """A residual network, a pseudoflow in it (`excess`: what still has to leave a node) and prices."""

    first: Int64s  # [N]
    shut: Int64s  # [N]; entries from here on have no room
    stop: Int64s  # [N]
    room: Int64s  # [N]; entries may be added up to here
    to: Int32s  # [E]
    cost: Int64s  # [E]
    left: Int64s  # [E]
    sister: Int32s  # [E]
    arc: Int32s  # [E]
    excess: Int64s  # [N]
    price: Int64s  # [N]
    entry: Int32s  # [A]; the forward one, -1: none
    flow: Int64s  # [A]; as the entries have it, but 0 where an arc has none


_ROW, _INT, _FLAGS, _IDS = types.int64[::1], types.int64, types.boolean[::1], types.int32[::1]
RESIDUAL: Any = types.NamedTuple(  # type: ignore[no-untyped-call]
    [_ROW, _ROW, _ROW, _ROW, _IDS, _ROW, _ROW, _IDS, _IDS, _ROW, _ROW, _IDS, _ROW], Residual
)


@kernel(types.int64(_ROW, _ROW, _FLAGS, _ROW, _ROW, _INT, *[_ROW] * 4))
def lay_out(
    tail: Int64s,
    head: Int64s,
    alive: Flags,
    capacity: Int64s,
    flow: Int64s,
    spare: int,
    first: Int64s,
    shut: Int64s,
    stop: Int64s,
    room: Int64s,
) -> int:
    """Lay the nodes' entries one after the other; with `spare`, that many more for each and a quarter.

    shut and stop are where the first entry with and without room go, for `fill_entries`. Returns how many entries there
    is room for. Time O(N + A).
    """
    n_nodes = first.shape[0]
    room[:] = 0
    shut[:] = 0
    for arc in range(tail.shape[0]):
        if alive[arc] and tail[arc] != head[arc]:
            room[tail[arc]] += 1
            room[head[arc]] += 1
            shut[tail[arc]] += flow[arc] < capacity[arc]
            shut[head[arc]] += flow[arc] > 0
    at: int = 0
    for node in range(n_nodes):
        first[node] = at
        stop[node] = at + shut[node]
        shut[node] = at
        at += room[node] + (spare + room[node] // 4 if spare > 0 else 0)
        room[node] = at
    return at


@kernel(types.void(RESIDUAL, _INT, _INT), inline=True)
def swap(net: Residual, one: int, other: int) -> None:
    """Let two entries of a node, not of the same arc, change places; they may be the same."""
    to, cost, left, sister, arc, entry = net.to, net.cost, net.left, net.sister, net.arc, net.entry
    here, there = Index(one), Index(other)
    to[here], to[there] = to[there], to[here]
    cost[here], cost[there] = cost[there], cost[here]
    left[here], left[there] = left[there], left[here]
    sister[here], sister[there] = sister[there], sister[here]
    sister[Index(sister[here])] = one
    sister[Index(sister[there])] = other
    first, second = Index(arc[here]), Index(arc[there])
    arc[here], arc[there] = second, first
    # Where an entry is an arc's forward one, the arc's other entry is not at the same node: a loop has none.
    forth, back = entry[first], entry[second]
    entry[first] = other if forth == one else forth
    entry[second] = one if back == other else back


@kernel(types.void(RESIDUAL, _INT, _INT), inline=True)
def sort_in(net: Residual, node: int, at: int) -> None:
    """Put an entry of the node among those with room or those without, where it now belongs."""
    left, shut = net.left, net.shut
    bound = shut[node]
    has_room = left[at] > 0
    if has_room != (at < bound):
        place = bound if has_room else bound - 1
        shut[node] = bound + 1 if has_room else place
        swap(net, at, place)


@kernel(types.void(RESIDUAL, _INT, _INT), inline=True)
def send(net: Residual, at: int, amount: int) -> None:
    """Send that much along an entry. Excess is the caller's. Entries of both its ends may change places."""
    to, left, sister, arc, entry, flow = net.to, net.left, net.sister, net.arc, net.entry, net.flow
    back = sister[at]
    node, other = to[back], to[at]
    left[at] -= amount
    left[back] += amount
    carrier = arc[at]
    flow[carrier] += amount if entry[carrier] == at else -amount
    sort_in(net, other, back)
    sort_in(net, node, at)


@kernel(types.void(RESIDUAL, _INT))
def sort_node(net: Residual, node: int) -> None:
    """Sort in all entries of a node."""
    low, high = net.first[node], net.stop[node]
    while low < high:
        if net.left[low] > 0:
            low += 1
        else:
            high -= 1
            swap(net, low, high)
    net.shut[node] = low


@kernel(types.void(RESIDUAL))
def sort_all(net: Residual) -> None:
    """Sort in every entry and read every arc's flow, after a kernel that does not care for either. Time O(E + A)."""
    for node in range(net.first.shape[0]):
        sort_node(net, node)
    for arc in range(net.entry.shape[0]):
        forth = net.entry[arc]
        net.flow[arc] = net.left[net.sister[forth]] if forth >= 0 else 0


@kernel(types.void(_ROW, _ROW, _FLAGS, *[_ROW] * 4, RESIDUAL))
def fill_entries(
    tail: Int64s,
    head: Int64s,
    alive: Flags,
    capacity: Int64s,
    cost: Int64s,
    flow: Int64s,
    supply: Int64s,
    net: Residual,
) -> None:
    """Write every arc's two entries where `lay_out` left room for them, and the excess of `flow`. Time O(N + A)."""
    shut, stop, excess = net.shut, net.stop, net.excess
    excess[:] = supply
    for arc in range(tail.shape[0]):
        net.entry[arc] = -1
        net.flow[arc] = 0
        if not alive[arc] or tail[arc] == head[arc]:
            continue
        down, up, sent = tail[arc], head[arc], flow[arc]
        if sent < capacity[arc]:
            forth = shut[down]
            shut[down] += 1
        else:
            forth = stop[down]
            stop[down] += 1
        if sent > 0:
            back = shut[up]
            shut[up] += 1
        else:
            back = stop[up]
            stop[up] += 1
        net.to[forth] = up
        net.to[back] = down
        net.cost[forth] = cost[arc]
        net.cost[back] = -cost[arc]
        net.left[forth] = capacity[arc] - sent
        net.left[back] = sent
        net.sister[forth] = back
        net.sister[back] = forth
        net.arc[forth] = arc
        net.arc[back] = arc
        net.entry[arc] = forth
        net.flow[arc] = sent
        excess[down] -= sent
        excess[up] += sent


def build(
    tail: Int64s,
    head: Int64s,
    alive: Flags,
    capacity: Int64s,
    cost: Int64s,
    flow: Int64s,
    supply: Int64s,
    price: Int64s,
    spare: int,
) -> Residual:
    """The residual network of `flow` (0 ≤ flow ≤ capacity; NO_BOUND: none), with `spare` room at each node."""
    n_nodes, n_arcs = supply.size, tail.size
    first, shut, stop, room = (np.empty(n_nodes, np.int64) for _ in range(4))
    n_entries = int(lay_out(tail, head, alive, capacity, flow, spare, first, shut, stop, room))
    net = Residual(
        first,
        shut,
        stop,
        room,
        np.empty(n_entries, np.int32),
        np.empty(n_entries, np.int64),
        np.empty(n_entries, np.int64),
        np.empty(n_entries, np.int32),
        np.empty(n_entries, np.int32),
        np.empty(n_nodes, np.int64),
        price,
        np.empty(n_arcs, np.int32),
        np.empty(n_arcs, np.int64),
    )
    fill_entries(tail, head, alive, capacity, cost, flow, supply, net)
    return net


def with_nodes(net: Residual, supply: Int64s) -> Residual:
    """The same with nodes up to the supply's; new ones have no entries, their supply as excess and a price of 0."""
    new = supply[net.price.size :]
    end = np.full(new.size, net.arc.size, np.int64)
    first, shut, stop, room = (np.concatenate([column, end]) for column in (net.first, net.shut, net.stop, net.room))
    excess, price = np.concatenate([net.excess, new]), np.concatenate([net.price, np.zeros(new.size, np.int64)])
    return net._replace(first=first, shut=shut, stop=stop, room=room, excess=excess, price=price)


@kernel(types.float64(RESIDUAL, _ROW, _ROW, _FLAGS, _ROW, _ROW))
def read(net: Residual, capacity: Int64s, cost: Int64s, alive: Flags, out_flow: Int64s, out_potential: Int64s) -> float:
    """Write each arc's flow (a loop that earns carries all it can) and each node's price, 0 where it is not alive.

    Returns about the sum of |flow x cost|: whether the exact sum can be trusted to int64. Time O(A + N).
    """
    size = 0.0
    for arc in range(out_flow.shape[0]):
        out_flow[arc] = net.flow[arc]
        if net.entry[arc] < 0 and cost[arc] < 0:
            out_flow[arc] = capacity[arc]
        size += abs(float(out_flow[arc]) * float(cost[arc]))
    for node in range(out_potential.shape[0]):
        out_potential[node] = net.price[node] if alive[node] else 0
    return size


@kernel(types.int64(RESIDUAL, _INT))
def settle_prices(net: Residual, scans_max: int) -> int:
    """Raise prices until no entry with room has a negative reduced cost. Time O(E) and what the raises lead to.

    First in, first out label correction from the nodes that violate. Returns how many entries it scanned, or -1 past
    `scans_max`: there may be a negative cycle, and prices are then worth nothing.
    """
    price = net.price
    n_nodes = price.shape[0]
    queue = np.empty(n_nodes + 1, np.int64)
    waiting = np.zeros(n_nodes, np.bool_)
    begin = 0
    end = 0
    scanned: int = net.to.shape[0]
    for node in range(n_nodes):
        highest = price[node]
        for at in range(net.first[node], net.stop[node]):
            if net.left[at] > 0:
                highest = max(highest, price[net.to[at]] - net.cost[at])
        if highest > price[node]:
            price[node] = highest
            waiting[node] = True
            queue[end] = node
            end += 1
    while begin != end:
        node = queue[begin]
        begin = begin + 1 if begin < n_nodes else 0
        waiting[node] = False
        scanned += net.stop[node] - net.first[node]
        if scanned > scans_max:
            return -1
        here = price[node]
        for at in range(net.first[node], net.stop[node]):
            to = net.to[at]
            if price[to] < here + net.cost[at] and net.left[net.sister[at]] > 0:
                price[to] = here + net.cost[at]
                if not waiting[to]:
                    waiting[to] = True
                    queue[end] = to
                    end = end + 1 if end < n_nodes else 0
    return scanned
