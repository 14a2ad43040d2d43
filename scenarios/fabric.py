"""Who can reach whom: the world's network as paths between agents, and the control plane's delays."""

from collections.abc import Callable

import msgspec

from agents.data.traffic import OTHERS_MILLI_MIN
from policies.model import Record
from scenarios.faults import LinkFault
from scenarios.network import Flow, Network
from scenarios.streams import noisy, stream
from scenarios.transport import LinkSpec
from scenarios.world import World


class _Load:
    """How many transfers have something in common, and the integral of that over time."""

    __slots__ = ("_integral_us", "_updated_us", "n")

    def __init__(self, now_us: int) -> None:
        self.n = 0
        self._integral_us = 0
        self._updated_us = now_us

    def until(self, now_us: int) -> int:
        self._integral_us += self.n * (now_us - self._updated_us)
        self._updated_us = now_us
        return self._integral_us


class _Watch:
    """How much of the way a transfer had for itself while it ran: loads as they were when it began.

    Agents see one end each, one direction, and tell traffic within a site from traffic that leaves it."""

    __slots__ = ("begun_us", "begun_with", "loads", "pair")

    def __init__(self, pair: tuple[str, str], loads: "tuple[_Load, _Load, _Load]", now_us: int) -> None:
        self.pair = pair
        self.begun_us = now_us
        self.loads = loads  # of this pair, of the sender, of the receiver
        self.begun_with = tuple(load.until(now_us) for load in loads)

    def seen(self, now_us: int) -> tuple[int, int]:
        """Since it began, in transfer·µs: transfers between this pair, and others' at either end."""
        same, sent, received = (
            load.until(now_us) - begun for load, begun in zip(self.loads, self.begun_with, strict=True)
        )
        return same, sent + received - 2 * same


LOCAL = LinkSpec(rtt_us=200, bandwidth_bps=10_000_000_000)  # within a site that the world says nothing about


class Sight(Record, frozen=True, kw_only=True):
    """What an agent sees of a transfer that ended: its rate, with noise, and what it shared the way with."""

    bandwidth_bps: int
    duration_us: int
    shared_milli: int
    is_lower_bound: bool


class Look(Record, frozen=True, kw_only=True):
    """A moment of a transfer: when, how far it was, and the loads on its way until then."""

    at_us: int
    moved_bytes: int
    shared_us: int = 0
    others_us: int = 0


