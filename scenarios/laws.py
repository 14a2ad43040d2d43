"""The laws of DESIGN §9 as an observer with books of its own: it sees what goes into a master and what comes out.

It trusts nothing of the master's books. Whatever it can tell from events, facts and messages it checks after each step;
what needs the whole run, `at_end`. `broken` holds one sentence per breach, the law's number first.
"""

from federation import commands, events, facts
from federation.api import JobView
from federation.config import MasterConfig
from federation.master import Master
from federation.states import AGENT_EDGES, PLACED_STATES, TASK_EDGES, TERMINAL_STATES, AgentState, TaskState
from federation.wire import Birth, CommandBatch, Launch, Offer
from policies.model import Needs, Resources

BROKEN_MAX = 100  # A master that breaks a law at every step need not fill the memory.


class _Group:
    """Tasks of one group: how many there are, how many finished, and whom they come after."""

    __slots__ = ("after", "n_finished", "needs", "task_ids")

    def __init__(self, needs: Needs, after: tuple[str, ...], task_ids: tuple[str, ...]) -> None:
        self.needs = needs
        self.after = after
        self.task_ids = task_ids
        self.n_finished = 0


class _Attempt:
    __slots__ = ("agent_id", "attempt", "gpus", "needs")

    def __init__(self, agent_id: str, attempt: int, needs: Needs, gpus: tuple[str, ...]) -> None:
        self.agent_id = agent_id
        self.attempt = attempt
        self.needs = needs
        self.gpus = gpus


