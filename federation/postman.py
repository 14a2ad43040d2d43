"""Between topics with payloads and the core's events and messages: what an agent may say where, and how much fits."""

from collections.abc import Iterator
from typing import Final

import structlog

from federation.errors import PeerError
from federation.events import AgentSpoke, GarbageArrived
from federation.wire import (
    PAYLOAD_BYTES_MAX,
    ROOT,
    AgentChannel,
    AgentMessage,
    Birth,
    CommandAck,
    CommandBatch,
    Control,
    Death,
    MasterChannel,
    NetReport,
    Offer,
    OfferDelta,
    Ping,
    StatusReport,
    decode_agent_message,
    encode,
    is_agent_id,
)  # fmt: skip

log = structlog.get_logger("offerflow.master")

AGENT_TOPICS: Final = f"{ROOT}/a/+/+"
_PREFIX: Final = f"{ROOT}/a/"
_CHANNELS: Final[dict[type[AgentMessage], AgentChannel]] = {
    Birth: "state", Death: "state", Offer: "offer", StatusReport: "status", CommandAck: "ack", NetReport: "net",
    Ping: "net", OfferDelta: "offer",
}  # fmt: skip


def event_of(topic: str, payload: bytes, retained: bool) -> AgentSpoke | GarbageArrived:
    """What arrived on `AGENT_TOPICS`. Codes of garbage: those of `wire`, and "topic" (none of ours, or the message
    belongs on another channel), "identity" (the body names another agent), "retained" (agents retain nothing; some
    brokers deliver retained messages to whom they do not concern)."""
    agent_id, _, channel = topic.removeprefix(_PREFIX).partition("/")
    if not topic.startswith(_PREFIX) or not is_agent_id(agent_id):
        return GarbageArrived(agent_id="", code="topic", n_bytes=len(payload))
    if retained:
        return GarbageArrived(agent_id=agent_id, code="retained", n_bytes=len(payload))
    try:
        message = decode_agent_message(payload)
    except PeerError as error:
        return GarbageArrived(agent_id=agent_id, code=error.code, n_bytes=len(payload))
    if message.agent_id != agent_id:
        return GarbageArrived(agent_id=agent_id, code="identity", n_bytes=len(payload))
    if _CHANNELS[type(message)] != channel:
        return GarbageArrived(agent_id=agent_id, code="topic", n_bytes=len(payload))
    return AgentSpoke(message=message)


def payloads_of(message: CommandBatch | Control) -> Iterator[tuple[MasterChannel, bytes]]:
    """The message as payloads that agents take: a batch that is too large goes in halves."""
    payload = encode(message)
    channel: MasterChannel = "cmd" if isinstance(message, CommandBatch) else "ctl"
    if len(payload) <= PAYLOAD_BYTES_MAX:
        yield channel, payload
    elif isinstance(message, CommandBatch) and len(message.commands) > 1:
        middle = len(message.commands) // 2
        for part in (message.commands[:middle], message.commands[middle:]):
            yield from payloads_of(CommandBatch(term=message.term, boot=message.boot, conn=message.conn, commands=part))
    else:
        log.error("a message is too large for any agent", message_type=type(message).__name__, n_bytes=len(payload))
