"""DeepRM's cluster (Mao et al., HotNets 2016) and the heuristics it was compared with.

One machine of two resources with ten units each; a job of up to 15 steps may arrive each step, five are seen at a time
and the rest queue. A scheduler is asked until it lets time pass. Slowdown is (finish − arrival) ÷ length, averaged over
the jobs of all sequences. SJF is this project's `sjf`, asked through a snapshot of one node; Packer and Tetris are its
greedy mechanism with their own order; Random acts as the published one does, starts in the future included.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.result import Result
from policies.greedy import Greedy, Rank, Round
from policies.learned import Learned, Network
from policies.model import Demand, Needs, Node, Release, Resources, Running, Snapshot
from policies.sjf import Sjf

SLOTS, HORIZON, UNITS, BACKLOG = 5, 20, 10, 60
STEP_US = 1_000_000
_FINE = 1_000_000  # scores are compared as integers
WITHIN = 0.02


@dataclass(slots=True)
class Job:
    arrived: int
    length: int
    size: tuple[int, int]
    ended: int = -1


class Aligned(Greedy):
    """Tetris (Grandl et al., SIGCOMM 2014): `knob` × (needs · free) + (1 − knob) ÷ length, highest first; 1 is Packer.

    Needs and free are in units, as DeepRM has them.
    """

    def __init__(self, knob: float) -> None:
        super().__init__()
        self._knob = knob

    def rank(self, books: Round, c: int) -> Rank:
        demand = books.demands[c]
        free = books.ledger.free[0]
        align = demand.needs.cpu_milli * int(free[0]) + demand.needs.memory_bytes * int(free[1])
        score = self._knob * align + (1 - self._knob) * 1_000_000 / demand.run_us
        return -round(score * _FINE), demand.demand_id


Chooser = Callable[["Cluster"], int]


class Cluster:
    """DeepRM's environment, without its learner."""

    def __init__(self, lengths: list[int], sizes: list[list[int]]) -> None:
        self._lengths, self._sizes = lengths, sizes
        self.now = 0
        self.free = np.full((HORIZON, 2), UNITS, np.int64)
        self.slots: list[Job | None] = [None] * SLOTS
        self.backlog: deque[Job] = deque()
        self.running: list[Job] = []
        self.done: list[Job] = []

    def run(self, choose: Chooser) -> list[Job]:
        while not self._over():
            action = choose(self)
            job = self.slots[action] if action < SLOTS else None
            if job is not None and self._start(job):
                self.slots[action] = self.backlog.popleft() if self.backlog else None
            else:
                self._step()
        return self.done

    def _over(self) -> bool:
        return self.now >= len(self._lengths) and not (self.running or self.backlog or any(self.slots))

    def _start(self, job: Job) -> bool:
        """At the first moment within the horizon at which it fits."""
        for at in range(HORIZON - job.length):
            window = self.free[at : at + job.length]
            if (window >= job.size).all():
                window -= job.size
                job.ended = self.now + at + job.length
                self.running.append(job)
                return True
        return False

    def _step(self) -> None:
        self.now += 1
        self.free = np.vstack([self.free[1:], np.full((1, 2), UNITS, np.int64)])
        self.done += [job for job in self.running if job.ended <= self.now]
        self.running = [job for job in self.running if job.ended > self.now]
        if self.now < len(self._lengths) and self._lengths[self.now]:
            first, second = self._sizes[self.now]
            job = Job(self.now, self._lengths[self.now], (first, second))
            if None in self.slots:
                self.slots[self.slots.index(None)] = job
            elif len(self.backlog) < BACKLOG:
                self.backlog.append(job)


def by_policy(policy: Greedy) -> Chooser:
    """Ask a policy of this project: the first thing it would start now."""

    def choose(cluster: Cluster) -> int:
        free = Resources(cpu_milli=int(cluster.free[0, 0]), memory_bytes=int(cluster.free[0, 1]))
        total = Resources(cpu_milli=UNITS, memory_bytes=UNITS)
        demands = tuple(
            Demand(
                demand_id=str(n),
                role="default",
                needs=Needs(cpu_milli=job.size[0], memory_bytes=job.size[1]),
                count=1,
                oldest_us=0,
                run_us=job.length * 1_000_000,
            )
            for n, job in enumerate(cluster.slots)
            if job is not None and (cluster.free[: job.length] >= job.size).all()
        )
        if not demands:
            return SLOTS
        node = Node(agent_id="cluster", site="s", tier="cloud", free=free, total=total)
        placements = policy.plan(Snapshot(now_us=cluster.now, demands=demands, nodes=(node,))).placements
        return int(placements[0].demand_id) if placements else SLOTS

    return choose


