"""The min-cost-flow kernel against other solvers in one run: `python -m benchmarks.mincost --json PATH`.

Ours and the others take turns on the same graph; medians count, compiling does not, building a solver's graph does.
Other solvers run in processes of their own, by `--competitors PYTHON`, an interpreter that has ortools and scipy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # One thread each; before numpy is imported.

import numpy as np  # noqa: E402

from benchmarks import mincost_graphs as graphs  # noqa: E402
from policies.kernels.cache import warm_up  # noqa: E402
from policies.kernels.mincost.certificate import certificate_error  # noqa: E402
from policies.kernels.mincost.network import FlowNetwork  # noqa: E402

LOADS = (50, 80, 95, 100, 120)
CHURN_PERMILLE = (1, 10, 50)
MOST_ARCS = {"ortools": 1 << 40, "highs": 20_000, "networkx": 3_000}  # Above, they only cost time.
Row = dict[str, Any]


class Competitor:
    """A worker process (see mincost_competitor)."""

    def __init__(self, python: str, name: str) -> None:
        self.name = name
        script = str(Path(__file__).with_name("mincost_competitor.py"))
        self._process = subprocess.Popen(
            [python, script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.missing: str | None = self._read().get("missing")

    def _read(self) -> Row:
        assert self._process.stdout is not None
        answer: Row = json.loads(self._process.stdout.readline() or '{"missing": "it died"}')
        return answer

    def solve(self, path: Path) -> tuple[float, int | None]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["seconds"], answer["objective"]

    def close(self) -> None:
        self._process.communicate()


def save(path: Path, network: FlowNetwork) -> None:
    """The network as others get it: without the arcs that were removed."""
    kept = network.arc_alive
    columns = {name: getattr(network, name)[kept] for name in ("tail", "head", "capacity", "cost")}
    np.savez(path, supply=network.supply, **columns)


def compare(row: Row, network: FlowNetwork, ours: list[float], others: list[Competitor], path: Path, reps: int) -> Row:
    """Complete `row`: the others solve the network that ours has just solved."""
    result = network.solve()
    times: dict[str, float] = {}
    equal = True
    for other in others:
        if network.n_arcs <= MOST_ARCS[other.name]:
            answers = [other.solve(path) for _ in range(reps)]
            times[other.name] = statistics.median(seconds for seconds, _ in answers)
            equal = equal and answers[0][1] == result.objective
    best = min(times, key=times.__getitem__, default=None)
    ours_s = statistics.median(ours)
    return row | {
        "n": network.n_nodes,
        "m": network.n_arcs,
        "ours_s": ours_s,
        "best": best,
        "best_s": times.get(best or ""),
        "ratio": times[best] / ours_s if best else None,
        "objective_equal": equal,
        "certificate": certificate_error(network, result) or "clean",
        "others_s": times,
    }


def cold(row: Row, graph: graphs.Graph, others: list[Competitor], path: Path, reps: int) -> Row:
    """Build and solve, `reps` times."""
    ours = []
    for _ in range(reps):
        begin = time.perf_counter()
        network = FlowNetwork(*graph[:6])
        network.solve()
        ours.append(time.perf_counter() - begin)
    save(path, network)
    return compare(row, network, ours, others, path, reps)


def warm(row: Row, graph: graphs.Graph, others: list[Competitor], path: Path, reps: int) -> Row:
    """`reps` rounds of churn, each a delta and a solve; the others solve the last round's network from nothing."""
    rng = np.random.default_rng(row["churn"])
    network = FlowNetwork(*graph[:6])
    network.solve()
    ours = []
    for _ in range(reps):
        delta = graphs.draw_churn(rng, network, graph, row["family"], row["agents"], row["churn"])
        begin = time.perf_counter()
        graphs.apply_churn(network, delta)
        network.solve()
        ours.append(time.perf_counter() - begin)
    save(path, network)
    return compare(row, network, ours, others, path, reps)


def instances(options: argparse.Namespace) -> Iterator[tuple[Row, graphs.Graph]]:
    """Scheduling graphs by family, size, level and load, each cold and at three churns; then general ones."""
    for family in options.families:
        for agents in options.agents:
            for level in options.levels:
                for load in options.loads:
                    graph = graphs.scheduling(family, agents, load, level)
                    for churn in options.churn:
                        yield {"family": family, "agents": agents, "load": load, "level": level, "churn": churn}, graph
    for make in (graphs.netgen_like, graphs.goto_like, graphs.road_like):
        for power in options.general:
            row = {"family": make.__name__, "agents": None, "load": None, "level": "general", "churn": 0}
            yield row, make(1 << power)


