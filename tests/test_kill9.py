"""`kill -9` of the real master, fifty times at random moments, with jobs coming in and agents at work; on both brokers.

Whatever the moment: a job that was acknowledged is there and finishes, and no task runs twice under one attempt.
"""

import asyncio
import collections
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.broker import Kind, die_with_parent, free_port, start_broker
from federation.cli.client import Client
from federation.cli.exits import CommandError
from federation.jobs import Job, TaskGroup
from policies.model import Needs
from tests.live_world import kind

__all__ = ["kind"]  # a fixture

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Fewer where the broker shares this process and its one core.
KILLS: dict[Kind, int] = {"mosquitto": 50, "amqtt": 10}
SEED = 20_240_229  # The delays are the same each time; what they hit is not.
# A life ends between recovery just begun and a good deal of work done: up to two starts, as long as they take on this
# machine now, and a second and a half.
LIFE_S_MIN, WORK_S = 0.05, 1.5
TASKS_PER_JOB = 4
STALL_S = 60
# A rhythm that recovers in a blink, so that each short life gets as far as launching tasks.
MASTER_TOML = """
snapshot_every_facts = 60
[master]
ping_every_us = 300_000
suspect_after_us = 3_000_000
offer_every_us = 300_000
offer_lease_us = 5_000_000
resend_after_us = 500_000
rebirth_spread_us = 0
rebirth_every_us = 300_000
reconcile_timeout_us = 5_000_000
round_every_us = 10_000
"""
# Imports and kernels take longer than a life. This process has loaded them, and forks a master for each line it reads.
STEM = """
import os, sys
import policies.fifo
from federation.serving import warm_up
from federation.cli.main import run
warm_up("fifo", lambda text: print(text, file=sys.stderr))
print(0, flush=True)
while sys.stdin.readline():
    pid = os.fork()
    if pid == 0:
        os._exit(run(sys.argv[1:]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Crashing:
    """The master's process: started, killed, started again, always on the same folder and address."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.log = folder / "master.log"
        self.client = Client(f"http://127.0.0.1:{free_port()}", timeout_s=5)
        (folder / "master.toml").write_text(MASTER_TOML)
        self._arguments = (
            *("master", "run", "--config", str(folder / "master.toml"), "--state-dir", str(folder / "state")),
            *("--broker", broker_url, "--http", self.client.url.removeprefix("http://"), "--policy", "fifo"),
        )
        self._pid = 0

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        with self.log.open("ab") as log:
            self._stem = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", STEM, *self._arguments),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            assert await self._number() == 0  # It is ready to fork.
            yield
        finally:
            if self._pid:
                await self.end(signal.SIGKILL)
            assert self._stem.stdin is not None
            self._stem.stdin.close()
            await self._stem.wait()

    async def start(self) -> None:
        assert self._stem.stdin is not None
        self._stem.stdin.write(b"\n")
        self._pid = await self._number()

    async def end(self, number: signal.Signals) -> int:
        """Signal it; returns how it ended. If it had ended by itself, that is what is returned."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)
        self._pid = 0
        return await self._number()

    async def _number(self) -> int:
        """The next line that is a number; the master's own greeting comes through the same pipe."""
        assert self._stem.stdout is not None
        while not (line := (await self._stem.stdout.readline()).strip()).lstrip(b"-").isdigit():
            assert line, f"the master's parent has gone: see {self.log}"
        return int(line)


@asynccontextmanager
async def agent(folder: Path, name: str, broker_url: str) -> AsyncIterator[None]:
    config = folder / f"{name}.toml"
    config.write_text(
        f'agent_id = "{name}"\nsite = "{name}"\nbroker = "{broker_url}"\ndata_dir = "{folder / "agents"}"\n'
        "cpu_milli = 4000\nspeed_milli = 1000\nmeasure_every_us = 500_000\nstatus_retry_min_us = 200_000\n"
    )
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agents", str(config), "warning"),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        yield
        assert process.returncode is None, f"the agent ended by itself: see {log.name}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def job(name: str, ledger: Path) -> Job:
    """Each run of a task appends one line; O_APPEND makes it whole."""
    command = ("sh", "-c", f'echo "$OFFERFLOW_TASK_ID $OFFERFLOW_ATTEMPT" >> {ledger}')
    needs = Needs(cpu_milli=500, memory_bytes=2**20)
    return Job(name=name, tasks=(TaskGroup(name="t", command=command, count=TASKS_PER_JOB, needs=needs),))


