"""The production master core in a simulated process: a journal that outlasts it, a policy that takes its time.

A restart is the live one's: what the journal holds is replayed into a fresh `Master`, captured, encoded, decoded and
restored, and the next term begins. Requests that got no answer are asked again by whoever asked, with the same
submission id, as the command line does.
"""

import copy
from collections.abc import Callable

import msgspec

from federation import commands, events
from federation.api import Answer, Problem, Request, SubmitJob
from federation.config import MasterConfig
from federation.durable import DurableState
from federation.facts import Fact
from federation.master import Master
from federation.wire import MasterState
from policies.api import Policy
from scenarios.broker import KEEPALIVE_US, Broker, Timetable
from scenarios.clock import Clock
from scenarios.crash import CrashError
from scenarios.faults import KillPoint
from scenarios.frameworks import Frameworks
from scenarios.laws import Laws
from scenarios.solving import SolveTimes
from scenarios.world import World

RETRY_US = 1_000_000  # The command line asks again this soon while a master is away.
PATIENT_CODES = ("no_shards", "recovering", "full")  # Problems that time mends: the asker waits and asks again.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DurableState)

Done = Callable[[Answer, int], None]


class _Question:
    __slots__ = ("done", "n_asked", "request")

    def __init__(self, request: Request, done: Done) -> None:
        self.request = request
        self.done = done
        self.n_asked = 0