def show(rows: list[Row]) -> None:
    """The heat map: geometric mean of the ratios by level, churn and load."""
    print(f"\n{'ratio, best other / ours':34}" + "".join(f"{load:>8}%" for load in LOADS))
    for level in ("class", "task"):
        for churn in (0, *CHURN_PERMILLE):
            cells = [
                [r["ratio"] for r in rows if (r["level"], r["churn"], r["load"]) == (level, churn, load) and r["ratio"]]
                for load in LOADS
            ]
            if any(cells):
                label = f"{level} level, " + ("cold" if churn == 0 else f"{churn / 10:g} % churn")
                print(
                    f"{label:34}" + "".join(f"{np.exp(np.mean(np.log(c))):9.2f}" if c else f"{'-':>9}" for c in cells)
                )


def summary(rows: list[Row]) -> Row:
    """Geometric means, what was lost, and the exponent of the cold time in arcs."""
    rated = [row for row in rows if row["ratio"]]
    large = [row for row in rows if row["churn"] == 0 and row["agents"]]
    slope: float | None = None
    if len({row["agents"] for row in large}) > 1:
        arcs, seconds = (np.log(np.array([row[key] for row in large], np.float64)) for key in ("m", "ours_s"))
        slope = float(np.polyfit(arcs, seconds, 1)[0])
    return {
        "ratio_geometric_mean": float(np.exp(np.mean([np.log(row["ratio"]) for row in rated]))) if rated else None,
        "lost": sum(row["ratio"] < 1 for row in rated),
        "rated": len(rated),
        "all_equal": all(row["objective_equal"] for row in rows),
        "all_certified": all(row["certificate"] == "clean" for row in rows),
        "cold_exponent_in_arcs": slope,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--competitors", default=sys.executable, help="an interpreter that has ortools and scipy")
    parser.add_argument("--families", nargs="*", default=["quincy", "network", "edge"])
    parser.add_argument("--agents", nargs="*", type=int, default=[1000], help="the full run: 1000 5000 12500")
    parser.add_argument("--levels", nargs="*", default=["class", "task"])
    parser.add_argument(
        "--general", nargs="*", type=int, default=[10, 12], help="powers of two; the full run: 10 to 16"
    )
    parser.add_argument("--loads", nargs="*", type=int, default=list(LOADS), help="percent")
    parser.add_argument("--churn", nargs="*", type=int, default=[0, *CHURN_PERMILLE], help="permille; 0: cold")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    begin = time.perf_counter()
    warm_up()
    print(f"kernels loaded or compiled in {time.perf_counter() - begin:.1f} s (not counted below)")
    others = [Competitor(options.competitors, name) for name in MOST_ARCS]
    others = [Competitor(sys.executable, other.name) if other.missing else other for other in others]
    for other in others:
        if other.missing:
            print(f"left out: {other.name}, {other.missing}; give --competitors an interpreter that has it")
    present = [other for other in others if not other.missing]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row, graph in instances(options):
            run = warm if row["churn"] else cold
            rows.append(run(row, graph, present, Path(folder) / "network.npz", options.repetitions))
            last = rows[-1]
            print(
                f"{last['family']:12} {last['agents'] or '':>6} {last['load'] or '':>4} {last['level']:8}"
                f"churn {last['churn'] / 10:>4g} %  n {last['n']:>7} m {last['m']:>8}  "
                f"ours {last['ours_s'] * 1e3:>9.2f} ms"
                f"  {last['best'] or 'nobody':9}{(last['best_s'] or 0) * 1e3:>9.2f} ms  ratio {last['ratio'] or 0:6.2f}"
                f"  {'equal' if last['objective_equal'] else 'DIFFERENT'}, certificate {last['certificate']}",
                flush=True,
            )
    for other in present:
        other.close()
    show(rows)
    print(json.dumps(summary(rows)))
    if options.json:
        options.json.write_text(json.dumps({"instances": rows, "summary": summary(rows)}, indent=1))


if __name__ == "__main__":
    main()
