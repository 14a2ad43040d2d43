"""The simulated network: flows share directed links max-min fairly, in simulated time.

Flow-level: a flow has a path of links and perhaps a cap of its own. It waits for its start-up, then moves bytes at its
max-min fair rate, which changes only when a flow starts or ends or a link changes; the kernel works out anew only what
such a change can reach (`policies/kernels/maxmin`). What TCP makes of latency, jitter and loss is the transport's
model (`scenarios/transport.py`). Integer microseconds and bits throughout, so that runs are equal bit by bit; agents
*measure* this network, the master never sees it.
"""

from collections.abc import Iterable

import numpy as np

from policies.kernels import maxmin
from policies.kernels.jit import Int64s
from policies.kernels.maxmin import CAPACITY, LEFT_MAX, NEVER, OUT, RATE_MAX
from scenarios.transport import LV08, Terms, Transport, Way
from scenarios.transport import LinkSpec as LinkSpec  # a network's callers need no other module

BIT_US = 8_000_000  # one byte in bit·µs/s: rate × elapsed is then an integer
PIECE_BYTES = LEFT_MAX // BIT_US  # the kernel's most; what is larger moves in pieces, without a gap
SLOTS = 64  # room for flows at first; doubled when full
HOPS = 4


class Flow:
    """One transfer. It was asked for at `asked_us` and begins to move bytes at `started_us`."""

    __slots__ = ("asked_us", "cap_bps", "flow_id", "path", "pieces_left", "size_bytes", "slot", "started_us", "way")

    def __init__(
        self,
        flow_id: int,
        path: tuple[str, ...],
        way: "_Path",
        size_bytes: int,
        cap_bps: int | None,
        asked_us: int,
        started_us: int,
    ) -> None:
        self.flow_id = flow_id
        self.path = path
        self.way = way
        self.size_bytes = size_bytes
        self.cap_bps = cap_bps
        self.asked_us = asked_us
        self.started_us = started_us
        self.pieces_left = 0 if size_bytes <= PIECE_BYTES or not path else (size_bytes - 1) // PIECE_BYTES
        self.slot = -1


class _Path:
    """What all flows over one path have in common, while its links stay as they are."""

    __slots__ = ("carried", "limit_bps", "links", "shared", "start_up_us", "weight")

    def __init__(self, links: tuple[str, ...], shared: Int64s, way: Way) -> None:
        self.links = links
        self.carried = 0  # bytes of flows that have left, not yet added up by link
        self.shared = shared  # the kernel's numbers of the links that are shared
        self.start_up_us, self.limit_bps, self.weight = way


