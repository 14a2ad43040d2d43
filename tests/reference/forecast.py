"""A link's forecaster the obvious way: objects that remember what they say, lists of what came, model after model.

Equal to `policies.forecast.forecaster` to the last bit, for both use +, −, ×, ÷ and √ of 64-bit floats in one order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
RATE_BPS_MAX = 1 << 44
NAMES = ("last", "ewma_long", "ewma", "ewma_quick", "harmonic", "power_mean", "holt_winters", "regression")


def added(values: Iterable[float]) -> float:
    """One after the other: from Python 3.12 on `sum` makes up for rounding."""
    total = 0.0
    for value in values:
        total += value
    return total


def smoothed(mean: float, value: float, n: int, n_max: int) -> float:
    return mean + 1.0 / min(n, n_max) * (value - mean)


class HoltWinters:
    def __init__(self, horizon_us: int) -> None:
        self.half_us = horizon_us // 2
        self.level, self.trend, self.spacing_us = 0.0, 0.0, float(horizon_us)
        self.at_us: int | None = None
        self.hours = [-1.0] * 24
        self.hour: list[float] = []  # the rates of this hour

    def update(self, rate: float, at_us: int) -> float:
        if self.at_us is None:
            self.level = rate
        else:
            self.leave_hours(at_us)
            self.spacing_us = self.spacing_us + 0.4 * (at_us - self.at_us - self.spacing_us)
            before, trend = self.level, 0.9 * self.trend
            self.level = max(0.4 * rate + (1.0 - 0.4) * (before + trend), 0.0)
            self.trend = 0.05 * (self.level - before) + (1.0 - 0.05) * trend
        self.hour.append(rate)
        self.at_us = at_us
        n_steps = int(self.half_us / self.spacing_us) if self.spacing_us * 32 > self.half_us else 32
        damped = 0.0
        for _ in range(n_steps):
            damped = (damped + 1.0) * 0.9
        level = min(self.level + damped * self.trend, 2.0 * self.level)
        return level * self.season(at_us) if level > 0.0 else 0.0

    def leave_hours(self, at_us: int) -> None:
        assert self.at_us is not None
        hour = self.at_us // HOUR_US
        if at_us // HOUR_US != hour:
            mean, known = added(self.hour) / len(self.hour), self.hours[hour % 24]
            self.hours[hour % 24] = mean if known < 0.0 else known + 0.3 * (mean - known)
            self.hour = []

    def season(self, at_us: int) -> float:
        now, then = self.typical(at_us), self.typical(at_us + self.half_us)
        if self.hours[(at_us // HOUR_US + 1) % 24] < 0.0 or now <= 0.0 or then < 0.0:
            return 1.0
        return min(4.0, max(0.25, then / now))

    def typical(self, at_us: int) -> float:
        hour, rest_us = divmod(at_us - HOUR_US // 2, HOUR_US)
        before, after = self.hours[hour % 24], self.hours[(hour + 1) % 24]
        return -1.0 if before < 0.0 or after < 0.0 else before + (after - before) * (rest_us / HOUR_US)


@dataclass
class Regression:
    """Of four lags: the floor, the newest rate, the robust level, the least of the newest rates."""

    weights: tuple[float, ...] = (0.6, 0.2, 0.1, -0.1)

    def predict(self, lags: tuple[float, ...]) -> float:
        (a, b, c, d), (floor, last, robust, least) = self.weights, lags
        return max(a * floor + b * last + c * robust + d * least, 0.0)

    def learn(self, lags: tuple[float, ...], n: int, actual: float, quantile: float) -> None:
        scale = max(lags)
        if scale <= 0.0:
            return
        step = max(0.02 / sqrt(n), 0.001) * (quantile if actual >= self.predict(lags) else quantile - 1.0)
        floor, last, robust, least = (lag / scale for lag in lags)
        step /= floor * floor + last * last + robust * robust + least * least
        lags = floor, last, robust, least
        self.weights = tuple(weight + step * lag for weight, lag in zip(self.weights, lags, strict=True))


@dataclass
class Band:
    """Of one model: factors for its forecasts that hold nine times in ten, and what the lower one has lost of late."""

    tracks_low: bool
    low: float = 0.98
    high: float = 1.1
    loss: float = 0.0
    ratios: list[float] = field(default_factory=list)

    def learn(self, level: float, n: int, actual: float, quantile: float) -> None:
        error = actual - self.low * level
        loss = quantile * error if error >= 0.0 else (quantile - 1.0) * error
        self.loss += 1.0 / min(n, 200) * (loss - self.loss)
        step = max(0.5 / n, 0.04)
        good, bad = 1.0 + step * quantile, 1.0 + step * (1.0 - quantile)
        if n > 9:
            self.low = min(self.low * good, 4.0) if error >= 0.0 else max(self.low / bad, 0.01)
            self.high = self.high / good if actual <= self.high * level else min(self.high * bad, 4.0)
        else:
            if level > 0.0:
                self.ratios.append(min(max(actual / level, 0.01), 4.0))
            least, most = min([4.0, *self.ratios]), max([0.01, *self.ratios])
            is_begun = n == 9 and bool(self.ratios)
            self.low = least if is_begun else min(self.low, least)
            self.high = most if is_begun else max(self.high, most)
        if not self.tracks_low:
            self.low = 1.0
        self.high = max(self.low, self.high)


class Outlook:
    def __init__(self, horizon_us: int, quantile: float) -> None:
        self.horizon_us, self.quantile = horizon_us, quantile
        self.asked_us = 0
        self.n = 0
        self.regression = Regression()
        self.bands = [Band(tracks_low=name != "regression") for name in NAMES]
        self.bands[-1].low = 1.0
        self.waiting: list[tuple[int, int, list[float], tuple[float, ...]]] = []  # made, samples before, levels, lags

    def learn(self, rates: list[int], bps: int, at_us: int) -> None:
        while self.waiting and self.waiting[0][0] + self.horizon_us < at_us:
            _, n_before, levels, lags = self.waiting.pop(0)
            came = rates[n_before:] or [bps]
            actual = float(sum(came)) / float(len(came))
            self.n += 1
            for band, level in zip(self.bands, levels, strict=True):
                band.learn(level, self.n, actual, self.quantile)
            self.regression.learn(lags, self.n, actual, self.quantile)

    def is_time(self, at_us: int) -> bool:
        return not self.waiting or at_us >= self.waiting[-1][0] + self.horizon_us // 4

    def note(self, at_us: int, n_samples: int, levels: list[float], lags: tuple[float, ...]) -> None:
        self.waiting = self.waiting[-4:]
        self.waiting.append((at_us, n_samples, [*levels, self.regression.predict(lags)], lags))

    def tell(self, levels: list[float], lags: tuple[float, ...], most: int) -> tuple[int, int, str, int, int]:
        levels = [*levels, self.regression.predict(lags)]
        heard = list(zip(self.bands, levels, strict=True))[: 7 if self.n < 9 else 8]
        best = min(band.loss for band, _ in heard)
        total = low = high = 0.0
        weights = []
        for band, level in heard:
            weight = best / band.loss if band.loss > 0.0 else 1.0
            for _ in range(3):
                weight *= weight
            weights.append(weight)
            total += weight
            low += weight * (band.low * level)
            high += weight * band.high * level
        low = 1.0 / 16.0 * min(band.low * level for band, level in heard) + (1.0 - 1.0 / 16.0) * low / total
        low_bps = min(int(min(low, 1.2 * levels[5], levels[2])), most)
        return low_bps, max(low_bps, min(int(high / total), most)), NAMES[weights.index(1.0)], int(1e6 / total), self.n


class Forecaster:
    """`tell` answers with the bounds, the model that counts most, what it counts for, and how many outcomes."""

    def __init__(self, horizon_us: int = 30 * SECOND_US, quantile: float = 0.1) -> None:
        self.usual_us, self.quantile = horizon_us, quantile
        self.outlooks = {horizon_us: Outlook(horizon_us, quantile)}
        self.holt_winters = HoltWinters(horizon_us)
        self.rates: list[int] = []
        self.means: list[float] = []  # of the newest five rates, after each sample
        self.levels = [0.0] * 7
        self.root = 0.0
        self.lags: tuple[float, ...] = ()
        self.at_us = 0

    def update(self, bps: int, at_us: int) -> None:
        at_us = max(at_us, self.at_us)
        if len(self.rates) >= 8:
            bps = min(bps, int(32.0 * max(self.levels[5], 1e6)))
        bps = min(max(bps, 0), RATE_BPS_MAX)
        for outlook in self.outlooks.values():
            outlook.learn(self.rates, bps, at_us)
        self.rates.append(bps)
        self.at_us = at_us
        self.learn_levels(float(bps))
        for horizon_us, outlook in list(self.outlooks.items()):
            if outlook.is_time(at_us):
                outlook.note(at_us, len(self.rates), self.levels, self.lags)
                if horizon_us != self.usual_us and at_us - outlook.asked_us > HOUR_US:
                    del self.outlooks[horizon_us]

    def learn_levels(self, rate: float) -> None:
        rates, levels, n = self.rates, self.levels, len(self.rates)
        newest = [float(each) for each in rates[-5:]]
        # In the order of their places in rings of 20 and 60, which floats' sums depend on.
        ring = sorted(range(max(0, n - 20), n), key=lambda index: index % 20)
        total = added(1.0 / max(float(rates[index]), 1000.0) for index in ring)
        self.root = smoothed(self.root, sqrt(rate), n, 400)
        self.levels = [
            rate,
            smoothed(levels[1], rate, n, 200),
            smoothed(levels[2], rate, n, 10),
            smoothed(levels[3], rate, n, 2),
            len(ring) / total,
            self.root * self.root,
            self.holt_winters.update(rate, self.at_us),
        ]
        self.means.append(added(reversed(newest)) / len(newest))
        lately = sorted(self.means[-60:])
        self.lags = lately[(len(lately) - 1) // 10], rate, self.levels[5], min(newest)

    def tell(self, horizon_us: int) -> tuple[int, int, str, int, int] | None:
        if not self.rates:
            return None
        outlook = self.outlooks.setdefault(horizon_us, Outlook(horizon_us, self.quantile))
        outlook.asked_us = self.at_us
        if not outlook.waiting:
            outlook.note(self.at_us, len(self.rates), self.levels, self.lags)
        return outlook.tell(self.levels, self.lags, max(self.rates))
