"""Columns of a network: room to grow, the order in which the simplex wants them, and what a flow costs."""

from math import isqrt
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Int64s, kernel

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


def spread_by_tail(tail: Int64s, n_nodes: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Likewise of nodes, each with all its arcs together: of tasks' arcs a block then reads a dozenth of the tails."""
    position, order = np.empty(tail.size, np.int32), np.empty(tail.size, np.int32)
    order_by_tail(tail, max(isqrt(n_nodes), 1), np.zeros(n_nodes + 1, np.int64), order)
    position[order] = np.arange(tail.size, dtype=np.int32)
    return position, order


@kernel(types.void(types.int64[::1], types.int64, types.int64[::1], types.int32[::1]))
def order_by_tail(tail: Int64s, stride: int, first: Int64s, out_order: npt.NDArray[np.int32]) -> None:
    """List the arcs by their tails, those `stride` apart next to each other. first: zeros, [N + 1]. Time O(N + A)."""
    n_nodes = first.shape[0] - 1
    for arc in range(tail.shape[0]):
        first[tail[arc]] += 1
    begin = 0
    for offset in range(stride):
        for node in range(offset, n_nodes, stride):
            count = first[node]
            first[node] = begin
            begin += count
    for arc in range(tail.shape[0]):
        out_order[first[tail[arc]]] = arc
        first[tail[arc]] += 1


def objective(flow: Int64s, cost: Int64s) -> int:
    """The sum of flow x cost, exact whatever its size."""
    if float(np.abs(flow.astype(np.float64) * cost).sum()) < OBJECTIVE_SURE:
        return int(np.dot(flow, cost))
    used = np.flatnonzero(flow)
    return sum(int(amount) * int(price) for amount, price in zip(flow[used], cost[used], strict=True))
