"""How fast the kernel saw a body of ours delivered: TCP_INFO of the sending socket, filtered.

`tcpi_delivery_rate` is that of the last flight, and keeps its peak while there is nothing to send: taken as it stands
it reads up to ten times the link's rate. So readings taken while the application was the limit are left out, the median
over the whole body counts, and a rate is believed only where the body took long enough, the receiver's window and our
own buffer held it up for a tenth of the time at most, and acknowledged bytes over busy time bear it out. Anything else
is a lower bound: those bytes over that time.

Delivery rate and its limit by the application: Y. Cheng, N. Cardwell, S. Hassas Yeganeh and V. Jacobson, Delivery Rate
Estimation, draft-cheng-iccrg-delivery-rate-estimation, 2017; what held a sender up: `tcpi_busy_time` and its parts
(include/uapi/linux/tcp.h).
"""

import statistics
from collections import deque

from agents.probes.tcp_info import TcpInfo
from policies.model import Record

BYTES_MIN = 1_000_000  # Below, slow start is too great a part,
SETTLED_US_MIN = 1_000_000  # unless it went on for so long: fewer bytes are past it on a slow way.
LOOK_S_MIN = 0.05  # between two readings: some flights on the ways of a city, and cheap
LOOKS_MAX = 512  # the newest
LOOKS_MIN = 4  # readings worth keeping, for a median
BUSY_US_MIN = 200_000
LIMITED_MILLI_MAX = 100
HELD_MILLI_MIN = 500  # of late: then there is room beside it on the way
HELD_S_MIN, HELD_S_MAX = 0.5, 2.0  # what "of late" spans
# A round trip that much over the least, and over half as much again, is a queue: the way is full all the same. Less may
# be acknowledgements that a receiver delays (40 ms, Linux).
QUEUE_US_MAX = 50_000
PEAK_MAX = 2  # times what was acknowledged over the time it took: slow start explains no more of a long body


class DeliveryRate(Record, frozen=True, kw_only=True):
    bandwidth_bps: int
    is_lower_bound: bool
    limited_milli: int  # of the time, in which something else than the way held it up
    loss_ppm: int | None  # of the bytes of its second half that were sent, those that were sent again
    rtt_us: int | None  # the least since the connection began
    n_bytes: int
    duration_us: int


class Delivery:
    """Of one body over one connection, whose kernel counts since it was opened."""

    def __init__(self, first: TcpInfo | None, now_s: float) -> None:
        self._first = first
        self._begun_s = self._looked_s = now_s
        self._idle_us = 0  # with nothing under way: our own disk or process was slow
        self._looks: list[TcpInfo] = []  # the newest
        self._held: deque[tuple[float, int]] = deque()  # (when, µs held up until then by anything but the way), of late

    def is_due(self, now_s: float) -> bool:
        return self._first is not None and now_s - self._looked_s >= LOOK_S_MIN

    def look(self, info: TcpInfo | None, now_s: float) -> None:
        """A reading while the body goes out."""
        self._looked_s = now_s
        if self._first is None or info is None or info.busy_us is None or self._first.busy_us is None:
            return
        self._idle_us = max(0, int((now_s - self._begun_s) * 1e6) - (info.busy_us - self._first.busy_us))
        self._looks = [*self._looks[1 - LOOKS_MAX :], info]
        self._held.append((now_s, info.limited_us - self._first.limited_us + self._idle_us))
        while now_s - self._held[0][0] > HELD_S_MAX:
            self._held.popleft()

    def is_held(self) -> bool:
        """Whether there is room beside it: something else than the way has held it up for most of the newest readings'
        time, and no queue stands before the way."""
        if not self._held:
            return False
        newest = self._looks[-1]
        least_us = newest.rtt_us_min or 0
        if newest.rtt_us is None or newest.rtt_us - least_us > max(QUEUE_US_MAX, least_us // 2):
            return False
        (begun_s, before_us), (ended_s, held_us) = self._held[0], self._held[-1]
        span_s = ended_s - begun_s
        return span_s >= HELD_S_MIN and (held_us - before_us) * 1000 >= HELD_MILLI_MIN * 1e6 * span_s

    def end(self, info: TcpInfo | None) -> DeliveryRate | None:
        """By the reading at which all was acknowledged. None for too little, and on kernels before 4.10 and 4.19."""
        first = self._first
        if first is None or info is None or info.acked_bytes is None or first.acked_bytes is None:
            return None
        if info.busy_us is None or first.busy_us is None:
            return None
        n_bytes, busy_us = info.acked_bytes - first.acked_bytes, info.busy_us - first.busy_us
        if n_bytes < BYTES_MIN or busy_us <= 0:
            return None
        limited_us = info.limited_us - first.limited_us
        whole_us = busy_us + self._idle_us
        limited_milli = min(1000, (limited_us + self._idle_us) * 1000 // whole_us)
        mean_bps = n_bytes * 8_000_000 // whole_us
        rates_bps = [look.delivery_bps for look in self._looks if look.delivery_bps and not look.app_limited]
        median_bps = int(statistics.median(rates_bps)) if rates_bps else 0
        is_settled = (
            len(rates_bps) >= LOOKS_MIN
            and busy_us >= BUSY_US_MIN
            and limited_milli <= LIMITED_MILLI_MAX
            and mean_bps <= PEAK_MAX * median_bps <= PEAK_MAX * PEAK_MAX * mean_bps
        )
        return DeliveryRate(
            bandwidth_bps=median_bps if is_settled else mean_bps,
            is_lower_bound=not is_settled,
            limited_milli=limited_milli,
            loss_ppm=self._lost_ppm(first.acked_bytes + n_bytes // 2, info),
            rtt_us=info.rtt_us_min,
            n_bytes=n_bytes,
            duration_us=whole_us,
        )

    def _lost_ppm(self, half_bytes: int, last: TcpInfo) -> int | None:
        """Slow start fills the queue before the way until it overflows, once: what that lost says nothing."""
        begun = next((look for look in self._looks if (look.acked_bytes or 0) >= half_bytes), None)
        if begun is None or last.sent_bytes is None or begun.sent_bytes is None:
            return None
        sent_bytes, resent_bytes = last.sent_bytes - begun.sent_bytes, last.resent_bytes - begun.resent_bytes
        return resent_bytes * 1_000_000 // sent_bytes if sent_bytes > 0 else None


def is_brief(n_bytes: int, duration_us: int) -> bool:
    """Whether a transfer says no more than what the way gives at least: most of it may have been its start."""
    return n_bytes < BYTES_MIN and duration_us < SETTLED_US_MIN
