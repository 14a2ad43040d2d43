"""What was measured last goes on: the naive forecast, and of a random walk the best one.

R. J. Hyndman and G. Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., OTexts 2021, section 5.2.
"""

from policies.forecast.api import Numbers


class LastValue:
    __slots__ = ("_rate",)

    def __init__(self) -> None:
        self._rate = 0.0

    def update(self, rate: float, at_us: int) -> float:
        self._rate = rate
        return rate

    def state(self) -> Numbers:
        return (self._rate,)

    def restore(self, state: Numbers) -> None:
        (self._rate,) = map(float, state)
