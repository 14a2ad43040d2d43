"""Arithmetic on resources: what fits, what is short, what is left. Pure, exact and deterministic; agents may load it.

`Resources` are one agent's, with every GPU named; `Needs` are one task's; `Amount` is a sum over agents, GPUs as a
count. GPUs are chosen best fit: of those that match, the ones with the least memory, then by uuid, so that large
ones stay free for whom only large ones will do.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from policies.model import Amount, Gpu, GpuNeed, Needs, Reason, Resources

PPM = 1_000_000


class Shortfall(NamedTuple):
    """A kind of resource of which `has` is below `needs`; both in `unit`."""

    reason: Reason
    needs: int
    has: int
    unit: Literal["milli", "bytes", "count"]


# --- one task on one agent -------------------------------------------------------------------------------------------


def gpu_matches(need: GpuNeed, gpu: Gpu) -> bool:
    """Whether one GPU will do. Memory that cannot be read meets only a need of none."""
    if need.model is not None and gpu.model != need.model:
        return False
    return need.memory_bytes <= (gpu.memory_bytes or 0)


def choose_gpus(need: GpuNeed | None, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...] | None:
    """The GPUs a task gets, best fit first; None when too few match."""
    if need is None or need.count == 0:
        return ()
    matching = sorted((g for g in gpus if gpu_matches(need, g)), key=lambda g: (g.memory_bytes or 0, g.uuid))
    return tuple(matching[: need.count]) if len(matching) >= need.count else None


def fits(needs: Needs, free: Resources) -> bool:
    """Whether `free` holds the needs of one task. Links are not looked at."""
    return (
        needs.cpu_milli <= free.cpu_milli
        and needs.memory_bytes <= free.memory_bytes
        and needs.disk_bytes <= free.disk_bytes
        and (needs.gpu is None or choose_gpus(needs.gpu, free.gpus) is not None)
    )


def shortfalls(needs: Needs, free: Resources) -> tuple[Shortfall, ...]:
    """Every kind that is short, in the order cpu, memory, disk, gpu; empty exactly when `fits`."""
    short: list[Shortfall] = []
    if needs.cpu_milli > free.cpu_milli:
        short.append(Shortfall(Reason.CPU, needs.cpu_milli, free.cpu_milli, "milli"))
    if needs.memory_bytes > free.memory_bytes:
        short.append(Shortfall(Reason.MEMORY, needs.memory_bytes, free.memory_bytes, "bytes"))
    if needs.disk_bytes > free.disk_bytes:
        short.append(Shortfall(Reason.DISK, needs.disk_bytes, free.disk_bytes, "bytes"))
    if needs.gpu is not None:
        matching = sum(gpu_matches(needs.gpu, gpu) for gpu in free.gpus)
        if matching < needs.gpu.count:
            short.append(Shortfall(Reason.GPU, needs.gpu.count, matching, "count"))
    return tuple(short)


def take(needs: Needs, free: Resources) -> tuple[Resources, tuple[str, ...]]:
    """What is left of `free` after one task, and the uuids it gets. Raises ValueError when it does not fit."""
    chosen = choose_gpus(needs.gpu, free.gpus)
    if chosen is None or not fits(needs, free):
        raise ValueError(f"{needs} does not fit {free}")
    uuids = tuple(gpu.uuid for gpu in chosen)
    left = Resources(
        cpu_milli=free.cpu_milli - needs.cpu_milli,
        memory_bytes=free.memory_bytes - needs.memory_bytes,
        disk_bytes=free.disk_bytes - needs.disk_bytes,
        gpus=tuple(gpu for gpu in free.gpus if gpu.uuid not in uuids) if uuids else free.gpus,
    )
    return left, uuids


def give(needs: Needs, gpus: Iterable[Gpu], free: Resources) -> Resources:
    """`free` with one task's needs returned; `gpus` are those it had been given. GPUs come back sorted by uuid."""
    back = {gpu.uuid: gpu for gpu in (*free.gpus, *gpus)}
    return Resources(
        cpu_milli=free.cpu_milli + needs.cpu_milli,
        memory_bytes=free.memory_bytes + needs.memory_bytes,
        disk_bytes=free.disk_bytes + needs.disk_bytes,
        gpus=tuple(back[uuid] for uuid in sorted(back)),
    )


