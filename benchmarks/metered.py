"""What an idle agent takes of a line that is paid by the byte: real packets, counted by the host's interface.

    python -m benchmarks.metered --json PATH [--minutes 32]     (root, iproute2, Mosquitto, openssl)

Two hosts of `benchmarks.netfleet`, the broker over TLS; the agent of host 1 is metered, everything at its defaults. The
interface counts IP packets both ways; the hosts' own neighbour discovery is off, which no mobile line has.
`idle_bytes_per_month` is the rate from the second minute on, times 30 days, echoes, renewals and reports included;
`probe_bytes` what the first probes took, each way one, with what came before, which happens once a day; `month_bytes`
is 30 days of both. `told_bytes` and `true_bytes` are the agent's own count when it first told of it, and the
interface's then. A report comes every half hour, so that fewer minutes than 31 compare nothing.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import netfleet, netns
from federation.cli.client import Client
from federation.serving import set_up_logging

MBIT = 1_000_000
MONTH_S = 30 * 86_400
SETTLE_S = 60.0
ETHERNET_BYTES = 14


def interface_bytes(pair: netns.Pair) -> int:
    """All that host 1 has sent and received, without Ethernet's headers."""
    names = [f"/sys/class/net/v0/statistics/{way}_{unit}" for way in ("rx", "tx") for unit in ("bytes", "packets")]
    counts = [int(line) for line in pair.popen(1, "cat", *names).communicate()[0].split()]
    return counts[0] + counts[2] - ETHERNET_BYTES * (counts[1] + counts[3])


@contextlib.contextmanager
def quiet_pair() -> Iterator[netns.Pair]:
    with netns.pair((20 * MBIT, 5 * MBIT)) as pair:
        pair.quieten()
        yield pair


def measure(minutes: float) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory(prefix="offerflow-metered-") as folder,
        quiet_pair() as pair,
        netfleet.fleet(pair, Path(folder), agents=({}, {"metered": True}), is_tls=True) as built,
    ):
        begun_s = time.monotonic()
        netfleet.wait_for(lambda: built.bandwidth_bps(0) and built.bandwidth_bps(1), "both directions")
        time.sleep(SETTLE_S)
        first_bytes, first_s = interface_bytes(pair), time.monotonic()
        told: dict[str, int | None] = {"told_bytes": None, "true_bytes": None}
        while time.monotonic() - begun_s < 60 * minutes:
            time.sleep(1)
            wire_bytes = built.ask(lambda client: client.agent(netfleet.AGENTS[1]).wire_bytes)
            if wire_bytes and not told["told_bytes"] and time.monotonic() - begun_s > 1500:
                told = {"told_bytes": wire_bytes, "true_bytes": interface_bytes(pair)}
        last_bytes, passed_s = interface_bytes(pair), time.monotonic() - first_s
        idle_bytes_per_month = round((last_bytes - first_bytes) / passed_s * MONTH_S)
        return {
            "minutes": round(passed_s / 60, 1), "probe_bytes": first_bytes, "idle_bytes": last_bytes - first_bytes,
            "idle_bytes_per_month": idle_bytes_per_month, "month_bytes": idle_bytes_per_month + 30 * first_bytes,
            **told, "online": built.ask(Client.status).agents.get("online", 0),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--minutes", type=float, default=32.0, help="how long it idles")
    options = parser.parse_args()
    if missing := netfleet.why_not():
        raise SystemExit(f"cannot measure on real packets: {missing}")
    set_up_logging("error", "console")
    figures = measure(options.minutes)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
