"""How late the event loop is: what all that runs in it, and whatever holds the interpreter beside it, costs it."""

import asyncio
import time
from typing import Final, NoReturn

_EVERY_S: Final = 0.05
_WINDOW_S: Final = 10.0


class Lateness:
    """The longest that a timer was late, over the last ten to twenty seconds."""

    def __init__(self) -> None:
        self._before_us = self._now_us = 0

    @property
    def us_max(self) -> int:
        return max(self._before_us, self._now_us)

    async def watch(self) -> NoReturn:
        while True:
            ends_at = time.monotonic() + _WINDOW_S
            while (began_at := time.monotonic()) < ends_at:
                await asyncio.sleep(_EVERY_S)
                late_s = time.monotonic() - began_at - _EVERY_S
                self._now_us = max(self._now_us, int(late_s * 1e6))
            self._before_us, self._now_us = self._now_us, 0
