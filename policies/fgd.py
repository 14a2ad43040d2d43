"""Packing by fragmentation gradient descent (FGD, Weng et al., USENIX ATC 2023): keep GPUs usable for what is to come.

Each task goes where free GPU capacity that typical tasks can use shrinks least; typical is what waits, and what runs of
the same needs. So work without GPUs stays off agents whose GPUs would be cut off from CPU and memory by it. Ties go by
best fit, then by id; order is first in, first out. Links and the place of data count only as hard constraints.

Work in thousandths of a GPU, and of GPUs that agents share the one on which the gradient is least is named in the plan.
The measure counts GPU memory as it counts thousandths, which the paper does not: a GPU whose memory is gone is lost to
who needs some, however much of its time is left.
"""

import numpy as np

from policies.greedy import Greedy, Parts, Round, free_of, needs_of, shares_ppm
from policies.kernels.fragmentation import NOWHERE, WHOLE, gradient
from policies.lower import Int64s

TYPES_MAX = 62  # GPU types told apart; an int64 mask holds no more
STEPS_MAX = 512  # of one class in one round: a larger one is placed several tasks at a time
_WEIGHT_MAX = 1 << 20


class Packing(Greedy):
    """Cost of a round: O(nodes × D × M) for each class and O(D² × M) for each task of it, M distinct needs and D GPUs
    an agent."""

    kernel = "fgd"

    def give_out(self, books: Round) -> None:
        self._typical = _Typical(books)
        super().give_out(books)

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        nodes = np.flatnonzero(room > 0)
        if not len(nodes):
            return []
        typical, free, (gpu, memory, kind) = self._typical, books.ledger.free.copy(), _gpu_slots(books)
        k = int(books.columns.needs_of[c])
        task, n_gpus = books.columns.amounts[k], int(books.columns.gpu_count[k])
        milli, uuids = int(books.columns.gpu_milli[k]), books.ledger.devices.uuids
        n_bytes = typical.n_bytes[k]
        named: dict[int, tuple[str, ...]] = {}
        mask = _bits(books.columns.gpu_mask[k])
        growth = np.full(len(room), NOWHERE, np.int64)
        slot = np.full(len(room), -1, np.int64)
        left = shares_ppm(np.maximum(0, free_of(books) - needs_of(books, c)), books.totals).sum(axis=1)
        given: dict[int, int] = {}
        stale, step = nodes, max(1, count // STEPS_MAX)
        while count > 0:
            gradient(stale, free, gpu, memory, kind, task, n_gpus, milli, mask, n_bytes, *typical.columns, growth, slot)
            growth[room <= 0] = NOWHERE
            best = int(nodes[np.lexsort((nodes, left[nodes], growth[nodes]))[0]])
            if growth[best] == NOWHERE:
                break
            part = min(step, count, int(room[best])) if milli == WHOLE else 1
            if milli < WHOLE:
                free[best] -= task
                gpu[best, slot[best]] -= milli
                memory[best, slot[best]] -= n_bytes[kind[best, slot[best]]]
                named[best] = (*named.get(best, ()), uuids[best][slot[best]])
            else:
                _take(free[best], gpu[best], kind[best], task, n_gpus * part, mask, part)
            given[best] = given.get(best, 0) + part
            room[best] -= part
            count -= part
            stale = np.array([best], np.int64)
        books.wished.update(named)
        return list(given.items())


class _Typical:
    """The tasks that fragmentation is measured for: [M] needs as `kernels.fragmentation` wants them, by how many."""

    def __init__(self, books: Round) -> None:
        columns = books.columns
        weight = np.zeros(len(columns.needs), np.int64)
        np.add.at(weight, columns.needs_of, columns.count)
        place = {(n.cpu_milli, n.memory_bytes, n.disk_bytes, n.gpu): k for k, n in enumerate(columns.needs)}
        for node in books.nodes:
            for task in node.running:
                needs = task.needs
                k = place.get((needs.cpu_milli, needs.memory_bytes, needs.disk_bytes, needs.gpu))
                if k is not None:  # What runs and does not wait any more is not to come, as far as is known.
                    weight[k] += 1
        self.n_bytes = _by_bit(columns.gpu_bytes)
        self.columns = (
            columns.amounts,
            columns.gpu_count,
            columns.gpu_milli,
            np.array([_bits(mask) for mask in columns.gpu_mask], np.int64),
            self.n_bytes,
            np.minimum(weight, _WEIGHT_MAX),
        )


def _bits(mask: "np.typing.NDArray[np.bool_]") -> int:
    """Types as bits; those past the 62nd share the last bit."""
    return sum({1 << min(t, TYPES_MAX - 1) for t in np.flatnonzero(mask).tolist()})


def _by_bit(gpu_bytes: Int64s) -> Int64s:
    """[M, T] what a task takes of each type's memory; of those that share the last bit, the least."""
    out = np.zeros((len(gpu_bytes), max(1, min(gpu_bytes.shape[1], TYPES_MAX))), np.int64)
    out[:, : gpu_bytes.shape[1]] = gpu_bytes[:, :TYPES_MAX]
    if gpu_bytes.shape[1] > TYPES_MAX:
        out[:, -1] = gpu_bytes[:, TYPES_MAX - 1 :].min(axis=1)
    return out


def _gpu_slots(books: Round) -> tuple[Int64s, Int64s, Int64s]:
    """[N, D] free milli and memory and type of each GPU: slot by slot where some are shared, else by type, those with
    least memory first, as they are given out."""
    here = books.ledger.devices
    if here.milli.shape[1]:
        return here.milli.copy(), here.memory_bytes.copy(), np.minimum(here.kind, TYPES_MAX - 1)
    counts, types = books.ledger.gpus, books.columns.gpu_types
    order = sorted(range(len(types)), key=lambda t: (types[t].memory_bytes, t))
    width = max(1, int(counts.sum(axis=1).max(initial=0)))
    gpu, kind = np.zeros((len(counts), width), np.int64), np.full((len(counts), width), -1, np.int64)
    memory = np.zeros((len(counts), width), np.int64)
    for n in np.flatnonzero(counts.sum(axis=1)).tolist():
        types_here = [t for t in order for _ in range(int(counts[n, t]))]
        gpu[n, : len(types_here)] = WHOLE
        memory[n, : len(types_here)] = [types[t].memory_bytes for t in types_here]
        kind[n, : len(types_here)] = np.minimum(types_here, TYPES_MAX - 1)
    return gpu, memory, kind


def _take(free: Int64s, gpu: Int64s, kind: Int64s, task: Int64s, n_gpus: int, mask: int, count: int) -> None:
    free -= task * count
    for d in range(len(gpu)):
        if n_gpus and gpu[d] == WHOLE and kind[d] >= 0 and mask >> int(kind[d]) & 1:
            gpu[d] = 0
            n_gpus -= 1
