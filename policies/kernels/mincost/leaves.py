"""Leaves: nodes that send one unit and that nothing enters, kept apart from the core they send it into.

A task of its own is one: a unit and some arcs. All a leaf can be is at one of its places, so it needs
no entries, no price and no step of a search: where node u holds a leaf and the leaf could be at v, the leaf makes an
entry u → v that costs what changing places costs (in assignment problems: an exchange). Searches then pass through the
core alone, some hundredth of the nodes.

Axes: N nodes (ids are the network's), A arcs, S slots: a leaf's arc with room is a slot, its slots lie side by side.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.fetch import LINE, prefetch
from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.columns import grown
from policies.kernels.mincost.gate import Flags

Int32s = npt.NDArray[np.int32]
# Fields of a leaf's row int32[ROW]: its slots, and room for more up to ROOM; the slot it is at (-1: nowhere) and its
# place among the members of the node there.
FIRST, STOP, ROOM, AT, PLACE = range(5)
ROW = 5
TO, COST = range(2)  # Fields of a slot int32[2].
# Fields of a member int32[4]: the leaf, what being here costs it, and its slots: a search reads nothing else of it.
LEAF, HERE, BEGIN, END = range(4)
MEMBER = 4
SLOT_COST_MAX = (1 << 31) - 1  # Costs of slots take 32 bits: searches wait for memory more than for anything else.
CHUNK = 8  # Members lie side by side, so many at a time: following links from one to the next took three times as long.
SLOTS_FETCHED = 12  # Of a member, ahead of a look at them.
IN_LINE = LINE // 4  # Fields of slots and members in a cache line.
N_SLOTS, FREE, FLIPS = range(3)  # Fields of `ends`.
FINE, NO_LEAF, FULL = range(3)
LISTED = -2  # The PLACE of a leaf that is nowhere and waits.
SPARE = 8  # Beyond what is there, a part in so many is kept free for slots of later leaves.


class Leaves(NamedTuple):
    """The leaves of a network and where each is, changed in place. May be longer than N and S: room to grow.

    Axes: C chunks of members. A node's first chunk is filled up to `filled`, its others wholly.
    """

    is_leaf: Flags  # [N]
    row: Int32s  # [N, ROW]
    chunk: Int64s  # [N]; a node's first chunk, -1: nobody is there
    filled: Int64s  # [N]
    member: Int32s  # [C x CHUNK, MEMBER]
    following: Int64s  # [C]; the next chunk, of a node or of those that are free; -1: none
    slot: Int32s  # [S, 2]
    arc: Int32s  # [S]
    of_arc: Int32s  # [A]; the slot of an arc, -1: it is none of a leaf
    ends: Int64s  # [3]; slots from N_SLOTS on were never given; the first FREE chunk; FLIPS: so many leaves may cease


_INT, _ROW, _GRID, _FLAGS, _IDS = (
    types.int64,
    types.int64[::1],
    types.int32[:, ::1],
    types.boolean[::1],
    types.int32[::1],
)
LEAVES: Any = types.NamedTuple(  # type: ignore[no-untyped-call]
    [_FLAGS, _GRID, _ROW, _ROW, _GRID, _ROW, _GRID, _IDS, _IDS, _ROW], Leaves
)


@kernel(_INT(_ROW, _ROW, _FLAGS, _ROW, _ROW, _FLAGS))
def find_leaves(tail: Int64s, head: Int64s, alive: Flags, bound: Int64s, supply: Int64s, out_is_leaf: Flags) -> int:
    """Flag the nodes that are leaves, those without arcs too. Returns how many slots they need. Time O(N + A)."""
    for node in range(supply.shape[0]):
        out_is_leaf[node] = supply[node] == 0 or supply[node] == 1
    for arc in range(tail.shape[0]):
        if alive[arc]:
            out_is_leaf[head[arc]] = False
    count: int = 0
    for arc in range(tail.shape[0]):
        count += alive[arc] and out_is_leaf[tail[arc]] and bound[arc] > 0
    return count


@kernel(types.void(LEAVES, _INT, _INT), inline=True)
def settle(table: Leaves, leaf: int, slot: int) -> None:
    """Let the leaf, which must be nowhere, be at that slot."""
    row, chunk, filled, member, following = table.row, table.chunk, table.filled, table.member, table.following
    slot_of, ends = table.slot, table.ends
    node = Index(slot_of[slot, TO])
    first, count, spare = chunk[node], filled[node], ends[FREE]
    begins = first < 0 or count == CHUNK  # A chunk of those that are free.
    new = Index(max(spare, 0))
    beyond = following[new]
    following[new] = first if begins else beyond
    ends[FREE] = beyond if begins else spare
    first = spare if begins else first
    count = 0 if begins else count
    chunk[node] = first
    place = first * CHUNK + count
    filled[node] = count + 1
    member[place, LEAF] = leaf
    member[place, HERE] = slot_of[slot, COST]
    member[place, BEGIN] = row[leaf, FIRST]
    member[place, END] = row[leaf, STOP]
    row[leaf, AT] = slot
    row[leaf, PLACE] = place


@kernel(types.void(LEAVES, _INT), inline=True)
def leave(table: Leaves, leaf: int) -> None:
    """Let the leaf be nowhere; the last member of the first chunk takes its place."""
    row, chunk, filled, member, following = table.row, table.chunk, table.filled, table.member, table.following
    slot_of, ends = table.slot, table.ends
    node = Index(slot_of[row[leaf, AT], TO])
    first, count = chunk[node], filled[node] - 1
    last, place = first * CHUNK + count, row[leaf, PLACE]
    moved = member[last, LEAF]
    member[place, LEAF] = moved
    member[place, HERE] = member[last, HERE]
    member[place, BEGIN] = member[last, BEGIN]
    member[place, END] = member[last, END]
    row[moved, PLACE] = place
    is_empty = count == 0
    spare, beyond = ends[FREE], following[first]
    chunk[node] = beyond if is_empty else first
    following[first] = spare if is_empty else beyond
    ends[FREE] = first if is_empty else spare
    full = CHUNK if beyond >= 0 else 0
    filled[node] = full if is_empty else count
    row[leaf, AT] = -1


@kernel(types.void(LEAVES, _INT))
def free(table: Leaves, first: int) -> None:
    """Let the chunks from `first` on be free."""
    for chunk in range(first, table.following.shape[0]):
        table.following[chunk] = table.ends[FREE]
        table.ends[FREE] = chunk


@kernel(types.void(*[_ROW] * 2, _FLAGS, *[_ROW] * 3, LEAVES, _ROW))
def fill(
    tail: Int64s,
    head: Int64s,
    alive: Flags,
    bound: Int64s,
    cost: Int64s,
    flow: Int64s,
    table: Leaves,
    excess: Int64s,
) -> None:
    """Write every leaf's slots and where `flow` has it, one unit, and count that out of `excess`. Time O(N + A)."""
    row = table.row
    row[:, STOP] = 0
    row[:, AT] = -1
    row[:, PLACE] = -1
    table.chunk[:] = -1
    table.filled[:] = 0
    table.ends[FREE] = -1
    free(table, 0)
    for arc in range(tail.shape[0]):
        if alive[arc] and table.is_leaf[tail[arc]] and bound[arc] > 0:
            row[tail[arc], STOP] += 1
    at = 0
    for node in range(row.shape[0]):
        row[node, FIRST] = at
        at += row[node, STOP]
        row[node, ROOM] = at
        row[node, STOP] = row[node, FIRST]
    table.ends[N_SLOTS] = at
    for arc in range(tail.shape[0]):
        table.of_arc[arc] = -1
        leaf = tail[arc]
        if alive[arc] and table.is_leaf[leaf] and bound[arc] > 0:
            slot = row[leaf, STOP]
            row[leaf, STOP] += 1
            table.slot[slot, TO] = head[arc]
            table.slot[slot, COST] = cost[arc]
            table.arc[slot] = arc
            table.of_arc[arc] = slot
    for arc in range(tail.shape[0]):
        leaf = tail[arc]
        if flow[arc] > 0 and table.of_arc[arc] >= 0 and row[leaf, AT] < 0:
            settle(table, leaf, table.of_arc[arc])
            excess[leaf] -= 1
            excess[head[arc]] += 1


