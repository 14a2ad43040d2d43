"""How many tasks a group has room for, now and in later waves, in one unit that a single flow can carry.

A flow of one commodity cannot tell a task of eight cores from one of one. So each task counts as many **slots** as its
dominant share holds quanta (the smallest dominant share of the round), and a node has the slots of the class that
would fill it best. Where all needs are multiples of one another in one kind this is exact; elsewhere it promises too
much, the packing step finds out, and what did not fit is solved again.

Cost: O(K·(N + R)) for K distinct needs, N nodes and R releases.
"""

from dataclasses import dataclass

import numpy as np

from policies.ledger import Ledger
from policies.lower import COUNT_MAX, KINDS, TIME_US_MAX, Bools, Columns, Int64s, Releases

SIZE_MAX = 64  # slots of one task: beyond that, needs differ too much for rounding to matter
# Capacity that is given out comes back: the n-th wave of an event holds WIDTHS[n] times its slots, at the middle of
# the run times it spans. Eight waves look 34 run times ahead; then a task is simply not scheduled yet.
_WIDTHS = np.array([1, 1, 1, 1, 2, 4, 8, 16], np.int64)
_HALF_RUNS = np.array([0, 2, 4, 6, 9, 15, 27, 51], np.int64)  # twice the middle, in run times
_EVENTS = 3  # releases of a group are merged to so many
_MERGE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24])  # of 32 waves sorted by time: the first ones stay apart


@dataclass(frozen=True, slots=True)
class Slots:
    size: Int64s  # [K] slots a task counts
    tasks: Int64s  # [K, G] tasks that fit now, were they alone
    now: Int64s  # [G] slots free now
    wave_us: Int64s  # [W, G] when later capacity comes, ascending; W may be 0
    wave: Int64s  # [W, G] slots that come then
    later: Bools  # [K, G] fits once running or planned work has ended


def sizes(columns: Columns, present: Int64s) -> Int64s:
    """Slots of a task of each distinct need; `present` are those still to be placed."""
    whole = np.maximum(1, columns.free.sum(axis=0, dtype=np.float64))
    share = (columns.amounts / whole).max(axis=1, initial=0.0)
    if columns.gpu_count.any():
        of_type = columns.gpus.sum(axis=0, dtype=np.int64)
        matching = np.maximum(1, (columns.gpu_mask * of_type).sum(axis=1))
        share = np.maximum(share, columns.gpu_count / matching)
    quantum = share[present].min(initial=1.0) if present.size else 1.0
    size: Int64s = np.clip(np.rint(share / max(quantum, 1e-12)), 1, SIZE_MAX).astype(np.int64)
    return size


def count_slots(
    columns: Columns,
    ledger: Ledger,
    remaining: Int64s,
    size: Int64s,
    allowed: Bools,
    releases: Releases,
    run_us: Int64s,
) -> Slots:
    """Slots of every group. `remaining` [K] tasks to place, `allowed` [K, G] some class of these needs may run there,
    `run_us` [G] how long capacity given out now stays taken."""
    order = np.concatenate(columns.members) if columns.members else np.zeros(0, np.int64)
    starts = np.cumsum([0, *(len(nodes) for nodes in columns.members)])[:-1]
    tasks = np.zeros((len(columns.needs), columns.n_groups), np.int64)
    best = np.zeros(len(order), np.int64)
    group = columns.group[order]
    for k in np.flatnonzero(remaining):
        room = np.minimum(ledger.slots(int(k), order), remaining[k]) * allowed[k][group]
        if len(order):
            tasks[k] = np.add.reduceat(room, starts)
        np.maximum(best, room * size[k], out=best)
    now = np.add.reduceat(best, starts) if len(order) else np.zeros(0, np.int64)
    wave_us, wave, later = _waves(columns, ledger, remaining, size, allowed, releases, run_us, now)
    return Slots(size, tasks, now, wave_us, wave, later | (tasks > 0))


