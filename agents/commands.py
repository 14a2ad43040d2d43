"""What the agent wants done. The driver commits every `Persist` of a batch before it acts on anything else of it."""

from agents.facts import Fact
from federation.wire import AgentMessage, Launch, Peer
from federation.wire import Fetch as WireFetch
from policies.model import Record


class Persist(Record, frozen=True, kw_only=True, tag=True):
    fact: Fact


class Publish(Record, frozen=True, kw_only=True, tag=True):
    """To the master; the channel follows from the message's type. Dropped silently while not connected."""

    message: AgentMessage


class Acknowledge(Record, frozen=True, kw_only=True, tag=True):
    """Now the broker may forget this delivery."""

    delivery: int


class Fetch(Record, frozen=True, kw_only=True, tag=True):
    """Get a shard into the store (at once if it is there): Range resume, SHA-256, rate cap. → `FetchEnded`."""

    fetch_id: int
    fetch: WireFetch


class Redirect(Record, frozen=True, kw_only=True, tag=True):
    """Let a running fetch go on from these sources, with what it has; nothing when it has ended meanwhile."""

    fetch_id: int
    fetch: WireFetch


class StartTask(Record, frozen=True, kw_only=True, tag=True):
    """Everything it reads is in the store. → `TaskStarted`, then `TaskEnded`; only `TaskEnded` if it cannot start."""

    launch: Launch


class StopTask(Record, frozen=True, kw_only=True, tag=True):
    """SIGTERM to the whole tree, SIGKILL after the grace. → `TaskEnded`."""

    task_id: str
    attempt: int
    grace_us: int
    reason: str = "killed"


class RemoveShard(Record, frozen=True, kw_only=True, tag=True):
    shard_id: str


class Probe(Record, frozen=True, kw_only=True, tag=True):
    """Measure the links between this agent and a peer, spending at most `bytes_max`. → `LinksMeasured`."""

    peer: Peer
    bytes_max: int


class AllowProbes(Record, frozen=True, kw_only=True, tag=True):
    """From now on peers that measure this agent may be sent so many bytes in all. → `ProbeServed` for each."""

    n_bytes: int


class Measure(Record, frozen=True, kw_only=True, tag=True):
    """Read this machine. → `Measured`."""


class Leave(Record, frozen=True, kw_only=True, tag=True):
    """Everything is published: close the connection and stop."""


Command = (
    Persist | Publish | Acknowledge | Fetch | Redirect | StartTask | StopTask | RemoveShard | Probe | AllowProbes
    | Measure | Leave
)  # fmt: skip
