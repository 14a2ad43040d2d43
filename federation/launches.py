"""Orders to agents: launches and kills of attempts, copies and drops of shards, and where bytes are to be fetched."""

import msgspec

from federation.agents_book import AgentEntry, SentCommand
from federation.core import Core
from federation.facts import TaskStateChanged
from federation.jobs import Artifact
from federation.moves import Move
from federation.states import TaskState
from federation.task_entries import TaskEntry
from federation.wire import Command, DropShard, Fetch, FetchShard, Kill, Launch, Output, RedirectFetch, Source
from policies.gpus import is_share, memory_of
from policies.model import RACK_LABEL, Needs, ShardMove, Tuning

SOURCES_MAX = 4


def launch(core: Core, entry: AgentEntry, tasks: list[TaskEntry]) -> None:
    """Order the launch of freshly assigned tasks."""
    commands: list[Command] = []
    for task in tasks:
        _remember_launch(core, entry, task)
        ordered = launch_of(core, entry, task)
        core.transfers.begin(entry, ordered, core.now_us)
        commands.append(ordered)
        if ordered.reads or task.group.spec.latency:
            core.deadlines.set_earlier("reschedule", core.now_us + core.config.move_look_us)
    entry.changed()
    core.order(entry, commands)


def launch_again(core: Core, entry: AgentEntry, task: TaskEntry) -> Command:
    """The same launch, with the same cmd_id: an agent that has it re-sends its status and does nothing else."""
    _remember_launch(core, entry, task)
    entry.changed()
    return launch_of(core, entry, task)


def _remember_launch(core: Core, entry: AgentEntry, task: TaskEntry) -> None:
    entry.unseen[task.cmd_id] = task.group.spec.needs
    core.remember(
        entry,
        SentCommand(cmd_id=task.cmd_id, kind="launch", key=task.task_id, attempt=task.attempt, sent_us=core.now_us),
    )


def launch_of(core: Core, entry: AgentEntry, task: TaskEntry) -> Launch:
    spec, group = task.group.spec, task.group
    reads = group.reads_of(task.index)
    # A launch of many reads must stay below the wire's 256 KiB: fewer sources each.
    n_sources = SOURCES_MAX if len(reads) <= 64 else 2 if len(reads) <= 256 else 1
    return Launch(
        cmd_id=task.cmd_id,
        task_id=task.task_id,
        attempt=task.attempt,
        expires_in_us=core.config.launch_expires_us,
        needs=spec.needs,
        command=tuple([_filled(core, task, text) if "{" in text else text for text in spec.command]),
        env=_env(core, entry, task) if spec.env or task.tuning is not None else {},
        gpus=task.gpus,
        gpu_memory_bytes=share_bytes(entry, spec.needs, task.gpus),
        artifact=artifact_of(core, spec.artifact) if spec.artifact is not None else None,
        reads=tuple([fetch_of(core, entry, shard_id, n_sources, name) for shard_id, name in reads]),
        outputs=tuple([Output(name=write.name, path=write.path, bytes_max=write.bytes_max) for write in spec.writes]),
        time_limit_us=spec.time_limit_us,
        kill_grace_us=core.config.kill_grace_us,
        simulated_run_us=spec.simulated_run_us,
    )


def _env(core: Core, entry: AgentEntry, task: TaskEntry) -> dict[str, str]:
    said = {key: _filled(core, task, text) for key, text in task.group.spec.env.items()}
    return tuning_env(task.tuning, entry) | said


def share_bytes(entry: AgentEntry, needs: Needs, uuids: tuple[str, ...]) -> int:
    """The memory that comes with a share of a GPU; 0 for whole ones."""
    return sum(memory_of(gpu) for gpu in entry.held_gpus(needs, uuids)) if is_share(needs.gpu) else 0


def tuning_env(tuning: Tuning | None, entry: AgentEntry) -> dict[str, str]:
    """How the plan wants the workers to communicate, as `agents.training` reads it; the job's own values win."""
    if tuning is None:
        return {}
    env = {
        "OFFERFLOW_COMM_AGGREGATE": tuning.aggregate,
        "OFFERFLOW_COMM_GROUP": _comm_group(tuning, entry),
        "OFFERFLOW_COMM_COMPRESSION": tuning.compression,
        "OFFERFLOW_COMM_LOCAL_STEPS": str(tuning.local_steps),
    }
    if tuning.meet_at:
        env["OFFERFLOW_COMM_MEET_AT"] = tuning.meet_at
    if tuning.shift_us is not None:
        env |= {
            "OFFERFLOW_COMM_SHIFT_US": str(tuning.shift_us),
            "OFFERFLOW_COMM_ITERATION_US": str(tuning.iteration_us),
        }
    if tuning.batch_per_worker:
        env["OFFERFLOW_BATCH_PER_WORKER"] = str(tuning.batch_per_worker)
    return env


def _comm_group(tuning: Tuning, entry: AgentEntry) -> str:
    """Workers of the same group sum up before anything crosses an uplink."""
    rack = dict(entry.enrolled.labels).get(RACK_LABEL, "") if tuning.aggregate == "rack" else ""
    return f"{entry.site}/{rack}" if rack else entry.site


def _filled(core: Core, task: TaskEntry, text: str) -> str:
    """Put in what the master knows; `{shard.path}`, `{in}` and `{out}` are the agent's to fill."""
    if "{" not in text:
        return text
    text = text.replace("{index}", str(task.index)).replace("{job}", task.group.job.job_id)
    if "{shard.name}" in text:
        text = text.replace("{shard.name}", core.shards.entries[task.group.shard_ids[task.index]].name)
    return text


