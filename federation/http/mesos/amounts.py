"""Resources of Mesos ↔ ours: CPUs and GPUs in thousandths, memory and disk in MiB with three decimals.

Mesos keeps three decimals of every scalar. What is said of an offer is rounded down, so that a client that takes all
of it takes no more than there is.
"""

import math
from collections.abc import Iterable
from typing import Any

from federation.errors import PeerError
from federation.http.mesos.messages import Resource, Scalar
from federation.market.protocol import Claim, FrameworkInfo, LeastOffer, Portion, Reservation
from policies.gpus import WHOLE, milli_of
from policies.model import Record, Resources

MIB = 2**20
ANY_ROLE = "*"  # of Mesos; ours is called DEFAULT_ROLE
DEFAULT_ROLE = "default"
_AMOUNT_MAX = 2**60
_UNITS = {"cpus": "cpu_milli", "mem": "memory_bytes", "disk": "disk_bytes", "gpus": "gpus"}


class Dialect(Record, frozen=True, kw_only=True):
    """How one framework is spoken to, by its capabilities."""

    multi_role: bool = False
    refined: bool = False  # reservations as a list
    star: bool = False  # it called the default role "*"
    partition_aware: bool = False
    task_killing: bool = False

    def role(self, role: str) -> str:
        return ANY_ROLE if self.star and role == DEFAULT_ROLE else role


def dialect_of(info: FrameworkInfo, star: bool) -> Dialect:
    return Dialect(
        multi_role="MULTI_ROLE" in info.capabilities,
        refined="RESERVATION_REFINEMENT" in info.capabilities,
        star=star,
        partition_aware="PARTITION_AWARE" in info.capabilities,
        task_killing="TASK_KILLING_STATE" in info.capabilities,
    )


def our_role(role: str) -> str:
    return DEFAULT_ROLE if role in (ANY_ROLE, "") else role


# --- in --------------------------------------------------------------------------------------------------------------


def claims_of(resources: Iterable[Resource]) -> tuple[Claim, ...]:
    """One claim for each standing (reservation, revocable). Raises `PeerError("invalid")`."""
    sums: dict[tuple[Reservation | None, bool], dict[str, Any]] = {}
    for resource in resources:
        name, amount = amount_of(resource)
        of_standing = sums.setdefault((reservation_of(resource), resource.revocable is not None), {})
        of_standing[name] = of_standing.get(name, 0) + amount
        if resource.offerflow.gpu_uuids:
            of_standing["gpu_uuids"] = (*of_standing.get("gpu_uuids", ()), *resource.offerflow.gpu_uuids)
    return tuple(
        Claim(reservation=reservation, revocable=revocable, **amounts)
        for (reservation, revocable), amounts in sums.items()
    )


def least_of(quantities: dict[str, Scalar]) -> LeastOffer:
    """Raises `PeerError("invalid")`."""
    found: dict[str, int] = {}
    for name, scalar in quantities.items():
        ours, amount = amount_of(Resource(name=name, scalar=scalar))
        found["gpus" if ours == "gpu_milli" else ours] = 1 if ours == "gpu_milli" else amount
    return LeastOffer(**found)


def least_trees(least: LeastOffer) -> dict[str, Any]:
    claim = Claim(
        cpu_milli=least.cpu_milli, memory_bytes=least.memory_bytes, disk_bytes=least.disk_bytes, gpus=least.gpus
    )
    return {name: {"value": amount} for name, amount in claim_amounts(claim)}


