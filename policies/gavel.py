"""Gavel: unlike hardware shared in rounds (Narayanan et al., OSDI 2020).

How fast work runs depends on the hardware, and on how much differs from job to job. So shares of every type of
hardware are worked out over all jobs at once, as linear programmes (`policies/gavel_shares.py`): what part of the time
each should run on each type, for the objective that was chosen. Rounds turn shares into tasks that run: on each type,
whoever received least of what it is due comes next (share ÷ time received). When what waits is due more than what runs,
running work is ended, but none before it had a round's time. What is free beyond that goes to whoever can use it.

A job here is all equal tasks of a role: it may run as many at once as it has; a gang is a job that runs whole, on one
type. A type of hardware is a hardware class and a speed. Run times are learned for each, else declared and scaled by
speed. Weights come from priority (doubling with every 10) and role. Links and data are hard constraints only.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np

from policies import gavel_shares
from policies.gavel_shares import Best, Cluster, Floats
from policies.greedy import Greedy, Parts, Round, fill, seniority
from policies.lower import Int64s, round_to_bits
from policies.model import Demand, GpuNeed, Needs, Node, Running
from policies.preemption import Preemption, Standing
from policies.resources import amount_of, fits, kinds

_SPEED_BITS = 2  # of a speed that make a type: a quarter more is another type
_GRAIN = 256  # parts in which the tasks of one job are given out in a round
_EVICTIONS_MAX = 64  # of a round: more are ended in the next
_PRIORITY_DOUBLES = 10

Type = tuple[str, int]  # hardware class, rounded speed
JobKey = tuple[str, int, str, int, int, int, int, GpuNeed | None, str]
Wanted = dict[tuple[JobKey, int], int]
"""(job, number of a type) → tasks"""


@dataclass(slots=True)
class _Job:
    """What is remembered of a job from round to round. By type: time received (µs of tasks), decaying; tasks a second;
    whether it may run there."""

    order: int
    first_us: int
    needs: Needs
    weight: float
    received_us: dict[Type, float] = field(default_factory=dict)
    done: float = 0.0  # tasks' worth of what it ran
    rate: dict[Type, float] = field(default_factory=dict)
    shares: dict[Type, float] = field(default_factory=dict)


class Gavel(Greedy):
    """`objective`: "fairness" (weighted max-min), "water-filling" (the same to the end), "makespan" or "finish-time".

    `round_us` is how long a task runs at least before it is ended for others, `shares_every_us` how long shares hold
    while no job comes or goes. Cost of a round: O(jobs × types × log tasks); a linear programme when shares are due.
    """

    def __init__(
        self, objective: str = "fairness", round_us: int = 360_000_000, shares_every_us: int = 1_920_000_000
    ) -> None:
        # Rounds of six minutes and shares for 32, as in the paper: ending a task loses what it has not saved.
        super().__init__()
        self.kernel = f"gavel-{objective}"
        self._objective, self._round_us, self._every_us = objective, round_us, shares_every_us
        self._jobs: dict[JobKey, _Job] = {}
        self._n_jobs = 0
        self._at_us: int | None = None
        self._shared_us = 0
        self._only: tuple[Int64s, int, int] | None = None  # types of nodes, the type to be filled, tasks at most

    def give_out(self, books: Round) -> None:
        world = _World(books)
        changed = self._remember(books, world)
        now_us = books.snapshot.now_us
        if changed or now_us - self._shared_us >= self._every_us:
            self._share(world, now_us)
            self._shared_us = now_us
        wanted = self._wanted(world)
        short = self._start(books, world, wanted)
        made = self._make_room(books, world, wanted, short)
        for c in sorted(range(len(books.demands)), key=lambda c: seniority(books.demands[c])):
            books.retry(c)
            if books.demands[c].gang is None or c not in made:
                books.serve(c, books.remaining[c] - made.get(c, 0))

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        if self._only is not None:
            type_of, kind, at_most = self._only
            room = np.where(type_of == kind, room, 0)
            count = min(count, at_most) if books.demands[c].gang is None else count
        return fill(np.flatnonzero(room > 0), room, count)

    # --- what is remembered ------------------------------------------------------------------------------------------

    def _remember(self, books: Round, world: "_World") -> bool:
        """Book what ran since the last round; whether jobs came, went or may run elsewhere."""
        now_us = books.snapshot.now_us
        since_us = now_us - self._at_us if self._at_us is not None else 0
        self._at_us = now_us
        weights = {role.path: role.weight for role in books.snapshot.roles}
        changed = bool(self._jobs.keys() - world.keys.keys())
        self._jobs = {key: job for key, job in self._jobs.items() if key in world.keys}
        fade = 0.5 ** (since_us / self._every_us)
        for key, found in world.keys.items():
            job = self._jobs.get(key)
            if job is None:
                weight = 2.0 ** (found.priority / _PRIORITY_DOUBLES) * weights.get(found.role, 1)
                job = self._jobs[key] = _Job(self._n_jobs, found.first_us, found.needs, weight)
                self._n_jobs += 1
                changed = True
            before = job.rate
            job.rate = before | found.rate
            changed |= job.rate.keys() != before.keys()
            for each in world.types:
                ran_us = sum(min(since_us, max(0, now_us - task.since_us)) for task in found.running.get(each, ()))
                job.received_us[each] = job.received_us.get(each, 0.0) * fade + ran_us
                job.done += ran_us / 1e6 * job.rate.get(each, 0.0)
        return changed

    # --- shares ------------------------------------------------------------------------------------------------------

    def _share(self, world: "_World", now_us: int) -> None:
        for job in self._jobs.values():
            job.shares = {}
        whole = world.room.sum(axis=0)
        ordered = sorted(world.keys, key=lambda key: self._jobs[key].order)
        takes = {key: np.where(whole > 0, _amounts(self._jobs[key].needs) / np.maximum(whole, 1), 0) for key in ordered}
        # What takes less than a millionth of anything is in nobody's way, and runs without a share.
        keys = [key for key in ordered if takes[key].max() > 1e-6 and self._rates(key, world).any()]
        if not keys:
            return
        rates = np.array([self._rates(key, world) for key in keys])
        needs = np.array([takes[key] for key in keys])
        used = np.flatnonzero(needs.any(axis=0))
        needs = needs[:, used]
        room = np.maximum(world.room[:, used] / whole[used], 1e-9)
        tasks = np.array([world.keys[key].n_tasks for key in keys], np.float64)
        # A type on which nothing of a job can ever fit is closed to it; a speck of room keeps the rest inside.
        cluster = Cluster(np.maximum(needs, 1e-12), tasks, room, rates > 0)
        found = self._best(cluster, rates, keys, tasks, now_us)
        for key, row in zip(keys, found.shares.tolist(), strict=True):
            self._jobs[key].shares = dict(zip(world.types, row, strict=True))

    def _best(self, cluster: Cluster, rates: Floats, keys: list[JobKey], tasks: Floats, now_us: int) -> Best:
        weight = np.array([self._jobs[key].weight for key in keys])
        match self._objective:
            case "fairness":
                return gavel_shares.fairest(cluster, rates, weight)
            case "water-filling":
                return gavel_shares.water_filled(cluster, rates, weight)
            case "makespan":
                return gavel_shares.soonest(cluster, rates, tasks)
            case "finish-time":
                since_s = np.array([(now_us - self._jobs[key].first_us) / 1e6 for key in keys])
                alone = gavel_shares.isolated(rates, cluster)
                done = np.array([self._jobs[key].done for key in keys])
                return gavel_shares.fair_finish(cluster, rates, tasks, since_s, (done + tasks) / alone)
        raise ValueError(f"there is no objective {self._objective!r}; known are fairness, water-filling, makespan, "
                         "finish-time")  # fmt: skip

    def _rates(self, key: JobKey, world: "_World") -> Floats:
        return np.array([self._jobs[key].rate.get(each, 0.0) for each in world.types])

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _wanted(self, world: "_World") -> Wanted:
        """How many tasks of each job should run on each type now, the fastest type first."""
        left = {key: found.n_tasks for key, found in world.keys.items()}
        wanted: Wanted = {}
        for kind in sorted(range(len(world.types)), key=lambda kind: (-world.types[kind][1], world.types[kind][0])):
            room, each = world.room[kind].copy(), world.types[kind]
            heap: list[tuple[float, int, JobKey]] = []
            for key in left:
                job = self._jobs[key]
                if left[key] > 0 and job.shares.get(each, 0.0) > 1e-6:
                    heap.append((-self._priority(job, each, 0), job.order, key))
            heapq.heapify(heap)
            while heap:
                _, order, key = heapq.heappop(heap)
                job, found = self._jobs[key], world.keys[key]
                unit = left[key] if found.is_gang else min(left[key], max(1, found.n_tasks // _GRAIN))
                need = _amounts(job.needs) * unit
                if (need > room).any():
                    continue
                room -= need
                left[key] -= unit
                wanted[key, kind] = wanted.get((key, kind), 0) + unit
                if left[key] > 0:
                    heapq.heappush(heap, (-self._priority(job, each, wanted[key, kind]), order, key))
        return wanted

    def _priority(self, job: _Job, each: Type, given: int) -> float:
        """Share ÷ time received, with the rounds given out now counted half begun (Webster's rule)."""
        return job.shares[each] / (job.received_us.get(each, 0.0) / self._round_us + given + 0.5)

    def _start(self, books: Round, world: "_World", wanted: Wanted) -> Wanted:
        """Start what should run and does not, where there is room; what is short of it."""
        short: Wanted = {}
        for (key, kind), count in wanted.items():
            found = world.keys[key]
            left = count - len(found.running.get(world.types[kind], ()))
            for c in found.classes if left > 0 else ():
                self._only = world.type_of, kind, left
                books.retry(c)
                left -= books.serve(c, left)
            if left > 0:
                short[key, kind] = left
        self._only = None
        return short

    def _make_room(self, books: Round, world: "_World", wanted: Wanted, short: Wanted) -> dict[int, int]:
        """End what runs beyond its share where others are due the place; for how many tasks of each class."""
        preemption, made = Preemption(books), dict[int, int]()
        spare = self._spare(world, wanted, books.snapshot.now_us)
        for (key, kind), left in short.items():
            here = spare.get(kind)
            if not here or len(books.evictions) >= _EVICTIONS_MAX:
                continue

            def standing(task: Running, here: dict[str, int] = here) -> Standing | None:
                return (here[task.task_id],) if task.task_id in here else None

            for c in world.keys[key].classes:
                gang = books.demands[c].gang
                if gang is None:
                    n = preemption.make_room(c, standing, min(left, books.remaining[c] - made.get(c, 0)))
                    made[c] = made.get(c, 0) + n
                    left -= n
                elif c not in made and preemption.make_gang_room(gang.gang_id, standing):
                    made |= {member: books.remaining[member] for member in books.members(gang.gang_id)}
        return {c: n for c, n in made.items() if n}

    def _spare(self, world: "_World", wanted: Wanted, now_us: int) -> dict[int, dict[str, int]]:
        """By type, the tasks that run beyond their job's share for a round at least, and what they count for: the
        youngest of a job are ended first, for they lose least."""
        spare: dict[int, dict[str, int]] = {}
        for key, found in world.keys.items():
            for each, tasks in found.running.items():
                kind, job = world.types.index(each), self._jobs[key]
                beyond = len(tasks) - wanted.get((key, kind), 0)
                due = self._priority(job, each, 0) if job.shares.get(each) else 0.0
                old = [task for task in tasks if not task.ending and now_us - task.since_us >= self._round_us]
                old.sort(key=lambda task: (-task.since_us, task.task_id))
                for task in old[: max(0, beyond)]:
                    spare.setdefault(kind, {})[task.task_id] = round(due * 1000)
        return spare


@dataclass(slots=True)
class _Found:
    """A job as this snapshot shows it."""

    role: str
    priority: int
    needs: Needs
    first_us: int
    is_gang: bool
    n_tasks: int = 0
    classes: list[int] = field(default_factory=list)  # pending
    running: dict[Type, list[Running]] = field(default_factory=dict)
    rate: dict[Type, float] = field(default_factory=dict)


class _World:
    """The snapshot by types of hardware and by jobs."""

    def __init__(self, books: Round) -> None:
        number: dict[Type, int] = {}
        self.type_of: Int64s = np.array(
            [number.setdefault(_type_of(node), len(number)) for node in books.nodes], np.int64
        )
        self.types = list(number)
        self.room = np.zeros((len(number), 4))
        np.add.at(self.room, self.type_of, books.totals.astype(np.float64))
        self.keys: dict[JobKey, _Found] = {}
        for c, demand in enumerate(books.demands):
            gang_id = demand.gang.gang_id if demand.gang is not None else ""
            found = self._job(demand, gang_id, demand.oldest_us)
            found.classes.append(c)
            found.n_tasks += demand.count
            self._rate(books, c, found)
        for n, node in enumerate(books.nodes):
            for task in node.running:
                found = self._job(task, task.gang_id, task.since_us)
                each = self.types[self.type_of[n]]
                found.running.setdefault(each, []).append(task)
                found.n_tasks += 1
                if task.run_us and not found.classes:
                    found.rate.setdefault(each, 1e6 * node.speed_milli / (1000 * task.run_us))

    def _job(self, of: Demand | Running, gang_id: str, at_us: int) -> _Found:
        needs = of.needs
        key = (of.role, of.priority, of.profile, of.run_us, needs.cpu_milli, needs.memory_bytes, needs.disk_bytes,
               needs.gpu, gang_id)  # fmt: skip
        if key not in self.keys:
            self.keys[key] = _Found(of.role, of.priority, needs, at_us, bool(gang_id))
        found = self.keys[key]
        found.first_us = min(found.first_us, at_us)
        return found

    def _rate(self, books: Round, c: int, found: _Found) -> None:
        """Tasks a second on each type on which one of them can ever run."""
        allowed = np.flatnonzero(books.allowed(c))
        run_us = books.costs.run_us[c][books.columns.group[allowed]]
        for kind in np.unique(self.type_of[allowed]).tolist():
            here = self.type_of[allowed] == kind
            if any(fits(found.needs, books.nodes[n].total) for n in allowed[here].tolist()):
                found.rate[self.types[kind]] = 1e6 / max(1.0, float(run_us[here].mean()))


def _type_of(node: Node) -> Type:
    return node.hardware, round_to_bits(node.speed_milli, _SPEED_BITS)


def _amounts(needs: Needs) -> Floats:
    return np.array(kinds(amount_of(needs)), np.float64)


class GavelWaterFilling(Gavel):
    """`gavel`, and what is left over raised as evenly as can be."""

    def __init__(self) -> None:
        super().__init__("water-filling")


class GavelMakespan(Gavel):
    """`gavel` for all work to be done soonest."""

    def __init__(self) -> None:
        super().__init__("makespan")


class GavelFinishTime(Gavel):
    """`gavel` for finish-time fairness: none is done much later than it would be alone with an equal part."""

    def __init__(self) -> None:
        super().__init__("finish-time")
