"""Real packets through a shaped link between two network namespaces."""

import statistics
import time

import pytest

from benchmarks import netns
from benchmarks.network import MBIT, Prober, link
from federation.wire import LinkSample

pytestmark = [pytest.mark.live, pytest.mark.skipif(bool(why := netns.why_not()), reason=f"real packets: {why}")]


def probed(prober: Prober) -> LinkSample:
    _, sample = prober.probe()
    return sample


def estimate_bps(prober: Prober) -> float:
    """The median of five probes that measured; of bounds where there is nothing else."""
    samples = [probed(prober) for _ in range(5)]
    exact = [sample for sample in samples if not sample.is_lower_bound]
    return statistics.median(sample.bandwidth_bps or 0 for sample in exact or samples)


@pytest.mark.parametrize(
    ("down_mbit", "up_mbit"), [(2, 50), (50, 2), (20, 20), (100, 5), (500, 100)], ids=lambda mbit: f"{mbit}"
)
def test_the_shaped_rate_is_found(down_mbit: int, up_mbit: int) -> None:
    with link(down_mbit * MBIT, up_mbit * MBIT) as (_, prober):
        assert estimate_bps(prober) == pytest.approx(down_mbit * MBIT, rel=0.1)


@pytest.mark.parametrize("mbit", [2, 20, 100])
def test_also_with_a_third_of_it_taken_by_others(mbit: int) -> None:
    with link(mbit * MBIT, mbit * MBIT, cross_bps=mbit * MBIT * 3 // 10) as (_, prober):
        time.sleep(0.3)  # the others' queue builds up
        assert estimate_bps(prober) == pytest.approx(mbit * MBIT, rel=0.1)


def test_a_halved_link_shows_in_the_next_probe() -> None:
    with link(20 * MBIT, 20 * MBIT) as (pair, prober):
        assert probed(prober).bandwidth_bps == pytest.approx(20 * MBIT, rel=0.1)
        pair.shape(0, 10 * MBIT)
        assert probed(prober).bandwidth_bps == pytest.approx(10 * MBIT, rel=0.1)
