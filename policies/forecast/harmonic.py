"""The harmonic mean of the newest samples: one slow sample weighs more than a fast one, as it does for bytes in time.

J. Jiang, V. Sekar and H. Zhang, Improving Fairness, Efficiency and Stability in HTTP-based Adaptive Video Streaming
with FESTIVE, CoNEXT 2012, section 4.2 (mean of the last 20 chunks); X. Yin et al., A Control-Theoretic Approach for
Dynamic Adaptive Video Streaming over HTTP, SIGCOMM 2015 (of the last 5).
"""

from collections import deque

from policies.forecast.api import Numbers

SAMPLES = 20
# A stalled second would make the mean nothing at all for twenty samples: below 1 kbit/s a link counts as 1 kbit/s.
FLOOR_BPS = 1000
_UNIT = 10**21  # Inverses are kept as integers, so that a running sum is exact however long it runs.


class Harmonic:
    """Within the smallest and the largest rate seen, from `FLOOR_BPS` up."""

    __slots__ = ("_inverses", "_samples", "_sum")

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples = samples
        self._inverses: deque[int] = deque(maxlen=samples)
        self._sum = 0

    def update(self, rate: float, at_us: int) -> float:
        inverses, inverse = self._inverses, _UNIT // (int(rate) if rate > FLOOR_BPS else FLOOR_BPS)
        n = len(inverses)
        if n == self._samples:
            self._sum += inverse - inverses[0]
        else:
            self._sum += inverse
            n += 1
        inverses.append(inverse)
        return _UNIT * n / self._sum

    def state(self) -> Numbers:
        return tuple(self._inverses)

    def restore(self, state: Numbers) -> None:
        self._inverses.clear()
        self._inverses.extend(map(int, state))
        self._sum = sum(self._inverses)
