"""Learned run times: the mean of finished attempts per work profile, hardware class and size of what they read.

Sizes are classed by powers of two: an epoch over ten times the data takes about ten times as long, and a mean over both
would be wrong for either. What is asked for is answered by the nearest class that was seen.

What is durable comes from `ProfileLearned` facts alone. Between two facts the book gathers samples in memory: a fact is
written at once for the first four samples and then for each eighth of the weight, so that a busy profile costs the
journal little; a crash loses the few samples since.
"""

from federation.facts import ProfileLearned
from policies.model import Profile

Key = tuple[str, str, int]
"""(profile, hardware, data class)"""


class ProfileBook:
    def __init__(self, profiles_max: int, samples_max: int) -> None:
        self._profiles_max = profiles_max
        self._samples_max = samples_max
        self.entries: dict[Key, Profile] = {}  # least recently learned first
        self._by_profile: dict[str, dict[tuple[str, int], Profile]] = {}
        self._nearest: dict[str, dict[tuple[str, int], int | None]] = {}  # answers, until the profile learns
        self._gathered: dict[Key, tuple[int, int]] = {}  # key → (samples, sum of run_us)
        self.version = 0

    def gather(
        self, profile: str, hardware: str, run_us: int, now_us: int, read_bytes: int = 0
    ) -> ProfileLearned | None:
        """Take in one finished attempt; the fact to write when it is time for one."""
        key = (profile, hardware, read_bytes.bit_length())
        known = self.entries.get(key)
        weight = min(known.samples, self._samples_max) if known else 0
        count, total_us = self._gathered.get(key, (0, 0))
        count, total_us = count + 1, total_us + run_us
        if known is not None and count < max(1, weight // 8 if known.samples >= 4 else 1):
            self._gathered[key] = (count, total_us)
            return None
        mean_us = ((known.run_us if known else 0) * weight + total_us) // (weight + count)
        samples = (known.samples if known else 0) + count
        return ProfileLearned(
            at_us=now_us, profile=profile, hardware=hardware, run_us=mean_us, samples=samples, data_class=key[2]
        )

    def learn(self, fact: ProfileLearned) -> None:
        key = (fact.profile, fact.hardware, fact.data_class)
        self._gathered.pop(key, None)
        self.entries.pop(key, None)
        self.put(
            Profile(
                profile=fact.profile,
                hardware=fact.hardware,
                run_us=fact.run_us,
                samples=fact.samples,
                data_class=fact.data_class,
            )
        )
        if len(self.entries) > self._profiles_max:
            oldest = next(iter(self.entries))
            del self.entries[oldest]
            self._gathered.pop(oldest, None)
            self._nearest.pop(oldest[0], None)
            of_profile = self._by_profile[oldest[0]]
            del of_profile[oldest[1:]]
            if not of_profile:
                del self._by_profile[oldest[0]]

    def put(self, profile: Profile) -> None:
        self.entries[profile.profile, profile.hardware, profile.data_class] = profile
        self._by_profile.setdefault(profile.profile, {})[profile.hardware, profile.data_class] = profile
        self._nearest.pop(profile.profile, None)
        self.version += 1

    def expected_us(self, profile: str, hardware: str, read_bytes: int = 0) -> int | None:
        """Of the nearest size that was seen on this hardware, the smaller of two as near."""
        nearest = self._nearest.get(profile)
        if nearest is None:
            if profile not in self._by_profile:
                return None
            nearest = self._nearest[profile] = {}
        key = (hardware, read_bytes.bit_length())
        if key not in nearest:
            nearest[key] = self._find_nearest(profile, *key)
        return nearest[key]

    def _find_nearest(self, profile: str, hardware: str, data_class: int) -> int | None:
        known = [each for (on, _), each in self._by_profile[profile].items() if on == hardware]
        if not known:
            return None
        return min(known, key=lambda each: (abs(each.data_class - data_class), each.data_class)).run_us

    def of(self, profile: str) -> list[Profile]:
        """Every hardware's and size's, sorted."""
        known = self._by_profile.get(profile, {})
        return [known[key] for key in sorted(known)]
