"""The rate cap: exact in computed time, within 5 % on real sockets, fair between streams."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from agents.data.client import Client
from agents.data.rate import BURST_S, CATCH_UP_S, RateCap, Uplink
from agents.data.server import DataServer, ServerLimits


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("rate_bps", [2_000_000, 20_000_000, 200_000_000, 500_000_000])
async def test_a_second_carries_what_the_rate_says(rate_bps: int) -> None:
    clock = Clock()
    cap = RateCap(rate_bps, clock)
    carried, begun_s = 0, clock.now_s
    async with cap.stream():
        while clock.now_s < begun_s + 1:
            clock.now_s += max(0.0, cap.book_s(cap.chunk_bytes))
            carried += cap.chunk_bytes
    assert carried * 8 == pytest.approx(rate_bps, rel=0.05)


async def test_an_idle_link_saves_up_next_to_nothing() -> None:
    clock = Clock()
    cap = RateCap(8_000_000, clock)
    clock.now_s += 3600
    async with cap.stream():
        free_bytes = 0
        while cap.book_s(1000) <= 0:
            free_bytes += 1000
    assert free_bytes <= 1_000_000 * BURST_S


async def test_oversleeping_is_made_good_within_bounds() -> None:
    clock = Clock()
    cap = RateCap(8_000_000, clock)
    async with cap.stream():
        cap.book_s(1000)
        clock.now_s += 0.1  # A busy machine: the stream comes back 99 ms late.
        assert cap.book_s(50_000) < 0, "no time of the link was lost"
        clock.now_s += 10  # Suspended: not ten seconds' worth at once.
        assert cap.book_s(1_000_000) == pytest.approx(1 - CATCH_UP_S)


async def test_streams_share_evenly() -> None:
    clock = Clock()
    cap = RateCap(8_000_000, clock)
    due = dict.fromkeys("abc", clock.now_s)
    carried = dict.fromkeys("abc", 0)
    async with cap.stream(), cap.stream(), cap.stream():
        while clock.now_s < 101:
            name = min(due, key=lambda key: due[key])
            clock.now_s = max(clock.now_s, due[name])
            due[name] = clock.now_s + cap.book_s(cap.chunk_bytes)
            carried[name] += cap.chunk_bytes
    assert max(carried.values()) - min(carried.values()) <= cap.chunk_bytes
    assert sum(carried.values()) == pytest.approx(1_000_000, rel=0.05)


def test_within_the_site_nothing_is_capped() -> None:
    uplink = Uplink("plant-a", 2_000_000)
    assert uplink.cap_to("plant-a") is None and uplink.cap_from("plant-a") is None
    assert uplink.cap_to("rack-1") is uplink.up and uplink.cap_from("") is uplink.down
    free = Uplink("plant-a", None)
    assert free.cap_to("rack-1") is None and free.cap_from("rack-1") is None


class Pair:
    """A server at site a, and clients elsewhere."""

    def __init__(self, *, server_bps: int | None = None, client_bps: int | None = None) -> None:
        self.server = DataServer(
            host="127.0.0.1", port=0, verified=self.nothing, read_log=lambda _, n_bytes: bytes(n_bytes),
            uplink=Uplink("a", server_bps),
            limits=ServerLimits(),
        )  # fmt: skip
        self.client = Client(uplink=Uplink("b", client_bps))
        self.neighbour = Client(uplink=Uplink("a", server_bps))

    async def nothing(self, _: str) -> Path | None:
        return None

    async def __aenter__(self) -> "Pair":
        self.url = await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()

    async def seconds(self, client: Client, n_bytes: int) -> float:
        """Time of a body, from the answer's head on. A log's: probes are served one at a time."""
        async with client.connect(self.url, "a") as exchange:
            await exchange.get(f"/logs/task/{n_bytes}")
            begun_s, got = time.monotonic(), 0
            async for block in exchange.body():
                got += len(block)
            assert got == n_bytes
            return time.monotonic() - begun_s


@pytest.mark.live
@pytest.mark.parametrize("end", ["server", "client"])
@pytest.mark.parametrize("rate_bps", [2_000_000, 20_000_000, 200_000_000])
async def test_real_sockets_keep_the_rate(rate_bps: int, end: str) -> None:
    caps = {"server_bps": rate_bps} if end == "server" else {"client_bps": rate_bps}
    async with Pair(**caps) as pair:
        took_s = await pair.seconds(pair.client, rate_bps // 8)
    assert took_s >= 0.95, "never faster than the cap"
    assert took_s <= 1.05 or os.getloadavg()[0] > len(os.sched_getaffinity(0)), (
        "nor slower, on a machine with a core to spare"
    )


@pytest.mark.live
async def test_concurrent_transfers_share_one_uplink(tmp_path: Path) -> None:
    async with Pair(server_bps=16_000_000) as pair:
        begun_s = time.monotonic()
        times = await asyncio.gather(*(pair.seconds(pair.client, 500_000) for _ in range(4)))
        assert time.monotonic() - begun_s >= 0.95, "2 MB at 2 MB/s"
        assert max(times) - min(times) < 0.5, "all end about together: in turn, they would be 0.25 s apart each"


@pytest.mark.live
async def test_neighbours_are_not_capped() -> None:
    async with Pair(server_bps=2_000_000) as pair:
        assert await pair.seconds(pair.neighbour, 2_000_000) < 2, "8 s through the uplink"
