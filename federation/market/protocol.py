"""What frameworks say to the master and what it says to them, as values. Transports translate to these and back.

The semantics are those of Mesos' v1 scheduler API; names and units are ours. Amounts are integers (milli-CPU, bytes),
GPUs are named one by one in offers and counted in what is claimed of them. Tags make each call and event readable in a
recording. Nothing here is checked beyond its shape: `federation.market` refuses what makes no sense with a `Problem`.
"""

from typing import Annotated, Literal

import msgspec

from federation.jobs import Arg, Artifact, RolePath, Write
from federation.wire import Name, Sha256, Text
from policies.model import GpuNeed, LatencyTarget, Link, Record, Resources, Tier, Where

FrameworkId = Annotated[str, msgspec.Meta(max_length=64)]
TaskId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^/\x00-\x1f]+$")]
Amounts = Annotated[int, msgspec.Meta(ge=0, le=2**60)]
Duration = Annotated[int, msgspec.Meta(ge=0, le=366 * 86_400_000_000)]
Labels = tuple[tuple[Name, Name], ...]  # (key, value), sorted

REFUSE_US = 5_000_000  # How long a filter lasts when the framework does not say.

Capability = Literal[
    "MULTI_ROLE", "GPU_RESOURCES", "REVOCABLE_RESOURCES", "PARTITION_AWARE", "TASK_KILLING_STATE",
    "RESERVATION_REFINEMENT", "REGION_AWARE", "SHARED_RESOURCES",
]  # fmt: skip


class LeastOffer(Record, frozen=True, kw_only=True):
    """An offer is worth it to a framework when it holds all of this. GPUs count as pieces: whole, or what is left."""

    cpu_milli: Amounts = 0
    memory_bytes: Amounts = 0
    disk_bytes: Amounts = 0
    gpus: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0


class FrameworkInfo(Record, frozen=True, kw_only=True):
    """What a framework says of itself. `failover_timeout_us`: how long its tasks outlive its stream."""

    name: Name
    user: Name = ""
    roles: Annotated[tuple[RolePath, ...], msgspec.Meta(max_length=32)] = ("default",)
    capabilities: frozenset[Capability] = frozenset()
    failover_timeout_us: Duration = 0
    checkpoint: bool = False
    hostname: Name = ""
    webui_url: Name = ""
    principal: Name = ""
    labels: Labels = ()
    constraints: dict[Name, Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)]] = msgspec.field(
        default_factory=dict
    )
    """Offer constraints by role; "" is for every role. Each text is one predicate, all must hold (docs/market.md)."""
    least_offers: dict[Name, Annotated[tuple[LeastOffer, ...], msgspec.Meta(max_length=64)]] = msgspec.field(
        default_factory=dict
    )
    """By role, what is worth an offer: any of these. Of a role not named: what the master's configuration says."""


# --- resources -------------------------------------------------------------------------------------------------------


class Reservation(Record, frozen=True, kw_only=True, gc=False):
    """Resources of an agent kept for a role and all below it."""

    role: RolePath
    kind: Literal["static", "dynamic"] = "dynamic"
    principal: Name = ""
    labels: Labels = ()


class Portion(Record, frozen=True, kw_only=True, gc=False):
    """A part of an offer: resources of one standing. `revocable` ones are taken back when their owner needs them."""

    resources: Resources
    reservation: Reservation | None = None
    revocable: bool = False


class Claim(Record, frozen=True, kw_only=True):
    """What is taken from a portion of the same standing. GPUs may be named; else `gpus` of them, best fit.

    `gpu_milli` instead is a share of one GPU that its agent shares, with so much of its memory; 0: the same share of
    it. A task has whole GPUs or one share.
    """

    cpu_milli: Amounts = 0
    memory_bytes: Amounts = 0
    disk_bytes: Amounts = 0
    gpus: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    gpu_uuids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] = ()
    reservation: Reservation | None = None
    revocable: bool = False
    gpu_milli: Annotated[int, msgspec.Meta(ge=0, lt=1000)] = 0
    gpu_memory_bytes: Amounts = 0


Claims = Annotated[tuple[Claim, ...], msgspec.Meta(max_length=64)]


