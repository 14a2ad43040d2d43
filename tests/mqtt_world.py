"""What the tests of MQTT need: real brokers on loopback, a relay that can be cut, a link that tells what it heard."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import BrokerConfig, ListenerConfig

from federation.broker import Broker, Kind, find_mosquitto, free_port, start_broker
from federation.mqtt import MqttLink, parse_url

MOSQUITTO = pytest.param(
    "mosquitto",
    marks=pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed (apt-get install mosquitto)"),
)
both = pytest.mark.parametrize("kind", [MOSQUITTO, "amqtt"])


def not_amqtt(reason: str) -> pytest.MarkDecorator:
    """For a trap that the embedded broker cannot set, or that is its own."""
    return pytest.mark.parametrize("kind", [MOSQUITTO, pytest.param("amqtt", marks=pytest.mark.skip(reason=reason))])


ONLY_5 = "amqtt speaks MQTT 3.1.1, which has no such thing"


class Peer:
    """A link and what it was told. `ack` decides whether a delivery is acknowledged at once."""

    def __init__(self, url: str, name: str, *, ack: bool = True, **options: Any) -> None:
        self.messages: list[tuple[str, bytes, int, bool]] = []
        self.ups: list[str] = []
        self.downs: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.ack = ack
        self.changed = asyncio.Event()
        self.link = MqttLink(
            url, name, on_message=self._message, on_up=self._up, on_down=self._down,
            on_refused=lambda topic, reason: self.refused.append((topic, reason)), **options,
        )  # fmt: skip

    async def _message(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        await self.gate.wait()
        self.messages.append((topic, payload, delivery, retained))
        if self.ack:
            self.link.ack(delivery)
        self.changed.set()

    async def _up(self, protocol: str) -> None:
        self.ups.append(protocol)
        self.changed.set()

    async def _down(self, detail: str) -> None:
        self.downs.append(detail)
        self.changed.set()

    async def until(self, condition: Callable[[], object], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                with_timeout = asyncio.create_task(self.changed.wait())
                await asyncio.wait({with_timeout}, timeout=0.02)
                with_timeout.cancel()

    @asynccontextmanager
    async def running(self, up: bool = True) -> AsyncIterator["Peer"]:
        task = asyncio.create_task(self.link.run())
        try:
            if up:
                n_ups = len(self.ups)
                await self.until(lambda: len(self.ups) > n_ups or task.done())
            yield self
        finally:
            await self.link.close()
            await asyncio.wait_for(task, 10)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload, _, _ in self.messages]


@asynccontextmanager
async def broker_of(folder: Path, kind: Kind) -> AsyncIterator[Broker]:
    broker = await start_broker(folder, kind)
    try:
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def mosquitto_with(folder: Path, extra: str) -> AsyncIterator[str]:
    """Mosquitto with lines of our own in its configuration; yields its URL."""
    port = free_port()
    (folder / "m.conf").write_text(f"listener {port} 127.0.0.1\nuser root\nallow_anonymous true\n{extra}\n")
    binary = find_mosquitto()
    assert binary
    process = await asyncio.create_subprocess_exec(
        binary, "-c", str(folder / "m.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"


@asynccontextmanager
async def amqtt_with(plugins: dict[str, bool | None]) -> AsyncIterator[str]:
    """amqtt with plugins: for `ANONYMOUS`, whether it lets in who names no user."""
    port = free_port()
    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
        plugins={name: {} if value is None else {"allow_anonymous": value} for name, value in plugins.items()},
    )
    broker = AmqttBroker(config)
    await broker.start()
    yield f"mqtt://127.0.0.1:{port}?protocol=3.1.1"
    await broker.shutdown()


class Proxy:
    """A TCP relay that can be cut, or can go silent while the connection stays open (a half-open link)."""

    def __init__(self, url: str) -> None:
        self._target = parse_url(url)
        self._silent = False
        self.n_publishes = self.n_pings = 0  # that went to the broker
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        known = f"?protocol={self._target.protocol}" if self._target.protocol else ""
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{known}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        except OSError:
            writer.close()
            return
        self._pairs.append((writer, far_writer))
        await asyncio.gather(
            self._pump(reader, far_writer, self._count), self._pump(far_reader, writer), return_exceptions=True
        )

    def _count(self, data: bytes) -> None:
        self.n_publishes += data.count(b"still here")
        self.n_pings += data.count(b"\xc0\x00")

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None] | None = None
    ) -> None:
        while data := await reader.read(65_536):
            if look is not None:
                look(data)
            if not self._silent:
                writer.write(data)
                await writer.drain()
        writer.close()

    def silence(self) -> None:
        self._silent = True

    def speak(self) -> None:
        self._silent = False

    def cut(self) -> None:
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()
        self._pairs.clear()

    async def stop(self) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(url)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
