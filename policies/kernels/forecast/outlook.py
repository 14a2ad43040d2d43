"""What is forecast over one horizon: each model's band as the outcomes of that horizon taught it, and the mix of them.

When the horizon of an earlier forecast has passed, the mean rate that came judges each model: its band learns and its
pinball loss is taken down. The answer is the average of the models' lower quantiles weighted by (least loss ÷ loss)⁸:
polynomially weighted average forecasting (N. Cesa-Bianchi and G. Lugosi, Prediction, Learning, and Games, Cambridge
2006, section 2.1); averages of quantiles lose less than their parts, the pinball loss being convex. A model a third
worse than the best counts a tenth. The lowest of them all counts a sixteenth besides: weights follow late when a link
turns bad, and being too high costs nine times what being too low does.

A band's two factors follow the quantiles of actual ÷ forecast by quantile tracking, the online form of conformal
prediction: up a little after each outcome on the right side, down nine times as far after one on the wrong side. The
share on the right side then tends to the target for *any* sequence, without assuming anything of it: I. Gibbs and E.
Candès, Adaptive Conformal Inference Under Distribution Shift, NeurIPS 2021; A. Angelopoulos, E. Candès and R.
Tibshirani, Conformal PID Control for Time Series Prediction, NeurIPS 2023 (the quantile tracker). Multiplied, not
added: the errors of a rate are relative to it. The regression is a quantile by itself: its lower factor stays 1.
"""

from math import sqrt

from numba import types

from policies.kernels.forecast.layout import (
    FLOOR,
    HIGHS,
    HORIZON,
    INT,
    INTS,
    LAST,
    LEAST,
    LEAST_RATIOS,
    LINK,
    LOSSES,
    LOWS,
    MADE,
    MOST,
    MOST_RATIOS,
    N_MODELS,
    N_PENDING,
    N_TOLD,
    OUTCOMES,
    PAIR,
    PENDING,
    QUANTILE,
    REAL,
    REALS,
    REGRESSION,
    ROBUST,
    SAMPLES,
    SAMPLES_THEN,
    SLOW,
    SUM,
    SUM_THEN,
    TOLD,
    WAITING,
    WEIGHTS,
    Reals,
)
from policies.kernels.jit import Int64s, kernel

STEP = 0.04  # long-run step: a factor halves in 20 bad outcomes and doubles in 170 good ones
STEP_FIRST = 0.5  # earlier outcomes teach more, falling as 1/n
# The smallest ratio of nine is passed by nine tenths of what comes, if what comes is like what was: split conformal
# prediction in its smallest form. From then on the factors track.
FIRST = 9
LOSSES_OF = 200  # a loss is the mean of so many outcomes, older ones fading
FACTOR_MIN, FACTOR_MAX = 0.01, 4.0
# A lower bound this many times the robust level is not believed before the robust level has followed; nor is one above
# the mean of the newest samples.
LOW_RISE_MAX = 1.2
CAUTION = 1.0 / 16.0
PPM = 1_000_000
# Of a model whose forecasts nobody has judged yet.
LOW_FIRST, HIGH_FIRST = 0.98, 1.1
# Of the lags, at first: fitted to recordings of mobile links (docs/forecast.md).
WEIGHT_FLOOR, WEIGHT_LAST, WEIGHT_ROBUST, WEIGHT_LEAST = 0.6, 0.2, 0.1, -0.1
REGRESSION_STEP, REGRESSION_STEP_MIN = 0.02, 0.001


@kernel(types.void(REALS, INT))
def begin(reals: Reals, row: int) -> None:
    """Of a fresh outlook's row, what does not begin with nothing."""
    for model in range(N_MODELS):
        reals[row, LOWS + model] = 1.0 if model == REGRESSION else LOW_FIRST
        reals[row, HIGHS + model] = HIGH_FIRST
        reals[row, LEAST_RATIOS + model], reals[row, MOST_RATIOS + model] = FACTOR_MAX, FACTOR_MIN
    reals[row, WEIGHTS], reals[row, WEIGHTS + 1] = WEIGHT_FLOOR, WEIGHT_LAST
    reals[row, WEIGHTS + 2], reals[row, WEIGHTS + 3] = WEIGHT_ROBUST, WEIGHT_LEAST


