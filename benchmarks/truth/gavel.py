"""Gavel's simulator (Narayanan et al., OSDI 2020) on its traces and clusters, with the shares of our `gavel`.

Time goes in rounds of 360 s. At the end of one, jobs that are done leave and jobs that arrived come in; shares are
computed anew when jobs changed and 1,920 s passed since they last were. A round gives each type of GPU to the jobs with
the highest priority there (`policies.gavel_rounds`), one type after the other: V100, P100, K80 for policies that know
throughputs, in a random order for those that do not. It ends when the last of its jobs has run its steps, so it may be
shorter. A job whose steps cannot be divided among its GPUs any more fails, and leaves after five failures uncounted.

What the published `fifo` does: a job gets the last available type in alphabetical order, whether or not enough of it
is left, and a type that has just run out stays available while a drawn one does not. Reproduced as it is, since the
published numbers are its.
"""

import csv
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.truth.result import Result
from policies import gavel_shares as shares
from policies.gavel_rounds import Received, by_priority

TYPES = ("k80", "p100", "v100")
ROUND_S, SHARES_EVERY_S = 360.0, 1920.0
WITHIN = 0.03
_DIGITS = 1e-6
_FAILURES_MAX = 5
_SEARCH_S, _SEARCH_RATIO = (100.0, 1e6), 1.05  # of the published bisection for the makespan
_FILES = {"physical": "physical_cluster_throughputs.json", "simulation": "simulation_throughputs.json"}


@dataclass(slots=True)
class Job:
    job_id: int
    arrived_s: float
    steps: int
    gpus: int
    weight: float
    throughput: shares.Floats  # [W] steps a second
    failures: int = 0


@dataclass(slots=True)
class _State:
    """What the objectives remember of jobs."""

    alone_s: dict[int, float] = field(default_factory=dict)  # time it would have taken alone, for what it has run
    alone_rate: dict[int, float] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)


class Shares:
    """A published policy: shares of all jobs that are there. `name` ends in `_perf` where throughputs are known."""

    def __init__(self, name: str, gpus: tuple[int, ...], seed: int) -> None:
        self.knows = name.endswith("_perf")
        self._objective = name.removesuffix("_perf")
        self._gpus = gpus
        self._state = _State()
        self._draw = random.Random(seed)
        self._fifo: dict[int, int] = {}  # job → type

    @property
    def serves_only_shares(self) -> bool:
        """Whether a job without a share runs nowhere, though something be free."""
        return self._objective == "fifo"

    def of(self, jobs: list[Job], now_s: float) -> dict[int, shares.Floats]:
        if not jobs:
            return {}
        if self._objective == "fifo":
            return self._first_in(jobs)
        cluster = shares.Cluster(
            needs=np.array([[job.gpus] for job in jobs], np.float64),
            tasks=np.ones(len(jobs)),
            room=np.array(self._gpus, np.float64)[:, None],
            open=np.ones((len(jobs), len(TYPES)), np.bool_),
        )
        known = np.array([job.throughput for job in jobs])
        steps = np.array([job.steps for job in jobs], np.float64)
        match self._objective:
            case "max_min_fairness":
                rates = known if self.knows else np.ones_like(known)
                found = shares.fairest(cluster, rates, np.array([job.weight for job in jobs]))
            case "min_total_duration":
                rates = known if self.knows else np.repeat(known[:, 2:], len(TYPES), axis=1)
                found = _soonest_published(cluster, rates, steps)
            case "finish_time_fairness":
                rates = known if self.knows else np.repeat(known[:, 2:], len(TYPES), axis=1)
                since = np.array([now_s - job.arrived_s for job in jobs])
                found = shares.fair_finish(cluster, rates, steps, since, self._alone(jobs, cluster, rates))
            case _:
                raise ValueError(f"the reference names a policy that is not known here: {self._objective!r}")
        return {job.job_id: row for job, row in zip(jobs, np.clip(found.shares, 0, 1), strict=True)}

    def _alone(self, jobs: list[Job], cluster: shares.Cluster, rates: shares.Floats) -> shares.Floats:
        """[J] how long each would take with an equal part for itself: what it ran at the rates of then, the rest at
        those of now."""
        state, now = self._state, shares.isolated(rates, cluster)
        for job, rate in zip(jobs, now.tolist(), strict=True):
            spent_s = 0.0
            if job.job_id in state.left:
                spent_s = (state.left[job.job_id] - job.steps) / state.alone_rate[job.job_id]
            state.alone_s[job.job_id] = state.alone_s.get(job.job_id, 0.0) + spent_s
            state.left[job.job_id], state.alone_rate[job.job_id] = job.steps, rate
        spent = np.array([state.alone_s[job.job_id] for job in jobs])
        out: shares.Floats = spent + np.array([job.steps for job in jobs]) / now
        return out

    def _first_in(self, jobs: list[Job]) -> dict[int, shares.Floats]:
        left = list(self._gpus)
        there = {job.job_id: job for job in jobs}
        queue = [job for job in jobs if job.job_id not in self._fifo]
        for job_id in sorted(self._fifo):
            kind = self._fifo[job_id]
            if job_id in there:
                left[kind] -= there[job_id].gpus
                continue
            if queue and queue[0].gpus <= left[kind] and queue[0].throughput[kind] > 0:
                self._fifo[queue[0].job_id] = kind
                left[kind] -= queue.pop(0).gpus
            del self._fifo[job_id]
        available = [kind for kind in range(len(TYPES)) if left[kind] > 0]
        for job in queue:
            enough = [n for n, kind in enumerate(available) if left[kind] >= job.gpus]
            if not enough:
                break
            drawn, kind = self._draw.randrange(len(enough)), available[-1]
            if job.throughput[kind] > 0:
                self._fifo[job.job_id] = kind
                left[kind] -= job.gpus
                if left[kind] == 0:
                    available.pop(enough[drawn])
        kinds = np.eye(len(TYPES))
        nothing = np.zeros(len(TYPES))
        return {job.job_id: kinds[self._fifo[job.job_id]] if job.job_id in self._fifo else nothing for job in jobs}


