"""Who is on which link: side by side, so that to walk over them waits for memory once and not once a flow."""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.maxmin.tables import (
    FIRST,
    GRID,
    HOP,
    INT,
    LINK,
    MEMBER,
    MEMBER_ROWS,
    N_FLOWS,
    N_MEMBERS,
    ROOM,
    ROW,
    SLOT,
)


@kernel(types.void(GRID, GRID, INT, INT))
def exchange(hops: Int64s, members: Int64s, a: int, b: int) -> None:
    """Let two flows of a link change places."""
    if a != b:
        for row in range(MEMBER_ROWS):
            members[row, a], members[row, b] = members[row, b], members[row, a]
        hops[members[HOP, a], MEMBER], hops[members[HOP, b], MEMBER] = a, b


@kernel(types.void(GRID, GRID, GRID, GRID, INT, INT))
def move_to(links: Int64s, hops: Int64s, members: Int64s, source: Int64s, link: int, to: int) -> None:
    """Move the flows of a link from `source` to where `to` begins."""
    first = links[link, FIRST]
    for k in range(links[link, N_FLOWS]):
        for row in range(MEMBER_ROWS):
            members[row, to + k] = source[row, first + k]
        hops[members[HOP, to + k], MEMBER] = to + k
    links[link, FIRST] = to


@kernel(types.void(ROW, GRID, GRID, GRID))
def pack(state: Int64s, links: Int64s, hops: Int64s, members: Int64s) -> None:
    """Give every link half as much again as it needs, one after the other. That is at most 3/8 of all, which leaves one
    link room for twice the hops there may be."""
    before, to = members.copy(), 0
    for link in range(links.shape[0]):
        move_to(links, hops, members, before, link, to)
        links[link, ROOM] = links[link, N_FLOWS] + links[link, N_FLOWS] // 2
        to += links[link, ROOM]
    state[N_MEMBERS] = to


@kernel(types.void(ROW, GRID, GRID, GRID, INT, INT))
def join(state: Int64s, links: Int64s, hops: Int64s, members: Int64s, slot: int, hop: int) -> None:
    """On to a link."""
    link = hops[hop, LINK]
    n_flows = links[link, N_FLOWS]
    if n_flows >= links[link, ROOM]:
        room = max(4, 2 * n_flows)
        if state[N_MEMBERS] + room > members.shape[1]:
            pack(state, links, hops, members)
        move_to(links, hops, members, members, link, state[N_MEMBERS])
        links[link, ROOM] = room
        state[N_MEMBERS] += room
    at = links[link, FIRST] + n_flows
    members[SLOT, at], members[HOP, at], hops[hop, MEMBER] = slot, hop, at
    links[link, N_FLOWS] = n_flows + 1


@kernel(types.void(GRID, GRID, GRID, INT))
def part(links: Int64s, hops: Int64s, members: Int64s, hop: int) -> None:
    """Off a link; it is not in its crowd."""
    link = hops[hop, LINK]
    links[link, N_FLOWS] -= 1
    exchange(hops, members, hops[hop, MEMBER], links[link, FIRST] + links[link, N_FLOWS])
