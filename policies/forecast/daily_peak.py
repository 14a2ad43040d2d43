"""What the coming slots of the day reached on days before: the seasonal forecast of a peak, not of a mean.

The seasonal naive method (R. J. Hyndman and G. Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., OTexts
2021, section 5.2), smoothed over days as in R. G. Brown, Statistical Forecasting for Inventory Control, McGraw-Hill
1959. Demand is nothing for most of a day: a season that multiplies a level, as Holt-Winters', can say nothing of it.
"""

Numbers = tuple[int | float, ...]
SHARE = 0.5  # of the newest day in a slot's peak
PERIODS = 8  # without an update, after which nothing of before is left to speak of


class DailyPeak:
    """Within 0 and the largest value it was given; slots without an update count as nothing. O(slots)."""

    __slots__ = ("_lead", "_peaks", "_period_us", "_slot", "_slots", "_top")

    def __init__(self, period_us: int, slots: int, lead: int) -> None:
        """`lead` slots are looked ahead, of `slots` a period."""
        self._period_us, self._slots, self._lead = period_us, slots, lead
        self._peaks = [-1.0] * slots  # negative: not seen through
        self._slot = -1  # counted from the beginning; -1: nothing was given
        self._top = 0.0  # the most of this slot

    def update(self, rate: float, at_us: int) -> float:
        """The most that is expected from the next slot on until `lead` slots from now."""
        slot = at_us * self._slots // self._period_us
        if self._slot < 0:
            self._slot = slot
        for left in range(max(self._slot, slot - PERIODS * self._slots), slot):
            peak = self._top if left == self._slot else 0.0
            index = left % self._slots
            known = self._peaks[index]
            self._peaks[index] = peak if known < 0.0 else known + SHARE * (peak - known)
        if slot > self._slot:
            self._slot, self._top = slot, 0.0
        self._top = max(self._top, rate)
        return max(self.ahead(), default=0.0)

    def ahead(self) -> list[float]:
        """The peak expected in each of the next `lead` slots; 0 where nobody knows."""
        return [max(0.0, self._peaks[(self._slot + n) % self._slots]) for n in range(1, self._lead + 1)]

    def state(self) -> Numbers:
        return (self._slot, self._top, *self._peaks)

    def restore(self, state: Numbers) -> None:
        self._slot, self._top = int(state[0]), float(state[1])
        self._peaks = [float(value) for value in state[2:]]
