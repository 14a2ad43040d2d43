"""Level, damped trend and a season of the day: what a link did at this hour before, it is expected to do again.

C. C. Holt, Forecasting seasonals and trends by exponentially weighted moving averages, ONR 52, 1957; P. R. Winters,
Forecasting sales by exponentially weighted moving averages, Management Science 6(3), 1960; the damping: E. S. Gardner
and E. McKenzie, Forecasting trends in time series, Management Science 31(10), 1985; several samples to a season's
slot: J. W. Taylor, Short-term electricity demand forecasting using double seasonal exponential smoothing, Journal of
the Operational Research Society 54(8), 2003.

Samples of a link come at any time and rate, so the season is kept by the clock, not by counting samples: 24 slots a
day, each the mean rate of that hour smoothed over days, read off linearly between the middles of hours.
"""

from itertools import accumulate

from policies.forecast.api import Numbers

DAY_US = 86_400_000_000
SLOTS = 24
SLOT_US = DAY_US // SLOTS
LEVEL_SHARE = 0.4
TREND_SHARE = 0.05
DAMPING = 0.9
SEASON_SHARE = 0.3  # of a new day in the slot's mean: about the last week matters
STEPS_MAX = 32
RATIO_MAX = 4.0  # what a season may multiply the level by, and divide it by
# DAMPED[n] = DAMPING + DAMPING² + … (n terms): how much of a trend's step is left to come in n steps.
DAMPED = list(accumulate(range(STEPS_MAX), lambda left, _: (left + 1.0) * DAMPING, initial=0.0))


class HoltWinters:
    """May exceed what was seen: it follows a trend. Never negative, at most `RATIO_MAX` times its own level."""

    __slots__ = ("_at_us", "_horizon_us", "_level", "_slot", "_slot_n", "_slot_sum", "_slots", "_spacing_us", "_trend")

    def __init__(self, horizon_us: int) -> None:
        self._horizon_us = horizon_us
        self._level = 0.0
        self._trend = 0.0
        self._at_us = -1  # of the newest sample; -1: there is none
        self._spacing_us = 0.0
        self._slot = -1
        self._slot_sum = 0.0
        self._slot_n = 0
        self._slots = [-1.0] * SLOTS  # mean rate by the hour; negative: not seen through

    def update(self, rate: float, at_us: int) -> float:
        self._take_season(rate, at_us)
        if self._at_us < 0:
            self._level, self._spacing_us = rate, float(self._horizon_us)
        else:
            self._spacing_us += LEVEL_SHARE * (at_us - self._at_us - self._spacing_us)
            before = self._level
            level = LEVEL_SHARE * rate + (1.0 - LEVEL_SHARE) * (before + DAMPING * self._trend)
            self._level = level if level > 0.0 else 0.0
            self._trend = TREND_SHARE * (self._level - before) + (1.0 - TREND_SHARE) * DAMPING * self._trend
        self._at_us = at_us
        # The mean over the horizon is what is reached half-way.
        half_us = self._horizon_us // 2
        n_steps = int(half_us / self._spacing_us) if self._spacing_us * STEPS_MAX > half_us else STEPS_MAX
        level = self._level + DAMPED[n_steps] * self._trend
        if level > 2.0 * self._level:
            level = 2.0 * self._level
        return self._season_ratio(at_us, at_us + half_us) * level if level > 0.0 else 0.0

    def _take_season(self, rate: float, at_us: int) -> None:
        """A slot's mean is taken over when the slot is left."""
        slot = at_us // SLOT_US
        if slot != self._slot:
            if self._slot_n:
                index = self._slot % SLOTS
                mean, known = self._slot_sum / self._slot_n, self._slots[index]
                self._slots[index] = mean if known < 0.0 else known + SEASON_SHARE * (mean - known)
            self._slot, self._slot_sum, self._slot_n = slot, 0.0, 0
        self._slot_sum += rate
        self._slot_n += 1

    def _season_ratio(self, from_us: int, to_us: int) -> float:
        """Typical rate then ÷ typical rate now; 1 while either is unknown."""
        if self._slots[(self._slot + 1) % SLOTS] < 0.0:  # Most links, for their first day.
            return 1.0
        now, then = self._typical(from_us), self._typical(to_us)
        if now <= 0.0 or then < 0.0:
            return 1.0
        return min(RATIO_MAX, max(1.0 / RATIO_MAX, then / now))

    def _typical(self, at_us: int) -> float:
        """Between the middles of two slots; negative when one of them was never seen through."""
        slot, rest_us = divmod(at_us - SLOT_US // 2, SLOT_US)
        before, after = self._slots[slot % SLOTS], self._slots[(slot + 1) % SLOTS]
        if before < 0.0 or after < 0.0:
            return -1.0
        return before + (after - before) * (rest_us / SLOT_US)

    def state(self) -> Numbers:
        head = (self._level, self._trend, self._at_us, self._spacing_us, self._slot, self._slot_sum, self._slot_n)
        return (*head, *self._slots)

    def restore(self, state: Numbers) -> None:
        self._level, self._trend, self._at_us = float(state[0]), float(state[1]), int(state[2])
        self._spacing_us, self._slot = float(state[3]), int(state[4])
        self._slot_sum, self._slot_n = float(state[5]), int(state[6])
        self._slots = [float(value) for value in state[7:]]
