"""One attempt of a task as a process: what is known of it from its folder to its end, in this life of the agent."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from agents.executors import proctree
from agents.executors.base import AttemptFolder
from federation.wire import Launch


class Attempt:
    """One attempt from its folder to its end."""

    def __init__(self, launch: Launch, folder: AttemptFolder) -> None:
        self.launch = launch
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None  # None: adopted
        self.pid = 0
        self.started = 0
        self.wake = asyncio.Event()  # the supervisor ended, the gate opened, or a stop was asked for
        self.released = False
        self.released_s = 0.0  # on the boot clock
        self.watched = False  # seen alive by this life of the agent
        self.stop_reason = ""
        self.stop_detail = ""
        self.kill_at_s: float | None = None  # monotonic; None: SIGTERM not sent yet
        self.grace_s = 0.0
        self.known: set[tuple[int, int]] = set()  # (pid, started) of the tree's processes at the last look
        self.cpu_s = 0.0  # the most that `cpu_used_s` has found
        self.memory_bytes = 0  # resident, at the last look
        self.exit_seen_s: float | None = None  # on the boot clock
        self.progress_ns = 0  # when what the task told of its steps was written, as last read

    @property
    def exit_file(self) -> Path:
        return self.folder.path / "exit"

    @property
    def session(self) -> int:
        """Of its processes; no session where its number may be another's by now, having ended unwatched."""
        return self.pid if self.watched else -1

    @property
    def mark(self) -> str:
        """In the environment of all it starts. The whole path: other agents of this machine may run the same task."""
        return str(self.folder.path)

    def ask_stop(self, reason: str, grace_s: float, detail: str = "") -> None:
        """The first reason stands; a later, shorter grace does too."""
        if not self.stop_reason:
            self.stop_reason, self.stop_detail, self.grace_s = reason, detail, grace_s
        elif grace_s < self.grace_s:
            self.grace_s = grace_s
            if self.kill_at_s is not None:
                self.kill_at_s = min(self.kill_at_s, time.monotonic() + grace_s)
        self.wake.set()

    def cpu_used_s(self) -> float:
        """CPU time of the tree's live processes and of those they have waited for; never falls."""
        found = (proctree.read_process(pid) for pid, _ in self.known)
        alive = [process for process in found if process and (process.pid, process.started) in self.known]
        self.cpu_s = max(self.cpu_s, sum(process.cpu_s for process in alive))
        return self.cpu_s

    def is_gone(self) -> bool:
        """The supervisor has ended (and is reaped, with its use of the CPU, if it is our child)."""
        if self.process is None:
            found = proctree.read_process(self.pid)
            return found is None or found.started != self.started
        if self.process.returncode is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = max(self.cpu_s, usage.ru_utime + usage.ru_stime)
        return True

    def exit_code(self) -> int | None:
        try:
            return int(self.exit_file.read_bytes())
        except (OSError, ValueError):
            return None

    def run_s(self) -> float:
        """From the gate to the end. A task that ended while no agent watched is timed by its files."""
        if self.watched:
            return (self.exit_seen_s or boot_s()) - self.released_s if self.released else 0.0
        with contextlib.suppress(OSError):
            return max(0.0, self.exit_file.stat().st_mtime - (self.folder.path / "released").stat().st_mtime)
        return 0.0


@contextlib.asynccontextmanager
async def woken_at_end(attempt: Attempt) -> AsyncIterator[None]:
    """Wake the attempt's watcher the moment its supervisor ends (Linux ≥ 5.3; elsewhere its next look notices)."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(attempt.pid)
    except OSError:
        yield
        return

    def ended() -> None:
        loop.remove_reader(handle)  # It stays readable for ever.
        attempt.wake.set()

    loop.add_reader(handle, ended)
    try:
        yield
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def boot_s() -> float:
    """Seconds since boot, suspension included: what process start times are in, and no clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def handle_of(attempt: Attempt) -> str:
    return f"process:{proctree.boot_token()}:{attempt.pid}:{attempt.started}:{attempt.folder.path.name}"


def parse_handle(handle: str) -> tuple[str, str, int, int, str]:
    """Kind, boot, pid, start ticks, folder name. Raises `ValueError`."""
    kind, boot, pid, started, name = handle.split(":", 4)
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(handle)
    return kind, boot, int(pid), int(started), name