class OfferedAgent(Record, frozen=True, kw_only=True, gc=False):
    """What all offers of an agent say alike; `shards` are the ids it holds (the first 256)."""

    agent_id: Name
    site: Name = ""
    region: Name = ""
    tier: Tier = "edge"
    hardware: Name = ""
    speed_milli: int = 1000
    labels: Labels = ()
    shards: tuple[Sha256, ...] = ()
    data_url: Name = ""


class FrameworkOffer(Record, frozen=True, kw_only=True, gc=False):
    """A lease on resources of one agent for one role of one framework; void at `expires_us` or when rescinded.

    `links` are the measured links that end at the agent or its site. `request_id` names the REQUEST it answers; "" for
    one made by the fair shares. `running` are the framework's own tasks on this agent.
    """

    offer_id: Name
    framework_id: FrameworkId
    agent: OfferedAgent
    role: RolePath
    portions: tuple[Portion, ...]
    expires_us: int
    links: tuple[Link, ...] = ()
    request_id: Name = ""
    running: tuple[TaskId, ...] = ()

    @property
    def agent_id(self) -> str:
        return self.agent.agent_id


class InverseOffer(Record, frozen=True, kw_only=True):
    """Asks for what a framework has on an agent back, by `start_us`: maintenance, a drain, or a congested link."""

    offer_id: Name
    framework_id: FrameworkId
    agent_id: Name
    reason: Literal["drain", "maintenance", "congestion"]
    start_us: int  # the master's clock; 0: as soon as possible
    duration_us: int | None = None  # None: for good
    resources: Resources = Resources()
    expires_us: int = 0
    link: Link | None = None  # the congested one


# --- operations of an accept -----------------------------------------------------------------------------------------


class TaskSpec(Record, frozen=True, kw_only=True):
    """A task a framework launches: one attempt of a command on the offer's agent. The id is the framework's own."""

    task_id: TaskId
    agent_id: Name = ""  # where it is meant to run; "" is where the offer is
    claims: Claims
    command: Annotated[tuple[Arg, ...], msgspec.Meta(max_length=1024)]
    name: Name = ""
    env: Annotated[dict[Name, Arg], msgspec.Meta(max_length=1024)] = msgspec.field(default_factory=dict)
    artifact: Artifact | None = None
    reads: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=1024)] = ()
    writes: Annotated[tuple[Write, ...], msgspec.Meta(max_length=256)] = ()
    executor_id: Name = ""
    kill_grace_us: Duration | None = None
    time_limit_us: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_us: Annotated[int, msgspec.Meta(ge=1)] | None = None  # the same bound under Mesos' name
    labels: Labels = ()
    data: Annotated[bytes, msgspec.Meta(max_length=65_536)] = b""
    simulated_run_us: Annotated[int, msgspec.Meta(ge=1)] | None = None  # for simulated agents only


class Launch(Record, frozen=True, kw_only=True, tag="LAUNCH"):
    tasks: Annotated[tuple[TaskSpec, ...], msgspec.Meta(max_length=1024)]


class LaunchGroup(Record, frozen=True, kw_only=True, tag="LAUNCH_GROUP"):
    """All of these or none; when one is killed or fails, the rest are killed."""

    tasks: Annotated[tuple[TaskSpec, ...], msgspec.Meta(max_length=256)]
    executor_id: Name = ""


class Reserve(Record, frozen=True, kw_only=True, tag="RESERVE"):
    """Keep unreserved resources of the offer for a role. Each claim carries the reservation that is to be made."""

    claims: Claims
    operation_id: Name = ""


class Unreserve(Record, frozen=True, kw_only=True, tag="UNRESERVE"):
    claims: Claims
    operation_id: Name = ""


class Create(Record, frozen=True, kw_only=True, tag="CREATE"):
    """Hold a replica of each shard on the offer's agent. It is done when the agent has them."""

    shard_ids: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=256)]
    operation_id: Name = ""


class Destroy(Record, frozen=True, kw_only=True, tag="DESTROY"):
    shard_ids: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=256)]
    operation_id: Name = ""


Operation = Launch | LaunchGroup | Reserve | Unreserve | Create | Destroy


