"""The scenario player: the production `Master` and `Agent`s on a heap, in simulated time.

The player is a driver like the live one: it hands events to the cores, carries out their commands, and keeps time. What
it replaces is the world: messages arrive after the network's delay, processes end after their run time, transfers
share links. Nothing in the cores knows. Same world, policy and code: same digest (L12).
"""

import contextlib
import gc
import hashlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import msgspec

from federation import events
from federation.api import Answer, CancelJob, JobView, Problem, SetServiceDemand, SubmitJob
from federation.config import MasterConfig
from federation.facts import Fact, JobAccepted, JobEnded, ServiceBalanced
from federation.market.running import is_framework_task
from federation.master import Master
from federation.wire import HeldShard
from policies.api import Policy
from policies.model import Record
from scenarios.broker import Broker
from scenarios.clients import SECOND_US, Asking, ServiceClients
from scenarios.crash import CrashError, crash_sentence
from scenarios.fabric import Fabric
from scenarios.frameworks import OfferCounts
from scenarios.gangs import Gangs, Talk
from scenarios.injection import Incident, Injector
from scenarios.laws import Laws
from scenarios.simulated_agent import Overseer, SimulatedAgent
from scenarios.simulated_data import SimulatedData, shard_id_of
from scenarios.simulated_master import SimulatedMaster
from scenarios.solving import SolveTimes
from scenarios.tail import RECENT_EVENTS, tail
from scenarios.trainings import Trainings
from scenarios.world import START_US as START_US
from scenarios.world import Arrival, Behaviour, Clients, World

EVENTS_MAX = 10_000_000  # within one simulated second: a run that needs more has a loop in it
CHECK_US = 10_000_000  # How often the laws look at what only the whole world shows.
LINKS_SHOWN_MAX = 512  # of a world with more links nobody looks at each
CALL = "!"  # the target of what is no agent's and not the master's


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an arrival: `job_id` "" where the master refused it or never answered. Times from the start."""

    arrival: int
    job_id: str
    asked_us: int
    problem: Problem | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left: the master as it ended, what its network carried, and the digest of all that happened."""

    world: World
    policy: str
    master: Master
    facts: tuple[Fact, ...]
    digest: str
    ended_us: int  # simulated, from the start
    n_events: int
    n_rounds: int
    bytes_between_sites: int
    refused: tuple[tuple[str, Problem], ...]  # jobs that the master did not take
    broken_laws: tuple[str, ...]
    submissions: tuple[Submission, ...] = ()
    incidents: tuple[Incident, ...] = ()
    bytes_by_link: dict[str, int] = {}
    tail: tuple[str, ...] = ()  # the last events before the first broken law
    n_messages_harmed: int = 0
    n_redirected: int = 0  # transfers sent to another source while they ran, in the master's last term
    offers: dict[str, OfferCounts] = {}  # by framework
    asking: dict[str, tuple[Asking, ...]] = {}  # by origin: what clients of weighted services got, second by second
    link_bytes: tuple[tuple[int, dict[str, int]], ...] = ()  # every so often, what each link had carried
    live: bool = False  # real processes did it, in real time
    n_decided_otherwise: int | None = None  # rounds, of a run that a recording repeats; None: it was none
    parting: str = ""  # the first of them
    solve_us: tuple[int, ...] = ()  # of each round, where it was measured or played again


def play(
    world: World,
    policy: Policy,
    policy_name: str,
    *,
    config: MasterConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stop_at_breach: bool = True,
    solve_us: Sequence[int] = (),
) -> Outcome:
    """Run `world` until all its jobs have ended and all its faults are over (or its duration is). `on_progress(at_us,
    duration_us)` is called about once every simulated second. The first broken law ends the run. `solve_us` are the
    rounds' times of a run before, played again."""
    return Player(world, policy, policy_name, config or MasterConfig(), on_progress, stop_at_breach, solve_us).run()


