"""An agent's data in a simulated device: its store, and transfers and probes as flows between it and its peers."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec.structs import replace

from agents import commands, events
from agents.agent import Agent
from agents.metering import ECHO_BYTES
from agents.probes.delivery import BYTES_MIN, is_brief
from federation.wire import FetchProgress, HeldShard, LinkSample, Source
from scenarios.broker import Timetable
from scenarios.fabric import Fabric, Look, Sight
from scenarios.network import Flow
from scenarios.world import World

PROBE_TIMEOUT_US = 10_000_000  # what the live prober allows itself
PROGRESS_US = 2_000_000  # how often the live fetcher tells of a transfer
TAIL_US_MIN = 250_000  # the end of one that was told of says nothing more when it is shorter
STALL_US = 30_000_000  # A fetch that gets no bytes for this long tries its next source, as the live one does.
PPM = 1_000_000


class _Stream:
    """One source's part of a fetch. `told` is how far it was when the master was last told."""

    __slots__ = ("done_bytes", "fetch_id", "flow_id", "later", "server", "shard", "told")

    def __init__(
        self, fetch_id: int, shard: HeldShard, server: "SimulatedData", later: tuple[Source, ...], done_bytes: int
    ) -> None:
        self.fetch_id = fetch_id
        self.shard = shard
        self.server = server
        self.later = later  # sources to try after this one
        self.done_bytes = done_bytes  # here before it began
        self.flow_id = 0
        self.told: Look | None = None

    @property
    def known_bytes(self) -> int:
        return self.done_bytes + (self.told.moved_bytes if self.told is not None else 0)


class Host(Protocol):
    """What its data need to know of an agent's process."""

    core: Agent | None  # None: no process runs
    life: int  # counts its starts and ends

    @property
    def boot(self) -> int | None: ...
    def post(self, at_us: int, event: events.Event) -> None: ...


