"""A smoothed power mean of order one half, (mean of √x)²: between the arithmetic and the geometric mean.

A burst of ten times the usual rate moves it a third as far as the mean, and a stall does not pull it to nothing as it
does the geometric and harmonic means. On bursty mobile links it is the best single predictor of a lower quantile
(docs/forecast.md). Power means: G. H. Hardy, J. E. Littlewood and G. Pólya, Inequalities, Cambridge 1934, chapter 2.
"""

from math import sqrt

from policies.forecast.api import Numbers

SAMPLES = 400  # what is older fades
SHARE = 1.0 / SAMPLES


class PowerMean:
    """Within the smallest and the largest rate seen, but for rounding."""

    __slots__ = ("_n", "_root")

    def __init__(self) -> None:
        self._root = 0.0
        self._n = 0

    def update(self, rate: float, at_us: int) -> float:
        self._n += 1
        # A plain mean until there are so many that it forgets: the first sample is no better than the others.
        share = SHARE if self._n > SAMPLES else 1.0 / self._n
        self._root += share * (sqrt(rate) - self._root)
        return self._root * self._root

    def state(self) -> Numbers:
        return (self._root, self._n)

    def restore(self, state: Numbers) -> None:
        self._root, self._n = float(state[0]), int(state[1])
