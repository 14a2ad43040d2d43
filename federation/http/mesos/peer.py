"""The client's half of the protocol: calls → JSON, JSON → events. `calls` and `events` are the master's half."""

import base64
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from federation.errors import PeerError
from federation.http.mesos.amounts import Dialect, claim_amounts, labels_tree, least_trees, scalar_tree, standing_tree
from federation.market.protocol import (
    Accept,
    AcceptInverse,
    Acknowledge,
    AcknowledgeOperation,
    Call,
    Claim,
    Create,
    Decline,
    DeclineInverse,
    Destroy,
    FrameworkInfo,
    KillTask,
    Launch,
    LaunchGroup,
    Message,
    OfferedAgent,
    Operation,
    Reconcile,
    ReconcileOperations,
    Request,
    Reserve,
    Revive,
    Shutdown,
    StreamEvent,
    Subscribe,
    Suppress,
    TaskSpec,
    Teardown,
    Unreserve,
    UpdateFramework,
    WantedOffer,
)  # fmt: skip

_DIALECT: Final = Dialect(multi_role=True, refined=True, partition_aware=True, task_killing=True)


def encode_call(call: Call, framework_id: str = "") -> dict[str, Any]:
    kind = str(call.__struct_config__.tag)
    tree: dict[str, Any] = {"type": kind}
    if framework_id:
        tree["framework_id"] = {"value": framework_id}
    body = _call_body(call)
    return tree if body is None else tree | {kind.lower(): body}


def _call_body(call: Call) -> dict[str, Any] | None:
    match call:
        case Subscribe():
            return _framework_tree(call.framework, call.framework_id, call.suppressed_roles)
        case UpdateFramework():
            return _framework_tree(call.framework, "", call.suppressed_roles)
        case Teardown():
            return None
        case Accept():
            return {
                "offer_ids": _ids(call.offer_ids),
                "operations": [_operation_tree(operation) for operation in call.operations],
                "filters": {"refuse_seconds": call.refuse_us / 1e6},
            }
        case Decline():
            return {"offer_ids": _ids(call.offer_ids), "filters": {"refuse_seconds": call.refuse_us / 1e6}}
        case AcceptInverse() | DeclineInverse():
            return {"inverse_offer_ids": _ids(call.offer_ids), "filters": {"refuse_seconds": call.refuse_us / 1e6}}
        case Revive() | Suppress():
            return {"roles": list(call.roles)}
        case KillTask():
            return _with_agent(call.agent_id, task_id=_id(call.task_id)) | _policy(call.kill_grace_us)
        case Shutdown():
            return {"executor_id": _id(call.executor_id), "agent_id": _id(call.agent_id)}
        case Acknowledge():
            return {"task_id": _id(call.task_id), "agent_id": _id(call.agent_id), "uuid": _base64(call.uuid)}
        case AcknowledgeOperation():
            return _with_agent(call.agent_id, operation_id=_id(call.operation_id), uuid=_base64(call.uuid))
        case Reconcile():
            return {"tasks": [_with_agent(task.agent_id, task_id=_id(task.task_id)) for task in call.tasks]}
        case ReconcileOperations():
            return {"operations": [{"operation_id": _id(operation_id)} for operation_id in call.operation_ids]}
        case Message():
            return {
                "agent_id": _id(call.agent_id),
                "executor_id": _id(call.executor_id),
                "data": _base64(call.data),
            }
        case Request():
            return {"requests": [_wanted_tree(want) for want in call.wants]}


def _framework_tree(info: FrameworkInfo, framework_id: str, suppressed: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "user": info.user,
        "name": info.name,
        "failover_timeout": info.failover_timeout_us / 1e6,
        "checkpoint": info.checkpoint,
        "hostname": info.hostname,
        "webui_url": info.webui_url,
        "capabilities": [{"type": capability} for capability in sorted(info.capabilities)],
        "labels": labels_tree(info.labels),
    }
    if "MULTI_ROLE" in info.capabilities:
        tree["roles"] = list(info.roles)
    else:
        tree["role"] = info.roles[0]
    if info.principal:
        tree["principal"] = info.principal
    if framework_id:
        tree["id"] = {"value": framework_id}
    if info.least_offers:
        tree["offer_filters"] = {
            role: {"min_allocatable_resources": {"quantities": [{"quantities": least_trees(each)} for each in leasts]}}
            for role, leasts in info.least_offers.items()
        }
    body: dict[str, Any] = {"framework_info": tree, "suppressed_roles": list(suppressed)}
    if info.constraints:
        body["offerflow"] = {"constraints": {role: list(texts) for role, texts in info.constraints.items()}}
    return body


def _operation_tree(operation: Operation) -> dict[str, Any]:
    kind = str(operation.__struct_config__.tag)
    tree: dict[str, Any] = {"type": kind}
    match operation:
        case Launch(tasks=tasks):
            return tree | {"launch": {"task_infos": [task_tree(task) for task in tasks]}}
        case LaunchGroup(tasks=tasks, executor_id=executor_id):
            executor = {"type": "DEFAULT", "executor_id": {"value": executor_id}}
            group = {"tasks": [task_tree(task) for task in tasks]}
            return tree | {"launch_group": {"executor": executor, "task_group": group}}
        case Reserve() | Unreserve():
            body: dict[str, Any] = {"resources": _claim_trees(operation.claims)}
        case Create() | Destroy():
            body = {"volumes": [_volume(shard_id) for shard_id in operation.shard_ids]}
    if operation.operation_id:
        tree["id"] = {"value": operation.operation_id}
    return tree | {kind.lower(): body}


