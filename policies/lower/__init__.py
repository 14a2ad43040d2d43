"""From objects to int64 columns: the one place where a snapshot becomes arrays, once a round.

Agents that no demand of this snapshot can tell apart are lumped to a group: same speed and price, and as far as some
demand asks for them the same tier, hardware, labels, links from where data and clients are, shards held, links of
their own. That is exact, but for speeds less than 2 % apart, which measurements do not tell apart either. Past
`GROUPS_MAX` groups speeds and links are rounded until there are no more: to four significant bits, three, two, one.
Axes: N nodes, G groups, C demand classes, K distinct needs, T GPU types, E ends from which data or clients are reached.

Cost: O(N) for what changed since the last snapshot (unchanged `Node` objects are recognised by identity), plus
O(C·reads + E·G). Magnitudes are cut off at the bounds in `bounds`, so that no later product wraps.
"""

from policies.lower.bounds import (
    AMOUNT_MAX,
    BANDWIDTH_BPS_MAX,
    COUNT_MAX,
    SIZE_BYTES_MAX,
    TIME_US_MAX,
    UNKNOWN,
    Bools,
    Int64s,
    clip,
    round_to_bits,
)
from policies.lower.columns import GROUPS_MAX, Columns, Lowerer
from policies.lower.resources import KINDS, Devices, GpuType, Releases, amounts_of, gpu_type, release_columns

__all__ = [
    "AMOUNT_MAX",
    "BANDWIDTH_BPS_MAX",
    "COUNT_MAX",
    "GROUPS_MAX",
    "KINDS",
    "SIZE_BYTES_MAX",
    "TIME_US_MAX",
    "UNKNOWN",
    "Bools",
    "Columns",
    "Devices",
    "GpuType",
    "Int64s",
    "Lowerer",
    "Releases",
    "amounts_of",
    "clip",
    "gpu_type",
    "release_columns",
    "round_to_bits",
]