class Fabric:
    """Transfers between agents and the time messages take. Unknown pairs of sites have no path."""

    def __init__(self, world: World) -> None:
        self._sites = {spec.agent_id: spec.site for spec in world.agents}
        self._specs = {(from_site, to_site): spec for from_site, to_site, spec in world.links}
        for site in {*self._sites.values(), world.master_site}:
            self._specs.setdefault((site, site), LOCAL)
        links = {f"{from_site}→{to_site}": spec for (from_site, to_site), spec in self._specs.items()}
        for spec in world.agents:
            if spec.uplink is not None:
                links |= {f"{spec.agent_id}:out": spec.uplink[0], f"{spec.agent_id}:in": spec.uplink[1]}
        for name, outward, inward in world.access:
            links |= {f"{name}:out": outward, f"{name}:in": inward}
        self._access = {spec.agent_id: spec.access for spec in world.agents if spec.access}
        self._truth = dict(self._specs)  # without faults
        self._cuts: dict[tuple[str, str], int] = {}
        self._link_faults: list[LinkFault] = []
        self.network = Network(links)
        self._uplinks = {spec.agent_id: spec.uplink for spec in world.agents if spec.uplink is not None}
        self._master_site = world.master_site
        self._noise_ppm = world.noise_ppm
        self._noise = stream(world.seed, "network")
        self._on_end: dict[int, Callable[[int, Flow, Sight], None]] = {}
        self._watches: dict[int, _Watch] = {}
        self._loads: dict[tuple[str, str, bool], _Load] = {}  # (from, to, crosses), "" for anyone

    def path(self, from_agent: str, to_agent: str) -> tuple[str, ...] | None:
        """Link ids from one agent to another; empty on the same agent, None when there is no way."""
        if from_agent == to_agent:
            return ()
        from_site, to_site = self._sites[from_agent], self._sites[to_agent]
        if (from_site, to_site) not in self._specs:
            return None
        outward, inward = self._access.get(from_agent, ()), self._access.get(to_agent, ())
        core = f"{from_site}→{to_site}"
        way: tuple[str, ...] = (core,)
        if from_site != to_site:
            out = (f"{from_agent}:out",) if from_agent in self._uplinks else ()
            into = (f"{to_agent}:in",) if to_agent in self._uplinks else ()
            way = (*out, *way, *into)
        else:
            while outward and inward and outward[-1] == inward[-1]:  # They meet below the core: in a pod, in a rack.
                outward, inward, way = outward[:-1], inward[:-1], ()
        if not outward and not inward:
            return way or (core,)
        return (*(f"{name}:out" for name in outward), *way, *(f"{name}:in" for name in reversed(inward)))

    def transfer(
        self, from_agent: str, to_agent: str, size_bytes: int, now_us: int, on_end: Callable[[int, Flow, Sight], None]
    ) -> int | None:
        """Start moving bytes; `on_end(now_us, flow, sight)` follows. Returns the flow's id, None without a path."""
        path = self.path(from_agent, to_agent)
        if path is None:
            return None
        flow_id = self.network.start(path, size_bytes, now_us)
        self._watches[flow_id] = self._begin_watch(from_agent, to_agent, now_us)
        self._on_end[flow_id] = on_end
        return flow_id

    def look(self, flow_id: int, now_us: int) -> Look:
        """How far a transfer under way has come."""
        shared_us, others_us = self._watches[flow_id].seen(now_us)
        moved_bytes = self.network.moved_bytes(flow_id, now_us)
        return Look(at_us=now_us, moved_bytes=moved_bytes, shared_us=shared_us, others_us=others_us)

    def began_us(self, flow_id: int) -> int:
        """When a transfer under way began to move bytes."""
        return self.network.started_us(flow_id)

    def sight_between(self, before: Look, after: Look) -> Sight:
        """What an agent sees of a transfer between two looks."""
        duration_us = max(1, after.at_us - before.at_us)
        rate_bps = (after.moved_bytes - before.moved_bytes) * 8_000_000 // duration_us
        return Sight(
            bandwidth_bps=noisy(rate_bps, self._noise_ppm, self._noise),
            duration_us=duration_us,
            shared_milli=max(1000, (after.shared_us - before.shared_us) * 1000 // duration_us),
            is_lower_bound=(after.others_us - before.others_us) * 1000 >= OTHERS_MILLI_MIN * duration_us,
        )

    def cancel(self, flow_id: int, now_us: int) -> None:
        self.network.cancel(flow_id, now_us)
        self._on_end.pop(flow_id, None)
        watch = self._watches.pop(flow_id, None)
        if watch is not None:
            self._end_watch(watch, now_us)

    def next_end_us(self) -> int | None:
        return self.network.next_end_us()

    def settle(self, now_us: int) -> None:
        """Tell the owners of all flows that have ended by now."""
        ended = self.network.ended(now_us)
        watches = [self._watches.pop(flow.flow_id) for flow in ended]
        for watch in watches:  # before their owners begin new ones
            self._end_watch(watch, now_us)
        for flow, watch in zip(ended, watches, strict=True):
            shared_us, others_us = watch.seen(now_us)
            duration_us = now_us - flow.started_us
            watched_us = max(1, now_us - watch.begun_us)  # with its start-up
            sight = Sight(
                bandwidth_bps=self._measured_bps(flow, now_us),
                duration_us=duration_us,
                shared_milli=max(1000, shared_us * 1000 // watched_us),
                is_lower_bound=others_us * 1000 >= OTHERS_MILLI_MIN * watched_us,
            )
            on_end = self._on_end.pop(flow.flow_id, None)
            if on_end is not None:  # else its owner, told of another, has cancelled it at this very moment
                on_end(now_us, flow, sight)

    def _begin_watch(self, from_agent: str, to_agent: str, now_us: int) -> _Watch:
        loads = []
        for key in self._load_keys((from_agent, to_agent)):
            if key not in self._loads:
                self._loads[key] = _Load(now_us)
            loads.append(self._loads[key])
        watch = _Watch((from_agent, to_agent), (loads[0], loads[1], loads[2]), now_us)
        for load in loads:
            load.n += 1
        return watch

    def _end_watch(self, watch: _Watch, now_us: int) -> None:
        for key, load in zip(self._load_keys(watch.pair), watch.loads, strict=True):
            load.until(now_us)
            load.n -= 1
            if not load.n:
                del self._loads[key]

    def _load_keys(self, pair: tuple[str, str]) -> tuple[tuple[str, str, bool], ...]:
        crosses = self._sites[pair[0]] != self._sites[pair[1]]
        return ((*pair, crosses), (pair[0], "", crosses), ("", pair[1], crosses))

    def is_busy(self, from_agent: str, to_agent: str) -> bool:
        """Whether a probe would measure its share only: transfers between sites leave one end or reach the other."""
        return (from_agent, "", True) in self._loads or ("", to_agent, True) in self._loads

    def start_up_us(self, from_agent: str, to_agent: str) -> int:
        path = self.path(from_agent, to_agent)
        return self.network.start_up_us(path) if path else 0

    def rtt_us(self, from_agent: str, to_agent: str) -> int | None:
        """One measured round trip: the link's own and a share of its jitter."""
        path = self.path(from_agent, to_agent)
        back = self.path(to_agent, from_agent)
        if path is None or back is None:
            return None
        specs = [self.network.link(link_id) for link_id in path]
        return sum(spec.rtt_us + int(spec.jitter_us * self._noise.random()) for spec in specs)

    def rtt_of_sites(self, from_site: str, to_site: str) -> int | None:
        """The true round trip between two sites now, without jitter; None while there is no way."""
        ways = ((from_site, to_site), (to_site, from_site))
        if any(way not in self._specs or way in self._cuts for way in ways):
            return None
        return self._specs[from_site, to_site].rtt_us

    def _measured_bps(self, flow: Flow, now_us: int) -> int:
        """What an agent would report of this transfer: size over duration, with measurement noise."""
        duration_us = max(1, now_us - flow.started_us)
        return noisy(flow.size_bytes * 8 * 1_000_000 // duration_us, self._noise_ppm, self._noise)

    def control_delay_us(self, agent_id: str, *, to_agent: bool = False) -> int | None:
        """One way between an agent and the master; None while there is no path. Control bytes are too few to queue."""
        site = self._sites[agent_id]
        way = (self._master_site, site) if to_agent else (site, self._master_site)
        spec = self._specs.get(way)
        if spec is None or (self._cuts and way in self._cuts):
            return None
        delay_us = spec.rtt_us // 2 + int(spec.jitter_us * self._noise.random())
        line = self._uplinks.get(agent_id)
        if line is not None and site != self._master_site:
            delay_us += line[0].rtt_us // 2
            if line[0].jitter_us:
                delay_us += int(line[0].jitter_us * self._noise.random())
        return delay_us

    def reaches_master(self, agent_id: str) -> bool:
        """Both ways: a connection needs them."""
        site = self._sites[agent_id]
        ways = ((site, self._master_site), (self._master_site, site))
        return all(way in self._specs and way not in self._cuts for way in ways)

    # --- what breaks -------------------------------------------------------------------------------------------------

    def cut(self, way: tuple[str, str], now_us: int) -> None:
        """No bytes pass from one site to another; cuts nest."""
        self._cuts[way] = self._cuts.get(way, 0) + 1
        self._refresh(way, now_us)

    def mend(self, way: tuple[str, str], now_us: int) -> None:
        self._cuts[way] -= 1
        if not self._cuts[way]:
            del self._cuts[way]
        self._refresh(way, now_us)

    def is_cut(self, from_agent: str, to_agent: str) -> bool:
        return (self._sites[from_agent], self._sites[to_agent]) in self._cuts

    def begin_fault(self, fault: LinkFault, now_us: int) -> None:
        self._link_faults.append(fault)
        for way in fault.ways:
            self._refresh(way, now_us)

    def end_fault(self, fault: LinkFault, now_us: int) -> None:
        self._link_faults.remove(fault)
        for way in fault.ways:
            self._refresh(way, now_us)

    def vary(self, way: tuple[str, str], spec: LinkSpec, now_us: int) -> None:
        """The truth itself changes, as measured links do."""
        self._truth[way] = spec
        self._refresh(way, now_us)

    def _refresh(self, way: tuple[str, str], now_us: int) -> None:
        spec = self._truth.get(way)
        if spec is None:
            return  # There was no path before.
        for fault in self._link_faults:
            if way in fault.ways:
                changes = {name: value for name in ("bandwidth_bps", "rtt_us", "jitter_us", "loss_ppm")
                           if (value := getattr(fault, name)) is not None}  # fmt: skip
                spec = msgspec.structs.replace(spec, **changes)
        self._specs[way] = spec
        if way in self._cuts:
            spec = msgspec.structs.replace(spec, bandwidth_bps=0, shared=True)
        self.network.set_link(f"{way[0]}→{way[1]}", spec, now_us)

    def bytes_by_link(self) -> dict[str, int]:
        """What each link carried that carried anything."""
        carried = self.network.bytes_carried()
        return {name: carried[name] for a, b in self._specs if carried[name := f"{a}→{b}"]}

    def bytes_between_sites(self) -> int:
        """All bytes carried by links whose ends are different sites."""
        carried = self.network.bytes_carried()
        return sum(carried[f"{a}→{b}"] for a, b in self._specs if a != b)