@kernel(REAL(REALS, INT, REAL, REAL, REAL, REAL), inline=True)
def _weighted(reals: Reals, row: int, floor: float, last: float, robust: float, least: float) -> float:
    low: float = reals[row, WEIGHTS] * floor + reals[row, WEIGHTS + 1] * last
    low += reals[row, WEIGHTS + 2] * robust
    low += reals[row, WEIGHTS + 3] * least
    return max(low, 0.0)


@kernel(REAL(REALS, INT), inline=True)
def regression(reals: Reals, row: int) -> float:
    """Linear quantile regression on four lags, not below zero: the floor, the newest rate, the robust level and the
    least of the newest rates. R. Koenker and G. Bassett, Regression Quantiles, Econometrica 46(1), 1978."""
    link = LINK
    return _weighted(reals, row, reals[link, FLOOR], reals[link, LAST], reals[link, ROBUST], reals[link, LEAST])


@kernel(types.void(REALS, INT, INT, INT, REAL), inline=True)
def regress(reals: Reals, row: int, at: int, n: int, actual: float) -> None:
    """Learn by normalised subgradient steps of falling length: M. Zinkevich, Online Convex Programming, ICML 2003; the
    normalisation (scale-free steps): S. Ross, P. Mineiro and J. Langford, Normalized Online Learning, UAI 2013."""
    floor, last = reals[row, at + FLOOR], reals[row, at + LAST]
    robust, least = reals[row, at + ROBUST], reals[row, at + LEAST]
    scale = max(max(floor, last), max(robust, least))
    if scale <= 0.0:
        return
    low = _weighted(reals, row, floor, last, robust, least)
    step = max(REGRESSION_STEP / sqrt(float(n)), REGRESSION_STEP_MIN)
    step *= reals[LINK, QUANTILE] if actual >= low else reals[LINK, QUANTILE] - 1.0
    floor, last, robust, least = floor / scale, last / scale, robust / scale, least / scale
    step /= floor * floor + last * last + robust * robust + least * least
    reals[row, WEIGHTS] += step * floor
    reals[row, WEIGHTS + 1] += step * last
    reals[row, WEIGHTS + 2] += step * robust
    reals[row, WEIGHTS + 3] += step * least


@kernel(PAIR(REALS, INT, INT, INT, REAL, REAL), inline=True)
def _begin_band(reals: Reals, row: int, model: int, n: int, level: float, actual: float) -> tuple[float, float]:
    """One of the first outcomes: the factors are the extreme ratios, with the first guess until there are nine."""
    if level > 0.0:  # Else nothing was forecast, and no factor makes anything of it.
        ratio = min(max(actual / level, FACTOR_MIN), FACTOR_MAX)
        reals[row, LEAST_RATIOS + model] = min(reals[row, LEAST_RATIOS + model], ratio)
        reals[row, MOST_RATIOS + model] = max(reals[row, MOST_RATIOS + model], ratio)
    least, most = reals[row, LEAST_RATIOS + model], reals[row, MOST_RATIOS + model]
    if n == FIRST and least <= most:
        return least, most
    return min(reals[row, LOWS + model], least), max(reals[row, HIGHS + model], most)


@kernel(types.void(REALS, INT, INT, INT, REAL), inline=True)
def judge(reals: Reals, row: int, at: int, n: int, actual: float) -> None:
    """The n-th outcome teaches every model's band and loss. What they had said begins at column `at`."""
    quantile = reals[LINK, QUANTILE]
    share = 1.0 / min(n, LOSSES_OF)
    step = max(STEP_FIRST / n, STEP)
    good, bad = 1.0 + step * quantile, 1.0 + step * (1.0 - quantile)
    for model in range(N_MODELS):
        level, low, high = reals[row, at + model], reals[row, LOWS + model], reals[row, HIGHS + model]
        error = actual - low * level
        loss = quantile * error if error >= 0.0 else (quantile - 1.0) * error
        reals[row, LOSSES + model] += share * (loss - reals[row, LOSSES + model])
        if n <= FIRST:
            low, high = _begin_band(reals, row, model, n, level, actual)
        else:
            low = min(low * good, FACTOR_MAX) if error >= 0.0 else max(low / bad, FACTOR_MIN)
            high = high / good if actual <= high * level else min(high * bad, FACTOR_MAX)
        if model == REGRESSION:
            low = 1.0
        reals[row, LOWS + model], reals[row, HIGHS + model] = low, max(low, high)


