"""Weighted max-min fair rates of flows over capacitated links, by progressive filling, kept up to date incrementally.

Axes: F flow slots, L links, D hops a flow at most. All flows rise together, each in proportion to its weight, until a
link is full or a flow reaches its own bound; what is bounded stops there, the rest rises on (Bertsekas and Gallager,
Data Networks, 1987, §6.5). Levels are bit/s for a weight of `ONE`:

- a link with `left` bit/s for flows of weight W in all fills at ⌊left·ONE / W⌋, never earlier as others stop;
- a flow reaches its bound (its own limit, the narrowest link of its path) at ⌈bound·ONE / weight⌉;
- a flow that stops at a level gets min(bound, ⌊level·weight / ONE⌋), so no link is ever overfull.

What ends the rise at one level ends together, so that rates depend on the set of flows and never on their history.

A change (flows in, flows out) leaves every flow that stopped below `FLOOR` as it is, the lowest level at which the
filling can differ: that of a flow which left, and ⌊capacity·ONE / W⌋ of the links that one entered. From there up,
only what is connected to the change is filled again, over links that can fill at all: a link is *tight* when two or
more flows cross it and their bounds add up to more than its capacity.

Times are µs, amounts left bit·µs/s (rate × elapsed, exact). Magnitudes: capacity ≤ RATE_MAX, weight ≤ ONE, amounts ≤
LEFT_MAX; then no product here exceeds 2⁶².
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

# Columns of `flows`; what a filling reads comes first, in one cache line. BOUND: bit/s; LEVEL: where it stopped, NEVER
# before it was filled; DUE: when its last bit moves, or when it begins to move; PLACE: in the heap; SEEN: twice the
# number of the last filling that met it, one more if it has stopped.
LEVEL, SEEN, WEIGHT, BOUND, NEXT_RATE, RATE, N_HOPS, DUE, LEFT, UPDATED, LIMIT, PLACE, PHASE = range(13)
FLOW_ROW = 16
FREE, WAITING, MOVING = range(3)  # phases
# Columns of `links`. DEMAND: bounds of its flows, rounded up for sure; MET: the last filling that met it, or the next
# if that is to begin here; ROOM and RISING are a filling's scratch.
CAPACITY, FIRST, DEMAND, WEIGHTS, N_FLOWS, MET, ROOM, RISING = range(8)
LINK_ROW = 8
# Columns of `hops`, rows slot·D …: its link, its slot, and a list of the hops on the same link.
LINK, SLOT, AFTER, BEFORE = range(4)
HOP_ROW = 4
# Fields of `state`.
N_HEAP, N_SEEDS, FLOOR, EPOCH, N_FILLED = range(5)
STATE_ROW = 5
# Rows of `work`, scratch of F + L columns: links to fill from; slots to tell the caller; then a filling's flows, its
# heap of levels, what each level belongs to (a link, or ~slot), and the slots that stop now.
SEEDS, OUT, COMPONENT, LEVELS, ITEMS, STOPPING = range(6)
WORK_ROWS = 6


class Tables(NamedTuple):
    """Everything about the flows under way. Arrays may be longer than needed: the rest is room to grow."""

    state: Int64s  # [STATE_ROW]
    flows: Int64s  # [F, FLOW_ROW]
    links: Int64s  # [L, LINK_ROW]
    hops: Int64s  # [F·D, HOP_ROW]
    heap: Int64s  # [F]: slots, by DUE
    work: Int64s  # [WORK_ROWS, F + L]


_ROW, _GRID, _INT = types.int64[::1], types.int64[:, ::1], types.int64
_TABLES = (_ROW, _GRID, _GRID, _GRID, _ROW, _GRID)  # A kernel takes them one by one: as one tuple costs 5 µs a call.


def tables(n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Empty tables of that size; links have no capacity yet."""
    links = np.zeros((n_links, LINK_ROW), np.int64)
    links[:, FIRST] = -1
    hops = np.zeros((n_slots * hops_max, HOP_ROW), np.int64)
    hops[:, SLOT] = np.arange(len(hops)) // hops_max
    made = Tables(
        np.zeros(STATE_ROW, np.int64),
        np.zeros((n_slots, FLOW_ROW), np.int64),
        links,
        hops,
        np.zeros(n_slots, np.int64),
        np.zeros((WORK_ROWS, n_slots + n_links), np.int64),
    )
    made.state[FLOOR] = NEVER
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


