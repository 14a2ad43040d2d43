"""A core or a policy that raised: what a run says of it, and how two of them are known to be the same."""

import traceback
from pathlib import Path

from policies.model import Record

OURS = ("policies", "federation", "agents", "scenarios")
TEXT_MAX = 300
CRASH = "crash"


class CrashError(Exception):
    """`who` raised its cause while it handled `event`. The run ends there, and what is left of it can be told."""

    def __init__(self, who: str, event: Record | None, about: str = "") -> None:
        super().__init__(who)
        self.who = who
        self.event = event
        self.about = about  # the agent that the event is of, or came from


def crash_sentence(crash: CrashError) -> str:
    """`crash of the master: KeyError at federation.tasks:120: 'j/g/0', on AgentSpoke of gw-1`."""
    error = crash.__cause__ or crash
    said = " ".join(str(error).split())
    said = f": {said[:TEXT_MAX]}{'…' if len(said) > TEXT_MAX else ''}" if said else ""
    on = f", on {type(crash.event).__name__}{f' of {crash.about}' if crash.about else ''}" if crash.event else ""
    return f"{crash_head(crash.who, type(error).__name__, _place(error))}{said}{on}"


def crash_head(who: str, kind: str, place: str) -> str:
    return f"{CRASH} of {who}: {kind} at {place}"


def is_crash(sentence: str, of: str = "") -> bool:
    return sentence.startswith(f"{CRASH} of {of}")


def same_crash(sentence: str) -> str:
    """What two sentences have in common that tell of one defect: who, what and where."""
    head, _, rest = sentence.partition(": ")
    return f"{head}: {rest.split(': ')[0].split(', on ')[0]}"


def _place(error: BaseException) -> str:
    """Where in our own code, or a policy's, it was last."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        parts = Path(frame.filename).with_suffix("").parts
        for number, part in enumerate(parts):
            if part in OURS:
                return f"{'.'.join(parts[number:])}:{frame.lineno}"
    return f"{Path(frames[-1].filename).stem}:{frames[-1].lineno}" if frames else "?"
