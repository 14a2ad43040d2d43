"""The player as a queue: Little's law exactly, M/M/1 and M/M/c within what so few tasks allow.

`python -m benchmarks.queues` is the long one."""

import pytest

from benchmarks.queues import SERVICE_S, mean_in_system_s, measure


def test_theory_knows_its_special_cases() -> None:
    assert mean_in_system_s(1, 500) == pytest.approx(2 * SERVICE_S)
    assert mean_in_system_s(2, 500) == pytest.approx(SERVICE_S * 4 / 3)  # 1/μ · 1/(1 − ρ²)


@pytest.mark.parametrize(("servers", "load_milli"), [(1, 500), (4, 600)])
def test_queues_keep_to_theory(servers: int, load_milli: int) -> None:
    measured = measure(1500, servers, load_milli, seed=3)
    assert measured["error"] == pytest.approx(0, abs=0.12)
    assert measured["little"] == pytest.approx(1, abs=1e-3)
    assert measured["overhead_s"] < 0.2
