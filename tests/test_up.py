"""`offerflow up` and `master run` as a person starts them: real processes, ended by signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from federation.broker import find_mosquitto, free_port
from federation.cli.client import Client
from federation.jobs import Job, TaskGroup
from policies.model import Needs, Where
from tests.test_kill9 import job as ledger_job

pytestmark = [pytest.mark.live, pytest.mark.slow]
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto (apt-get install mosquitto)")
SMALL = Needs(cpu_milli=100, memory_bytes=2**20)


class Started:
    """A running command. `wait_for` reads its output until a line matches."""

    def __init__(self, *arguments: str, cpus: set[int] | None = None, **env: str) -> None:
        """`cpus`: the only ones it and what it starts may use."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "federation.cli.main", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | env,
            preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
        )  # fmt: skip
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.lines.append(line.rstrip())
                self._grown.notify_all()
        with self._grown:
            self.lines.append("")
            self._grown.notify_all()

    def wait_for(self, pattern: str, timeout_s: float = 90) -> re.Match[str]:
        deadline = time.monotonic() + timeout_s
        with self._grown:
            while True:
                for line in self.lines:
                    if found := re.search(pattern, line):
                        return found
                assert self.lines[-1:] != [""] and time.monotonic() < deadline, f"no {pattern!r} in {self.lines}"
                self._grown.wait(1)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        return code


@contextmanager
def started(*arguments: str, cpus: set[int] | None = None, **env: str) -> Iterator[Started]:
    command = Started(*arguments, cpus=cpus, **env)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


def descendants(command: Started) -> list[psutil.Process]:
    return psutil.Process(command.process.pid).children(recursive=True)


def wait_finished(client: Client, job_id: str, timeout_s: float = 60) -> str:
    deadline = time.monotonic() + timeout_s
    while (state := client.job(job_id).state) == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    return state


@pytest.mark.parametrize("broker", [pytest.param("private", marks=needs_mosquitto), "embedded"])
def test_up_runs_jobs_and_leaves_nothing_behind(tmp_path: Path, broker: str) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    arguments = ("up", "--http", "127.0.0.1:0", *(("--broker", "embedded") if broker == "embedded" else ()))
    with started(*arguments, TMPDIR=str(tmp_path)) as up:
        url = up.wait_for(r"^master +(http://\S+),")[1]
        folder = Path(up.wait_for(r"^state +(\S+) ")[1])
        up.wait_for(r"^ready")
        assert up.wait_for(r"^broker +(\w+) at")[1] == ("mosquitto" if broker == "private" else "amqtt")
        client = Client(url)
        assert client.status().agents == {"online": 2}
        assert wait_finished(client, client.submit(ledger_job("quick", ledger)).job_id) == "finished"
        tiers = ("edge", "cloud")
        groups = tuple(TaskGroup(name=t, command=("true",), needs=SMALL, where=Where(tiers=(t,))) for t in tiers)
        everywhere = Job(name="tiers", tasks=groups)
        assert wait_finished(client, client.submit(everywhere).job_id) == "finished"
        long = Job(name="long", tasks=(TaskGroup(name="t", command=("sleep", "300"), needs=SMALL),))
        job_id = client.submit(long).job_id
        deadline = time.monotonic() + 30
        while not client.task_page(job_id=job_id, state="running").tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        family = descendants(up)
        assert len(family) >= 3, "two agents, a task, and perhaps a broker"
        assert up.end() == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive, "Ctrl-C stops everything, tasks too"
        assert not folder.exists()
    assert sorted(ledger.read_text().split("\n"))[1:] == [f"quick/t/{index} 1" for index in range(4)]


def command_line(*arguments: str, url: str) -> str:
    """What a command prints; it must succeed."""
    command = [sys.executable, "-m", "federation.cli.main", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"OFFERFLOW_URL": url}
    )
    assert done.returncode == 0, done
    return done.stdout


