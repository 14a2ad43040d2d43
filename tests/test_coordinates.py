"""Coordinates against worlds whose round trips are known."""

import itertools
import math
import random
import statistics

from federation.probing import shortlist
from policies.coordinates import ERROR_MAX, Coordinates


def plane(n: int, seed: int = 1) -> dict[tuple[str, str], int]:
    """Round trips of `n` ends in a plane of 100 ms, each behind an access line of 1 to 20 ms."""
    rng = random.Random(seed)
    ends = {f"s{k:02}": (rng.uniform(0, 100), rng.uniform(0, 100), rng.uniform(1, 20)) for k in range(n)}
    return {
        (a, b): int(1000 * (math.dist(ends[a][:2], ends[b][:2]) + ends[a][2] + ends[b][2]))
        for a, b in itertools.combinations(ends, 2)
    }


def learned(truth: dict[tuple[str, str], int], n_peers: int, rounds: int) -> Coordinates:
    """Each end measures `n_peers` others, again and again, with 5 % of noise."""
    rng = random.Random(2)
    names = sorted({name for pair in truth for name in pair})
    pairs = sorted({pair for pair in truth if rng.random() < 2 * n_peers / len(names)})
    coordinates = Coordinates()
    for _ in range(rounds):
        for one, other in pairs:
            coordinates.learn(one, other, int(truth[one, other] * rng.uniform(0.95, 1.05)))
    return coordinates


def errors(coordinates: Coordinates, truth: dict[tuple[str, str], int]) -> list[float]:
    return [abs((coordinates.rtt_us(a, b) or 0) - true_us) / true_us for (a, b), true_us in truth.items()]


def test_pairs_never_measured_are_estimated() -> None:
    truth = plane(40)
    found = errors(learned(truth, n_peers=8, rounds=60), truth)
    assert statistics.median(found) < 0.05
    assert sorted(found)[int(0.9 * len(found))] < 0.15


def test_the_nearest_are_shortlisted() -> None:
    truth = plane(40)
    coordinates = learned(truth, n_peers=8, rounds=60)
    both = truth | {(b, a): rtt_us for (a, b), rtt_us in truth.items()}
    names = [f"s{k:02}" for k in range(40)]
    hits = 0
    for name in names:
        others = [other for other in names if other != name]
        best = min(others, key=lambda other: both[name, other])
        hits += best in coordinates.nearest(name, others, 8)
    assert hits >= 38


def test_the_same_measurements_give_the_same_coordinates() -> None:
    truth = plane(10)
    one, two = learned(truth, 5, 20), learned(truth, 5, 20)
    assert [end.point for end in one.ends.values()] == [end.point for end in two.ends.values()]


def test_unknown_ends_come_last_and_odd_round_trips_do_no_harm() -> None:
    coordinates = Coordinates()
    assert coordinates.rtt_us("a", "b") is None
    coordinates.learn("a", "a", 5)
    for rtt_us in (0, 10**9, 1000, 1000, 1000):
        coordinates.learn("a", "b", rtt_us)
    assert coordinates.nearest("a", ["x", "b", "y"], 2) == ["b", "x"]
    for end in coordinates.ends.values():
        assert end.height_s > 0 and 0 <= end.error <= ERROR_MAX and all(map(math.isfinite, end.point))
    coordinates.forget("b")
    assert coordinates.rtt_us("a", "b") is None


def test_probe_plans_keep_the_nearest_and_rotate_the_rest() -> None:
    ends = [f"s{k}" for k in range(10)]
    plans = [shortlist(ends, ["s4", "s7"], 4, period) for period in range(4)]
    assert plans[0] == ["s4", "s7", "s0", "s1"] and plans[1] == ["s4", "s7", "s2", "s3"]
    assert {end for plan in plans for end in plan} == set(ends), "every pair in time"
