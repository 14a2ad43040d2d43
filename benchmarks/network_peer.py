"""One end of a measured link, as a process of its own: `serve` as an agent's data server does, `probe` as its prober
does, `ping`, or put `cross` traffic on the way. For `benchmarks.network` and the tests on real packets."""

import asyncio
import socket
import struct
import sys
import time
from pathlib import Path

import msgspec

from agents.data.client import Client
from agents.data.rate import Uplink
from agents.data.server import DataServer
from agents.events import Event, LinksMeasured
from agents.probes.prober import Prober
from federation.wire import Peer

TOKEN = "measured"
CROSS_BYTES = 1200


async def serve(host: str) -> None:
    """Print the URL, serve until standard input ends."""

    async def nothing(_: str) -> Path | None:
        return None

    server = DataServer(
        host=host, port=0, verified=nothing, read_log=lambda *_: None, uplink=Uplink("a", None), token=TOKEN
    )
    print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


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
        case ["cross", host, rate_bps]:
            cross(host, int(rate_bps))
        case ["ping", host]:
            ping(host)
        case _:
            raise SystemExit("ping HOST | serve HOST | probe URL BYTES | cross HOST BPS")


if __name__ == "__main__":
    main()
