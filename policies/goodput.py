"""Goodput: elastic training gets as many workers as make all jobs together learn fastest (Pollux, Qiao et al., 2021).

How fast a job learns with so many workers is `policies/goodput_model.py`'s, fitted to its measured steps. A job's
speedup is its goodput ÷ that of an equal share of the cluster, or of all it may use where that is less; chosen are the
workers of all jobs at once that make the harmonic mean of the speedups largest (the paper's fairness −1), by a mixed
integer programme solved with HiGHS: one choice a job, within what is free and what the jobs hold. Changing a job that
runs costs it half a minute of its age.

A job grows by tasks that wait and shrinks by ending some (`Plan.evictions`): the framework in it must cope with that.
Whoever is started is told the batch that goes with the plan. Work that is not elastic goes first, in order of priority,
then age; what of it does not fit is left room for by shrinking the elastic.
"""

from dataclasses import dataclass, field

import msgspec
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from policies.goodput_model import Goodput, goodput
from policies.greedy import Greedy, Parts, Round, seniority
from policies.lower import Int64s
from policies.model import Elastic, Eviction, GroupSteps, Needs, Plan, Running, Snapshot, Tuning

RESTART_US = 30_000_000  # what a change costs a job: the paper measured about half a minute for a restart
SILENCE_US = 300_000_000  # ten reports of an agent: whoever measures has spoken by then
UNSTARTED = 4.0  # not running at all is as bad as a quarter of the slowest start
NODES_MAX = 10_000  # of the search tree; past that the best plan found so far counts


@dataclass(slots=True)
class Job:
    """An elastic job: where its workers run, and which classes of the round are its waiting ones."""

    elastic: Elastic
    needs: Needs
    priority: int
    running: list[tuple[int, Running]] = field(default_factory=list)  # (node, task), not those that are ending
    classes: list[int] = field(default_factory=list)
    age_us: int = 0
    wanted: int = 0
    best: Goodput = field(default_factory=lambda: Goodput(0.0, 1))


