"""Every policy on every shipped scenario, over seeds.

    python -m benchmarks.comparison --json PATH --html PATH [--markdown PATH] [--store PATH] [--seeds 10]
        [--processes 2] [--minutes N] [--only POLICY …] [--scenario NAME …] [--traces FOLDER]

Each run is written to the store as it ends (docs/results/comparison, in the repository), so it can be stopped at any
time and the comparison grows over builds. First what is missing is played, runs of a scenario whose file changed
included; then what other code decided than today's (`benchmarks.comparison.store.Code`), which counts until then.
Every scenario gets about the same time, by what its runs took so far: when `--minutes` end, a quick one has all its
seeds and a long one a few. The page and the table say how many each has, and of which builds they are.

Differences to `--base` (flow) are over the same seeds, played by the same code but for the policies' own; one counts
where its 95 % interval leaves zero out and it is more than 1 %. Exit code 4 when a law was broken in a run.
"""

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import msgspec

from benchmarks.comparison.measure import Run, digest_of, run
from benchmarks.comparison.store import RUNS, Code, Key, Store, build
from benchmarks.comparison.table import document, losses, page, table_of
from policies import registry
from policies.kernels.cache import warm_up

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
EXIT_LAW = 4
TITLE = """# Every policy on every scenario

Written by `python -m benchmarks.comparison --minutes 0 --markdown docs/results/comparison.md`; what it says and does
not say: [results](../results.md#policies-compared).

"""
Wanted = tuple[Path, str, int]  # scenario's file, policy, seed number


def main() -> int:
    given = _arguments()
    if given.traces.exists():
        os.environ.setdefault("OFFERFLOW_TRACES", str(given.traces))
    paths = sorted(SCENARIOS.glob("*.yaml"))
    paths = [path for path in paths if not given.scenario or path.stem in given.scenario]
    policies = given.only or list(registry.names())
    digests = {path.stem: digest_of(path) for path in paths}
    code = Code()
    codes = {policy: code.of_policy(policy) for policy in policies}
    store = Store(given.store)
    known = {key: each for key, each in store.read()
             if key[0] not in digests or digests[key[0]] == each.scenario_digest}  # fmt: skip
    wanted = [(path, policy, nth) for nth in range(given.seeds) for path in paths for policy in policies]
    # What is missing, and what all are held against, comes before what other code decided; the cheap before the dear.
    due = [case for case in wanted if _is_due(case, known, codes)]
    costs_s = _costs_s(known.values())
    due.sort(key=lambda case: (_key(case) in known and case[1] != given.base, (case[2] + 1) * costs_s[case[0].stem]))
    refused: dict[str, str] = {}
    if due and given.minutes > 0:
        try:
            _play(due, known, refused, codes, store, given)
        finally:
            store.tidy(given.base)
    runs = [each for (name, policy, nth), each in store.read()
            if digests.get(name) == each.scenario_digest and policy in policies and nth < given.seeds]  # fmt: skip
    _report(runs, refused, codes, given)
    return EXIT_LAW if any(each.broken_laws for each in runs) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description="Policies compared.")
    parser.add_argument("--json", type=Path, help="write the table here")
    parser.add_argument("--html", type=Path, help="write the page here")
    parser.add_argument("--markdown", type=Path, help="write all tables here (docs/results/comparison.md)")
    parser.add_argument("--store", type=Path, default=RUNS, help="the folder of the runs made so far")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="begin no run after that; 0: only report")
    parser.add_argument("--only", nargs="+", default=[], help="policies (default: all that are installed)")
    parser.add_argument("--scenario", nargs="+", default=[], help="names (default: all that are shipped)")
    parser.add_argument("--base", default="flow", help="the policy that others are held against")
    parser.add_argument("--traces", type=Path, default=TRACES, help="for the scenarios that replay one")
    return parser.parse_args()


def _key(case: Wanted) -> Key:
    return case[0].stem, case[1], case[2]


