"""What exchange paths arrived at: where leaves are, as a flow; prices, as potentials; and what it costs."""

from numba import types

from policies.kernels.jit import Index, Int64s, kernel
from policies.kernels.mincost.columns import OBJECTIVE_SURE
from policies.kernels.mincost.gate import Flags
from policies.kernels.mincost.leaves import AT, CHUNK, COST, HERE, LEAVES, TO, Leaves, best_slot
from policies.kernels.mincost.residual import RESIDUAL, Residual

_ROW, _FLAGS = types.int64[::1], types.boolean[::1]


@kernel(types.void(RESIDUAL, LEAVES, _ROW), entry=True)
def read_flow(net: Residual, table: Leaves, out_flow: Int64s) -> None:
    """Write each arc's flow, loops aside. Time O(A) to copy, O(N) for the leaves."""
    flow, is_leaf, row, arc_of = net.flow, table.is_leaf, table.row, table.arc
    out_flow[:] = flow[: out_flow.shape[0]]
    for node in range(row.shape[0]):
        at = row[node, AT]
        if is_leaf[node] and at >= 0:
            out_flow[Index(arc_of[at])] = 1


@kernel(types.void(RESIDUAL, LEAVES, _FLAGS, types.boolean, _ROW), entry=True)
def read_potential(net: Residual, table: Leaves, alive: Flags, solved: bool, out_potential: Int64s) -> None:
    """Write each node's price, 0 where it is not alive. `solved`: no leaf would rather be elsewhere than it is."""
    price, is_leaf, row, slot_of = net.price, table.is_leaf, table.row, table.slot
    for node in range(out_potential.shape[0]):
        told = price[node] if alive[node] else 0
        if alive[node] and is_leaf[node]:
            at = row[node, AT]
            slot = at if solved and at >= 0 else best_slot(table, node, price)
            told = price[Index(slot_of[slot, TO])] - slot_of[slot, COST] if slot >= 0 else 0
        out_potential[node] = told


@kernel(types.float64(RESIDUAL, LEAVES, *[_ROW] * 3))
def fill_loops(net: Residual, table: Leaves, capacity: Int64s, cost: Int64s, flow: Int64s) -> float:
    """Let loops that earn carry all they can. Returns about the sum of |flow x cost|: whether int64 holds the exact."""
    entry, of_arc = net.entry, table.of_arc
    size = 0.0
    for arc in range(flow.shape[0]):
        if cost[arc] < 0 and entry[arc] < 0 and of_arc[arc] < 0:
            flow[arc] = capacity[arc]
        size += abs(float(flow[arc]) * float(cost[arc]))
    return size


@kernel(types.float64(RESIDUAL, LEAVES, _ROW), entry=True)
def add_up(net: Residual, table: Leaves, out_total: Int64s) -> float:
    """Write what all flow costs, loops aside, into out_total int64[1]. Returns about the sum of |flow x cost|.

    Where that is OBJECTIVE_SURE or more, what is written is of no use.

    Time O(N + entries of the core).
    """
    first, stop, cost, arc_of, entry, flow = net.first, net.stop, net.cost, net.arc, net.entry, net.flow
    chunk_of, filled, following, member = table.chunk, table.filled, table.following, table.member
    total = 0
    size = 0.0
    for node in range(first.shape[0]):
        for at in range(first[node], stop[node]):
            arc, each = Index(arc_of[Index(at)]), cost[Index(at)]
            amount = flow[arc] if entry[arc] == at else 0
            size += abs(float(amount) * float(each))
            total += amount * each if size < OBJECTIVE_SURE else 0
        chunk = chunk_of[node]
        count = filled[node]
        while chunk >= 0:
            for place in range(chunk * CHUNK, chunk * CHUNK + count):
                each = member[Index(place), HERE]
                size += abs(float(each))
                total += each if size < OBJECTIVE_SURE else 0
            chunk = following[Index(chunk)]
            count = CHUNK
    out_total[0] = total
    return size
