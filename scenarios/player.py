"""The scenario player: the production `Master` and `Agent`s on a heap, in simulated time.

The player is a driver like the live one: it hands events to the cores, carries out their commands, and keeps time. What
it replaces is the world: messages arrive after the network's delay, processes end after their run time, transfers
share links. Nothing in the cores knows. Same world, policy and code: same digest (L12).
"""

import hashlib
import heapq
import itertools
from collections.abc import Callable

import msgspec

from agents.events import Event as AgentEvent
from federation import commands, events
from federation.api import JobView, Problem, SubmitJob
from federation.config import MasterConfig
from federation.facts import Fact
from federation.master import Master
from policies.api import Policy
from scenarios.fabric import Fabric
from scenarios.laws import Laws
from scenarios.simulated_agent import SimulatedAgent
from scenarios.world import World

START_US = 1_700_000_000_000_000  # Simulated runs begin at a fixed Unix time: digests hold no wall clock.
EVENTS_MAX = 50_000_000  # A run that needs more has a loop in it.


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


def play(
    world: World,
    policy: Policy,
    policy_name: str,
    *,
    config: MasterConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run `world` until all its jobs have ended (or its duration is over). `on_progress(at_us, duration_us)` is called
    about once every simulated second."""
    return Player(world, policy, policy_name, config or MasterConfig(), on_progress).run()


class Player:
    def __init__(
        self,
        world: World,
        policy: Policy,
        policy_name: str,
        config: MasterConfig,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._world = world
        self._policy = policy
        self._policy_name = policy_name
        self._on_progress = on_progress
        self._master = Master(config, policy_name)
        self._laws = Laws(config, policy_name)
        self._facts: list[Fact] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._queue: list[tuple[int, int, str, events.Event | AgentEvent | None]] = []
        self._serial = itertools.count()  # Breaks ties: first scheduled, first handled.
        self._due_us: dict[str, int] = {}  # the deadline already in the queue, per core ("" is the master)
        self._fabric = Fabric(world)
        self._agents = {
            spec.agent_id: SimulatedAgent(spec, world, self._fabric, self._schedule) for spec in world.agents
        }
        self._n_rounds = 0
        self._n_jobs_open = 0
        self._refused: list[tuple[str, Problem]] = []
        self._requests: dict[str, str] = {}  # request id → job name
        self._arrivals_left = len(world.arrivals)

    def run(self) -> Outcome:
        self._schedule(START_US, "", events.Started(term=1))
        self._schedule(START_US, "", events.BrokerFound())
        for agent in self._agents.values():
            agent.start(START_US)
        for index, arrival in enumerate(self._world.arrivals):
            request_id = f"arrival-{index}"
            self._requests[request_id] = arrival.job.name
            asked = events.Asked(request_id=request_id, request=SubmitJob(job=arrival.job))
            self._schedule(START_US + arrival.at_us, "", asked)
        n_events, now_us, shown_us = 0, START_US, START_US
        end_us = START_US + self._world.duration_us
        while self._queue and not self._all_done():
            flow_end_us = self._fabric.next_end_us()
            if flow_end_us is not None and flow_end_us < self._queue[0][0]:
                now_us = max(now_us, flow_end_us)
                self._fabric.settle(now_us)
                continue
            at_us, _, target, event = heapq.heappop(self._queue)
            if at_us > end_us:
                break
            now_us = at_us
            self._step(target, event, now_us)
            n_events += 1
            assert n_events < EVENTS_MAX, "the run does not end"
            if self._on_progress is not None and now_us - shown_us >= 1_000_000:
                shown_us = now_us
                self._on_progress(now_us - START_US, self._world.duration_us)
        self._laws.at_end(self._master, now_us)
        return Outcome(
            world=self._world,
            policy=self._policy_name,
            master=self._master,
            facts=tuple(self._facts),
            digest=self._digest.hexdigest(),
            ended_us=now_us - START_US,
            n_events=n_events,
            n_rounds=self._n_rounds,
            bytes_between_sites=self._fabric.bytes_between_sites(),
            refused=tuple(self._refused),
            broken_laws=tuple(self._laws.broken),
        )

    def _all_done(self) -> bool:
        return self._arrivals_left == 0 and self._n_jobs_open == 0

    def _schedule(self, at_us: int, target: str, event: events.Event | AgentEvent | None) -> None:
        """`target` "" is the master, else an agent id; `event` None is the core's deadline."""
        heapq.heappush(self._queue, (at_us, next(self._serial), target, event))

    def _step(self, target: str, event: events.Event | AgentEvent | None, now_us: int) -> None:
        if event is None:
            if self._due_us.get(target) != now_us:
                return  # an earlier deadline took its place, or it was met already
            del self._due_us[target]
        if target == "":
            self._step_master(event, now_us)
        else:
            agent = self._agents[target]
            agent.handle(event, now_us)
            self._arm(target, agent.next_deadline_us(), now_us)

    def _step_master(self, event: events.Event | AgentEvent | None, now_us: int) -> None:
        handled = events.DeadlinePassed() if event is None else event
        assert isinstance(handled, events.Event)
        self._note(now_us, handled)
        wanted = self._master.handle(handled, now_us)
        self._laws.after_step(handled, wanted, now_us)
        for command in wanted:
            self._carry_out(command, now_us)
        self._arm("", self._master.next_deadline_us(), now_us)

    def _arm(self, target: str, due_us: int | None, now_us: int) -> None:
        if due_us is None:
            return
        due_us = max(due_us, now_us)
        armed_us = self._due_us.get(target)
        if armed_us is None or due_us < armed_us:
            self._due_us[target] = due_us
            self._schedule(due_us, target, None)

    def _carry_out(self, command: commands.Command, now_us: int) -> None:
        sent_us = now_us + self._world.commit_us
        match command:
            case commands.Persist(fact=fact):
                self._facts.append(fact)
                self._note(now_us, fact)
                self._count(fact)
            case commands.Send(agent_id=agent_id, message=message):
                agent = self._agents.get(agent_id)
                if agent is not None:
                    agent.deliver(message, sent_us)
            case commands.Announce(state=state):
                for agent in self._agents.values():
                    agent.deliver(state, sent_us)
            case commands.Solve(round_id=round_id, snapshot=snapshot):
                self._n_rounds += 1
                plan = self._policy.plan(snapshot)
                ready = events.PlanReady(round_id=round_id, plan=plan, solve_us=self._world.solve_us)
                self._schedule(now_us + self._world.solve_us, "", ready)
            case commands.Reply(request_id=request_id, answer=answer):
                self._arrivals_left -= 1
                if isinstance(answer, Problem):
                    self._refused.append((self._requests[request_id], answer))
                else:
                    assert isinstance(answer, JobView)

    def _count(self, fact: Fact) -> None:
        kind = type(fact).__name__
        if kind == "JobAccepted":
            self._n_jobs_open += 1
        elif kind == "JobEnded":
            self._n_jobs_open -= 1

    def _note(self, now_us: int, value: events.Event | Fact) -> None:
        self._digest.update(now_us.to_bytes(8, "big"))
        self._digest.update(self._encoder.encode(value))
