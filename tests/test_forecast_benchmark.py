"""The rolling-origin benchmark: reads what it says it reads, and reaches its targets on the shared traces."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.forecast import SECOND_US, SLICE_US, Series, actuals, load, main, measure

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT.parent / "shared" / "traces"


def test_actuals_are_means_over_the_horizon_by_the_clock() -> None:
    series = Series("x", np.array([0, 1, 2, 10, 11]), np.array([5, 10, 20, 30, 40]), 2, True)
    found = actuals(series)
    assert found[:1].tolist() == [15.0] and found[1] == 20.0
    assert np.isnan(found[2:]).all(), "no sample within two, or the series ends before"


def test_rates_and_round_trips_are_read_and_other_files_left_alone(tmp_path: Path) -> None:
    rows = ["Timestamp,DL_bitrate,UL_bitrate", "2020.01.01_00.00.00,5,1", "2020.01.01_00.00.03,-,2"]
    (tmp_path / "a.csv").write_text("\n".join([*rows, "2020.01.01_00.00.04,7,3"]) + "\n")
    (tmp_path / "plain.csv").write_text("DL_bitrate\n3\n4\n")
    (tmp_path / "other.csv").write_text("job,arrival\n1,2\n")
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "deeper").mkdir()
    np.savez(tmp_path / "deeper" / "rtt.npz", np.array([[[0, 100], [200, 0]], [[0, 0], [400, 0]]], np.uint16))
    found = [(s.dataset, s.at_us.tolist(), s.bps.tolist()) for s in load(tmp_path, 30 * SECOND_US)]
    start = found[0][1][0]
    assert [(name, [at - start for at in at_us], bps) for name, at_us, bps in found[:2]] == [
        ("mobile_DL", [0, 4 * SECOND_US], [5000, 7000]),
        ("mobile_UL", [0, 3 * SECOND_US, 4 * SECOND_US], [1000, 2000, 3000]),
    ]
    assert found[2:] == [
        ("round_trips", [0, SLICE_US], [50 * SECOND_US, 25 * SECOND_US]),
        ("mobile_DL", [0, SECOND_US], [3000, 4000]),
    ]


def test_the_figures_of_a_steady_series() -> None:
    steady = Series("steady", np.arange(400) * SECOND_US, np.full(400, 10**7), 10 * SECOND_US, False)
    figures: Any = measure([steady])
    assert figures["p10_coverage"] == 1.0 and figures["pinball"] < 0.005 and figures["update_us"] > 0
    assert figures["held_out"] == {"datasets": {}, "horizons": {}}


def run(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["forecast", "--data", str(data), "--json", str(out), *options])
    main()


def test_targets_are_reached_on_recorded_and_generated_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage 85–95 %, losses 15 % below last value and harmonic mean. Times are not judged: machines differ."""
    if not TRACES.is_dir():
        pytest.skip("the recorded traces lie outside the repository, and are not here")
    run(monkeypatch, TRACES, tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text())
    for some in (figures, figures["held_out"]):
        for name, found in (("all", some), *some["datasets"].items()):
            assert 0.85 <= found["p10_coverage"] <= 0.95, name
            assert found["pinball"] <= 0.85 * min(found["pinball_last"], found["pinball_harmonic"]), name
        assert set(some["datasets"]) == {"mobile_DL", "mobile_UL", "round_trips", "diurnal"}
    assert figures["held_out"]["datasets"]["mobile_DL"]["series"] == 3
    for seconds in ("5", "15", "30", "60", "120"):
        for name, found in figures["horizons"][seconds]["datasets"].items():
            assert 0.85 <= found["p10_coverage"] <= 0.95, (seconds, name)
            assert found["pinball"] <= 0.85 * min(found["pinball_last"], found["pinball_harmonic"]), (seconds, name)


@pytest.mark.parametrize(
    ("folder", "options", "says"), [("nowhere", (), "no folder"), (".", ("--horizon", "0"), "above zero")]
)
def test_wrong_options_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str,
    options: tuple[str, ...], says: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / folder, tmp_path / "x.json", *options)
    assert says in capsys.readouterr().err
