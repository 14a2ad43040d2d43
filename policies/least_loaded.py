"""Least loaded: each task goes to the agent that is least full once it has it. Spreads work over all agents.

Load is the largest share that is taken of any kind of resource (CPU, memory, disk, GPUs), of what the agent has in
all. Order is first in, first out; links and the place of data count only as hard constraints.
"""

import numpy as np

from policies.greedy import Greedy, Parts, Round, free_of, needs_of, shares_ppm
from policies.lower import COUNT_MAX, Int64s


class LeastLoaded(Greedy):
    """Cost of a round: O(demands × agents), and O(tasks × 20) for each class: of its tasks, none goes further up than
    to as many agents as it has tasks, and among those the level is found by bisection, not task by task."""

    kernel = "least-loaded"

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        nodes = np.flatnonzero(room > 0)
        if not len(nodes):
            return []
        room, totals = room[nodes], books.totals[nodes]
        load = shares_ppm(totals - np.minimum(free_of(books)[nodes], totals), totals)
        step = shares_ppm(np.broadcast_to(needs_of(books, c), totals.shape), totals)
        wanted = min(count, int(room.sum()))
        after = (load + step).max(axis=1)
        kept = _lowest(after, wanted)
        nodes, room, load, step, after = nodes[kept], room[kept], load[kept], step[kept], after[kept]
        # The least level that takes all is in (low, high]: nobody has room below the first, all have at the last.
        low = int(after.min()) - 1
        high = int(after.max() if wanted <= len(nodes) else (load + step * room[:, None]).max())
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


def _lowest(after: Int64s, wanted: int) -> Int64s:
    """The places, ascending, that may be given one of `wanted` tasks: those with the lowest loads after one task, and
    of the ones that share the last such load the first `wanted`. One task each would do: nobody rises above that load.
    """
    if wanted >= len(after):
        return np.arange(len(after))
    last = np.partition(after, wanted - 1)[wanted - 1]
    out: Int64s = np.union1d(np.flatnonzero(after < last), np.flatnonzero(after == last)[:wanted])
    return out


def _below(load: Int64s, step: Int64s, room: Int64s, level: int) -> Int64s:
    """[N] how many tasks each node takes before its load passes the level."""
    fits = np.where(step > 0, (level - load) // np.maximum(1, step), np.where(load <= level, COUNT_MAX, 0))
    out: Int64s = np.clip(fits.min(axis=1), 0, room)
    return out
