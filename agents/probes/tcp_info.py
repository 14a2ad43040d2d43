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
_ACKED = struct.Struct("=Q")  # tcpi_bytes_acked (Linux 4.1)
_ACKED_AT = 120
_BUSY = struct.Struct("=QQQ")  # tcpi_busy_time, tcpi_rwnd_limited, tcpi_sndbuf_limited, µs (Linux 4.10)
_BUSY_AT = 168
_SENT = struct.Struct("=QQ")  # tcpi_bytes_sent, tcpi_bytes_retrans (Linux 4.19)
_SENT_AT = 200
_APP_LIMITED_AT = 7  # tcpi_delivery_rate_app_limited: bit 0 of this byte
_NEVER = 0xFFFFFFFF  # tcpi_min_rtt before the first sample


class TcpInfo(Record, frozen=True, kw_only=True):
    """Each reading is None where the kernel is too old or has not measured it yet."""

    rtt_us: int | None = None
    rtt_deviation_us: int | None = None
    rtt_us_min: int | None = None
    delivery_bps: int | None = None  # of the last acknowledged flight of what *we* sent
    app_limited: bool = False  # the sender had too little to send: `delivery_bps` is only a lower bound
    # Since the connection was opened, of what we sent:
    acked_bytes: int | None = None
    busy_us: int | None = None  # with bytes under way
    limited_us: int = 0  # of that, held up by the receiver's window or by our own buffer
    sent_bytes: int | None = None  # with what was sent again
    resent_bytes: int = 0


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
    acked_bytes, busy_us, window_us, buffer_us, sent_bytes, resent_bytes = None, None, 0, 0, None, 0
    if len(raw) >= _ACKED_AT + _ACKED.size:
        (acked_bytes,) = _ACKED.unpack_from(raw, _ACKED_AT)
    if len(raw) >= _BUSY_AT + _BUSY.size:
        busy_us, window_us, buffer_us = _BUSY.unpack_from(raw, _BUSY_AT)
    if len(raw) >= _SENT_AT + _SENT.size:
        sent_bytes, resent_bytes = _SENT.unpack_from(raw, _SENT_AT)
    return TcpInfo(
        rtt_us=rtt_us or None,
        rtt_deviation_us=deviation_us if rtt_us else None,
        rtt_us_min=rtt_us_min,
        delivery_bps=rate * 8 if rate else None,
        app_limited=bool(raw[_APP_LIMITED_AT] & 1),
        acked_bytes=acked_bytes,
        busy_us=busy_us,
        limited_us=window_us + buffer_us,
        sent_bytes=sent_bytes,
        resent_bytes=resent_bytes,
    )
