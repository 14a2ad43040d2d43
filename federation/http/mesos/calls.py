"""Calls: JSON → the market's values. What cannot be done is refused by name, rather than half done: tasks and
operations one by one (`operations`), anything else with the whole call."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, get_args

import msgspec

from federation.errors import PeerError
from federation.http.mesos import messages as m
from federation.http.mesos.amounts import ANY_ROLE, claims_of, least_of, our_role
from federation.http.mesos.constraints import predicates_of
from federation.http.mesos.operations import grace_us_of, labels_of, operations_of
from federation.market.book import share_of
from federation.market.protocol import (
    REFUSE_US,
    Accept,
    AcceptInverse,
    Acknowledge,
    AcknowledgeOperation,
    Call,
    Capability,
    Decline,
    DeclineInverse,
    FrameworkInfo,
    KillTask,
    KnownTask,
    LeastOffer,
    Message,
    Reconcile,
    ReconcileOperations,
    Request,
    Revive,
    Shutdown,
    Subscribe,
    Suppress,
    Teardown,
    UpdateFramework,
    WantedOffer,
)  # fmt: skip
from policies.model import GpuNeed

_CAPABILITIES: Final = frozenset(get_args(Capability))
_REFUSE_S_MAX: Final = 31_536_000  # Mesos cuts longer filters to a year; negative and absurd ones fall to the default.
_checked = msgspec.msgpack.Decoder(Call)


class Decoded(NamedTuple):
    framework_id: str
    call: Call
    star: bool  # of a Subscribe: the role was called "*"


def decode_call(body: bytes) -> Decoded:
    """Raises `PeerError` (malformed, invalid): the answer is a 400."""
    tree = m.parse(body)
    frame = m.decode(tree, m.CallPart)
    framework_id = frame.framework_id.value if frame.framework_id is not None else ""
    kind = frame.type
    if kind in _BODILESS:
        call, star = _BODILESS[kind](), False
    elif kind in ("SUBSCRIBE", "UPDATE_FRAMEWORK"):
        part = m.decode(_body(tree, kind), m.SubscribePart)
        call, star = _subscribe(part, framework_id) if kind == "SUBSCRIBE" else _update(part)
        if isinstance(call, Subscribe):
            if framework_id and call.framework_id and framework_id != call.framework_id:
                raise PeerError("invalid", "'framework_id' differs from 'subscribe.framework_info.id'")
            framework_id = call.framework_id
    elif kind in _BODIES:
        part_type, make = _BODIES[kind]
        # Some clients say REVIVE, SUPPRESS, RECONCILE with no body at all; elsewhere it holds what is needed.
        part_tree = tree.get(kind.lower()) or {} if kind in _BODY_OPTIONAL else _body(tree, kind)
        call, star = make(m.decode(part_tree, part_type)), False
    else:
        raise PeerError("invalid", f"Unknown call type {kind[:80]!r}")
    if kind != "SUBSCRIBE" and not framework_id:
        raise PeerError("invalid", "Expecting 'framework_id' to be present")
    try:
        return Decoded(framework_id, _checked.decode(msgspec.msgpack.encode(call)), star)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as error:
        raise PeerError("invalid", f"{kind}: {error}") from None


def _body(tree: dict[str, Any], kind: str) -> Any:
    body = tree.get(kind.lower())
    if body is None and kind == "REQUEST" and "requests" in tree:  # as the documentation of Mesos shows it
        return {"requests": tree["requests"]}
    if not isinstance(body, dict):
        raise PeerError("invalid", f"Expecting '{kind.lower()}' to be present")
    return body


# --- frameworks ------------------------------------------------------------------------------------------------------


def _subscribe(part: m.SubscribePart, framework_id: str) -> tuple[Subscribe, bool]:
    info, star = _framework(part)
    given = part.framework_info.id.value if part.framework_info.id is not None else ""
    suppressed = tuple(sorted({our_role(role) for role in part.suppressed_roles}))
    return Subscribe(framework=info, framework_id=given or framework_id, suppressed_roles=suppressed), star


def _update(part: m.SubscribePart) -> tuple[UpdateFramework, bool]:
    info, star = _framework(part)
    suppressed = tuple(sorted({our_role(role) for role in part.suppressed_roles}))
    return UpdateFramework(framework=info, suppressed_roles=suppressed), star


def _framework(part: m.SubscribePart) -> tuple[FrameworkInfo, bool]:
    info = part.framework_info
    capabilities = frozenset(capability.type for capability in info.capabilities) & _CAPABILITIES
    if "MULTI_ROLE" in capabilities:
        if info.role:
            raise PeerError("invalid", "'FrameworkInfo.role' must not be set by a framework that is MULTI_ROLE capable")
        roles = info.roles
    else:
        if info.roles:
            raise PeerError("invalid", "'FrameworkInfo.roles' takes a framework that is MULTI_ROLE capable")
        roles = (info.role or ANY_ROLE,)
    constraints = {our_role(role) if role else "": texts for role, texts in part.offerflow.constraints.items()}
    if part.offer_constraints is not None:
        for role, of_role in part.offer_constraints.role_constraints.items():
            ours = our_role(role)
            constraints[ours] = (*constraints.get(ours, ()), *predicates_of(of_role))
    made = FrameworkInfo(
        name=info.name,
        user=info.user,
        roles=tuple(dict.fromkeys(our_role(role) for role in roles)),
        capabilities=capabilities,  # type: ignore[arg-type]
        failover_timeout_us=round(info.failover_timeout * 1e6),
        checkpoint=info.checkpoint,
        hostname=info.hostname,
        webui_url=info.webui_url,
        principal=info.principal,
        labels=labels_of(info.labels),
        constraints=constraints,
        least_offers={
            our_role(role): _least_offers(filters.min_allocatable_resources)
            for role, filters in info.offer_filters.items()
            if filters.min_allocatable_resources is not None
        },
    )
    return made, ANY_ROLE in roles


def _least_offers(least: m.LeastAllocatable) -> tuple[LeastOffer, ...]:
    """Any of them suffices; where none is named, everything does."""
    return tuple(least_of(each.quantities) for each in least.quantities) or (LeastOffer(),)


# --- offers ----------------------------------------------------------------------------------------------------------


def _ids(ids: Iterable[m.Id]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(offer_id.value for offer_id in ids))


def _refuse_us(filters: m.Filters) -> int:
    """Of what makes no sense Mesos takes the default, and so does this."""
    seconds = filters.refuse_seconds
    if not math.isfinite(seconds) or seconds < 0:
        return REFUSE_US
    return round(min(seconds, _REFUSE_S_MAX) * 1e6)


def _accept(part: m.AcceptPart) -> Accept:
    operations, refusals = operations_of(part.operations)
    return Accept(
        offer_ids=_ids(part.offer_ids),
        operations=operations,
        refusals=refusals,
        refuse_us=_refuse_us(part.filters),
    )


# --- the rest --------------------------------------------------------------------------------------------------------


def _decline(part: m.DeclinePart) -> Decline:
    return Decline(offer_ids=_ids(part.offer_ids), refuse_us=_refuse_us(part.filters))


def _accept_inverse(part: m.InversePart) -> AcceptInverse:
    return AcceptInverse(offer_ids=_ids(part.inverse_offer_ids), refuse_us=_refuse_us(part.filters))


def _decline_inverse(part: m.InversePart) -> DeclineInverse:
    return DeclineInverse(offer_ids=_ids(part.inverse_offer_ids), refuse_us=_refuse_us(part.filters))


def _revive(part: m.RolesPart) -> Revive:
    return Revive(roles=tuple(our_role(role) for role in part.roles))


def _suppress(part: m.RolesPart) -> Suppress:
    return Suppress(roles=tuple(our_role(role) for role in part.roles))


def _kill(part: m.KillPart) -> KillTask:
    agent_id = part.agent_id.value if part.agent_id is not None else ""
    return KillTask(task_id=part.task_id.value, agent_id=agent_id, kill_grace_us=grace_us_of(part.kill_policy))


def _shutdown(part: m.ShutdownPart) -> Shutdown:
    return Shutdown(executor_id=part.executor_id.value, agent_id=part.agent_id.value)


def _acknowledge(part: m.AcknowledgePart) -> Acknowledge:
    return Acknowledge(task_id=part.task_id.value, agent_id=part.agent_id.value, uuid=part.uuid)


def _acknowledge_operation(part: m.AcknowledgeOperationPart) -> AcknowledgeOperation:
    agent_id = part.agent_id.value if part.agent_id is not None else ""
    return AcknowledgeOperation(operation_id=part.operation_id.value, uuid=part.uuid, agent_id=agent_id)


def _reconcile(part: m.ReconcilePart) -> Reconcile:
    tasks = (
        KnownTask(task_id=task.task_id.value, agent_id=task.agent_id.value if task.agent_id is not None else "")
        for task in part.tasks
    )
    return Reconcile(tasks=tuple(tasks))


def _reconcile_operations(part: m.ReconcileOperationsPart) -> ReconcileOperations:
    return ReconcileOperations(operation_ids=tuple(operation.operation_id.value for operation in part.operations))


def _message(part: m.MessagePart) -> Message:
    return Message(agent_id=part.agent_id.value, executor_id=part.executor_id.value, data=part.data)


def _request(part: m.RequestPart) -> Request:
    return Request(wants=tuple(_wanted(want, index) for index, want in enumerate(part.requests)))


def _wanted(part: m.WantedPart, index: int) -> WantedOffer:
    claims, extension = claims_of(part.resources), part.offerflow
    n_gpus = sum(claim.gpus for claim in claims)
    share = next((share for claim in claims if (share := share_of(claim)) is not None), None)
    gpu = extension.gpu or share or (GpuNeed(count=n_gpus) if n_gpus else None)
    where = extension.where
    if part.agent_id is not None:
        where = msgspec.structs.replace(where, agents=(part.agent_id.value,))
    return WantedOffer(
        request_id=extension.request_id or f"request-{index}",
        role=our_role(extension.role),
        count=extension.count,
        cpu_milli=sum(claim.cpu_milli for claim in claims),
        memory_bytes=sum(claim.memory_bytes for claim in claims),
        disk_bytes=sum(claim.disk_bytes for claim in claims),
        gpu=gpu,
        reads=extension.reads,
        where=where,
        constraints=extension.constraints,
        latency=extension.latency,
        gang=extension.gang,
        priority=extension.priority,
        profile=extension.profile,
        run_us=extension.run_us,
    )


_BODILESS: Final[dict[str, Callable[[], Call]]] = {"TEARDOWN": Teardown}
_BODY_OPTIONAL: Final = frozenset({"REVIVE", "SUPPRESS", "RECONCILE", "RECONCILE_OPERATIONS"})
_BODIES: Final[dict[str, tuple[Any, Callable[[Any], Call]]]] = {
    "ACCEPT": (m.AcceptPart, _accept),
    "DECLINE": (m.DeclinePart, _decline),
    "ACCEPT_INVERSE_OFFERS": (m.InversePart, _accept_inverse),
    "DECLINE_INVERSE_OFFERS": (m.InversePart, _decline_inverse),
    "REVIVE": (m.RolesPart, _revive),
    "SUPPRESS": (m.RolesPart, _suppress),
    "KILL": (m.KillPart, _kill),
    "SHUTDOWN": (m.ShutdownPart, _shutdown),
    "ACKNOWLEDGE": (m.AcknowledgePart, _acknowledge),
    "ACKNOWLEDGE_OPERATION_STATUS": (m.AcknowledgeOperationPart, _acknowledge_operation),
    "RECONCILE": (m.ReconcilePart, _reconcile),
    "RECONCILE_OPERATIONS": (m.ReconcileOperationsPart, _reconcile_operations),
    "MESSAGE": (m.MessagePart, _message),
    "REQUEST": (m.RequestPart, _request),
}
