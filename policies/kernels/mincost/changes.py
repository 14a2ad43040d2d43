"""Changes to a network's columns: each is checked, counted and written in one call, or refused and nothing written.

Changes are small and many, and what numpy takes for a dozen values is most of a small round. These kernels only say
that a change is refused; `gate` then finds out why.
"""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.gate import Flags, cost_limit, size, wrong_capacity, wrong_id
from policies.kernels.mincost.model import FLOW_MAX, NO_BOUND

# Fields of a network's totals: Σ|supply|, Σ finite capacity, the largest |cost| there is or was, whether a cost is or
# was negative, Σ supply.
SUPPLY, CAPACITY, COST_MAX, EARNS, BALANCE = range(5)
N_TOTALS = 5
# Arguments of `add_supplies` (excess aside), `add_arcs`, `set_costs` and `set_bounds`.
Supplies = tuple[Int64s, Int64s, int, Int64s, int, Flags, Int64s, Int64s]
NewArcs = tuple[
    *tuple[Int64s, Int64s, Int64s, Int64s, Flags, Flags, int, Int64s, int, Int64s, int, Flags],
    *tuple[Int64s, Int64s, Int64s, Int64s, Int64s, Int64s],
]
Costs = tuple[Int64s, Int64s, Flags, Flags, int, Int64s, Int64s]
Bounds = tuple[Int64s, Int64s, Flags, Flags, Int64s, Int64s, Int64s]
_INT, _BOOL, _ROW, _FLAGS = types.int64, types.boolean, types.int64[::1], types.boolean[::1]


@kernel(types.void(_INT, _ROW, _INT, _FLAGS, _ROW))
def give_ids(count: int, free: Int64s, n_free: int, alive: Flags, out_ids: Int64s) -> None:
    """So many ids as there is room for: the last that were taken back, then those from `count` on."""
    reused = min(out_ids.shape[0], n_free)
    for index in range(out_ids.shape[0]):
        out_ids[index] = free[n_free - 1 - index] if index < reused else count + index - reused
        alive[out_ids[index]] = True


@kernel(_BOOL(_ROW, _ROW, _INT, _ROW, _INT, _FLAGS, *[_ROW] * 3))
def add_supplies(
    values: Int64s,
    totals: Int64s,
    count: int,
    free: Int64s,
    n_free: int,
    alive: Flags,
    supply: Int64s,
    out_ids: Int64s,
    excess: Int64s,
) -> bool:
    """Add nodes with these supplies: see `give_ids`. Excess is that of ids below `count`, where it is kept.

    False where refused: a supply, or the costs there are, which are too large with so many nodes.
    """
    if totals[COST_MAX] > cost_limit(count + values.shape[0]):
        return False
    for index in range(values.shape[0]):
        if not -FLOW_MAX <= values[index] <= FLOW_MAX:
            return False
    total = totals[SUPPLY] + size(values)
    if total + totals[CAPACITY] > FLOW_MAX:
        return False
    totals[SUPPLY] = total
    give_ids(count, free, n_free, alive, out_ids)
    for index in range(values.shape[0]):
        node = out_ids[index]
        supply[node] = values[index]
        totals[BALANCE] += values[index]
        if node < count and excess.shape[0] > 0:
            excess[node] += values[index]
    return True


@kernel(_BOOL(_ROW, _ROW, _FLAGS, _FLAGS, *[_ROW] * 3), entry=True)
def set_supplies(
    ids: Int64s, values: Int64s, alive: Flags, marks: Flags, supply: Int64s, totals: Int64s, excess: Int64s
) -> bool:
    """Set supplies; what a node supplies more is excess of it, where excess is kept. False where refused."""
    if wrong_id(ids, alive, marks, True) >= 0:
        return False
    before = 0
    for index in range(ids.shape[0]):
        if not -FLOW_MAX <= values[index] <= FLOW_MAX:
            return False
        before += abs(supply[ids[index]])
    total = totals[SUPPLY] - before + size(values)
    if total + totals[CAPACITY] > FLOW_MAX:
        return False
    totals[SUPPLY] = total
    for index in range(ids.shape[0]):
        node = ids[index]
        more = values[index] - supply[node]
        supply[node] = values[index]
        totals[BALANCE] += more
        if excess.shape[0] > 0:
            excess[node] += more
    return True


@kernel(types.void(_ROW, _ROW))
def note_costs(values: Int64s, totals: Int64s) -> None:
    """Let the totals know of costs."""
    for index in range(values.shape[0]):
        totals[COST_MAX] = max(totals[COST_MAX], abs(values[index]))
        if values[index] < 0:
            totals[EARNS] = 1


