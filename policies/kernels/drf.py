"""One allocation cycle of weighted, hierarchical dominant resource fairness: which client is offered which item.

Axes: V nodes of the tree of roles and clients, I items (what of one agent is free and has one standing), K = 4 kinds
(milli-CPU, bytes of memory, bytes of disk, GPUs), G classes of GPUs (of one model and memory), F filters, M masks.

Items are given in their order, each in whole to one client as far as limits allow, and what is left of it to the next.
For each, the tree is walked from its root (an item that is reserved: from the node of its role), at every node to the
child that has the least weighted dominant share, of equal ones to that with fewer allocations, then to the first (nodes
are numbered by path). What a client names as the least that is worth an offer to it stands before `least`. Offered
counts as allocated: shares move with every grant (Ghodsi et al., NSDI 2011, §4; Mesos
`DRFSorter`). A share is the largest over the kinds of ⌊allocated·2³⁰ / whole⌋, both shifted right until the whole is
below 2³¹, then times 2²⁰ and divided by the weight. Each class of GPUs is a kind of its own here: half of the few large
ones is half, whatever else there is. Limits, guarantees and filters count GPUs.

A first pass serves only clients of roles below their guarantee, up to it; the second all, but never from what the
guarantees still want. Cost O(grants · (depth + children + clients that refuse)).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from policies.kernels.jit import Int64s, kernel

KINDS = 4
# Columns of `nodes`. FIRST/N_CHILDREN: into `children`; LEAF: 1 for a client; MASK: row of `masks`, −1 for none;
# GPUS, REVOCABLE: whether the client takes such; TODO: 1 for built-in work, which takes no more than its `LEFT` row;
# LEAST_FROM/LEAST_TO: rows of `leasts`, none where `least` holds.
PARENT, FIRST, N_CHILDREN, WEIGHT, LEAF, MASK, GPUS, REVOCABLE, TODO, N_GRANTS, LEAST_FROM, LEAST_TO = range(12)
NODE_ROW = 12
# Columns of `items`. ROOT: the node it may go below; HAS_GPUS: of its agent;
# IS_REVOCABLE: it must be given back; NOT_TODO: built-in work had its turn; FILTER_FROM/FILTER_TO: rows of `filters`;
# GPU_FROM: where in `gpus` its next free one stands.
ROOT, HAS_GPUS, IS_REVOCABLE, FILTER_FROM, FILTER_TO, NOT_TODO, GPU_FROM = range(7)
ITEM_ROW = 7
# Rows of `filters`: the client's node, then what it refused, by kind.
FILTER_ROW = 1 + KINDS
# Rows of `grants`: item, node, then how much, by kind.
GRANT_ROW = 2 + KINDS
# Rows of `amounts`, each [V, K]: allocated, the limit (−1: none), the guarantee (0: none), built-in work to place.
ALLOCATED, LIMIT, GUARANTEE, LEFT = range(4)
UNLIMITED = -1
# Rows of a cycle's `ranks`, each [V], a node at its place in `children` (the root last): what children are compared by,
# and the last item that a node refused. Every grant reads them of all children on its way, so they lie side by side.
SHARE, ALLOCATIONS, REFUSED = range(3)
_NEVER = 1 << 62
SHARE_BITS, WEIGHT_BITS, WHOLE_BITS = 30, 20, 31


class Market(NamedTuple):
    """Everything a cycle reads and changes."""

    nodes: Int64s  # [V, NODE_ROW]
    children: Int64s  # [V − 1]
    amounts: Int64s  # [4, V, K]
    whole: Int64s  # [K]
    items: Int64s  # [I, ITEM_ROW]
    free: Int64s  # [I, K]
    filters: Int64s  # [F, FILTER_ROW]
    masks: Int64s  # [M, I]: 1 where the client's constraints admit the item's agent
    least: Int64s  # [2]: less CPU and less memory than this is not worth an offer
    leasts: Int64s  # [·, K]: offers that are worth it to a client hold all of one of its rows
    floor: Int64s  # [2]: what of an item is worth looking at: `least`, or 0 where some client may take less
    grants: Int64s  # [room, GRANT_ROW], out
    gpus: Int64s  # the class of every free GPU, item by item in the order in which they are given
    gpus_whole: Int64s  # [G]
    gpus_allocated: Int64s  # [V, G]


_named_tuple: Any = types.NamedTuple  # numba's stubs do not know it
_i2 = types.Array(types.int64, 2, "C")
_i3 = types.Array(types.int64, 3, "C")
_i1 = types.Array(types.int64, 1, "C")
_market: Any = _named_tuple((_i2, _i1, _i3, _i1, _i2, _i2, _i2, _i2, _i1, _i2, _i1, _i2, _i1, _i1, _i2), Market)


@kernel(_i2(_market), inline=True)
def scale_of(m: Market) -> Int64s:
    """[2, K − 1]: how far amounts of each kind are shifted right, and the whole, shifted."""
    scale = np.zeros((2, KINDS - 1), np.int64)
    for k in range(KINDS - 1):
        while (m.whole[k] >> scale[0, k]) >= (1 << WHOLE_BITS):
            scale[0, k] += 1
        scale[1, k] = m.whole[k] >> scale[0, k]
    return scale


@kernel(types.int64(_market, types.int64, _i2), inline=True)
def share_of(m: Market, v: int, scale: Int64s) -> int:
    """The weighted dominant share of a node, as the module says."""
    best = 0
    for k in range(KINDS - 1):
        if scale[1, k] > 0:
            best = max(best, ((m.amounts[ALLOCATED, v, k] >> scale[0, k]) << SHARE_BITS) // scale[1, k])
    for g in range(m.gpus_whole.shape[0]):
        best = max(best, (m.gpus_allocated[v, g] << SHARE_BITS) // m.gpus_whole[g])
    share: int = (best << WEIGHT_BITS) // m.nodes[v, WEIGHT]
    return share


@kernel(types.int64(_market, types.int64, _i1), inline=True)
def is_worth_it(m: Market, v: int, out: Int64s) -> int:
    """Whether client `v` wants to be offered so little."""
    first, end = m.nodes[v, LEAST_FROM], m.nodes[v, LEAST_TO]
    if first == end:
        return int(out[0] >= m.least[0] or out[1] >= m.least[1])
    if out.sum() == 0:
        return 0
    for row in range(first, end):
        suffices = 1
        for k in range(KINDS):
            if out[k] < m.leasts[row, k]:
                suffices = 0
        if suffices:
            return 1
    return 0


@kernel(types.int64(_market, types.int64, types.int64, types.int64, _i1, _i1), inline=True)
def offerable(m: Market, i: int, v: int, is_first: int, spare: Int64s, out: Int64s) -> int:
    """How much of item `i` client `v` may be offered, into `out`; 1 when it is worth an offer."""
    node = m.nodes[v]
    if m.items[i, HAS_GPUS] and not node[GPUS]:
        return 0
    if m.items[i, IS_REVOCABLE] and not node[REVOCABLE]:
        return 0
    if node[MASK] >= 0 and not m.masks[node[MASK], i]:
        return 0
    for k in range(KINDS):
        out[k] = m.free[i, k]
    is_reserved = m.nodes[m.items[i, ROOT], PARENT] >= 0
    if node[TODO]:
        if is_reserved or is_first or m.items[i, IS_REVOCABLE] or m.items[i, NOT_TODO]:
            return 0
    short = 0
    above = v
    while above >= 0:
        for k in range(KINDS):
            limit = m.amounts[LIMIT, above, k]
            if limit != UNLIMITED:
                out[k] = min(out[k], max(0, limit - m.amounts[ALLOCATED, above, k]))
        if is_first and not short:
            for k in range(KINDS):
                if m.amounts[GUARANTEE, above, k] > m.amounts[ALLOCATED, above, k]:
                    short = 1
            if short:
                for k in range(KINDS):
                    if m.amounts[GUARANTEE, above, k] > 0:
                        out[k] = min(out[k], max(0, m.amounts[GUARANTEE, above, k] - m.amounts[ALLOCATED, above, k]))
        above = m.nodes[above, PARENT]
    if is_first and not short:
        return 0
    if not is_first and not is_reserved:
        for k in range(KINDS):
            out[k] = min(out[k], max(0, spare[k]))
    if not is_worth_it(m, v, out):
        return 0
    for f in range(m.items[i, FILTER_FROM], m.items[i, FILTER_TO]):
        if m.filters[f, 0] == v:
            blocks = 1
            for k in range(KINDS):
                if m.filters[f, 1 + k] < out[k]:
                    blocks = 0
            if blocks:
                return 0
    return 1


@kernel(types.void(_market, types.int64, types.int64, _i2), inline=True)
def note_left(m: Market, v: int, place: int, ranks: Int64s) -> None:
    """Built-in work of which nothing is left to place takes nothing more."""
    left = 0
    for k in range(KINDS):
        left += m.amounts[LEFT, v, k]
    if left <= 0:
        ranks[REFUSED, place] = _NEVER


@kernel(types.int64(_market, types.int64, types.int64, types.int64, _i1, _i2, _i1, _i1), inline=True)
def choose(
    m: Market, i: int, stamp: int, is_first: int, places: Int64s, ranks: Int64s, spare: Int64s, out: Int64s
) -> int:
    """The client that item `i` goes to, −1 for none. Nodes that refused it carry `stamp`."""
    root = m.items[i, ROOT]
    while True:
        v = root
        while not m.nodes[v, LEAF]:
            best, least_share, least_count = -1, 0, 0
            for c in range(m.nodes[v, FIRST], m.nodes[v, FIRST] + m.nodes[v, N_CHILDREN]):
                share = ranks[SHARE, c]
                if (best >= 0 and share > least_share) or ranks[REFUSED, c] >= stamp:
                    continue
                count = ranks[ALLOCATIONS, c]
                if best < 0 or share < least_share or count < least_count:
                    best, least_share, least_count = c, share, count
            if best < 0:
                break
            v = m.children[best]
        if m.nodes[v, LEAF] and offerable(m, i, v, is_first, spare, out):
            leaf: int = v
            return leaf
        if v == root:
            return -1
        ranks[REFUSED, places[v]] = stamp


@kernel(types.int64(_market))
def allocate(m: Market) -> int:
    """Fill `grants`; the number of its rows, or −1 when there was no room for them. `free` is what is left."""
    n, stamp = 0, 0
    spare = np.zeros(KINDS, np.int64)
    out = np.zeros(KINDS, np.int64)
    scale = scale_of(m)
    ranks = np.zeros((3, m.nodes.shape[0]), np.int64)
    places = np.full(m.nodes.shape[0], m.children.shape[0], np.int64)
    for c in range(m.children.shape[0]):
        places[m.children[c]] = c
    for v in range(m.nodes.shape[0]):
        ranks[SHARE, places[v]] = share_of(m, v, scale)
        ranks[ALLOCATIONS, places[v]] = m.nodes[v, N_GRANTS]
        if m.nodes[v, TODO]:
            note_left(m, v, places[v], ranks)
    has_guarantees = m.amounts[GUARANTEE].sum() > 0
    for turn in range(0 if has_guarantees else 1, 2):
        for k in range(KINDS):
            spare[k] = 1 << 62
        if has_guarantees and turn == 1:
            for k in range(KINDS):
                spare[k] = 0
            for i in range(m.items.shape[0]):
                if m.nodes[m.items[i, ROOT], PARENT] < 0 and not m.items[i, IS_REVOCABLE]:
                    for k in range(KINDS):
                        spare[k] += m.free[i, k]
            for v in range(m.nodes.shape[0]):
                for k in range(KINDS):
                    spare[k] -= max(0, m.amounts[GUARANTEE, v, k] - m.amounts[ALLOCATED, v, k])
        for i in range(m.items.shape[0]):
            while m.free[i, 0] >= m.floor[0] or m.free[i, 1] >= m.floor[1]:
                stamp += 1
                v = choose(m, i, stamp, 1 - turn, places, ranks, spare, out)
                if v < 0:
                    break
                if n == m.grants.shape[0]:
                    return -1
                m.grants[n, 0] = i
                m.grants[n, 1] = v
                is_open = m.nodes[m.items[i, ROOT], PARENT] < 0
                for k in range(KINDS):
                    m.grants[n, 2 + k] = out[k]
                    m.free[i, k] -= out[k]
                    if is_open and turn == 1 and has_guarantees:
                        spare[k] -= out[k]
                    if m.nodes[v, TODO]:
                        m.amounts[LEFT, v, k] = max(0, m.amounts[LEFT, v, k] - out[k])
                if m.nodes[v, TODO]:
                    note_left(m, v, places[v], ranks)
                n += 1
                first_gpu = m.items[i, GPU_FROM]
                m.items[i, GPU_FROM] += out[KINDS - 1]
                above = v
                while above >= 0:
                    for k in range(KINDS):
                        m.amounts[ALLOCATED, above, k] += out[k]
                    for j in range(first_gpu, first_gpu + out[KINDS - 1]):
                        m.gpus_allocated[above, m.gpus[j]] += 1
                    ranks[ALLOCATIONS, places[above]] += 1
                    ranks[SHARE, places[above]] = share_of(m, above, scale)
                    above = m.nodes[above, PARENT]
    return n
