"""One link's forecaster: eight models side by side, each listened to as far as its forecasts were good of late.

Each sample updates every model. When the horizon of an earlier forecast has passed, the mean rate that came judges each
model: its band learns and its pinball loss is taken down. The answer is the average of the models' lower quantiles
weighted by (least loss ÷ loss)⁴: polynomially weighted average forecasting (N. Cesa-Bianchi and G. Lugosi, Prediction,
Learning, and Games, Cambridge 2006, section 2.1); averages of quantiles lose less than their parts, the pinball loss
being convex. A model four times worse than the best counts 1/256. The regression, which begins with weights of its own,
is listened to when nine outcomes have taught it. The lowest of them all counts a sixteenth besides: weights follow late
when a link turns bad, and being too high costs nine times what being too low does.

Rates and times are integers at the edges, bits per second and microseconds. State is bounded and makes a `Record`.
Cost: O(models) an update, about 10 µs with a forecast after it (docs/forecast.md). A forecast is made only when asked.
"""

from collections import deque
from typing import Final

from policies.forecast.api import LevelModel, Numbers
from policies.forecast.bands import FIRST, Band
from policies.forecast.ewma import Ewma
from policies.forecast.harmonic import Harmonic
from policies.forecast.holt_winters import HoltWinters
from policies.forecast.last_value import LastValue
from policies.forecast.power_mean import PowerMean
from policies.forecast.quantile_regression import QuantileRegression
from policies.model import Record

# What transfers of a few hundred megabytes take on links of tens of megabits: what a placement is decided for.
HORIZON_US = 30_000_000
QUANTILE_PPM = 100_000  # the planner pays for risk: nine times in ten the link gives at least this
PPM = 1_000_000
# At most this many forecasts of one horizon await their outcome; samples between are not judged, only learned from.
PENDING_PER_HORIZON = 4
# A sample this many times the robust level is a broken clock, not a link; small rates and the first samples pass.
OUTLIER_FACTOR = 32.0
OUTLIER_BPS_MIN = 1_000_000.0
OUTLIER_SAMPLES_MIN = 8
# A lower bound this many times the robust level is not believed before the robust level has followed; nor is one above
# the mean of the newest samples.
LOW_RISE_MAX = 1.2
CAUTION = 1.0 / 16.0
RATE_BPS_MAX = 1 << 44
# Of a model whose forecasts nobody has judged yet.
LOW_FIRST, HIGH_FIRST = 0.98, 1.1

MODELS: Final = ("last", "ewma_long", "ewma", "ewma_quick", "harmonic", "power_mean", "holt_winters", "regression")
_SLOW, _QUICK, _ROBUST = MODELS.index("ewma"), MODELS.index("ewma_quick"), MODELS.index("power_mean")
_REGRESSION = MODELS.index("regression")


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
    levels: tuple[float, ...]


class ForecasterState(Record, frozen=True, kw_only=True):
    at_us: int
    samples: int
    sum_bps: int
    most_bps: int
    levels: tuple[float, ...]
    models: tuple[Numbers, ...]
    bands: tuple[Numbers, ...]
    pending: tuple[Pending, ...]


