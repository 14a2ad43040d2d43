"""A rate cap shared by every stream that crosses it: the emulated (or granted) uplink of a site.

A chunk is paid for before it moves: each payment books the next stretch of time on the link, so concurrent streams,
paying for chunks of one size in turn, get equal shares. While streams are open, up to `CATCH_UP_S` of time that this
process overslept is made good, so a busy machine does not lower the rate; an idle link saves up only `BURST_S`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

BURST_S = 0.002  # Small against the shortest probe (10 ms at 200 Mbit/s), which would otherwise measure the savings.
CATCH_UP_S = 0.25  # Longer stalls (a suspended process) are lost, not paid out as a flood.
CHUNK_S = 0.01  # A stream pays for 10 ms of the link at once: ≤ 100 wake-ups a second each.
CHUNK_BYTES_MIN = 2 * 1024  # Below, headers and system calls would outweigh the bytes.
CHUNK_BYTES_MAX = 64 * 1024


class RateCap:
    """One direction of a link of `rate_bps` bits per second."""

    def __init__(self, rate_bps: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.rate_bps = rate_bps
        self.chunk_bytes = min(max(int(rate_bps / 8 * CHUNK_S), CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)
        self._clock_s = clock_s
        self._booked_s = clock_s()  # The link is sold until then.
        self._streams = 0

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Open a stream: inside, pay with `take` before each chunk."""
        if self._streams == 0:
            self._booked_s = max(self._booked_s, self._clock_s() - BURST_S)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def take(self, n_bytes: int) -> None:
        """Pay for `n_bytes`; returns when the link has carried them."""
        wait_s = self.book_s(n_bytes)
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def book_s(self, n_bytes: int) -> float:
        """Book the link for `n_bytes`; seconds until they are through."""
        now_s = self._clock_s()
        allowance_s = CATCH_UP_S if self._streams else BURST_S
        self._booked_s = max(self._booked_s, now_s - allowance_s) + n_bytes * 8 / self.rate_bps
        return self._booked_s - now_s


class Uplink:
    """Both directions of a site's link to other sites; None caps nothing. Traffic within the site is not capped."""

    def __init__(self, site: str, rate_bps: int | None) -> None:
        self.site = site
        self.up = RateCap(rate_bps) if rate_bps else None
        self.down = RateCap(rate_bps) if rate_bps else None

    def cap_to(self, site: str) -> RateCap | None:
        return None if site == self.site else self.up

    def cap_from(self, site: str) -> RateCap | None:
        return None if site == self.site else self.down
