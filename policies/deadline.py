"""Earliest deadline first, with admission: who is due first goes first, and who cannot make it takes no room.

Admission: an agent on which data and run would end past the deadline is closed to the task (learned run times, measured
links); with no agent open the task is refused with the reason `deadline`. Equal deadlines go by laxity (what is left
after the run: the least first), then by seniority. Work without a deadline, and work already late, comes after all
that can still be in time. Each task takes the agent on which it is done first.
"""

import numpy as np

from policies.cost import FREE, NEVER_US, time_left_us
from policies.greedy import Greedy, Rank, Round, seniority
from policies.lower import TIME_US_MAX, Int64s


class Deadline(Greedy):
    """Cost of a round: O(demands × agents) array work."""

    kernel = "edf"

    def obstacles(self, books: Round) -> Int64s:
        return books.costs.obstacle

    def rank(self, books: Round, c: int) -> Rank:
        left_us = time_left_us(books.demands[c], books.snapshot.now_us)
        laxity_us = left_us - self._need_us(books, c) if left_us < NEVER_US else 0
        return left_us, laxity_us, *seniority(books.demands[c])

    def scores(self, books: Round, c: int) -> Int64s | None:
        return books.by_node(books.costs.transfer_us[c] + books.costs.run_us[c])

    def _need_us(self, books: Round, c: int) -> int:
        """What it takes where it takes least."""
        need_us = books.costs.transfer_us[c] + books.costs.run_us[c]
        return int(np.where(books.obstacle[c] == FREE, need_us, TIME_US_MAX).min(initial=TIME_US_MAX))
