"""What a task has written: the bytes on disk under its folder, its inputs and what was laid out for it aside.

A look costs about 4 µs a file, so looks are spaced to take a fiftieth of a core at most, however many files there are.
Between two looks a task may write what the disk takes in that time; a single file is bound by the kernel at once.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.executors.base import AttemptFolder

_SHARE_MAX = 50  # A look that took a second is followed by this many seconds without one.
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are


def note_laid_out(folder: AttemptFolder) -> None:
    """Remember what the task has not written: kept in a file, since a restarted agent goes on watching."""
    (folder.path / "laid_out").write_text(str(_used_bytes(folder)))


def written_bytes(folder: AttemptFolder) -> int:
    """Blocks. For a thread."""
    try:
        laid_out = int((folder.path / "laid_out").read_text())
    except (OSError, ValueError):
        laid_out = 0
    return max(0, _used_bytes(folder) - laid_out)


async def watch(folder: AttemptFolder, bytes_max: int, every_s: float, too_much: Callable[[int], None]) -> None:
    """Call `too_much(bytes)` once they exceed `bytes_max`; then this ends."""
    while True:
        began_s = time.monotonic()
        found = await asyncio.to_thread(written_bytes, folder)
        if found > bytes_max:
            return too_much(found)
        await asyncio.sleep(max(every_s, _SHARE_MAX * (time.monotonic() - began_s)))


def _used_bytes(folder: AttemptFolder) -> int:
    """Of work, out and tmp. A file of several names counts once, an input that was linked again not at all; holes in
    files take no room."""
    inputs = {(found.st_dev, found.st_ino) for found in _files(folder.inputs)}
    seen: set[tuple[int, int]] = set()
    total = 0
    for root in (folder.work, folder.outputs, folder.temporary):
        for found in _files(root):
            if found.st_nlink > 1:
                name = (found.st_dev, found.st_ino)
                if name in seen or name in inputs:
                    continue
                seen.add(name)
            total += found.st_blocks * _BLOCK_BYTES
    return total


def _files(root: Path) -> Iterator[os.stat_result]:
    """Every file and folder below, links not followed. What goes while we look is not there."""
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    yield entry.stat(follow_symlinks=False)
        except OSError:
            continue
