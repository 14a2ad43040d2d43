"""Flows in and out, what they have moved, and when the next one is due."""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.maxmin.crowds import TABLES, leave_crowd, move_crowds
from policies.kernels.maxmin.ends import drop, insert, next_due, rise
from policies.kernels.maxmin.levels import is_loose, mark, repair
from policies.kernels.maxmin.members import join, part
from policies.kernels.maxmin.tables import (
    BOUND,
    CAPACITY,
    CEILING,
    CHANGED,
    CROWD_HOP,
    CROWD_LEFT,
    CROWD_LEVEL,
    CROWD_US,
    DEMAND,
    DUE,
    FILLS,
    FREE,
    GRID,
    HEAP_AT,
    HOPS_MAX,
    INT,
    ITEM,
    KEY,
    LEFT,
    LEVEL,
    LIMIT,
    LINK,
    MEMBER,
    MOVING,
    N_BUSY,
    N_CHANGED,
    N_DIRTY,
    N_HOPS,
    N_MOVED,
    NEVER,
    NEXT_RATE,
    OUT,
    PHASE,
    RATE,
    REPAIR,
    ROW,
    SHIFT,
    TOLD,
    UPDATED,
    USED,
    WAITING,
    WEIGHT,
    laid_out,
)

# --- in and out ------------------------------------------------------------------------------------------------------


@kernel(types.void(ROW, GRID, GRID, GRID, GRID, GRID, INT, INT))
def attach(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, work: Int64s, slot: int, now_us: int
) -> None:
    """Let a flow begin to move: on to its links. Its rate comes with the next `share`."""
    first = slot * state[HOPS_MAX]
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
        join(state, links, hops, members, slot, hop)
        links[link, DEMAND] += bound + 2  # For sure: levels are rounded, and a tie would stop others with it.
        links[link, USED] += rate
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


@kernel(types.void(*TABLES, INT))
def take_out(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, slot: int
) -> None:
    """Take a flow off its links, which go to those that stay with the next `share`, and free its slot."""
    if flows[slot, CROWD_HOP] >= 0:
        leave_crowd(state, flows, links, hops, members, heap, work, slot)
    drop(state, flows, heap, slot)
    was_moving = flows[slot, PHASE] == MOVING
    flows[slot, PHASE] = FREE
    if not was_moving:
        return
    first = slot * state[HOPS_MAX]
    for hop in range(first, first + flows[slot, N_HOPS]):
        link = hops[hop, LINK]
        part(links, hops, members, hop)
        links[link, DEMAND] -= flows[slot, BOUND] + 2
        links[link, USED] -= flows[slot, NEXT_RATE]
        if links[link, FILLS] != NEVER:
            mark(state, links, work, link)


@kernel(types.void(ROW, INT, ROW, INT, INT, INT, INT, INT))
def enter(
    whole: Int64s, slot: int, path: Int64s, left: int, limit: int, weight: int, start_us: int, now_us: int
) -> None:
    """A new flow in a free slot, over the links `path`, to begin at `start_us`. Time O(hops + log F)."""
    flows, links, hops, members, heap, work = laid_out(whole)
    first = slot * whole[HOPS_MAX]
    for k in range(path.shape[0]):
        hops[first + k, LINK] = path[k]
    flows[slot, N_HOPS] = path.shape[0]
    flows[slot, CROWD_HOP] = -1
    flows[slot, LEFT] = left
    flows[slot, LIMIT] = limit
    flows[slot, WEIGHT] = weight
    flows[slot, RATE] = 0
    flows[slot, UPDATED] = now_us
    flows[slot, DUE] = start_us
    flows[slot, PHASE] = WAITING
    insert(whole, flows, heap, slot, start_us)
    if start_us <= now_us:
        attach(whole, flows, links, hops, members, work, slot, now_us)


@kernel(types.void(ROW, INT))
def leave(whole: Int64s, slot: int) -> None:
    """Take a flow out, whatever it has left, and free its slot."""
    flows, links, hops, members, heap, work = laid_out(whole)
    take_out(whole, flows, links, hops, members, heap, work, slot)


# --- what they have moved --------------------------------------------------------------------------------------------