def _volume(shard_id: str) -> dict[str, Any]:
    return scalar_tree("disk", 0) | {"disk": {"persistence": {"id": shard_id}}}


def task_tree(task: TaskSpec) -> dict[str, Any]:
    """A TaskInfo."""
    variables = [{"name": name, "value": value} for name, value in task.env.items()]
    extension = msgspec.to_builtins(
        {
            "artifact": task.artifact,
            "reads": task.reads,
            "writes": task.writes,
            "time_limit_us": task.time_limit_us,
            "simulated_run_us": task.simulated_run_us,
        }
    )
    tree = _with_agent(
        task.agent_id,
        name=task.name,
        task_id=_id(task.task_id),
        resources=_claim_trees(task.claims),
        command={
            "shell": False,
            "value": task.command[0],
            "arguments": list(task.command),
            "environment": {"variables": variables},
        },
        labels=labels_tree(task.labels),
        offerflow={key: value for key, value in extension.items() if value is not None},
        **_policy(task.kill_grace_us),
    )
    if task.data:
        tree["data"] = _base64(task.data)
    if task.executor_id:
        tree["executor"] = {"type": "DEFAULT", "executor_id": _id(task.executor_id)}
    if task.max_completion_us is not None:
        tree["max_completion_time"] = {"nanoseconds": task.max_completion_us * 1000}
    return tree


def _claim_trees(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    trees = []
    for claim in claims:
        standing = standing_tree(claim.reservation, claim.revocable, _DIALECT)
        for name, amount in claim_amounts(claim):
            tree = scalar_tree(name, amount) | standing
            if name == "gpus" and claim.gpu_uuids:
                tree["offerflow"] = {"gpu_uuids": list(claim.gpu_uuids)}
            trees.append(tree)
    return trees


def _wanted_tree(want: WantedOffer) -> dict[str, Any]:
    claim = Claim(cpu_milli=want.cpu_milli, memory_bytes=want.memory_bytes, disk_bytes=want.disk_bytes)
    extension: dict[str, Any] = msgspec.to_builtins(want)
    for key in ("cpu_milli", "memory_bytes", "disk_bytes"):
        extension.pop(key, None)
    return {"resources": _claim_trees([claim]), "offerflow": extension}


def _policy(grace_us: int | None) -> dict[str, Any]:
    return {} if grace_us is None else {"kill_policy": {"grace_period": {"nanoseconds": grace_us * 1000}}}


def _with_agent(agent_id: str, **fields: Any) -> dict[str, Any]:
    return fields | ({"agent_id": _id(agent_id)} if agent_id else {})


def _ids(values: Iterable[str]) -> list[dict[str, str]]:
    return [_id(value) for value in values]


def _id(value: str) -> dict[str, str]:
    return {"value": value}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- events ----------------------------------------------------------------------------------------------------------


def decode_event(record: bytes) -> StreamEvent | None:
    """None for a kind that is not known: a newer master may say more. Raises `PeerError`."""
    try:
        tree = msgspec.json.decode(record)
        kind = tree["type"]
        if kind not in _KINDS:
            return None
        flat = {"type": kind} | _flat(kind, tree.get(kind.lower()) or {})
        event: StreamEvent = msgspec.convert(flat, StreamEvent)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise PeerError("malformed", f"no event: {error!r} in {record[:200]!r}") from None
    return event


_KINDS: Final = frozenset(
    {"SUBSCRIBED", "OFFERS", "INVERSE_OFFERS", "RESCIND", "RESCIND_INVERSE_OFFER", "UPDATE", "UPDATE_OPERATION_STATUS",
     "MESSAGE", "FAILURE", "ERROR", "HEARTBEAT"}
)  # fmt: skip


def _flat(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """The fields of our event of that kind."""
    match kind:
        case "SUBSCRIBED":
            heartbeat_us = round(body.get("heartbeat_interval_seconds", 15) * 1e6)
            return {"framework_id": body["framework_id"]["value"], "heartbeat_us": heartbeat_us}
        case "OFFERS":
            return {"offers": [_offer_fields(offer) for offer in body["offers"]]}
        case "INVERSE_OFFERS":
            return {"offers": [_named(offer) for offer in body["inverse_offers"]]}
        case "RESCIND_INVERSE_OFFER":
            return {"offer_id": body["inverse_offer_id"]["value"]}
        case "UPDATE" | "UPDATE_OPERATION_STATUS":
            return _status_fields(body["status"])
        case _:
            return {**_plain(body), **body.get("offerflow", {})}


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    """Without the objects around ids."""
    values = {name: value["value"] if _is_id(value) else value for name, value in body.items()}
    values.pop("offerflow", None)
    return values


def _is_id(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"value"}


def _offer_fields(offer: dict[str, Any]) -> dict[str, Any]:
    fields = _named(offer)
    agent = {key: fields.pop(key) for key in OfferedAgent.__struct_fields__ if key in fields}
    running = [executor["value"] for executor in offer.get("executor_ids", ())]
    return fields | {"agent": agent, "running": running}


def _named(offer: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(offer["offerflow"])
    fields["offer_id"] = offer["id"]["value"]
    fields["framework_id"] = offer["framework_id"]["value"]
    fields["agent_id"] = offer["agent_id"]["value"]
    return fields


def _status_fields(status: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {**_plain(status), **status.get("offerflow", {})}
    fields.pop("converted_resources", None)  # `converted` has them exactly
    if "labels" in fields:
        fields["labels"] = [(label["key"], label.get("value", "")) for label in fields["labels"]["labels"]]
    if "outputs" in fields:
        fields["outputs"] = list(fields["outputs"].items())
    return fields