class GoodputPolicy(Greedy):
    """Cost of a round: `fifo`'s, a fit for each job not seen before, and the programme: jobs × workers each."""

    kernel = "goodput"

    def __init__(self) -> None:
        super().__init__()
        self._tunings: list[Tuning] = []

    def plan(self, snapshot: Snapshot) -> Plan:
        self._tunings = []
        plan = super().plan(snapshot)
        return msgspec.structs.replace(
            plan, tunings=(*plan.tunings, *sorted(self._tunings, key=lambda each: each.demand_id))
        )

    def give_out(self, books: Round) -> None:
        jobs = jobs_of(books)
        elastic = {c for job in jobs for c in job.classes}
        for c in sorted(range(len(books.demands)), key=lambda c: seniority(books.demands[c])):
            if c not in elastic:
                books.serve(c)
        if not jobs:
            return
        share_out(books, jobs)
        for job in sorted(jobs, key=lambda job: (-job.wanted, job.elastic.group_id)):
            self._grow(books, job)
        self._shrink(books, jobs)

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        """Together: where its workers are, then where most of it fits."""
        group_id = books.demands[c].elastic
        mine = np.zeros(len(room), np.int64)
        if group_id is not None:
            for n, node in enumerate(books.nodes):
                mine[n] = sum(t.elastic is not None and t.elastic.group_id == group_id.group_id for t in node.running)
            nodes = sorted(np.flatnonzero(room > 0).tolist(), key=lambda n: (-int(mine[n]), -int(room[n]), n))
            parts = []
            for n in nodes:
                part = min(int(room[n]), count)
                if part:
                    parts.append((n, part))
                    count -= part
            return parts
        return super().choose(books, c, room, count)

    def _grow(self, books: Round, job: Job) -> None:
        missing = job.wanted - len(job.running)
        for c in job.classes:
            placed = books.serve(c, missing) if missing > 0 else 0
            missing -= placed
            if placed:
                each = max(1, job.best.batch // max(1, job.wanted))
                self._tunings.append(Tuning(demand_id=books.demands[c].demand_id, batch_per_worker=each))

    def _shrink(self, books: Round, jobs: list[Job]) -> None:
        """End what the plan takes from jobs, where somebody waits for it."""
        waiting = [c for c in range(len(books.demands)) if books.remaining[c] and not books.columns.unreachable[c]]
        for job in jobs:
            surplus = len(job.running) - job.wanted
            others = [c for c in waiting if c not in job.classes]
            if surplus <= 0 or not others:
                continue
            on_node: dict[int, int] = {}
            for n, _ in job.running:
                on_node[n] = on_node.get(n, 0) + 1
            leaving = sorted(job.running, key=lambda each: (on_node[each[0]], -each[1].since_us, each[1].task_id))
            first = min(others, key=lambda c: seniority(books.demands[c]))
            for n, task in leaving[:surplus]:
                books.evictions.append(
                    Eviction(
                        task_id=task.task_id,
                        agent_id=books.nodes[n].agent_id,
                        for_demand_id=books.demands[first].demand_id,
                    )
                )


def as_measured(declared: Elastic, measured: GroupSteps | None) -> Elastic:
    """With what its workers measured: in the place of what was declared for the same configuration, and of all of it
    once two numbers of workers were tried."""
    if measured is None or not measured.steps:
        return declared
    known = {(step.workers, step.agents, step.batch) for step in measured.steps}
    others = [step for step in declared.steps if (step.workers, step.agents, step.batch) not in known]
    if len({step.workers for step in measured.steps}) > 1:
        others = []
    return msgspec.structs.replace(
        declared, steps=(*others, *measured.steps), noise_scale=measured.noise_scale or declared.noise_scale
    )


def jobs_of(books: Round) -> list[Job]:
    """The elastic jobs of a round, running or waiting, in order of name."""
    jobs: dict[str, Job] = {}
    measured = {each.group_id: each for each in books.snapshot.measured}
    for c, demand in enumerate(books.demands):
        if demand.elastic is not None:
            group_id = demand.elastic.group_id
            elastic = as_measured(demand.elastic, measured.get(group_id))
            job = jobs.setdefault(group_id, Job(elastic, demand.needs, demand.priority))
            job.classes.append(c)
    for n, node in enumerate(books.nodes):
        for task in node.running:
            if task.elastic is not None and not task.ending:
                elastic = as_measured(task.elastic, measured.get(task.elastic.group_id))
                job = jobs.setdefault(elastic.group_id, Job(elastic, task.needs, task.priority))
                job.running.append((n, task))
                job.age_us = max(job.age_us, books.snapshot.now_us - task.since_us)
    return [jobs[group_id] for group_id in sorted(jobs)]


def share_out(books: Round, jobs: list[Job]) -> None:
    """Set `wanted` and `best` of every job."""
    capacity = _capacity(books, jobs)
    options = [_options(books, job, capacity, len(jobs)) for job in jobs]
    chosen = solve(
        [[cost for _, cost in each] for each in options],
        [[[amount * workers for amount in _amounts(job.needs)] for workers, _ in each]
         for job, each in zip(jobs, options, strict=True)],
        capacity,
    )  # fmt: skip
    for job, each, n in zip(jobs, options, chosen, strict=True):
        job.wanted = each[n][0]
        job.best = goodput(job.elastic, job.wanted, _agents(books, job.needs, job.wanted))


def solve(costs: list[list[float]], uses: list[list[list[int]]], capacity: list[int]) -> list[int]:
    """One choice for each job: the cheapest together within the capacity of every kind. Choice 0 must use nothing.

    `uses[job][choice][kind]`. Exact, but for the bound on the search; every job keeps choice 0 where nothing is found.
    """
    sizes = [len(each) for each in costs]
    starts = np.cumsum([0, *sizes])
    objective = np.concatenate([np.array(each) for each in costs])
    one_each = np.zeros((len(costs), len(objective)))
    for n, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        one_each[n, start : start + size] = 1.0
    # Parts of the capacity, so that bytes and cores have one scale.
    used = np.array([each for job in uses for each in job], np.float64).T / np.maximum(1, np.array(capacity))[:, None]
    room = np.array([1.0 if each else 0.0 for each in capacity])
    found = milp(
        objective,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(used, -np.inf, room + 1e-9)],
        integrality=np.ones(len(objective)),
        bounds=Bounds(0, 1),
        options={"node_limit": NODES_MAX, "mip_rel_gap": 1e-6},
    )
    if found.x is None:
        return [0] * len(costs)
    return [int(np.argmax(found.x[start : start + size])) for start, size in zip(starts, sizes, strict=False)]


