"""The master's clock: Unix time in microseconds that never runs backwards, whatever is done to the machine's."""

import time
from collections.abc import Callable


class Clock:
    """The wall clock as it stood at the start (or `not_before_us`, if that is later), carried on by the monotonic one.

    `not_before_us` is the journal's last time: facts stay in order across a restart on a machine whose clock was set
    back. A step of the wall clock during the run is not followed; the next start is.
    """

    def __init__(
        self,
        not_before_us: int = 0,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        wall_us = wall_ns() // 1000
        self.behind_us = max(0, not_before_us - wall_us)
        """How far the wall clock was behind the journal at the start; worth a warning."""
        self._offset_ns = max(wall_us, not_before_us) * 1000 - monotonic_ns()

    def now_us(self) -> int:
        return (self._offset_ns + self._monotonic_ns()) // 1000
