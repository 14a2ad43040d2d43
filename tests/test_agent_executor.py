"""The process executor with real processes: gate, limits, logs, trees, adoption, artifacts."""

import asyncio
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.events import Event, ShardRemoved, TaskEnded, TaskStarted
from agents.executors import proctree
from agents.executors.artifact import unpack
from agents.executors.base import AttemptFolder
from agents.executors.process import ProcessExecutor, ProcessSettings
from agents.store import ShardStore
from federation.errors import PeerError
from federation.wire import Fetch, HeldShard, Launch, Output
from policies.model import Needs

pytestmark = pytest.mark.live
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
        if proctree.read_process(process.pid) and str(tmp_path) in _command_line(process.pid):
            os.kill(process.pid, signal.SIGKILL)


def _command_line(pid: int) -> str:
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


async def test_a_task_reads_shards_runs_its_artifact_and_leaves_shards(bench: Bench) -> None:
    shard = bench.hold(b"3 5 8", "digits/7")
    code = b"import sys\nprint('sum', sum(map(int, open(sys.argv[1]).read().split())), file=open(sys.argv[2], 'w'))\n"
    artifact = bench.hold(tar_of((member("code/train.py"), code)), "")
    ended = await bench.run(
        launch(
            "python",
            "code/train.py",
            "{shard.path}",
            "{out}/model",
            reads=(shard,),
            artifact=artifact,
            outputs=(Output(name="model", path="model", bytes_max=100),),
        )
    )
    assert (ended.reason, ended.exit_code, ended.log_tail) == ("exit", 0, "")
    expected = b"sum 16\n"
    shard_id = hashlib.sha256(expected).hexdigest()
    assert ended.outputs == (HeldShard(shard_id=shard_id, size_bytes=7, name="job/train/0/model"),)
    held = bench.store.path(shard_id)
    assert held is not None and held.read_bytes() == expected
    assert ended.run_us > 0


async def test_reads_lie_under_their_names(bench: Bench) -> None:
    reads = (bench.hold(b"a", "train/0/model"), bench.hold(b"b", "train/1/model"), bench.hold(b"c", "../../etc/x"))
    ended = await bench.run(shell("cd {in} && find . -type f | sort; echo {in} {other} {{}}", reads=reads))
    lines = ended.log_tail.splitlines()
    assert lines[:3] == [f"./{reads[2].shard_id}", "./train/0/model", "./train/1/model"]
    assert lines[3].endswith("/in {other} {{}}")


async def test_the_environment_is_the_tasks_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
    ended = await bench.run(shell("env", gpus=("GPU-1", "GPU-2"), env={"RATE": "3", "OUT": "{out}"}))
    found = dict(line.split("=", 1) for line in ended.log_tail.splitlines() if "=" in line)
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert (found["OFFERFLOW_TASK_ID"], found["OFFERFLOW_ATTEMPT"], found["RATE"]) == ("job/train/0", "1", "3")
    assert found["OUT"] == found["OFFERFLOW_OUT"]
    assert found["OMP_NUM_THREADS"] == "1"
    assert "AWS_SECRET_ACCESS_KEY" not in found
    ended = await bench.run(shell("echo [$CUDA_VISIBLE_DEVICES]", attempt=2))
    assert ended.log_tail == "[]\n", "GPUs that were not assigned are hidden"


async def test_exit_codes_and_signals(bench: Bench) -> None:
    ended = await bench.run(shell("echo going >&2; exit 3"))
    assert (ended.reason, ended.exit_code, ended.log_tail) == ("exit", 3, "going\n")
    ended = await bench.run(shell("kill -SEGV $$", attempt=2))
    assert (ended.reason, ended.exit_code, ended.detail) == ("signal", 139, "SIGSEGV")


async def test_nothing_runs_before_the_gate_opens(bench: Bench, tmp_path: Path) -> None:
    started = await bench.start(shell(f"touch {tmp_path}/ran"), release=False)
    assert isinstance(started, TaskStarted) and bench.executor.is_alive(started.handle)
    bench.executor.stop("job/train/0", 1, 0, "killed")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code, ended.run_us) == ("killed", None, 0)
    assert not (tmp_path / "ran").exists()


async def test_an_agent_that_dies_before_release_runs_nothing(bench: Bench, tmp_path: Path) -> None:
    started = await bench.start(shell(f"touch {tmp_path}/ran"), release=False)
    assert isinstance(started, TaskStarted)
    pid = int(started.handle.split(":")[2])
    handle = os.pidfd_open(pid)
    bench.tasks[0].cancel()
    assert await _readable(handle)
    assert not (tmp_path / "ran").exists()


