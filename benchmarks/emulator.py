"""A link of any delay, jitter, loss and rate between two network namespaces, where the kernel has no `netem`.

A process holds a TUN device in each namespace and carries packets from one to the other in its own time, first in,
first out: up to about 100 Mbit/s, to a tenth of a millisecond. `python -m benchmarks.emulator NAME NAME '{json}'`
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque

import msgspec

from policies.model import Record

ADDRESSES = ("10.98.0.1", "10.98.0.2")
PACKET_BYTES_MAX = 2048
ETHERNET_BYTES = 14  # counted as the kernel's shapers do
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


class Way(Record, frozen=True, kw_only=True):
    """One direction. Each packet is delayed by `delay_us` and up to `jitter_us` more; what finds more than `queue_us`
    of others before it is dropped."""

    delay_us: int = 0
    jitter_us: int = 0
    loss_ppm: int = 0
    rate_bps: int | None = None
    queue_us: int = 400_000


class _Direction:
    def __init__(self, way: Way, target: int, seed: int) -> None:
        self._way = way
        self._target = target
        self._rng = random.Random(seed)
        self._free_s = 0.0  # the transmitter is busy until then
        self._last_s = 0.0
        self.waiting: deque[tuple[float, bytes]] = deque()

    def take(self, packet: bytes, now_s: float) -> None:
        way = self._way
        if self._rng.random() * 1e6 < way.loss_ppm:
            return
        begun_s = max(now_s, self._free_s)
        if way.rate_bps is not None:
            if begun_s - now_s > way.queue_us / 1e6:
                return
            self._free_s = begun_s + (len(packet) + ETHERNET_BYTES) * 8 / way.rate_bps
            begun_s = self._free_s
        due_s = begun_s + (way.delay_us + way.jitter_us * self._rng.random()) / 1e6
        self._last_s = max(self._last_s, due_s)  # Overtaking would be reordering, which is another fault.
        self.waiting.append((self._last_s, packet))

    def release(self, now_s: float) -> None:
        while self.waiting and self.waiting[0][0] <= now_s:
            os.write(self._target, self.waiting.popleft()[1])


def run(names: tuple[str, str], ways: tuple[Way, Way]) -> None:
    """Carry packets until killed; prints a line once the devices are up. `ways[n]` is what host n sends."""
    devices = [_open(name, address) for name, address in zip(names, ADDRESSES, strict=True)]
    directions = [_Direction(ways[0], devices[1], 1), _Direction(ways[1], devices[0], 2)]
    print("up", flush=True)
    while True:
        due = heapq.nsmallest(1, (direction.waiting[0][0] for direction in directions if direction.waiting))
        timeout_s = max(0.0, due[0] - time.monotonic()) if due else None
        ready, _, _ = select.select(devices, [], [], timeout_s)
        now_s = time.monotonic()
        for device, direction in zip(devices, directions, strict=True):
            if device in ready:
                direction.take(os.read(device, PACKET_BYTES_MAX), now_s)
            direction.release(time.monotonic())


def _open(name: str, address: str) -> int:
    """A TUN device `t0` in the namespace, up and addressed. Leaves this process there."""
    with open(f"/run/netns/{name}", "rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"t0", _IFF_TUN_NO_PI))
    for command in (("addr", "add", f"{address}/24", "dev", "t0"), ("link", "set", "t0", "up")):
        subprocess.run(["ip", *command], check=True)
    return device


if __name__ == "__main__":
    run((sys.argv[1], sys.argv[2]), msgspec.json.decode(sys.argv[3], type=tuple[Way, Way]))
