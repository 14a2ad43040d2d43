"""What was sent and not acknowledged in time is sent again while it is wanted."""

from federation.agents_book import AgentEntry, SentCommand
from federation.core import Core
from federation.launches import launch_again
from federation.market import running
from federation.states import TaskState
from federation.wire import Command, Kill


def resend(core: Core, entry: AgentEntry) -> None:
    """Send again what was not acknowledged in time and is still wanted."""
    if entry.life is None or not core.agents.is_here(entry.agent_id):
        return
    late_us = core.now_us - core.config.resend_after_us
    commands: list[Command] = []
    for sent in [sent for sent in entry.sent.values() if sent.sent_us <= late_us]:
        del entry.sent[sent.cmd_id]
        if running.is_framework_task(sent.key):
            if (again := running.resend(core, entry, sent)) is not None:
                commands.append(again)
            continue
        task = core.tasks.tasks.get(sent.key)
        mine = task is not None and task.agent_id == entry.agent_id and task.attempt == sent.attempt
        if sent.kind == "launch" and task is not None and mine and task.cmd_id == sent.cmd_id:
            if task.state is TaskState.ASSIGNED:
                commands.append(launch_again(core, entry, task))
        elif sent.kind == "kill" and (not mine or (task is not None and task.state is TaskState.KILLING)):
            core.remember(
                entry,
                SentCommand(cmd_id=sent.cmd_id, kind="kill", key=sent.key, attempt=sent.attempt, sent_us=core.now_us),
            )
            commands.append(Kill(cmd_id=sent.cmd_id, task_id=sent.key, attempt=sent.attempt))
    core.count("commands_resent", len(commands))
    core.order(entry, commands)
    if entry.sent:
        next_us = min(sent.sent_us for sent in entry.sent.values()) + core.config.resend_after_us
        core.deadlines.set(("resend", entry.agent_id), max(next_us, core.now_us + 1))
