"""What the tests of the process executor need: an executor whose events are read, launches, archives."""

import asyncio
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.events import Event, TaskEnded, TaskStarted
from agents.executors import proctree
from agents.executors.process import ProcessExecutor, ProcessSettings
from agents.store import ShardStore
from federation.wire import Fetch, Launch
from policies.model import Needs

QUICK = ProcessSettings(look_every_s=0.05, drain_s=0.2)


class Bench:
    """An executor over a store in a folder, with its posted events."""

    def __init__(self, folder: Path, settings: ProcessSettings = QUICK, **options: object) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.store = ShardStore(folder / "shards", self.events.put)
        self.folder = folder
        self.settings = settings
        self.options = options
        self.tasks: list[asyncio.Task[None]] = []
        self.executor = self.new_executor()

    def new_executor(self) -> ProcessExecutor:
        return ProcessExecutor(
            self.folder / "tasks", self.store, self.events.put, agent_id="edge-1", site="plant-a",
            settings=self.settings, **self.options,  # type: ignore[arg-type]
        )  # fmt: skip

    async def start(self, launch: Launch, *, release: bool = True) -> Event:
        """Run it; the first event. Released once started."""
        self.tasks.append(asyncio.create_task(self.executor.run(launch)))
        event = await self.next()
        if release and isinstance(event, TaskStarted):
            self.executor.release(launch.task_id, launch.attempt)
        return event

    async def next(self) -> Event:
        async with asyncio.timeout(20):
            return await self.events.get()

    async def ended(self) -> TaskEnded:
        event = await self.next()
        assert isinstance(event, TaskEnded)
        return event

    async def run(self, launch: Launch) -> TaskEnded:
        event = await self.start(launch)
        return event if isinstance(event, TaskEnded) else await self.ended()

    def hold(self, data: bytes, name: str) -> Fetch:
        path = self.folder / "given"
        path.write_bytes(data)
        shard = self.store.add_file(path, name)
        path.unlink()
        return Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, name=name)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.store.open()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    for process in proctree.walk().values():
        if proctree.read_process(process.pid) and str(tmp_path) in command_line(process.pid):
            os.kill(process.pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def launch(*command: str, task_id: str = "job/train/0", attempt: int = 1, **fields: object) -> Launch:
    defaults: dict[str, object] = {"needs": Needs(cpu_milli=1000), "kill_grace_us": 2_000_000}
    return Launch(
        cmd_id=1, task_id=task_id, attempt=attempt, expires_in_us=60_000_000, command=command, **(defaults | fields)
    )  # type: ignore[arg-type]


def shell(script: str, **fields: object) -> Launch:
    return launch("sh", "-c", script, **fields)


def python(code: str, **fields: object) -> Launch:
    return launch("python", "-c", code, **fields)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does to the file system: nothing here could wake us."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def sleeping(*seconds: str) -> list[str]:
    lines = [command_line(pid) for pid in proctree.walk()]
    return [line for line in lines if line.rstrip("\0").split("\0") in [["sleep", one] for one in seconds]]


# A daemon as they are written, but for its environment: nothing of it names the task any more.
ESCAPE = (
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        for fd in range(3): os.dup2(os.open(os.devnull, os.O_RDWR), fd)\n"
    "        os.execve('/bin/sleep', ['sleep', '{seconds}'], {{}})\n"
    "    os._exit(0)\n"
    "os.wait()\n"
)
