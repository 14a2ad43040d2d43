"""Durable state as one canonical value: equal books are equal structs, and a snapshot of it is where recovery starts.

Everything here is a function of the facts. What follows from it (demand classes, allocations, free resources) is
derived again when it is restored.
"""

from typing import Any

import msgspec

from federation.agents_book import AgentEntry, Mode
from federation.core import Core
from federation.explanation import Explanation
from federation.facts import AgentEnrolled, EventSetAside, JobAccepted
from federation.market.book import FrameworkEntry, FrameworkTask
from federation.market.facts import FrameworkSet, FrameworkTaskLaunched, OperationChanged, ResourcesReserved
from federation.market.protocol import Update
from federation.shards import ShardEntry
from federation.states import PLACED_STATES, AgentState, TaskState
from federation.task_entries import GroupEntry, JobEntry, Read, TaskEntry, attach
from federation.wire import HeldShard
from policies.forecast.forecaster import ForecasterState
from policies.model import Amount, GroupSteps, Profile, Record, Tuning, Weight


class DurableAgent(Record, frozen=True, kw_only=True):
    enrolled: AgentEnrolled
    state: AgentState
    since_us: int
    detail: str = ""
    mode: Mode = "active"


class DurableTask(Record, frozen=True, kw_only=True, array_like=True):
    """In the order of the job's groups and of their tasks. `explanation` indexes the job's; -1 for none."""

    state: TaskState
    since_us: int
    attempt: int
    n_failed: int
    agent_id: str
    cmd_id: int
    gpus: tuple[str, ...]
    seen: bool
    pending_us: int | None
    launched_us: int | None
    started_us: int | None
    ended_us: int | None
    stage_us: int | None
    run_us: int | None
    fetched_bytes: int
    exit_code: int | None
    reason: str
    detail: str
    log_tail: str
    outputs: tuple[HeldShard, ...]
    failed_on: tuple[str, ...]
    explanation: int
    attained_us: int = 0
    read_bytes: int = 0
    tuning: Tuning | None = None


_COPIED = tuple(name for name in DurableTask.__struct_fields__ if name != "explanation")


class DurableJob(Record, frozen=True, kw_only=True):
    accepted: JobAccepted
    state: str
    ended_us: int | None
    detail: str
    cancelled: bool
    reads: dict[str, tuple[Read, ...]]  # of groups that are ready: upstream outputs included
    ready: tuple[str, ...]
    explanations: tuple[Explanation, ...]
    tasks: tuple[DurableTask, ...]
    weights: dict[str, tuple[Weight, ...]] = msgspec.field(default_factory=dict)  # of its services
    asked: dict[str, tuple[tuple[str, int], ...]] = msgspec.field(default_factory=dict)


class DurableShard(Record, frozen=True, kw_only=True):
    shard_id: str
    size_bytes: int
    name: str
    replicas: tuple[str, ...]
    sites: tuple[str, ...]
    replicas_wanted: int
    in_store: bool


class DurableRole(Record, frozen=True, kw_only=True):
    path: str
    weight: int
    quota: Amount | None
    guarantee: Amount | None = None


class DurableFrameworkTask(Record, frozen=True, kw_only=True):
    launched: FrameworkTaskLaunched
    state: str
    since_us: int
    seen: bool
    updates: tuple[Update, ...]


class DurableFramework(Record, frozen=True, kw_only=True):
    registered: FrameworkSet
    n_launched: int
    tasks: tuple[DurableFrameworkTask, ...]
    operations: tuple[OperationChanged, ...]


class DurableState(Record, frozen=True, kw_only=True):
    term: int
    last_round_id: int
    agents: tuple[DurableAgent, ...]
    jobs: tuple[DurableJob, ...]
    ended: tuple[str, ...]
    serials: tuple[tuple[str, int], ...]
    shards: tuple[DurableShard, ...]
    names: dict[str, str]
    roles: tuple[DurableRole, ...]
    profiles: tuple[Profile, ...]
    explanations: dict[str, Explanation]  # of demand classes
    frameworks: tuple[DurableFramework, ...] = ()
    n_frameworks_ever: int = 0
    reservations: tuple[ResourcesReserved, ...] = ()  # dynamic ones, one a pool
    factors: tuple[
        tuple[str, str, int, int], ...
    ] = ()  # from site, to site, thousandths of what was planned, of how many
    set_aside: tuple[EventSetAside, ...] = ()
    measured: tuple[GroupSteps, ...] = ()  # of elastic groups, who spoke last comes last
    forecasts: tuple[tuple[str, str, ForecasterState], ...] = ()  # from site, to site


