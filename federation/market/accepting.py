"""ACCEPT and DECLINE: leases become tasks, reservations and replicas; the rest goes back, filtered.

Operations are taken in order, each from what those before it left. An offer that is stale never loses the others: what
fits what remains is done, and everything else gets a terminal status with its reason.
"""

from typing import Any

from federation import wire
from federation.agents_book import AgentEntry
from federation.core import Core
from federation.market import operations
from federation.market.book import FrameworkEntry, resources_of, share_of
from federation.market.facts import FrameworkTaskLaunched, ResourcesReserved, ResourcesUnreserved
from federation.market.holdings import OPEN, Bundle, Standing, by_standing, standing_of
from federation.market.leasing import end_lease, refuse
from federation.market.protocol import (
    Accept,
    Claim,
    Create,
    Decline,
    Destroy,
    Launch,
    LaunchGroup,
    Operation,
    Portion,
    Reservation,
    Reserve,
    TaskSpec,
    Unreserve,
)
from federation.market.running import launch_of, lost_state, say
from federation.market.subscriptions import changed
from federation.offers import is_offered, unused_of
from federation.wire import Command
from policies.gpus import WHOLE, milli_of
from policies.model import GpuNeed, Resources
from policies.resources import choose_gpus, named_gpus

Left = dict[Standing, Bundle]


def decline(core: Core, framework: FrameworkEntry, call: Decline) -> None:
    framework.n_ignored = 0
    for offer_id in dict.fromkeys(call.offer_ids):
        made = framework.offers.get(offer_id)
        if made is None:
            core.count("declines_stale")
            continue
        core.count("framework_offers_declined")
        end_lease(core, made)
        offer = made.offer
        refuse(core, framework, offer.role, offer.agent_id, by_standing(offer.portions), call.refuse_us)


def accept(core: Core, framework: FrameworkEntry, call: Accept) -> None:
    framework.n_ignored = 0
    _tell_refusals(core, framework, call)
    found = [framework.offers.get(offer_id) for offer_id in dict.fromkeys(call.offer_ids)]
    made = [lease for lease in found if lease is not None]
    agent_ids = {lease.offer.agent_id for lease in made}
    roles = {lease.offer.role for lease in made}
    for lease in made:
        end_lease(core, lease)
    problem = ""
    if len(agent_ids) > 1:
        problem = f"the offers are of several agents: {', '.join(sorted(agent_ids))}"
    elif len(roles) > 1:
        problem = f"the offers are of several roles: {', '.join(sorted(roles))}"
    elif not made:
        problem = "the offer is no longer valid" if call.offer_ids else "no offer was named"
    elif not is_offered(core.agents[made[0].offer.agent_id], core.now_us):
        problem = f"{made[0].offer.agent_id} takes no work now"
    if problem:
        core.count("accepts_stale")
        for operation in call.operations:
            _refuse(core, framework, operation, problem)
        for lease in made:
            offer = lease.offer
            refuse(core, framework, offer.role, offer.agent_id, by_standing(offer.portions), call.refuse_us)
        return
    core.count("framework_offers_accepted", len(made))
    if len(made) < len(found):
        core.count("accepts_partly_stale")
    entry, role = core.agents[made[0].offer.agent_id], made[0].offer.role
    left: Left = {}
    for lease in made:
        for portion in lease.offer.portions:
            left.setdefault(standing_of(portion), Bundle()).add(portion.resources)
    acceptance = Acceptance(core, framework, role, entry, left, is_partial=len(made) < len(found))
    for operation in call.operations:
        acceptance.do(operation)
    acceptance.order()
    if acceptance.n_launched:
        for lease in made:
            if lease.request_id and (want := framework.wants.get(lease.request_id)) is not None:
                acceptance.expect(want.wanted.run_us)
                want.n_taken += lease.pieces
                want.served_us = core.now_us
                if want.is_met:
                    core.market.drop_want(framework, lease.request_id)
                    changed(core)
    rest = {standing: bundle.frozen() for standing, bundle in left.items() if not bundle.is_empty()}
    refuse(core, framework, role, entry.agent_id, rest, call.refuse_us)


