"""The scheduler endpoint over real sockets with a desk behind it that takes calls and says what a test wants said.

The market has its own tests, and the live ones run both together; here it is about bytes.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from federation.api import Answer, Problem
from federation.commands import Emit
from federation.events import FrameworkCalled
from federation.http.app import serve
from federation.http.mesos.recordio import Unframer
from federation.http.settings import HttpConfig
from federation.market.protocol import Call, CallTaken, Heartbeat, StreamEvent, Subscribe, Subscribed
from federation.streams import FrameworkStreams

FRAMEWORK = "offerflow-1-0001"
Decide = Callable[[FrameworkCalled], Answer]


class Desk:
    """Takes every call of its one framework, or answers as `decide` says."""

    def __init__(self, events_max: int = 64) -> None:
        self.called: list[FrameworkCalled] = []
        self.gone: list[tuple[str, str]] = []
        self.gone_grown = asyncio.Event()
        self.streams = FrameworkStreams(self._stream_gone, events_max)
        self.master: Any = SimpleNamespace(term=1)
        self.decide: Decide = lambda event: CallTaken(framework_id=FRAMEWORK)

    def _stream_gone(self, framework_id: str, stream_id: str) -> None:
        self.gone.append((framework_id, stream_id))
        self.gone_grown.set()

    async def call(self, call: Call, framework_id: str, stream_id: str, principal: str = "") -> Answer:
        event = FrameworkCalled(
            request_id="r", framework_id=framework_id, stream_id=stream_id, principal=principal, call=call
        )
        self.called.append(event)
        answer = self.decide(event)
        if isinstance(call, Subscribe) and not isinstance(answer, Problem):
            self.say(Subscribed(framework_id=FRAMEWORK, heartbeat_us=15_000_000), stream_id)
            self.say(Heartbeat(), stream_id)
        return answer

    def say(self, event: StreamEvent, stream_id: str, *, close: bool = False) -> None:
        self.streams.emit(Emit(framework_id=FRAMEWORK, stream_id=stream_id, event=event, close=close))

    def gauges(self) -> dict[str, int]:
        return {}

    def counters(self) -> dict[str, int]:
        return {}

    def now_us(self) -> int:
        return 1_700_000_000_000_000


@contextlib.asynccontextmanager
async def serving(live: Any, **settings: Any) -> AsyncIterator[int]:
    """The port."""
    async with serve(live, HttpConfig(**settings)) as served:
        yield served.port


class Wire:
    """One connection, spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._unframer = Unframer()
        self._events: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, port: int) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, body: bytes | dict[str, Any], *, head: str = "", method: str = "POST", **headers: str) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(payload))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [head or f"{method} /api/v1/scheduler HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items() if value]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        await self.writer.drain()

    async def head(self) -> int:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return self.status

    async def body(self) -> bytes:
        return await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    async def ask(self, body: bytes | dict[str, Any], **headers: str) -> tuple[int, bytes]:
        await self.send(body, **headers)
        return await self.head(), await self.body()

    async def chunk(self) -> bytes:
        """The next chunk of the transfer; b"" is its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while not self._events:
                data = await self.chunk()
                assert data, "the stream has ended"
                self._events += [json.loads(record) for record in self._unframer.feed(data)]
        return self._events.pop(0)

    async def until(self, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                event = await self.event()
                if event["type"] == kind and wanted(event):
                    return event

    def close(self) -> None:
        self.writer.close()


def subscribe(name: str = "example", **fields: Any) -> dict[str, Any]:
    return {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "me", "name": name} | fields}}


async def subscribed(port: int, **fields: Any) -> tuple[Wire, str]:
    """A stream past its first two events, and its id."""
    wire = await Wire.open(port)
    await wire.send(subscribe(**fields))
    assert await wire.head() == 200
    assert (await wire.event())["type"] == "SUBSCRIBED"
    assert (await wire.event())["type"] == "HEARTBEAT"
    return wire, wire.headers["mesos-stream-id"]


def call(kind: str, body: Any = None, **fields: Any) -> dict[str, Any]:
    tree = {"framework_id": {"value": FRAMEWORK}, "type": kind} | fields
    return tree if body is None else tree | {kind.lower(): body}
