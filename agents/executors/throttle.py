"""Emulating a slower core: a process group is stopped whenever it has used more than its share of CPU time.

Steered by CPU time and not by the clock, so that a busy machine, which lets the group run late, does not slow it twice.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

SLICE_S = 0.01  # It runs this long between two looks at its CPU time, which the kernel counts in the same steps.
CREDIT_S = 0.1  # Of unused time (waiting for the disk) may be made up for: a core that waited is not faster afterwards.
STOP_S_MAX = 1.0  # A look at least so often, whatever was counted.


async def throttle(group: int, share_milli: int, cpu_s: Callable[[], float]) -> None:
    """Until cancelled or the group is gone; it is left running.

    `share_milli`: CPU time it may use per second, in thousandths; `cpu_s`: what it has used so far, never falling."""
    share = share_milli / 1000
    begun_s = time.monotonic() - cpu_s() / share
    try:
        while True:
            await asyncio.sleep(SLICE_S)
            elapsed_s = time.monotonic() - begun_s
            ahead_s = cpu_s() / share - elapsed_s
            if ahead_s > 0:
                os.killpg(group, signal.SIGSTOP)
                await asyncio.sleep(min(ahead_s, STOP_S_MAX))
                os.killpg(group, signal.SIGCONT)
            elif ahead_s < -CREDIT_S:
                begun_s += -ahead_s - CREDIT_S
    except ProcessLookupError:
        return
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)
