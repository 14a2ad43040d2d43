"""Uniformly at random: each task goes to any agent on which it fits, all equally likely. The floor for comparisons.

The snapshot is the seed (its clock and the class), so the same snapshot always gives the same plan and a replay is
exact. Order is first in, first out.
"""

import hashlib

import numpy as np

from policies.greedy import Greedy, Parts, Round
from policies.lower import Int64s


class Uniform(Greedy):
    """Cost of a round: O(demands × agents), and O(tasks) draws."""

    kernel = "random"

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        seed = hashlib.blake2b(f"{books.snapshot.now_us} {books.demands[c].demand_id}".encode(), digest_size=8).digest()
        draw = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
        given = np.zeros_like(room)
        while count > 0:
            # All at once; who drew an agent that is full by then draws again, as one after the other would.
            open_nodes = np.flatnonzero(room > given)
            if not len(open_nodes):
                break
            drawn = np.bincount(draw.integers(len(open_nodes), size=count), minlength=len(open_nodes))
            taken = np.minimum(drawn, (room - given)[open_nodes])
            given[open_nodes] += taken
            count -= int(taken.sum())
        return [(node, int(given[node])) for node in np.flatnonzero(given).tolist()]