# --- the heap of slots by DUE ----------------------------------------------------------------------------------------


@kernel(types.void(_GRID, _ROW, _INT))
def rise(flows: Int64s, heap: Int64s, at: int) -> None:
    slot = heap[at]
    due = flows[slot, DUE]
    while at > 0:
        above = (at - 1) >> 1
        other = heap[above]
        if flows[other, DUE] <= due:
            break
        heap[at] = other
        flows[other, PLACE] = at
        at = above
    heap[at] = slot
    flows[slot, PLACE] = at


@kernel(types.void(_GRID, _ROW, _INT, _INT))
def sink(flows: Int64s, heap: Int64s, n_heap: int, at: int) -> None:
    slot = heap[at]
    due = flows[slot, DUE]
    while True:
        below = 2 * at + 1
        if below >= n_heap:
            break
        if below + 1 < n_heap and flows[heap[below + 1], DUE] < flows[heap[below], DUE]:
            below += 1
        other = heap[below]
        if flows[other, DUE] >= due:
            break
        heap[at] = other
        flows[other, PLACE] = at
        at = below
    heap[at] = slot
    flows[slot, PLACE] = at


@kernel(types.void(_ROW, _GRID, _ROW, _INT))
def drop(state: Int64s, flows: Int64s, heap: Int64s, slot: int) -> None:
    """Take a slot out of the heap."""
    at = flows[slot, PLACE]
    state[N_HEAP] -= 1
    n_heap = state[N_HEAP]
    if at < n_heap:
        moved = heap[n_heap]
        heap[at] = moved
        rise(flows, heap, at)
        sink(flows, heap, n_heap, flows[moved, PLACE])


# --- flows in and out ------------------------------------------------------------------------------------------------


