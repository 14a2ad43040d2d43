"""Crowds: flows that one link alone holds back, and that need no look at while its level changes a little.

A link's level moves with every flow that comes or goes, and all that it holds back move with it. Most of them matter to
nobody: their own bounds are higher, and no other link on their way fills even if this one's level were CROWD_TOP, a
quarter higher. Such a flow is put into its link's crowd. It counts on all its links with its rate at CROWD_TOP (its
LEVEL and NEXT_RATE are those), so that nobody has to be told while the level stays below; what it has left lies beside
the others' of the crowd, and all move on in one pass over neighbours. The first to end is its front and alone in the
heap. It is woken, with its true level, when another link on its way might fill after all, when it goes, or when its
link's level passes the top.
"""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.maxmin.ends import drop, insert, rise
from policies.kernels.maxmin.members import exchange
from policies.kernels.maxmin.tables import (
    BOUND,
    BUSY,
    CAPACITY,
    CEILING,
    CHANGED,
    CROWD_HOP,
    CROWD_LEFT,
    CROWD_LEVEL,
    CROWD_TOP,
    CROWD_US,
    CROWD_WEIGHT,
    CROWD_WEIGHTS,
    DEMAND,
    DUE,
    FILLS,
    FIRST,
    FRONT,
    GRID,
    HAS_MOVED,
    HEAP_AT,
    HOP,
    HOPS_MAX,
    INT,
    KEY,
    LEFT,
    LEVEL,
    LINK,
    MEMBER,
    MOVED,
    N_BUSY,
    N_CHANGED,
    N_CROWD,
    N_FLOWS,
    N_HOPS,
    N_MOVED,
    N_PUTS,
    NEVER,
    NEXT_RATE,
    RATE,
    REPAIR,
    ROW,
    SHIFT,
    SLOT,
    TOLD,
    UPDATED,
    USED,
    WEIGHT,
)

CROWD_MIN = 8  # Fewer are no trouble one by one.
PUTS_MAX = 8  # A look costs as much as one change of the level.

TABLES = (ROW, GRID, GRID, GRID, GRID, GRID, GRID)


@kernel(types.void(ROW, GRID, GRID, GRID, GRID, INT))
def find_front(state: Int64s, flows: Int64s, links: Int64s, members: Int64s, heap: Int64s, link: int) -> None:
    """Let the one that is due first stand in the heap, and none else of the crowd."""
    since, level = links[link, CROWD_US], links[link, CROWD_LEVEL]
    weights, lefts = members[CROWD_WEIGHTS], members[CROWD_LEFT]
    first = links[link, FIRST]
    front, front_due = -1, NEVER + 1
    for at in range(first, first + links[link, N_CROWD]):
        rate = (level * weights[at]) >> SHIFT
        due = since + (lefts[at] + rate - 1) // rate if rate > 0 else NEVER
        if due < front_due:
            front, front_due = at, due
    slot, was = -1, links[link, FRONT]
    if front >= 0:
        slot = members[SLOT, front]
        flows[slot, DUE] = front_due
    if slot != was:
        if was >= 0:
            drop(state, flows, heap, was)
        if slot >= 0:
            insert(state, flows, heap, slot, front_due)
        links[link, FRONT] = slot
    elif slot >= 0 and front_due < heap[flows[slot, HEAP_AT], KEY]:
        rise(flows, heap, flows[slot, HEAP_AT], front_due)


@kernel(types.void(ROW, GRID, GRID, GRID, GRID, INT, INT))
def move_crowd(
    state: Int64s, flows: Int64s, links: Int64s, members: Int64s, heap: Int64s, link: int, now_us: int
) -> None:
    """Move a crowd on to now, and give it its link's level."""
    elapsed, level = now_us - links[link, CROWD_US], links[link, CROWD_LEVEL]
    weights, lefts = members[CROWD_WEIGHTS], members[CROWD_LEFT]
    first = links[link, FIRST]
    for at in range(first, first + links[link, N_CROWD]):
        lefts[at] = max(0, lefts[at] - ((level * weights[at]) >> SHIFT) * elapsed)
    links[link, CROWD_US], links[link, CROWD_LEVEL] = now_us, links[link, FILLS]
    find_front(state, flows, links, members, heap, link)


@kernel(types.void(*TABLES, INT))
def wake(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, slot: int
) -> None:
    """Take a flow out of its crowd. The crowd may be without a front then."""
    first_hop = slot * state[HOPS_MAX]
    hop = first_hop + flows[slot, CROWD_HOP]
    link = hops[hop, LINK]
    links[link, N_CROWD] -= 1
    links[link, CROWD_WEIGHT] -= flows[slot, WEIGHT]
    at = links[link, FIRST] + links[link, N_CROWD]
    exchange(hops, members, hops[hop, MEMBER], at)
    was = (links[link, CROWD_LEVEL] * flows[slot, WEIGHT]) >> SHIFT
    left, since = members[CROWD_LEFT, at], links[link, CROWD_US]
    due = since + (left + was - 1) // was if was > 0 else NEVER
    flows[slot, RATE], flows[slot, LEFT], flows[slot, UPDATED], flows[slot, DUE] = was, left, since, due
    flows[slot, CROWD_HOP] = -1
    if links[link, FRONT] == slot:
        links[link, FRONT] = -1
    else:
        insert(state, flows, heap, slot, due)
    level = links[link, FILLS]
    rate = min(flows[slot, BOUND], (level * flows[slot, WEIGHT]) >> SHIFT)
    less = flows[slot, NEXT_RATE] - rate
    flows[slot, LEVEL], flows[slot, NEXT_RATE] = level, rate
    for k in range(first_hop, first_hop + flows[slot, N_HOPS]):
        links[hops[k, LINK], USED] -= less
    if flows[slot, TOLD] != state[REPAIR]:
        flows[slot, TOLD] = state[REPAIR]
        work[CHANGED, state[N_CHANGED]] = slot
        state[N_CHANGED] += 1


