"""Fragmentation of shared GPUs, after Weng et al., "Beware of Fragmentation" (USENIX ATC 2023).

An agent's free GPU capacity is fragmented for a typical task as far as that task cannot use it: all of it when the task
does not fit there or wants no GPU, else what lies on GPUs with less free than the task takes of one, of their time or
of their memory (the paper counts time alone; with `memory` and `bytes` of nothing so does this). Summed over
typical tasks by how common they are, it is what a placement should let grow as little as possible.

Axes: N agents, D slots for GPUs on each (those beyond an agent's own are 0 and of type -1), R other kinds of resources,
M typical tasks, T types of GPUs. GPUs are in thousandths; a task takes `milli` of each of `count` GPUs, less than 1000
only of one.
"""

import numpy as np

from policies.kernels.jit import Int64s, kernel

WHOLE = 1000  # milli of one GPU
NOWHERE = 1 << 62  # the growth where a task does not fit


@kernel("boolean(int64, int64, int64, int64, int64, int64[::1])")
def serves(gpu: int, memory: int, kind: int, milli: int, mask: int, n_bytes: Int64s) -> bool:
    """Whether a GPU with `gpu` milli and `memory` bytes left will do for one part of a task.  Time O(1).

    kind: its type, a bit of `mask`, -1 for none; n_bytes int64[T] the memory that such a part takes of each type.
    """
    return gpu >= milli and kind >= 0 and (mask >> kind) & 1 == 1 and memory >= n_bytes[kind]


@kernel("boolean(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, int64, int64, int64[::1])")
def fits(
    free: Int64s,
    gpu: Int64s,
    memory: Int64s,
    kind: Int64s,
    needs: Int64s,
    count: int,
    milli: int,
    mask: int,
    n_bytes: Int64s,
) -> bool:
    """Whether a task fits an agent.  Time O(R + D).

    free int64[R], gpu, memory int64[D] milli and bytes free, kind int64[D] GPU type, needs int64[R].
    """
    for r in range(free.shape[0]):
        if free[r] < needs[r]:
            return False
    if count == 0:
        return True
    found = 0
    for d in range(gpu.shape[0]):
        if serves(gpu[d], memory[d], kind[d], milli, mask, n_bytes):
            found += 1
    return found >= count


@kernel(
    "int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64[::1], int64[::1], int64[::1], "
    "int64[:, ::1], int64[::1])",
)
def fragmented(
    free: Int64s,
    gpu: Int64s,
    memory: Int64s,
    kind: Int64s,
    needs: Int64s,
    count: Int64s,
    milli: Int64s,
    mask: Int64s,
    n_bytes: Int64s,
    weight: Int64s,
) -> int:
    """Milli-GPU that typical tasks cannot use on an agent, times their weights.  Time O(M (R + D)).

    needs int64[M, R], count, milli, mask, weight int64[M], n_bytes int64[M, T]; the rest as in `fits`. Below
    2^62 while the weights sum to less than 2^40 and the agent has less than 2^22 milli.
    """
    total = 0
    whole = 0
    for d in range(gpu.shape[0]):
        whole += gpu[d]
    if whole == 0:
        return 0
    for m in range(needs.shape[0]):
        if count[m] == 0 or not fits(free, gpu, memory, kind, needs[m], count[m], milli[m], mask[m], n_bytes[m]):
            total += weight[m] * whole
        else:
            for d in range(gpu.shape[0]):
                if not serves(gpu[d], memory[d], kind[d], milli[m], mask[m], n_bytes[m]):
                    total += weight[m] * gpu[d]
    return total


@kernel(
    "void(int64[::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1], int64, int64, int64, "
    "int64[::1], int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64[::1], int64[::1], int64[::1])",
)
def gradient(
    nodes: Int64s,
    free: Int64s,
    gpu: Int64s,
    memory: Int64s,
    kind: Int64s,
    task: Int64s,
    task_count: int,
    task_milli: int,
    task_mask: int,
    task_bytes: Int64s,
    needs: Int64s,
    count: Int64s,
    milli: Int64s,
    mask: Int64s,
    n_bytes: Int64s,
    weight: Int64s,
    out_growth: Int64s,
    out_gpu: Int64s,
) -> None:
    """By how much one task would make each of `nodes` more fragmented, and on which GPU least so.

    free int64[N, R], gpu, memory, kind int64[N, D], task int64[R], task_bytes int64[T]; out_growth
    int64[N] is NOWHERE where it does not fit and out_gpu int64[N] the slot of the first GPU it takes (-1: none); only
    entries of `nodes` are written. A task of a whole GPU or more takes the first that are whole.
    Time O(nodes · D · M (R + D)).
    """
    left = np.empty(free.shape[1], np.int64)
    gpus = np.empty(gpu.shape[1], np.int64)
    bytes_left = np.empty(gpu.shape[1], np.int64)
    for n in nodes:
        out_growth[n] = NOWHERE
        out_gpu[n] = -1
        if not fits(free[n], gpu[n], memory[n], kind[n], task, task_count, task_milli, task_mask, task_bytes):
            continue
        for r in range(free.shape[1]):
            left[r] = free[n, r] - task[r]
        before = fragmented(free[n], gpu[n], memory[n], kind[n], needs, count, milli, mask, n_bytes, weight)
        if task_count == 1 and task_milli < WHOLE:
            for d in range(gpu.shape[1]):
                if not serves(gpu[n, d], memory[n, d], kind[n, d], task_milli, task_mask, task_bytes):
                    continue
                for other in range(gpu.shape[1]):
                    gpus[other] = gpu[n, other]
                    bytes_left[other] = memory[n, other]
                gpus[d] -= task_milli
                bytes_left[d] -= task_bytes[kind[n, d]]
                grown = fragmented(left, gpus, bytes_left, kind[n], needs, count, milli, mask, n_bytes, weight) - before
                if grown < out_growth[n]:
                    out_growth[n] = grown
                    out_gpu[n] = d
            continue
        wanted = task_count
        for d in range(gpu.shape[1]):
            gpus[d] = gpu[n, d]
            bytes_left[d] = memory[n, d]
            if wanted > 0 and serves(gpu[n, d], memory[n, d], kind[n, d], task_milli, task_mask, task_bytes):
                if wanted == task_count:
                    out_gpu[n] = d
                gpus[d] -= task_milli
                bytes_left[d] -= task_bytes[kind[n, d]]
                wanted -= 1
        out_growth[n] = fragmented(left, gpus, bytes_left, kind[n], needs, count, milli, mask, n_bytes, weight) - before
