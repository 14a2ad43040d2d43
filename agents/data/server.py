"""What an agent serves to its peers: shards (Range), logs, a bandwidth probe and an echo.

    GET|HEAD /shards/{sha256}             200, 206, 404, 416
    GET      /probe?bytes=N               N incompressible bytes, under the same rate cap as shards; 503 while streams
                                          to other sites run, which it would measure instead of the link; 429 where the
                                          allowance of a line that is paid by the byte is used up
    GET      /train?packets=N             204; its header names a UDP port and a nonce, which sent there brings a train;
                                          503 as above, but for streams that something else than the way holds up
    GET      /echo                        204, for round trips
    GET      /sharing                     204; its headers tell what the newest body on this connection had beside it,
                                          and how long something else than the way held it up
    GET      /logs/{task_id}/{attempt}    captured output, text/plain

Everything is bounded: connections, request heads and bodies, the time of each step. Beyond loopback a bearer token is
required, and enforced for every path.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from agents.data.http import (
    AGENT_HEADER,
    LIMITED_HEADER,
    OTHERS_HEADER,
    SITE_HEADER,
    TRAIN_HEADER,
    Wire,
    headers_of,
    parse_range,
)
from agents.data.rate import RateCap, Uplink
from agents.data.traffic import Traffic
from agents.data.trains import TrainSender
from agents.events import FetchesProgressed, ProbeServed
from agents.logs import get_logger
from agents.ports import Post
from agents.probes.delivery import Delivery
from agents.probes.train import PACKET_BYTES, PACKETS_MAX
from federation.errors import ConfigError, PeerError
from federation.wire import LinkSample, is_agent_id
from policies.model import Record

_log = get_logger("agents.data")
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
_SHA256 = re.compile(r"[0-9a-f]{64}")

Verified = Callable[[str], Awaitable[Path | None]]  # a held shard's path, its bytes known to be right
ReadLog = Callable[[str, int], bytes | None]
ECHO_BYTES = 600  # both ways, with its part of the connection
PROBE_RETRY_S = 1  # A probe of the slowest link worth one has passed by then.


class _Asker(Record, frozen=True, kw_only=True):
    """Who a body goes to."""

    name: str
    is_local: bool
    cap: RateCap | None


class ServerLimits(Record, frozen=True, kw_only=True):
    connections_max: int = 128  # An agent has a few peers at a time; each connection costs ~30 KiB.
    head_timeout_s: float = 10  # A request head fits in one packet.
    idle_timeout_s: float = 60  # A prober keeps its connection over a round of echoes.
    stall_timeout_s: float = 30  # A peer that takes nothing for so long has gone.
    body_bytes_max: int = 64 * 1024  # No request of ours has a body; what comes is read and thrown away.
    probe_bytes_max: int = 64 * 2**20
    block_bytes: int = 256 * 1024  # read from disk at once, in a thread


class DataServer:
    """One listening socket. `token` "" asks for none, which only loopback may. Raises `ConfigError` otherwise."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        verified: Verified,
        read_log: ReadLog,
        uplink: Uplink,
        token: str = "",
        url: str = "",
        limits: ServerLimits | None = None,
        agent_id: str = "",
        post: Post | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`post` is told at what rate the kernel saw shards delivered: the other end's word is held against it."""
        if not token and not is_loopback(host):
            raise ConfigError(
                f"data_host {host} is reachable from other machines: set token_file, or use 127.0.0.1 for this one only"
            )
        if not url and host in _EVERYWHERE:
            raise ConfigError(f"data_host {host} is no address to reach: set data_url to what peers are to use")
        self._host = host
        self._port = port
        self._url = url
        self._token = token.encode()
        self._verified = verified
        self._read_log = read_log
        self._uplink = uplink
        self._limits = limits or ServerLimits()
        self._agent_id = agent_id
        self._post = post
        self._clock_s = clock_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.traffic = Traffic()
        self._crossing: set[Wire] = set()  # on which shards go out to other sites
        self._trains = TrainSender(lambda asker: self.traffic.stream(asker, is_local=False), self._tell_spent)
        self._probe_bytes_left: int | None = None  # on a line that is paid by the byte; None: on any other
        self.counters: dict[str, int] = {}  # answers by status, and "garbage", "dropped"

    def allow_probes(self, n_bytes: int) -> None:
        """From now on so many bytes may go out for peers' probes; each is told of as `ProbeServed`."""
        self._probe_bytes_left = n_bytes

    async def start(self) -> str:
        """Bind; returns the URL for peers. Raises `ConfigError` when the address is taken or not ours."""
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}; choose another data_port"
            ) from None
        port = self._server.sockets[0].getsockname()[1]
        self._trains.start(self._host, port)
        host = f"[{self._host}]" if ":" in self._host else self._host
        return self._url or f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close the socket and every connection."""
        self._trains.stop()
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # --- one connection ----------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, client=False)
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > self._limits.connections_max:
                await self._turn_away(wire)
                return
            timeout_s = self._limits.head_timeout_s
            while await self._answer_one(wire, timeout_s):
                timeout_s = self._limits.idle_timeout_s
            await self._tell_delivered(wire, "")
        except (OSError, TimeoutError, asyncio.CancelledError):  # Nobody but `stop` cancels a connection.
            self._count("dropped")
        except PeerError as error:
            self._count("garbage")
            with contextlib.suppress(OSError, TimeoutError):
                await self._refuse(wire, 400, error.detail)
        finally:
            self._connections.discard(task)
            await wire.close()

    async def _turn_away(self, wire: Wire) -> None:
        """A 503 after the request is read (closing before would reset the connection); under a flood, not even that."""
        self._count("turned_away")
        if len(self._connections) <= 2 * self._limits.connections_max:
            async with asyncio.timeout(self._limits.head_timeout_s):
                await wire.next_event()
            await self._refuse(wire, 503, "too many connections")

    async def _answer_one(self, wire: Wire, timeout_s: float) -> bool:
        """Read a request and answer it. False when the connection is over."""
        async with asyncio.timeout(timeout_s):
            event = await wire.next_event()
            if not isinstance(event, h11.Request):
                return False  # The peer has closed.
            body_bytes = 0
            while not isinstance(part := await wire.next_event(), h11.EndOfMessage):
                assert isinstance(part, h11.Data)
                body_bytes += len(part.data)
                if body_bytes > self._limits.body_bytes_max:
                    await self._refuse(wire, 413, "no body is expected")
                    return False
        await self._route(wire, event)
        if wire.connection.our_state is not h11.DONE or wire.connection.their_state is not h11.DONE:
            return False
        wire.connection.start_next_cycle()
        return True

    async def _route(self, wire: Wire, request: h11.Request) -> None:
        headers = headers_of(request)
        # Who asks again on this connection has all that was sent before.
        limited_milli = await self._tell_delivered(wire, headers.get(AGENT_HEADER, ""))
        method = request.method.decode()
        wire.head_only = method == "HEAD"
        if self._token and not hmac.compare_digest(headers.get("authorization", "").encode(), b"Bearer " + self._token):
            await self._refuse(wire, 401, "a bearer token is required", ("WWW-Authenticate", "Bearer"))
            return
        if method not in ("GET", "HEAD"):
            await self._refuse(wire, 405, f"{method[:16]} is not served here", ("Allow", "GET, HEAD"))
            return
        target = urlsplit(request.target.decode("latin-1"))
        site = headers.get(SITE_HEADER, "")
        asker = _Asker(
            name=headers.get(AGENT_HEADER) or _host_of(wire), is_local=site == self._uplink.site,
            cap=self._uplink.cap_to(site),
        )  # fmt: skip
        match target.path.split("/")[1:]:
            case ["shards", shard_id] if _SHA256.fullmatch(shard_id):
                await self._send_shard(wire, shard_id, headers.get("range"), asker)
            case ["probe"]:
                await self._send_probe(wire, target.query, asker)
            case ["train"]:
                await self._promise_train(wire, target.query, asker)
            case ["echo"]:
                await self._ration(ECHO_BYTES, asker)
                await self._send_head(wire, 204, ())
                await self._send_events(wire, h11.EndOfMessage())
            case ["sharing"]:
                others_milli = self.traffic.sharing(wire.span).others_milli if wire.span else 0
                told = ((OTHERS_HEADER, str(others_milli)), (LIMITED_HEADER, str(limited_milli)))
                await self._send_head(wire, 204, told)
                await self._send_events(wire, h11.EndOfMessage())
            case ["logs", *task_parts, attempt] if task_parts and attempt.isascii() and attempt.isdigit():
                await self._send_log(wire, unquote("/".join(task_parts)), int(attempt[:9]), asker)
            case _:
                await self._refuse(wire, 404, "no such path")

    # --- answers -----------------------------------------------------------------------------------------------------

    async def _send_shard(self, wire: Wire, shard_id: str, range_text: str | None, asker: _Asker) -> None:
        path = await self._verified(shard_id)
        if path is None:
            await self._refuse(wire, 404, "this shard is not here")
            return
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(file).st_size
            first, end, status = 0, size_bytes, 200
            n_others = self.traffic.n_others(asker.name, is_local=asker.is_local)
            headers = [
                ("Accept-Ranges", "bytes"),
                ("Content-Type", "application/octet-stream"),
                (OTHERS_HEADER, str(1000 * n_others)),
            ]
            try:
                span = parse_range(range_text, size_bytes) if range_text else None
            except PeerError as error:
                await self._refuse(wire, 416, error.detail, ("Content-Range", f"bytes */{size_bytes}"))
                return
            if span is not None:
                (first, end), status = span, 206
                headers.append(("Content-Range", f"bytes {first}-{end - 1}/{size_bytes}"))
            await self._send_head(wire, status, (*headers, ("Content-Length", str(end - first))))
            if asker.cap is None:  # The rate of an emulated line is known better to who emulates it.
                wire.delivery = Delivery(wire.tcp_info(), self._clock_s())
            if not asker.is_local:
                self._crossing.add(wire)
            await self._send_body(wire, self._file_blocks(file, first, end), asker)
            await self._send_events(wire, h11.EndOfMessage())
        finally:
            self._crossing.discard(wire)
            os.close(file)

    async def _tell_delivered(self, wire: Wire, to_agent: str) -> int:
        """All of the newest shard has arrived, or never will: tell of its rate, once. For how much of its time
        something else than the way held it up, in thousandths."""
        delivery, wire.delivery = wire.delivery, None
        rate = delivery.end(wire.tcp_info()) if delivery is not None else None
        if rate is None:
            return 0
        if self._post is not None and is_agent_id(to_agent):
            sample = LinkSample(
                from_agent=self._agent_id, to_agent=to_agent, method="transfer", rtt_us=rate.rtt_us,
                loss_ppm=rate.loss_ppm, bandwidth_bps=rate.bandwidth_bps, bytes=rate.n_bytes,
                duration_us=rate.duration_us, is_lower_bound=rate.is_lower_bound,
            )  # fmt: skip
            await self._post(FetchesProgressed(fetches=(), samples=(sample,)))
        return rate.limited_milli

    async def _file_blocks(self, file: int, first: int, end: int) -> AsyncIterator[bytes]:
        while first < end:
            block = await asyncio.to_thread(os.pread, file, min(self._limits.block_bytes, end - first), first)
            if not block:
                raise OSError("the shard's file was cut while it was sent")
            first += len(block)
            yield block

    async def _send_probe(self, wire: Wire, query: str, asker: _Asker) -> None:
        text = parse_qs(query).get("bytes", [""])[0]
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= self._limits.probe_bytes_max):
            await self._refuse(wire, 400, f"bytes must be 0 to {self._limits.probe_bytes_max}")
            return
        if not asker.is_local and self.traffic.n_crossing():
            await self._refuse(wire, 503, "the way out is in use", ("Retry-After", str(PROBE_RETRY_S)))
            return
        if not await self._ration(int(text), asker):
            await self._refuse(wire, 429, "this line's allowance for probes is used up")
            return
        begun_s = time.process_time()
        await self._send_head(wire, 200, (("Content-Type", "application/octet-stream"), ("Content-Length", text)))
        await self._send_body(wire, _noise(int(text)), asker)
        await self._send_events(wire, h11.EndOfMessage())
        await self._tell_spent(time.process_time() - begun_s)

    async def _tell_spent(self, cpu_s: float) -> None:
        """What a peer's probe has taken of this machine's processor."""
        if self._post is not None:
            await self._post(ProbeServed(n_bytes=0, cpu_us=int(cpu_s * 1e6)))

    async def _promise_train(self, wire: Wire, query: str, asker: _Asker) -> None:
        text = parse_qs(query).get("packets", [""])[0]
        if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= PACKETS_MAX):
            await self._refuse(wire, 400, f"packets must be 0 to {PACKETS_MAX}")
            return
        if not asker.is_local and self.traffic.n_crossing() > self._n_held():
            await self._refuse(wire, 503, "the way out is in use", ("Retry-After", str(PROBE_RETRY_S)))
            return
        if not await self._ration(int(text) * PACKET_BYTES, asker):
            await self._refuse(wire, 429, "this line's allowance for probes is used up")
            return
        # An emulated line exists for TCP only: a train would pass beside it.
        promised = self._trains.promise(_host_of(wire), asker.name, int(text)) if asker.cap is None else None
        if promised is None:
            await self._refuse(wire, 404, "no trains from here")
            return
        port, nonce = promised
        await self._send_head(wire, 204, ((TRAIN_HEADER, f"{port} {nonce}"),))
        await self._send_events(wire, h11.EndOfMessage())

    def _n_held(self) -> int:
        """Shards going out to other sites that leave room on the way: their receivers or our own disk are slower."""
        now_s = self._clock_s()
        for wire in self._crossing:
            if wire.delivery is not None:
                wire.delivery.look(wire.tcp_info(), now_s)
        return sum(wire.delivery is not None and wire.delivery.is_held() for wire in self._crossing)

    async def _ration(self, n_bytes: int, asker: _Asker) -> bool:
        """Whether so much may go out to be measured with, told of where it may. Echoes are answered all the same: they
        cost less than what came before them."""
        if self._probe_bytes_left is None or asker.is_local:
            return True
        if n_bytes > max(self._probe_bytes_left, ECHO_BYTES):
            return False
        self._probe_bytes_left -= n_bytes
        if self._post is not None:
            await self._post(ProbeServed(n_bytes=n_bytes))
        return True

    async def _send_log(self, wire: Wire, task_id: str, attempt: int, asker: _Asker) -> None:
        text = await asyncio.to_thread(self._read_log, task_id, attempt)
        if text is None:
            await self._refuse(wire, 404, "no log of this attempt is here")
            return
        headers = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))))
        await self._send_head(wire, 200, headers)
        await self._send_body(wire, _once(text), asker)
        await self._send_events(wire, h11.EndOfMessage())

    async def _send_body(self, wire: Wire, blocks: AsyncIterator[bytes], asker: _Asker) -> None:
        if wire.head_only:
            return
        cap = asker.cap
        chunk_bytes = cap.chunk_bytes if cap else self._limits.block_bytes
        async with contextlib.AsyncExitStack() as stack:
            wire.span = stack.enter_context(self.traffic.stream(asker.name, is_local=asker.is_local))
            if cap is not None:
                await stack.enter_async_context(cap.stream())
            async for block in blocks:
                view = memoryview(block)
                for at in range(0, len(view), chunk_bytes):
                    chunk = view[at : at + chunk_bytes]
                    if cap is not None:
                        await cap.take(len(chunk))
                    await self._send_events(wire, h11.Data(data=chunk))  # type: ignore[arg-type]  # any buffer
                    if wire.delivery is not None and wire.delivery.is_due(self._clock_s()):
                        wire.delivery.look(wire.tcp_info(), self._clock_s())

    async def _send_head(self, wire: Wire, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._count(str(status))
        await self._send_events(wire, h11.Response(status_code=status, headers=list(headers)))

    async def _send_events(self, wire: Wire, *events: h11.Event) -> None:
        async with asyncio.timeout(self._limits.stall_timeout_s):
            await wire.send(*events)

    async def _refuse(self, wire: Wire, status: int, detail: str, *headers: tuple[str, str]) -> None:
        """A short answer in words. Where the request broke HTTP itself, the connection closes after it."""
        if wire.connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = detail.encode(errors="replace")[:500]
        fixed = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))))
        await self._send_head(wire, status, (*fixed, *headers))
        if not wire.head_only:
            await self._send_events(wire, h11.Data(data=text))
        await self._send_events(wire, h11.EndOfMessage())

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_of(wire: Wire) -> str:
    address = wire.writer.get_extra_info("peername")
    return str(address[0]) if address else ""


async def _noise(n_bytes: int) -> AsyncIterator[bytes]:
    """Bytes that no link can compress, fresh each time."""
    while n_bytes > 0:
        block = os.urandom(min(n_bytes, 64 * 1024))
        n_bytes -= len(block)
        yield block


async def _once(text: bytes) -> AsyncIterator[bytes]:
    yield text
