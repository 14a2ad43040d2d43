"""Reading this machine: what it has, what tasks may use of it now, how fast a core is, which hardware class it is."""

import asyncio
import contextlib
import platform
import re
import shutil
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from agents.config import AgentConfig
from agents.events import Measured
from agents.executors.base import TaskUse
from agents.gpus import load_nvml, read_gpus
from agents.ports import Post
from agents.probes.tcp_info import read_tcp_info
from federation.machine import busy_cpu_s, cpu_milli_total, memory_available_bytes, memory_total_bytes
from federation.wire import LinkSample
from policies.model import Gpu, Record, Resources

CPU_STEP_MILLI = 250  # What changes by less than a step is told as before: an idle device then sends no new offers,
MEMORY_STEP_BYTES = 64 * 2**20  # fewer offers for memory that breathes
DISK_STEP_BYTES = 256 * 2**20
OTHERS_WEIGHT = (
    0.25  # of the newest look, one every 5 s: a backup that runs for a minute counts, a compiler call does not
)
# Compressing the text of `_text` once took this long on the core that defines 1000: one of an AMD EPYC (Linux 6, zlib
# 1.2.13). Any fixed number would do; profiles learned on real runs replace it as soon as there are some.
REFERENCE_S = 0.0015
CALIBRATION_S = 0.03
_HARDWARE_MAX = 96  # characters


class _Speed(Record, frozen=True, kw_only=True):
    hardware: str
    speed_milli: int


class Gauge:
    """See `agents.ports.Gauge`. `folder` is the agent's own: its disk is the one measured."""

    def __init__(self, config: AgentConfig, folder: Path, post: Post, task_use: Callable[[], TaskUse]) -> None:
        self._config = config
        self._folder = folder
        self._post = post
        self._task_use = task_use
        self._gpus: tuple[Gpu, ...] | None = None
        self._total: Resources | None = None
        self._told: Resources | None = None
        self._others = 0.0  # milli-CPU
        self._last: tuple[float, float] | None = None  # all CPUs' busy seconds, our tasks' among them

    def total(self) -> Resources:
        """The configured limits; for those not set, what the machine has less the reserves. Constant while it runs."""
        if self._total is None:
            config = self._config
            memory, disk = memory_total_bytes(), shutil.disk_usage(self._folder).total
            self._total = Resources(
                cpu_milli=config.cpu_milli if config.cpu_milli is not None else cpu_milli_total(),
                memory_bytes=_limit(config.memory_bytes, memory - config.memory_reserved_bytes),
                disk_bytes=_limit(config.disk_bytes, disk - config.disk_reserved_bytes),
                gpus=self.gpus(),
            )
        return self._total

    def gpus(self) -> tuple[Gpu, ...]:
        if self._gpus is None:
            self._gpus = read_gpus(load_nvml(), is_shared=self._config.share_gpus)
        return self._gpus

    def hardware(self) -> str:
        """`config.hardware`, or CPU model and GPU models in one token; an emulated share of a core is its own class."""
        share = f"@{self._config.cpu_share_milli}m" if self._config.cpu_share_milli else ""
        if self._config.hardware:
            return self._config.hardware + share
        models = sorted({gpu.model for gpu in self.gpus() if gpu.model})
        return "+".join(slug(name) for name in (cpu_model(), *models))[:_HARDWARE_MAX] + share

    async def speed_milli(self) -> int:
        """`config.speed_milli`, or calibrated once for this hardware (30 ms of a core) and kept in the folder."""
        speed = self._config.speed_milli
        if speed is None:
            speed = await asyncio.to_thread(self._calibrated)
        return max(1, speed * (self._config.cpu_share_milli or 1000) // 1000)

    async def measure(self) -> None:
        await self._post(Measured(usable=self.usable()))

    def usable(self) -> Resources:
        """Of `total`, what others leave. A configured `cpu_milli` is the operator's promise and not measured."""
        config, total, use = self._config, self.total(), self._task_use()
        cpu_milli = total.cpu_milli
        if config.cpu_milli is None:
            cpu_milli -= self._others_milli(use.cpu_s)
        memory = memory_available_bytes() + use.memory_bytes - config.memory_reserved_bytes
        disk = shutil.disk_usage(self._folder).free - config.disk_reserved_bytes
        told = self._told or total  # Running tasks count as free, so an untouched machine offers all it has.
        self._told = Resources(
            cpu_milli=_steady(cpu_milli, total.cpu_milli, CPU_STEP_MILLI, told.cpu_milli),
            memory_bytes=_steady(memory, total.memory_bytes, MEMORY_STEP_BYTES, told.memory_bytes),
            disk_bytes=_steady(disk, total.disk_bytes, DISK_STEP_BYTES, told.disk_bytes),
            gpus=total.gpus,
        )
        return self._told

    def tcp_rtt(self, connection: socket.socket, agent_id: str) -> LinkSample | None:
        info = read_tcp_info(connection)
        if info is None or info.rtt_us is None:
            return None
        return LinkSample(
            from_agent=agent_id, to_agent="", method="tcp_info", rtt_us=info.rtt_us, jitter_us=info.rtt_deviation_us
        )

    def _others_milli(self, task_cpu_s: float) -> int:
        """CPUs busy with other than our tasks, in milli-CPU, smoothed over some looks; 0 at the first."""
        busy_s = busy_cpu_s()
        now_s, last = time.monotonic(), self._last
        if last is not None and now_s - last[1] < 0.5:
            return int(self._others)
        self._last = (busy_s - task_cpu_s, now_s)
        if last is not None:
            found = (busy_s - task_cpu_s - last[0]) / (now_s - last[1]) * 1000
            found = min(max(0.0, found), self.total().cpu_milli)
            self._others += (found - self._others) * OTHERS_WEIGHT
        return int(self._others)

    def _calibrated(self) -> int:
        path, hardware = self._folder / "speed.json", self.hardware()
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=_Speed)
            if known.hardware == hardware:
                return known.speed_milli
        speed_milli = calibrate()
        with contextlib.suppress(OSError):  # Then the next start measures again.
            path.write_bytes(msgspec.json.encode(_Speed(hardware=hardware, speed_milli=speed_milli)))
        return speed_milli


def calibrate(budget_s: float = CALIBRATION_S) -> int:
    """Speed of one core, 1000 = the reference core: the best of some runs in this thread's own CPU time, so that what
    else runs here counts little."""
    text, best_s, spent_s = _text(), float("inf"), 0.0
    while spent_s < budget_s:
        begun_s = time.thread_time()
        zlib.compress(text, 6)
        took_s = time.thread_time() - begun_s
        best_s, spent_s = min(best_s, took_s), spent_s + max(took_s, 1e-4)
    return min(max(1, int(REFERENCE_S / max(best_s, 1e-6) * 1000)), 1_000_000)


def cpu_model() -> str:
    """As in "AMD EPYC 9654" or "Raspberry Pi 5 Model B"; the architecture where neither is told."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    return platform.machine() or "unknown"


def slug(text: str) -> str:
    """Lower case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|\bcpu\b|@.*$", " ", text.lower())).strip("-")


def _steady(value: int, total: int, step: int, told: int) -> int:
    """Within 0 and `total`; whole steps, and the value told before while it differs by less than one step."""
    value = min(max(0, value), total)
    if abs(value - told) < step:
        return told
    return total if value == total else value // step * step


def _limit(configured: int | None, found: int) -> int:
    return configured if configured is not None else max(0, found)


def _text() -> bytes:
    """80 kB of the same made-up words each time."""
    random = Random(1)
    words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(500)]
    return b" ".join(random.choices(words, k=12_000))
