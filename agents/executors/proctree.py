"""Who belongs to a task: processes of its session, their descendants, and strays: those that carry its mark, and those
that became children of ours when all above them had gone.

Linux's /proc, one read a process: a walk over 200 processes takes about 3 ms, where psutil's takes ten times that.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterable
from functools import cache
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Process(NamedTuple):
    pid: int
    parent: int
    session: int
    started: int  # clock ticks since boot: (pid, started) never names two processes
    rss_bytes: int
    cpu_s: float  # used so far by itself and the children it has waited for


def adopt_orphans() -> None:
    """From now on what loses its parent below this process becomes its child, instead of init's: a daemon that left its
    session and cleared its environment too. Programs run by exec keep the setting, children do not get it. Safe between
    fork and exec: it calls one function that was found at import."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def orphans(processes: dict[int, Process], own: Collection[int]) -> dict[int, Process]:
    """Of `processes`: children of this process that are not its `own` but came to it with `adopt_orphans`."""
    here = os.getpid()
    return {pid: process for pid, process in processes.items() if process.parent == here and pid not in own}


def reap_orphans(own: Collection[int]) -> None:
    """Take leave of adopted children that have ended, so that their pids become free."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in own:
                break  # It stands before the others, and is its owner's to take leave of: look for them by name.
            os.waitpid(ended.si_pid, os.WNOHANG)
        else:
            return
    except ChildProcessError:  # There are no children.
        return
    here = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in own:
            fields = _stat(int(name))
            if len(fields) > 1 and fields[0] == b"Z" and int(fields[1]) == here:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(int(name), os.WNOHANG)


def read_process(pid: int) -> Process | None:
    """None when there is no such process, or only its zombie."""
    fields = _stat(pid)
    if len(fields) < 22 or fields[0] in (b"Z", b"X"):
        return None
    cpu_s = sum(map(int, fields[11:15])) / TICKS_PER_S
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), int(fields[21]) * _PAGE_BYTES, cpu_s)


def _stat(pid: int) -> list[bytes]:
    """The fields of proc(5)'s stat from the state on; none where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read(4096)
    except OSError:
        return []
    return raw[raw.rfind(b")") + 2 :].split()  # The command's name may hold spaces and parentheses.


def walk() -> dict[int, Process]:
    """Every live process."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def members(processes: dict[int, Process], session: int, known: Iterable[tuple[int, int]]) -> dict[int, Process]:
    """Of `processes`: those of the session, those of `known` (pid, started) still alive, and all their descendants."""
    roots = {pid for pid, process in processes.items() if process.session == session}
    roots |= {pid for pid, started in known if pid in processes and processes[pid].started == started}
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: dict[int, Process] = {}
    todo = sorted(roots)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found[pid] = processes[pid]
            todo += children.get(pid, ())
    return found


def strays(processes: dict[int, Process], mark: str) -> dict[int, Process]:
    """Processes that were started with `OFFERFLOW_RUN=mark`, wherever they have gone since."""
    wanted = f"OFFERFLOW_RUN={mark}\0".encode()
    found: dict[int, Process] = {}
    for pid, process in processes.items():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in file.read() + b"\0":
                    found[pid] = process
        except OSError:  # Not ours, or gone.
            continue
    return found


def signal_all(processes: Iterable[Process], number: signal.Signals) -> int:
    """How many took it: others are gone, or belong to somebody else by now (set-uid programs)."""
    reached = 0
    for process in processes:
        try:
            os.kill(process.pid, number)
            reached += 1
        except (ProcessLookupError, PermissionError):
            continue
    return reached


def pss_bytes(pid: int) -> int | None:
    """Memory with shared pages divided among their sharers; None when the kernel does not say."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


@cache
def boot_token() -> str:
    """Short and different after each boot: process ids begin anew then."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return "unknown"
