"""How far a fall of a link is still believed: less, the longer nothing has crossed it.

Work keeps away from a link that fell, and so everyone from seeing the end of it. So a rate that is a step below what
the link gave on average goes back there once nothing has crossed it for as long as a forecast tells; what then comes
as well as that lets more follow, and what does not brings all of the fall back. Why so, and what else was tried:
docs/decisions/0010-silent-links.md.
"""

from policies.forecast.horizons import USUAL_US

STEP_MILLI = 700  # A fall to less than this, or a rise from it, is a change of the link: noise of probes is ±5 %.
TELLS_US = USUAL_US  # a forecast says nothing of what comes after it
RETURN_US = 30_000_000  # half of the way back in each
USUAL_OVER_US = 300_000_000  # of watching count in the average, what was earlier fades
PPM = 1_000_000
FS = 10**15  # in a second: what a bit takes on a link of many Gbit/s is still a number that can be averaged


def halved(ppm: int, after_us: int, half_life_us: int) -> int:
    """What is left of a part after so long, by straight lines between the halvings."""
    halvings, rest_us = divmod(after_us, half_life_us)
    return (ppm >> min(40, halvings)) * (2 * half_life_us - rest_us) // (2 * half_life_us)


class LinkFall:
    """Of one directed link. Rates are in bit/s and above zero, times in µs."""

    __slots__ = ("_heard_us", "_learned", "_met_us", "_watched_us", "average_fs", "held_ppm")

    def __init__(self) -> None:
        self.average_fs = 0  # what a bit took, over the time that the link was watched; 0: not long enough
        self.held_ppm = PPM  # what part of the fall was believed when something last crossed the link
        self._heard_us: int | None = None  # when that was, if only a bound was told of it
        self._met_us: int | None = None  # when something last crossed it while not all was believed
        self._learned: tuple[int, int] | None = None  # the rate measured last, and when
        self._watched_us = 0

    def holds_ppm(self, now_us: int) -> int:
        """What part of what was learned of the rate still holds, so long after anything crossed it."""
        silent_us = now_us - self._heard_us - TELLS_US if self._heard_us is not None else 0
        return self.held_ppm if silent_us <= 0 else halved(self.held_ppm, silent_us, RETURN_US)

    def is_tried(self, since_us: int) -> bool:
        """Whether something has crossed it since then while not all of the fall was believed."""
        return self._met_us is not None and self._met_us >= since_us

    def returned(self, bps: int, now_us: int) -> int:
        """What is left of a rate that was believed; what is no step below the average stays."""
        holds_ppm, well_fs = self.holds_ppm(now_us), self._well_fs()
        if holds_ppm == PPM or not well_fs:
            return bps
        more_fs = FS // max(1, bps) - well_fs
        return bps if more_fs <= 0 else FS // (well_fs + more_fs * holds_ppm // PPM)

    def hear(self, now_us: int) -> None:
        """Something crosses the link: it is not silent, whether or not that tells a rate."""
        self.held_ppm, self._heard_us = self.holds_ppm(now_us), now_us

    def learn(self, bps: int, now_us: int, *, is_lower_bound: bool) -> None:
        """A rate is believed, of what was heard just now. One that is no step below the average halves what is left of
        the fall; one that is brings all of it back, unless it is a bound, which says neither."""
        if self.held_ppm < PPM:
            self._met_us = now_us
            if FS // bps <= self._well_fs():
                self.held_ppm //= 2
            elif not is_lower_bound:
                self.held_ppm = PPM
        self._watch(bps, now_us)

    def relapse(self, now_us: int) -> bool:
        """Who tried it got nothing: all of the fall is believed again. Whether it was not."""
        if self.holds_ppm(now_us) == PPM:
            return False
        self.held_ppm, self._heard_us = PPM, now_us
        return True

    def _well_fs(self) -> int:
        """What a bit takes at most where the link has not fallen."""
        return self.average_fs * 1000 // STEP_MILLI

    def _watch(self, bps: int, now_us: int) -> None:
        """Between two measurements the link gave the first rate for one half and the second for the other; of a long
        silence no more is known than a forecast tells. Times are averaged, not rates: they are what transfers cost."""
        if self._learned is not None:
            before_bps, learned_us = self._learned
            passed_us = min(TELLS_US, max(0, now_us - learned_us))
            self._watched_us = min(USUAL_OVER_US, self._watched_us + passed_us)
            if passed_us:
                took_fs = (FS // before_bps + FS // bps) // 2
                self.average_fs += (took_fs - self.average_fs) * passed_us // self._watched_us
        self._learned = bps, now_us
