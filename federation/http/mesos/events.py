"""Events: the market's values → JSON. Sizes and measurements that Mesos has no field for stand under `offerflow`."""

import base64
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from federation.http.mesos.amounts import Dialect, labels_tree, portion_trees
from federation.market.protocol import (
    Error,
    ExecutorMessage,
    Failure,
    FrameworkOffer,
    Heartbeat,
    InverseOffer,
    InverseOffers,
    Offers,
    Portion,
    Rescind,
    RescindInverse,
    StreamEvent,
    Subscribed,
    Update,
    UpdateOperation,
)  # fmt: skip

# What a framework that is not PARTITION_AWARE hears in their place, as in Mesos.
_LOST: Final = frozenset({"TASK_DROPPED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_UNKNOWN"})
_LINK_ATTRIBUTES: Final = ("rtt_us", "jitter_us", "loss_ppm", "bandwidth_bps")
_encode = msgspec.json.Encoder().encode


def encode_event(event: StreamEvent, dialect: Dialect, master: dict[str, Any] | None = None) -> bytes:
    """`master`: the MasterInfo told to who subscribes."""
    return _encode(event_tree(event, dialect, master))


def event_tree(event: StreamEvent, dialect: Dialect, master: dict[str, Any] | None = None) -> dict[str, Any]:
    kind = str(event.__struct_config__.tag)
    body = _body(event, dialect, master)
    return {"type": kind} if body is None else {"type": kind, kind.lower(): body}


def _body(event: StreamEvent, dialect: Dialect, master: dict[str, Any] | None) -> dict[str, Any] | None:
    match event:
        case Subscribed():
            tree = {
                "framework_id": _id(event.framework_id),
                "heartbeat_interval_seconds": event.heartbeat_us / 1e6,
            }
            return tree if master is None else tree | {"master_info": master}
        case Offers(offers=offers):
            return {"offers": [offer_tree(offer, dialect) for offer in offers]}
        case InverseOffers(offers=offers):
            return {"inverse_offers": [inverse_tree(offer, dialect) for offer in offers]}
        case Rescind(offer_id=offer_id, reason=reason):
            return {"offer_id": _id(offer_id)} | ({"offerflow": {"reason": reason}} if reason else {})
        case RescindInverse(offer_id=offer_id):
            return {"inverse_offer_id": _id(offer_id)}
        case Update():
            return {"status": update_tree(event, dialect)}
        case UpdateOperation():
            return {"status": _operation_tree(event, dialect)}
        case ExecutorMessage(agent_id=agent_id, executor_id=executor_id, data=data):
            return {"agent_id": _id(agent_id), "executor_id": _id(executor_id), "data": _base64(data)}
        case Failure():
            return _some(agent_id=_id(event.agent_id), executor_id=_id(event.executor_id), status=event.status)
        case Error(message=message):
            return {"message": message}
        case Heartbeat():
            return None


# --- offers ----------------------------------------------------------------------------------------------------------


def offer_tree(offer: FrameworkOffer, dialect: Dialect) -> dict[str, Any]:
    role = offer.role if dialect.multi_role else None
    tree: dict[str, Any] = {
        "id": _id(offer.offer_id),
        "framework_id": _id(offer.framework_id),
        "agent_id": _id(offer.agent_id),
        "hostname": offer.agent_id,
        "resources": [tree for portion in offer.portions for tree in portion_trees(portion, role, dialect)],
        "attributes": attributes_of(offer),
        "executor_ids": [_id(task_id) for task_id in offer.running],
        "offerflow": _offer_extension(offer),
    }
    if role is not None:
        tree["allocation_info"] = {"role": dialect.role(role)}
    agent = offer.agent
    if agent.data_url:
        tree["url"] = _url_tree(agent.data_url, agent.agent_id)
    if agent.region or agent.site:
        tree["domain"] = {"fault_domain": {"region": {"name": agent.region}, "zone": {"name": agent.site}}}
    return tree


