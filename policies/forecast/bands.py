"""What a model's forecasts were worth: the factors that make them quantiles, and the loss they have had of late.

The factors follow the quantiles of actual ÷ forecast by quantile tracking, the online form of conformal prediction: up
a little after each outcome on the right side, down nine times as far after one on the wrong side. The share on the
right side then tends to the target for *any* sequence, without assuming anything of it: I. Gibbs and E. Candès,
Adaptive Conformal Inference Under Distribution Shift, NeurIPS 2021; A. Angelopoulos, E. Candès and R. Tibshirani,
Conformal PID Control for Time Series Prediction, NeurIPS 2023 (the quantile tracker). Multiplied, not added: the
errors of a rate are relative to it.
"""

from collections.abc import Sequence

from policies.forecast.api import Numbers

STEP = 0.04  # long-run step: a factor halves in 20 bad outcomes and doubles in 170 good ones
STEP_FIRST = 0.5  # earlier outcomes teach more, falling as 1/n
# The smallest ratio of nine is passed by nine tenths of what comes, if what comes is like what was: split conformal
# prediction in its smallest form. From then on the factors track.
FIRST = 9
LOSSES = 200  # a loss is the mean of so many outcomes, older ones fading
LOSS_SHARE = 1.0 / LOSSES
FACTOR_MIN = 0.01
FACTOR_MAX = 4.0


class Band:
    """A lower and an upper factor (`low` ≤ `high`) for a model's forecasts, and the mean pinball loss of the lower."""

    __slots__ = ("_least", "_most", "high", "loss", "low", "n", "quantile")

    def __init__(self, quantile: float, low: float, high: float) -> None:
        self.quantile = quantile
        self.low = low
        self.high = high
        self.loss = 0.0
        self.n = 0
        self._least, self._most = FACTOR_MAX, FACTOR_MIN  # of the first ratios

    def learn(self, level: float, actual: float) -> None:
        """What the model had said, and the mean rate that came."""
        learn((self,), (level,), actual)

    def begin(self, level: float, actual: float) -> None:
        """One of the first outcomes: the factors are the extreme ratios, with the first guess until there are nine."""
        if level > 0.0:  # Else nothing was forecast, and no factor makes anything of it.
            ratio = min(FACTOR_MAX, max(FACTOR_MIN, actual / level))
            self._least, self._most = min(self._least, ratio), max(self._most, ratio)
        self.low, self.high = min(self.low, self._least), max(self.high, self._most)
        if self.n == FIRST and self._least <= self._most:
            self.low, self.high = self._least, self._most

    def state(self) -> Numbers:
        return (self.low, self.high, self.loss, self.n, self._least, self._most)

    def restore(self, state: Numbers) -> None:
        self.low, self.high, self.loss = float(state[0]), float(state[1]), float(state[2])
        self.n, self._least, self._most = int(state[3]), float(state[4]), float(state[5])


def learn(bands: Sequence[Band], levels: Sequence[float], actual: float) -> None:
    """What models that have been judged together ever since had said, and the mean rate that came."""
    quantile, n = bands[0].quantile, bands[0].n + 1
    share = LOSS_SHARE if n > LOSSES else 1.0 / n
    step = STEP_FIRST / n
    if step < STEP:
        step = STEP
    good, bad = 1.0 + step * quantile, 1.0 + step * (1.0 - quantile)
    # Comparisons, not min() and max(), and no method: this runs for every model, and calls are what costs.
    for band, level in zip(bands, levels, strict=True):
        low, high = band.low, band.high
        error = actual - low * level
        loss = quantile * error if error >= 0.0 else (quantile - 1.0) * error
        band.n = n
        band.loss += share * (loss - band.loss)
        if n <= FIRST:
            band.begin(level, actual)
            continue
        low = low * good if error >= 0.0 else low / bad
        high = high / good if actual <= high * level else high * bad
        low = FACTOR_MIN if low < FACTOR_MIN else FACTOR_MAX if low > FACTOR_MAX else low
        band.low = low
        band.high = low if high < low else FACTOR_MAX if high > FACTOR_MAX else high