def capture(core: Core) -> DurableState:
    """Cost O(everything). Order is the books' own, which is the order of the facts."""
    return DurableState(
        term=core.term,
        last_round_id=core.last_round_id,
        agents=tuple(
            DurableAgent(
                enrolled=entry.enrolled,
                state=entry.state,
                since_us=entry.since_us,
                detail=entry.detail,
                mode=entry.mode,
            )
            for entry in core.agents.entries.values()
        ),
        jobs=tuple(_capture_job(job) for job in core.tasks.jobs.values()),
        ended=tuple(core.tasks.ended),
        serials=tuple(core.tasks.serials.items()),
        shards=tuple(_capture_shard(entry) for entry in core.shards.entries.values()),
        names=dict(core.shards.by_name),
        roles=tuple(
            DurableRole(path=entry.path, weight=entry.weight, quota=entry.quota, guarantee=entry.guarantee)
            for _, entry in sorted(core.shares.roles.items())
            if not entry.implied
        ),
        profiles=tuple(core.profiles.entries.values()),
        factors=tuple((*ends, *factor) for ends, factor in core.network.factors.items()),
        explanations={
            demand_id: explanation
            for demand_id in core.tasks.demands.ids_sorted()
            if (explanation := core.tasks.demands.classes[demand_id].explanation) is not None
        },
        frameworks=tuple(_capture_framework(framework) for framework in core.market.frameworks.values()),
        n_frameworks_ever=core.market.n_frameworks_ever,
        reservations=tuple(
            ResourcesReserved(
                at_us=0, agent_id=entry.agent_id, reservation=pool.reservation, resources=pool.size.frozen()
            )
            for entry in core.agents.entries.values()
            for pool in entry.holdings.pools.values()
            if pool.reservation.kind == "dynamic"
        ),
        set_aside=tuple(core.set_aside.entries),
        measured=tuple(core.steps.groups.values()),
        forecasts=tuple((*ends, state) for ends, state in core.network.kept.items()),
    )


def _capture_framework(framework: FrameworkEntry) -> DurableFramework:
    return DurableFramework(
        registered=framework.fact,
        n_launched=framework.n_launched,
        tasks=tuple(
            DurableFrameworkTask(
                launched=task.fact,
                state=task.state,
                since_us=task.since_us,
                seen=task.seen,
                updates=tuple(task.updates),
            )
            for task in framework.tasks.values()
        ),
        operations=tuple(operation.fact for operation in framework.operations.values()),
    )


def _capture_job(job: JobEntry) -> DurableJob:
    index: dict[int, int] = {}  # by identity first: most tasks of a job share a few objects
    numbers: dict[Explanation, int] = {}  # and by value, which makes it canonical
    tasks: list[DurableTask] = []
    for group in job.groups.values():
        for task in group.tasks:
            number = -1
            if task.explanation is not None:
                known = index.get(id(task.explanation))
                number = numbers.setdefault(task.explanation, len(numbers)) if known is None else known
                index[id(task.explanation)] = number
            values: dict[str, Any] = {name: getattr(task, name) for name in _COPIED}
            tasks.append(DurableTask(**values, explanation=number))
    return DurableJob(
        accepted=job.fact,
        state=job.state,
        ended_us=job.ended_us,
        detail=job.detail,
        cancelled=job.cancelled,
        reads={name: group.reads for name, group in job.groups.items() if group.ready and group.reads},
        ready=tuple(name for name, group in job.groups.items() if group.ready),
        explanations=tuple(numbers),
        tasks=tuple(tasks),
        weights={name: group.weights for name, group in job.groups.items() if group.weights},
        asked={name: tuple(sorted(group.asked.items())) for name, group in job.groups.items() if group.asked},
    )


def _capture_shard(entry: ShardEntry) -> DurableShard:
    return DurableShard(
        shard_id=entry.shard_id,
        size_bytes=entry.size_bytes,
        name=entry.name,
        replicas=tuple(entry.replicas),
        sites=entry.sites,
        replicas_wanted=entry.replicas_wanted,
        in_store=entry.in_store,
    )


# --- back again ------------------------------------------------------------------------------------------------------


def restore(core: Core, state: DurableState) -> None:
    """Fill empty books."""
    core.term, core.last_round_id = state.term, state.last_round_id
    for agent in state.agents:
        core.agents.enrol(agent.enrolled)
        core.market.enrolled(core.agents[agent.enrolled.agent_id])
        _restore_agent(core, core.agents[agent.enrolled.agent_id], agent)
    for shard in state.shards:
        _restore_shard(core, shard)
    core.shards.by_name = dict(state.names)
    for role in state.roles:
        entry = core.shares.ensure(role.path)
        entry.weight, entry.quota, entry.guarantee, entry.implied = role.weight, role.quota, role.guarantee, False
    for profile in state.profiles:
        core.profiles.put(profile)
    core.network.factors = {(from_site, to_site): (milli, n) for from_site, to_site, milli, n in state.factors}
    core.network.kept = {(from_site, to_site): kept for from_site, to_site, kept in state.forecasts if kept.is_known()}
    for job in state.jobs:
        _restore_job(core, job)
    _restore_classes(core, state)
    core.tasks.ended = dict.fromkeys(state.ended)
    core.tasks.n_ended_tasks = sum(core.tasks.jobs[job_id].n_tasks for job_id in state.ended)
    core.tasks.serials = dict(state.serials)
    for reserved in state.reservations:
        core.market.reserve(reserved)
    for framework in state.frameworks:
        _restore_framework(core, framework)
    core.market.n_frameworks_ever = state.n_frameworks_ever
    for fact in state.set_aside:
        core.set_aside.add(fact)
    core.steps.groups = {each.group_id: each for each in state.measured}


