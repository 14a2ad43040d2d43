"""Runs of a scenario: one case at a time, or a matrix of them in worker processes."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import msgspec

from federation.errors import ConfigError
from federation.facts import TasksAssigned
from federation.strictyaml import suggest
from policies import registry
from policies.model import Record
from scenarios.expect import Slo, Verdict, judge
from scenarios.format import Scenario, load_scenario
from scenarios.metrics import Metrics
from scenarios.player import START_US, Outcome, play
from scenarios.records import Records
from scenarios.report import Summary, summarise
from scenarios.rerun import recorded_policy, rerun

DECISIONS_MAX = 20_000  # kept of a run, to be compared with another's
SPANS_MAX = 4_000  # drawn of a timeline
POINTS_MAX = 400  # drawn of a curve
LINKS_DRAWN_MAX = 8  # as many as there are colours

T = TypeVar("T")


class Case(Record, frozen=True, kw_only=True):
    """One run to be made."""

    path: str
    policy: str
    seed: int | None = None  # None: the file's
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    traces: str | None = None
    faults: tuple[int, ...] | None = None  # of the world's, by number from 1; None: all
    solve_us: tuple[int, ...] = ()  # the rounds' times of a run before, played again
    is_baseline: bool = False  # it runs only for others to be compared with; nothing is expected of it


class Curves(Record, frozen=True, kw_only=True):
    """What the plots show, thinned out. Times in seconds."""

    spans: tuple[tuple[str, float, float, str, str], ...] = ()  # agent, from, to, state, role
    n_spans: int = 0
    queue: tuple[tuple[float, int, int, int], ...] = ()  # at, pending, waiting, placed
    reasons: tuple[tuple[float, dict[str, int]], ...] = ()  # at, pending tasks by what they wait for
    completions: tuple[float, ...] = ()  # sorted latencies of finished tasks
    links: dict[str, tuple[tuple[float, float], ...]] = msgspec.field(default_factory=dict)  # % of bandwidth over time
    moved: dict[str, int] = msgspec.field(default_factory=dict)  # bytes by link
    shares: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)  # role → share held, entitlement


class Result(Record, frozen=True, kw_only=True):
    """All that is kept of a run. `values` are this run's, for runs that name it as their baseline."""

    case: Case
    summary: Summary
    verdicts: tuple[Verdict, ...]
    values: dict[str, float | None]  # expectation's text → this run's own value
    curves: Curves
    decisions: tuple[tuple[int, str, str, int], ...] = ()  # at, task, agent, attempt
    wall_s: float = 0.0
    solve_us: tuple[int, ...] = ()  # of each round, where it was measured or played again


def cases_of(
    path: Path,
    *,
    policies: list[str] | None = None,
    seeds: list[int] | None = None,
    parameters: Mapping[str, str] | None = None,
    traces: Path | None = None,
    faults: tuple[int, ...] | None = None,
) -> tuple[Scenario, list[Case]]:
    """The matrix of a file, narrowed to what is given. Baselines that it names are added."""
    scenario = load_scenario(path, parameters=parameters, traces=traces)
    matrix = scenario.matrix
    known = registry.names()
    chosen = policies or list(matrix.get("policy", ("flow",)))
    bases = [slo.baseline for slo in scenario.expect.slo if slo.baseline and "=" not in slo.baseline]
    added = [base for base in dict.fromkeys(bases) if base not in chosen]
    for policy in policies or ():
        if policy not in known:
            near = suggest(policy, known)
            raise ConfigError(f"there is no policy {policy!r}{near}; known are {', '.join(known)}")
    own_seeds: list[int | None] = list(seeds or map(int, matrix.get("seed", ()))) or [None]
    axes = {name: values for name, values in matrix.items() if name not in ("policy", "seed")}
    axes |= {name: (value,) for name, value in (parameters or {}).items()}
    settings = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    cases = [
        Case(
            path=str(path),
            policy=policy,
            seed=seed,
            parameters=each,
            traces=None if traces is None else str(traces),
            faults=faults,
            is_baseline=policy in added,
        )
        for each in settings
        for seed in own_seeds
        for policy in (*chosen, *added)
    ]
    for slo in scenario.expect.slo:
        if "=" in slo.baseline:
            cases += _others(cases, slo.baseline)
    return scenario, cases


def _others(cases: list[Case], baseline: str) -> list[Case]:
    """The runs with a parameter's other value that are compared with and not among the cases."""
    name, _, value = baseline.partition("=")
    known = {(case.policy, case.seed, tuple(sorted(case.parameters.items()))) for case in cases}
    found: list[Case] = []
    for case in cases:
        parameters = {**case.parameters, name: value}
        key = (case.policy, case.seed, tuple(sorted(parameters.items())))
        if key not in known:
            known.add(key)
            found.append(msgspec.structs.replace(case, parameters=parameters, is_baseline=True))
    return found


