"""Gavel's round mechanism: shares become rounds, in which a job either has what it needs or nothing.

On each type of hardware the jobs go by priority: the share they are due ÷ the part of the type's time they received.
Who received less than its share comes first; the longer it waits, the higher it rises. Shares change, and what was
received under old ones counts for nothing under new ones; what a job was short of stays as a deficit, and decides
between equal priorities.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from policies.gavel_shares import Floats

_NEW = 1e9  # priority of a share of 1 of which nothing was given out yet


class Received:
    """Time each job received on each type since shares were last settled. Jobs are in the order in which they came.

    Every job starts with `credit` on every type, so that a first round does not decide alone.
    """

    def __init__(self, n_types: int, credit: float) -> None:
        self._n_types, self._credit = n_types, credit
        self.of: dict[int, Floats] = {}
        self.deficit: dict[int, Floats] = {}
        self.total = np.zeros(n_types)

    def add(self, job_id: int) -> None:
        self.of[job_id] = np.full(self._n_types, self._credit)
        self.deficit[job_id] = np.zeros(self._n_types)

    def remove(self, job_id: int) -> None:
        del self.of[job_id], self.deficit[job_id]

    def give(self, job_id: int, kind: int, time: float) -> None:
        self.of[job_id][kind] += time
        self.total[kind] += time

    def settle(self, shares: Mapping[int, Floats], elapsed: float) -> None:
        """Begin anew: of what `shares` promised for the `elapsed` time, the rest is carried as a deficit."""
        nothing = np.zeros(self._n_types)
        for job_id, received in self.of.items():
            self.deficit[job_id] += shares.get(job_id, nothing) * elapsed - (received - self._credit)
            received[:] = self._credit
        self.total[:] = self._credit * len(self.of)


def by_priority(
    received: Received, shares: Mapping[int, Floats], kind: int, rates: Mapping[int, float]
) -> Iterator[tuple[int, float]]:
    """(job, priority) on one type, highest first, ties by deficit and share, then by who came first.

    A job that runs at rate 0 there, or has no shares yet, has priority 0.
    """
    ranked: list[tuple[float, float, float, int]] = []
    for job_id, given in received.of.items():
        share = float(shares[job_id][kind]) if job_id in shares else 0.0
        part = float(given[kind]) / float(received.total[kind]) if received.total[kind] else 0.0
        priority = 0.0
        if share > 0 and rates[job_id] > 0:
            priority = share / part if part > 0 else share * _NEW
        ranked.append((priority, float(received.deficit[job_id][kind]), share, job_id))
    ranked.sort(key=lambda each: each[:3], reverse=True)
    for priority, _, _, job_id in ranked:
        yield job_id, priority
