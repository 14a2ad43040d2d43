"""Jobs, groups and tasks as the book keeps them, and what policies and agents see of one."""

from collections.abc import Sequence

import msgspec

from federation.agents_book import AgentEntry
from federation.expansion import OWN_SHARD, groups_before
from federation.explanation import Explanation
from federation.facts import JobAccepted
from federation.jobs import TaskGroup
from federation.states import TaskState
from federation.wire import HeldShard
from policies.gpus import is_share
from policies.model import Amount, Demand, Elastic, Running, Tuning, Weight
from policies.resources import amount_of

Read = tuple[str, str]
"""(shard id, the name under which it is read; "" for the book's own)."""


class TaskEntry:
    __slots__ = (
        "agent_id", "attained_us", "attempt", "cmd_id", "demand_id", "detail", "ended_us", "exit_code",
        "explanation", "failed_on", "fetched_bytes", "gpus", "group", "index", "launched_us", "log_tail", "n_failed",
        "outputs", "pending_us", "read_bytes", "reason", "run_us", "running", "seen", "since_us", "stage_us",
        "started_us", "state", "task_id", "tuning",
    )  # fmt: skip

    def __init__(self, task_id: str, group: "GroupEntry", index: int, state: TaskState, at_us: int) -> None:
        self.task_id = task_id
        self.group = group
        self.index = index
        self.state = state
        self.since_us = at_us
        self.attempt = 0
        self.n_failed = 0
        self.agent_id = ""
        self.cmd_id = 0
        self.gpus: tuple[str, ...] = ()
        self.seen = False  # a status of this attempt came: the agent had the launch
        self.pending_us: int | None = None
        self.launched_us: int | None = None
        self.started_us: int | None = None
        self.ended_us: int | None = None
        self.stage_us: int | None = None
        self.run_us: int | None = None
        self.fetched_bytes = 0
        self.read_bytes = 0  # of all it reads, known once it was placed
        self.exit_code: int | None = None
        self.reason = ""
        self.detail = ""
        self.log_tail = ""
        self.outputs: tuple[HeldShard, ...] = ()
        self.failed_on: tuple[str, ...] = ()
        self.explanation: Explanation | None = None
        self.demand_id = ""  # of its class, while pending
        self.attained_us = 0  # what attempts ran that were stopped to run again
        self.running: Running | None = None  # the attempt as policies see it, made once
        self.tuning: Tuning | None = None  # how the attempt is to communicate


class GroupEntry:
    __slots__ = (
        "after", "amount", "asked", "job", "n_failed", "n_finished", "n_open", "profile", "reads", "ready", "shard_ids",
        "spec", "tasks", "templates", "weights",
    )  # fmt: skip

    def __init__(self, job: "JobEntry", spec: TaskGroup, shard_ids: tuple[str, ...], reads: tuple[Read, ...]) -> None:
        self.job = job
        self.spec = spec
        self.amount = amount_of(spec.needs)  # of one task
        self.shard_ids = shard_ids  # of `for_each`, one a task
        self.reads = reads  # shards every task reads; upstream outputs join them when they exist
        self.after = groups_before(spec, frozenset(group.name for group in job.job.tasks))
        self.profile = spec.profile or f"{job.job.name}/{spec.name}"
        self.tasks: list[TaskEntry] = []
        self.ready = not self.after
        self.n_open = 0
        self.n_finished = 0
        self.n_failed = 0  # failed or cancelled
        self.templates: dict[tuple[tuple[str, ...], int, int], Demand] = {}
        self.weights: tuple[Weight, ...] = ()  # of a service whose replicas are weighted: those in force
        self.asked: dict[str, int] = {}  # requests a second that were told of, by client site

    @property
    def group_id(self) -> str:
        return f"{self.job.job_id}/{self.spec.name}"

    def amount_of(self, n: int) -> Amount:
        """Of so many of its tasks."""
        return self.amount if n == 1 else amount_of(self.spec.needs, n)

    @property
    def has_own(self) -> bool:
        return bool(self.shard_ids) and OWN_SHARD in self.spec.reads

    def reads_of(self, index: int) -> tuple[Read, ...]:
        """What the task of that index reads, its own shard first."""
        return ((self.shard_ids[index], ""), *self.reads) if self.has_own else self.reads


class JobEntry:
    __slots__ = (
        "cancelled", "counts", "detail", "ended_us", "faces_clients", "fact", "groups", "job", "job_id", "n_open",
        "n_tasks", "state", "submitted_us",
    )  # fmt: skip

    def __init__(self, fact: JobAccepted) -> None:
        self.fact = fact
        self.job_id = fact.job_id
        self.job = fact.job
        self.submitted_us = fact.at_us
        self.ended_us: int | None = None
        self.state = "running"
        self.detail = ""
        self.cancelled = False
        self.groups: dict[str, GroupEntry] = {}
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.n_tasks = 0
        self.n_open = 0
        self.faces_clients = any(spec.latency for spec in fact.job.tasks)


def running_of(task: TaskEntry) -> Running:
    """The attempt of a placed task as a policy sees it: the same object until the task changes."""
    if task.running is None:
        spec, job = task.group.spec, task.group.job
        task.running = Running(
            task_id=task.task_id,
            role=job.job.role,
            needs=spec.needs,
            since_us=task.launched_us if task.launched_us is not None else task.since_us,
            priority=job.job.priority,
            gang_id=f"{job.job_id}/{spec.name}" if spec.gang else "",
            attained_us=task.attained_us,
            ending=task.state is TaskState.KILLING,
            profile=task.group.profile,
            run_us=spec.run_us,
            communication=spec.communication,
            tuning=task.tuning,
            elastic=elastic_of(task.group),
            gpus=task.gpus if is_share(spec.needs.gpu) else (),
        )
    return task.running


def elastic_of(group: GroupEntry) -> Elastic | None:
    """What a group of elastic tasks says of itself, with its name and how many workers it can have."""
    spec, job_id = group.spec, group.job.job_id
    if spec.elastic is None:
        return None
    return msgspec.structs.replace(
        spec.elastic, group_id=f"{job_id}/{spec.name}", workers_max=len(group.tasks) or spec.count
    )


def attach(agent: AgentEntry, tasks: Sequence[TaskEntry]) -> None:
    """Tasks of one group are on the agent from now on."""
    needs, n = tasks[0].group.spec.needs, len(tasks)
    for task in tasks:
        agent.tasks[task.task_id] = task.attempt
        if task.gpus:
            agent.use_gpus(task.task_id, needs, task.gpus)
    agent.cpu_used += n * needs.cpu_milli
    agent.memory_used += n * needs.memory_bytes
    agent.disk_used += n * needs.disk_bytes
    agent.changed()


def detach(agent: AgentEntry, tasks: Sequence[TaskEntry]) -> None:
    """Tasks of one group are on the agent no longer."""
    needs, n = tasks[0].group.spec.needs, len(tasks)
    for task in tasks:
        del agent.tasks[task.task_id]
        agent.unseen.pop(task.cmd_id, None)
        if task.gpus:
            agent.leave_gpus(task.task_id, task.gpus)
    agent.cpu_used -= n * needs.cpu_milli
    agent.memory_used -= n * needs.memory_bytes
    agent.disk_used -= n * needs.disk_bytes
    agent.changed()
