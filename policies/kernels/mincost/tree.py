"""The spanning tree of a network simplex: one 64-byte row a node, so that a step along a path costs one cache line.

Axes: N nodes, A arcs. Row fields of `tree` int64[N, 8]:

PARENT the parent node, -1 at the root and at removed nodes;
PRED   the arc to the parent; ARTIFICIAL_UP / ARTIFICIAL_DOWN for an artificial arc node → root / root → node, which
       has no bound and costs `big`;
UP     how much more flow fits from the node to its parent (OPEN or more: no bound), DOWN from the parent to the node;
DEPTH, and CHILD, NEXT, PREV: the first child and the siblings (-1: none).

A tree arc's flow is kept only here: DOWN where the arc points up, UP where it points down. An arc outside the tree has
flow 0 (state LOWER) or its capacity (UPPER). Reduced cost of an arc: cost + potential[tail] - potential[head]; 0 in
the tree.
"""

from policies.kernels.jit import Int64s, kernel
from policies.kernels.mincost.model import NO_BOUND

PARENT, PRED, UP, DOWN, DEPTH, CHILD, NEXT, PREV = range(8)
ARTIFICIAL_UP, ARTIFICIAL_DOWN = -2, -3
LOWER, TREE, UPPER, DEAD = 1, 0, -1, 0  # A dead arc is skipped by pricing exactly like a tree arc.


@kernel("void(int64[:, ::1], int64, int64)")
def link(tree: Int64s, node: int, parent: int) -> None:
    """Make `node` the first child of `parent`. Time O(1)."""
    first = tree[parent, CHILD]
    tree[node, PARENT] = parent
    tree[node, NEXT] = first
    tree[node, PREV] = -1
    if first >= 0:
        tree[first, PREV] = node
    tree[parent, CHILD] = node


@kernel("void(int64[:, ::1], int64)")
def unlink(tree: Int64s, node: int) -> None:
    """Take `node` out of its parent's children. Time O(1)."""
    before = tree[node, PREV]
    after = tree[node, NEXT]
    if before >= 0:
        tree[before, NEXT] = after
    else:
        tree[tree[node, PARENT], CHILD] = after
    if after >= 0:
        tree[after, PREV] = before


@kernel("int64(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64, int64, int64[::1])")
def refresh(tree: Int64s, tail: Int64s, cost: Int64s, potential: Int64s, root: int, big: int, out_order: Int64s) -> int:
    """Recompute DEPTH and `potential` of every node from the root down; write the nodes in that order.

    potential[root] stays. out_order int64[N]. Returns the number of nodes written. Time O(N).
    """
    tree[root, DEPTH] = 0
    node = root
    count = 0
    while True:
        out_order[count] = node
        count += 1
        if node != root:
            parent = tree[node, PARENT]
            pred = tree[node, PRED]
            tree[node, DEPTH] = tree[parent, DEPTH] + 1
            if pred == ARTIFICIAL_UP:
                potential[node] = potential[parent] - big
            elif pred == ARTIFICIAL_DOWN:
                potential[node] = potential[parent] + big
            elif tail[pred] == node:
                potential[node] = potential[parent] - cost[pred]
            else:
                potential[node] = potential[parent] + cost[pred]
        if tree[node, CHILD] >= 0:
            node = tree[node, CHILD]
            continue
        while node != root and tree[node, NEXT] < 0:
            node = tree[node, PARENT]
        if node == root:
            return count
        node = tree[node, NEXT]


@kernel("void(int64[:, ::1], int64, int64, int64)")
def hang(tree: Int64s, node: int, root: int, surplus: int) -> None:
    """Hang `node` under the root by an artificial arc carrying `surplus` (negative: towards the node). Time O(1)."""
    link(tree, node, root)
    if surplus >= 0:
        tree[node, PRED] = ARTIFICIAL_UP
        tree[node, UP] = NO_BOUND - surplus
        tree[node, DOWN] = surplus
    else:
        tree[node, PRED] = ARTIFICIAL_DOWN
        tree[node, UP] = -surplus
        tree[node, DOWN] = NO_BOUND + surplus