@kernel(types.void(LEAVES, _INT, _INT))
def end_at(table: Leaves, leaf: int, stop: int) -> None:
    """Let the leaf's slots end there."""
    table.row[leaf, STOP] = stop
    if table.row[leaf, AT] >= 0:
        table.member[table.row[leaf, PLACE], BEGIN] = table.row[leaf, FIRST]
        table.member[table.row[leaf, PLACE], END] = stop


@kernel(types.boolean(LEAVES, _INT))
def more_room(table: Leaves, leaf: int) -> bool:
    """Move the leaf's slots to where there is room for some more; False when there is none left."""
    row = table.row
    count = row[leaf, STOP] - row[leaf, FIRST]
    room = count + count // 2 + 4
    begin = table.ends[N_SLOTS]
    if begin + room > table.slot.shape[0]:
        return False
    table.ends[N_SLOTS] += room
    for index in range(count):
        old, new = row[leaf, FIRST] + index, begin + index
        table.slot[new, TO] = table.slot[old, TO]
        table.slot[new, COST] = table.slot[old, COST]
        table.arc[new] = table.arc[old]
        table.of_arc[table.arc[new]] = new
    if row[leaf, AT] >= 0:
        row[leaf, AT] += begin - row[leaf, FIRST]
    row[leaf, FIRST] = begin
    row[leaf, ROOM] = begin + room
    end_at(table, leaf, begin + count)
    return True


