"""Fragmentation of shared GPUs, after Weng et al., "Beware of Fragmentation" (USENIX ATC 2023).

An agent's free GPU capacity is fragmented for a typical task as far as that task cannot use it: all of it when the task
does not fit there or wants no GPU, else what lies on GPUs with less free than the task takes of one. Summed over
typical tasks by how common they are, it is what a placement should let grow as little as possible.

Axes: N agents, D slots for GPUs on each (those beyond an agent's own are 0 and of type -1), R other kinds of resources,
M typical tasks. GPUs are in thousandths; a task takes `milli` of each of `count` GPUs, less than 1000 only of one.
"""

import numpy as np

from policies.kernels.jit import Int64s, kernel

WHOLE = 1000  # milli of one GPU
NOWHERE = 1 << 62  # the growth where a task does not fit


@kernel("boolean(int64[::1], int64[::1], int64[::1], int64[::1], int64, int64, int64)")
def fits(free: Int64s, gpu: Int64s, kind: Int64s, needs: Int64s, count: int, milli: int, mask: int) -> bool:
    """Whether a task fits an agent.  Time O(R + D).

    free int64[R], gpu int64[D] milli free, kind int64[D] GPU type (a bit of `mask`), needs int64[R].
    """
    for r in range(free.shape[0]):
        if free[r] < needs[r]:
            return False
    if count == 0:
        return True
    found = 0
    for d in range(gpu.shape[0]):
        if gpu[d] >= milli and kind[d] >= 0 and (mask >> kind[d]) & 1 == 1:
            found += 1
    return found >= count


@kernel(
    "int64(int64[::1], int64[::1], int64[::1], int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1])",
)
def fragmented(
    free: Int64s,
    gpu: Int64s,
    kind: Int64s,
    needs: Int64s,
    count: Int64s,
    milli: Int64s,
    mask: Int64s,
    weight: Int64s,
) -> int:
    """Milli-GPU that typical tasks cannot use on an agent, times their weights.  Time O(M (R + D)).

    needs int64[M, R], count, milli, mask, weight int64[M]; the rest as in `fits`. Below 2^62 while the weights sum to
    less than 2^40 and the agent has less than 2^22 milli.
    """
    total = 0
    whole = 0
    for d in range(gpu.shape[0]):
        whole += gpu[d]
    if whole == 0:
        return 0
    for m in range(needs.shape[0]):
        if count[m] == 0 or not fits(free, gpu, kind, needs[m], count[m], milli[m], mask[m]):
            total += weight[m] * whole
        else:
            for d in range(gpu.shape[0]):
                if gpu[d] < milli[m] or kind[d] < 0 or (mask[m] >> kind[d]) & 1 == 0:
                    total += weight[m] * gpu[d]
    return total


@kernel(
    "void(int64[::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1], int64, int64, int64, "
    "int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])",
)
def gradient(
    nodes: Int64s,
    free: Int64s,
    gpu: Int64s,
    kind: Int64s,
    task: Int64s,
    task_count: int,
    task_milli: int,
    task_mask: int,
    needs: Int64s,
    count: Int64s,
    milli: Int64s,
    mask: Int64s,
    weight: Int64s,
    out_growth: Int64s,
    out_gpu: Int64s,
) -> None:
    """By how much one task would make each of `nodes` more fragmented, and on which GPU least so.

    free int64[N, R], gpu, kind int64[N, D], task int64[R]; out_growth int64[N] is NOWHERE where it does not fit and
    out_gpu int64[N] the slot of the first GPU it takes (-1: none); only entries of `nodes` are written. A task of a
    whole GPU or more takes the first that are whole.  Time O(nodes · D · M (R + D)).
    """
    left = np.empty(free.shape[1], np.int64)
    gpus = np.empty(gpu.shape[1], np.int64)
    for n in nodes:
        out_growth[n] = NOWHERE
        out_gpu[n] = -1
        if not fits(free[n], gpu[n], kind[n], task, task_count, task_milli, task_mask):
            continue
        for r in range(free.shape[1]):
            left[r] = free[n, r] - task[r]
        before = fragmented(free[n], gpu[n], kind[n], needs, count, milli, mask, weight)
        if task_count == 1 and task_milli < WHOLE:
            for d in range(gpu.shape[1]):
                if gpu[n, d] < task_milli or kind[n, d] < 0 or (task_mask >> kind[n, d]) & 1 == 0:
                    continue
                for other in range(gpu.shape[1]):
                    gpus[other] = gpu[n, other]
                gpus[d] -= task_milli
                grown = fragmented(left, gpus, kind[n], needs, count, milli, mask, weight) - before
                if grown < out_growth[n]:
                    out_growth[n] = grown
                    out_gpu[n] = d
            continue
        wanted = task_count
        for d in range(gpu.shape[1]):
            gpus[d] = gpu[n, d]
            if wanted > 0 and gpu[n, d] >= task_milli and kind[n, d] >= 0 and (task_mask >> kind[n, d]) & 1 == 1:
                if wanted == task_count:
                    out_gpu[n] = d
                gpus[d] -= task_milli
                wanted -= 1
        out_growth[n] = fragmented(left, gpus, kind[n], needs, count, milli, mask, weight) - before
