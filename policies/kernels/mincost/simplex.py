"""Primal network simplex on a strongly feasible spanning tree, from any feasible tree (cold or repaired).

Sources: Ahuja, Magnanti, Orlin, Network Flows (1993), chapter 11; Cunningham, A network simplex method (1976), for the
leaving rule that keeps the tree strongly feasible and so cannot cycle; Király, Kovács, Efficient implementations of
minimum-cost flow algorithms (2012), for block search. Measurements: docs/kernels.md.
"""

from typing import Any

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.tree import (
    BIG,
    COLUMNS,
    DOWN,
    LIMIT,
    LOWER,
    PARENT,
    PRED,
    SIZE,
    TREE,
    UP,
    UPPER,
    Columns,
    Int8s,
    Int32s,
    carried,
    graft,
    limit_of,
    shift,
)

# Fields of `work` int64[N_WORK]. CURSOR is kept from solve to solve: where the block search goes on.
STATUS, PIVOTS, DEGENERATE, SCANNED, SHIFTED, WALKED, CURSOR, LISTED, PASSED = range(9)
N_WORK = 9
OPTIMAL, UNBOUNDED, CAPPED, HEAVY = range(4)

# Where pivots move much of the tree, a better entering arc is worth a longer search: the block grows while moving costs
# more than scanning. A node moved, or a step along the cycle, counts as so many arcs scanned: fewer from LARGE arcs on.
# (Small networks would gain too, but come to others of their equal optima: see docs/kernels.md.)
REVIEW = 32  # Pivots between two looks at the balance.
MOVE_COST = 4
MOVE_COST_LARGE = 2
LARGE = 5_000  # From here on what a pivot moves is not in the caches.
BLOCK_GROWTH_MAX = 16
HEAVY_REVIEWS = 8  # So many more than others in which pivots moved more nodes than a block has arcs, and …
STEP_MOVES = 8  # … so many for each step of a cycle: where cycles are long, runs would be cut all along.
# A warm solve lists what else a block had to offer and enters it before the next block is searched: few arcs are worth
# entering then, and each would have to wait for the cursor to come round. In a cold solve the list only ages.
LIST_MAX = 256
# From nothing, a violation and its arc's place in the block are one number, so that the best is told by one comparison.
PLACE_BITS = 16
PLACE = (1 << PLACE_BITS) - 1
BLOCK_MAX = (PLACE + 1) // BLOCK_GROWTH_MAX
BIG_MAX = 1 << (62 - PLACE_BITS - 2)  # Potentials pass what artificial arcs cost by less than as much again.
_INT, _ROW, _IDS = types.int64, types.int64[::1], types.int32[::1]
_ROWS, _STATES = types.int64[:, ::1], types.int8[::1]
_THREE: Any = types.UniTuple(_INT, 3)  # type: ignore[no-untyped-call]
_FOUR: Any = types.UniTuple(_INT, 4)  # type: ignore[no-untyped-call]
_FIVE: Any = types.UniTuple(_INT, 5)  # type: ignore[no-untyped-call]


@kernel(_INT(_IDS, _IDS, _ROW, _STATES, _ROW, _INT, _INT, _ROW, _ROW), inline=True)
def find_entering(
    tail: Int32s,
    head: Int32s,
    cost: Int64s,
    state: Int8s,
    potential: Int64s,
    n_arcs: int,
    block: int,
    listed: Int64s,
    work: Int64s,
) -> int:
    """The most violated arc of the first block that has one, from the cursor on; -1 when none is violated.

    All it comes by are added to `listed`, while there is room.

    Time O(A) when optimal, else O(block) in the good case.
    """
    cursor = work[CURSOR]
    if cursor >= n_arcs:
        cursor = 0
    best = 0
    entering: int = -1
    scanned = 0
    n_listed = work[LISTED]
    least = 0  # What is less is listed, or better than all before.
    while scanned < n_arcs and entering < 0:
        stop = min(cursor + block, n_arcs, cursor + n_arcs - scanned)
        # Slices counted from 0 and ids without a sign: numba else makes sure of each index that it is not negative.
        tails, heads, costs, states = tail[cursor:stop], head[cursor:stop], cost[cursor:stop], state[cursor:stop]
        for index in range(stop - cursor):
            reduced = costs[index] + potential[Index(tails[index])] - potential[Index(heads[index])]
            violation = states[index] * reduced
            if violation < least:
                if n_listed < listed.shape[0]:
                    listed[n_listed] = cursor + index
                    n_listed += 1
                if violation < best:
                    best = violation
                    entering = cursor + index
                least = 0 if n_listed < listed.shape[0] else best
        scanned += stop - cursor
        cursor = stop if stop < n_arcs else 0
    work[CURSOR] = cursor
    work[SCANNED] += scanned
    work[LISTED] = n_listed
    return entering


