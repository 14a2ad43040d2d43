"""What people and programs ask of the master. Each is answered by exactly one `Reply`, after the facts it rests on."""

import msgspec

from federation import services, views
from federation.api import (
    AddShard,
    Answer,
    CancelJob,
    JobView,
    KillTask,
    PlanJob,
    Problem,
    SetAgentMode,
    SetRole,
    SetServiceDemand,
    SubmitJob,
)  # fmt: skip
from federation.commands import Reply, Solve
from federation.core import Core
from federation.events import Asked
from federation.expansion import Expansion, expand
from federation.facts import AgentModeSet, JobAccepted, JobCancelled, RoleSet, ServiceAsked, ShardAdded
from federation.jobs import Job
from federation.launches import kill, order_kill
from federation.market import market
from federation.reports import cancel_pending
from federation.round_state import REFUSED_WHILE_RECOVERING, DryRun
from federation.rounds import make_snapshot
from federation.states import PLACED_STATES, TERMINAL_STATES, TaskState
from federation.task_entries import GroupEntry, JobEntry
from policies.model import Demand
from policies.resources import kinds


def asked(core: Core, event: Asked) -> None:
    request = event.request
    answer: Answer | None
    match request:
        case SubmitJob():
            answer = _submit(core, request)
        case PlanJob():
            answer = _dry_run(core, event.request_id, request.job)
        case CancelJob(job_id=job_id):
            answer = _cancel(core, job_id, event.principal)
        case KillTask(task_id=task_id):
            answer = _kill_task(core, task_id)
        case SetAgentMode():
            answer = _set_mode(core, request)
        case SetRole():
            answer = _set_role(core, request)
        case AddShard():
            answer = _add_shard(core, request)
        case SetServiceDemand():
            answer = _set_service_demand(core, request)
    if isinstance(answer, Problem):
        core.count("requests_refused")
    if answer is not None:
        core.out.append(Reply(request_id=event.request_id, answer=answer))


def _unknown(what: str, name: str) -> Problem:
    return Problem(
        status=404, code=f"unknown_{what}", title=f"There is no such {what}", detail=f"{name!r} is not known"
    )


def _full(detail: str) -> Problem:
    return Problem(status=503, code="full", title="The master's books are full", detail=detail)


# --- jobs ------------------------------------------------------------------------------------------------------------


def _submit(core: Core, request: SubmitJob) -> Answer:
    job, earlier_id = request.job, core.tasks.submissions.get(request.submission_id)
    if request.submission_id and earlier_id is not None:
        earlier = core.tasks.jobs[earlier_id]
        if earlier.job != job:
            return Problem(
                status=409,
                code="submission_id_reused",
                title="This submission id belongs to another job",
                detail=f"{request.submission_id!r} submitted {earlier_id}; use a new one",
            )
        return _job_view(core, earlier_id)
    expansion = _expand(core, job)
    if isinstance(expansion, Problem):
        return expansion
    job_id = _new_job_id(core, job.name)
    core.persist(
        JobAccepted(
            at_us=core.now_us,
            job_id=job_id,
            job=job,
            submission_id=request.submission_id,
            each=expansion.each,
            reads=expansion.reads,
        )
    )
    core.rounds.changed = True
    core.count("jobs_accepted")
    core.count("tasks_accepted", expansion.n_tasks)
    return _job_view(core, job_id)


def _job_view(core: Core, job_id: str) -> JobView:
    return views.job_view(core.tasks.jobs[job_id])