class Refusal(Record, frozen=True, kw_only=True):
    """A task or an operation of an accept that cannot be done as it is written, and why. Found where the call was read;
    the others are done. A task is told `TASK_ERROR`, an operation that has an id `OPERATION_ERROR`."""

    task_id: Text | None = None  # of a task; may be one that no task can have
    operation_id: Name = ""
    is_grouped: bool = False  # of a LAUNCH_GROUP: all its tasks are refused
    problem: Text


# --- calls -----------------------------------------------------------------------------------------------------------


class Subscribe(Record, frozen=True, kw_only=True, tag="SUBSCRIBE"):
    """Opens the stream named by the event's `stream_id`. With the `framework_id` of a known framework it takes that
    framework over: its earlier stream gets `Error` and is closed."""

    framework: FrameworkInfo
    framework_id: FrameworkId = ""
    suppressed_roles: tuple[RolePath, ...] = ()


class UpdateFramework(Record, frozen=True, kw_only=True, tag="UPDATE_FRAMEWORK"):
    framework: FrameworkInfo
    suppressed_roles: tuple[RolePath, ...] = ()


class Teardown(Record, frozen=True, kw_only=True, tag="TEARDOWN"):
    """Ends the framework for good: its tasks are killed, its offers return."""


class Accept(Record, frozen=True, kw_only=True, tag="ACCEPT"):
    offer_ids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)]
    operations: Annotated[tuple[Operation, ...], msgspec.Meta(max_length=256)] = ()
    refusals: Annotated[tuple[Refusal, ...], msgspec.Meta(max_length=65_536)] = ()
    refuse_us: Duration = REFUSE_US


class Decline(Record, frozen=True, kw_only=True, tag="DECLINE"):
    offer_ids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=4096)]
    refuse_us: Duration = REFUSE_US


class AcceptInverse(Record, frozen=True, kw_only=True, tag="ACCEPT_INVERSE_OFFERS"):
    offer_ids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)]
    refuse_us: Duration = REFUSE_US


class DeclineInverse(Record, frozen=True, kw_only=True, tag="DECLINE_INVERSE_OFFERS"):
    offer_ids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)]
    refuse_us: Duration = REFUSE_US


class Revive(Record, frozen=True, kw_only=True, tag="REVIVE"):
    """Clears the filters of these roles, ends their suppression, and allocates at once; () is every role."""

    roles: tuple[RolePath, ...] = ()


class Suppress(Record, frozen=True, kw_only=True, tag="SUPPRESS"):
    """No new offers for these roles (() is every role) until `Revive`; those that stand, stand."""

    roles: tuple[RolePath, ...] = ()


class KillTask(Record, frozen=True, kw_only=True, tag="KILL"):
    task_id: TaskId
    agent_id: Name = ""
    kill_grace_us: Duration | None = None


class Shutdown(Record, frozen=True, kw_only=True, tag="SHUTDOWN"):
    """Kills every task of an executor on an agent."""

    executor_id: Name
    agent_id: Name


class Acknowledge(Record, frozen=True, kw_only=True, tag="ACKNOWLEDGE"):
    task_id: TaskId
    agent_id: Name
    uuid: bytes


class AcknowledgeOperation(Record, frozen=True, kw_only=True, tag="ACKNOWLEDGE_OPERATION_STATUS"):
    operation_id: Name
    uuid: bytes
    agent_id: Name = ""


class KnownTask(Record, frozen=True, kw_only=True):
    task_id: TaskId
    agent_id: Name = ""


class Reconcile(Record, frozen=True, kw_only=True, tag="RECONCILE"):
    """Say the state of these tasks; none named is all of them (implicit)."""

    tasks: Annotated[tuple[KnownTask, ...], msgspec.Meta(max_length=100_000)] = ()


class ReconcileOperations(Record, frozen=True, kw_only=True, tag="RECONCILE_OPERATIONS"):
    operation_ids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=10_000)] = ()


class Message(Record, frozen=True, kw_only=True, tag="MESSAGE"):
    """To an executor. Agents run plain commands, which hear no messages: it is counted and goes nowhere."""

    agent_id: Name
    executor_id: Name
    data: Annotated[bytes, msgspec.Meta(max_length=65_536)] = b""


