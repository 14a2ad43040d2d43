"""The events that show how a law came to be broken, as few as will do."""

from collections import deque
from collections.abc import Container, Iterable

import msgspec

from policies.model import Record
from scenarios.world import START_US

RECENT_EVENTS = 2_000  # kept to choose from
SHOWN_MAX = 40
UNNAMED_MAX = 10  # where the sentence names nothing that an event could name
TEXT_MAX = 400


def tail(recent: Iterable[tuple[int, Record]], sentence: str, agents: Container[str]) -> tuple[str, ...]:
    """One line an event: the last one, and before it those that name the task, job or agent which the law's sentence
    names; the last few where it names none."""
    words = [word.strip(",:'()") for word in sentence.split()[1:]]
    names = [word for n, word in enumerate(words) if word in agents or word.count("/") >= 2 or words[n - 1] == "job"]
    lines = [(f"{(at_us - START_US) / 1e6:.6f} s {type(value).__name__}", value) for at_us, value in recent]
    shown: deque[str] = deque(maxlen=SHOWN_MAX if names else UNNAMED_MAX)
    for number, (head, value) in enumerate(lines, start=1):
        text = msgspec.json.encode(value).decode()
        if number == len(lines) or not names or any(f'"{name}"' in text for name in names):
            shown.append(f"{head} {text[:TEXT_MAX]}…" if len(text) > TEXT_MAX else f"{head} {text}")
    return tuple(shown)