@kernel(_BOOL(_ROW, _INT))
def are_small(values: Int64s, limit: int) -> bool:
    for index in range(values.shape[0]):
        if not -limit <= values[index] <= limit:
            return False
    return True


@kernel(_BOOL(_ROW, _ROW, _FLAGS, _FLAGS, _INT, _ROW, _ROW))
def set_costs(
    ids: Int64s, values: Int64s, alive: Flags, marks: Flags, n_nodes: int, cost: Int64s, totals: Int64s
) -> bool:
    """Set costs, in a network of so many nodes. False where refused."""
    if not are_small(values, cost_limit(n_nodes)) or wrong_id(ids, alive, marks, True) >= 0:
        return False
    note_costs(values, totals)
    for index in range(ids.shape[0]):
        cost[ids[index]] = values[index]
    return True


@kernel(_BOOL(_ROW, _ROW, _FLAGS, _FLAGS, *[_ROW] * 3))
def set_bounds(
    ids: Int64s, values: Int64s, alive: Flags, marks: Flags, bound: Int64s, totals: Int64s, out_bounds: Int64s
) -> bool:
    """Set capacities; out_bounds are what became of them, NO_BOUND where UNLIMITED. False where refused."""
    if wrong_id(ids, alive, marks, True) >= 0 or wrong_capacity(values, out_bounds) >= 0:
        return False
    before = 0
    for index in range(ids.shape[0]):
        if bound[ids[index]] != NO_BOUND:
            before += bound[ids[index]]
    total = totals[CAPACITY] - before + size(out_bounds)
    if totals[SUPPLY] + total > FLOW_MAX:
        return False
    totals[CAPACITY] = total
    for index in range(ids.shape[0]):
        bound[ids[index]] = out_bounds[index]
    return True


@kernel(_BOOL(*[_ROW] * 4, _FLAGS, _FLAGS, _INT, _ROW, _INT, _ROW, _INT, _FLAGS, *[_ROW] * 6))
def add_arcs(
    tail: Int64s,
    head: Int64s,
    capacity: Int64s,
    cost: Int64s,
    nodes: Flags,
    marks: Flags,
    n_nodes: int,
    totals: Int64s,
    count: int,
    free: Int64s,
    n_free: int,
    alive: Flags,
    to_tail: Int64s,
    to_head: Int64s,
    to_bound: Int64s,
    to_cost: Int64s,
    out_bounds: Int64s,
    out_ids: Int64s,
) -> bool:
    """Add arcs between `nodes`, of n_nodes ids, that are alive: see `give_ids`; out_bounds are their bounds.

    False where refused.
    """
    if not are_small(cost, cost_limit(n_nodes)) or wrong_capacity(capacity, out_bounds) >= 0:
        return False
    if wrong_id(tail, nodes, marks, False) >= 0 or wrong_id(head, nodes, marks, False) >= 0:
        return False
    total = totals[CAPACITY] + size(out_bounds)
    if totals[SUPPLY] + total > FLOW_MAX:
        return False
    totals[CAPACITY] = total
    note_costs(cost, totals)
    give_ids(count, free, n_free, alive, out_ids)
    for index in range(out_ids.shape[0]):
        arc = out_ids[index]
        to_tail[arc] = tail[index]
        to_head[arc] = head[index]
        to_bound[arc] = out_bounds[index]
        to_cost[arc] = cost[index]
    return True


@kernel(_BOOL(_ROW, _FLAGS, _FLAGS, *[_ROW] * 3), entry=True)
def clear_arcs(ids: Int64s, alive: Flags, marks: Flags, bound: Int64s, cost: Int64s, totals: Int64s) -> bool:
    """Arcs that go: no bound and no cost is left of them. False where refused."""
    if wrong_id(ids, alive, marks, True) >= 0:
        return False
    for index in range(ids.shape[0]):
        if bound[ids[index]] != NO_BOUND:
            totals[CAPACITY] -= bound[ids[index]]
        bound[ids[index]] = 0
        cost[ids[index]] = 0
    return True


@kernel(types.void(_ROW, _ROW, _INT, _FLAGS), entry=True)
def take_ids(ids: Int64s, free: Int64s, n_free: int, alive: Flags) -> None:
    """Let ids be given again."""
    for index in range(ids.shape[0]):
        alive[ids[index]] = False
        free[n_free + index] = ids[index]
