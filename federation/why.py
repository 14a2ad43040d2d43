"""Why a task is there, or not anywhere: the kept explanation, the newest round's numbers, and what would change it."""

from federation.api import WhyView
from federation.core import Core
from federation.offers import expected_end_us, may_live
from federation.states import PLACED_STATES, TaskState
from federation.task_entries import TaskEntry
from federation.topology import meeting_point
from policies.model import Blocker, Candidate, Demand, Miss, Reason
from policies.resources import amount_of, fits, kinds, role_chain


def why_view(core: Core, task: TaskEntry, now_us: int) -> WhyView:
    kept = task.explanation
    blockers: tuple[Blocker, ...] = kept.blockers if kept is not None else ()
    waits_for = kept.waits_for if kept is not None else None
    n_agents = kept.n_agents if kept is not None else 0
    hints: tuple[str, ...] = ()
    if task.state is TaskState.PENDING:
        found = core.tasks.demands.classes[task.demand_id]
        kept = found.explanation
        if found.refusal is not None:  # Fresher numbers than those kept.
            blockers, waits_for, n_agents = found.refusal.blockers, found.refusal.waits_for, core.rounds.n_nodes
        elif kept is not None:
            blockers, waits_for, n_agents = kept.blockers, kept.waits_for, kept.n_agents
        blockers = (*_standing(core), *blockers)
        hints = _hints(core, task, found.template, blockers, waits_for, now_us)
    elif task.state is TaskState.WAITING:
        is_spare = task.group.ready and task.group.spec.replicas is not None
        blockers = (Blocker(reason=Reason.SPARE if is_spare else Reason.DEPENDENCY),)
        hints = _spare_hints(task) if is_spare else _dependency_hints(task)
    elif task.state in PLACED_STATES and task.group.spec.communication is not None:
        hints = _gang_hints(core, task)
    return WhyView(
        task_id=task.task_id,
        state=str(task.state),
        since_us=task.since_us,
        policy=kept.policy if kept is not None else core.policy_name,
        round_id=kept.round_id if kept is not None else None,
        term=kept.term if kept is not None else core.term,
        agent_id=kept.agent_id if kept is not None and task.state is not TaskState.PENDING else "",
        terms=kept.terms if kept is not None else None,
        alternatives=kept.alternatives if kept is not None else (),
        blockers=blockers,
        n_agents=n_agents,
        waits_for=waits_for,
        hints=hints,
        detail=task.detail or task.reason,
    )


def _standing(core: Core) -> tuple[Blocker, ...]:
    """What keeps every pending task waiting, whatever it needs."""
    found: list[Blocker] = []
    if core.recovering or not core.started:
        found.append(Blocker(reason=Reason.RECOVERING, agents=len(core.awaited)))
    if core.rounds.failure:
        found.append(Blocker(reason=Reason.POLICY_FAILED))
    return tuple(found)


def _dependency_hints(task: TaskEntry) -> tuple[str, ...]:
    groups = task.group.job.groups
    return tuple(
        f"{name}: {groups[name].n_finished} of {len(groups[name].tasks)} finished"
        for name in task.group.after
        if groups[name].n_finished < len(groups[name].tasks)
    )


def _spare_hints(task: TaskEntry) -> tuple[str, ...]:
    replicas, name = task.group.spec.replicas, task.group.spec.name
    assert replicas is not None, "only a replica is spare"
    n_held = sum(member.state is not TaskState.WAITING for member in task.group.tasks)
    return (f"{n_held} of at most {replicas.most} replicas hold the targets of {name} as well as one more would",)


def _gang_hints(core: Core, task: TaskEntry) -> tuple[str, ...]:
    """Where a gang that talks meets: the lowest part of the topology that all its members hang on."""
    agents = sorted({member.agent_id for member in task.group.tasks if member.state in PLACED_STATES})
    return (f"its gang is on {len(agents)} agents and meets at {meeting_point(core.agents, agents)}",)


# --- hints -----------------------------------------------------------------------------------------------------------