def copies(needs: Needs, free: Resources, at_most: int) -> int:
    """How many equal tasks fit at once, no more than `at_most`."""
    count = at_most
    for need, have in (
        (needs.cpu_milli, free.cpu_milli),
        (needs.memory_bytes, free.memory_bytes),
        (needs.disk_bytes, free.disk_bytes),
    ):
        if need > 0:
            count = min(count, max(0, have) // need)
    if needs.gpu is not None and needs.gpu.count > 0:
        count = min(count, sum(gpu_matches(needs.gpu, gpu) for gpu in free.gpus) // needs.gpu.count)
    return count


def take_copies(needs: Needs, free: Resources, count: int) -> Resources:
    """What is left of `free` after `count` equal tasks. Raises ValueError when they do not fit."""
    if copies(needs, free, count) < count:
        raise ValueError(f"{count} × {needs} does not fit {free}")
    gpus = free.gpus
    if needs.gpu is not None and needs.gpu.count * count > 0:
        taken = {
            gpu.uuid
            for gpu in choose_gpus(
                GpuNeed(count=needs.gpu.count * count, model=needs.gpu.model, memory_bytes=needs.gpu.memory_bytes),
                gpus,
            )
            or ()
        }
        gpus = tuple(gpu for gpu in gpus if gpu.uuid not in taken)
    return Resources(
        cpu_milli=free.cpu_milli - needs.cpu_milli * count,
        memory_bytes=free.memory_bytes - needs.memory_bytes * count,
        disk_bytes=free.disk_bytes - needs.disk_bytes * count,
        gpus=gpus,
    )


# --- sums over agents ------------------------------------------------------------------------------------------------


def amount_of(what: Needs | Resources, count: int = 1) -> Amount:
    """`count` times the needs of a task or an agent's resources, GPUs as a count."""
    if isinstance(what, Needs):
        n_gpus = what.gpu.count if what.gpu is not None else 0
    else:
        n_gpus = len(what.gpus)
    return Amount(
        cpu_milli=what.cpu_milli * count,
        memory_bytes=what.memory_bytes * count,
        disk_bytes=what.disk_bytes * count,
        gpus=n_gpus * count,
    )


def add(a: Amount, b: Amount) -> Amount:
    return Amount(
        cpu_milli=a.cpu_milli + b.cpu_milli,
        memory_bytes=a.memory_bytes + b.memory_bytes,
        disk_bytes=a.disk_bytes + b.disk_bytes,
        gpus=a.gpus + b.gpus,
    )


def subtract(a: Amount, b: Amount) -> Amount:
    return Amount(
        cpu_milli=a.cpu_milli - b.cpu_milli,
        memory_bytes=a.memory_bytes - b.memory_bytes,
        disk_bytes=a.disk_bytes - b.disk_bytes,
        gpus=a.gpus - b.gpus,
    )


def total(amounts: Iterable[Amount]) -> Amount:
    out = Amount()
    for amount in amounts:
        out = add(out, amount)
    return out


def kinds(amount: Amount) -> tuple[int, int, int, int]:
    """(cpu_milli, memory_bytes, disk_bytes, gpus)"""
    return amount.cpu_milli, amount.memory_bytes, amount.disk_bytes, amount.gpus


def within_quota(allocated: Amount, quota: Amount | None) -> bool:
    """Whether a role's allocation keeps its quota. A kind of which the quota names 0 is not limited."""
    return quota is None or all(
        limit == 0 or have <= limit for have, limit in zip(kinds(allocated), kinds(quota), strict=True)
    )


def quota_copies(needs: Needs, allocated: Amount, quota: Amount | None, at_most: int) -> int:
    """How many equal tasks a role may start before its quota is reached, no more than `at_most`."""
    if quota is None:
        return at_most
    count = at_most
    for need, have, limit in zip(kinds(amount_of(needs)), kinds(allocated), kinds(quota), strict=True):
        if need > 0 and limit > 0:
            count = min(count, max(0, limit - have) // need)
    return count


def role_chain(path: str) -> tuple[str, ...]:
    """A role and all above it, outermost first: "ml/vision" → ("ml", "ml/vision")."""
    parts = path.split("/")
    return tuple("/".join(parts[: n + 1]) for n in range(len(parts)))


def dominant_share_ppm(allocated: Amount, whole: Amount) -> int:
    """The largest share of any kind, in parts per million of `whole`; kinds of which there are none count nothing."""
    shares = (have * PPM // limit for have, limit in zip(kinds(allocated), kinds(whole), strict=True) if limit > 0)
    return max(shares, default=0)
