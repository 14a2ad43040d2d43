"""The laws of docs/architecture.md as an observer with its own books: it sees what enters a master and what comes out.

It trusts nothing of the master's books. Whatever it can tell from events, facts and messages it checks after each step;
what needs the whole run, `at_end`. `broken` holds one sentence per breach, the law's number first.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from federation import commands, events, facts
from federation.api import JobView
from federation.config import MasterConfig
from federation.durable import DurableState
from federation.market.book import TERMINAL as FRAMEWORK_TERMINAL
from federation.market.book import needs_of, wire_id
from federation.market.facts import FrameworkTaskChanged, FrameworkTaskLaunched
from federation.market.protocol import Accept, Decline, FrameworkOffer, Offers, Rescind, Subscribe
from federation.master import Master
from federation.states import AGENT_EDGES, PLACED_STATES, TASK_EDGES, TERMINAL_STATES, AgentState, TaskState
from federation.wire import Birth, CommandBatch, Launch, Offer, OfferDelta, Welcome, changed
from policies.gpus import memory_of
from policies.model import Needs, Where
from scenarios.ledger import Attempt, Group, Ledger

BROKEN_MAX = 100  # A master that breaks a law at every step need not fill the memory.
# A running task that nobody authorised is found by the next birth and killed: a connection, a reconciliation, a lost
# message or two and the kill's grace take less than this.
ORPHAN_US = 60_000_000
SETTLED_US = 60_000_000  # An assignment that nobody acknowledged was re-sent five times by then.
Key = tuple[str, int]


class Process(Protocol):
    """An agent's process as the laws see it: its core (None: gone) and the tasks that run on its device."""

    @property
    def boot(self) -> int | None: ...
    @property
    def tasks(self) -> Iterable[Key]: ...


class Connections(Protocol):
    """The broker as the laws see it."""

    @property
    def is_harming(self) -> bool: ...
    def is_connected(self, agent_id: str) -> bool: ...