class Laws:
    """Attach one to a master: call `after_step` with each event and the commands it led to, and `at_end` once."""

    def __init__(self, config: MasterConfig, policy_name: str) -> None:
        self.broken: list[str] = []
        self._config = config
        self._policy_name = policy_name
        self._facts: list[facts.Fact] = []
        self._jobs: dict[str, dict[str, _Group]] = {}
        self._tasks: dict[str, TaskState] = {}
        self._groups: dict[str, tuple[str, str]] = {}  # task id → job id, group
        self._last_attempt: dict[str, int] = {}
        self._open: dict[str, _Attempt] = {}  # task id → the attempt that may run
        self._held: dict[str, set[str]] = {}  # agent id → tasks with an open attempt there
        self._totals: dict[str, Resources] = {}
        self._agents: dict[str, AgentState] = {}
        self._offers: dict[str, tuple[Offer, int]] = {}  # agent id → last offer, when it lapses

    def after_step(self, event: events.Event, wanted: list[commands.Command], now_us: int) -> None:
        if isinstance(event, events.AgentSpoke):
            self._hear(event, now_us)
        for command in wanted:
            match command:
                case commands.Persist(fact=fact):
                    self._facts.append(fact)
                    self._learn(fact)
                case commands.Reply(answer=JobView(job_id=job_id)):
                    self._check(job_id in self._jobs, f"L1 job {job_id} was acknowledged before it was durable")
                case commands.Send(agent_id=agent_id, message=CommandBatch(commands=batch)):
                    for item in batch:
                        if isinstance(item, Launch):
                            self._check_launch(agent_id, item)
                case _:
                    pass

    def at_end(self, master: Master, now_us: int) -> None:
        """L2: every task ended, or is owned, or waits with a reason. L7: the facts alone rebuild the durable state."""
        for task_id, state in self._tasks.items():
            owned = state in PLACED_STATES and task_id in self._open
            waits = state in (TaskState.PENDING, TaskState.WAITING)
            self._check(
                state in TERMINAL_STATES or owned or waits, f"L2 task {task_id} is {state} and nobody's at {now_us}"
            )
        replayed = Master(self._config, self._policy_name)
        for fact in self._facts:
            replayed.apply(fact)
        self._check(replayed.durable() == master.durable(), "L7 the replayed journal differs from the live state")

    def _check(self, holds: bool, sentence: str) -> None:
        if not holds and len(self.broken) < BROKEN_MAX:
            self.broken.append(sentence)

    def _hear(self, event: events.AgentSpoke, now_us: int) -> None:
        match event.message:
            case Birth(agent_id=agent_id):
                self._offers.pop(agent_id, None)
            case Offer(agent_id=agent_id, expires_in_us=expires_in_us) as offer:
                self._offers[agent_id] = (offer, now_us + expires_in_us)
            case _:
                pass  # A death counts only if its life is the current one; the master's fact tells.

    def _learn(self, fact: facts.Fact) -> None:
        match fact:
            case facts.AgentEnrolled(agent_id=agent_id, total=total):
                self._totals[agent_id] = total
                self._agents.setdefault(agent_id, AgentState.ONLINE)
            case facts.AgentStateChanged(agent_id=agent_id, state=state):
                self._move_agent(agent_id, AgentState(state))
            case facts.JobAccepted():
                self._accept(fact)
            case facts.JobCancelled(job_id=job_id):
                self._cancel(job_id)
            case facts.JobEnded(job_id=job_id):
                self._end(job_id)
            case facts.TasksAssigned(at_us=at_us, assignments=assignments):
                for assignment in assignments:
                    self._check_offer(assignment.agent_id, at_us)
                    for index, task_id in enumerate(assignment.task_ids):
                        gpus = assignment.gpus[index] if assignment.gpus else ()
                        self._assign(task_id, assignment.agent_id, assignment.attempts[index], gpus)
            case facts.TaskStateChanged():
                self._move_task(fact)
            case _:
                pass

    # --- edges that a fact implies: the books take them without a fact for each task ---------------------------------

    def _accept(self, fact: facts.JobAccepted) -> None:
        groups = self._jobs[fact.job_id] = {}
        for spec in fact.job.tasks:
            count = len(fact.each[spec.name]) if spec.for_each is not None else spec.count
            task_ids = tuple(f"{fact.job_id}/{spec.name}/{index}" for index in range(count))
            groups[spec.name] = _Group(spec.needs, spec.after, task_ids)
            self._groups |= dict.fromkeys(task_ids, (fact.job_id, spec.name))
            self._tasks |= dict.fromkeys(task_ids, TaskState.WAITING if spec.after else TaskState.PENDING)

    def _release(self, job_id: str) -> None:
        """Waiting tasks become pending when all that they come after has finished."""
        groups = self._jobs[job_id]
        for group in groups.values():
            if group.after and all(groups[name].n_finished == len(groups[name].task_ids) for name in group.after):
                for task_id in group.task_ids:
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
            ended = self._tasks[task_id] in TERMINAL_STATES
            self._check(ended, f"L2 job {job_id} ended while task {task_id} is {self._tasks[task_id]}")

    def _task_ids(self, job_id: str) -> list[str]:
        return [task_id for group in self._jobs[job_id].values() for task_id in group.task_ids]

    def _lose_sight(self, agent_id: str) -> None:
        for task_id in sorted(self._held.get(agent_id, ())):
            if self._tasks[task_id] is not TaskState.KILLING:
                self._tasks[task_id] = TaskState.UNKNOWN

    # --- edges that a fact states ------------------------------------------------------------------------------------

    def _move_agent(self, agent_id: str, state: AgentState) -> None:
        before = self._agents.get(agent_id, AgentState.ONLINE)
        legal = state == before or state in AGENT_EDGES[before]
        self._check(legal, f"L8 agent {agent_id} went from {before} to {state}")
        self._agents[agent_id] = state
        if state is AgentState.DISCONNECTED:
            self._lose_sight(agent_id)

    def _assign(self, task_id: str, agent_id: str, attempt: int, gpus: tuple[str, ...]) -> None:
        before = self._tasks[task_id]
        self._check(TaskState.ASSIGNED in TASK_EDGES[before], f"L8 task {task_id} went from {before} to assigned")
        self._check(task_id not in self._open, f"L3 task {task_id} was assigned while an attempt of it is open")
        self._check(
            attempt > self._last_attempt.get(task_id, 0), f"L3 attempt {attempt} of task {task_id} was used before"
        )
        self._tasks[task_id] = TaskState.ASSIGNED
        self._last_attempt[task_id] = attempt
        job_id, group = self._groups[task_id]
        self._open[task_id] = _Attempt(agent_id, attempt, self._jobs[job_id][group].needs, gpus)
        self._held.setdefault(agent_id, set()).add(task_id)
        self._check_room(agent_id)

    def _check_offer(self, agent_id: str, now_us: int) -> None:
        _, lapses_us = self._offers.get(agent_id, (None, 0))
        self._check(now_us < lapses_us, f"L5 work was assigned to {agent_id} at {now_us} without a live offer of it")

    def _check_room(self, agent_id: str) -> None:
        total = self._totals[agent_id]
        held = [self._open[task_id] for task_id in sorted(self._held[agent_id])]
        sums = {
            "cpu": (sum(attempt.needs.cpu_milli for attempt in held), total.cpu_milli),
            "memory": (sum(attempt.needs.memory_bytes for attempt in held), total.memory_bytes),
            "disk": (sum(attempt.needs.disk_bytes for attempt in held), total.disk_bytes),
        }
        for kind, (used, has) in sums.items():
            self._check(used <= has, f"L4 {kind} of agent {agent_id}: {used} allocated of {has}")
        gpus = [uuid for attempt in held for uuid in attempt.gpus]
        self._check(len(gpus) == len(set(gpus)), f"L4 a GPU of agent {agent_id} is allocated twice")
        self._check(set(gpus) <= {gpu.uuid for gpu in total.gpus}, f"L4 agent {agent_id} has no such GPU: {gpus}")

    def _move_task(self, fact: facts.TaskStateChanged) -> None:
        before, after = self._tasks[fact.task_id], TaskState(fact.state)
        self._check(
            after == before or after in TASK_EDGES[before], f"L8 task {fact.task_id} went from {before} to {after}"
        )
        self._tasks[fact.task_id] = after
        if after not in PLACED_STATES and fact.task_id in self._open:
            attempt = self._open.pop(fact.task_id)
            self._held[attempt.agent_id].discard(fact.task_id)
        if after is TaskState.FINISHED:
            job_id, group = self._groups[fact.task_id]
            self._jobs[job_id][group].n_finished += 1
            self._release(job_id)

    def _check_launch(self, agent_id: str, launch: Launch) -> None:
        attempt = self._open.get(launch.task_id)
        self._check(
            attempt is not None and (attempt.agent_id, attempt.attempt) == (agent_id, launch.attempt),
            f"L3 a launch of {launch.task_id} attempt {launch.attempt} on {agent_id} was sent without authority",
        )
