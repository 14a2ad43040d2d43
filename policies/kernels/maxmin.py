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

from typing import Any, NamedTuple

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel

SHIFT = 22
ONE = 1 << SHIFT  # the largest weight
RATE_MAX = 1 << 40  # bit/s
LEFT_MAX = 2**40 * 8_000_000  # 1 TiB
NEVER = 1 << 62

# Columns of `flows`. BOUND: bit/s; LEVEL: where it stopped, NEVER before it was filled; DUE: when its last bit moves,
# or when it begins to move; PLACE: in the heap; SEEN: twice the number of the last filling that met it, one more if it
# has stopped.
LEFT, RATE, UPDATED, DUE, LIMIT, WEIGHT, BOUND, LEVEL, NEXT_RATE, PLACE, N_HOPS, PHASE, SEEN = range(13)
FLOW_ROW = 13
FREE, WAITING, MOVING = range(3)  # phases
# Columns of `links`. DEMAND: bounds of its flows, rounded up for sure; ROOM and RISING are a filling's scratch.
CAPACITY, FIRST, DEMAND, WEIGHTS, N_FLOWS, SEEDED, MET, ROOM, RISING = range(9)
LINK_ROW = 9
# Columns of `hops`, rows slot·D …: its link, and a list of the hops on the same link.
LINK, AFTER, BEFORE = range(3)
# Fields of `state`.
N_HEAP, N_SEEDS, FLOOR, EPOCH, N_OUT, N_FILLED = range(6)
STATE_ROW = 6
# Rows of `work`, scratch of F + L columns: links to fill from; slots to tell the caller; then a filling's flows, links,
# heap of levels, what each level belongs to (a link, or ~slot), and what stops now.
SEEDS, OUT, COMPONENT, REACHED, LEVELS, ITEMS, STOPPING = range(7)
WORK_ROWS = 7


class Tables(NamedTuple):
    """Everything about the flows under way. Arrays may be longer than needed: the rest is room to grow."""

    state: Int64s  # [STATE_ROW]
    flows: Int64s  # [F, FLOW_ROW]
    links: Int64s  # [L, LINK_ROW]
    hops: Int64s  # [F·D, 3]
    heap: Int64s  # [F]: slots, by DUE
    work: Int64s  # [WORK_ROWS, F + L]


_ROW, _GRID = types.int64[::1], types.int64[:, ::1]
TABLES: Any = types.NamedTuple([_ROW, _GRID, _GRID, _GRID, _ROW, _GRID], Tables)  # type: ignore[no-untyped-call]
_INT = types.int64