def read_case(case: Case) -> Scenario:
    """The world of one case. Raises `ConfigError`."""
    traces = None if case.traces is None else Path(case.traces)
    scenario = load_scenario(Path(case.path), seed=case.seed, parameters=case.parameters, traces=traces)
    if case.faults is None:
        return scenario
    n_faults = len(scenario.world.faults)
    for number in case.faults:
        if not 1 <= number <= n_faults:
            raise ConfigError(f"{case.path}: there is no fault {number}; it has {n_faults}, numbered from 1")
    kept = tuple(scenario.world.faults[number - 1] for number in case.faults)
    return msgspec.structs.replace(scenario, world=msgspec.structs.replace(scenario.world, faults=kept))


def run_case(case: Case, on_progress: Callable[[int, int], None] | None = None) -> Result:
    """Read, play and measure one case."""
    return play_case(case, read_case(case), on_progress)


def play_case(case: Case, scenario: Scenario, on_progress: Callable[[int, int], None] | None = None) -> Result:
    """Play and measure a case that was read. One that was recorded under this policy is repeated as it was, unless
    another seed or a choice of faults asks for the world that it tells of."""
    started = time.perf_counter()
    is_own = bool(scenario.recordings) and case.seed is None and case.faults is None
    if is_own and recorded_policy(scenario.recordings) == case.policy:
        outcome = rerun(scenario.world, scenario.recordings, case.policy)
        return measured(case, scenario, outcome, time.perf_counter() - started)
    policy = registry.load(case.policy)
    outcome = play(scenario.world, policy, case.policy, on_progress=on_progress, solve_us=case.solve_us)
    return measured(case, scenario, outcome, time.perf_counter() - started)


def run_live(case: Case, keep: Path | None, on_progress: Callable[[int, int], None]) -> Result:
    """Read a case, run it with real processes, measure it. What they leave is kept in the new folder `keep`, else
    removed. Raises `ConfigError`."""
    from scenarios.live import play_live

    started = time.perf_counter()
    scenario = read_case(case)
    with tempfile.TemporaryDirectory(prefix="offerflow-live-") as folder:
        if keep is not None:
            try:
                (keep / case.policy).mkdir(parents=True)
            except OSError as error:
                raise ConfigError(f"the folder {keep / case.policy} cannot be made: {error.strerror}") from None
        outcome = play_live(scenario, case.policy, Path(folder) if keep is None else keep / case.policy, on_progress)
    return measured(case, scenario, outcome, time.perf_counter() - started)


def measured(case: Case, scenario: Scenario, outcome: Outcome, wall_s: float) -> Result:
    """What is kept of a run, simulated or live."""
    records = Records(outcome)
    metrics = Metrics(records)
    values = {slo.text: metrics.value(slo.metric, slo.window) for slo in scenario.expect.slo}
    verdicts = tuple(_judged(slo, values[slo.text], outcome) for slo in scenario.expect.slo)
    return Result(
        case=case,
        summary=summarise(outcome, records, case.parameters),
        verdicts=verdicts,
        values=values,
        curves=curves_of(outcome, records, metrics),
        decisions=_decisions(outcome),
        wall_s=wall_s,
        solve_us=outcome.solve_us,
    )


def _judged(slo: Slo, value: float | None, outcome: Outcome) -> Verdict:
    verdict = judge(slo, value, None)
    if slo.metric.measure != "decisions.changed":
        return verdict
    if outcome.n_decided_otherwise is None:
        return msgspec.structs.replace(verdict, ok=True, why="simulated, not replayed")
    return msgspec.structs.replace(verdict, why=outcome.parting)


def run_all(
    cases: list[Case], slos: tuple[Slo, ...], n_processes: int, on_done: Callable[[Result], None], on: str = ""
) -> list[Result]:
    """All cases, in their order; `on_done` is told each as it ends. Comparisons are judged when all have ended. `on` is
    a Ray cluster: "ray" for one of its own on this machine, else its address. Raises `ConfigError`."""
    results: dict[int, Result] = {}
    if on:
        from scenarios.cluster import run_on_ray

        results = run_on_ray(cases, on, on_done)
    elif n_processes == 1 or len(cases) == 1:
        for number, case in enumerate(cases):
            results[number] = run_case(case)
            on_done(results[number])
    else:
        # Not more than there are cases; each imports numba once.
        with ProcessPoolExecutor(min(n_processes, len(cases), os.cpu_count() or 1)) as pool:
            running = {pool.submit(run_case, case): number for number, case in enumerate(cases)}
            for done in as_completed(running):
                results[running[done]] = done.result()
                on_done(done.result())
    return compare([results[number] for number in range(len(cases))], slos)