def _waves(
    columns: Columns,
    ledger: Ledger,
    remaining: Int64s,
    size: Int64s,
    allowed: Bools,
    releases: Releases,
    run_us: Int64s,
    now: Int64s,
) -> tuple[Int64s, Int64s, Bools]:
    """Later capacity where more wants in than fits now; elsewhere there is nothing to wait for."""
    wanted = (allowed * (remaining * size)[:, None]).sum(axis=0)
    contended = wanted > now
    event_us = np.zeros((_EVENTS + 1, columns.n_groups), np.int64)
    event = np.zeros_like(event_us)
    later = np.zeros((len(columns.needs), columns.n_groups), np.bool_)
    event[0] = now
    if not contended.any():
        return np.zeros((0, columns.n_groups), np.int64), np.zeros((0, columns.n_groups), np.int64), later
    if len(releases.node):
        gained, later = _gains(columns, ledger, remaining, size, allowed, releases)
        _merge_events(columns, releases, gained, event_us, event)
    run_us = np.maximum(1, run_us)
    at = event_us[:, None, :] + _HALF_RUNS[None, :, None] * run_us[None, None, :] // 2
    slots = event[:, None, :] * _WIDTHS[None, :, None]
    slots[0, 0] = 0  # The first wave of what is free now is now.
    at, slots = at.reshape(-1, columns.n_groups), slots.reshape(-1, columns.n_groups)
    at = np.where(slots > 0, np.minimum(at, TIME_US_MAX), TIME_US_MAX)
    rank = np.argsort(at, axis=0, kind="stable")
    at, slots = np.take_along_axis(at, rank, 0), np.take_along_axis(slots, rank, 0)
    merged = np.add.reduceat(slots, _MERGE, axis=0) * contended
    weighted = np.add.reduceat(at * (slots > 0), _MERGE, axis=0) // np.maximum(
        1, np.add.reduceat(slots > 0, _MERGE, axis=0, dtype=np.int64)
    )
    return np.maximum.accumulate(weighted, axis=0), merged, later


def _gains(
    columns: Columns, ledger: Ledger, remaining: Int64s, size: Int64s, allowed: Bools, releases: Releases
) -> tuple[Int64s, Bools]:
    """Slots each release adds to its node [R], and which needs then fit [K, G]. GPUs given back are taken to match."""
    node = releases.node
    new = np.concatenate([[True], node[1:] != node[:-1]])
    start = np.maximum.accumulate(np.where(new, np.arange(len(node)), 0))
    amounts = releases.amounts.cumsum(axis=0)
    amounts = ledger.free[node] + amounts - amounts[start] + releases.amounts[start]
    gpus = releases.gpus.cumsum()
    gpus = gpus - gpus[start] + releases.gpus[start]
    group = columns.group[node]
    best, before = np.zeros(len(node), np.int64), np.zeros(len(node), np.int64)
    later = np.zeros((len(columns.needs), columns.n_groups), np.bool_)
    for k in np.flatnonzero(remaining):
        room = np.full(len(node), COUNT_MAX, np.int64)
        for kind in range(KINDS):
            if columns.amounts[k, kind]:
                np.minimum(room, amounts[:, kind] // columns.amounts[k, kind], out=room)
        if columns.gpu_count[k]:
            free = ledger.gpus[node][:, columns.gpu_mask[k]].sum(axis=1)
            np.minimum(room, (free + gpus) // columns.gpu_count[k], out=room)
        room = np.minimum(room, remaining[k]) * allowed[k][group]
        later[k, group[room > 0]] = True
        np.maximum(best, room * size[k], out=best)
        np.maximum(
            before, np.minimum(ledger.slots(int(k), node), remaining[k]) * allowed[k][group] * size[k], out=before
        )
    previous = np.where(new, before, np.concatenate([[0], best[:-1]]))
    return np.maximum(0, best - previous), later


def _merge_events(columns: Columns, releases: Releases, gained: Int64s, event_us: Int64s, event: Int64s) -> None:
    """Put the releases of each group into rows 1.. of `event`, early ones apart from late ones."""
    group = columns.group[releases.node]
    rank = np.lexsort((releases.in_us, group))
    rank = rank[gained[rank] > 0]
    if not len(rank):
        return
    sorted_group = group[rank]
    new = np.concatenate([[True], sorted_group[1:] != sorted_group[:-1]])
    place = np.arange(len(rank)) - np.maximum.accumulate(np.where(new, np.arange(len(rank)), 0))
    length = np.bincount(sorted_group, minlength=columns.n_groups)[sorted_group]
    row = 1 + np.where(length <= _EVENTS, place, place * _EVENTS // length)
    slots = gained[rank]
    np.add.at(event, (row, sorted_group), slots)
    number = np.zeros_like(event)
    np.add.at(number, (row, sorted_group), 1)
    np.add.at(event_us, (row, sorted_group), releases.in_us[rank])
    event_us //= np.maximum(1, number)
