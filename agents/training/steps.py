"""Telling the agent how long training steps take, so that `goodput` plans with what is, not with what was declared.

```python
timer = StepTimer(workers=dist.get_world_size(), agents=2)
for images, digits in loader:
    with timer.step(batch=global_batch):
        ...  # zero_grad, forward, backward, optimizer.step()
```

Every few seconds the median of the last steps goes to a file that the agent reads (`$OFFERFLOW_PROGRESS`). Needs
nothing but Python. Outside an agent nothing is written.
"""

import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STEPS_KEPT = 32  # the median of so many: a step that waited for a checkpoint does not count
EVERY_S = 5.0  # the agent reports twice a minute


class StepTimer:
    """Times the steps of one worker, of `workers` tasks that train together on `agents` agents: where these change make
    a new one."""

    def __init__(
        self,
        *,
        workers: int = 1,
        agents: int = 1,
        path: Path | None = None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        told = os.environ.get("OFFERFLOW_PROGRESS", "")
        self._path = path or (Path(told) if told else None)
        self._workers, self._agents = workers, agents
        self._every_s, self._clock = every_s, clock
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._batch = 0
        self._written_s: float | None = None
        self.noise = NoiseScale()

    @contextmanager
    def step(self, batch: int) -> Iterator[None]:
        """Around one step over `batch` samples, those of all workers together. A step that raises does not count."""
        began_s = self._clock()
        yield
        self.record(self._clock() - began_s, batch)

    def record(self, step_s: float, batch: int) -> None:
        """The same for a step that was timed elsewhere. Steps of another batch than before begin anew."""
        if batch != self._batch:
            self._steps.clear()
            self._batch, self._written_s = batch, None
        self._steps.append(step_s)
        now_s = self._clock()
        if self._path is not None and (self._written_s is None or now_s - self._written_s >= self._every_s):
            self._written_s = now_s
            self._write(self._path)

    def _write(self, path: Path) -> None:
        told = {
            "workers": self._workers,
            "agents": self._agents,
            "batch": self._batch,
            "step_us": max(1, round(statistics.median(self._steps) * 1e6)),
            "noise_scale": self.noise.samples,
        }
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(told))
        aside.replace(path)  # Never half a file.


class NoiseScale:
    """The gradient noise scale, from squared norms of gradients over a small and a large batch of the same step.

    Tr(Σ) ÷ |G|² of McCandlish et al., "An Empirical Model of Large-Batch Training" (2018), appendix A.1: both
    estimators are unbiased, and averaged apart before they are divided.
    """

    def __init__(self, keep: float = 0.95) -> None:
        self._keep = keep
        self._signal = self._noise = self._weight = 0.0

    def add(self, small_norm2: float, small_batch: int, large_norm2: float, large_batch: int) -> None:
        """A worker's own gradient before it is averaged, and the mean over all. Raises ValueError where both batches
        are of one size: that says nothing."""
        if not 0 < small_batch < large_batch:
            raise ValueError(f"a small and a larger batch are wanted, not {small_batch} and {large_batch}")
        signal = (large_batch * large_norm2 - small_batch * small_norm2) / (large_batch - small_batch)
        noise = (small_norm2 - large_norm2) / (1 / small_batch - 1 / large_batch)
        self._signal = self._keep * self._signal + (1 - self._keep) * signal
        self._noise = self._keep * self._noise + (1 - self._keep) * noise
        self._weight = self._keep * self._weight + 1 - self._keep

    @property
    def samples(self) -> int:
        """0 while there is no estimate."""
        if self._weight == 0 or self._signal <= 0 or self._noise <= 0:
            return 0
        return max(1, round(self._noise / self._signal))
