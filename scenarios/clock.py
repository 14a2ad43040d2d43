"""A process's clock in simulated time: it may jump with the wall clock at a start, and run too fast or too slow."""

PPM = 1_000_000


class Clock:
    """`local` is what the process reads. A running process counts monotonically: jumps of the wall clock reach it when
    it starts next, a drift reaches it at once. Exact in integers: `real` is the first moment at which it reads that."""

    def __init__(self) -> None:
        self._offset_us = 0  # at `_since_us`
        self._since_us = 0
        self._drift_ppm = 0
        self._jumped_us = 0  # since the process started

    def start(self, now_us: int) -> None:
        """A process begins, with what the wall clock shows."""
        self._settle(now_us)
        self._offset_us += self._jumped_us
        self._jumped_us = 0

    def jump(self, by_us: int) -> None:
        self._jumped_us += by_us

    def drift(self, ppm: int, now_us: int) -> None:
        """From now on it gains so much (loses, below 0)."""
        self._settle(now_us)
        self._drift_ppm = ppm

    def local(self, now_us: int) -> int:
        return now_us + self._offset_us + (now_us - self._since_us) * self._drift_ppm // PPM

    def real(self, local_us: int) -> int:
        if not self._drift_ppm:
            return local_us - self._offset_us
        passed_us = local_us - self._offset_us - self._since_us
        return self._since_us - (-passed_us * PPM // (PPM + self._drift_ppm))

    def _settle(self, now_us: int) -> None:
        self._offset_us = self.local(now_us) - now_us
        self._since_us = now_us
