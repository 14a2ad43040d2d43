"""Potentials kept by runs of the tree's list, so that a pivot that moves much of the tree moves few numbers.

A subtree is a run of the list, and where it is large, shifting its potentials is what a pivot takes longest for. Here
the list is cut into some √N runs, and a node's potential is its own and its run's: a large subtree is shifted run by
run, after the runs at its ends and along the path that is turned over were cut in two; a small one is taken out and
becomes part of the run that it comes to lie in. When there are too many runs all are made anew.

Source: Tarjan, Dynamic trees as search trees via Euler tours, applied to the network simplex algorithm (1997). Runs in
place of search trees, because pricing reads potentials hundreds of times as often as pivots shift them: of a node it
reads one number, its own part, 2^RUN_BITS times as large, plus the id of its run.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.simplex import (
    CAPPED,
    CURSOR,
    MOVE_COST_LARGE,
    OPTIMAL,
    PLACE,
    PLACE_BITS,
    REVIEW,
    SCANNED,
    SHIFTED,
    STATUS,
    UNBOUNDED,
    WALKED,
    balanced,
    ends_of,
    send_round,
    turn,
)
from policies.kernels.mincost.tree import COLUMNS, LAST, PARENT, SIZE, Columns, Int8s, Int32s

RUN_BITS = PLACE_BITS
_RUN = PLACE
RUNS_MAX = 1 << RUN_BITS
GROWTH = 4  # Times as many runs as at first are worth making all anew …
SPARE = 256  # … and so many may be cut in two until that is looked at again, and as many more.
PER_STEP = 2  # A step of the path that is turned over cuts two runs in two,
PER_PIVOT = 3  # and the ends of what moves, and where it goes, three more at most.
N_RUNS, JOINED, LENGTH = range(
    3
)  # Fields of `notes`: runs; nodes that joined others' runs; how long runs are at first.
N_NOTES = 3


class Runs(NamedTuple):
    """Axes: N nodes, R ids of runs."""

    own: Int64s  # [N]; potential less its run's offset, x 2^RUN_BITS, + the run's id
    offset: Int64s  # [R]; x 2^RUN_BITS, - the run's id: with a node's own that makes its potential x 2^RUN_BITS
    begin: Int32s  # [R]; the run's first node
    end: Int32s  # [R]; its last one
    notes: Int64s  # [N_NOTES]


_INT, _ROW, _ROWS, _FLAG = types.int64, types.int64[::1], types.int64[:, ::1], types.boolean
_IDS, _STATES = types.int32[::1], types.int8[::1]
RUNS: Any = types.NamedTuple([_ROW, _ROW, _IDS, _IDS, _ROW], Runs)  # type: ignore[no-untyped-call]


@kernel(_INT(_ROW, _ROW, _INT), inline=True)
def scaled(own: Int64s, offset: Int64s, node: int) -> int:
    """A node's potential x 2^RUN_BITS."""
    mine = own[Index(node)]
    told: int = mine + offset[Index(mine & _RUN)]
    return told


@kernel(types.void(RUNS, _IDS, _INT, _INT))
def renew(runs: Runs, after: Int32s, root: int, everyone: int) -> None:
    """Cut the list, which holds that many nodes, into runs of equal length. Nothing if there are none. Time O(N).

    The root's potential becomes 0.
    """
    own, offset, begin, end, notes = runs.own, runs.offset, runs.begin, runs.end, runs.notes
    n_nodes, n_ids = own.shape[0] * (everyone > 0), offset.shape[0] * (everyone > 0)
    base = scaled(own, offset, root)
    for node in range(n_nodes):
        own[Index(node)] = scaled(own, offset, node) - base
    for each in range(n_ids):
        offset[Index(each)] = -each
    node = root
    run = -1
    left = 0
    for _ in range(everyone):
        begins = left == 0
        run += begins
        left = (notes[LENGTH] if begins else left) - 1
        first = begin[Index(run)]
        begin[Index(run)] = node if begins else first
        own[Index(node)] += run
        end[Index(run)] = node
        node = after[Index(node)]
    notes[N_RUNS] = run + 1 if everyone > 0 else notes[N_RUNS]
    notes[JOINED] = 0 if everyone > 0 else notes[JOINED]


@kernel(_INT(_ROW, _ROW, _IDS, _IDS, _ROW, _IDS, _IDS, _INT, _INT), inline=True)
def cut(
    own: Int64s,
    offset: Int64s,
    begin: Int32s,
    end: Int32s,
    notes: Int64s,
    after: Int32s,
    before: Int32s,
    root: int,
    node: int,
) -> int:
    """Let a run begin at `node`. Returns how many nodes are in another one now. Time O(length of a run)."""
    run = own[Index(node)] & _RUN
    preceding, last, told, new = before[Index(node)], end[Index(run)], offset[Index(run)], notes[N_RUNS]
    is_inside = (node != root) & (own[Index(preceding)] & _RUN == run)
    each = int(node)
    steps: int = 0
    going = is_inside
    while going:
        own[Index(each)] += new - run
        steps += 1
        going = each != last
        each = int(after[Index(each)])
    at = Index(new if is_inside else run)
    end[Index(run)] = preceding if is_inside else last
    begin[at] = node
    end[at] = last
    offset[at] = told + run - int(at)
    notes[N_RUNS] = new + is_inside
    return steps


