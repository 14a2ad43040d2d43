"""Services whose replicas are added, moved and weighted: what the policy is told of them, and what is done of its plan.

A job file says how many replicas there may be (`service: {replicas: {min, max}}`): a task for each of the most. Those
that are not needed wait; a plan that wants one more names the agent, and the task is made pending and placed there in
one go. One that is not worth its place is stopped and waits again. Weights are a fact, written when they change:
whoever routes requests reads them from the journal's events or over HTTP.
"""

import msgspec

from federation.agents_book import AgentEntry
from federation.api import ServedSite, ServiceShare, ServiceView
from federation.core import Core
from federation.facts import ServiceBalanced, TaskStateChanged
from federation.launches import kill
from federation.moves import room
from federation.states import AgentState, TaskState
from federation.task_entries import GroupEntry, TaskEntry
from federation.tasks import SCALED
from policies.model import LatencyTarget, Service, ServicePlan, ServiceReplica

_PLACED = frozenset({TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING})

# --- asking ----------------------------------------------------------------------------------------------------------


def services_of(core: Core) -> tuple[Service, ...]:
    """Open services as a policy sees them, sorted by id."""
    core.services.keep_only(set(core.tasks.services))
    grows = core.config.moves_per_minute_max > 0
    found: list[Service] = []
    for service_id, group in sorted(core.tasks.services.items()):
        replicas = group.spec.replicas
        assert replicas is not None, "the book holds no others"
        if not group.ready:
            continue
        may_shrink = core.services.may_shrink(service_id, core.now_us, core.config.move_hold_us)
        template = core.tasks.make_template(group, group.reads, ())
        found.append(
            Service(
                service_id=service_id,
                demand=msgspec.structs.replace(
                    template, count=len(_spares(group)), oldest_us=core.now_us, latency=targets_of(group)
                ),
                replicas=replicas,
                placed=tuple(_replica(core, task) for task in _sorted(group) if task.state in _PLACED),
                weights=group.weights,
                may_grow=grows,
                may_shrink=grows and may_shrink,
                margin_milli=core.config.move_margin_milli,
            )
        )
    return tuple(found)


def targets_of(group: GroupEntry) -> tuple[LatencyTarget, ...]:
    """With the requests a second that were told of, where they were."""
    return tuple(
        msgspec.structs.replace(target, weight=group.asked.get(target.site, target.weight))
        for target in group.spec.latency
    )


def _sorted(group: GroupEntry) -> list[TaskEntry]:
    return sorted(group.tasks, key=lambda task: task.task_id)


def _spares(group: GroupEntry) -> list[TaskEntry]:
    return [task for task in group.tasks if task.state is TaskState.WAITING]


def _replica(core: Core, task: TaskEntry) -> ServiceReplica:
    entry = core.agents[task.agent_id]
    return ServiceReplica(
        task_id=task.task_id,
        agent_id=task.agent_id,
        site=entry.site,
        price_microusd_per_cpu_hour=entry.enrolled.price_microusd_per_cpu_hour,
        is_ready=_is_ready(task, entry),
    )


def _is_ready(task: TaskEntry, entry: AgentEntry) -> bool:
    return task.state is TaskState.RUNNING and entry.state is AgentState.ONLINE


# --- answering -------------------------------------------------------------------------------------------------------


def spare_of(core: Core, service_id: str) -> TaskEntry | None:
    """A replica that is not needed yet, made pending because it is; None where there is none, or the budget of changes
    is used up."""
    group = core.tasks.services.get(service_id)
    book, config = core.rescheduling, core.config
    spares = _spares(group) if group is not None else []
    if not spares:
        return None
    if room(book.tasks_us, config.moves_per_minute_max, core.now_us) <= 0:
        core.count("moves_over_budget")
        return None
    _set_state(core, spares[0], TaskState.PENDING)
    return spares[0]


def added(core: Core, group: GroupEntry) -> None:
    core.count("replicas_added")
    core.rescheduling.tasks_us.append(core.now_us)
    core.services.changed(group.group_id, core.now_us, core.config.move_hold_us, grew=True)


def not_added(core: Core, task: TaskEntry) -> None:
    """The agent that was meant cannot take it any more."""
    _set_state(core, task, TaskState.WAITING)
    core.rounds.changed = True


