"""Forecasts of a link's rate: laws of every model and of the mix, and stories on small series."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.forecast.forecaster import LAYOUT, Forecaster, ForecasterState
from policies.forecast.horizons import HORIZONS_US, USUAL_US
from policies.kernels.forecast import begin
from policies.kernels.forecast.layout import (
    AT,
    FLOOR,
    HARMONIC,
    HIGHS,
    HORIZON,
    INT_ROW,
    LAST,
    LEAST,
    LINK,
    LOSSES,
    LOWS,
    MODELS,
    N_LINK,
    N_OUTLOOK,
    N_SLOTS,
    N_TOLD,
    PENDING,
    QUANTILE,
    QUICK,
    RATE_BPS_MAX,
    REAL_ROW,
    REGRESSION,
    ROBUST,
    SAMPLES,
    SEASONAL,
    SLOT,
    SLOTS,
    SLOW,
    USUAL,
    Reals,
)
from policies.kernels.forecast.levels import FLOOR_BPS, RATIO_MAX, SLOT_US, update
from policies.kernels.forecast.outlook import FACTOR_MAX, FACTOR_MIN, FIRST, judge, regress, regression
from policies.kernels.jit import Int64s
from tests.reference import forecast as reference

SECOND = 1_000_000
MBIT = 1_000_000

DAY_US = 24 * SLOT_US

rates = st.one_of(st.just(0), st.integers(0, 10**9), st.integers(0, RATE_BPS_MAX))
gaps_us = st.one_of(st.just(0), st.integers(0, 3 * SECOND), st.integers(0, 40 * 3600 * SECOND))
samples = st.lists(st.tuples(rates, gaps_us), min_size=1, max_size=120)


def fed(series: list[tuple[int, int]], *, horizon_us: int = USUAL_US, quantile_ppm: int = 100_000) -> Forecaster:
    forecaster, at_us = Forecaster(horizon_us=horizon_us, quantile_ppm=quantile_ppm), 0
    for bps, gap_us in series:
        at_us += gap_us
        forecaster.update(bps, at_us)
    return forecaster


def every_second(values: list[int], **options: int) -> Forecaster:
    return fed([(value, SECOND) for value in values], **options)


def rows(horizon_us: int = USUAL_US, quantile: float = 0.1) -> tuple[Reals, Int64s]:
    """Of a forecaster that has seen nothing."""
    reals, ints = np.zeros((2, REAL_ROW)), np.zeros((2, INT_ROW), np.int64)
    reals[LINK, QUANTILE], ints[USUAL, HORIZON] = quantile, horizon_us
    reals[LINK, SLOTS : SLOTS + N_SLOTS], ints[LINK, SLOT] = -1.0, -1
    begin(reals, USUAL)
    return reals, ints


def levels_of(series: list[tuple[int, int]], horizon_us: int = USUAL_US) -> Reals:
    """What every model said after each of these rates, each with its time."""
    reals, ints = rows(horizon_us)
    told = np.zeros((len(series), N_TOLD))
    for n, (bps, at_us) in enumerate(series):
        ints[LINK, SAMPLES] += 1
        update(reals, ints, bps, at_us)
        ints[LINK, AT] = at_us
        told[n] = reals[LINK, :N_TOLD]
    return told


def wave(n: int, mean: int = 50 * MBIT) -> list[int]:
    """Rates that differ from second to second without any randomness."""
    return [int(mean * (1 + 0.5 * math.sin(k * k))) for k in range(n)]


# --- laws -------------------------------------------------------------------------------------------------------------


@given(samples)
def test_a_band_is_ordered_not_negative_and_within_what_was_seen(series: list[tuple[int, int]]) -> None:
    forecast = fed(series).forecast()
    assert forecast is not None
    assert 0 <= forecast.low_bps <= forecast.high_bps <= max(bps for bps, _ in series)
    assert forecast.model in MODELS and 0 < forecast.weight_ppm <= 1_000_000


@given(samples)
def test_equal_samples_give_equal_forecasts(series: list[tuple[int, int]]) -> None:
    assert fed(series).forecast() == fed(series).forecast()
    assert fed(series).state() == fed(series).state()


@given(samples, samples)
def test_a_forecaster_restored_from_bytes_goes_on_as_if_nothing_had_been(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    one, other = fed(before), Forecaster()
    kept = msgspec.msgpack.encode(one.state())
    other.restore(msgspec.msgpack.decode(kept, type=ForecasterState))
    assert other.forecast() == one.forecast()
    at_us = one.state().ints[LINK][AT]
    for bps, gap_us in after:
        at_us += gap_us
        one.update(bps, at_us)
        other.update(bps, at_us)
    assert other.forecast() == one.forecast() and other.state() == one.state()


@given(samples)
def test_asking_changes_nothing(series: list[tuple[int, int]]) -> None:
    asked, at_us = Forecaster(), 0
    for bps, gap_us in series:
        at_us += gap_us
        asked.update(bps, at_us)
        asked.forecast()
    assert asked.forecast() == fed(series).forecast()


@given(st.lists(st.tuples(rates, gaps_us), min_size=200, max_size=260))
@settings(max_examples=20)
def test_state_is_bounded(series: list[tuple[int, int]]) -> None:
    assert len(msgspec.msgpack.encode(fed(series).state())) < 3000


def test_what_is_remembered_has_a_number() -> None:
    """Another shape of the state, or another meaning of a column, is another layout: `LAYOUT` grows with it."""
    assert (LAYOUT, N_LINK, N_OUTLOOK, INT_ROW) == (2, 120, 94, 20)
    assert every_second([1]).state().is_known() and not ForecasterState().is_known()


@pytest.mark.kernel
@given(st.lists(st.tuples(rates, gaps_us, st.sampled_from((None, *HORIZONS_US))), min_size=1, max_size=150))
def test_kernels_and_plain_python_agree_to_the_last_bit(series: list[tuple[int, int, int | None]]) -> None:
    one, other, at_us = Forecaster(), reference.Forecaster(), 0
    for bps, gap_us, asked_us in series:
        at_us += gap_us
        one.update(bps, at_us)
        other.update(bps, at_us)
        for horizon_us in {USUAL_US, asked_us} - {None}:
            found = one.forecast_over(horizon_us)
            assert found is not None
            told = found.low_bps, found.high_bps, found.model, found.weight_ppm, found.outcomes
            assert told == other.tell(horizon_us)


@given(samples)
def test_every_model_is_finite_and_not_negative(series: list[tuple[int, int]]) -> None:
    told = np.array(fed(series).state().reals[LINK][:N_TOLD])
    assert np.isfinite(told).all() and (told >= 0.0).all()


@pytest.mark.kernel
@given(st.lists(st.integers(int(FLOOR_BPS), 10**11), min_size=1, max_size=90))
def test_averages_stay_within_what_was_seen(series: list[int]) -> None:
    told = levels_of([(bps, n) for n, bps in enumerate(series)])[-1]
    for model in (LAST, SLOW, QUICK, HARMONIC, ROBUST, FLOOR, LEAST):
        assert min(series) * (1 - 1e-9) - 1 <= told[model] <= max(series) * (1 + 1e-9) + 1, model


@pytest.mark.kernel
@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=90))
def test_the_floor_is_the_lower_decile_of_means_of_five(series: list[int]) -> None:
    told = levels_of([(bps, n) for n, bps in enumerate(series)])[-1]
    means = [np.mean(series[max(0, end - 5) : end]) for end in range(1, len(series) + 1)][-60:]
    assert told[FLOOR] == pytest.approx(sorted(means)[(len(means) - 1) // 10]) and told[LEAST] == min(series[-5:])


some_rate = st.one_of(st.just(0.0), st.floats(1e-3, 1e12))


@pytest.mark.kernel
@given(st.lists(st.tuples(some_rate, some_rate), max_size=200))
def test_a_bands_factors_are_bounded_and_ordered(outcomes: list[tuple[float, float]]) -> None:
    reals, _ = rows()
    for n, (level, actual) in enumerate(outcomes, 1):
        reals[USUAL, PENDING : PENDING + len(MODELS)] = [level / (1 + model) for model in range(len(MODELS))]
        judge(reals, USUAL, PENDING, n, actual)
        lows, highs, losses = (reals[USUAL, first : first + len(MODELS)] for first in (LOWS, HIGHS, LOSSES))
        assert (lows >= FACTOR_MIN).all() and (lows <= highs).all() and (highs <= FACTOR_MAX).all()
        assert (losses >= 0.0).all() and lows[REGRESSION] == 1.0, "which is a quantile already"


@given(st.lists(st.integers(1, 100), min_size=1500, max_size=1500))
@settings(max_examples=10)
def test_nine_tenths_lie_above_whatever_the_sequence(ratios: list[int]) -> None:
    """The promise of quantile tracking: no assumption on the sequence, as long as no factor reaches its bound."""
    reals, _ = rows()
    reals[USUAL, PENDING + LAST] = 100.0
    above = 0
    for n, ratio in enumerate(ratios, 1):
        actual = ratio * (1.0 + math.sin(n / 100) / 2) + 1
        above += actual >= reals[USUAL, LOWS + LAST] * 100.0
        judge(reals, USUAL, PENDING, n, actual)
    assert 0.86 <= above / len(ratios) <= 0.94


LAGS = (FLOOR, LAST, ROBUST, LEAST)


@pytest.mark.kernel
@given(st.lists(st.tuples(*[rates] * 5), min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_a_regression_is_never_negative_or_infinite(outcomes: list[tuple[int, ...]], quantile: float) -> None:
    reals, _ = rows(quantile=quantile)
    for n, (actual, *lags) in enumerate(outcomes, 1):
        for lag, value in zip(LAGS, lags, strict=True):
            reals[USUAL, PENDING + lag] = reals[LINK, lag] = value
        regress(reals, USUAL, PENDING, n, float(actual))
        low = regression(reals, USUAL)
        assert math.isfinite(low) and low >= 0.0


# --- stories ----------------------------------------------------------------------------------------------------------


def test_nothing_is_forecast_of_nothing() -> None:
    assert Forecaster().forecast() is None


def test_a_steady_link_is_forecast_as_it_is() -> None:
    forecast = every_second([40 * MBIT] * 300).forecast()
    assert forecast is not None
    assert forecast.low_bps == pytest.approx(40 * MBIT, rel=0.05) and forecast.high_bps == 40 * MBIT
    assert forecast.outcomes > FIRST


def test_a_wild_link_is_forecast_below_a_steady_one_of_the_same_mean() -> None:
    steady, wild = every_second([50 * MBIT] * 600), every_second([5 * MBIT, 95 * MBIT] * 300, horizon_us=SECOND)
    low_steady, low_wild = steady.forecast(), wild.forecast()
    assert low_steady is not None and low_wild is not None and low_wild.low_bps < low_steady.low_bps // 2


def test_a_lower_quantile_is_not_above_a_higher_one() -> None:
    found = [
        every_second(wave(900), horizon_us=SECOND, quantile_ppm=ppm).forecast() for ppm in (50_000, 250_000, 500_000)
    ]
    lows = [forecast.low_bps for forecast in found if forecast is not None]
    assert lows == sorted(lows) and lows[0] < lows[-1]


def test_a_link_that_loses_half_is_soon_forecast_at_half() -> None:
    forecaster = every_second([80 * MBIT] * 600 + [40 * MBIT] * 20)
    forecast = forecaster.forecast()
    assert forecast is not None and forecast.low_bps <= 60 * MBIT
    for n in range(621, 700):
        forecaster.update(40 * MBIT, n * SECOND)
    forecast = forecaster.forecast()
    assert forecast is not None and 20 * MBIT <= forecast.low_bps <= 45 * MBIT


def test_one_absurd_sample_does_not_make_a_fast_link() -> None:
    calm, hit = every_second([10 * MBIT] * 100), every_second([10 * MBIT] * 100 + [10**13])
    before, after = calm.forecast(), hit.forecast()
    assert before is not None and after is not None and after.low_bps < 4 * before.low_bps


def test_a_dead_link_is_forecast_dead_and_alive_again() -> None:
    forecaster = every_second(wave(200) + [0] * 900)
    dead = forecaster.forecast()
    assert dead is not None and dead.low_bps < MBIT
    for n in range(1101, 1400):
        forecaster.update(50 * MBIT, n * SECOND)
    alive = forecaster.forecast()
    assert alive is not None and alive.low_bps > 10 * MBIT


def test_samples_hours_apart_are_judged_by_the_next_one() -> None:
    forecast = fed([(20 * MBIT, 2 * 3600 * SECOND)] * 40).forecast()
    assert forecast is not None and forecast.outcomes == 39 and forecast.low_bps == pytest.approx(20 * MBIT, rel=0.05)


def test_a_clock_that_steps_back_and_negative_rates_do_no_harm() -> None:
    forecaster = every_second([10 * MBIT] * 50)
    forecaster.update(-5, 3)
    forecast = forecaster.forecast()
    assert forecast is not None and forecast.low_bps <= 10 * MBIT and forecaster.state().ints[LINK][AT] == 50 * SECOND


def test_rare_samples_of_a_minute_cost_as_many_outcomes_as_a_horizon_holds() -> None:
    """However often a link is measured, at most four forecasts of a horizon are judged."""
    forecast = fed([(10 * MBIT, SECOND // 100)] * 12_100).forecast()
    assert forecast is not None and forecast.outcomes <= 4 * 4


def test_the_harmonic_mean_is_that_of_the_newest_twenty() -> None:
    told = levels_of([(bps, 0) for bps in [9 * MBIT, *[1 * MBIT, 4 * MBIT] * 10, *[0] * 20]])[:, HARMONIC]
    assert told[20] == pytest.approx(20 / (10 / 1 + 10 / 4) * MBIT)
    assert told[-1] == pytest.approx(FLOOR_BPS), "a stall is as slow as can be told"


def test_the_season_of_the_day_is_learned_and_seen_coming() -> None:
    """Every day at eight the rate falls to a third; on the fourth day that is forecast before it happens."""
    times = [step * SLOT_US // 6 for step in range(3 * 24 * 6 + 8 * 6)]
    series = [(30 * MBIT if 8 <= (at_us % DAY_US) // SLOT_US < 20 else 90 * MBIT, at_us) for at_us in times]
    told = levels_of(series, 2 * SLOT_US)[:, SEASONAL]
    assert told[-1] < 60e6, "an hour ahead of the fall"
    assert told[3 * 24 * 6 + 4 * 6] == pytest.approx(90e6, rel=0.05), "four hours ahead of it"
    assert told[8 * 6 - 1] == pytest.approx(90e6, rel=0.01), "on the first day nobody can know"


def test_a_trend_is_followed_but_not_for_ever() -> None:
    level = levels_of([(n * MBIT, n * SECOND) for n in range(200)], 60 * SECOND)[-1, SEASONAL]
    assert 195 * MBIT < level < 2 * 200 * MBIT
    assert level <= RATIO_MAX * 200 * MBIT


def test_a_regression_finds_the_lower_decile() -> None:
    reals, _ = rows()
    for lag in LAGS:
        reals[LINK, lag] = reals[USUAL, PENDING + lag] = 100.0
    below = 0
    for n in range(1, 4001):
        actual = 50.0 + (n * 7919 % 100)  # 50…149, evenly
        if n > 2000:
            below += actual < regression(reals, USUAL)
        regress(reals, USUAL, PENDING, n, actual)
    assert 0.05 <= below / 2000 <= 0.15


def test_a_sum_that_wraps_does_no_harm() -> None:
    """The sum of all rates is kept in 64 bits, and only its differences are looked at."""
    fast, slow = every_second([RATE_BPS_MAX] * 200), every_second([RATE_BPS_MAX >> 10] * 200)
    state = fast.state()
    (at_us, samples, _, *rest), outlook = state.ints
    near = 2**63 - 1 - RATE_BPS_MAX * 3
    shifted = (*outlook[:15], *(near - state.ints[LINK][2] + then for then in outlook[15:]))
    other = Forecaster()
    other.restore(msgspec.structs.replace(state, ints=((at_us, samples, near, *rest), shifted)))
    for n in range(200, 400):
        fast.update(RATE_BPS_MAX, n * SECOND)
        other.update(RATE_BPS_MAX, n * SECOND)
    assert other.state().ints[LINK][2] < 0 and other.forecast() == fast.forecast() != slow.forecast()


def test_the_models_that_forecast_well_are_listened_to() -> None:
    """A rate that alternates every second: the last sample is the worst of guides, its mean a perfect one."""
    forecast = every_second([2 * MBIT, 98 * MBIT] * 400, horizon_us=2 * SECOND).forecast()
    assert forecast is not None and forecast.model != "last" and forecast.low_bps > 35 * MBIT
