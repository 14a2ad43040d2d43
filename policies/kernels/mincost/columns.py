"""Columns of a network: room to grow, the order in which the simplex wants them, and what a flow costs."""

from math import isqrt
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from policies.kernels.jit import Int64s

OBJECTIVE_SURE = 2.0**62  # Where the sum of |flow x cost| is about that or less, int64 holds the objective.
_Any = TypeVar("_Any", bound=np.generic)


def grown(array: npt.NDArray[_Any], length: int) -> npt.NDArray[_Any]:
    """`array` or, where it is shorter than `length`, a longer copy: an eighth more, so that growth is amortised.

    What was empty gets what it needs: most networks are solved once.
    """
    if array.shape[0] >= length:
        return array
    spare = length // 8 if array.shape[0] else 0
    longer = np.zeros((length + spare, *array.shape[1:]), array.dtype)
    longer[: array.shape[0]] = array
    return longer


def spread(n_arcs: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where each arc lies, and whose place each is: neighbours come to lie about the root of their number apart."""
    stride = max(isqrt(n_arcs), 1)
    position, everyone = np.empty(n_arcs, np.int32), np.arange(n_arcs, dtype=np.int32)
    order = np.concatenate([everyone[first::stride] for first in range(stride)])
    position[order] = everyone
    return position, order


def objective(flow: Int64s, cost: Int64s) -> int:
    """The sum of flow x cost, exact whatever its size."""
    if float(np.abs(flow.astype(np.float64) * cost).sum()) < OBJECTIVE_SURE:
        return int(np.dot(flow, cost))
    used = np.flatnonzero(flow)
    return sum(int(amount) * int(price) for amount, price in zip(flow[used], cost[used], strict=True))
