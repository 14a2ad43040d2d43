"""Arithmetic on resources: what fits, what is short, what is left. Pure, exact and deterministic; agents may load it.

`Resources` are one agent's, with every GPU named; `Needs` are one task's; `Amount` is a sum over agents, GPUs as a
count and thousandths. GPUs are chosen best fit (`gpus.best_first`).
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from policies import gpus as parts
from policies.model import Amount, Gpu, GpuNeed, Needs, Reason, Resources

PPM = 1_000_000


class Shortfall(NamedTuple):
    """A kind of resource of which `has` is below `needs`; both in `unit`."""

    reason: Reason
    needs: int
    has: int
    unit: Literal["milli", "bytes", "count"]


# --- one task on one agent -------------------------------------------------------------------------------------------


def choose_gpus(need: GpuNeed | None, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...] | None:
    """The GPUs a task gets (or gets a share of), best fit first; None when too few match."""
    if need is None or need.count == 0:
        return ()
    matching = parts.best_first(g for g in gpus if parts.matches(need, g))
    return tuple(matching[: need.count]) if len(matching) >= need.count else None


def gpu_copies(need: GpuNeed, gpus: tuple[Gpu, ...]) -> int:
    """How many equal tasks these GPUs have room for."""
    return sum(parts.n_tasks(need, gpu) for gpu in gpus) // max(1, need.count)


def named_gpus(need: GpuNeed, gpus: tuple[Gpu, ...], uuids: Iterable[str]) -> tuple[Gpu, ...] | None:
    """The GPUs of these names, if they will do for one task; None when not."""
    here = {gpu.uuid: gpu for gpu in gpus}
    chosen = tuple(here[uuid] for uuid in uuids if uuid in here and parts.matches(need, here[uuid]))
    return chosen if len({gpu.uuid for gpu in chosen}) == need.count == len(chosen) else None


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
        matching = sum(parts.matches(needs.gpu, gpu) for gpu in free.gpus)
        if matching < needs.gpu.count:
            is_share = parts.is_share(needs.gpu)
            short.append(
                share_shortfall(needs.gpu, free.gpus)
                if is_share
                else Shortfall(Reason.GPU, needs.gpu.count, matching, "count")
            )
    return tuple(short)


def share_shortfall(need: GpuNeed, gpus: Iterable[Gpu]) -> Shortfall:
    """By how much a share of a GPU is missed: thousandths of the freest one, or its memory where there are enough."""
    may = [g for g in gpus if g.isolation == "shared" and (need.model is None or g.model == need.model)]
    milli = max((gpu.milli for gpu in may), default=0)
    if milli < need.milli:
        return Shortfall(Reason.GPU, need.milli, milli, "milli")
    best = max((gpu for gpu in may if gpu.milli >= need.milli), key=parts.memory_of)
    return Shortfall(Reason.GPU, parts.taken_bytes(need, best), parts.memory_of(best), "bytes")


def take(needs: Needs, free: Resources, uuids: Iterable[str] = ()) -> tuple[Resources, tuple[str, ...]]:
    """What is left of `free` after one task, and the uuids it gets: those named where they will do. Raises ValueError
    when it does not fit."""
    chosen = choose_gpus(needs.gpu, free.gpus)
    if chosen is None or not fits(needs, free):
        raise ValueError(f"{needs} does not fit {free}")
    if uuids and needs.gpu is not None:
        chosen = named_gpus(needs.gpu, free.gpus, uuids) or chosen
    left = Resources(
        cpu_milli=free.cpu_milli - needs.cpu_milli,
        memory_bytes=free.memory_bytes - needs.memory_bytes,
        disk_bytes=free.disk_bytes - needs.disk_bytes,
        gpus=parts.without(free.gpus, (parts.held(needs.gpu, gpu) for gpu in chosen)) if chosen else free.gpus,
    )
    return left, tuple(gpu.uuid for gpu in chosen)


def give(needs: Needs, gpus: Iterable[Gpu], free: Resources) -> Resources:
    """`free` with one task's needs returned; `gpus` are those it had been given. GPUs come back sorted by uuid."""
    back = parts.together(free.gpus, (parts.held(needs.gpu, gpu) for gpu in gpus))
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
        count = min(count, gpu_copies(needs.gpu, free.gpus))
    return count


