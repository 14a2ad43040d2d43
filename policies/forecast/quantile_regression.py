"""Linear quantile regression on smoothed lags, learned one outcome at a time.

R. Koenker and G. Bassett, Regression Quantiles, Econometrica 46(1), 1978: the pinball loss, whose minimum is the
quantile. Learned by normalised subgradient steps of falling length: M. Zinkevich, Online Convex Programming, ICML 2003;
the normalisation (scale-free steps): S. Ross, P. Mineiro and J. Langford, Normalized Online Learning, UAI 2013.
"""

from math import sqrt

from policies.forecast.api import Numbers

WEIGHT = 0.2  # of each of three lags, at first: sixty per cent of the level, about what bursty links keep up
STEP = 0.1
STEP_MIN = 0.002


class QuantileRegression:
    """Forecast = Σ weight·lag, not below zero. Its lags are forecasts of other models: slow, quick and robust ones."""

    __slots__ = ("_n", "_quantile", "_weights")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._weights = (WEIGHT, WEIGHT, WEIGHT)
        self._n = 0

    def predict(self, slow: float, quick: float, robust: float) -> float:
        a, b, c = self._weights
        low = a * slow + b * quick + c * robust
        return low if low > 0.0 else 0.0

    def learn(self, slow: float, quick: float, robust: float, actual: float) -> None:
        """The lags at the time, and what came."""
        scale = slow if slow > quick else quick
        if robust > scale:
            scale = robust
        if scale <= 0.0:
            return
        self._n += 1
        a, b, c = self._weights
        low = a * slow + b * quick + c * robust
        step = STEP / sqrt(self._n)
        if step < STEP_MIN:
            step = STEP_MIN
        step *= self._quantile if actual >= low else self._quantile - 1.0
        slow, quick, robust = slow / scale, quick / scale, robust / scale
        step /= slow * slow + quick * quick + robust * robust
        self._weights = (a + step * slow, b + step * quick, c + step * robust)

    def state(self) -> Numbers:
        return (*self._weights, self._n)

    def restore(self, state: Numbers) -> None:
        self._weights = (float(state[0]), float(state[1]), float(state[2]))
        self._n = int(state[3])
