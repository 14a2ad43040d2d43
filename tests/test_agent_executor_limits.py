"""What the process executor holds real processes to: time, trees, memory, disk, output, processor."""

import os
from pathlib import Path

import pytest

from agents.executors import proctree
from agents.executors.base import AttemptFolder
from agents.executors.process import ProcessSettings
from policies.model import Needs
from tests.executor_world import ESCAPE, Bench, bench, member, python, shell, sleeping, tar_of, until

__all__ = ["bench"]  # a fixture
pytestmark = pytest.mark.live


async def test_a_time_limit_ends_the_whole_tree(bench: Bench) -> None:
    # One child in a session of its own, one in the background: both must go.
    script = "setsid sleep 987 & sleep 986 & echo $!; sleep 985"
    ended = await bench.run(shell(script, time_limit_us=300_000))
    assert ended.reason == "time_limit" and 200_000 < ended.run_us < 5_000_000
    assert not sleeping("987", "986", "985")


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
    assert not sleeping("984")


async def test_a_daemon_that_cleared_its_environment_is_its_shells_child(bench: Bench) -> None:
    """While the task runs it is held to the task's limits; it is gone with the task."""
    await bench.start(python(ESCAPE.format(seconds=983) + "print('away', flush=True)\ntime.sleep(60)"))
    await until(lambda: b"away" in (bench.executor.read_log("job/train/0", 1) or b"") and sleeping("983"))
    bench.executor.stop("job/train/0", 1, 0, "killed")
    assert (await bench.ended()).reason == "killed"
    assert not sleeping("983")


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
    await until(lambda: bench.executor.use().cpu_s > 0.5)
    bench.executor.stop("job/train/0", 3, 0, "killed")
    used_s = bench.executor.use().cpu_s
    await bench.ended()
    assert bench.executor.use().cpu_s >= used_s, "what a killed task used stays counted"


async def test_a_throttled_task_can_be_stopped_and_waits_without_penalty(tmp_path: Path) -> None:
    bench = Bench(tmp_path, cpu_share_milli=10)
    await bench.store.open()
    await bench.start(python("print('up', flush=True)\nwhile True: pass"))
    await until(lambda: b"up" in (bench.executor.read_log("job/train/0", 1) or b""))
    bench.executor.stop("job/train/0", 1, 5_000_000, "killed")
    ended = await bench.ended()
    assert (ended.reason, ended.exit_code) == ("killed", 143)
