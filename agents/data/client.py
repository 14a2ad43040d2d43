"""GET over HTTP/1.1 from peers and the master's store: one bounded request a call, or several on a kept connection."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import h11

from agents.data.http import AGENT_HEADER, LIMITED_HEADER, OTHERS_HEADER, READ_BYTES, SITE_HEADER, Wire, headers_of
from agents.data.rate import RateCap, Uplink
from agents.data.traffic import Sharing, Span, Traffic
from agents.probes.tcp_info import TcpInfo
from federation.errors import PeerError
from policies.model import Record


class ClientLimits(Record, frozen=True, kw_only=True):
    connect_timeout_s: float = 10  # Three lost SYNs (1 + 2 + 4 s) and a round trip.
    answer_timeout_s: float = 30  # The peer may hash a suspicious file first.
    stall_timeout_s: float = 30  # The slowest link worth waiting for sends something in half a minute.


class Answer(Record, frozen=True, kw_only=True):
    status: int
    headers: dict[str, str]
    length: int | None  # of the body, where the peer said so


class Client:
    """How this agent asks: with its token, site and name, under its uplink's cap. `traffic` is what it draws."""

    def __init__(
        self,
        *,
        uplink: Uplink,
        agent_id: str = "",
        token: str = "",
        ca_file: str = "",
        limits: ClientLimits | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uplink = uplink
        self.clock_s = clock_s
        self.traffic = Traffic(clock_s)
        self._headers = [("User-Agent", "offerflow"), (SITE_HEADER, uplink.site), (AGENT_HEADER, agent_id)]
        if token:
            self._headers.append(("Authorization", f"Bearer {token}"))
        self._ca_file = ca_file
        self._limits = limits or ClientLimits()

    @contextlib.asynccontextmanager
    async def connect(self, url: str, site: str) -> AsyncIterator["Exchange"]:
        """A connection to `url`'s host, at `site` ("" where unknown: capped). Raises `PeerError("url" | "connect")`."""
        parts = urlsplit(url)
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (KeyError, ValueError):
            raise PeerError("url", f"not an http:// or https:// address: {url[:200]!r}") from None
        context = ssl.create_default_context(cafile=self._ca_file or None) if parts.scheme == "https" else None
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context, limit=READ_BYTES)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise PeerError("connect", f"{parts.netloc[:200]}: {_words(error)}") from None
        wire = Wire(reader, writer, client=True)
        try:
            yield Exchange(
                wire, [("Host", parts.netloc), *self._headers], self._limits, cap=self.uplink.cap_from(site),
                traffic=self.traffic, peer=parts.netloc, is_local=site == self.uplink.site,
            )  # fmt: skip
        finally:
            await wire.close()


class Exchange:
    """Requests on one connection, one after the other: `get`, then `body` to its end, then the next `get`."""

    def __init__(
        self,
        wire: Wire,
        headers: list[tuple[str, str]],
        limits: ClientLimits,
        *,
        cap: RateCap | None,
        traffic: Traffic,
        peer: str,
        is_local: bool,
    ) -> None:
        self._wire = wire
        self._headers = headers
        self._limits = limits
        self._cap = cap
        self._read_bytes = cap.chunk_bytes if cap else READ_BYTES
        self._traffic = traffic
        self._peer = peer
        self._is_local = is_local
        self._span: Span | None = None  # of the newest body
        self._others_at_start = 0  # at the sender

    async def get(self, target: str, *headers: tuple[str, str]) -> Answer:
        """Send a GET, return the head of its answer. Raises `PeerError("broken" | "timeout" | "http")`."""
        if self._wire.connection.our_state is h11.DONE:
            self._wire.connection.start_next_cycle()
        request = h11.Request(method="GET", target=target, headers=[*self._headers, *headers])
        with _named():
            async with asyncio.timeout(self._limits.answer_timeout_s):
                await self._wire.send(request, h11.EndOfMessage())
                event = await self._wire.next_event(self._read_bytes)
                while isinstance(event, h11.InformationalResponse):
                    event = await self._wire.next_event(self._read_bytes)
        if not isinstance(event, h11.Response):
            raise PeerError("broken", "the connection closed before an answer")
        found = headers_of(event)
        self._others_at_start = _count(found.get(OTHERS_HEADER, ""))
        length = found.get("content-length", "")
        return Answer(
            status=event.status_code,
            headers=found,
            length=int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None,
        )

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The answer's body as it arrives, no faster than the cap. Raises as `get`; a body shorter than its declared
        length is `PeerError("http")`."""
        async with contextlib.AsyncExitStack() as stack:
            self._span = stack.enter_context(self._traffic.stream(self._peer, is_local=self._is_local))
            if self._cap is not None:
                await stack.enter_async_context(self._cap.stream())
            while True:
                with _named():
                    async with asyncio.timeout(self._limits.stall_timeout_s):
                        event = await self._wire.next_event(self._read_bytes)
                if not isinstance(event, h11.Data):
                    return
                if self._cap is not None:
                    await self._cap.take(len(event.data))
                yield bytes(event.data)

    def abort(self) -> None:
        """Close the connection under whoever reads from it: they get `PeerError("broken")`."""
        self._wire.writer.transport.abort()

    @property
    def is_capped(self) -> bool:
        """Its rate is that of an emulated line."""
        return self._cap is not None

    def known_sharing(self) -> Sharing:
        """What the newest body shared the way with: at our end, and at the peer's as it said when the body began."""
        assert self._span is not None, "asked before any body"
        sharing = self._traffic.sharing(self._span)
        others_milli = max(sharing.others_milli, self._others_at_start)
        return Sharing(same_milli=sharing.same_milli, others_milli=others_milli)

    async def sharing(self) -> Sharing:
        """The same over the whole time, and what else held it up: asks the peer, unless our own end settles it. Peers
        that say nothing are taken to have sent to us alone, as fast as the way let them."""
        assert self._span is not None, "asked before any body"
        sharing = self._traffic.sharing(self._span)
        if sharing.is_competed:
            return sharing
        known = self.known_sharing()
        try:
            answer = await self.get("/sharing")
            told = answer.headers if answer.status == 204 else {}
            others_milli = _count(told.get(OTHERS_HEADER, ""))
            # An emulated line at our end holds the sender up as the way would.
            limited_milli = 0 if self.is_capped else _count(told.get(LIMITED_HEADER, ""))
            async for _ in self.body():
                pass
        except (PeerError, h11.LocalProtocolError):  # It broke, or the body was not read to its end.
            return known
        others_milli = max(sharing.others_milli, others_milli)
        return Sharing(same_milli=sharing.same_milli, others_milli=others_milli, limited_milli=limited_milli)

    def tcp_info(self) -> TcpInfo | None:
        """What the kernel knows of this connection's path."""
        return self._wire.tcp_info()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Broken and silent connections as `PeerError`."""
    try:
        yield
    except TimeoutError:
        raise PeerError("timeout", "the peer has sent nothing for too long") from None
    except OSError as error:
        raise PeerError("broken", _words(error)) from None


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