async def _readable(handle: int) -> bool:
    """Wait until the process of a pidfd has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return True


async def test_what_cannot_start_says_why(bench: Bench) -> None:
    ended = await bench.run(launch("no-such-program-here"))
    assert ended.reason == "start" and "no-such-program-here" in ended.detail
    ended = await bench.run(launch("sh", "{shard.path}"))
    assert ended.reason == "start" and "reads no shard" in ended.detail
    gone = Fetch(shard_id="0" * 64, size_bytes=1, name="gone")
    ended = await bench.run(launch("true", reads=(gone,)))
    assert ended.reason == "start" and "gone" in ended.detail
    ended = await bench.run(launch("true", artifact=bench.hold(b"not a tar", "")))
    assert ended.reason == "start" and "archive" in ended.detail


async def test_a_stop_is_polite_then_final(bench: Bench) -> None:
    await bench.start(shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    await _until(lambda: b"up" in (bench.executor.read_log("job/train/0", 1) or b""))
    bench.executor.stop("job/train/0", 1, 5_000_000, "killed")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("killed", 0) and ended.log_tail.endswith("bye\n")

    await bench.start(shell("trap '' TERM; echo up; while :; do sleep 0.05; done", attempt=2))
    await _until(lambda: b"up" in (bench.executor.read_log("job/train/0", 2) or b""))
    bench.executor.stop("job/train/0", 2, 100_000, "drained")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("drained", None)


async def _until(condition: Callable[[], object]) -> None:
    """Wait for what another process does to the file system: nothing here could wake us."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_time_limit_ends_the_whole_tree(bench: Bench) -> None:
    # One child in a session of its own, one in the background: both must go.
    script = "setsid sleep 987 & sleep 986 & echo $!; sleep 985"
    ended = await bench.run(shell(script, time_limit_us=300_000))
    assert ended.reason == "time_limit" and 200_000 < ended.run_us < 5_000_000
    assert not _sleeping("987", "986", "985")


def _sleeping(*seconds: str) -> list[str]:
    lines = [_command_line(pid) for pid in proctree.walk()]
    return [line for line in lines if line.rstrip("\0").split("\0") in [["sleep", one] for one in seconds]]


async def test_a_daemon_that_left_its_session_is_found_by_its_mark(bench: Bench) -> None:
    daemonise = (
        "import os, time, sys\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '984'])\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    ended = await bench.run(python(daemonise))
    assert (ended.reason, ended.exit_code) == ("exit", 0)
    assert not _sleeping("984")


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


async def test_a_daemon_that_cleared_its_environment_is_its_shells_child(bench: Bench) -> None:
    """While the task runs it is held to the task's limits; it is gone with the task."""
    await bench.start(python(ESCAPE.format(seconds=983) + "print('away', flush=True)\ntime.sleep(60)"))
    await _until(lambda: b"away" in (bench.executor.read_log("job/train/0", 1) or b"") and _sleeping("983"))
    bench.executor.stop("job/train/0", 1, 0, "killed")
    assert (await bench.ended()).reason == "killed"
    assert not _sleeping("983")


async def test_a_fork_bomb_is_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ProcessSettings(look_every_s=0.05, drain_s=0.2, processes_max=60))
    await bench.store.open()
    # Bounded at 300 so that a failing test does not take the machine along.
    bomb = (
        "import os, time\nfor _ in range(300):\n    if os.fork() == 0:\n        time.sleep(60); os._exit(0)\n"
        "time.sleep(60)"
    )
    ended = await bench.run(python(bomb))
    assert ended.reason == "process_limit"
    folder = AttemptFolder.of(tmp_path / "tasks", "job/train/0", 1)
    assert not proctree.strays(proctree.walk(), str(folder.path))


async def test_too_much_memory_ends_the_task(bench: Bench) -> None:
    hog = "import time\nkeep = bytearray(200_000_000)\nfor i in range(0, len(keep), 4096): keep[i] = 1\ntime.sleep(30)"
    ended = await bench.run(python(hog, needs=Needs(cpu_milli=1000, memory_bytes=100_000_000)))
    assert ended.reason == "memory_limit" and "100000000 declared" in ended.detail


async def test_a_file_past_the_declared_disk_ends_the_task(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ProcessSettings(look_every_s=0.05, file_bytes_min=0))
    await bench.store.open()
    ended = await bench.run(shell("head -c 3000000 /dev/zero > {out}/big", needs=Needs(disk_bytes=1_000_000)))
    assert ended.reason == "disk_limit" and "declared" in ended.detail


