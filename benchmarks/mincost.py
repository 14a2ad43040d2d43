"""The min-cost-flow kernel against other solvers in one run: `python -m benchmarks.mincost --json PATH`.

Ours and the others take turns on the same graph, each single-threaded; medians of processor time count, compiling does
not, building a solver's graph does. Other solvers run in processes of their own, by `--competitors PYTHON`, an
interpreter that has ortools, scipy and POT. Without options: 1,000 agents and small general networks, minutes.
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
MOST_ARCS = {"ortools": 1 << 40, "highs": 10_000, "networkx": 3_000, "pot": 1 << 22}  # Above, they only cost time.
ONCE = ("highs", "networkx")  # So far behind that one turn of an instance tells.
SCHEDULING = ("quincy", "network", "edge")
PARTS = "parts"  # Quincy with the machines' sockets, cores and threads; only when asked for.
GENERAL = {
    "netgen": graphs.netgen_like,
    "goto": graphs.goto_like,
    "road": graphs.road_like,
    "transport": graphs.transport,
}
ROUNDS = 4  # Of churn, between two turns of the others.
TRANSPORT_POWER_MAX = 11  # Dense: a million arcs.
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "mcf"
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


class Contest:
    """One instance: ours and the others in turn, round by round."""

    def __init__(self, others: list[Competitor], path: Path) -> None:
        self._path = path
        self._others = others
        self._times: dict[str, list[float]] = {"ours": []}
        self._equal = True
        self._errors: list[str] = []

    def turn(self, network: FlowNetwork, seconds: list[float]) -> None:
        """Ours took `seconds`, a number for each round since the last turn; the others solve what it stands at."""
        result = network.solve()
        self._times["ours"] += seconds
        error = certificate_error(network, result)
        self._errors += [error] if error else []
        save(self._path, network)
        for other in self._others:
            if other.name in ONCE and other.name in self._times:
                continue
            if network.n_arcs <= MOST_ARCS[other.name] and (other.name != "pot" or is_transport(network)):
                taken, objective = other.solve(self._path)
                self._times.setdefault(other.name, []).append(taken)
                self._equal = self._equal and objective == result.objective

    def row(self, row: Row, network: FlowNetwork) -> Row:
        times = {name: statistics.median(values) for name, values in self._times.items()}
        ours_s = times.pop("ours")
        best = min(times, key=times.__getitem__, default=None)
        return row | {
            "n": network.n_nodes,
            "m": network.n_arcs,
            "ours_s": ours_s,
            "best_s": times.get(best or ""),
            "best": best,
            "ratio": times[best] / ours_s if best else None,
            "objective_equal": self._equal,
            "certificate": self._errors[0] if self._errors else "clean",
            "others_s": times,
            "kernel": network.solve().kernel,
            "bytes_per_arc": kept_bytes(network) / max(network.n_arcs, 1),
        }


def is_transport(network: FlowNetwork) -> bool:
    """Every node sends or takes, and every one that sends reaches every one that takes."""
    supply = network.supply
    return network.n_arcs == int((supply > 0).sum()) * int((supply < 0).sum()) and bool((supply != 0).all())


def kept_bytes(thing: object) -> int:
    """What the arrays take that a network keeps between solves, its nodes' included."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    parts = list(thing) if isinstance(thing, list | tuple) else list(getattr(thing, "__dict__", {}).values())
    return sum(kept_bytes(part) for part in parts)


def taken_flow(network: FlowNetwork) -> np.ndarray:
    """Solve and take the flow, as whoever schedules by it does: a result is read when it is looked at."""
    return network.solve().flow


def cold(row: Row, graph: graphs.Graph, others: list[Competitor], path: Path, reps: int) -> Row:
    """Build and solve, `reps` times."""
    contest = Contest(others, path)
    for _ in range(reps):
        begin = time.process_time()
        network = FlowNetwork(*graph[:6])
        taken_flow(network)
        contest.turn(network, [time.process_time() - begin])
    return contest.row(row, network)


def warm(row: Row, graph: graphs.Graph, others: list[Competitor], path: Path, reps: int) -> Row:
    """`reps` turns of some rounds of churn, each a delta and a solve; the others solve the last from nothing."""
    rng = np.random.default_rng(row["churn"])
    network = FlowNetwork(*graph[:6])
    network.solve()
    contest = Contest(others, path)
    for _ in range(reps):
        seconds = []
        for _ in range(ROUNDS):
            delta = graphs.draw_churn(rng, network, graph, row["family"], row["agents"], row["churn"])
            begin = time.process_time()
            graphs.apply_churn(network, delta)
            taken_flow(network)
            seconds.append(time.process_time() - begin)
        contest.turn(network, seconds)
    return contest.row(row, network)


