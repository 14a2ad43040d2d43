"""The event loop's lateness is what work without a pause costs it."""

import asyncio
import time

from federation.lateness import Lateness
from tests.live_world import until


async def test_work_without_a_pause_is_seen() -> None:
    lateness = Lateness()
    watching = asyncio.create_task(lateness.watch())
    assert lateness.us_max == 0
    await asyncio.sleep(0)
    begun_at = time.monotonic()
    while time.monotonic() - begun_at < 0.2:
        pass
    await until(lambda: lateness.us_max)
    assert lateness.us_max >= 100_000, "it was due after 50 ms and came after 200"
    watching.cancel()
