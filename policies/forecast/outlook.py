"""What is forecast over one horizon: each model's band as the outcomes of that horizon taught it, and the mix of them.

When the horizon of an earlier forecast has passed, the mean rate that came judges each model: its band learns and its
pinball loss is taken down. The answer is the average of the models' lower quantiles weighted by (least loss ÷ loss)⁴:
polynomially weighted average forecasting (N. Cesa-Bianchi and G. Lugosi, Prediction, Learning, and Games, Cambridge
2006, section 2.1); averages of quantiles lose less than their parts, the pinball loss being convex. A model four times
worse than the best counts 1/256. The regression, which begins with weights of its own, is listened to when nine
outcomes have taught it. The lowest of them all counts a sixteenth besides: weights follow late when a link turns bad,
and being too high costs nine times what being too low does.
"""

from collections import deque
from typing import Final

from policies.forecast.api import Numbers
from policies.forecast.bands import FIRST, Bands
from policies.forecast.quantile_regression import QuantileRegression
from policies.model import Record

# Models in the order of their levels; the regression takes three of the others as lags and is each outlook's own.
MODELS: Final = ("last", "ewma_long", "ewma", "ewma_quick", "harmonic", "power_mean", "holt_winters", "regression")
SLOW, QUICK, ROBUST = MODELS.index("ewma"), MODELS.index("ewma_quick"), MODELS.index("power_mean")
_REGRESSION = MODELS.index("regression")
PENDING_MAX = 8
_NEVER_US = 1 << 62
# A lower bound this many times the robust level is not believed before the robust level has followed; nor is one above
# the mean of the newest samples.
LOW_RISE_MAX = 1.2
CAUTION = 1.0 / 16.0
RATE_BPS_MAX = 1 << 44
_RATE_MAX = float(RATE_BPS_MAX)
PPM = 1_000_000
# Of a model whose forecasts nobody has judged yet.
LOW_FIRST, HIGH_FIRST = 0.98, 1.1

Levels = tuple[float, ...]


class Forecast(Record, frozen=True, kw_only=True):
    """The mean rate over the horizon: nine times in ten at least `low_bps`, nine times in ten at most `high_bps`."""

    low_bps: int
    high_bps: int
    horizon_us: int
    model: str  # that counts most
    weight_ppm: int  # what it counts for
    outcomes: int  # forecasts judged so far; below nine the band is still a guess


class Pending(Record, frozen=True, kw_only=True):
    """A forecast that awaits its outcome."""

    made_us: int
    samples: int  # how many there had been
    sum_bps: int  # and what they came to
    levels: Levels


class OutlookState(Record, frozen=True, kw_only=True):
    horizon_us: int
    asked_us: int
    regression: Numbers
    bands: tuple[Numbers, ...]
    pending: tuple[Pending, ...]