def _expand(core: Core, job: Job) -> Expansion | Problem:
    """The job's tasks, or why it cannot be taken: wrong in itself, or past a bound."""
    config, tasks, shares = core.config, core.tasks, core.shares
    if not config.roles_open and job.role not in shares.roles:
        known = ", ".join(sorted(shares.roles))
        return Problem(
            status=422,
            code="unknown_role",
            title="There is no such role",
            detail=f"role {job.role!r} is not set up; known are {known}",
        )
    expansion = expand(job, core.shards, config)
    if isinstance(expansion, Problem):
        return expansion
    n_open = sum(tasks.counts[state] for state in TaskState if state not in TERMINAL_STATES)
    if n_open + expansion.n_tasks > config.tasks_max:
        return _full(f"{n_open} tasks are open and the job has {expansion.n_tasks}; the bound is {config.tasks_max}")
    if tasks.job_counts["running"] >= config.jobs_max:
        return _full(f"{config.jobs_max} jobs are open")
    n_classes = sum(len(expansion.each[group.name]) if group.name in expansion.each else 1 for group in job.tasks)
    if len(tasks.demands) + n_classes > config.demands_max:
        return _full(f"the job makes up to {n_classes} demand classes more; the bound is {config.demands_max}")
    if len(shares.roles) + shares.new_roles(job.role) > config.roles_max:
        return _full(f"there are {config.roles_max} roles")
    return expansion


def _new_job_id(core: Core, name: str) -> str:
    number = core.tasks.serials.get(name, 0) + 1
    while (job_id := name if number == 1 else f"{name}-{number}") in core.tasks.jobs:
        number += 1
    return job_id


def _cancel(core: Core, job_id: str, principal: str) -> Answer:
    job = core.tasks.jobs.get(job_id)
    if job is None:
        return _unknown("job", job_id)
    if job.state == "running" and not job.cancelled:
        core.persist(JobCancelled(at_us=core.now_us, job_id=job_id, principal=principal))
        core.count("jobs_cancelled")
        for group in job.groups.values():
            for task in group.tasks:
                if task.state is TaskState.KILLING:
                    order_kill(core, core.agents[task.agent_id], task.task_id, task.attempt, "cancel")
    return _job_view(core, job_id)


def _kill_task(core: Core, task_id: str) -> Answer:
    task = core.tasks.tasks.get(task_id)
    if task is None:
        return _unknown("task", task_id)
    if task.state in (TaskState.WAITING, TaskState.PENDING):
        cancel_pending(core, task, "cancel")
    elif task.state in PLACED_STATES and not (task.state is TaskState.KILLING and task.reason == "cancel"):
        kill(core, task, "cancel")
    return views.task_view(core, task)


def _dry_run(core: Core, request_id: str, job: Job) -> Answer | None:
    if core.recovering or not core.started:
        return REFUSED_WHILE_RECOVERING
    if len(core.rounds.dry_runs) >= core.config.dry_runs_max:
        return _full(f"{core.config.dry_runs_max} dry runs are being solved; ask again in a moment")
    expansion = _expand(core, job)
    if isinstance(expansion, Problem):
        return expansion
    extra, groups = _dry_demands(core, job, expansion)
    snapshot, _ = make_snapshot(core, extra)
    core.rounds.last_dry_id -= 1
    round_id = core.rounds.last_dry_id
    core.rounds.dry_runs[round_id] = DryRun(request_id, groups, core.now_us)
    core.deadlines.set_earlier("dry_runs", core.now_us + core.config.round_timeout_us)
    core.count("dry_runs")
    core.out.append(Solve(round_id=round_id, snapshot=snapshot))
    return None


def _dry_demands(core: Core, job: Job, expansion: Expansion) -> tuple[dict[str, Demand], dict[str, str]]:
    """The job's classes as if every group were pending now; outputs that do not exist yet are read by nobody."""
    entry = JobEntry(JobAccepted(at_us=core.now_us, job_id=job.name, job=job, each=expansion.each))
    extra: dict[str, Demand] = {}
    groups: dict[str, str] = {}
    for spec in job.tasks:
        shard_ids = expansion.each.get(spec.name, ())
        group = GroupEntry(entry, spec, shard_ids, expansion.reads.get(spec.name, ()))
        group.n_open = len(shard_ids) if spec.for_each is not None else spec.count
        for template, count in core.tasks.classes_of(group):
            known = extra.get(template.demand_id)
            total = count + (known.count if known is not None else 0)
            extra[template.demand_id] = msgspec.structs.replace(template, count=total, oldest_us=core.now_us)
            groups[template.demand_id] = spec.name
    return extra, groups