def _hints(
    core: Core,
    task: TaskEntry,
    demand: Demand,
    blockers: tuple[Blocker, ...],
    waits_for: Candidate | None,
    now_us: int,
) -> tuple[str, ...]:
    """What would let it run, the most telling first."""
    found: list[str] = []
    if core.recovering:
        found.append(f"{len(core.awaited)} agents are still to report after the master's restart")
    if core.rounds.failure:
        found.append(f"the policy failed: {core.rounds.failure[:200]}")
    if core.rounds.contained:
        found.append(f"the policy failed, the fallback took the round: {core.rounds.contained[:200]}")
    for blocker in blockers:
        hint = _hint(core, demand, blocker, now_us)
        if hint and hint not in found:
            found.append(hint)
    if waits_for is not None:
        found.append(f"{waits_for.agent_id} is planned: done there in ~{_seconds(waits_for.terms.total_us())}")
    found += _releases(core, demand, now_us, core.config.hints_max - len(found))
    if demand.gang is not None and _gang_pending(task) < demand.gang.size:
        found.append(f"{demand.gang.size - _gang_pending(task)} members of its gang are still being stopped")
    elif not blockers and not found:
        found.append("no round has looked at it yet")
    return tuple(found[: core.config.hints_max])


def _gang_pending(task: TaskEntry) -> int:
    return sum(member.state is TaskState.PENDING for member in task.group.tasks)


def _hint(core: Core, demand: Demand, blocker: Blocker, now_us: int) -> str:
    match blocker.reason:
        case Reason.DEADLINE if demand.deadline_us is not None and blocker.nearest is not None:
            return f"deadline ≥ {_seconds(blocker.nearest.needs)}"
        case Reason.QUOTA:
            return _quota_hint(core, demand)
        case Reason.NO_AGENTS:
            return "an agent that offers resources"
        case Reason.DATA_UNREACHABLE:
            return _data_hint(core, demand)
        case Reason.AVOIDED:
            return "an agent where it has not failed yet"
        case _ if blocker.nearest is not None:
            return _miss_hint(blocker.reason, blocker.nearest)
    return ""


def _quota_hint(core: Core, demand: Demand) -> str:
    needs = amount_of(demand.needs)
    for path in role_chain(demand.role):
        entry = core.shares.roles.get(path)
        if entry is None or entry.quota is None:
            continue
        for name, need, have, limit in zip(
            ("cpu", "memory", "disk", "gpus"), kinds(needs), kinds(entry.allocated), kinds(entry.quota), strict=True
        ):
            if limit and have + need > limit:
                return f"quota of {path} +{_amount(name, have + need - limit)} {name}"
    return ""


def _data_hint(core: Core, demand: Demand) -> str:
    for shard_id in demand.reads:
        shard = core.shards.entries.get(shard_id)
        name = shard.name if shard is not None and shard.name else f"{shard_id[:12]}…"
        if shard is None or not (shard.in_store or core.shards.live_replicas(shard)):
            holders = ", ".join(sorted(shard.replicas)[:3]) if shard is not None else ""
            return f"shard {name} reachable again" + (f" (held by {holders})" if holders else "")
    return ""


def _miss_hint(reason: Reason, miss: Miss) -> str:
    match reason:
        case Reason.LINK_BANDWIDTH | Reason.LINK_RTT:
            has = "unmeasured" if miss.has is None else _measure(miss.has, miss.unit)
            return f"{miss.agent_id}: {_measure(miss.needs, miss.unit)} from {miss.site}, has {has}"
        case Reason.LINK_UNMEASURED:
            return f"{miss.agent_id}: its link from {miss.site} measured"
        case _ if miss.has is not None and miss.needs > miss.has:
            return f"{miss.agent_id}: +{_measure(miss.needs - miss.has, miss.unit)} {reason}"
    return ""


def _releases(core: Core, demand: Demand, now_us: int, most: int) -> list[str]:
    """Busy agents that will have room, soonest first."""
    found: list[tuple[int, str]] = []
    for entry in core.agents.entries.values():
        if not entry.tasks or not may_live(demand.where, entry.agent_id, entry.enrolled):
            continue
        if entry.mode != "active" or entry.offer is None or not fits(demand.needs, entry.enrolled.total):
            continue
        ends = sorted(
            expected_end_us(core.tasks.tasks[task_id], entry, core.profiles) - now_us for task_id in entry.tasks
        )
        found.append((max(0, ends[0]), entry.agent_id))
    return [f"{agent_id} frees in ~{_seconds(in_us)}" for in_us, agent_id in sorted(found)[: max(0, most)]]


def _seconds(duration_us: int) -> str:
    seconds = duration_us / 1e6
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _amount(name: str, value: int) -> str:
    return f"{value / 1000:g}" if name in ("cpu", "gpus") else _measure(value, "bytes")


def _measure(value: int, unit: str) -> str:
    match unit:
        case "milli":
            return f"{value / 1000:g}"
        case "bytes":
            return f"{value / 2**20:.0f} MiB" if value >= 2**20 else f"{value} B"
        case "bps":
            return f"{value / 1e6:.3g} Mbit/s"
        case "us":
            return f"{value / 1000:.3g} ms"
    return str(value)
