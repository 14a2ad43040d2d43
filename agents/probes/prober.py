"""Measuring the link from a peer: round trips to its `/echo`, then a bounded read of its `/probe`."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from agents.data.client import Client, Exchange
from agents.data.traffic import Sharing
from agents.events import LinksMeasured
from agents.logs import get_logger
from agents.ports import Post
from federation.errors import PeerError
from federation.wire import LinkSample, Peer
from policies.model import Record

_log = get_logger("agents.probe")

ECHOES = 6  # The first also pays for what a fresh connection and a sleeping radio cost, and is not counted.
PROBE_BYTES_MIN = 32 * 1024  # Below, nothing but slow start is seen.
PROBE_S_MAX = 5.0  # A 256 KiB probe of a 0.5 Mbit/s link; of a slower one, what came in that time is enough.
SKIPPED_SHARE = 3  # A third of the bytes is slow start and what a token bucket saved up (DESIGN §7).


class Rate(Record, frozen=True, kw_only=True):
    """Of the part of a stream after its skipped beginning; `n_bytes` and `duration_us` are of all of it."""

    bandwidth_bps: int
    n_bytes: int
    duration_us: int


class BusyError(Exception):
    """The peer sends to others just now: a probe would measure its share."""


class Prober:
    """One probe at a time: two would measure each other."""

    def __init__(self, client: Client, post: Post, *, agent_id: str, seconds_max: float = PROBE_S_MAX) -> None:
        self._client = client
        self._post = post
        self._agent_id = agent_id
        self._seconds_max = seconds_max
        self._turn = asyncio.Lock()

    async def probe(self, peer: Peer, bytes_max: int) -> None:
        """Always posts one `LinksMeasured`; empty when the peer cannot be reached. Bounded in time.

        While other streams use the way, at either end, only the echo is told, and `busy`: ask again soon."""
        samples: list[LinkSample] = []
        is_busy = False
        async with self._turn:
            try:
                async with self._client.connect(peer.data_url, peer.site) as exchange:
                    round_trips = await echo(exchange, self._client.clock_s)
                    samples.append(self._echo_sample(peer, round_trips))
                    if bytes_max >= PROBE_BYTES_MIN:
                        is_busy = self._client.traffic.n_crossing() > 0
                        if not is_busy:
                            rate = await bandwidth(exchange, bytes_max, self._seconds_max, self._client.clock_s)
                            samples += self._probe_sample(peer, rate, await exchange.sharing())
            except BusyError:
                is_busy = True
            except PeerError as error:
                _log.info("probe_failed", peer=peer.agent_id, url=peer.data_url, detail=error.detail)
        await self._post(LinksMeasured(samples=tuple(samples), busy=is_busy))

    def _echo_sample(self, peer: Peer, round_trips_us: Sequence[int]) -> LinkSample:
        return LinkSample(
            from_agent=peer.agent_id, to_agent=self._agent_id, method="echo",
            rtt_us=min(round_trips_us), jitter_us=jitter_us(round_trips_us),
            duration_us=sum(round_trips_us),
        )  # fmt: skip

    def _probe_sample(self, peer: Peer, rate: Rate | None, sharing: Sharing) -> list[LinkSample]:
        if rate is None:
            return []
        return [
            LinkSample(
                from_agent=peer.agent_id,
                to_agent=self._agent_id,
                method="probe",
                bandwidth_bps=rate.bandwidth_bps,
                bytes=rate.n_bytes,
                duration_us=rate.duration_us,
                is_lower_bound=sharing.is_competed,
            )
        ]


async def echo(exchange: Exchange, clock_s: Callable[[], float] = time.monotonic, count: int = ECHOES) -> list[int]:
    """Round trips of `/echo` on a kept connection in µs, the first left out. Raises `PeerError`."""
    round_trips: list[int] = []
    for _ in range(count):
        begun_s = clock_s()
        answer = await exchange.get("/echo")
        round_trips.append(max(1, int((clock_s() - begun_s) * 1e6)))
        if answer.status != 204:
            raise PeerError("status", f"/echo answered {answer.status}")
        async for _ in exchange.body():
            raise PeerError("http", "/echo has no body")
    return round_trips[1:]


def jitter_us(round_trips_us: Sequence[int]) -> int:
    """Mean absolute difference of successive round trips (RFC 3550 §6.4.1, without its smoothing)."""
    steps = [abs(after - before) for before, after in itertools.pairwise(round_trips_us)]
    return sum(steps) // len(steps) if steps else 0


async def bandwidth(
    exchange: Exchange, bytes_max: int, seconds_max: float, clock_s: Callable[[], float] = time.monotonic
) -> Rate | None:
    """Read up to `bytes_max` of `/probe` for at most `seconds_max`; None when too little came.

    Raises `PeerError`, and `BusyError` where the peer sends to others. Uses up the connection when it stops early."""
    answer = await exchange.get(f"/probe?bytes={bytes_max}")
    if answer.status == 503:
        raise BusyError
    if answer.status != 200:
        raise PeerError("status", f"/probe answered {answer.status}")
    arrivals: list[tuple[float, int]] = []  # (time, bytes so far)
    total = 0
    begun_s = clock_s()
    async with aclosing(exchange.body()) as body:
        async for block in body:
            total += len(block)
            now_s = clock_s()
            arrivals.append((now_s, total))
            if now_s - begun_s > seconds_max:
                break
    return rate_of(arrivals)


def rate_of(arrivals: Sequence[tuple[float, int]]) -> Rate | None:
    """The rate after the first third of the bytes; None for fewer than `PROBE_BYTES_MIN` bytes or three arrivals."""
    if len(arrivals) < 3 or arrivals[-1][1] < PROBE_BYTES_MIN:
        return None
    end_s, total = arrivals[-1]
    begun_s, skipped = next(
        (found for found in arrivals if found[1] * SKIPPED_SHARE >= total and found[0] < end_s), arrivals[0]
    )
    counted_us = int((end_s - begun_s) * 1e6)
    if counted_us <= 0 or total <= skipped:
        return None
    return Rate(
        bandwidth_bps=(total - skipped) * 8_000_000 // counted_us,
        n_bytes=total,
        duration_us=int((end_s - arrivals[0][0]) * 1e6),
    )