def by_learned(policy: Learned) -> Chooser:
    """Ask the learned policy: the first task it would start, seeing all that waits and when what runs will end."""
    total = Resources(cpu_milli=UNITS, memory_bytes=UNITS)

    def choose(cluster: Cluster) -> int:
        waiting = [*(job for job in cluster.slots if job is not None), *cluster.backlog]
        if not waiting:
            return SLOTS
        demands = [
            Demand(
                demand_id=f"{n:03d}",
                role="default",
                needs=Needs(cpu_milli=job.size[0], memory_bytes=job.size[1]),
                count=1,
                oldest_us=job.arrived * STEP_US,
                run_us=job.length * STEP_US,
            )
            for n, job in enumerate(waiting)
        ]
        held = [(job, Needs(cpu_milli=job.size[0], memory_bytes=job.size[1])) for job in cluster.running]
        held.sort(key=lambda each: each[0].ended)
        node = Node(
            agent_id="cluster",
            site="s",
            tier="cloud",
            free=Resources(cpu_milli=int(cluster.free[0, 0]), memory_bytes=int(cluster.free[0, 1])),
            total=total,
            releases=tuple(Release(in_us=(job.ended - cluster.now) * STEP_US, needs=needs) for job, needs in held),
            running=tuple(
                Running(task_id=f"{n:03d}", role="default", needs=needs, since_us=0)
                for n, (_, needs) in enumerate(held)
            ),
        )
        plan = policy.plan(Snapshot(now_us=cluster.now * STEP_US, demands=tuple(demands), nodes=(node,)))
        if not plan.placements:
            return SLOTS
        return cluster.slots.index(waiting[int(plan.placements[0].demand_id)])

    return choose


def at_random(seed: int) -> Chooser:
    draw = np.random.Generator(np.random.PCG64(seed))
    return lambda _: int(draw.integers(SLOTS + 1))


def run(data: Path, limit: int | None) -> list[Result]:
    """Every rate and heuristic of the reference file, on the first `limit` sequences of each rate (None: all)."""
    reference = json.loads((data / "heuristics_reference.json").read_text())
    out: list[Result] = []
    for row in reference:
        pairs = _sequences(data, row["rate"], limit)
        jobs: list[Job] = []
        for choose in _choosers(row["policy"]):
            for lengths, sizes in pairs:
                jobs += Cluster(lengths, sizes).run(choose)
        slowdown = _slowdown(jobs)
        out.append(
            Result(
                experiment=f"rate {row['rate']}",
                policy=row["policy"],
                measure="mean slowdown",
                measured=slowdown,
                reference=row["slowdown"],
                tolerance=WITHIN * row["slowdown"],
            )
        )
    return out + _learned(data, reference, limit)


def _learned(data: Path, reference: list[dict[str, float]], limit: int | None) -> list[Result]:
    """The learned policy on the same sequences, none of which it was trained on, against the best heuristic."""
    out: list[Result] = []
    for rate in sorted({row["rate"] for row in reference}):
        best = min(row["slowdown"] for row in reference if row["rate"] == rate)
        out.append(
            Result(
                experiment=f"rate {rate}",
                policy="learned",
                measure="mean slowdown",
                measured=learned_slowdown(None, data, rate, limit),
                reference=best,
                tolerance=0.0,
                below=True,
            )
        )
    return out


def learned_slowdown(network: Network | None, data: Path, rate: float, limit: int | None) -> float:
    """Mean slowdown of a network (None: the one that ships) on the first `limit` sequences of a rate."""
    jobs: list[Job] = []
    for lengths, sizes in _sequences(data, rate, limit):
        jobs += Cluster(lengths, sizes).run(by_learned(Learned(network)))
    return _slowdown(jobs)


def _sequences(data: Path, rate: float, limit: int | None) -> list[tuple[list[int], list[list[int]]]]:
    found = json.loads((data / f"seq_rate{rate}.json").read_text())
    return list(zip(found["len"], found["size"], strict=True))[:limit]


def _slowdown(jobs: list[Job]) -> float:
    return sum((job.ended - job.arrived) / job.length for job in jobs) / len(jobs)


def _choosers(name: str) -> list[Chooser]:
    """One for each time the sequences are run."""
    match name:
        case "SJF":
            return [by_policy(Sjf())]
        case "Packer":
            return [by_policy(Aligned(1.0))]
        case "Random":
            return [at_random(seed) for seed in range(42, 52)]  # The published number is one draw; ours a mean of ten.
    if name.startswith("Tetris"):
        return [by_policy(Aligned(float(name[6:])))]
    raise ValueError(f"the reference names a heuristic that is not known here: {name!r}")
