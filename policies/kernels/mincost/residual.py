"""The residual network: every arc as two entries, each node's entries side by side, built by a counting sort.

Axes: N nodes, A arcs, E entries. An entry is one row `entries` int64[E, 4], half a cache line:

TO     where it leads;
COST   per unit: the arc's forward, minus the arc's backward;
LEFT   how much fits: capacity - flow forward (OPEN or more: no bound), the arc's flow backward;
SISTER the entry of the same arc the other way.

Reduced cost of an entry u → v: COST + price[u] - price[v]. A flow is optimal where none with room is negative. Loops
have no entries (`entry` -1).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Int64s, kernel

Flags = npt.NDArray[np.bool_]
TO, COST, LEFT, SISTER = range(4)
ENTRY = 4


class Residual(NamedTuple):
    """A residual network, a pseudoflow in it (`excess`: what still has to leave a node) and prices."""

    first: Int64s  # [N]
    stop: Int64s  # [N]
    room: Int64s  # [N]; entries may be added up to here
    entries: Int64s  # [E, ENTRY]
    excess: Int64s  # [N]
    price: Int64s  # [N]
    arc: Int64s  # [E]; whose entry it is
    entry: Int64s  # [A]; the forward one, -1: none


_ROW, _INT, _FLAGS = types.int64[::1], types.int64, types.boolean[::1]
RESIDUAL: Any = types.NamedTuple(  # type: ignore[no-untyped-call]
    [_ROW, _ROW, _ROW, types.int64[:, ::1], _ROW, _ROW, _ROW, _ROW], Residual
)


@kernel(types.void(_ROW, _ROW, _FLAGS, _INT, _ROW, _ROW))
def count_entries(tail: Int64s, head: Int64s, alive: Flags, spare: int, first: Int64s, room: Int64s) -> None:
    """Lay the nodes' entries one after the other; with `spare`, that many more for each and a quarter. O(N + A)."""
    n_nodes = first.shape[0]
    room[:] = 0
    for arc in range(tail.shape[0]):
        if alive[arc] and tail[arc] != head[arc]:
            room[tail[arc]] += 1
            room[head[arc]] += 1
    at = 0
    for node in range(n_nodes):
        first[node] = at
        at += room[node] + (spare + room[node] // 4 if spare > 0 else 0)
        room[node] = at


@kernel(types.void(RESIDUAL, *[_INT] * 6))
def join(net: Residual, tail: int, head: int, capacity: int, cost: int, flow: int, arc: int) -> None:
    """Write the entries of one arc behind the others of its ends, where there must be room."""
    entries = net.entries
    forth, back = net.stop[tail], net.stop[head]
    net.stop[tail] += 1
    net.stop[head] += 1
    entries[forth, TO] = head
    entries[forth, COST] = cost
    entries[forth, LEFT] = capacity - flow
    entries[forth, SISTER] = back
    entries[back, TO] = tail
    entries[back, COST] = -cost
    entries[back, LEFT] = flow
    entries[back, SISTER] = forth
    net.excess[tail] -= flow
    net.excess[head] += flow
    net.arc[forth] = arc
    net.arc[back] = arc
    net.entry[arc] = forth


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
    """Write every arc's two entries and the excess that `flow` leaves. Time O(N + A)."""
    net.excess[:] = supply
    net.stop[:] = net.first
    for arc in range(tail.shape[0]):
        net.entry[arc] = -1
        if alive[arc] and tail[arc] != head[arc]:
            join(net, tail[arc], head[arc], capacity[arc], cost[arc], flow[arc], arc)


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
    first, room = np.empty(n_nodes, np.int64), np.empty(n_nodes, np.int64)
    count_entries(tail, head, alive, spare, first, room)
    n_entries = int(room[-1]) if n_nodes else 0
    net = Residual(
        first,
        np.empty(n_nodes, np.int64),
        room,
        np.empty((n_entries, ENTRY), np.int64),
        np.empty(n_nodes, np.int64),
        price,
        np.empty(n_entries, np.int64),
        np.empty(n_arcs, np.int64),
    )
    fill_entries(tail, head, alive, capacity, cost, flow, supply, net)
    return net


@kernel(types.float64(RESIDUAL, _ROW, _ROW, _ROW))
def read_flow(net: Residual, capacity: Int64s, cost: Int64s, out_flow: Int64s) -> float:
    """Write each arc's flow; a loop that earns carries all it can. Time O(A).

    Returns about the sum of |flow x cost|: whether the exact sum can be trusted to int64.
    """
    size = 0.0
    for arc in range(out_flow.shape[0]):
        forth = net.entry[arc]
        if forth >= 0:
            out_flow[arc] = net.entries[net.entries[forth, SISTER], LEFT]
        else:
            out_flow[arc] = capacity[arc] if cost[arc] < 0 else 0
        if out_flow[arc]:
            size += abs(float(out_flow[arc]) * float(cost[arc]))
    return size


@kernel(types.int64(RESIDUAL, _INT))
def settle_prices(net: Residual, scans_max: int) -> int:
    """Raise prices until no entry with room has a negative reduced cost. Time O(E) and what the raises lead to.

    First in, first out label correction from the nodes that violate. Returns how many entries it scanned, or -1 past
    `scans_max`: there may be a negative cycle, and prices are then worth nothing.
    """
    entries, price = net.entries, net.price
    n_nodes = price.shape[0]
    queue = np.empty(n_nodes + 1, np.int64)
    waiting = np.zeros(n_nodes, np.bool_)
    begin = 0
    end = 0
    scanned: int = net.entries.shape[0]
    for node in range(n_nodes):
        highest = price[node]
        for at in range(net.first[node], net.stop[node]):
            if entries[at, LEFT] > 0:
                highest = max(highest, price[entries[at, TO]] - entries[at, COST])
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
            to = entries[at, TO]
            if price[to] < here + entries[at, COST] and entries[entries[at, SISTER], LEFT] > 0:
                price[to] = here + entries[at, COST]
                if not waiting[to]:
                    waiting[to] = True
                    queue[end] = to
                    end = end + 1 if end < n_nodes else 0
    return scanned
