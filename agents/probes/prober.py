"""Measuring the link from a peer: round trips to its `/echo`, packet trains, and where those cannot tell, a bounded
read of its `/probe`.

Trains see a link's capacity whatever else crosses it, in a third of the bytes; TCP gets through everywhere, emulated
lines included, but sees what others leave."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

from agents.data.client import Client, Exchange
from agents.data.http import TRAIN_HEADER
from agents.events import LinksMeasured
from agents.logs import get_logger
from agents.ports import Post
from agents.probes.train import LENGTHS, PACKET_BYTES, TrainRate, rate_of_train, receive
from federation.errors import PeerError
from federation.wire import LinkSample, Peer
from policies.model import Record

_log = get_logger("agents.probe")

ECHOES = 6  # The first also pays for what a fresh connection and a sleeping radio cost, and is not counted.
PROBE_BYTES_MIN = 32 * 1024  # Below, nothing but slow start is seen.
PROBE_S_MAX = 5.0  # A 256 KiB probe of a 0.5 Mbit/s link; of a slower one, what came in that time is enough.
# Half of the bytes is slow start and what a token bucket saved up (docs/network.md).
SKIPPED_MILLI = 500
BURST_MAX = 2  # times the whole stream's rate: more than slow start's last round trip explains
OVERFLOW_MILLI = 250  # A link that loses more than this at random carries no TCP worth the name.
RISING_MILLI = 1250  # The last quarter this much faster than the third: slow start goes on, the link gives more.


class Rate(Record, frozen=True, kw_only=True):
    """Of the second half of a stream; `n_bytes`, `duration_us` and `whole_bps` are of all of it. The way gives at least
    `whole_bps`, whenever this process was looking."""

    bandwidth_bps: int
    whole_bps: int
    n_bytes: int
    duration_us: int
    is_rising: bool = False  # still in slow start, or read in one piece after a pause of ours: no more than a bound


class BusyError(Exception):
    """The peer sends to others just now: a probe would measure its share."""


class RationedError(Exception):
    """The peer's line is paid by the byte, and what it may spend on probes is spent."""


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

        While other streams use the way, at either end, only the echo is told, and `busy`: ask again soon. Beside a
        shard of this peer a train may still go, if the peer sees that something else than the way holds that up."""
        samples: list[LinkSample] = []
        is_busy = False
        async with self._turn:
            begun_s = time.process_time()
            try:
                async with self._client.connect(peer.data_url, peer.site) as exchange:
                    round_trips = await echo(exchange, self._client.clock_s)
                    info = exchange.tcp_info()
                    kernels_us = info.rtt_us_min if info else None
                    samples.append(self._echo_sample(peer, round_trips, kernels_us))
                    if bytes_max >= PROBE_BYTES_MIN:
                        traffic = self._client.traffic
                        is_busy = traffic.n_others(urlsplit(peer.data_url).netloc, is_local=False) > 0
                        if not is_busy:
                            may_read = traffic.n_crossing() == 0
                            samples += await self._bandwidth(exchange, peer, bytes_max, may_read=may_read)
            except BusyError:
                is_busy = True
            except RationedError:
                _log.info("probe_rationed", peer=peer.agent_id)
            except PeerError as error:
                _log.info("probe_failed", peer=peer.agent_id, url=peer.data_url, detail=error.detail)
            cpu_us = int((time.process_time() - begun_s) * 1e6)
        await self._post(LinksMeasured(samples=tuple(samples), busy=is_busy, cpu_us=cpu_us))

    def _echo_sample(self, peer: Peer, round_trips_us: Sequence[int], kernels_us: int | None) -> LinkSample:
        """The kernel's least round trip has no part of either process in it."""
        return LinkSample(
            from_agent=peer.agent_id, to_agent=self._agent_id, method="echo",
            rtt_us=min(min(round_trips_us), kernels_us or 2**62), jitter_us=jitter_us(round_trips_us),
            duration_us=sum(round_trips_us),
        )  # fmt: skip

    async def _bandwidth(self, exchange: Exchange, peer: Peer, bytes_max: int, *, may_read: bool) -> list[LinkSample]:
        """Trains, each twice as long as the last, until one settles it; else, with `may_read`, TCP. Raises `PeerError`,
        `BusyError`."""
        spent_bytes = n_sent = n_came = 0
        for n_packets in LENGTHS:
            if exchange.is_capped or spent_bytes + n_packets * PACKET_BYTES > bytes_max:
                break
            train = await self._train(exchange, peer, n_packets)
            if train is None:
                break
            spent_bytes += train.n_bytes
            n_sent, n_came = n_sent + n_packets, n_came + train.n_bytes // PACKET_BYTES
            if train.is_steady and train.is_queued:
                loss_ppm = lost_ppm(n_sent, n_came)
                return [self._sample(peer, train.bandwidth_bps, spent_bytes, train.duration_us, False, loss_ppm)]
        rate = await bandwidth(exchange, bytes_max, self._seconds_max, self._client.clock_s) if may_read else None
        if rate is None:
            return []
        # Where trains came and settled nothing, the link is faster than their sender, or full of others' traffic.
        is_lower_bound = spent_bytes > 0 or rate.is_rising or (await exchange.sharing()).is_competed
        spent_bytes += rate.n_bytes
        bandwidth_bps = rate.whole_bps if is_lower_bound else rate.bandwidth_bps
        loss_ppm = lost_ppm(n_sent, n_came)
        return [self._sample(peer, bandwidth_bps, spent_bytes, rate.duration_us, is_lower_bound, loss_ppm)]

    async def _train(self, exchange: Exchange, peer: Peer, n_packets: int) -> TrainRate | None:
        """None where the peer offers none, or UDP does not get through."""
        answer = await exchange.get(f"/train?packets={n_packets}")
        async for _ in exchange.body():
            pass
        _require_leave(answer.status)
        promised = answer.headers.get(TRAIN_HEADER, "").split()
        host = urlsplit(peer.data_url).hostname
        if answer.status != 204 or len(promised) != 2 or not all(map(str.isdecimal, promised)) or host is None:
            return None
        port, nonce = map(int, promised)
        if not (0 < port < 2**16 and nonce < 2**63):
            raise PeerError("http", "a train from no port")
        return rate_of_train(await asyncio.to_thread(receive, host, port, nonce, n_packets))

    def _sample(
        self, peer: Peer, bandwidth_bps: int, n_bytes: int, duration_us: int, is_lower_bound: bool, loss_ppm: int | None
    ) -> LinkSample:
        return LinkSample(
            from_agent=peer.agent_id, to_agent=self._agent_id, method="probe", bandwidth_bps=bandwidth_bps,
            bytes=n_bytes, duration_us=duration_us, is_lower_bound=is_lower_bound, loss_ppm=loss_ppm,
        )  # fmt: skip


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