@kernel(INT(ROW, INT))
def rate_of(whole: Int64s, slot: int) -> int:
    """What a flow moves at, in bit/s, as of the last `share`."""
    flows, links, hops, _, _, _ = laid_out(whole)
    if flows[slot, CROWD_HOP] >= 0:
        link = hops[slot * whole[HOPS_MAX] + flows[slot, CROWD_HOP], LINK]
        rate: int = (links[link, CROWD_LEVEL] * flows[slot, WEIGHT]) >> SHIFT
    else:
        rate = flows[slot, RATE]
    return rate


@kernel(INT(ROW, INT, INT))
def left_at(whole: Int64s, slot: int, now_us: int) -> int:
    """What a flow has left at `now_us`, in bit·µs/s."""
    flows, links, hops, members, _, _ = laid_out(whole)
    left: int = flows[slot, LEFT]
    if flows[slot, PHASE] == MOVING:
        since, rate = flows[slot, UPDATED], rate_of(whole, slot)
        if flows[slot, CROWD_HOP] >= 0:
            hop = slot * whole[HOPS_MAX] + flows[slot, CROWD_HOP]
            left, since = members[CROWD_LEFT, hops[hop, MEMBER]], links[hops[hop, LINK], CROWD_US]
        has_ended = rate > 0 and (left + rate - 1) // rate <= now_us - since
        left = 0 if has_ended else left - rate * (now_us - since)
    return left


@kernel(types.void(ROW, GRID, GRID, GRID, INT))
def adopt(state: Int64s, flows: Int64s, heap: Int64s, work: Int64s, now_us: int) -> None:
    """Move the flows that changed on to now and give them their new rates and ends."""
    for k in range(state[N_CHANGED]):
        slot = work[CHANGED, k]
        was, rate = flows[slot, RATE], flows[slot, NEXT_RATE]
        if rate == was or flows[slot, PHASE] != MOVING or flows[slot, CROWD_HOP] >= 0:
            continue
        flows[slot, RATE] = rate
        if flows[slot, DUE] <= now_us:  # It has moved its last bit and waits to be taken out.
            flows[slot, LEFT] = 0
            continue
        left = flows[slot, LEFT] - was * (now_us - flows[slot, UPDATED])
        due = now_us + (left + rate - 1) // rate if rate > 0 else NEVER
        flows[slot, LEFT], flows[slot, UPDATED], flows[slot, DUE] = left, now_us, due
        at = flows[slot, HEAP_AT]
        if due < heap[at, KEY]:
            rise(flows, heap, at, due)
    state[N_CHANGED] = 0
    state[REPAIR] += 1


@kernel(INT(*TABLES, INT))
def settle(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, now_us: int
) -> int:
    """Bring all rates up to date after changes at `now_us`; returns when the next flow begins or ends, or NEVER."""
    if state[N_DIRTY] > 0:
        repair(state, flows, links, hops, members, heap, work)
    if state[N_CHANGED] > 0:
        adopt(state, flows, heap, work, now_us)
    if state[N_MOVED] > 0 or state[N_BUSY] > 0:
        move_crowds(state, flows, links, hops, members, heap, work, now_us)
    due: int = next_due(state, flows, heap)
    return due


@kernel(INT(ROW, INT))
def share(whole: Int64s, now_us: int) -> int:
    """Bring all rates up to date after changes at `now_us`; returns when the next flow begins or ends, or NEVER."""
    flows, links, hops, members, heap, work = laid_out(whole)
    due: int = settle(whole, flows, links, hops, members, heap, work, now_us)
    return due


@kernel(INT(ROW, INT))
def pass_due(whole: Int64s, now_us: int) -> int:
    """Let begin what begins by `now_us`, take out what ends by then. Minus the number of those, their slots in
    `work[OUT]`; where there are none rates are up to date and it returns what a `share` would."""
    flows, links, hops, members, heap, work = laid_out(whole)
    n_out = 0
    due: int = next_due(whole, flows, heap)
    while due <= now_us:
        slot = heap[0, ITEM]
        if flows[slot, PHASE] == WAITING and flows[slot, LEFT] > 0:
            attach(whole, flows, links, hops, members, work, slot, now_us)
        else:
            take_out(whole, flows, links, hops, members, heap, work, slot)
            work[OUT, n_out] = slot
            n_out += 1
        due = next_due(whole, flows, heap)
    if n_out == 0:
        due = settle(whole, flows, links, hops, members, heap, work, now_us)
    return -n_out if n_out else due
