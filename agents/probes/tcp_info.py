"""TCP_INFO: what the Linux kernel has measured on a live TCP connection, read without sending a byte."""

import socket
import struct

from policies.model import Record

# struct tcp_info of include/uapi/linux/tcp.h: offsets are ABI, later kernels only append.
_RTT = struct.Struct("=II")  # tcpi_rtt, tcpi_rttvar: smoothed round trip and its mean deviation, µs
_RTT_AT = 68
_MIN_RTT = struct.Struct("=I")  # tcpi_min_rtt, µs (Linux 4.6)
_MIN_RTT_AT = 148
_RATE = struct.Struct("=Q")  # tcpi_delivery_rate, bytes per second (Linux 4.9)
_RATE_AT = 160
_APP_LIMITED_AT = 7  # tcpi_delivery_rate_app_limited: bit 0 of this byte
_NEVER = 0xFFFFFFFF  # tcpi_min_rtt before the first sample


class TcpInfo(Record, frozen=True, kw_only=True):
    """Each reading is None where the kernel is too old or has not measured it yet."""

    rtt_us: int | None = None
    rtt_deviation_us: int | None = None
    rtt_us_min: int | None = None
    delivery_bps: int | None = None  # of the last acknowledged flight of what *we* sent
    app_limited: bool = False  # the sender had too little to send: `delivery_bps` is only a lower bound


def read_tcp_info(connection: socket.socket) -> TcpInfo | None:
    """None where the platform has no TCP_INFO or the socket is no connected TCP one."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, option, 256)
    except OSError:
        return None
    return parse_tcp_info(raw)


def parse_tcp_info(raw: bytes) -> TcpInfo | None:
    """Read a `struct tcp_info` in this machine's byte order; None if it is too short to hold a round trip."""
    if len(raw) < _RTT_AT + _RTT.size:
        return None
    rtt_us, deviation_us = _RTT.unpack_from(raw, _RTT_AT)
    rtt_us_min, rate = None, None
    if len(raw) >= _MIN_RTT_AT + _MIN_RTT.size:
        (found,) = _MIN_RTT.unpack_from(raw, _MIN_RTT_AT)
        rtt_us_min = found if 0 < found < _NEVER else None
    if len(raw) >= _RATE_AT + _RATE.size:
        (rate,) = _RATE.unpack_from(raw, _RATE_AT)
    return TcpInfo(
        rtt_us=rtt_us or None,
        rtt_deviation_us=deviation_us if rtt_us else None,
        rtt_us_min=rtt_us_min,
        delivery_bps=rate * 8 if rate else None,
        app_limited=bool(raw[_APP_LIMITED_AT] & 1),
    )
