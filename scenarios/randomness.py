"""Random quantities that are equal on every machine: no logarithm or power of the C library, whose last bits differ.

Logarithm and exponential are integer tables of 1,024 steps with linear interpolation (relative error below 2e-7), made
by `decimal`, whose `ln` and `exp` are correctly rounded everywhere. Fixed point: a real x is the integer x · 2⁴⁸.
"""

import random
from decimal import Context, Decimal
from functools import cache

from policies.model import Record

ONE = 1 << 48
_STEPS_LOG2 = 10
_STEPS = 1 << _STEPS_LOG2
_BITS = 53  # of a random number, as in `random.random`
_EXACT = Context(prec=40)
_MONAHAN = 1.7155277699214135  # 4·e^(−1/2)/√2, the constant of the ratio-of-uniforms method
_NORMAL_P99 = Decimal("2.3263478740408411")  # the standard normal's 99 % quantile
SPAN_US_MAX = 10 * 365 * 86_400 * 1_000_000  # Ten years: a draw of an unbounded law ends here.


@cache
def _tables() -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """ln(1 + i/1024), 2^(i/1024) and ln 2, in fixed point."""
    ln2 = Decimal(2).ln(_EXACT)
    logs = tuple(_fixed((1 + Decimal(i) / _STEPS).ln(_EXACT)) for i in range(_STEPS + 1))
    powers = tuple(_fixed(_EXACT.exp(_EXACT.divide(_EXACT.multiply(ln2, Decimal(i)), Decimal(_STEPS))))
                   for i in range(_STEPS + 1))  # fmt: skip
    return logs, powers, _fixed(ln2)


def _fixed(value: Decimal) -> int:
    return int(_EXACT.multiply(value, Decimal(ONE)).to_integral_value())


def fixed_ln_of(numerator: int, denominator: int) -> int:
    """ln(numerator / denominator), correctly rounded; for parameters, not for draws."""
    return _fixed(_EXACT.divide(Decimal(numerator), Decimal(denominator)).ln(_EXACT))


def minus_ln(u: int) -> int:
    """−ln(u / 2⁵³) for 1 ≤ u ≤ 2⁵³."""
    logs, _, ln2 = _tables()
    bits = u.bit_length()
    mantissa = (u << (_BITS + 1 - bits)) - (1 << _BITS)
    shift = _BITS - _STEPS_LOG2
    index, rest = mantissa >> shift, mantissa & ((1 << shift) - 1)
    ln_mantissa = logs[index] + ((logs[index + 1] - logs[index]) * rest >> shift)
    return (_BITS + 1 - bits) * ln2 - ln_mantissa


def exp(x: int) -> int:
    """e^x in fixed point; 0 where that is too small, and at most about 2⁶³ · 2⁴⁸."""
    _, powers, ln2 = _tables()
    whole, rest = divmod(x, ln2)
    whole = min(whole, 63)
    position = (rest << (_STEPS_LOG2 + 16)) // ln2
    index, within = position >> 16, position & 0xFFFF
    value = powers[index] + ((powers[index + 1] - powers[index]) * within >> 16)
    return value << whole if whole >= 0 else value >> -whole


def unit(source: random.Random) -> int:
    """Uniform in 1 … 2⁵³."""
    return source.getrandbits(_BITS) + 1


def normal(source: random.Random) -> int:
    """Standard normal in fixed point, by Kinderman and Monahan's ratio of uniforms (ACM TOMS 3, 1977)."""
    while True:
        first, second = unit(source) / (1 << _BITS), unit(source)
        z = _MONAHAN * (first - 0.5) / (second / (1 << _BITS))
        if z * z / 4 <= minus_ln(second) / ONE:
            return int(z * ONE)


# --- laws of durations -----------------------------------------------------------------------------------------------


class Constant(Record, frozen=True, kw_only=True, tag=True):
    us: int


class Uniform(Record, frozen=True, kw_only=True, tag=True):
    low_us: int
    high_us: int


class Exponential(Record, frozen=True, kw_only=True, tag=True):
    mean_us: int


class Lognormal(Record, frozen=True, kw_only=True, tag=True):
    """By its median and its 99 % quantile, which testers know, instead of μ and σ."""

    p50_us: int
    p99_us: int


class Pareto(Record, frozen=True, kw_only=True, tag=True):
    """P(X > x) = (min/x)^alpha, cut at `max_us`."""

    min_us: int
    alpha_milli: int
    max_us: int