@kernel(_INT(LEAVES, *[_ROW] * 6), entry=True)
def join_arcs(
    table: Leaves,
    arcs: Int64s,
    tail: Int64s,
    head: Int64s,
    bound: Int64s,
    cost: Int64s,
    begin: Int64s,
) -> int:
    """Give slots to the new arcs of leaves, from the `begin`th (int64[1]) on; columns are in the order of `arcs`.

    NO_LEAF: a leaf would cease to be one. FULL: no room for the `begin`th. A node without slots that an arc enters
    ceases to be a leaf without more ado. Arcs of others get no slot.
    """
    row, is_leaf = table.row, table.is_leaf
    for index in range(begin[0], arcs.shape[0]):
        begin[0] = index
        leaf = tail[index]
        table.of_arc[arcs[index]] = -1
        if is_leaf[head[index]]:
            if row[head[index], STOP] > row[head[index], FIRST] or table.ends[FLIPS] == 0:
                return NO_LEAF
            is_leaf[head[index]] = False
            table.ends[FLIPS] -= 1
        if not is_leaf[leaf]:
            continue
        if bound[index] < 1:
            continue
        if row[leaf, STOP] == row[leaf, ROOM] and not more_room(table, leaf):
            return FULL
        slot = row[leaf, STOP]
        end_at(table, leaf, slot + 1)
        table.slot[slot, TO] = head[index]
        table.slot[slot, COST] = cost[index]
        table.arc[slot] = arcs[index]
        table.of_arc[arcs[index]] = slot
    return FINE


@kernel(types.void(LEAVES, _ROW, _ROW, _ROW), entry=True)
def drop_arcs(table: Leaves, arcs: Int64s, tail: Int64s, excess: Int64s) -> None:
    """Take arcs out; a leaf that was there is nowhere and has its unit again. Time O(1) an arc."""
    row = table.row
    for index in range(arcs.shape[0]):
        slot = table.of_arc[arcs[index]]
        if slot < 0:
            continue
        table.of_arc[arcs[index]] = -1
        leaf = tail[index]
        if row[leaf, AT] == slot:
            leave(table, leaf)
            excess[leaf] += 1
            excess[table.slot[slot, TO]] -= 1
        last = row[leaf, STOP] - 1
        end_at(table, leaf, last)
        if last != slot:
            table.slot[slot, TO] = table.slot[last, TO]
            table.slot[slot, COST] = table.slot[last, COST]
            table.arc[slot] = table.arc[last]
            table.of_arc[table.arc[slot]] = slot
            if row[leaf, AT] == last:
                row[leaf, AT] = slot


@kernel(types.void(LEAVES, *[_ROW] * 3), entry=True)
def change_costs(table: Leaves, arcs: Int64s, tail: Int64s, values: Int64s) -> None:
    for index in range(arcs.shape[0]):
        slot = table.of_arc[arcs[index]]
        if slot >= 0:
            table.slot[slot, COST] = values[index]
            if table.row[tail[index], AT] == slot:
                table.member[table.row[tail[index], PLACE], HERE] = values[index]


@kernel(types.boolean(LEAVES, *[_ROW] * 3), entry=True)
def opens_or_closes(table: Leaves, arcs: Int64s, tail: Int64s, bounds: Int64s) -> bool:
    """True where such a bound gives an arc of a leaf room for its unit, or takes it: arcs without room have no slot."""
    for index in range(arcs.shape[0]):
        if table.is_leaf[tail[index]] and (table.of_arc[arcs[index]] >= 0) != (bounds[index] > 0):
            return True
    return False


@kernel(_INT(LEAVES, _INT, _ROW), inline=True)
def best_slot(table: Leaves, leaf: int, price: Int64s) -> int:
    """The slot where the leaf's unit costs least at these prices; -1: it has none."""
    slot_of, row = table.slot, table.row
    found: int = -1
    least = 0
    for slot in range(row[leaf, FIRST], row[leaf, STOP]):
        cost = slot_of[Index(slot), COST] - price[Index(slot_of[Index(slot), TO])]
        if found < 0 or cost < least:
            found = slot
            least = cost
    return found


