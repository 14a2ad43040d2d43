"""Framework tasks while they run: launches, what agents report of them, updates told until acknowledged, kills."""

import hashlib

import msgspec

from federation.agents_book import AgentEntry, SentCommand
from federation.core import Core
from federation.launches import artifact_of, fetch_of, kill_of, share_bytes
from federation.market.book import PREFIX, FrameworkEntry, FrameworkTask
from federation.market.facts import FrameworkTaskChanged
from federation.market.leasing import emit
from federation.market.protocol import TaskState, Update
from federation.replicas import acceptable, hold
from federation.wire import Command, HeldTask, Kill, Launch, Output, StatusReport, TaskStatus

_REASONS = {
    "memory_limit": "REASON_CONTAINER_LIMITATION_MEMORY",
    "disk_full": "REASON_CONTAINER_LIMITATION_DISK",
    "disk_limit": "REASON_CONTAINER_LIMITATION_DISK",
    "time_limit": "REASON_MAX_COMPLETION_TIME_REACHED",
    "fetch": "REASON_CONTAINER_LAUNCH_FAILED",
    "hash": "REASON_CONTAINER_LAUNCH_FAILED",
    "agent_restart": "REASON_AGENT_RESTARTED",
    "expired": "REASON_INVALID_OFFERS",
    "no_room": "REASON_RESOURCES_UNKNOWN",
}


def is_framework_task(task_id: str) -> bool:
    """Whether a wire task id belongs to a framework."""
    return task_id.startswith(PREFIX)


# --- launching -------------------------------------------------------------------------------------------------------


def launch_of(core: Core, entry: AgentEntry, task: FrameworkTask) -> Launch:
    """The command of a task; remembered until it is acknowledged."""
    spec = task.spec
    entry.unseen[task.cmd_id] = task.needs
    entry.changed()
    core.remember(
        entry,
        SentCommand(
            cmd_id=task.cmd_id, kind="launch", key=task.wire_id, attempt=task.attempt, sent_us=core.now_us
        ),
    )  # fmt: skip
    grace_us = spec.kill_grace_us
    return Launch(
        cmd_id=task.cmd_id,
        task_id=task.wire_id,
        attempt=task.attempt,
        expires_in_us=core.config.launch_expires_us,
        needs=task.needs,
        command=spec.command,
        env=spec.env,
        gpus=task.all_gpus(),
        gpu_memory_bytes=share_bytes(entry, task.needs, task.all_gpus()),
        artifact=artifact_of(core, spec.artifact) if spec.artifact is not None else None,
        reads=tuple(fetch_of(core, entry, shard_id) for shard_id in spec.reads),
        outputs=tuple(Output(name=write.name, path=write.path, bytes_max=write.bytes_max) for write in spec.writes),
        time_limit_us=spec.time_limit_us or spec.max_completion_us,
        kill_grace_us=core.config.kill_grace_us if grace_us is None else grace_us,
        simulated_run_us=spec.simulated_run_us,
    )


def launch_again(core: Core, entry: AgentEntry, task: FrameworkTask) -> Command:
    return launch_of(core, entry, task)


# --- states ----------------------------------------------------------------------------------------------------------


def change(
    core: Core,
    task: FrameworkTask,
    state: TaskState,
    reason: str = "",
    message: str = "",
    *,
    source: str = "SOURCE_MASTER",
    exit_code: int | None = None,
    outputs: tuple[tuple[str, str], ...] = (),
) -> None:
    """A task's new state becomes a fact, and is told until acknowledged."""
    market = core.market
    framework = market.frameworks[task.framework_id]
    market.n_uuids += 1
    uuid = hashlib.blake2b(f"{core.term}/{market.n_uuids}".encode(), digest_size=16).digest()
    update = Update(
        task_id=task.spec.task_id,
        state=state,
        agent_id=task.agent_id,
        uuid=uuid,
        source=source,  # type: ignore[arg-type]
        reason=reason,
        message=message[: core.config.log_tail_bytes_max],
        at_us=core.now_us,
        executor_id=task.spec.executor_id,
        exit_code=exit_code,
        outputs=outputs,
        labels=task.spec.labels,
    )
    core.persist(
        FrameworkTaskChanged(
            at_us=core.now_us, framework_id=task.framework_id, attempt=task.attempt, update=update
        )
    )  # fmt: skip
    core.count(f"framework_{state.lower()}")
    if len(task.updates) == 1:
        tell(core, framework, task)
    if not task.is_open:
        market.mark(task.agent_id)
        core.rounds.changed = True
        if task.group_id and state != "TASK_FINISHED":
            for other in list(framework.tasks.values()):
                if other.group_id == task.group_id and other.is_open:
                    kill_task(core, other, message=f"{task.spec.task_id} of its group ended")


