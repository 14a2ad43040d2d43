"""Real packets through a shaped link between two network namespaces."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import netns
from benchmarks.emulator import Way
from benchmarks.network import MBIT, Prober, emulated_link, link
from federation.wire import LinkSample

pytestmark = [pytest.mark.live, pytest.mark.skipif(bool(why := netns.why_not()), reason=f"real packets: {why}")]


def probed(prober: Prober) -> LinkSample:
    """Asked again where no train was sent: on a machine that others take, a queue may seem to stand on the link."""
    for _ in range(5):
        _, *measured = prober.probe()
        if measured:
            return measured[0]
    raise AssertionError("five times in a row only the round trip was measured")


def median_bps(samples: list[LinkSample]) -> float:
    """Of those that measured; of bounds where there is nothing else."""
    exact = [sample for sample in samples if not sample.is_lower_bound]
    return statistics.median(sample.bandwidth_bps or 0 for sample in exact or samples)


def estimate_bps(prober: Prober) -> float:
    return median_bps([probed(prober) for _ in range(5)])


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


@contextmanager
def fetching(pair: netns.Pair, prober: Prober, n_bytes: int, bps_max: int = 0) -> Iterator[None]:
    """Host 1 takes in a shard of host 0 meanwhile, at most so fast."""
    command = ("-m", "benchmarks.network_peer", "fetch", prober.url, str(n_bytes), str(bps_max))
    receiver = pair.python(1, *command)
    before_bytes = pair.received_bytes(1)
    try:
        while pair.received_bytes(1) < before_bytes + 500_000 and receiver.poll() is None:
            time.sleep(0.1)
        yield
    finally:
        receiver.kill()
        receiver.communicate()


def probed_soon(prober: Prober) -> LinkSample:
    """As an agent asks again where the way is in use: the link is what holds a shard up until the receiver's buffers
    are full, and again whenever the receiver catches up."""
    for _ in range(40):
        _, *measured = prober.probe()
        if measured and not measured[0].is_lower_bound:
            return measured[0]
        time.sleep(0.3)
    raise AssertionError("the way is in use all the time")


def test_a_halving_is_seen_beside_work_that_a_slow_receiver_keeps_to_a_part_of_the_link() -> None:
    with link(100 * MBIT, 100 * MBIT) as (pair, prober), fetching(pair, prober, 2**28, bps_max=10 * MBIT):
        assert probed_soon(prober).bandwidth_bps == pytest.approx(100 * MBIT, rel=0.1)
        pair.shape(0, 50 * MBIT)
        assert probed_soon(prober).bandwidth_bps == pytest.approx(50 * MBIT, rel=0.1)


def test_beside_work_that_takes_the_whole_link_nothing_is_sent_to_measure_it() -> None:
    with link(20 * MBIT, 20 * MBIT) as (pair, prober), fetching(pair, prober, 2**28):
        assert [sample.method for sample in prober.probe()] == ["echo"]


@pytest.mark.skipif(bool(lacks := netns.why_no_loss()), reason=f"loss: {lacks}")
def test_lost_packets_are_told_and_leave_the_rate_as_it_is() -> None:
    with link(20 * MBIT, 20 * MBIT) as (pair, prober):
        pair.lose(0, 100_000)
        samples = [probed(prober) for _ in range(7)]  # One train may lose a fifth of its half that counts.
    assert 30_000 < statistics.mean(sample.loss_ppm or 0 for sample in samples) < 250_000
    assert median_bps(samples) == pytest.approx(20 * MBIT, rel=0.15)


needs_tun = pytest.mark.skipif(not os.access("/dev/net/tun", os.W_OK), reason="delay and loss: no /dev/net/tun")


@needs_tun
@pytest.mark.parametrize(
    ("down", "up"),
    [
        (Way(delay_us=20_000), Way(delay_us=20_000)),
        (Way(delay_us=5_000, jitter_us=3_000), Way(delay_us=15_000, jitter_us=1_000)),
        (Way(delay_us=150_000, loss_ppm=5_000), Way(delay_us=150_000)),
    ],
    ids=["even", "jitter", "satellite"],
)
def test_a_round_trip_is_the_links_and_not_its_jitters(down: Way, up: Way) -> None:
    true_us = down.delay_us + up.delay_us
    most_us = true_us * 1.1 + (down.jitter_us + up.jitter_us) * 0.5 + 500
    with emulated_link(down, up) as prober:
        for _ in range(4):  # On a machine that others take the emulator sends late, never early.
            found = statistics.median_low(prober.probe()[0].rtt_us or 0 for _ in range(3))
            assert found >= true_us
            if found <= most_us:
                break
    assert found <= most_us


@needs_tun
@pytest.mark.parametrize("mbit", [2, 20])
def test_the_rate_is_found_over_delay_and_loss(mbit: int) -> None:
    down = Way(delay_us=20_000, jitter_us=1_000, loss_ppm=10_000, rate_bps=mbit * MBIT)
    with emulated_link(down, Way(delay_us=20_000)) as prober:
        assert estimate_bps(prober) == pytest.approx(mbit * MBIT, rel=0.1)
