"""How well an agent measures a link of known rate, on real packets between two network namespaces.

    python -m benchmarks.network --json network.json          (root, iproute2; two minutes)

A case is a shaped link, probed once a second into the master's estimator; then its rate is halved. Rates and round
trips are the estimator's after `PROBES` probes; `noticed_s` is from the halving until its estimate is within a tenth.
The true round trip is the least of twenty pings, which the other host's kernel answers.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks import emulator, netns
from federation.config import MasterConfig
from federation.network import LinkTrack
from federation.wire import LinkSample
from policies.model import Link, Record

MBIT = 1_000_000
PROBE_BYTES = 256 * 1024
PROBES = 5
PERIOD_S = 1.0
NOTICED_S_MAX = 20.0
_SAMPLES = msgspec.json.Decoder(tuple[LinkSample, ...])


class Case(Record, frozen=True, kw_only=True):
    """Host 0 sends at `down_mbit` to host 1, which probes; `cross_milli` of that is taken by others."""

    down_mbit: int
    up_mbit: int
    cross_milli: int = 0


CASES = (
    *(Case(down_mbit=mbit, up_mbit=mbit) for mbit in (2, 5, 20, 50, 100, 200, 500)),
    Case(down_mbit=2, up_mbit=50),
    Case(down_mbit=100, up_mbit=2),
    *(Case(down_mbit=mbit, up_mbit=mbit, cross_milli=300) for mbit in (2, 20, 100, 200)),
)


class Prober:
    """A prober on host 1 of a data server on host 0, each a process of its own."""

    def __init__(self, pair: netns.Pair, until: ExitStack, address: str = netns.ADDRESSES[0]) -> None:
        server = pair.python(0, "-m", "benchmarks.network_peer", "serve", address)
        until.callback(_end, server)
        url = netns.first_line(server.stdout)
        self._process = pair.python(1, "-m", "benchmarks.network_peer", "probe", url, str(PROBE_BYTES))
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
            crossing = pair.python(0, "-m", "benchmarks.network_peer", "cross", netns.ADDRESSES[1], str(cross_bps))
            until.callback(_end, crossing)
            netns.first_line(crossing.stdout)
        yield pair, Prober(pair, until)


@contextmanager
def emulated_link(down: emulator.Way, up: emulator.Way) -> Iterator[Prober]:
    """The same over a link with delay, jitter and loss."""
    with netns.pair((1000 * MBIT, 1000 * MBIT)) as pair, ExitStack() as until:
        ways = msgspec.json.encode((down, up)).decode()
        carrier = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.emulator", *pair.names, ways], cwd=netns.ROOT, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        until.callback(_end, carrier)
        netns.first_line(carrier.stdout)
        yield Prober(pair, until, emulator.ADDRESSES[0])


class Estimator:
    """The master's own, fed with probes."""

    def __init__(self) -> None:
        config = MasterConfig()
        self._half_life_us = config.link_half_life_us
        self._track = LinkTrack("a", "b", config.link_samples_max)
        self.spent_bytes = 0

    def take(self, samples: tuple[LinkSample, ...]) -> Link:
        now_us = time.monotonic_ns() // 1000
        for sample in samples:
            self._track.add(sample, now_us)
            self.spent_bytes += sample.bytes
        return self._track.estimate(now_us, self._half_life_us)


def measure(case: Case) -> dict[str, object]:
    true_bps = case.down_mbit * MBIT
    with link(true_bps, case.up_mbit * MBIT, true_bps * case.cross_milli // 1000) as (pair, prober):
        estimator = Estimator()
        for _ in range(PROBES):
            found = estimator.take(prober.probe())
            time.sleep(PERIOD_S)
        spent_bytes = estimator.spent_bytes
        result: dict[str, object] = {
            **msgspec.structs.asdict(case), "true_bps": true_bps, "estimate_bps": found.bandwidth_bps,
            "true_rtt_us": ping_us(pair), "estimate_rtt_us": found.rtt_us, "n_probes": PROBES,
            "bytes_spent": spent_bytes,
        }  # fmt: skip
        pair.shape(0, true_bps // 2)
        begun_s = time.monotonic()
        noticed_s: float | None = None
        while noticed_s is None and time.monotonic() - begun_s < NOTICED_S_MAX:
            time.sleep(PERIOD_S)
            found = estimator.take(prober.probe())
            if found.bandwidth_bps and abs(found.bandwidth_bps - true_bps // 2) <= true_bps // 20:
                noticed_s = round(time.monotonic() - begun_s, 2)
        return {**result, "noticed_s": noticed_s}


def ping_us(pair: netns.Pair) -> int:
    """The least round trip of twenty pings."""
    return int(pair.python(1, "-m", "benchmarks.network_peer", "ping", netns.ADDRESSES[0]).communicate()[0])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the cases here as well")
    asked = parser.parse_args()
    if missing := netns.why_not():
        raise SystemExit(f"cannot measure on real packets: {missing}")
    results = []
    for case in CASES:
        result = measure(case)
        results.append(result)
        print("  ".join(f"{key}={value}" for key, value in result.items()), file=sys.stderr)
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
