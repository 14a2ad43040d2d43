"""What agents report of attempts and shards, taken into the books.

Everything is acknowledged, so that no outbox sticks; only what concerns the current attempt changes anything.
"""

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.facts import TaskStateChanged
from federation.launches import drop_after_move, kill, order_kill
from federation.learning import judge_prediction, judge_transfer
from federation.market import operations, running
from federation.market.leasing import rescind_agent
from federation.offers import drop_offer
from federation.replicas import acceptable, hold, unhold
from federation.states import (
    ASSIGNED,
    CANCELLED,
    FAILED,
    FINISHED,
    KILLING,
    PENDING,
    PLACED_STATES,
    RUNNING,
    STAGING,
    TERMINAL_STATES,
    UNKNOWN,
    WAITING,
    OfferState,
    TaskState,
)
from federation.task_entries import TaskEntry
from federation.tasks import AGAIN_REASONS, SCALED, UNREACHED
from federation.wire import CommandAck, HeldShard, ShardStatus, StatusAck, StatusReport, TaskStatus

UNREACHED_MAX = 16  # agents on which a task may find that its data has no way there, before that counts as failing


def on_statuses(core: Core, entry: AgentEntry, report: StatusReport) -> None:
    for status in report.statuses:
        if isinstance(status, TaskStatus) and running.is_framework_task(status.task_id):
            if not running.on_status(core, entry, status, report):
                order_kill(core, entry, status.task_id, status.attempt, "not_authorised")
            elif status.state == "refused" and drop_offer(entry):
                rescind_agent(core, entry, "refused")
                core.count(f"offers_{OfferState.RESCINDED}")
        elif isinstance(status, TaskStatus):
            _on_task_status(core, entry, status, report.seq)
        else:
            _on_shard_status(core, entry, status)
    # Status id 0 is news that no outbox keeps.
    status_ids = tuple(status.status_id for status in report.statuses if status.status_id)
    if status_ids:
        core.send(entry.agent_id, StatusAck(term=core.term, status_ids=status_ids))


def on_command_ack(core: Core, entry: AgentEntry, ack: CommandAck) -> None:
    for cmd_id in ack.cmd_ids:
        entry.sent.pop(cmd_id, None)
    if not entry.sent:
        core.deadlines.cancel(("resend", entry.agent_id))


# --- attempts --------------------------------------------------------------------------------------------------------


def _on_task_status(core: Core, entry: AgentEntry, status: TaskStatus, seq: int) -> None:
    task = core.tasks.tasks.get(status.task_id)
    current = (
        task is not None
        and task.agent_id == entry.agent_id
        and task.attempt == status.attempt
        and task.state in PLACED_STATES
    )
    if task is None or not current:
        core.count("statuses_unknown_task" if task is None else "statuses_stale")
        if status.state in ("staging", "running"):
            # An instance nobody authorised, or no longer: it ends (L9).
            order_kill(core, entry, status.task_id, status.attempt, "not_authorised")
        return
    entry.sent.pop(task.cmd_id, None)  # A status says more than an acknowledgement.
    was_taken_off = task.cmd_id not in entry.unseen
    gpus = entry.held_gpus(task.group.spec.needs, task.gpus) if task.gpus else ()
    match status.state:
        case "staging":
            if task.state in (ASSIGNED, UNKNOWN):
                advance(core, task, STAGING)
        case "running":
            if task.state in (ASSIGNED, STAGING, UNKNOWN):
                judge_transfer(core, task, status.stage_us)
                advance(core, task, RUNNING, status)
        case "finished":
            _finish(core, entry, task, status)
        case "failed":
            fail_attempt(core, task, status.reason or "exit", status.detail, status)
        case "killed":
            if task.state is KILLING:
                close_killed(core, task, status)
            else:
                fail_attempt(core, task, status.reason or "killed", status.detail, status)
        case "refused":
            _refused(core, entry, task, status)
    if task.state in PLACED_STATES:
        return
    if was_taken_off and entry.offer is not None and seq > entry.offer.seq:
        # The offer was made before the attempt ended; the next one will say that there is room again.
        entry.offer.give_back(task.group.spec.needs, gpus)
        entry.changed()
    core.market.mark(entry.agent_id)


def advance(core: Core, task: TaskEntry, state: TaskState, status: TaskStatus | None = None) -> None:
    core.persist(
        TaskStateChanged(
            at_us=core.now_us,
            task_id=task.task_id,
            state=state,
            attempt=task.attempt,
            agent_id=task.agent_id,
            fetched_bytes=status.fetched_bytes if status else 0,
            stage_us=status.stage_us if status else None,
        )
    )
    if state is RUNNING and task.group.spec.replicas is not None:
        core.rounds.changed = True  # It can be sent requests now.


def _finish(core: Core, entry: AgentEntry, task: TaskEntry, status: TaskStatus) -> None:
    outputs: tuple[HeldShard, ...] = ()
    if status.outputs:
        outputs = tuple(held for held in status.outputs if _is_output_of(core, task, held) and acceptable(core, held))
    is_elastic = task.group.spec.elastic is not None  # How long one ran says how many others there were, and no more.
    if not is_elastic:
        judge_prediction(core, task, status)
    _close(core, task, FINISHED, status.reason, status.detail, status, outputs=outputs)
    core.count("tasks_finished")
    if status.run_us > 0 and not is_elastic:
        learned = core.profiles.gather(
            task.group.profile, entry.enrolled.hardware, status.run_us, core.now_us, task.read_bytes
        )
        if learned is not None:
            core.persist(learned)