# --- agents, roles, shards -------------------------------------------------------------------------------------------


def _set_mode(core: Core, request: SetAgentMode) -> Answer:
    entry = core.agents.get(request.agent_id)
    if entry is None:
        return _unknown("agent", request.agent_id)
    if entry.mode != request.mode:
        core.persist(AgentModeSet(at_us=core.now_us, agent_id=entry.agent_id, mode=request.mode))
        core.rounds.changed = True
        market.mode_changed(core, entry)
    if request.mode == "draining":
        for task_id in list(entry.tasks):
            task = core.tasks.tasks[task_id]
            if task.state not in (TaskState.KILLING, TaskState.UNKNOWN):
                kill(core, task, "drain", f"{entry.agent_id} is drained")
    return views.agent_view(core, entry)


def _set_role(core: Core, request: SetRole) -> Answer:
    if len(core.shares.roles) + core.shares.new_roles(request.path) > core.config.roles_max:
        return _full(f"there are {core.config.roles_max} roles")
    quota = request.quota
    amounts = [amount for amount in (quota, request.guarantee) if amount is not None]
    if any(min(kinds(amount)) < 0 for amount in amounts):
        return Problem(
            status=422, code="bad_quota", title="The quota is impossible", detail="no amount may be negative"
        )
    core.persist(
        RoleSet(at_us=core.now_us, path=request.path, weight=request.weight, quota=quota, guarantee=request.guarantee)
    )
    market.roles_changed(core, request.path)
    core.rounds.changed = True
    return views.role_view(core, core.shares.roles[request.path])


def _add_shard(core: Core, request: AddShard) -> Answer:
    known = core.shards.entries.get(request.shard_id)
    if known is not None and known.size_bytes != request.size_bytes:
        return Problem(
            status=409,
            code="size_mismatch",
            title="The shard is known with another size",
            detail=f"{request.shard_id[:12]}… has {known.size_bytes} bytes, not {request.size_bytes}",
        )
    if known is None and len(core.shards) >= core.config.shards_max:
        return _full(f"there are {core.config.shards_max} shards")
    core.persist(
        ShardAdded(
            at_us=core.now_us,
            shard_id=request.shard_id,
            size_bytes=request.size_bytes,
            name=request.name or (known.name if known else ""),
            sites=request.sites,
            replicas_wanted=request.replicas_wanted,
            in_store=request.in_store,
        )
    )
    core.rounds.changed = True
    return views.shard_view(core, core.shards.entries[request.shard_id])


def _set_service_demand(core: Core, request: SetServiceDemand) -> Answer:
    group = core.tasks.services.get(request.service_id)
    if group is None:
        return _unknown("service", request.service_id)
    clients = {target.site for target in group.spec.latency}
    strangers = sorted(request.requests_per_second.keys() - clients)
    if strangers:
        return Problem(
            status=422,
            code="unknown_client",
            title="The service has no such client site",
            detail=f"{strangers[0]!r} is not among {', '.join(sorted(clients))}",
        )
    asked = group.asked | request.requests_per_second
    if asked != group.asked:
        core.persist(
            ServiceAsked(
                at_us=core.now_us,
                job_id=group.job.job_id,
                group=group.spec.name,
                asked=tuple(sorted(asked.items())),
            )
        )
        core.rounds.changed = True
    return services.service_view(core, group)


def dry_runs_timed_out(core: Core) -> None:
    """Answer those that no policy answered."""
    late_us = core.now_us - core.config.round_timeout_us
    for round_id, run in list(core.rounds.dry_runs.items()):
        if run.since_us <= late_us:
            del core.rounds.dry_runs[round_id]
            problem = Problem(status=504, code="policy_timeout", title="The policy did not answer in time")
            core.out.append(Reply(request_id=run.request_id, answer=problem))
    if core.rounds.dry_runs:
        first_us = min(run.since_us for run in core.rounds.dry_runs.values())
        core.deadlines.set("dry_runs", first_us + core.config.round_timeout_us)
