"""What is sent against the published definitions: required fields are there, enumerators are known."""

import re
from pathlib import Path
from typing import Any

import pytest

from federation.http.mesos.events import event_tree
from federation.market import protocol as p
from tests.test_mesos_codec import EVENTS, OURS, PLAIN

ROOT = Path(__file__).parents[1]
# Of `TaskStatus.Reason`, without those of executors and of checks.
REASONS = {
    f"REASON_{name}"
    for name in (
        "COMMAND_EXECUTOR_FAILED", "CONTAINER_LAUNCH_FAILED", "CONTAINER_LIMITATION", "CONTAINER_LIMITATION_DISK",
        "CONTAINER_LIMITATION_MEMORY", "CONTAINER_PREEMPTED", "MAX_COMPLETION_TIME_REACHED", "FRAMEWORK_REMOVED",
        "INVALID_OFFERS", "MASTER_DISCONNECTED", "RECONCILIATION", "RESOURCES_UNKNOWN", "AGENT_DISCONNECTED",
        "AGENT_DRAINING", "AGENT_REMOVED", "AGENT_REMOVED_BY_OPERATOR", "AGENT_REREGISTERED", "AGENT_RESTARTED",
        "AGENT_UNKNOWN", "TASK_KILLED_DURING_LAUNCH", "TASK_GROUP_INVALID", "TASK_GROUP_UNAUTHORIZED", "TASK_INVALID",
        "TASK_UNAUTHORIZED", "TASK_UNKNOWN",
    )
}  # fmt: skip
ID = {"value": str}
VALUE = {"name": str, "type": str}
URL = {"scheme": str, "address": {"port": int}}
DOMAIN = {"fault_domain": {"region": {"name": str}, "zone": {"name": str}}}
OFFER = {"id": ID, "framework_id": ID, "agent_id": ID, "hostname": str, "resources": [VALUE], "attributes": [VALUE]}
INVERSE = {"id": ID, "framework_id": ID, "unavailability": {"start": {"nanoseconds": int}}, "resources": [VALUE]}
# The required fields, by event.
REQUIRED: dict[str, Any] = {
    "SUBSCRIBED": {"framework_id": ID, "heartbeat_interval_seconds": float},
    "OFFERS": {"offers": [OFFER | {"url": URL, "domain": DOMAIN}]},
    "INVERSE_OFFERS": {"inverse_offers": [INVERSE]},
    "RESCIND": {"offer_id": ID},
    "RESCIND_INVERSE_OFFER": {"inverse_offer_id": ID},
    "UPDATE": {"status": {"task_id": ID, "state": str}},
    "UPDATE_OPERATION_STATUS": {"status": {"state": str}},
    "MESSAGE": {"agent_id": ID, "executor_id": ID, "data": str},
    "FAILURE": {"agent_id": ID},
    "ERROR": {"message": str},
}


def check(tree: Any, wanted: Any, path: str) -> None:
    if isinstance(wanted, dict):
        for name, of_field in wanted.items():
            assert name in tree, f"{path}.{name} is required"
            check(tree[name], of_field, f"{path}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(tree, list), path
        for each in tree:
            check(each, wanted[0], path)
    else:
        assert type(tree) is wanted, f"{path} is no {wanted.__name__}"


@pytest.mark.parametrize("dialect", [PLAIN, OURS], ids=["plain", "all capabilities"])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.__struct_config__.tag))
def test_required_fields_are_there_and_nothing_is_null(event: p.StreamEvent, dialect: Any) -> None:
    tree = event_tree(event, dialect)
    if tree["type"] != "HEARTBEAT":
        check(tree[tree["type"].lower()], REQUIRED[tree["type"]], tree["type"])
    assert not any(value is None for value in leaves(tree))


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() if name != "offerflow" for leaf in leaves(value)]
    return [leaf for each in tree for leaf in leaves(each)] if isinstance(tree, list) else [tree]


def test_an_update_says_when_its_agent_became_unreachable_and_names_its_task_whatever_it_is_called() -> None:
    update = p.Update(task_id="", state="TASK_UNREACHABLE", at_us=5)
    status = event_tree(update, OURS)["update"]["status"]
    assert status["unreachable_time"] == {"nanoseconds": 5_000} and status["task_id"] == {"value": ""}
    assert "unreachable_time" not in event_tree(update, PLAIN)["update"]["status"], "it hears TASK_LOST"


def test_reasons_are_among_the_published_ones() -> None:
    found: set[str] = set()
    for path in (ROOT / "federation").rglob("*.py"):
        found.update(re.findall(r"\bREASON_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    assert found and found <= REASONS


def test_the_page_names_every_call_and_event() -> None:
    page = (ROOT / "docs" / "mesos.md").read_text(encoding="utf-8")
    tables = page.partition("## What calls are made of")[0], page.partition("## Events")[2]
    for kinds, table in zip((p.Call, p.StreamEvent), tables, strict=True):
        for kind in kinds.__args__:
            name = str(kind.__struct_config__.tag)
            assert name in table or name.removesuffix("INVERSE_OFFERS") in table, name