@needs_mosquitto
def test_the_readmes_job_runs_on_one_core_with_four_agents(tmp_path: Path) -> None:
    """Every local agent offers a core, whatever the machine has and however busy it is: a job that says nothing of its
    needs asks for one. What is promised twice is said to be emulated."""
    page = (Path(__file__).parents[1] / "README.md").read_text()
    job_file = tmp_path / "hello.yaml"
    job_file.write_text(page.split("```yaml\n")[1].split("```")[0])
    one_core = {min(os.sched_getaffinity(0))}
    with started("up", "--agents", "4", "--http", "127.0.0.1:0", cpus=one_core, TMPDIR=str(tmp_path)) as up:
        url = up.wait_for(r"^master +(http://\S+),")[1]
        up.wait_for(r"^agents +rack, edge-1, edge-2, edge-3, 1 core each \(emulated: this machine has 1 core for all")
        up.wait_for("^ready")
        assert "finished" in command_line("job", "submit", str(job_file), "--wait", url=url)
        assert command_line("job", "logs", "hello", url=url).count("hello from ") == 4
        assert "greet" in command_line("job", "why", "hello", url=url)
        assert up.end() == 0


@needs_mosquitto
def test_state_that_is_kept_is_gone_on_from(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    port = free_port()
    arguments = ("up", "--http", f"127.0.0.1:{port}", "--agents", "1", "--state-dir", state, "--policy", "fifo")
    client = Client(f"http://127.0.0.1:{port}")
    with started(*arguments) as up:
        up.wait_for("^ready")
        job_id = client.submit(ledger_job("kept", tmp_path / "ledger")).job_id
        assert wait_finished(client, job_id) == "finished"
        assert up.end(signal.SIGTERM) == 0
    with started(*arguments) as up:
        up.wait_for("^ready")
        assert client.status().term == 2
        assert client.job(job_id).state == "finished"
        assert up.end() == 0


@needs_mosquitto
def test_an_agent_that_ends_is_reported_and_a_killed_up_takes_all_with_it(tmp_path: Path) -> None:
    with started("up", "--http", "127.0.0.1:0", "--agents", "2", "--policy", "fifo", TMPDIR=str(tmp_path)) as up:
        up.wait_for("^ready")
        family = descendants(up)
        victim = next(process for process in family if "edge-1.toml" in " ".join(process.cmdline()))
        victim.kill()
        up.wait_for(r"agent edge-1 ended with code -9")
        up.process.kill()
        up.process.wait()
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive


def test_mistakes_end_with_one_sentence_and_code_two(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("polcy = 'flow'")
    occupied = free_port_holder()
    taken = occupied.getsockname()[1]
    state = ("--state-dir", str(tmp_path / "s"))
    for arguments, said in (
        (("up", "--policy", "flwo"), "did you mean 'flow'"),
        (("up", "--broker", "tcp://h", "--policy", "fifo"), "is not a broker"),
        (("up", "--http", "nonsense"), "write HOST:PORT"),
        (("up", "--http", "0.0.0.0:0"), "needs a token"),
        (("up", "--agents", "-1"), "--agents"),
        (("master", "run", "--config", str(tmp_path / "wrong.toml")), "did you mean 'policy'"),
        (("master", "run", "--config", str(tmp_path / "none.toml")), "cannot be read"),
        (("master", "run", "--log-level", "loud", *state), "log_level"),
        (("master", "run", "--policy", "fifo", "--http", f"127.0.0.1:{taken}", *state), "cannot listen"),
        (("master", "run", "--policy", "fifo", "--state-dir", "/dev/null/x"), "cannot be made"),
    ):
        command = [sys.executable, "-m", "federation.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert (done.returncode, last.startswith("error: ")) == (2, True), (arguments, done)
        assert said in last and "Traceback" not in done.stderr
    occupied.close()


def free_port_holder() -> socket.socket:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    return holder


def test_a_master_in_use_is_refused_with_code_one(tmp_path: Path) -> None:
    arguments = (
        "master",
        "run",
        "--policy",
        "fifo",
        "--broker",
        "mqtt://127.0.0.1:1",
        "--state-dir",
        str(tmp_path / "s"),
    )
    with started(*arguments, "--http", "127.0.0.1:0") as first:
        first.wait_for("serves at")
        with started(*arguments, "--http", "127.0.0.1:0") as second:
            second.wait_for("error: the journal .* is in use by another process")
            assert second.process.wait(30) == 1
        assert first.end(signal.SIGTERM) == 0
