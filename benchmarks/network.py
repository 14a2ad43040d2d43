"""How well a federation measures a link of known rate, on real packets between two network namespaces.

    python -m benchmarks.network --json network.json     (root, iproute2, iptables, Mosquitto; half an hour)

A case is a shaped link between two hosts with whole agents, a broker and a master (`benchmarks.netfleet`). Estimates
are what the master believes after the probes that a new link gets ahead of its budget, `bytes_spent` what the agents'
probes took until then. The true round trip is the least of twenty pings, which the other host's kernel answers.

Then what host 0 sends is halved while nothing uses the link: `noticed_idle_s` until the master's estimate is within a
tenth. The plan says one probe every `PERIOD_S` seconds, but no more than a thousandth of the link: `probe_period_s` is
what comes of that, the bytes of the first probe over that share of the link. Then it is halved again under a running
transfer: `noticed_s`; `used_bps` is what that got of it before, so that one can tell whether it was the link that held
it up.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import emulator, netfleet, netns
from federation.cli.client import Client
from federation.config import MasterConfig
from federation.jobs import Job, TaskGroup
from federation.serving import set_up_logging
from federation.wire import LinkSample
from policies.model import Needs, Record, Where

MBIT = 1_000_000
PROBE_BYTES = 256 * 1024
PERIOD_S = 5
# What a new link gets ahead of its share is three probes; a turn comes up to a tenth later than the period.
AHEAD_S = 2 * 1.1 * PERIOD_S
SHARE = 0.001  # `federation.probing.SHARE_PPM`, all of it: one pair
NOTICED_S_MAX = 30.0
TRANSFER_S = 16  # What is read takes this long at the halved rate; a quarter of it passes before that is halved again.
_SAMPLES = msgspec.json.Decoder(tuple[LinkSample, ...])


class Case(Record, frozen=True, kw_only=True):
    """Host 0 sends at `down_mbit`, host 1 at `up_mbit`; `cross_milli` of the former is taken by others. `loss_ppm` of
    what host 0 sends is lost; with a delay, which only the emulator makes, of either's."""

    down_mbit: int
    up_mbit: int
    cross_milli: int = 0
    loss_ppm: int = 0
    delay_us: int = 0

    @property
    def is_emulated(self) -> bool:
        return self.delay_us > 0


CASES = (
    *(Case(down_mbit=mbit, up_mbit=mbit) for mbit in (2, 5, 20, 50, 100, 200, 500)),
    Case(down_mbit=2, up_mbit=50),
    Case(down_mbit=100, up_mbit=2),
    *(Case(down_mbit=mbit, up_mbit=mbit, cross_milli=300) for mbit in (2, 20, 100, 200)),
    Case(down_mbit=20, up_mbit=20, loss_ppm=10_000),
    Case(down_mbit=20, up_mbit=5, delay_us=20_000, loss_ppm=5_000),
)


class Prober:
    """A prober on host 1 of a data server on host 0, each a process of its own."""

    def __init__(self, pair: netns.Pair, until: ExitStack, address: str = netns.ADDRESSES[0]) -> None:
        server = pair.python(0, "-m", "benchmarks.network_peer", "serve", address)
        until.callback(_end, server)
        self.url = netns.first_line(server.stdout)
        self._process = pair.python(1, "-m", "benchmarks.network_peer", "probe", self.url, str(PROBE_BYTES))
        until.callback(_end, self._process)

    def probe(self) -> tuple[LinkSample, ...]:
        assert self._process.stdin is not None, "piped"
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return _SAMPLES.decode(netns.first_line(self._process.stdout))


@contextmanager
def link(down_bps: int, up_bps: int, cross_bps: int = 0) -> Iterator[tuple[netns.Pair, Prober]]:
    """Two hosts, a prober, and others' traffic in the direction that is probed."""
    with netns.pair((down_bps, up_bps)) as pair, ExitStack() as until:
        if cross_bps:
            cross(pair, until, cross_bps)
        yield pair, Prober(pair, until)


def cross(pair: netns.Pair, until: ExitStack, rate_bps: int) -> None:
    """Let others send from host 0 to host 1."""
    crossing = pair.python(0, "-m", "benchmarks.network_peer", "cross", netns.ADDRESSES[1], str(rate_bps))
    until.callback(_end, crossing)
    netns.first_line(crossing.stdout)


@contextmanager
def emulated_link(down: emulator.Way, up: emulator.Way) -> Iterator[Prober]:
    """The same over a link with delay, jitter and loss."""
    with netns.pair((1000 * MBIT, 1000 * MBIT)) as pair, ExitStack() as until:
        carry(pair, until, down, up)
        yield Prober(pair, until, emulator.ADDRESSES[0])


def carry(pair: netns.Pair, until: ExitStack, down: emulator.Way, up: emulator.Way) -> None:
    """Join the hosts by an emulated link beside the shaped one."""
    ways = msgspec.json.encode((down, up)).decode()
    carrier = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.emulator", *pair.names, ways], cwd=netns.ROOT, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    until.callback(_end, carrier)
    netns.first_line(carrier.stdout)