@kernel(types.void(*TABLES, INT))
def leave_crowd(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, slot: int
) -> None:
    """Take one flow out of its crowd, which goes on."""
    link = hops[slot * state[HOPS_MAX] + flows[slot, CROWD_HOP], LINK]
    is_front = links[link, FRONT] == slot
    wake(state, flows, links, hops, members, heap, work, slot)
    if is_front:
        find_front(state, flows, links, members, heap, link)


@kernel(types.void(*TABLES, INT))
def dissolve(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, link: int
) -> None:
    """Take all flows out of a crowd."""
    while links[link, N_CROWD] > 0:
        slot = members[SLOT, links[link, FIRST] + links[link, N_CROWD] - 1]
        wake(state, flows, links, hops, members, heap, work, slot)


@kernel(types.void(ROW, GRID, GRID, INT), inline=True)
def note_put(state: Int64s, links: Int64s, work: Int64s, link: int) -> None:
    """A link's level changed: its crowd will move on, and from time to time it is looked for more of them."""
    if links[link, N_CROWD] > 0 and not links[link, HAS_MOVED]:
        links[link, HAS_MOVED] = 1
        work[MOVED, state[N_MOVED]] = link
        state[N_MOVED] += 1
    if links[link, N_FLOWS] - links[link, N_CROWD] >= CROWD_MIN:
        links[link, N_PUTS] += 1
        if links[link, N_PUTS] == PUTS_MAX:  # Once, until it was looked at.
            work[BUSY, state[N_BUSY]] = link
            state[N_BUSY] += 1


@kernel(types.boolean(ROW, GRID, GRID, GRID, INT, INT, INT))
def may_join(state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, link: int, slot: int, more: int) -> bool:
    """Nothing but `link` holds this flow back, and would not if it moved `more` bit/s."""
    first_hop = slot * state[HOPS_MAX]
    for k in range(first_hop, first_hop + flows[slot, N_HOPS]):
        other = hops[k, LINK]
        if other == link:
            continue
        if links[other, FILLS] != NEVER:
            return False
        n_flows, capacity = links[other, N_FLOWS], links[other, CAPACITY]
        if n_flows < 2 or links[other, DEMAND] <= capacity:
            continue
        if links[other, USED] + more + 2 * n_flows > capacity:
            return False
    return True


@kernel(types.void(*TABLES, INT, INT))
def gather(
    state: Int64s,
    flows: Int64s,
    links: Int64s,
    hops: Int64s,
    members: Int64s,
    heap: Int64s,
    work: Int64s,
    link: int,
    now_us: int,
) -> None:
    """Put into a link's crowd who may be. Rates are those of now."""
    fills = links[link, FILLS]
    if fills == NEVER:
        return
    if links[link, CROWD_TOP] > 2 * fills:  # Those in it count for much more than they move.
        dissolve(state, flows, links, hops, members, heap, work, link)
    if links[link, N_CROWD] == 0:
        links[link, CROWD_TOP] = fills + (fills >> 2)
    move_crowd(state, flows, links, members, heap, link, now_us)
    top = links[link, CROWD_TOP]
    first = links[link, FIRST]
    for at in range(first + links[link, N_CROWD], first + links[link, N_FLOWS]):
        slot, hop = members[SLOT, at], members[HOP, at]
        if flows[slot, LEVEL] != fills or flows[slot, CEILING] < top or flows[slot, CROWD_HOP] >= 0:
            continue
        if flows[slot, DUE] <= now_us or flows[slot, RATE] != flows[slot, NEXT_RATE]:
            continue
        most = (top * flows[slot, WEIGHT]) >> SHIFT
        more = most - flows[slot, NEXT_RATE]
        if not may_join(state, flows, links, hops, link, slot, more):
            continue
        first_hop = slot * state[HOPS_MAX]
        for k in range(first_hop, first_hop + flows[slot, N_HOPS]):
            links[hops[k, LINK], USED] += more
        flows[slot, LEVEL], flows[slot, NEXT_RATE], flows[slot, CROWD_HOP] = top, most, hop - first_hop
        drop(state, flows, heap, slot)
        to = first + links[link, N_CROWD]
        exchange(hops, members, at, to)
        members[CROWD_WEIGHTS, to] = flows[slot, WEIGHT]
        members[CROWD_LEFT, to] = flows[slot, LEFT] - flows[slot, RATE] * (now_us - flows[slot, UPDATED])
        links[link, N_CROWD] += 1
        links[link, CROWD_WEIGHT] += flows[slot, WEIGHT]
    find_front(state, flows, links, members, heap, link)


@kernel(types.void(*TABLES, INT))
def move_crowds(
    state: Int64s, flows: Int64s, links: Int64s, hops: Int64s, members: Int64s, heap: Int64s, work: Int64s, now_us: int
) -> None:
    """Move on the crowds whose links' levels changed, and look where there may be more."""
    for k in range(state[N_MOVED]):
        link = work[MOVED, k]
        links[link, HAS_MOVED] = 0
        if links[link, N_CROWD] > 0:
            move_crowd(state, flows, links, members, heap, link, now_us)
    state[N_MOVED] = 0
    for k in range(state[N_BUSY]):
        link = work[BUSY, k]
        links[link, N_PUTS] = 0
        gather(state, flows, links, hops, members, heap, work, link, now_us)
    state[N_BUSY] = 0
