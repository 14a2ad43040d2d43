"""Simple exponential smoothing: each sample moves the level by a fixed share of the way.

R. G. Brown, Statistical Forecasting for Inventory Control, McGraw-Hill 1959; as a filter of network measurements:
V. Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.
"""

from policies.forecast.api import Numbers


class Ewma:
    """Within the smallest and the largest rate seen, but for rounding."""

    __slots__ = ("_level", "_n", "_samples", "_share")

    def __init__(self, samples: int) -> None:
        """About the last `samples` matter: the plain mean of the first so many, from then on older ones fade."""
        self._samples = samples
        self._share = 1.0 / samples
        self._level = 0.0
        self._n = 0

    def update(self, rate: float, at_us: int) -> float:
        self._n += 1
        share = self._share if self._n > self._samples else 1.0 / self._n
        self._level += share * (rate - self._level)
        return self._level

    def state(self) -> Numbers:
        return (self._level, self._n)

    def restore(self, state: Numbers) -> None:
        self._level, self._n = float(state[0]), int(state[1])
