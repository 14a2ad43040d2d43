"""The messages of `mesos/v1/scheduler/scheduler.proto` and `mesos/v1/mesos.proto` that calls are made of, as JSON.

Field names are those of the protobuf definitions (Mesos 1.11). What the market has no use for is left out: unknown
keys are ignored, as Mesos ignores them. Fields that only this master knows stand under the key `offerflow`.
"""

import contextlib
import json
from functools import cache
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import inspect

from federation.errors import PeerError
from federation.jobs import Artifact, Write
from policies.model import GpuNeed, LatencyTarget, Where

T = TypeVar("T")
Number = Annotated[float, msgspec.Meta(ge=0, le=2.0**60)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the messages. Lenient: `decode` takes a scalar for a list and numbers written as text."""


class Id(Part, frozen=True, kw_only=True):
    value: str


class Label(Part, frozen=True, kw_only=True):
    key: str
    value: str = ""


class Labels(Part, frozen=True, kw_only=True):
    labels: tuple[Label, ...] = ()


class Duration(Part, frozen=True, kw_only=True):
    nanoseconds: Nanoseconds


class Scalar(Part, frozen=True, kw_only=True):
    value: float


# --- resources -------------------------------------------------------------------------------------------------------


class ReservationInfo(Part, frozen=True, kw_only=True):
    type: str = "DYNAMIC"
    role: str = ""
    principal: str = ""
    labels: Labels = Labels()


class Persistence(Part, frozen=True, kw_only=True):
    id: str


class DiskInfo(Part, frozen=True, kw_only=True):
    persistence: Persistence | None = None


class ResourceExtension(Part, frozen=True, kw_only=True):
    gpu_uuids: tuple[str, ...] = ()


class Resource(Part, frozen=True, kw_only=True):
    name: str
    type: str = "SCALAR"
    scalar: Scalar | None = None
    role: str = "*"
    reservation: ReservationInfo | None = None
    reservations: tuple[ReservationInfo, ...] = ()
    revocable: dict[str, Any] | None = None
    disk: DiskInfo | None = None
    offerflow: ResourceExtension = ResourceExtension()


# --- tasks -----------------------------------------------------------------------------------------------------------


class Variable(Part, frozen=True, kw_only=True):
    name: str
    value: str | None = None
    secret: dict[str, Any] | None = None
    type: str = "VALUE"


class Environment(Part, frozen=True, kw_only=True):
    variables: tuple[Variable, ...] = ()


class CommandInfo(Part, frozen=True, kw_only=True):
    shell: bool = True
    value: str = ""
    arguments: tuple[str, ...] = ()
    environment: Environment = Environment()
    uris: tuple[dict[str, Any], ...] = ()


class ExecutorInfo(Part, frozen=True, kw_only=True):
    executor_id: Id
    type: str = ""
    command: CommandInfo | None = None
    container: dict[str, Any] | None = None


class KillPolicy(Part, frozen=True, kw_only=True):
    grace_period: Duration | None = None


class TaskExtension(Part, frozen=True, kw_only=True):
    """What tasks of ours may have beyond those of Mesos: shards, artifacts, a limit of the run time."""

    artifact: Artifact | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[Write, ...] = ()
    time_limit_us: int | None = None
    simulated_run_us: int | None = None


class TaskInfo(Part, frozen=True, kw_only=True):
    name: str = ""
    task_id: Id
    agent_id: Id | None = None
    resources: tuple[Resource, ...] = ()
    executor: ExecutorInfo | None = None
    command: CommandInfo | None = None
    container: dict[str, Any] | None = None
    health_check: dict[str, Any] | None = None
    check: dict[str, Any] | None = None
    limits: dict[str, Any] = {}
    kill_policy: KillPolicy = KillPolicy()
    data: bytes = b""
    labels: Labels = Labels()
    max_completion_time: Duration | None = None
    offerflow: TaskExtension = TaskExtension()


class LaunchPart(Part, frozen=True, kw_only=True):
    task_infos: tuple[TaskInfo, ...] = ()


class TaskGroup(Part, frozen=True, kw_only=True):
    tasks: tuple[TaskInfo, ...] = ()


class LaunchGroupPart(Part, frozen=True, kw_only=True):
    executor: ExecutorInfo
    task_group: TaskGroup


class ResourcesPart(Part, frozen=True, kw_only=True):
    resources: tuple[Resource, ...] = ()


class VolumesPart(Part, frozen=True, kw_only=True):
    volumes: tuple[Resource, ...] = ()


class OperationPart(Part, frozen=True, kw_only=True):
    type: str
    id: Id | None = None
    launch: LaunchPart | None = None
    launch_group: LaunchGroupPart | None = None
    reserve: ResourcesPart | None = None
    unreserve: ResourcesPart | None = None
    create: VolumesPart | None = None
    destroy: VolumesPart | None = None


# --- frameworks ------------------------------------------------------------------------------------------------------


class CapabilityPart(Part, frozen=True, kw_only=True):
    type: str = "UNKNOWN"


class Quantities(Part, frozen=True, kw_only=True):
    quantities: dict[str, Scalar] = {}


class LeastAllocatable(Part, frozen=True, kw_only=True):
    quantities: tuple[Quantities, ...] = ()


class OfferFilters(Part, frozen=True, kw_only=True):
    min_allocatable_resources: LeastAllocatable | None = None


class FrameworkPart(Part, frozen=True, kw_only=True):
    user: str
    name: str
    id: Id | None = None
    failover_timeout: Number = 0.0
    checkpoint: bool = False
    role: str = ""
    roles: tuple[str, ...] = ()
    hostname: str = ""
    principal: str = ""
    webui_url: str = ""
    capabilities: tuple[CapabilityPart, ...] = ()
    labels: Labels = Labels()
    offer_filters: dict[str, OfferFilters] = {}


class Selector(Part, frozen=True, kw_only=True):
    pseudoattribute_type: str = ""
    attribute_name: str = ""


class AttributeConstraint(Part, frozen=True, kw_only=True):
    selector: Selector
    predicate: dict[str, dict[str, Any]]


class ConstraintGroup(Part, frozen=True, kw_only=True):
    attribute_constraints: tuple[AttributeConstraint, ...] = ()


class RoleConstraints(Part, frozen=True, kw_only=True):
    groups: tuple[ConstraintGroup, ...] = ()


class OfferConstraints(Part, frozen=True, kw_only=True):
    role_constraints: dict[str, RoleConstraints] = {}


class SubscribeExtension(Part, frozen=True, kw_only=True):
    constraints: dict[str, tuple[str, ...]] = {}  # role ("": every one) → predicates (docs/market.md), all must hold


class SubscribePart(Part, frozen=True, kw_only=True):
    """Of SUBSCRIBE and of UPDATE_FRAMEWORK."""

    framework_info: FrameworkPart
    suppressed_roles: tuple[str, ...] = ()
    offer_constraints: OfferConstraints | None = None
    offerflow: SubscribeExtension = SubscribeExtension()


# --- the other calls -------------------------------------------------------------------------------------------------


class Filters(Part, frozen=True, kw_only=True):
    refuse_seconds: float = 5.0


class AcceptPart(Part, frozen=True, kw_only=True):
    offer_ids: tuple[Id, ...] = ()
    operations: tuple[OperationPart, ...] = ()
    filters: Filters = Filters()


class DeclinePart(Part, frozen=True, kw_only=True):
    offer_ids: tuple[Id, ...] = ()
    filters: Filters = Filters()


class InversePart(Part, frozen=True, kw_only=True):
    inverse_offer_ids: tuple[Id, ...] = ()
    filters: Filters = Filters()


class RolesPart(Part, frozen=True, kw_only=True):
    roles: tuple[str, ...] = ()


class KillPart(Part, frozen=True, kw_only=True):
    task_id: Id
    agent_id: Id | None = None
    kill_policy: KillPolicy = KillPolicy()


class ShutdownPart(Part, frozen=True, kw_only=True):
    executor_id: Id
    agent_id: Id


class AcknowledgePart(Part, frozen=True, kw_only=True):
    agent_id: Id
    task_id: Id
    uuid: bytes


class AcknowledgeOperationPart(Part, frozen=True, kw_only=True):
    agent_id: Id | None = None
    uuid: bytes
    operation_id: Id


class ReconcileTask(Part, frozen=True, kw_only=True):
    task_id: Id
    agent_id: Id | None = None


class ReconcilePart(Part, frozen=True, kw_only=True):
    tasks: tuple[ReconcileTask, ...] = ()


class ReconcileOperation(Part, frozen=True, kw_only=True):
    operation_id: Id


class ReconcileOperationsPart(Part, frozen=True, kw_only=True):
    operations: tuple[ReconcileOperation, ...] = ()


class MessagePart(Part, frozen=True, kw_only=True):
    agent_id: Id
    executor_id: Id
    data: bytes


class WantedExtension(Part, frozen=True, kw_only=True):
    """What a request may say beyond resources; the fields are those of `WantedOffer`."""

    request_id: str = ""
    role: str = "default"
    count: int = 1
    gpu: GpuNeed | None = None
    reads: tuple[str, ...] = ()
    where: Where = Where()
    constraints: tuple[str, ...] = ()
    latency: tuple[LatencyTarget, ...] = ()
    gang: bool = False
    priority: int = 50
    profile: str = ""
    run_us: int = 1_000_000


class WantedPart(Part, frozen=True, kw_only=True):
    agent_id: Id | None = None
    resources: tuple[Resource, ...] = ()
    offerflow: WantedExtension = WantedExtension()


class RequestPart(Part, frozen=True, kw_only=True):
    requests: tuple[WantedPart, ...] = ()


class CallPart(Part, frozen=True, kw_only=True):
    """A call's frame; its body stands under the type's name in lower case, and is decoded on its own."""

    type: str
    framework_id: Id | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object. Raises `PeerError("malformed")`."""
    try:
        tree = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PeerError("malformed", f"Failed to parse the body into a call: {detail}") from None
    if not isinstance(tree, dict):
        raise PeerError("malformed", "Failed to parse the body into a call: it is not a JSON object")
    return tree


def decode(tree: Any, type_: type[T]) -> T:
    """A message of its JSON. Raises `PeerError("invalid")`.

    Most clients write what is defined: only what is not is looked through for what running clients make of it.
    """
    with contextlib.suppress(msgspec.ValidationError, RecursionError):
        return msgspec.convert(tree, type_, strict=False)
    try:
        return msgspec.convert(_with_lists(tree, _info(cast(Any, type_))), type_, strict=False)
    except msgspec.ValidationError as error:
        raise PeerError("invalid", str(error)) from None
    except RecursionError:
        raise PeerError("malformed", "the call is nested too deeply") from None


@cache
def _info(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


@cache
def _fields(type_: type) -> dict[str, inspect.Type]:
    info = _info(type_)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: field.type for field in info.fields}


def _with_lists(tree: Any, info: inspect.Type) -> Any:
    """The tree with a list around each scalar that stands where a list is defined, and without nulls: both are what
    serialisers of running clients make."""
    if isinstance(info, inspect.Metadata):
        return _with_lists(tree, info.type)
    if isinstance(info, inspect.UnionType):
        bare = next((t for t in info.types if not isinstance(t, inspect.NoneType)), info)
        return tree if tree is None or isinstance(bare, inspect.UnionType) else _with_lists(tree, bare)
    if isinstance(info, inspect.VarTupleType):
        items = tree if isinstance(tree, list) else [tree]
        return [_with_lists(item, info.item_type) for item in items]
    if isinstance(tree, dict) and isinstance(info, inspect.DictType):
        return {key: _with_lists(value, info.value_type) for key, value in tree.items()}
    if isinstance(tree, dict) and isinstance(info, inspect.StructType) and issubclass(info.cls, Part):
        types = _fields(info.cls)
        return {
            key: _with_lists(value, types[key]) for key, value in tree.items() if key in types and value is not None
        }
    if isinstance(tree, str) and isinstance(info, inspect.BytesType):
        return tree.replace("-", "+").replace("_", "/")  # Base64 for addresses is taken too.
    return tree


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
