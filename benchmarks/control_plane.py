"""The control plane under load: births, offers and placements per second over a real Mosquitto on one machine.

    python -m benchmarks.control_plane --json PATH [--agents 100 1000 5000] [--tasks 10000] [--rate 1000]

Real are the broker, the master process with its journal (`synchronous=FULL`), its HTTP and the policy; agents are the
production core over simulated devices (`benchmarks/fleet.py`). Broker, master, fleet and this client share the machine,
so the figures are a floor; the CPU time of each process says whose floor it is.

- births: all agents connect at once; seconds until the last is welcomed.
- offers: each agent sends new offers as fast as the broker takes them, until the master answers a ping sent after them.
- placements per second: one job of `--tasks` tasks; from the first launch's arrival at an agent to the last's. The
  agents bound it too: `slots_per_s` is what their cores could take at most.
- submit to launch: jobs of ten tasks at `--rate` tasks/s; from the POST to each launch's arrival at its agent. A queue
  that grows shows in the last third of the tasks against the first.

`--against TREE` runs another checkout (its master and its fleet) in turn with this one, `--runs` times each: the only
comparison that another day's load does not spoil. `--ahead` lets the processes go before all others of a shared Linux
machine (its scheduler groups by session, so `nice` alone does not; needs root).
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from federation.broker import free_port, start_broker
from federation.cli.client import Client
from federation.cli.exits import CommandError
from federation.jobs import Job, TaskGroup
from policies.model import Needs

TASKS_PER_JOB = 10
RUN_US = 200_000  # short, so that 100 agents with four cores each do not bound the burst
OFFERS_EACH = 4
START_S = 60.0
END_S = 300.0
CPUS_EACH = 4  # of an agent; a task takes one
HERE = Path(__file__).parents[1]
AHEAD = -15  # as `nice`, for a whole session


class Spent:
    """CPU seconds of each process, phase by phase."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._before = self._now()
        self.phases: dict[str, dict[str, float]] = {}

    def _now(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def end(self, phase: str) -> None:
        now = self._now()
        self.phases[phase] = {name: round(now[name] - self._before[name], 2) for name in now}
        self._before = now


async def measure(tree: Path, n_agents: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="offerflow-bench-") as name:
        folder = Path(name)
        broker = await start_broker(folder / "broker", "mosquitto")
        broker_pid = next(p.pid for p in psutil.Process().children() if "mosquitto" in p.name())
        client = Client(f"http://127.0.0.1:{free_port()}")
        master = await _spawn(
            tree, folder / "master.log",
            *("federation.cli.main", "master", "run", "--broker", broker.url, "--policy", options.policy),
            *("--http", client.url.removeprefix("http://"), "--state-dir", str(folder / "state")),
        )  # fmt: skip
        fleet = await _spawn(tree, None, "benchmarks.fleet", "--broker", broker.url, "--agents", str(n_agents))
        if options.ahead:
            _go_ahead(broker_pid)
        try:
            await _until_serving(client)
            await _ask(fleet, None)  # ready
            spent = Spent(broker=broker_pid, master=master.pid, fleet=fleet.pid)
            births = await _ask(fleet, "births")
            spent.end("births")
            offers = await _ask(fleet, f"offers {OFFERS_EACH}")
            await _settle(client)
            spent.end("offers")
            rss_idle = psutil.Process(master.pid).memory_info().rss
            placed = await _burst(client, fleet, options.tasks)
            spent.end("burst")
            began = time.monotonic()
            latency_ms = await _open_loop(client, fleet, options.rate, options.seconds)
            open_s = time.monotonic() - began
            spent.end("open_loop")
            rss = max(rss_idle, psutil.Process(master.pid).memory_info().rss)
            late_ms = _late_ms(client)
            _say(fleet, "stop")
            await fleet.wait()
        except BaseException:
            print((folder / "master.log").read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            for process in (fleet, master):
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
            await broker.stop()
    cuts, third = statistics.quantiles(latency_ms, n=100), max(1, len(latency_ms) // 3)
    return {
        "agents": n_agents,
        "births_per_s": round(births["n"] / births["seconds"]),
        "offers_per_s": round(offers["n"] / offers["seconds"]),
        "placements_per_s": round(placed),
        "slots_per_s": round(n_agents * CPUS_EACH * 1e6 / RUN_US),
        "rate_per_s": options.rate,
        "submit_to_launch_p50_ms": round(cuts[49], 1),
        "submit_to_launch_p99_ms": round(cuts[98], 1),
        "first_third_p50_ms": round(statistics.median(latency_ms[:third]), 1),
        "last_third_p50_ms": round(statistics.median(latency_ms[-third:]), 1),
        "open_loop_s": round(open_s, 1),
        "loop_late_ms_max": late_ms,
        "master_rss_bytes": rss,
        "cpu_s": spent.phases,
    }


async def _burst(client: Client, fleet: asyncio.subprocess.Process, n_tasks: int) -> float:
    """Placements per second while a whole job waits. All agents together hold four tasks each at once."""
    job = await asyncio.to_thread(client.submit, _job("burst", n_tasks))
    await _until_ended(client)
    launched = (await _ask(fleet, "launches"))["launched_at"]
    times = sorted(at for task_id, at in launched.items() if task_id.startswith(f"{job.job_id}/"))
    assert len(times) == n_tasks, f"{len(times)} of {n_tasks} tasks were launched"
    seconds: float = times[-1] - times[0]
    return (n_tasks - 1) / seconds


async def _open_loop(client: Client, fleet: asyncio.subprocess.Process, rate: int, seconds: float) -> list[float]:
    """Milliseconds from submission to launch of each task, in order of submission, at a fixed rate whatever the
    master's answer time."""
    period_s = TASKS_PER_JOB / rate
    submitted: dict[str, float] = {}

    async def submit(name: str) -> None:
        began = time.time()
        job = await asyncio.to_thread(client.submit, _job(name, TASKS_PER_JOB))
        submitted[job.job_id] = began

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index in range(int(seconds / period_s)):
            await asyncio.sleep(max(0.0, began + index * period_s - time.monotonic()))
            group.create_task(submit(f"steady-{index}"))
    await _until_ended(client)
    launched = (await _ask(fleet, "launches"))["launched_at"]
    by_submission = sorted(
        (submitted[job_id], at) for task_id, at in launched.items() if (job_id := task_id.split("/", 1)[0]) in submitted
    )
    return [(at - began) * 1000 for began, at in by_submission]


def _job(name: str, n_tasks: int) -> Job:
    needs = Needs(cpu_milli=1000, memory_bytes=64 * 2**20)
    group = TaskGroup(
        name="task",
        command=("run",),
        count=n_tasks,
        needs=needs,
        run_us=RUN_US,
        simulated_run_us=RUN_US,
        profile="bench",
    )
    return Job(name=name, tasks=(group,))


async def _until_serving(client: Client) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(CommandError):
                status = await asyncio.to_thread(client.status)
                if status.state == "serving" and status.broker.startswith("connected to"):
                    return  # Births sent before would be repeated after two seconds, and that would be measured.
            await asyncio.sleep(0.1)


async def _settle(client: Client) -> None:
    """Until every agent has an offer in the book."""
    async with asyncio.timeout(START_S):
        while True:
            status = await asyncio.to_thread(client.status)
            if status.n_offers == sum(status.agents.values()):
                return
            await asyncio.sleep(0.2)


async def _until_ended(client: Client) -> None:
    async with asyncio.timeout(END_S):
        while True:
            if not (await asyncio.to_thread(client.status)).jobs.get("running", 0):
                return
            await asyncio.sleep(0.2)


def _late_ms(client: Client) -> float | None:
    """The longest that the master's loop was late in the last seconds; None where it does not say."""
    with urllib.request.urlopen(f"{client.url}/metrics") as answer:
        found = re.search(rb"^offerflow_driver_loop_late_us_max (\S+)", answer.read(), re.MULTILINE)
    return round(float(found[1]) / 1000, 1) if found else None


def _go_ahead(pid: int | None = None) -> None:
    Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(AHEAD))


async def _spawn(tree: Path, log: Path | None, module: str, *arguments: str) -> asyncio.subprocess.Process:
    out = asyncio.subprocess.PIPE if log is None else log.open("wb")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdin=asyncio.subprocess.PIPE, stdout=out,
        stderr=None if log is None else out, limit=256 * 2**20, cwd=tree,
    )  # fmt: skip


def _say(fleet: asyncio.subprocess.Process, line: str) -> None:
    assert fleet.stdin is not None
    fleet.stdin.write(f"{line}\n".encode())


async def _ask(fleet: asyncio.subprocess.Process, line: str | None) -> dict[str, Any]:
    if line is not None:
        _say(fleet, line)
    assert fleet.stdout is not None
    answer: dict[str, Any] = json.loads(await fleet.stdout.readline())
    return answer


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--json", type=Path, help="write the results here: the last size's keys, and all of them under `runs`"
    )
    options.add_argument("--agents", type=int, nargs="+", default=[100, 1000, 5000])
    options.add_argument("--tasks", type=int, default=10_000, help="tasks of the burst")
    options.add_argument("--rate", type=int, default=500, help="tasks/s of the open loop")
    options.add_argument("--seconds", type=float, default=10.0, help="of the open loop")
    options.add_argument("--policy", default="flow")
    options.add_argument("--against", type=Path, help="another checkout, run in turn with this one")
    options.add_argument("--runs", type=int, default=1, help="of each size and checkout")
    options.add_argument("--ahead", action="store_true", help="go before everything else on this machine")
    arguments = options.parse_args()
    if arguments.ahead:
        _go_ahead()
    trees = {"here": HERE} | ({"against": arguments.against.resolve()} if arguments.against else {})
    runs = []
    for n_agents in arguments.agents:
        for _ in range(arguments.runs):
            for name, tree in trees.items():
                result = {"tree": name} | asyncio.run(measure(tree, n_agents, arguments))
                runs.append(result)
                print("  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    if arguments.json:
        last = next(run for run in reversed(runs) if run["tree"] == "here")
        arguments.json.write_text(json.dumps({"policy": arguments.policy, **last, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
