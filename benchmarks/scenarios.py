"""The scenario engine: how true its network is, how fast its parts are, what a world costs.

    python -m benchmarks.scenarios --json PATH [--only NAME …]

All is single-threaded; speeds are per second of CPU time, which is wall time where the core is free (but for
`sim_over_wall_10k_agents`, whose name says wall; `sim_over_cpu_10k_agents` stands beside it).

- flows_per_s: flows through the network alone, so many under way at once, each that ends replaced by the next; on a
  star; `flows_per_s_by_platform` has tree, dumbbell and random graph too.
- simgrid: completion times of the same flows on the same platforms in SimGrid (Debian: python3-simgrid; the system's
  Python runs it), model LV08; relative error of the mean rate over all flows; and SimGrid's own flows/s on the star.
- lifecycles_per_s: tasks from submission to end through the master's core alone: the events of a player's run, given
  to a fresh master again. `lifecycles_per_s_player` is that run itself: agents, laws, digest and policy included.
- sim_over_wall_10k_agents: simulated over wall time, 10,000 agents at 100 sites, a job of 1,000 tasks each second.
- bytes_per_agent, bytes_per_task: memory the engine holds for one idle agent, and for one pending task.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.platforms import NAMES, Platform, Transfer, described, platform
from federation import events
from federation.config import MasterConfig
from federation.durable import DurableState
from federation.facts import Fact
from federation.jobs import Job, TaskGroup
from federation.master import Master
from federation.serving import rare_collections
from policies import registry
from policies.kernels.cache import warm_up
from policies.model import Needs, Resources
from scenarios.network import LinkSpec, Network
from scenarios.player import Player
from scenarios.transport import CM02, LV08, Transport
from scenarios.world import AgentSpec, Arrival, World

CONCURRENT = (10, 100, 1000)
TURNOVER = 10_000  # flows through the network in one measurement
SEEDS = (1, 2, 3)
BEST_OF = 3  # Others on the machine make a run slower, never faster.
SYSTEM_PYTHON = "/usr/bin/python3"
SIMGRID = Path(__file__).with_name("simgrid_flows.py")
SECOND = 1_000_000
GIB = 2**30


# --- the network -----------------------------------------------------------------------------------------------------


def flows_per_s() -> dict[str, Any]:
    by_platform = {
        name: {
            str(n): round(max(_closed_loop(platform(name, max(10, n)), n) for _ in range(BEST_OF))) for n in CONCURRENT
        }
        for name in NAMES
    }
    return {"flows_per_s": by_platform["star"], "flows_per_s_by_platform": by_platform}


def _closed_loop(where: Platform, n: int) -> float:
    """Flows per second with `n` under way. Building the workload does not count."""
    transfers = where.transfers(n + TURNOVER, 0, SEEDS[0])
    network = Network(where.links)
    for transfer in transfers[:n]:
        network.start(transfer.path, transfer.size_bytes, 0)
    n_ended, n_begun = 0, n
    began = time.process_time()
    while n_ended < TURNOVER:
        now_us = network.next_end_us()
        assert now_us is not None, "flows are under way and none will end"
        for _ in network.ended(now_us):
            n_ended += 1
            if n_begun < len(transfers):
                _, path, _, _, size_bytes = transfers[n_begun]
                network.start(path, size_bytes, now_us)
                n_begun += 1
    return n_ended / (time.process_time() - began)


def simgrid() -> dict[str, Any]:
    has_it = Path(SYSTEM_PYTHON).exists() and shutil.which(SYSTEM_PYTHON)
    if not has_it or subprocess.run([SYSTEM_PYTHON, "-c", "import simgrid"], capture_output=True).returncode:
        return {
            "simgrid": {"missing": f"{SYSTEM_PYTHON} has no module simgrid; on Debian: apt install python3-simgrid"}
        }
    found: dict[str, Any] = {}
    for model, transport in (("LV08", LV08), ("CM02", CM02)):
        errors: list[float] = []
        by_platform = {}
        for name in NAMES:
            for n in CONCURRENT:
                some = [
                    error for seed in SEEDS for error in _errors(platform(name, max(10, n)), n, seed, model, transport)
                ]
                by_platform[f"{name}/{n}"] = _summary(some)
                errors += some
        found[model] = {**_summary(errors), "n_flows": len(errors), "by_platform": by_platform}
    speed = {}
    for n in CONCURRENT:
        where = platform("star", max(10, n))
        asked = described(where, where.transfers(n + TURNOVER // 5, 0, SEEDS[0]), {"model": "LV08", "concurrent": n})
        speed[str(n)] = round(TURNOVER // 5 / min(_ask_simgrid(asked)["cpu_s"] for _ in range(BEST_OF)))
    headline = {key: found["LV08"][key] for key in ("median_error", "p95_error", "max_error")}
    return {"simgrid": {**headline, "flows_per_s": speed, "models": found}}


def _summary(errors: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(errors, n=100)
    return {"median_error": cuts[49], "p95_error": cuts[94], "max_error": max(errors)}


def _errors(where: Platform, n: int, seed: int, model: str, transport: Transport) -> list[float]:
    """Relative error of each flow's mean rate; all begin within a tenth of a second."""
    transfers = where.transfers(n, 100_000, seed)
    theirs = _ask_simgrid(described(where, transfers, {"model": model, "concurrent": 0}))["ended_s"]
    ours = _by_time(Network(where.links, transport), transfers)
    pairs = zip(transfers, ours, theirs, strict=True)
    return [abs((end_s * SECOND - flow.at_us) / (end_us - flow.at_us) - 1) for flow, end_us, end_s in pairs]


