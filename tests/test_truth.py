"""Published numbers on the data they were published with, where that data lies beside the project."""

from pathlib import Path

import pytest

from benchmarks.truth import deeprm, gavel, openb

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