def tell(core: Core, framework: FrameworkEntry, task: FrameworkTask) -> None:
    """Say a task's oldest unacknowledged update, and again later."""
    if not task.updates or not framework.stream_id:
        return
    task_id = task.spec.task_id
    wait_us = framework.retries.get(task_id, (0, core.config.update_retry_us))[1]
    framework.retries[task_id] = (core.now_us + wait_us, wait_us)
    core.deadlines.set_earlier(("market", "retry", framework.framework_id), core.now_us + wait_us)
    emit(core, framework, task.updates[0])


def tell_all(core: Core, framework: FrameworkEntry) -> None:
    """The stream is new: everything unacknowledged is told at once."""
    framework.retries.clear()
    for task in list(framework.tasks.values()):
        tell(core, framework, task)


def say(
    core: Core,
    framework: FrameworkEntry,
    task_id: str,
    agent_id: str,
    state: TaskState,
    reason: str,
    message: str = "",
) -> None:
    """An update that rests on nothing durable: without uuid, told once."""
    update = Update(
        task_id=task_id, state=state, agent_id=agent_id, reason=reason, message=message, at_us=core.now_us
    )  # fmt: skip
    emit(core, framework, update)


def lost_state(framework: FrameworkEntry, state: TaskState) -> TaskState:
    """Frameworks that do not know partitions hear TASK_LOST for all that is gone."""
    return state if framework.has("PARTITION_AWARE") else "TASK_LOST"


# --- what agents report ----------------------------------------------------------------------------------------------


def on_status(core: Core, entry: AgentEntry, status: TaskStatus, report: StatusReport) -> bool:
    """Take a status of a framework task in. False when nobody authorised the attempt."""
    task = core.market.task_of(status.task_id)
    if task is None or task.agent_id != entry.agent_id or task.attempt != status.attempt or not task.is_open:
        core.count("statuses_unknown_task" if task is None else "statuses_stale")
        return status.state not in ("staging", "running")
    framework = core.market.frameworks[task.framework_id]
    entry.sent.pop(task.cmd_id, None)
    was_taken_off, gpus = task.cmd_id not in entry.unseen, entry.held_gpus(task.needs, task.all_gpus())
    source = "SOURCE_AGENT"
    reason = _REASONS.get(status.reason, "")
    match status.state:
        case "staging":
            if task.state in ("TASK_STAGING", "TASK_UNREACHABLE"):
                change(core, task, "TASK_STARTING", source=source)
        case "running":
            if task.state in ("TASK_STAGING", "TASK_STARTING", "TASK_UNREACHABLE"):
                change(core, task, "TASK_RUNNING", source="SOURCE_EXECUTOR")
        case "finished":
            outputs = _outputs(core, entry, task, status)
            change(core, task, "TASK_FINISHED", message=status.detail, source="SOURCE_EXECUTOR", outputs=outputs,
                   exit_code=status.exit_code)  # fmt: skip
        case "failed":
            message = status.detail or status.log_tail or status.reason
            change(core, task, "TASK_FAILED", reason or "REASON_COMMAND_EXECUTOR_FAILED", message, source=source,
                   exit_code=status.exit_code)  # fmt: skip
        case "killed":
            change(core, task, "TASK_KILLED", reason, status.detail, source=source, exit_code=status.exit_code)
        case "refused":
            state = lost_state(framework, "TASK_DROPPED")
            change(core, task, state, reason or "REASON_INVALID_OFFERS", status.detail or status.reason, source=source)
    has_ended = status.state not in ("staging", "running")
    if has_ended and was_taken_off and entry.offer is not None and report.seq > entry.offer.seq:
        entry.offer.give_back(task.needs, gpus)
        entry.changed()
    return True


def _outputs(
    core: Core, entry: AgentEntry, task: FrameworkTask, status: TaskStatus
) -> tuple[tuple[str, str], ...]:  # fmt: skip
    """What the task wrote becomes shards, under the names it was to write."""
    wanted = {f"{task.wire_id}/{write.name}": write.name for write in task.spec.writes}
    found: list[tuple[str, str]] = []
    for held in status.outputs:
        if held.name in wanted and acceptable(core, held):
            hold(core, entry, held)
            found.append((wanted[held.name], held.shard_id))
        else:
            core.count("outputs_unexpected")
    return tuple(found)


