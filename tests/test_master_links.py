"""One link's estimate over its samples, and over the time in which there are none."""

from hypothesis import given
from hypothesis import strategies as st

from federation.link_fall import FS, PPM, RETURN_US, STEP_MILLI, TELLS_US
from federation.link_track import LinkTrack
from federation.wire import LinkSample

SECOND_US = 1_000_000


def track_of(*samples: tuple[float, bool]) -> LinkTrack:
    track = LinkTrack("agent:a", "agent:b", 16)
    for n, (mbit, is_lower_bound) in enumerate(samples):
        sample = LinkSample(
            from_agent="a", to_agent="b", method="probe", bandwidth_bps=int(mbit * 1_000_000), bytes=10**6,
            is_lower_bound=is_lower_bound,
        )  # fmt: skip
        track.add(sample, n * SECOND_US)
    return track


def mbit_of(*samples: float) -> float:
    measured = track_of(*((mbit, False) for mbit in samples)).measured_bps()
    assert measured is not None
    return measured / 1_000_000


def test_a_lower_bound_is_believed_until_something_is_measured() -> None:
    assert track_of((3, True), (2, True)).measured_bps() == 3_000_000
    assert track_of((3, True), (8, False), (2, True)).measured_bps() == 8_000_000
    assert track_of((8, False), (9, True)).bandwidth[-1] == 9_000_000, "it gave at least that"


def test_a_mere_bound_has_a_quarter_of_the_confidence() -> None:
    def confidence_ppm(*samples: tuple[float, bool]) -> int:
        return track_of(*samples).estimate(SECOND_US, 300 * SECOND_US).confidence_ppm

    assert confidence_ppm((3, True), (2, True)) == 0, "nothing was measured at all"
    bound, measured = track_of((3, True)), track_of((3, False))
    for track in (bound, measured):
        for _ in range(8):
            track.add(LinkSample(from_agent="a", to_agent="b", method="echo", rtt_us=5), 0)
    confident = [track.estimate(0, 300 * SECOND_US).confidence_ppm for track in (bound, measured)]
    assert confident[0] == confident[1] // 4 and confident[1] > 990_000


def test_a_halved_or_doubled_link_is_noticed_with_the_second_sample() -> None:
    steady = [20.0, 19.8, 20.1] * 4
    assert mbit_of(*steady, 10) > 19
    assert mbit_of(*steady, 10, 10.1) == 10
    assert mbit_of(*steady, 40, 39) == 39


def test_one_that_comes_and_goes_keeps_its_lower_quartile() -> None:
    swinging = [20.0, 8.0, 30.0, 12.0] * 3
    assert mbit_of(*swinging) == 8
    assert mbit_of(*swinging, 29, 29) == 12


MBIT = 10**6
# In bit/s, after how many µs, and whether it is a lower bound.
RATES = st.lists(st.tuples(st.integers(1, 100 * MBIT), st.integers(0, 60 * SECOND_US), st.booleans()), max_size=40)


def watched(rates: list[tuple[int, int, bool]]) -> tuple[LinkTrack, int]:
    """A link that gave these rates, each so long after the one before, and when the last was told."""
    track, now_us = LinkTrack("site:a", "site:b", 16), 0
    for bps, later_us, is_lower_bound in rates:
        now_us += later_us
        track.learn_rate(bps, now_us, is_lower_bound=is_lower_bound)
    return track, now_us


def planned_bps(track: LinkTrack, now_us: int) -> int:
    bps = track.bandwidth_bps(now_us)
    assert bps is not None
    return bps


def fallen() -> tuple[LinkTrack, int]:
    """Five minutes of 20 Mbit/s, told of each ten seconds, then twice 1 Mbit/s."""
    return watched([(20 * MBIT, 10 * SECOND_US, False)] * 30 + [(1 * MBIT, 2 * SECOND_US, False)] * 2)


def test_a_fall_that_nothing_has_measured_since_is_believed_for_half_a_minute_and_then_less_and_less() -> None:
    track, fell_us = fallen()
    assert planned_bps(track, fell_us) == planned_bps(track, fell_us + TELLS_US) <= 1 * MBIT
    mbit = [planned_bps(track, fell_us + TELLS_US + n * RETURN_US) / MBIT for n in range(1, 8)]
    assert 1.7 < mbit[0] < 2.0, "a bit takes half as long again"
    assert mbit == sorted(mbit) and 10 < mbit[-1] < 13
    assert 11 < planned_bps(track, fell_us + 10**12) / MBIT < 12, "a step below the average of five minutes, 16.8"


