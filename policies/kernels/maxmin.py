"""Weighted max-min fair rates of flows over capacitated links, kept up to date by repair of what a change reaches.

Axes: F flow slots, L links, D hops a flow at most. All flows rise together, each in proportion to its weight, until a
link is full or a flow reaches its own bound; what is bounded stops there, the rest rises on (progressive filling:
Bertsekas and Gallager, Data Networks, 1987, §6.5). Levels are bit/s for a weight of `ONE`:

- a link with `left` bit/s for flows of weight W in all fills at ⌊left·ONE / W⌋, never earlier as others stop;
- a flow reaches its bound (its own limit, the narrowest link of its path) at ⌈bound·ONE / weight⌉, its ceiling;
- a flow that stops at a level gets min(bound, ⌊level·weight / ONE⌋), so no link is ever overfull.

What ends the rise at one level ends together, so that rates depend on the set of flows and never on their history.

Nothing is filled from zero. A flow stops at the lowest of its ceiling and the levels at which its links fill; where a
link fills depends only on flows that stopped below. So the levels are the fixed point of an equation of which a value
depends on smaller ones alone, and after a change (flows in, flows out) it is repaired from the lowest level at which
the equation does not hold, upwards, touching what changes (Ramalingam and Reps, An incremental algorithm for a
generalization of the shortest-path problem, J. Algorithms 21, 1996). A link that fills later than it did goes first to
where it would fill now, all else unchanged, which mostly stands; if it has to again, its flows are let go altogether,
as there, and then it is settled for good: three turns a link at most.

A link can fill if it is *tight*: two or more flows cross it and their bounds add up to more than its capacity.

Times are µs, amounts left bit·µs/s (rate × elapsed, exact). Magnitudes: capacity ≤ RATE_MAX, weight ≤ ONE, amounts ≤
LEFT_MAX; then no product here exceeds 2⁶² + 2²².
"""

from typing import NamedTuple

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel

SHIFT = 22
ONE = 1 << SHIFT  # the largest weight
RATE_MAX = 1 << 40  # bit/s
LEFT_MAX = 2**40 * 8_000_000  # 1 TiB
NEVER = 1 << 62

# Columns of `flows`; what a repair reads comes first, in one cache line. LEVEL: where it stops; CEILING: where its
# BOUND (bit/s) stops it; NEXT_RATE: at LEVEL, RATE once adopted; DUE: when its last bit moves, or when it begins to
# move; PLACE: in the heap; TOLD: the last repair that has it among the changed.
LEVEL, NEXT_RATE, WEIGHT, CEILING, BOUND, N_HOPS, TOLD, RATE, DUE, LEFT, UPDATED, LIMIT, PLACE, PHASE = range(14)
FLOW_ROW = 16
FREE, WAITING, MOVING = range(3)  # phases
# Columns of `links`. DEMAND: bounds of its flows, rounded up for sure; USED: their NEXT_RATEs; FILLS: the level at
# which it fills, NEVER if it does not; AIM: where it would as its flows are; IS_DIRTY: AIM is to be found again;
# PLACE_1: in the queue, from 1; RAISED: the last repair that put FILLS up.
CAPACITY, FIRST, DEMAND, N_FLOWS, USED, FILLS, AIM, IS_DIRTY, PLACE_1, RAISED = range(10)
LINK_ROW = 16
# Columns of `hops`, rows slot·D …: its link, its slot, and a list of the hops on the same link.
LINK, SLOT, AFTER, BEFORE = range(4)
HOP_ROW = 4
# Columns of `heap`: a moment no later than the slot's DUE, and the slot.
KEY, ITEM = range(2)
# Fields of `state`. REPAIR: the number of the one under way, or of the next.
N_HEAP, N_DIRTY, N_QUEUE, N_CHANGED, REPAIR = range(5)
STATE_ROW = 5
# Rows of `work`, scratch of F + L columns: slots to tell the caller; flows that changed; links whose AIM is to be
# found; the queue of links whose FILLS is not their AIM, by the lower of the two; the flows of one link, their levels.
OUT, CHANGED, DIRTY, QUEUE_KEYS, QUEUE, SLOTS, LEVELS = range(7)
WORK_ROWS = 7