class Network:
    """Links by id and the flows on them. Time is an argument and never runs backwards; the player asks `next_end_us`
    and calls `ended` then."""

    def __init__(self, links: dict[str, LinkSpec], transport: Transport = LV08) -> None:
        self._transport = transport
        self._links: dict[str, Terms] = {}
        self._numbers: dict[str, int] = {}
        self._shared: dict[str, int] = {}  # those of links that are
        self._paths: dict[tuple[str, ...], _Path] = {}
        self._flows: dict[int, Flow] = {}
        self._in_slot: list[Flow | None] = [None] * SLOTS
        self._free = list(range(SLOTS - 1, -1, -1))
        self._hops_max = HOPS
        self._tables = maxmin.tables(SLOTS, max(1, len(links)), HOPS)
        self._whole = self._tables.whole
        self._out = self._tables.work[OUT]
        self._n_started = 0
        self._carried: dict[str, int] = dict.fromkeys(links, 0)  # bytes of flows that have left
        self._to_count: list[_Path] = []  # what paths have carried beside
        self._now_us = 0
        self._is_stale = False  # something changed at `_now_us`, and rates do not tell yet
        self._next_us = NEVER
        for link_id, spec in links.items():
            self._put(link_id, spec)

    def link(self, link_id: str) -> LinkSpec:
        return self._links[link_id].spec

    def set_link(self, link_id: str, spec: LinkSpec, now_us: int) -> None:
        """Change a link, or add one, under the flows that cross it."""
        self._move_to(now_us)
        crossing = [flow for flow in self._flows.values() if link_id in flow.path]
        left = [self._take_off(flow) for flow in crossing]
        self._put(link_id, spec)
        self._paths = {path: known for path, known in self._paths.items() if link_id not in path}
        for flow, amount in zip(crossing, left, strict=True):
            flow.way = self._path(flow.path)
            self._put_on(flow, amount)
        self._is_stale = True

    def start(self, path: Iterable[str], size_bytes: int, now_us: int, cap_bps: int | None = None) -> int:
        """Begin a flow over `path` (empty: within one machine, ends at once); returns its id."""
        if now_us != self._now_us:
            self._move_to(now_us)
        self._n_started += 1
        path = tuple(path)
        way = self._paths.get(path) or self._path(path)
        flow = Flow(self._n_started, path, way, size_bytes, cap_bps, now_us, now_us + way.start_up_us)
        self._flows[flow.flow_id] = flow
        self._put_on(flow, (size_bytes - flow.pieces_left * PIECE_BYTES) * BIT_US if path else 0)
        self._is_stale = True
        return flow.flow_id

    def cancel(self, flow_id: int, now_us: int) -> None:
        """Take a flow out, whatever it has moved; one that is not under way is no mistake."""
        self._move_to(now_us)
        flow = self._flows.pop(flow_id, None)
        if flow is not None:
            left = self._take_off(flow)
            self._count(flow, _moved_bytes(flow, left))
            self._is_stale = True

    def next_end_us(self) -> int | None:
        """When a flow next begins to move or ends; None while nothing will."""
        if self._is_stale:
            self._share()
        return None if self._next_us == NEVER else self._next_us

    def ended(self, now_us: int) -> list[Flow]:
        """Take out the flows that have moved their last byte by `now_us`, in the order they were asked for."""
        if now_us != self._now_us:
            self._move_to(now_us)
        due_us = maxmin.pass_due(self._whole, now_us)
        self._is_stale = due_us < 0
        if due_us >= 0:
            self._next_us = due_us
            return []
        done = []
        for slot in self._out[:-due_us].tolist():
            flow = self._in_slot[slot]
            assert flow is not None
            self._in_slot[slot] = None
            self._free.append(slot)
            if flow.pieces_left:
                flow.pieces_left -= 1
                self._put_on(flow, LEFT_MAX)
                continue
            del self._flows[flow.flow_id]
            self._count(flow, flow.size_bytes)
            done.append(flow)
        if len(done) > 1:
            done.sort(key=lambda flow: flow.flow_id)
        return done

    def rates_bps(self) -> dict[int, int]:
        """What each flow moves at now, by its id; 0 while it starts up."""
        if self._is_stale:
            self._share()
        return {flow_id: int(maxmin.rate_of(self._whole, flow.slot)) for flow_id, flow in self._flows.items()}

    def bytes_carried(self) -> dict[str, int]:
        """What each link has carried so far, flows under way included. One pass over links and flows."""
        for way in self._to_count:
            for link_id in way.links:
                self._carried[link_id] += way.carried
            way.carried = 0
        self._to_count.clear()
        carried = dict(self._carried)
        for flow in self._flows.values():
            moved = _moved_bytes(flow, int(maxmin.left_at(self._whole, flow.slot, self._now_us)))
            for link_id in flow.path:
                carried[link_id] += moved
        return carried

    def moved_bytes(self, flow_id: int, now_us: int) -> int:
        """What a flow under way has moved by now."""
        self._move_to(now_us)
        flow = self._flows[flow_id]
        return _moved_bytes(flow, int(maxmin.left_at(self._whole, flow.slot, now_us)))

    def started_us(self, flow_id: int) -> int:
        """When a flow under way began to move, or will."""
        return self._flows[flow_id].started_us

    def start_up_us(self, path: tuple[str, ...]) -> int:
        """From asking for a flow over `path` to its first byte."""
        return self._path(path).start_up_us

    def _put(self, link_id: str, spec: LinkSpec) -> None:
        if spec.bandwidth_bps > RATE_MAX:
            raise ValueError(f"link {link_id} has {spec.bandwidth_bps} bit/s; the most is {RATE_MAX}")
        number = self._numbers.setdefault(link_id, len(self._numbers))
        if number >= len(self._tables.links):
            self._grow(len(self._in_slot), 2 * number, self._hops_max)
        self._links[link_id] = self._transport.terms(spec)
        if spec.shared:
            self._shared[link_id] = number
        else:
            self._shared.pop(link_id, None)
        self._carried.setdefault(link_id, 0)
        self._tables.links[number, CAPACITY] = self._transport.capacity_bps(spec)

    def _path(self, path: tuple[str, ...]) -> _Path:
        known = self._paths.get(path)
        if known is None:
            links = [self._links[link_id] for link_id in path]
            shared = [self._shared[link_id] for link_id in path if link_id in self._shared]
            known = self._paths[path] = _Path(path, np.array(shared, np.int64), self._transport.way(links))
            if len(shared) > self._hops_max:
                self._grow(len(self._in_slot), len(self._tables.links), 2 * len(shared))
        return known

    def _put_on(self, flow: Flow, left: int) -> None:
        """Give a flow a slot; it begins to move at its start or now, whichever is later."""
        known = flow.way
        if not self._free:
            self._grow(2 * len(self._in_slot), len(self._tables.links), self._hops_max)
        flow.slot = self._free.pop()
        self._in_slot[flow.slot] = flow
        limit_bps = known.limit_bps if flow.cap_bps is None else min(flow.cap_bps, known.limit_bps)
        now_us, start_us = self._now_us, flow.started_us
        if start_us < now_us:
            start_us = now_us
        maxmin.enter(self._whole, flow.slot, known.shared, left, limit_bps, known.weight, start_us, now_us)

    def _take_off(self, flow: Flow) -> int:
        """Take a flow's slot; returns what it had left, in bit·µs/s."""
        left = int(maxmin.left_at(self._whole, flow.slot, self._now_us))
        maxmin.leave(self._whole, flow.slot)
        self._in_slot[flow.slot] = None
        self._free.append(flow.slot)
        return left

    def _count(self, flow: Flow, n_bytes: int) -> None:
        if not flow.way.carried:
            self._to_count.append(flow.way)
        flow.way.carried += n_bytes

    def _move_to(self, now_us: int) -> None:
        if now_us != self._now_us:
            assert now_us > self._now_us, "time runs backwards"
            if self._is_stale:
                self._share()
            self._now_us = now_us

    def _share(self) -> None:
        self._next_us = maxmin.share(self._whole, self._now_us)
        self._is_stale = False

    def _grow(self, n_slots: int, n_links: int, hops_max: int) -> None:
        n_before = len(self._in_slot)
        self._tables = maxmin.grown(self._tables, n_slots, n_links, hops_max)
        self._whole = self._tables.whole
        self._out = self._tables.work[OUT]
        self._hops_max = hops_max
        self._in_slot += [None] * (n_slots - n_before)
        self._free += range(n_slots - 1, n_before - 1, -1)


def _moved_bytes(flow: Flow, left: int) -> int:
    """Whole bytes that a flow has moved when its piece has `left` bit·µs/s to go."""
    return flow.size_bytes - flow.pieces_left * PIECE_BYTES - -(-left // BIT_US)