Law = Constant | Uniform | Exponential | Lognormal | Pareto


def draw_us(law: Law, source: random.Random) -> int:
    """One duration, at least 1 µs."""
    match law:
        case Constant(us=us):
            drawn = us
        case Uniform(low_us=low_us, high_us=high_us):
            drawn = low_us + (high_us - low_us + 1) * (unit(source) - 1) // (1 << _BITS)
        case Exponential(mean_us=mean_us):
            drawn = mean_us * minus_ln(unit(source)) // ONE
        case Lognormal(p50_us=p50_us, p99_us=p99_us):
            drawn = p50_us * exp(_sigma(p50_us, p99_us) * normal(source) // ONE) // ONE
        case Pareto(min_us=min_us, alpha_milli=alpha_milli, max_us=max_us):
            drawn = min(max_us, min_us * exp(minus_ln(unit(source)) * 1000 // alpha_milli) // ONE)
    return max(1, min(drawn, SPAN_US_MAX))


def median_us(law: Law) -> int:
    """What a scheduler is told where nothing else is: half of the tasks take longer."""
    match law:
        case Constant(us=us):
            return us
        case Uniform(low_us=low_us, high_us=high_us):
            return (low_us + high_us) // 2
        case Exponential(mean_us=mean_us):
            return max(1, mean_us * _tables()[2] // ONE)
        case Lognormal(p50_us=p50_us):
            return p50_us
        case Pareto(min_us=min_us, alpha_milli=alpha_milli, max_us=max_us):
            return min(max_us, min_us * exp(_tables()[2] * 1000 // alpha_milli) // ONE)


@cache
def _sigma(p50_us: int, p99_us: int) -> int:
    return int(Decimal(fixed_ln_of(p99_us, p50_us)) / _NORMAL_P99)


# --- arrivals --------------------------------------------------------------------------------------------------------


class Every(Record, frozen=True, kw_only=True, tag=True):
    every_us: int


class Poisson(Record, frozen=True, kw_only=True, tag=True):
    """`n_events` every `per_us` on average."""

    n_events: int
    per_us: int


class Bursts(Record, frozen=True, kw_only=True, tag=True):
    """`size` arrivals spread evenly at random over `within_us`, every `every_us`."""

    every_us: int
    size: int
    within_us: int


class Diurnal(Record, frozen=True, kw_only=True, tag=True):
    """A Poisson process whose rate swings smoothly between low and high, highest at `peak_us` of each period."""

    low: Poisson
    high: Poisson
    period_us: int
    peak_us: int


Arrivals = Every | Poisson | Bursts | Diurnal
ARRIVALS_MAX = 5_000_000


def arrival_times_us(process: Arrivals, from_us: int, to_us: int, source: random.Random) -> list[int]:
    """Sorted times in [from_us, to_us)."""
    match process:
        case Every(every_us=every_us):
            times = list(range(from_us, to_us, every_us))
        case Poisson():
            times = _poisson(process, from_us, to_us, source)
        case Bursts(every_us=every_us, size=size, within_us=within_us):
            times = sorted(
                at_us
                for start_us in range(from_us, to_us, every_us)
                for at_us in (start_us + within_us * (unit(source) - 1) // (1 << _BITS) for _ in range(size))
                if at_us < to_us
            )
        case Diurnal(high=high):
            times = [
                at_us
                for at_us in _poisson(high, from_us, to_us, source)
                if unit(source) * ONE <= _share_of_high(process, at_us) << _BITS
            ]
    return times


def _poisson(process: Poisson, from_us: int, to_us: int, source: random.Random) -> list[int]:
    times: list[int] = []
    at = from_us * ONE
    while True:
        at += process.per_us * minus_ln(unit(source)) // process.n_events
        if at >= to_us * ONE or len(times) == ARRIVALS_MAX:
            return times
        times.append(at // ONE)


def _share_of_high(process: Diurnal, at_us: int) -> int:
    """The rate now over the highest, in fixed point; a smoothstep up and down in place of a cosine."""
    off_us = (at_us - process.peak_us) % process.period_us
    off_us = min(off_us, process.period_us - off_us)
    x = ONE - off_us * 2 * ONE // process.period_us  # 1 at the peak, 0 half a period away
    smooth = x * x // ONE * (3 * ONE - 2 * x) // ONE
    low = process.low.n_events * process.high.per_us * ONE // (process.low.per_us * process.high.n_events)
    return low + (ONE - low) * smooth // ONE
