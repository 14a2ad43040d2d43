"""One link's forecaster: eight models side by side, each listened to as far as its forecasts were good of late.

Each sample updates every model's level, once. How far those levels are to be believed is learned by horizon: over the
usual one for every link, over others from when they are first asked for until nobody has asked for an hour. A forecast
is made only when asked. What is computed is in `policies.kernels.forecast`; here is what is kept of it, and how it goes
to and comes from the journal.

Rates and times are integers at the edges, bits per second and microseconds. Cost: O(models · horizons in use), 3 µs an
update with a forecast after it (docs/forecast.md).
"""

from typing import Final

import numpy as np

from policies.forecast.horizons import USUAL_US
from policies.kernels.forecast import begin, take, tell
from policies.kernels.forecast.layout import (
    ASKED,
    AT,
    FORGET_US,
    HORIZON,
    INT_ROW,
    LINK,
    MODELS,
    N_LINK,
    N_OUTLOOK,
    N_SLOTS,
    QUANTILE,
    RATE_BPS_MAX,
    REAL_ROW,
    SAMPLES,
    SLOT,
    SLOTS,
    STEP,
    USUAL,
    Reals,
)
from policies.kernels.forecast.outlook import PPM
from policies.kernels.jit import Int64s
from policies.model import Record

QUANTILE_PPM = 100_000  # the planner pays for risk: nine times in ten the link gives at least this
STEPS = 4  # forecasts of a horizon that are judged at most
# Grows with every change of what is remembered or of what it means. A journal may hold what another build remembered.
LAYOUT: Final = 2


class Forecast(Record, frozen=True, kw_only=True):
    """The mean rate over the horizon: nine times in ten at least `low_bps`, nine times in ten at most `high_bps`."""

    low_bps: int
    high_bps: int
    horizon_us: int
    model: str  # that counts most
    weight_ppm: int  # what it counts for
    outcomes: int  # forecasts judged so far; below nine the band is still a guess


class ForecasterState(Record, frozen=True, kw_only=True):
    """All that a forecaster remembers: the link's row and one of each horizon, as `policies.kernels.forecast.layout`
    has them. An earlier build's has another layout, and says nothing to this one."""

    layout: int = 0
    ints: tuple[tuple[int, ...], ...] = ()
    reals: tuple[tuple[float, ...], ...] = ()

    def is_known(self) -> bool:
        """Whether this build wrote it, or one that remembers the same."""
        return self.layout == LAYOUT

    def samples(self) -> int:
        return self.ints[LINK][SAMPLES]


class Forecaster:
    """Forecasts one link. Deterministic: equal samples and questions give equal forecasts, to the last bit, on every
    machine."""

    __slots__ = ("_ints", "_reals", "_rows", "_told")

    def __init__(self, *, horizon_us: int = USUAL_US, quantile_ppm: int = QUANTILE_PPM) -> None:
        """`quantile_ppm` below one half is that of the lower bound; the upper bound's is as far from the top."""
        assert horizon_us > 0 and 0 < quantile_ppm <= PPM // 2
        self._reals: Reals = np.zeros((1, REAL_ROW))
        self._ints: Int64s = np.zeros((1, INT_ROW), np.int64)
        self._reals[LINK, QUANTILE] = quantile_ppm / PPM
        self._reals[LINK, SLOTS : SLOTS + N_SLOTS] = -1.0
        self._ints[LINK, SLOT] = -1
        self._rows: dict[int, int] = {}  # by horizon; the usual one first
        self._told: dict[int, Forecast] = {}  # by horizon, since the newest sample
        self._add(horizon_us)

    def update(self, bps: int, at_us: int) -> None:
        """Take in a measured rate. Out of order counts as now; negative as zero; absurdly high as high."""
        if self._told:
            self._told = {}
        if take(self._reals, self._ints, min(max(bps, 0), RATE_BPS_MAX), at_us):
            self._forget()

    @property
    def samples(self) -> int:
        return int(self._ints[LINK, SAMPLES])

    def forecast(self) -> Forecast | None:
        """Over the usual horizon. None before the first sample."""
        return self.forecast_over(next(iter(self._rows)))

    def forecast_over(self, horizon_us: int) -> Forecast | None:
        """Over another horizon, which is learned from now on. None before the first sample."""
        told = self._told.get(horizon_us)
        if told is not None:
            return told
        if not self._ints[LINK, SAMPLES]:
            return None
        row = self._rows.get(horizon_us) or self._add(horizon_us)
        low_bps, high_bps, model, weight_ppm, outcomes = tell(self._reals, self._ints, row)
        told = self._told[horizon_us] = Forecast(
            low_bps=low_bps,
            high_bps=high_bps,
            horizon_us=horizon_us,
            model=MODELS[model],
            weight_ppm=weight_ppm,
            outcomes=outcomes,
        )
        return told

    def _add(self, horizon_us: int) -> int:
        row = len(self._ints)
        self._reals = np.vstack((self._reals, np.zeros_like(self._reals[:1])))
        self._ints = np.vstack((self._ints, np.zeros_like(self._ints[:1])))
        self._ints[row, HORIZON], self._ints[row, STEP] = horizon_us, horizon_us // STEPS
        begin(self._reals, row)
        self._rows[horizon_us] = row
        return row

    def _forget(self) -> None:
        is_kept = self._ints[LINK, AT] - self._ints[:, ASKED] <= FORGET_US
        is_kept[[LINK, USUAL]] = True
        self._take_over(self._ints[is_kept], self._reals[is_kept])

    def _take_over(self, ints: Int64s, reals: Reals) -> None:
        self._ints, self._reals, self._told = ints, reals, {}
        self._rows = {int(horizon_us): row for row, horizon_us in enumerate(ints[USUAL:, HORIZON], USUAL)}

    def state(self) -> ForecasterState:
        sizes = [N_LINK, *(N_OUTLOOK for _ in self._rows)]
        return ForecasterState(
            layout=LAYOUT,
            ints=tuple(tuple(row) for row in self._ints.tolist()),
            reals=tuple(tuple(row[:size]) for row, size in zip(self._reals.tolist(), sizes, strict=True)),
        )

    def restore(self, state: ForecasterState) -> None:
        """Become what the forecaster was whose state this is, its settings included. `is_known` says whether it can be
        read."""
        assert state.is_known()
        reals = np.zeros((len(state.reals), REAL_ROW))
        for row, numbers in zip(reals, state.reals, strict=True):
            row[: len(numbers)] = numbers
        self._take_over(np.array(state.ints, np.int64), reals)
