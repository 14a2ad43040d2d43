"""The models of a link's level: what each expects of the rate from now on. `update(reals, ints, rate, at_us) -> level`
takes in a measured rate (bit/s, ≥ 0) of a moment not before the last, in O(1).

None is negative, and none but Holt-Winters above the largest rate it was given but for rounding.
"""

from math import sqrt

from numba import types

from policies.kernels.forecast.layout import (
    AT,
    FLOOR,
    HARMONIC,
    HORIZON,
    INT,
    INTS,
    LAST,
    LEAST,
    LEVEL,
    LINK,
    LONG,
    MEANS,
    N_MEANS,
    N_RATES,
    N_SLOTS,
    QUICK,
    RATES,
    REAL,
    REALS,
    ROBUST,
    ROOT,
    SAMPLES,
    SEASONAL,
    SLOT,
    SLOT_N,
    SLOT_SUM,
    SLOTS,
    SLOW,
    SMALLEST,
    SPACING,
    TREND,
    USUAL,
    Reals,
)
from policies.kernels.jit import Int64s, kernel

MODEL = REAL(REALS, INTS, REAL, INT)

LONG_SAMPLES, SLOW_SAMPLES, QUICK_SAMPLES, ROBUST_SAMPLES = 200, 10, 2, 400
# A stalled second would make the harmonic mean nothing at all for twenty samples: below 1 kbit/s a link counts as that.
FLOOR_BPS = 1000.0
MEAN_OF = 5  # rates, of which the least is a lag, and whose means the floor is made of
FLOOR_PART = 10  # one in so many means lies below the floor

SLOT_US = 3_600_000_000
LEVEL_SHARE = 0.4
TREND_SHARE = 0.05
DAMPING = 0.9
SEASON_SHARE = 0.3  # of a new day in the slot's mean: about the last week matters
STEPS_MAX = 32
RATIO_MAX = 4.0  # what a season may multiply the level by, and divide it by


@kernel(REAL(REAL, REAL, INT, INT), inline=True)
def smoothed(mean: float, value: float, n: int, n_max: int) -> float:
    """The mean after the n-th value: a plain one of the first `n_max`, from then on older ones fade."""
    return mean + (1.0 / n_max if n > n_max else 1.0 / n) * (value - mean)


