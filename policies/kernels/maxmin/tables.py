"""The tables of the flows under way: one array of integers, and what lies where in it.

A kernel is given that one array, for each array that is handed over costs 0.1 µs a call, and lays the tables out again.
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
# BOUND (bit/s) stops it; NEXT_RATE: at LEVEL, RATE once adopted; CROWD_HOP: which hop of its path is the link in whose
# crowd it is, -1: none; TOLD: the last repair that has it among the changed; DUE: when its last bit moves, or when it
# begins to move; HEAP_AT: in the heap.
LEVEL, NEXT_RATE, WEIGHT, CEILING, BOUND, N_HOPS, CROWD_HOP, TOLD = range(8)
RATE, DUE, LEFT, UPDATED, LIMIT, HEAP_AT, PHASE = range(8, 15)
FLOW_ROW = 16
FREE, WAITING, MOVING = range(3)  # phases
# Columns of `links`. DEMAND: bounds of its flows, rounded up for sure; USED: their NEXT_RATEs; FILLS: the level at
# which it fills, NEVER if it does not; AIM: where it would as its flows are; IS_DIRTY: AIM is to be found again;
# FIRST, ROOM: its part of `members`; QUEUED: 1 + where in the queue; RAISED: the last repair that put FILLS up.
CAPACITY, DEMAND, N_FLOWS, USED, FILLS, AIM, IS_DIRTY, FIRST = range(8)
# Its crowd: N_CROWD flows of CROWD_WEIGHT, at CROWD_LEVEL since CROWD_US, valid up to CROWD_TOP; FRONT: the slot due
# first, -1: none; HAS_MOVED: FILLS is not CROWD_LEVEL; N_PUTS: since the crowd was looked at.
N_CROWD, CROWD_WEIGHT, CROWD_LEVEL, CROWD_US, CROWD_TOP, FRONT, HAS_MOVED, N_PUTS = range(8, 16)
ROOM, QUEUED, RAISED = range(16, 19)
LINK_ROW = 24
# Columns of `hops`, rows slot·D …: its link, and where it is in `members`.
LINK, MEMBER = range(2)
HOP_ROW = 2
# Rows of `members`: the flows that move over a link side by side, its crowd first: slot and hop; weight and what it had
# left at CROWD_US, of those in the crowd.
SLOT, HOP, CROWD_WEIGHTS, CROWD_LEFT = range(4)
MEMBER_ROWS = 4
# Columns of `heap`: a moment no later than the slot's DUE, and the slot.
KEY, ITEM = range(2)
# Fields of `state`. REPAIR: the number of the one under way, or of the next; N_MEMBERS: columns given to links.
N_SLOTS, N_LINKS, HOPS_MAX, N_HEAP, N_DIRTY, N_QUEUE, N_CHANGED, N_MOVED, N_BUSY, REPAIR, N_MEMBERS = range(11)
STATE_ROW = 16
# Rows of `work`, scratch of F + L columns: slots to tell the caller; flows that changed; links whose AIM is to be
# found; the queue of links whose FILLS is not their AIM, by the lower of the two; the flows of one link, their levels;
# links whose crowd moved; links whose crowd is to be looked at.
OUT, CHANGED, DIRTY, QUEUE_KEYS, QUEUE, SLOTS, LEVELS, MOVED, BUSY = range(9)
WORK_ROWS = 9

ROW, GRID, INT = types.int64[::1], types.int64[:, ::1], types.int64


class Tables(NamedTuple):
    """Everything about the flows under way; all but the first are parts of the first. F slots, L links, D hops."""

    whole: Int64s  # what kernels take
    state: Int64s  # [STATE_ROW]
    flows: Int64s  # [F, FLOW_ROW]
    links: Int64s  # [L, LINK_ROW]
    hops: Int64s  # [F·D, HOP_ROW]
    members: Int64s  # [MEMBER_ROWS, 4·(F·D + L)]
    heap: Int64s  # [F, 2]: slots, by KEY
    work: Int64s  # [WORK_ROWS, F + L]


@kernel((INT, INT, INT))
def bounds(n_slots: int, n_links: int, hops_max: int) -> tuple[int, int, int, int, int, int, int]:
    """Where each table ends, and the next begins: at a cache line."""
    flows = STATE_ROW + n_slots * FLOW_ROW
    links = flows + n_links * LINK_ROW
    hops = links + -(-n_slots * hops_max * HOP_ROW // 8) * 8
    members = hops + MEMBER_ROWS * 4 * (n_slots * hops_max + n_links)
    heap = members + -(-2 * n_slots // 8) * 8
    return STATE_ROW, flows, links, hops, members, heap, heap + WORK_ROWS * (n_slots + n_links)


@kernel((ROW,))
def laid_out(whole: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s, Int64s]:
    """flows, links, hops, members, heap, work; `state` is the beginning of the whole."""
    n_slots, n_links, hops_max = whole[N_SLOTS], whole[N_LINKS], whole[HOPS_MAX]
    state, flows, links, hops, members, heap, work = bounds(n_slots, n_links, hops_max)
    n_hops = n_slots * hops_max
    return (
        whole[state:flows].reshape(n_slots, FLOW_ROW),
        whole[flows:links].reshape(n_links, LINK_ROW),
        whole[links : links + n_hops * HOP_ROW].reshape(n_hops, HOP_ROW),
        whole[hops:members].reshape(MEMBER_ROWS, 4 * (n_hops + n_links)),
        whole[members : members + 2 * n_slots].reshape(n_slots, 2),
        whole[heap:work].reshape(WORK_ROWS, n_slots + n_links),
    )


def tables(n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Empty tables of that size; links have no capacity yet."""
    n_numbers = bounds(n_slots, n_links, hops_max)[-1]
    zeros = np.zeros(n_numbers + 7, np.int64)
    skipped = -(zeros.ctypes.data // 8) % 8
    whole = zeros[skipped : skipped + n_numbers]
    whole[N_SLOTS], whole[N_LINKS], whole[HOPS_MAX], whole[REPAIR] = n_slots, n_links, hops_max, 1
    made = Tables(whole, whole[:STATE_ROW], *laid_out(whole))
    made.links[:, FILLS] = made.links[:, AIM] = NEVER
    made.links[:, FRONT] = -1
    return made


def grown(old: Tables, n_slots: int, n_links: int, hops_max: int) -> Tables:
    """Larger tables with the same contents."""
    made = tables(n_slots, n_links, hops_max)
    old_slots, old_links, old_hops_max = len(old.flows), len(old.links), int(old.state[HOPS_MAX])
    made.state[N_HEAP:] = old.state[N_HEAP:]
    made.flows[:old_slots] = old.flows
    made.links[:old_links] = old.links
    made.hops.reshape(n_slots, hops_max, HOP_ROW)[:old_slots, :old_hops_max] = old.hops.reshape(
        old_slots, old_hops_max, HOP_ROW
    )
    n_members = old.members.shape[1]
    made.members[:, :n_members] = old.members
    made.members[HOP, :n_members] = old.members[SLOT] * hops_max + old.members[HOP] % old_hops_max
    made.heap[:old_slots] = old.heap
    made.work[:, : old.work.shape[1]] = old.work
    return made