@kernel(types.void(REALS, INTS, INT, INT), inline=True)
def _drop(reals: Reals, ints: Int64s, row: int, n: int) -> None:
    """The oldest n of those that wait."""
    left = ints[row, WAITING] - n
    for index in range(left):
        for first in (MADE, SAMPLES_THEN, SUM_THEN):
            ints[row, first + index] = ints[row, first + index + n]
    for column in range(PENDING, PENDING + left * N_TOLD):
        reals[row, column] = reals[row, column + n * N_TOLD]
    ints[row, WAITING] = left


@kernel(types.void(REALS, INTS, INT, INT, INT), inline=True)
def learn(reals: Reals, ints: Int64s, row: int, at_us: int, bps: int) -> None:
    """Judge forecasts whose horizon has passed before `at_us` by the mean of the samples in it, or by the next one,
    `bps`, if none was. SAMPLES and SUM are of all samples before. The sum wraps, differences do not."""
    horizon_us = ints[row, HORIZON]
    n_judged = 0
    while n_judged < ints[row, WAITING] and ints[row, MADE + n_judged] + horizon_us < at_us:
        n_samples = ints[LINK, SAMPLES] - ints[row, SAMPLES_THEN + n_judged]
        actual = float(bps)
        if n_samples > 0:
            actual = float(ints[LINK, SUM] - ints[row, SUM_THEN + n_judged]) / float(n_samples)
        ints[row, OUTCOMES] += 1
        at, n = PENDING + n_judged * N_TOLD, ints[row, OUTCOMES]
        judge(reals, row, at, n, actual)
        regress(reals, row, at, n, actual)
        n_judged += 1
    if n_judged > 0:
        _drop(reals, ints, row, n_judged)


@kernel(types.void(REALS, INTS, INT, INT), inline=True)
def note(reals: Reals, ints: Int64s, row: int, at_us: int) -> None:
    """Put aside what is expected now, to be judged."""
    if ints[row, WAITING] == N_PENDING:
        _drop(reals, ints, row, 1)
    index = ints[row, WAITING]
    ints[row, MADE + index], ints[row, SAMPLES_THEN + index] = at_us, ints[LINK, SAMPLES]
    ints[row, SUM_THEN + index] = ints[LINK, SUM]
    at = PENDING + index * N_TOLD
    for column in range(N_TOLD):
        reals[row, at + column] = reals[LINK, column]
    reals[row, at + REGRESSION] = regression(reals, row)
    ints[row, WAITING] = index + 1


@kernel(TOLD(REALS, INTS, INT), inline=True)
def mix(reals: Reals, ints: Int64s, row: int) -> tuple[int, int, int, int, int]:
    """Lower and upper bound in bit/s, never above what was ever measured; the model that counts most, what it counts
    for in ppm, and how many outcomes there were. The regression is listened to when nine outcomes have taught it."""
    n_models = REGRESSION if ints[row, OUTCOMES] < FIRST else N_MODELS
    best = 0
    for model in range(1, n_models):
        if reals[row, LOSSES + model] < reals[row, LOSSES + best]:
            best = model
    least = reals[row, LOSSES + best]
    total = low = high = 0.0
    lowest = reals[row, LOWS] * reals[LINK, 0]
    for model in range(n_models):
        level = regression(reals, row) if model == REGRESSION else reals[LINK, model]
        below = reals[row, LOWS + model] * level
        lowest = min(lowest, below)
        # Without any loss yet (no outcome, or none but perfect ones) all perfect models count the same.
        loss = reals[row, LOSSES + model]
        weight = least / loss if loss > 0.0 else 1.0
        weight *= weight
        weight *= weight
        weight *= weight
        total += weight
        low += weight * below
        high += weight * reals[row, HIGHS + model] * level
    low = CAUTION * lowest + (1.0 - CAUTION) * low / total
    low = min(min(low, LOW_RISE_MAX * reals[LINK, ROBUST]), reals[LINK, SLOW])
    low_bps = min(int(low), ints[LINK, MOST])
    return low_bps, max(low_bps, min(int(high / total), ints[LINK, MOST])), best, int(PPM / total), ints[row, OUTCOMES]
