"""Goodput: how fast elastic training learns with so many workers, by a model fitted to measured steps (Pollux).

Goodput is throughput times statistical efficiency (Qiao et al., OSDI 2021). A step computes gradients, in
a + b × samples a worker, and then synchronises, in a time that grows with the workers and differs between one agent
and several; the two overlap as far as γ says: T = (T_grad^γ + T_sync^γ)^(1/γ). Efficiency is what a sample teaches at
batch M compared with the batch M0 the job was tuned for: (φ + M0) ÷ (φ + M), φ being the gradient noise scale.

Times are seconds here, floats: an estimate that is compared, never added to a book.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from policies.model import Elastic, StepTime

GAMMA_MAX = 10.0  # past that the two parts overlap wholly
_BATCHES = 4  # batch sizes tried per doubling

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Speed:
    """The seven parameters of a job's step time, as the paper names them. All but `gamma` are 0 or more."""

    grad: float  # seconds a step whatever the batch
    grad_per_sample: float
    local: float = 0.0  # seconds to synchronise two workers of one agent
    local_per_worker: float = 0.0  # … and for each further one
    apart: float = 0.0  # the same where they are on several agents
    apart_per_worker: float = 0.0
    gamma: float = 1.0

    def step_s(self, workers: int, agents: int, batch: float) -> float:
        grad = self.grad + self.grad_per_sample * batch / workers
        if workers <= 1:
            return grad
        first, more = (self.apart, self.apart_per_worker) if agents > 1 else (self.local, self.local_per_worker)
        sync = first + more * (workers - 2)
        largest = max(grad, sync, 1e-12)
        together = (grad / largest) ** self.gamma + (sync / largest) ** self.gamma
        return float(largest * together ** (1 / self.gamma))


@dataclass(frozen=True, slots=True)
class Goodput:
    """`per_s` is samples a second, each worth one at the batch the job was tuned for; `batch` is in all."""

    per_s: float
    batch: int


def efficiency(elastic: Elastic, batch: float) -> float:
    """What a sample teaches, 1 at the job's own batch. Without a known noise scale a larger batch teaches no more."""
    noise = elastic.noise_scale
    return (noise + elastic.batch) / (noise + batch)


def goodput(elastic: Elastic, workers: int, agents: int) -> Goodput:
    """The best there is over the batch sizes that the job allows."""
    if workers <= 0:
        return Goodput(0.0, elastic.batch)
    speed = fit(elastic.steps)
    best = Goodput(0.0, elastic.batch)
    for batch in _batches(elastic, workers):
        per_s = batch / speed.step_s(workers, agents, batch) * efficiency(elastic, batch)
        if per_s > best.per_s * (1 + 1e-12):
            best = Goodput(per_s, batch)
    return best


def _batches(elastic: Elastic, workers: int) -> list[int]:
    """From the job's own batch up to the largest, by quarters of a doubling; a worker has at least one sample."""
    out, batch = [], float(max(elastic.batch, workers))
    largest = max(elastic.batch_max, int(batch))
    while batch < largest and elastic.noise_scale:
        out.append(round(batch))
        batch *= 2 ** (1 / _BATCHES)
    return [*out, largest] if elastic.noise_scale else [max(elastic.batch, workers)]


@lru_cache(maxsize=1024)
def fit(steps: tuple[StepTime, ...]) -> Speed:
    """The parameters under which the logarithms of measured and modelled times differ least, by L-BFGS-B.

    What was not measured is taken to cost nothing, as in the paper: whoever was never tried is worth trying. Without
    any measurement a step takes a second for every sample of a worker, so that more workers are as much faster.
    """
    if not steps:
        return Speed(0.0, 1.0)
    shortest = min(step.step_us for step in steps) / 1e6
    alone = [step.step_us / 1e6 / (step.batch / step.workers) for step in steps]
    start = np.array([shortest / 2, min(alone) / 2, *([shortest / 10] * 4), 2.0])
    bounds = [(0.0, None)] * 6 + [(1.0, GAMMA_MAX)]
    if not _measured(steps, several=False):
        bounds[2:4], start[2:4] = [(0.0, 0.0)] * 2, 0.0
    if not _measured(steps, several=True):
        bounds[4:6], start[4:6] = [(0.0, 0.0)] * 2, 0.0
    for n, several in ((3, False), (5, True)):
        if not any(step.workers > 2 and (step.agents > 1) == several for step in steps):
            bounds[n], start[n] = (0.0, 0.0), 0.0  # Two workers say nothing of what each further one costs.
    if len({step.batch / step.workers for step in steps}) == 1:
        bounds[0], start[0] = (0.0, 0.0), 0.0  # One size says nothing of what does not depend on it.
        start[1] *= 2
    scale = np.where(start > 0, start, 1.0)  # All of about one size: seconds and seconds a sample are not.

    def misfit(scaled: Floats) -> float:
        speed = Speed(*(scaled * scale))
        return sum(
            float(np.log(max(1e-12, speed.step_s(s.workers, s.agents, s.batch)) / (s.step_us / 1e6))) ** 2
            for s in steps
        )

    in_scale = [(low / by, None if high is None else high / by) for (low, high), by in zip(bounds, scale, strict=True)]
    found = []
    for gamma in (1.0, 2.0, GAMMA_MAX):  # The misfit has several valleys along γ.
        first = np.append(start[:6] / scale[:6], gamma / scale[6])
        found.append(minimize(misfit, first, bounds=in_scale, method="L-BFGS-B"))
    best = min(found, key=lambda result: float(result.fun))
    return Speed(*(float(value) for value in best.x * scale))


def _measured(steps: Sequence[StepTime], *, several: bool) -> bool:
    return any(step.workers > 1 and (step.agents > 1) == several for step in steps)