def fail_attempt(core: Core, task: TaskEntry, reason: str, detail: str, status: TaskStatus | None = None) -> None:
    """The attempt failed where it was: again elsewhere while attempts remain, and then never again (L11)."""
    if task.state is KILLING:
        close_killed(core, task, status, reason, detail)
        return
    if _is_unreached(task, reason):
        core.count("attempts_unreached")
        ends = core.transfers.ends_of(task)
        if ends is not None:
            core.network.miss(*ends, core.now_us)
        _close(core, task, PENDING, UNREACHED, detail, status)
        _restart_gang(core, task)
        return
    core.count("attempts_failed")
    if task.n_failed + 1 < task.group.spec.attempts_max:
        _close(core, task, PENDING, reason, detail, status, attempt_failed=True)
        _restart_gang(core, task)
    else:
        _close(core, task, FAILED, reason, detail, status, attempt_failed=True)
        core.count("tasks_failed")
        _give_up_gang(core, task)


def _is_unreached(task: TaskEntry, reason: str) -> bool:
    """Whether only the way to its data failed, for the first time on this agent: no fault of the task. Before links are
    measured that is how it is found out that there is no way."""
    is_first = task.agent_id not in task.failed_on and len(task.failed_on) < UNREACHED_MAX
    return reason == UNREACHED and task.started_us is None and is_first


def close_killed(
    core: Core, task: TaskEntry, status: TaskStatus | None = None, reason: str = "", detail: str = ""
) -> None:
    """A killed attempt has ended: the task runs again or is cancelled, as was meant by the kill."""
    if task.reason in AGAIN_REASONS and not task.group.job.cancelled:
        _close(core, task, PENDING, task.reason, detail, status)
    elif task.reason == SCALED and not task.group.job.cancelled:
        _close(core, task, WAITING, SCALED, detail, status)
    else:
        _close(core, task, CANCELLED, task.reason or "cancel", detail or reason, status)
        core.count("tasks_cancelled")


def _refused(core: Core, entry: AgentEntry, task: TaskEntry, status: TaskStatus) -> None:
    """The agent would not take it: no fault of the task. Its offer was wrong, so it has to make a new one."""
    core.count("launches_refused")
    if drop_offer(entry):
        rescind_agent(core, entry, "refused")
        core.count(f"offers_{OfferState.RESCINDED}")
    if task.state is KILLING:
        close_killed(core, task, status)
    else:
        _close(core, task, PENDING, status.reason or "refused", status.detail, status)


def _close(
    core: Core,
    task: TaskEntry,
    state: TaskState,
    reason: str,
    detail: str,
    status: TaskStatus | None,
    *,
    attempt_failed: bool = False,
    outputs: tuple[HeldShard, ...] = (),
) -> None:
    tail_max = core.config.log_tail_bytes_max
    core.persist(
        TaskStateChanged(
            at_us=core.now_us,
            task_id=task.task_id,
            state=state,
            attempt=task.attempt,
            agent_id=task.agent_id,
            reason=reason,
            detail=detail[:tail_max],
            exit_code=status.exit_code if status else None,
            log_tail=status.log_tail[-tail_max:] if status and tail_max else "",
            outputs=outputs,
            fetched_bytes=status.fetched_bytes if status else 0,
            stage_us=status.stage_us if status else None,
            run_us=status.run_us if status else None,
            attempt_failed=attempt_failed,
        )
    )
    core.rounds.changed = True


def _restart_gang(core: Core, failed: TaskEntry) -> None:
    """Tasks that run together start again together."""
    if failed.group.spec.gang:
        for task in failed.group.tasks:
            if task.state in PLACED_STATES and task.state is not KILLING:
                kill(core, task, "gang", f"{failed.task_id} failed")


def _give_up_gang(core: Core, failed: TaskEntry) -> None:
    if not failed.group.spec.gang:
        return
    for task in failed.group.tasks:
        if task.state in TERMINAL_STATES:
            continue
        if task.state is PENDING:
            cancel_pending(core, task, "gang_failed", f"{failed.task_id} failed for good")
        elif task.state is KILLING:
            continue
        else:
            kill(core, task, "gang_failed", f"{failed.task_id} failed for good")


def cancel_pending(core: Core, task: TaskEntry, reason: str, detail: str = "") -> None:
    """Cancel a task that has no attempt running."""
    core.persist(
        TaskStateChanged(
            at_us=core.now_us,
            task_id=task.task_id,
            state=CANCELLED,
            attempt=task.attempt,
            reason=reason,
            detail=detail,
        )
    )
    core.count("tasks_cancelled")


# --- shards ----------------------------------------------------------------------------------------------------------


def _is_output_of(core: Core, task: TaskEntry, held: HeldShard) -> bool:
    """Whether it goes by one of the names the task was to write: no agent may rename other work's shards."""
    name = held.name.removeprefix(f"{task.task_id}/")
    if name == held.name or name not in (write.name for write in task.group.spec.writes):
        core.count("outputs_unexpected")
        return False
    return True


def _on_shard_status(core: Core, entry: AgentEntry, status: ShardStatus) -> None:
    move = core.moves.end(status.shard.shard_id, entry.agent_id)
    operations.on_shard(core, entry, status)
    if status.state == "held":
        hold(core, entry, status.shard)
        if move is not None and status.shard.shard_id in core.shards.entries:
            core.count("moves_done")
            drop_after_move(core, move)
    elif status.state == "dropped":
        unhold(core, entry, status.shard.shard_id)
    else:
        core.count("moves_failed")
        if status.reason in ("hash", "damaged"):
            unhold(core, entry, status.shard.shard_id)
