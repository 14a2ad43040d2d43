"""The market's book: frameworks, their tasks, reservations. Every durable change comes from a fact."""

from __future__ import annotations

import hashlib
from collections import deque
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from federation.market.facts import (
    FrameworkEnded,
    FrameworkSet,
    FrameworkTaskChanged,
    FrameworkTaskLaunched,
    OperationAcknowledged,
    OperationChanged,
    ResourcesReserved,
    ResourcesUnreserved,
    UpdateAcknowledged,
)
from federation.market.holdings import Bundle, Lease, Pool, Standing
from federation.market.protocol import Call, Claim, InverseOffer, Reservation, TaskSpec, Update, WantedOffer
from policies.model import Amount, GpuNeed, Needs, Resources
from policies.resources import amount_of, kinds

if TYPE_CHECKING:
    from federation.agents_book import AgentBook, AgentEntry
    from federation.config import MasterConfig
    from federation.shares import ShareBook

TERMINAL = frozenset(
    {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE"}
)
PREFIX = "@"  # No job id begins so: wire ids of framework tasks are told from the built-in ones by it.


def wire_id(framework_id: str, task_id: str) -> str:
    return f"{PREFIX}{framework_id}/{task_id}"


class FrameworkTask:
    """One attempt of a command that a framework placed. `updates` are those not acknowledged yet, oldest first."""

    __slots__ = (
        "agent_id", "attempt", "cmd_id", "expected_run_us", "fact", "framework_id", "gpus", "group_id", "kill_asked",
        "kill_grace_us", "launched_us", "needs", "role", "seen", "since_us", "spec", "state", "updates", "wire_id",
    )  # fmt: skip

    def __init__(self, fact: FrameworkTaskLaunched) -> None:
        self.fact = fact
        self.framework_id = fact.framework_id
        self.spec = fact.spec
        self.role = fact.role
        self.agent_id = fact.agent_id
        self.attempt = fact.attempt
        self.cmd_id = fact.cmd_id
        self.gpus = fact.gpus
        self.group_id = fact.group_id
        self.launched_us = self.since_us = fact.at_us
        self.state = "TASK_STAGING"
        self.seen = False
        self.kill_asked = False
        self.kill_grace_us: int | None = None  # of the last kill, where it said one; of this term only
        self.expected_run_us: int | None = None  # on the reference core, where its request said so; of this term only
        self.updates: list[Update] = []
        self.wire_id = wire_id(fact.framework_id, fact.spec.task_id)
        self.needs = needs_of(fact.spec, fact.gpus)

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL

    @property
    def is_fetching(self) -> bool:
        """Whether what it reads may still be on its way."""
        return self.state in ("TASK_STAGING", "TASK_STARTING")

    def all_gpus(self) -> tuple[str, ...]:
        return tuple(uuid for uuids in self.gpus for uuid in uuids)


def needs_of(spec: TaskSpec, gpus: tuple[tuple[str, ...], ...]) -> Needs:
    n_gpus = sum(len(uuids) for uuids in gpus)
    share = next((share for claim in spec.claims if (share := share_of(claim)) is not None), None)
    return Needs(
        cpu_milli=sum(claim.cpu_milli for claim in spec.claims),
        memory_bytes=sum(claim.memory_bytes for claim in spec.claims),
        disk_bytes=sum(claim.disk_bytes for claim in spec.claims),
        gpu=(share or GpuNeed(count=n_gpus)) if n_gpus else None,
    )


class Filter:
    """What a framework refused of an agent for a role, by standing; it blocks what this contains, until it ends."""

    __slots__ = ("refused", "until_us")

    def __init__(self, refused: dict[Standing, Resources], until_us: int) -> None:
        self.refused = refused
        self.until_us = until_us


class Want:
    """A piece of REQUEST as it stands: how many of its pieces are offered or taken. A SUPPRESS after it pauses it."""

    __slots__ = (
        "demand_id", "framework_id", "is_paused", "n_holds", "n_leased", "n_taken", "served_us", "since_us",
        "wanted",
    )  # fmt: skip

    def __init__(self, framework_id: str, wanted: WantedOffer, since_us: int) -> None:
        self.framework_id = framework_id
        self.wanted = wanted
        self.since_us = self.served_us = since_us  # the latter: when a piece of it was last taken
        self.is_paused = False
        self.n_holds = 0  # reservations ahead that ended in nothing
        self.n_leased = 0
        self.n_taken = 0
        digest = hashlib.blake2b(f"{framework_id}\0{wanted.request_id}".encode(), digest_size=8).hexdigest()
        self.demand_id = f"{PREFIX}{digest}"

    @property
    def left(self) -> int:
        return max(0, self.wanted.count - self.n_leased - self.n_taken)

    @property
    def unserved_since_us(self) -> int:
        return max(self.since_us, self.served_us)

    @property
    def is_met(self) -> bool:
        return self.n_taken >= self.wanted.count


class OperationEntry:
    __slots__ = ("fact",)

    def __init__(self, fact: OperationChanged) -> None:
        self.fact = fact


class FrameworkEntry:
    """The upper fields are durable, the lower ones end with the term."""

    __slots__ = (
        "fact", "filters", "framework_id", "gone_us", "info", "inverse", "n_allocated", "n_ignored", "n_launched",
        "offers", "operations", "principal", "retries", "role_allocated", "since_us", "stream_id", "suppressed",
        "tasks", "wants",
    )  # fmt: skip

    def __init__(self, fact: FrameworkSet) -> None:
        self.fact = fact
        self.framework_id = fact.framework_id
        self.info = fact.info
        self.principal = fact.principal
        self.since_us = fact.at_us
        self.n_launched = 0  # attempts ever: each has a number of its own
        self.tasks: dict[str, FrameworkTask] = {}
        self.operations: dict[str, OperationEntry] = {}
        self.role_allocated: dict[str, list[int]] = {}  # role → `kinds` of its tasks and leases
        # Of this term only.
        self.stream_id = ""
        self.gone_us: int | None = None
        self.suppressed: set[str] = set()
        self.filters: dict[tuple[str, str], Filter] = {}  # (role, agent id)
        self.offers: dict[str, Lease] = {}
        self.inverse: dict[str, InverseOffer] = {}
        self.n_allocated: dict[str, int] = {}  # role → offers made
        self.n_ignored = 0  # times in a row that offers lapsed without an answer
        self.retries: dict[str, tuple[int, int]] = {}  # task or operation → (due, the wait before)
        self.wants: dict[str, Want] = {}

    @property
    def is_connected(self) -> bool:
        return bool(self.stream_id)

    def has(self, capability: str) -> bool:
        return capability in self.info.capabilities

    def is_shaped(self, role: str) -> bool:
        """Whether requests stand for the role: it is offered what answers them, and nothing else."""
        return any(want.wanted.role == role for want in self.wants.values())


class Bucket:
    """A principal's rate limit: a token bucket and the calls that wait for it."""

    __slots__ = ("queue", "tokens_milli", "updated_us")

    def __init__(self, tokens_milli: int, now_us: int) -> None:
        self.tokens_milli = tokens_milli
        self.updated_us = now_us
        self.queue: deque[Waiting] = deque()


class Waiting:
    __slots__ = ("call", "framework_id", "principal", "request_id", "stream_id")

    def __init__(self, request_id: str, framework_id: str, stream_id: str, principal: str, call: Call) -> None:
        self.request_id = request_id
        self.framework_id = framework_id
        self.stream_id = stream_id
        self.principal = principal
        self.call = call


class MarketBook:
    def __init__(self, agents: AgentBook, shares: ShareBook, config: MasterConfig) -> None:
        self._agents = agents
        self._shares = shares
        self._config = config
        self.frameworks: dict[str, FrameworkEntry] = {}
        self.n_frameworks_ever = 0
        # Of this term only.
        self.leases: dict[int, Lease] = {}  # by number, which is by age
        self.n_offers = 0
        self.n_offers_over = 0  # of so many first ones nothing is left
        self.dirty: dict[str, None] = {}  # agents with something to offer that may concern someone
        self.idle: dict[str, None] = {}  # agents with something that nobody took in their last cycle
        self.all_dirty = False  # someone new may take what is idle
        self.allocated_us = -(2**62)
        self.buckets: dict[str, Bucket] = {}
        self.filters: dict[str, dict[tuple[str, str], Filter]] = {}  # agent id → (framework, role)
        self.filter_ends: list[tuple[int, str, str, str]] = []  # a heap: when, framework, role, agent
        self.tree: Any = None  # the roles and clients as the allocation lays them out; None when to be made anew
        self.held: dict[str, str] = {}  # agent id → demand id of the starving wish it is kept for
        self.held_until_us = 0
        self.gpu_classes: Any = None  # of the agents as they are; made anew when one comes, goes or changes
        self.left_since: dict[str, int] = {}  # agents left to the rounds, and since when
        self.wants: dict[str, Want] = {}  # by demand id
        self.n_uuids = 0

    # --- facts -------------------------------------------------------------------------------------------------------

    def set_framework(self, fact: FrameworkSet) -> None:
        entry = self.frameworks.get(fact.framework_id)
        for role in fact.info.roles:
            self._shares.ensure(role)
        if entry is None:
            self.frameworks[fact.framework_id] = FrameworkEntry(fact)
            self.n_frameworks_ever += 1
        else:
            entry.fact, entry.info, entry.principal = fact, fact.info, fact.principal

    def end_framework(self, fact: FrameworkEnded) -> None:
        del self.frameworks[fact.framework_id]

    def launch(self, fact: FrameworkTaskLaunched) -> None:
        framework = self.frameworks[fact.framework_id]
        framework.n_launched = max(framework.n_launched, fact.attempt)
        task = FrameworkTask(fact)
        framework.tasks[fact.spec.task_id] = task
        self.attach(framework, task)

    def attach(self, framework: FrameworkEntry, task: FrameworkTask) -> None:
        agent = self._agents[task.agent_id]
        agent.cpu_used += task.needs.cpu_milli
        agent.memory_used += task.needs.memory_bytes
        agent.disk_used += task.needs.disk_bytes
        agent.use_gpus(task.wire_id, task.needs, task.all_gpus())
        agent.holdings.tasks[task.wire_id] = task
        for bundle, resources in self._booked(agent, task):
            bundle.add(resources)
        agent.changed()
        self.charge(framework, task.role, amount_of(task.needs), 1)

    def _detach(self, framework: FrameworkEntry, task: FrameworkTask) -> None:
        agent = self._agents[task.agent_id]
        agent.cpu_used -= task.needs.cpu_milli
        agent.memory_used -= task.needs.memory_bytes
        agent.disk_used -= task.needs.disk_bytes
        agent.leave_gpus(task.wire_id, task.all_gpus())
        agent.unseen.pop(task.cmd_id, None)
        del agent.holdings.tasks[task.wire_id]
        for bundle, resources in self._booked(agent, task):
            bundle.take(resources)
        agent.changed()
        self.charge(framework, task.role, amount_of(task.needs), -1)

    def _booked(self, agent: AgentEntry, task: FrameworkTask) -> list[tuple[Bundle, Resources]]:
        found: list[tuple[Bundle, Resources]] = []
        for n, claim in enumerate(task.spec.claims):
            bundle = agent.holdings.bundle_used(Standing(claim.reservation, claim.revocable))
            if bundle is not None:
                uuids = task.gpus[n] if n < len(task.gpus) else ()
                found.append((bundle, resources_of(agent, claim, uuids)))
        return found

    def change_task(self, fact: FrameworkTaskChanged) -> None:
        framework = self.frameworks[fact.framework_id]
        task = framework.tasks[fact.update.task_id]
        was_open = task.is_open
        task.state, task.since_us = fact.update.state, fact.at_us
        task.seen = task.seen or fact.update.source != "SOURCE_MASTER"
        task.kill_asked = task.kill_asked or fact.update.state == "TASK_KILLING"
        task.updates.append(fact.update)
        if was_open and not task.is_open:
            self._detach(framework, task)

    def acknowledge(self, fact: UpdateAcknowledged) -> None:
        framework = self.frameworks[fact.framework_id]
        task = framework.tasks[fact.task_id]
        task.updates.pop(0)
        if not task.updates and not task.is_open:
            del framework.tasks[fact.task_id]

    def reserve(self, fact: ResourcesReserved) -> None:
        self.grow_pool(self._agents[fact.agent_id], fact.reservation, fact.resources)

    def grow_pool(self, agent: AgentEntry, reservation: Reservation, resources: Resources) -> None:
        pool = agent.holdings.pools.get(reservation)
        if pool is None:
            pool = agent.holdings.pools[reservation] = Pool(reservation)
        pool.size.add(resources)
        self._shares.ensure(reservation.role)
        agent.changed()

    def unreserve(self, fact: ResourcesUnreserved) -> None:
        agent = self._agents[fact.agent_id]
        pool = agent.holdings.pools[fact.reservation]
        pool.size.take(fact.resources)
        if pool.size.is_empty():
            del agent.holdings.pools[fact.reservation]
        agent.changed()

    def change_operation(self, fact: OperationChanged) -> None:
        self.frameworks[fact.framework_id].operations[fact.operation_id] = OperationEntry(fact)

    def acknowledge_operation(self, fact: OperationAcknowledged) -> None:
        del self.frameworks[fact.framework_id].operations[fact.operation_id]

    def enrolled(self, agent: AgentEntry) -> None:
        """Static reservations are the config's: an agent has them from its first birth on, as far as it has so much."""
        for wanted in self._config.reservations:
            reservation = Reservation(role=wanted.role, kind="static")
            if not fnmatchcase(agent.agent_id, wanted.agents):
                continue
            total = agent.enrolled.total
            pool = agent.holdings.pools[reservation] = agent.holdings.pools.get(reservation) or Pool(reservation)
            pool.size = Bundle()
            pool.size.add(
                Resources(
                    cpu_milli=min(wanted.cpu_milli, total.cpu_milli),
                    memory_bytes=min(wanted.memory_bytes, total.memory_bytes),
                    disk_bytes=min(wanted.disk_bytes, total.disk_bytes),
                    gpus=total.gpus[: wanted.gpus],
                )
            )
            self._shares.ensure(wanted.role)

    # --- what follows ------------------------------------------------------------------------------------------------

    def charge(self, framework: FrameworkEntry, role: str, amount: Amount, sign: int) -> None:
        """Count what a framework has of a role, to both: tasks and leases alike."""
        sums = framework.role_allocated.get(role)
        if sums is None:
            sums = framework.role_allocated[role] = [0, 0, 0, 0]
        sums[0] += sign * amount.cpu_milli
        sums[1] += sign * amount.memory_bytes
        sums[2] += sign * amount.disk_bytes
        sums[3] += sign * kinds(amount)[3]
        self._shares.charge(role, amount, sign)

    def charge_leases(self, framework: FrameworkEntry, role: str, amount: Amount, count: int) -> None:
        """The same of so many new leases. How many a client was ever given decides between equal shares."""
        framework.n_allocated[role] = framework.n_allocated.get(role, 0) + count
        self.charge(framework, role, amount, 1)

    def drop_want(self, framework: FrameworkEntry, request_id: str) -> None:
        """It is met, withdrawn or nobody's any more."""
        del self.wants[framework.wants.pop(request_id).demand_id]

    def oldest_lease(self) -> Lease | None:
        """The next to end. What every lease costs here is one step, whenever it is made."""
        while self.n_offers_over < self.n_offers:
            made = self.leases.get(self.n_offers_over + 1)
            if made is not None:
                return made
            self.n_offers_over += 1
        return None

    def mark(self, agent_id: str) -> None:
        """Something of this agent may be offered anew."""
        self.dirty[agent_id] = None

    def task_of(self, name: str) -> FrameworkTask | None:
        """By wire id."""
        framework_id, _, task_id = name.removeprefix(PREFIX).partition("/")
        framework = self.frameworks.get(framework_id)
        return framework.tasks.get(task_id) if framework is not None else None


def resources_of(agent: AgentEntry, claim: Claim, uuids: tuple[str, ...]) -> Resources:
    """What a claim is of its agent, once it got these GPUs."""
    return Resources(
        cpu_milli=claim.cpu_milli,
        memory_bytes=claim.memory_bytes,
        disk_bytes=claim.disk_bytes,
        gpus=agent.held_gpus(Needs(gpu=share_of(claim)), uuids),
    )


def share_of(claim: Claim) -> GpuNeed | None:
    """The share of a GPU that is claimed; None for whole ones."""
    return GpuNeed(milli=claim.gpu_milli, memory_bytes=claim.gpu_memory_bytes) if claim.gpu_milli else None
