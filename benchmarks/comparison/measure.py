"""One policy on one scenario and seed: what is compared of it."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison.smaller import COMPARED, compared_parameters_of
from federation.facts import JobAccepted
from federation.states import TaskState
from policies import registry
from policies.api import Policy
from policies.model import Plan, Record, Snapshot
from scenarios.expect import Metric
from scenarios.metrics import Metrics, quantile
from scenarios.player import Outcome, play
from scenarios.records import Records
from scenarios.runs import Case, read_case


@dataclass(frozen=True, slots=True)
class Measure:
    """What is compared. `scale` turns the metric's small unit into `unit`; `sign` is 1 where less is better."""

    name: str
    title: str
    unit: str
    metric: Metric | None
    scale: float = 1.0
    sign: int = 1


MEASURES = (
    Measure("completion_mean", "Mean completion", "s", Metric(measure="latency", stat="mean"), 1e-6),
    Measure("completion_p99", "p99 completion", "s", Metric(measure="latency", stat="p99"), 1e-6),
    Measure("makespan", "Makespan", "s", Metric(measure="makespan"), 1e-6),
    Measure("unfinished", "Tasks not finished", "%", None, 1.0),
    Measure("deadline_miss", "Deadlines missed", "%", Metric(measure="deadline_miss"), 100.0),
    Measure("fairness", "Fairness of roles", "Jain", Metric(measure="share", function="jain"), 1.0, -1),
    Measure("uplink_bytes", "Bytes between sites", "GB", Metric(measure="bytes_moved"), 1e-9),
    Measure("dollars", "Cost", "$", Metric(measure="cost")),
    Measure("decision_p50", "Deciding, median round", "ms", None),
    Measure("decision_p99", "Deciding, p99 round", "ms", None),
    Measure("request_miss", "Requests of clients missed", "%", Metric(measure="request_miss"), 100.0),
)
"""New ones come last: runs made before have none of them. Completion is from a task's arrival to its end, of tasks that
finished: read it beside those that did not. Deciding is CPU time of this machine; all else is simulated."""


class Run(Record, frozen=True, kw_only=True):
    """Values by measure, None where there was nothing to measure. `scenario_digest` is `digest_of` its file, `outcome`
    of all that happened; `code`, `player` and `build` say what code decided it (`benchmarks.comparison.store`)."""

    scenario: str
    scenario_digest: str
    policy: str
    seed: int
    values: dict[str, float | None]
    rounds: int
    broken_laws: tuple[str, ...]
    cpu_s: float
    code: str = ""
    build: str = ""
    outcome: str = ""
    player: str = ""

    @property
    def world(self) -> str:
        """What two policies' runs must share to be held against each other: the code that played them, or the build
        where that is not known."""
        return self.player or self.build


class _Timed:
    """A policy and the CPU time of each of its rounds."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.rounds_ms: list[float] = []

    def plan(self, snapshot: Snapshot) -> Plan:
        began_ns = time.thread_time_ns()
        plan = self._policy.plan(snapshot)
        self.rounds_ms.append((time.thread_time_ns() - began_ns) / 1e6)
        return plan


def digest_of(path: Path) -> str:
    """Of the scenario's text, and of the size at which it is compared where that is not its tests'."""
    size = repr(sorted(COMPARED[path.stem].items())) if path.stem in COMPARED else ""
    return hashlib.blake2b(path.read_bytes() + size.encode(), digest_size=8).hexdigest()


def run(path: Path, policy: str, nth: int, code: str, player: str, build: str) -> Run:
    """The scenario under its own seed (`nth` 0) or one of those after it. `code` and after are put down."""
    began_s = time.process_time()
    parameters = compared_parameters_of(path.stem)
    own_seed = read_case(Case(path=str(path), policy=policy, parameters=parameters)).world.seed
    world = read_case(Case(path=str(path), policy=policy, seed=own_seed + nth, parameters=parameters)).world
    timed = _Timed(registry.load(policy))
    outcome = play(world, timed, policy)
    records = Records(outcome)
    metrics = Metrics(records)
    timed.rounds_ms.sort()
    values: dict[str, float | None] = {
        "unfinished": _unfinished(outcome, records),
        "decision_p50": quantile(timed.rounds_ms, 0.5),
        "decision_p99": quantile(timed.rounds_ms, 0.99),
    }
    for measure in MEASURES:
        if measure.metric is not None:
            value = metrics.value(measure.metric)
            values[measure.name] = None if value is None else value * measure.scale
    return Run(
        scenario=path.stem,
        scenario_digest=digest_of(path),
        policy=policy,
        seed=world.seed,
        values=values,
        rounds=outcome.n_rounds,
        broken_laws=outcome.broken_laws,
        cpu_s=time.process_time() - began_s,
        code=code,
        build=build,
        outcome=outcome.digest[:8],
        player=player,
    )


def _unfinished(outcome: Outcome, records: Records) -> float | None:
    """Of the tasks that end by themselves, in per cent; None where there are only services."""
    services = {
        (fact.job_id, group.name)
        for fact in outcome.facts
        if isinstance(fact, JobAccepted)
        for group in fact.job.tasks
        if group.service
    }
    tasks = [
        task
        for job_id, job in records.jobs.items()
        for name, group in job.groups.items()
        if (job_id, name) not in services
        for task in group
    ]
    open_ = sum(task.state is not TaskState.FINISHED for task in tasks)
    return 100 * open_ / len(tasks) if tasks else None