async def submit_for_ever(client: Client, ledger: Path, acknowledged: list[str], over: asyncio.Event) -> None:
    """One job after the other; each is asked for until it is acknowledged, always under the same submission id."""
    number = 0
    while not over.is_set():
        name = f"j{number}"
        try:
            view = await asyncio.to_thread(client.submit, job(name, ledger), name)
        except CommandError:
            await asyncio.sleep(0.05)
            continue
        acknowledged.append(view.job_id)
        number += 1
        await asyncio.sleep(0.3)  # Else a slow machine has more to run than to survive.


async def answers(client: Client) -> None:
    async with asyncio.timeout(STALL_S):
        while True:
            with contextlib.suppress(CommandError):
                await asyncio.to_thread(client.status)
                return
            await asyncio.sleep(0.02)


async def all_finished(client: Client, job_ids: list[str]) -> dict[str, str]:
    """The jobs' states once all have finished, or when nothing has moved for `STALL_S`: a busy machine is slow."""
    states: dict[str, str] = {}
    n_finished, moved_at = 0, time.monotonic()
    while time.monotonic() < moved_at + STALL_S:
        try:
            states = {view.job_id: view.state for view in await asyncio.to_thread(client.jobs)}
        except CommandError:
            states = {}
        found = sum(states.get(job_id) == "finished" for job_id in job_ids)
        if found == len(job_ids):
            break
        if found > n_finished:
            n_finished, moved_at = found, time.monotonic()
        await asyncio.sleep(0.2)
    return states


async def test_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, kind: Kind) -> None:
    n_kills = KILLS[kind]
    chance = random.Random(SEED)
    ledger = tmp_path / "ledger"
    ledger.touch()
    broker = await start_broker(tmp_path / "broker", kind)
    master = Crashing(tmp_path, broker.url)
    acknowledged: list[str] = []
    over = asyncio.Event()
    try:
        async with (
            master.prepared(),
            agent(tmp_path, "gw-1", broker.url),
            agent(tmp_path, "gw-2", broker.url),
        ):
            began = time.monotonic()
            await master.start()
            await answers(master.client)
            start_s = time.monotonic() - began
            await master.end(signal.SIGKILL)
            submitting = asyncio.create_task(submit_for_ever(master.client, ledger, acknowledged, over))
            for _ in range(n_kills):
                await master.start()
                # In mid-recovery, in mid-commit, in mid-launch.
                await asyncio.sleep(chance.uniform(LIFE_S_MIN, 2 * start_s + WORK_S))
                assert await master.end(signal.SIGKILL) == -signal.SIGKILL, f"it ended by itself: see {master.log}"
            await master.start()
            await answers(master.client)
            over.set()
            await submitting
            states = await all_finished(master.client, acknowledged)
            assert await master.end(signal.SIGTERM) == 0
    finally:
        await broker.stop()
    runs = collections.Counter(ledger.read_text().splitlines())
    print(f"{len(acknowledged)} jobs acknowledged over {n_kills} kills, {sum(runs.values())} runs")
    assert len(acknowledged) >= n_kills / 2, "too few jobs came through to prove anything"
    assert len(set(acknowledged)) == len(acknowledged), "a submission id gave two jobs"
    unfinished = {job_id: states.get(job_id, "lost") for job_id in acknowledged if states.get(job_id) != "finished"}
    assert not unfinished
    repeated = {run: count for run, count in runs.items() if count > 1}
    assert not repeated, "these ran twice under one attempt"
    tasks = {f"{job_id}/t/{index}" for job_id in acknowledged for index in range(TASKS_PER_JOB)}
    assert tasks <= {run.split()[0] for run in runs}