def attributes_of(offer: FrameworkOffer) -> list[dict[str, Any]]:
    """Named as the constraints name them: site, region, tier, hardware, labels, GPUs, and measured links."""
    agent = offer.agent
    texts = {"site": agent.site, "region": agent.region, "tier": agent.tier, "hardware": agent.hardware}
    attributes = [_text(name, value) for name, value in texts.items() if value]
    attributes.append(_scalar("speed_milli", agent.speed_milli))
    attributes += [_text(key, value) for key, value in agent.labels]
    gpus = [gpu for portion in offer.portions for gpu in portion.resources.gpus]
    attributes += [_text("gpu.model", model) for model in sorted({gpu.model for gpu in gpus if gpu.model})]
    attributes += [
        _scalar("gpu.memory_bytes", size) for size in sorted({gpu.memory_bytes for gpu in gpus if gpu.memory_bytes})
    ]
    ends = {f"agent:{agent.agent_id}", f"site:{agent.site}"}
    for link in offer.links:
        way = f"from={link.from_id}" if link.to_id in ends else f"to={link.to_id}"
        for name in _LINK_ATTRIBUTES:
            value = getattr(link, name)
            if value is not None:
                attributes.append(_scalar(f"link.{name}{{{way}}}", value))
    return attributes


def _offer_extension(offer: FrameworkOffer) -> dict[str, Any]:
    """Everything the offer says, in integers."""
    tree: dict[str, Any] = msgspec.to_builtins(offer)
    tree |= tree.pop("agent")
    for key in ("offer_id", "framework_id", "agent_id", "running"):
        tree.pop(key, None)
    return tree


def inverse_tree(offer: InverseOffer, dialect: Dialect) -> dict[str, Any]:
    unavailability: dict[str, Any] = {"start": {"nanoseconds": offer.start_us * 1000}}
    if offer.duration_us is not None:
        unavailability["duration"] = {"nanoseconds": offer.duration_us * 1000}
    extension: dict[str, Any] = msgspec.to_builtins(offer)
    for key in ("offer_id", "framework_id", "agent_id"):
        extension.pop(key, None)
    return {
        "id": _id(offer.offer_id),
        "framework_id": _id(offer.framework_id),
        "agent_id": _id(offer.agent_id),
        "unavailability": unavailability,
        "resources": portion_trees(Portion(resources=offer.resources), None, dialect),
        "offerflow": extension,
    }


def _text(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "type": "TEXT", "text": {"value": value}}


def _scalar(name: str, value: int) -> dict[str, Any]:
    return {"name": name, "type": "SCALAR", "scalar": {"value": value}}


def _url_tree(url: str, name: str) -> dict[str, Any]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _some(
        scheme=parts.scheme, address={"hostname": parts.hostname or name, "port": port}, path=parts.path or "/"
    )


# --- updates ---------------------------------------------------------------------------------------------------------


def update_tree(update: Update, dialect: Dialect) -> dict[str, Any]:
    state: str = update.state
    if state in _LOST and not dialect.partition_aware:
        state = "TASK_LOST"
    elif state == "TASK_KILLING" and not dialect.task_killing:
        state = "TASK_RUNNING"
    extension = _some(exit_code=update.exit_code, outputs=dict(update.outputs) or None, at_us=update.at_us or None)
    return _some(
        task_id={"value": update.task_id},
        state=state,
        source=update.source,
        reason=update.reason or None,
        message=update.message or None,
        agent_id=_id(update.agent_id),
        executor_id=_id(update.executor_id),
        timestamp=update.at_us / 1e6,
        # Only an update that has one is acknowledged, so an absent one must not be there at all.
        uuid=_base64(update.uuid) if update.uuid else None,
        labels=labels_tree(update.labels) if update.labels else None,
        unreachable_time={"nanoseconds": update.at_us * 1000} if state == "TASK_UNREACHABLE" else None,
        offerflow=extension or None,
    )


def _operation_tree(event: UpdateOperation, dialect: Dialect) -> dict[str, Any]:
    converted = [tree for portion in event.converted for tree in portion_trees(portion, None, dialect)]
    return _some(
        operation_id=_id(event.operation_id),
        state=event.state,
        message=event.message or None,
        agent_id=_id(event.agent_id),
        uuid={"value": _base64(event.uuid)} if event.uuid else None,
        converted_resources=converted or None,
        offerflow={"converted": msgspec.to_builtins(event.converted)} if event.converted else None,
    )


def _id(value: str) -> Any:
    """None where there is none: an id is never empty."""
    return {"value": value} if value else None


def _some(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