async def test_many_files_past_the_declared_disk_end_the_task(tmp_path: Path) -> None:
    """Wherever they lie, and none of them large. What the task found there is not its own."""
    bench = Bench(tmp_path, ProcessSettings(look_every_s=0.05, file_bytes_min=0))
    await bench.store.open()
    given = bench.hold(os.urandom(2_000_000), "big/input")
    archive = bench.hold(tar_of((member("weights.bin"), os.urandom(2_000_000))), "code.tar.gz")
    needs = Needs(disk_bytes=1_000_000)
    script = (
        "ln {in}/big/input {out}/again; truncate -s 900K {out}/hole {out}/hollow; "
        "head -c 500000 /dev/zero > {out}/half; ln {out}/half {out}/other; sleep 0.5; echo stayed"
    )
    ended = await bench.run(shell(script, needs=needs, reads=(given,), artifact=archive))
    assert (ended.reason, ended.log_tail) == ("exit", "stayed\n"), ended.detail
    for place in ("{out}", "$TMPDIR", "."):
        fill = f"mkdir {place}/deep; i=0; while :; do head -c 65536 /dev/zero > {place}/deep/$i; i=$((i+1)); done"
        ended = await bench.run(shell(fill, needs=needs, artifact=archive))
        assert ended.reason == "disk_limit" and ended.detail.endswith("1000000 allowed (1000000 declared)")
    assert (await bench.run(shell("head -c 9000000 /dev/zero > {out}/big"))).reason == "exit", "no disk declared"


async def test_a_flood_of_output_is_bounded_and_keeps_both_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_bytes_max=3 * 64 * 1024)
    await bench.store.open()
    flood = "import sys\nprint('first')\nfor i in range(400000): sys.stdout.write('line %d\\n' % i)\nprint('last')"
    ended = await bench.run(python(flood))
    assert (ended.reason, ended.exit_code) == ("exit", 0)
    log = bench.executor.read_log("job/train/0", 1) or b""
    assert log.startswith(b"first\n") and log.endswith(b"line 399999\nlast\n") and b"output left out" in log
    on_disk = sum(path.stat().st_size for path in (tmp_path / "tasks").rglob("log.*"))
    assert len(log) <= on_disk + 100 <= 3 * 64 * 1024 + 100
    assert ended.log_tail.endswith("last\n") and len(ended.log_tail) <= 4096


async def test_no_byte_is_lost_where_a_segment_of_the_log_ends(tmp_path: Path) -> None:
    """A write that does not fit in what is left of a segment goes on in the next."""
    bench = Bench(tmp_path, log_bytes_max=3 * 64 * 1024)
    await bench.store.open()
    script = "import os\nfor n in range(20): os.write(1, b'%02d' % n * 1024 + b'\\n')\nos.write(1, b'last\\n')"
    written = b"".join(b"%02d" % n * 1024 + b"\n" for n in range(20)) + b"last\n"
    ended = await bench.run(python(script))
    assert ended.reason == "exit" and bench.executor.read_log("job/train/0", 1) == written
    flood = "import os\nfor n in range(1000): os.write(1, b'%05d' % n * 800 + b'\\n')\nos.write(1, b'last\\n')"
    await bench.run(python(flood, attempt=2))
    head, _, tail = (bench.executor.read_log("job/train/0", 2) or b"").partition(b"\n[... output left out ...]\n")
    written = b"".join(b"%05d" % n * 800 + b"\n" for n in range(1000)) + b"last\n"
    assert written.startswith(head) and written.endswith(tail)
    assert len(head) >= 0.7 * 64 * 1024 and 0.7 * 64 * 1024 <= len(tail) <= 128 * 1024


async def test_outputs_that_break_their_word(bench: Bench) -> None:
    def wants(path: str, bytes_max: int = 10) -> tuple[Output, ...]:
        return (Output(name="model", path=path, bytes_max=bytes_max),)

    for attempt, (script, outputs, words) in enumerate(
        [
            ("true", wants("model"), "wrote no file"),
            ("head -c 11 /dev/zero > {out}/model", wants("model"), "11 bytes, declared at most 10"),
            ("ln -s /etc/passwd {out}/model", wants("model", 100_000), "leads out"),
            ("echo x > {out}/../x", wants("../x"), "leads out"),
            ("mkdir {out}/model", wants("model"), "wrote no file"),
        ]
    ):
        ended = await bench.run(shell(script, outputs=outputs, attempt=attempt))
        assert ended.reason == "outputs" and words in ended.detail, script
    assert bench.store.held() == ()


