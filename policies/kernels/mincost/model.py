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


class Unread:
    """What nobody has asked an optimum for yet: read when somebody does, or before the network changes."""

    __slots__ = ("__weakref__", "_lock", "_read", "_told")

    def __init__(self, read: Callable[[str], Any], lock: Lock) -> None:
        """read: tells each of LATER. It holds on to the network, so it goes when the columns are told."""
        self._read: Callable[[str], Any] | None = read
        self._lock = lock  # A result may be looked at in one thread and its network changed in another.
        self._told: dict[str, Any] = {}

    def told(self, name: str) -> Any:
        """One of LATER."""
        with self._lock:
            if self._read is not None and name not in self._told:
                self._told[name] = self._read(name)
                if "flow" in self._told and "potential" in self._told:  # What is left is small: nothing is held on to.
                    self._told["work"] = self._read("work")
                    self._read = None
            return self._told[name]


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
    """A field of a result `read_later`; one that has it, or has read it, is not asked here."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, result: Result | None, owner: type[Result]) -> Any:
        told = result.__dict__ if result is not None else {}
        if "_unread" not in told:
            raise AttributeError(f"{owner.__name__} has no {self._name}")
        value = told[self._name] = told["_unread"].told(self._name)
        return value


for _name in LATER:
    setattr(Result, _name, _Later(_name))


def read_later(objective: int, kernel: str, unread: Unread) -> Result:
    """An optimum of which all in LATER is still to be read."""
    result = object.__new__(Result)
    told = result.__dict__
    told["status"], told["objective"], told["kernel"] = "optimal", objective, kernel
    told["unrouted"], told["witness"], told["_unread"] = 0, None, unread
    return result