def _restore_framework(core: Core, durable: DurableFramework) -> None:
    market = core.market
    market.set_framework(durable.registered)
    framework = market.frameworks[durable.registered.framework_id]
    framework.n_launched = durable.n_launched
    for kept in durable.tasks:
        task = framework.tasks[kept.launched.spec.task_id] = FrameworkTask(kept.launched)
        task.state, task.since_us, task.seen = kept.state, kept.since_us, kept.seen
        task.kill_asked = kept.state == "TASK_KILLING"
        task.updates = list(kept.updates)
        if task.is_open:
            market.attach(framework, task)
    for operation in durable.operations:
        market.change_operation(operation)


def _restore_agent(core: Core, entry: AgentEntry, agent: DurableAgent) -> None:
    if agent.state is not entry.state:
        core.agents.put_state(entry, agent.state)
    entry.since_us, entry.detail, entry.mode = agent.since_us, agent.detail, agent.mode


def _restore_shard(core: Core, shard: DurableShard) -> None:
    entry = core.shards.entries[shard.shard_id] = ShardEntry(shard.shard_id, shard.size_bytes, shard.name)
    entry.sites, entry.replicas_wanted, entry.in_store = shard.sites, shard.replicas_wanted, shard.in_store
    if entry.replicas_wanted:
        core.shards.wanting[entry.shard_id] = None
    for agent_id in shard.replicas:
        core.shards.put_replica(entry, agent_id)


def _restore_job(core: Core, durable: DurableJob) -> None:
    book = core.tasks
    job = JobEntry(durable.accepted)
    job.state, job.ended_us, job.detail = durable.state, durable.ended_us, durable.detail
    job.cancelled = durable.cancelled
    book.jobs[job.job_id] = job
    book.job_counts[job.state] += 1
    if durable.accepted.submission_id:
        book.submissions[durable.accepted.submission_id] = job.job_id
    core.shares.ensure(job.job.role)
    tasks = iter(durable.tasks)
    for spec in job.job.tasks:
        shard_ids = durable.accepted.each.get(spec.name, ())
        group = GroupEntry(job, spec, shard_ids, durable.accepted.reads.get(spec.name, ()))
        job.groups[spec.name] = group
        group.ready = spec.name in durable.ready
        group.reads = durable.reads.get(spec.name, () if group.ready else group.reads)
        group.weights, group.asked = durable.weights.get(spec.name, ()), dict(durable.asked.get(spec.name, ()))
        count = len(shard_ids) if spec.for_each is not None else spec.count
        for index in range(count):
            task = _restore_task(core, group, index, next(tasks), durable.explanations)
            group.tasks.append(task)
            book.tasks[task.task_id] = task
        job.n_tasks += count
    if job.state == "running":
        book.note_services(job)
    if job.n_open == 0 and job.state == "running":
        book.drained[job.job_id] = None


def _restore_task(
    core: Core, group: GroupEntry, index: int, durable: DurableTask, explanations: tuple[Explanation, ...]
) -> TaskEntry:
    job = group.job
    task = TaskEntry(f"{job.job_id}/{group.spec.name}/{index}", group, index, durable.state, durable.since_us)
    for name in _COPIED:
        setattr(task, name, getattr(durable, name))
    if durable.explanation >= 0:
        task.explanation = explanations[durable.explanation]
    job.counts[task.state] += 1
    core.tasks.counts[task.state] += 1
    if task.state in PLACED_STATES:
        attach(core.agents[task.agent_id], (task,))
        core.shares.allocate(job.job.role, group.amount, 1)
    if task.state is TaskState.FINISHED:
        group.n_finished += 1
    elif task.state in (TaskState.FAILED, TaskState.CANCELLED):
        group.n_failed += 1
    else:
        group.n_open += 1
        job.n_open += 1
    return task


def _restore_classes(core: Core, state: DurableState) -> None:
    """Pending tasks join their classes, longest-waiting first, once every gang's size is known."""
    pending = [task for task in core.tasks.tasks.values() if task.state is TaskState.PENDING]
    for task in sorted(pending, key=lambda task: task.since_us):
        core.tasks.enter_class((task,))
    for demand_id, explanation in state.explanations.items():
        found = core.tasks.demands.classes.get(demand_id)
        if found is not None:
            found.explanation = explanation
