"""The gate: what may become a network. Every refusal names the array, the place and the bound."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policies.kernels.jit import Int64s
from policies.kernels.mincost.model import FLOW_MAX, POTENTIAL_MAX, UNLIMITED, NetworkError

Integers = npt.NDArray[np.integer] | Sequence[int] | int


def column(name: str, values: Integers, length: int | None = None) -> Int64s:
    """`values` as an own, contiguous int64 array of one dimension; a single number counts as one row."""
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1:
        raise NetworkError(f"{name} has {array.ndim} dimensions; one is wanted")
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise NetworkError(f"{name} has dtype {array.dtype}; int64 is wanted")
    if array.dtype.kind == "u" and array.size and int(array.max()) > UNLIMITED:
        raise NetworkError(f"{name} holds {int(array.max())}; the most is {UNLIMITED}")
    if length is not None and array.size != length:
        raise NetworkError(f"{name} has length {array.size}; {length} is wanted")
    return np.array(array, dtype=np.int64, order="C")


def check_range(name: str, values: Int64s, low: int, high: int) -> None:
    """Refuse any value outside low..high."""
    if values.size == 0:
        return
    for at in (int(values.argmin()), int(values.argmax())):
        if not low <= int(values[at]) <= high:
            raise NetworkError(f"{name}[{at}] is {int(values[at])}; {low} to {high} is allowed")


def check_alive(name: str, ids: Int64s, alive: npt.NDArray[np.bool_], unique: bool = False) -> None:
    """Refuse an id that is out of range or was removed, and with `unique` one that is given twice."""
    check_range(name, ids, 0, alive.size - 1)
    dead = np.flatnonzero(~alive[ids])
    if dead.size:
        raise NetworkError(f"{name}[{int(dead[0])}] is {int(ids[dead[0]])}, which was removed")
    if unique and np.unique(ids).size != ids.size:
        raise NetworkError(f"{name} names an id twice")


def total(values: Int64s) -> int:
    """The exact sum, however large."""
    if values.size and float(np.abs(values.astype(np.float64)).sum()) > 2.0**62:
        return sum(int(value) for value in values)
    return int(values.sum())


def check_flow_total(supply_total: int, capacity_total: int) -> None:
    """Flows are sums of supplies and finite capacities: refuse what could wrap int64."""
    if supply_total + capacity_total > FLOW_MAX:
        raise NetworkError(
            f"supplies ({supply_total}) and finite capacities ({capacity_total}) sum to more than {FLOW_MAX} = 2^60; "
            "use UNLIMITED for capacities that never bind"
        )


def check_cost(n_nodes: int, cost_max: int) -> None:
    """Potentials are sums of costs along paths, times four with the penalty: refuse what could wrap int64."""
    if 4 * (n_nodes + 1) * (cost_max + 1) > POTENTIAL_MAX:
        raise NetworkError(
            f"|cost| up to {cost_max} on {n_nodes} nodes: 4 x (nodes + 1) x (|cost| + 1) must not pass "
            f"{POTENTIAL_MAX} = 2^60; use a larger unit of cost"
        )
