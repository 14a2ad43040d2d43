"""Keep a spanning tree when the network under it changes: the start of a warm solve.

A change leaves the tree and disturbs only the flow balance: `excess[node]` is what the node must send more than it
does. `rebalance` sends it along the tree; where an arc's bounds do not allow that, the subtree is cut off and hung
under the root by an artificial arc that carries the rest, and the simplex drives it out again.
"""

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import NO_BOUND
from policies.kernels.mincost.tree import (
    ARTIFICIAL_UP,
    DEAD,
    DOWN,
    LOWER,
    PARENT,
    PRED,
    TREE,
    UP,
    UPPER,
    hang,
    unlink,
)


@kernel("void(int64[:, ::1], int64[::1], int64, int64[::1])")
def plant(tree: Int64s, supply: Int64s, root: int, excess: Int64s) -> None:
    """Start over: every node hangs under the root by an artificial arc that carries its supply. Time O(N)."""
    for node in range(tree.shape[0]):
        tree[node, :] = -1
        excess[node] = 0
    for node in range(supply.shape[0]):
        if node != root:
            hang(tree, node, root, supply[node])


@kernel("void(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64, int64[::1], int64[::1], int64)")
def rebalance(
    tree: Int64s,
    tail: Int64s,
    capacity: Int64s,
    state: Int64s,
    root: int,
    excess: Int64s,
    order: Int64s,
    n_order: int,
) -> None:
    """Send every node's excess up the tree and renew the residuals, cutting where a bound is in the way.

    order int64[n_order]: the nodes, parents first. excess is 0 afterwards; depths and potentials must be refreshed.
    Time O(N).
    """
    for index in range(n_order - 1, 0, -1):
        node = order[index]
        more = excess[node]
        excess[node] = 0
        pred = tree[node, PRED]
        if pred < 0:
            surplus = more + (tree[node, DOWN] if pred == ARTIFICIAL_UP else -tree[node, UP])
            unlink(tree, node)
            hang(tree, node, root, surplus)
            continue
        points_up = tail[pred] == node
        flow = tree[node, DOWN] if points_up else tree[node, UP]
        wanted = flow + more if points_up else flow - more
        kept = min(max(wanted, 0), capacity[pred])
        sent = kept - flow if points_up else flow - kept
        excess[tree[node, PARENT]] += sent
        if kept == wanted:
            tree[node, UP] = capacity[pred] - kept if points_up else kept
            tree[node, DOWN] = kept if points_up else capacity[pred] - kept
        else:
            state[pred] = LOWER if kept == 0 else UPPER
            unlink(tree, node)
            hang(tree, node, root, more - sent)
    excess[root] = 0


@kernel("int64(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64)")
def flow_of(tree: Int64s, tail: Int64s, head: Int64s, capacity: Int64s, state: Int64s, arc: int) -> int:
    """The arc's flow. Time O(1)."""
    flow: int = 0
    if state[arc] == UPPER:
        flow = capacity[arc]
    if state[arc] == TREE:
        for node in (tail[arc], head[arc]):
            if tree[node, PRED] == arc:
                flow = tree[node, DOWN] if tail[arc] == node else tree[node, UP]
    return flow


@kernel("void(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, int64[::1], int64[::1])")
def drop_arcs(
    tree: Int64s,
    tail: Int64s,
    head: Int64s,
    capacity: Int64s,
    state: Int64s,
    root: int,
    excess: Int64s,
    positions: Int64s,
) -> None:
    """Take arcs out, their flow becoming excess; subtrees that hung on them hang under the root. Time O(1) an arc."""
    for index in range(positions.shape[0]):
        arc = positions[index]
        flow = flow_of(tree, tail, head, capacity, state, arc)
        excess[tail[arc]] += flow
        excess[head[arc]] -= flow
        if state[arc] == TREE:
            node = tail[arc] if tree[tail[arc], PRED] == arc else head[arc]
            unlink(tree, node)
            hang(tree, node, root, 0)
        state[arc] = DEAD


@kernel("void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def change_capacity(
    tail: Int64s, head: Int64s, capacity: Int64s, state: Int64s, excess: Int64s, positions: Int64s, values: Int64s
) -> None:
    """Set capacities (NO_BOUND: none). A full arc stays full, and empties when its bound goes. Time O(1) an arc.

    The residuals of tree arcs are renewed by `rebalance`, which must follow.
    """
    for index in range(positions.shape[0]):
        arc = positions[index]
        if state[arc] == UPPER:
            new_flow = 0 if values[index] == NO_BOUND else values[index]
            excess[tail[arc]] += capacity[arc] - new_flow
            excess[head[arc]] -= capacity[arc] - new_flow
            if new_flow == 0:
                state[arc] = LOWER
        capacity[arc] = values[index]


@kernel("int64(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def find_overfull(tree: Int64s, tail: Int64s, capacity: Int64s, bound: Int64s, out_arcs: Int64s) -> int:
    """List tree arcs that were solved without their bound and pass it. Returns how many. Time O(N)."""
    count = 0
    for node in range(tree.shape[0]):
        pred = tree[node, PRED]
        if tree[node, PARENT] >= 0 and pred >= 0 and capacity[pred] != bound[pred]:
            if (tree[node, DOWN] if tail[pred] == node else tree[node, UP]) > bound[pred]:
                out_arcs[count] = pred
                count += 1
    return count


@kernel("int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def drop_redundant_bounds(tail: Int64s, head: Int64s, supply: Int64s, bound: Int64s, out_capacity: Int64s) -> int:
    """Copy `bound`, with NO_BOUND for every bound that no feasible flow can pass. Returns how many. Time O(A + N).

    An arc cannot carry more than its tail's supply plus all that may enter the tail, nor more than its head's demand
    plus all that may leave the head. Bounds go one by one, each judged by those that are still there; so none is
    justified by another that was itself dropped because of it.
    """
    n_nodes = supply.shape[0]
    enter = supply.copy()
    leave = -supply
    open_in = enter * 0
    open_out = enter * 0
    for arc in range(tail.shape[0]):
        out_capacity[arc] = bound[arc]
        if bound[arc] == NO_BOUND:
            open_in[head[arc]] += 1
            open_out[tail[arc]] += 1
        else:
            enter[head[arc]] += bound[arc]
            leave[tail[arc]] += bound[arc]
    dropped = 0
    for _ in range(min(3, n_nodes)):
        before = dropped
        for arc in range(tail.shape[0]):
            if out_capacity[arc] == NO_BOUND or tail[arc] == head[arc]:
                continue
            by_tail = open_in[tail[arc]] == 0 and bound[arc] >= max(enter[tail[arc]], 0)
            by_head = open_out[head[arc]] == 0 and bound[arc] >= max(leave[head[arc]], 0)
            if by_tail or by_head:
                out_capacity[arc] = NO_BOUND
                open_in[head[arc]] += 1
                open_out[tail[arc]] += 1
                enter[head[arc]] -= bound[arc]
                leave[tail[arc]] -= bound[arc]
                dropped += 1
        if dropped == before:
            break
    return dropped


@kernel("void(int64[:, ::1], int64, int64, int64)")
def attach(tree: Int64s, first: int, stop: int, root: int) -> None:
    """Hang the new nodes first..stop-1 under the root. Time O(new nodes)."""
    for node in range(first, stop):
        tree[node, :] = -1
        hang(tree, node, root, 0)
