"""Every message between agents and the master: versioned, tagged structs in MessagePack.

The tag field `t` is `<name>/<version>`. Decoding is typed and bounded: anything else is a `PeerError` whose `code` is
one of `oversized`, `malformed`, `unknown_message`, `unknown_version`. Unknown fields are ignored, so a newer peer may
add some.

Topics (agent id = client id = certificate CN):
    of/1/a/{id}/{state,offer,status,ack,net}   from agents
    of/1/m/{id}/{cmd,ctl}                      to agents
    of/1/master/state                          retained
"""

import re
from typing import Annotated, Literal

import msgspec

from federation.errors import PeerError
from policies.model import Gpu, Needs, Record, Resources, Tier

PAYLOAD_BYTES_MAX = 256 * 1024  # A birth with thousands of shards is the largest legal message, ~200 KiB.
ROOT = "of/1"
MASTER_STATE_TOPIC = f"{ROOT}/master/state"
AGENT_ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,62})$"
_AGENT_ID = re.compile(AGENT_ID_PATTERN)

AgentId = Annotated[str, msgspec.Meta(pattern=AGENT_ID_PATTERN)]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Text = Annotated[str, msgspec.Meta(max_length=16 * 1024)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

AgentChannel = Literal["state", "offer", "status", "ack", "net"]
MasterChannel = Literal["cmd", "ctl"]


def is_agent_id(text: str) -> bool:
    return _AGENT_ID.match(text) is not None


def agent_topic(agent_id: str, channel: AgentChannel) -> str:
    return f"{ROOT}/a/{agent_id}/{channel}"


def master_topic(agent_id: str, channel: MasterChannel) -> str:
    return f"{ROOT}/m/{agent_id}/{channel}"


# --- parts -----------------------------------------------------------------------------------------------------------


class HeldShard(Record, frozen=True, kw_only=True):
    shard_id: Sha256
    size_bytes: Count
    name: Name = ""


class HeldTask(Record, frozen=True, kw_only=True):
    """An attempt the agent knows of and has not seen acknowledged as ended."""

    task_id: Name
    attempt: Count
    term: Count
    state: Literal["accepted", "staging", "running", "ended"]


class LinkSample(Record, frozen=True, kw_only=True):
    """One measurement of the directed link `from_agent` → `to_agent`; `bytes` and `duration_us` say how much it saw.

    `method`: "transfer" (a real shard), "probe" (a small active one), "echo" (round trip to the peer's data port),
    "mqtt_echo" (application echo through the broker), "tcp_info" (kernel's smoothed round trip of the MQTT socket).
    `to_agent` or `from_agent` is "" for the broker or master.

    A transfer among others says so, because a share of a link is not the link: `shared_milli` is the average number of
    our own transfers between these two agents while it ran (1000: alone), so rate × shared_milli is what the way gave.
    `is_lower_bound`: transfers to or from others competed at one end; the way gives at least this.
    """

    from_agent: Name
    to_agent: Name
    method: Literal["transfer", "probe", "echo", "mqtt_echo", "tcp_info"]
    rtt_us: Count | None = None
    jitter_us: Count | None = None
    loss_ppm: Count | None = None
    bandwidth_bps: Count | None = None
    bytes: Count = 0
    duration_us: Count = 0
    shared_milli: Annotated[int, msgspec.Meta(ge=1000, le=1_000_000)] = 1000
    is_lower_bound: bool = False


class Source(Record, frozen=True, kw_only=True):
    """Where bytes can be fetched: tried in order. The token, where one is needed, comes from the agent's own config."""

    url: Name
    agent_id: Name = ""  # "" is the master's own store
    site: Name = ""


class Fetch(Record, frozen=True, kw_only=True):
    shard_id: Sha256
    size_bytes: Count
    name: Name = ""
    sources: Annotated[tuple[Source, ...], msgspec.Meta(max_length=16)] = ()


class FetchProgress(Record, frozen=True, kw_only=True):
    """How far a fetch that is still running has come: of `shard_id`, `done_bytes` are here, now coming from
    `from_agent` ("" is the master's store)."""

    shard_id: Sha256
    from_agent: Name = ""
    done_bytes: Count


class Output(Record, frozen=True, kw_only=True):
    """A file the task writes under its output folder; it becomes a shard of the agent, named `{task_id}/{name}`."""

    name: Name
    path: Name
    bytes_max: Count


# --- from the agent --------------------------------------------------------------------------------------------------


class FromAgent(Record, frozen=True, kw_only=True):
    """Base: which life of the agent speaks. `boot` counts starts (durable), `conn` connections of that boot,
    `seq` messages of that connection, from 0 (the birth). A gap in `seq` asks for one rebirth."""

    agent_id: AgentId
    boot: Count
    conn: Count
    seq: Count = 0


class Birth(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="birth/1"):
    """Channel `state`, first on every connection: everything the agent is and holds."""

    version: Name
    site: AgentId
    tier: Tier
    total: Resources
    region: Name = ""
    labels: Annotated[tuple[tuple[Name, Name], ...], msgspec.Meta(max_length=64)] = ()
    hardware: Name = ""
    speed_milli: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    price_microusd_per_cpu_hour: Count = 0
    data_url: Name = ""  # where peers fetch its shards; "" when it serves none
    metered: bool = False  # its way out of the site is paid by the byte: it is told a slower rhythm, and probed rarely
    tasks: Annotated[tuple[HeldTask, ...], msgspec.Meta(max_length=4096)] = ()
    shards: Annotated[tuple[HeldShard, ...], msgspec.Meta(max_length=2048)] = ()
    # Whether the lists are all there is: a master concludes from absence only where they are.
    tasks_complete: bool = True
    shards_complete: bool = True


class Death(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="death/1"):
    """Channel `state`; the will carries reason "will". Counts only if boot and conn are the current ones."""

    reason: Literal["will", "shutdown"]


class Offer(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="offer/1"):
    """Channel `offer`: a lease on what is free, void `expires_in_us` after the master received it.

    An offer replaces the agent's previous one. `commands_seen` is the highest `cmd_id` whose task is already taken
    off `free`, so the master can subtract what is still on its way.
    """

    offer_id: Name
    free: Resources
    expires_in_us: Annotated[int, msgspec.Meta(ge=1, le=3_600_000_000)]
    commands_seen: Count = 0


class OfferDelta(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="offer_delta/1"):
    """Channel `offer`, where the welcome asks for it: an offer as the one before it on this connection, of message
    `base_seq`, with these changes; None: as before. A master that does not know that one asks for a birth."""

    base_seq: Count
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpus: Annotated[tuple[Gpu, ...], msgspec.Meta(max_length=1024)] | None = None
    commands_seen: Count | None = None


def changes(base: Offer, new: Offer) -> dict[str, object]:
    """The fields of the `OfferDelta` that leads from one offer to the next."""
    before, after = base.free, new.free
    kinds = ("cpu_milli", "memory_bytes", "disk_bytes", "gpus")
    found = {kind: getattr(after, kind) for kind in kinds if getattr(after, kind) != getattr(before, kind)}
    if new.commands_seen != base.commands_seen:
        found["commands_seen"] = new.commands_seen
    return {"base_seq": base.seq, **found}


def changed(base: Offer, delta: OfferDelta) -> Offer:
    """The offer that a delta on `base` stands for."""
    free, told = base.free, msgspec.structs.asdict(delta)
    kinds = ("cpu_milli", "memory_bytes", "disk_bytes", "gpus")
    free = msgspec.structs.replace(free, **{kind: told[kind] for kind in kinds if told[kind] is not None})
    seen = base.commands_seen if delta.commands_seen is None else delta.commands_seen
    offer_id = f"{delta.agent_id}.{delta.boot}.{delta.conn}.{delta.seq}"
    return msgspec.structs.replace(base, seq=delta.seq, offer_id=offer_id, free=free, commands_seen=seen)


TaskState = Literal["staging", "running", "finished", "failed", "killed", "refused"]


class TaskStatus(Record, frozen=True, kw_only=True, tag_field="t", tag="task_status/1"):
    """A state the attempt reached. `reason` is a stable token ("exit", "time_limit", "memory_limit", "fetch", "hash",
    "disk_full", "killed", "expired", "stale_term", "no_room", "agent_restart", …); `detail` is for people."""

    status_id: Count
    task_id: Name
    attempt: Count
    term: Count
    state: TaskState
    reason: Name = ""
    detail: Text = ""
    exit_code: int | None = None
    log_tail: Text = ""
    outputs: Annotated[tuple[HeldShard, ...], msgspec.Meta(max_length=256)] = ()
    fetched_bytes: Count = 0  # over links to other sites and within
    stage_us: Count = 0  # accepted → everything fetched
    run_us: Count = 0  # started → ended


class ShardStatus(Record, frozen=True, kw_only=True, tag_field="t", tag="shard_status/1"):
    """A shard the agent now holds, or could not get, or no longer holds."""

    status_id: Count
    shard: HeldShard
    state: Literal["held", "failed", "dropped"]
    reason: Name = ""
    detail: Text = ""


Status = TaskStatus | ShardStatus


class StatusReport(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="statuses/1"):
    """Channel `status`: from the durable outbox, oldest first, repeated until a `StatusAck` covers them."""

    statuses: Annotated[tuple[Status, ...], msgspec.Meta(max_length=256)]


class CommandAck(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="command_ack/1"):
    """Channel `ack`: these commands are in the agent's journal."""

    cmd_ids: Annotated[tuple[Count, ...], msgspec.Meta(max_length=1024)]


class Steps(Record, frozen=True, kw_only=True):
    """What a training task says of its last steps: `batch` samples in all, over `workers` tasks on `agents` agents,
    took `step_us`. `noise_scale` in samples, 0 where it was not estimated."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    batch: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    step_us: Annotated[int, msgspec.Meta(ge=1, le=86_400_000_000)]
    agents: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    noise_scale: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0


class TaskSteps(Record, frozen=True, kw_only=True):
    task_id: Name
    attempt: Count
    steps: Steps


class NetReport(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="net/1"):
    """Channel `net`: what was measured since the last report, of links and of the tasks' own steps."""

    samples: Annotated[tuple[LinkSample, ...], msgspec.Meta(max_length=1024)]
    control_bytes: Count = 0  # MQTT payload bytes sent and received since boot
    probe_bytes: Count = 0  # of active probes received since boot
    measuring_cpu_us: Count = 0  # processor time that probes took, asked and served, at most; since boot
    wire_bytes: Count = 0  # metered agents: both, and their headers by estimate, and peers' probes of it; since boot
    fetches: Annotated[tuple[FetchProgress, ...], msgspec.Meta(max_length=256)] = ()  # those that run for long
    steps: Annotated[tuple[TaskSteps, ...], msgspec.Meta(max_length=256)] = ()  # the newest of each task


class Ping(FromAgent, frozen=True, kw_only=True, tag_field="t", tag="ping/1"):
    """Channel `net`: echoed at once as `Pong`; it also renews the agent's liveness."""

    nonce: Count


AgentMessage = Birth | Death | Offer | OfferDelta | StatusReport | CommandAck | NetReport | Ping


# --- from the master -------------------------------------------------------------------------------------------------


class Launch(Record, frozen=True, kw_only=True, tag_field="t", tag="launch/1"):
    """Run one attempt. The agent picks no GPUs: `gpus` names them, and `gpu_memory_bytes` is what a share of one has.
    `expires_in_us` runs from receipt."""

    cmd_id: Count
    task_id: Name
    attempt: Count
    expires_in_us: Count
    needs: Needs
    command: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=1024)]
    env: dict[Name, Text] = msgspec.field(default_factory=dict)
    gpus: tuple[Name, ...] = ()
    gpu_memory_bytes: Count = 0
    artifact: Fetch | None = None  # unpacked into the task's folder
    reads: Annotated[tuple[Fetch, ...], msgspec.Meta(max_length=1024)] = ()
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(max_length=256)] = ()
    time_limit_us: Count | None = None
    kill_grace_us: Count = 5_000_000  # between SIGTERM and SIGKILL
    simulated_run_us: Count | None = None  # true run time on speed 1000, for simulated agents only


