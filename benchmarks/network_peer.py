"""One end of a measured link, as a process of its own: `serve` as an agent's data server does, `probe` as its prober
does, `fetch` as any client of a data server, `ping`, or put `cross` traffic on the way. For `benchmarks.network` and
the tests on real packets."""

import asyncio
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from agents.data.client import Client
from agents.data.rate import Uplink
from agents.data.server import DataServer
from agents.events import Event, FetchesProgressed, LinksMeasured
from agents.probes.prober import Prober
from federation.wire import Peer

TOKEN = "measured"
CROSS_BYTES = 1200


async def serve(host: str) -> None:
    """Print the URL, serve until standard input ends; print a line of JSON for each sample of a shard that went out.
    Shard N, in 64 hexadecimal digits, has N bytes."""

    async def made(shard_id: str) -> Path:
        path = Path(folder) / shard_id
        with path.open("wb") as file:
            file.truncate(int(shard_id, 16))
        return path

    async def tell(event: Event) -> None:
        if isinstance(event, FetchesProgressed):
            print(msgspec.json.encode(event.samples).decode(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        server = DataServer(
            host=host, port=0, verified=made, read_log=lambda *_: None, uplink=Uplink("a", None), token=TOKEN,
            agent_id="a", post=tell,
        )  # fmt: skip
        print(await server.start(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()


async def fetch(url: str, n_bytes: int, bps_max: int) -> None:
    """Take a shard in, no faster than this (0: as it comes); print what it shared the way with, and its rate."""
    client = Client(uplink=Uplink("b", None), agent_id="b", token=TOKEN)
    async with client.connect(url, "a") as exchange:
        await exchange.get(f"/shards/{n_bytes:064x}")
        begun_s, n_come = time.monotonic(), 0
        async for block in exchange.body():
            n_come += len(block)
            if bps_max:
                await asyncio.sleep(max(0.0, begun_s + n_come * 8 / bps_max - time.monotonic()))
        rate_bps = int(n_come * 8 / (time.monotonic() - begun_s))
        sharing = await exchange.sharing()
    print(sharing.limited_milli, sharing.is_lower_bound, rate_bps, flush=True)


async def probe(url: str, bytes_max: int) -> None:
    """Probe whenever a line comes in; print a line of samples as JSON."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    prober = Prober(Client(uplink=Uplink("b", None), agent_id="b", token=TOKEN), events.put, agent_id="b")
    while await asyncio.to_thread(sys.stdin.readline):
        await prober.probe(Peer(agent_id="a", site="a", data_url=url), bytes_max)
        measured = events.get_nowait()
        assert isinstance(measured, LinksMeasured)
        print(msgspec.json.encode(measured.samples).decode(), flush=True)


def cross(host: str, rate_bps: int) -> None:
    """Send datagrams nobody reads at an even rate, until standard input ends (its owner kills this process)."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    step_s = CROSS_BYTES * 8 / rate_bps
    due_s = time.monotonic()
    print("sending", flush=True)
    while True:
        sender.sendto(bytes(CROSS_BYTES), (host, 9))
        due_s += step_s
        time.sleep(max(0.0, due_s - time.monotonic()))


def ping(host: str) -> None:
    """Print the least round trip of twenty echo requests (ICMP), in µs."""
    least_us = 2**62
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(2)
        for number in range(20):
            head = struct.pack("!BBHHH", 8, 0, 0, 1, number)
            total = sum(struct.unpack("!4H", head))
            checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
            begun_ns = time.perf_counter_ns()
            raw.sendto(struct.pack("!BBHHH", 8, 0, checksum, 1, number), (host, 0))
            raw.recv(100)
            least_us = min(least_us, (time.perf_counter_ns() - begun_ns) // 1000)
    print(least_us, flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["serve", host]:
            asyncio.run(serve(host))
        case ["probe", url, bytes_max]:
            asyncio.run(probe(url, int(bytes_max)))
        case ["fetch", url, n_bytes, bps_max]:
            asyncio.run(fetch(url, int(n_bytes), int(bps_max)))
        case ["cross", host, rate_bps]:
            cross(host, int(rate_bps))
        case ["ping", host]:
            ping(host)
        case _:
            raise SystemExit("ping HOST | serve HOST | probe URL BYTES | fetch URL BYTES BPS | cross HOST BPS")


if __name__ == "__main__":
    main()
