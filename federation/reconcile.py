"""Agreement after a silence: what an agent's birth says it runs and holds against what the book says, both ways.

Correctness never depends on what a broker remembered: after a birth both sides agree, whatever was lost.
"""

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.launches import kill, kill_of, launch_again
from federation.market import running
from federation.replicas import hold, unhold
from federation.reports import advance, fail_attempt
from federation.states import PLACED_STATES, TaskState
from federation.task_entries import TaskEntry
from federation.wire import Birth, Command, HeldTask

_STATE_TOLD = {"accepted": TaskState.ASSIGNED, "staging": TaskState.STAGING, "running": TaskState.RUNNING}
_RANK = {TaskState.UNKNOWN: 0, TaskState.ASSIGNED: 1, TaskState.STAGING: 2, TaskState.RUNNING: 3}


def on_birth(core: Core, entry: AgentEntry, birth: Birth, acked: frozenset[int]) -> None:
    """Reconcile tasks, then shards. `acked` are the commands that an earlier life acknowledged."""
    told = {(held.task_id, held.attempt): held for held in birth.tasks}
    commands: list[Command] = []
    for held in birth.tasks:
        task = core.tasks.tasks.get(held.task_id)
        if running.is_framework_task(held.task_id):
            continue
        if held.state != "ended" and not _authorised(task, entry, held):
            core.count("orphans_killed")
            commands.append(kill_of(core, entry, held.task_id, held.attempt, "not_authorised"))
    for task_id in list(entry.tasks):
        task = core.tasks.tasks[task_id]
        mine = told.get((task_id, task.attempt))
        if task.state is TaskState.KILLING:
            commands.append(kill_of(core, entry, task_id, task.attempt, task.reason))
        elif mine is not None:
            _agree(core, task, mine)
            if entry.mode == "draining" and mine.state != "ended":
                kill(core, task, "drain", f"{entry.agent_id} is drained")
        elif birth.tasks_complete:
            _missing(core, entry, task, acked, commands)
    commands += running.reconcile(core, entry, told, acked, is_complete=birth.tasks_complete)
    core.order(entry, commands)
    _reconcile_shards(core, entry, birth)
    arrived(core, entry.agent_id)


def _authorised(task: TaskEntry | None, entry: AgentEntry, held: HeldTask) -> bool:
    return (
        task is not None
        and task.agent_id == entry.agent_id
        and task.attempt == held.attempt
        and task.state in PLACED_STATES
    )


def _agree(core: Core, task: TaskEntry, held: HeldTask) -> None:
    """Both know the attempt: it is as far as the one who knows more says."""
    if held.state == "ended":
        return  # Its status is in the outbox and comes next.
    state = _STATE_TOLD[held.state]
    if task.state is TaskState.UNKNOWN or _RANK[state] > _RANK[task.state]:
        advance(core, task, state)


def _missing(core: Core, entry: AgentEntry, task: TaskEntry, acked: frozenset[int], commands: list[Command]) -> None:
    """The book has it there and the agent does not: lost with a restart, or it never got the launch."""
    if task.seen or task.cmd_id in acked:
        core.count("attempts_lost_by_agent")
        fail_attempt(core, task, "agent_restart", "the agent came back without it")
        return
    if task.state is TaskState.UNKNOWN:
        advance(core, task, TaskState.ASSIGNED)
    core.count("commands_resent")
    commands.append(launch_again(core, entry, task))


def _reconcile_shards(core: Core, entry: AgentEntry, birth: Birth) -> None:
    held_now = {held.shard_id for held in birth.shards}
    for held in birth.shards:
        hold(core, entry, held)
    if birth.shards_complete:
        for shard_id in [shard_id for shard_id in entry.shards if shard_id not in held_now]:
            unhold(core, entry, shard_id)


# --- after a restart of the master -----------------------------------------------------------------------------------


def begin(core: Core) -> None:
    """Nothing is placed until every agent with placed tasks has been born again, or the timeout has passed."""
    core.awaited = {agent_id for agent_id, entry in core.agents.entries.items() if entry.tasks or entry.holdings.tasks}
    core.recovering = bool(core.awaited)
    if core.recovering:
        core.deadlines.set("reconcile", core.now_us + core.config.reconcile_timeout_us)


def arrived(core: Core, agent_id: str) -> None:
    """The agent has reconciled, or will not any more."""
    core.awaited.discard(agent_id)
    if core.recovering and not core.awaited:
        finish(core)


def finish(core: Core) -> None:
    if core.recovering and core.awaited:
        core.count("reconcile_timeouts")
    core.recovering = False
    core.awaited.clear()
    core.deadlines.cancel("reconcile")
    core.rounds.changed = True
    core.market.all_dirty = True
