"""Elastic training: how fast a job learns is a matter of how many of its workers run, and where.

All workers of a group train one model, in steps that they take together. A step takes what the formula of
`policies.goodput_model` says of the *true* parameters, which nobody tells the master; of a larger batch a sample
teaches less. So a job needs a fixed amount of useful samples, and whenever a worker comes or goes, those that run stop,
load the checkpoint, and go on at another speed. When the amount is learned, all end; a worker that starts later finds
nothing left to do, and ends too.

Amounts and times are integers: what depends on a float is rounded to a microsecond a step before it counts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from agents import events
from federation.wire import Steps, TaskSteps
from policies.goodput_model import Speed
from scenarios.broker import Timetable
from scenarios.world import Training

MILLIONTHS = 1_000_000  # of a sample: the unit of what is learned
TOLD_AFTER_US = 5_000_000  # a worker's `StepTimer` writes that often

Tell = Callable[[int, events.StepsTold], None]
Done = Callable[[int], None]


class Worker(NamedTuple):
    """A process that trains. `tell` reaches its agent, `done` says that the training has ended."""

    task_id: str
    attempt: int
    agent_id: str
    speed_milli: int
    env: Mapping[str, str]
    tell: Tell
    done: Done


class _Group:
    def __init__(self, training: Training, alone_us: int) -> None:
        self.training = training
        step_us = _step_us(training, 1, 1, training.batch, 1000)
        self.left = max(1, alone_us * training.batch * MILLIONTHS // step_us)  # useful samples, in millionths
        self.workers: dict[tuple[str, int], Worker] = {}  # by task and attempt, who came last comes last
        self.batch = 0
        self.step_us = 1
        self.useful = 0  # … a step
        self.ready_us = 0  # when the workers have loaded their checkpoint
        self.change = 0  # counts changes: what an earlier one scheduled is void


class Trainings:
    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._groups: dict[str, _Group] = {}

    def join(self, group_id: str, training: Training, alone_us: int, worker: Worker, now_us: int) -> None:
        """A worker's process runs. `alone_us` is how long one worker on reference hardware would take for it all."""
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = _Group(training, alone_us)
        self._learn(group, now_us)
        if not group.left:
            worker.done(now_us + 1)
            return
        group.workers[worker.task_id, worker.attempt] = worker
        self._begin(group, now_us)

    def leave(self, group_id: str, task_id: str, attempt: int, now_us: int) -> None:
        """Its process is gone, and what the group learned stays. An attempt that was cut off and given up may still run
        beside the one that took its place."""
        group = self._groups.get(group_id)
        if group is None or (task_id, attempt) not in group.workers:
            return
        self._learn(group, now_us)
        del group.workers[task_id, attempt]
        if group.left:
            self._begin(group, now_us)

    def _learn(self, group: _Group, now_us: int) -> None:
        """Count what was learned since the last change."""
        if group.workers and now_us > group.ready_us:
            learned = (now_us - group.ready_us) * group.useful // group.step_us
            group.left = max(0, group.left - learned)
            group.ready_us = now_us

    def _begin(self, group: _Group, now_us: int) -> None:
        """With the workers that there are now, from the checkpoint."""
        group.change += 1
        if not group.workers:
            return
        training, workers = group.training, list(group.workers.values())
        group.batch = _batch(training, workers)
        n_agents = len({worker.agent_id for worker in workers})
        slowest_milli = min(worker.speed_milli for worker in workers)
        group.step_us = _step_us(training, len(workers), n_agents, group.batch, slowest_milli)
        group.useful = useful_samples(training, group.batch)
        group.ready_us = now_us + training.restart_us
        ends_us = group.ready_us + -(-group.left * group.step_us // group.useful)
        self._timetable.call(ends_us, partial(self._end, group, group.change))
        told_us = group.ready_us + max(TOLD_AFTER_US, group.step_us)
        if told_us < ends_us:
            self._timetable.call(told_us, partial(self._tell, group, group.change, n_agents))

    def _tell(self, group: _Group, change: int, n_agents: int, now_us: int) -> None:
        """One of them says how long their steps take, through its agent."""
        if change != group.change:
            return
        worker = min(group.workers.values(), key=lambda each: each.task_id)
        steps = Steps(
            workers=len(group.workers),
            batch=group.batch,
            step_us=group.step_us,
            agents=n_agents,
            noise_scale=group.training.noise_scale,
        )
        told = TaskSteps(task_id=worker.task_id, attempt=worker.attempt, steps=steps)
        worker.tell(now_us, events.StepsTold(steps=told))

    def _end(self, group: _Group, change: int, now_us: int) -> None:
        if change != group.change:
            return
        group.change += 1
        group.left = 0
        for worker in list(group.workers.values()):
            worker.done(now_us)


def useful_samples(training: Training, batch: int) -> int:
    """What a step over `batch` samples teaches, in millionths of a sample at the batch the job was tuned for. Without a
    noise scale a larger batch teaches no more than that one."""
    noise = training.noise_scale
    if not noise:
        return training.batch * MILLIONTHS
    return batch * (noise + training.batch) * MILLIONTHS // (noise + batch)


def _step_us(training: Training, workers: int, agents: int, batch: int, speed_milli: int) -> int:
    """Those that wait for the slowest: only computing depends on the hardware."""
    speed = Speed(
        grad=training.grad_us / speed_milli * 1000,
        grad_per_sample=training.sample_us / speed_milli * 1000,
        local=training.local_us,
        local_per_worker=training.local_more_us,
        apart=training.apart_us,
        apart_per_worker=training.apart_more_us,
        gamma=training.overlap_milli / 1000,
    )
    return max(1, round(speed.step_s(workers, agents, batch)))  # In µs, as all that went in.


def _batch(training: Training, workers: list[Worker]) -> int:
    """In all: what the newest worker was told a worker takes, else the job's own."""
    told = int(workers[-1].env.get("OFFERFLOW_BATCH_PER_WORKER", "0"))
    return max(len(workers), told * len(workers) if told else training.batch)
