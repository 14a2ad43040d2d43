"""The legal states of agents, offers and tasks, and the edges between them, as tables.

`docs/states.md` is generated from these (`python -m federation.states`), and law L8 checks every step against them.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar


class _State(StrEnum):
    __hash__ = str.__hash__  # Enum's own runs Python code, and states are keys of every book.


class AgentState(_State):
    ONLINE = "online"  # born on this connection, and heard lately
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


class TaskState(_State):
    WAITING = "waiting"  # for tasks it comes after, or as a replica that its service does not need now
    PENDING = "pending"  # to be placed
    ASSIGNED = "assigned"  # launch committed and sent
    STAGING = "staging"  # in the agent's journal, fetching
    RUNNING = "running"  # its process is alive
    UNKNOWN = "unknown"  # its agent is disconnected
    KILLING = "killing"  # cancel asked for, attempt not yet closed
    FINISHED = "finished"  # it ended well; its outputs are shards
    FAILED = "failed"  # no attempts are left
    CANCELLED = "cancelled"  # by request, or because what it comes after did not finish


# The same by bare name, for what runs several times in each task's life: `TaskState.RUNNING` takes ten times as long
# before Python 3.12.
WAITING, PENDING, ASSIGNED, STAGING, RUNNING, UNKNOWN, KILLING, FINISHED, FAILED, CANCELLED = TaskState

STATES = {state.value: state for state in TaskState}  # To look one up takes a tenth of what `TaskState(…)` does.
TERMINAL_STATES = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED})
PLACED_STATES = frozenset(
    {TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING, TaskState.UNKNOWN, TaskState.KILLING}
)

TASK_EDGES: dict[TaskState, tuple[TaskState, ...]] = {
    TaskState.WAITING: (TaskState.PENDING, TaskState.FAILED, TaskState.CANCELLED),
    TaskState.PENDING: (TaskState.ASSIGNED, TaskState.FAILED, TaskState.CANCELLED, TaskState.WAITING),
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
    # Back to pending: an attempt killed for its gang, a drain or an eviction, whose task is to run again; to waiting:
    # a replica that its service does not need.
    TaskState.KILLING: (
        TaskState.CANCELLED, TaskState.FINISHED, TaskState.FAILED, TaskState.PENDING, TaskState.WAITING,
    ),
    TaskState.FINISHED: (),
    TaskState.FAILED: (),
    TaskState.CANCELLED: (),
}  # fmt: skip


class OfferState(StrEnum):
    LIVE = "live"  # a lease: it counts until it ends in one of the others
    REPLACED = "replaced"  # by the agent's next one
    EXPIRED = "expired"  # not renewed in time, whatever the reason
    RESCINDED = "rescinded"  # its agent is suspect, dead, born anew, quarantined, or refused a launch


OFFER_EDGES: dict[OfferState, tuple[OfferState, ...]] = {
    OfferState.LIVE: (OfferState.REPLACED, OfferState.EXPIRED, OfferState.RESCINDED),
    OfferState.REPLACED: (),
    OfferState.EXPIRED: (),
    OfferState.RESCINDED: (),
}

# --- the page --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

_INTRODUCTION = """\
# States

Generated from `federation/states.py` by `python -m federation.states`; a test holds the two together. Any edge that is
not here is a bug, and the master stops on it rather than going on with wrong books. Duplicates and late messages change
nothing: what does not concern the current connection of an agent, or the current attempt of a task, is acknowledged and
forgotten.
"""

_NOTES = {
    "Agents": (
        "Silence is measured on the master's own clock from the last message of the current connection. It does not "
        "count while the broker is lost or after the master itself was stalled. Only a birth leads back to `online` "
        "from `disconnected` and `lost`."
    ),
    "Offers": "An offer counts as allocated once work is placed on it; each agent has at most one live offer.",
    "Tasks": (
        "An attempt is what runs between `assigned` and the next state outside `assigned`, `staging`, `running`, "
        "`unknown` and `killing`. The edge back to `pending` closes it; the next one has a number of its own."
    ),
}


S = TypeVar("S", bound=StrEnum)


def _meanings(cls: type[StrEnum]) -> dict[str, str]:
    """What the comments beside the members say."""
    found: dict[str, str] = {}
    inside = False
    for line in Path(__file__).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(" "):
            inside = line.startswith(f"class {cls.__name__}(")
        elif inside and "=" in line:
            assignment, _, comment = line.strip().partition("  # ")
            found[assignment.split('"')[1]] = comment
    return found


def _section(title: str, cls: type[S], edges: Mapping[S, tuple[S, ...]], first: S) -> str:
    lines = [f"## {title}", "", _NOTES[title], "", "```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for state, followers in edges.items():
        lines += [f"    {state} --> {follower}" for follower in followers] or [f"    {state} --> [*]"]
    lines += ["```", "", "| state | meaning | leads to |", "|---|---|---|"]
    meanings = _meanings(cls)
    for state, followers in edges.items():
        leads_to = ", ".join(f"`{follower}`" for follower in followers) or "–"
        lines.append(f"| `{state}` | {meanings[state]} | {leads_to} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The text of docs/states.md."""
    return "\n".join(
        (
            _INTRODUCTION,
            _section("Agents", AgentState, AGENT_EDGES, AgentState.ONLINE),
            _section("Offers", OfferState, OFFER_EDGES, OfferState.LIVE),
            _section("Tasks", TaskState, TASK_EDGES, TaskState.WAITING),
        )
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
