"""Packet trains: what a link carries at most, from the spacing it leaves between datagrams sent back to back.

A train is short enough to queue as a whole, so others' traffic queues before or behind it and its spacing shows the
link's capacity, where a stream would show what is left. Only its second half counts: behind a token bucket the first
passes at the speed of the wire, and whole trains read 25 to 67 % too high. Third and fourth quarter must agree; else
the sender's bucket was not empty yet, or the train is too short for the receiver's clock.
"""

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from policies.model import Record

PACKET_BYTES = 1200  # Small enough for any tunnel: IPv6 asks for 1280, QUIC starts from this.
IP_BYTES = 28  # IPv4 and UDP: part of what the link carries.
LENGTHS = (64, 144, 256)  # packets of a train, and of the next where it settles nothing: 75, 169, 300 KiB
PACKETS_MAX = LENGTHS[-1]
AGREE_MILLI = 100
MOMENTS_MIN = 8  # two a quarter
FIRST_WAIT_S = 0.7  # for the first packet, per hello; a satellite's round trip
SILENCE_S = 0.35  # no more will come: longer than what 1200 bytes take at 50 kbit/s
TRAIN_S_MAX = 5.0
HELLOS = 3
_HEAD = struct.Struct("!QIIq")  # nonce, place, waits of the sender so far, sent at (ns, its clock)
_PADDING = bytes(PACKET_BYTES - _HEAD.size)
# Packets handed to the kernel at once (UDP_SEGMENT, linux/udp.h): with a system call each this sender would reach
# 1 Gbit/s, less where it shares a processor with the shaper. Virtual links keep them together, so they are few.
AT_ONCE = 4
_SEGMENT = (socket.IPPROTO_UDP, 103, struct.pack("=H", PACKET_BYTES))
_HELLO = struct.Struct("!Q")
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; not in Python's socket module
_TIMESPEC = struct.Struct("@qq")
_STRETCH_MILLI = 1300  # A link that spreads a train by less than this may have kept up with its sender.
_HALF_NS_MIN = 1_000_000  # Shapers save up a millisecond, network cards gather interrupts over a tenth of one.


class Arrival(NamedTuple):
    """One datagram of a train; times in ns, each of its own clock."""

    place: int  # in the train, from 0
    n_waits: int  # of the sender for its own machine to take more: the link begins there
    sent_ns: int
    received_ns: int
    n_bytes: int


class TrainRate(Record, frozen=True, kw_only=True):
    """`is_steady`: both quarters of the second half agree, and it took long enough to tell. `is_queued`: the link was
    slower than the sender; if not, the rate is the sender's and the link gives at least that."""

    bandwidth_bps: int
    is_steady: bool
    is_queued: bool
    n_bytes: int
    duration_us: int


def rate_of_train(arrivals: Sequence[Arrival]) -> TrainRate | None:
    """From datagrams in the order they came; None for too few. Lost ones leave no gap a queue would not fill."""
    moments = _moments(arrivals)
    n = len(moments)
    if n < MOMENTS_MIN:
        return None
    third, fourth = _bps(moments[n // 2 : 3 * n // 4 + 1]), _bps(moments[3 * n // 4 :])
    begun, ended = moments[n // 2].last, moments[-1].last
    sent_ns = ended.sent_ns - begun.sent_ns
    return TrainRate(
        bandwidth_bps=_bps(moments[n // 2 :]),
        is_steady=abs(third - fourth) * 1000 <= AGREE_MILLI * max(third, fourth)
        and ended.received_ns - begun.received_ns >= _HALF_NS_MIN,
        is_queued=ended.n_waits > begun.n_waits
        or (ended.received_ns - begun.received_ns) * 1000 >= _STRETCH_MILLI * sent_ns,
        n_bytes=sum(arrival.n_bytes for arrival in arrivals),
        duration_us=(arrivals[-1].received_ns - arrivals[0].received_ns) // 1000,
    )


class _Moment(NamedTuple):
    """Datagrams that came together: handed on in one piece by a virtual link."""

    last: Arrival
    n_bytes: int


def _moments(arrivals: Sequence[Arrival]) -> list[_Moment]:
    """With times that rise; a clock set back meanwhile makes later ones useless."""
    found: list[_Moment] = []
    for arrival in arrivals:
        n_bytes = arrival.n_bytes + IP_BYTES
        if found and arrival.received_ns == found[-1].last.received_ns:
            found[-1] = _Moment(arrival, found[-1].n_bytes + n_bytes)
        elif not found or arrival.received_ns > found[-1].last.received_ns:
            found.append(_Moment(arrival, n_bytes))
    return found


def _bps(moments: Sequence[_Moment]) -> int:
    """Bits that came after the first moment's, over the time they took."""
    elapsed_ns = moments[-1].last.received_ns - moments[0].last.received_ns
    return sum(moment.n_bytes for moment in moments[1:]) * 8 * 1_000_000_000 // elapsed_ns


# --- both ends. Blocking: for threads --------------------------------------------------------------------------------


def send(sender: socket.socket, address: tuple[object, ...], nonce: int, n_packets: int) -> int:
    """Send a train as fast as the socket takes it; bytes sent. Raises `OSError`."""
    deadline_s = time.monotonic() + TRAIN_S_MAX
    n_sent, n_waits, at_once = 0, 0, AT_ONCE
    while n_sent < n_packets and time.monotonic() < deadline_s:
        last = min(n_packets, n_sent + at_once)
        now_ns = time.monotonic_ns()
        packets = b"".join(_HEAD.pack(nonce, place, n_waits, now_ns) + _PADDING for place in range(n_sent, last))
        try:
            sender.sendmsg([packets], [_SEGMENT] if at_once > 1 else [], 0, address)
            n_sent = last
        except BlockingIOError:
            n_waits += 1
            select.select([], [sender], [], SILENCE_S)
        except OSError:
            if at_once == 1:
                raise
            at_once = 1  # A kernel before 4.18, or a device that cannot.
    return n_sent * PACKET_BYTES


def parse_hello(data: bytes) -> int | None:
    """The nonce that asks for a train."""
    return int(_HELLO.unpack(data)[0]) if len(data) == _HELLO.size else None


def receive(host: str, port: int, nonce: int, n_packets: int) -> list[Arrival]:
    """Ask `host` for the train it has promised, and take it in. Empty where none comes: UDP may be filtered."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as receiver:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            receiver.connect(address)
            return _take_in(receiver, nonce, n_packets)
    except OSError:
        return []


def _take_in(receiver: socket.socket, nonce: int, n_packets: int) -> list[Arrival]:
    arrivals: list[Arrival] = []
    hellos = 0
    deadline_s = time.monotonic() + TRAIN_S_MAX
    while len(arrivals) < n_packets and time.monotonic() < deadline_s:
        if not arrivals:
            if hellos == HELLOS:
                break
            receiver.send(_HELLO.pack(nonce))
            hellos += 1
        receiver.settimeout(SILENCE_S if arrivals else FIRST_WAIT_S)
        try:
            data, controls, _, _ = receiver.recvmsg(2 * PACKET_BYTES, 64)
        except TimeoutError:
            if arrivals:
                break
            continue
        if len(data) != PACKET_BYTES:
            continue
        found, place, n_waits, sent_ns = _HEAD.unpack_from(data)
        if found == nonce:
            arrivals.append(Arrival(place, n_waits, sent_ns, _stamp_ns(controls), len(data)))
    return arrivals


def _stamp_ns(controls: Sequence[tuple[int, int, bytes]]) -> int:
    """When the kernel took the datagram in; now, where it does not say."""
    for level, kind, value in controls:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()