def _soonest_published(cluster: shares.Cluster, rates: shares.Floats, steps: shares.Floats) -> shares.Best:
    """The makespan is searched for by bisection, to 5 %: where that ends decides how much is left over to share."""
    exact_s = 1 / shares.best(cluster, rates, steps).level
    low_s, high_s = _SEARCH_S
    while _SEARCH_RATIO * low_s < high_s:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (low_s, middle_s) if middle_s >= exact_s else (middle_s, high_s)
    return shares.soonest(cluster, rates, steps, within=max(1 - exact_s / high_s, _DIGITS))


class Simulation:
    """One run. `done_s` job → completion time since arrival; `now_s` at the end is the makespan."""

    def __init__(self, jobs: list[Job], policy: str, gpus: tuple[int, ...], seed: int = 0) -> None:
        self._queued, self._gpus = list(jobs), gpus
        self._policy = Shares(policy, gpus, seed)
        self._shuffle = random.Random(seed + 5)
        self._active: dict[int, Job] = {}
        self._received = Received(len(TYPES), ROUND_S / 2)
        self._shares: dict[int, shares.Floats] = {}
        self._changed = True
        self._shared_at_s = 0.0
        self.now_s, self.done_s = jobs[0].arrived_s, dict[int, float]()

    def run(self) -> None:
        began_s, ended_s, running = 0.0, 0.0, list[tuple[float, Job, int, int]]()
        while self._active or self._queued:
            if not self._queued and not running:
                self._shared_at_s = 0.0
            if running:
                began_s, ended_s = ended_s, max(end_s for end_s, *_ in running)
                self.now_s = ended_s
            elif self._queued:
                self.now_s = self._queued[0].arrived_s
            for end_s, job, kind, steps in sorted(running, key=lambda each: (-each[0], each[1].job_id)):
                self._ran(job, kind, steps, end_s, end_s - began_s)
            while self._queued and self._queued[0].arrived_s <= self.now_s:
                job = self._queued.pop(0)
                self._active[job.job_id] = job
                self._received.add(job.job_id)
                self._changed = True
            running = self._round()

    def _ran(self, job: Job, kind: int, steps: int, end_s: float, took_s: float) -> None:
        if steps // job.gpus == 0 or took_s <= 0:
            job.failures += 1
            self._changed = True
        else:
            job.failures = 0
            job.steps -= steps
            self._received.give(job.job_id, kind, took_s)
            if job.steps <= 0:
                self.done_s[job.job_id] = end_s - job.arrived_s
        if job.steps <= 0 or job.failures == _FAILURES_MAX:
            del self._active[job.job_id]
            self._received.remove(job.job_id)
            self._changed = True

    def _round(self) -> list[tuple[float, Job, int, int]]:
        since_s = self.now_s - self._shared_at_s
        if self._changed and (since_s >= SHARES_EVERY_S or self._shared_at_s == 0):
            self._received.settle(self._shares, since_s)
            self._shared_at_s = self.now_s
            self._shares = self._policy.of([self._active[job_id] for job_id in sorted(self._active)], self.now_s)
            self._changed = False
        order = ["v100", "p100", "k80"]
        if not self._policy.knows:
            self._shuffle.shuffle(order)
        out: list[tuple[float, Job, int, int]] = []
        taken: set[int] = set()
        for kind in (TYPES.index(name) for name in order):
            left = self._gpus[kind]
            for job_id, priority in by_priority(self._received, self._shares, kind, self._rates(kind)):
                job = self._active[job_id]
                idle = priority <= 0 and self._policy.serves_only_shares
                if job_id in taken or idle or job.gpus > left or job.throughput[kind] <= 0:
                    continue
                left -= job.gpus
                taken.add(job_id)
                if job_id in self._shares:  # One that came since has its room, and begins when it has shares.
                    steps = min(int(job.throughput[kind] * ROUND_S), job.steps)
                    out.append((self.now_s + steps / float(job.throughput[kind]), job, kind, steps))
        return out

    def _rates(self, kind: int) -> dict[int, float]:
        return {job_id: float(job.throughput[kind]) for job_id, job in self._active.items()}