def _tell_refusals(core: Core, framework: FrameworkEntry, call: Accept) -> None:
    """What can never be done as it is written, whatever the offers are."""
    made = framework.offers.get(call.offer_ids[0]) if call.offer_ids else None
    agent_id = made.offer.agent_id if made is not None else ""
    for refusal in call.refusals:
        if refusal.task_id is None:
            operations.refuse(core, framework, refusal.operation_id, agent_id, refusal.problem, is_stale=False)
        else:
            core.count("framework_launches_refused")
            reason = invalid_reason(refusal.is_grouped)
            say(core, framework, refusal.task_id, agent_id, "TASK_ERROR", reason, refusal.problem)


def invalid_reason(is_grouped: bool) -> str:
    return "REASON_TASK_GROUP_INVALID" if is_grouped else "REASON_TASK_INVALID"


def _refuse(core: Core, framework: FrameworkEntry, operation: Operation, problem: str) -> None:
    if isinstance(operation, Launch | LaunchGroup):
        for spec in operation.tasks:
            state = lost_state(framework, "TASK_DROPPED")
            say(core, framework, spec.task_id, "", state, "REASON_INVALID_OFFERS", problem)
    else:
        operations.refuse(core, framework, operation.operation_id, "", problem, is_stale=True)


class Acceptance:
    """What is left of the offers while their operations are taken in order."""

    def __init__(
        self, core: Core, framework: FrameworkEntry, role: str, entry: AgentEntry, left: Left, *, is_partial: bool
    ) -> None:
        self._core = core
        self._framework = framework
        self._role = role
        self._entry = entry
        self._left = left
        self._is_partial = is_partial
        self._commands: list[Command] = []
        self.n_launched = 0

    def do(self, operation: Operation) -> None:
        match operation:
            case Launch():
                for spec in operation.tasks:
                    self._launch((spec,), 0)
            case LaunchGroup():
                group_id = self._framework.n_launched + 1
                self._launch(operation.tasks, group_id)
            case Reserve():
                self._reserve(operation)
            case Unreserve():
                self._unreserve(operation)
            case Create():
                operations.create(self._core, self._framework, self._entry, operation.shard_ids, operation.operation_id)
            case Destroy():
                operations.destroy(
                    self._core, self._framework, self._entry, operation.shard_ids, operation.operation_id
                )

    def order(self) -> None:
        self._core.order(self._entry, self._commands)

    def expect(self, run_us: int) -> None:
        """Tell when the tasks launched should end, so that rounds can plan with what they will give back."""
        for command in self._commands:
            task = self._core.market.task_of(command.task_id) if isinstance(command, wire.Launch) else None
            if task is not None:
                task.expected_run_us = run_us
        self._entry.changed()

    # --- launches ----------------------------------------------------------------------------------------------------

    def _launch(self, specs: tuple[TaskSpec, ...], group_id: int) -> None:
        """All of them or none."""
        core, framework, entry = self._core, self._framework, self._entry
        problem = ""
        names: set[str] = set()
        for spec in specs:
            problem = problem or self._invalid(spec)
            if spec.task_id in names:
                problem = problem or f"task {spec.task_id!r} is named twice"
            names.add(spec.task_id)
        if problem:
            self._fail(specs, "TASK_ERROR", invalid_reason(group_id > 0), problem)
            return
        taken: list[tuple[Standing, Resources]] = []
        gpus: list[tuple[tuple[str, ...], ...]] = []
        for spec in specs:
            of_spec: list[tuple[str, ...]] = []
            for claim in spec.claims:
                part = self._take(claim)
                if part is None:
                    for standing, back in taken:
                        self._left[standing].add(back)
                    self._fail_short(specs, claim, invalid_reason(group_id > 0))
                    return
                taken.append(part)
                of_spec.append(tuple(gpu.uuid for gpu in part[1].gpus))
            gpus.append(tuple(of_spec))
        for spec, of_task in zip(specs, gpus, strict=True):
            core.persist(
                FrameworkTaskLaunched(
                    at_us=core.now_us,
                    framework_id=framework.framework_id,
                    role=self._role,
                    agent_id=entry.agent_id,
                    spec=spec,
                    attempt=framework.n_launched + 1,
                    cmd_id=core.new_cmd_id(),
                    gpus=of_task,
                    group_id=group_id,
                )
            )
            task = framework.tasks[spec.task_id]
            ordered = launch_of(core, entry, task)
            core.transfers.begin_for(task, entry, ordered, core.now_us)
            if ordered.reads:
                core.deadlines.set_earlier("reschedule", core.now_us + core.config.move_look_us)
            self._commands.append(ordered)
            self.n_launched += 1
            core.count("framework_tasks_launched")

    def _invalid(self, spec: TaskSpec) -> str:
        """Why a task can never be launched as it is; "" when it can."""
        core, framework = self._core, self._framework
        if spec.task_id in framework.tasks:
            return f"task {spec.task_id!r} exists already"
        if len(framework.tasks) >= core.config.framework_tasks_max:
            return f"the framework has {core.config.framework_tasks_max} tasks"
        if spec.agent_id and spec.agent_id != self._entry.agent_id:
            return f"task {spec.task_id!r} is for {spec.agent_id}, the offer is of {self._entry.agent_id}"
        if not spec.command:
            return f"task {spec.task_id!r} has no command"
        shares = sum(bool(claim.gpu_milli) for claim in spec.claims)
        if shares > 1 or (shares and any(claim.gpus or len(claim.gpu_uuids) > 1 for claim in spec.claims)):
            return f"task {spec.task_id!r}: a task has whole GPUs or a share of one"
        if not spec.claims or not any(claim.cpu_milli or claim.memory_bytes for claim in spec.claims):
            return f"task {spec.task_id!r} claims no resources"
        for shard_id in spec.reads:
            shard = core.shards.entries.get(shard_id)
            if shard is None:
                return f"task {spec.task_id!r} reads {shard_id[:12]}…, which nobody holds"
            if shard.sites and self._entry.site not in shard.sites:
                return f"task {spec.task_id!r} reads {shard_id[:12]}…, which may not leave {', '.join(shard.sites)}"
        return ""

    def _fail(self, specs: tuple[TaskSpec, ...], state: Any, reason: str, message: str) -> None:
        self._core.count("framework_launches_refused", len(specs))
        for spec in specs:
            say(self._core, self._framework, spec.task_id, self._entry.agent_id, state, reason, message)

    def _fail_short(self, specs: tuple[TaskSpec, ...], claim: Claim, reason: str) -> None:
        if self._is_partial:
            state = lost_state(self._framework, "TASK_DROPPED")
            self._fail(specs, state, "REASON_INVALID_OFFERS", "one of the offers is no longer valid")
            return
        left = self._left.get(Standing(claim.reservation, claim.revocable))
        has = left.frozen() if left is not None else Resources()
        message = (
            f"more is claimed than the offers hold: {claim.cpu_milli} of {has.cpu_milli} milli-CPU, "
            f"{claim.memory_bytes} of {has.memory_bytes} bytes of memory, {claim.disk_bytes} of {has.disk_bytes} of "
            f"disk, {_gpus_claimed(claim)} of {milli_of(has.gpus) / WHOLE:g} GPUs"
        )
        self._fail(specs, "TASK_ERROR", reason, message)

    def _take(self, claim: Claim) -> tuple[Standing, Resources] | None:
        """Take a claim from what is left; None when it does not hold so much."""
        standing = Standing(claim.reservation, claim.revocable)
        left = self._left.get(standing)
        if left is None:
            return None
        uuids = self._gpus_of(claim, left)
        if (
            claim.cpu_milli > left.cpu_milli
            or claim.memory_bytes > left.memory_bytes
            or claim.disk_bytes > left.disk_bytes
            or uuids is None
        ):
            return None
        part = resources_of(self._entry, claim, uuids)
        unused = unused_of(self._entry)
        if unused is None or not (
            part.cpu_milli <= unused.cpu_milli
            and part.memory_bytes <= unused.memory_bytes
            and part.disk_bytes <= unused.disk_bytes
        ):
            return None  # The agent has less than it had when it was offered.
        left.take(part)
        return standing, part

    def _gpus_of(self, claim: Claim, left: Bundle) -> tuple[str, ...] | None:
        """The GPUs a claim names, or the best fit; None where they are not there, or not in one piece."""
        need = share_of(claim) or GpuNeed(count=max(claim.gpus, len(claim.gpu_uuids)))
        if not need.count:
            return ()
        here = tuple(left.gpus.values())
        chosen = named_gpus(need, here, claim.gpu_uuids) if claim.gpu_uuids else choose_gpus(need, here)
        return None if chosen is None else tuple(gpu.uuid for gpu in chosen)

    # --- reservations ------------------------------------------------------------------------------------------------

    def _reserve(self, operation: Reserve) -> None:
        core, framework, entry = self._core, self._framework, self._entry
        wanted: list[tuple[Reservation, Resources]] = []
        for claim in operation.claims:
            reservation = claim.reservation
            if claim.gpu_milli:
                self._undo(wanted)
                message = "GPUs are reserved as whole ones"
                operations.refuse(core, framework, operation.operation_id, entry.agent_id, message, is_stale=False)
                return
            if reservation is None or reservation.kind != "dynamic" or reservation.role != self._role:
                self._undo(wanted)
                message = f"a dynamic reservation for the offer's role {self._role!r} is needed"
                operations.refuse(core, framework, operation.operation_id, entry.agent_id, message, is_stale=False)
                return
            part = self._take(Claim(
                cpu_milli=claim.cpu_milli, memory_bytes=claim.memory_bytes, disk_bytes=claim.disk_bytes,
                gpus=claim.gpus, gpu_uuids=claim.gpu_uuids,
            ))  # fmt: skip
            if part is None:
                self._undo(wanted)
                message = "more is to be reserved than the offers hold unreserved"
                operations.refuse(
                    core, framework, operation.operation_id, entry.agent_id, message, is_stale=self._is_partial
                )
                return
            wanted.append((reservation, part[1]))
        for reservation, resources in wanted:
            core.persist(
                ResourcesReserved(
                    at_us=core.now_us, agent_id=entry.agent_id, reservation=reservation, resources=resources
                )
            )
            self._left.setdefault(Standing(reservation, False), Bundle()).add(resources)
        core.count("reservations", len(wanted))
        made = tuple(Portion(resources=resources, reservation=reservation) for reservation, resources in wanted)
        operations.finish(core, framework, operation.operation_id, entry.agent_id, "OPERATION_FINISHED", converted=made)

    def _undo(self, wanted: list[tuple[Reservation, Resources]]) -> None:
        for _, resources in wanted:
            self._left[OPEN].add(resources)

    def _unreserve(self, operation: Unreserve) -> None:
        core, framework, entry = self._core, self._framework, self._entry
        parts: list[tuple[Standing, Resources]] = []
        for claim in operation.claims:
            is_dynamic = claim.reservation is not None and claim.reservation.kind == "dynamic"
            part = self._take(claim) if is_dynamic and not claim.revocable else None
            if part is None:
                for standing, back in parts:
                    self._left[standing].add(back)
                message = "only dynamically reserved resources of the offers can be unreserved"
                operations.refuse(
                    core, framework, operation.operation_id, entry.agent_id, message, is_stale=self._is_partial
                )
                return
            parts.append(part)
        for standing, resources in parts:
            assert standing.reservation is not None
            core.persist(
                ResourcesUnreserved(
                    at_us=core.now_us, agent_id=entry.agent_id, reservation=standing.reservation, resources=resources
                )
            )
            self._left.setdefault(OPEN, Bundle()).add(resources)
        freed = tuple(Portion(resources=resources) for _, resources in parts)
        operations.finish(
            core, framework, operation.operation_id, entry.agent_id, "OPERATION_FINISHED", converted=freed
        )


def _gpus_claimed(claim: Claim) -> str:
    return f"{claim.gpu_milli / WHOLE:g}" if claim.gpu_milli else str(max(claim.gpus, len(claim.gpu_uuids)))
