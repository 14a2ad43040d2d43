"""How long a round takes in simulated time: declared by the file, measured on this machine, or as measured before.

Measured times belong to a machine and a moment, so a run with them is not repeated by its seed alone; played again they
are part of the input, and the run is the same to the last bit.
"""

import statistics
import time
from collections.abc import Sequence

from policies.api import Policy
from policies.model import Plan, Snapshot


class SolveTimes:
    """`taken_us` are the times of all rounds so far, where they were measured or are played again."""

    def __init__(self, declared_us: int, measures: bool, again_us: Sequence[int] = ()) -> None:
        self.taken_us: list[int] = []
        self._declared_us = declared_us
        self._measures = measures
        self._again_us = tuple(again_us)
        # Other code may solve more often than the code whose times these are.
        self._typical_us = int(statistics.median(again_us)) if again_us else declared_us

    def solve(self, policy: Policy, snapshot: Snapshot) -> tuple[Plan, int]:
        """The plan, and what it takes."""
        began_ns = time.thread_time_ns()
        plan = policy.plan(snapshot)
        took_us = max(1, (time.thread_time_ns() - began_ns) // 1000)
        if self._again_us:
            number = len(self.taken_us)
            took_us = self._again_us[number] if number < len(self._again_us) else self._typical_us
        elif not self._measures:
            return plan, self._declared_us
        self.taken_us.append(took_us)
        return plan, took_us
