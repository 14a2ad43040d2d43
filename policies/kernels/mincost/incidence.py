"""Which arcs lie at a node: for looks around what changed, where a pass over all arcs would cost more than the change.

Axes: N nodes, E entries, both below 2^31. A node's entries lie side by side, with room for some more, and name the
other end, so that most need no look at the arc. Each arc has an entry at either end, a loop none.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.columns import grown
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.tree import Int32s

SPARE = 2  # Room for so many more entries at each node, and an eighth.
_INT, _ROW, _IDS, _FLAGS = types.int64, types.int64[::1], types.int32[::1], types.boolean[::1]


class Incidence(NamedTuple):
    """The arcs at each node, changed in place. May be longer than N and E: room to grow."""

    first: Int32s  # [N]
    stop: Int32s  # [N]
    room: Int32s  # [N]; entries may be added up to here
    way: Int32s  # [E]; twice where the arc lies, and one more where it begins here
    other: Int32s  # [E]; the arc's other end
    used: Int64s  # [1]; entries from there on belong to no node


INCIDENCE: Any = types.NamedTuple([*[_IDS] * 5, _ROW], Incidence)  # type: ignore[no-untyped-call]
_NOTHING = np.empty(0, np.int32)
UNKNOWN = Incidence(_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, np.zeros(1, np.int64))


@kernel(_INT(_IDS, _IDS, _FLAGS, _INT, _IDS, _IDS, _IDS))
def lay_out(
    tail: Int32s, head: Int32s, alive: Flags, n_nodes: int, out_first: Int32s, out_stop: Int32s, out_room: Int32s
) -> int:
    """Lay the nodes' entries one after the other, none there yet. Returns how many there is room for. Time O(N + A)."""
    out_room[:] = 0
    for arc in range(alive.shape[0]):
        if alive[arc]:
            out_room[tail[arc]] += 1
            out_room[head[arc]] += 1
    at: int = 0
    for node in range(n_nodes):
        out_first[node] = out_stop[node] = at
        at += out_room[node] + out_room[node] // 8 + SPARE
        out_room[node] = at
    return at


@kernel(types.boolean(INCIDENCE, *[_INT] * 3))
def enter_at(incidence: Incidence, node: int, way: int, other: int) -> bool:
    """Enter an arc at the node, moving its entries where there is more room; False where there is none left."""
    first, stop, room = incidence.first, incidence.stop, incidence.room
    if stop[node] == room[node]:
        count = stop[node] - first[node]
        begin = incidence.used[0]
        wanted = count + count // 2 + 2 * SPARE
        if begin + wanted > incidence.way.shape[0]:
            return False
        for index in range(count):
            incidence.way[begin + index] = incidence.way[first[node] + index]
            incidence.other[begin + index] = incidence.other[first[node] + index]
        incidence.used[0] = begin + wanted
        first[node] = begin
        stop[node] = begin + count
        room[node] = begin + wanted
    incidence.way[stop[node]] = way
    incidence.other[stop[node]] = other
    stop[node] += 1
    return True


@kernel(types.boolean(INCIDENCE, _IDS, _IDS, _INT))
def enter(incidence: Incidence, tail: Int32s, head: Int32s, arc: int) -> bool:
    """Enter the arc that lies there at both its ends. False where there is no room."""
    one, other = tail[arc], head[arc]
    fits: bool = one == other or (
        enter_at(incidence, one, 2 * arc + 1, other) and enter_at(incidence, other, 2 * arc, one)
    )
    return fits


@kernel(types.boolean(INCIDENCE, _IDS, _IDS, _IDS, _ROW), entry=True)
def enter_some(incidence: Incidence, tail: Int32s, head: Int32s, position: Int32s, arcs: Int64s) -> bool:
    """Enter these arcs. False where there is no room."""
    for index in range(arcs.shape[0]):
        if not enter(incidence, tail, head, position[arcs[index]]):
            return False
    return True


@kernel(types.void(INCIDENCE, _IDS, _IDS, _FLAGS))
def enter_all(incidence: Incidence, tail: Int32s, head: Int32s, alive: Flags) -> None:
    """Enter the arcs alive; there must be room."""
    for arc in range(alive.shape[0]):
        if alive[arc]:
            enter(incidence, tail, head, arc)


@kernel(types.void(INCIDENCE, _IDS, _IDS, _IDS, _ROW), entry=True)
def take_out(incidence: Incidence, tail: Int32s, head: Int32s, position: Int32s, arcs: Int64s) -> None:
    """Take these arcs out. Time O(degree) each, in order."""
    first, stop, ways, others = incidence.first, incidence.stop, incidence.way, incidence.other
    for index in range(arcs.shape[0]):
        arc = position[arcs[index]]
        for node, way in ((tail[arc], 2 * arc + 1), (head[arc], 2 * arc)):
            for at in range(first[node], stop[node]):
                if ways[at] == way:
                    stop[node] -= 1
                    ways[at] = ways[stop[node]]
                    others[at] = others[stop[node]]
                    break


def incidence_of(tail: Int32s, head: Int32s, alive: Flags, n_nodes: int) -> Incidence:
    """All arcs alive, by where they lie, with some room for more. Time O(N + A)."""
    first, stop, room = (np.empty(n_nodes, np.int32) for _ in range(3))
    used = int(lay_out(tail, head, alive, n_nodes, first, stop, room))
    way, other = (np.empty(used + used // 8 + 64, np.int32) for _ in range(2))
    incidence = Incidence(first, stop, room, way, other, np.array([used]))
    enter_all(incidence, tail, head, alive)
    return incidence


def with_nodes(incidence: Incidence, n_nodes: int) -> Incidence:
    """The same with room for so many nodes; the new ones have no entries."""
    if incidence.first.size >= n_nodes:
        return incidence
    first, stop, room = (grown(column, n_nodes) for column in (incidence.first, incidence.stop, incidence.room))
    return incidence._replace(first=first, stop=stop, room=room)
