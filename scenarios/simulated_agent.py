"""The production agent core in a simulated device: processes are durations, transfers and probes are flows.

What survives what is as in life: the journal and the shards outlast everything; tasks outlast the agent's process and
are adopted when it starts again, unless the whole device lost power.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from agents import commands, events
from agents.agent import Agent
from agents.config import AgentConfig
from agents.data.server import CLAIM_BYTES_MIN
from agents.facts import Fact
from federation.wire import Death, FetchProgress, HeldShard, Launch, LinkSample, Source
from policies.model import Resources
from scenarios.broker import Broker, Delivery, Timetable
from scenarios.clock import Clock
from scenarios.fabric import Fabric, Look, Sight
from scenarios.faults import KillPoint
from scenarios.gangs import Gangs, Talk
from scenarios.network import Flow
from scenarios.streams import stream
from scenarios.world import START_US, AgentSpec, Behaviour, World

PROBE_TIMEOUT_US = 10_000_000  # what the live prober allows itself
PROGRESS_US = 2_000_000  # how often the live fetcher tells of a transfer
TAIL_US_MIN = 250_000  # the end of one that was told of says nothing more when it is shorter
STALL_US = 30_000_000  # A fetch that gets no bytes for this long tries its next source, as the live one does.
RESTART_US = 10_000_000  # A supervisor starts a crashed agent again after this long.
FACTS_MAX = 20_000  # Journals are compacted past this, as the live one is.
PPM = 1_000_000

Key = tuple[str, int]


class Local(NamedTuple):
    """Something that happened to one process; void when that is gone. `life` counts its starts."""

    event: events.Event
    life: int


class ProcessEnded(NamedTuple):
    """A task's process tree ended by itself; void when the device lost power meanwhile."""

    event: events.TaskEnded
    power: int


