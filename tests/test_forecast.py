"""Forecasts of a link's rate: laws of every model and of the mix, and stories on small series."""

import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.forecast.api import LevelModel
from policies.forecast.bands import FACTOR_MAX, FACTOR_MIN, FIRST, Bands
from policies.forecast.ewma import Ewma
from policies.forecast.forecaster import Forecaster, ForecasterState
from policies.forecast.harmonic import FLOOR_BPS, Harmonic
from policies.forecast.holt_winters import DAY_US, RATIO_MAX, SLOT_US, HoltWinters
from policies.forecast.horizons import USUAL_US
from policies.forecast.last_value import LastValue
from policies.forecast.outlook import MODELS, RATE_BPS_MAX
from policies.forecast.power_mean import PowerMean
from policies.forecast.quantile_regression import QuantileRegression

SECOND = 1_000_000
MBIT = 1_000_000

AVERAGES: dict[str, Callable[[], LevelModel]] = {
    "last": LastValue,
    "ewma": lambda: Ewma(10),
    "harmonic": Harmonic,
    "power_mean": PowerMean,
}
EVERY = AVERAGES | {"holt_winters": lambda: HoltWinters(USUAL_US)}

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
    at_us = one.state().at_us
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


@pytest.mark.parametrize("name", EVERY)
@given(series=samples)
def test_every_model_is_finite_and_not_negative(name: str, series: list[tuple[int, int]]) -> None:
    model, at_us = EVERY[name](), 0
    for bps, gap_us in series:
        at_us += gap_us
        level = model.update(float(bps), at_us)
        assert math.isfinite(level) and level >= 0.0


@pytest.mark.parametrize("name", AVERAGES)
@given(series=st.lists(st.integers(FLOOR_BPS, 10**11), min_size=1, max_size=60))
def test_averages_stay_within_what_was_seen(name: str, series: list[int]) -> None:
    model = AVERAGES[name]()
    levels = [model.update(float(bps), n) for n, bps in enumerate(series)]
    assert min(series) * (1 - 1e-9) - 1 <= levels[-1] <= max(series) * (1 + 1e-9) + 1


@pytest.mark.parametrize("name", EVERY)
@given(series=st.lists(st.integers(0, 10**10), min_size=1, max_size=60))
def test_every_model_goes_on_from_its_state(name: str, series: list[int]) -> None:
    one, other = EVERY[name](), EVERY[name]()
    for n, bps in enumerate(series):
        one.update(float(bps), n * SLOT_US // 3)
    other.restore(one.state())
    at_us = len(series) * SLOT_US
    assert [one.update(5e6, at_us + n) for n in range(3)] == [other.update(5e6, at_us + n) for n in range(3)]


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e12)), max_size=200))
def test_a_bands_factors_are_bounded_and_ordered(outcomes: list[tuple[float, float]]) -> None:
    bands = Bands(2, 0.1, 0.9, 1.1)
    for level, actual in outcomes:
        bands.learn((level, level / 3), actual)
        for low, high, loss in zip(bands.lows, bands.highs, bands.losses, strict=True):
            assert FACTOR_MIN <= low <= high <= FACTOR_MAX and loss >= 0.0


@given(st.lists(st.integers(1, 100), min_size=1500, max_size=1500))
@settings(max_examples=10)
def test_nine_tenths_lie_above_whatever_the_sequence(ratios: list[int]) -> None:
    """The promise of quantile tracking: no assumption on the sequence, as long as no factor reaches its bound."""
    bands, above = Bands(1, 0.1, 0.9, 1.1), 0
    for n, ratio in enumerate(ratios):
        actual = ratio * (1.0 + math.sin(n / 100) / 2) + 1
        above += actual >= bands.lows[0] * 100.0
        bands.learn((100.0,), actual)
    assert 0.86 <= above / len(ratios) <= 0.94


@given(st.lists(rates, min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_a_regression_is_never_negative_or_infinite(series: list[int], quantile: float) -> None:
    regression = QuantileRegression(quantile)
    for a, b in zip(series, reversed(series), strict=True):
        regression.learn(float(a), float(b), float(a + b), float(b))
        low = regression.predict(float(a), float(b), float(a))
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
    assert forecast is not None and forecast.low_bps <= 10 * MBIT and forecaster.state().at_us == 50 * SECOND


def test_rare_samples_of_a_minute_cost_as_many_outcomes_as_a_horizon_holds() -> None:
    """However often a link is measured, at most four forecasts of a horizon are judged."""
    forecast = fed([(10 * MBIT, SECOND // 100)] * 12_100).forecast()
    assert forecast is not None and forecast.outcomes <= 4 * 4


def test_the_harmonic_mean_is_that_of_the_newest() -> None:
    model = Harmonic(3)
    levels = [model.update(float(bps), 0) for bps in (9 * MBIT, 1 * MBIT, 2 * MBIT, 4 * MBIT)]
    assert levels[-1] == pytest.approx(3 / (1 / 1 + 1 / 2 + 1 / 4) * MBIT)
    assert model.update(0.0, 0) == pytest.approx(3 * FLOOR_BPS, rel=0.01), "a stall is as slow as can be told"


def test_the_season_of_the_day_is_learned_and_seen_coming() -> None:
    """Every day at eight the rate falls to a third; on the fourth day that is forecast before it happens."""
    model, told = HoltWinters(2 * SLOT_US), {}
    for step in range(3 * 24 * 6 + 8 * 6):
        at_us = step * SLOT_US // 6
        hour = (at_us % DAY_US) // SLOT_US
        told[step] = model.update(30e6 if 8 <= hour < 20 else 90e6, at_us)
    assert told[3 * 24 * 6 + 8 * 6 - 1] < 60e6, "an hour ahead of the fall"
    assert told[3 * 24 * 6 + 4 * 6] == pytest.approx(90e6, rel=0.05), "four hours ahead of it"
    assert told[8 * 6 - 1] == pytest.approx(90e6, rel=0.01), "on the first day nobody can know"


def test_a_trend_is_followed_but_not_for_ever() -> None:
    model = HoltWinters(60 * SECOND)
    level = 0.0
    for n in range(200):
        level = model.update(float(n * MBIT), n * SECOND)
    assert 195 * MBIT < level < 2 * 200 * MBIT
    assert level <= RATIO_MAX * 200 * MBIT


def test_a_regression_finds_the_lower_decile() -> None:
    regression, below = QuantileRegression(0.1), 0
    for n in range(4000):
        actual = 50.0 + (n * 7919 % 100)  # 50…149, evenly
        if n >= 2000:
            below += actual < regression.predict(100.0, 100.0, 100.0)
        regression.learn(100.0, 100.0, 100.0, actual)
    assert 0.05 <= below / 2000 <= 0.15


def test_the_models_that_forecast_well_are_listened_to() -> None:
    """A rate that alternates every second: the last sample is the worst of guides, its mean a perfect one."""
    forecast = every_second([2 * MBIT, 98 * MBIT] * 400, horizon_us=2 * SECOND).forecast()
    assert forecast is not None and forecast.model != "last" and forecast.low_bps > 35 * MBIT
