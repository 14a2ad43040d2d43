"""What a transport protocol makes of a path: how long until bytes move, how fast at most, and how flows share.

Two published models of TCP over flow-level networks, both as SimGrid has them, and one without a protocol:

- `CM02`: Casanova and Marchal, A network model for simulation of grid application (INRIA RR-4596, 2002): flows share
  a link in proportion to 1 / round trip, and a window bounds each;
- `LV08`: Velho and Legrand, Accuracy study and improvement of network simulation in the SimGrid framework (SIMUTools
  2009), CM02 fitted to packet-level simulation: slow start costs 13.01 one-way latencies before bytes move, headers
  leave 97 % of the bandwidth, and sharing counts 20,537 bytes' worth of each link's transmission time with the latency;
- `PLAIN`: equal shares; the connection and the request cost 1.5 round trips.

Loss bounds a flow by the steady state of TCP (Padhye, Firoiu, Towsley, Kurose, Modeling TCP throughput, SIGCOMM 1998,
without delayed acknowledgements), which is Mathis et al. (1997) for small losses and counts time-outs for large ones.
Jitter counts as half its width: the mean round trip is what windows, loss recovery and sharing depend on.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from policies.kernels.maxmin import ONE, RATE_MAX
from policies.model import Record

SEGMENT_BYTES = 1460  # Ethernet's MTU less IP and TCP headers.
TIMEOUT_US_MIN = 200_000  # Linux's least retransmission time-out (TCP_RTO_MIN).
FULL_WEIGHT_NS = 25_000  # A flow that meets no more delay than this has the largest weight.


class LinkSpec(Record, frozen=True, kw_only=True):
    """The truth about one directed link. `shared` false gives every flow the whole bandwidth (a well-sized core)."""

    rtt_us: int
    bandwidth_bps: int
    jitter_us: int = 0
    loss_ppm: int = 0
    shared: bool = True


class Terms(NamedTuple):
    """One link's part in what a path is."""

    round_trip_us: int  # the mean
    sharing_ns: int  # of `sharing_bytes`
    limit_bps: int  # for each flow alone, where it is not shared
    loses: bool
    spec: LinkSpec


class Way(NamedTuple):
    """What a path is to a flow: until the first byte moves, the most it may move, its part in sharing (1 to ONE)."""

    start_up_us: int
    limit_bps: int
    weight: int


class Transport(Record, frozen=True, kw_only=True):
    """The constants of a model; thousandths and millionths so that everything stays an integer."""

    startup_milli: int  # one-way latencies before the first byte moves
    bandwidth_ppm: int  # of a link's bandwidth that is left for bytes of ours
    window_bytes: int | None  # at most this much in flight
    is_rtt_fair: bool  # every flow the same share, whatever its round trip
    sharing_bytes: int = 0  # whose transmission time on each link counts with the latency

    def capacity_bps(self, spec: LinkSpec) -> int:
        return min(RATE_MAX, spec.bandwidth_bps * self.bandwidth_ppm // 1_000_000)

    def terms(self, spec: LinkSpec) -> Terms:
        """What a link adds to every path over it: found once a link, not once a path."""
        return Terms(
            round_trip_us([spec]),
            self.sharing_bytes * 8_000_000_000 // spec.bandwidth_bps if spec.bandwidth_bps else 0,
            RATE_MAX if spec.shared else self.capacity_bps(spec),
            spec.loss_ppm > 0,
            spec,
        )

    def way(self, path: Sequence[Terms]) -> Way:
        """What a path is to any flow over it. Window, loss and links that are not shared limit each; its part in
        sharing is inverse to latency and `sharing_bytes` over each link."""
        rtt_us = sharing_ns = 0
        limit_bps, lossy = RATE_MAX, False
        for link_rtt_us, link_sharing_ns, link_limit_bps, loses, _ in path:
            rtt_us += link_rtt_us
            sharing_ns += link_sharing_ns
            if link_limit_bps < limit_bps:
                limit_bps = link_limit_bps
            if loses:
                lossy = True
        if self.window_bytes is not None and rtt_us > 0:
            limit_bps = min(limit_bps, self.window_bytes * 8 * self.bandwidth_ppm // rtt_us)  # headers count in it too
        if lossy:
            limit_bps = min(limit_bps, tcp_bound_bps([link.spec for link in path]))
        delay_ns = rtt_us * 500 + sharing_ns
        weight = ONE if self.is_rtt_fair else max(1, min(ONE, ONE * FULL_WEIGHT_NS // max(1, delay_ns)))
        return Way(rtt_us * self.startup_milli // 2000, limit_bps, weight)


PLAIN = Transport(startup_milli=3_000, bandwidth_ppm=1_000_000, window_bytes=None, is_rtt_fair=True)
CM02 = Transport(startup_milli=1_000, bandwidth_ppm=1_000_000, window_bytes=4_194_304, is_rtt_fair=False)
LV08 = Transport(
    startup_milli=13_010, bandwidth_ppm=970_000, window_bytes=4_194_304, is_rtt_fair=False, sharing_bytes=20_537
)


def round_trip_us(path: Sequence[LinkSpec]) -> int:
    """The mean round trip: jitter adds between nothing and its whole width."""
    return sum(spec.rtt_us + spec.jitter_us // 2 for spec in path)


def tcp_bound_bps(path: Sequence[LinkSpec]) -> int:
    """Throughput of one long TCP flow over these links: unbounded without loss, nothing where all is lost."""
    rtt_s = round_trip_us(path) / 1e6
    arrives = math.prod(1 - spec.loss_ppm / 1e6 for spec in path)
    loss = 1 - arrives
    if loss <= 0:
        return RATE_MAX
    if arrives <= 0:
        return 0
    timeout_s = max(TIMEOUT_US_MIN / 1e6, 4 * rtt_s)
    per_segment_s = rtt_s * math.sqrt(2 * loss / 3)
    per_segment_s += timeout_s * min(1.0, 3 * math.sqrt(3 * loss / 8)) * loss * (1 + 32 * loss * loss)
    return min(RATE_MAX, int(SEGMENT_BYTES * 8 / per_segment_s))
