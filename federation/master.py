"""What the master decides: events in, commands out, time as an argument. The same object runs live and in scenarios."""

from federation import liveness, probing, reconcile, rescheduling, rounds
from federation.commands import Announce, Command
from federation.config import MasterConfig
from federation.core import Core
from federation.durable import DurableState, capture
from federation.durable import restore as restore_books
from federation.events import (
    AgentSpoke,
    Asked,
    BrokerFound,
    BrokerLost,
    DeadlinePassed,
    Event,
    FrameworkCalled,
    GarbageArrived,
    PlanFailed,
    PlanReady,
    Started,
    StreamClosed,
)  # fmt: skip
from federation.facts import Fact, JobEnded, TermBegun
from federation.market import market
from federation.market.leasing import rescind_agent
from federation.offers import drop_offer, impossible_offer, take_offer
from federation.reports import on_command_ack, on_statuses
from federation.requests import asked, dry_runs_timed_out
from federation.resending import resend
from federation.states import OfferState, TaskState
from federation.steps import told_by
from federation.task_entries import JobEntry
from federation.wire import (
    AgentMessage,
    Birth,
    CommandAck,
    Death,
    MasterState,
    NetReport,
    Offer,
    OfferDelta,
    Ping,
    RebirthRequest,
    StatusReport,
    TaskSteps,
    changed,
)  # fmt: skip


