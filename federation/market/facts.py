"""The market's facts: what must be known of frameworks, their tasks and reservations after a crash."""

from federation.market.protocol import FrameworkInfo, OperationState, Portion, Reservation, TaskSpec, Update
from policies.model import Record, Resources


class FrameworkSet(Record, frozen=True, kw_only=True, tag="framework"):
    """A framework registered, or said something new of itself."""

    at_us: int
    framework_id: str
    info: FrameworkInfo
    principal: str = ""


class FrameworkEnded(Record, frozen=True, kw_only=True, tag="framework_ended"):
    """For good: torn down, or gone for longer than its failover timeout. Its tasks were closed by facts before this."""

    at_us: int
    framework_id: str
    reason: str


class FrameworkTaskLaunched(Record, frozen=True, kw_only=True, tag="framework_task"):
    """Committed before the launch is sent. `gpus` are parallel to the claims of `spec`: the uuids each one got."""

    at_us: int
    framework_id: str
    role: str
    agent_id: str
    spec: TaskSpec
    attempt: int
    cmd_id: int
    gpus: tuple[tuple[str, ...], ...] = ()
    group_id: int = 0  # > 0: launched together with the others of that number


class FrameworkTaskChanged(Record, frozen=True, kw_only=True, tag="framework_task_state"):
    """A task's new state with the update that tells the framework, kept until it is acknowledged."""

    at_us: int
    framework_id: str
    attempt: int
    update: Update


class UpdateAcknowledged(Record, frozen=True, kw_only=True, tag="update_acked"):
    at_us: int
    framework_id: str
    task_id: str
    uuid: bytes


class ResourcesReserved(Record, frozen=True, kw_only=True, tag="reserved"):
    at_us: int
    agent_id: str
    reservation: Reservation
    resources: Resources


class ResourcesUnreserved(Record, frozen=True, kw_only=True, tag="unreserved"):
    at_us: int
    agent_id: str
    reservation: Reservation
    resources: Resources


class OperationChanged(Record, frozen=True, kw_only=True, tag="operation"):
    """An operation that has an id; `left` are the shards it still waits for."""

    at_us: int
    framework_id: str
    operation_id: str
    state: OperationState
    agent_id: str
    uuid: bytes = b""
    message: str = ""
    left: tuple[str, ...] = ()
    converted: tuple[Portion, ...] = ()


class OperationAcknowledged(Record, frozen=True, kw_only=True, tag="operation_acked"):
    at_us: int
    framework_id: str
    operation_id: str
    uuid: bytes


MarketFact = (
    FrameworkSet | FrameworkEnded | FrameworkTaskLaunched | FrameworkTaskChanged | UpdateAcknowledged
    | ResourcesReserved | ResourcesUnreserved | OperationChanged | OperationAcknowledged
)  # fmt: skip
