"""The heap of slots by when they are due. A flow that is due later than it was stays in its place, with a KEY that is
too early, until it comes to the top."""

from numba import types

from policies.kernels.jit import Int64s, kernel
from policies.kernels.maxmin.tables import DUE, GRID, HEAP_AT, INT, ITEM, KEY, N_HEAP, NEVER, ROW


@kernel(types.void(GRID, GRID, INT, INT))
def rise(flows: Int64s, heap: Int64s, at: int, key: int) -> None:
    """Give the slot at `at` an earlier key."""
    slot = heap[at, ITEM]
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, KEY] <= key:
            break
        other = heap[above, ITEM]
        heap[at, KEY], heap[at, ITEM] = heap[above, KEY], other
        flows[other, HEAP_AT] = at
        at = above
    heap[at, KEY], heap[at, ITEM] = key, slot
    flows[slot, HEAP_AT] = at


@kernel(types.void(GRID, GRID, INT, INT, INT))
def sink(flows: Int64s, heap: Int64s, n_heap: int, at: int, key: int) -> None:
    """Give the slot at `at` a later key."""
    slot = heap[at, ITEM]
    while True:
        below = 2 * at + 1
        if below >= n_heap:
            break
        if below + 1 < n_heap and heap[below + 1, KEY] < heap[below, KEY]:
            below += 1
        if heap[below, KEY] >= key:
            break
        other = heap[below, ITEM]
        heap[at, KEY], heap[at, ITEM] = heap[below, KEY], other
        flows[other, HEAP_AT] = at
        at = below
    heap[at, KEY], heap[at, ITEM] = key, slot
    flows[slot, HEAP_AT] = at


@kernel(types.void(ROW, GRID, GRID, INT, INT))
def insert(state: Int64s, flows: Int64s, heap: Int64s, slot: int, due_us: int) -> None:
    """Put a slot in."""
    at = state[N_HEAP]
    heap[at, ITEM] = slot
    state[N_HEAP] = at + 1
    rise(flows, heap, at, due_us)


@kernel(types.void(ROW, GRID, GRID, INT))
def drop(state: Int64s, flows: Int64s, heap: Int64s, slot: int) -> None:
    """Take a slot out."""
    at = flows[slot, HEAP_AT]
    state[N_HEAP] -= 1
    n_heap = state[N_HEAP]
    if at < n_heap:
        key = heap[n_heap, KEY]
        heap[at, ITEM] = heap[n_heap, ITEM]
        if key < heap[at, KEY]:
            rise(flows, heap, at, key)
        else:
            sink(flows, heap, n_heap, at, key)


@kernel(INT(ROW, GRID, GRID))
def next_due(state: Int64s, flows: Int64s, heap: Int64s) -> int:
    """When the first flow is due, which is then at the top with its true key; NEVER where there is none."""
    while state[N_HEAP] > 0:
        due: int = flows[heap[0, ITEM], DUE]
        if heap[0, KEY] == due:
            return due
        sink(flows, heap, state[N_HEAP], 0, due)
    return NEVER