@kernel(types.void(_GRID, _INT), inline=True)
def fetch_chunk(member: Int32s, chunk: int) -> None:
    """Have a chunk's members loaded, to be looked at soon."""
    for item in range(0, CHUNK * MEMBER, IN_LINE):
        prefetch(member, chunk * CHUNK * MEMBER + item)


@kernel(types.void(_GRID, _GRID, _INT, _INT), inline=True)
def fetch_slots(member: Int32s, slot_of: Int32s, begin: int, end: int) -> None:
    """Have the slots of the members at begin..end-1 loaded: they lie anywhere, and searches waited for them."""
    for place in range(begin, end):
        first = np.int64(member[Index(place), BEGIN]) * 2
        for item in range(0, SLOTS_FETCHED * 2, IN_LINE):
            prefetch(slot_of, first + item)


@kernel(types.boolean(LEAVES, _ROW, _ROW), entry=True)
def are_leaves(table: Leaves, nodes: Int64s, supply: Int64s) -> bool:
    """False where one of these nodes ceased to be a leaf: it supplies more or less than a unit."""
    for index in range(nodes.shape[0]):
        if table.is_leaf[nodes[index]] and not 0 <= supply[nodes[index]] <= 1:
            return False
    return True


@kernel(_INT(LEAVES, *[_ROW] * 4), entry=True)
def reassess(table: Leaves, nodes: Int64s, price: Int64s, excess: Int64s, out_waiting: Int64s) -> int:
    """List the leaves of these nodes that have to go somewhere.

    One that has no unit any more, or would rather be elsewhere, leaves where it is. Each may be named often and is
    listed once. Returns how many.
    """
    row = table.row
    count: int = 0
    for index in range(nodes.shape[0]):
        leaf = nodes[index]
        if not table.is_leaf[leaf]:
            continue
        at = row[leaf, AT]
        if at >= 0:
            node = table.slot[at, TO]
            if excess[leaf] == 0:
                best = best_slot(table, leaf, price)
                if table.slot[best, COST] - price[table.slot[best, TO]] == table.slot[at, COST] - price[node]:
                    continue
            leave(table, leaf)
            excess[leaf] += 1
            excess[node] -= 1
        if excess[leaf] > 0 and row[leaf, PLACE] != LISTED:
            row[leaf, PLACE] = LISTED
            out_waiting[count] = leaf
            count += 1
    return count


def plant(tail: Int64s, head: Int64s, alive: Flags, bound: Int64s, supply: Int64s) -> Leaves:
    """The leaves of a network, with room for their slots; `fill` must follow."""
    n_nodes = supply.size
    is_leaf = np.empty(n_nodes, np.bool_)
    n_slots = int(find_leaves(tail, head, alive, bound, supply, is_leaf))
    n_slots += n_slots // SPARE + 64
    n_flips = 64
    n_chunks = _chunks(n_nodes, int(np.count_nonzero(~is_leaf)) + n_flips)
    return Leaves(
        is_leaf,
        np.zeros((n_nodes, ROW), np.int32),
        np.empty(n_nodes, np.int64),
        np.empty(n_nodes, np.int64),
        np.empty((n_chunks * CHUNK, MEMBER), np.int32),
        np.empty(n_chunks, np.int64),
        np.empty((n_slots, 2), np.int32),
        np.empty(n_slots, np.int32),
        np.empty(tail.size, np.int32),
        np.array([0, -1, n_flips]),
    )


def _chunks(n_leaves: int, n_others: int) -> int:
    """How many chunks hold the members of that many nodes: all are full but one each."""
    return n_leaves // CHUNK + n_others + 1


def with_nodes(table: Leaves, n_nodes: int) -> Leaves:
    """The same with room for so many nodes; the new ones are leaves without a slot."""
    first = table.is_leaf.size
    if n_nodes <= first:
        return table
    is_leaf, row = grown(table.is_leaf, n_nodes), grown(table.row, n_nodes)
    chunk, filled = grown(table.chunk, n_nodes), grown(table.filled, n_nodes)
    is_leaf[first:] = True
    row[first:, AT] = -1
    chunk[first:] = -1
    n_chunks = table.following.size
    following = np.empty(n_chunks + _chunks(is_leaf.size - first, 0), np.int64)
    following[:n_chunks] = table.following
    member = np.empty((following.size * CHUNK, MEMBER), np.int32)
    member[: n_chunks * CHUNK] = table.member
    table = table._replace(is_leaf=is_leaf, row=row, chunk=chunk, filled=filled, following=following, member=member)
    free(table, n_chunks)
    return table


def with_slots(table: Leaves, more: int) -> Leaves:
    """The same with room for so many more slots."""
    n_slots = table.arc.size + more
    return table._replace(slot=grown(table.slot, n_slots), arc=grown(table.arc, n_slots))
