"""What happened to every task and job of a run, told by the master's facts: the books forget, the journal does not.

Times are µs from the start of the run.
"""

from collections.abc import Mapping
from typing import NamedTuple

from federation import facts
from federation.expansion import groups_before
from federation.jobs import Job
from federation.market.book import PREFIX
from federation.market.book import TERMINAL as FRAMEWORK_TERMINAL
from federation.market.facts import FrameworkSet, FrameworkTaskChanged, FrameworkTaskLaunched
from federation.market.protocol import Update
from federation.states import PLACED_STATES, TERMINAL_STATES, TaskState
from policies.gpus import milli_of
from policies.model import Needs
from policies.resources import amount_of, kinds, role_chain
from scenarios.player import START_US, Outcome
from scenarios.world import AgentSpec


class Span(NamedTuple):
    """One attempt on one agent. `running_us` None: it never got so far."""

    task_id: str
    agent_id: str
    placed_us: int
    running_us: int | None
    ended_us: int
    state: str
    cpu_milli: int
    gpu_milli: int


class TaskRun:
    __slots__ = (
        "agent_id", "arrived_us", "deadline_us", "ended_us", "job_id", "n_attempts", "n_failed", "needs", "pending_us",
        "placed_us", "role", "run_us", "running_us", "scopes", "stage_us", "state", "task_id", "told_us",
    )  # fmt: skip

    def __init__(self, task_id: str, job: "JobRun", needs: Needs, deadline_us: int | None, told_us: int) -> None:
        self.task_id = task_id
        self.job_id = job.job_id
        self.role = job.role
        self.scopes = job.scopes
        self.arrived_us = job.arrived_us
        self.needs = needs
        self.deadline_us = deadline_us
        self.told_us = told_us
        self.state = TaskState.WAITING
        self.pending_us: int | None = None
        self.placed_us: int | None = None
        self.running_us: int | None = None
        self.ended_us: int | None = None
        self.run_us: int | None = None
        self.stage_us: int | None = None
        self.agent_id = ""
        self.n_attempts = 0
        self.n_failed = 0


class JobRun:
    __slots__ = ("after", "arrived_us", "ended_us", "groups", "job_id", "least", "left", "role", "scopes", "state")

    def __init__(self, job_id: str, role: str, scopes: tuple[str, ...], arrived_us: int) -> None:
        self.job_id = job_id
        self.role = role
        self.scopes = scopes
        self.arrived_us = arrived_us
        self.ended_us: int | None = None
        self.state = "running"
        self.groups: dict[str, list[TaskRun]] = {}
        self.after: dict[str, tuple[str, ...]] = {}
        self.least: dict[str, int] = {}  # of groups whose other tasks wait until they are needed
        self.left: dict[str, int] = {}  # group → tasks that have not finished


class QueuePoint(NamedTuple):
    """From then on so many tasks were in each state, over all jobs."""

    at_us: int
    pending: int
    waiting: int
    placed: int
    reasons: tuple[tuple[str, int], ...] = ()  # pending tasks by what keeps them from a place


NEVER_US = 2**62
NOT_REFUSED = "to be placed"  # no round has refused one like it


