"""Where links fill: the levels at which flows stop, kept where the filling would stop them by repair of what a change
reaches. The rule, and why it is right, are told in `policies/kernels/maxmin/__init__.py`."""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.maxmin.crowds import TABLES, dissolve, leave_crowd, note_put
from policies.kernels.maxmin.tables import (
    AIM,
    BOUND,
    CAPACITY,
    CEILING,
    CHANGED,
    CROWD_HOP,
    CROWD_TOP,
    CROWD_WEIGHT,
    DEMAND,
    DIRTY,
    FILLS,
    FIRST,
    GRID,
    HOPS_MAX,
    INT,
    IS_DIRTY,
    LEVEL,
    LEVELS,
    LINK,
    N_CHANGED,
    N_CROWD,
    N_DIRTY,
    N_FLOWS,
    N_HOPS,
    N_QUEUE,
    NEVER,
    NEXT_RATE,
    QUEUE,
    QUEUE_KEYS,
    QUEUED,
    RAISED,
    REPAIR,
    ROW,
    SHIFT,
    SLOT,
    SLOTS,
    TOLD,
    USED,
    WEIGHT,
)


@kernel(types.void(ROW, GRID, GRID, INT), inline=True)
def mark(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """Where this link fills is to be found again."""
    if not links[link, IS_DIRTY]:
        links[link, IS_DIRTY] = 1
        work[DIRTY, state[N_DIRTY]] = link
        state[N_DIRTY] += 1


@kernel(types.boolean(GRID, INT), inline=True)
def is_loose(links: Int64s, link: int) -> bool:
    """Surely it does not fill: it is not tight, or what its flows use, rounded up, is less than it has."""
    n_flows, capacity = links[link, N_FLOWS], links[link, CAPACITY]
    loose: bool = n_flows < 2 or links[link, DEMAND] <= capacity or links[link, USED] + 2 * n_flows <= capacity
    return loose


@kernel(INT(ROW, GRID, GRID, GRID, GRID, GRID, INT, INT), inline=True)
def fills_at(
    state: Int64s,
    flows: Int64s,
    links: Int64s,
    hops: Int64s,
    members: Int64s,
    work: Int64s,
    link: int,
    floor: int,
) -> int:
    """The level at which a link fills by what its flows meet elsewhere, NEVER if it does not; it is not below `floor`.
    -1: above the top of its crowd. No flow of it is in another's. Time O(its flows that are not in its crowd · passes):
    each pass lets stop what stops below the level found so far, which never falls."""
    on_link, slots, levels = members[SLOT], work[SLOTS], work[LEVELS]
    hops_max = state[HOPS_MAX]
    fills = links[link, FILLS]
    n_crowd, top = links[link, N_CROWD], links[link, CROWD_TOP]
    room, weights, n_rising = links[link, CAPACITY], links[link, CROWD_WEIGHT], 0
    first = links[link, FIRST]
    for at_member in range(first + n_crowd, first + links[link, N_FLOWS]):
        slot = on_link[at_member]
        level = flows[slot, LEVEL]
        if level < floor:
            room -= flows[slot, NEXT_RATE]
        else:
            slots[n_rising] = slot
            levels[n_rising] = level if level < fills else NEVER  # What stops here may go higher.
            weights += flows[slot, WEIGHT]
            n_rising += 1
    while weights > 0:
        at: int = (room << SHIFT) // weights
        if n_crowd > 0 and at > top:
            return -1
        if at > fills:  # Then what else stops them matters.
            for k in range(n_rising):
                if levels[k] == NEVER:
                    slot = slots[k]
                    level = flows[slot, CEILING]
                    for hop in range(slot * hops_max, slot * hops_max + flows[slot, N_HOPS]):
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


@kernel(types.void(*TABLES, INT, INT), inline=True)
def put(
    state: Int64s,
    flows: Int64s,
    links: Int64s,
    hops: Int64s,
    members: Int64s,
    heap: Int64s,
    work: Int64s,
    link: int,
    fills: int,
) -> None:
    """Let a link fill at `fills`; its flows follow, and other links that this matters to are marked."""
    if links[link, N_CROWD] > 0 and fills > links[link, CROWD_TOP]:
        dissolve(state, flows, links, hops, members, heap, work, link)
    note_put(state, links, work, link)
    on_link, hops_max = members[SLOT], state[HOPS_MAX]
    was = links[link, FILLS]
    links[link, FILLS] = fills
    first = links[link, FIRST]
    for at_member in range(first + links[link, N_CROWD], first + links[link, N_FLOWS]):
        slot = on_link[at_member]
        level, hop = flows[slot, LEVEL], slot * hops_max
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


@kernel(types.void(ROW, GRID, GRID, INT), inline=True)
def lift(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """Put a link into the queue, or up in it."""
    keys, queue = work[QUEUE_KEYS], work[QUEUE]
    key = min(links[link, FILLS], links[link, AIM])
    at = links[link, QUEUED] - 1
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
        links[queue[at], QUEUED] = at + 1
        at = above
    keys[at], queue[at] = key, link
    links[link, QUEUED] = at + 1


@kernel(INT(ROW, GRID, GRID), inline=True)
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
            links[link, QUEUED] = 0
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
            links[queue[at], QUEUED] = at + 1
            at = below
        if n_queue > 0:
            keys[at], queue[at] = key, moved
            links[moved, QUEUED] = at + 1
        if is_first:
            return link
    return -1


@kernel(INT(*TABLES, INT, INT))
def aim_of(
    state: Int64s,
    flows: Int64s,
    links: Int64s,
    hops: Int64s,
    members: Int64s,
    heap: Int64s,
    work: Int64s,
    link: int,
    floor: int,
) -> int:
    """`fills_at`, after waking whom that needs awake."""
    if links[link, N_FLOWS] < 2 or links[link, DEMAND] <= links[link, CAPACITY]:
        return NEVER
    if links[link, FILLS] == NEVER:
        if is_loose(links, link):
            return NEVER
        has_woken = False
        first = links[link, FIRST]
        for at in range(first, first + links[link, N_FLOWS]):
            slot = members[SLOT, at]
            if flows[slot, CROWD_HOP] >= 0:
                leave_crowd(state, flows, links, hops, members, heap, work, slot)
                has_woken = True
        if has_woken and is_loose(links, link):
            return NEVER
    aim: int = fills_at(state, flows, links, hops, members, work, link, floor)
    if aim < 0:
        dissolve(state, flows, links, hops, members, heap, work, link)
        aim = fills_at(state, flows, links, hops, members, work, link, floor)
    return aim


@kernel(types.void(*TABLES))
def repair(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s
) -> None:
    """Bring all levels to where the filling would stop them, from the lowest that is not there upwards."""
    dirty, floor = work[DIRTY], 0
    while True:
        for k in range(state[N_DIRTY]):
            link = dirty[k]
            links[link, IS_DIRTY] = 0
            links[link, AIM] = aim_of(state, flows, links, hops, members, heap, work, link, floor)
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
        put(state, flows, links, hops, members, heap, work, link, aim)
