"""Where what a forecaster remembers lies: row 0 of both arrays is the link's, every further one an outlook's, the first
of them the usual one's."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

Reals = npt.NDArray[np.float64]
REAL, INT = types.float64, types.int64
REALS, INTS = types.float64[:, ::1], types.int64[:, ::1]
PAIR: Any = types.UniTuple(REAL, 2)  # type: ignore[no-untyped-call]
TOLD: Any = types.UniTuple(INT, 5)  # type: ignore[no-untyped-call]

LINK, USUAL = 0, 1  # rows

# Models of the level in the order of their levels; the regression is each outlook's own.
MODELS: Final = ("last", "ewma_long", "ewma", "ewma_quick", "harmonic", "power_mean", "holt_winters", "regression")
LAST, LONG, SLOW, QUICK, HARMONIC, ROBUST, SEASONAL, REGRESSION = range(8)
N_MODELS = 8
# What the regression sees besides: not forecasts of the mean, and no models.
FLOOR, LEAST = 8, 9
N_TOLD = 10  # levels and lags: what is put aside of a moment

# Reals of the link, after its levels and lags.
QUANTILE = 10
ROOT = 11  # of the power mean
LEVEL, TREND, SPACING, SLOT_SUM = range(12, 16)  # of Holt-Winters; SPACING: µs between samples
SLOTS, N_SLOTS = 16, 24  # mean rate by the hour; negative: not seen through
RATES, N_RATES = 40, 20  # the newest, in a ring
MEANS, N_MEANS = 60, 60  # of five rates each, the newest, in a ring
N_LINK = 120
SMALLEST, N_SMALLEST = 120, 6  # working space of `floor`: a tenth of the means, and the one above
REAL_ROW = 126

# Reals of an outlook.
LOWS, HIGHS, LOSSES = 0, 8, 16  # by model: the factors, and the mean pinball loss of the lower one
LEAST_RATIOS, MOST_RATIOS = 24, 32  # by model, of the first outcomes
WEIGHTS, N_LAGS = 40, 4  # of the regression
PENDING, N_PENDING = 44, 5  # forecasts that await their outcome, oldest first, N_TOLD numbers each
N_OUTLOOK = 94

# Integers of the link. DUE: before then no outlook has anything to judge or to put aside; SLOT, SLOT_N: the hour of the
# newest sample, and samples in it.
AT, SAMPLES, SUM, MOST, SLOT, SLOT_N, DUE = range(7)
# Integers of an outlook. STEP: between forecasts that are put aside; ASKED: when someone last asked.
HORIZON, STEP, ASKED, OUTCOMES, WAITING = range(5)
# Of each forecast that waits: when it was made, how many samples there had been, and what they came to.
MADE, SAMPLES_THEN, SUM_THEN = 5, 10, 15
INT_ROW = 20

SECOND_US = 1_000_000
FORGET_US = 3600 * SECOND_US  # A horizon that nobody has asked for in an hour of samples is learned no more.
RATE_BPS_MAX = 1 << 44
NEVER_US = 1 << 62
