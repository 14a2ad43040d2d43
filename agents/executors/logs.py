"""Captured output on disk, bounded however much a task writes: its head, and the two latest segments of the rest.

The writer is the supervisor's shell (see `process.py`): `dd` appends to a file until that is a full segment, which is
renamed, and the next begins. So the bound holds while no agent runs, a running task's log is complete up to its last
write, and nothing is missing between one segment and the next.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

from agents.executors.base import AttemptFolder

SEGMENTS = 3  # log.head, log.0 (older), log.1 (latest)
SEGMENT_BYTES_MIN = 16 * 1024
TAIL_BYTES = 4 * 1024  # of the log, in a status: enough for a traceback
LEFT_OVER_S = 86_400.0  # Nobody asks for it any more: the agent was killed between a task's end and its tidying.
_NAMES = ("log.head", "log.0", "log.1")
_GAP = b"\n[... output left out ...]\n"


def segment_blocks(log_bytes_max: int) -> tuple[int, int]:
    """Bytes of a block, blocks of a segment: enough of them that a process started for a quarter moves many."""
    segment_bytes = max(SEGMENT_BYTES_MIN, log_bytes_max // SEGMENTS)
    block_bytes = min(4096, segment_bytes // 128)
    return block_bytes, segment_bytes // block_bytes


def read_log(folder: Path) -> bytes | None:
    """All that is kept; a mark stands where the middle was dropped. None when nothing was captured."""
    parts = [_read(folder / name) for name in _NAMES]
    if parts[0] is None:
        return None
    head, tail = parts[0], (parts[1] or b"") + (parts[2] or b"")
    return head + _GAP + tail if tail else head


def log_tail(folder: Path) -> str:
    """The last few lines, for the status."""
    text = (read_log(folder) or b"")[-TAIL_BYTES:]
    return text.decode("utf-8", errors="replace")


def tidy(root: Path, kept_bytes_max: int, active: set[str]) -> None:
    """Delete the folders of ended attempts, oldest first, until their logs fit in `kept_bytes_max`. What a crash left
    beside the logs goes after `LEFT_OVER_S`."""
    found: list[tuple[float, int, Path]] = []
    for folder in root.iterdir():
        if folder.name not in active and folder.is_dir():
            with contextlib.suppress(OSError):
                sizes = [path.stat().st_size for path in folder.glob("log.*")]
                found.append((folder.stat().st_mtime, sum(sizes), folder))
    total = sum(size for _, size, _ in found)
    for changed_s, size, folder in sorted(found):
        if total > kept_bytes_max:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
        elif changed_s < time.time() - LEFT_OVER_S:
            AttemptFolder(folder).clear()


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except OSError:
        return None
