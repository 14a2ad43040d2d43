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
from typing import Final, NamedTuple

from policies.forecast.api import Numbers
from policies.forecast.bands import FIRST, Band, learn
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


class _Mix(NamedTuple):
    """Of each model its weight, its lower factor, and its upper one times the weight."""

    parts: list[tuple[float, float, float]]
    total: float  # of the weights
    model: str  # that counts most
    weight_ppm: int


class Outlook:
    """The owner calls `learn` when `due_us` has passed and `note` from `noted_us` on: most samples need neither."""

    __slots__ = (
        "_mix", "_pending", "_step_us", "asked_us", "bands", "due_us", "forecast", "horizon_us", "noted_us",
        "regression",
    )  # fmt: skip

    def __init__(self, horizon_us: int, step_us: int, quantile: float) -> None:
        """A forecast is put aside every `step_us` at most; samples between are not judged, only learned from."""
        self.horizon_us = horizon_us
        self.asked_us = 0
        self.due_us, self.noted_us = _NEVER_US, 0
        self.regression = QuantileRegression(quantile)
        self.bands = [Band(quantile, LOW_FIRST, HIGH_FIRST) for _ in MODELS]
        self.forecast: Forecast | None = None  # made of the newest sample; None: nobody has asked since
        self._mix: _Mix | None = None  # None: an outcome has come since
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
            learn(self.bands, levels, actual)
            self.regression.learn(levels[SLOW], levels[QUICK], levels[ROBUST], actual)
        self._mix = None
        self._set_times()

    def note(self, at_us: int, samples: int, sum_bps: int, levels: Levels) -> None:
        """Put aside what is expected now, to be judged."""
        self._pending.append(Pending(made_us=at_us, samples=samples, sum_bps=sum_bps, levels=self.levels(levels)))
        self._set_times()

    def _set_times(self) -> None:
        pending = self._pending
        self.due_us = pending[0].made_us + self.horizon_us if pending else _NEVER_US
        self.noted_us = pending[-1].made_us + self._step_us if pending else 0

    def make(self, of_models: Levels, most_bps: int) -> Forecast:
        """Of the models' newest levels, never above what was ever measured."""
        levels = self.levels(of_models)
        mix = self._mix = self._mix or self._weigh()
        low = high = 0.0
        lowest = RATE_BPS_MAX * 1.0
        # Comparisons, not min(): this runs for every sample of every link that is told.
        for (weight, band_low, weighted_high), level in zip(mix.parts, levels, strict=False):
            below = band_low * level
            if below < lowest:
                lowest = below
            low += weight * below
            high += weighted_high * level
        total = mix.total
        low = CAUTION * lowest + (1.0 - CAUTION) * low / total
        low = min(low, LOW_RISE_MAX * levels[ROBUST], levels[SLOW])
        low_bps = min(most_bps, int(low))
        return Forecast(
            low_bps=low_bps,
            high_bps=max(low_bps, min(most_bps, int(high / total))),
            horizon_us=self.horizon_us,
            model=mix.model,
            weight_ppm=mix.weight_ppm,
            outcomes=self.bands[0].n,
        )

    def _weigh(self) -> "_Mix":
        """What each model counts for until the next outcome."""
        bands = self.bands
        if bands[0].n < FIRST:
            bands = bands[:_REGRESSION]  # The regression is the last.
        least = min([band.loss for band in bands])
        total = most = 0.0
        chosen, parts = 0, []
        for index, band in enumerate(bands):
            # Without any loss yet (no outcome, or none but perfect ones) all perfect models count the same.
            loss = band.loss
            ratio = least / loss if loss > 0.0 else 1.0
            weight = ratio * ratio
            weight *= weight
            total += weight
            parts.append((weight, band.low, weight * band.high))
            if weight > most:
                most, chosen = weight, index
        return _Mix(parts, total, MODELS[chosen], int(PPM * most / total))

    def state(self) -> OutlookState:
        return OutlookState(
            horizon_us=self.horizon_us,
            asked_us=self.asked_us,
            regression=self.regression.state(),
            bands=tuple(band.state() for band in self.bands),
            pending=tuple(self._pending),
        )

    def restore(self, regression: Numbers, bands: tuple[Numbers, ...], pending: tuple[Pending, ...]) -> None:
        self.regression.restore(regression)
        for band, numbers in zip(self.bands, bands, strict=True):
            band.restore(numbers)
        self._pending = deque(pending, maxlen=PENDING_MAX)
        self._set_times()
        self._mix = self.forecast = None
