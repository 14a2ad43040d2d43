"""Best fit: each task goes where least is left over, so that large agents stay whole for large work.

What is left counts in all kinds: the free shares of CPU, memory, disk and GPUs, of the largest agent's, summed. Order
is first in, first out; links and the place of data count only as hard constraints.
"""

import numpy as np

from policies.greedy import Greedy, Round, free_of, needs_of, shares_ppm
from policies.lower import Int64s


class BestFit(Greedy):
    """An agent that was the best fit is a better one after each task: agents are filled one by one.
    Cost of a round: O(demands × agents) array work."""

    kernel = "best-fit"

    def scores(self, books: Round, c: int) -> Int64s | None:
        if not len(books.nodes):
            return None
        largest = np.broadcast_to(books.totals.max(axis=0), books.totals.shape)
        left = np.maximum(0, free_of(books) - needs_of(books, c))
        out: Int64s = shares_ppm(left, largest).sum(axis=1)
        return out
