"""What models' forecasts were worth: the factors that make them quantiles, and the loss they have had of late.

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


class Bands:
    """Of models that are judged together: of each a lower and an upper factor (`lows` ≤ `highs`) for its forecasts, and
    the mean pinball loss of the lower one. Lists by model, not a model's own object: an outcome walks all of them.
    """

    __slots__ = ("_firsts", "_quantile", "highs", "losses", "lows", "n")

    def __init__(self, n_models: int, quantile: float, low: float, high: float) -> None:
        self._quantile = quantile
        self.lows, self.highs = [low] * n_models, [high] * n_models
        self.losses = [0.0] * n_models
        self.n = 0  # outcomes
        self._firsts = [(FACTOR_MAX, FACTOR_MIN)] * n_models  # the least and the most of the first ratios

    def learn(self, levels: Sequence[float], actual: float) -> None:
        """What the models had said, and the mean rate that came."""
        self.n += 1
        n, quantile = self.n, self._quantile
        share = LOSS_SHARE if n > LOSSES else 1.0 / n
        step = STEP_FIRST / n
        if step < STEP:
            step = STEP
        good, bad, worst = 1.0 + step * quantile, 1.0 + step * (1.0 - quantile), quantile - 1.0
        lows, highs, losses = self.lows, self.highs, self.losses
        # Comparisons, not min() and max(), and no call: this runs for every model.
        for index, level in enumerate(levels):
            low, high, loss = lows[index], highs[index], losses[index]
            error = actual - low * level
            if error >= 0.0:
                losses[index] = loss + share * (quantile * error - loss)
                low *= good
                if low > FACTOR_MAX:
                    low = FACTOR_MAX
            else:
                losses[index] = loss + share * (worst * error - loss)
                low /= bad
                if low < FACTOR_MIN:
                    low = FACTOR_MIN
            if n <= FIRST:
                self._begin(index, level, actual)
                continue
            high = high / good if actual <= high * level else high * bad
            lows[index] = low
            highs[index] = low if high < low else FACTOR_MAX if high > FACTOR_MAX else high

    def _begin(self, index: int, level: float, actual: float) -> None:
        """One of the first outcomes: the factors are the extreme ratios, with the first guess until there are nine."""
        least, most = self._firsts[index]
        if level > 0.0:  # Else nothing was forecast, and no factor makes anything of it.
            ratio = min(FACTOR_MAX, max(FACTOR_MIN, actual / level))
            least, most = self._firsts[index] = min(least, ratio), max(most, ratio)
        self.lows[index], self.highs[index] = min(self.lows[index], least), max(self.highs[index], most)
        if self.n == FIRST and least <= most:
            self.lows[index], self.highs[index] = least, most

    def state(self) -> tuple[Numbers, ...]:
        """Of each model."""
        each = zip(self.lows, self.highs, self.losses, self._firsts, strict=True)
        return tuple((low, high, loss, self.n, *firsts) for low, high, loss, firsts in each)

    def restore(self, state: tuple[Numbers, ...]) -> None:
        assert len(state) == len(self.lows)
        self.lows, self.highs, self.losses = ([float(numbers[column]) for numbers in state] for column in range(3))
        self.n = int(state[0][3])
        self._firsts = [(float(numbers[4]), float(numbers[5])) for numbers in state]