def _options(books: Round, job: Job, capacity: list[int], n_jobs: int) -> list[tuple[int, float]]:
    """(workers, what that costs the job): 1 ÷ speedup, weighted by priority. None of it first."""
    elastic = job.elastic
    room = min(
        (have // need for have, need in zip(capacity, _amounts(job.needs), strict=True) if need),
        default=elastic.workers_max * n_jobs,
    )
    available = len(job.running) + sum(books.remaining[c] for c in job.classes)
    least = max(1, elastic.workers_min)
    most = min(elastic.workers_max, room, available, max(least, _tried(job) * 2))
    weight = 2.0 ** (job.priority / 10)
    # The share is the cluster's: neither what the job could use beyond it nor what is known of it makes it smaller.
    fair = max(least, min(elastic.workers_max, room // n_jobs))
    share = goodput(elastic, fair, _agents(books, job.needs, fair)).per_s
    counts = range(least, most + 1)
    speedups = [goodput(elastic, k, _agents(books, job.needs, k)).per_s / max(share, 1e-12) for k in counts]
    slowest = min((each for each in speedups if each > 0), default=1.0)
    out = [(0, weight * UNSTARTED / slowest)]
    for k, speedup in zip(counts, speedups, strict=True):
        changed = job.running and k != len(job.running)
        restart = 1 + RESTART_US / max(job.age_us, RESTART_US) if changed else 1.0
        out.append((k, weight * restart / max(speedup, 1e-9)))
    return out


def _tried(job: Job) -> int:
    """The most workers of which anything is known: none of a job that is new, so that it begins with its least. One
    whose workers say nothing for long is taken at the model's word."""
    known = max((step.workers for step in job.elastic.steps), default=0)
    return known if known or job.age_us < SILENCE_US else job.elastic.workers_max


def _capacity(books: Round, jobs: list[Job]) -> list[int]:
    """What elastic work can have in all, by kind: free now and held by it, less what others wait for."""
    free = [int(each) for each in books.ledger.free.sum(axis=0)] + [int(books.ledger.gpu_milli().sum())]
    held = [job.needs for job in jobs for _ in job.running]
    elastic = {c for job in jobs for c in job.classes}
    for needs in held:
        free = [have + amount for have, amount in zip(free, _amounts(needs), strict=True)]
    for c, demand in enumerate(books.demands):
        if c not in elastic and books.remaining[c] and not books.columns.unreachable[c] and books.allowed(c).any():
            count = books.remaining[c]
            free = [have - amount * count for have, amount in zip(free, _amounts(demand.needs), strict=True)]
    return [max(0, each) for each in free]


def _amounts(needs: Needs) -> list[int]:
    gpu_milli = needs.gpu.count * needs.gpu.milli if needs.gpu is not None else 0
    return [needs.cpu_milli, needs.memory_bytes, needs.disk_bytes, gpu_milli]


def _agents(books: Round, needs: Needs, workers: int) -> int:
    """On how few agents so many workers could be, were the largest agents empty."""
    each = sorted(
        (
            min(have // need for have, need in zip(total, _amounts(needs), strict=True) if need)
            for total in books.totals.tolist()
        ),
        reverse=True,
    ) if any(_amounts(needs)) else [workers]  # fmt: skip
    held = np.cumsum([0, *each])
    return max(1, min(len(each), int(np.searchsorted(held, workers)))) if workers else 1
