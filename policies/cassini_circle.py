"""Jobs' traffic on circles: how well several training jobs share a link, and by how much to shift each (CASSINI).

A job's traffic repeats every iteration, so it is a circle whose perimeter is the iteration time. Jobs of one link go on
one circle whose perimeter is the least common multiple of their times; rotating one is starting its steps later. The
compatibility of a link is 1 − mean excess demand ÷ capacity, at the rotations where that is largest (Rajasekaran,
Ghobadi and Akella, NSDI 2024, §3).

Times are rounded to a common grid so that the multiple stays small: coarser grids are tried until the circle has at
most `SLOTS_MAX` slots. Pure functions of integers; floats only in the score.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SLOTS_MIN = 240  # slots of a circle at least: a rotation is then exact to 0.4 % of the longest iteration
SLOTS_MAX = 2048
_CHUNK = 256  # rotations tried at once: a few megabytes
_GRIDS = (24, 12, 8, 6, 4, 3, 2, 1)  # parts of the shortest iteration that a time is rounded to, finest first
_SWEEPS = 4

Loads = npt.NDArray[np.float64]


class Traffic(NamedTuple):
    """A job on a link: `rate_bps` for the first `duty_ppm` of every iteration."""

    iteration_us: int
    duty_ppm: int
    rate_bps: int


class Fit(NamedTuple):
    """`score` of the best rotations found (1: they never need more than there is), and each job's shift."""

    score: float
    shifts_us: tuple[int, ...]


class _Circle(NamedTuple):
    slot_us: float
    periods: tuple[int, ...]  # of each job, in slots
    n_slots: int


def fit(jobs: Sequence[Traffic], capacity_bps: int, fixed_us: Sequence[int | None] = ()) -> Fit:
    """The shifts, each in [0, iteration), under which the jobs fit the link best.

    `fixed_us[n]` is the shift of a job that cannot be changed any more. Where none is fixed the first job's is 0. Two
    jobs of which one is fixed: the best there is. More: coordinate descent from every order of insertion, so perhaps
    not. Time O(jobs² · slots · period).
    """
    held = [fixed_us[n] if n < len(fixed_us) else None for n in range(len(jobs))]
    if all(shift is None for shift in held) and held:
        held[0] = 0
    circle = _circle(jobs)
    waves = [_wave(job, period, circle.n_slots) for job, period in zip(jobs, circle.periods, strict=True)]
    start = [
        0 if shift is None else round(shift / circle.slot_us) % period
        for shift, period in zip(held, circle.periods, strict=True)
    ]
    free = [n for n, shift in enumerate(held) if shift is None]
    best = (_excess(waves, start, capacity_bps), start)
    for turn in range(len(free)):
        order = free[turn:] + free[:turn]
        placed = [n for n in range(len(jobs)) if n not in free]
        shifts = list(start)
        for n in order:  # One after the other, each where it disturbs those before it least …
            placed.append(n)
            shifts[n] = _best_rotation(waves, shifts, placed, n, circle.periods[n], capacity_bps)
        for _ in range(_SWEEPS if len(free) > 1 else 0):  # … then each once more, given all the others.
            for n in order:
                shifts[n] = _best_rotation(waves, shifts, range(len(jobs)), n, circle.periods[n], capacity_bps)
        best = min(best, (_excess(waves, shifts, capacity_bps), shifts), key=lambda each: each[0])
    excess, shifts = best
    score = 1.0 - excess / max(1, capacity_bps)
    exact = [
        shift if shift is not None else round(slots * circle.slot_us) % max(1, job.iteration_us)
        for shift, slots, job in zip(held, shifts, jobs, strict=True)
    ]
    return Fit(score, tuple(exact))


