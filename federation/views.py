"""What people see: read from the books at any time, never changing them. Unknown ids give None."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Literal, cast

from federation.agents_book import AgentEntry
from federation.api import (
    AgentView,
    JobView,
    NetworkView,
    OfferView,
    RoleView,
    ShardView,
    StatusView,
    TaskPage,
    TaskView,
    WhyView,
)  # fmt: skip
from federation.core import Core
from federation.offers import free_of
from federation.shards import ShardEntry
from federation.shares import RoleEntry
from federation.task_entries import JobEntry, TaskEntry
from federation.why import why_view
from policies.model import Resources
from policies.resources import dominant_share_ppm

if TYPE_CHECKING:
    from federation.master import Master

_JobState = Literal["running", "finished", "failed", "cancelled"]
VERSION = "0.1.0"
LIMIT_MAX = 10_000


# --- of a master -----------------------------------------------------------------------------------------------------


def status(m: Master, now_us: int) -> StatusView:
    core = m.core
    lost = f"lost {core.broker_detail}".rstrip()
    return StatusView(
        version=VERSION,
        term=core.term,
        state="recovering" if core.recovering or not core.started else "serving",
        policy=core.policy_name,
        now_us=now_us,
        agents={str(state): count for state, count in core.agents.counts.items() if count},
        tasks={str(state): count for state, count in core.tasks.counts.items() if count},
        jobs={state: count for state, count in core.tasks.job_counts.items() if count},
        n_offers=sum(entry.offer is not None for entry in core.agents.entries.values()),
        n_demands=len(core.tasks.demands),
        n_rounds=core.counters.get("rounds", 0),
        broker="connected" if core.broker_found else lost,
        total=core.agents.total,
        allocated=core.shares.allocated(),
        policy_failure=core.rounds.failure or core.rounds.contained,
        n_set_aside=len(core.set_aside.entries),
        set_aside=_last_set_aside(m),
    )


def _last_set_aside(m: Master) -> str:
    if not m.core.set_aside.entries:
        return ""
    last = m.core.set_aside.entries[-1]
    return f"{last.event_type}{f' of {last.source}' if last.source else ''}: {last.error}"


def jobs(m: Master) -> tuple[JobView, ...]:
    """Newest last."""
    return tuple(job_view(job) for job in m.core.tasks.jobs.values())


def job(m: Master, job_id: str) -> JobView | None:
    entry = m.core.tasks.jobs.get(job_id)
    return None if entry is None else job_view(entry)


def tasks(
    m: Master,
    *,
    job_id: str | None = None,
    state: str | None = None,
    agent_id: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> TaskPage:
    """A page of tasks in order of submission. `after` is the last task id seen; one that is gone starts anew."""
    limit = max(1, min(limit, LIMIT_MAX))
    if agent_id is not None:
        found = iter(_placed_on(m.core, agent_id, after))
    else:
        found = _from(m.core, job_id, m.core.tasks.tasks.get(after) if after else None)
    matching = (
        task
        for task in found
        if (job_id is None or task.group.job.job_id == job_id) and (state is None or task.state == state)
    )
    page = list(islice(matching, limit + 1))
    next_after = page[limit - 1].task_id if len(page) > limit else None
    return TaskPage(tasks=tuple(task_view(m.core, task) for task in page[:limit]), next_after=next_after)


def _placed_on(core: Core, agent_id: str, after: str | None) -> list[TaskEntry]:
    """What an agent has now, by id."""
    entry = core.agents.get(agent_id)
    task_ids = sorted(entry.tasks) if entry is not None else []
    return [core.tasks.tasks[task_id] for task_id in task_ids if after is None or task_id > after]


def _from(core: Core, job_id: str | None, after: TaskEntry | None) -> Iterator[TaskEntry]:
    waiting = after is not None
    for entry in core.tasks.jobs.values():
        if waiting and after is not None and entry is not after.group.job:
            continue
        if job_id is not None and entry.job_id != job_id:
            continue
        for group in entry.groups.values():
            start = 0
            if waiting and after is not None:
                if group is not after.group:
                    continue
                start, waiting = after.index + 1, False
            yield from islice(group.tasks, start, None)
        waiting = False


def task(m: Master, task_id: str) -> TaskView | None:
    entry = m.core.tasks.tasks.get(task_id)
    return None if entry is None else task_view(m.core, entry)


def why(m: Master, task_id: str, now_us: int) -> WhyView | None:
    entry = m.core.tasks.tasks.get(task_id)
    return None if entry is None else why_view(m.core, entry, now_us)


def agents(m: Master) -> tuple[AgentView, ...]:
    return tuple(agent_view(m.core, entry) for _, entry in sorted(m.core.agents.entries.items()))


def agent(m: Master, agent_id: str) -> AgentView | None:
    entry = m.core.agents.get(agent_id)
    return None if entry is None else agent_view(m.core, entry)


def offers(m: Master) -> tuple[OfferView, ...]:
    """The live offers, each with what is left of it."""
    return tuple(offer_view(entry) for _, entry in sorted(m.core.agents.entries.items()) if is_offering(entry))


def network(m: Master, now_us: int) -> NetworkView:
    return NetworkView(links=m.core.network.links_told(now_us), next_after=None)


def shards(m: Master, glob: str = "*") -> tuple[ShardView, ...]:
    """By name, then id; those that `matches`."""
    found = [entry for entry in m.core.shards.entries.values() if matches(entry, glob)]
    return tuple(shard_view(m.core, entry) for entry in sorted(found, key=lambda entry: (entry.name, entry.shard_id)))


def shard(m: Master, shard_id: str) -> ShardView | None:
    entry = m.core.shards.entries.get(shard_id)
    return None if entry is None else shard_view(m.core, entry)


def roles(m: Master) -> tuple[RoleView, ...]:
    return tuple(role_view(m.core, entry) for _, entry in sorted(m.core.shares.roles.items()))


# --- of an entry -----------------------------------------------------------------------------------------------------


def job_view(entry: JobEntry) -> JobView:
    return JobView(
        job_id=entry.job_id,
        name=entry.job.name,
        role=entry.job.role,
        priority=entry.job.priority,
        state="cancelling" if entry.cancelled and entry.ended_us is None else cast(_JobState, entry.state),
        submitted_us=entry.submitted_us,
        ended_us=entry.ended_us,
        n_tasks=entry.n_tasks,
        tasks={str(state): count for state, count in entry.counts.items() if count},
        detail=entry.detail,
    )


def task_view(core: Core, entry: TaskEntry) -> TaskView:
    agent_entry = core.agents.get(entry.agent_id)
    return TaskView(
        task_id=entry.task_id,
        job_id=entry.group.job.job_id,
        group=entry.group.spec.name,
        state=str(entry.state),
        attempt=entry.attempt,
        agent_id=entry.agent_id,
        site=agent_entry.site if agent_entry is not None else "",
        tier=agent_entry.enrolled.tier if agent_entry is not None else None,
        since_us=entry.since_us,
        pending_us=entry.pending_us,
        launched_us=entry.launched_us,
        ended_us=entry.ended_us,
        stage_us=entry.stage_us,
        run_us=entry.run_us,
        fetched_bytes=entry.fetched_bytes,
        exit_code=entry.exit_code,
        reason=entry.reason,
        detail=entry.detail,
        log_tail=entry.log_tail,
        outputs=tuple(held.name or held.shard_id for held in entry.outputs),
    )


def agent_view(core: Core, entry: AgentEntry) -> AgentView:
    enrolled = entry.enrolled
    return AgentView(
        agent_id=entry.agent_id,
        site=enrolled.site,
        region=enrolled.region,
        tier=enrolled.tier,
        state=str(entry.state),
        mode=entry.mode,
        since_us=entry.since_us,
        hardware=enrolled.hardware,
        speed_milli=enrolled.speed_milli,
        labels=dict(enrolled.labels),
        total=enrolled.total,
        free=free_of(entry) or Resources(),
        offer_expires_us=entry.offer.expires_us if entry.offer is not None else None,
        data_url=enrolled.data_url,
        boot=enrolled.boot,
        version=enrolled.version,
        n_tasks=len(entry.tasks),
        n_shards=len(entry.shards),
        metered=entry.enrolled.metered,
        control_bytes=entry.told.control_bytes if entry.told is not None else 0,
        probe_bytes=entry.told.probe_bytes if entry.told is not None else 0,
        measuring_cpu_us=entry.told.measuring_cpu_us if entry.told is not None else 0,
        wire_bytes=entry.told.wire_bytes if entry.told is not None else 0,
        detail=entry.detail or entry.broken_word,
    )


def is_offering(entry: AgentEntry) -> bool:
    return entry.offer is not None and free_of(entry) is not None


def offer_view(entry: AgentEntry) -> OfferView:
    """Of an agent that `is_offering`."""
    free = free_of(entry)
    assert entry.offer is not None and free is not None
    return OfferView(
        offer_id=entry.offer.offer_id,
        agent_id=entry.agent_id,
        site=entry.site,
        tier=entry.enrolled.tier,
        free=free,
        expires_us=entry.offer.expires_us,
    )


def matches(entry: ShardEntry, glob: str) -> bool:
    """A glob matches names; `*` also those without one. Four digits or more of an id match too."""
    return glob == "*" or fnmatchcase(entry.name, glob) or (len(glob) >= 4 and entry.shard_id.startswith(glob))


def shard_view(core: Core, entry: ShardEntry) -> ShardView:
    return ShardView(
        shard_id=entry.shard_id,
        name=entry.name,
        size_bytes=entry.size_bytes,
        replicas=tuple(sorted(entry.replicas)),
        sites=entry.sites,
        replicas_wanted=entry.replicas_wanted,
        in_store=entry.in_store,
    )


def role_view(core: Core, entry: RoleEntry) -> RoleView:
    return RoleView(
        path=entry.path,
        weight=entry.weight,
        quota=entry.quota,
        allocated=entry.allocated,
        dominant_share_ppm=dominant_share_ppm(entry.allocated, core.agents.total),
        n_pending=entry.n_pending,
        n_running=entry.n_running,
    )