async def test_a_restarted_agent_adopts_a_live_task(bench: Bench, tmp_path: Path) -> None:
    work = shell(
        f"echo one; while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; echo two; echo done > {{out}}/model; exit 0",
        outputs=(Output(name="model", path="model", bytes_max=10),),
    )
    started = await bench.start(work)
    assert isinstance(started, TaskStarted)
    bench.tasks[0].cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)
    bench.executor = bench.new_executor()
    assert bench.executor.is_alive(started.handle)
    bench.tasks.append(asyncio.create_task(bench.executor.adopt(work, started.handle)))
    (tmp_path / "go").touch()
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code, ended.log_tail) == ("exit", 0, "one\ntwo\n")
    assert [shard.name for shard in ended.outputs] == ["job/train/0/model"]


async def test_a_restarted_agent_reads_how_a_task_ended(bench: Bench, tmp_path: Path) -> None:
    started = await bench.start(shell("echo out; exit 4"))
    assert isinstance(started, TaskStarted)
    bench.tasks[0].cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)
    await _until(lambda: list((tmp_path / "tasks").glob("*/exit")))
    bench.executor = bench.new_executor()
    assert bench.executor.is_alive(started.handle)
    await bench.executor.adopt(shell("echo out; exit 4"), started.handle)
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code, ended.log_tail) == ("exit", 4, "out\n")


async def test_a_task_killed_unwatched_is_not_alive(bench: Bench) -> None:
    started = await bench.start(shell("sleep 60"))
    assert isinstance(started, TaskStarted)
    bench.tasks[0].cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)
    pid = int(started.handle.split(":")[2])
    os.killpg(pid, signal.SIGKILL)
    await _until(lambda: proctree.read_process(pid) is None)
    assert not bench.executor.is_alive(started.handle)


@pytest.mark.parametrize("handle", ["", "process:x:1:2", "process:b:NaN:1:x", "slurm:b:1:1:x", "process:b:1:1:../x"])
def test_strange_handles_are_dead(bench: Bench, handle: str) -> None:
    assert not bench.executor.is_alive(handle)


async def test_the_executor_stays_alive_through_a_killed_supervisor(bench: Bench) -> None:
    started = await bench.start(shell("sleep 983"))
    assert isinstance(started, TaskStarted)
    os.kill(int(started.handle.split(":")[2]), signal.SIGKILL)
    ended = await bench.ended()
    assert ended.reason == "signal" and "no exit code" in ended.detail
    assert not _sleeping("983")


async def test_forget_keeps_the_log_and_drops_the_oldest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, logs_kept_bytes=250)
    await bench.store.open()
    for attempt in range(4):
        await bench.run(shell("head -c 100 /dev/zero", attempt=attempt))
        bench.executor.forget("job/train/0", attempt)
        await asyncio.gather(*bench.executor._tidying)
    logs = [bench.executor.read_log("job/train/0", attempt) for attempt in range(4)]
    assert [log is None for log in logs] == [True, True, False, False]
    assert not list((tmp_path / "tasks").glob("*/work"))


async def test_what_a_crash_left_goes_after_a_day(bench: Bench, tmp_path: Path) -> None:
    await bench.run(shell("echo kept"))
    left = AttemptFolder.of(tmp_path / "tasks", "job/train/0", 1)
    yesterday_s = time.time() - 90_000
    os.utime(left.path, (yesterday_s, yesterday_s))
    await bench.run(shell("true", attempt=2))
    bench.executor.forget("job/train/0", 2)
    await asyncio.gather(*bench.executor._tidying)
    assert not left.work.exists() and bench.executor.read_log("job/train/0", 1) == b"kept\n"


async def test_a_replica_that_went_bad_is_not_fed_to_a_task(bench: Bench) -> None:
    read = bench.hold(b"good", "digits/7")
    path = bench.store.path(read.shard_id)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"evil")
    os.utime(path, ns=(1, 1))
    bench.tasks.append(asyncio.create_task(bench.executor.run(shell("cat {shard.path}", reads=(read,)))))
    assert await bench.next() == ShardRemoved(shard_id=read.shard_id, reason="damaged")
    ended = await bench.ended()
    assert ended.reason == "start" and "digits/7 is no longer here" in ended.detail


async def test_equal_outputs_of_tasks_that_end_together(bench: Bench) -> None:
    names = [f"job/train/{index}" for index in range(6)]
    outputs = (Output(name="model", path="model", bytes_max=100),)
    for name in names:
        work = shell("echo same > {out}/model", task_id=name, outputs=outputs)
        bench.tasks.append(asyncio.create_task(bench.executor.run(work)))
    ended: list[TaskEnded] = []
    while len(ended) < len(names):
        event = await bench.next()
        if isinstance(event, TaskStarted):
            bench.executor.release(event.task_id, event.attempt)
        elif isinstance(event, TaskEnded):
            ended.append(event)
    assert {(event.reason, event.exit_code) for event in ended} == {("exit", 0)}
    assert sorted(event.outputs[0].name for event in ended) == [f"{name}/model" for name in names]