def one_shift_each(
    links: Sequence[dict[str, int]], iteration_us: dict[str, int], fixed: Sequence[str] = ()
) -> dict[str, int] | None:
    """Join what the links say into one shift for each job; None where links and jobs form a loop.

    `links[l][job]` is the job's shift on that link. Breadth first over jobs and links: from a job whose shift is known
    over a link to the others there, t_k = t_j − t_j^l + t_k^l (mod k's iteration), Algorithm 1 of the paper. Jobs that
    are `fixed` have the same shift on all links, so they count as one, the clock, that comes first.
    """
    clock = ""
    joined = [{(clock if job in fixed else job): shift for job, shift in link.items()} for link in links]
    for link, names in zip(joined, links, strict=True):
        if clock in link:
            link[clock] = 0  # Shifts beside a fixed job are on the clock already.
        assert set(link) - {clock} <= set(names), "every job of the link is there"
    jobs = sorted({job for link in joined for job in link})
    shifts: dict[str, int] = {}
    crossed: set[int] = set()
    for first in jobs:
        if first in shifts:
            continue
        shifts[first] = 0
        queue = [first]
        while queue:
            job = queue.pop(0)
            for number, link in enumerate(joined):
                if job not in link or number in crossed:
                    continue
                crossed.add(number)
                for other in sorted(set(link) - {job}):
                    if other in shifts:
                        return None  # Reached over two links: nothing says that both want the same shift.
                    shifts[other] = (shifts[job] - link[job] + link[other]) % max(1, iteration_us[other])
                    queue.append(other)
    shifts.pop(clock, None)
    return shifts


def _circle(jobs: Sequence[Traffic]) -> _Circle:
    shortest_us = max(1, min((job.iteration_us for job in jobs), default=1))
    for parts in _GRIDS:
        grid_us = shortest_us / parts
        periods = [max(1, round(job.iteration_us / grid_us)) for job in jobs]
        multiple = math.lcm(*periods)
        if multiple <= SLOTS_MAX:
            break
    else:
        multiple = max(periods)  # Times without a small common multiple: the longest alone is looked at.
    finer = max(1, -(-SLOTS_MIN // multiple))
    return _Circle(grid_us / finer, tuple(period * finer for period in periods), multiple * finer)


def _wave(job: Traffic, period: int, n_slots: int) -> Loads:
    """[slots] what the job sends, unrotated."""
    up = period * min(1_000_000, job.duty_ppm) // 1_000_000
    wave: Loads = np.where(np.arange(n_slots) % period < up, float(job.rate_bps), 0.0)
    return wave


def _load(waves: Sequence[Loads], shifts: Sequence[int], jobs: Sequence[int]) -> Loads:
    total: Loads = np.zeros(len(waves[0]) if waves else 1)
    for n in jobs:
        total = total + np.roll(waves[n], shifts[n])
    return total


def _excess(waves: Sequence[Loads], shifts: Sequence[int], capacity_bps: int) -> float:
    return float(np.maximum(0.0, _load(waves, shifts, range(len(waves))) - capacity_bps).mean())


def _best_rotation(
    waves: Sequence[Loads], shifts: Sequence[int], jobs: Sequence[int], n: int, period: int, capacity_bps: int
) -> int:
    """The rotation of one job that leaves least excess beside the others; of equals, the middle of the widest run, as
    far as possible from trouble."""
    others = _load(waves, shifts, [job for job in jobs if job != n])
    found = []
    for first in range(0, min(period, len(others)), _CHUNK):
        last = min(first + _CHUNK, period, len(others))
        rotated = np.stack([np.roll(waves[n], shift) for shift in range(first, last)])
        found.append(np.maximum(0.0, others[None, :] + rotated - capacity_bps).mean(axis=1))
    excess = np.concatenate(found)
    return _middle_of_widest(np.flatnonzero(excess <= excess.min() + 1e-9 * max(1, capacity_bps)), len(excess))


def _middle_of_widest(good: npt.NDArray[np.int64], n: int) -> int:
    """The middle of the longest run of neighbours on a circle of `n`."""
    if len(good) == n:
        return 0
    present = np.zeros(n, np.bool_)
    present[good] = True
    starts = [int(each) for each in good if not present[(each - 1) % n]]
    runs = []
    for start in starts:
        length = 1
        while present[(start + length) % n]:
            length += 1
        runs.append((-length, start))
    length, start = min(runs)
    return (start + (-length - 1) // 2) % n
