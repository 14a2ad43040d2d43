"""`/events`: the journal's facts as Server-Sent Events, resumable by their number, bounded for slow clients.

Facts reach a client through a queue of `events_queued_max`. A client that takes nothing for `stall_us` is dropped; it
loses nothing, as it resumes with `Last-Event-ID`.
"""

import asyncio
import contextlib
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from federation.errors import StorageError
from federation.facts import Fact
from federation.http.bodies import EventQuery, Nothing
from federation.http.problems import refuse
from federation.http.route import Call
from federation.http.settings import HttpConfig

RETRY_MS = 2000  # what a client waits before it reconnects
log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()


class Streams:
    """The open streams of one application, so that they can be counted, bounded and ended."""

    def __init__(self) -> None:
        self.n_open = 0
        self.n_dropped = 0  # clients too slow, ever
        self._closing = asyncio.Event()

    def close(self) -> None:
        self._closing.set()

    async def until_closed(self) -> None:
        await self._closing.wait()


STREAMS: Final = web.AppKey("streams", Streams)


async def events(call: Call[EventQuery, Nothing]) -> web.StreamResponse:
    """Facts as they become durable, as Server-Sent Events."""
    streams, config = call.request.app[STREAMS], call.config
    after_seq = _resume_point(call)
    if streams.n_open >= config.event_streams_max:
        raise refuse("too_many_streams", f"{streams.n_open} are open; try again later", {"Retry-After": "5"})
    streams.n_open += 1
    try:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(call.request)
        await _pump(call, response, after_seq)
    finally:
        streams.n_open -= 1
    return response


def _resume_point(call: Call[EventQuery, Nothing]) -> int | None:
    """After which fact to begin; the header, which browsers send on reconnecting, beats the query. None: from now."""
    text = call.request.headers.get("Last-Event-ID")
    if text is None or text == "":
        return call.query.after
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= 2**53):
        raise refuse("invalid", f"Last-Event-ID {text[:80]!r} is not the id of an event")
    return int(text)


async def _pump(call: Call[EventQuery, Nothing], response: web.StreamResponse, after_seq: int | None) -> None:
    """Copy facts from the subscription to the client until either ends, the client stalls or the server closes."""
    queue: asyncio.Queue[tuple[int, Fact] | None] = asyncio.Queue(call.config.events_queued_max)
    streams = call.request.app[STREAMS]

    async def feed() -> None:
        with contextlib.suppress(StorageError):
            async with contextlib.aclosing(call.live.subscribe(after_seq)) as facts:
                async for item in facts:
                    await queue.put(item)
        await queue.put(None)

    feeding = asyncio.create_task(feed(), name="events-feed")
    writing = asyncio.create_task(_write(queue, response, call.config, after_seq), name="events-write")
    closing = asyncio.create_task(streams.until_closed(), name="events-close")
    try:
        await asyncio.wait((feeding, writing, closing), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            if (error := feeding.exception()) is None:  # The rest of the queue is still to be written.
                await asyncio.wait((writing, closing), return_when=asyncio.FIRST_COMPLETED)
            else:
                log.error("event stream failed", exc_info=error)
        if writing.done() and not writing.result():
            streams.n_dropped += 1
            transport = call.request.transport
            if transport is not None:
                transport.abort()
    finally:
        for task in (feeding, writing, closing):
            task.cancel()
        await asyncio.gather(feeding, writing, closing, return_exceptions=True)


async def _write(
    queue: asyncio.Queue[tuple[int, Fact] | None], response: web.StreamResponse, config: HttpConfig, seq: int | None
) -> bool:
    """Write until the queue ends or the client leaves (True), or stalls (False)."""
    chunk = f"retry: {RETRY_MS}\n\n".encode()
    try:
        while True:
            async with asyncio.timeout(config.stall_us / 1e6):
                await response.write(chunk)
            try:
                async with asyncio.timeout(config.heartbeat_us / 1e6):
                    item = await queue.get()
            except TimeoutError:
                chunk = b": heartbeat\n\n"
                continue
            if item is None:
                return True
            chunk = _frame(item, seq)
            seq = item[0]
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _frame(item: tuple[int, Fact], seq_before: int | None) -> bytes:
    """One event; before it a `gap` where the journal has already dropped what the client asked for."""
    seq, fact = item
    gap = b""
    if seq_before is not None and seq > seq_before + 1:
        gap = b'event: gap\ndata: {"after": %d, "next": %d}\n\n' % (seq_before, seq)
    tag: Any = type(fact).__struct_config__.tag
    return gap + b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, str(tag).encode(), _encoder.encode(fact))
