"""Who shares the way: streams open at one end of the links of this agent, and what each had beside it while it ran.

A share of a link is not the link. Each end knows only its own streams, so the receiver counts those it draws, asks the
sender what else that one was sending, and says both beside the rate it measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agents.probes.delivery import LIMITED_MILLI_MAX
from policies.model import Record

OTHERS_MILLI_MIN = 50  # Others during less than a twentieth of the time take less than a tenth of most rates.


class Sharing(Record, frozen=True, kw_only=True):
    """Averages over a stream's time, in thousandths: `same_milli` streams with its peer, itself counted (1000: alone),
    `others_milli` streams with anybody else. `limited_milli` of its time something else than the way held it up, as
    the sender's kernel saw it (`agents.probes.delivery`)."""

    same_milli: int
    others_milli: int
    limited_milli: int = 0

    @property
    def is_competed(self) -> bool:
        return self.others_milli >= OTHERS_MILLI_MIN

    @property
    def is_lower_bound(self) -> bool:
        """Whether the way gave no more than a part of itself."""
        return self.is_competed or self.limited_milli > LIMITED_MILLI_MAX


ALONE = Sharing(same_milli=1000, others_milli=0)


class Span:
    """One stream: integrals over time of the streams beside it."""

    __slots__ = ("begun_s", "ended_s", "is_local", "others_s", "peer", "same_s")

    def __init__(self, peer: str, is_local: bool, now_s: float) -> None:
        self.peer = peer
        self.is_local = is_local
        self.begun_s = now_s
        self.ended_s: float | None = None
        self.same_s = 0.0
        self.others_s = 0.0


class Traffic:
    """Streams in one direction. Those within a site and those that leave it do not share a link."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._spans: list[Span] = []
        self._updated_s = clock_s()

    @contextmanager
    def stream(self, peer: str, *, is_local: bool) -> Iterator[Span]:
        """A stream is open inside. `peer` is any name that is the same for all streams of one peer."""
        self._advance()
        span = Span(peer, is_local, self._updated_s)
        self._spans.append(span)
        try:
            yield span
        finally:
            self._advance()
            self._spans.remove(span)
            span.ended_s = self._updated_s

    def sharing(self, span: Span) -> Sharing:
        """What it had beside it until now, or until it ended."""
        self._advance()
        duration_s = (self._updated_s if span.ended_s is None else span.ended_s) - span.begun_s
        if duration_s <= 0:
            return ALONE
        return Sharing(
            same_milli=max(1000, int(1000 * span.same_s / duration_s)),
            others_milli=int(1000 * span.others_s / duration_s),
        )

    def n_crossing(self) -> int:
        """Streams open now that leave the site."""
        return sum(not span.is_local for span in self._spans)

    def n_others(self, peer: str, *, is_local: bool) -> int:
        """Streams open now that share the link with those of `peer`."""
        return sum(span.is_local == is_local and span.peer != peer for span in self._spans)

    def _advance(self) -> None:
        """Before the set changes: note what each had beside it since the last change. O(n²) for a handful."""
        now_s = self._clock_s()
        elapsed_s = now_s - self._updated_s
        self._updated_s = now_s
        if elapsed_s <= 0:
            return
        for span in self._spans:
            for other in self._spans:
                if other.is_local != span.is_local:
                    continue
                if other.peer == span.peer:
                    span.same_s += elapsed_s
                else:
                    span.others_s += elapsed_s
