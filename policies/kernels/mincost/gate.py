"""The gate: what may become a network. Every refusal names the array, the place and the bound.

The checks are kernels, for `changes` to use and to find out why one was refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import FLOW_MAX, NO_BOUND, POTENTIAL_MAX, UNLIMITED, NetworkError

Integers = npt.NDArray[np.integer] | Sequence[int] | int
Flags = npt.NDArray[np.bool_]
_INT, _ROW, _FLAGS = types.int64, types.int64[::1], types.boolean[::1]
_INT64 = np.dtype(np.int64)


def column(name: str, values: Integers, length: int | None = None) -> Int64s:
    """`values` as an int64 array that kernels take, of one dimension, perhaps the caller's; a number is one row."""
    array: npt.NDArray[Any] = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype is not _INT64 or array.ndim != 1 or not array.flags.carray:  # In order, aligned, not read-only.
        array = _converted(name, np.atleast_1d(array))
    if length is not None and array.size != length:
        raise NetworkError(f"{name} has length {array.size}; {length} is wanted")
    return array


def _converted(name: str, array: npt.NDArray[np.generic]) -> Int64s:
    if array.ndim != 1:
        raise NetworkError(f"{name} has {array.ndim} dimensions; one is wanted")
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise NetworkError(f"{name} has dtype {array.dtype}; int64 is wanted")
    if array.dtype.kind == "u" and array.size and int(array.max()) > UNLIMITED:
        raise NetworkError(f"{name} holds {int(array.max())}; the most is {UNLIMITED}")
    return np.array(array, dtype=np.int64, order="C")


@kernel(_INT(_ROW, _INT, _INT))
def wrong_value(values: Int64s, low: int, high: int) -> int:
    """The first place with a value outside low..high, else -1."""
    wrong: int = -1
    for index in range(values.shape[0]):
        if not low <= values[index] <= high:
            wrong = index
            break
    return wrong


@kernel(_INT(_ROW, _FLAGS, _FLAGS, types.boolean))
def wrong_id(ids: Int64s, alive: Flags, marks: Flags, unique: bool) -> int:
    """The first place with an id that is not alive or, with `unique`, comes again; else -1. marks: all false, again."""
    wrong: int = -1
    for index in range(ids.shape[0]):
        one = ids[index]
        if one < 0 or one >= alive.shape[0] or not alive[one] or marks[one]:
            wrong = index
            break
        marks[one] = unique
    for index in range(ids.shape[0] if wrong < 0 else wrong):
        marks[ids[index]] = False
    return wrong


@kernel(_INT(_ROW, _ROW))
def wrong_capacity(values: Int64s, out_bounds: Int64s) -> int:
    """Copy capacities, UNLIMITED becoming NO_BOUND. Returns the first place with one that cannot be, else -1."""
    wrong: int = -1
    for index in range(values.shape[0]):
        out_bounds[index] = values[index]
        if values[index] == UNLIMITED:
            out_bounds[index] = NO_BOUND
        elif not 0 <= values[index] <= FLOW_MAX and wrong < 0:
            wrong = index
    return wrong


@kernel(_INT(_ROW))
def size(values: Int64s) -> int:
    """The sum of the values' sizes, NO_BOUND and UNLIMITED aside; 2^61 where it is more. Each is at most 2^60."""
    total: int = 0
    for index in range(values.shape[0]):
        if values[index] < NO_BOUND:
            total = min(total + abs(values[index]), 2 * FLOW_MAX)
    return total


def check_range(name: str, values: Int64s, low: int, high: int, first: int = 0) -> None:
    """Refuse any value outside low..high; `first` is the place of the first one."""
    wrong = wrong_value(values, low, high)
    if wrong >= 0:
        raise NetworkError(f"{name}[{first + wrong}] is {int(values[wrong])}; {low} to {high} is allowed")


def check_capacity(values: Int64s) -> None:
    """Refuse a capacity that is neither UNLIMITED nor 0..2^60."""
    wrong = wrong_capacity(values, np.empty_like(values))
    if wrong >= 0:
        check_range("capacity", values[wrong : wrong + 1], 0, FLOW_MAX, first=wrong)


def flow_total_error(supplies: int, capacities: int) -> NetworkError:
    """Flows are sums of supplies and finite capacities: what could wrap int64 is refused."""
    return NetworkError(
        f"supplies ({supplies}) and finite capacities ({capacities}) sum to more than {FLOW_MAX} = 2^60; "
        "use UNLIMITED for capacities that never bind"
    )


@kernel(_INT(_INT))
def cost_limit(n_nodes: int) -> int:
    """The largest |cost|. Potentials are sums of costs along ways, times four with the penalty: none may wrap int64."""
    limit: int = POTENTIAL_MAX // (4 * (n_nodes + 1)) - 1
    return limit


def cost_error(n_nodes: int, cost_max: int) -> NetworkError:
    return NetworkError(
        f"|cost| up to {cost_max} on {n_nodes} nodes: 4 x (nodes + 1) x (|cost| + 1) must not pass "
        f"{POTENTIAL_MAX} = 2^60; use a larger unit of cost"
    )
