"""One link's forecaster: samples in, a band over each horizon that is asked for out.

Axes: rows of `reals` and `ints` are the link and its outlooks, one a horizon; columns are named in `layout`. `levels`
has the models, `outlook` what judges and mixes them; `take` and `tell` are one call a sample and one a question.

The only kernels on floats. Only +, −, ×, ÷ and square root of 64-bit ones are used, in a fixed order: IEEE 754 rounds
these alike everywhere, and without `fastmath` the compiler keeps the order and fuses nothing, so that a replay on
another machine forecasts the same to the last bit, as plain Python does (`tests/reference/forecast.py`). Logarithms and
powers are not so. Rates and times are integers, bit/s and µs.
"""

from policies.kernels.forecast.link import take as take
from policies.kernels.forecast.link import tell as tell
from policies.kernels.forecast.outlook import begin as begin
