"""What can happen to an agent: everything it ever learns arrives as one of these, with the time beside it."""

from federation.wire import FetchProgress, HeldShard, LinkSample, MasterMessage, TaskSteps
from policies.model import Record, Resources


class Started(Record, frozen=True, kw_only=True, tag=True):
    """The first event, after recovery of the journal: `running` are handles of processes found alive."""

    total: Resources
    running: tuple[str, ...] = ()
    shards: tuple[HeldShard, ...] = ()  # found on disk and verified
    hardware: str = ""  # as found; the configuration's, where set, wins
    speed_milli: int = 1000  # as measured; the same
    data_url: str = ""  # where peers fetch this agent's shards; "" when it serves none


class Connected(Record, frozen=True, kw_only=True, tag=True):
    """The broker accepted us; the core counts it as a new connection and sends a birth."""


class Disconnected(Record, frozen=True, kw_only=True, tag=True):
    detail: str = ""


class MasterSpoke(Record, frozen=True, kw_only=True, tag=True):
    """`delivery` is what `Acknowledge` must name once the message is in the journal (manual MQTT ack); 0 for none.

    `received_us` is when it left the socket (None: now), from which a launch's `expires_in_us` runs; `n_bytes` its
    payload's size."""

    message: MasterMessage
    delivery: int = 0
    received_us: int | None = None
    n_bytes: int = 0


class GarbageArrived(Record, frozen=True, kw_only=True, tag=True):
    code: str
    n_bytes: int
    delivery: int = 0


class Measured(Record, frozen=True, kw_only=True, tag=True):
    """What of the agent's total is usable by tasks now, its own running tasks counted as free."""

    usable: Resources


class LinksMeasured(Record, frozen=True, kw_only=True, tag=True):
    samples: tuple[LinkSample, ...]
    busy: bool = False  # A probe was put off because the way was in use: to be tried again soon.
    cpu_us: int = 0  # processor time it took, or more: of all that this process did meanwhile


class ProbeServed(Record, frozen=True, kw_only=True, tag=True):
    """A peer was sent so many bytes to measure with; `cpu_us` as above."""

    n_bytes: int
    cpu_us: int = 0


class FetchEnded(Record, frozen=True, kw_only=True, tag=True):
    """Answer to `Fetch`. On failure `reason` is "fetch", "hash", "disk_full" or "residency"."""

    fetch_id: int
    shard: HeldShard
    ok: bool
    reason: str = ""
    detail: str = ""
    fetched_bytes: int = 0  # 0 when it was already here
    samples: tuple[LinkSample, ...] = ()


class FetchesProgressed(Record, frozen=True, kw_only=True, tag=True):
    """Of fetches that run for long, now and then: how far they are, and the rates since they were last told of."""

    fetches: tuple[FetchProgress, ...]
    samples: tuple[LinkSample, ...] = ()


class TaskStarted(Record, frozen=True, kw_only=True, tag=True):
    task_id: str
    attempt: int
    handle: str


class TaskEnded(Record, frozen=True, kw_only=True, tag=True):
    """The whole process tree is gone. `reason`: "exit", "signal", "time_limit", "memory_limit", "disk_limit",
    "process_limit", "killed", "start", "disk_full", "outputs", "agent_restart"."""

    task_id: str
    attempt: int
    reason: str
    exit_code: int | None = None
    detail: str = ""
    log_tail: str = ""
    outputs: tuple[HeldShard, ...] = ()
    run_us: int = 0


class ShardRemoved(Record, frozen=True, kw_only=True, tag=True):
    """Answer to `RemoveShard`, or a replica found damaged."""

    shard_id: str
    reason: str = ""


class StepsTold(Record, frozen=True, kw_only=True, tag=True):
    """A task said how long its training steps take."""

    steps: TaskSteps


class ShardFound(Record, frozen=True, kw_only=True, tag=True):
    """A file was added to the store by hand (`offerflow shard add`)."""

    shard: HeldShard


class ShutdownAsked(Record, frozen=True, kw_only=True, tag=True):
    """Leave cleanly: publish a death, keep tasks running (they are adopted at the next start)."""


class DeadlinePassed(Record, frozen=True, kw_only=True, tag=True):
    """`next_deadline_us` has come."""


Event = (
    Started | Connected | Disconnected | MasterSpoke | GarbageArrived | Measured | LinksMeasured | ProbeServed
    | FetchEnded | FetchesProgressed | TaskStarted | TaskEnded | StepsTold | ShardRemoved | ShardFound | ShutdownAsked
    | DeadlinePassed
)  # fmt: skip
