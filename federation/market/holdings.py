"""What the market has of one agent: framework tasks, leases, and pools reserved for roles.

Of what is free on an agent (its total less everything placed on it), the part of each pool that nobody uses belongs to
the pool; the rest is unreserved. Each part less the leases on it is what may be offered, so a unit is never offered
twice. Revocable units are borrowed from what a pool does not use.
"""

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from federation.market.protocol import FrameworkOffer, OfferedAgent, Portion, Reservation
from policies.gpus import least, minus, plus, without
from policies.model import Amount, Gpu, Resources
from policies.resources import amount_of, total

if TYPE_CHECKING:
    from federation.market.book import FrameworkTask


class Standing(NamedTuple):
    """Whose resources these are: what can be taken from a portion must have the same."""

    reservation: Reservation | None
    revocable: bool


OPEN = Standing(None, False)
ROW = struct.Struct("=4q")


class Bundle:
    """A mutable amount of one agent's resources, GPUs by uuid."""

    __slots__ = ("cpu_milli", "disk_bytes", "gpus", "memory_bytes")

    def __init__(self, cpu_milli: int = 0, memory_bytes: int = 0, disk_bytes: int = 0) -> None:
        self.cpu_milli = cpu_milli
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.gpus: dict[str, Gpu] = {}

    def add(self, other: Resources) -> None:
        self.cpu_milli += other.cpu_milli
        self.memory_bytes += other.memory_bytes
        self.disk_bytes += other.disk_bytes
        for gpu in other.gpus:
            here = self.gpus.get(gpu.uuid)
            self.gpus[gpu.uuid] = gpu if here is None else plus(here, gpu)

    def take(self, other: Resources) -> None:
        self.cpu_milli -= other.cpu_milli
        self.memory_bytes -= other.memory_bytes
        self.disk_bytes -= other.disk_bytes
        for gpu in other.gpus:
            here = self.gpus.pop(gpu.uuid, None)
            left = minus(here, gpu) if here is not None else None
            if left is not None:
                self.gpus[gpu.uuid] = left

    def frozen(self) -> Resources:
        return Resources(
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
            gpus=tuple(self.gpus.values()),
        )

    def is_empty(self) -> bool:
        return not (self.cpu_milli or self.memory_bytes or self.disk_bytes or self.gpus)


class Pool:
    """Resources of an agent reserved for a role: `size` of them, `used` by its tasks, `lent` to revocable ones,
    `leased` to frameworks of the role, `lent_leased` in revocable leases."""

    __slots__ = ("leased", "lent", "lent_leased", "reservation", "size", "used")

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation
        self.size = Bundle()
        self.used = Bundle()
        self.lent = Bundle()
        self.leased = Bundle()
        self.lent_leased = Bundle()

    def unused(self, *taken: Bundle) -> tuple[int, int, int, tuple[Gpu, ...]]:
        """The size less what is used, lent, and in the other bundles named."""
        cpu, memory, disk = self.size.cpu_milli, self.size.memory_bytes, self.size.disk_bytes
        for bundle in (self.used, self.lent, *taken):
            cpu -= bundle.cpu_milli
            memory -= bundle.memory_bytes
            disk -= bundle.disk_bytes
        gone = (gpu for bundle in (self.used, self.lent, *taken) for gpu in bundle.gpus.values())
        return cpu, memory, disk, without(tuple(self.size.gpus.values()), gone)


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A framework's offer while it lives. It can be in no cycle, so the collector need not look at it."""

    offer: FrameworkOffer
    number: int  # of this term: later ones end later
    pieces: int = 0  # of the request, for a shaped offer

    @property
    def amount(self) -> Amount:
        """All of it: asked for when it ends, and by who looks."""
        portions = self.offer.portions
        if len(portions) == 1:
            return amount_of(portions[0].resources)
        return total(amount_of(portion.resources) for portion in portions)

    @property
    def expires_us(self) -> int:
        return self.offer.expires_us

    @property
    def request_id(self) -> str:
        return self.offer.request_id


