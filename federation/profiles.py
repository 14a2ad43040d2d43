"""Learned run times: the mean of finished attempts per work profile and hardware class.

What is durable comes from `ProfileLearned` facts alone. Between two facts the book gathers samples in memory: a fact is
written at once for the first four samples and then for each eighth of the weight, so that a busy profile costs the
journal little; a crash loses the few samples since.
"""

from federation.facts import ProfileLearned
from policies.model import Profile


class ProfileBook:
    def __init__(self, profiles_max: int, samples_max: int) -> None:
        self._profiles_max = profiles_max
        self._samples_max = samples_max
        self.entries: dict[tuple[str, str], Profile] = {}  # least recently learned first
        self._by_profile: dict[str, dict[str, Profile]] = {}
        self._gathered: dict[tuple[str, str], tuple[int, int]] = {}  # key → (samples, sum of run_us)
        self.version = 0

    def gather(self, profile: str, hardware: str, run_us: int, now_us: int) -> ProfileLearned | None:
        """Take in one finished attempt; the fact to write when it is time for one."""
        key = (profile, hardware)
        known = self.entries.get(key)
        weight = min(known.samples, self._samples_max) if known else 0
        count, total_us = self._gathered.get(key, (0, 0))
        count, total_us = count + 1, total_us + run_us
        if known is not None and count < max(1, weight // 8 if known.samples >= 4 else 1):
            self._gathered[key] = (count, total_us)
            return None
        mean_us = ((known.run_us if known else 0) * weight + total_us) // (weight + count)
        samples = (known.samples if known else 0) + count
        return ProfileLearned(at_us=now_us, profile=profile, hardware=hardware, run_us=mean_us, samples=samples)

    def learn(self, fact: ProfileLearned) -> None:
        key = (fact.profile, fact.hardware)
        self._gathered.pop(key, None)
        self.entries.pop(key, None)
        self.put(Profile(profile=fact.profile, hardware=fact.hardware, run_us=fact.run_us, samples=fact.samples))
        if len(self.entries) > self._profiles_max:
            oldest = next(iter(self.entries))
            del self.entries[oldest]
            self._gathered.pop(oldest, None)
            by_hardware = self._by_profile[oldest[0]]
            del by_hardware[oldest[1]]
            if not by_hardware:
                del self._by_profile[oldest[0]]

    def put(self, profile: Profile) -> None:
        self.entries[profile.profile, profile.hardware] = profile
        self._by_profile.setdefault(profile.profile, {})[profile.hardware] = profile
        self.version += 1

    def expected_us(self, profile: str, hardware: str) -> int | None:
        known = self.entries.get((profile, hardware))
        return known.run_us if known else None

    def of(self, profile: str) -> list[Profile]:
        """Every hardware's, sorted."""
        known = self._by_profile.get(profile, {})
        return [known[hardware] for hardware in sorted(known)]
