"""Getting a shard into the store: several sources in order, resumed where the last one broke, checked by its hash."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

from agents.data.client import Answer, Client, Exchange
from agents.data.http import parse_content_range
from agents.data.traffic import ALONE, Sharing
from agents.events import FetchEnded, FetchesProgressed
from agents.logs import get_logger
from agents.ports import Post
from agents.probes.delivery import is_brief
from agents.store import Partial, ShardDamagedError, ShardStore, StoreFullError
from federation.errors import PeerError
from federation.wire import Fetch, FetchProgress, HeldShard, LinkSample, Source
from policies.model import Record

_log = get_logger("agents.fetch")

# Below, slow start and scheduling decide the rate, not the link; below a million it is a bound (`is_brief`).
SAMPLE_BYTES_MIN = 256 * 1024
RETRY_DELAYS_S = (
    0.5,
    2.0,
)  # After every source failed: a restarting peer is back by then; longer is the master's part.
# A transfer that runs for longer is told of this often: a link that halves is then known within two such periods and a
# report, well before a minute's transfer has ended, for ~200 bytes each.
PROGRESS_S = 2.0
WRITE_BYTES = 512 * 1024  # Written and hashed at once, in a thread: ~1 ms.
_TRANSIENT = frozenset({"connect", "broken", "timeout", "http", "busy"})


class _Stream(Record, frozen=True, kw_only=True):
    """What one connection brought, and how fast after its first bytes."""

    n_bytes: int = 0
    sample: LinkSample | None = None
    error: PeerError | None = None


class _Tally:
    """What a fetch has seen so far, and where it goes on when it is told to."""

    def __init__(self, sources: tuple[Source, ...]) -> None:
        self.sources = sources
        self.redirected = False
        self.exchange: Exchange | None = None  # that brings bytes now
        self.fetched_bytes = 0
        self.samples: list[LinkSample] = []
        self.errors: dict[str, PeerError] = {}  # the last one of each source
        self.liars: set[str] = set()  # sources whose bytes had the wrong hash
        self.contributors: set[str] = set()  # to what the partial file now holds
        self.alone = False  # each source must bring the whole: a mixture had the wrong hash

    def ended(self, fetch_id: int, shard: HeldShard, reason: str = "", detail: str = "") -> FetchEnded:
        return FetchEnded(
            fetch_id=fetch_id, shard=shard, ok=not reason, reason=reason, detail=detail[:1000],
            fetched_bytes=self.fetched_bytes, samples=tuple(self.samples),
        )  # fmt: skip


class Fetcher:
    """At most `fetches_max` transfers at once; two fetches of one shard share one transfer."""

    def __init__(
        self,
        store: ShardStore,
        client: Client,
        post: Post,
        *,
        agent_id: str,
        fetches_max: int,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        progress_s: float = PROGRESS_S,
    ) -> None:
        self._store = store
        self._client = client
        self._post = post
        self._agent_id = agent_id
        self._slots = asyncio.Semaphore(fetches_max)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._retry_delays_s = retry_delays_s
        self._progress_s = progress_s
        self._tallies: dict[int, _Tally] = {}  # of fetches under way, by fetch_id

    def redirect(self, fetch_id: int, fetch: Fetch) -> None:
        """Break off the present source; what it brought stays, and the next goes on from there by Range."""
        tally = self._tallies.get(fetch_id)
        if tally is None:
            return
        tally.sources, tally.redirected = fetch.sources, True
        if tally.exchange is not None:
            tally.exchange.abort()

    async def fetch(self, fetch_id: int, fetch: Fetch) -> None:
        """Always posts one `FetchEnded`. A cancelled fetch keeps what it has for the next."""
        lock = self._locks[fetch.shard_id]
        tally = self._tallies[fetch_id] = _Tally(fetch.sources)
        try:
            async with lock, self._slots:
                ended = await self._fetch(fetch_id, fetch, tally)
        finally:
            self._tallies.pop(fetch_id, None)
        if not lock.locked():
            self._locks.pop(fetch.shard_id, None)
        await self._post(ended)

    async def _fetch(self, fetch_id: int, fetch: Fetch, tally: _Tally) -> FetchEnded:
        shard = HeldShard(shard_id=fetch.shard_id, size_bytes=fetch.size_bytes, name=fetch.name)
        if await self._store.verified(fetch.shard_id) is not None:
            return tally.ended(fetch_id, shard)
        try:
            partial = await asyncio.to_thread(self._store.open_partial, fetch.shard_id, fetch.size_bytes)
        except StoreFullError as error:
            return tally.ended(fetch_id, shard, "disk_full", str(error))
        except OSError as error:
            return tally.ended(fetch_id, shard, "fetch", f"the shard store cannot be written: {error}")
        try:
            if partial.offset == partial.size_bytes and await self._finished(partial, fetch):
                return tally.ended(fetch_id, shard)  # A crash came between the last byte and the rename.
            for delay_s in (*self._retry_delays_s, None):
                if await self._try_sources(partial, fetch, tally):
                    return tally.ended(fetch_id, shard)
                left = [source for source in tally.sources if source.url not in tally.liars]
                if delay_s is None or not any(tally.errors[source.url].code in _TRANSIENT for source in left):
                    break
                await asyncio.sleep(delay_s)
        except StoreFullError as error:
            await asyncio.to_thread(partial.discard)
            return tally.ended(fetch_id, shard, "disk_full", str(error))
        except OSError as error:
            return tally.ended(fetch_id, shard, "fetch", f"the shard store cannot be written: {error}")
        finally:
            partial.close()
        detail = "; ".join(f"{url}: {error.detail}" for url, error in tally.errors.items()) or "no source is known"
        return tally.ended(fetch_id, shard, "hash" if tally.liars else "fetch", detail)

    async def _finished(self, partial: Partial, fetch: Fetch) -> bool:
        try:
            await asyncio.to_thread(partial.finish, fetch.name)
        except ShardDamagedError:
            return False
        return True

    async def _try_sources(self, partial: Partial, fetch: Fetch, tally: _Tally) -> bool:
        """Each source once, in order, from the start again when others are named meanwhile. True when the shard is in
        the store."""
        untried = list(tally.sources)
        while untried:
            source = untried.pop(0)
            if source.url in tally.liars:
                continue
            if tally.alone:
                await asyncio.to_thread(partial.restart)
                tally.contributors.clear()
            stream = await self._stream(partial, source, tally)
            if tally.redirected and partial.offset < partial.size_bytes:
                untried = list(tally.sources)
            tally.redirected = False
            tally.fetched_bytes += stream.n_bytes
            if stream.n_bytes or not partial.size_bytes:
                tally.contributors.add(source.url)
            if stream.sample is not None:
                tally.samples.append(stream.sample)
            if stream.error is not None:
                tally.errors[source.url] = stream.error
                _log.info("fetch_broken", shard_id=fetch.shard_id, url=source.url, detail=stream.error.detail)
                continue
            try:
                await asyncio.to_thread(partial.finish, fetch.name)
            except ShardDamagedError as error:
                self._blame(source, str(error), tally)
                continue
            return True
        return False

    def _blame(self, source: Source, detail: str, tally: _Tally) -> None:
        """The whole has the wrong hash: its only source lied; of several any may have, so each must answer alone."""
        _log.warning("fetch_damaged", url=source.url, detail=detail)
        tally.errors[source.url] = PeerError("hash", detail)
        if tally.contributors <= {source.url}:
            tally.liars.add(source.url)
        else:
            tally.errors[source.url] = PeerError("http", detail)  # worth another round
        tally.contributors.clear()
        tally.alone = True

    async def _stream(self, partial: Partial, source: Source, tally: _Tally) -> _Stream:
        """Bring what is missing from one source. Peers' faults are in the result."""
        meter = _Meter(self._client.clock_s)
        error: PeerError | None = None
        sharing = ALONE
        rtt_us: int | None = None
        try:
            async with self._client.connect(source.url, source.site) as exchange:
                at = partial.offset
                headers = (("Range", f"bytes={at}-"),) if at else ()
                answer = await exchange.get(_target(source.url, partial.shard_id), *headers)
                await self._begin(partial, answer)
                tally.exchange = exchange
                telling = asyncio.create_task(self._tell_progress(partial, source, exchange, meter))
                try:
                    await self._take_in(partial, exchange, meter)
                except PeerError:
                    sharing = exchange.known_sharing()
                    raise
                finally:
                    tally.exchange = None
                    telling.cancel()
                if meter.is_enough and source.agent_id:
                    sharing = await exchange.sharing()
                info = exchange.tcp_info()
                rtt_us = info.rtt_us_min if info else None
        except PeerError as found:
            error = found
        if error is None and partial.offset != partial.size_bytes:
            error = PeerError("length", f"sent {partial.offset} of {partial.size_bytes} bytes")
        return _Stream(n_bytes=meter.n_bytes, sample=meter.sample(source, self._agent_id, rtt_us, sharing), error=error)

    async def _tell_progress(self, partial: Partial, source: Source, exchange: Exchange, meter: "_Meter") -> None:
        """Now and then, how far it is and the rate since it was last told of; also when nothing comes any more."""
        while True:
            await asyncio.sleep(self._progress_s)
            sample = meter.lap(source, self._agent_id, exchange.known_sharing())
            fetch = FetchProgress(shard_id=partial.shard_id, from_agent=source.agent_id, done_bytes=partial.offset)
            await self._post(FetchesProgressed(fetches=(fetch,), samples=(sample,) if sample is not None else ()))

    async def _take_in(self, partial: Partial, exchange: Exchange, meter: "_Meter") -> None:
        """The body into the partial file; what came before a break stays. Raises `PeerError`."""
        pending = bytearray()
        try:
            async with aclosing(exchange.body()) as body:
                async for block in body:
                    meter.add(len(block))
                    if partial.offset + len(pending) + len(block) > partial.size_bytes:
                        raise PeerError("length", f"more than the promised {partial.size_bytes} bytes")
                    pending += block
                    if len(pending) >= WRITE_BYTES:
                        await asyncio.to_thread(partial.write, bytes(pending))
                        pending.clear()
        finally:
            partial.write(bytes(pending))  # Not in a thread: this may be a cancellation.

    async def _begin(self, partial: Partial, answer: Answer) -> None:
        """Check that the body that follows is what is missing. Raises `PeerError`."""
        if answer.status == 503:
            raise PeerError("busy", "the peer has too many connections")
        if answer.status == 200:
            first, whole = 0, answer.length
        elif answer.status == 206:
            span = parse_content_range(answer.headers.get("content-range", ""))
            if span is None:
                raise PeerError("range", "a 206 without a readable Content-Range")
            first, whole = span[0], span[2]
        else:
            raise PeerError("status", f"answered {answer.status}")
        if whole is not None and whole != partial.size_bytes:
            raise PeerError("length", f"has {whole} bytes, not {partial.size_bytes}")
        if first == 0 and partial.offset:
            await asyncio.to_thread(partial.restart)  # This source knows no ranges.
        elif first != partial.offset:
            raise PeerError("range", f"began at {first}, asked for {partial.offset}")


