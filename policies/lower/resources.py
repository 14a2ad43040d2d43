"""Resources in columns: what agents have left, GPUs by type, what demands need, and what running work gives back."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policies.gpus import WHOLE, best_first, memory_of
from policies.lower.bounds import AMOUNT_MAX, COUNT_MAX, TIME_US_MAX, UNKNOWN, Bools, Int64s, clip
from policies.model import Demand, Gpu, GpuNeed, Needs, Node

KINDS = 3  # cpu_milli, memory_bytes, disk_bytes; GPUs are counted by type beside them


class GpuType(NamedTuple):
    """GPUs that no demand can tell apart; `memory_bytes` is 0 where unknown."""

    model: str | None
    memory_bytes: int
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Devices:
    """Free GPUs one by one, begun ones included, in the order in which they are given out at first; made only where
    some agent shares its GPUs, else D is 0. Slots beyond an agent's own are of type UNKNOWN."""

    milli: Int64s  # [N, D]
    memory_bytes: Int64s  # [N, D] what is left of it
    kind: Int64s  # [N, D] → T
    uuids: tuple[tuple[str, ...], ...]  # [N] of its slots; () where all of its slots are empty


def gpu_columns(nodes: tuple[Node, ...], having: list[int]) -> tuple[tuple[GpuType, ...], Int64s, Devices]:
    """Types in the order in which they are met, free whole GPUs by type [N, T], and GPUs one by one. `having`: the
    nodes that have some free, ascending."""
    with_gpus = [(n, nodes[n].free.gpus) for n in having]
    ids: dict[GpuType, int] = {}
    types = [(n, ids.setdefault(gpu_type(gpu), len(ids)), gpu.milli) for n, gpus in with_gpus for gpu in gpus]
    counts = np.zeros((len(nodes), len(ids)), np.int64)
    if types:
        rows, kinds, milli = np.array(types, np.int64).T
        np.add.at(counts, (rows[milli >= WHOLE], kinds[milli >= WHOLE]), 1)
    return tuple(ids), counts, _devices(len(nodes), with_gpus, ids)


def gpu_type(gpu: Gpu) -> GpuType:
    """As which it is counted, whoever has it."""
    return GpuType(gpu.model, clip(gpu.memory_bytes or 0, AMOUNT_MAX), gpu.isolation == "shared")


def _devices(n_nodes: int, with_gpus: list[tuple[int, tuple[Gpu, ...]]], ids: dict[GpuType, int]) -> Devices:
    is_shared = any(each.is_shared for each in ids)
    width = max((len(gpus) for _, gpus in with_gpus), default=0) if is_shared else 0
    milli, memory = np.zeros((n_nodes, width), np.int64), np.zeros((n_nodes, width), np.int64)
    kind = np.full((n_nodes, width), UNKNOWN, np.int64)
    uuids: list[tuple[str, ...]] = [()] * n_nodes
    for n, gpus in with_gpus if is_shared else ():
        ordered = best_first(gpus)
        for d, gpu in enumerate(ordered):
            milli[n, d], memory[n, d] = gpu.milli, clip(memory_of(gpu), AMOUNT_MAX)
            kind[n, d] = ids[gpu_type(gpu)]
        uuids[n] = tuple(gpu.uuid for gpu in ordered)
    return Devices(milli, memory, kind, tuple(uuids))


def share_bytes(needs: tuple[Needs, ...], gpu_types: tuple[GpuType, ...]) -> Int64s:
    """As `gpus.taken_bytes`."""
    rows = [
        [clip(n.gpu.memory_bytes or each.memory_bytes * n.gpu.milli // WHOLE, AMOUNT_MAX) if n.gpu else 0
         for each in gpu_types]
        for n in needs
    ]  # fmt: skip
    return np.array(rows, np.int64).reshape(len(needs), len(gpu_types))


def needs_columns(
    demands: tuple[Demand, ...], gpu_types: tuple[GpuType, ...]
) -> tuple[tuple[Needs, ...], Int64s, Int64s, Int64s, Bools]:
    """Distinct needs, those of each demand [C], their amounts [K, KINDS], GPUs [K] and types that will do [K, T]."""
    ids: dict[tuple[object, ...], int] = {}
    distinct: list[Needs] = []
    needs_of = np.zeros(len(demands), np.int64)
    for c, demand in enumerate(demands):
        needs = demand.needs
        key = (needs.cpu_milli, needs.memory_bytes, needs.disk_bytes, needs.gpu)
        if key not in ids:
            ids[key] = len(ids)
            distinct.append(needs)
        needs_of[c] = ids[key]
    amounts = amounts_of(distinct)
    counts = np.array([clip(n.gpu.count, COUNT_MAX) if n.gpu else 0 for n in distinct], np.int64)
    mask = np.array([[_type_matches(n.gpu, each) for each in gpu_types] for n in distinct], np.bool_)
    mask = mask.reshape(len(distinct), len(gpu_types))
    return tuple(distinct), needs_of, amounts, counts, mask


def amounts_of(needs: list[Needs]) -> Int64s:
    """[K, KINDS]; what no agent can have is cut to one more than an agent may have."""
    rows = [tuple(clip(value, AMOUNT_MAX + 1) for value in (n.cpu_milli, n.memory_bytes, n.disk_bytes)) for n in needs]
    return np.array(rows, np.int64).reshape(len(needs), KINDS)


def _type_matches(need: GpuNeed | None, kind: GpuType) -> bool:
    return (
        need is not None
        and (need.model is None or need.model == kind.model)
        and need.memory_bytes <= kind.memory_bytes
        and (need.milli >= WHOLE or kind.is_shared)
    )


@dataclass(frozen=True, slots=True)
class Releases:
    """What running work is expected to give back, a row each, sorted by node and then by time."""

    node: Int64s  # [R]
    in_us: Int64s  # [R]
    amounts: Int64s  # [R, KINDS] of all tasks of the row together
    gpu_milli: Int64s  # [R]


def release_columns(nodes: tuple[Node, ...], releasing: tuple[int, ...]) -> Releases:
    """Of the nodes that have releases; times and amounts cut to their bounds."""
    rows = [
        (
            n,
            clip(release.in_us, TIME_US_MAX),
            clip(release.needs.cpu_milli * release.count, AMOUNT_MAX),
            clip(release.needs.memory_bytes * release.count, AMOUNT_MAX),
            clip(release.needs.disk_bytes * release.count, AMOUNT_MAX),
            clip(release.needs.gpu.count * release.count, COUNT_MAX) * release.needs.gpu.milli
            if release.needs.gpu is not None
            else 0,
        )
        for n in releasing
        for release in nodes[n].releases
    ]
    table = np.array(rows, np.int64).reshape(len(rows), 3 + KINDS)
    return Releases(table[:, 0], table[:, 1], table[:, 2 : 2 + KINDS], table[:, 2 + KINDS])
