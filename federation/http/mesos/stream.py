"""The streams of frameworks on HTTP: written as RecordIO, ended with a pause after an error, opened with a throttle."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog
from aiohttp import web

from federation.http.mesos.amounts import Dialect
from federation.http.mesos.events import encode_event
from federation.http.mesos.recordio import frame
from federation.http.problems import refuse
from federation.http.settings import HttpConfig
from federation.streams import FrameworkStream, FrameworkStreams

# A client that has left an idle stream is noticed after this long: its failover timeout runs from then.
_LOOK_EVERY_S: Final = 0.5
_WAIT_S_MAX: Final = 60.0
_KEYS_MAX: Final = 10_000
# New frameworks have no id to tell one that comes back from many that start at once.
_UNNAMED_BURSTS: Final = 20
log = structlog.get_logger("offerflow.frameworks")


class Open:
    """A stream with the request it answers."""

    def __init__(self, request: web.Request, stream: FrameworkStream, dialect: Dialect) -> None:
        self.request = request
        self.stream = stream
        self.dialect = dialect

    def has_client(self) -> bool:
        transport = self.request.transport
        return transport is not None and not transport.is_closing()


class Schedulers:
    """The open streams of one application, and who subscribes how often."""

    def __init__(self, streams: FrameworkStreams, config: HttpConfig) -> None:
        self.streams = streams
        self._config = config
        self._open: dict[str, Open] = {}
        self._turns: OrderedDict[tuple[str, ...], float] = OrderedDict()  # key → when its burst is whole again
        self._closing = asyncio.Event()

    def speak(self, stream_id: str, dialect: Dialect) -> None:
        """The framework of a stream has changed its capabilities."""
        if stream_id in self._open:
            self._open[stream_id].dialect = dialect

    def close(self) -> None:
        self._closing.set()
        for opened in self._open.values():
            opened.stream.finish("stopping")

    async def watch(self) -> None:
        """Note which clients have left; writing alone would tell with the next heartbeat."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for opened in list(self._open.values()):
                if not opened.has_client():
                    opened.stream.finish("left")
                elif opened.stream.end == "overrun" and opened.request.transport is not None:
                    opened.request.transport.abort()  # It may be stuck in a write.

    async def turn(self, key: tuple[str, ...], *, named: bool) -> None:
        """Wait for the turn of who subscribes again and again. Raises `ProblemError` (503) where the queue is long."""
        every_s = self._config.subscribe_every_us / 1e6
        burst = self._config.subscribe_burst * (1 if named else _UNNAMED_BURSTS)
        now = asyncio.get_running_loop().time()
        whole_at = max(self._turns.pop(key, now), now)
        wait_s = whole_at + every_s - burst * every_s - now
        if wait_s > _WAIT_S_MAX:
            self._turns[key] = whole_at
            raise refuse("too_many_streams", "this framework subscribes too often", {"Retry-After": str(int(wait_s))})
        self._turns[key] = whole_at + every_s
        if len(self._turns) > _KEYS_MAX:
            self._turns.popitem(last=False)
        if wait_s > 0:
            await self._pause(wait_s)

    async def pump(self, opened: Open, response: web.StreamResponse, master: dict[str, Any]) -> None:
        """Write events until the stream ends, the client leaves or it stalls."""
        stream = opened.stream
        self._open[stream.stream_id] = opened
        try:
            end = await self._write(opened, response, master)
            if end == "closed":
                await self._pause(self._config.error_pause_us / 1e6)
            elif end in ("overrun", "left") and opened.request.transport is not None:
                opened.request.transport.abort()
            log.info("framework stream ended", framework_id=stream.framework_id, reason=end)
        finally:
            del self._open[stream.stream_id]

    async def _write(self, opened: Open, response: web.StreamResponse, master: dict[str, Any]) -> str:
        while True:
            taken = await opened.stream.take()
            records = b"".join(frame(encode_event(event, opened.dialect, master)) for event in taken.events)
            if records:
                try:
                    async with asyncio.timeout(self._config.stall_us / 1e6):
                        await response.write(records)
                except TimeoutError:
                    opened.stream.finish("overrun")
                    return "overrun"
                except ConnectionError:
                    return "left"
            if taken.end is not None:
                return taken.end

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass


SCHEDULERS: Final = web.AppKey("schedulers", Schedulers)


async def watch_clients(app: web.Application) -> AsyncIterator[None]:
    watching = asyncio.create_task(app[SCHEDULERS].watch(), name="framework-clients")
    yield
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
