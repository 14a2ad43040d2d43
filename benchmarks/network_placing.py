"""Placing by measured links against placing blindly (`fifo`) and staying with the data (`locality`), over seeds.

`python -m benchmarks.network_placing --data TRACES --json PATH` plays `scenarios/pulling-apart.yaml` (real links and
round trips, synthetic load) with each policy and seed, and `flow` a second time with all moves forbidden. For each
measure: the mean over seeds with its 95 % confidence interval (Student's t), and the same of the difference to `flow`
from the same seed. Costs about seven seconds a run of one core.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import msgspec

from policies.registry import load
from scenarios.expect import Metric
from scenarios.format import load_scenario
from scenarios.metrics import Metrics
from scenarios.player import play
from scenarios.records import Records

SCENARIO = Path(__file__).parents[1] / "scenarios" / "pulling-apart.yaml"
RUNS = (("flow", None), ("flow, no moves", 0), ("fifo", 0), ("locality", 0))
MEASURES = {
    "mean_s": Metric(measure="latency", stat="mean"),
    "p99_s": Metric(measure="latency", stat="p99"),
    "gb_between_sites": Metric(measure="bytes_moved", stat=""),
    "deadline_miss": Metric(measure="deadline_miss", stat=""),
    "moves": Metric(measure="moves", stat=""),
    "redirects": Metric(measure="redirects", stat=""),
    "not_finished": Metric(measure="tasks.open", stat=""),
}
SCALES = {"mean_s": 1e-6, "p99_s": 1e-6, "gb_between_sites": 1e-9}
# Two-sided 95 % quantiles of Student's t by degrees of freedom; past the table a little too wide.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23, 11: 2.20, 14: 2.14}


def run(name: str, moves: int | None, seed: int, data: Path) -> dict[str, float]:
    """One run's measures. Times are of the tasks that finished; `not_finished` says how many did not."""
    world = load_scenario(SCENARIO, seed=seed, traces=data).world
    if moves is not None:
        world = msgspec.structs.replace(world, moves_per_minute=moves)
    policy = name.partition(",")[0]
    metrics = Metrics(Records(play(world, load(policy), policy)))
    return {key: (metrics.value(metric) or 0.0) * SCALES.get(key, 1.0) for key, metric in MEASURES.items()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % confidence interval."""
    n = len(values)
    return fmean(values), T95.get(n - 1, 2.2) * stdev(values) / n**0.5 if n > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of trace sets: skyplane, mobile_5g")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in RUNS}
    for seed in range(1, given.seeds + 1):
        for name, moves in RUNS:
            found[name].append(run(name, moves, seed, given.data))
            print(seed, name, {key: round(value, 3) for key, value in found[name][-1].items()}, flush=True)
    rows = {
        name: {
            key: {
                "mean": interval([each[key] for each in runs])[0],
                "half_width": interval([each[key] for each in runs])[1],
                "less_flow": interval([each[key] - flow[key] for each, flow in zip(runs, found["flow"], strict=True)]),
            }
            for key in MEASURES
        }
        for name, runs in found.items()
    }
    for name, row in rows.items():
        print(
            f"| {name} | "
            + " | ".join(f"{cell['mean']:.3g} ± {cell['half_width']:.2g}" for cell in row.values())
            + " |"
        )
    if given.json:
        given.json.write_text(json.dumps({"seeds": given.seeds, "rows": rows, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