def tables(n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Empty tables of that size; links have no capacity yet."""
    links = np.zeros((n_links, LINK_ROW), np.int64)
    links[:, FIRST] = -1
    made = Tables(
        np.zeros(STATE_ROW, np.int64),
        np.zeros((n_slots, FLOW_ROW), np.int64),
        links,
        np.zeros((n_slots * hops_max, 3), np.int64),
        np.zeros(n_slots, np.int64),
        np.zeros((WORK_ROWS, n_slots + n_links), np.int64),
    )
    made.state[FLOOR] = NEVER
    made.flows[:, PLACE] = -1
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
    made.hops[moved(np.arange(len(hops)))] = hops
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


@kernel(types.void(TABLES, _INT))
def drop(t: Tables, slot: int) -> None:
    """Take a slot out of the heap."""
    at = t.flows[slot, PLACE]
    t.state[N_HEAP] -= 1
    n_heap = t.state[N_HEAP]
    t.flows[slot, PLACE] = -1
    if at < n_heap:
        moved = t.heap[n_heap]
        t.heap[at] = moved
        t.flows[moved, PLACE] = at
        rise(t.flows, t.heap, at)
        sink(t.flows, t.heap, n_heap, t.flows[moved, PLACE])


# --- flows in and out ------------------------------------------------------------------------------------------------


@kernel(types.void(TABLES, _INT))
def seed(t: Tables, link: int) -> None:
    """Fill again from this link."""
    if t.links[link, SEEDED] == 0:
        t.links[link, SEEDED] = 1
        t.work[SEEDS, t.state[N_SEEDS]] = link
        t.state[N_SEEDS] += 1


@kernel(types.void(TABLES, _INT, _INT))
def attach(t: Tables, slot: int, now_us: int) -> None:
    """Let a flow begin to move: on to its links. Its rate comes with the next `share`, unless nothing is tight."""
    flows, links, hops = t.flows, t.links, t.hops
    first = slot * (hops.shape[0] // flows.shape[0])
    bound = flows[slot, LIMIT]
    for hop in range(first, first + flows[slot, N_HOPS]):
        bound = min(bound, links[hops[hop, LINK], CAPACITY])
    weight = flows[slot, WEIGHT]
    flows[slot, BOUND] = bound
    flows[slot, PHASE] = MOVING
    flows[slot, UPDATED] = now_us
    flows[slot, RATE] = 0
    flows[slot, LEVEL] = NEVER
    is_free = True
    for hop in range(first, first + flows[slot, N_HOPS]):
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
            seed(t, link)
            t.state[FLOOR] = min(t.state[FLOOR], (links[link, CAPACITY] << SHIFT) // links[link, WEIGHTS])
    level = ((bound << SHIFT) + weight - 1) // weight
    if is_free:
        flows[slot, RATE] = bound
        flows[slot, LEVEL] = level
        left = flows[slot, LEFT]
        flows[slot, DUE] = now_us if left == 0 else (now_us + (left + bound - 1) // bound if bound > 0 else NEVER)
    else:
        flows[slot, DUE] = NEVER if flows[slot, LEFT] > 0 else now_us
        t.state[FLOOR] = min(t.state[FLOOR], level)
    sink(flows, t.heap, t.state[N_HEAP], flows[slot, PLACE])
    rise(flows, t.heap, flows[slot, PLACE])


@kernel(types.void(TABLES, _INT))
def detach(t: Tables, slot: int) -> None:
    """Take a flow off its links, which go to those that stay with the next `share`."""
    flows, links, hops = t.flows, t.links, t.hops
    first = slot * (hops.shape[0] // flows.shape[0])
    for hop in range(first, first + flows[slot, N_HOPS]):
        link = hops[hop, LINK]
        if links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
            seed(t, link)
            t.state[FLOOR] = min(t.state[FLOOR], flows[slot, LEVEL])
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


@kernel(types.void(TABLES, _INT, _ROW, *[_INT] * 5))
def enter(t: Tables, slot: int, path: Int64s, left: int, limit: int, weight: int, start_us: int, now_us: int) -> None:
    """A new flow in a free slot, over the links `path`, to begin at `start_us`. Time O(hops + log F)."""
    flows, hops = t.flows, t.hops
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
    t.heap[t.state[N_HEAP]] = slot
    t.state[N_HEAP] += 1
    rise(flows, t.heap, t.state[N_HEAP] - 1)
    if start_us <= now_us:
        attach(t, slot, now_us)


@kernel(types.void(TABLES, _INT))
def leave(t: Tables, slot: int) -> None:
    """Take a flow out, whatever it has left, and free its slot."""
    if t.flows[slot, PHASE] == MOVING:
        detach(t, slot)
    drop(t, slot)
    t.flows[slot, PHASE] = FREE


@kernel(_INT(TABLES, _INT))
def pass_due(t: Tables, now_us: int) -> int:
    """Let begin what begins by `now_us`, take out what ends by then, its slots in `work[OUT]`; returns how many."""
    n_out = 0
    flows = t.flows
    while t.state[N_HEAP] > 0:
        slot = t.heap[0]
        if flows[slot, DUE] > now_us:
            break
        if flows[slot, PHASE] == WAITING and flows[slot, LEFT] > 0:
            attach(t, slot, now_us)
        else:
            leave(t, slot)
            t.work[OUT, n_out] = slot
            n_out += 1
    return n_out


@kernel(_INT(TABLES, _INT, _INT))
def left_at(t: Tables, slot: int, now_us: int) -> int:
    """What a flow has left at `now_us`, in bit·µs/s."""
    left: int = t.flows[slot, LEFT]
    if t.flows[slot, PHASE] == MOVING:
        left = 0 if now_us >= t.flows[slot, DUE] else left - t.flows[slot, RATE] * (now_us - t.flows[slot, UPDATED])
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


@kernel(_INT(TABLES, _INT, _INT))
def reach(t: Tables, link: int, n_flows: int) -> int:
    """Meet a link: its room is what flows that stopped below FLOOR leave; the others join the component."""
    flows, links, hops, component = t.flows, t.links, t.hops, t.work[COMPONENT]
    n_hops_max = hops.shape[0] // flows.shape[0]
    floor, mark = t.state[FLOOR], 2 * t.state[EPOCH]
    room, rising = links[link, CAPACITY], 0
    hop = links[link, FIRST]
    while hop >= 0:
        slot = hop // n_hops_max
        if flows[slot, LEVEL] < floor:
            room -= flows[slot, RATE]
        else:
            rising += flows[slot, WEIGHT]
            if flows[slot, SEEN] != mark:
                flows[slot, SEEN] = mark
                component[n_flows] = slot
                n_flows += 1
        hop = hops[hop, AFTER]
    links[link, MET] = t.state[EPOCH]
    links[link, ROOM] = room
    links[link, RISING] = rising
    return n_flows


@kernel(_INT(TABLES))
def gather(t: Tables) -> int:
    """Collect the component of the seeds and heap the levels at which its links and flows would stop; returns how many
    of these there are. `state[N_FILLED]` counts its flows."""
    flows, links, hops, work, state = t.flows, t.links, t.hops, t.work, t.state
    n_hops_max = hops.shape[0] // flows.shape[0]
    levels, items = work[LEVELS], work[ITEMS]
    state[EPOCH] += 1
    epoch = state[EPOCH]
    n_flows = n_items = 0
    for k in range(state[N_SEEDS]):
        link = work[SEEDS, k]
        links[link, SEEDED] = 0
        n_flows = reach(t, link, n_flows)
        if links[link, RISING] > 0 and links[link, N_FLOWS] > 1 and links[link, DEMAND] > links[link, CAPACITY]:
            levels[n_items] = (links[link, ROOM] << SHIFT) // links[link, RISING]
            items[n_items] = link
            n_items += 1
    state[N_SEEDS] = 0
    done = 0
    while done < n_flows:
        slot = work[COMPONENT, done]
        done += 1
        bound = flows[slot, BOUND]
        may_reach_bound = True  # not where a tight link is no wider
        for hop in range(slot * n_hops_max, slot * n_hops_max + flows[slot, N_HOPS]):
            link = hops[hop, LINK]
            if links[link, N_FLOWS] < 2 or links[link, DEMAND] <= links[link, CAPACITY]:
                continue
            if links[link, CAPACITY] == bound:
                may_reach_bound = False
            if links[link, MET] != epoch:
                n_flows = reach(t, link, n_flows)
                levels[n_items] = (links[link, ROOM] << SHIFT) // links[link, RISING]
                items[n_items] = link
                n_items += 1
        if may_reach_bound:
            levels[n_items] = ((bound << SHIFT) + flows[slot, WEIGHT] - 1) // flows[slot, WEIGHT]
            items[n_items] = ~slot
            n_items += 1
    for at in range(n_items // 2 - 1, -1, -1):
        sink_level(levels, items, n_items, at)
    state[N_FILLED] = n_flows
    return n_items


@kernel(types.void(TABLES, _INT, _INT))
def stop(t: Tables, slot: int, level: int) -> None:
    """Freeze a flow at `level`; the links it met have less room and fewer to share it."""
    flows, links, hops = t.flows, t.links, t.hops
    n_hops_max = hops.shape[0] // flows.shape[0]
    weight, epoch = flows[slot, WEIGHT], t.state[EPOCH]
    rate = min(flows[slot, BOUND], (level * weight) >> SHIFT)
    flows[slot, SEEN] = 2 * epoch + 1
    flows[slot, LEVEL] = level
    flows[slot, NEXT_RATE] = rate
    for hop in range(slot * n_hops_max, slot * n_hops_max + flows[slot, N_HOPS]):
        link = hops[hop, LINK]
        if links[link, MET] == epoch:
            links[link, ROOM] -= rate
            links[link, RISING] -= weight


@kernel(types.void(TABLES, _INT))
def fill(t: Tables, n_items: int) -> None:
    """Raise the component's flows, lowest level first, until all have stopped. Time O(hops + items · log items)."""
    flows, links, hops = t.flows, t.links, t.hops
    n_hops_max = hops.shape[0] // flows.shape[0]
    levels, items, stopping = t.work[LEVELS], t.work[ITEMS], t.work[STOPPING]
    mark = 2 * t.state[EPOCH]
    while n_items > 0:
        level = levels[0]
        n_stopping = 0
        while n_items > 0 and levels[0] == level:
            item = items[0]
            if item >= 0 and links[item, RISING] > 0:
                now = (links[item, ROOM] << SHIFT) // links[item, RISING]
                if now > level:  # Others stopped since: it fills later.
                    levels[0] = now
                    sink_level(levels, items, n_items, 0)
                    continue
            if (item >= 0 and links[item, RISING] > 0) or (item < 0 and flows[~item, SEEN] == mark):
                stopping[n_stopping] = item
                n_stopping += 1
            n_items -= 1
            levels[0], items[0] = levels[n_items], items[n_items]
            if n_items > 1:
                sink_level(levels, items, n_items, 0)
        for k in range(n_stopping):
            item = stopping[k]
            if item < 0:
                if flows[~item, SEEN] == mark:
                    stop(t, ~item, level)
                continue
            hop = links[item, FIRST]
            while hop >= 0:
                if flows[hop // n_hops_max, SEEN] == mark:
                    stop(t, hop // n_hops_max, level)
                hop = hops[hop, AFTER]


@kernel(types.void(TABLES, _INT))
def adopt(t: Tables, now_us: int) -> None:
    """Move the component's flows on to now and give them their new rates and ends."""
    flows, work, state = t.flows, t.work, t.state
    n_changed = 0
    for k in range(state[N_FILLED]):
        slot = work[COMPONENT, k]
        if flows[slot, DUE] <= now_us:  # It has moved its last bit and waits to be taken out.
            flows[slot, LEFT] = 0
            flows[slot, RATE] = flows[slot, NEXT_RATE]
        elif flows[slot, NEXT_RATE] != flows[slot, RATE]:
            work[COMPONENT, n_changed] = slot
            n_changed += 1
    is_many = 8 * n_changed > state[N_HEAP]
    for k in range(n_changed):
        slot = work[COMPONENT, k]
        left = flows[slot, LEFT] - flows[slot, RATE] * (now_us - flows[slot, UPDATED])
        rate = flows[slot, NEXT_RATE]
        flows[slot, LEFT] = left
        flows[slot, UPDATED] = now_us
        flows[slot, RATE] = rate
        flows[slot, DUE] = now_us + (left + rate - 1) // rate if rate > 0 else NEVER
        if not is_many:
            rise(flows, t.heap, flows[slot, PLACE])
            sink(flows, t.heap, state[N_HEAP], flows[slot, PLACE])
    if is_many:
        for at in range(state[N_HEAP] // 2 - 1, -1, -1):
            sink(flows, t.heap, state[N_HEAP], at)


@kernel(_INT(TABLES, _INT))
def share(t: Tables, now_us: int) -> int:
    """Bring all rates up to date after changes at `now_us`; returns when the next flow begins or ends, or NEVER."""
    if t.state[N_SEEDS] > 0:
        fill(t, gather(t))
        adopt(t, now_us)
    t.state[FLOOR] = NEVER
    return t.flows[t.heap[0], DUE] if t.state[N_HEAP] > 0 else NEVER
