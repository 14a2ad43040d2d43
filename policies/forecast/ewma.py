"""Simple exponential smoothing: each sample moves the level by a fixed share of the way.

R. G. Brown, Statistical Forecasting for Inventory Control, McGraw-Hill 1959; as a filter of network measurements:
V. Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.
"""

from policies.forecast.api import Numbers


class Ewma:
    """Within the smallest and the largest rate seen."""

    __slots__ = ("_begun", "_level", "_share")

    def __init__(self, share: float) -> None:
        """`share` in (0, 1]: what a new sample counts for; about the last 2/share samples matter."""
        self._share = share
        self._level = 0.0
        self._begun = False

    def update(self, rate: float, at_us: int) -> float:
        if self._begun:
            self._level += self._share * (rate - self._level)
        else:
            self._level, self._begun = rate, True
        return self._level

    def state(self) -> Numbers:
        return (self._level, int(self._begun))

    def restore(self, state: Numbers) -> None:
        self._level, self._begun = float(state[0]), bool(state[1])
