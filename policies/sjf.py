"""Shortest job first: the work that takes least time goes first, each on the agent where it runs shortest.

Run times are those learned for the profile and the agent's hardware, else declared ÷ measured speed; they are not
discovered while running, and nothing running is interrupted. Long work can starve while short work keeps coming: that
is the policy, and the reason to compare others with it. Links and the place of data count only as hard constraints.
"""

import numpy as np

from policies.cost import FREE
from policies.greedy import Greedy, Rank, Round, seniority
from policies.lower import TIME_US_MAX, Int64s


class Sjf(Greedy):
    """Cost of a round: O(demands × agents) array work."""

    kernel = "shortest-first"

    def rank(self, books: Round, c: int) -> Rank:
        run_us = np.where(books.obstacle[c] == FREE, books.costs.run_us[c], TIME_US_MAX)
        return int(run_us.min(initial=TIME_US_MAX)), *seniority(books.demands[c])

    def scores(self, books: Round, c: int) -> Int64s | None:
        return books.by_node(books.costs.run_us[c])