def artifact_of(core: Core, artifact: Artifact) -> Fetch:
    sources = (Source(url=f"{core.http_url}/shards/{artifact.shard_id}"),) if core.http_url else ()
    return Fetch(shard_id=artifact.shard_id, size_bytes=artifact.size_bytes, name=artifact.name, sources=sources)


def fetch_of(core: Core, entry: AgentEntry, shard_id: str, n_sources: int = SOURCES_MAX, name: str = "") -> Fetch:
    """Where an agent gets a shard: same site first, then best measured bandwidth; the master's store last."""
    shard = core.shards.entries[shard_id]
    ranked: list[tuple[bool, int, str]] = []
    for agent_id in core.shards.live_replicas(shard):
        other = core.agents[agent_id]
        if agent_id != entry.agent_id and other.enrolled.data_url:
            bandwidth = core.network.transfer_bps(agent_id, entry.agent_id, shard.size_bytes, core.now_us) or 0
            ranked.append((other.site != entry.site, -bandwidth, agent_id))
    ranked.sort()
    sources = [
        Source(url=f"{other.enrolled.data_url.rstrip('/')}/shards/{shard_id}", agent_id=agent_id, site=other.site)
        for _, _, agent_id in ranked[:n_sources]
        if (other := core.agents[agent_id])
    ]
    if shard.in_store and core.http_url:
        sources.append(Source(url=f"{core.http_url}/shards/{shard_id}"))
    return Fetch(shard_id=shard_id, size_bytes=shard.size_bytes, name=name or shard.name, sources=tuple(sources))


def redirect(core: Core, entry: AgentEntry, shard_id: str, agent_id: str) -> None:
    """Let a running fetch go on from `agent_id`, the others after it."""
    fetch = fetch_of(core, entry, shard_id)
    first = core.agents[agent_id]
    source = Source(url=f"{first.enrolled.data_url.rstrip('/')}/shards/{shard_id}", agent_id=agent_id, site=first.site)
    others = tuple(each for each in fetch.sources if each.agent_id != agent_id)
    cmd_id = core.new_cmd_id()
    core.remember(entry, SentCommand(cmd_id=cmd_id, kind="redirect", key=shard_id, sent_us=core.now_us))
    core.order(entry, [RedirectFetch(cmd_id=cmd_id, fetch=msgspec.structs.replace(fetch, sources=(source, *others)))])


def kill(core: Core, task: TaskEntry, reason: str, detail: str = "") -> None:
    """End the attempt of a placed task: what becomes of the task is decided when the attempt is closed."""
    core.persist(
        TaskStateChanged(
            at_us=core.now_us,
            task_id=task.task_id,
            state=TaskState.KILLING,
            attempt=task.attempt,
            agent_id=task.agent_id,
            reason=reason,
            detail=detail,
        )
    )
    order_kill(core, core.agents[task.agent_id], task.task_id, task.attempt, reason)


def order_kill(core: Core, entry: AgentEntry, task_id: str, attempt: int, reason: str) -> None:
    core.order(entry, [kill_of(core, entry, task_id, attempt, reason)])


def kill_of(
    core: Core, entry: AgentEntry, task_id: str, attempt: int, reason: str, grace_us: int | None = None
) -> Kill:
    cmd_id = core.new_cmd_id()
    core.remember(entry, SentCommand(cmd_id=cmd_id, kind="kill", key=task_id, attempt=attempt, sent_us=core.now_us))
    return Kill(cmd_id=cmd_id, task_id=task_id, attempt=attempt, reason=reason, grace_us=grace_us)


def begin_move(core: Core, move: ShardMove) -> bool:
    """Order a copy that a plan wants. False when it no longer makes sense."""
    shard, entry = core.shards.entries.get(move.shard_id), core.agents.get(move.to_agent)
    if shard is None or entry is None or entry.life is None or not core.agents.is_here(move.to_agent):
        return False
    if move.to_agent in shard.replicas or (move.shard_id, move.to_agent) in core.moves.in_flight:
        return False
    if shard.sites and entry.site not in shard.sites:
        return False
    if len(core.moves.in_flight) >= core.config.moves_in_flight_max:
        return False
    fetch = fetch_of(core, entry, move.shard_id)
    if not fetch.sources:
        return False
    cmd_id = core.new_cmd_id()
    core.remember(entry, SentCommand(cmd_id=cmd_id, kind="fetch", key=move.shard_id, sent_us=core.now_us))
    core.moves.begin(
        Move(
            shard_id=move.shard_id,
            to_agent=move.to_agent,
            from_agent=move.from_agent,
            drop_source=move.drop_source,
            since_us=core.now_us,
        )
    )
    core.deadlines.set_earlier("moves", core.now_us + core.config.move_timeout_us)
    core.transfers.begin_copy(entry, fetch, core.now_us)
    core.order(entry, [FetchShard(cmd_id=cmd_id, fetch=fetch)])
    return True


def drop_after_move(core: Core, move: Move) -> None:
    """The copy arrived: drop the source if enough replicas live on without it."""
    shard, entry = core.shards.entries[move.shard_id], core.agents.get(move.from_agent)
    if not move.drop_source or entry is None or move.from_agent not in shard.replicas:
        return
    others = [agent_id for agent_id in core.shards.live_replicas(shard) if agent_id != move.from_agent]
    if len(others) < max(1, shard.replicas_wanted):
        return
    cmd_id = core.new_cmd_id()
    core.remember(entry, SentCommand(cmd_id=cmd_id, kind="drop", key=move.shard_id, sent_us=core.now_us))
    core.order(entry, [DropShard(cmd_id=cmd_id, shard_id=move.shard_id)])
