"""The legal states of agents, attempts and tasks, and the edges between them, as tables.

`docs/states.md` is generated from these (`python -m federation.states`), and law L8 checks every step against them.
"""

from enum import StrEnum


class AgentState(StrEnum):
    ONLINE = "online"
    SUSPECT = "suspect"  # silent past its lease: its offer is rescinded, its tasks are kept
    DISCONNECTED = "disconnected"  # known gone: its tasks are unknown, and kept
    LOST = "lost"  # gone past the grace: its attempts are closed as lost
    QUARANTINED = "quarantined"  # two processes with one id, or a broken word


AGENT_EDGES: dict[AgentState, tuple[AgentState, ...]] = {
    AgentState.ONLINE: (AgentState.SUSPECT, AgentState.DISCONNECTED, AgentState.QUARANTINED),
    AgentState.SUSPECT: (AgentState.ONLINE, AgentState.DISCONNECTED, AgentState.QUARANTINED),
    AgentState.DISCONNECTED: (AgentState.ONLINE, AgentState.LOST, AgentState.QUARANTINED),
    AgentState.LOST: (AgentState.ONLINE, AgentState.QUARANTINED),
    AgentState.QUARANTINED: (AgentState.ONLINE, AgentState.LOST),
}


class TaskState(StrEnum):
    WAITING = "waiting"  # for tasks it comes after
    PENDING = "pending"  # to be placed
    ASSIGNED = "assigned"  # launch committed and sent
    STAGING = "staging"  # in the agent's journal, fetching
    RUNNING = "running"
    UNKNOWN = "unknown"  # its agent is disconnected
    KILLING = "killing"  # cancel asked for, attempt not yet closed
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED})
PLACED_STATES = frozenset(
    {TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING, TaskState.UNKNOWN, TaskState.KILLING}
)

TASK_EDGES: dict[TaskState, tuple[TaskState, ...]] = {
    TaskState.WAITING: (TaskState.PENDING, TaskState.FAILED, TaskState.CANCELLED),
    TaskState.PENDING: (TaskState.ASSIGNED, TaskState.FAILED, TaskState.CANCELLED),
    TaskState.ASSIGNED: (
        TaskState.STAGING, TaskState.RUNNING, TaskState.UNKNOWN, TaskState.KILLING,
        TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING,
    ),
    TaskState.STAGING: (
        TaskState.RUNNING, TaskState.UNKNOWN, TaskState.KILLING,
        TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING,
    ),
    TaskState.RUNNING: (
        TaskState.UNKNOWN, TaskState.KILLING, TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING,
    ),
    TaskState.UNKNOWN: (
        TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING, TaskState.KILLING,
        TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING,
    ),
    # Back to pending: an attempt killed for its gang, a drain or an eviction, whose task is to run again.
    TaskState.KILLING: (TaskState.CANCELLED, TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING),
    TaskState.FINISHED: (),
    TaskState.FAILED: (),
    TaskState.CANCELLED: (),
}  # fmt: skip
