"""Network coordinates: round trips between all pairs, estimated from the few that were measured.

Vivaldi with a height (Dabek, Cox, Kaashoek, Morris, Vivaldi: A Decentralized Network Coordinate System, SIGCOMM 2004),
an adjustment term (Lee, Zhang, Sahu, Saha, On Suitability of Euclidean Embedding for Host-Based Network Coordinate
Systems, ToN 2010), a latency filter and gravity (Ledlie, Gardner, Seltzer, Network Coordinates in the Wild, NSDI 2007);
constants as in Serf's `coordinate/config.go`. Estimates only shortlist who is worth measuring: nothing is placed by
them. Floats, in seconds inside; the same updates in the same order give the same coordinates.
"""

import hashlib
import math
import statistics
from collections import deque

DIMENSIONS = 8  # Serf: more gains little, fewer lose accuracy.
ERROR_MAX = 1.5  # where a newcomer starts: its own word counts for nothing
ERROR_GAIN = 0.25  # Vivaldi's c_e
FORCE_GAIN = 0.25  # Vivaldi's c_c
ADJUSTMENT_WINDOW = 20
HEIGHT_MIN_S = 10e-6
FILTER_SIZE = 3  # the median of so many round trips of a pair
GRAVITY_S = 150.0  # pulls the whole cloud to the origin, so that it does not drift
ZERO_S = 1e-6
PAIRS_MAX = 65_536  # whose latest round trips are remembered, 200 bytes each; the oldest pair makes room

Vector = tuple[float, ...]
ORIGIN: Vector = (0.0,) * DIMENSIONS


class Coordinate:
    """Where an end lies: a point, and a height for the access line that all its paths share."""

    __slots__ = ("_residuals", "adjustment_s", "error", "height_s", "point")

    def __init__(self) -> None:
        self.point = ORIGIN
        self.height_s = HEIGHT_MIN_S
        self.error = ERROR_MAX  # relative, of its own estimates
        self.adjustment_s = 0.0
        self._residuals: deque[float] = deque(maxlen=ADJUSTMENT_WINDOW)

    def raw_distance_s(self, other: "Coordinate") -> float:
        return math.dist(self.point, other.point) + self.height_s + other.height_s

    def distance_s(self, other: "Coordinate") -> float:
        raw_s = self.raw_distance_s(other)
        adjusted_s = raw_s + self.adjustment_s + other.adjustment_s
        return adjusted_s if adjusted_s > 0 else raw_s

    def learn(self, other: "Coordinate", rtt_s: float, way_out: Vector) -> None:
        """One round trip to `other`. `way_out` is the unit vector to part by when both lie in one point."""
        rtt_s = max(rtt_s, ZERO_S)
        distance_s = self.distance_s(other)
        wrongness = abs(distance_s - rtt_s) / rtt_s
        weight = self.error / max(self.error + other.error, ZERO_S)
        self.error = min(ERROR_MAX, ERROR_GAIN * weight * wrongness + self.error * (1 - ERROR_GAIN * weight))
        self._push(FORCE_GAIN * weight * (rtt_s - distance_s), other.point, other.height_s, way_out)
        self._residuals.append(rtt_s - self.raw_distance_s(other))
        self.adjustment_s = sum(self._residuals) / (2 * ADJUSTMENT_WINDOW)
        from_origin_s = math.dist(self.point, ORIGIN) + self.height_s + HEIGHT_MIN_S
        self._push(-((from_origin_s / GRAVITY_S) ** 2), ORIGIN, HEIGHT_MIN_S, way_out)

    def _push(self, force_s: float, away_from: Vector, height_s: float, way_out: Vector) -> None:
        length_s = math.dist(self.point, away_from)
        if length_s > ZERO_S:
            unit = tuple((own - its) / length_s for own, its in zip(self.point, away_from, strict=True))
            self.height_s = max(HEIGHT_MIN_S, (self.height_s + height_s) * force_s / length_s + self.height_s)
        else:
            unit = way_out
        self.point = tuple(own + force_s * part for own, part in zip(self.point, unit, strict=True))


class Coordinates:
    """The coordinates of all ends, by name."""

    def __init__(self) -> None:
        self.ends: dict[str, Coordinate] = {}
        self._recent_s: dict[tuple[str, str], deque[float]] = {}

    def learn(self, one: str, other: str, rtt_us: int) -> None:
        """A measured round trip; moves both ends."""
        if one == other:
            return
        pair = (min(one, other), max(one, other))
        recent_s = self._recent_s.setdefault(pair, deque(maxlen=FILTER_SIZE))
        if len(self._recent_s) > PAIRS_MAX:
            del self._recent_s[next(iter(self._recent_s))]
        recent_s.append(rtt_us / 1e6)
        rtt_s = statistics.median_low(recent_s)
        for own, its in (pair, (pair[1], pair[0])):
            mover = self.ends.setdefault(own, Coordinate())
            mover.learn(self.ends.setdefault(its, Coordinate()), rtt_s, _direction(own, its))

    def rtt_us(self, one: str, other: str) -> int | None:
        """The estimate; None while an end is unknown."""
        first, second = self.ends.get(one), self.ends.get(other)
        if first is None or second is None:
            return None
        return int(first.distance_s(second) * 1e6)

    def forget(self, end: str) -> None:
        """It is gone for good."""
        self.ends.pop(end, None)
        for pair in [pair for pair in self._recent_s if end in pair]:
            del self._recent_s[pair]

    def nearest(self, end: str, others: list[str], n: int) -> list[str]:
        """The `n` that seem nearest; unknown ones last, in the order given."""
        estimates = {other: self.rtt_us(end, other) for other in others}
        known = sorted((rtt_us, other) for other, rtt_us in estimates.items() if rtt_us is not None)
        return [*(other for _, other in known), *(other for other in others if estimates[other] is None)][:n]


def _direction(own: str, its: str) -> Vector:
    """A unit vector that differs from pair to pair, where Serf draws one."""
    digest = hashlib.blake2b(f"{own}>{its}".encode(), digest_size=2 * DIMENSIONS).digest()
    parts = [int.from_bytes(digest[2 * n : 2 * n + 2]) - 32767.5 for n in range(DIMENSIONS)]
    length = math.hypot(*parts)
    return tuple(part / length for part in parts)