class Records:
    """Cost O(facts). `held_us` integrates, role by role, what it held while every role of the run wanted more, from
    `held_from_us` on and until `held_to_us`."""

    def __init__(self, outcome: Outcome, held_from_us: int = 0, held_to_us: int = NEVER_US) -> None:
        self.outcome = outcome
        self._held_from_us, self._held_to_us = held_from_us, held_to_us
        self.specs: dict[str, AgentSpec] = {spec.agent_id: spec for spec in outcome.world.agents}
        self.tasks: dict[str, TaskRun] = {}
        self.jobs: dict[str, JobRun] = {}
        self.spans: list[Span] = []
        self.queue: list[QueuePoint] = []
        self._origins = {
            each.job_id: (outcome.world.arrivals[each.arrival].origin, each.asked_us)
            for each in outcome.submissions
            if each.job_id
        }
        self._counts = {"pending": 0, "waiting": 0, "placed": 0}
        self._kinds: dict[tuple[str, Needs], tuple[int, str]] = {}  # role and needs → how many pend, for what reason
        self._reasons: dict[str, int] = {}
        self._held: dict[str, list[int]] = {}  # role → kinds it holds now, those below included
        self._wanting: dict[str, int] = {}  # role → tasks pending
        self.held_us: dict[str, list[int]] = {}  # role → kind·µs while all wanted more
        self.contended_us = 0
        self._clock_us = 0
        self._frameworks: dict[str, str] = {}  # id → name
        self._coming = self._brought()
        for fact in outcome.facts:
            self._take(fact)
        self._bring(outcome.ended_us)
        end_us = outcome.ended_us
        for task in self.tasks.values():
            if task.state in PLACED_STATES and task.placed_us is not None:
                self._close_span(task, end_us, "open")
        self._tick(end_us)

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """What all agents have, of each kind (as `kinds`)."""
        specs = self.specs.values()
        return (
            sum(spec.total.cpu_milli for spec in specs),
            sum(spec.total.memory_bytes for spec in specs),
            sum(spec.total.disk_bytes for spec in specs),
            sum(milli_of(spec.total.gpus) for spec in specs),
        )

    # --- facts -------------------------------------------------------------------------------------------------------

    def _take(self, fact: facts.Fact) -> None:
        at_us = max(0, fact.at_us - START_US)
        self._bring(at_us)
        match fact:
            case FrameworkSet(framework_id=framework_id, info=info):
                self._frameworks[framework_id] = info.name
                return
            case FrameworkTaskLaunched(framework_id=framework_id, spec=spec, agent_id=agent_id):
                self._tick(at_us)
                self._assign(self._piece(framework_id, spec.task_id), agent_id, at_us)
            case FrameworkTaskChanged(framework_id=framework_id, update=update):
                self._tick(at_us)
                self._update(self._piece(framework_id, update.task_id), update, at_us)
            case facts.JobAccepted():
                self._tick(at_us)
                self._accept(fact, at_us)
            case facts.TasksAssigned(assignments=assignments):
                self._tick(at_us)
                for assignment in assignments:
                    for task_id in assignment.task_ids:
                        self._assign(self.tasks[task_id], assignment.agent_id, at_us)
            case facts.TaskRefused(task_ids=task_ids, blockers=blockers) if blockers:
                for task_id in task_ids:
                    if task_id in self.tasks:
                        self._refuse(self.tasks[task_id], blockers[0].reason)
            case facts.TaskStateChanged():
                self._tick(at_us)
                self._change(fact, at_us)
            case facts.JobCancelled(job_id=job_id):
                self._tick(at_us)
                for group in self.jobs[job_id].groups.values():
                    for task in group:
                        if task.state in (TaskState.WAITING, TaskState.PENDING):
                            self._end(task, TaskState.CANCELLED, at_us)
            case facts.JobEnded(job_id=job_id, state=state):
                self._tick(at_us)
                job = self.jobs[job_id]
                job.state, job.ended_us = state, at_us
                for group in job.groups.values():
                    for task in group:
                        if task.state in (TaskState.WAITING, TaskState.PENDING):
                            self._end(task, TaskState.CANCELLED, at_us)
            case _:
                return
        reasons = tuple((reason, count) for reason, count in self._reasons.items() if count)
        counts = self._counts
        self.queue.append(QueuePoint(at_us, counts["pending"], counts["waiting"], counts["placed"], reasons))

    # --- of frameworks: their work arrives with them, and no fact tells of it until it is launched -------------------

    def _brought(self) -> list[tuple[int, str, str, Job, str]]:
        """When, framework, job id, job, origin: of all their work, the last first."""
        found = [
            (arrival.at_us, spec.name, f"{PREFIX}{spec.name}/{number}", arrival.job, arrival.origin)
            for spec in self.outcome.world.frameworks
            for number, arrival in enumerate(spec.arrivals)
        ]
        return sorted(found, key=lambda each: (each[0], each[2]), reverse=True)

    def _bring(self, until_us: int) -> None:
        while self._coming and self._coming[-1][0] <= until_us:
            at_us, name, job_id, job, origin = self._coming.pop()
            self._tick(at_us)
            scopes = tuple(dict.fromkeys((*role_chain(job.role), origin, name)))
            self._add(job_id, job, {}, scopes, at_us, at_us)

    def _piece(self, framework_id: str, task_id: str) -> TaskRun:
        number, group, index, _ = task_id.split(".")
        return self.tasks[f"{PREFIX}{self._frameworks[framework_id]}/{number}/{group}/{index}"]

    def _update(self, task: TaskRun, update: Update, at_us: int) -> None:
        if update.state == "TASK_RUNNING" and task.running_us is None:
            task.running_us, task.state = at_us, TaskState.RUNNING
        if update.state not in FRAMEWORK_TERMINAL or task.state not in PLACED_STATES:
            return
        finished = update.state == "TASK_FINISHED"
        self._counts["placed"] -= 1
        self._hold(task, -1)
        self._close_span(task, at_us, str(TaskState.FINISHED) if finished else "failed")
        if finished:
            if task.running_us is not None and task.placed_us is not None:
                task.run_us, task.stage_us = at_us - task.running_us, task.running_us - task.placed_us
            self._end(task, TaskState.FINISHED, at_us)
            job = self.jobs[task.job_id]
            if not any(job.left.values()):
                job.state, job.ended_us = "finished", at_us
        else:
            task.n_failed += update.state == "TASK_FAILED"
            self._pend(task, at_us)

    # --- of built-in jobs --------------------------------------------------------------------------------------------

    def _accept(self, fact: facts.JobAccepted, at_us: int) -> None:
        origin, arrived_us = self._origins.get(fact.job_id, (fact.job.name, at_us))
        scopes = tuple(dict.fromkeys((*role_chain(fact.job.role), origin)))
        self._add(fact.job_id, fact.job, fact.each, scopes, arrived_us, at_us)

    def _add(
        self,
        job_id: str,
        told: Job,
        each: Mapping[str, tuple[str, ...]],
        scopes: tuple[str, ...],
        arrived_us: int,
        at_us: int,
    ) -> None:
        job = self.jobs[job_id] = JobRun(job_id, told.role, scopes, arrived_us)
        names = frozenset(group.name for group in told.tasks)
        for spec in told.tasks:
            count = len(each[spec.name]) if spec.for_each is not None else spec.count
            tasks = [
                TaskRun(f"{job_id}/{spec.name}/{index}", job, spec.needs, spec.deadline_us, spec.run_us)
                for index in range(count)
            ]
            job.groups[spec.name], job.left[spec.name] = tasks, count
            job.after[spec.name] = groups_before(spec, names)
            if spec.replicas is not None:
                job.least[spec.name] = spec.replicas.least
            self.tasks |= {task.task_id: task for task in tasks}
            self._counts["waiting"] += count
        for name in job.groups:
            self._release(job, name, at_us)

    def _release(self, job: JobRun, name: str, at_us: int) -> None:
        if any(job.left[before] for before in job.after[name]):
            return
        for task in job.groups[name][: job.least.get(name)]:
            if task.state is TaskState.WAITING:
                self._counts["waiting"] -= 1
                self._pend(task, at_us)

    def _count_pending(self, task: TaskRun, sign: int) -> None:
        self._counts["pending"] += sign
        kind = (task.role, task.needs)
        count, reason = self._kinds.get(kind, (0, NOT_REFUSED))
        self._kinds[kind] = (count + sign, reason)
        self._reasons[reason] = self._reasons.get(reason, 0) + sign

    def _refuse(self, task: TaskRun, reason: str) -> None:
        """One was refused, and so all of its kind: a fact names a few only."""
        kind = (task.role, task.needs)
        count, before = self._kinds.get(kind, (0, NOT_REFUSED))
        self._kinds[kind] = (count, reason)
        self._reasons[before] = self._reasons.get(before, 0) - count
        self._reasons[reason] = self._reasons.get(reason, 0) + count

    def _pend(self, task: TaskRun, at_us: int) -> None:
        task.state, task.pending_us = TaskState.PENDING, at_us
        self._count_pending(task, 1)
        self._wanting[task.role] = self._wanting.get(task.role, 0) + 1

    def _assign(self, task: TaskRun, agent_id: str, at_us: int) -> None:
        self._count_pending(task, -1)
        self._counts["placed"] += 1
        self._wanting[task.role] -= 1
        task.state, task.placed_us, task.agent_id = TaskState.ASSIGNED, at_us, agent_id
        task.running_us = None
        task.n_attempts += 1
        self._hold(task, 1)

    def _hold(self, task: TaskRun, sign: int) -> None:
        for path in role_chain(task.role):
            held = self._held.setdefault(path, [0, 0, 0, 0])
            for kind, amount in enumerate(kinds(amount_of(task.needs))):
                held[kind] += sign * amount

    def _change(self, fact: facts.TaskStateChanged, at_us: int) -> None:
        task, state = self.tasks[fact.task_id], TaskState(fact.state)
        task.n_failed += fact.attempt_failed
        if state is TaskState.RUNNING and task.running_us is None:
            task.running_us = at_us
        if state in PLACED_STATES:
            task.state = state
            return
        if fact.run_us is not None:
            task.run_us, task.stage_us = fact.run_us, fact.stage_us
        if task.state in PLACED_STATES:
            self._counts["placed"] -= 1
            self._hold(task, -1)
            self._close_span(task, at_us, str(state) if state in TERMINAL_STATES else "failed")
        if state is TaskState.PENDING:
            if task.state is TaskState.WAITING:
                self._counts["waiting"] -= 1
            self._pend(task, at_us)
        elif state is TaskState.WAITING:
            self._spare(task)
        else:
            self._end(task, state, at_us)

    def _spare(self, task: TaskRun) -> None:
        """A replica that its service does not need."""
        if task.state is TaskState.PENDING:
            self._count_pending(task, -1)
            self._wanting[task.role] -= 1
        self._counts["waiting"] += 1
        task.state = TaskState.WAITING

    def _end(self, task: TaskRun, state: TaskState, at_us: int) -> None:
        if task.state is TaskState.PENDING:
            self._count_pending(task, -1)
            self._wanting[task.role] -= 1
        elif task.state is TaskState.WAITING:
            self._counts["waiting"] -= 1
        task.state, task.ended_us = state, at_us
        if state is TaskState.FINISHED:
            job = self.jobs[task.job_id]
            group = task.task_id.rsplit("/", 2)[1]
            job.left[group] -= 1
            if not job.left[group]:
                for name in job.groups:
                    self._release(job, name, at_us)

    def _close_span(self, task: TaskRun, at_us: int, state: str) -> None:
        assert task.placed_us is not None, "an attempt was placed before it ended"
        gpu_milli = kinds(amount_of(task.needs))[3]
        self.spans.append(
            Span(
                task.task_id,
                task.agent_id,
                task.placed_us,
                task.running_us,
                at_us,
                state,
                task.needs.cpu_milli,
                gpu_milli,
            )
        )

    def _tick(self, at_us: int) -> None:
        """Time passes: who held how much while every role had something waiting."""
        passed_us = min(at_us, self._held_to_us) - max(self._clock_us, self._held_from_us)
        self._clock_us = max(self._clock_us, at_us)
        if passed_us <= 0:
            return
        roles = [role for role in self._wanting if role in self._held or self._wanting[role]]
        if len(roles) < 2 or not all(self._wanting[role] > 0 for role in roles):
            return
        self.contended_us += passed_us
        for role in roles:
            held_us = self.held_us.setdefault(role, [0, 0, 0, 0])
            for kind, amount in enumerate(self._held.get(role, (0, 0, 0, 0))):
                held_us[kind] += amount * passed_us
