"""The two calls: a sample is taken in, a forecast is told."""

from numba import types

from policies.kernels.forecast.layout import (
    ASKED,
    AT,
    DUE,
    FORGET_US,
    HORIZON,
    INT,
    INTS,
    LINK,
    MADE,
    MOST,
    NEVER_US,
    RATE_BPS_MAX,
    REALS,
    ROBUST,
    SAMPLES,
    STEP,
    SUM,
    TOLD,
    USUAL,
    WAITING,
    Reals,
)
from policies.kernels.forecast.levels import update
from policies.kernels.forecast.outlook import learn, mix, note
from policies.kernels.jit import Int64s, kernel

# A sample this many times the robust level is a broken clock, not a link; small rates and the first samples pass.
OUTLIER_FACTOR = 32.0
OUTLIER_BPS_MIN = 1_000_000.0
OUTLIER_SAMPLES_MIN = 8


@kernel(INT(REALS, INTS, INT), inline=True)
def _plausible(reals: Reals, ints: Int64s, bps: int) -> int:
    if ints[LINK, SAMPLES] >= OUTLIER_SAMPLES_MIN:
        bps = min(bps, int(OUTLIER_FACTOR * max(reals[LINK, ROBUST], OUTLIER_BPS_MIN)))
    return min(max(bps, 0), RATE_BPS_MAX)


@kernel(types.boolean(REALS, INTS, INT), inline=True)
def _note(reals: Reals, ints: Int64s, at_us: int) -> bool:
    """Put forecasts aside where it is time to, and find when there is something to do next."""
    is_forgotten = False
    ints[LINK, DUE] = NEVER_US
    for row in range(USUAL, len(ints)):
        n = ints[row, WAITING]
        if n == 0 or at_us >= ints[row, MADE + n - 1] + ints[row, STEP]:
            note(reals, ints, row, at_us)
            n = ints[row, WAITING]
            is_forgotten |= row != USUAL and at_us - ints[row, ASKED] > FORGET_US
        due_us = min(ints[row, MADE] + ints[row, HORIZON], ints[row, MADE + n - 1] + ints[row, STEP])
        ints[LINK, DUE] = min(ints[LINK, DUE], due_us)
    return is_forgotten


@kernel(types.boolean(REALS, INTS, INT, INT), entry=True)
def take(reals: Reals, ints: Int64s, bps: int, at_us: int) -> bool:
    """Take in a measured rate. Out of order counts as now; negative as zero; absurdly high as high. True when nobody
    has asked for a horizon in an hour. Time O(models · horizons that have something to judge); allocates nothing.
    """
    at_us = max(at_us, ints[LINK, AT])
    bps = _plausible(reals, ints, bps)
    is_due = at_us >= ints[LINK, DUE]
    if is_due:
        for row in range(USUAL, len(ints)):
            learn(reals, ints, row, at_us, bps)
    ints[LINK, SAMPLES] += 1
    ints[LINK, SUM] += bps
    ints[LINK, MOST] = max(ints[LINK, MOST], bps)
    update(reals, ints, bps, at_us)
    ints[LINK, AT] = at_us
    return is_due and _note(reals, ints, at_us)


@kernel(TOLD(REALS, INTS, INT), entry=True)
def tell(reals: Reals, ints: Int64s, row: int) -> tuple[int, int, int, int, int]:
    """`mix` of an outlook, which is thereby asked for; one that has nothing to be judged begins. At least one sample
    was taken."""
    if row != USUAL:
        ints[row, ASKED] = ints[LINK, AT]
        if ints[row, WAITING] == 0:
            note(reals, ints, row, ints[LINK, AT])
            ints[LINK, DUE] = 0
    return mix(reals, ints, row)