def take_copies(needs: Needs, free: Resources, count: int, uuids: tuple[str, ...] = ()) -> Resources:
    """What is left of `free` after `count` equal tasks, on the GPUs named (task after task) where they will do. Raises
    ValueError when they do not fit."""
    if copies(needs, free, count) < count:
        raise ValueError(f"{count} × {needs} does not fit {free}")
    gpus = free.gpus
    if needs.gpu is not None and needs.gpu.count:
        for _, taken in gpus_of_tasks(needs.gpu, gpus, count, uuids):
            gpus = parts.without(gpus, taken)
    return Resources(
        cpu_milli=free.cpu_milli - needs.cpu_milli * count,
        memory_bytes=free.memory_bytes - needs.memory_bytes * count,
        disk_bytes=free.disk_bytes - needs.disk_bytes * count,
        gpus=gpus,
    )


def gpus_of_tasks(
    need: GpuNeed, gpus: tuple[Gpu, ...], count: int, uuids: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], tuple[Gpu, ...]]]:
    """For each of `count` tasks the GPUs it gets, and what it holds of them: those named where they will do, else the
    best fit. Raises ValueError when they run out."""
    found: list[tuple[tuple[str, ...], tuple[Gpu, ...]]] = []
    for n in range(count):
        named = uuids[n * need.count : (n + 1) * need.count]
        chosen = named_gpus(need, gpus, named) if named else None
        chosen = chosen or choose_gpus(need, gpus)
        if chosen is None:
            raise ValueError(f"{count} × {need} do not fit {gpus}")
        taken = tuple(parts.held(need, gpu) for gpu in chosen)
        gpus = parts.without(gpus, taken)
        found.append((tuple(gpu.uuid for gpu in chosen), taken))
    return found


# --- sums over agents ------------------------------------------------------------------------------------------------


def amount_of(what: Needs | Resources, count: int = 1) -> Amount:
    """`count` times the needs of a task or an agent's resources, GPUs as a count and thousandths."""
    if isinstance(what, Needs):
        n_gpus, milli = (what.gpu.count, what.gpu.milli) if what.gpu is not None else (0, parts.WHOLE)
        gpu_milli = n_gpus * milli * count
    else:
        gpu_milli = parts.milli_of(what.gpus) * count if what.gpus else 0
    return Amount(
        cpu_milli=what.cpu_milli * count,
        memory_bytes=what.memory_bytes * count,
        disk_bytes=what.disk_bytes * count,
        gpus=gpu_milli // parts.WHOLE,
        gpu_milli=gpu_milli % parts.WHOLE,
    )


def add(a: Amount, b: Amount) -> Amount:
    over, milli = divmod(a.gpu_milli + b.gpu_milli, parts.WHOLE)
    return Amount(
        cpu_milli=a.cpu_milli + b.cpu_milli,
        memory_bytes=a.memory_bytes + b.memory_bytes,
        disk_bytes=a.disk_bytes + b.disk_bytes,
        gpus=a.gpus + b.gpus + over,
        gpu_milli=milli,
    )


def subtract(a: Amount, b: Amount) -> Amount:
    over, milli = divmod(a.gpu_milli - b.gpu_milli, parts.WHOLE)
    return Amount(
        cpu_milli=a.cpu_milli - b.cpu_milli,
        memory_bytes=a.memory_bytes - b.memory_bytes,
        disk_bytes=a.disk_bytes - b.disk_bytes,
        gpus=a.gpus - b.gpus + over,
        gpu_milli=milli,
    )


def total(amounts: Iterable[Amount]) -> Amount:
    out = Amount()
    for amount in amounts:
        out = add(out, amount)
    return out


def kinds(amount: Amount) -> tuple[int, int, int, int]:
    """(cpu_milli, memory_bytes, disk_bytes, thousandths of GPUs)"""
    gpu_milli = amount.gpus * parts.WHOLE + amount.gpu_milli
    return amount.cpu_milli, amount.memory_bytes, amount.disk_bytes, gpu_milli


def amount_from(cpu_milli: int, memory_bytes: int, disk_bytes: int, gpu_milli: int) -> Amount:
    """The inverse of `kinds`."""
    gpus, milli = divmod(gpu_milli, parts.WHOLE)
    return Amount(cpu_milli=cpu_milli, memory_bytes=memory_bytes, disk_bytes=disk_bytes, gpus=gpus, gpu_milli=milli)


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
