"""The traps of MQTT client libraries, each against a real broker on loopback: how connections are made and end."""

import asyncio
import socket
from pathlib import Path

import pytest

from federation.broker import Kind, free_port
from federation.mqtt import Will, parse_url
from tests.mqtt_world import ANONYMOUS, Peer, amqtt_with, both, broker_of, mosquitto_with, proxy_to

pytestmark = pytest.mark.live


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
        mosquitto_with(tmp_path, "allow_anonymous false") if kind == "mosquitto" else amqtt_with({ANONYMOUS: False})
    )
    async with opened as url:
        stranger = Peer(url, "stranger")
        async with stranger.running(up=False):
            await stranger.until(lambda: stranger.downs)
            assert "not authori" in stranger.downs[0].lower()


async def test_a_refused_subscription_is_told() -> None:
    async with amqtt_with({ANONYMOUS: True, "amqtt.plugins.topic_checking.TopicTabooPlugin": None}) as url:
        hearer = Peer(url, "hearer", subscriptions=["fine", "prohibited"])
        async with hearer.running(up=False):
            await hearer.until(lambda: hearer.downs)
            assert "the broker refuses the subscription prohibited" in hearer.downs[0]
            assert not hearer.ups


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
