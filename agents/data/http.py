"""HTTP/1.1 on an asyncio stream through h11: what server and client share."""

import asyncio
import re

import h11

from agents.data.traffic import Span
from agents.probes.delivery import Delivery
from agents.probes.tcp_info import TcpInfo, read_tcp_info
from federation.errors import PeerError

READ_BYTES = 64 * 1024
HEAD_BYTES_MAX = 16 * 1024  # Request or status line with all headers: ours are below 1 KiB.
SITE_HEADER = "x-offerflow-site"  # The asker's site: traffic within a site is not capped.
AGENT_HEADER = "x-offerflow-agent"  # The asker: its streams are told from those of others.
TRAIN_HEADER = "x-offerflow-train"  # UDP port and nonce of a promised packet train.
LIMITED_HEADER = "x-offerflow-limited-milli"  # Of a body's time, held up by something else than the way.
OTHERS_HEADER = "x-offerflow-others-milli"  # Streams to others beside one, in thousandths of a stream.
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Wire:
    """A connection in one role; the caller bounds the time of each call. Raises `PeerError("http")` for bytes that are
    no HTTP/1.1, `PeerError("broken")` for an end in the middle, `OSError` for a connection that broke."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.connection = h11.Connection(h11.CLIENT if client else h11.SERVER, HEAD_BYTES_MAX)
        self._ended = False  # The peer has closed its side.
        self.head_only = False  # The request now answered is a HEAD.
        self.span: Span | None = None  # the newest body sent over this connection
        self.delivery: Delivery | None = None  # the same, where its rate is looked at, until all of it has arrived

    async def next_event(self, read_bytes: int = READ_BYTES) -> "h11.Event | type[h11.PAUSED]":
        """The next h11 event, reading at most `read_bytes` at a time."""
        while True:
            try:
                event = self.connection.next_event()
                if event is not h11.NEED_DATA:
                    assert not isinstance(event, type) or event is h11.PAUSED
                    return event
                data = await self.reader.read(read_bytes)
                self._ended = not data
                self.connection.receive_data(data)
            except h11.RemoteProtocolError as error:
                if self._ended:
                    raise PeerError("broken", "the peer closed the connection midway") from None
                raise PeerError("http", str(error)) from None

    async def send(self, *events: h11.Event) -> None:
        """Send, and wait while the peer is slower than the buffers."""
        for event in events:
            data = self.connection.send(event)
            if data:
                self.writer.write(data)
        await self.writer.drain()

    def tcp_info(self) -> TcpInfo | None:
        """What the kernel knows of this connection's path."""
        connection = self.writer.get_extra_info("socket")
        return read_tcp_info(connection) if connection is not None else None

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(1):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()


def headers_of(event: h11.Request | h11.Response | h11.InformationalResponse) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}


def parse_range(text: str, size_bytes: int) -> tuple[int, int] | None:
    """`Range` of one span as (first, end exclusive); None where it must be answered with the whole (RFC 9110 §14.2).

    Raises `PeerError("range")` where nothing of it can be satisfied."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or len(text) > 64:
        return None  # Other units, several spans, suffixes: the whole is a legal answer.
    first = int(found[1])
    end = min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
    if found[2] and int(found[2]) < first:
        return None
    if first >= size_bytes:
        raise PeerError("range", f"begins at {first} of {size_bytes} bytes")
    return first, end


def parse_content_range(text: str) -> tuple[int, int, int] | None:
    """`Content-Range` as (first, end exclusive, size of the whole)."""
    found = _CONTENT_RANGE.fullmatch(text.strip()) if len(text) <= 128 else None
    return (int(found[1]), int(found[2]) + 1, int(found[3])) if found else None
