"""Laws of durations and arrivals: their moments, and that their draws are the same everywhere."""

import math

import pytest

from scenarios.randomness import (
    ONE,
    Arrivals,
    Bursts,
    Constant,
    Diurnal,
    Every,
    Exponential,
    Law,
    Lognormal,
    Pareto,
    Poisson,
    Uniform,
    arrival_times_us,
    draw_us,
    exp,
    median_us,
    minus_ln,
)
from scenarios.streams import stream

SECOND = 1_000_000
N = 20_000


@pytest.mark.parametrize("u", [1, 2, 12345, 2**40 + 7, 2**52, 2**53 - 1, 2**53])
def test_the_logarithm_is_one(u: int) -> None:
    assert minus_ln(u) / ONE == pytest.approx(-math.log(u / 2**53), rel=1e-6, abs=2e-7)


@pytest.mark.parametrize("x", [-30.0, -1.5, -1e-6, 0.0, 1e-6, 0.6931, 3.25, 20.0])
def test_the_exponential_is_one(x: float) -> None:
    assert exp(int(x * ONE)) / ONE == pytest.approx(math.exp(x), rel=3e-7, abs=1e-12)


LAWS: list[Law] = [
    Constant(us=7),
    Uniform(low_us=SECOND, high_us=3 * SECOND),
    Exponential(mean_us=10 * SECOND),
    Lognormal(p50_us=2 * SECOND, p99_us=9 * SECOND),
    Pareto(min_us=SECOND, alpha_milli=1500, max_us=10**12),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_half_of_all_draws_lie_below_the_median(law: Law) -> None:
    source = stream(1, "test")
    drawn = sorted(draw_us(law, source) for _ in range(N))
    assert drawn[N // 2] == pytest.approx(median_us(law), rel=0.02)
    if isinstance(law, Lognormal):
        assert drawn[N * 99 // 100] == pytest.approx(law.p99_us, rel=0.05)
    if isinstance(law, Exponential):
        assert sum(drawn) / N == pytest.approx(law.mean_us, rel=0.02)
    if isinstance(law, Pareto):
        assert drawn[N * 9 // 10] == pytest.approx(SECOND * 10 ** (1 / 1.5), rel=0.04)


def test_draws_are_known_numbers() -> None:
    """What any machine and Python version must draw."""
    assert [draw_us(law, stream(42, "golden")) for law in LAWS] == KNOWN


KNOWN = [7, 2405975, 3524164, 5248137, 1264838]


def per_second(n: int) -> Poisson:
    return Poisson(n_events=n, per_us=SECOND)


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (Every(every_us=SECOND), 1000),
        (per_second(4), 4000),
        (Bursts(every_us=100 * SECOND, size=30, within_us=SECOND), 300),
        (Diurnal(low=per_second(1), high=per_second(5), period_us=500 * SECOND, peak_us=100 * SECOND), 3000),
    ],
    ids=["every", "poisson", "bursts", "diurnal"],
)
def test_as_many_arrive_as_were_asked_for(process: Arrivals, expected: int) -> None:
    times = arrival_times_us(process, 0, 1000 * SECOND, stream(1, "arrivals"))
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] < 1000 * SECOND
    assert len(times) == pytest.approx(expected, rel=0.06)


def test_a_day_peaks_when_it_says() -> None:
    process = Diurnal(low=per_second(1), high=per_second(9), period_us=1000 * SECOND, peak_us=250 * SECOND)
    times = arrival_times_us(process, 0, 1000 * SECOND, stream(1, "arrivals"))
    near_peak = sum(200 * SECOND <= at < 300 * SECOND for at in times)
    far = sum(700 * SECOND <= at < 800 * SECOND for at in times)
    assert near_peak > 6 * far