@kernel(_INT(RUNS, _ROWS, _IDS, _IDS, *[_INT] * 4, _FLAG))
def cut_out(
    runs: Runs, rows: Int64s, after: Int32s, before: Int32s, root: int, node: int, top: int, parent: int, wanted: bool
) -> int:
    """Let runs begin and end where the subtree of `top` does, and all that `graft` takes apart or puts it between.

    Nothing unless wanted. Returns how many nodes are in another run now.
    """
    own, offset, begin, end, notes = runs.own, runs.offset, runs.begin, runs.end, runs.notes
    steps: int = 0
    each = int(node)
    beyond = int(after[Index(parent)])
    walks = wanted
    while walks:
        steps += cut(own, offset, begin, end, notes, after, before, root, beyond)
        steps += cut(own, offset, begin, end, notes, after, before, root, each)
        beyond = int(after[Index(rows[Index(each), LAST])])
        walks = each != top
        each = rows[Index(each), PARENT]
    beyond = beyond if wanted else root  # Which begins a run always.
    return steps + cut(own, offset, begin, end, notes, after, before, root, beyond)


@kernel(_INT(RUNS, _ROWS, _IDS, _IDS, *[_INT] * 3, _FLAG), inline=True)
def shift_runs(
    runs: Runs, rows: Int64s, after: Int32s, before: Int32s, root: int, node: int, change: int, wanted: bool
) -> int:
    """If wanted, raise the subtree of `node`, whole runs, by `change` over all others; the smaller side moves.

    change: x 2^RUN_BITS. Returns how many runs moved.
    """
    own, offset, begin, end = runs.own, runs.offset, runs.begin, runs.end
    last = rows[node, LAST]
    following, preceding = int(after[Index(last)]), int(before[Index(node)])
    most_are_below = 2 * rows[node, SIZE] > rows[root, SIZE]
    ahead = following if most_are_below else int(node)
    behind = preceding if most_are_below else int(last)
    change = -change if most_are_below else change
    steps: int = 0
    walks = wanted
    while walks:  # From both ends, as in `tree.shift`.
        one, other = Index(own[Index(ahead)] & _RUN), Index(own[Index(behind)] & _RUN)
        are_two = one != other
        offset[one] += change
        offset[other] += change * are_two
        steps += 1 + are_two
        first, last = begin[other], end[one]
        ahead = int(after[Index(last)])
        behind = int(before[Index(first)])
        walks = are_two & (ahead != first)
    return steps


@kernel(types.void(RUNS, _IDS, *[_INT] * 3, _FLAG), inline=True)
def part(runs: Runs, before: Int32s, root: int, top: int, following: int, wanted: bool) -> None:
    """Where wanted, let runs end before the subtree of `top` and begin at `following`, unless one goes on there."""
    own, begin, end = runs.own, runs.begin, runs.end
    preceding = before[Index(top)]
    run, other = own[Index(preceding)] & _RUN, own[Index(following)] & _RUN
    last, first = end[Index(run)], begin[Index(other)]
    ends = wanted & ((following == root) | (run != other))
    last = preceding if ends else last
    first = following if ends else first
    end[Index(run)] = last
    begin[Index(other)] = first


@kernel(types.void(RUNS, _IDS, *[_INT] * 5), inline=True)
def join(runs: Runs, after: Int32s, parent: int, node: int, last: int, count: int, change: int) -> None:
    """Let so many nodes, from `node` behind `parent` to `last`, join its run, raised by `change` x 2^-RUN_BITS."""
    own, offset, end, notes = runs.own, runs.offset, runs.end, runs.notes
    run = own[Index(parent)] & _RUN
    old = end[Index(run)]
    end[Index(run)] = last if (old == parent) & (count > 0) else old
    change -= offset[Index(run)]
    each = int(node)
    for _ in range(count):
        own[Index(each)] = scaled(own, offset, each) + change
        each = int(after[Index(each)])
    notes[JOINED] += count


@kernel(types.void(COLUMNS, RUNS, *[_INT] * 6, _ROW), inline=True)
def swap(
    net: Columns, runs: Runs, root: int, entering: int, amount: int, leaving: int, side: int, top: int, work: Int64s
) -> None:
    """As in `simplex`. Time O(way to `top` + runs + their length)."""
    rows, after, before, own, offset, notes = net.rows, net.after, net.before, runs.own, runs.offset, runs.notes
    node, parent, forth = ends_of(net, entering, side)
    reduced = net.cost[entering] << RUN_BITS
    reduced += scaled(own, offset, net.tail[entering]) - scaled(own, offset, net.head[entering])
    change = -reduced if forth else reduced
    size = rows[leaving, SIZE]
    following = int(after[Index(rows[leaving, LAST])])
    ids = notes[N_RUNS] + PER_PIVOT
    each = int(node)
    while each != leaving:
        each = rows[Index(each), PARENT]
        ids += PER_STEP
    is_large = (size > notes[LENGTH]) & (ids <= offset.shape[0])
    steps = cut_out(runs, rows, after, before, root, node, leaving, parent, is_large)
    part(runs, before, root, leaving, following, not is_large)
    turn(net, entering, amount, leaving, node, parent, forth, top)
    last = rows[node, LAST]
    count = size * (not is_large)
    steps += shift_runs(runs, rows, after, before, root, node, change, is_large)
    join(runs, after, parent, node, last, count, change)
    work[SHIFTED] += steps + count


