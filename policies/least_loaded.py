"""Least loaded: each task goes to the agent that is least full once it has it. Spreads work over all agents.

Load is the largest share that is taken of any kind of resource (CPU, memory, disk, GPUs), of what the agent has in
all. Order is first in, first out; links and the place of data count only as hard constraints.
"""

import numpy as np

from policies.greedy import Greedy, Parts, Round, free_of, needs_of, shares_ppm
from policies.lower import COUNT_MAX, Int64s


class LeastLoaded(Greedy):
    """Cost of a round: O(demands × agents × 20): the level is found by bisection, not task by task."""

    kernel = "least-loaded"

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        nodes = np.flatnonzero(room > 0)
        if not len(nodes):
            return []
        room, totals = room[nodes], books.totals[nodes]
        load = shares_ppm(totals - np.minimum(free_of(books)[nodes], totals), totals)
        step = shares_ppm(np.broadcast_to(needs_of(books, c), totals.shape), totals)
        wanted = min(count, int(room.sum()))
        low, high = -1, int((load + step * room[:, None]).max())  # the least level that takes all is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _below(load, step, room, middle).sum() >= wanted else (middle, high)
        level = high
        given = _below(load, step, room, level - 1)
        # At the level itself there may be more than are left: in order of id.
        spare = _below(load, step, room, level) - given
        before = int(given.sum()) + np.cumsum(spare) - spare
        given += np.clip(wanted - before, 0, spare)
        return [(int(node), int(part)) for node, part in zip(nodes, given, strict=True) if part]


def _below(load: Int64s, step: Int64s, room: Int64s, level: int) -> Int64s:
    """[N] how many tasks each node takes before its load passes the level."""
    fits = np.where(step > 0, (level - load) // np.maximum(1, step), np.where(load <= level, COUNT_MAX, 0))
    out: Int64s = np.clip(fits.min(axis=1), 0, room)
    return out