class Master:
    """No I/O, clock or randomness inside. Recover by `restore` and `apply`, then `handle(Started(…))` first of all."""

    def __init__(self, config: MasterConfig, policy_name: str = "flow") -> None:
        self.core = Core(config, policy_name)

    @classmethod
    def restore(cls, config: MasterConfig, durable: DurableState, policy_name: str = "flow") -> "Master":
        master = cls(config, policy_name)
        restore_books(master.core, durable)
        return master

    @property
    def config(self) -> MasterConfig:
        return self.core.config

    @property
    def policy_name(self) -> str:
        return self.core.policy_name

    @property
    def counters(self) -> dict[str, int]:
        """Events counted since the start of this term, by name; refused payloads as `garbage_<code>`."""
        return self.core.counters

    @property
    def term(self) -> int:
        return self.core.term

    def apply(self, fact: Fact) -> None:
        """Replay one fact of the journal."""
        self.core.apply(fact)

    def durable(self) -> DurableState:
        return capture(self.core)

    def next_deadline_us(self) -> int | None:
        return self.core.deadlines.next_us()

    def handle(self, event: Event, now_us: int) -> list[Command]:
        core = self.core
        due_us = core.deadlines.next_us()
        if due_us is not None and now_us - due_us >= core.config.ping_every_us and core.started:
            core.now_us = max(core.now_us, now_us)
            liveness.stalled(core, now_us - due_us)
        core.now_us = max(core.now_us, now_us)
        todo, core.out = core.set_aside.rest_of(event, core.term)
        match todo:
            case None:
                core.count("events_passed_over")
            case AgentSpoke(message=message):
                self._hear(message)
            case Asked():
                asked(core, todo)
            case PlanReady():
                rounds.plan_ready(core, todo)
            case PlanFailed():
                rounds.plan_failed(core, todo)
            case FrameworkCalled():
                market.called(core, todo)
            case StreamClosed():
                market.stream_closed(core, todo.framework_id, todo.stream_id)
            case DeadlinePassed():
                pass  # Time alone acts, below.
            case Started():
                self._start(todo)
            case GarbageArrived(code=code):
                core.count(f"garbage_{code}")
            case BrokerFound():
                self._find_broker()
            case BrokerLost(detail=detail):
                core.broker_found, core.broker_detail = False, detail
                core.count("broker_losses")
        if core.started:
            self._pass_deadlines()
            for job_id in list(core.tasks.drained):
                self._end_job(core.tasks.jobs[job_id])
            market.look_around(core)
            rounds.open_round(core)
        out, core.out = core.out, []
        return out

    # --- the term ----------------------------------------------------------------------------------------------------

    def _start(self, event: Started) -> None:
        core = self.core
        assert event.term > core.term, f"term {event.term} does not exceed {core.term}"
        core.persist(TermBegun(at_us=core.now_us, term=event.term))
        core.http_url = event.http_url.rstrip("/")
        core.started = True
        core.term_begun_us = core.now_us
        core.deadlines.set_earlier("reschedule", core.now_us + core.config.move_look_us)
        core.quiet_until_us = core.now_us
        liveness.watch_all(core)
        reconcile.begin(core)
        market.begin(core)
        self._announce()
        for agent_id in core.agents.entries:
            core.send(agent_id, RebirthRequest(term=core.term, spread_us=core.config.rebirth_spread_us))

    def _announce(self) -> None:
        core = self.core
        core.out.append(Announce(state=MasterState(term=core.term, online=True, http_url=core.http_url)))

    def _find_broker(self) -> None:
        """The session stands: silence is counted from now, and the retained announcement is made again."""
        core = self.core
        core.broker_found, core.broker_detail = True, ""
        core.quiet_until_us = core.now_us
        core.rounds.changed = True
        if core.started:
            self._announce()

    # --- agents ------------------------------------------------------------------------------------------------------

    def _hear(self, message: AgentMessage) -> None:
        core = self.core
        if not core.started:
            core.count("messages_before_start")
            return
        if isinstance(message, Birth):
            liveness.born(core, message)
            return
        if isinstance(message, Death):
            liveness.died(core, message)
            return
        is_new = liveness.is_new(core, message)
        entry = liveness.speaker(core, message)
        if entry is None:
            return
        match message:
            case Offer():
                self._take_offer(message)
            case OfferDelta():
                if entry.said is None or entry.said.seq != message.base_seq:
                    core.count("offers_unfounded")
                    if is_new:
                        liveness.ask_rebirth(core, entry)
                else:
                    self._take_offer(changed(entry.said, message))
            case StatusReport():
                on_statuses(core, entry, message)
            case CommandAck():
                on_command_ack(core, entry, message)
            case NetReport():
                if is_new:
                    entry.told = message
                    core.count("samples_refused", core.network.take(message, core.now_us))
                    self._take_steps(entry.agent_id, message.steps)
                    core.transfers.progress(entry.agent_id, message.fetches, core.agents, core.now_us)
            case Ping():
                liveness.ping(core, entry, message)

    def _take_steps(self, agent_id: str, told: tuple[TaskSteps, ...]) -> None:
        core = self.core
        for each in told:
            group = told_by(core.tasks, agent_id, each)
            if group is None:
                core.count("steps_stale")
                continue
            try:
                fact = core.steps.heard(group, each.steps, core.now_us)
            except ValueError:
                core.count("steps_refused")
                continue
            if fact is not None:
                core.persist(fact)
                core.rounds.changed = True  # Another number of workers may be better now.

    def _take_offer(self, offer: Offer) -> None:
        core = self.core
        entry = core.agents[offer.agent_id]
        if not liveness.may_offer(entry):
            core.count("offers_unwanted")
            return
        if entry.offer is not None and offer.seq < entry.offer.seq:
            core.count("offers_reordered")
            return
        problem = impossible_offer(offer.free, entry)
        if problem is not None:
            core.count("offers_impossible")
            entry.broken_word = f"its offer was refused: {problem}"
            return
        entry.broken_word = ""
        entry.said = offer
        core.count("offers")
        if entry.offer is not None:
            core.count(f"offers_{OfferState.REPLACED}")
        if take_offer(entry, offer, core.now_us, liveness.lease_us(core, entry)):
            core.rounds.changed = True
            core.market.mark(entry.agent_id)
        assert entry.offer is not None
        core.deadlines.set_earlier(("offer", entry.agent_id), entry.offer.expires_us)

    # --- time --------------------------------------------------------------------------------------------------------

    def _pass_deadlines(self) -> None:
        core = self.core
        for key in core.deadlines.due(core.now_us):
            if isinstance(key, tuple) and key[0] == "market":
                market.pass_deadline(core, key)
                continue
            if isinstance(key, tuple):
                entry = core.agents.get(key[1])
                assert entry is not None, f"a deadline of {key[1]}, which is no agent"
                match key[0]:
                    case "agent":
                        liveness.check(core, entry)
                    case "gap":
                        liveness.gap_stays(core, entry)
                    case "resend":
                        resend(core, entry)
                    case "offer":
                        self._expire(key[1])
                continue
            match key:
                case "reconcile":
                    reconcile.finish(core)
                case "round":
                    pass  # `open_round` looks at the time itself.
                case "round_timeout":
                    rounds.round_timed_out(core)
                case "dry_runs":
                    dry_runs_timed_out(core)
                case "probes":
                    probing.make_plans(core)
                case "reschedule":
                    rescheduling.look(core)
                case "moves":
                    core.count("moves_forgotten", core.moves.forget_before(core.now_us - core.config.move_timeout_us))
                    if core.moves.in_flight:
                        core.deadlines.set("moves", core.now_us + core.config.move_timeout_us)

    def _expire(self, agent_id: str) -> None:
        core = self.core
        entry = core.agents[agent_id]
        if entry.offer is None:
            return
        if entry.offer.expires_us > core.now_us:
            core.deadlines.set(("offer", agent_id), entry.offer.expires_us)  # It was renewed meanwhile.
        elif drop_offer(entry):
            core.count(f"offers_{OfferState.EXPIRED}")
            rescind_agent(core, entry, "expired")

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _end_job(self, job: JobEntry) -> None:
        core = self.core
        failed = job.counts[TaskState.FAILED]
        if job.counts[TaskState.FINISHED] == job.n_tasks:
            state, detail = "finished", ""
        elif job.cancelled or not failed:
            state, detail = "cancelled", f"{job.counts[TaskState.CANCELLED]} of {job.n_tasks} tasks were cancelled"
        else:
            first = next(t for g in job.groups.values() for t in g.tasks if t.state is TaskState.FAILED)
            state = "failed"
            detail = (
                f"{failed} of {job.n_tasks} tasks failed; first {first.task_id}: {first.reason} {first.detail[:200]}"
            )
        core.persist(JobEnded(at_us=core.now_us, job_id=job.job_id, state=state, detail=detail.strip()))  # type: ignore[arg-type]
        core.count(f"jobs_{state}")
