"""Emulating a slower core: a process group runs for a share of each period and is stopped for the rest."""

import asyncio
import contextlib
import os
import signal
import time

PERIOD_S = 0.05  # Shorter than what a task would notice as a pause, long enough that 40 signals a second cost nothing.
MEMORY_S = 5.0  # How far back lost or won time is made good.


async def throttle(group: int, share_milli: int) -> None:
    """Until cancelled or the group is gone; it is left running.

    What counts is the time it really ran and really stood, so a late wake-up is made good by the next."""
    share = share_milli / 1000
    ran_s = stood_s = 0.0
    try:
        while True:
            ran_s += await _for(share * PERIOD_S)
            owed_s = ran_s * (1 - share) / share - stood_s
            if owed_s > 0:
                os.killpg(group, signal.SIGSTOP)
                stood_s += await _for(owed_s)
                os.killpg(group, signal.SIGCONT)
            if ran_s + stood_s > MEMORY_S:
                ran_s, stood_s = ran_s / 2, stood_s / 2
    except ProcessLookupError:
        return
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)


async def _for(seconds: float) -> float:
    before = time.monotonic()
    await asyncio.sleep(seconds)
    return time.monotonic() - before