def _by_time(network: Network, transfers: list[Transfer]) -> list[int]:
    """When each flow ends if it begins at its time."""
    ends: dict[int, int] = {}
    ids = []
    for transfer in transfers:
        while (end_us := network.next_end_us()) is not None and end_us <= transfer.at_us:
            ends |= {flow.flow_id: end_us for flow in network.ended(end_us)}
        ids.append(network.start(transfer.path, transfer.size_bytes, transfer.at_us))
    while (end_us := network.next_end_us()) is not None:
        ends |= {flow.flow_id: end_us for flow in network.ended(end_us)}
    return [ends[flow_id] for flow_id in ids]


def _ask_simgrid(asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([SYSTEM_PYTHON, str(SIMGRID)], input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"SimGrid failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- the master, alone and in the player -----------------------------------------------------------------------------


class _Recorder(Player):
    """A player that keeps what its master was told, and what the master made durable."""

    def __init__(self, world: World, policy_name: str) -> None:
        self.heard: list[tuple[int, events.Event]] = []
        self.facts: list[Fact] = []
        super().__init__(world, registry.load(policy_name), policy_name, MasterConfig(), None)

    def _note(self, now_us: int, value: events.Event | Fact) -> None:
        super()._note(now_us, value)
        if isinstance(value, events.Event):
            self.heard.append((now_us, value))
        else:
            self.facts.append(value)


def lifecycles_per_s(n_tasks: int = 50_000, policy_name: str = "fifo") -> dict[str, Any]:
    """Room for everything at once, a network without delays, tasks of a second that read and write nothing."""
    jobs = tuple(Arrival(at_us=20 * SECOND + at * SECOND, job=_job(f"job-{at}", 1000)) for at in range(n_tasks // 1000))
    world = _world(100, 1, rtt_us=0, duration_us=600 * SECOND, arrivals=jobs)
    recorder = _Recorder(world, policy_name)
    began = time.process_time()
    outcome = recorder.run()
    player_s = time.process_time() - began
    assert not outcome.broken_laws and not outcome.refused, (outcome.broken_laws, outcome.refused)
    wanted = outcome.master.durable()
    master_s = min(_replayed_s(recorder.heard, policy_name, wanted) for _ in range(BEST_OF))
    return {
        "lifecycles_per_s": round(n_tasks / master_s),
        "lifecycles_per_s_player": round(n_tasks / player_s),
        "master_events_per_task": round(len(recorder.heard) / n_tasks, 2),
    }


def _replayed_s(heard: list[tuple[int, events.Event]], policy_name: str, wanted: DurableState) -> float:
    """CPU time that a fresh master takes for what another heard."""
    master = Master(MasterConfig(), policy_name)
    with rare_collections():  # as the live master runs
        began = time.process_time()
        for now_us, event in heard:
            master.handle(event, now_us)
        took_s = time.process_time() - began
    assert master.durable() == wanted, "the same events led elsewhere"
    return took_s


def sim_over_wall_10k_agents(seconds: int = 60) -> dict[str, Any]:
    jobs = tuple(Arrival(at_us=20 * SECOND + at * SECOND, job=_job(f"job-{at}", 1000)) for at in range(seconds - 30))
    world = _world(10_000, 100, rtt_us=20_000, duration_us=seconds * SECOND, arrivals=jobs, to_the_end=True)
    player = Player(world, registry.load("fifo"), "fifo", MasterConfig(), None)
    began, began_cpu = time.perf_counter(), time.process_time()
    outcome = player.run()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    assert not outcome.broken_laws, outcome.broken_laws
    return {
        "sim_over_wall_10k_agents": round(outcome.ended_us / 1e6 / wall_s, 2),
        "sim_over_cpu_10k_agents": round(outcome.ended_us / 1e6 / cpu_s, 2),
        "events_per_s_10k_agents": round(outcome.n_events / cpu_s),
    }


def bytes_per_agent(n_agents: int = 1000) -> dict[str, Any]:
    """Of the player, its agent and the master together, after everyone was welcomed and has offered."""
    return {"bytes_per_agent": round(_held_bytes(n_agents, 0) / n_agents)}


def bytes_per_task(n_tasks: int = 20_000) -> dict[str, Any]:
    """Pending, because one agent has no room for more than one; journal and laws included."""
    return {"bytes_per_task": round((_held_bytes(1, n_tasks) - _held_bytes(1, 0)) / n_tasks)}


def _held_bytes(n_agents: int, n_tasks: int) -> int:
    jobs = tuple(
        Arrival(at_us=15 * SECOND, job=_job(f"job-{at}", 1000, cpu_milli=64_000)) for at in range(n_tasks // 1000)
    )
    world = _world(n_agents, 1, rtt_us=1000, duration_us=20 * SECOND, arrivals=jobs, to_the_end=True)
    policy = registry.load("fifo")
    tracemalloc.start()
    try:
        player = Player(world, policy, "fifo", MasterConfig(), None)
        outcome = player.run()
        assert not outcome.broken_laws, outcome.broken_laws
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _world(
    n_agents: int,
    n_sites: int,
    *,
    rtt_us: int,
    duration_us: int,
    arrivals: tuple[Arrival, ...],
    to_the_end: bool = False,
) -> World:
    total = Resources(cpu_milli=64_000, memory_bytes=256 * GIB, disk_bytes=1024 * GIB)
    agents = tuple(
        AgentSpec(agent_id=f"agent-{at}", site=f"site-{at % n_sites}", tier="cloud", total=total)
        for at in range(n_agents)
    )
    sites = [f"site-{at}" for at in range(n_sites)]
    link = LinkSpec(rtt_us=rtt_us, bandwidth_bps=10_000_000_000)
    links = tuple((a, b, link) for a in sites for b in sites)
    return World(
        name="benchmark", purpose="", seed=1, duration_us=duration_us, agents=agents, links=links,
        master_site="site-0", arrivals=arrivals, to_the_end=to_the_end,
    )  # fmt: skip


def _job(name: str, n_tasks: int, cpu_milli: int = 1000) -> Job:
    group = TaskGroup(
        name="task", command=("run",), count=n_tasks, needs=Needs(cpu_milli=cpu_milli, memory_bytes=64 * 2**20),
        run_us=SECOND, simulated_run_us=SECOND, profile="benchmark",
    )  # fmt: skip
    return Job(name=name, tasks=(group,))


MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "flows_per_s": flows_per_s,
    "simgrid": simgrid,
    "lifecycles_per_s": lifecycles_per_s,
    "sim_over_wall_10k_agents": sim_over_wall_10k_agents,
    "bytes_per_agent": bytes_per_agent,
    "bytes_per_task": bytes_per_task,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="write the results here")
    options.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    arguments = options.parse_args()
    warm_up()
    results: dict[str, Any] = {}
    for name in arguments.only:
        print(f"[{name}] …", file=sys.stderr, flush=True)
        found = MEASURES[name]()
        results |= found
        for key, value in found.items():
            shown = {k: v for k, v in value.items() if k != "models"} if isinstance(value, dict) else value
            print(f"{key}  {shown}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