class Outlook:
    """The owner calls `learn` when `due_us` has passed and `note` from `noted_us` on: most samples need neither, and
    none before `next_us`."""

    __slots__ = (
        "_forecast", "_made_of", "_pending", "_step_us", "_total", "_weights", "asked_us", "bands", "due_us",
        "horizon_us", "next_us", "noted_us", "regression",
    )  # fmt: skip

    def __init__(self, horizon_us: int, step_us: int, quantile: float) -> None:
        """A forecast is put aside every `step_us` at most; samples between are not judged, only learned from."""
        self.horizon_us = horizon_us
        self.asked_us = 0
        self.due_us, self.noted_us, self.next_us = _NEVER_US, 0, 0
        self.regression = QuantileRegression(quantile)
        self.bands = Bands(len(MODELS), quantile, LOW_FIRST, HIGH_FIRST)
        self._made_of: Levels = ()  # the levels of what was told last
        self._forecast: Forecast | None = None
        self._weights: list[float] = []  # of models that are listened to; none: an outcome has come since
        self._total = 0.0  # of the weights
        self._step_us = step_us
        self._pending: deque[Pending] = deque(maxlen=PENDING_MAX)

    def levels(self, levels: Levels) -> Levels:
        """The models' levels and the regression's."""
        return (*levels, self.regression.predict(levels[SLOW], levels[QUICK], levels[ROBUST]))

    def learn(self, at_us: int, samples: int, sum_bps: int, next_bps: int) -> None:
        """Judge forecasts whose horizon has passed before `at_us` by the mean of the samples in it, or by the next one
        if none was. `samples` and `sum_bps` are of all samples before."""
        while self._pending and self._pending[0].made_us + self.horizon_us < at_us:
            pending = self._pending.popleft()
            n_samples = samples - pending.samples
            actual = (sum_bps - pending.sum_bps) / n_samples if n_samples else float(next_bps)
            levels = pending.levels
            self.bands.learn(levels, actual)
            self.regression.learn(levels[SLOW], levels[QUICK], levels[ROBUST], actual)
        self._weights = []
        self._set_times()

    def note(self, at_us: int, samples: int, sum_bps: int, levels: Levels) -> None:
        """Put aside what is expected now, to be judged."""
        self._pending.append(Pending(made_us=at_us, samples=samples, sum_bps=sum_bps, levels=self.levels(levels)))
        self._set_times()

    def _set_times(self) -> None:
        pending = self._pending
        if not pending:
            self.due_us, self.noted_us, self.next_us = _NEVER_US, 0, 0
            return
        self.due_us = due_us = pending[0].made_us + self.horizon_us
        self.noted_us = noted_us = pending[-1].made_us + self._step_us
        self.next_us = noted_us if noted_us < due_us else due_us

    def make(self, of_models: Levels, most_bps: int) -> Forecast:
        """Of the models' newest levels, never above what was ever measured."""
        if self._forecast is not None and self._made_of is of_models:
            return self._forecast
        levels = self.levels(of_models)
        weights, bands = self._weights or self._weigh(), self.bands
        total = self._total
        low = high = 0.0
        lowest = _RATE_MAX
        # Comparisons, not min() and max(): this runs for every sample of every link that is told.
        for weight, band_low, band_high, level in zip(weights, bands.lows, bands.highs, levels, strict=False):
            below = band_low * level
            if below < lowest:
                lowest = below
            low += weight * below
            high += weight * band_high * level
        low = CAUTION * lowest + (1.0 - CAUTION) * low / total
        bound, slow = LOW_RISE_MAX * levels[ROBUST], levels[SLOW]
        if low > bound:
            low = bound
        low_bps, high_bps = int(low if low < slow else slow), int(high / total)
        if low_bps > most_bps:
            low_bps = most_bps
        if high_bps > most_bps:
            high_bps = most_bps
        self._made_of = of_models
        self._forecast = Forecast(
            low_bps=low_bps,
            high_bps=high_bps if high_bps > low_bps else low_bps,
            horizon_us=self.horizon_us,
            model=MODELS[weights.index(1.0)],
            weight_ppm=int(PPM / total),
            outcomes=bands.n,
        )
        return self._forecast

    def _weigh(self) -> list[float]:
        """What each model counts for until the next outcome; the best one 1."""
        losses = self.bands.losses
        if self.bands.n < FIRST:
            losses = losses[:_REGRESSION]  # The regression is the last.
        least, total, weights = min(losses), 0.0, []
        for loss in losses:
            # Without any loss yet (no outcome, or none but perfect ones) all perfect models count the same.
            ratio = least / loss if loss > 0.0 else 1.0
            weight = ratio * ratio
            weight *= weight
            total += weight
            weights.append(weight)
        self._weights, self._total = weights, total
        return weights

    def state(self) -> OutlookState:
        return OutlookState(
            horizon_us=self.horizon_us,
            asked_us=self.asked_us,
            regression=self.regression.state(),
            bands=self.bands.state(),
            pending=tuple(self._pending),
        )

    def restore(self, regression: Numbers, bands: tuple[Numbers, ...], pending: tuple[Pending, ...]) -> None:
        self.regression.restore(regression)
        self.bands.restore(bands)
        self._pending = deque(pending, maxlen=PENDING_MAX)
        self._set_times()
        self._weights, self._forecast = [], None
