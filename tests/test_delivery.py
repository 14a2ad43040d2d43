"""The kernel's delivery rates, filtered: of made-up sockets, and of real ones on shaped links."""

import json

import pytest

from agents.probes.delivery import BYTES_MIN, Delivery, DeliveryRate, is_brief
from agents.probes.tcp_info import TcpInfo
from benchmarks import netns

MBIT = 1_000_000


def info(acked_bytes: int, busy_us: int, mbit: int = 80, **more: int) -> TcpInfo:
    return TcpInfo(
        rtt_us=more.get("rtt_us", 6_000), rtt_us_min=5_000, delivery_bps=mbit * MBIT,
        app_limited=bool(more.get("idle")), acked_bytes=acked_bytes,
        busy_us=busy_us, limited_us=more.get("limited_us", 0), sent_bytes=acked_bytes + more.get("resent_bytes", 0),
        resent_bytes=more.get("resent_bytes", 0),
    )  # fmt: skip


def ended(*looks: tuple[float, TcpInfo]) -> DeliveryRate | None:
    """Of a body that began at the first and whose last byte was acknowledged at the last."""
    (begun_s, first), *between, (_, last) = looks
    delivery = Delivery(first, begun_s)
    for at_s, look in between:
        assert delivery.is_due(at_s)
        delivery.look(look, at_s)
    return delivery.end(last)


def even(seconds: int = 2) -> list[tuple[float, TcpInfo]]:
    """80 Mbit/s, a reading in a tenth of a second."""
    return [(10 + n / 10, info(n * 1_000_000, n * 100_000)) for n in range(10 * seconds + 1)]


def test_a_stream_that_only_the_way_held_up_is_measured_by_its_median() -> None:
    rate = ended(*even())
    assert rate is not None and not rate.is_lower_bound
    assert (rate.bandwidth_bps, rate.limited_milli, rate.n_bytes, rate.rtt_us) == (80 * MBIT, 0, 20_000_000, 5_000)


def test_a_peak_that_is_kept_while_there_is_nothing_to_send_does_not_count() -> None:
    peaks = [(at_s, info(look.acked_bytes or 0, look.busy_us or 0, mbit=800, idle=1)) for at_s, look in even()]
    rate = ended(*peaks)
    assert rate is not None and rate.is_lower_bound and rate.bandwidth_bps == 80 * MBIT


def test_flights_faster_than_all_bytes_over_all_the_time_are_not_believed() -> None:
    rate = ended(*((at_s, info(look.acked_bytes or 0, look.busy_us or 0, mbit=800)) for at_s, look in even()))
    assert rate is not None and rate.is_lower_bound and rate.bandwidth_bps == 80 * MBIT


