"""Probes against real servers, and the arithmetic under them."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.data.client import Client, ClientLimits
from agents.data.rate import Uplink
from agents.data.server import DataServer
from agents.events import Event, LinksMeasured, ProbeServed
from agents.probes.prober import PROBE_BYTES_MIN, Prober, jitter_us, lost_ppm, rate_of
from agents.probes.tcp_info import parse_tcp_info, read_tcp_info
from agents.probes.train import PACKET_BYTES, Arrival, rate_of_train, receive
from federation.wire import Peer


async def no_shard(_: str) -> Path | None:
    return None


def serve(site: str, bps: int | None = None, token: str = "") -> DataServer:
    return DataServer(
        host="127.0.0.1", port=0, verified=no_shard, read_log=lambda *_: None, uplink=Uplink(site, bps), token=token
    )


def near(found_bps: int | None, true_bps: int) -> bool:
    """Within what a machine busy with other tests does to a probe of a quarter of a second."""
    return found_bps is not None and 0.6 * true_bps < found_bps < 1.4 * true_bps


class Bench:
    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        limits = ClientLimits(connect_timeout_s=1, answer_timeout_s=1, stall_timeout_s=1)
        self.client = Client(uplink=Uplink("b", None), limits=limits)
        self.prober = Prober(self.client, self.events.put, agent_id="agent-b", seconds_max=1.5)

    async def probe(self, url: str, bytes_max: int = 262_144) -> LinksMeasured:
        await self.prober.probe(Peer(agent_id="agent-a", site="a", data_url=url), bytes_max)
        event = self.events.get_nowait()
        assert isinstance(event, LinksMeasured)
        return event


@pytest.fixture
async def slow_peer() -> AsyncIterator[str]:
    server = serve("a", 8_000_000)
    yield await server.start()
    await server.stop()


@pytest.mark.live
async def test_a_probe_measures_round_trip_and_rate(slow_peer: str) -> None:
    echo, rate = (await Bench().probe(slow_peer)).samples
    assert (echo.method, echo.from_agent, echo.to_agent) == ("echo", "agent-a", "agent-b")
    assert echo.rtt_us is not None and 0 < echo.rtt_us < 100_000 and echo.jitter_us is not None
    assert (rate.method, rate.from_agent, rate.to_agent) == ("probe", "agent-a", "agent-b")
    assert near(rate.bandwidth_bps, 8_000_000)
    assert rate.bytes == 262_144


@pytest.mark.live
async def test_a_probe_without_bytes_is_an_echo(slow_peer: str) -> None:
    found = await Bench().probe(slow_peer, PROBE_BYTES_MIN - 1)
    assert [sample.method for sample in found.samples] == ["echo"]


@pytest.mark.live
async def test_a_very_slow_peer_costs_bounded_time() -> None:
    server = serve("a", 500_000)
    url = await server.start()
    async with asyncio.timeout(5):
        found = await Bench().probe(url, 10_000_000)
    await server.stop()
    _, rate = found.samples
    assert near(rate.bandwidth_bps, 500_000) and rate.bytes < 150_000


@pytest.mark.live
async def test_a_peer_that_pays_by_the_byte_answers_echoes_when_its_allowance_is_spent() -> None:
    served: asyncio.Queue[Event] = asyncio.Queue()
    server = DataServer(
        host="127.0.0.1", port=0, verified=no_shard, read_log=lambda *_: None, uplink=Uplink("a", None), post=served.put
    )
    url = await server.start()
    server.allow_probes(64 * PACKET_BYTES + 10_000)
    first, second = await Bench().probe(url), await Bench().probe(url)
    await server.stop()
    assert first.samples[0].method == "echo"
    assert [sample.method for sample in second.samples] == ["echo"] and not second.busy
    told = [event.n_bytes for event in served._queue if isinstance(event, ProbeServed)]  # type: ignore[attr-defined]
    assert told.count(64 * PACKET_BYTES) == 1 and sum(told) <= 64 * PACKET_BYTES + 20 * 600


@pytest.mark.live
async def test_unreachable_peers_are_one_empty_answer() -> None:
    bench = Bench()
    assert (await bench.probe("http://127.0.0.1:1")).samples == ()
    assert (await bench.probe("nonsense")).samples == ()
    server = serve("a", token="needed")
    assert (await bench.probe(await server.start())).samples == ()
    await server.stop()


@pytest.mark.live
async def test_a_peer_that_answers_nonsense() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert (await Bench().probe(url)).samples == ()
    server.close()


def test_a_rate_leaves_slow_start_out() -> None:
    # 30 kB in the first second, then 30 kB each tenth.
    arrivals = [(0.0, 1_000), (1.0, 30_000), *((1.0 + step / 10, 30_000 * (1 + step)) for step in range(1, 6))]
    found = rate_of(arrivals)
    assert found is not None
    assert found.bandwidth_bps == pytest.approx(2_400_000, rel=0.01)
    assert found.n_bytes == 180_000 and found.duration_us == 1_500_000


def test_what_waited_while_this_process_did_not_look_is_no_more_than_a_bound() -> None:
    # The kernel took it in at 8 Mbit/s; we slept through the most of it and then read all at once.
    found = rate_of([(0.0, 0), (0.05, 50_000), (0.25, 150_000), (0.2501, 200_000), (0.2502, 262_144)])
    assert found is not None and found.is_rising
    assert found.bandwidth_bps > 1_000_000_000 and found.whole_bps == pytest.approx(8_400_000, rel=0.01)


@pytest.mark.parametrize(
    "arrivals",
    [
        [],
        [(0.0, 100_000)],
        [(0.0, 100_000), (0.1, 200_000)],
        [(0.0, 10), (0.1, 20), (0.2, 30)],
        [(0.5, 50_000), (0.5, 60_000), (0.5, 70_000)],
    ],
)
def test_too_little_is_no_rate(arrivals: list[tuple[float, int]]) -> None:
    assert rate_of(arrivals) is None


@pytest.mark.parametrize(("n_sent", "n_came", "ppm"),
                         [(0, 0, None), (64, 64, 0), (64, 63, 15_625), (64, 48, 250_000), (64, 47, None)])  # fmt: skip
def test_lost_packets_of_a_train_count_until_a_queue_must_have_overflown(n_sent: int, n_came: int, ppm: int) -> None:
    assert lost_ppm(n_sent, n_came) == ppm


def test_jitter_is_the_mean_step() -> None:
    assert jitter_us([100, 140, 120]) == 30
    assert jitter_us([100]) == 0


@pytest.mark.live
async def test_tcp_info_of_a_live_socket(slow_peer: str) -> None:
    client = Bench().client
    async with client.connect(slow_peer, "a") as exchange:
        await exchange.get("/echo")
        info = exchange.tcp_info()
    assert info is not None and info.rtt_us is not None and info.rtt_us_min is not None
    assert 0 < info.rtt_us_min <= info.rtt_us < 1_000_000


def test_tcp_info_where_there_is_none() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        assert read_tcp_info(other) is None


def test_tcp_info_of_older_kernels_and_fresh_sockets() -> None:
    assert parse_tcp_info(bytes(60)) is None
    raw = bytearray(168)
    struct.pack_into("=II", raw, 68, 20_000, 3_000)
    struct.pack_into("=I", raw, 148, 0xFFFFFFFF)
    raw[7] = 1
    found = parse_tcp_info(bytes(raw))
    assert found is not None
    assert (found.rtt_us, found.rtt_deviation_us, found.rtt_us_min) == (20_000, 3_000, None)
    assert found.delivery_bps is None and found.app_limited
    struct.pack_into("=Q", raw, 160, 1_250_000)
    assert (found := parse_tcp_info(bytes(raw))) is not None and found.delivery_bps == 10_000_000
    assert (found := parse_tcp_info(bytes(raw[:104]))) is not None
    assert (found.rtt_us, found.rtt_us_min, found.delivery_bps) == (20_000, None, None)


# --- trains ----------------------------------------------------------------------------------------------------------


def train(*legs: tuple[int, int], sent_bps: int = 4_000_000_000, n_waits: int = 0) -> list[Arrival]:
    """Datagrams spaced as links of these rates space them: (packets, bit/s) in order."""
    found: list[Arrival] = []
    received_ns = 0
    for n_packets, bps in legs:
        for _ in range(n_packets):
            received_ns += (PACKET_BYTES + 28) * 8 * 1_000_000_000 // bps
            place = len(found)
            sent_ns = place * PACKET_BYTES * 8 * 1_000_000_000 // sent_bps
            found.append(Arrival(place, n_waits * place, sent_ns, received_ns, PACKET_BYTES))
    return found


def test_only_the_second_half_of_a_train_counts() -> None:
    found = rate_of_train(train((30, 1_000_000_000), (34, 20_000_000)))
    assert found is not None and found.is_steady and found.is_queued
    assert found.bandwidth_bps == pytest.approx(20_000_000, rel=0.01)
    assert found.n_bytes == 64 * PACKET_BYTES


def test_a_bucket_that_lasts_into_the_second_half_is_noticed() -> None:
    found = rate_of_train(train((42, 1_000_000_000), (22, 20_000_000)))
    assert found is not None and not found.is_steady


def test_a_link_that_keeps_up_with_the_sender_is_not_measured_by_it() -> None:
    kept_up = train((256, 300_000_000), sent_bps=310_000_000)
    found = rate_of_train(kept_up)
    assert found is not None and not found.is_queued
    waited = rate_of_train(train((256, 300_000_000), sent_bps=310_000_000, n_waits=1))
    assert waited is not None and waited.is_queued, "the sender's own line is the slow one"


def test_a_train_too_short_for_the_rate_settles_nothing() -> None:
    found = rate_of_train(train((64, 2_000_000_000), sent_bps=8_000_000_000))
    assert found is not None and found.is_queued and not found.is_steady


def test_datagrams_that_come_together_are_one_moment() -> None:
    together = [
        arrival._replace(received_ns=(arrival.place // 4 + 1) * 4 * (PACKET_BYTES + 28) * 400)
        for arrival in train((64, 20_000_000))
    ]
    found = rate_of_train(together)
    assert found is not None and found.is_steady
    assert found.bandwidth_bps == pytest.approx(20_000_000, rel=0.01)
    assert rate_of_train([arrival._replace(received_ns=5) for arrival in together]) is None
    assert rate_of_train([]) is None and rate_of_train(together[:8]) is None
    backwards = [arrival._replace(received_ns=10**9 - arrival.received_ns) for arrival in together]
    assert rate_of_train(backwards) is None, "a clock that was set back"


@pytest.mark.live
async def test_a_train_comes_only_to_who_was_promised_one() -> None:
    server = serve("a", token="needed")
    url = await server.start()
    client = Client(uplink=Uplink("b", None), token="needed", agent_id="b")
    async with client.connect(url, "a") as exchange:
        answer = await exchange.get("/train?packets=64")
        port, nonce = map(int, answer.headers["x-offerflow-train"].split())
    assert await asyncio.to_thread(receive, "127.0.0.1", port, nonce + 1, 64) == []
    arrivals = await asyncio.to_thread(receive, "127.0.0.1", port, nonce, 64)
    assert [arrival.place for arrival in arrivals] == list(range(64))
    assert await asyncio.to_thread(receive, "127.0.0.1", port, nonce, 64) == [], "once"
    async with client.connect(url, "a") as exchange:
        assert (await exchange.get("/train?packets=99999")).status == 400
    await server.stop()


@pytest.mark.live
async def test_trains_pass_beside_an_emulated_line_and_are_not_used_there(slow_peer: str) -> None:
    async with Bench().client.connect(slow_peer, "a") as exchange:
        assert (await exchange.get("/train?packets=64")).status == 404
