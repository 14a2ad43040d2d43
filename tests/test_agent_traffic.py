"""A share of a link is not the link: who measures beside whom, and that nobody passes its share for the whole."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.data.client import Client
from agents.data.fetcher import Fetcher
from agents.data.rate import Uplink
from agents.data.server import DataServer
from agents.data.traffic import ALONE, Sharing, Traffic
from agents.events import Event, FetchEnded, LinksMeasured
from agents.probes.prober import Prober
from agents.store import ShardStore
from federation.wire import Fetch, HeldShard, LinkSample, Peer, Source

MBIT = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# --- the bookkeeping -------------------------------------------------------------------------------------------------


def test_streams_are_averaged_over_the_time_of_each() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    with ExitStack() as streams:
        first = streams.enter_context(traffic.stream("a", is_local=False))
        clock.now_s += 3
        second = streams.enter_context(traffic.stream("a", is_local=False))
        third = streams.enter_context(traffic.stream("b", is_local=False))
        clock.now_s += 1
    assert traffic.sharing(first) == Sharing(same_milli=1250, others_milli=250)
    assert traffic.sharing(second) == Sharing(same_milli=2000, others_milli=1000)
    assert traffic.sharing(third) == Sharing(same_milli=1000, others_milli=2000)
    clock.now_s += 100
    assert traffic.sharing(first).same_milli == 1250, "what has ended stays as it was"
    assert traffic.n_crossing() == 0


def test_traffic_within_the_site_shares_no_uplink() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    with traffic.stream("a", is_local=False) as crossing, traffic.stream("b", is_local=True) as local:
        clock.now_s += 1
        assert traffic.n_crossing() == 1
        assert traffic.n_others("c", is_local=True) == 1
        assert traffic.n_others("a", is_local=False) == 0
    assert traffic.sharing(crossing) == traffic.sharing(local) == ALONE


def test_a_moment_of_others_is_no_competition() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    with traffic.stream("a", is_local=False) as span:
        with traffic.stream("b", is_local=False):
            clock.now_s += 0.04
        clock.now_s += 0.96
    assert not traffic.sharing(span).is_competed
    with traffic.stream("a", is_local=False) as span:
        with traffic.stream("b", is_local=False):
            clock.now_s += 0.06
        clock.now_s += 0.94
    assert traffic.sharing(span).is_competed


# --- over sockets ----------------------------------------------------------------------------------------------------


class Device:
    """One agent's store, data server, fetcher and prober, alone at its site."""

    def __init__(self, folder: Path, name: str, uplink_bps: int | None) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.name = name
        self.folder = folder
        uplink = Uplink(f"site-{name}", uplink_bps)
        self.store = ShardStore(folder / name, self.events.put)
        self.server = DataServer(
            host="127.0.0.1", port=0, verified=self.store.verified, read_log=lambda *_: None, uplink=uplink
        )
        self.client = Client(uplink=uplink, agent_id=name)
        self.fetcher = Fetcher(self.store, self.client, self.events.put, agent_id=name, fetches_max=4)
        self.prober = Prober(self.client, self.events.put, agent_id=name)
        self.url = ""

    def hold(self, n_bytes: int) -> HeldShard:
        path = self.folder / "given"
        path.write_bytes(os.urandom(n_bytes))
        try:
            return self.store.add_file(path, "data")
        finally:
            path.unlink()

    async def fetch(self, shard: HeldShard, source: "Device") -> LinkSample:
        sources = (Source(url=source.url, agent_id=source.name, site=f"site-{source.name}"),)
        await self.fetcher.fetch(
            1, Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, name="data", sources=sources)
        )
        ended = await self.events.get()
        while not isinstance(ended, FetchEnded):  # A slow machine tells how far it is first.
            ended = await self.events.get()
        assert ended.ok
        (sample,) = ended.samples
        return sample

    async def probe(self, peer: "Device") -> LinksMeasured:
        await self.prober.probe(Peer(agent_id=peer.name, site=f"site-{peer.name}", data_url=peer.url), 128 * 1024)
        measured = await self.events.get()
        assert isinstance(measured, LinksMeasured)
        return measured

    async def streams(self) -> None:
        """Until this device sends something to another site."""
        async with asyncio.timeout(10):
            while not self.server.traffic.n_crossing():  # noqa: ASYNC110 — nothing of the server's could wake us
                await asyncio.sleep(0.01)


