"""One end of a measured link, as a process of its own: `serve` as an agent's data server does, `probe` as its prober
does, or put `cross` traffic on the way. For `benchmarks.network` and the tests on real packets."""

import asyncio
import socket
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


def main() -> None:
    match sys.argv[1:]:
        case ["serve", host]:
            asyncio.run(serve(host))
        case ["probe", url, bytes_max]:
            asyncio.run(probe(url, int(bytes_max)))
        case ["cross", host, rate_bps]:
            cross(host, int(rate_bps))
        case _:
            raise SystemExit("serve HOST | probe URL BYTES | cross HOST BPS")


if __name__ == "__main__":
    main()