def instances(options: argparse.Namespace) -> Iterator[tuple[Row, graphs.Graph]]:
    """Scheduling graphs by family, size, level and load, each cold and at every churn; then general and shared ones."""
    for family in [name for name in options.families if name in (*SCHEDULING, PARTS)]:
        for agents in options.agents:
            for level in options.levels:
                for load in options.loads:
                    graph = graphs.scheduling(family, agents, load, level)
                    for churn in options.churn:
                        yield {"family": family, "agents": agents, "load": load, "level": level, "churn": churn}, graph
    plain = {"agents": None, "load": None, "level": "general", "churn": 0}
    for family in [name for name in options.families if name in GENERAL]:
        for power in options.general:
            if family != "transport" or power <= TRANSPORT_POWER_MAX:
                yield {"family": family} | plain, GENERAL[family](1 << power)
    if "shared" in options.families:
        for path in sorted(SHARED.glob("graph_1*m_*.in")):
            yield {"family": path.stem} | plain, graphs.read_dimacs(path)


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


def mean(ratios: list[float]) -> float | None:
    """The geometric mean; None of nothing."""
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None


def exponents(rows: list[Row]) -> dict[str, float]:
    """By level and load, how the cold time grows with the arcs: log time by log arcs, least squares."""
    slopes = {}
    for level, load in sorted({(row["level"], row["load"]) for row in rows if row["agents"]}):
        some = [row for row in rows if (row["level"], row["load"], row["churn"]) == (level, load, 0)]
        if len({row["agents"] for row in some}) > 1:
            arcs, seconds = (np.log(np.array([row[key] for row in some], np.float64)) for key in ("m", "ours_s"))
            slopes[f"{level} level, {load} %"] = float(np.polyfit(arcs, seconds, 1)[0])
    return slopes


def summary(rows: list[Row]) -> Row:
    """Geometric means, what was lost, the exponents of the cold time in arcs, memory."""
    rated = [row for row in rows if row["ratio"]]
    general = [row["ratio"] for row in rated if row["family"] in ("netgen", "goto", "road")]
    return {
        "ratio_geometric_mean": mean([row["ratio"] for row in rated]),
        "general_geometric_mean": mean(general),
        "lost": sum(row["ratio"] < 1 for row in rated),
        "rated": len(rated),
        "all_equal": all(row["objective_equal"] for row in rows),
        "all_certified": all(row["certificate"] == "clean" for row in rows),
        "cold_exponents_in_arcs": exponents(rows),
        "kept_bytes_per_arc_max": max((row["bytes_per_arc"] for row in rows if row["m"] >= 10_000), default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--competitors", default=sys.executable, help="an interpreter that has ortools and scipy")
    families = [*SCHEDULING, *GENERAL, "shared"]
    parser.add_argument("--families", nargs="*", choices=[*families, PARTS], default=families)
    parser.add_argument("--full", action="store_true", help="all sizes; hours")
    parser.add_argument("--agents", nargs="*", type=int, help="1000; with --full 1000 5000 12500")
    parser.add_argument("--levels", nargs="*", default=["class", "task"])
    parser.add_argument("--general", nargs="*", type=int, help="powers of two: 10 12; with --full 10 to 16")
    parser.add_argument("--loads", nargs="*", type=int, default=list(LOADS), help="percent")
    parser.add_argument("--churn", nargs="*", type=int, default=[0, *CHURN_PERMILLE], help="permille; 0: cold")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    options.agents = options.agents or ([1000, 5000, 12500] if options.full else [1000])
    options.general = options.general or (list(range(10, 17)) if options.full else [10, 12])
    begin = time.perf_counter()
    warm_up()
    jit_s = time.perf_counter() - begin
    print(f"kernels loaded or compiled in {jit_s:.1f} s (not counted below)")
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
                f"{last['family'][:20]:20} {last['agents'] or '':>6} {last['load'] or '':>4} {last['level']:8}"
                f"churn {last['churn'] / 10:>4g} %  n {last['n']:>7} m {last['m']:>8}  "
                f"ours {last['ours_s'] * 1e3:>8.2f} ms"
                f"  {last['best'] or 'nobody':9}{(last['best_s'] or 0) * 1e3:>9.2f} ms  ratio {last['ratio'] or 0:6.2f}"
                f"  {last['kernel']}, {'equal' if last['objective_equal'] else 'DIFFERENT'},"
                f" certificate {last['certificate']}",
                flush=True,
            )
    for other in present:
        other.close()
    show(rows)
    told = summary(rows) | {"jit_s": jit_s}
    print(json.dumps(told))
    if options.json:
        options.json.write_text(json.dumps({"instances": rows, "summary": told}, indent=1))


if __name__ == "__main__":
    main()
