"""Arithmetic on GPUs and parts of them. Pure and exact; agents may load it.

A `Gpu` stands for thousandths of a device and for memory that comes with them: all of it, what is left of it, or what
one task holds of it. Only a device whose isolation is `shared` is ever in parts.
"""

from collections.abc import Iterable

import msgspec

from policies.model import Gpu, GpuNeed

WHOLE = 1000  # milli


def is_share(need: GpuNeed | None) -> bool:
    """Whether a part of one GPU is enough."""
    return need is not None and need.milli < WHOLE


def memory_of(gpu: Gpu) -> int:
    """The bytes of memory that a part holds; 0 where nobody could read them."""
    if gpu.memory_left_bytes is not None:
        return gpu.memory_left_bytes
    return gpu.memory_bytes or 0


def taken_bytes(need: GpuNeed, gpu: Gpu) -> int:
    """What a task takes of a GPU's memory: what it names, else the same share of it as of the rest."""
    if need.milli >= WHOLE:
        return gpu.memory_bytes or 0
    return need.memory_bytes or (gpu.memory_bytes or 0) * need.milli // WHOLE


def matches(need: GpuNeed, gpu: Gpu) -> bool:
    """Whether one GPU will do as it is. Memory that cannot be read meets only a need of none."""
    if (need.model is not None and gpu.model != need.model) or gpu.milli < need.milli:
        return False
    if need.milli >= WHOLE:
        return need.memory_bytes <= (gpu.memory_bytes or 0)
    return gpu.isolation == "shared" and taken_bytes(need, gpu) <= memory_of(gpu)


def n_tasks(need: GpuNeed, gpu: Gpu) -> int:
    """How many tasks a GPU has room for, each with a share of it; 1 or 0 for a need of whole ones."""
    if not matches(need, gpu):
        return 0
    if need.milli >= WHOLE:
        return 1
    each = taken_bytes(need, gpu)
    return min(gpu.milli // need.milli, memory_of(gpu) // each) if each else gpu.milli // need.milli


def best_first(gpus: Iterable[Gpu]) -> list[Gpu]:
    """In the order in which they are given out: those begun before those untouched, the fullest first; then those that
    are not shared, least memory first, so that large ones stay free for whom only large ones will do."""
    return sorted(gpus, key=lambda gpu: (gpu.milli, gpu.memory_bytes or 0, gpu.isolation == "shared", gpu.uuid))


def part(gpu: Gpu, milli: int, memory_bytes: int) -> Gpu:
    """So much of a device; all of it where that is all of its thousandths."""
    if milli >= WHOLE:
        return gpu if gpu.milli == WHOLE else msgspec.structs.replace(gpu, milli=WHOLE, memory_left_bytes=None)
    return msgspec.structs.replace(
        gpu, milli=milli, memory_left_bytes=None if gpu.memory_bytes is None else memory_bytes
    )


def held(need: GpuNeed | None, gpu: Gpu) -> Gpu:
    """What a task with this need holds of a device that it was given."""
    return part(gpu, WHOLE if need is None else need.milli, taken_bytes(need, gpu) if need is not None else 0)


def plus(gpu: Gpu, other: Gpu) -> Gpu:
    """Both parts of one device together, no more than all of it."""
    return part(gpu, gpu.milli + other.milli, memory_of(gpu) + memory_of(other))


def minus(gpu: Gpu, other: Gpu) -> Gpu | None:
    """What is left of a part without another; None where that is nothing."""
    if other.milli >= gpu.milli:
        return None
    return part(gpu, gpu.milli - other.milli, max(0, memory_of(gpu) - memory_of(other)))


def least(gpu: Gpu, other: Gpu) -> Gpu:
    """Of each the lesser."""
    if gpu.milli == WHOLE or other.milli == WHOLE:
        return other if gpu.milli == WHOLE else gpu
    return part(gpu, min(gpu.milli, other.milli), min(memory_of(gpu), memory_of(other)))


def without(gpus: tuple[Gpu, ...], gone: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """What is left of devices once parts of them are gone, in their order."""
    left = {gpu.uuid: gpu for gpu in gpus}
    for each in gone:
        here = left.get(each.uuid)
        if here is not None:
            rest = minus(here, each)
            if rest is None:
                del left[each.uuid]
            else:
                left[each.uuid] = rest
    return tuple(left[gpu.uuid] for gpu in gpus if gpu.uuid in left)


def together(*parts: Iterable[Gpu]) -> dict[str, Gpu]:
    """By uuid, what these are of each device together."""
    sums: dict[str, Gpu] = {}
    for gpus in parts:
        for gpu in gpus:
            sums[gpu.uuid] = plus(sums[gpu.uuid], gpu) if gpu.uuid in sums else gpu
    return sums


def milli_of(gpus: Iterable[Gpu]) -> int:
    return sum(gpu.milli for gpu in gpus)