def measure(case: Case) -> dict[str, object]:
    """One case, on a federation of its own."""
    rates_bps = case.down_mbit * MBIT, case.up_mbit * MBIT
    with _fleet_of(case, rates_bps) as built:
        netfleet.wait_for(lambda: built.bandwidth_bps(0) and built.bandwidth_bps(1), "both directions")
        probe_bytes = built.ask(probe_bytes_of)[netfleet.AGENTS[1]]
        time.sleep(AHEAD_S + 1)
        found, back = built.link(0), built.link(1)
        assert found is not None and back is not None, "waited for"
        spent_bytes = sum(built.ask(probe_bytes_of).values())
        period_s = max(PERIOD_S, probe_bytes * 8 / (rates_bps[0] * SHARE))
        result: dict[str, object] = {
            **msgspec.structs.asdict(case), "true_bps": rates_bps[0], "estimate_bps": found.bandwidth_bps,
            "true_up_bps": rates_bps[1], "estimate_up_bps": back.bandwidth_bps,
            "true_rtt_us": ping_us(built), "estimate_rtt_us": found.rtt_us, "bytes_spent": spent_bytes,
            "probe_period_s": round(period_s, 1),
        }  # fmt: skip
        noticed: dict[str, object] = {"noticed_idle_s": None, "noticed_s": None, "used_bps": None}
        if case.is_emulated:
            return result | noticed  # The emulator has one rate.
        noticed["noticed_idle_s"] = notice(built, rates_bps[0] // 2, period_s + NOTICED_S_MAX)
        if not case.cross_milli:  # A stream among others' reads its share of the link.
            begin_transfer(built, n_bytes=rates_bps[0] // 2 // 8 * TRANSFER_S)
            came_bytes = built.pair.received_bytes(1)
            time.sleep(TRANSFER_S / 4)
            noticed["used_bps"] = int((built.pair.received_bytes(1) - came_bytes) * 8 / (TRANSFER_S / 4))
            noticed["noticed_s"] = notice(built, rates_bps[0] // 4)
        return result | noticed


def probe_bytes_of(client: Client) -> dict[str, int]:
    """What each agent's probes took."""
    return {agent.agent_id: agent.probe_bytes for agent in client.agents()}


@contextmanager
def _fleet_of(case: Case, rates_bps: tuple[int, int]) -> Iterator[netfleet.Fleet]:
    with ExitStack() as until:
        folder = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="offerflow-network-")))
        addresses = netns.ADDRESSES
        if case.is_emulated:
            pair = until.enter_context(netns.pair((1000 * MBIT, 1000 * MBIT)))
            way = emulator.Way(delay_us=case.delay_us, loss_ppm=case.loss_ppm)
            carry(pair, until, *(msgspec.structs.replace(way, rate_bps=rate_bps) for rate_bps in rates_bps))
            addresses = emulator.ADDRESSES
        else:
            pair = until.enter_context(netns.pair(rates_bps))
            if case.loss_ppm:
                pair.lose(0, case.loss_ppm)
            if case.cross_milli:
                cross(pair, until, rates_bps[0] * case.cross_milli // 1000)
        master = MasterConfig(probe_every_us=PERIOD_S * 1_000_000)
        yield until.enter_context(netfleet.fleet(pair, folder, master=master, addresses=addresses))


def notice(built: netfleet.Fleet, rate_bps: int, patience_s: float = NOTICED_S_MAX) -> float | None:
    """Shape what host 0 sends to this rate; seconds until the master believes it, to a tenth. None: not in time."""
    built.pair.shape(0, rate_bps)
    is_near = partial(_is_near, built, rate_bps)
    try:
        return round(netfleet.wait_for(is_near, f"{rate_bps} bit/s", patience_s), 2)
    except TimeoutError as error:
        print(f"{error}: {built.link(0)}", file=sys.stderr)
        return None


def _is_near(built: netfleet.Fleet, rate_bps: int) -> bool:
    return abs(built.bandwidth_bps(0) - rate_bps) * 10 <= rate_bps


def begin_transfer(built: netfleet.Fleet, n_bytes: int) -> None:
    """Give host 1 a task that reads so many bytes of host 0, and wait until the first have come."""
    with (built.shards_folder(0) / "recording").open("wb") as file:
        file.truncate(n_bytes)
    netfleet.wait_for(lambda: built.ask(Client.shards), "the shard to be found")
    task = TaskGroup(
        name="read", command=("true",), reads=("recording",), needs=Needs(cpu_milli=100, memory_bytes=2**20),
        where=Where(agents=(netfleet.AGENTS[1],)),
    )  # fmt: skip
    built.ask(lambda client: client.submit(Job(name="work", tasks=(task,))))


def ping_us(built: netfleet.Fleet) -> int:
    """The least round trip of twenty pings."""
    return int(built.pair.python(1, "-m", "benchmarks.network_peer", "ping", built.addresses[0]).communicate()[0])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the cases here as well")
    parser.add_argument(
        "--case", type=int, action="append", choices=range(1, len(CASES) + 1), metavar="N", help="only this one; again"
    )
    asked = parser.parse_args()
    if missing := netfleet.why_not() or netns.why_no_loss():
        raise SystemExit(f"cannot measure on real packets: {missing}")
    set_up_logging("error", "console")
    results = []
    for case in [CASES[n - 1] for n in asked.case or range(1, len(CASES) + 1)]:
        result = measure(case)
        results.append(result)
        print("  ".join(f"{key}={value}" for key, value in result.items()), file=sys.stderr)
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