class SimulatedMaster:
    """`note` is told every event that was handled and every fact that became durable."""

    def __init__(
        self,
        config: MasterConfig,
        policy: Policy,
        policy_name: str,
        world: World,
        broker: Broker,
        timetable: Timetable,
        laws: Laws,
        solving: SolveTimes,
        note: Callable[[int, events.Event | Fact], None],
    ) -> None:
        self._config = config
        self._policy = policy
        # A restarted process begins with a policy that remembers nothing.
        self._unused_policy = copy.deepcopy(policy) if world.faults else None
        self._policy_name = policy_name
        self._world = world
        self._broker = broker
        self._timetable = timetable
        self._laws = laws
        self._solving = solving
        self._note = note
        self.core: Master | None = None
        self.last: Master = Master(config, policy_name)  # the newest core, also when its process is gone
        self.facts: list[Fact] = []  # the journal
        self.n_rounds = 0
        self.n_holding_down = 0  # faults that keep its process from running
        self._term = 0
        self._life = 0
        self._paused = False
        self._backlog: list[events.Event] = []
        self._doom: tuple[KillPoint, Callable[[int], None]] | None = None
        self.clock = Clock()
        self._n_solving = 0
        self._n_requests = 0
        self._questions: dict[str, _Question] = {}
        self.disk_is_full = False
        self.frameworks = Frameworks(world, timetable, self._hear_call)

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self, now_us: int) -> None:
        if self.core is not None or self.n_holding_down:
            return
        self._life += 1
        self._term += 1
        self.clock.start(now_us)
        if self._term > 1 and self._unused_policy is not None:
            self._policy = copy.deepcopy(self._unused_policy)
        if self.facts:
            replayed = Master(self._config, self._policy_name)
            for fact in self.facts:
                replayed.apply(fact)
            durable = replayed.durable()
            self._laws.on_recovery(durable)
            self.core = Master.restore(self._config, _decoder.decode(_encoder.encode(durable)), self._policy_name)
        else:
            self.core = Master(self._config, self._policy_name)
        self.last = self.core
        self._step(events.Started(term=self._term), now_us)
        if self._broker.up:
            self.post(now_us, events.BrokerFound())

    def kill(self, now_us: int) -> None:
        if self.core is None:
            return
        self._laws.on_death()
        self.core = None
        self._life += 1
        self._paused = False
        self._backlog.clear()
        self._doom = None
        self._n_solving = 0
        self.frameworks.lost(now_us)
        if self._broker.up:  # Its will, which the broker retains.
            self._broker.announce(MasterState(term=self._term, online=False), now_us)

    def kill_at(self, point: KillPoint, now_us: int, then: Callable[[int], None]) -> None:
        def doom(at_us: int) -> None:
            self.kill(at_us)
            then(at_us)

        if point == "now" or self.core is None or (point == "while-solving" and self._n_solving):
            doom(now_us)
        else:
            self._doom = (point, doom)

    def pause(self, now_us: int) -> None:
        """Stopped in its tracks; the broker gives its session up past the keep-alive."""
        if self.core is None or self._paused:
            return
        self._paused = True
        life = self._life

        def give_up(at_us: int) -> None:
            if self._paused and self._life == life and self._broker.up:
                self._broker.announce(MasterState(term=self._term, online=False), at_us)
                self._backlog += [events.BrokerLost(detail="keep-alive"), events.BrokerFound()]

        self._timetable.call(now_us + KEEPALIVE_US, give_up)

    def resume(self, now_us: int) -> None:
        if not self._paused:
            return
        self._paused = False
        waited, self._backlog = self._backlog, []
        for event in waited:
            self.post(now_us, event)

    def lose_broker(self, now_us: int) -> None:
        self.post(now_us, events.BrokerLost(detail="connection reset"))

    def find_broker(self, now_us: int) -> None:
        self.post(now_us, events.BrokerFound())

    def next_deadline_us(self) -> int | None:
        due_us = self.core.next_deadline_us() if self.core is not None and not self._paused else None
        return None if due_us is None else self.clock.real(due_us)

    # --- requests ----------------------------------------------------------------------------------------------------

    def ask(self, request: Request, now_us: int, done: Done) -> None:
        """Ask, again and again while nobody answers; `done` is told the answer once."""
        self._n_requests += 1
        request_id = f"request-{self._n_requests}"
        if isinstance(request, SubmitJob) and not request.submission_id:
            request = msgspec.structs.replace(request, submission_id=request_id)
        self._questions[request_id] = _Question(request, done)
        self._put(request_id, now_us)

    def _put(self, request_id: str, now_us: int) -> None:
        question = self._questions.get(request_id)
        if question is None:
            return
        question.n_asked += 1
        n_asked, life = question.n_asked, self._life
        if self.core is not None:
            self.post(now_us, events.Asked(request_id=request_id, request=question.request))

        def again(at_us: int) -> None:
            known = self._questions.get(request_id)
            if known is None or known.n_asked != n_asked:
                return
            if self.core is None or self._life != life or self._doom is not None:
                self._put(request_id, at_us)
            else:
                self._timetable.call(at_us + RETRY_US, again)

        if self._world.faults:
            self._timetable.call(now_us + RETRY_US, again)

    def _answer(self, request_id: str, answer: Answer, now_us: int) -> None:
        question = self._questions.get(request_id)
        if question is None:
            self.frameworks.answered(request_id, answer, now_us)
            return  # Else a second answer to a question that was asked twice.
        if isinstance(answer, Problem) and answer.code in PATIENT_CODES:
            question.n_asked += 1
            self._timetable.call(now_us + RETRY_US, lambda at_us: self._put(request_id, at_us))
            return
        del self._questions[request_id]
        question.done(answer, now_us)

    # --- events ------------------------------------------------------------------------------------------------------

    def post(self, at_us: int, event: events.Event) -> None:
        """An event for the process of now; void when that is gone."""
        life = self._life
        self._timetable.call(at_us, lambda now_us: self.handle(event, now_us) if life == self._life else None)

    def _hear_call(self, event: events.FrameworkCalled, at_us: int) -> None:
        if self.core is not None:
            self.post(at_us, event)

    def handle(self, event: events.Event | None, now_us: int) -> None:
        if self.core is None:
            return
        if self._paused:
            if event is not None:
                self._backlog.append(event)
            return
        self._step(events.DeadlinePassed() if event is None else event, now_us)

    def _step(self, event: events.Event, now_us: int) -> None:
        assert self.core is not None, "only a living process takes a step"
        local_us = self.clock.local(now_us)
        try:
            wanted = self.core.handle(event, local_us)
        except Exception as error:  # A bug of ours: the run ends and shows what led to it.
            about = event.message.agent_id if isinstance(event, events.AgentSpoke) else ""
            raise CrashError("the master", event, about) from error
        if isinstance(event, events.PlanReady | events.PlanFailed):
            self._n_solving -= 1
        facts = [command.fact for command in wanted if isinstance(command, commands.Persist)]
        others: list[commands.Command] = [command for command in wanted if not isinstance(command, commands.Persist)]
        point, doom = self._doom if self._doom is not None else (None, None)
        strikes = point is not None and self._strikes(point, facts, others)
        if self.disk_is_full and facts:
            self.kill(now_us)  # A failed fsync is never tried again: it steps down, and a person frees the disk.
            return
        if strikes and point == "before-journal":
            facts, others = [], []
        elif strikes and point in ("after-journal-before-send", "after-assign-before-send"):
            others = []
        elif strikes and point == "half-sent":
            others = others[: len(others) // 2]
        if not (strikes and point == "before-journal"):
            self._note(now_us, event)
            made: list[commands.Command] = [commands.Persist(fact=fact) for fact in facts]
            self._laws.after_step(event, made + others, local_us)
        for fact in facts:
            self.facts.append(fact)
            self._note(now_us, fact)
        for command in others:
            self._carry_out(command, now_us)
        if strikes and doom is not None:
            doom(now_us)

    def _strikes(self, point: KillPoint, facts: list[Fact], others: list[commands.Command]) -> bool:
        sends = any(isinstance(command, commands.Send | commands.Reply) for command in others)
        match point:
            case "while-solving":
                return any(isinstance(command, commands.Solve) for command in others)
            case "after-assign-before-send":
                return any(type(fact).__name__ == "TasksAssigned" for fact in facts)
            case "before-journal":
                return bool(facts)
            case _:
                return bool(facts) and sends

    def _carry_out(self, command: commands.Command, now_us: int) -> None:
        sent_us = now_us + self._world.commit_us
        match command:
            case commands.Send(agent_id=agent_id, message=message):
                self._broker.to_agent(agent_id, message, sent_us)
            case commands.Announce(state=state):
                self._broker.announce(state, sent_us)
            case commands.Solve(round_id=round_id, snapshot=snapshot):
                self.n_rounds += 1
                self._n_solving += 1
                try:
                    plan, solve_us = self._solving.solve(self._policy, snapshot)
                except Exception as error:  # Live, the fallback would plan; here the policy is what is tested.
                    raise CrashError(f"the policy {self._policy_name}", None) from error
                self.post(now_us + solve_us, events.PlanReady(round_id=round_id, plan=plan, solve_us=solve_us))
            case commands.Reply(request_id=request_id, answer=answer):
                self._answer(request_id, answer, now_us)
            case commands.Emit():
                self.frameworks.emit(command, sent_us)
            case commands.Persist():
                raise AssertionError("facts are made durable before anything else")