def amount_of(resource: Resource) -> tuple[str, int]:
    """Our name of the amount, and how much. Raises `PeerError("invalid")`."""
    if resource.name not in _UNITS:
        raise PeerError(
            "invalid", f"resource {resource.name[:80]!r} is not offered here: there are {', '.join(_UNITS)}"
        )
    if resource.scalar is None or resource.type != "SCALAR":
        raise PeerError("invalid", f"resource {resource.name!r} needs type SCALAR and scalar.value")
    value = resource.scalar.value
    if not math.isfinite(value) or value < 0:
        raise PeerError("invalid", f"resource {resource.name!r} is no amount")
    milli = round(value * 1000)
    if resource.name == "gpus":
        if milli % WHOLE and milli > WHOLE:
            raise PeerError("invalid", "gpus are whole ones, or a share of one")
        return ("gpu_milli", milli) if 0 < milli < WHOLE else ("gpus", milli // WHOLE)
    amount = milli if resource.name == "cpus" else milli * MIB // 1000
    if amount > _AMOUNT_MAX:
        raise PeerError("invalid", f"resource {resource.name!r} exceeds all that can be")
    return _UNITS[resource.name], amount


def reservation_of(resource: Resource) -> Reservation | None:
    """The reservation, of either format; None where there is none. Raises `PeerError("invalid")`."""
    if len(resource.reservations) > 1:
        raise PeerError("invalid", "a reservation is of one role: reservations are not refined here")
    if resource.reservations:
        info = resource.reservations[0]
        role = info.role or resource.role
    elif resource.reservation is not None:
        info, role = resource.reservation, resource.role
    elif resource.role not in (ANY_ROLE, ""):  # the older format of a static one
        return Reservation(role=resource.role, kind="static")
    else:
        return None
    labels = tuple(sorted((label.key, label.value) for label in info.labels.labels))
    kind = info.type.lower()
    if kind not in ("static", "dynamic"):
        raise PeerError("invalid", f"a reservation is STATIC or DYNAMIC, not {info.type[:80]!r}")
    return Reservation(
        role=our_role(role),
        kind="static" if kind == "static" else "dynamic",
        principal=info.principal,
        labels=labels,
    )


# --- out -------------------------------------------------------------------------------------------------------------


def milli_text(milli: int) -> int | float:
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


def mib(n_bytes: int) -> int | float:
    return milli_text(n_bytes * 1000 // MIB)


def resources_of(resources: Resources) -> list[tuple[str, int | float]]:
    amounts = [
        ("cpus", milli_text(resources.cpu_milli)),
        ("mem", mib(resources.memory_bytes)),
        ("disk", mib(resources.disk_bytes)),
        ("gpus", milli_text(milli_of(resources.gpus))),
    ]
    return [(name, amount) for name, amount in amounts if amount]


def claim_amounts(claim: Claim) -> list[tuple[str, int | float]]:
    """As `resources_of`, rounded up: less than what is claimed would be taken otherwise."""
    amounts = [
        ("cpus", milli_text(claim.cpu_milli)),
        ("mem", milli_text(-(-claim.memory_bytes * 1000 // MIB))),
        ("disk", milli_text(-(-claim.disk_bytes * 1000 // MIB))),
        ("gpus", milli_text(claim.gpu_milli) if claim.gpu_milli else claim.gpus),
    ]
    return [(name, amount) for name, amount in amounts if amount]


def portion_trees(portion: Portion, role: str | None, dialect: Dialect) -> list[dict[str, Any]]:
    """The resources of one standing. `role`: of the allocation, None where the framework is not told."""
    standing = standing_tree(portion.reservation, portion.revocable, dialect)
    if role is not None:
        standing["allocation_info"] = {"role": dialect.role(role)}
    return [scalar_tree(name, amount) | standing for name, amount in resources_of(portion.resources)]


def scalar_tree(name: str, amount: int | float) -> dict[str, Any]:
    return {"name": name, "type": "SCALAR", "scalar": {"value": amount}}


def standing_tree(reservation: Reservation | None, revocable: bool, dialect: Dialect) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if reservation is None:
        tree["role"] = ANY_ROLE
    else:
        role = dialect.role(reservation.role)
        info: dict[str, Any] = {}
        if reservation.principal:
            info["principal"] = reservation.principal
        if reservation.labels:
            info["labels"] = labels_tree(reservation.labels)
        if dialect.refined:
            tree["reservations"] = [{"type": reservation.kind.upper(), "role": role} | info]
        else:
            tree["role"] = role
            if reservation.kind == "dynamic":
                tree["reservation"] = info
    if revocable:
        tree["revocable"] = {}
    return tree


def labels_tree(labels: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {"labels": [{"key": key, "value": value} for key, value in labels]}