def lost_ppm(n_sent: int, n_came: int) -> int | None:
    """Of a train's packets. None where there was none, and where so many are missing that a queue was too short for
    the train: that says nothing of packets that do not come in bursts."""
    if not n_sent or (n_sent - n_came) * 1000 > OVERFLOW_MILLI * n_sent:
        return None
    return max(0, n_sent - n_came) * 1_000_000 // n_sent


async def bandwidth(
    exchange: Exchange, bytes_max: int, seconds_max: float, clock_s: Callable[[], float] = time.monotonic
) -> Rate | None:
    """Read up to `bytes_max` of `/probe` for at most `seconds_max`; None when too little came.

    Raises `PeerError`, `BusyError` where the peer sends to others, `RationedError`. Uses up the connection when it
    stops early."""
    asked_s = clock_s()
    answer = await exchange.get(f"/probe?bytes={bytes_max}")
    _require_leave(answer.status)
    if answer.status != 200:
        raise PeerError("status", f"/probe answered {answer.status}")
    arrivals: list[tuple[float, int]] = [(asked_s, 0)]  # (time, bytes so far)
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


def _require_leave(status: int) -> None:
    if status == 503:
        raise BusyError
    if status == 429:
        raise RationedError


def rate_of(arrivals: Sequence[tuple[float, int]]) -> Rate | None:
    """From (time, bytes so far); None for fewer than `PROBE_BYTES_MIN` bytes or three arrivals."""
    if len(arrivals) < 3 or arrivals[-1][1] < PROBE_BYTES_MIN:
        return None
    end_s, total = arrivals[-1]
    half, three_quarters = _reached(arrivals, total * SKIPPED_MILLI // 1000), _reached(arrivals, total * 3 // 4)
    bandwidth_bps = _bps(half, arrivals[-1])
    if bandwidth_bps is None:
        return None
    third_bps, fourth_bps = _bps(half, three_quarters), _bps(three_quarters, arrivals[-1])
    whole_bps = _bps(arrivals[0], arrivals[-1]) or bandwidth_bps
    is_rising = third_bps is not None and fourth_bps is not None and fourth_bps * 1000 > RISING_MILLI * third_bps
    return Rate(
        bandwidth_bps=bandwidth_bps,
        whole_bps=whole_bps,
        n_bytes=total,
        duration_us=int((end_s - arrivals[0][0]) * 1e6),
        is_rising=is_rising or bandwidth_bps > BURST_MAX * whole_bps,
    )


def _reached(arrivals: Sequence[tuple[float, int]], n_bytes: int) -> tuple[float, int]:
    """The first arrival with so many bytes in all, the last left for what follows."""
    return next((found for found in arrivals[:-1] if found[1] >= n_bytes), arrivals[-2])


def _bps(begun: tuple[float, int], ended: tuple[float, int]) -> int | None:
    elapsed_us = int((ended[0] - begun[0]) * 1e6)
    return (ended[1] - begun[1]) * 8_000_000 // elapsed_us if elapsed_us > 0 and ended[1] > begun[1] else None
