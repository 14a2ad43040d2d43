"""How many tasks a group has room for, now and in later waves, in units that a flow can carry.

A flow cannot tell a task of eight cores from one of one, nor one that is short of cores from one that is short of
memory. So every distinct need is reduced to the one **kind** of which it takes the largest share of what is free, and
each kind has capacity of its own in each group. A task counts as many **slots** as its share holds of the smallest
share in that kind, and a node has the slots of the need that fills it best. Where all needs are multiples of one
another in one kind this is exact; elsewhere it promises too much, packing finds out, and what did not fit is solved
again.

Axes as in `lower`; D kinds, and V = D·G places to be filled, kind after kind. Cost: O(K·(N + R)) for R releases.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.gpus import WHOLE
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
class Shapes:
    """What is left of needs once each is reduced to one kind. [K] each."""

    kind: Int64s  # → D
    size: Int64s  # slots of a task
    share: npt.NDArray[np.float64]  # of all that is free, in that kind
    n_kinds: int


@dataclass(frozen=True, slots=True)
class Slots:
    shapes: Shapes
    tasks: Int64s  # [K, G] tasks that fit now, were they alone
    now: Int64s  # [V] slots free now
    wave_us: Int64s  # [W, V] when later capacity comes, ascending; W may be 0
    wave: Int64s  # [W, V] slots that come then
    later: Bools  # [K, G] fits once running or planned work has ended


def shapes(columns: Columns) -> Shapes:
    """Reduce every distinct need to its dominant kind. GPUs are a kind for each set of types that will do."""
    n_needs = len(columns.needs)
    whole = np.maximum(1.0, columns.free.sum(axis=0, dtype=np.float64))
    shares = np.zeros((n_needs, KINDS + 1))
    shares[:, :KINDS] = columns.amounts / whole
    if columns.gpu_count.any():
        matching = (columns.gpu_mask * gpus_by_node(columns).sum(axis=0)).sum(axis=1)
        shares[:, KINDS] = columns.gpu_count * (columns.gpu_milli / WHOLE) / np.maximum(1, matching)
    dominant = shares.argmax(axis=1)
    share = shares.max(axis=1, initial=0.0)
    ids: dict[tuple[int, bytes], int] = {}
    kind = np.zeros(n_needs, np.int64)
    for k, each in enumerate(dominant.tolist()):
        key = (each, columns.gpu_mask[k].tobytes() if each == KINDS else b"")
        kind[k] = ids.setdefault(key, len(ids))
    smallest = np.full(len(ids), np.inf)
    np.minimum.at(smallest, kind, share)
    ratio = share / np.maximum(smallest[kind], 1e-300)
    size = np.clip(np.rint(ratio), 1, SIZE_MAX).astype(np.int64)
    return Shapes(kind, size, share, len(ids))


def gpus_by_node(columns: Columns) -> npt.NDArray[np.float64]:
    """[N, T] what is free of each type of GPU, in whole ones, parts included."""
    out = columns.gpus.astype(np.float64)
    here = columns.devices
    node, slot = np.nonzero((here.milli > 0) & (here.milli < WHOLE))
    np.add.at(out, (node, here.kind[node, slot]), here.milli[node, slot] / WHOLE)
    return out


def count_slots(
    columns: Columns,
    ledger: Ledger,
    remaining: Int64s,
    shapes: Shapes,
    allowed: Bools,
    releases: Releases,
    run_us: Int64s,
) -> Slots:
    """Slots of every group. `remaining` [K] tasks to place, `allowed` [K, G] some class of these needs may run there,
    `run_us` [G] how long capacity given out now stays taken."""
    n_groups = columns.n_groups
    order = np.concatenate(columns.members) if columns.members else np.zeros(0, np.int64)
    starts = np.cumsum([0, *(len(nodes) for nodes in columns.members)])[:-1]
    tasks = np.zeros((len(columns.needs), n_groups), np.int64)
    best = np.zeros((shapes.n_kinds, len(order)), np.int64)
    group = columns.group[order]
    for k in np.flatnonzero(remaining).tolist():
        room = np.minimum(ledger.slots(k, order), remaining[k]) * allowed[k][group]
        if len(order):
            tasks[k] = np.add.reduceat(room, starts)
        row = best[shapes.kind[k]]
        np.maximum(row, room * shapes.size[k], out=row)
    now = np.add.reduceat(best, starts, axis=1) if len(order) else np.zeros((shapes.n_kinds, 0), np.int64)
    wanted = np.zeros(shapes.n_kinds, np.int64)  # More than that is never used; without it, sums could grow absurd.
    np.add.at(wanted, shapes.kind, remaining * shapes.size)
    now = np.minimum(now, wanted[:, None])
    later = tasks > 0
    waves = []
    for kind in range(shapes.n_kinds):
        of_kind = np.where(shapes.kind == kind, remaining, 0)
        found = _waves(columns, ledger, of_kind, shapes.size, allowed, releases, run_us, now[kind])
        later |= found[2]
        waves.append(found)
    n_waves = max((len(at) for at, _, _ in waves), default=0)
    wave_us = np.zeros((n_waves, shapes.n_kinds, n_groups), np.int64)
    wave = np.zeros_like(wave_us)
    for kind, (at, slots, _) in enumerate(waves):
        wave_us[: len(at), kind], wave[: len(at), kind] = at, np.minimum(slots, wanted[kind])
    flat = n_waves, shapes.n_kinds * n_groups
    return Slots(shapes, tasks, now.reshape(-1), wave_us.reshape(flat), wave.reshape(flat), later)


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
    milli = releases.gpu_milli.cumsum()
    milli = milli - milli[start] + releases.gpu_milli[start]
    group = columns.group[node]
    best, before = np.zeros(len(node), np.int64), np.zeros(len(node), np.int64)
    later = np.zeros((len(columns.needs), columns.n_groups), np.bool_)
    for k in np.flatnonzero(remaining):
        room = np.full(len(node), COUNT_MAX, np.int64)
        for kind in range(KINDS):
            if columns.amounts[k, kind]:
                np.minimum(room, amounts[:, kind] // columns.amounts[k, kind], out=room)
        if columns.gpu_count[k]:
            if columns.gpu_milli[k] < WHOLE:
                free = ledger.shares(int(k), node).sum(axis=1) * columns.gpu_milli[k]
            else:
                free = ledger.gpus[node][:, columns.gpu_mask[k]].sum(axis=1) * WHOLE
            np.minimum(room, (free + milli) // (columns.gpu_count[k] * columns.gpu_milli[k]), out=room)
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
