"""What this machine has and has left for us: its own figures, or those of the control group we are held in."""

import os
from pathlib import Path

import psutil


def cpu_milli_total() -> int:
    """CPUs this process may use: its affinity, and its control group's quota (cgroup v2)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _cgroup("cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        return min(cpus * 1000, max(1, int(quota) * 1000 // int(period)))
    return cpus * 1000


def busy_cpu_s() -> float:
    """CPU time used so far on the CPUs of `cpu_milli_total`: by the control group if it has a quota, else by all."""
    if _cgroup("cpu.max")[:3] not in ("", "max"):
        for line in _cgroup("cpu.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == "usage_usec" and value.isdigit():
                return int(value) / 1e6
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    all_cpus = psutil.cpu_times(percpu=True)
    times = [found for number, found in enumerate(all_cpus) if ours is None or number in ours]
    # Time of guests is in the user's too; waiting for a disk leaves the CPU free.
    return sum(sum(one) - one.idle - getattr(one, "iowait", 0) - getattr(one, "guest", 0) for one in times)


def memory_total_bytes() -> int:
    """Of the machine or of the control group, the smaller."""
    limit = _cgroup("memory.max")
    total = int(psutil.virtual_memory().total)
    return min(total, int(limit)) if limit.isdigit() else total


def memory_available_bytes() -> int:
    """What new work could take. Files cached for a control group are given up when memory is short, so they count as
    available; the machine's own figure says the same of its cache."""
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    available = int(psutil.virtual_memory().available)
    if not (limit.isdigit() and used.isdigit()):
        return available
    cached = next(
        (line.split()[1] for line in _cgroup("memory.stat").splitlines() if line.startswith("inactive_file ")), "0"
    )
    return min(available, max(0, int(limit) - int(used) + int(cached)))


def _cgroup(name: str) -> str:
    """A file of this container's control group, "" where there is none."""
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return ""