class _Meter:
    """Rate of a stream after its first bytes: connection, request and the peer's disk are not the link. In laps: each
    part of it is in one sample only."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._lap_s: float | None = None  # when this lap began, and how much had come then; None: nothing came yet
        self._lap_bytes = 0
        self._told_bytes = 0  # in samples of earlier laps
        self._last_s = 0.0
        self.n_bytes = 0

    def add(self, n_bytes: int) -> None:
        self._last_s = self._clock_s()
        self.n_bytes += n_bytes
        if self._lap_s is None:
            self._lap_s, self._lap_bytes = self._last_s, self.n_bytes

    @property
    def is_enough(self) -> bool:
        return self.n_bytes >= SAMPLE_BYTES_MIN

    def lap(self, source: Source, agent_id: str, sharing: Sharing) -> LinkSample | None:
        """Of the time since the last lap, silence included. None for the master's store, or before the first bytes."""
        now_s = self._clock_s()
        if self._lap_s is None or not source.agent_id or now_s <= self._lap_s:
            return None
        sample = self._sample(source, agent_id, None, sharing, now_s - self._lap_s)
        self._lap_s, self._lap_bytes, self._told_bytes = now_s, self.n_bytes, self.n_bytes
        return sample

    def sample(self, source: Source, agent_id: str, rtt_us: int | None, sharing: Sharing) -> LinkSample | None:
        """Of the last lap, when it ended. None for too little to tell, and for the master's store."""
        if self._lap_s is None or not source.agent_id or self._last_s <= self._lap_s:
            return None
        if self.n_bytes - self._told_bytes < SAMPLE_BYTES_MIN:
            return None
        return self._sample(source, agent_id, rtt_us, sharing, self._last_s - self._lap_s)

    def _sample(self, source: Source, agent_id: str, rtt_us: int | None, sharing: Sharing, took_s: float) -> LinkSample:
        duration_us = max(1, int(took_s * 1e6))
        return LinkSample(
            from_agent=source.agent_id, to_agent=agent_id, method="transfer", rtt_us=rtt_us,
            bandwidth_bps=(self.n_bytes - self._lap_bytes) * 8_000_000 // duration_us,
            bytes=self.n_bytes - self._told_bytes, duration_us=duration_us, shared_milli=sharing.same_milli,
            is_lower_bound=sharing.is_lower_bound or is_brief(self.n_bytes, duration_us),
        )  # fmt: skip


def _target(url: str, shard_id: str) -> str:
    """Path of the shard: `url` is a data plane's address, or already the shard's own."""
    path = urlsplit(url).path.rstrip("/")
    return path if path.endswith(f"/shards/{shard_id}") else f"{path}/shards/{shard_id}"