@kernel(_INT(_IDS, _IDS, _ROW, _STATES, _ROW, _INT, _INT, _ROW), inline=True)
def find_best(
    tail: Int32s,
    head: Int32s,
    cost: Int64s,
    state: Int8s,
    potential: Int64s,
    n_arcs: int,
    block: int,
    work: Int64s,
) -> int:
    """As `find_entering`, without a list. Artificial arcs cost BIG_MAX at most, a block has 2^PLACE_BITS arcs."""
    cursor = work[CURSOR]
    if cursor >= n_arcs:
        cursor = 0
    entering: int = -1
    scanned = 0
    while scanned < n_arcs and entering < 0:
        stop = min(cursor + block, n_arcs, cursor + n_arcs - scanned)
        tails, heads, costs, states = tail[cursor:stop], head[cursor:stop], cost[cursor:stop], state[cursor:stop]
        best = 0
        for index in range(stop - cursor):
            reduced = costs[index] + potential[Index(tails[index])] - potential[Index(heads[index])]
            violation = states[index] * reduced
            best = min(best, (violation << PLACE_BITS) + index)
        entering = cursor + (best & PLACE) if best < 0 else -1
        scanned += stop - cursor
        cursor = stop if stop < n_arcs else 0
    work[CURSOR] = cursor
    work[SCANNED] += scanned
    return entering


@kernel(_INT(_IDS, _IDS, _ROW, _STATES, _ROW, _ROW, _ROW), inline=True)
def find_listed(
    tail: Int32s, head: Int32s, cost: Int64s, state: Int8s, potential: Int64s, listed: Int64s, work: Int64s
) -> int:
    """The most violated arc of the list, which keeps only those that are; -1: none."""
    best = 0
    entering: int = -1
    kept = 0
    work[SCANNED] += work[LISTED]
    for index in range(work[LISTED]):
        arc = listed[index]
        violation = state[arc] * (cost[arc] + potential[tail[arc]] - potential[head[arc]])
        if violation < 0:
            listed[kept] = arc
            kept += 1
            if violation < best:
                best = violation
                entering = arc
    work[LISTED] = kept
    return entering


@kernel(_INT(_ROWS, _INT), inline=True)
def passes(rows: Int64s, node: int) -> int:
    """1 where the node's arc passes a bound that was dropped."""
    past: int = carried(rows, node) > rows[node, LIMIT]
    return past


@kernel(_FIVE(_ROWS, *[_INT] * 3), inline=True)
def blocking(rows: Int64s, source: int, target: int, room: int) -> tuple[int, int, int, int, int]:
    """What fits round the cycle that an arc source → target with that much room closes, and what blocks.

    Returns the amount, the node whose arc blocks (-1: the entering arc itself), 1 where that lies on the source's side,
    the cycle's top, and its steps. Of several blocking arcs it is the last one, seen from the top in the direction of
    the push: this keeps every node able to send flow to the root. Time O(cycle).
    """
    amount = room
    leaving: int = -1
    source_side = 0
    down, up = source, target
    steps = 0
    while down != up:
        steps += 1
        if rows[down, SIZE] <= rows[up, SIZE]:
            if rows[down, DOWN] < amount:
                amount = rows[down, DOWN]
                leaving = down
                source_side = 1
            down = rows[down, PARENT]
        else:
            if rows[up, UP] <= amount:
                amount = rows[up, UP]
                leaving = up
                source_side = 0
            up = rows[up, PARENT]
    return amount, leaving, source_side, down, steps


@kernel(types.void(_ROWS, *[_INT] * 4, types.boolean, _ROW), inline=True)
def push(rows: Int64s, source: int, target: int, top: int, amount: int, bounds: bool, work: Int64s) -> None:
    """Send so much, if anything, round that cycle. bounds: count arcs that come to pass a bound that was dropped."""
    passed = 0
    down = source if amount > 0 else top
    while down != top:
        rows[down, DOWN] -= amount
        rows[down, UP] += amount
        if bounds:
            passed += passes(rows, down)
        down = rows[down, PARENT]
    up = target if amount > 0 else top
    while up != top:
        rows[up, UP] -= amount
        rows[up, DOWN] += amount
        if bounds:
            passed += passes(rows, up)
        up = rows[up, PARENT]
    work[PASSED] += passed


@kernel(_FOUR(COLUMNS, _ROWS, _INT, types.boolean, _ROW), inline=True)
def send_round(net: Columns, rows: Int64s, entering: int, bounds: bool, work: Int64s) -> tuple[int, int, int, int]:
    """Send what fits round the cycle that `entering` closes; an arc that itself blocks goes to its other bound.

    Returns the amount (OPEN or more: there is no bound, and nothing was sent), and the node whose arc blocks, its side
    and the cycle's top as `blocking` has them. bounds: as in `push`.
    """
    tail, head, state = net.tail, net.head, net.state
    forth = state[entering] == LOWER
    one, other = tail[entering], head[entering]
    source = one if forth else other
    target = other if forth else one
    amount, leaving, side, top, steps = blocking(rows, source, target, net.capacity[entering])
    work[PIVOTS] += 1
    work[WALKED] += steps
    work[DEGENERATE] += amount == 0
    fits = amount < OPEN
    state[entering] *= 1 - 2 * (fits & (leaving < 0))
    push(rows, source, target, top, amount * fits, bounds, work)
    return amount, leaving, side, top


