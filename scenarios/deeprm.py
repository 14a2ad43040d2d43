"""DeepRM's configuration (Mao et al., HotNets 2016): its jobs, its cluster as a world, and its cluster bare.

The bare cluster has no messages, agents or journal: what is left when everything that the engine simulates takes no
time. It shows the same view, takes the same actions and gives the same reward as `scenarios.gym.SchedulingEnv` does on
`deeprm_world`, about two hundred times as fast (docs/training.md), so a learner can see enough of it.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from federation.jobs import Job, TaskGroup
from policies.learned import Seen, Slot, View, observe
from policies.model import Needs, Resources
from scenarios.world import AgentSpec, Arrival, World

STEP_US = 1_000_000  # a step in the engine's time
UNITS = 10  # of each resource
_EARLY_US = 100_000  # in the engine tasks end and jobs come so long before a step: orders and answers take a while
_SEED_MAX = 2**31


@dataclass(frozen=True, slots=True)
class RmJob:
    """`steps` long, `units` of each of the two resources; `ends` once it was started."""

    arrived: int
    steps: int
    units: tuple[int, int]
    ends: int = 0


def draw_jobs(seed: int, rate: float, n_steps: int) -> list[RmJob]:
    """Each step a job comes with probability `rate`; four of five take 1 to 3 steps, the others 10 to 15, 5 to 10 units
    of one resource and 1 or 2 of the other."""
    draw = np.random.Generator(np.random.PCG64(seed))
    jobs = []
    for step in range(1, n_steps + 1):
        steps = int(draw.integers(1, 4) if draw.random() < 0.8 else draw.integers(10, 16))
        one, other = int(draw.integers(5, 11)), int(draw.integers(1, 3))
        units = (one, other) if draw.random() < 0.5 else (other, one)
        if draw.random() < rate:
            jobs.append(RmJob(step, steps, units))
    return jobs


def deeprm_world(seed: int, rate: float, n_steps: int = 50) -> World:
    """One machine in the scenario engine, and DeepRM's jobs for it."""
    arrivals = []
    for job in draw_jobs(seed, rate, n_steps):
        cpu, memory = job.units
        group = TaskGroup(
            name="task",
            command=("simulated",),
            needs=Needs(cpu_milli=cpu * 1000, memory_bytes=memory << 30),
            run_us=job.steps * STEP_US,
            simulated_run_us=job.steps * STEP_US - _EARLY_US,
        )
        at_us = job.arrived * STEP_US - _EARLY_US // 2
        arrivals.append(Arrival(at_us=at_us, job=Job(name=f"job-{job.arrived}", tasks=(group,))))
    machine = Resources(cpu_milli=UNITS * 1000, memory_bytes=UNITS << 30)
    return World(
        name="deeprm",
        purpose="DeepRM's cluster in the scenario engine",
        seed=seed,
        duration_us=100 * n_steps * STEP_US,
        agents=(AgentSpec(agent_id="machine", site="cluster", tier="cloud", total=machine),),
        links=(),
        master_site="cluster",
        arrivals=tuple(arrivals),
    )


class BareEnv(gymnasium.Env[npt.NDArray[np.float32], int]):
    """DeepRM's cluster, a draw of jobs an episode. Steps in which nothing is to be decided pass by themselves."""

    def __init__(self, rates: tuple[float, ...] = (0.3, 0.5, 0.7), n_steps: int = 50, view: View | None = None) -> None:
        self.view = view or View()
        self._rates, self._n_steps = rates, n_steps
        self._seen: Seen | None = None
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (self.view.size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.view.n_actions)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._seen = None
        while self._seen is None:
            drawn = int(self.np_random.integers(_SEED_MAX))
            self._coming = draw_jobs(drawn, self._rates[drawn % len(self._rates)], self._n_steps)
            self._now, self._reward = 0, 0.0
            self._waiting: list[RmJob] = []
            self._running: list[RmJob] = []
            self._slowdowns: list[float] = []
            self._used = np.zeros((2, self.view.horizon), np.float32)
            self._seen = self._next()
        self._reward = 0.0
        return self._seen.vector, {}

    def step(self, action: int) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        assert self._seen is not None, "reset comes first"
        mask = self._seen.mask
        if mask[action] and action < self.view.slots:
            self._start(self._seen.slots[action])
        elif mask[self.view.slots]:
            self._tick()
        else:
            self._start(self._seen.slots[int(mask.argmax())])
        self._seen = self._next()
        reward, self._reward = self._reward, 0.0
        if self._seen is None:
            return np.zeros(self.view.size, np.float32), reward, True, False, {"slowdown": np.mean(self._slowdowns)}
        return self._seen.vector, reward, False, False, {}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        return self._seen.mask if self._seen is not None else np.ones(self.view.n_actions, np.bool_)

    def _next(self) -> Seen | None:
        """Go on until something is to be decided; None when everything has ended."""
        while True:
            seen = self._look()
            if seen.mask.sum() > 1:
                return seen
            if seen.mask[: self.view.slots].any():
                self._start(seen.slots[int(seen.mask.argmax())])
            elif self._coming or self._waiting or self._running:
                self._tick()
            else:
                return None

    def _look(self) -> Seen:
        view = self.view
        shown = sorted(enumerate(self._waiting[: view.slots]), key=lambda each: each[1].steps)
        free = 1 - self._used[:, 0] + 1e-4
        slots = tuple(
            Slot(n, job.steps, _shares(job), bool((np.array(_shares(job)) <= free).all())) for n, job in shown
        )
        mask = np.zeros(view.n_actions, np.bool_)
        mask[: len(slots)] = [slot.may_start for slot in slots]
        late = any(s.may_start and self._now - self._waiting[s.c].arrived > view.patience * s.steps for s in slots)
        mask[view.slots] = bool(self._running) and not late
        return Seen(slots, observe(view, self._used, slots, len(self._waiting) - len(slots)), mask)

    def _start(self, slot: Slot) -> None:
        job = self._waiting.pop(slot.c)
        self._used[:, : job.steps] += np.array(slot.shares, np.float32)[:, None]
        np.clip(self._used, 0.0, 1.0, out=self._used)
        self._running.append(RmJob(job.arrived, job.steps, job.units, self._now + job.steps))

    def _tick(self) -> None:
        self._reward -= sum(1 / job.steps for job in (*self._waiting, *self._running))
        self._now += 1
        self._used[:, :-1] = self._used[:, 1:]
        self._used[:, -1] = 0
        self._slowdowns += [(job.ends - job.arrived) / job.steps for job in self._running if job.ends <= self._now]
        self._running = [job for job in self._running if job.ends > self._now]
        while self._coming and self._coming[0].arrived <= self._now:
            self._waiting.append(self._coming.pop(0))


def _shares(job: RmJob) -> tuple[float, float]:
    return job.units[0] / UNITS, job.units[1] / UNITS
