"""What a min-cost-flow solve answers with, and the limits that keep int64 from wrapping."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.kernels.jit import Int64s

UNLIMITED = int(np.iinfo(np.int64).max)  # An arc's capacity: no bound.

# Inside kernels: an arc without a bound has capacity NO_BOUND, and what is left of that is never below OPEN. Sums of
# flows stay below FLOW_MAX and potentials below POTENTIAL_MAX, so that no sum or difference of a few of them wraps.
NO_BOUND = 1 << 62
OPEN = 1 << 61
FLOW_MAX = 1 << 60
POTENTIAL_MAX = 1 << 60

LATER = ("flow", "potential", "work")  # What a result need not tell before it is asked.
Status = Literal["optimal", "infeasible", "unbounded", "capped"]


class NetworkError(ValueError):
    """The caller's arrays are not a network: the message names the array, the place and the bound."""


class Unread:
    """Flow and potential that nobody has asked for yet: read when somebody does, or before the network changes."""

    def __init__(self, read_flow: Callable[[], Int64s], read_potential: Callable[[], Int64s]) -> None:
        # How to read each that is not read yet; both hold what the network keeps, so they go as soon as they are read.
        self._left = {"flow": read_flow, "potential": read_potential}
        self._read: dict[str, Int64s] = {}
        self._lock = Lock()  # A result may be looked at in one thread and its network changed in another.

    def column(self, name: str) -> Int64s:
        """flow or potential."""
        with self._lock:
            read = self._left.pop(name, None)
            if read is not None:
                self._read[name] = read()
            return self._read[name]


@dataclass(frozen=True)
class Result:
    """A solve's outcome. `flow[arc]` and `potential[node]` follow the network's ids; removed ids hold 0.

    With status optimal, cost[a] + potential[tail] - potential[head] is >= 0 where flow[a] < capacity[a] and <= 0 where
    flow[a] > 0. Infeasible: `flow` routes what can be routed, `unrouted` units of supply remain, and `witness` flags
    (1) a set of nodes whose supply exceeds the capacity leaving it. Unbounded: `objective` is None and `witness` flags
    the arcs of a negative cycle without a bound. Capped: the kernel gave up at its pivot limit (never seen; a bug).
    `flow` and `potential` are each written when first asked for, or before the network changes: a round in which nobody
    asks is spared a pass over all arcs or nodes.
    """

    status: Status
    objective: int | None
    flow: Int64s
    potential: Int64s
    kernel: str
    unrouted: int = 0
    witness: Int64s | None = None
    work: dict[str, int] = field(default_factory=dict)

    if not TYPE_CHECKING:  # Or every name would pass for one of its own.

        def __getattr__(self, name: str) -> Int64s | dict[str, int]:
            """Of a result `read_later`: a column or its work, once."""
            told = self.__dict__
            if name not in LATER or "_unread" not in told:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            value: Int64s | dict[str, int] = told["_work"]() if name == "work" else told["_unread"].column(name)
            told[name] = value
            return value

    def __getstate__(self) -> dict[str, Any]:
        """A copy has its own columns."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def read_later(objective: int, kernel: str, work: Callable[[], dict[str, int]], unread: Unread) -> Result:
    """An optimum whose flow and potential are still to be read; `work` says what it took."""
    result = object.__new__(Result)
    told = result.__dict__
    told["status"], told["objective"], told["kernel"] = "optimal", objective, kernel
    told["unrouted"], told["witness"] = 0, None
    told["_unread"], told["_work"] = unread, work
    return result
