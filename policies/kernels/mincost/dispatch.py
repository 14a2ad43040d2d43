"""Which kernel solves a network from nothing. Measurements: docs/kernels.md.

Simplex: lumped and general networks; what may be unbounded; magnitudes that scaling refuses. Prices (paths, and scaling
where searches grow): scheduling networks with a node for each task, whose one consumer makes every search local, and
where the simplex would spend itself on degenerate pivots as soon as they are full. A network stays with the kernels
that solved it first: the simplex keeps its tree, the others a flow with prices. One exception: `starts_full`.
"""

from typing import Literal

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.scaling import magnitude_error

Kernel = Literal["auto", "simplex", "paths", "scaling"]
KERNELS: tuple[Kernel, ...] = ("auto", "simplex", "paths", "scaling")
_ARCS_MIN = 2_000  # Below, the simplex needs no longer than the others take to set up.
_LUMPED = 4  # Units a source has on average in a network whose tasks were lumped; each would take a search.
_FULL_PERCENT = 90  # Of the slots; measured at 80, 100 and 120.
_SIMPLEX_ARCS_MAX = 250_000  # 1,000 agents: simplex 1.0 to 4 times faster when full; 5,000: 2.8 times slower.
_SOURCES_SPARSE = 4  # A source in that many nodes or more.


def simplex_reason(supply: Int64s, bound: Int64s, cost: Int64s, cost_max: int) -> str | None:
    """Why only the simplex may solve it, None when others may. Time O(N + A)."""
    earning = cost < 0
    if (bound[earning] == NO_BOUND).any():
        return "an arc without a bound earns, so that the optimum may be unbounded"
    flow_total = int(np.maximum(supply, 0).sum()) + int(bound[earning].sum())
    return magnitude_error(supply.size, cost.size, cost_max, flow_total)


def by_prices(wanted: Kernel, supply: Int64s, bound: Int64s, cost: Int64s, cost_max: int) -> bool:
    """True where paths and scaling are to solve the network, False where the simplex is."""
    if wanted == "simplex" or simplex_reason(supply, bound, cost, cost_max) is not None:
        return False
    if wanted != "auto":
        return True
    sources = int((supply > 0).sum())
    return (
        cost.size >= _ARCS_MIN
        and int((supply < 0).sum()) == 1
        and sources * _SOURCES_SPARSE >= supply.size
        and int(supply[supply > 0].sum()) < _LUMPED * sources
    )


def starts_full(supply: Int64s, head: Int64s, bound: Int64s) -> bool:
    """True where the simplex finds the first optimum sooner, though prices are better for the rounds that follow.

    A network of moderate size whose bounded ways into the consumer are nearly all wanted: paths get long there, and
    scaling repays its phases only in larger networks. Time O(A).
    """
    if bound.size > _SIMPLEX_ARCS_MAX:
        return False
    ways = bound[(head == int(supply.argmin())) & (bound != NO_BOUND)]
    return int(ways.sum()) * _FULL_PERCENT < 100 * int(supply[supply > 0].sum())