class Forecaster:
    """Forecasts one link. Deterministic: equal samples give equal forecasts, to the last bit, on every machine."""

    __slots__ = (
        "_at_us",
        "_bands",
        "_forecast",
        "_horizon_us",
        "_levels",
        "_models",
        "_most_bps",
        "_pending",
        "_regression",
        "_samples",
        "_step_us",
        "_sum_bps",
    )  # fmt: skip

    def __init__(self, *, horizon_us: int = HORIZON_US, quantile_ppm: int = QUANTILE_PPM) -> None:
        """`quantile_ppm` below one half is that of the lower bound; the upper bound's is as far from the top."""
        assert horizon_us > 0 and 0 < quantile_ppm <= PPM // 2
        quantile = quantile_ppm / PPM
        self._horizon_us = horizon_us
        self._step_us = horizon_us // PENDING_PER_HORIZON
        self._models: tuple[LevelModel, ...] = (
            LastValue(),
            Ewma(200),
            Ewma(10),
            Ewma(2),
            Harmonic(),
            PowerMean(),
            HoltWinters(horizon_us),
        )
        self._regression = QuantileRegression(quantile)
        self._bands = [Band(quantile, LOW_FIRST, HIGH_FIRST) for _ in MODELS]
        self._levels: tuple[float, ...] = ()  # each model's, after the newest sample
        self._pending: deque[Pending] = deque(maxlen=2 * PENDING_PER_HORIZON)
        self._at_us = 0
        self._samples = 0
        self._sum_bps = 0
        self._most_bps = 0
        self._forecast: Forecast | None = None

    def update(self, bps: int, at_us: int) -> None:
        """Take in a measured rate. Out of order counts as now; negative as zero; absurdly high as high."""
        at_us = max(0, at_us, self._at_us)
        bps = self._plausible(bps)
        while self._pending and self._pending[0].made_us + self._horizon_us < at_us:
            self._learn(self._pending.popleft(), bps)
        self._at_us = at_us
        self._samples += 1
        self._sum_bps += bps
        self._most_bps = max(self._most_bps, bps)
        rate = float(bps)
        levels = [model.update(rate, at_us) for model in self._models]
        levels.append(self._regression.predict(levels[_SLOW], levels[_QUICK], levels[_ROBUST]))
        self._levels = tuple(levels)
        self._forecast = None
        if not self._pending or at_us - self._pending[-1].made_us >= self._step_us:
            self._pending.append(
                Pending(made_us=at_us, samples=self._samples, sum_bps=self._sum_bps, levels=self._levels)
            )

    @property
    def samples(self) -> int:
        return self._samples

    def forecast(self) -> Forecast | None:
        """None before the first sample."""
        if self._forecast is None and self._levels:
            self._forecast = self._make()
        return self._forecast

    def _plausible(self, bps: int) -> int:
        bps = min(RATE_BPS_MAX, max(0, bps))
        if self._samples >= OUTLIER_SAMPLES_MIN:
            bound = int(OUTLIER_FACTOR * max(self._levels[_ROBUST], OUTLIER_BPS_MIN))
            bps = min(bps, bound)
        return bps

    def _learn(self, pending: Pending, next_bps: int) -> None:
        """Judge an earlier forecast by the mean of the samples in its horizon, or by the first after it if none was."""
        n_samples = self._samples - pending.samples
        actual = (self._sum_bps - pending.sum_bps) / n_samples if n_samples else float(next_bps)
        levels = pending.levels
        for band, level in zip(self._bands, levels, strict=True):
            band.learn(level, actual)
        self._regression.learn(levels[_SLOW], levels[_QUICK], levels[_ROBUST], actual)

    def _make(self) -> Forecast:
        # Plain comparisons, as in `Band.learn`: this runs for every sample of every link that is told.
        bands, levels = self._bands, self._levels
        if bands[0].n < FIRST:
            bands = bands[:_REGRESSION]  # The regression is the last.
        least = min([band.loss for band in bands])
        total = low = high = most = 0.0
        chosen, lowest = 0, RATE_BPS_MAX * 1.0
        for index, band in enumerate(bands):
            # Without any loss yet (no outcome, or none but perfect ones) all perfect models count the same.
            loss, level = band.loss, levels[index]
            ratio = least / loss if loss > 0.0 else 1.0
            weight = ratio * ratio
            weight *= weight
            total += weight
            below = band.low * level
            if below < lowest:
                lowest = below
            low += weight * below
            high += weight * band.high * level
            if weight > most:
                most, chosen = weight, index
        low = CAUTION * lowest + (1.0 - CAUTION) * low / total
        low = min(low, LOW_RISE_MAX * levels[_ROBUST], levels[_SLOW])
        low_bps = min(self._most_bps, int(low))
        return Forecast(
            low_bps=low_bps,
            high_bps=max(low_bps, min(self._most_bps, int(high / total))),
            horizon_us=self._horizon_us,
            model=MODELS[chosen],
            weight_ppm=int(PPM * most / total),
            outcomes=bands[0].n,
        )

    def state(self) -> ForecasterState:
        return ForecasterState(
            at_us=self._at_us,
            samples=self._samples,
            sum_bps=self._sum_bps,
            most_bps=self._most_bps,
            levels=self._levels,
            models=(*(model.state() for model in self._models), self._regression.state()),
            bands=tuple(band.state() for band in self._bands),
            pending=tuple(self._pending),
        )

    def restore(self, state: ForecasterState) -> None:
        """Become what the forecaster was whose state this is; the settings are those of this one."""
        self._at_us, self._samples = state.at_us, state.samples
        self._sum_bps, self._most_bps = state.sum_bps, state.most_bps
        self._levels = state.levels
        *levels, regression = state.models
        for model, numbers in zip(self._models, levels, strict=True):
            model.restore(numbers)
        self._regression.restore(regression)
        for band, numbers in zip(self._bands, state.bands, strict=True):
            band.restore(numbers)
        self._pending = deque(state.pending, maxlen=2 * PENDING_PER_HORIZON)
        self._forecast = None