def test_a_receiver_that_is_behind_and_a_sender_that_is_slow_make_bounds() -> None:
    behind = ended(*((s, info(look.acked_bytes or 0, look.busy_us or 0, limited_us=(look.busy_us or 0) // 2))
                     for s, look in even()))  # fmt: skip
    assert behind is not None and behind.is_lower_bound and behind.limited_milli == 500
    slow = ended(*((10 + 2 * (s - 10), look) for s, look in even()))  # Half of the time nothing was under way.
    assert slow is not None and slow.is_lower_bound
    assert 450 <= slow.limited_milli <= 550 and 36 * MBIT <= slow.bandwidth_bps <= 44 * MBIT


@pytest.mark.parametrize(
    ("held_ppm", "rtt_us", "seconds", "is_held"),
    [
        (700_000, 6_000, 2.0, True),  # by the receiver's window
        (700_000, 200_000, 2.0, False),  # but behind a queue that its window fills
        (300_000, 6_000, 2.0, False),  # by the way, for most of the time
        (700_000, 6_000, 0.4, False),  # for too short to say
    ],
)
def test_there_is_room_beside_what_something_else_holds_up(
    held_ppm: int, rtt_us: int, seconds: float, is_held: bool
) -> None:
    delivery = Delivery(info(0, 0), 0.0)
    assert not delivery.is_held()
    for n in range(1, int(seconds * 10) + 1):
        limited_us = n * held_ppm // 10
        delivery.look(info(n * 1_000_000, n * 100_000, limited_us=limited_us, rtt_us=rtt_us), n / 10)
    assert delivery.is_held() is is_held


def test_what_slow_start_lost_is_not_the_loss_of_the_way() -> None:
    looks = [(s, info(look.acked_bytes or 0, look.busy_us or 0, resent_bytes=400_000 * (n > 2) + 10_000 * (n > 15)))
             for n, (s, look) in enumerate(even())]  # fmt: skip
    rate = ended(*looks)
    assert rate is not None and rate.loss_ppm == pytest.approx(1_000, rel=0.01)


def test_too_little_and_older_kernels_say_nothing() -> None:
    assert ended((0.0, info(0, 0)), (0.1, info(BYTES_MIN - 1, 100_000))) is None
    assert ended((0.0, TcpInfo()), (0.1, TcpInfo()), (2.0, TcpInfo())) is None
    assert Delivery(None, 0.0).end(info(BYTES_MIN, 1)) is None and not Delivery(None, 0.0).is_due(9.0)


def test_a_few_readings_in_a_moment_are_a_bound() -> None:
    rate = ended(*even()[:3])
    assert rate is not None and rate.is_lower_bound


@pytest.mark.parametrize(("n_bytes", "duration_us", "brief"),
                         [(999_999, 999_999, True), (1_000_000, 1, False), (1, 1_000_000, False)])  # fmt: skip
def test_brief_is_small_and_short(n_bytes: int, duration_us: int, brief: bool) -> None:
    assert is_brief(n_bytes, duration_us) is brief


# --- on real packets -------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(bool(why := netns.why_not()), reason=f"real packets: {why}")


def fetched(mbit: int, n_bytes: int, bps_max: int = 0, loss_ppm: int = 0) -> tuple[list[str], dict[str, int]]:
    """What the receiver prints of it, and the sender's sample."""
    with netns.pair((mbit * MBIT, mbit * MBIT)) as pair:
        serving = pair.python(0, "-m", "benchmarks.network_peer", "serve", netns.ADDRESSES[0])
        try:
            url = netns.first_line(serving.stdout)
            if loss_ppm:
                pair.lose(0, loss_ppm)
            command = ("-m", "benchmarks.network_peer", "fetch", url, str(n_bytes), str(bps_max))
            told, _ = pair.python(1, *command).communicate(timeout=60)
            (sample,) = json.loads(netns.first_line(serving.stdout))
        finally:
            serving.kill()
            serving.communicate()
    return told.split(), sample


@real
@pytest.mark.live
def test_a_real_stream_is_measured_at_its_sender() -> None:
    carried_bps = 20 * MBIT * 1448 / 1514  # TCP carries so much of a frame.
    for _ in range(4):  # A machine that stands still for half a second makes one less, never more.
        (limited_milli, is_bound, _), sample = fetched(20, 4_000_000)
        assert sample["bandwidth_bps"] <= carried_bps * 1.1
        if sample["bandwidth_bps"] >= carried_bps * 0.9:
            break
    assert sample["bandwidth_bps"] == pytest.approx(carried_bps, rel=0.1)
    assert (is_bound, sample.get("is_lower_bound", False)) == ("False", False) and int(limited_milli) <= 100


@real
@pytest.mark.live
def test_a_real_receiver_that_is_behind_makes_both_words_bounds() -> None:
    (limited_milli, is_bound, _), sample = fetched(100, 4_000_000, bps_max=10 * MBIT)
    assert is_bound == "True" and sample["is_lower_bound"] and int(limited_milli) > 300


@real
@pytest.mark.live
@pytest.mark.skipif(bool(lacks := netns.why_no_loss()), reason=f"loss: {lacks}")
def test_real_loss_is_what_was_sent_again() -> None:
    _, sample = fetched(20, 4_000_000, loss_ppm=20_000)
    assert 5_000 < sample["loss_ppm"] < 60_000
