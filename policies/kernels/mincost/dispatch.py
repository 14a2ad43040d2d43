"""Which kernel solves a network from nothing. Measurements: docs/kernels.md.

Simplex: lumped and general networks; what may be unbounded; magnitudes that scaling refuses. Exchange paths: scheduling
networks with a node for each task, whose searches pass by the tasks and through the machines alone, and where the
simplex would spend itself on degenerate pivots as soon as they are full. Scaling: such networks where tasks have few
places each and most arcs are among machines. A network stays with the kernel that solved it first: the simplex keeps
its tree, the others a flow with prices.
"""

from typing import Literal

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import leaves
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.planted import Arcs
from policies.kernels.mincost.scaling import magnitude_error

Kernel = Literal["auto", "simplex", "exchange", "scaling"]
KERNELS: tuple[Kernel, ...] = ("auto", "simplex", "exchange", "scaling")
_ARCS_MIN = 2_000  # Below, the simplex needs no longer than the others take to set up.
_LUMPED = 2  # A network whose tasks were lumped: less than one source in so many sends one unit.
_SOURCES_SPARSE = 16  # A source in that many nodes or more.
_FEW_PLACES = 2  # For each task, and
_MANY_OTHERS = (
    2  # fewer of the tasks' arcs for each other one: ways are long. Flowlessly, 100 machines: 2 times faster.
)


def simplex_reason(arcs: Arcs, n_nodes: int, supplied: int, cost_max: int, earns: bool, by_paths: bool) -> str | None:
    """Why only the simplex may solve it, None when others may (by_paths: by exchange). O(1), O(A) if one earns."""
    if by_paths and cost_max > leaves.SLOT_COST_MAX:
        return f"|cost| up to {cost_max}: by exchange paths it must not pass {leaves.SLOT_COST_MAX} = 2^31 - 1"
    if earns:
        earning = arcs.cost < 0
        if (arcs.bound[earning] == NO_BOUND).any():
            return "an arc without a bound earns, so that the optimum may be unbounded"
        supplied += int(arcs.bound[earning].sum())
    return magnitude_error(n_nodes, arcs.cost.size, cost_max, supplied)


def first_kernel(wanted: Kernel, supply: Int64s, arcs: Arcs) -> Kernel:
    """The kernel that is to solve the network, if it may. Time O(1) for most, else O(A)."""
    if wanted != "auto":
        return wanted
    sources = int((supply > 0).sum())
    if (
        arcs.cost.size < _ARCS_MIN
        or int((supply < 0).sum()) != 1
        or sources * _SOURCES_SPARSE < supply.size
        or int((supply == 1).sum()) * _LUMPED < sources
    ):
        return "simplex"
    of_tasks = int(np.count_nonzero((supply[arcs.tail] == 1) & (arcs.bound > 0)))
    others = int(np.count_nonzero((supply[arcs.tail] != 1) & (arcs.bound > 0)))
    few_places = of_tasks <= _FEW_PLACES * sources and of_tasks < _MANY_OTHERS * others
    return "exchange" if of_tasks >= others and not few_places else "scaling"
