"""The types of columns, and the bounds within which sums and products of them do not wrap."""

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

AMOUNT_MAX = 1 << 52  # bytes or milli-CPU of one agent: 4 PiB
SIZE_BYTES_MAX = 1 << 46  # of one shard: 64 TiB, so that bits × 1000 stays below 2^60
TIME_US_MAX = 1 << 40  # 12 days: longer run times and transfers are all alike
BANDWIDTH_BPS_MAX = 1 << 44
COUNT_MAX = 1 << 24
UNKNOWN = -1  # a reading nobody has taken


def clip(value: int, most: int) -> int:
    """Cut to 0 … most."""
    return 0 if value < 0 else min(value, most)


def round_to_bits(value: int, bits: int) -> int:
    """The nearest number that has at most `bits` significant bits; negative ones stay."""
    if value <= 0:
        return value
    shift = max(0, value.bit_length() - bits)
    return ((value + (1 << shift >> 1)) >> shift) << shift