@kernel(_THREE(COLUMNS, _INT, _INT), inline=True)
def ends_of(net: Columns, entering: int, side: int) -> tuple[int, int, int]:
    """The node that an entering arc hangs, the one it hangs it under, and 1 where the arc rises from there, else 0.

    side: as `blocking` has it.
    """
    forth: int = (net.state[entering] == LOWER) == (side == 1)  # The moved subtree is the tail's.
    tail, head = net.tail[entering], net.head[entering]
    return (tail if forth else head), (head if forth else tail), forth


@kernel(types.void(COLUMNS, *[_INT] * 7), inline=True)
def turn(net: Columns, entering: int, amount: int, leaving: int, node: int, parent: int, forth: int, top: int) -> None:
    """Put `entering`, on which so much was sent, in the place of the arc of `leaving`. Time O(way to `top`), mostly.

    node, parent, forth: as `ends_of` has them. Potentials stay as they are.
    """
    rows, state, capacity = net.rows, net.state, net.capacity
    old = rows[leaving, PRED]
    if old >= 0:
        state[old] = LOWER if carried(rows, leaving) == 0 else UPPER
    flow = amount if state[entering] == LOWER else capacity[entering] - amount
    state[entering] = TREE
    up, down = flow, capacity[entering] - flow
    if forth:
        up, down = down, up
    graft(rows, net.after, net.before, node, leaving, parent, top, entering, up, down, forth, limit_of(net, entering))


@kernel(_INT(COLUMNS, *[_INT] * 6, _ROW), inline=True)
def swap(net: Columns, root: int, entering: int, amount: int, leaving: int, side: int, top: int, work: Int64s) -> int:
    """`turn`, and shift the potentials of what moved. Time O(way to `top` + the smaller part of the tree).

    Returns the node that hangs by the entering arc now.
    """
    node, parent, forth = ends_of(net, entering, side)
    reduced = net.cost[entering] + net.potential[net.tail[entering]] - net.potential[net.head[entering]]
    turn(net, entering, amount, leaving, node, parent, forth, top)
    work[SHIFTED] += shift(net, node, root, -reduced if forth else reduced)
    return node


@kernel(_INT(*[_INT] * 4), inline=True)
def balanced(block: int, smallest: int, moving: int, scanning: int) -> int:
    """How large blocks are to be, where moving and scanning have cost so much with blocks of that size."""
    larger, smaller = min(2 * block, BLOCK_GROWTH_MAX * smallest), max(block // 2, smallest)
    size: int = larger if moving > 2 * scanning else smaller if 2 * moving < scanning else block
    return size


@kernel(types.void(COLUMNS, *[_INT] * 4, types.boolean, types.boolean, _INT, _ROW))
def optimise(
    net: Columns,
    root: int,
    n_arcs: int,
    block: int,
    list_max: int,
    bounds: bool,
    yields: bool,
    pivots_max: int,
    work: Int64s,
) -> None:
    """Pivot until no arc is violated. work[STATUS] out; on UNBOUNDED work[CURSOR] is the arc that closes the cycle.

    CAPPED past `pivots_max`. bounds: count in work[PASSED] how often flow comes to pass a bound that was dropped.
    yields: end as HEAVY where pivots have come to move much of the tree (see `runs`). block: BLOCK_MAX at most, where
    list_max is 0.
    """
    tail, head, cost, state, potential, rows = net.tail, net.head, net.cost, net.state, net.potential, net.rows
    listed = np.empty(list_max, np.int64)
    packs = (list_max == 0) & (net.notes[BIG] <= BIG_MAX)
    work[LISTED] = 0
    work[STATUS] = CAPPED
    smallest = block
    move_cost = MOVE_COST_LARGE if n_arcs >= LARGE else MOVE_COST
    heavy = 0
    scanned, shifted, walked = work[SCANNED], work[SHIFTED], work[WALKED]
    for count in range(pivots_max):
        entering = -1
        if work[LISTED] > 0:
            entering = find_listed(tail, head, cost, state, potential, listed, work)
        if packs:
            entering = find_best(tail, head, cost, state, potential, n_arcs, block, work)
        elif entering < 0:
            entering = find_entering(tail, head, cost, state, potential, n_arcs, block, listed, work)
        if entering < 0:
            work[STATUS] = OPTIMAL
            return
        amount, leaving, side, top = send_round(net, rows, entering, bounds, work)
        if amount >= OPEN:
            work[CURSOR] = entering
            work[STATUS] = UNBOUNDED
            return
        if leaving >= 0:
            hung = swap(net, root, entering, amount, leaving, side, top, work)
            if bounds:
                work[PASSED] += passes(rows, hung)
        if count % REVIEW == REVIEW - 1:
            shifting, walking = work[SHIFTED] - shifted, work[WALKED] - walked
            block = balanced(block, smallest, (shifting + walking) * move_cost, work[SCANNED] - scanned)
            heavy = max(heavy + (1 if shifting > max(REVIEW * smallest, STEP_MOVES * walking) else -1), 0)
            scanned, shifted, walked = work[SCANNED], work[SHIFTED], work[WALKED]
            if yields and heavy == HEAVY_REVIEWS:
                work[STATUS] = HEAVY
                return
