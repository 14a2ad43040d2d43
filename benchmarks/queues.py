"""M/M/1 and M/M/c queues through the whole player, against theory.

    python -m benchmarks.queues --tasks 1000000 --processes 2 --keep PARTS --json PATH

One agent of c cores serves tasks of one core each, first come, first served: Poisson arrivals, exponential run times.
The mean time in the system is 1/(μ − λ) for M/M/1 and Erlang's C formula's for M/M/c (Kleinrock, Queueing Systems I,
1975, §3.2 and §3.5). Run times are long against offers and rounds, whose share of the time is reported as overhead.
Many tasks are played in parts, each with a seed of its own and from an empty queue, which tens of thousands of tasks
outweigh; the margin is the 95 % interval of the mean over the parts. Parts are played in processes of their own, and
`--keep` notes each in a file as it is done (a JSON object a line): run again with that file, the command goes on where
it was ended. Each part names the build it was played on, and the result those of its parts: docs/results/queues.jsonl
holds twice a million tasks.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.comparison.store import build
from federation.config import MasterConfig
from federation.jobs import Job, TaskGroup
from policies import registry
from policies.model import Needs, Resources
from scenarios.player import play
from scenarios.randomness import Exponential, Poisson, arrival_times_us, draw_us
from scenarios.records import Records
from scenarios.streams import stream
from scenarios.world import AgentSpec, Arrival, World

SECOND = 1_000_000
SERVICE_S = 1
PART_TASKS = 50_000  # of one world; a million at once would take ten gigabytes
QUEUES = ((1, 500), (4, 700))  # servers, load in thousandths


def world_of(n_tasks: int, servers: int, load_milli: int, seed: int) -> World:
    """`load_milli` is ρ in thousandths: arrivals come at ρ·c/60 s."""
    process = Poisson(n_events=load_milli * servers, per_us=1000 * SERVICE_S * SECOND)
    span_us = n_tasks * process.per_us // process.n_events
    times = arrival_times_us(process, 0, 2 * span_us, stream(seed, "arrivals"))[:n_tasks]
    runs = stream(seed, "runs")
    arrivals = []
    for number, at_us in enumerate(times):
        run_us = draw_us(Exponential(mean_us=SERVICE_S * SECOND), runs)
        group = TaskGroup(name="t", command=("x",), needs=Needs(cpu_milli=1000), run_us=SECOND, simulated_run_us=run_us)
        arrivals.append(Arrival(at_us=30 * SECOND + at_us, job=Job(name=f"q-{number}", tasks=(group,))))
    agent = AgentSpec(agent_id="server", site="s", tier="cloud", total=Resources(cpu_milli=1000 * servers))
    return World(
        name="queue", purpose="a queue with a formula", seed=seed, duration_us=4 * span_us + 10_000 * SECOND,
        agents=(agent,), links=(), master_site="s", arrivals=tuple(arrivals), solve_us=1, commit_us=1,
    )  # fmt: skip


def mean_in_system_s(servers: int, load_milli: int) -> float:
    """Theory, by Erlang's C formula; M/M/1 is its case of one server."""
    offered = servers * load_milli / 1000
    blocked = 1.0
    for n in range(1, servers + 1):  # Erlang's B by recursion.
        blocked = offered * blocked / (n + offered * blocked)
    waits = blocked / (1 - load_milli / 1000 * (1 - blocked))
    return SERVICE_S * (1 + waits / (servers - offered))


def measure(n_tasks: int, servers: int, load_milli: int, seed: int = 1) -> dict[str, Any]:
    config = MasterConfig(round_every_us=0, ended_jobs_max=100)
    outcome = play(world_of(n_tasks, servers, load_milli, seed), registry.load("fifo"), "fifo", config=config)
    assert not outcome.broken_laws, outcome.broken_laws
    records = Records(outcome)
    tasks = [task for task in records.tasks.values() if task.ended_us is not None]
    assert len(tasks) == n_tasks, "a task did not end"
    times_us = [(task.ended_us or 0) - task.arrived_us for task in tasks]
    overheads_us = [(task.ended_us or 0) - (task.placed_us or 0) - (task.run_us or 0) for task in tasks]
    theory_s = mean_in_system_s(servers, load_milli)
    mean_s = sum(times_us) / n_tasks / SECOND
    # Little's law: the area under the number in the system is the sum of the times in it.
    area_us, before = 0, records.queue[0]
    for point in records.queue[1:]:
        area_us += (before.pending + before.waiting + before.placed) * (point.at_us - before.at_us)
        before = point
    return {
        "servers": servers,
        "load": load_milli / 1000,
        "tasks": n_tasks,
        "seed": seed,
        "mean_s": round(mean_s, 4),
        "theory_s": round(theory_s, 4),
        "error": round(mean_s / theory_s - 1, 5),
        "overhead_s": round(sum(overheads_us) / n_tasks / SECOND, 4),
        "little": round(area_us / sum(times_us), 6) if not math.isclose(sum(times_us), 0) else None,
    }


Part = tuple[int, int, int, int]  # tasks, servers, load in thousandths, seed


def parts_of(n_tasks: int) -> list[Part]:
    """All parts of all queues, one of each in turn."""
    n_parts = max(1, n_tasks // PART_TASKS)
    return [
        (n_tasks // n_parts, servers, load_milli, seed)
        for seed in range(1, n_parts + 1)
        for servers, load_milli in QUEUES
    ]


def known_parts(path: Path) -> dict[Part, dict[str, Any]]:
    """What a run before has noted; a line it was ended in does not count."""
    known = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            part = json.loads(line)
        except ValueError:
            continue
        known[part["tasks"], part["servers"], round(part["load"] * 1000), part["seed"]] = part
    return known


def played(parts: list[Part], n_processes: int) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(n_processes) as pool:
        for done in as_completed([pool.submit(measure, *part) for part in parts]):
            yield done.result()


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the parts of one queue."""
    mean_s, theory_s = statistics.mean(part["mean_s"] for part in parts), parts[0]["theory_s"]
    spread_s = 1.96 * statistics.stdev(part["mean_s"] for part in parts) / math.sqrt(len(parts))
    return {
        **{key: parts[0][key] for key in ("servers", "load", "theory_s")},
        "tasks": sum(part["tasks"] for part in parts),
        "parts": len(parts),
        "mean_s": round(mean_s, 3),
        "margin_s": round(spread_s, 3),
        "error": round(mean_s / theory_s - 1, 5),
        "overhead_s": round(statistics.mean(part["overhead_s"] for part in parts), 4),
        "builds": dict(Counter(part["build"] for part in parts)),
        "little": [min(part["little"] for part in parts), max(part["little"] for part in parts)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="of each queue; at least two parts")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="note parts here as they are done, and go on from those noted")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tasks < 2 * PART_TASKS:
        parser.error(f"--tasks: at least {2 * PART_TASKS}, for a margin")
    wanted = parts_of(options.tasks)
    known = known_parts(options.keep) if options.keep is not None else {}
    this = build()
    for part in played([part for part in wanted if part not in known], options.processes):
        print(part, file=sys.stderr, flush=True)
        part["build"] = this
        known[part["tasks"], part["servers"], round(part["load"] * 1000), part["seed"]] = part
        if options.keep is not None:
            with options.keep.open("a") as kept:
                kept.write("\n" + json.dumps(part))  # after whatever was left half-written
    results = [
        summary([known[part] for part in wanted if part[1:3] == (servers, load_milli)])
        for servers, load_milli in QUEUES
    ]
    text = json.dumps(results, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