def _set_state(core: Core, task: TaskEntry, state: TaskState) -> None:
    core.persist(
        TaskStateChanged(at_us=core.now_us, task_id=task.task_id, state=state, attempt=task.attempt, reason=SCALED)
    )


def serve(core: Core, plan: ServicePlan) -> None:
    """Take over the weights, then stop the replicas that are not worth their place."""
    group = core.tasks.services.get(plan.service_id)
    if group is None:
        return
    core.services.missed_ppm[plan.service_id] = plan.missed_ppm
    _weigh(core, group, plan)
    for task_id in plan.removes:
        if _may_lose_one(group):
            _stop(core, group, task_id, SCALED, f"{group.spec.name} holds its targets as well without it")
    for task_id in plan.moves:
        _stop(core, group, task_id, "moved", f"{group.spec.name} holds its targets better from elsewhere")


def _stop(core: Core, group: GroupEntry, task_id: str, reason: str, detail: str) -> None:
    task = core.tasks.tasks.get(task_id)
    if task is None or task.group is not group or task.state not in _PLACED:
        return
    if room(core.rescheduling.tasks_us, core.config.moves_per_minute_max, core.now_us) <= 0:
        core.count("moves_over_budget")
        return
    core.count("replicas_removed" if reason == SCALED else "replicas_moved")
    core.rescheduling.tasks_us.append(core.now_us)
    core.services.changed(group.group_id, core.now_us, core.config.move_hold_us, grew=False)
    kill(core, task, reason, detail)


def _may_lose_one(group: GroupEntry) -> bool:
    """Where nothing waits to run in its place, the least number stays."""
    assert group.spec.replicas is not None, "the book holds no others"
    n_held = sum(task.state in _PLACED or task.state is TaskState.PENDING for task in group.tasks)
    return n_held > group.spec.replicas.least


def _weigh(core: Core, group: GroupEntry, plan: ServicePlan) -> None:
    for weight in plan.weights:
        task = core.tasks.tasks.get(weight.task_id)
        if task is None or task.group is not group or task.state is not TaskState.RUNNING:
            core.rounds.changed = True  # It ended while the policy thought.
            return
    if plan.weights != group.weights:
        core.count("services_balanced")
        core.persist(
            ServiceBalanced(
                at_us=core.now_us,
                job_id=group.job.job_id,
                group=group.spec.name,
                weights=plan.weights,
                missed_ppm=plan.missed_ppm,
            )
        )


# --- views -----------------------------------------------------------------------------------------------------------


def service_view(core: Core, group: GroupEntry) -> ServiceView:
    replicas = group.spec.replicas
    assert replicas is not None, "the book holds no others"
    states = [task.state for task in group.tasks]
    placed = [task for task in group.tasks if task.state in _PLACED]
    return ServiceView(
        service_id=group.group_id,
        job_id=group.job.job_id,
        group=group.spec.name,
        replicas_min=replicas.least,
        replicas_max=replicas.most,
        answers_per_second=replicas.answers_per_second or None,
        n_placed=len(placed),
        n_ready=sum(_is_ready(task, core.agents[task.agent_id]) for task in placed),
        n_pending=states.count(TaskState.PENDING),
        n_spare=states.count(TaskState.WAITING),
        missed_ppm=core.services.missed_ppm.get(group.group_id),
        clients=tuple(_served(core, group, target) for target in targets_of(group)),
    )


def _served(core: Core, group: GroupEntry, target: LatencyTarget) -> ServedSite:
    shares: list[ServiceShare] = []
    for weight in group.weights:
        task = core.tasks.tasks.get(weight.task_id)
        if weight.site != target.site or task is None or not task.agent_id:
            continue
        site = core.agents[task.agent_id].site
        rtt_us = core.network.rtt_us(f"site:{target.site}", f"site:{site}")
        shares.append(
            ServiceShare(
                task_id=task.task_id, agent_id=task.agent_id, site=site, share_ppm=weight.share_ppm, rtt_us=rtt_us
            )
        )
    return ServedSite(
        site=target.site, rtt_us_target=target.rtt_us, requests_per_second=target.weight, shares=tuple(shares)
    )
