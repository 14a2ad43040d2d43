"""The process executor with real processes: gate, environment, ends, outputs, adoption, what it keeps."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from agents.events import ShardRemoved, TaskEnded, TaskStarted
from agents.executors import proctree
from agents.executors.base import AttemptFolder
from federation.wire import Fetch, HeldShard, Output
from tests.executor_world import Bench, bench, launch, member, shell, sleeping, tar_of, until

__all__ = ["bench"]  # a fixture
pytestmark = pytest.mark.live


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
    await until(lambda: b"up" in (bench.executor.read_log("job/train/0", 1) or b""))
    bench.executor.stop("job/train/0", 1, 5_000_000, "killed")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("killed", 0) and ended.log_tail.endswith("bye\n")

    await bench.start(shell("trap '' TERM; echo up; while :; do sleep 0.05; done", attempt=2))
    await until(lambda: b"up" in (bench.executor.read_log("job/train/0", 2) or b""))
    bench.executor.stop("job/train/0", 2, 100_000, "drained")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("drained", None)


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
    await until(lambda: list((tmp_path / "tasks").glob("*/exit")))
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
    await until(lambda: proctree.read_process(pid) is None)
    assert not bench.executor.is_alive(started.handle)


@pytest.mark.parametrize("handle", ["", "process:x:1:2", "process:b:NaN:1:x", "slurm:b:1:1:x", "process:b:1:1:../x"])
def test_strange_handles_are_dead(bench: Bench, handle: str) -> None:
    assert not bench.executor.is_alive(handle)


async def test_the_executor_stays_alive_through_a_killed_supervisor(bench: Bench) -> None:
    started = await bench.start(shell("sleep 982"))
    assert isinstance(started, TaskStarted)
    os.kill(int(started.handle.split(":")[2]), signal.SIGKILL)
    ended = await bench.ended()
    assert ended.reason == "signal" and "no exit code" in ended.detail
    assert not sleeping("982")


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


def test_this_python_is_the_first_on_the_path() -> None:
    from agents.executors.base import default_path

    assert default_path().split(os.pathsep)[0] == str(Path(sys.executable).parent)