def _is_due(case: Wanted, known: dict[Key, Run], codes: dict[str, str]) -> bool:
    run = known.get(_key(case))
    return run is None or run.code != codes[case[1]]


def _costs_s(runs: Iterable[Run]) -> Mapping[str, float]:
    """What a run of each scenario takes, as far as is known; one never played is taken for their mean."""
    by_scenario: dict[str, list[float]] = {}
    for each in runs:
        by_scenario.setdefault(each.scenario, []).append(each.cpu_s)
    known = {name: statistics.fmean(costs) for name, costs in by_scenario.items()}
    mean_s = statistics.fmean(known.values() or [0.0])
    return defaultdict(lambda: mean_s, known)


def _play(
    due: list[Wanted],
    known: dict[Key, Run],
    refused: dict[str, str],
    codes: dict[str, str],
    store: Store,
    given: argparse.Namespace,
) -> None:
    """Play what is due, each run to the store as it ends. What cannot be played is left out, and said."""
    warm_up()
    until_s = time.monotonic() + given.minutes * 60
    queue, this, player = iter(due), build(), Code().of_player()
    running: dict[Future[Run], Wanted] = {}
    signal.signal(signal.SIGTERM, _end)
    own_end = {"initializer": signal.signal, "initargs": (signal.SIGTERM, signal.SIG_DFL)}
    with ProcessPoolExecutor(given.processes, **own_end) as pool:
        while True:
            while len(running) < given.processes and time.monotonic() < until_s and (case := next(queue, None)):
                if f"{case[0].stem} {case[1]}" not in refused:
                    running[pool.submit(run, *case, codes[case[1]], player, this)] = case
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                case = running.pop(done)
                try:
                    each = done.result()
                except Exception as error:  # A trace that is not there, a policy that breaks: the others go on.
                    why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                    refused[f"{case[0].stem} {case[1]}"] = why
                    continue
                known[_key(case)] = each
                store.add(case[2], each)
                print(f"{each.scenario} {each.policy} #{each.seed} {each.cpu_s:.1f} s", file=sys.stderr, flush=True)


def _end(number: int, _: object) -> None:
    """With its workers, which would outlive it."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.exit(128 + number)


def _report(runs: list[Run], refused: dict[str, str], codes: dict[str, str], given: argparse.Namespace) -> None:
    table = table_of(runs, given.base)
    seeds = [len({run.seed for run in runs if run.scenario == name and run.policy == policy})
             for name, each in table.items() for policy in each]  # fmt: skip
    notes = [
        f"{len(runs)} runs, {min(seeds, default=0)} to {max(seeds, default=0)} seeds a cell, "
        f"{sum(run.cpu_s for run in runs):.0f} s of CPU time.",
        f"Builds: {', '.join(f'{name} {n}' for name, n in Counter(run.build for run in runs).most_common())}; "
        f"{sum(run.code == codes[run.policy] for run in runs)} runs are of the code as it is.",
        f"Green or + is better than {given.base} over the same seeds, red or − worse: 95 % interval, and above 1 %.",
        "Completion is of tasks that finished; read it beside those that did not. Deciding is CPU time of one machine.",
        *(f"{name} was left out: {why}" for name, why in refused.items()),
        *(f"A law was broken: {run.scenario} {run.policy} #{run.seed}: {run.broken_laws[0]}"
          for run in runs if run.broken_laws),
    ]  # fmt: skip
    text = document(table, given.base, notes)
    print(text)
    if given.json:
        cells = {s: {p: {m: c._asdict() for m, c in each.items()} for p, each in ps.items()} for s, ps in table.items()}
        written = {"notes": notes, "table": cells, "losses": losses(table, given.base)}
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=2))
    if given.markdown:
        given.markdown.write_text(TITLE + text + "\n")
    if given.html:
        given.html.write_text(page(table, given.base, notes))


if __name__ == "__main__":
    sys.exit(main())
