"""One link's estimate over its samples."""

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
