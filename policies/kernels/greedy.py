"""What classes of tasks would take by themselves: the targets worth putting into a flow network to begin with.

Axes: A classes; G groups of agents; H kinds of groups; T = G + H targets, first the groups; D kinds of resources.
"""

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Int64s, kernel

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_INT, _ROW, _ROWS = types.int64, types.int64[::1], types.int64[:, ::1]
_CHOSEN = types.boolean[:, ::1]


@kernel(types.void(_ROWS, _ROWS, *[_ROW] * 5, _ROWS, _CHOSEN))
def take_turns(
    ranks: Int64s,
    room: Int64s,
    units: Int64s,
    resource: Int64s,
    kind: Int64s,
    order: Int64s,
    starts: Int64s,
    left: Int64s,
    chosen: Bools,
) -> None:
    """One class after the other takes its cheapest targets with anything left until they hold its tasks.

    ranks [A, T] targets, cheapest first; room [A, T] what each holds of the class alone; units [A] what it wants;
    resource [A] → D; kind [G] → H; order [G] groups by kind, starts [H + 1] where each kind's begin there; left [D, T]
    what nobody took yet, changed; chosen [A, T] is set where something is taken. What a group gives its kind gives too,
    and the other way round. Time O(A·T) at most.
    """
    n_groups = kind.shape[0]
    taken, amounts = np.empty(ranks.shape[1], np.int64), np.empty(ranks.shape[1], np.int64)
    for a in range(ranks.shape[0]):
        line = left[resource[a]]
        wanted = units[a]
        count = 0
        for index in range(ranks.shape[1]):
            if wanted <= 0:
                break
            target = ranks[a, index]
            there = min(room[a, target], line[target])
            if there > 0:
                chosen[a, target] = True
                taken[count] = target
                amounts[count] = min(there, wanted)
                wanted -= there
                count += 1
        for n in range(count):
            line[taken[n]] -= amounts[n]
        for n in range(count):
            if taken[n] < n_groups:
                whole = n_groups + kind[taken[n]]
                line[whole] -= amounts[n]
        for n in range(count):
            if taken[n] >= n_groups:
                h = taken[n] - n_groups
                total = 0
                for place in range(starts[h], starts[h + 1]):
                    total += line[order[place]]
                for place in range(starts[h], starts[h + 1]):
                    group = order[place]
                    line[group] += -amounts[n] * line[group] // max(1, total)
        for n in range(count):
            target = taken[n]
            line[target] = max(0, line[target])
            if target < n_groups:
                line[n_groups + kind[target]] = max(0, line[n_groups + kind[target]])
            else:
                for place in range(starts[target - n_groups], starts[target - n_groups + 1]):
                    line[order[place]] = max(0, line[order[place]])


@kernel(types.void(_ROWS, _ROWS, types.float64[:, ::1], _ROWS, _ROW, _CHOSEN))
def spread(ranks: Int64s, cost_us: Int64s, step_us: Floats, room: Int64s, tasks: Int64s, chosen: Bools) -> None:
    """Set `chosen` [A, T] for the targets that are no dearer than where the last task of a class goes.

    ranks [A, M] targets, cheapest first, and of each its cost_us, what every further task costs more there (step_us)
    and how many tasks there is room for. tasks [A]. Time O(A·M·targets that are chosen).
    """
    for a in range(ranks.shape[0]):
        wanted = float(tasks[a])
        for last in range(ranks.shape[1] - 1):
            held = 0.0
            for index in range(ranks.shape[1]):
                rise_us = cost_us[a, last] - cost_us[a, index]
                if rise_us >= 0:
                    held += min(float(room[a, index]), 1.0 + rise_us / max(1.0, step_us[a, index]))
            if held >= wanted:
                break
            chosen[a, ranks[a, last + 1]] = True