@pytest.fixture
async def devices(tmp_path: Path) -> AsyncIterator[tuple[Device, Device, Device]]:
    """A gateway behind 8 Mbit/s, and two that fetch from it."""
    made = (Device(tmp_path, "gw", 8 * MBIT), Device(tmp_path, "b", None), Device(tmp_path, "c", None))
    for device in made:
        await device.store.open()
        device.url = await device.server.start()
    yield made
    for device in made:
        await device.server.stop()


@pytest.mark.live
async def test_a_transfer_alone_says_so(devices: tuple[Device, Device, Device]) -> None:
    gateway, b, _ = devices
    sample = await b.fetch(gateway.hold(1_000_000), gateway)
    assert (sample.shared_milli, sample.is_lower_bound) == (1000, False)


@pytest.mark.live
async def test_what_is_small_and_soon_over_is_no_more_than_a_bound(devices: tuple[Device, Device, Device]) -> None:
    gateway, b, _ = devices
    sample = await b.fetch(gateway.hold(300_000), gateway)
    assert sample.shared_milli == 1000 and sample.is_lower_bound


@pytest.mark.live
async def test_two_transfers_of_one_pair_add_up_to_the_link(devices: tuple[Device, Device, Device]) -> None:
    gateway, b, _ = devices
    samples = await asyncio.gather(*(b.fetch(gateway.hold(1_000_000), gateway) for _ in range(2)))
    for sample in samples:
        assert 1700 <= sample.shared_milli <= 2000 and not sample.is_lower_bound
        assert sample.bandwidth_bps is not None
        assert 0.8 * 8 * MBIT <= sample.bandwidth_bps * sample.shared_milli / 1000 <= 1.2 * 8 * MBIT


@pytest.mark.live
async def test_a_sender_tells_of_others_that_came_later(devices: tuple[Device, Device, Device]) -> None:
    gateway, b, c = devices
    first = asyncio.create_task(b.fetch(gateway.hold(600_000), gateway))
    await gateway.streams()
    second = await c.fetch(gateway.hold(300_000), gateway)
    assert (await first).is_lower_bound and second.is_lower_bound


@pytest.mark.live
async def test_a_receiver_knows_what_else_it_draws(devices: tuple[Device, Device, Device]) -> None:
    gateway, b, c = devices
    samples = await asyncio.gather(gateway.fetch(b.hold(400_000), b), gateway.fetch(c.hold(400_000), c))
    assert all(sample.is_lower_bound for sample in samples)


@pytest.mark.live
async def test_probes_keep_out_of_the_way_of_transfers_and_of_each_other(
    devices: tuple[Device, Device, Device],
) -> None:
    gateway, b, c = devices
    transfer = asyncio.create_task(b.fetch(gateway.hold(1_000_000), gateway))
    await gateway.streams()
    at_the_sender, at_the_receiver = await asyncio.gather(c.probe(gateway), b.probe(c))
    for found in (at_the_sender, at_the_receiver):
        assert found.busy and [sample.method for sample in found.samples] == ["echo"]
    assert not (await transfer).is_lower_bound, "what a probe would have spoiled"
    both = await asyncio.gather(b.probe(gateway), c.probe(gateway))
    assert sorted(found.busy for found in both) == [False, True]
    for found in both:
        for sample in found.samples:
            if sample.bandwidth_bps is not None:
                assert 0.8 * 8 * MBIT <= sample.bandwidth_bps <= 1.2 * 8 * MBIT
