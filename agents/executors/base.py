"""What every executor does alike before a process exists: the attempt's folder, its inputs, its command line.

{name}/work/   where it runs; the artifact is unpacked here
{name}/in/     the shards it reads, linked under their names
{name}/out/    what it writes
{name}/tmp/    its TMPDIR
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from agents.executors.artifact import unpack
from federation.errors import PeerError
from federation.wire import Fetch, Launch
from policies.gpus import WHOLE
from policies.model import Record

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_PLACEHOLDER = re.compile(r"\{(shard\.path|in|out)\}")


class TaskUse(Record, frozen=True, kw_only=True):
    """What an executor's running tasks take of this machine."""

    cpu_s: float = 0.0  # CPU time since the agent started; never falls
    memory_bytes: int = 0


class AttemptFolder:
    """The folders and names of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.inputs = path / "in"
        self.outputs = path / "out"
        self.temporary = path / "tmp"
        self.progress = path / "progress"  # what the task tells of its steps

    @classmethod
    def of(cls, root: Path, task_id: str, attempt: int) -> "AttemptFolder":
        """Stable for (task, attempt), legal on any file system, readable to people."""
        digest = hashlib.sha256(task_id.encode()).hexdigest()[:12]
        return cls(root / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', task_id)[:80]}-{digest}-{attempt}")

    def make(self) -> None:
        """Empty, whatever an earlier life left."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in (self.work, self.inputs, self.outputs, self.temporary):
            folder.mkdir(parents=True)

    def clear(self) -> None:
        """Remove all but the log."""
        for folder in (self.work, self.inputs, self.outputs, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)


def lay_out(
    folder: AttemptFolder, launch: Launch, path_of: Callable[[str], Path | None], unpack_bytes_max: int
) -> None:
    """Make the folders, unpack the artifact, link the inputs. Raises `PeerError` and `StoreFullError`."""
    folder.make()
    if launch.artifact is not None:
        unpack(_held(launch.artifact, path_of), folder.work, unpack_bytes_max)
    for fetch in launch.reads:
        _link(_held(fetch, path_of), folder.inputs / input_name(fetch))


def input_name(fetch: Fetch) -> PurePosixPath:
    """Where a shard lies under `{in}`: its name, or its hash where the name is missing or leads elsewhere."""
    name = PurePosixPath(fetch.name)
    if not fetch.name or name.is_absolute() or ".." in name.parts or name == PurePosixPath("."):
        return PurePosixPath(fetch.shard_id)
    return name


def command_line(folder: AttemptFolder, launch: Launch) -> tuple[list[str], dict[str, str]]:
    """Command and task environment with `{shard.path}` (the first read), `{in}` and `{out}` filled in.

    Other braces stay as they are. Raises `PeerError("start")` when there is no such shard or program."""
    values = {"in": str(folder.inputs), "out": str(folder.outputs)}
    if launch.reads:
        values["shard.path"] = str(folder.inputs / input_name(launch.reads[0]))

    def filled(text: str) -> str:
        if "{shard.path}" in text and "shard.path" not in values:
            raise PeerError("start", "{shard.path} stands in the command, but the task reads no shard")
        return _PLACEHOLDER.sub(lambda found: values[found[1]], text)

    env = {key: filled(value) for key, value in launch.env.items()}
    command = [filled(text) for text in launch.command]
    search = env.get("PATH") or default_path()
    here = folder.work / command[0] if "/" in command[0] else None
    program = shutil.which(str(here) if here is not None else command[0], path=search)
    if program is None:
        raise PeerError("start", f"no program {command[0][:200]!r} here; PATH is {search}")
    return [program, *command[1:]], env


def default_path() -> str:
    """Programs beside our own Python first: `python` is then the one that runs the agent."""
    return os.pathsep.join(dict.fromkeys((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))))


def task_environment(folder: AttemptFolder, launch: Launch, agent_id: str, site: str, mark: str) -> dict[str, str]:
    """All that a task inherits: nothing of the agent's own environment but PATH, HOME, LANG and TZ.

    `mark` is unique to the attempt's process tree. GPUs that were not assigned are hidden; what share of one it has is
    told to the task, and to NVIDIA's MPS, which holds it to that where its daemon runs."""
    threads = str(max(1, launch.needs.cpu_milli // 1000))
    own = {key: os.environ[key] for key in ("HOME", "LANG", "TZ") if key in os.environ}
    return {
        **own,
        "PATH": default_path(),
        "TMPDIR": str(folder.temporary),
        "PYTHONUNBUFFERED": "1",  # so that a running task's log shows its last line
        **dict.fromkeys(_THREADS, threads),
        "CUDA_VISIBLE_DEVICES": ",".join(launch.gpus),
        **_share(launch),
        "OFFERFLOW_IN": str(folder.inputs),
        "OFFERFLOW_OUT": str(folder.outputs),
        "OFFERFLOW_PROGRESS": str(folder.progress),
        "OFFERFLOW_CPU_MILLI": str(launch.needs.cpu_milli),
        "OFFERFLOW_MEMORY_BYTES": str(launch.needs.memory_bytes),
        "OFFERFLOW_TASK_ID": launch.task_id,
        "OFFERFLOW_ATTEMPT": str(launch.attempt),
        "OFFERFLOW_AGENT_ID": agent_id,
        "OFFERFLOW_SITE": site,
        "OFFERFLOW_RUN": mark,
    }


def _share(launch: Launch) -> dict[str, str]:
    need = launch.needs.gpu
    if need is None or need.milli >= WHOLE or not launch.gpus:
        return {}
    env = {"OFFERFLOW_GPU_MILLI": str(need.milli), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{need.milli / 10:g}"}
    if launch.gpu_memory_bytes:
        env["OFFERFLOW_GPU_MEMORY_BYTES"] = str(launch.gpu_memory_bytes)
        # Of the visible devices, which is one.
        env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={max(1, launch.gpu_memory_bytes >> 20)}M"
    return env


def _held(fetch: Fetch, path_of: Callable[[str], Path | None]) -> Path:
    path = path_of(fetch.shard_id)
    if path is None:
        raise PeerError("start", f"shard {fetch.name or fetch.shard_id} is no longer here")
    return path


def _link(source: Path, target: Path) -> None:
    """A hard link outlives the shard's removal while the task runs; elsewhere a symbolic one does."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # Two shards of one name: the second is found under its hash.
        os.link(source, target.with_name(f"{target.name}.{source.name[:12]}"))
    except OSError:
        target.symlink_to(source)