class Kill(Record, frozen=True, kw_only=True, tag_field="t", tag="kill/1"):
    """End an attempt; unknown ones are answered with a `killed` status, so that the master can close its books."""

    cmd_id: Count
    task_id: Name
    attempt: Count
    reason: Name = ""
    grace_us: Count | None = None  # instead of the launch's; a later kill may shorten it


class FetchShard(Record, frozen=True, kw_only=True, tag_field="t", tag="fetch_shard/1"):
    """Hold a replica; answered by a `ShardStatus`."""

    cmd_id: Count
    fetch: Fetch


class RedirectFetch(Record, frozen=True, kw_only=True, tag_field="t", tag="redirect_fetch/1"):
    """Go on with a running fetch from these sources, by Range from where it is; void when it runs no more."""

    cmd_id: Count
    fetch: Fetch


class DropShard(Record, frozen=True, kw_only=True, tag_field="t", tag="drop_shard/1"):
    cmd_id: Count
    shard_id: Sha256


Command = Launch | Kill | FetchShard | RedirectFetch | DropShard


class CommandBatch(Record, frozen=True, kw_only=True, tag_field="t", tag="commands/1"):
    """Channel `cmd`. Refused whole if `term` is below the highest the agent has seen, or `boot`/`conn` are not the
    current ones (it was queued for an earlier life; the master re-sends after the birth)."""

    term: Count
    boot: Count
    conn: Count
    commands: Annotated[tuple[Command, ...], msgspec.Meta(max_length=1024)]