class Item(msgspec.Struct, frozen=True, gc=False):
    """What of one agent is free and has one standing: a cycle gives it to one client, or to several in parts."""

    standing: Standing
    free: Resources
    gpus: tuple[Gpu, ...]  # in the order in which they are given
    portions: tuple[Portion, ...]  # of who gets the whole

    @property
    def row(self) -> bytes:
        """`free` as the cycle's kernel has it: four int64, whole GPUs."""
        free = self.free
        return ROW.pack(free.cpu_milli, free.memory_bytes, free.disk_bytes, len(self.gpus))


class Face(msgspec.Struct, frozen=True, gc=False):
    """What a cycle asks of an agent that takes work, found once until the agent changes."""

    agent: OfferedAgent
    expires_us: int  # when the agent's own offer ends
    is_plain: bool  # without GPUs and pools, as nearly all are
    item: Item  # all that nothing runs on
    row: bytes  # of the item


class Holdings:
    __slots__ = ("leases", "pools", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[str, FrameworkTask] = {}  # by wire id
        self.leases: tuple[Lease, ...] = ()  # mostly none or one: no table to fill and to empty with each
        self.pools: dict[Reservation, Pool] = {}

    def open_part(self, free: Resources) -> Resources:
        """What of an agent's free resources is neither reserved nor leased."""
        cpu, memory, disk = free.cpu_milli, free.memory_bytes, free.disk_bytes
        gone: list[Gpu] = []
        for made in self.leases:
            for portion in made.offer.portions:
                if portion.reservation is None:
                    leased = portion.resources
                    cpu -= leased.cpu_milli
                    memory -= leased.memory_bytes
                    disk -= leased.disk_bytes
                    gone += leased.gpus
        for pool in self.pools.values():
            pool_cpu, pool_memory, pool_disk, unused = pool.unused()
            cpu, memory, disk = cpu - max(0, pool_cpu), memory - max(0, pool_memory), disk - max(0, pool_disk)
            gone += unused
        gpus = free.gpus
        if gone and gpus:
            gpus = without(gpus, gone)
        return Resources(
            cpu_milli=cpu if cpu > 0 else 0,
            memory_bytes=memory if memory > 0 else 0,
            disk_bytes=disk if disk > 0 else 0,
            gpus=gpus,
        )

    def pool_part(self, pool: Pool, free: Resources) -> Resources:
        """What of a pool may be leased to its role now (or, revocably, to anyone)."""
        cpu, memory, disk, unused = pool.unused(pool.leased, pool.lent_leased)
        here = {gpu.uuid: gpu for gpu in free.gpus}
        return Resources(
            cpu_milli=max(0, min(cpu, free.cpu_milli)),
            memory_bytes=max(0, min(memory, free.memory_bytes)),
            disk_bytes=max(0, min(disk, free.disk_bytes)),
            gpus=tuple(least(gpu, here[gpu.uuid]) for gpu in unused if gpu.uuid in here),
        )

    def bundle_leased(self, reservation: Reservation, revocable: bool) -> Bundle:
        """Where a lease's portion of a pool is booked. For what is unreserved the leases themselves are asked."""
        pool = self.pools[reservation]
        return pool.lent_leased if revocable else pool.leased

    def bundle_used(self, standing: Standing) -> Bundle | None:
        """Where a task's claim is booked; None for unreserved ones, which the agent's own sums hold."""
        if standing.reservation is None or standing.reservation not in self.pools:
            return None
        pool = self.pools[standing.reservation]
        return pool.lent if standing.revocable else pool.used

    def is_idle(self) -> bool:
        return not (self.tasks or self.leases or self.pools)


def standing_of(portion: Portion) -> Standing:
    return Standing(portion.reservation, portion.revocable)


def by_standing(portions: tuple[Portion, ...]) -> dict[Standing, Resources]:
    left: dict[Standing, Bundle] = {}
    for portion in portions:
        left.setdefault(standing_of(portion), Bundle()).add(portion.resources)
    return {standing: bundle.frozen() for standing, bundle in left.items()}
