"""One link's forecaster: eight models side by side, each listened to as far as its forecasts were good of late.

Each sample updates every model's level, once. How far those levels are to be believed is learned by horizon
(`outlook`): over the usual one for every link, over others from when they are first asked for until nobody has asked
for an hour. A forecast is made only when asked.

Rates and times are integers at the edges, bits per second and microseconds. State is bounded and makes a `Record`.
Cost: O(models · horizons in use) an update, about 10 µs with a forecast after it for one (docs/forecast.md).
"""

from policies.forecast.api import LevelModel, Numbers
from policies.forecast.ewma import Ewma
from policies.forecast.harmonic import Harmonic
from policies.forecast.holt_winters import HoltWinters
from policies.forecast.horizons import USUAL_US
from policies.forecast.last_value import LastValue
from policies.forecast.outlook import PPM, RATE_BPS_MAX, ROBUST, Forecast, Levels, Outlook, OutlookState, Pending
from policies.forecast.power_mean import PowerMean
from policies.model import Record

QUANTILE_PPM = 100_000  # the planner pays for risk: nine times in ten the link gives at least this
# A sample this many times the robust level is a broken clock, not a link; small rates and the first samples pass.
OUTLIER_FACTOR = 32.0
OUTLIER_BPS_MIN = 1_000_000.0
OUTLIER_SAMPLES_MIN = 8
_PLAUSIBLE_BPS = int(OUTLIER_FACTOR * OUTLIER_BPS_MIN)  # whatever the robust level
STEPS = 4  # forecasts of a horizon that are judged at most
FORGET_US = 3_600_000_000  # A horizon that nobody has asked for in an hour of samples is learned no more.


class ForecasterState(Record, frozen=True, kw_only=True):
    """`bands` and `pending` are the usual horizon's, the last of `models` and `levels` its regression; `others` has
    what else is asked for."""

    at_us: int
    samples: int
    sum_bps: int
    most_bps: int
    levels: Levels
    models: tuple[Numbers, ...]
    bands: tuple[Numbers, ...]
    pending: tuple[Pending, ...]
    others: tuple[OutlookState, ...] = ()


class Forecaster:
    """Forecasts one link. Deterministic: equal samples and questions give equal forecasts, to the last bit, on every
    machine."""

    __slots__ = (
        "_at_us", "_levels", "_models", "_most_bps", "_next_us", "_outlooks", "_quantile", "_samples", "_sum_bps",
        "_usual",
    )  # fmt: skip

    def __init__(self, *, horizon_us: int = USUAL_US, quantile_ppm: int = QUANTILE_PPM) -> None:
        """`quantile_ppm` below one half is that of the lower bound; the upper bound's is as far from the top."""
        assert horizon_us > 0 and 0 < quantile_ppm <= PPM // 2
        self._quantile = quantile_ppm / PPM
        self._models: tuple[LevelModel, ...] = (
            LastValue(),
            Ewma(200),
            Ewma(10),
            Ewma(2),
            Harmonic(),
            PowerMean(),
            HoltWinters(horizon_us),
        )
        self._usual = self._outlook(horizon_us)
        self._outlooks = {horizon_us: self._usual}  # the usual one first
        self._levels: Levels = ()  # each model's, after the newest sample
        self._at_us = 0
        self._samples = 0
        self._sum_bps = 0
        self._most_bps = 0
        self._next_us = 0  # before then no outlook has anything to judge or to put aside

    def update(self, bps: int, at_us: int) -> None:
        """Take in a measured rate. Out of order counts as now; negative as zero; absurdly high as high."""
        if at_us < self._at_us:
            at_us = self._at_us
        bps = self._plausible(bps)
        is_time = at_us >= self._next_us
        if is_time:
            for outlook in self._outlooks.values():
                if at_us > outlook.due_us:
                    outlook.learn(at_us, self._samples, self._sum_bps, bps)
        self._at_us = at_us
        self._samples += 1
        self._sum_bps += bps
        if bps > self._most_bps:
            self._most_bps = bps
        rate = float(bps)
        self._levels = tuple([model.update(rate, at_us) for model in self._models])
        if is_time:
            self._note()

    def _note(self) -> None:
        """Put forecasts aside where it is time to."""
        at_us = self._at_us
        for outlook in list(self._outlooks.values()):
            if at_us >= outlook.noted_us:
                outlook.note(at_us, self._samples, self._sum_bps, self._levels)
                if at_us - outlook.asked_us > FORGET_US and outlook is not self._usual:
                    del self._outlooks[outlook.horizon_us]
        self._next_us = min([outlook.next_us for outlook in self._outlooks.values()])

    @property
    def samples(self) -> int:
        return self._samples

    def forecast(self) -> Forecast | None:
        """Over the usual horizon. None before the first sample."""
        return self._usual.make(self._levels, self._most_bps) if self._levels else None

    def forecast_over(self, horizon_us: int) -> Forecast | None:
        """Over another horizon, which is learned from now on. None before the first sample."""
        if not self._levels:
            return None
        outlook = self._outlooks.get(horizon_us)
        if outlook is None:
            outlook = self._outlooks[horizon_us] = self._outlook(horizon_us)
            outlook.note(self._at_us, self._samples, self._sum_bps, self._levels)
            self._next_us = 0
        outlook.asked_us = self._at_us
        return outlook.make(self._levels, self._most_bps)

    def _outlook(self, horizon_us: int) -> Outlook:
        return Outlook(horizon_us, horizon_us // STEPS, self._quantile)

    def _plausible(self, bps: int) -> int:
        if bps <= _PLAUSIBLE_BPS:
            return bps if bps > 0 else 0
        if self._samples >= OUTLIER_SAMPLES_MIN:
            bps = min(bps, int(OUTLIER_FACTOR * max(self._levels[ROBUST], OUTLIER_BPS_MIN)))
        return min(RATE_BPS_MAX, bps)

    def state(self) -> ForecasterState:
        usual = self._usual.state()
        return ForecasterState(
            at_us=self._at_us,
            samples=self._samples,
            sum_bps=self._sum_bps,
            most_bps=self._most_bps,
            levels=self._usual.levels(self._levels) if self._levels else (),
            models=(*(model.state() for model in self._models), usual.regression),
            bands=usual.bands,
            pending=usual.pending,
            others=tuple(outlook.state() for outlook in self._outlooks.values() if outlook is not self._usual),
        )

    def restore(self, state: ForecasterState) -> None:
        """Become what the forecaster was whose state this is; the settings are those of this one."""
        self._at_us, self._samples = state.at_us, state.samples
        self._sum_bps, self._most_bps, self._next_us = state.sum_bps, state.most_bps, 0
        self._levels = state.levels[: len(self._models)]
        *models, regression = state.models
        for model, numbers in zip(self._models, models, strict=True):
            model.restore(numbers)
        self._usual.restore(regression, state.bands, state.pending)
        self._outlooks = {self._usual.horizon_us: self._usual}
        for each in state.others:
            outlook = self._outlook(each.horizon_us)
            outlook.asked_us = each.asked_us
            outlook.restore(each.regression, each.bands, each.pending)
            self._outlooks[each.horizon_us] = outlook
