"""The production agent core in a simulated device: processes are durations, and its data `simulated_data`.

What survives what is as in life: the journal and the shards outlast everything; tasks outlast the agent's process and
are adopted when it starts again, unless the whole device lost power. A process waits at a gate until its handle is in
the journal, and goes with an agent that dies before.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from agents import commands, events
from agents.agent import Agent
from agents.config import AgentConfig
from agents.facts import Fact, ProcessStarted
from federation.wire import Death, HeldShard, Launch, encode
from policies.model import Resources
from scenarios.broker import Broker, Delivery, Timetable
from scenarios.clock import Clock
from scenarios.crash import CrashError
from scenarios.fabric import Fabric
from scenarios.faults import KillPoint
from scenarios.gangs import Gangs, Talk
from scenarios.simulated_data import SimulatedData, shard_id_of
from scenarios.streams import stream
from scenarios.trainings import Trainings, Worker
from scenarios.world import START_US, AgentSpec, Behaviour, Training, World

RESTART_US = 10_000_000  # A supervisor starts a crashed agent again after this long.
FACTS_MAX = 20_000  # Journals are compacted past this and past twice what the last time left, as the live one is.
MEASURE_US = 5_000_000  # A device looks at itself this often: as long does a full disk go unseen.
DAY_US = 86_400_000_000
PPM = 1_000_000

Key = tuple[str, int]


class Local(NamedTuple):
    """Something that happened to one process; void when that is gone. `life` counts its starts."""

    event: events.Event
    life: int


class ProcessEnded(NamedTuple):
    """A task's process tree ended by itself; void when it is gone. `start` counts the device's processes."""

    event: events.TaskEnded
    start: int


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
    trainings: Trainings


class SimulatedAgent:
    """Carries out the commands of one `Agent`. `peers` are the data of all agents by id, its own included."""

    def __init__(
        self,
        spec: AgentSpec,
        world: World,
        fabric: Fabric,
        broker: Broker,
        timetable: Timetable,
        peers: Mapping[str, SimulatedData],
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
            metered=spec.metered,
            measure_every_us=DAY_US,  # What is read changes by faults alone, which tell of it: see `disk_changed`.
        )
        self.facts: list[Fact] = []  # its journal
        self._facts_max = FACTS_MAX
        self.spec = spec
        self._seed = world.seed
        self._broker = broker
        self._timetable = timetable
        self._overseer = overseer
        self.core: Agent | None = None  # None: no process runs
        self.data = SimulatedData(spec.agent_id, world, fabric, timetable, peers, self)
        self.running: dict[Key, Launch] = {}  # tasks whose process is alive
        self._starts: dict[Key, int] = {}  # which start of a process each is
        self._gated: set[Key] = set()  # of these, what waits to be let go: its handle is not durable
        self.life = 0
        self._started_us = START_US
        self.n_holding_down = 0  # faults that keep its process from running
        self._n_starts = 0
        self._paused = False
        self._backlog: list[object] = []  # what came while it was paused
        self._doom: tuple[KillPoint, Callable[[int], None]] | None = None
        self.clock = Clock()
        self.capacity_ppm = PPM  # what it claims of what it has

    @property
    def boot(self) -> int | None:
        """Of the process that runs; None: there is none, or it is stopped."""
        return None if self.core is None or self._paused else self.core.boot

    @property
    def tasks(self) -> tuple[Key, ...]:
        return tuple(self.running)

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self, now_us: int) -> None:
        if self.core is not None or self.n_holding_down:
            return
        self.life += 1
        self._started_us = now_us
        self.clock.start(now_us)
        self.core = Agent(self._config, self.facts)
        self.facts = self.core.facts()
        shards = tuple(self.data.store[key] for key in sorted(self.data.store))
        running = tuple(handle_of(key) for key in self.running)
        self.post(
            now_us,
            events.Started(
                total=self.spec.total, shards=shards, running=running, data_url=f"sim://{self.spec.agent_id}"
            ),
        )
        self._broker.arrive(self.spec.agent_id, self, now_us)

    def kill(self, now_us: int, *, power: bool = False) -> None:
        """End the process without warning; with `power`, the device and its tasks too, else those not yet let go."""
        for key in list(self.running):
            if power or key in self._gated:
                self._end_process(key, now_us)
        if self.core is None:
            return
        self.core = None
        self.life += 1
        self._paused = False
        self._backlog.clear()
        self._doom = None
        self.data.drop(now_us)
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
        self._timetable.schedule(now_us, self.spec.agent_id, Local(events.DeadlinePassed(), self.life))
        self._broker.unstall(self.spec.agent_id, now_us)

    def find(self, shard: HeldShard, now_us: int) -> None:
        """Someone put a shard into the device's store; the agent learns of it when it runs."""
        self.data.store[shard.shard_id] = shard
        self.post(now_us, events.ShardFound(shard=shard))

    def disk_changed(self, *, is_full: bool, now_us: int) -> None:
        """Full, or no longer. Its process sees that when it next looks, as it does every `MEASURE_US`. Looks at which
        nothing is new are left out: ten thousand idle devices would do little else (docs/performance.md)."""
        self.data.disk_is_full = is_full
        if self.core is not None:
            looks_us = now_us + MEASURE_US - (now_us - self._started_us) % MEASURE_US
            self.post(looks_us, events.Measured(usable=self._usable()))

    def next_deadline_us(self) -> int | None:
        due_us = self.core.next_deadline_us() if self.core is not None and not self._paused else None
        return None if due_us is None else self.clock.real(due_us)

    # --- the broker's client -----------------------------------------------------------------------------------------

    def will(self) -> Death:
        assert self.core is not None, "a process that is gone wants no connection"
        return self.core.will()

    def connected(self, now_us: int) -> None:
        self.post(now_us, events.Connected())

    def disconnected(self, now_us: int) -> None:
        self.post(now_us, events.Disconnected())

    # --- events ------------------------------------------------------------------------------------------------------

    def handle(self, happened: list[object], now_us: int) -> None:
        """What comes to it at one moment, in order; its core is told of all at once, as the live driver does."""
        told: list[events.Event] = []
        for each in happened:
            if self._paused and each is not None and not isinstance(each, ProcessEnded):
                self._backlog.append(each)
                continue
            life = self.life
            event = self._event_of(each, now_us)
            if life != self.life:
                told.clear()  # It crashed: what it had not looked at is gone with it.
            elif event is not None:
                told.append(event)
        if told and self.core is not None and not self._paused:
            try:
                wanted = self.core.handle_all(told, self.clock.local(now_us))
            except Exception as error:  # A bug of ours: the run ends and shows what led to it.
                raise CrashError(f"agent {self.spec.agent_id}", told[-1], self.spec.agent_id) from error
            self._carry_out_all(wanted, now_us)

    def _event_of(self, happened: object, now_us: int) -> events.Event | None:
        """What its core is to be told of it; None: nothing."""
        match happened:
            case Local(event=event, life=life):
                return event if life == self.life else None
            case Delivery(event=event, life=life):
                if not self._broker.is_connected(self.spec.agent_id, life):
                    return None
                if self.spec.metered and isinstance(event, events.MasterSpoke):  # It counts what comes.
                    return replace(event, n_bytes=len(encode(event.message)))
                return event
            case None:
                return events.DeadlinePassed()
            case ProcessEnded(event=ended, start=start):
                key = (ended.task_id, ended.attempt)
                launch = self._end_process(key, now_us) if start == self._starts.get(key) else None
                if launch is None:
                    return None  # it was stopped before it came to its end
                behaviour = self._overseer.behaviour_of(ended.task_id)
                if behaviour is not None and behaviour.crashes_agent and ended.exit_code:
                    self.kill(now_us)
                    self._timetable.call(now_us + RESTART_US, self.start)
                told = self._ended(launch, ended)
                if self._paused:
                    self._backlog.append(Local(told, self.life))
                    return None
                return told
            case _:
                raise AssertionError(f"{happened!r} is no event of an agent")

    def post(self, at_us: int, event: events.Event) -> None:
        self._timetable.schedule(at_us, self.spec.agent_id, Local(event, self.life))

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
                if isinstance(fact, ProcessStarted):
                    self._gated.discard((fact.task_id, fact.attempt))
                if len(self.facts) > self._facts_max and self.core is not None and self._doom is None:
                    self.facts = self.core.facts()
                    self._facts_max = max(FACTS_MAX, 2 * len(self.facts))
            case commands.Publish(message=message):
                self._broker.to_master(self.spec.agent_id, message, now_us)
            case commands.Fetch():
                self.data.fetch(command, now_us)
            case commands.Redirect(fetch_id=fetch_id, fetch=fetch):
                self.data.redirect(fetch_id, fetch.sources, now_us)
            case commands.StartTask(launch=launch):
                self._start_task(launch, now_us)
            case commands.StopTask(task_id=task_id, attempt=attempt, reason=reason):
                if self._end_process((task_id, attempt), now_us):
                    ended = events.TaskEnded(task_id=task_id, attempt=attempt, reason=reason, exit_code=-15)
                    self.post(now_us, ended)
            case commands.RemoveShard(shard_id=shard_id):
                self.data.store.pop(shard_id, None)
                self.post(now_us, events.ShardRemoved(shard_id=shard_id))
            case commands.Probe(peer=peer, bytes_max=bytes_max):
                self.data.probe(peer.agent_id, bytes_max, now_us)
            case commands.Measure():
                self.post(now_us, events.Measured(usable=self._usable()))
            case commands.AllowProbes(n_bytes=n_bytes):
                self.data.probe_bytes_left = n_bytes
            case commands.Acknowledge() | commands.Leave():
                pass  # The simulated broker keeps nothing that could be acknowledged, and the player ends the run.

    def _usable(self) -> Resources:
        return replace(self.spec.total, disk_bytes=0) if self.data.disk_is_full else self.spec.total

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
        self._n_starts += 1
        self._starts[key] = self._n_starts
        self._gated.add(key)
        self._overseer.began(self.spec.agent_id, launch.task_id, launch.attempt, now_us)
        self.post(now_us, events.TaskStarted(task_id=launch.task_id, attempt=launch.attempt, handle=handle_of(key)))
        limit_us = launch.time_limit_us
        talk = self._overseer.talk_of(launch.task_id)
        training = behaviour.training if behaviour is not None else None
        if talk is not None:
            self._talk(talk, launch, run_us, now_us)
        elif training is not None:
            self._train(training, launch, now_us)
        elif limit_us is None or run_us <= limit_us:
            self._ends(launch, "exit", 1 if self._fails(launch) else 0, run_us, now_us + run_us)
        if limit_us is not None and (talk is not None or training is not None or limit_us < run_us):
            self._ends(launch, "time_limit", -9, limit_us, now_us + limit_us)

    def _ends(self, launch: Launch, reason: str, exit_code: int, run_us: int, at_us: int) -> None:
        """Void if it has ended before."""
        ended = events.TaskEnded(
            task_id=launch.task_id, attempt=launch.attempt, reason=reason, exit_code=exit_code, run_us=run_us
        )
        start = self._starts[launch.task_id, launch.attempt]
        self._timetable.schedule(at_us, self.spec.agent_id, ProcessEnded(ended, start))

    def _talk(self, talk: Talk, launch: Launch, run_us: int, now_us: int) -> None:
        """A worker of a gang: how long it takes is the network's matter too."""
        spec, done = self.spec, self._done(launch, now_us)
        self._overseer.gangs.join(
            talk, launch.task_id, launch.attempt, spec.agent_id, spec.site, run_us, launch.env, done, now_us
        )

    def _train(self, training: Training, launch: Launch, now_us: int) -> None:
        """A worker of an elastic group: how long it takes is a matter of how many there are."""
        worker = Worker(
            task_id=launch.task_id,
            attempt=launch.attempt,
            agent_id=self.spec.agent_id,
            speed_milli=self.spec.speed_milli,
            env=launch.env,
            tell=self.post,
            done=self._done(launch, now_us),
        )
        group_id = launch.task_id.rpartition("/")[0]
        self._overseer.trainings.join(group_id, training, launch.simulated_run_us or 1, worker, now_us)

    def _done(self, launch: Launch, began_us: int) -> Callable[[int], None]:
        """What ends a process whose time others know."""

        start = self._n_starts

        def done(at_us: int) -> None:
            if start == self._starts.get((launch.task_id, launch.attempt)):
                self._ends(launch, "exit", 1 if self._fails(launch) else 0, at_us - began_us, at_us)

        return done

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
            del self._starts[key]
            self._gated.discard(key)
            self._overseer.ended(self.spec.agent_id, *key, now_us)
        return launch

    def _ended(self, launch: Launch, ended: events.TaskEnded) -> events.TaskEnded:
        """With its outputs in the store, where it finished and there is room."""
        if ended.reason != "exit" or ended.exit_code != 0 or not launch.outputs:
            return ended
        if self.data.disk_is_full:
            return replace(ended, reason="disk_full", exit_code=None)
        outputs = tuple(
            HeldShard(shard_id=shard_id_of(name), size_bytes=output.bytes_max, name=name)
            for output in launch.outputs
            if (name := f"{launch.task_id}/{output.name}")
        )
        self.data.store |= {shard.shard_id: shard for shard in outputs}
        return replace(ended, outputs=outputs)


def handle_of(key: Key) -> str:
    """What stands for a process id."""
    return f"{key[0]}#{key[1]}"
