"""The simulated network: flows share directed links max-min fairly, in simulated time.

Flow-level model: a flow has a path of links and perhaps a cap of its own; all rates are the max-min fair ones
(progressive filling, Bertsekas and Gallager, Data Networks, 1987, §6.5), recomputed whenever a flow starts or ends or
a link changes. A flow begins to move bytes 1.5 round trips after it starts (connection and request), and on a lossy
path it is bounded by the steady state of TCP (Mathis et al., 1997). Integer microseconds and bytes throughout, so that
runs are equal bit by bit; agents *measure* this network, the master never sees it.
"""

import math
from collections.abc import Iterable

from policies.model import Record

SECOND_US = 1_000_000
SEGMENT_BYTES = 1460  # Ethernet's MTU less IP and TCP headers.
MATHIS_MILLI = 1225  # √(3/2), the constant for delayed-ack-free Reno, in thousandths.


class LinkSpec(Record, frozen=True, kw_only=True):
    """The truth about one directed link. `shared` false gives every flow the whole bandwidth (a well-sized core)."""

    rtt_us: int
    bandwidth_bps: int
    jitter_us: int = 0
    loss_ppm: int = 0
    shared: bool = True


class Flow:
    """One transfer under way. `left_bits` is exact at `updated_us`; `rate_bps` holds from then on."""

    __slots__ = ("cap_bps", "flow_id", "left_bits", "path", "rate_bps", "size_bytes", "started_us", "updated_us")

    def __init__(self, flow_id: int, path: tuple[str, ...], size_bytes: int, cap_bps: int | None, now_us: int) -> None:
        self.flow_id = flow_id
        self.path = path
        self.size_bytes = size_bytes
        self.cap_bps = cap_bps
        self.left_bits = size_bytes * 8 * SECOND_US  # in bit·µs/s: rate × elapsed is then an integer
        self.rate_bps = 0
        self.started_us = now_us
        self.updated_us = now_us

    def end_us(self) -> int | None:
        """When it ends at the present rate; None while it gets nothing."""
        if self.left_bits <= 0:
            return self.updated_us
        return None if self.rate_bps <= 0 else self.updated_us + -(-self.left_bits // self.rate_bps)


class Network:
    """Links by id and the flows on them. Time is an argument; the player asks `next_end_us` and calls `ended`."""

    def __init__(self, links: dict[str, LinkSpec]) -> None:
        self._links = dict(links)
        self._flows: dict[int, Flow] = {}
        self._n_started = 0
        self._carried: dict[str, int] = dict.fromkeys(links, 0)  # bit·µs/s, exact

    def link(self, link_id: str) -> LinkSpec:
        return self._links[link_id]

    def set_link(self, link_id: str, spec: LinkSpec, now_us: int) -> None:
        self._advance(now_us)
        self._links[link_id] = spec
        self._carried.setdefault(link_id, 0)
        self._share()

    def start(self, path: Iterable[str], size_bytes: int, now_us: int, cap_bps: int | None = None) -> int:
        """Begin a flow over `path` (empty: within one machine, ends at once); returns its id."""
        self._advance(now_us)
        self._n_started += 1
        flow = Flow(self._n_started, tuple(path), size_bytes, cap_bps, now_us)
        if not flow.path:
            flow.left_bits = 0
        self._flows[flow.flow_id] = flow
        self._share()
        return flow.flow_id

    def cancel(self, flow_id: int, now_us: int) -> None:
        self._advance(now_us)
        self._flows.pop(flow_id, None)
        self._share()

    def next_end_us(self) -> int | None:
        return min((end for flow in self._flows.values() if (end := flow.end_us()) is not None), default=None)

    def ended(self, now_us: int) -> list[Flow]:
        """Take out the flows that have moved their last byte by `now_us`, in the order they started."""
        self._advance(now_us)
        done = [flow for flow in self._flows.values() if flow.left_bits <= 0]
        for flow in done:
            del self._flows[flow.flow_id]
        if done:
            self._share()
        return done

    def bytes_carried(self, link_id: str) -> int:
        return self._carried[link_id] // (8 * SECOND_US)

    def start_up_us(self, path: tuple[str, ...]) -> int:
        """Before the first byte: one round trip to connect, half of one for the request."""
        return sum(self._links[link_id].rtt_us for link_id in path) * 3 // 2

    def _advance(self, now_us: int) -> None:
        for flow in self._flows.values():
            moved = min(flow.left_bits, flow.rate_bps * (now_us - flow.updated_us))
            flow.left_bits -= moved
            flow.updated_us = now_us
            for link_id in flow.path:
                self._carried[link_id] += moved

    def _share(self) -> None:
        """Progressive filling: raise all rates together, freeze the flows of each link that fills, go on."""
        limits: dict[int, int] = {}
        for flow in self._flows.values():
            own = [self._links[link_id].bandwidth_bps for link_id in flow.path if not self._links[link_id].shared]
            if flow.cap_bps is not None:
                own.append(flow.cap_bps)
            own.append(tcp_bound_bps(self._links[link_id] for link_id in flow.path))
            limits[flow.flow_id] = min(own)
        left = {link_id: spec.bandwidth_bps for link_id, spec in self._links.items() if spec.shared}
        users: dict[str, list[int]] = {}
        for flow in self._flows.values():
            for link_id in flow.path:
                if link_id in left:
                    users.setdefault(link_id, []).append(flow.flow_id)
        active = {flow.flow_id: flow for flow in self._flows.values()}
        while active:
            fair = {
                link_id: left[link_id] // n_active
                for link_id, ids in users.items()
                if (n_active := sum(flow_id in active for flow_id in ids))
            }
            level = min([*fair.values(), *(limits[flow_id] for flow_id in active)])
            full = {link_id for link_id, share in fair.items() if share == level}
            frozen = [
                flow for flow in active.values() if limits[flow.flow_id] == level or not full.isdisjoint(flow.path)
            ]
            for flow in frozen:
                flow.rate_bps = level
                del active[flow.flow_id]
                for link_id in flow.path:
                    if link_id in left:
                        left[link_id] -= level


def tcp_bound_bps(links: Iterable[LinkSpec]) -> int:
    """Throughput of one long TCP flow over these links: unbounded without loss, else MSS/RTT · √(3/2p)."""
    rtt_us, loss = 0, 0.0
    for spec in links:
        rtt_us += spec.rtt_us
        loss = 1 - (1 - loss) * (1 - spec.loss_ppm / 1e6)
    if loss <= 0 or rtt_us <= 0:
        return 2**62
    return int(SEGMENT_BYTES * 8 * MATHIS_MILLI * 1000 / (rtt_us * math.sqrt(loss)))