class WantedOffer(Record, frozen=True, kw_only=True):
    """`count` equal pieces of work, as the placement rounds see them: the offers that answer are where the optimum
    puts them. Replaces the framework's earlier wish of the same `request_id`; `count` 0 withdraws it."""

    request_id: Name
    role: RolePath = "default"
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    cpu_milli: Amounts = 0
    memory_bytes: Amounts = 0
    disk_bytes: Amounts = 0
    gpu: GpuNeed | None = None
    reads: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=1024)] = ()
    where: Where = Where()
    constraints: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()  # link and GPU predicates
    latency: Annotated[tuple[LatencyTarget, ...], msgspec.Meta(max_length=16)] = ()
    gang: bool = False  # all pieces at once or none
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    profile: Name = ""
    run_us: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000


class Request(Record, frozen=True, kw_only=True, tag="REQUEST"):
    wants: Annotated[tuple[WantedOffer, ...], msgspec.Meta(max_length=256)]


Call = (
    Subscribe | UpdateFramework | Teardown | Accept | Decline | AcceptInverse | DeclineInverse | Revive | Suppress
    | KillTask | Shutdown | Acknowledge | AcknowledgeOperation | Reconcile | ReconcileOperations | Message | Request
)  # fmt: skip


class CallTaken(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The call was taken: 202, or 200 for `UpdateFramework`. What it leads to comes as events."""

    framework_id: str


# --- events ----------------------------------------------------------------------------------------------------------

TaskState = Literal[
    "TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED",
    "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_UNKNOWN",
]  # fmt: skip
OperationState = Literal[
    "OPERATION_PENDING", "OPERATION_FINISHED", "OPERATION_FAILED", "OPERATION_ERROR", "OPERATION_DROPPED",
    "OPERATION_UNKNOWN",
]  # fmt: skip


class Subscribed(Record, frozen=True, kw_only=True, tag="SUBSCRIBED"):
    framework_id: FrameworkId
    heartbeat_us: int


class Offers(Record, frozen=True, kw_only=True, tag="OFFERS"):
    offers: tuple[FrameworkOffer, ...]


class InverseOffers(Record, frozen=True, kw_only=True, tag="INVERSE_OFFERS"):
    offers: tuple[InverseOffer, ...]


class Rescind(Record, frozen=True, kw_only=True, tag="RESCIND"):
    offer_id: Name
    reason: Name = ""


class RescindInverse(Record, frozen=True, kw_only=True, tag="RESCIND_INVERSE_OFFER"):
    offer_id: Name


class Update(Record, frozen=True, kw_only=True, tag="UPDATE"):
    """A task's state. With a `uuid` (16 bytes) it is repeated until acknowledged; without one (b"") it is not."""

    task_id: str
    state: TaskState
    agent_id: Name = ""
    uuid: bytes = b""
    source: Literal["SOURCE_MASTER", "SOURCE_AGENT", "SOURCE_EXECUTOR"] = "SOURCE_MASTER"
    reason: Name = ""  # a Mesos reason, REASON_…
    message: Text = ""
    at_us: int = 0
    executor_id: Name = ""
    exit_code: int | None = None
    outputs: tuple[tuple[Name, Sha256], ...] = ()  # (name, shard id) of what a finished task wrote
    labels: Labels = ()


class UpdateOperation(Record, frozen=True, kw_only=True, tag="UPDATE_OPERATION_STATUS"):
    operation_id: Name
    state: OperationState
    agent_id: Name = ""
    uuid: bytes = b""
    message: Text = ""
    converted: tuple[Portion, ...] = ()  # what became of the offer's resources by a reservation


class ExecutorMessage(Record, frozen=True, kw_only=True, tag="MESSAGE"):
    agent_id: Name
    executor_id: Name
    data: bytes = b""


class Failure(Record, frozen=True, kw_only=True, tag="FAILURE"):
    """An agent is gone (no executor named), or an executor on it has ended."""

    agent_id: Name = ""
    executor_id: Name = ""
    status: int | None = None


class Error(Record, frozen=True, kw_only=True, tag="ERROR"):
    """The stream is over: another took it over, or the framework was torn down."""

    message: Text


class Heartbeat(Record, frozen=True, kw_only=True, tag="HEARTBEAT"):
    pass


StreamEvent = (
    Subscribed | Offers | InverseOffers | Rescind | RescindInverse | Update | UpdateOperation | ExecutorMessage
    | Failure | Error | Heartbeat
)  # fmt: skip
