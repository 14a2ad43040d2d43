"""What a min-cost-flow solve answers with, and the limits that keep int64 from wrapping."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

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


@dataclass(frozen=True)
class Result:
    """A solve's outcome. `flow[arc]` and `potential[node]` follow the network's ids; removed ids hold 0.

    With status optimal, cost[a] + potential[tail] - potential[head] is >= 0 where flow[a] < capacity[a] and <= 0 where
    flow[a] > 0. Infeasible: `flow` routes what can be routed, `unrouted` units of supply remain, and `witness` flags
    (1) a set of nodes whose supply exceeds the capacity leaving it. Unbounded: `objective` is None and `witness` flags
    the arcs of a negative cycle without a bound. Capped: the kernel gave up at its pivot limit (never seen; a bug).
    `flow`, `potential` and `work` are each told when first asked for, or before the network changes: a round in which
    nobody asks is spared a pass over all arcs or nodes.
    """

    status: Status
    objective: int | None
    flow: Int64s
    potential: Int64s
    kernel: str
    unrouted: int = 0
    witness: Int64s | None = None
    work: dict[str, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has its own columns."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class _Later:
    """A field of a result `read_later` that nobody has asked for yet; once read, the result has it like any other."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, result: Result | None, owner: type[Result]) -> Any:
        told = result.__dict__ if result is not None else {}
        if "_read" not in told:
            raise AttributeError(f"{owner.__name__} has no {self._name}")
        with told["_lock"]:
            if self._name not in told:
                told[self._name] = told["_read"](self._name)
            if told["_read"] and "flow" in told and "potential" in told:  # Let go of the network.
                told["work"] = told["work"] if "work" in told else told["_read"]("work")
                told["_read"] = None
            return told[self._name]


for _name in LATER:
    setattr(Result, _name, _Later(_name))


def read_later(objective: int, kernel: str, read: Callable[[str], Any]) -> Result:
    """An optimum whose flow, potential and work `read` tells when somebody asks, or before the network changes."""
    result = object.__new__(Result)
    told = result.__dict__
    told["status"], told["objective"], told["kernel"] = "optimal", objective, kernel
    told["unrouted"], told["witness"] = 0, None
    told["_read"], told["_lock"] = read, Lock()  # Looked at in one thread, its network perhaps changed in another.
    return result
