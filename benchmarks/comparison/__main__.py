"""Every policy on every shipped scenario, over seeds.

    python -m benchmarks.comparison --json PATH --html PATH [--store PATH] [--seeds 10] [--processes 2]
        [--minutes N] [--only POLICY …] [--scenario NAME …] [--traces FOLDER]

Each run is written to the store as it ends; called again, only what is missing is played, so it can be stopped at any
time and policies added later. A scenario whose file changed is played anew. Every scenario gets about the same time,
by what its runs took so far: when `--minutes` end, a quick one has all its seeds and a long one a few. The page and the
table say how many each has.

Differences to `--base` (flow) are over the same seeds; one counts where its 95 % interval leaves zero out and it is
more than 1 %. Exit code 4 when a law was broken in a run.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import msgspec

from benchmarks.comparison.measure import MEASURES, Run, digest_of, run
from benchmarks.comparison.table import losses, markdown, page, table_of
from policies import registry
from policies.kernels.cache import warm_up

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
EXIT_LAW = 4
Key = tuple[str, str, int]  # scenario, policy, seed number


def main() -> int:
    given = _arguments()
    if given.traces.exists():
        os.environ.setdefault("OFFERFLOW_TRACES", str(given.traces))
    paths = sorted(SCENARIOS.glob("*.yaml"))
    paths = [path for path in paths if not given.scenario or path.stem in given.scenario]
    policies = given.only or list(registry.names())
    digests = {path.stem: digest_of(path) for path in paths}
    known = {key: each for key, each in _read(given.store).items() if digests.get(key[0]) == each.scenario_digest}
    missing = [
        (path, policy, nth)
        for nth in range(given.seeds)
        for path in paths
        for policy in policies
        if (path.stem, policy, nth) not in known
    ]
    missing.sort(key=lambda case: (case[2] + 1) * _cost_s(case[0].stem, known.values()))
    refused: dict[str, str] = {}
    if missing and given.minutes > 0:
        _play(missing, known, refused, given)
    runs = [each for (name, policy, nth), each in known.items()
            if name in digests and policy in policies and nth < given.seeds]  # fmt: skip
    _report(runs, refused, given)
    return EXIT_LAW if any(each.broken_laws for each in runs) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description="Policies compared.")
    parser.add_argument("--json", type=Path, help="write the table here")
    parser.add_argument("--html", type=Path, help="write the page here")
    parser.add_argument("--store", type=Path, default=Path("build/comparison.jsonl"), help="runs made so far")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="begin no run after that; 0: only report")
    parser.add_argument("--only", nargs="+", default=[], help="policies (default: all that are installed)")
    parser.add_argument("--scenario", nargs="+", default=[], help="names (default: all that are shipped)")
    parser.add_argument("--base", default="flow", help="the policy that others are held against")
    parser.add_argument("--traces", type=Path, default=TRACES, help="for the scenarios that replay one")
    return parser.parse_args()


def _read(store: Path) -> dict[Key, Run]:
    found: dict[Key, Run] = {}
    decoder = msgspec.json.Decoder(tuple[int, Run])
    for line in store.read_bytes().splitlines() if store.exists() else ():
        nth, each = decoder.decode(line)
        found[each.scenario, each.policy, nth] = each
    return found


def _cost_s(scenario: str, runs: Iterable[Run]) -> float:
    """What a run of it takes, as far as is known."""
    return statistics.fmean([run.cpu_s for run in runs if run.scenario == scenario] or [0.0])


def _play(
    missing: list[tuple[Path, str, int]], known: dict[Key, Run], refused: dict[str, str], given: argparse.Namespace
) -> None:
    """Play what is missing, each run to the store as it ends. What cannot be played is left out, and said."""
    warm_up()
    given.store.parent.mkdir(parents=True, exist_ok=True)
    until_s = time.monotonic() + given.minutes * 60
    queue = iter(missing)
    running: dict[Future[Run], tuple[Path, str, int]] = {}
    with ProcessPoolExecutor(given.processes) as pool, given.store.open("ab") as store:
        while True:
            while len(running) < given.processes and time.monotonic() < until_s and (case := next(queue, None)):
                if f"{case[0].stem} {case[1]}" not in refused:
                    running[pool.submit(run, *case)] = case
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                path, policy, nth = running.pop(done)
                try:
                    each = done.result()
                except Exception as error:  # A trace that is not there, a policy that breaks: the others go on.
                    refused[f"{path.stem} {policy}"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                    continue
                known[path.stem, policy, nth] = each
                store.write(msgspec.json.encode((nth, each)) + b"\n")
                store.flush()
                print(f"{path.stem} {policy} #{each.seed} {each.cpu_s:.1f} s", file=sys.stderr, flush=True)


def _report(runs: list[Run], refused: dict[str, str], given: argparse.Namespace) -> None:
    table = table_of(runs, given.base)
    seeds = [len({run.seed for run in runs if run.scenario == name and run.policy == policy})
             for name, each in table.items() for policy in each]  # fmt: skip
    notes = [
        f"{len(runs)} runs, {min(seeds, default=0)} to {max(seeds, default=0)} seeds a cell, "
        f"{sum(run.cpu_s for run in runs):.0f} s of CPU time.",
        f"Green is better than {given.base} over the same seeds, red worse: 95 % interval, and more than 1 %.",
        "Completion is of tasks that finished; read it beside those that did not. Deciding is CPU time of one machine.",
        *(f"{name} was left out: {why}" for name, why in refused.items()),
        *(f"A law was broken: {run.scenario} {run.policy} #{run.seed}: {run.broken_laws[0]}"
          for run in runs if run.broken_laws),
    ]  # fmt: skip
    for note in notes:
        print(note)
    for measure in MEASURES:
        print(f"\n### {measure.title} ({measure.unit})\n")
        print("\n".join(markdown(table, measure)))
    lost = losses(table, given.base)
    print(f"\n### Where another policy is better than {given.base}\n")
    for scenario, name, better in lost:
        said = ", ".join(f"{policy} {mean:.4g} against {own:.4g}" for policy, mean, own in better[:3])
        print(f"- {scenario}, {name}: {said}{f' and {len(better) - 3} more' if len(better) > 3 else ''}")
    if given.json:
        cells = {s: {p: {m: c._asdict() for m, c in each.items()} for p, each in ps.items()} for s, ps in table.items()}
        written = {"notes": notes, "table": cells, "losses": lost}
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=2))
    if given.html:
        given.html.write_text(page(table, given.base, notes))


if __name__ == "__main__":
    sys.exit(main())