class Welcome(Record, frozen=True, kw_only=True, tag_field="t", tag="welcome/1"):
    """Channel `ctl`, the answer to a birth: the rates the agent is to keep."""

    term: Count
    boot: Count
    conn: Count
    offer_every_us: Count  # renew the offer at least this often
    ping_every_us: Count
    offer_lease_us: Count
    data_url: Name = ""  # the master's own store, for artifacts
    offer_deltas: bool = False  # offers after the first may come as `OfferDelta`


class StatusAck(Record, frozen=True, kw_only=True, tag_field="t", tag="status_ack/1"):
    """Channel `ctl`: these statuses are in the master's journal; the agent forgets them."""

    term: Count
    status_ids: Annotated[tuple[Count, ...], msgspec.Meta(max_length=1024)]


class RebirthRequest(Record, frozen=True, kw_only=True, tag_field="t", tag="rebirth/1"):
    """Channel `ctl`: send your birth again, after a delay the agent draws in [0, spread_us]."""

    term: Count
    spread_us: Count = 0


class Peer(Record, frozen=True, kw_only=True):
    agent_id: AgentId
    site: Name
    data_url: Name
    every_us: Count = 0  # for a way that is paid by the byte; 0: the plan's
    # Of what this way carries, that probes of it may take over time: all ways over one uplink come to a thousandth.
    share_ppm: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000