def test_those_that_find_it_well_let_more_follow() -> None:
    track, now_us = fallen()
    now_us += 4 * RETURN_US
    hoped = planned_bps(track, now_us)
    for _ in range(3):
        now_us += SECOND_US
        track.learn_rate(19 * MBIT, now_us)
    assert planned_bps(track, now_us) > 1.2 * hoped
    assert track.fall.held_ppm < PPM // 50, "of the fall itself next to nothing is believed; the average has all of it"


def test_one_that_finds_it_fallen_has_all_of_it_believed_again() -> None:
    track, fell_us = fallen()
    tried_us = fell_us + 5 * RETURN_US
    hoped = planned_bps(track, tried_us)
    track.learn_rate(1 * MBIT, tried_us)
    assert planned_bps(track, tried_us) <= 1 * MBIT < hoped
    again_us = tried_us + 5 * RETURN_US
    assert planned_bps(track, again_us) < hoped, "its average has fallen as well: it is tried later"


def test_so_has_one_that_gets_nothing() -> None:
    track, fell_us = fallen()
    tried_us = fell_us + 5 * RETURN_US
    assert track.fall.relapse(tried_us)
    assert planned_bps(track, tried_us) <= 1 * MBIT
    well, now_us = watched([(20 * MBIT, 10 * SECOND_US, False)] * 30)
    believed = planned_bps(well, now_us)
    assert not well.fall.relapse(now_us)
    assert planned_bps(well, now_us) == believed


def test_what_crosses_it_beside_others_says_nothing_and_is_no_silence() -> None:
    track, now_us = fallen()
    believed = planned_bps(track, now_us)
    for _ in range(60):
        now_us += 10 * SECOND_US
        track.learn_rate(believed // 2, now_us, is_lower_bound=True)
    assert planned_bps(track, now_us + TELLS_US) == believed


def test_a_bound_that_is_low_does_not_bring_the_fall_back() -> None:
    track, fell_us = fallen()
    tried_us = fell_us + 5 * RETURN_US
    track.learn_rate(5 * MBIT, tried_us, is_lower_bound=True)
    assert planned_bps(track, tried_us) > 4 * MBIT, "it gave at least that, to one of many"


def test_a_link_that_nothing_has_crossed_yet_or_only_beside_others_is_not_silent() -> None:
    track = LinkTrack("site:a", "site:b", 16)
    assert track.fall.holds_ppm(0) == track.fall.holds_ppm(10**12) == PPM
    track.learn_rate(1 * MBIT, SECOND_US, is_lower_bound=True)
    assert track.fall.holds_ppm(SECOND_US) == PPM > track.fall.holds_ppm(SECOND_US + TELLS_US + RETURN_US)


def test_what_is_believed_of_a_link_that_has_not_fallen_stays_however_long_it_is_idle() -> None:
    track, now_us = watched([(mbit * MBIT, 10 * SECOND_US, False) for mbit in (20, 18, 22, 19) * 8])
    assert planned_bps(track, now_us) == planned_bps(track, now_us + 10**12)


@given(RATES, st.integers(0, 10**10), st.integers(0, 10**9))
def test_silence_only_brings_what_is_believed_nearer_to_a_step_below_the_average(
    rates: list[tuple[int, int, bool]], silent_us: int, longer_us: int
) -> None:
    """Law: never past it, never away from it; what is above it stays."""
    track, told_us = watched(rates)
    believed = track.bandwidth_bps(told_us)
    if believed is None:
        return
    sooner, later = (planned_bps(track, told_us + us) for us in (silent_us, silent_us + longer_us))
    well_bps = FS * STEP_MILLI // max(1, track.fall.average_fs * 1000 - 1000)
    assert believed <= sooner <= later <= max(believed, well_bps)


@given(RATES.filter(len))
def test_the_average_is_between_the_least_and_the_most_that_was_measured(rates: list[tuple[int, int, bool]]) -> None:
    track, _ = watched([(bps, later_us, False) for bps, later_us, _ in rates])
    fs = [FS // bps for bps, _, _ in rates]
    assert track.fall.average_fs == 0 or min(fs) <= track.fall.average_fs <= max(fs)


def test_the_average_of_a_link_of_many_gigabits_is_of_its_times() -> None:
    track, _ = watched([(10**10, SECOND_US, False), (5 * 10**9, SECOND_US, False)] * 400)
    assert 145_000 < track.fall.average_fs < 155_000, "fs: half of the time 100,000 a bit, half 200,000"