class Tables(NamedTuple):
    """Everything about the flows under way. Arrays may be longer than needed: the rest is room to grow."""

    state: Int64s  # [STATE_ROW]
    flows: Int64s  # [F, FLOW_ROW]
    links: Int64s  # [L, LINK_ROW]
    hops: Int64s  # [F·D, HOP_ROW]
    heap: Int64s  # [F, 2]: slots, by KEY
    work: Int64s  # [WORK_ROWS, F + L]


_ROW, _GRID, _INT = types.int64[::1], types.int64[:, ::1], types.int64
_TABLES = (_ROW, _GRID, _GRID, _GRID, _GRID, _GRID)  # A kernel takes them one by one: as one tuple costs 5 µs a call.


def _rows(n_rows: int, n_columns: int) -> Int64s:
    """Zeros that begin with a cache line."""
    zeros = np.zeros(n_rows * n_columns + 7, np.int64)
    skipped = -(zeros.ctypes.data // 8) % 8
    return zeros[skipped : skipped + n_rows * n_columns].reshape(n_rows, n_columns)


def tables(n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Empty tables of that size; links have no capacity yet."""
    links = _rows(n_links, LINK_ROW)
    links[:, FIRST] = -1
    links[:, FILLS] = links[:, AIM] = NEVER
    hops = _rows(n_slots * hops_max, HOP_ROW)
    hops[:, SLOT] = np.arange(len(hops)) // hops_max
    made = Tables(
        np.zeros(STATE_ROW, np.int64),
        _rows(n_slots, FLOW_ROW),
        links,
        hops,
        _rows(n_slots, 2),
        np.zeros((WORK_ROWS, n_slots + n_links), np.int64),
    )
    made.state[REPAIR] = 1
    return made


def grown(t: Tables, n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Larger tables with the same contents."""
    made = tables(n_slots, n_links, hops_max)
    old_slots, old_links = len(t.flows), len(t.links)
    old_hops_max = len(t.hops) // old_slots

    def moved(hops: Int64s) -> Int64s:
        """Hops by their new numbers; -1 stays."""
        return np.where(hops < 0, hops, hops // old_hops_max * hops_max + hops % old_hops_max)

    made.state[:] = t.state
    made.flows[:old_slots] = t.flows
    made.links[:old_links] = t.links
    made.links[:, FIRST] = moved(made.links[:, FIRST])
    hops = t.hops.copy()
    hops[:, AFTER], hops[:, BEFORE] = moved(hops[:, AFTER]), moved(hops[:, BEFORE])
    made.hops[moved(np.arange(len(hops)))] = hops  # A hop's slot stays.
    made.heap[:old_slots] = t.heap
    made.work[:, : t.work.shape[1]] = t.work
    return made


# --- the heap of slots by when they are due --------------------------------------------------------------------------
# A flow that is due later than it was stays in its place, with a KEY that is too early, until it comes to the top.


@kernel(types.void(_GRID, _GRID, _INT, _INT))
def rise(flows: Int64s, heap: Int64s, at: int, key: int) -> None:
    """Give the slot at `at` an earlier key."""
    slot = heap[at, ITEM]
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, KEY] <= key:
            break
        other = heap[above, ITEM]
        heap[at, KEY], heap[at, ITEM] = heap[above, KEY], other
        flows[other, PLACE] = at
        at = above
    heap[at, KEY], heap[at, ITEM] = key, slot
    flows[slot, PLACE] = at


@kernel(types.void(_GRID, _GRID, _INT, _INT, _INT))
def sink(flows: Int64s, heap: Int64s, n_heap: int, at: int, key: int) -> None:
    """Give the slot at `at` a later key."""
    slot = heap[at, ITEM]
    while True:
        below = 2 * at + 1
        if below >= n_heap:
            break
        if below + 1 < n_heap and heap[below + 1, KEY] < heap[below, KEY]:
            below += 1
        if heap[below, KEY] >= key:
            break
        other = heap[below, ITEM]
        heap[at, KEY], heap[at, ITEM] = heap[below, KEY], other
        flows[other, PLACE] = at
        at = below
    heap[at, KEY], heap[at, ITEM] = key, slot
    flows[slot, PLACE] = at


@kernel(types.void(_ROW, _GRID, _GRID, _INT))
def drop(state: Int64s, flows: Int64s, heap: Int64s, slot: int) -> None:
    """Take a slot out of the heap."""
    at = flows[slot, PLACE]
    state[N_HEAP] -= 1
    n_heap = state[N_HEAP]
    if at < n_heap:
        key = heap[n_heap, KEY]
        heap[at, ITEM] = heap[n_heap, ITEM]
        if key < heap[at, KEY]:
            rise(flows, heap, at, key)
        else:
            sink(flows, heap, n_heap, at, key)


@kernel(_INT(_ROW, _GRID, _GRID))
def next_due(state: Int64s, flows: Int64s, heap: Int64s) -> int:
    """When the first flow is due, which is then at the top with its true key; NEVER where there is none."""
    while state[N_HEAP] > 0:
        due: int = flows[heap[0, ITEM], DUE]
        if heap[0, KEY] == due:
            return due
        sink(flows, heap, state[N_HEAP], 0, due)
    return NEVER


# --- flows in and out ------------------------------------------------------------------------------------------------


@kernel(types.void(_ROW, _GRID, _GRID, _INT))
def mark(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """Where this link fills is to be found again."""
    if not links[link, IS_DIRTY]:
        links[link, IS_DIRTY] = 1
        work[DIRTY, state[N_DIRTY]] = link
        state[N_DIRTY] += 1


@kernel(types.boolean(_GRID, _INT))
def is_loose(links: Int64s, link: int) -> bool:
    """Surely it does not fill: it is not tight, or what its flows use, rounded up, is less than it has."""
    n_flows, capacity = links[link, N_FLOWS], links[link, CAPACITY]
    loose: bool = n_flows < 2 or links[link, DEMAND] <= capacity or links[link, USED] + 2 * n_flows <= capacity
    return loose


@kernel(types.void(*_TABLES, _INT, _INT))
def attach(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, slot: int, now_us: int
) -> None:
    """Let a flow begin to move: on to its links. Its rate comes with the next `share`."""
    first = slot * (hops.shape[0] // flows.shape[0])
    stop = first + flows[slot, N_HOPS]
    bound, weight = flows[slot, LIMIT], flows[slot, WEIGHT]
    for hop in range(first, stop):
        bound = min(bound, links[hops[hop, LINK], CAPACITY])
    ceiling = ((bound << SHIFT) + weight - 1) // weight
    level = ceiling
    for hop in range(first, stop):
        level = min(level, links[hops[hop, LINK], FILLS])
    rate = min(bound, (level * weight) >> SHIFT)
    for hop in range(first, stop):
        link = hops[hop, LINK]
        after = links[link, FIRST]
        hops[hop, AFTER] = after
        hops[hop, BEFORE] = -1
        if after >= 0:
            hops[after, BEFORE] = hop
        links[link, FIRST] = hop
        links[link, DEMAND] += bound + 2  # For sure: levels are rounded, and a tie would stop others with it.
        links[link, USED] += rate
        links[link, N_FLOWS] += 1
        if links[link, FILLS] != NEVER or not is_loose(links, link):
            mark(state, links, work, link)
    flows[slot, BOUND] = bound
    flows[slot, CEILING] = ceiling
    flows[slot, LEVEL] = level
    flows[slot, NEXT_RATE] = rate
    flows[slot, PHASE] = MOVING
    flows[slot, UPDATED] = now_us
    flows[slot, RATE] = 0
    flows[slot, DUE] = now_us if flows[slot, LEFT] == 0 else NEVER
    if flows[slot, TOLD] != state[REPAIR]:
        flows[slot, TOLD] = state[REPAIR]
        work[CHANGED, state[N_CHANGED]] = slot
        state[N_CHANGED] += 1


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _GRID, _INT))
def detach(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s, slot: int) -> None:
    """Take a flow off its links, which go to those that stay with the next `share`."""
    first = slot * (hops.shape[0] // flows.shape[0])
    for hop in range(first, first + flows[slot, N_HOPS]):
        link = hops[hop, LINK]
        links[link, DEMAND] -= flows[slot, BOUND] + 2
        links[link, USED] -= flows[slot, NEXT_RATE]
        links[link, N_FLOWS] -= 1
        before, after = hops[hop, BEFORE], hops[hop, AFTER]
        if before >= 0:
            hops[before, AFTER] = after
        else:
            links[link, FIRST] = after
        if after >= 0:
            hops[after, BEFORE] = before
        if links[link, FILLS] != NEVER:
            mark(state, links, work, link)


@kernel(types.void(*_TABLES, _INT, _ROW, *[_INT] * 5))
def enter(
    state: Int64s,
    flows: Int64s,
    links: Int64s,
    hops: Int64s,
    heap: Int64s,
    work: Int64s,
    slot: int,
    path: Int64s,
    left: int,
    limit: int,
    weight: int,
    start_us: int,
    now_us: int,
) -> None:
    """A new flow in a free slot, over the links `path`, to begin at `start_us`. Time O(hops + log F)."""
    first = slot * (hops.shape[0] // flows.shape[0])
    for k in range(path.shape[0]):
        hops[first + k, LINK] = path[k]
    flows[slot, N_HOPS] = path.shape[0]
    flows[slot, LEFT] = left
    flows[slot, LIMIT] = limit
    flows[slot, WEIGHT] = weight
    flows[slot, RATE] = 0
    flows[slot, UPDATED] = now_us
    flows[slot, DUE] = start_us
    flows[slot, PHASE] = WAITING
    heap[state[N_HEAP], ITEM] = slot
    state[N_HEAP] += 1
    rise(flows, heap, state[N_HEAP] - 1, start_us)
    if start_us <= now_us:
        attach(state, flows, links, hops, heap, work, slot, now_us)


@kernel(types.void(*_TABLES, _INT))
def leave(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, slot: int) -> None:
    """Take a flow out, whatever it has left, and free its slot."""
    if flows[slot, PHASE] == MOVING:
        detach(state, flows, links, hops, work, slot)
    drop(state, flows, heap, slot)
    flows[slot, PHASE] = FREE


@kernel(_INT(*_TABLES, _INT))
def pass_due(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, now_us: int) -> int:
    """Let begin what begins by `now_us`, take out what ends by then, its slots in `work[OUT]`; returns how many."""
    n_out = 0
    while next_due(state, flows, heap) <= now_us:
        slot = heap[0, ITEM]
        if flows[slot, PHASE] == WAITING and flows[slot, LEFT] > 0:
            attach(state, flows, links, hops, heap, work, slot, now_us)
        else:
            leave(state, flows, links, hops, heap, work, slot)
            work[OUT, n_out] = slot
            n_out += 1
    return n_out


@kernel(_INT(_GRID, _INT, _INT))
def left_at(flows: Int64s, slot: int, now_us: int) -> int:
    """What a flow has left at `now_us`, in bit·µs/s."""
    left: int = flows[slot, LEFT]
    if flows[slot, PHASE] == MOVING:
        left = 0 if now_us >= flows[slot, DUE] else left - flows[slot, RATE] * (now_us - flows[slot, UPDATED])
    return left


# --- repair ----------------------------------------------------------------------------------------------------------


@kernel(_INT(_GRID, _GRID, _GRID, _GRID, _INT, _INT))
def fills_at(flows: Int64s, links: Int64s, hops: Int64s, work: Int64s, link: int, floor: int) -> int:
    """The level at which a link fills by what its flows meet elsewhere, NEVER if it does not; it is not below `floor`.
    Time O(its flows · passes): each pass lets stop what stops below the level found so far, which never falls."""
    slots, levels = work[SLOTS], work[LEVELS]
    n_hops_max = hops.shape[0] // flows.shape[0]
    fills = links[link, FILLS]
    room, weights, n_rising = links[link, CAPACITY], 0, 0
    hop = links[link, FIRST]
    while hop >= 0:
        slot = hops[hop, SLOT]
        level = flows[slot, LEVEL]
        if level < floor:
            room -= flows[slot, NEXT_RATE]
        else:
            slots[n_rising] = slot
            levels[n_rising] = level if level < fills else NEVER  # What stops here may go higher.
            weights += flows[slot, WEIGHT]
            n_rising += 1
        hop = hops[hop, AFTER]
    while weights > 0:
        at: int = (room << SHIFT) // weights
        if at > fills:  # Then what else stops them matters.
            for k in range(n_rising):
                if levels[k] == NEVER:
                    slot = slots[k]
                    level = flows[slot, CEILING]
                    for hop in range(slot * n_hops_max, slot * n_hops_max + flows[slot, N_HOPS]):
                        if hops[hop, LINK] != link:
                            level = min(level, links[hops[hop, LINK], FILLS])
                    levels[k] = level
            fills = NEVER
        n_left = 0
        for k in range(n_rising):
            slot, level = slots[k], levels[k]
            if level < at:
                weight = flows[slot, WEIGHT]
                room -= min(flows[slot, BOUND], (level * weight) >> SHIFT)
                weights -= weight
            else:
                slots[n_left], levels[n_left] = slot, level
                n_left += 1
        if n_left == n_rising:
            return at
        n_rising = n_left
    return NEVER


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _GRID, _INT, _INT))
def put(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s, link: int, fills: int) -> None:
    """Let a link fill at `fills`; its flows follow, and other links that this matters to are marked."""
    n_hops_max = hops.shape[0] // flows.shape[0]
    was = links[link, FILLS]
    links[link, FILLS] = fills
    on_link = links[link, FIRST]
    while on_link >= 0:
        slot = hops[on_link, SLOT]
        on_link = hops[on_link, AFTER]
        level, hop = flows[slot, LEVEL], slot * n_hops_max
        stop = hop + flows[slot, N_HOPS]
        if fills < was:
            new = min(level, fills)
        else:
            new = level
            if level == was:
                new = flows[slot, CEILING]
                for k in range(hop, stop):
                    new = min(new, links[hops[k, LINK], FILLS])
        if new == level:
            if level == min(was, fills):  # At a tie another link holds it, and would go up as if this one stood.
                for k in range(hop, stop):
                    other = hops[k, LINK]
                    if links[other, FILLS] == level and links[other, AIM] > level:
                        mark(state, links, work, other)
            continue
        rate = min(flows[slot, BOUND], (new * flows[slot, WEIGHT]) >> SHIFT)
        more = rate - flows[slot, NEXT_RATE]
        flows[slot, LEVEL], flows[slot, NEXT_RATE] = new, rate
        if flows[slot, TOLD] != state[REPAIR]:
            flows[slot, TOLD] = state[REPAIR]
            work[CHANGED, state[N_CHANGED]] = slot
            state[N_CHANGED] += 1
        lower = min(level, new)
        for k in range(hop, stop):
            other = hops[k, LINK]
            links[other, USED] += more
            if other == link or links[other, IS_DIRTY] or links[other, FILLS] <= lower:
                continue
            if links[other, FILLS] == NEVER and links[other, AIM] == NEVER and is_loose(links, other):
                continue
            links[other, IS_DIRTY] = 1
            work[DIRTY, state[N_DIRTY]] = other
            state[N_DIRTY] += 1


@kernel(types.void(_ROW, _GRID, _GRID, _INT))
def lift(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """Put a link into the queue, or up in it."""
    keys, queue = work[QUEUE_KEYS], work[QUEUE]
    key = min(links[link, FILLS], links[link, AIM])
    at = links[link, PLACE_1] - 1
    if at < 0:
        at = state[N_QUEUE]
        state[N_QUEUE] += 1
    elif keys[at] <= key:
        return  # Too early: seen when it comes to the top.
    while at > 0:
        above = (at - 1) >> 1
        if keys[above] <= key:
            break
        keys[at], queue[at] = keys[above], queue[above]
        links[queue[at], PLACE_1] = at + 1
        at = above
    keys[at], queue[at] = key, link
    links[link, PLACE_1] = at + 1


@kernel(_INT(_ROW, _GRID, _GRID))
def first_of(state: Int64s, links: Int64s, work: Int64s) -> int:
    """Take the link out of the queue whose level is to be mended first; -1 when there is none."""
    keys, queue = work[QUEUE_KEYS], work[QUEUE]
    while state[N_QUEUE] > 0:
        link: int = queue[0]
        key = min(links[link, FILLS], links[link, AIM])
        is_mended = links[link, FILLS] == links[link, AIM]
        is_first = key == keys[0] and not is_mended
        moved = link
        if is_first or is_mended:
            links[link, PLACE_1] = 0
            state[N_QUEUE] -= 1
            moved, key = queue[state[N_QUEUE]], keys[state[N_QUEUE]]
        n_queue, at = state[N_QUEUE], 0
        while 2 * at + 1 < n_queue:
            below = 2 * at + 1
            if below + 1 < n_queue and keys[below + 1] < keys[below]:
                below += 1
            if keys[below] >= key:
                break
            keys[at], queue[at] = keys[below], queue[below]
            links[queue[at], PLACE_1] = at + 1
            at = below
        if n_queue > 0:
            keys[at], queue[at] = key, moved
            links[moved, PLACE_1] = at + 1
        if is_first:
            return link
    return -1


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _GRID))
def repair(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s) -> None:
    """Bring all levels to where the filling would stop them, from the lowest that is not there upwards."""
    dirty, floor = work[DIRTY], 0
    while True:
        for k in range(state[N_DIRTY]):
            link = dirty[k]
            links[link, IS_DIRTY] = 0
            if links[link, N_FLOWS] < 2 or links[link, DEMAND] <= links[link, CAPACITY]:
                links[link, AIM] = NEVER
            elif links[link, FILLS] == NEVER and is_loose(links, link):
                links[link, AIM] = NEVER
            else:
                links[link, AIM] = fills_at(flows, links, hops, work, link, floor)
            if links[link, AIM] != links[link, FILLS]:
                lift(state, links, work, link)
        state[N_DIRTY] = 0
        link = first_of(state, links, work)
        if link < 0:
            break
        fills, aim = links[link, FILLS], links[link, AIM]
        floor = min(fills, aim)
        if aim > fills:
            if links[link, RAISED] == state[REPAIR]:
                aim = NEVER
                mark(state, links, work, link)
            links[link, RAISED] = state[REPAIR]
        put(state, flows, links, hops, work, link, aim)


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _INT))
def adopt(state: Int64s, flows: Int64s, heap: Int64s, work: Int64s, now_us: int) -> None:
    """Move the flows that changed on to now and give them their new rates and ends."""
    for k in range(state[N_CHANGED]):
        slot = work[CHANGED, k]
        was, rate = flows[slot, RATE], flows[slot, NEXT_RATE]
        if rate == was or flows[slot, PHASE] != MOVING:
            continue
        flows[slot, RATE] = rate
        if flows[slot, DUE] <= now_us:  # It has moved its last bit and waits to be taken out.
            flows[slot, LEFT] = 0
            continue
        left = flows[slot, LEFT] - was * (now_us - flows[slot, UPDATED])
        due = now_us + (left + rate - 1) // rate if rate > 0 else NEVER
        flows[slot, LEFT], flows[slot, UPDATED], flows[slot, DUE] = left, now_us, due
        at = flows[slot, PLACE]
        if due < heap[at, KEY]:
            rise(flows, heap, at, due)
    state[N_CHANGED] = 0
    state[REPAIR] += 1


@kernel(_INT(*_TABLES, _INT))
def share(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, now_us: int) -> int:
    """Bring all rates up to date after changes at `now_us`; returns when the next flow begins or ends, or NEVER."""
    if state[N_DIRTY] > 0:
        repair(state, flows, links, hops, work)
    if state[N_CHANGED] > 0:
        adopt(state, flows, heap, work, now_us)
    return next_due(state, flows, heap)
