"""Forecasts of link rates, judged by rolling origin over recorded and generated series.

    python -m benchmarks.forecast --data FOLDER --json PATH [--horizon 30]

FOLDER is searched for `*.csv` with columns DL_bitrate and/or UL_bitrate (kbit/s, one row a second; `Timestamp` where
there is one, as in github.com/uccmisl/5Gdataset) and `*.npz` of round trips [slices, hosts, hosts] in tenths of a
millisecond, 0 = missing (github.com/uofa-rzhu3/NetLatency-Data). Generated diurnal traffic is always added.

After every sample, from the first on, each method forecasts the lower decile of the mean rate over the horizon; the
samples that then lie in it decide. Round trips are forecast as their inverse, round trips a second: low is bad there
too, so the lower decile is the one to plan by. Losses are pinball losses at 0.1 ÷ the series' mean, averaged over the
series of a data set; the figures at the top average the data sets, each counting the same.

The forecaster's constants were chosen on some of these series; `held_out` has the same figures of the others. Chosen
on: the recordings named in `FITTED`, host pairs and generated links of even number. On no other folder's files.

- `pinball_last`, `pinball_harmonic`: the point forecasts a planner would take at face value (harmonic mean of the last
  20 samples; of 5 as `pinball_harmonic_5`).
- `…_banded`: the same with our own calibration put on top. What the mix of models adds is seen against these.
- `update_us`: median processor time of taking in a sample and asking for the forecast, selection included;
  `update_us_mean` spreads what is learned at some samples over all.
- `horizons`: of the series of rates, the same by horizon, as one forecaster gives them that is asked for all of them;
  `update_us` there is of taking in a sample for all of them and making one of the forecasts.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from policies.forecast.forecaster import QUANTILE_PPM, Forecaster
from policies.forecast.horizons import HORIZONS_US
from policies.kernels.forecast import begin
from policies.kernels.forecast.layout import LAST, LINK, LOWS, N_RATES, PENDING, QUANTILE, REAL_ROW, USUAL
from policies.kernels.forecast.levels import FLOOR_BPS
from policies.kernels.forecast.outlook import PPM
from policies.kernels.forecast.outlook import judge as learn_band

SECOND_US = 1_000_000
DECILE = QUANTILE_PPM / PPM
SLICE_US = 3600 * SECOND_US  # the slices' true spacing is not recorded
PAIRS = 1000  # host pairs taken from a matrix of round trips, evenly spread
DIURNAL_LINKS, DIURNAL_DAYS, DIURNAL_STEP_US = 4, 7, 300 * SECOND_US
DIURNAL_HORIZON_US = 1800 * SECOND_US

RATES = "mobile_"  # what the names of sets of rates a second begin with
FITTED = ("Download__Driving__B_2019.12.16_07.22.43", "Download__Static__B_2020.01.16_10.43.34")

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    dataset: str
    at_us: Int64s
    bps: Int64s
    horizon_us: int
    is_held_out: bool


# --- data -------------------------------------------------------------------------------------------------------------


def load(folder: Path, horizon_us: int) -> Iterator[Series]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".csv":
            yield from _load_rates(path, horizon_us)
        elif path.suffix == ".npz":
            yield from _load_round_trips(path)


def _load_rates(path: Path, horizon_us: int) -> Iterator[Series]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        columns = [name for name in ("DL_bitrate", "UL_bitrate") if name in (reader.fieldnames or ())]
        if not columns:
            return
        rows = list(reader)
    times = [_seconds(row.get("Timestamp"), n) for n, row in enumerate(rows)]
    for column in columns:
        kept = [(at, rate) for at, row in zip(times, rows, strict=True) if (rate := _number(row[column])) is not None]
        if len(kept) > 1:
            table = np.array(kept, np.float64)
            at_us = np.maximum.accumulate((table[:, 0] * SECOND_US).astype(np.int64))
            bps = (table[:, 1] * 1000).astype(np.int64)
            yield Series(f"{RATES}{column[:2]}", at_us, bps, horizon_us, path.stem not in FITTED)


def _seconds(stamp: str | None, row: int) -> float:
    """Of `2019.12.16_07.22.43` or an ISO time; the row's number where there is neither."""
    for parse in (lambda text: datetime.strptime(text, "%Y.%m.%d_%H.%M.%S"), datetime.fromisoformat):
        try:
            return parse(stamp or "").replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return float(row)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None  # "-" stands for no reading
    return value if value >= 0 else None


