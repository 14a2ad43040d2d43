"""The proof that comes with every answer, checked without trusting the kernel that gave it. Time O(A + N)."""

import numpy as np

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import NO_BOUND, UNLIMITED, Result
from policies.kernels.mincost.network import FlowNetwork

FINE, BELOW, ABOVE, CHEAPER, DEARER = range(5)


@kernel("int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def check_arcs(
    tail: Int64s,
    head: Int64s,
    capacity: Int64s,
    cost: Int64s,
    flow: Int64s,
    potential: Int64s,
    out_balance: Int64s,
    out_where: Int64s,
) -> int:
    """Check bounds and complementary slackness; add each arc's flow to out_balance int64[N] (leaving minus entering).

    Returns FINE, or what is wrong and in out_where[0] the arc. capacity is NO_BOUND where there is none.
    """
    for arc in range(tail.shape[0]):
        out_where[0] = arc
        if flow[arc] < 0:
            return BELOW
        if flow[arc] > capacity[arc]:
            return ABOVE
        reduced = cost[arc] + potential[tail[arc]] - potential[head[arc]]
        if reduced < 0 and flow[arc] < capacity[arc]:
            return CHEAPER
        if reduced > 0 and flow[arc] > 0:
            return DEARER
        out_balance[tail[arc]] += flow[arc]
        out_balance[head[arc]] -= flow[arc]
    return FINE


def certificate_error(network: FlowNetwork, result: Result) -> str | None:
    """None when `result` proves itself for `network` as it is now, else one sentence on what is wrong.

    Optimal: bounds, conservation, complementary slackness and the objective. Infeasible: the flagged nodes supply more
    than can leave them. Unbounded: the flagged arcs form cycles without bounds whose cost is negative.
    """
    if result.flow.shape != (network.n_arcs,) or result.potential.shape != (network.n_nodes,):
        return f"it is for {result.flow.size} arcs and {result.potential.size} nodes, not this network's"
    if result.status == "infeasible":
        return _cut_error(network, result)
    if result.status == "unbounded":
        return _cycle_error(network, result)
    if result.status != "optimal":
        return f"status {result.status} proves nothing"
    return _optimum_error(network, result)


def _optimum_error(network: FlowNetwork, result: Result) -> str | None:
    capacity = network.capacity
    capacity[capacity == UNLIMITED] = NO_BOUND
    potential_max = max(abs(int(value)) for value in (result.potential.min(initial=0), result.potential.max(initial=0)))
    if potential_max > 1 << 61:
        return f"a potential of {potential_max} could wrap"
    balance, where = np.zeros(network.n_nodes, np.int64), np.zeros(1, np.int64)
    wrong = check_arcs(
        network.tail, network.head, capacity, network.cost, result.flow, result.potential, balance, where
    )
    if wrong != FINE:
        what = {
            BELOW: "carries less than nothing",
            ABOVE: "carries more than its capacity",
            CHEAPER: "has room and a negative reduced cost",
            DEARER: "carries flow at a positive reduced cost",
        }[wrong]
        return f"arc {int(where[0])} {what}"
    unbalanced = np.flatnonzero(balance != network.supply)
    if unbalanced.size:
        node = int(unbalanced[0])
        return f"node {node} sends {int(balance[node])} more than it gets; its supply is {int(network.supply[node])}"
    used = np.flatnonzero(result.flow)
    objective = sum(int(a) * int(c) for a, c in zip(result.flow[used], network.cost[used], strict=True))
    if objective != result.objective:
        return f"the flow costs {objective}, not {result.objective}"
    return None


def _cut_error(network: FlowNetwork, result: Result) -> str | None:
    if result.witness is None or result.witness.shape != (network.n_nodes,):
        return "no cut is given"
    inside = result.witness.astype(np.bool_)
    leaving = network.capacity[inside[network.tail] & ~inside[network.head] & network.arc_alive]
    if (leaving == UNLIMITED).any():
        return "an arc without a bound leaves the cut"
    supplied, room = sum(network.supply[inside].tolist()), sum(leaving.tolist())
    return None if supplied > room else f"the cut supplies {supplied} and {room} can leave it"


def _cycle_error(network: FlowNetwork, result: Result) -> str | None:
    if result.witness is None or result.witness.shape != (network.n_arcs,):
        return "no cycle is given"
    arcs = np.flatnonzero(result.witness)
    if (network.capacity[arcs] != UNLIMITED).any():
        return "an arc of the cycle has a bound"
    balance = np.zeros(network.n_nodes, np.int64)
    np.add.at(balance, network.tail[arcs], 1)
    np.add.at(balance, network.head[arcs], -1)
    if balance.any():
        return "the flagged arcs are no cycle"
    price = sum(network.cost[arcs].tolist())
    return None if price < 0 else f"the cycle costs {price}"
