"""What `policies.kernels.greedy` does, in the plainest words: targets that classes take in turn, and over links."""

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


def take_turns(
    ranks: Int64s, room: Int64s, units: Int64s, resource: Int64s, kind: Int64s, left: Int64s
) -> set[tuple[int, int]]:
    """(class, target) pairs taken. Targets are the groups, then the kinds; `left` changes."""
    n_groups = len(kind)
    chosen: set[tuple[int, int]] = set()
    for a, rank in enumerate(ranks.tolist()):
        line = left[resource[a]]
        wanted = int(units[a])
        given: dict[int, int] = {}
        for target in rank:
            amount = min(int(room[a, target]), int(line[target]), wanted)
            if amount > 0:
                given[target] = amount
                wanted -= amount
        for target, amount in given.items():
            line[target] -= amount
            if target < n_groups:
                line[n_groups + kind[target]] -= amount
        for target, amount in given.items():
            if target >= n_groups:
                groups = np.flatnonzero(kind == target - n_groups)
                line[groups] -= -(-amount * line[groups] // max(1, int(line[groups].sum())))
        np.maximum(line, 0, out=line)
        chosen |= {(a, target) for target in given}
    return chosen


def spread(cost_us: Int64s, step_us: npt.NDArray[np.float64], room: Int64s, tasks: int) -> int:
    """Of one class's targets, cheapest first, how many are no dearer than where its last task goes."""
    for last in range(len(cost_us) - 1):
        rise_us = cost_us[last] - cost_us
        held = np.where(rise_us >= 0, np.minimum(room, 1 + rise_us / np.maximum(1.0, step_us)), 0)
        if sum(held.tolist()) >= tasks:
            return last + 1
    return len(cost_us)