class Player(Overseer):
    def __init__(
        self,
        world: World,
        policy: Policy,
        policy_name: str,
        config: MasterConfig,
        on_progress: Callable[[int, int], None] | None,
        stop_at_breach: bool = True,
        solve_us: Sequence[int] = (),
    ) -> None:
        if world.roles:
            named = {role.path for role in world.roles}
            kept = tuple(role for role in config.roles if role.path not in named)
            config = msgspec.structs.replace(config, roles=(*kept, *world.roles))
        if world.moves_per_minute is not None:
            config = msgspec.structs.replace(config, moves_per_minute_max=world.moves_per_minute)
        self._world = world
        self._policy_name = policy_name
        self._on_progress = on_progress
        self._stop_at_breach = stop_at_breach
        self._digest = hashlib.blake2b(digest_size=16)
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._queue: list[tuple[int, int, str, object]] = []
        self._serial = itertools.count()  # Breaks ties: first scheduled, first handled.
        self._due_us: dict[str, int] = {}  # the deadline already in the queue, per core ("" is the master)
        self._fabric = Fabric(world)
        self.gangs = Gangs(self._fabric, self)
        self.trainings = Trainings(self)
        self._talks: dict[str, dict[str, Talk]] = {}  # by job id
        self._laws = Laws(config, policy_name)
        self._broker = Broker(world.seed, self._fabric, self)
        self._solving = SolveTimes(world.solve_us, world.solve_measured, solve_us)
        self._master = SimulatedMaster(
            config, policy, policy_name, world, self._broker, self, self._laws, self._solving, self._note
        )
        self._agents: dict[str, SimulatedAgent] = {}
        peers: dict[str, SimulatedData] = {}
        for spec in world.agents:
            agent = SimulatedAgent(spec, world, self._fabric, self._broker, self, peers, self)
            self._agents[spec.agent_id], peers[spec.agent_id] = agent, agent.data
        self._injector = Injector(world, self._fabric, self._broker, self._master, self._agents, self)
        self._n_jobs_open = 0
        self._arrivals_left = len(world.arrivals)
        self._coming: Iterator[tuple[int, int, int]] = iter(())  # at, serial, index of those not yet in the queue
        self._frameworks = self._master.frameworks
        self._submissions: list[Submission] = []
        self._behaviours: dict[str, dict[str, Behaviour]] = {}  # by job id
        self._link_bytes: list[tuple[int, dict[str, int]]] = []
        self._clients: dict[str, ServiceClients] = {}  # by origin, of weighted services
        self._services: dict[str, ServiceClients] = {}  # the same by service id
        self._running: dict[str, dict[str, str]] = {}  # service id → task → site, of processes that run
        self._recent: deque[tuple[int, Record]] = deque(maxlen=RECENT_EVENTS)
        self._now_us = START_US
        self._n_events = 0
        self._has_crashed = False

    # --- the queue ---------------------------------------------------------------------------------------------------

    def schedule(self, at_us: int, target: str, event: object) -> None:
        """`target` "" is the master, else an agent id; `event` None is the core's deadline."""
        heapq.heappush(self._queue, (at_us, next(self._serial), target, event))

    def call(self, at_us: int, action: Callable[[int], None]) -> None:
        heapq.heappush(self._queue, (at_us, next(self._serial), CALL, action))

    def run(self) -> Outcome:
        with _rare_collections():
            n_events, now_us = self._guarded()
        self._note_links(now_us)
        if not self._has_crashed:
            self._laws.at_end(self._master.core, now_us)
            if self._master.core is not None and self._is_quiet(now_us):
                self._laws.converged(self._master.core, self._agents, self._broker, now_us)
        return self._outcome(n_events, now_us)

    def _guarded(self) -> tuple[int, int]:
        """Play; a core or a policy that raises ends the run like a broken law, with the event that it raised on."""
        try:
            self._begin()
            return self._play()
        except CrashError as crash:
            self._has_crashed = True
            if crash.event is not None:
                self._recent.append((self._now_us, crash.event))
            self._laws.crashed(crash_sentence(crash))
            return self._n_events, self._now_us

    def _begin(self) -> None:
        self._master.start(START_US)
        for agent in self._agents.values():
            agent.start(START_US)
        self._coming = iter(sorted((each.at_us, next(self._serial), n) for n, each in enumerate(self._world.arrivals)))
        self._await_next()
        self._frameworks.start(START_US)
        for framework in self._world.frameworks:
            for index, arrival in enumerate(framework.arrivals):
                self.call(START_US + arrival.at_us, partial(self._bring, framework.name, index, arrival))
        self._injector.begin(START_US)
        self._note_links(START_US)
        self.call(START_US + CHECK_US, self._look)

    def _outcome(self, n_events: int, now_us: int) -> Outcome:
        return Outcome(
            world=self._world,
            policy=self._policy_name,
            master=self._master.last,
            facts=tuple(self._master.facts),
            digest=self._digest.hexdigest(),
            ended_us=now_us - START_US,
            n_events=n_events,
            n_rounds=self._master.n_rounds,
            bytes_between_sites=self._fabric.bytes_between_sites(),
            refused=tuple(
                (self._world.arrivals[each.arrival].job.name, each.problem)
                for each in self._submissions
                if each.problem is not None
            ),
            broken_laws=tuple(self._laws.broken),
            submissions=tuple(self._submissions),
            incidents=self._injector.incidents(),
            bytes_by_link=self._fabric.bytes_by_link(),
            tail=tail(self._recent, self._laws.broken[0], self._agents) if self._laws.broken else (),
            n_messages_harmed=self._broker.n_harmed,
            n_redirected=self._master.last.counters.get("transfers_redirected", 0),
            offers={name: each.offer_counts() for name, each in self._frameworks.all.items()},
            link_bytes=tuple(self._link_bytes),
            solve_us=tuple(self._solving.taken_us),
            asking={origin: tuple(clients.seconds) for origin, clients in self._clients.items()},
        )

    def _play(self) -> tuple[int, int]:
        """Handle what is queued until nothing is left to be seen; how many events, and the time then."""
        shown_us, n_before = START_US, 0
        end_us = START_US + self._world.duration_us
        while self._queue and not self._all_done(self._now_us):
            flow_end_us = self._fabric.next_end_us()
            if flow_end_us is not None and flow_end_us < self._queue[0][0]:
                self._now_us = max(self._now_us, flow_end_us)
                self._fabric.settle(self._now_us)
                continue
            at_us, _, target, event = heapq.heappop(self._queue)
            if at_us > end_us:
                self._now_us = end_us
                break
            self._now_us = now_us = at_us
            self._step(target, event, now_us)
            self._n_events += 1
            if now_us - shown_us >= 1_000_000:
                shown_us, n_before = now_us, self._n_events
                if self._on_progress is not None:
                    self._on_progress(now_us - START_US, self._world.duration_us)
            assert self._n_events - n_before < EVENTS_MAX, "the run does not go on"
            if self._laws.broken and self._stop_at_breach:
                break
        return self._n_events, self._now_us

    def _all_done(self, now_us: int) -> bool:
        if self._world.to_the_end or self._arrivals_left or self._n_jobs_open or not self._frameworks.are_done:
            return False
        return now_us >= START_US + self._injector.over_us and self._injector.n_recovering == 0

    def _step(self, target: str, event: object, now_us: int) -> None:
        if target == CALL:
            cast(Callable[[int], None], event)(now_us)
            if self._master.core is not None:
                self._arm("", self._master.next_deadline_us(), now_us)
            return
        if event is None:
            if self._due_us.get(target) != now_us:
                return  # an earlier deadline took its place, or it was met already
            del self._due_us[target]
        if target == "":
            self._master.handle(cast("events.Event | None", event), now_us)
            self._arm("", self._master.next_deadline_us(), now_us)
        else:
            agent = self._agents[target]
            agent.handle([event, *self._with_it(target, now_us)], now_us)
            self._arm(target, agent.next_deadline_us(), now_us)

    def _with_it(self, target: str, now_us: int) -> list[object]:
        """What comes next in the queue for the same agent at the same moment."""
        found: list[object] = []
        queue = self._queue
        while queue and queue[0][2] == target and queue[0][0] == now_us and queue[0][3] is not None:
            found.append(heapq.heappop(queue)[3])
        return found

    def _arm(self, target: str, due_us: int | None, now_us: int) -> None:
        if due_us is None:
            return
        due_us = max(due_us, now_us)
        armed_us = self._due_us.get(target)
        if armed_us is None or due_us < armed_us:
            self._due_us[target] = due_us
            self.schedule(due_us, target, None)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _await_next(self) -> None:
        """Put the next arrival into the queue, with the serial it was given at the start. A day of them at once would
        make every step's heap deeper."""
        at_us, serial, index = next(self._coming, (0, 0, -1))
        if index >= 0:
            action = partial(self._arrive, index, self._world.arrivals[index])
            heapq.heappush(self._queue, (START_US + at_us, serial, CALL, action))

    def _arrive(self, index: int, arrival: Arrival, now_us: int) -> None:
        self._await_next()
        self._place_shards(arrival, now_us)

        def answered(answer: Answer, at_us: int) -> None:
            self._arrivals_left -= 1
            problem = answer if isinstance(answer, Problem) else None
            job_id = answer.job_id if isinstance(answer, JobView) else ""
            if job_id:
                self._laws.acknowledged(job_id)
                if arrival.clients is not None:
                    self._serve(job_id, arrival, arrival.clients, at_us)
            self._submissions.append(
                Submission(arrival=index, job_id=job_id, asked_us=now_us - START_US, problem=problem)
            )

        self._master.ask(SubmitJob(job=arrival.job, submission_id=str(index)), now_us, answered)

    def _serve(self, job_id: str, arrival: Arrival, spec: Clients, now_us: int) -> None:
        """Let the clients of a service ask until its end, and tell the master when they ask more or less."""
        group = arrival.job.tasks[0]
        assert group.replicas is not None, "only weighted services have clients of their own"
        service_id, end_us = f"{job_id}/{group.name}", START_US + spec.until_us
        clients = ServiceClients(spec, group.replicas, self._fabric.rtt_of_sites, START_US)
        self._clients[arrival.origin] = self._services[service_id] = clients
        running = self._running.setdefault(service_id, {})

        def ask(at_us: int) -> None:
            if at_us < end_us:
                clients.ask(running, at_us)
                self.call(at_us + SECOND_US, ask)

        def change(site: str, requests: int, at_us: int) -> None:
            clients.asked[site] = requests
            told = SetServiceDemand(service_id=service_id, requests_per_second={site: requests})
            self._master.ask(told, at_us, lambda answer, later_us: None)

        def end(at_us: int) -> None:
            self._master.ask(CancelJob(job_id=job_id), at_us, lambda answer, later_us: None)

        self.call(now_us + SECOND_US, ask)
        for at_us, site, requests in spec.changes:
            self.call(max(now_us, START_US + at_us), partial(change, site, requests))
        self.call(max(now_us, end_us), end)

    def _place_shards(self, arrival: Arrival, now_us: int) -> None:
        for shard in arrival.shards:
            held = HeldShard(shard_id=shard_id_of(shard.name), size_bytes=shard.size_bytes, name=shard.name)
            self._agents[shard.agent_id].find(held, now_us)

    def _bring(self, framework: str, index: int, arrival: Arrival, now_us: int) -> None:
        self._place_shards(arrival, now_us)
        self._frameworks.all[framework].arrive(index, now_us)

    def behaviour_of(self, task_id: str) -> Behaviour | None:
        if is_framework_task(task_id):
            return self._frameworks.behaviour_of(task_id)
        job_id, group, _ = task_id.rsplit("/", 2)
        known = self._behaviours.get(job_id)
        return None if known is None else known.get(group)

    def talk_of(self, task_id: str) -> Talk | None:
        if is_framework_task(task_id):
            return None  # A framework's tasks are told of to nobody but the agent.
        job_id, group, _ = task_id.rsplit("/", 2)
        known = self._talks.get(job_id)
        return None if known is None else known.get(group)

    # --- processes, for the laws -------------------------------------------------------------------------------------

    def began(self, agent_id: str, task_id: str, attempt: int, now_us: int) -> None:
        self._laws.process_began(agent_id, task_id, attempt, now_us)
        if self._services and (running := self._running.get(task_id.rpartition("/")[0])) is not None:
            running[task_id] = self._agents[agent_id].spec.site

    def ended(self, agent_id: str, task_id: str, attempt: int, now_us: int) -> None:
        self._laws.process_ended(task_id, attempt)
        if self._services and (running := self._running.get(task_id.rpartition("/")[0])) is not None:
            running.pop(task_id, None)
        talk = self.talk_of(task_id)
        if talk is not None:
            self.gangs.leave(talk, task_id, attempt, now_us)
        self.trainings.leave(task_id.rpartition("/")[0], task_id, attempt, now_us)

    def _look(self, now_us: int) -> None:
        self._laws.look(self._master.core, self._agents, self._broker, now_us)
        self._note_links(now_us)
        self.call(now_us + CHECK_US, self._look)

    def _note_links(self, now_us: int) -> None:
        at_us = now_us - START_US
        if len(self._world.links) <= LINKS_SHOWN_MAX and (not self._link_bytes or self._link_bytes[-1][0] < at_us):
            self._link_bytes.append((at_us, self._fabric.bytes_by_link()))

    def _is_quiet(self, now_us: int) -> bool:
        return not self._laws.broken and now_us - START_US - self._injector.over_us >= max(self._world.quiet_tail_us, 1)

    # --- the record --------------------------------------------------------------------------------------------------

    def _note(self, now_us: int, value: events.Event | Fact) -> None:
        encoded = self._encoder.encode(value)
        self._digest.update(now_us.to_bytes(8, "big"))
        self._digest.update(encoded)
        if not self._laws.broken:
            self._recent.append((now_us, value))
        if isinstance(value, JobAccepted):
            self._n_jobs_open += 1
            arrival = self._world.arrivals[int(value.submission_id)]
            talks = {
                group.name: Talk(f"{value.job_id}/{group.name}", group.count, group.communication)
                for group in arrival.job.tasks
                if group.gang and group.communication is not None and group.count > 1
            }
            if talks:
                self._talks[value.job_id] = talks
            if arrival.behaviours:
                self._behaviours[value.job_id] = arrival.behaviours
        elif isinstance(value, JobEnded):
            self._n_jobs_open -= 1
        elif isinstance(value, ServiceBalanced):
            clients = self._services.get(f"{value.job_id}/{value.group}")
            if clients is not None:
                clients.hear(value)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cyclic garbage a hundred times less often: a world is millions of objects that stay, and walking them
    again and again was a quarter of the time (docs/performance.md)."""
    before = gc.get_threshold()
    gc.set_threshold(before[0] * 100, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