def _load_round_trips(path: Path) -> Iterator[Series]:
    with np.load(path) as arrays:
        for name in arrays.files:
            tenths_ms = arrays[name]
            if tenths_ms.ndim != 3:
                continue
            _, rows, columns = tenths_ms.shape
            n_series = 0
            for pair in range(0, rows * columns, max(1, rows * columns // PAIRS)):
                values = tenths_ms[:, pair // columns, pair % columns].astype(np.int64)
                seen = values > 0
                if pair // columns != pair % columns and seen.sum() > 1:
                    rate = 10**12 // (values[seen] * 100)  # round trips a second, × 10⁶
                    yield Series("round_trips", np.flatnonzero(seen) * SLICE_US, rate, SLICE_US, n_series % 2 == 1)
                    n_series += 1


def generate() -> Iterator[Series]:
    """Days of a shared uplink: full in the evening, quiet at night, noise that lingers, now and then an outage."""
    for link in range(DIURNAL_LINKS):
        rng = np.random.default_rng(link)
        n = int(DIURNAL_DAYS * 86_400 * SECOND_US // DIURNAL_STEP_US)
        at_us = np.arange(n, dtype=np.int64) * DIURNAL_STEP_US
        day = 2 * np.pi * at_us / (86_400 * SECOND_US)
        idle = 0.55 + 0.35 * np.sin(day + link) + 0.08 * np.sin(2 * day + 2 * link)
        lingering = np.zeros(n)
        for k in range(1, n):
            lingering[k] = 0.9 * lingering[k - 1] + rng.normal(0, 0.08)
        rate = 80e6 * idle * np.exp(lingering + rng.normal(0, 0.1, n))
        rate[rng.random(n) < 0.01] *= 0.1
        yield Series("diurnal", at_us, rate.astype(np.int64), DIURNAL_HORIZON_US, link % 2 == 1)


# --- methods ----------------------------------------------------------------------------------------------------------


def actuals(series: Series) -> Floats:
    """The mean of the samples within the horizon after each; NaN where there is none or the series ends before."""
    sums = np.concatenate([[0], np.cumsum(series.bps)])
    first = np.arange(1, len(series.bps) + 1)
    last = np.searchsorted(series.at_us, series.at_us + series.horizon_us, side="right")
    means: Floats = (sums[last] - sums[first]) / np.maximum(1, last - first)
    means[(last <= first) | (series.at_us + series.horizon_us > series.at_us[-1])] = np.nan
    return means


def ours(series: Series, spent_us: list[float]) -> tuple[Floats, Floats]:
    forecaster = Forecaster(horizon_us=series.horizon_us)
    low, high = np.empty(len(series.bps)), np.empty(len(series.bps))
    for n, (bps, at_us) in enumerate(zip(series.bps.tolist(), series.at_us.tolist(), strict=True)):
        began = time.thread_time_ns()
        forecaster.update(bps, at_us)
        forecast = forecaster.forecast()
        spent_us.append((time.thread_time_ns() - began) / 1000)
        assert forecast is not None
        low[n], high[n] = forecast.low_bps, forecast.high_bps
    return low, high


def over_horizons(series: Series, spent_us: list[float]) -> dict[int, Floats]:
    """The lower bounds over every horizon, all of one forecaster."""
    forecaster = Forecaster()
    low = {horizon_us: np.empty(len(series.bps)) for horizon_us in HORIZONS_US}
    for n, (bps, at_us) in enumerate(zip(series.bps.tolist(), series.at_us.tolist(), strict=True)):
        began = time.thread_time_ns()
        forecaster.update(bps, at_us)
        forecaster.forecast_over(HORIZONS_US[n % len(HORIZONS_US)])
        spent_us.append((time.thread_time_ns() - began) / 1000)
        for horizon_us in HORIZONS_US:
            forecast = forecaster.forecast_over(horizon_us)
            assert forecast is not None
            low[horizon_us][n] = forecast.low_bps
    return low


def harmonic(series: Series, n: int = N_RATES) -> Floats:
    """The mean of the newest n; below 1 kbit/s a rate counts as that."""
    inverse = 1.0 / np.maximum(series.bps, FLOOR_BPS)
    return np.array([1.0 / inverse[max(0, last - n) : last].mean() for last in range(1, len(inverse) + 1)])


def banded(series: Series, levels: Floats, actual: Floats) -> Floats:
    """The point forecasts times a factor learned from all outcomes known by then, as our own models get."""
    rows = np.zeros((USUAL + 1, REAL_ROW))
    rows[LINK, QUANTILE] = DECILE
    begin(rows, USUAL)
    known = outcomes = 0  # outcomes learned: those of origins whose horizon had passed before this sample
    out = np.empty(len(levels))
    for n, at_us in enumerate(series.at_us.tolist()):
        while known < n and series.at_us[known] + series.horizon_us < at_us:
            if not np.isnan(actual[known]):
                outcomes += 1
                rows[USUAL, PENDING + LAST] = levels[known]
                learn_band(rows, USUAL, PENDING, outcomes, float(actual[known]))
            known += 1
        out[n] = rows[USUAL, LOWS + LAST] * levels[n]
    return out


def judge(series: Series, spent_us: list[float]) -> dict[str, float]:
    actual = actuals(series)
    judged = ~np.isnan(actual)
    low, high = ours(series, spent_us)
    methods: dict[str, Floats] = {"pinball": low}
    last = series.bps.astype(np.float64)
    for name, levels in (("last", last), ("harmonic", harmonic(series)), ("harmonic_5", harmonic(series, 5))):
        methods[f"pinball_{name}"] = levels
        methods[f"pinball_{name}_banded"] = banded(series, levels, actual)
    seen = actual[judged]
    scale = max(1.0, float(seen.mean()))
    figures = {name: _pinball(forecast[judged], seen) / scale for name, forecast in methods.items()}
    figures["p10_coverage"] = float((seen >= low[judged]).mean())
    figures["p90_coverage"] = float((seen <= high[judged]).mean())
    return figures


def judge_horizons(series: Series, spent_us: list[float]) -> dict[str, dict[str, float]]:
    """By horizon in seconds; those that the series is too short for are left out."""
    found: dict[str, dict[str, float]] = {}
    levels = {"pinball_last": series.bps.astype(np.float64), "pinball_harmonic": harmonic(series)}
    for horizon_us, low in over_horizons(series, spent_us).items():
        actual = actuals(replace(series, horizon_us=horizon_us))
        judged = ~np.isnan(actual)
        if not judged.any():
            continue
        seen = actual[judged]
        scale = max(1.0, float(seen.mean()))
        found[str(horizon_us // SECOND_US)] = {
            "p10_coverage": float((seen >= low[judged]).mean()),
            **{name: _pinball(each[judged], seen) / scale for name, each in ({"pinball": low} | levels).items()},
        }
    return found


def _pinball(forecast: Floats, actual: Floats) -> float:
    error = actual - forecast
    return float(np.where(error >= 0, DECILE * error, (DECILE - 1) * error).mean())


# --- report -----------------------------------------------------------------------------------------------------------


def measure(every: list[Series]) -> dict[str, object]:
    spent_us: list[float] = []
    found: dict[str, list[tuple[bool, dict[str, float]]]] = {}
    for series in every:
        if not np.isnan(actuals(series)).all():
            found.setdefault(series.dataset, []).append((series.is_held_out, judge(series, spent_us)))
    held_out = {name: [one for is_held_out, one in judged if is_held_out] for name, judged in found.items()}
    over_us: list[float] = []
    of_rates = [series for series in every if series.dataset.startswith(RATES)]
    over = [(series, judge_horizons(series, over_us)) for series in of_rates]
    return {
        **summed({name: [one for _, one in judged] for name, judged in found.items()}),
        "horizons": {**by_horizon(over), **_times(over_us)},
        **_times(spent_us),
        "held_out": {
            **summed({name: judged for name, judged in held_out.items() if judged}),
            "horizons": by_horizon([(series, figures) for series, figures in over if series.is_held_out]),
        },
    }


def _times(spent_us: list[float]) -> dict[str, float]:
    if len(spent_us) < 2:
        return {}
    return {
        "update_us": round(statistics.median(spent_us), 2),
        "update_us_mean": round(statistics.fmean(spent_us), 2),
        "update_us_p99": round(statistics.quantiles(spent_us, n=100)[98], 2),
        "updates": len(spent_us),
    }


def by_horizon(judged: list[tuple[Series, dict[str, dict[str, float]]]]) -> dict[str, object]:
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for series, of_series in judged:
        for horizon, figures in of_series.items():
            found.setdefault(horizon, {}).setdefault(series.dataset, []).append(figures)
    return {horizon: summed(of_sets) for horizon, of_sets in found.items()}


def summed(found: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """By data set, and the mean of the data sets at the top; nothing of nothing."""
    datasets: dict[str, dict[str, float]] = {}
    for name, judged in found.items():
        datasets[name] = {key: round(statistics.fmean(one[key] for one in judged), 5) for key in judged[0]}
        datasets[name]["p10_coverage_min"] = round(min(one["p10_coverage"] for one in judged), 5)
        datasets[name]["p10_coverage_max"] = round(max(one["p10_coverage"] for one in judged), 5)
        datasets[name]["series"] = len(judged)
    keys = next(iter(found.values()))[0] if found else ()
    overall = {key: round(statistics.fmean(one[key] for one in datasets.values()), 5) for key in keys}
    return {**overall, "datasets": datasets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--horizon", type=float, default=30.0, help="seconds, for series of rates (default 30)")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"--data: no folder {options.data}")
    horizon_us = int(options.horizon * SECOND_US)
    if horizon_us <= 0:
        parser.error("--horizon: must be above zero")
    figures = measure([*load(options.data, horizon_us), *generate()])
    figures["horizon_s"] = options.horizon
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
