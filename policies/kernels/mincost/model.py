"""What a min-cost-flow solve answers with, and the limits that keep int64 from wrapping."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from policies.kernels.jit import Int64s

UNLIMITED = int(np.iinfo(np.int64).max)  # An arc's capacity: no bound.

# Inside kernels: an arc without a bound has capacity NO_BOUND, and what is left of that is never below OPEN. Sums of
# flows stay below FLOW_MAX and potentials below POTENTIAL_MAX, so that no sum or difference of a few of them wraps.
NO_BOUND = 1 << 62
OPEN = 1 << 61
FLOW_MAX = 1 << 60
POTENTIAL_MAX = 1 << 60

Status = Literal["optimal", "infeasible", "unbounded", "capped"]


class NetworkError(ValueError):
    """The caller's arrays are not a network: the message names the array, the place and the bound."""


@dataclass(frozen=True)
class Result:
    """A solve's outcome. `flow[arc]` and `potential[node]` follow the network's ids; removed ids hold 0.

    With status optimal, cost[a] + potential[tail] - potential[head] is >= 0 where flow[a] < capacity[a] and <= 0 where
    flow[a] > 0. Infeasible: `flow` routes what can be routed, `unrouted` units of supply remain, and `witness` flags
    (1) a set of nodes whose supply exceeds the capacity leaving it. Unbounded: `objective` is None and `witness` flags
    the arcs of a negative cycle without a bound. Capped: the kernel gave up at its pivot limit (never seen; a bug).
    """

    status: Status
    objective: int | None
    flow: Int64s
    potential: Int64s
    kernel: str
    unrouted: int = 0
    witness: Int64s | None = None
    work: dict[str, int] = field(default_factory=dict)
