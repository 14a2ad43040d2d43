"""Two hosts with a shaped link between them, on real packets: network namespaces, a veth pair, a token bucket each way.

Needs root and iproute2; `why_not` says what is missing. Names carry the process id, so runs do not meet.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
ADDRESSES = ("10.99.0.1", "10.99.0.2")
# What home gateways and small switches hold back: enough that a burst of a probe's size is delayed, not dropped.
QUEUE_MS = 400
# A bucket of a millisecond, at least ten full segments: about as narrow as `tbf` keeps its rate with.
BURST_BYTES_MIN = 15_140


def why_not() -> str:
    """What keeps this machine from building namespaces; "" for nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"iproute2 is not installed: no {', '.join(missing)}"
    name = f"try{os.getpid()}"
    if _tried("ip", "netns", "add", name):
        return "this kernel or container allows no network namespaces"
    try:
        inside = ("ip", "netns", "exec", name)
        if _tried(*inside, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"):
            return "this kernel has no veth"
        if _tried(*inside, "tc", "qdisc", "add", "dev", "v0", "root", *_bucket(10_000_000)):
            return "this kernel has no tbf queueing discipline"
    finally:
        _tried("ip", "netns", "del", name)
    return ""


def why_no_loss() -> str:
    """What keeps this machine from losing packets at random; "" for nothing."""
    return "" if shutil.which("iptables") else "iptables is not installed (apt-get install iptables)"


class Pair:
    """Hosts 0 and 1. `rates_bps[n]` shapes what host n sends."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names

    def shape(self, host: int, rate_bps: int) -> None:
        """Set what `host` sends to this rate from now on."""
        _run("ip", "netns", "exec", self.names[host], "tc", "qdisc", "replace", "dev", "v0", "root", *_bucket(rate_bps))

    def lose(self, host: int, loss_ppm: int) -> None:
        """Lose this part of what reaches the other host: its kernel throws the dice for each packet."""
        _run(
            "ip", "netns", "exec", self.names[1 - host], "iptables", "-A", "INPUT", "-i", "v0",
            "-m", "statistic", "--mode", "random", "--probability", str(loss_ppm / 1e6), "-j", "DROP",
        )  # fmt: skip

    def received_bytes(self, host: int) -> int:
        """What has come over the link to `host` so far, headers included."""
        counter = "/sys/class/net/v0/statistics/rx_bytes"
        return int(_run("ip", "netns", "exec", self.names[host], "cat", counter))

    def quieten(self) -> None:
        """No neighbour discovery, no IPv6: what crosses the link from now on is what programs send."""
        for host, name in enumerate(self.names):
            found = _run("ip", "netns", "exec", self.names[1 - host], "cat", "/sys/class/net/v0/address")
            inside = ("ip", "netns", "exec", name)
            _run(*inside, "ip", "neigh", "replace", ADDRESSES[1 - host], "lladdr", found.strip(), "dev", "v0",
                 "nud", "permanent")  # fmt: skip
            _run(*inside, "ip", "link", "set", "dev", "v0", "addrgenmode", "none")
            _run(*inside, "ip", "-6", "addr", "flush", "dev", "v0")

    def popen(self, host: int, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command on a host, from the root of the repository, its output piped."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *command], cwd=ROOT, text=True, env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def python(self, host: int, *args: str) -> subprocess.Popen[str]:
        return self.popen(host, PYTHON, "-P", *args, env={**os.environ, "PYTHONPATH": str(ROOT)})


@contextlib.contextmanager
def pair(rates_bps: tuple[int, int]) -> Iterator[Pair]:
    """Raises `subprocess.CalledProcessError` where `why_not` would have told why."""
    names = (f"of{os.getpid()}a", f"of{os.getpid()}b")
    made: list[str] = []
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            made.append(name)
        link = ("ip", "link", "add", "v0", "netns", names[0], "type", "veth", "peer", "name", "v0", "netns", names[1])
        _run(*link)
        built = Pair(names)
        for host, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            for command in (
                ("ip", "addr", "add", f"{address}/24", "dev", "v0"),
                ("ip", "link", "set", "v0", "up"),
                ("ip", "link", "set", "lo", "up"),
            ):
                _run("ip", "netns", "exec", name, *command)
            built.shape(host, rates_bps[host])
        yield built
    finally:
        for name in made:
            _tried("ip", "netns", "del", name)


def first_line(stream: IO[str] | None) -> str:
    assert stream is not None, "piped"
    return stream.readline().strip()


def _bucket(rate_bps: int) -> tuple[str, ...]:
    burst_bytes = max(BURST_BYTES_MIN, rate_bps // 8 // 1000)
    return ("tbf", "rate", f"{rate_bps}bit", "burst", str(burst_bytes), "latency", f"{QUEUE_MS}ms")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _tried(*command: str) -> bool:
    """Whether it failed."""
    return subprocess.run(command, check=False, capture_output=True).returncode != 0
