"""What a task tells of its training steps: a small file that it replaces, `$OFFERFLOW_PROGRESS`.

The task is not trusted: the file is read only where it is plain and short, and holds numbers within the wire's bounds.
"""

import os
import stat

import msgspec

from agents.executors.attempt import Attempt
from agents.logs import get_logger
from federation.wire import Steps, TaskSteps

_log = get_logger("agents.progress")

_BYTES_MAX = 4096
_decoder = msgspec.json.Decoder(Steps)


def told(attempt: Attempt) -> TaskSteps | None:
    """What the task wrote since it was last looked at; None for nothing new, and for what is none of it (logged once
    a file)."""
    try:
        # A pipe would keep us waiting, a link could lead anywhere.
        number = os.open(attempt.folder.progress, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_mtime_ns == attempt.progress_ns:
            return None
        attempt.progress_ns = found.st_mtime_ns
        text = os.read(number, _BYTES_MAX + 1)
    except OSError:
        return None
    finally:
        os.close(number)
    try:
        if len(text) > _BYTES_MAX:
            raise ValueError(f"more than {_BYTES_MAX} bytes")
        steps = _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:
        _log.warning("progress_ignored", task_id=attempt.launch.task_id, detail=str(error))
        return None
    return TaskSteps(task_id=attempt.launch.task_id, attempt=attempt.launch.attempt, steps=steps)
