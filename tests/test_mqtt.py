"""The traps of MQTT client libraries, each against a real broker on loopback: what becomes of messages."""

import asyncio
from pathlib import Path

import pytest

from federation.broker import Kind
from federation.mqtt import MqttLink
from tests.mqtt_world import ONLY_5, Peer, both, broker_of, mosquitto_with, not_amqtt, proxy_to

pytestmark = pytest.mark.live


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
async def test_a_failing_callback_comes_out_of_run(tmp_path: Path, kind: Kind) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("our own bug")

    async def nothing(*_: object) -> None: ...

    async with broker_of(tmp_path, kind) as broker:
        link = MqttLink(broker.url, "x", on_message=nothing, on_up=fail, on_down=nothing)
        with pytest.raises(RuntimeError, match="our own bug"):
            await asyncio.wait_for(link.run(), 10)