async def test_a_slower_core_is_emulated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, cpu_share_milli=250)
    await bench.store.open()
    ended = await bench.run(python("import time\nwhile time.process_time() < 0.5: pass"))
    assert ended.exit_code == 0
    assert 1_600_000 < ended.run_us < 4_000_000, "half a second of CPU time on a quarter core takes two"
    assert 0.4 < bench.executor.use().cpu_s < 0.8


async def test_cpu_time_is_counted_also_of_short_tasks(bench: Bench) -> None:
    for attempt in range(3):
        await bench.run(python("import time\nwhile time.process_time() < 0.1: pass", attempt=attempt))
    await bench.start(python("print('up', flush=True)\nwhile True: pass", attempt=3))
    await _until(lambda: bench.executor.use().cpu_s > 0.5)
    bench.executor.stop("job/train/0", 3, 0, "killed")
    used_s = bench.executor.use().cpu_s
    await bench.ended()
    assert bench.executor.use().cpu_s >= used_s, "what a killed task used stays counted"


async def test_a_throttled_task_can_be_stopped_and_waits_without_penalty(tmp_path: Path) -> None:
    bench = Bench(tmp_path, cpu_share_milli=10)
    await bench.store.open()
    await bench.start(python("print('up', flush=True)\nwhile True: pass"))
    await _until(lambda: b"up" in (bench.executor.read_log("job/train/0", 1) or b""))
    bench.executor.stop("job/train/0", 1, 5_000_000, "killed")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("killed", 143)


def test_an_archive_cannot_leave_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    bad = {
        "parent": [(member("../evil"), b"x")],
        "absolute": [(member("/tmp/evil"), b"x")],
        "link out": [(member("out", tarfile.SYMTYPE, "../.."), b"")],
        "absolute link": [(member("out", tarfile.SYMTYPE, "/etc"), b"")],
        "write through a link": [(member("a", tarfile.SYMTYPE, ".."), b""), (member("a/evil"), b"x")],
        "link through a link": [
            (member("a/b/c", tarfile.SYMTYPE, "../.."), b""),
            (member("e", tarfile.SYMTYPE, "a/b/c/../x"), b""),
        ],
        "hard link out": [(member("evil", tarfile.LNKTYPE, "../../etc/passwd"), b"")],
        "device": [(member("null", tarfile.CHRTYPE), b"")],
        "pipe": [(member("pipe", tarfile.FIFOTYPE), b"")],
        "loop": [(member("l", tarfile.SYMTYPE, "l"), b"")],
    }
    for name, members in bad.items():
        folder.mkdir()
        archive = tmp_path / "a.tgz"
        archive.write_bytes(tar_of(*members))
        with pytest.raises(PeerError) as raised:
            unpack(archive, folder, 1000)
        assert raised.value.code == "artifact", name
        assert not (tmp_path / "evil").exists() and not Path("/tmp/evil").exists()
        subprocess.run(["rm", "-rf", folder], check=True)


def test_an_archive_keeps_modes_and_inner_links(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    archive.write_bytes(
        tar_of(
            (member("bin/run", mode=0o4755), b"#!/bin/sh\n"),
            (member("data"), b"12"),
            (member("bin/data", tarfile.SYMTYPE, "../data"), b""),
            (member("same", tarfile.LNKTYPE, "data"), b""),
        )
    )
    folder = tmp_path / "work"
    folder.mkdir()
    unpack(archive, folder, 1000)
    assert (folder / "bin/data").read_bytes() == (folder / "same").read_bytes() == b"12"
    assert (folder / "bin/run").stat().st_mode & 0o7777 == 0o755, "no set-uid bit"


def test_an_archive_is_bounded(tmp_path: Path) -> None:
    archive, folder = tmp_path / "a.tgz", tmp_path / "work"
    archive.write_bytes(tar_of((member("zeros"), bytes(5_000_000))))
    folder.mkdir()
    assert archive.stat().st_size < 10_000
    with pytest.raises(PeerError, match="more than 1000000 bytes"):
        unpack(archive, folder, 1_000_000)
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(PeerError, match="archive cannot be"):
        unpack(archive, folder, 10_000_000)


def test_this_python_is_the_first_on_the_path() -> None:
    from agents.executors.base import default_path

    assert default_path().split(os.pathsep)[0] == str(Path(sys.executable).parent)