class _Stream:
    """One source's part of a fetch. `told` is how far it was when the master was last told."""

    __slots__ = ("done_bytes", "fetch_id", "flow_id", "later", "server", "shard", "told")

    def __init__(
        self, fetch_id: int, shard: HeldShard, server: "SimulatedAgent", later: tuple[Source, ...], done_bytes: int
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


class Overseer:
    """What the player wants to know of processes; the laws listen."""

    def began(self, agent_id: str, task_id: str, attempt: int, now_us: int) -> None:
        """A task's process runs from now on."""

    def ended(self, agent_id: str, task_id: str, attempt: int, now_us: int) -> None:
        """It does not any more."""

    def behaviour_of(self, task_id: str) -> Behaviour | None:
        """What the file says of tasks like this one."""
        return None

    def talk_of(self, task_id: str) -> Talk | None:
        """What its gang says to each other."""
        return None

    gangs: Gangs


class SimulatedAgent:
    """Carries out the commands of one `Agent`. `peers` are all agents by id, this one included."""

    def __init__(
        self,
        spec: AgentSpec,
        world: World,
        fabric: Fabric,
        broker: Broker,
        timetable: Timetable,
        peers: "dict[str, SimulatedAgent]",
        overseer: Overseer,
    ) -> None:
        self._config = AgentConfig(
            agent_id=spec.agent_id,
            site=spec.site,
            tier=spec.tier,
            region=spec.region,
            labels=dict(spec.labels),
            hardware=spec.hardware,
            speed_milli=spec.speed_milli,
            price_microusd_per_cpu_hour=spec.price_microusd_per_cpu_hour,
        )
        self.facts: list[Fact] = []  # its journal
        self.spec = spec
        self._seed = world.seed
        self._fabric = fabric
        self._broker = broker
        self._timetable = timetable
        self._peers = peers
        self._overseer = overseer
        self._may_break = bool(world.faults)
        self.core: Agent | None = None  # None: no process runs
        self._store = {
            shard_id_of(shard.name): HeldShard(
                shard_id=shard_id_of(shard.name), size_bytes=shard.size_bytes, name=shard.name
            )
            for shard in world.shards
            if shard.agent_id == spec.agent_id
        }
        self.running: dict[Key, Launch] = {}  # tasks whose process is alive
        self._life = 0
        self._power = 0
        self._paused = False
        self._backlog: list[object] = []  # what came while it was paused
        self._doom: tuple[KillPoint, Callable[[int], None]] | None = None
        self.clock = Clock()
        self.capacity_ppm = PPM  # what it claims of what it has
        self._serving: dict[int, Callable[[int], None]] = {}  # flows out of here → what to do when they break
        self._fetching: dict[int, SimulatedAgent] = {}  # flows to here → who serves them
        self._streams: dict[int, _Stream] = {}  # fetches under way
        self.disk_is_full = False
        self.bandwidth_ppm = PPM  # what it multiplies the bandwidths by that it reports

    @property
    def boot(self) -> int | None:
        """Of the process that runs; None: there is none, or it is stopped."""
        return None if self.core is None or self._paused else self.core.boot

    @property
    def tasks(self) -> tuple[Key, ...]:
        return tuple(self.running)

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self, now_us: int) -> None:
        if self.core is not None:
            return
        self._life += 1
        self.clock.start(now_us)
        self.core = Agent(self._config, self.facts)
        self.facts = self.core.facts()
        shards = tuple(self._store[key] for key in sorted(self._store))
        running = tuple(handle_of(key) for key in self.running)
        self._post(
            now_us,
            events.Started(
                total=self.spec.total, shards=shards, running=running, data_url=f"sim://{self.spec.agent_id}"
            ),
        )
        self._broker.arrive(self.spec.agent_id, self, now_us)

    def kill(self, now_us: int, *, power: bool = False) -> None:
        """End the process without warning; with `power`, the device and its tasks too."""
        if power:
            self._power += 1
            for task_id, attempt in list(self.running):
                self._end_process((task_id, attempt), now_us)
        if self.core is None:
            return
        self.core = None
        self._life += 1
        self._paused = False
        self._backlog.clear()
        self._doom = None
        for flow_id, server in list(self._fetching.items()):
            self._fabric.cancel(flow_id, now_us)
            server._serving.pop(flow_id, None)
        self._fetching.clear()
        self._streams.clear()
        for flow_id, broken in list(self._serving.items()):
            self._fabric.cancel(flow_id, now_us)
            broken(now_us)
        self._serving.clear()
        self._broker.leave(self.spec.agent_id, now_us, silently=power)

    def kill_at(self, point: KillPoint, now_us: int, then: Callable[[int], None], *, power: bool = False) -> None:
        """Kill it at that point of its work; `then` is told when it happened."""

        def doom(at_us: int) -> None:
            self.kill(at_us, power=power)
            then(at_us)

        if point == "now" or self.core is None:
            doom(now_us)
        else:
            self._doom = (point, doom)

    def pause(self, now_us: int) -> None:
        if self.core is not None and not self._paused:
            self._paused = True
            self._broker.stall(self.spec.agent_id, now_us)

    def resume(self, now_us: int) -> None:
        if not self._paused:
            return
        self._paused = False
        waited, self._backlog = self._backlog, []
        for event in waited:
            self._timetable.schedule(now_us, self.spec.agent_id, event)
        self._timetable.schedule(now_us, self.spec.agent_id, Local(events.DeadlinePassed(), self._life))
        self._broker.unstall(self.spec.agent_id, now_us)

    def find(self, shard: HeldShard, now_us: int) -> None:
        """Someone put a shard into the device's store; the agent learns of it when it runs."""
        self._store[shard.shard_id] = shard
        self._post(now_us, events.ShardFound(shard=shard))

    def next_deadline_us(self) -> int | None:
        due_us = self.core.next_deadline_us() if self.core is not None and not self._paused else None
        return None if due_us is None else self.clock.real(due_us)

    # --- the broker's client -----------------------------------------------------------------------------------------

    def will(self) -> Death:
        assert self.core is not None, "a process that is gone wants no connection"
        return self.core.will()

    def connected(self, now_us: int) -> None:
        self._post(now_us, events.Connected())

    def disconnected(self, now_us: int) -> None:
        self._post(now_us, events.Disconnected())

    # --- events ------------------------------------------------------------------------------------------------------

    def handle(self, happened: list[object], now_us: int) -> None:
        """What comes to it at one moment, in order; its core is told of all at once, as the live driver does."""
        told: list[events.Event] = []
        for each in happened:
            if self._paused and each is not None and not isinstance(each, ProcessEnded):
                self._backlog.append(each)
                continue
            life = self._life
            event = self._event_of(each, now_us)
            if life != self._life:
                told.clear()  # It crashed: what it had not looked at is gone with it.
            elif event is not None:
                told.append(event)
        if told and self.core is not None and not self._paused:
            self._carry_out_all(self.core.handle_all(told, self.clock.local(now_us)), now_us)

    def _event_of(self, happened: object, now_us: int) -> events.Event | None:
        """What its core is to be told of it; None: nothing."""
        match happened:
            case Local(event=event, life=life):
                return event if life == self._life else None
            case Delivery(event=event, life=life):
                return event if self._broker.is_connected(self.spec.agent_id, life) else None
            case None:
                return events.DeadlinePassed()
            case ProcessEnded(event=ended, power=power):
                launch = self._end_process((ended.task_id, ended.attempt), now_us) if power == self._power else None
                if launch is None:
                    return None  # it was stopped before it came to its end
                behaviour = self._overseer.behaviour_of(ended.task_id)
                if behaviour is not None and behaviour.crashes_agent and ended.exit_code:
                    self.kill(now_us)
                    self._timetable.call(now_us + RESTART_US, self.start)
                told = self._ended(launch, ended)
                if self._paused:
                    self._backlog.append(Local(told, self._life))
                    return None
                return told
            case _:
                raise AssertionError(f"{happened!r} is no event of an agent")

    def _post(self, at_us: int, event: events.Event) -> None:
        self._timetable.schedule(at_us, self.spec.agent_id, Local(event, self._life))

    def _carry_out_all(self, wanted: list[commands.Command], now_us: int) -> None:
        point, doom = self._doom if self._doom is not None else (None, None)
        has_facts = any(isinstance(command, commands.Persist) for command in wanted)
        others = [command for command in wanted if not isinstance(command, commands.Persist | commands.Measure)]
        strikes = point is not None and has_facts and (point == "before-journal" or bool(others))
        if strikes and point == "before-journal":
            wanted = []
        elif strikes:
            sent = others[: len(others) // 2] if point == "half-sent" else []
            wanted = [*(command for command in wanted if isinstance(command, commands.Persist)), *sent]
        for command in wanted:
            self._carry_out(command, now_us)
        if strikes and doom is not None:
            doom(now_us)

    def _carry_out(self, command: commands.Command, now_us: int) -> None:
        match command:
            case commands.Persist(fact=fact):
                self.facts.append(fact)
                if len(self.facts) > FACTS_MAX and self.core is not None and self._doom is None:
                    self.facts = self.core.facts()
            case commands.Publish(message=message):
                self._broker.to_master(self.spec.agent_id, message, now_us)
            case commands.Fetch():
                self._fetch(command, now_us)
            case commands.Redirect(fetch_id=fetch_id, fetch=fetch):
                self._redirect(fetch_id, fetch.sources, now_us)
            case commands.StartTask(launch=launch):
                self._start_task(launch, now_us)
            case commands.StopTask(task_id=task_id, attempt=attempt, reason=reason):
                if self._end_process((task_id, attempt), now_us):
                    ended = events.TaskEnded(task_id=task_id, attempt=attempt, reason=reason, exit_code=-15)
                    self._post(now_us, ended)
            case commands.RemoveShard(shard_id=shard_id):
                self._store.pop(shard_id, None)
                self._post(now_us, events.ShardRemoved(shard_id=shard_id))
            case commands.Probe(peer=peer, bytes_max=bytes_max):
                self._probe(peer.agent_id, bytes_max, now_us)
            case commands.Measure():
                self._post(now_us, events.Measured(usable=self._usable()))
            case commands.Acknowledge() | commands.Leave():
                pass  # The simulated broker keeps nothing that could be acknowledged, and the player ends the run.

    def _usable(self) -> Resources:
        return replace(self.spec.total, disk_bytes=0) if self.disk_is_full else self.spec.total

    # --- shards ------------------------------------------------------------------------------------------------------

    def _fetch(self, command: commands.Fetch, now_us: int) -> None:
        wanted = command.fetch
        shard = HeldShard(shard_id=wanted.shard_id, size_bytes=wanted.size_bytes, name=wanted.name)
        if wanted.shard_id in self._store:
            self._post(now_us, events.FetchEnded(fetch_id=command.fetch_id, shard=shard, ok=True))
        elif self.disk_is_full:
            self._fail_fetch(command.fetch_id, shard, "disk_full", "no space left on the device", now_us)
        else:
            self._fetch_from(command.fetch_id, shard, wanted.sources, now_us)

    def _fail_fetch(self, fetch_id: int, shard: HeldShard, reason: str, detail: str, now_us: int) -> None:
        self._post(now_us, events.FetchEnded(fetch_id=fetch_id, shard=shard, ok=False, reason=reason, detail=detail))

    def _fetch_from(
        self, fetch_id: int, shard: HeldShard, sources: tuple[Source, ...], now_us: int, done_bytes: int = 0
    ) -> None:
        """Try these in order; a source that fails midway leaves its turn to the next, which goes on from there."""
        for index, source in enumerate(sources):
            server = self._peers.get(source.agent_id)
            if server is None or server.core is None or shard.shard_id not in server._store:
                continue
            stream = _Stream(fetch_id, shard, server, sources[index + 1 :], done_bytes)
            if self._transfer(stream, now_us):
                return
        self._fail_fetch(fetch_id, shard, "fetch", "no source has a path to here", now_us)

    def _transfer(self, stream: "_Stream", now_us: int) -> bool:
        """False where there is no path."""
        own_id, life, server = self.spec.agent_id, self._life, stream.server
        source, shard = server.spec.agent_id, stream.shard

        def arrived(ended_us: int, flow: Flow, sight: Sight) -> None:
            self._fetching.pop(flow.flow_id, None)
            server._serving.pop(flow.flow_id, None)
            if life != self._life:
                return
            self._streams.pop(stream.fetch_id, None)
            if self.disk_is_full:
                self._fail_fetch(stream.fetch_id, shard, "disk_full", "no space left on the device", ended_us)
                return
            self._store[shard.shard_id] = shard
            n_bytes = flow.size_bytes
            if stream.told is not None:  # The rest: what came before was told of as it came.
                n_bytes -= stream.told.moved_bytes
                rate_bps = n_bytes * 8_000_000 // max(1, ended_us - stream.told.at_us)
                sight = replace(sight, bandwidth_bps=rate_bps, duration_us=ended_us - stream.told.at_us)
            is_telling = stream.told is None or sight.duration_us >= TAIL_US_MIN
            samples = (self._transfer_sample(source, sight, n_bytes),) if is_telling else ()
            server._claim(own_id, sight, n_bytes, ended_us)
            fetched = events.FetchEnded(
                fetch_id=stream.fetch_id, shard=shard, ok=True, fetched_bytes=shard.size_bytes, samples=samples
            )
            self._post(ended_us, fetched)

        left_bytes = max(1, shard.size_bytes - stream.done_bytes) if shard.size_bytes else 0
        flow_id = self._fabric.transfer(source, own_id, left_bytes, now_us, arrived)
        if flow_id is None:
            return False

        def broken(at_us: int) -> None:
            self._fetching.pop(flow_id, None)
            if life == self._life:
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
                to_agent=self.spec.agent_id,
                method="transfer",
                bandwidth_bps=sight.bandwidth_bps,
                bytes=n_bytes,
                duration_us=sight.duration_us,
                shared_milli=sight.shared_milli,
                is_lower_bound=sight.is_lower_bound,
            )
        )

    def _claim(self, to_agent: str, sight: Sight, n_bytes: int, now_us: int) -> None:
        """What it sent, as its data server tells of large shards."""
        if n_bytes >= CLAIM_BYTES_MIN and self.core is not None and not self._paused:
            sample = LinkSample(
                from_agent=self.spec.agent_id, to_agent=to_agent, method="transfer",
                bandwidth_bps=sight.bandwidth_bps, bytes=n_bytes, duration_us=sight.duration_us,
            )  # fmt: skip
            self._post(now_us, events.FetchesProgressed(fetches=(), samples=(self._reported(sample),)))

    def _tell_progress(self, stream: "_Stream", now_us: int) -> None:
        """As the live fetcher does: how far it is and the rate since it was last told of, every other second."""
        if self._streams.get(stream.fetch_id) is not stream or stream.flow_id not in self._fetching:
            return
        look = self._fabric.look(stream.flow_id, now_us)
        samples: tuple[LinkSample, ...] = ()
        if stream.told is not None or look.moved_bytes:
            before = stream.told or Look(at_us=self._fabric.began_us(stream.flow_id), moved_bytes=0)
            sight = self._fabric.sight_between(before, look)
            samples = (
                self._transfer_sample(stream.server.spec.agent_id, sight, look.moved_bytes - before.moved_bytes),
            )
            stream.told = look
        fetch = FetchProgress(
            shard_id=stream.shard.shard_id, from_agent=stream.server.spec.agent_id, done_bytes=stream.known_bytes
        )
        self._post(now_us, events.FetchesProgressed(fetches=(fetch,), samples=samples))
        self._timetable.call(now_us + PROGRESS_US, lambda at_us: self._tell_progress(stream, at_us))

    def _redirect(self, fetch_id: int, sources: tuple[Source, ...], now_us: int) -> None:
        """Leave the source it comes from; what is here stays."""
        stream = self._streams.pop(fetch_id, None)
        if stream is None:
            return
        done_bytes = stream.done_bytes + self._fabric.look(stream.flow_id, now_us).moved_bytes
        self._fetching.pop(stream.flow_id, None)
        stream.server._serving.pop(stream.flow_id, None)
        self._fabric.cancel(stream.flow_id, now_us)
        self._fetch_from(fetch_id, stream.shard, sources, now_us, done_bytes)

    def _watch_stall(self, flow_id: int, server: "SimulatedAgent", broken: Callable[[int], None], now_us: int) -> None:
        def check(at_us: int) -> None:
            if flow_id not in self._fetching:
                return
            if self._fabric.is_cut(server.spec.agent_id, self.spec.agent_id):
                self._fabric.cancel(flow_id, at_us)
                server._serving.pop(flow_id, None)
                broken(at_us)
            else:
                self._timetable.call(at_us + STALL_US, check)

        self._timetable.call(now_us + STALL_US, check)

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _start_task(self, launch: Launch, now_us: int) -> None:
        key = (launch.task_id, launch.attempt)
        run_us = (launch.simulated_run_us or 1) * 1000 // self.spec.speed_milli
        real_milli = self.spec.real_cpu_milli
        if self.capacity_ppm != PPM:
            real_milli = max(1, self.spec.total.cpu_milli * PPM // self.capacity_ppm)
        if real_milli is not None:  # It claims more cores than it has: they are shared.
            load_milli = launch.needs.cpu_milli + sum(each.needs.cpu_milli for each in self.running.values())
            run_us = run_us * max(load_milli, real_milli) // real_milli
        behaviour = self._overseer.behaviour_of(launch.task_id)
        if behaviour is not None and behaviour.until_us is not None:
            run_us = max(1, START_US + behaviour.until_us - now_us)
        self.running[key] = launch
        self._overseer.began(self.spec.agent_id, launch.task_id, launch.attempt, now_us)
        self._post(now_us, events.TaskStarted(task_id=launch.task_id, attempt=launch.attempt, handle=handle_of(key)))
        limit_us = launch.time_limit_us
        talk = self._overseer.talk_of(launch.task_id)
        if talk is not None:
            self._talk(talk, launch, run_us, now_us)
        elif limit_us is None or run_us <= limit_us:
            self._ends(launch, "exit", 1 if self._fails(launch) else 0, run_us, now_us + run_us)
        if limit_us is not None and (talk is not None or limit_us < run_us):
            self._ends(launch, "time_limit", -9, limit_us, now_us + limit_us)

    def _ends(self, launch: Launch, reason: str, exit_code: int, run_us: int, at_us: int) -> None:
        """Void if it has ended before."""
        ended = events.TaskEnded(
            task_id=launch.task_id, attempt=launch.attempt, reason=reason, exit_code=exit_code, run_us=run_us
        )
        self._timetable.schedule(at_us, self.spec.agent_id, ProcessEnded(ended, self._power))

    def _talk(self, talk: Talk, launch: Launch, run_us: int, now_us: int) -> None:
        """A worker of a gang: how long it takes is the network's matter too."""

        def done(at_us: int) -> None:
            self._ends(launch, "exit", 1 if self._fails(launch) else 0, at_us - now_us, at_us)

        spec = self.spec
        self._overseer.gangs.join(talk, launch.task_id, spec.agent_id, spec.site, run_us, launch.env, done, now_us)

    def _fails(self, launch: Launch) -> bool:
        behaviour = self._overseer.behaviour_of(launch.task_id)
        if behaviour is None or not behaviour.fails_ppm:
            return False
        chance = stream(self._seed, f"failures/{launch.task_id}/{launch.attempt}")
        return chance.randrange(PPM) < behaviour.fails_ppm

    def _end_process(self, key: Key, now_us: int) -> Launch | None:
        """None where there was none to be ended."""
        launch = self.running.pop(key, None)
        if launch is not None:
            self._overseer.ended(self.spec.agent_id, *key, now_us)
        return launch

    def _ended(self, launch: Launch, ended: events.TaskEnded) -> events.TaskEnded:
        """With its outputs in the store, where it finished and there is room."""
        if ended.reason != "exit" or ended.exit_code != 0 or not launch.outputs:
            return ended
        if self.disk_is_full:
            return replace(ended, reason="disk_full", exit_code=None)
        outputs = tuple(
            HeldShard(shard_id=shard_id_of(name), size_bytes=output.bytes_max, name=name)
            for output in launch.outputs
            if (name := f"{launch.task_id}/{output.name}")
        )
        self._store |= {shard.shard_id: shard for shard in outputs}
        return replace(ended, outputs=outputs)

    # --- probes ------------------------------------------------------------------------------------------------------

    def _reported(self, sample: LinkSample) -> LinkSample:
        """As it tells the master: a liar multiplies."""
        if self.bandwidth_ppm == PPM or sample.bandwidth_bps is None:
            return sample
        return replace(sample, bandwidth_bps=max(1, sample.bandwidth_bps * self.bandwidth_ppm // PPM))

    def _probe(self, peer_id: str, bytes_max: int, now_us: int) -> None:
        own_id, life = self.spec.agent_id, self._life
        rtt_us = self._fabric.rtt_us(own_id, peer_id)
        server = self._peers.get(peer_id)

        def measured(ended_us: int, flow: Flow, sight: Sight) -> None:
            self._fetching.pop(flow.flow_id, None)
            if server is not None:
                server._serving.pop(flow.flow_id, None)
            if life != self._life:
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
            self._post(ended_us, events.LinksMeasured(samples=(echo, self._reported(probe))))

        flow_id = None
        if rtt_us is not None and server is not None and server.core is not None:
            if self._fabric.is_busy(peer_id, own_id):
                echo = LinkSample(from_agent=own_id, to_agent=peer_id, method="echo", rtt_us=rtt_us)
                self._post(now_us + rtt_us, events.LinksMeasured(samples=(echo,), busy=True))
                return
            flow_id = self._fabric.transfer(peer_id, own_id, bytes_max, now_us, measured)
        if flow_id is None or server is None:
            self._post(now_us + PROBE_TIMEOUT_US, events.LinksMeasured(samples=()))
            return

        def give_up(at_us: int) -> None:
            if self._fetching.pop(flow_id, None) is not None:
                server._serving.pop(flow_id, None)
                self._fabric.cancel(flow_id, at_us)
                self._post(at_us, events.LinksMeasured(samples=()))

        self._fetching[flow_id] = server
        server._serving[flow_id] = give_up
        if self._may_break:
            self._timetable.call(now_us + PROBE_TIMEOUT_US, give_up)


def shard_id_of(name: str) -> str:
    """The id of a simulated shard: a hash of its name, since it has no bytes."""
    return hashlib.sha256(name.encode()).hexdigest()


def handle_of(key: Key) -> str:
    """What stands for a process id."""
    return f"{key[0]}#{key[1]}"