def run(data: Path, limit: int | None) -> list[Result]:
    """The linear programmes of `lp_oracles.json`, and the runs of `reference_runs.csv` whose policy is one of ours:
    the first `limit` of them (None: all)."""
    out = _optima(data / "lp_oracles.json")
    with (data / "reference_runs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["policy"] != "gandiva"]  # It packs jobs on one GPU.
    for row in rows[:limit]:
        v100, p100, k80 = (int(count) for count in row["cluster"].split(":"))
        trace = data / f"{row['trace'].split('/')[-1]}.csv"
        simulation = Simulation(_jobs(trace, data / _FILES[row["throughputs"]]), row["policy"], (k80, p100, v100))
        simulation.run()
        mean_s = float(np.mean(list(simulation.done_s.values())))
        for measure, measured, column in (
            ("mean completion, s", mean_s, "avg_jct_s"),
            ("makespan, s", simulation.now_s, "makespan_s"),
        ):
            out.append(
                Result(
                    experiment=row["name"].removesuffix("_" + row["policy"]),
                    policy=row["policy"],
                    measure=measure,
                    measured=measured,
                    reference=float(row[column]),
                    tolerance=WITHIN * float(row[column]),
                )
            )
    return out


def _optima(path: Path) -> list[Result]:
    out: list[Result] = []
    for n, case in enumerate(json.loads(path.read_text())):
        rates = np.array(case["throughputs"])
        cluster = shares.Cluster(
            needs=np.array(case["scale_factors"], np.float64)[:, None],
            tasks=np.ones(len(rates)),
            room=np.array(case["num_workers"], np.float64)[:, None],
            open=np.ones(rates.shape, np.bool_),
        )
        fair = shares.fairest(cluster, rates, np.array(case["priority_weights"])).level
        soon = 1 / shares.best(cluster, rates, np.array(case["steps"])).level
        for policy, measured, key in (
            ("max_min_fairness_perf", fair, "max_min_objective_highs"),
            ("min_total_duration_perf", soon, "min_makespan_s_highs"),
        ):
            reference = float(case[key])
            out.append(
                Result(
                    experiment=f"optimum {n}",
                    policy=policy,
                    measure="objective" if policy.startswith("max") else "makespan, s",
                    measured=measured,
                    reference=reference,
                    tolerance=_DIGITS * reference,
                )
            )
    return out


def _jobs(trace: Path, throughputs: Path) -> list[Job]:
    rates = json.loads(throughputs.read_text())
    with trace.open() as file:
        return [
            Job(
                job_id=int(row["job_id"]),
                arrived_s=float(row["arrival_s"]),
                steps=int(row["total_steps"]),
                gpus=int(row["scale_factor"]),
                weight=float(row["priority"]),
                throughput=np.array(
                    [rates[kind][str((row["job_type"], int(row["scale_factor"])))]["null"] for kind in TYPES]
                ),
            )
            for row in csv.DictReader(file)
        ]