@kernel(_INT(_IDS, _IDS, _ROW, _STATES, _ROW, _ROW, _INT, _INT, _ROW), inline=True)
def find_best(
    tail: Int32s,
    head: Int32s,
    cost: Int64s,
    state: Int8s,
    own: Int64s,
    offset: Int64s,
    n_arcs: int,
    block: int,
    work: Int64s,
) -> int:
    """As `simplex.find_best`, by runs: what a violation is scaled by leaves room for the place."""
    cursor = work[CURSOR]
    if cursor >= n_arcs:
        cursor = 0
    best = 0
    entering: int = -1
    scanned = 0
    while scanned < n_arcs and entering < 0:
        stop = min(cursor + block, n_arcs, cursor + n_arcs - scanned)
        tails, heads, costs, states = tail[cursor:stop], head[cursor:stop], cost[cursor:stop], state[cursor:stop]
        for index in range(stop - cursor):
            one, other = own[Index(tails[index])], own[Index(heads[index])]
            reduced = (costs[index] << RUN_BITS) + one - other
            reduced += offset[Index(one & _RUN)] - offset[Index(other & _RUN)]
            violation = states[index] * reduced
            best = min(best, violation + index)
        entering = cursor + (best & _RUN) if best < 0 else -1
        scanned += stop - cursor
        cursor = stop if stop < n_arcs else 0
    work[CURSOR] = cursor
    work[SCANNED] += scanned
    return entering


@kernel(types.void(COLUMNS, RUNS, *[_INT] * 4, _ROW))
def pivot_all(net: Columns, runs: Runs, root: int, n_arcs: int, block: int, pivots_max: int, work: Int64s) -> None:
    """`optimise_by_runs`, when potentials are in the runs."""
    tail, head, cost, state, rows, after = net.tail, net.head, net.cost, net.state, net.rows, net.after
    own, offset, notes = runs.own, runs.offset, runs.notes
    work[STATUS] = CAPPED
    smallest = block
    scanned = work[SCANNED]
    moved = work[SHIFTED] + work[WALKED]
    for count in range(pivots_max):
        entering = find_best(tail, head, cost, state, own, offset, n_arcs, block, work)
        if entering < 0:
            work[STATUS] = OPTIMAL
            return
        amount, leaving, side, top = send_round(net, rows, entering, False, work)
        if amount >= OPEN:
            work[CURSOR] = entering
            work[STATUS] = UNBOUNDED
            return
        if leaving >= 0:
            swap(net, runs, root, entering, amount, leaving, side, top, work)
        if count % REVIEW == REVIEW - 1:
            moving = (work[SHIFTED] + work[WALKED] - moved) * MOVE_COST_LARGE
            block = balanced(block, smallest, moving, work[SCANNED] - scanned)
            everyone = rows[root, SIZE]
            is_worn = (notes[N_RUNS] + SPARE > offset.shape[0]) | (notes[JOINED] > everyone)
            everyone *= is_worn
            renew(runs, after, root, everyone)
            work[SHIFTED] += everyone
            scanned = work[SCANNED]
            moved = work[SHIFTED] + work[WALKED]


@kernel(types.void(COLUMNS, *[_INT] * 5, _ROW))
def optimise_by_runs(
    net: Columns, root: int, n_arcs: int, block: int, length: int, pivots_max: int, work: Int64s
) -> None:
    """As `simplex.optimise`, from any feasible tree, with runs of so many nodes at first; no bounds are watched.

    What artificial arcs cost must be BIG_MAX at most.
    """
    potential, n_nodes, everyone = net.potential, net.potential.shape[0], net.rows[root, SIZE]
    long = max(length, everyone // (RUNS_MAX // (2 * GROWTH)), 1)
    n_ids = min(GROWTH * (everyone // long + 1) + 2 * SPARE, RUNS_MAX)
    notes = np.zeros(N_NOTES, np.int64)
    notes[LENGTH] = long
    begin, end = np.empty(n_ids, np.int32), np.empty(n_ids, np.int32)
    runs = Runs(np.empty(n_nodes, np.int64), np.zeros(n_ids, np.int64), begin, end, notes)
    base = potential[root]
    for node in range(n_nodes):
        runs.own[node] = (potential[node] - base) << RUN_BITS
    renew(runs, net.after, root, everyone)
    pivot_all(net, runs, root, n_arcs, block, pivots_max, work)
    wandered = scaled(runs.own, runs.offset, root)
    for node in range(n_nodes):
        # Offsets wander, and may wrap; differences do not.
        potential[node] = base + ((scaled(runs.own, runs.offset, node) - wandered) >> RUN_BITS)
