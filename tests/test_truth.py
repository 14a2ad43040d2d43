"""Published numbers on the data they were published with, where that data lies beside the project."""

from pathlib import Path

import pytest

from benchmarks.truth import deeprm, gavel, openb
from benchmarks.truth.__main__ import main

DATA = Path(__file__).parents[1].parent / "shared" / "traces"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "deeprm").exists(), reason="needs the DeepRM sequences in ../shared/traces")
def test_deeprm_heuristics_are_the_published_ones() -> None:
    results = deeprm.run(DATA / "deeprm", None)
    assert len(results) == 18
    for each in results:
        assert each.is_within, each
        if each.policy != "Random":
            assert each.measured == pytest.approx(each.reference, abs=5e-5), each


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "gavel").exists(), reason="needs the Gavel traces in ../shared/traces")
def test_gavel_runs_and_optima_are_the_published_ones() -> None:
    results = gavel.run(DATA / "gavel", None)
    assert len(results) == 2 * 6 + 2 * 11
    for each in results:
        assert each.is_within, each
        if each.policy == "fifo":
            assert each.measured == pytest.approx(each.reference, abs=5e-3), each


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "openb").exists(), reason="needs the openb pods and nodes in ../shared/traces")
def test_openb_allocations_are_the_published_ones() -> None:
    for each in openb.run(DATA / "openb", 3):  # A third of the seeds: the tolerance is three deviations of one.
        assert abs(each.error) <= max(each.tolerance, 0.75), each


@pytest.mark.parametrize(
    ("experiment", "file"),
    [("deeprm", "heuristics_reference.json"), ("gavel", "lp_oracles.json"), ("openb", "openb_node_list_gpu_node.csv")],
)
def test_a_folder_of_other_files_is_refused_with_the_one_that_is_missing(
    experiment: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["truth", experiment, "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / file}: No such file or directory; --data is the folder with the files of {experiment}" in told


def test_a_file_of_another_format_is_told_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "heuristics_reference.json").write_text('[{"rate": 0.1}]')
    monkeypatch.setattr("sys.argv", ["truth", "deeprm", "--data", str(tmp_path), "--limit", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "seq_rate0.1.json" in capsys.readouterr().err