# --- agents come and go ----------------------------------------------------------------------------------------------


def reconcile(
    core: Core, entry: AgentEntry, told: dict[tuple[str, int], HeldTask], acked: frozenset[int], *, is_complete: bool
) -> list[Command]:
    """A birth: framework tasks of both sides are compared, as the built-in ones are."""
    commands: list[Command] = []
    for held in told.values():
        if held.state != "ended" and is_framework_task(held.task_id):
            task = core.market.task_of(held.task_id)
            if task is None or task.agent_id != entry.agent_id or task.attempt != held.attempt or not task.is_open:
                core.count("orphans_killed")
                commands.append(kill_of(core, entry, held.task_id, held.attempt, "not_authorised"))
    for task in list(entry.holdings.tasks.values()):
        mine = told.get((task.wire_id, task.attempt))
        framework = core.market.frameworks[task.framework_id]
        if task.kill_asked:
            commands.append(_kill_of(core, entry, task))
        elif mine is not None:
            if task.state == "TASK_UNREACHABLE" and mine.state != "ended":
                back: TaskState = "TASK_RUNNING" if mine.state == "running" else "TASK_STARTING"
                change(core, task, back, "REASON_AGENT_REREGISTERED", source="SOURCE_AGENT")
        elif is_complete:
            if task.seen or task.cmd_id in acked:
                state = lost_state(framework, "TASK_GONE")
                change(core, task, state, "REASON_AGENT_RESTARTED", "the agent came back without it")
            else:
                commands.append(launch_again(core, entry, task))
    return commands


def unreachable(core: Core, entry: AgentEntry) -> None:
    """The agent is disconnected: what runs there is unknown, and lost to whom cannot wait."""
    for task in list(entry.holdings.tasks.values()):
        framework = core.market.frameworks[task.framework_id]
        if task.state != "TASK_UNREACHABLE":
            state = lost_state(framework, "TASK_UNREACHABLE")
            change(core, task, state, "REASON_AGENT_DISCONNECTED", f"{entry.agent_id} is disconnected")


def gone(core: Core, entry: AgentEntry) -> None:
    """The agent is lost for good."""
    for task in list(entry.holdings.tasks.values()):
        framework = core.market.frameworks[task.framework_id]
        state = lost_state(framework, "TASK_GONE")
        change(core, task, state, "REASON_AGENT_REMOVED", f"{entry.agent_id} was silent for too long")


def resend(core: Core, entry: AgentEntry, sent: SentCommand) -> Command | None:
    """An unacknowledged command of a framework task, again if it is still wanted."""
    task = core.market.task_of(sent.key)
    mine = task is not None and task.agent_id == entry.agent_id and task.attempt == sent.attempt and task.is_open
    if sent.kind == "launch":
        return launch_again(core, entry, task) if task is not None and mine and task.state == "TASK_STAGING" else None
    if mine and task is not None and not task.kill_asked:
        return None
    again = msgspec.structs.replace(sent, sent_us=core.now_us)
    core.remember(entry, again)
    if task is not None and mine:
        return _kill_of(core, entry, task)
    return kill_of(core, entry, sent.key, sent.attempt, "killed")


# --- killing ---------------------------------------------------------------------------------------------------------


def kill_task(
    core: Core, task: FrameworkTask, reason: str = "", message: str = "", *, grace_us: int | None = None
) -> None:
    """Ask the agent to end it, within the launch's grace or another. Its end is what the agent reports."""
    framework = core.market.frameworks[task.framework_id]
    if not task.is_open:
        return
    if not task.kill_asked and framework.has("TASK_KILLING_STATE") and task.state != "TASK_UNREACHABLE":
        change(core, task, "TASK_KILLING", reason, message)
    task.kill_asked = True
    if grace_us is not None:
        task.kill_grace_us = grace_us
    entry = core.agents[task.agent_id]
    core.order(entry, [_kill_of(core, entry, task)])


def _kill_of(core: Core, entry: AgentEntry, task: FrameworkTask) -> Kill:
    return kill_of(core, entry, task.wire_id, task.attempt, "killed", task.kill_grace_us)
