"""Over what a rate is forecast: what a transfer gets is the mean over the time that it takes, so each is planned with
the horizon nearest to its own. A few horizons do: between neighbours the lower decile differs by some per cent.
"""

from bisect import bisect_left
from typing import Final

from policies.model import Link

SECOND_US: Final = 1_000_000
HORIZONS_US: Final = tuple(seconds * SECOND_US for seconds in (5, 15, 30, 60, 120))
# What a few hundred megabytes take on links of tens of megabits; forecast for every link, whoever asks.
USUAL_US: Final = 30 * SECOND_US
# Nearest by ratio: the geometric means of neighbours, rounded down. What takes longer than two minutes is planned with
# those.
BOUNDS_US: Final = (8_660_254, 21_213_203, 42_426_406, 84_852_813)


def horizon_of(time_us: int) -> int:
    """The horizon of what takes so long."""
    return HORIZONS_US[bisect_left(BOUNDS_US, time_us)]


def nearest(horizon_us: int, known: tuple[int, ...]) -> int:
    """Of those known (ascending), by ratio; of two as near the shorter, whose lower decile is the more careful."""
    return min(known, key=lambda each: (max(each, horizon_us) / min(each, horizon_us), each))


def rate_bps(link: Link, n_bytes: int) -> int | None:
    """What a transfer of so many bytes is planned with on a link; None where nobody measured it."""
    bps = link.bandwidth_bps
    if not bps or not link.bandwidth_over:
        return bps
    rates = {USUAL_US: bps, **dict(link.bandwidth_over)}
    return rates[nearest(horizon_of(n_bytes * 8_000_000 // bps), tuple(sorted(rates)))]