@kernel(MODEL, inline=True)
def last(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    """What was measured last goes on: of a random walk the best forecast. R. J. Hyndman and G. Athanasopoulos,
    Forecasting: Principles and Practice, 3rd ed., OTexts 2021, section 5.2."""
    return rate


@kernel(MODEL, inline=True)
def long(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    """Simple exponential smoothing, as `slow` and `quick`. R. G. Brown, Statistical Forecasting for Inventory Control,
    McGraw-Hill 1959; as a filter of network measurements: V. Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.
    """
    return smoothed(reals[LINK, LONG], rate, ints[LINK, SAMPLES], LONG_SAMPLES)


@kernel(MODEL, inline=True)
def slow(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    return smoothed(reals[LINK, SLOW], rate, ints[LINK, SAMPLES], SLOW_SAMPLES)


@kernel(MODEL, inline=True)
def quick(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    return smoothed(reals[LINK, QUICK], rate, ints[LINK, SAMPLES], QUICK_SAMPLES)


@kernel(MODEL, inline=True)
def harmonic(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    """The harmonic mean of the newest: one slow sample weighs more than a fast one, as it does for bytes in time.
    J. Jiang, V. Sekar and H. Zhang, Improving Fairness, Efficiency and Stability in HTTP-based Adaptive Video Streaming
    with FESTIVE, CoNEXT 2012, section 4.2 (of the last 20)."""
    n = min(ints[LINK, SAMPLES], N_RATES)
    total = 0.0
    for index in range(n):
        total += 1.0 / max(reals[LINK, RATES + index], FLOOR_BPS)
    mean: float = n / total
    return mean


@kernel(MODEL, inline=True)
def robust(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    """A smoothed power mean of order one half, (mean of √x)²: a burst of ten times the usual rate moves it a third as
    far as the mean, and a stall does not pull it to nothing as it does the harmonic mean. G. H. Hardy, J. E. Littlewood
    and G. Pólya, Inequalities, Cambridge 1934, chapter 2."""
    root = smoothed(reals[LINK, ROOT], sqrt(rate), ints[LINK, SAMPLES], ROBUST_SAMPLES)
    reals[LINK, ROOT] = root
    return root * root


@kernel(types.void(REALS, INTS, REAL, INT), inline=True)
def _take_season(reals: Reals, ints: Int64s, rate: float, at_us: int) -> None:
    """A slot's mean is taken over when the slot is left."""
    slot = at_us // SLOT_US
    if slot != ints[LINK, SLOT]:
        if ints[LINK, SLOT_N] > 0:
            index = SLOTS + ints[LINK, SLOT] % N_SLOTS
            mean, known = reals[LINK, SLOT_SUM] / ints[LINK, SLOT_N], reals[LINK, index]
            reals[LINK, index] = mean if known < 0.0 else known + SEASON_SHARE * (mean - known)
        ints[LINK, SLOT], ints[LINK, SLOT_N], reals[LINK, SLOT_SUM] = slot, 0, 0.0
    reals[LINK, SLOT_SUM] += rate
    ints[LINK, SLOT_N] += 1


@kernel(REAL(REALS, INT), inline=True)
def _typical(reals: Reals, at_us: int) -> float:
    """Between the middles of two slots; negative when one of them was never seen through."""
    slot = (at_us - SLOT_US // 2) // SLOT_US
    rest_us = at_us - SLOT_US // 2 - slot * SLOT_US
    before, after = reals[LINK, SLOTS + slot % N_SLOTS], reals[LINK, SLOTS + (slot + 1) % N_SLOTS]
    if before < 0.0 or after < 0.0:
        return -1.0
    typical: float = before + (after - before) * (rest_us / SLOT_US)
    return typical


@kernel(REAL(REALS, INTS, INT, INT), inline=True)
def _season_ratio(reals: Reals, ints: Int64s, from_us: int, to_us: int) -> float:
    """Typical rate then ÷ typical rate now; 1 while either is unknown."""
    if reals[LINK, SLOTS + (ints[LINK, SLOT] + 1) % N_SLOTS] < 0.0:  # Most links, for their first day.
        return 1.0
    now, then = _typical(reals, from_us), _typical(reals, to_us)
    if now <= 0.0 or then < 0.0:
        return 1.0
    return min(RATIO_MAX, max(1.0 / RATIO_MAX, then / now))


@kernel(MODEL, inline=True)
def seasonal(reals: Reals, ints: Int64s, rate: float, at_us: int) -> float:
    """Holt-Winters: level, damped trend and a season of the day. C. C. Holt, Forecasting seasonals and trends by
    exponentially weighted moving averages, ONR 52, 1957; P. R. Winters, Forecasting sales by exponentially weighted
    moving averages, Management Science 6(3), 1960; the damping: E. S. Gardner and E. McKenzie, Forecasting trends in
    time series, Management Science 31(10), 1985; several samples to a season's slot: J. W. Taylor, Short-term
    electricity demand forecasting using double seasonal exponential smoothing, Journal of the Operational Research
    Society 54(8), 2003.

    Samples of a link come at any time, so the season is kept by the clock: 24 slots a day, each the mean rate of that
    hour smoothed over days, read off between the middles of hours. May exceed what was seen, for it follows a trend;
    at most 2 · `RATIO_MAX` times its own level."""
    _take_season(reals, ints, rate, at_us)
    horizon_us = ints[USUAL, HORIZON]
    if ints[LINK, SAMPLES] == 1:
        reals[LINK, LEVEL], reals[LINK, SPACING] = rate, float(horizon_us)
    else:
        spacing_us = reals[LINK, SPACING]
        reals[LINK, SPACING] = spacing_us + LEVEL_SHARE * (at_us - ints[LINK, AT] - spacing_us)
        before, trend = reals[LINK, LEVEL], DAMPING * reals[LINK, TREND]
        level = LEVEL_SHARE * rate + (1.0 - LEVEL_SHARE) * (before + trend)
        reals[LINK, LEVEL] = max(level, 0.0)
        reals[LINK, TREND] = TREND_SHARE * (reals[LINK, LEVEL] - before) + (1.0 - TREND_SHARE) * trend
    # The mean over the horizon is what is reached half-way. Each step adds what is left of the trend.
    half_us = horizon_us // 2
    level, trend = reals[LINK, LEVEL], reals[LINK, TREND]
    spacing_us, damped = reals[LINK, SPACING], 0.0
    n_steps = int(half_us / spacing_us) if spacing_us * STEPS_MAX > half_us else STEPS_MAX
    for _ in range(n_steps):
        damped = (damped + 1.0) * DAMPING
    level = min(level + damped * trend, 2.0 * level)
    return level * _season_ratio(reals, ints, at_us, at_us + half_us) if level > 0.0 else 0.0


# --- lags of the regression -------------------------------------------------------------------------------------------


@kernel(types.void(REALS, INTS), inline=True)
def _note_mean(reals: Reals, ints: Int64s) -> None:
    """The mean of the newest rates enters its ring, their least is a lag."""
    n_samples = ints[LINK, SAMPLES]
    n = min(n_samples, MEAN_OF)
    total, least = 0.0, reals[LINK, RATES + (n_samples - 1) % N_RATES]
    for back in range(1, n + 1):
        rate = reals[LINK, RATES + (n_samples - back) % N_RATES]
        total += rate
        least = min(least, rate)
    reals[LINK, LEAST] = least
    reals[LINK, MEANS + (n_samples - 1) % N_MEANS] = total / n


@kernel(REAL(REALS, INTS), inline=True)
def _floor(reals: Reals, ints: Int64s) -> float:
    """The lower decile of the newest means (nearest rank, downwards): what the link fell to in bad seconds of late."""
    n = min(ints[LINK, SAMPLES], N_MEANS)
    n_kept = (n - 1) // FLOOR_PART + 1
    for index in range(n):
        mean = reals[LINK, MEANS + index]
        place = min(index, n_kept)  # The smallest are kept in order: from the end to where it belongs.
        if place == n_kept:
            if mean >= reals[LINK, SMALLEST + n_kept - 1]:
                continue
            place -= 1
        while place > 0 and reals[LINK, SMALLEST + place - 1] > mean:
            reals[LINK, SMALLEST + place] = reals[LINK, SMALLEST + place - 1]
            place -= 1
        reals[LINK, SMALLEST + place] = mean
    decile: float = reals[LINK, SMALLEST + n_kept - 1]
    return decile


# --- all of them ------------------------------------------------------------------------------------------------------


@kernel(types.void(REALS, INTS, INT, INT), inline=True)
def update(reals: Reals, ints: Int64s, bps: int, at_us: int) -> None:
    """Take a sample into every model. `ints[LINK, AT]` still says when the one before was; SAMPLES counts this one."""
    rate = float(bps)
    reals[LINK, RATES + (ints[LINK, SAMPLES] - 1) % N_RATES] = rate
    reals[LINK, LAST] = last(reals, ints, rate, at_us)
    reals[LINK, LONG] = long(reals, ints, rate, at_us)
    reals[LINK, SLOW] = slow(reals, ints, rate, at_us)
    reals[LINK, QUICK] = quick(reals, ints, rate, at_us)
    reals[LINK, HARMONIC] = harmonic(reals, ints, rate, at_us)
    reals[LINK, ROBUST] = robust(reals, ints, rate, at_us)
    reals[LINK, SEASONAL] = seasonal(reals, ints, rate, at_us)
    _note_mean(reals, ints)
    reals[LINK, FLOOR] = _floor(reals, ints)