class SimulatedData:
    """Carries out what one agent's commands ask of its data. `peers` are those of all agents by id, these included."""

    def __init__(
        self,
        agent_id: str,
        world: World,
        fabric: Fabric,
        timetable: Timetable,
        peers: "Mapping[str, SimulatedData]",
        host: Host,
    ) -> None:
        self._agent_id = agent_id
        self._fabric = fabric
        self._timetable = timetable
        self._peers = peers
        self._host = host
        self._may_break = bool(world.faults)
        self.store = {
            shard_id_of(shard.name): HeldShard(
                shard_id=shard_id_of(shard.name), size_bytes=shard.size_bytes, name=shard.name
            )
            for shard in world.shards
            if shard.agent_id == agent_id
        }
        self._serving: dict[int, Callable[[int], None]] = {}  # flows out of here → what to do when they break
        self._fetching: dict[int, SimulatedData] = {}  # flows to here → who serves them
        self._streams: dict[int, _Stream] = {}  # fetches under way
        self.disk_is_full = False
        self.probe_bytes_left: int | None = None  # for peers' probes; None: its line is not paid by the byte
        self.bandwidth_ppm = PPM  # what it multiplies the bandwidths by that it reports

    def drop(self, now_us: int) -> None:
        """The process is gone, and with it every flow from and to here; the store stays."""
        for flow_id, server in list(self._fetching.items()):
            self._fabric.cancel(flow_id, now_us)
            server._serving.pop(flow_id, None)
        self._fetching.clear()
        self._streams.clear()
        for flow_id, broken in list(self._serving.items()):
            self._fabric.cancel(flow_id, now_us)
            broken(now_us)
        self._serving.clear()

    # --- shards ------------------------------------------------------------------------------------------------------

    def fetch(self, command: commands.Fetch, now_us: int) -> None:
        wanted = command.fetch
        shard = HeldShard(shard_id=wanted.shard_id, size_bytes=wanted.size_bytes, name=wanted.name)
        if wanted.shard_id in self.store:
            self._host.post(now_us, events.FetchEnded(fetch_id=command.fetch_id, shard=shard, ok=True))
        elif self.disk_is_full:
            self._fail_fetch(command.fetch_id, shard, "disk_full", "no space left on the device", now_us)
        else:
            self._fetch_from(command.fetch_id, shard, wanted.sources, now_us)

    def _fail_fetch(self, fetch_id: int, shard: HeldShard, reason: str, detail: str, now_us: int) -> None:
        self._host.post(
            now_us, events.FetchEnded(fetch_id=fetch_id, shard=shard, ok=False, reason=reason, detail=detail)
        )

    def _fetch_from(
        self, fetch_id: int, shard: HeldShard, sources: tuple[Source, ...], now_us: int, done_bytes: int = 0
    ) -> None:
        """Try these in order; a source that fails midway leaves its turn to the next, which goes on from there."""
        for index, source in enumerate(sources):
            server = self._peers.get(source.agent_id)
            if server is None or server._host.core is None or shard.shard_id not in server.store:
                continue
            stream = _Stream(fetch_id, shard, server, sources[index + 1 :], done_bytes)
            if self._transfer(stream, now_us):
                return
        self._fail_fetch(fetch_id, shard, "fetch", "no source has a path to here", now_us)

    def _transfer(self, stream: "_Stream", now_us: int) -> bool:
        """False where there is no path."""
        own_id, life, server = self._agent_id, self._host.life, stream.server
        source, shard = server._agent_id, stream.shard

        def arrived(ended_us: int, flow: Flow, sight: Sight) -> None:
            self._fetching.pop(flow.flow_id, None)
            server._serving.pop(flow.flow_id, None)
            if life != self._host.life:
                return
            self._streams.pop(stream.fetch_id, None)
            if self.disk_is_full:
                self._fail_fetch(stream.fetch_id, shard, "disk_full", "no space left on the device", ended_us)
                return
            self.store[shard.shard_id] = shard
            n_bytes = flow.size_bytes
            if stream.told is not None:  # The rest: what came before was told of as it came.
                n_bytes -= stream.told.moved_bytes
                rate_bps = n_bytes * 8_000_000 // max(1, ended_us - stream.told.at_us)
                sight = replace(sight, bandwidth_bps=rate_bps, duration_us=ended_us - stream.told.at_us)
            is_telling = stream.told is None or sight.duration_us >= TAIL_US_MIN
            if is_brief(flow.size_bytes, sight.duration_us):
                sight = replace(sight, is_lower_bound=True)
            samples = (self._transfer_sample(source, sight, n_bytes),) if is_telling else ()
            server._claim(own_id, sight, n_bytes, ended_us)
            fetched = events.FetchEnded(
                fetch_id=stream.fetch_id, shard=shard, ok=True, fetched_bytes=shard.size_bytes, samples=samples
            )
            self._host.post(ended_us, fetched)

        left_bytes = max(1, shard.size_bytes - stream.done_bytes) if shard.size_bytes else 0
        flow_id = self._fabric.transfer(source, own_id, left_bytes, now_us, arrived)
        if flow_id is None:
            return False

        def broken(at_us: int) -> None:
            self._fetching.pop(flow_id, None)
            if life == self._host.life:
                self._streams.pop(stream.fetch_id, None)
                self._fetch_from(stream.fetch_id, shard, stream.later, at_us, stream.known_bytes)

        stream.flow_id = flow_id
        self._fetching[flow_id] = server
        server._serving[flow_id] = broken
        self._streams[stream.fetch_id] = stream
        if self._may_break:
            self._watch_stall(flow_id, server, broken, now_us)
        self._timetable.call(now_us + PROGRESS_US, lambda at_us: self._tell_progress(stream, at_us))
        return True

    def _transfer_sample(self, source: str, sight: Sight, n_bytes: int) -> LinkSample:
        return self._reported(
            LinkSample(
                from_agent=source,
                to_agent=self._agent_id,
                method="transfer",
                bandwidth_bps=sight.bandwidth_bps,
                bytes=n_bytes,
                duration_us=sight.duration_us,
                shared_milli=sight.shared_milli,
                is_lower_bound=sight.is_lower_bound,
            )
        )

    def _claim(self, to_agent: str, sight: Sight, n_bytes: int, now_us: int) -> None:
        """What it sent, as its data server tells of it."""
        if n_bytes >= BYTES_MIN and self._host.boot is not None:
            sample = LinkSample(
                from_agent=self._agent_id, to_agent=to_agent, method="transfer",
                bandwidth_bps=sight.bandwidth_bps, bytes=n_bytes, duration_us=sight.duration_us,
            )  # fmt: skip
            self._host.post(now_us, events.FetchesProgressed(fetches=(), samples=(self._reported(sample),)))

    def _tell_progress(self, stream: "_Stream", now_us: int) -> None:
        """As the live fetcher does: how far it is and the rate since it was last told of, every other second."""
        if self._streams.get(stream.fetch_id) is not stream or stream.flow_id not in self._fetching:
            return
        look = self._fabric.look(stream.flow_id, now_us)
        samples: tuple[LinkSample, ...] = ()
        if stream.told is not None or look.moved_bytes:
            before = stream.told or Look(at_us=self._fabric.began_us(stream.flow_id), moved_bytes=0)
            sight = self._fabric.sight_between(before, look)
            samples = (self._transfer_sample(stream.server._agent_id, sight, look.moved_bytes - before.moved_bytes),)
            stream.told = look
        fetch = FetchProgress(
            shard_id=stream.shard.shard_id, from_agent=stream.server._agent_id, done_bytes=stream.known_bytes
        )
        self._host.post(now_us, events.FetchesProgressed(fetches=(fetch,), samples=samples))
        self._timetable.call(now_us + PROGRESS_US, lambda at_us: self._tell_progress(stream, at_us))

    def redirect(self, fetch_id: int, sources: tuple[Source, ...], now_us: int) -> None:
        """Leave the source it comes from; what is here stays."""
        stream = self._streams.pop(fetch_id, None)
        if stream is None:
            return
        done_bytes = stream.done_bytes + self._fabric.look(stream.flow_id, now_us).moved_bytes
        self._fetching.pop(stream.flow_id, None)
        stream.server._serving.pop(stream.flow_id, None)
        self._fabric.cancel(stream.flow_id, now_us)
        self._fetch_from(fetch_id, stream.shard, sources, now_us, done_bytes)

    def _watch_stall(self, flow_id: int, server: "SimulatedData", broken: Callable[[int], None], now_us: int) -> None:
        def check(at_us: int) -> None:
            if flow_id not in self._fetching:
                return
            if self._fabric.is_cut(server._agent_id, self._agent_id):
                self._fabric.cancel(flow_id, at_us)
                server._serving.pop(flow_id, None)
                broken(at_us)
            else:
                self._timetable.call(at_us + STALL_US, check)

        self._timetable.call(now_us + STALL_US, check)

    # --- probes ------------------------------------------------------------------------------------------------------

    def _reported(self, sample: LinkSample) -> LinkSample:
        """As it tells the master: a liar multiplies."""
        if self.bandwidth_ppm == PPM or sample.bandwidth_bps is None:
            return sample
        return replace(sample, bandwidth_bps=max(1, sample.bandwidth_bps * self.bandwidth_ppm // PPM))

    def _ration(self, n_bytes: int, now_us: int) -> int:
        """What a peer that measures is sent: nothing but echoes where the allowance of the line is used up."""
        if self.probe_bytes_left is None:
            return n_bytes
        n_bytes = n_bytes if n_bytes <= self.probe_bytes_left else 0
        self.probe_bytes_left -= n_bytes + ECHO_BYTES
        self._host.post(now_us, events.ProbeServed(n_bytes=n_bytes + ECHO_BYTES))
        return n_bytes

    def probe(self, peer_id: str, bytes_max: int, now_us: int) -> None:
        own_id, life = self._agent_id, self._host.life
        rtt_us = self._fabric.rtt_us(own_id, peer_id)
        server = self._peers.get(peer_id)

        def measured(ended_us: int, flow: Flow, sight: Sight) -> None:
            self._fetching.pop(flow.flow_id, None)
            if server is not None:
                server._serving.pop(flow.flow_id, None)
            if life != self._host.life:
                return
            echo = LinkSample(from_agent=own_id, to_agent=peer_id, method="echo", rtt_us=rtt_us)
            probe = LinkSample(
                from_agent=peer_id,
                to_agent=own_id,
                method="probe",
                rtt_us=rtt_us,
                bandwidth_bps=sight.bandwidth_bps,
                bytes=flow.size_bytes,
                duration_us=sight.duration_us,
                shared_milli=sight.shared_milli,
                is_lower_bound=sight.is_lower_bound,
            )
            self._host.post(ended_us, events.LinksMeasured(samples=(echo, self._reported(probe))))

        flow_id = None
        if rtt_us is not None and server is not None and server._host.core is not None:
            bytes_max = server._ration(bytes_max, now_us)
            if self._fabric.is_busy(peer_id, own_id):
                echo = LinkSample(from_agent=own_id, to_agent=peer_id, method="echo", rtt_us=rtt_us)
                self._host.post(now_us + rtt_us, events.LinksMeasured(samples=(echo,), busy=True))
                return
            flow_id = self._fabric.transfer(peer_id, own_id, bytes_max, now_us, measured)
        if flow_id is None or server is None:
            self._host.post(now_us + PROBE_TIMEOUT_US, events.LinksMeasured(samples=()))
            return

        def give_up(at_us: int) -> None:
            if self._fetching.pop(flow_id, None) is not None:
                server._serving.pop(flow_id, None)
                self._fabric.cancel(flow_id, at_us)
                self._host.post(at_us, events.LinksMeasured(samples=()))

        self._fetching[flow_id] = server
        server._serving[flow_id] = give_up
        if self._may_break:
            self._timetable.call(now_us + PROBE_TIMEOUT_US, give_up)


def shard_id_of(name: str) -> str:
    """The id of a simulated shard: a hash of its name, since it has no bytes."""
    return hashlib.sha256(name.encode()).hexdigest()