def compare(results: list[Result], slos: tuple[Slo, ...]) -> list[Result]:
    """With each expectation that names a baseline judged against that run of the same world."""
    bases = {(_world(result), result.case.policy): result for result in results}
    judged: list[Result] = []
    for result in results:
        verdicts = list(result.verdicts)
        for number, slo in enumerate(slos):
            if slo.baseline:
                name, is_parameter, value = slo.baseline.partition("=")
                world, policy = _world(result), slo.baseline
                if is_parameter:
                    policy = result.case.policy
                    world = world[0], tuple(sorted({**dict(world[1]), name: value}.items()))
                base = bases.get((world, policy))
                own = result.values[slo.text]
                verdict = judge(slo, own, base.values[slo.text] if base is not None else None)
                if base is result:  # It is what the others are compared with.
                    verdict = msgspec.structs.replace(verdict, ok=True)
                verdicts[number] = verdict
        if result.case.is_baseline:
            verdicts = [msgspec.structs.replace(verdict, ok=True) for verdict in verdicts]
        judged.append(msgspec.structs.replace(result, verdicts=tuple(verdicts)))
    return judged


def _world(result: Result) -> tuple[int, tuple[tuple[str, str], ...]]:
    return result.summary.seed, tuple(sorted(result.case.parameters.items()))


def _decisions(outcome: Outcome) -> tuple[tuple[int, str, str, int], ...]:
    found: list[tuple[int, str, str, int]] = []
    for fact in outcome.facts:
        if isinstance(fact, TasksAssigned):
            for each in fact.assignments:
                found += [
                    (fact.at_us - START_US, task_id, each.agent_id, attempt)
                    for task_id, attempt in zip(each.task_ids, each.attempts, strict=True)
                ]
            if len(found) >= DECISIONS_MAX:
                break
    return tuple(found[:DECISIONS_MAX])


def curves_of(outcome: Outcome, records: Records, metrics: Metrics) -> Curves:
    roles = {task.task_id: task.role for task in records.tasks.values()}
    spans = sorted(records.spans, key=lambda span: (span.agent_id, span.placed_us))
    drawn = _thinned(spans, SPANS_MAX)
    latencies = sorted(
        (task.ended_us - task.arrived_us) / 1e6
        for task in records.tasks.values()
        if task.ended_us is not None and task.state == "finished"
    )
    weights = {role.path: role.weight for role in outcome.world.roles}
    held = {role: share * weights.get(role, 1) for role, share in metrics.by_role().items()}
    whole = sum(weights.get(role, 1) for role in held) or 1
    return Curves(
        spans=tuple((each.agent_id, each.placed_us / 1e6, each.ended_us / 1e6, each.state, roles[each.task_id])
                    for each in drawn),
        n_spans=len(spans),
        queue=tuple((each.at_us / 1e6, each.pending, each.waiting, each.placed)
                    for each in _thinned(records.queue, POINTS_MAX)),
        reasons=tuple((each.at_us / 1e6, dict(each.reasons)) for each in _thinned(records.queue, POINTS_MAX)),
        completions=tuple(_thinned(latencies, POINTS_MAX)),
        links=_rates(outcome),
        moved=outcome.bytes_by_link,
        shares={role: (share, sum(held.values()) * weights.get(role, 1) / whole) for role, share in held.items()},
    )  # fmt: skip


def _thinned(items: list[T], most: int) -> list[T]:
    """At most that many, evenly taken, first and last included."""
    if len(items) <= most:
        return items
    return [items[number * (len(items) - 1) // (most - 1)] for number in range(most)]


def _rates(outcome: Outcome) -> dict[str, tuple[tuple[float, float], ...]]:
    """Per cent of the bandwidth that the busiest links between sites carried, from one sample to the next. The
    bandwidth is the file's: a link that varies, or whose fault widens it, may pass 100."""
    bandwidths = {f"{first}→{second}": spec.bandwidth_bps for first, second, spec in outcome.world.links}
    between = {name: count for name, count in outcome.bytes_by_link.items() if name.split("→")[0] != name.split("→")[1]}
    busiest = sorted(between, key=lambda name: (-between[name], name))[:LINKS_DRAWN_MAX]
    samples = _thinned(list(outcome.link_bytes), POINTS_MAX)
    rates: dict[str, tuple[tuple[float, float], ...]] = {}
    for name in busiest:
        points: list[tuple[float, float]] = []
        for (before_us, before), (at_us, after) in itertools.pairwise(samples):
            moved = after.get(name, 0) - before.get(name, 0)
            points.append((at_us / 1e6, moved * 8e8 / (at_us - before_us) / bandwidths[name]))
        rates[name] = tuple(points)
    return rates