class ProbePlan(Record, frozen=True, kw_only=True, tag_field="t", tag="probe_plan/1"):
    """Channel `ctl`: the peers whose link to this agent is to be kept measured, at most `bytes_max` a probe."""

    term: Count
    peers: Annotated[tuple[Peer, ...], msgspec.Meta(max_length=256)]
    every_us: Count
    bytes_max: Count


class Pong(Record, frozen=True, kw_only=True, tag_field="t", tag="pong/1"):
    """Channel `ctl`."""

    nonce: Count


class Quarantine(Record, frozen=True, kw_only=True, tag_field="t", tag="quarantine/1"):
    """Channel `ctl`: this agent id is used by two processes or broke its word; stop offering, keep reporting."""

    term: Count
    reason: Text


Control = Welcome | StatusAck | RebirthRequest | ProbePlan | Pong | Quarantine


class MasterState(Record, frozen=True, kw_only=True, tag_field="t", tag="master_state/1"):
    """Retained on `of/1/master/state`, and the master's will with `online` false. Its own topic needs no channel."""

    term: Count
    online: bool
    http_url: Name = ""


MasterMessage = CommandBatch | Control | MasterState


# --- encoding --------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_master_decoder: msgspec.msgpack.Decoder[MasterMessage] = msgspec.msgpack.Decoder(MasterMessage)
_AGENT_TAGS = frozenset({"birth", "death", "offer", "offer_delta", "statuses", "command_ack", "net", "ping"})
_MASTER_TAGS = frozenset(
    {"commands", "welcome", "status_ack", "rebirth", "probe_plan", "pong", "quarantine", "master_state"}
)


class _Tag(msgspec.Struct):
    t: str


_tag_decoder = msgspec.msgpack.Decoder(_Tag)


def encode(message: AgentMessage | MasterMessage) -> bytes:
    return _encoder.encode(message)


def decode_agent_message(payload: bytes) -> AgentMessage:
    """Decode what an agent published. Raises `PeerError`; never anything else, whatever the bytes."""
    try:
        _check_size(payload)
        return _agent_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
        raise _peer_error(payload, error, _AGENT_TAGS) from None


def decode_master_message(payload: bytes) -> MasterMessage:
    """Decode what the master published. Raises `PeerError`; never anything else, whatever the bytes."""
    try:
        _check_size(payload)
        return _master_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
        raise _peer_error(payload, error, _MASTER_TAGS) from None


def _check_size(payload: bytes) -> None:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PeerError("oversized", f"a payload of {len(payload)} bytes exceeds {PAYLOAD_BYTES_MAX}")


def _peer_error(payload: bytes, error: Exception, known: frozenset[str]) -> PeerError:
    try:
        tag = _tag_decoder.decode(payload).t
    except (msgspec.DecodeError, RecursionError, ValueError):
        return PeerError("malformed", f"not a tagged MessagePack map: {error}")
    name, _, version = tag.partition("/")
    if name not in known:
        return PeerError("unknown_message", f"no message is called {tag[:80]!r}")
    if version != "1":
        return PeerError("unknown_version", f"message {name!r} in version {version[:20]!r}; this side speaks 1")
    return PeerError("malformed", f"{name}: {error}")
