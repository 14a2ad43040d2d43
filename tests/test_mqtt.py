"""The traps of MQTT client libraries, each against a real broker on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import BrokerConfig, ListenerConfig

from federation.broker import Broker, Kind, find_mosquitto, free_port, start_broker
from federation.mqtt import MqttLink, Will, parse_url

pytestmark = pytest.mark.live
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


@both
async def test_the_best_protocol_is_chosen_and_messages_flow(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", subscriptions=["t/#"])
        speaker = Peer(broker.url, "speaker")
        async with hearer.running(), speaker.running():
            expected = "5" if kind == "mosquitto" else "3.1.1"
            assert hearer.ups == [expected] and hearer.link.protocol == expected
            assert not hearer.downs, "falling back is no failure"
            for i in range(50):
                assert speaker.link.publish(f"t/{i}", b"%d" % i, expires_s=60)
            await hearer.until(lambda: len(hearer.messages) == 50)
            assert [int(p) for p in hearer.payloads] == list(range(50))
            assert hearer.link.tcp_info_socket() is not None
        assert hearer.link.tcp_info_socket() is None
        assert speaker.link.n_unsent == 0


@not_amqtt("amqtt sends nothing again to a client that comes back; births make up for it")
async def test_a_message_is_acknowledged_only_when_the_receiver_says_so(tmp_path: Path, kind: Kind) -> None:
    """The receiver crashes before it acknowledges: the message comes again. Acknowledged ones do not.

    (amqtt delivers nothing again after a crash: the births of the protocol above make up for that.)
    """
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", ack=False, subscriptions=["t"])
        speaker = Peer(broker.url, "speaker")
        async with speaker.running():
            task = asyncio.create_task(hearer.link.run())
            await hearer.until(lambda: hearer.ups)
            for i in range(3):
                speaker.link.publish("t", b"%d" % i)
            await hearer.until(lambda: len(hearer.messages) == 3)
            hearer.link.ack(hearer.messages[0][2])
            await asyncio.sleep(0.2)  # The acknowledgement travels.
            task.cancel()  # A crash: no DISCONNECT.
            await asyncio.gather(task, return_exceptions=True)
            again = Peer(broker.url, "hearer", subscriptions=["t"])
            async with again.running():
                await again.until(lambda: len(again.messages) == 2)
                assert sorted(again.payloads) == [b"1", b"2"]
            third = Peer(broker.url, "hearer", subscriptions=["t"])
            async with third.running():
                speaker.link.publish("t", b"last")
                await third.until(lambda: third.messages)
                assert third.payloads == [b"last"]


@both
async def test_acknowledgements_leave_in_order_of_arrival(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", ack=False, subscriptions=["t"])
        speaker = Peer(broker.url, "speaker")
        async with hearer.running(), speaker.running():
            for i in range(4):
                speaker.link.publish("t", b"%d" % i)
            await hearer.until(lambda: len(hearer.messages) == 4)
            deliveries = [delivery for _, _, delivery, _ in hearer.messages]
            assert deliveries == sorted(set(deliveries)) and 0 not in deliveries
            for delivery in (deliveries[2], deliveries[1]):
                hearer.link.ack(delivery)
            assert hearer.link.n_held == 4  # The first is not safe yet.
            hearer.link.ack(deliveries[0])
            assert hearer.link.n_held == 1
            hearer.link.ack(deliveries[0])
            hearer.link.ack(0)
            hearer.link.ack(10**9)
            assert hearer.link.n_held == 1


@not_amqtt("amqtt sends nothing again to a client that comes back; births make up for it")
async def test_an_acknowledgement_of_an_earlier_connection_is_ignored(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker, proxy_to(broker.url) as proxy:
        hearer = Peer(proxy.url, "hearer", ack=False, subscriptions=["t"])
        speaker = Peer(broker.url, "speaker")
        async with hearer.running(), speaker.running():
            speaker.link.publish("t", b"x")
            await hearer.until(lambda: len(hearer.messages) == 1)
            proxy.cut()
            await hearer.until(lambda: len(hearer.messages) == 2)
            first, second = (delivery for _, _, delivery, _ in hearer.messages)
            assert first != second
            hearer.link.ack(first)
            assert hearer.link.n_held == 1
            hearer.link.ack(second)
            assert hearer.link.n_held == 0


@not_amqtt("amqtt sends nothing again to a client that comes back; births make up for it")
async def test_messages_for_an_absent_client_wait_in_its_session(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", subscriptions=["t"])
        async with hearer.running():
            pass
        speaker = Peer(broker.url, "speaker")
        async with speaker.running():
            for i in range(100):
                speaker.link.publish("t", b"%d" % i)
            await speaker.until(lambda: speaker.link.n_unsent == 0)
        again = Peer(broker.url, "hearer", subscriptions=["t"])
        async with again.running():
            await again.until(lambda: len(again.messages) == 100)


@not_amqtt(ONLY_5)
async def test_expired_messages_are_not_delivered(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        async with Peer(broker.url, "hearer", subscriptions=["t"]).running():
            pass
        speaker = Peer(broker.url, "speaker")
        async with speaker.running():
            speaker.link.publish("t", b"stale", expires_s=1)
            speaker.link.publish("t", b"fresh", expires_s=60)
            await speaker.until(lambda: speaker.link.n_unsent == 0)
        await asyncio.sleep(2.1)
        again = Peer(broker.url, "hearer", subscriptions=["t"])
        async with again.running():
            await again.until(lambda: again.messages)
            assert again.payloads == [b"fresh"]


@pytest.mark.parametrize("qos", [1, 0])
@both
async def test_a_slow_receiver_pushes_back_and_loses_nothing(tmp_path: Path, kind: Kind, qos: int) -> None:
    """Thousands of messages for a receiver that stands still: it holds a bounded number, and gets them all."""
    n_messages = 500 if kind == "amqtt" else 5000
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", receive_max=10, subscriptions=["t"])
        speaker = Peer(broker.url, "speaker", window=100)
        async with hearer.running(), speaker.running():
            hearer.gate.clear()
            for i in range(n_messages):
                assert speaker.link.publish("t", b"%06d" % i, qos=qos)
            await speaker.until(lambda: speaker.link.n_unsent == 0 or kind == "amqtt", 30)
            held = hearer.link.n_held
            assert held <= 21, "the receiver grows"
            hearer.gate.set()
            await hearer.until(lambda: len(hearer.messages) >= n_messages, 60)
            assert [int(p) for p in hearer.payloads] == list(range(n_messages))
            assert not hearer.downs and not speaker.downs


@both
async def test_the_outbox_is_bounded_and_says_so(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        speaker = Peer(broker.url, "speaker", window=5, outbox_max=20)
        async with speaker.running():
            taken = [speaker.link.publish("t", b"x") for _ in range(100)]
            assert taken.count(True) == 25 and taken.index(False) == 25
            assert speaker.link.counters["dropped"] == 75
            await speaker.until(lambda: speaker.link.n_unsent == 0)
            assert speaker.link.publish("t", b"x")
        assert not speaker.link.publish("t", b"x"), "not connected"


@not_amqtt("MQTT 3.1.1 has no reason in its PUBACK: a broker cannot say so")
async def test_a_publish_the_broker_refuses_is_told(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "acl").write_text("topic readwrite allowed/#\n")
    async with mosquitto_with(tmp_path, f"acl_file {tmp_path / 'acl'}") as url:
        speaker = Peer(url, "speaker")
        async with speaker.running():
            speaker.link.publish("allowed/t", b"x")
            speaker.link.publish("forbidden/t", b"x")
            await speaker.until(lambda: speaker.refused)
            assert speaker.refused == [("forbidden/t", "Not authorized")]
            assert speaker.link.counters["refused"] == 1
            await speaker.until(lambda: speaker.link.n_unsent == 0)


@not_amqtt(ONLY_5)
async def test_a_message_above_the_brokers_limit_is_refused_here(tmp_path: Path, kind: Kind) -> None:
    async with mosquitto_with(tmp_path, "max_packet_size 2000") as url:
        speaker = Peer(url, "speaker")
        async with speaker.running():
            assert not speaker.link.publish("t", b"x" * 3000)
            assert speaker.refused == [("t", "3000 bytes exceed the broker's limit of 2000")]
            assert speaker.link.publish("t", b"x" * 1000)
            await speaker.until(lambda: speaker.link.n_unsent == 0)
            assert not speaker.downs


@not_amqtt(ONLY_5)
async def test_the_brokers_receive_maximum_is_kept(tmp_path: Path, kind: Kind) -> None:
    """Mosquitto ends the connection of who has more than this in flight."""
    async with mosquitto_with(tmp_path, "max_inflight_messages 3") as url:
        speaker = Peer(url, "speaker")
        async with speaker.running():
            for _ in range(500):
                speaker.link.publish("t", b"x")
            await speaker.until(lambda: speaker.link.n_unsent == 0)
            assert not speaker.downs


_ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
CLOSED: dict[str, bool | None] = {_ANONYMOUS: False}


@asynccontextmanager
async def amqtt_with(plugins: dict[str, bool | None]) -> AsyncIterator[str]:
    """amqtt with plugins: for `_ANONYMOUS`, whether it lets in who names no user."""
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


@both
async def test_a_broken_connection_is_made_anew_with_a_new_client(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker, proxy_to(broker.url) as proxy:
        hearer = Peer(proxy.url, "hearer", subscriptions=["t"])
        speaker = Peer(broker.url, "speaker")
        async with hearer.running(), speaker.running():
            for round_ in range(1, 4):
                client = hearer.link._client
                proxy.cut()
                await hearer.until(lambda n=round_: len(hearer.ups) == n + 1)
                assert hearer.link._client is not client
                speaker.link.publish("t", b"%d" % round_)
                await hearer.until(lambda n=round_: b"%d" % n in hearer.payloads)
            assert len(hearer.downs) == 3 and all("broke" in detail for detail in hearer.downs)


@both
async def test_a_half_open_link_is_noticed(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker, proxy_to(broker.url) as proxy:
        hearer = Peer(proxy.url, "hearer", keepalive_s=1, subscriptions=["t"])
        async with hearer.running():
            proxy.silence()
            await hearer.until(lambda: hearer.downs, 10)
            proxy.speak()
            await hearer.until(lambda: len(hearer.ups) == 2, 20)


@both
async def test_an_idle_link_stays_up_by_the_librarys_pings(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", keepalive_s=1, subscriptions=["t"])
        async with hearer.running():
            stream = hearer.link._stream
            assert stream is not None
            begun_at = stream.heard_at
            await hearer.until(lambda: stream.heard_at > begun_at + 1.5)
            assert not hearer.downs


@both
async def test_a_link_that_speaks_sends_no_pings(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker, proxy_to(broker.url) as proxy:
        speaker = Peer(proxy.url, "speaker", keepalive_s=2)
        async with speaker.running():
            for _ in range(10):  # One and a half of that, with room for a machine that stands still.
                speaker.link.publish("t", b"still here")
                await asyncio.sleep(0.3)
        assert proxy.n_publishes >= 10 and proxy.n_pings == 0


@pytest.mark.parametrize("resend", [False, True])
@both
async def test_what_was_not_acknowledged_is_dropped_or_sent_again(tmp_path: Path, kind: Kind, resend: bool) -> None:
    async with broker_of(tmp_path, kind) as broker, proxy_to(broker.url) as proxy:
        hearer = Peer(broker.url, "hearer", subscriptions=["t"])
        speaker = Peer(proxy.url, "speaker", resend=resend, window=2)
        async with hearer.running(), speaker.running():
            proxy.silence()
            for i in range(5):
                assert speaker.link.publish("t", b"%d" % i)
            proxy.cut()
            proxy.speak()
            await speaker.until(lambda: len(speaker.ups) == 2)
            speaker.link.publish("t", b"new")
            await hearer.until(lambda: b"new" in hearer.payloads)
            assert hearer.payloads == ([b"0", b"1", b"2", b"3", b"4", b"new"] if resend else [b"new"])
            assert speaker.link.counters["dropped"] == (0 if resend else 5)


@both
async def test_the_will_speaks_for_a_crash_and_not_for_a_farewell(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        hearer = Peer(broker.url, "hearer", subscriptions=["will/#"])
        lives = iter((b"life 1", b"life 2"))
        async with hearer.running():
            dying = Peer(broker.url, "dying", will=lambda: Will("will/dying", next(lives)))
            async with dying.running():
                dying.link.publish("will/farewell", b"bye")
            await hearer.until(lambda: hearer.messages)
            task = asyncio.create_task(dying.link.run())
            dying.link._closing.clear()
            await dying.until(lambda: len(dying.ups) == 2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await hearer.until(lambda: len(hearer.messages) == 2)
            assert hearer.payloads == [b"bye", b"life 2"]


@both
async def test_two_with_one_name_take_turns_and_back_off(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        one, two = Peer(broker.url, "twin"), Peer(broker.url, "twin")
        async with one.running(), two.running():
            await one.until(lambda: one.downs)
            await one.until(lambda: len(one.ups) >= 2)


async def test_a_broker_that_is_not_there_is_asked_again(tmp_path: Path) -> None:
    port = free_port()
    early = Peer(f"mqtt://127.0.0.1:{port}", "early")
    async with early.running(up=False):
        await early.until(lambda: len(early.downs) >= 2)
        assert f"no connection to 127.0.0.1:{port}" in early.downs[0]
        assert not early.ups


async def test_a_peer_that_is_no_broker_does_not_hang_the_link() -> None:
    """It accepts the connection and hangs up, as a broker of another version may: both versions are tried."""
    greetings: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lonely = Peer(f"mqtt://127.0.0.1:{port}", "lonely")
    async with lonely.running(up=False):
        await lonely.until(lambda: lonely.downs, 5)
    versions = [greeting[8] for greeting in greetings]
    assert versions[:2] == [5, 4]
    server.close()


@both
async def test_a_wrong_password_is_told_and_not_taken_for_a_version(tmp_path: Path, kind: Kind) -> None:
    opened = (
        mosquitto_with(tmp_path, "allow_anonymous false") if kind == "mosquitto" else amqtt_with({_ANONYMOUS: False})
    )
    async with opened as url:
        stranger = Peer(url, "stranger")
        async with stranger.running(up=False):
            await stranger.until(lambda: stranger.downs)
            assert "not authori" in stranger.downs[0].lower()


async def test_a_refused_subscription_is_told() -> None:
    async with amqtt_with({_ANONYMOUS: True, "amqtt.plugins.topic_checking.TopicTabooPlugin": None}) as url:
        hearer = Peer(url, "hearer", subscriptions=["fine", "prohibited"])
        async with hearer.running(up=False):
            await hearer.until(lambda: hearer.downs)
            assert "the broker refuses the subscription prohibited" in hearer.downs[0]
            assert not hearer.ups


@both
async def test_a_failing_callback_comes_out_of_run(tmp_path: Path, kind: Kind) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("our own bug")

    async def nothing(*_: object) -> None: ...

    async with broker_of(tmp_path, kind) as broker:
        link = MqttLink(broker.url, "x", on_message=nothing, on_up=fail, on_down=nothing)
        with pytest.raises(RuntimeError, match="our own bug"):
            await asyncio.wait_for(link.run(), 10)


def test_urls() -> None:
    assert parse_url("mqtt://h") == ("h", 1883, False, None, None, None)
    assert parse_url("mqtts://u:p%40@h:99/") == ("h", 99, True, "u", "p@", None)
    assert parse_url("mqtt://h?protocol=3.1.1").protocol == "3.1.1"
    for wrong in ("h:1883", "http://h", "mqtt://", "mqtt://h/topic", "mqtt://h:port", "mqtt://h?protocol=4"):
        with pytest.raises(ValueError, match=r"is not a broker|Port could not"):
            parse_url(wrong)


@both
async def test_the_socket_is_tcp(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path, kind) as broker:
        peer = Peer(broker.url, "peer")
        async with peer.running():
            sock = peer.link.tcp_info_socket()
            assert sock is not None
            assert len(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)) > 60