@kernel(types.void(_ROW, _GRID, _GRID, _INT))
def seed(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """The next filling begins at this link too."""
    if links[link, MET] <= state[EPOCH]:
        links[link, MET] = state[EPOCH] + 1
        work[SEEDS, state[N_SEEDS]] = link
        state[N_SEEDS] += 1


@kernel(types.void(*_TABLES, _INT, _INT))
def attach(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, slot: int, now_us: int
) -> None:
    """Let a flow begin to move: on to its links. Its rate comes with the next `share`, unless nothing is tight."""
    first = slot * (hops.shape[0] // flows.shape[0])
    stop = first + flows[slot, N_HOPS]
    bound, weight = flows[slot, LIMIT], flows[slot, WEIGHT]
    for hop in range(first, stop):
        bound = min(bound, links[hops[hop, LINK], CAPACITY])
    level = ((bound << SHIFT) + weight - 1) // weight
    is_free = True
    for hop in range(first, stop):
        link = hops[hop, LINK]
        after = links[link, FIRST]
        hops[hop, AFTER] = after
        hops[hop, BEFORE] = -1
        if after >= 0:
            hops[after, BEFORE] = hop
        links[link, FIRST] = hop
        links[link, DEMAND] += bound + 2  # For sure: levels are rounded, and a tie would stop others with it.
        links[link, WEIGHTS] += weight
        links[link, N_FLOWS] += 1
        if links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
            is_free = False
            seed(state, links, work, link)
            fills = (links[link, CAPACITY] << SHIFT) // links[link, WEIGHTS]
            state[FLOOR] = min(state[FLOOR], fills, level)
    left = flows[slot, LEFT]
    flows[slot, BOUND] = bound
    flows[slot, PHASE] = MOVING
    flows[slot, UPDATED] = now_us
    flows[slot, RATE] = bound if is_free else 0
    flows[slot, LEVEL] = level if is_free else NEVER
    if left == 0:
        flows[slot, DUE] = now_us
    else:
        flows[slot, DUE] = now_us + (left + bound - 1) // bound if is_free and bound > 0 else NEVER
    rise(flows, heap, flows[slot, PLACE])
    sink(flows, heap, state[N_HEAP], flows[slot, PLACE])


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _GRID, _INT))
def detach(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s, slot: int) -> None:
    """Take a flow off its links, which go to those that stay with the next `share`."""
    first = slot * (hops.shape[0] // flows.shape[0])
    for hop in range(first, first + flows[slot, N_HOPS]):
        link = hops[hop, LINK]
        if links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
            seed(state, links, work, link)
            state[FLOOR] = min(state[FLOOR], flows[slot, LEVEL])
        links[link, DEMAND] -= flows[slot, BOUND] + 2
        links[link, WEIGHTS] -= flows[slot, WEIGHT]
        links[link, N_FLOWS] -= 1
        before, after = hops[hop, BEFORE], hops[hop, AFTER]
        if before >= 0:
            hops[before, AFTER] = after
        else:
            links[link, FIRST] = after
        if after >= 0:
            hops[after, BEFORE] = before


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
    heap[state[N_HEAP]] = slot
    state[N_HEAP] += 1
    rise(flows, heap, state[N_HEAP] - 1)
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
    while state[N_HEAP] > 0:
        slot = heap[0]
        if flows[slot, DUE] > now_us:
            break
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


# --- filling ---------------------------------------------------------------------------------------------------------


@kernel(types.void(_ROW, _ROW, _INT, _INT))
def sink_level(levels: Int64s, items: Int64s, n_items: int, at: int) -> None:
    level, item = levels[at], items[at]
    while True:
        below = 2 * at + 1
        if below >= n_items:
            break
        if below + 1 < n_items and levels[below + 1] < levels[below]:
            below += 1
        if levels[below] >= level:
            break
        levels[at], items[at] = levels[below], items[below]
        at = below
    levels[at], items[at] = level, item


@kernel(_INT(_ROW, _GRID, _GRID, _GRID, _GRID))
def gather(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s) -> int:
    """Collect the component of the seeds and heap the levels at which its links and flows would stop; returns how many
    of these there are. `state[N_FILLED]` counts its flows. Links that are met wait in `work[SEEDS]` for their turn.

    A link's room is what flows that stopped below FLOOR leave; its other flows join the component.
    """
    seeds, component, levels, items = work[SEEDS], work[COMPONENT], work[LEVELS], work[ITEMS]
    n_hops_max = hops.shape[0] // flows.shape[0]
    state[EPOCH] += 1
    epoch, floor, mark = state[EPOCH], state[FLOOR], 2 * state[EPOCH]
    n_seeds = state[N_SEEDS]
    n_flows = n_items = n_done = 0
    while n_seeds > 0 or n_done < n_flows:
        if n_seeds > 0:
            n_seeds -= 1
            link = seeds[n_seeds]
            room, rising = links[link, CAPACITY], 0
            hop = links[link, FIRST]
            while hop >= 0:
                slot = hops[hop, SLOT]
                if flows[slot, LEVEL] < floor:
                    room -= flows[slot, RATE]
                else:
                    rising += flows[slot, WEIGHT]
                    if flows[slot, SEEN] != mark:
                        flows[slot, SEEN] = mark
                        component[n_flows] = slot
                        n_flows += 1
                hop = hops[hop, AFTER]
            links[link, ROOM] = room
            links[link, RISING] = rising
            if rising > 0 and links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
                levels[n_items] = (room << SHIFT) // rising
                items[n_items] = link
                n_items += 1
            continue
        slot = component[n_done]
        n_done += 1
        bound, may_reach_bound = flows[slot, BOUND], True  # not where a tight link is no wider
        for hop in range(slot * n_hops_max, slot * n_hops_max + flows[slot, N_HOPS]):
            link = hops[hop, LINK]
            if links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
                may_reach_bound = may_reach_bound and links[link, CAPACITY] > bound
                if links[link, MET] != epoch:
                    links[link, MET] = epoch
                    seeds[n_seeds] = link
                    n_seeds += 1
        if may_reach_bound:
            levels[n_items] = ((bound << SHIFT) + flows[slot, WEIGHT] - 1) // flows[slot, WEIGHT]
            items[n_items] = ~slot
            n_items += 1
    state[N_SEEDS] = 0
    state[N_FILLED] = n_flows
    for at in range(n_items // 2 - 1, -1, -1):
        sink_level(levels, items, n_items, at)
    return n_items


@kernel(types.void(_ROW, _GRID, _GRID, _GRID, _GRID, _INT))
def fill(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, work: Int64s, n_items: int) -> None:
    """Raise the component's flows, lowest level first, until all have stopped. Time O(hops + items · log items)."""
    levels, items, stopping = work[LEVELS], work[ITEMS], work[STOPPING]
    n_hops_max = hops.shape[0] // flows.shape[0]
    epoch, mark = state[EPOCH], 2 * state[EPOCH]
    n_rising = state[N_FILLED]
    while n_rising > 0:
        level = levels[0]
        n_stopping = 0
        while n_items > 0 and levels[0] == level:
            item = items[0]
            if item >= 0 and links[item, RISING] > 0:
                at = (links[item, ROOM] << SHIFT) // links[item, RISING]
                if at > level:  # Others stopped since: it fills later.
                    levels[0] = at
                    sink_level(levels, items, n_items, 0)
                    continue
                hop = links[item, FIRST]
                while hop >= 0:
                    slot = hops[hop, SLOT]
                    if flows[slot, SEEN] == mark:
                        flows[slot, SEEN] = mark + 1
                        stopping[n_stopping] = slot
                        n_stopping += 1
                    hop = hops[hop, AFTER]
            elif item < 0 and flows[~item, SEEN] == mark:
                flows[~item, SEEN] = mark + 1
                stopping[n_stopping] = ~item
                n_stopping += 1
            n_items -= 1
            levels[0], items[0] = levels[n_items], items[n_items]
            if n_items > 1:
                sink_level(levels, items, n_items, 0)
        n_rising -= n_stopping
        for k in range(n_stopping):
            slot = stopping[k]
            weight = flows[slot, WEIGHT]
            rate = min(flows[slot, BOUND], (level * weight) >> SHIFT)
            flows[slot, LEVEL] = level
            flows[slot, NEXT_RATE] = rate
            for hop in range(slot * n_hops_max, slot * n_hops_max + flows[slot, N_HOPS]):
                link = hops[hop, LINK]
                if links[link, MET] == epoch:
                    links[link, ROOM] -= rate
                    links[link, RISING] -= weight


@kernel(types.void(_ROW, _GRID, _ROW, _GRID, _INT))
def adopt(state: Int64s, flows: Int64s, heap: Int64s, work: Int64s, now_us: int) -> None:
    """Move the component's flows on to now and give them their new rates and ends."""
    component = work[COMPONENT]
    n_changed = 0
    for k in range(state[N_FILLED]):
        slot = component[k]
        if flows[slot, DUE] <= now_us:  # It has moved its last bit and waits to be taken out.
            flows[slot, LEFT] = 0
            flows[slot, RATE] = flows[slot, NEXT_RATE]
        elif flows[slot, NEXT_RATE] != flows[slot, RATE]:
            component[n_changed] = slot
            n_changed += 1
    is_many = 8 * n_changed > state[N_HEAP]
    for k in range(n_changed):
        slot = component[k]
        left = flows[slot, LEFT] - flows[slot, RATE] * (now_us - flows[slot, UPDATED])
        rate = flows[slot, NEXT_RATE]
        flows[slot, LEFT] = left
        flows[slot, UPDATED] = now_us
        flows[slot, RATE] = rate
        flows[slot, DUE] = now_us + (left + rate - 1) // rate if rate > 0 else NEVER
        if not is_many:
            rise(flows, heap, flows[slot, PLACE])
            sink(flows, heap, state[N_HEAP], flows[slot, PLACE])
    if is_many:
        for at in range(state[N_HEAP] // 2 - 1, -1, -1):
            sink(flows, heap, state[N_HEAP], at)


@kernel(_INT(*_TABLES, _INT))
def share(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, heap: Int64s, work: Int64s, now_us: int) -> int:
    """Bring all rates up to date after changes at `now_us`; returns when the next flow begins or ends, or NEVER."""
    if state[N_SEEDS] > 0:
        fill(state, flows, links, hops, work, gather(state, flows, links, hops, work))
        adopt(state, flows, heap, work, now_us)
    state[FLOOR] = NEVER
    return flows[heap[0], DUE] if state[N_HEAP] > 0 else NEVER