class Laws:
    """Attach one to a master: call `after_step` with each event and the commands it led to, and `at_end` once."""

    def __init__(self, config: MasterConfig, policy_name: str) -> None:
        self.broken: list[str] = []
        self._config = config
        self._policy_name = policy_name
        self._ledger = Ledger(config.roles, self._break)
        self._facts: list[facts.Fact] = []
        self._jobs: dict[str, dict[str, Group]] = {}
        self._tasks: dict[str, TaskState] = {}
        self._groups: dict[str, tuple[str, str]] = {}  # task id → job id, group
        self._last_attempt: dict[str, int] = {}
        self._open: dict[str, Attempt] = {}  # task id → the attempt that may run
        self._agents: dict[str, AgentState] = {}
        self._offers: dict[str, tuple[Offer, int]] = {}  # agent id → last offer, when it lapses
        self._leases_us: dict[str, int] = {}  # what agents were told: longer in a large fleet, which renews less often
        self._lives: dict[str, tuple[int, int]] = {}  # agent id → boot and connection of its newest birth
        self._term = 0
        self._ended_jobs: set[str] = set()
        self._acknowledged: set[str] = set()
        self._n_failed: dict[str, int] = {}  # attempts of a task that failed
        self._processes: dict[Key, str] = {}  # (task id, attempt) → the agent on which its process runs
        self._orphans: dict[tuple[str, Key], int] = {}  # unauthorised processes: seen since
        self._leases: dict[str, dict[str, Attempt]] = {}  # framework → its live offers, held like attempts
        self._launched: dict[str, Group] = {}  # open tasks of frameworks

    def after_step(self, event: events.Event, wanted: list[commands.Command], now_us: int) -> None:
        if isinstance(event, events.AgentSpoke):
            self._hear(event, now_us)
        elif isinstance(event, events.FrameworkCalled):
            self._hear_framework(event)
        if self._leases:  # What a step takes back it may give away: facts come first in `wanted`.
            for command in wanted:
                if isinstance(command, commands.Emit) and isinstance(command.event, Rescind):
                    self._end_leases(command.framework_id, (command.event.offer_id,))
        for command in wanted:
            match command:
                case commands.Emit(event=Offers(offers=offers)):
                    for offer in offers:
                        self._lease(offer, now_us)
                case commands.Persist(fact=fact):
                    self._facts.append(fact)
                    self._learn(fact)
                case commands.Reply(answer=JobView(job_id=job_id)):
                    if job_id not in self._jobs:
                        self._break(f"L1 job {job_id} was acknowledged before it was durable")
                case commands.Send(agent_id=agent_id, message=CommandBatch(term=term, commands=batch)):
                    if self._term not in (0, term):
                        self._break(f"L3 commands of term {term} were sent in term {self._term}")
                    for item in batch:
                        if isinstance(item, Launch):
                            self._check_launch(agent_id, item)
                case commands.Send(agent_id=agent_id, message=Welcome(offer_lease_us=lease_us)):
                    self._leases_us[agent_id] = lease_us
                case _:
                    pass

    def remember(self, known: Iterable[facts.Fact]) -> None:
        """Facts of before it was attached: taken as they are, since what led to them was not seen."""
        for fact in known:
            self._facts.append(fact)
            self._learn(fact)
        self.broken.clear()

    def crashed(self, sentence: str) -> None:
        """A core raised, which no law allows."""
        self._break(sentence)

    # --- a master comes and goes -------------------------------------------------------------------------------------

    def acknowledged(self, job_id: str) -> None:
        """Whoever submitted it has been told so."""
        self._acknowledged.add(job_id)

    def on_death(self) -> None:
        """The master's process is gone, and with it every offer."""
        self._offers.clear()
        self._lives.clear()
        for framework_id, leases in self._leases.items():
            self._end_leases(framework_id, tuple(leases))

    def on_recovery(self, durable: DurableState) -> None:
        """L1: what was acknowledged is known to the next master, until it ended and was forgotten."""
        known = {job.accepted.job_id for job in durable.jobs}
        lost = sorted(self._acknowledged - known - self._ended_jobs)
        self._check(not lost, f"L1 job {lost[0] if lost else ''} was acknowledged and is gone after a restart")
        self._check(durable.term == self._term, f"L7 the journal ends in term {durable.term}, not {self._term}")

    # --- processes on devices ----------------------------------------------------------------------------------------

    def process_began(self, agent_id: str, task_id: str, attempt: int, now_us: int) -> None:
        other = self._processes.get((task_id, attempt))
        if other is not None:
            self._break(f"L3 attempt {attempt} of {task_id} runs on {other} and on {agent_id} at {now_us}")
        self._processes[task_id, attempt] = agent_id

    def process_ended(self, task_id: str, attempt: int) -> None:
        self._processes.pop((task_id, attempt), None)

    def look(self, master: Master | None, agents: Mapping[str, Process], broker: Connections, now_us: int) -> None:
        """Now and then: no orphan lives long (L9), books and queues are bounded (L10)."""
        serving = master is not None and master.core.started and not master.core.recovering
        seen: set[tuple[str, Key]] = set()
        for key, agent_id in self._processes.items() if serving and not broker.is_harming else ():
            attempt = self._open.get(key[0])
            authorised = attempt is not None and (attempt.agent_id, attempt.attempt) == (agent_id, key[1])
            here = self._agents.get(agent_id) is AgentState.ONLINE and broker.is_connected(agent_id)
            if not authorised and here and agents[agent_id].boot is not None:
                seen.add((agent_id, key))
        self._orphans = {each: self._orphans.get(each, now_us) for each in sorted(seen)}
        for (agent_id, (task_id, number)), since_us in self._orphans.items():
            late_us = now_us - since_us
            self._check(late_us < ORPHAN_US, f"L9 attempt {number} of {task_id} runs unauthorised on {agent_id}")
        if master is not None:
            self._check_bounds(master)

    def _check_bounds(self, master: Master) -> None:
        core, config = master.core, self._config
        sizes = {
            "open jobs": (core.tasks.job_counts["running"], config.jobs_max),
            "demand classes": (len(core.tasks.demands), config.demands_max),
            "agents": (len(core.agents), config.agents_max),
            "shards": (len(core.shards), config.shards_max),
            "roles": (len(core.shares.roles), config.roles_max),
            "moves in flight": (len(core.moves.in_flight), config.moves_in_flight_max),
        }
        for what, (size, most) in sizes.items():
            self._check(size <= most, f"L10 the master keeps {size} {what}; the bound is {most}")

    def converged(self, master: Master, agents: Mapping[str, Process], broker: Connections, now_us: int) -> None:
        """L13, after a quiet time: everyone is in service, both sides agree, and what could run does not wait."""
        for agent_id in sorted(agents):
            boot = agents[agent_id].boot
            if boot is None or not broker.is_connected(agent_id):
                continue
            state = self._agents.get(agent_id)
            self._check(state is AgentState.ONLINE, f"L13 agent {agent_id} is {state} long after all was mended")
        for task_id, task_state in self._tasks.items():
            task = master.core.tasks.tasks.get(task_id)
            if task_state in (TaskState.UNKNOWN, TaskState.ASSIGNED, TaskState.KILLING) and task is not None:
                since_us = now_us - task.since_us
                agent = self._open[task_id].agent_id if task_id in self._open else ""
                gone = agent in agents and agents[agent].boot is None
                self._check(since_us < SETTLED_US or gone, f"L13 task {task_id} is {task_state} for {since_us} us")
        self._check_progress(master, now_us)

    def _check_progress(self, master: Master, now_us: int) -> None:
        """With nothing placed anywhere, a task that fits an agent in service must not wait."""
        core = master.core
        if self._open:
            return
        for task_id, state in self._tasks.items():
            task = core.tasks.tasks.get(task_id)
            if state is not TaskState.PENDING or task is None or now_us - task.since_us < SETTLED_US:
                continue
            job_id, name = self._groups[task_id]
            spec, group = task.group.spec, self._jobs[job_id][name]
            if (
                spec.gang
                or spec.needs.links
                or spec.where != Where()
                or self._ledger.over_quota(group)
                or task.failed_on
            ):
                continue
            room = [
                agent_id
                for agent_id, total in self._ledger.totals.items()
                if self._agents.get(agent_id) is AgentState.ONLINE
                and spec.needs.gpu is None
                and core.agents[agent_id].mode == "active"
                and spec.needs.cpu_milli <= total.cpu_milli
                and spec.needs.memory_bytes <= total.memory_bytes
                and spec.needs.disk_bytes <= total.disk_bytes
            ]
            self._check(not room, f"L13 task {task_id} waits while {room[0] if room else ''} is idle and would fit it")

    # --- the end -----------------------------------------------------------------------------------------------------

    def at_end(self, master: Master | None, now_us: int) -> None:
        """L2: every task ended, or is owned, or waits with a reason. L7: the facts alone rebuild the durable state.
        Without a master there is no live state to compare."""
        for task_id, state in self._tasks.items():
            owned = state in PLACED_STATES and task_id in self._open
            waits = state in (TaskState.PENDING, TaskState.WAITING)
            self._check(
                state in TERMINAL_STATES or owned or waits, f"L2 task {task_id} is {state} and nobody's at {now_us}"
            )
        if master is None:
            return
        replayed = Master(self._config, self._policy_name)
        try:
            for fact in self._facts:
                replayed.apply(fact)
        except Exception as error:  # Facts that break a law may be refused by the books: that is told, too.
            self._break(f"L7 the journal cannot be replayed: {error}")
            return
        self._check(replayed.durable() == master.durable(), "L7 the replayed journal differs from the live state")

    def _check(self, holds: bool, sentence: str) -> None:
        if not holds:
            self._break(sentence)

    def _break(self, sentence: str) -> None:
        """Called alone where a check is frequent: a sentence that nobody reads need not be written."""
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(sentence)

    def _hear(self, event: events.AgentSpoke, now_us: int) -> None:
        match event.message:
            case Birth(agent_id=agent_id, boot=boot, conn=conn):
                known = self._lives.get(agent_id)
                if known is None or (boot, conn) > known:  # An earlier one comes late, the same says more.
                    self._lives[agent_id] = (boot, conn)
                    self._offers.pop(agent_id, None)
            case OfferDelta(agent_id=agent_id, base_seq=base_seq) as delta:
                last = self._offers.get(agent_id)
                if last is not None and last[0].seq == base_seq:
                    self._hear(events.AgentSpoke(message=changed(last[0], delta)), now_us)
            case Offer(agent_id=agent_id, boot=boot, conn=conn) as offer:
                last = self._offers.get(agent_id)
                is_of_now = self._lives.get(agent_id, (boot, conn)) == (boot, conn)
                if is_of_now and (last is None or offer.seq >= last[0].seq):
                    lease_us = min(offer.expires_in_us, self._leases_us.get(agent_id, self._config.offer_lease_us))
                    self._offers[agent_id] = (offer, now_us + lease_us)
            case _:
                pass  # A death counts only if its life is the current one; the master's fact tells.

    def _learn(self, fact: facts.Fact) -> None:
        match fact:
            case facts.TaskStateChanged():
                self._move_task(fact)
            case facts.TasksAssigned(at_us=at_us, assignments=assignments):
                for assignment in assignments:
                    self._check_offer(assignment.agent_id, at_us)
                    for index, task_id in enumerate(assignment.task_ids):
                        gpus = assignment.gpus[index] if assignment.gpus else ()
                        self._assign(task_id, assignment.agent_id, assignment.attempts[index], gpus)
            case FrameworkTaskLaunched():
                self._launch(fact)
            case FrameworkTaskChanged(framework_id=framework_id, update=update):
                task_id = wire_id(framework_id, update.task_id)
                if update.state in FRAMEWORK_TERMINAL and task_id in self._open:
                    self._ledger.release(self._open.pop(task_id), task_id)
                    self._ledger.use(self._launched.pop(task_id), -1)
            case facts.TermBegun(term=term):
                self._check(term > self._term, f"L3 term {term} began after term {self._term}")
                self._term = term
            case facts.RoleSet(path=path, quota=quota):
                self._ledger.quotas[path] = quota
            case facts.AgentForgotten(agent_id=agent_id):
                self._agents.pop(agent_id, None)
            case facts.AgentEnrolled(agent_id=agent_id, total=total):
                self._ledger.totals[agent_id] = total
                self._agents.setdefault(agent_id, AgentState.ONLINE)
            case facts.AgentStateChanged(agent_id=agent_id, state=state):
                self._move_agent(agent_id, AgentState(state))
            case facts.JobAccepted():
                self._accept(fact)
            case facts.JobCancelled(job_id=job_id):
                self._cancel(job_id)
            case facts.JobEnded(job_id=job_id):
                self._end(job_id)
                self._ended_jobs.add(job_id)
            case _:
                pass

    # --- edges that a fact implies: the books take them without a fact for each task ---------------------------------

    def _accept(self, fact: facts.JobAccepted) -> None:
        groups = self._jobs[fact.job_id] = {}
        for spec in fact.job.tasks:
            count = len(fact.each[spec.name]) if spec.for_each is not None else spec.count
            task_ids = tuple(f"{fact.job_id}/{spec.name}/{index}" for index in range(count))
            groups[spec.name] = Group(spec.needs, spec.after, task_ids, fact.job.role, spec.attempts_max)
            self._groups |= dict.fromkeys(task_ids, (fact.job_id, spec.name))
            self._tasks |= dict.fromkeys(task_ids, TaskState.WAITING if spec.after else TaskState.PENDING)
            if spec.replicas is not None:
                groups[spec.name].least = spec.replicas.least
                self._tasks |= dict.fromkeys(task_ids[spec.replicas.least :], TaskState.WAITING)

    def _release(self, job_id: str) -> None:
        """Waiting tasks become pending when all that they come after has finished."""
        groups = self._jobs[job_id]
        for group in groups.values():
            if group.after and all(groups[name].n_finished == len(groups[name].task_ids) for name in group.after):
                for task_id in group.task_ids[: group.least]:
                    if self._tasks[task_id] is TaskState.WAITING:
                        self._tasks[task_id] = TaskState.PENDING

    def _cancel(self, job_id: str) -> None:
        for task_id in self._task_ids(job_id):
            if self._tasks[task_id] in (TaskState.WAITING, TaskState.PENDING):
                self._tasks[task_id] = TaskState.CANCELLED
            elif self._tasks[task_id] in PLACED_STATES:
                self._tasks[task_id] = TaskState.KILLING

    def _end(self, job_id: str) -> None:
        """Tasks that waited for one that failed are cancelled; nothing else may be open."""
        for task_id in self._task_ids(job_id):
            if self._tasks[task_id] is TaskState.WAITING:
                self._tasks[task_id] = TaskState.CANCELLED
            if self._tasks[task_id] not in TERMINAL_STATES:
                self._break(f"L2 job {job_id} ended while task {task_id} is {self._tasks[task_id]}")

    def _task_ids(self, job_id: str) -> list[str]:
        return [task_id for group in self._jobs[job_id].values() for task_id in group.task_ids]

    def _lose_sight(self, agent_id: str) -> None:
        for task_id in self._ledger.tasks_on(agent_id):
            if task_id in self._tasks and self._tasks[task_id] is not TaskState.KILLING:
                self._tasks[task_id] = TaskState.UNKNOWN

    # --- edges that a fact states ------------------------------------------------------------------------------------

    def _move_agent(self, agent_id: str, state: AgentState) -> None:
        before = self._agents.get(agent_id, AgentState.ONLINE)
        legal = state == before or state in AGENT_EDGES[before]
        self._check(legal, f"L8 agent {agent_id} went from {before} to {state}")
        self._agents[agent_id] = state
        if state is not AgentState.ONLINE:
            self._offers.pop(agent_id, None)  # rescinded
        if state is AgentState.DISCONNECTED:
            self._lose_sight(agent_id)

    def _assign(self, task_id: str, agent_id: str, attempt: int, gpus: tuple[str, ...]) -> None:
        before = self._tasks[task_id]
        if TaskState.ASSIGNED not in TASK_EDGES[before]:
            self._break(f"L8 task {task_id} went from {before} to assigned")
        if task_id in self._open:
            self._break(f"L3 task {task_id} was assigned while an attempt of it is open")
        if attempt <= self._last_attempt.get(task_id, 0):
            self._break(f"L3 attempt {attempt} of task {task_id} was used before")
        self._tasks[task_id] = TaskState.ASSIGNED
        self._last_attempt[task_id] = attempt
        job_id, name = self._groups[task_id]
        group = self._jobs[job_id][name]
        placed = self._open[task_id] = Attempt(
            agent_id, attempt, group.needs, self._ledger.gpus(agent_id, group.needs, gpus)
        )
        self._ledger.take(placed, task_id)
        self._ledger.use(group, 1)
        over = self._ledger.over_quota(group, 0)
        if over:
            self._break(f"L6 {over} after {task_id} was assigned")

    # --- the market --------------------------------------------------------------------------------------------------

    def _hear_framework(self, event: events.FrameworkCalled) -> None:
        """What is answered is offered no longer, and a new stream knows of no offers."""
        match event.call:
            case Accept(offer_ids=offer_ids) | Decline(offer_ids=offer_ids):
                self._end_leases(event.framework_id, offer_ids)
            case Subscribe():
                self._end_leases(event.framework_id, tuple(self._leases.get(event.framework_id, ())))

    def _end_leases(self, framework_id: str, offer_ids: tuple[str, ...]) -> None:
        leases = self._leases.get(framework_id, {})
        for offer_id in offer_ids:
            if offer_id in leases:
                self._ledger.release(leases.pop(offer_id))

    def _lease(self, offer: FrameworkOffer, now_us: int) -> None:
        """A unit is in one live offer, and nothing that is used is offered; what is lent may be both."""
        if now_us >= offer.expires_us:
            self._break(f"L5 offer {offer.offer_id} was void when it was made")
        parts = [portion.resources for portion in offer.portions if not portion.revocable]
        needs = Needs(
            cpu_milli=sum(part.cpu_milli for part in parts),
            memory_bytes=sum(part.memory_bytes for part in parts),
            disk_bytes=sum(part.disk_bytes for part in parts),
        )
        gpus = tuple((gpu.uuid, gpu.milli, memory_of(gpu)) for part in parts for gpu in part.gpus)
        lease = Attempt(offer.agent_id, 0, needs, gpus)
        self._leases.setdefault(offer.framework_id, {})[offer.offer_id] = lease
        self._ledger.take(lease)

    def _launch(self, fact: FrameworkTaskLaunched) -> None:
        task_id = wire_id(fact.framework_id, fact.spec.task_id)
        self._check_offer(fact.agent_id, fact.at_us)
        if task_id in self._open:
            self._break(f"L3 task {task_id} was launched while an attempt of it is open")
        needs = needs_of(fact.spec, fact.gpus)
        gpus = tuple(uuid for uuids in fact.gpus for uuid in uuids)
        held = self._ledger.gpus(fact.agent_id, needs, gpus)
        self._open[task_id] = Attempt(fact.agent_id, fact.attempt, needs, held)
        self._ledger.take(self._open[task_id], task_id)
        group = self._launched[task_id] = Group(needs, (), (task_id,), fact.role, 1)
        self._ledger.use(group, 1)
        if over := self._ledger.over_quota(group, 0):
            self._break(f"L6 {over} after {task_id} was launched")

    def _check_offer(self, agent_id: str, now_us: int) -> None:
        _, lapses_us = self._offers.get(agent_id, (None, 0))
        if now_us >= lapses_us:
            self._break(f"L5 work was assigned to {agent_id} at {now_us} without a live offer of it")

    def _move_task(self, fact: facts.TaskStateChanged) -> None:
        task_id = fact.task_id
        before, after = self._tasks[task_id], TaskState(fact.state)
        if after is not before and after not in TASK_EDGES[before]:
            self._break(f"L8 task {task_id} went from {before} to {after}")
        self._tasks[task_id] = after
        job_id, name = self._groups[task_id]
        if after not in PLACED_STATES and task_id in self._open:
            self._ledger.release(self._open.pop(task_id), task_id)
            self._ledger.use(self._jobs[job_id][name], -1)
        if fact.attempt_failed:
            self._count_failure(task_id)
        if after is TaskState.FINISHED:
            self._jobs[job_id][name].n_finished += 1
            self._release(job_id)

    def _count_failure(self, task_id: str) -> None:
        job_id, name = self._groups[task_id]
        most = self._jobs[job_id][name].attempts_max
        n_failed = self._n_failed[task_id] = self._n_failed.get(task_id, 0) + 1
        self._check(n_failed <= most, f"L11 task {task_id} failed {n_failed} times; {most} attempts were allowed")

    def _check_launch(self, agent_id: str, launch: Launch) -> None:
        attempt = self._open.get(launch.task_id)
        if attempt is None or attempt.agent_id != agent_id or attempt.attempt != launch.attempt:
            self._break(
                f"L3 a launch of {launch.task_id} attempt {launch.attempt} on {agent_id} was sent without authority"
            )
