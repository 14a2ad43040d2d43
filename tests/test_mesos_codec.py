"""JSON of Mesos ↔ the market's values: both halves agree, sizes never grow, and what clients get wrong is taken."""

import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.client import fits, task
from federation.errors import PeerError
from federation.http.mesos.amounts import Dialect, claims_of, mib
from federation.http.mesos.calls import decode_call
from federation.http.mesos.events import encode_event, event_tree
from federation.http.mesos.messages import Resource, decode
from federation.http.mesos.peer import decode_event, encode_call
from federation.http.mesos.recordio import Unframer, frame
from federation.jobs import Artifact, Write
from federation.market import protocol as p
from federation.market.constraints import parse_all
from policies.model import Gpu, GpuNeed, LatencyTarget, Link, Resources, Where

MIB = 2**20
SHARD = "ab" * 32
RESERVED = p.Reservation(role="ml", principal="me", labels=(("k", "v"),))
TASK = p.TaskSpec(
    task_id="t.1", agent_id="a1", name="train", claims=(
        p.Claim(cpu_milli=1500, memory_bytes=512 * MIB, gpus=2, gpu_uuids=("g1", "g2")),
        p.Claim(disk_bytes=MIB, reservation=RESERVED), p.Claim(cpu_milli=1, revocable=True),
    ),
    command=("python", "train.py", "{shard.path}"), env={"A": "b"}, reads=(SHARD,),
    artifact=Artifact(shard_id=SHARD, size_bytes=7, name="code"),
    writes=(Write(name="model", path="model.npz", bytes_max=100),), kill_grace_us=2_000_000, time_limit_us=9,
    max_completion_us=1_000_000, labels=(("a", "b"),), data=b"\xff\x00", executor_id="e", simulated_run_us=5,
)  # fmt: skip
INFO = p.FrameworkInfo(
    name="n", user="u", roles=("ml", "default"), capabilities=frozenset({"MULTI_ROLE", "GPU_RESOURCES"}),
    failover_timeout_us=1_500_000, checkpoint=True, hostname="h", webui_url="w", principal="me",
    labels=(("k", "v"),), constraints={"": ("link.rtt_us{to=site:a} < 20ms",)},
    least_offers={"ml": (p.LeastOffer(cpu_milli=1500, memory_bytes=3 * MIB), p.LeastOffer(gpus=2))},
)  # fmt: skip
WANT = p.WantedOffer(
    request_id="r", role="ml", count=3, cpu_milli=500, memory_bytes=MIB, gpu=GpuNeed(count=1, memory_bytes=MIB),
    reads=(SHARD,), where=Where(sites=("a",)), constraints=("gpu.count >= 1",), gang=True, priority=7, profile="x",
    latency=(LatencyTarget(site="a", rtt_us=5),), run_us=9,
)  # fmt: skip
UUID = bytes(range(16))
CALLS: list[p.Call] = [
    p.Subscribe(framework=INFO, framework_id="f", suppressed_roles=("ml",)),
    p.UpdateFramework(framework=INFO),
    p.Teardown(),
    p.Accept(
        offer_ids=("o1", "o2"), refuse_us=1_500_000, operations=(
            p.Reserve(claims=(p.Claim(cpu_milli=1000, reservation=RESERVED),), operation_id="op"),
            p.Unreserve(claims=(p.Claim(memory_bytes=MIB, reservation=RESERVED),)),
            p.Create(shard_ids=(SHARD,), operation_id="c"), p.Destroy(shard_ids=(SHARD,)),
            p.Launch(tasks=(TASK,)), p.LaunchGroup(tasks=(TASK,), executor_id="x"),
        ),
    ),
    p.Decline(offer_ids=("o",)), p.AcceptInverse(offer_ids=("i",)), p.DeclineInverse(offer_ids=("i",), refuse_us=0),
    p.Revive(), p.Revive(roles=("ml",)), p.Suppress(roles=("ml",)),
    p.KillTask(task_id="t", agent_id="a", kill_grace_us=0), p.Shutdown(executor_id="e", agent_id="a"),
    p.Acknowledge(task_id="t", agent_id="a", uuid=UUID), p.AcknowledgeOperation(operation_id="o", uuid=UUID),
    p.Reconcile(tasks=(p.KnownTask(task_id="t", agent_id="a"),)), p.Reconcile(),
    p.ReconcileOperations(operation_ids=("o",)), p.Message(agent_id="a", executor_id="e", data=b"\x00"),
    p.Request(wants=(WANT,)),
]  # fmt: skip
LINKS = (
    Link(from_id="site:b", to_id="site:a", rtt_us=1200, bandwidth_bps=10**9),
    Link(from_id="site:a", to_id="site:b"),
)
OFFER = p.FrameworkOffer(
    offer_id="o", framework_id="f", role="ml", expires_us=17, links=LINKS, running=("t",),
    agent=p.OfferedAgent(
        agent_id="a1", site="a", region="eu", hardware="x86", labels=(("zone", "z"),), shards=(SHARD,),
        data_url="http://10.0.0.1:99/d",
    ),
    portions=(
        p.Portion(resources=Resources(cpu_milli=1500, memory_bytes=MIB + 1, gpus=(Gpu(uuid="g", model="H200"),))),
        p.Portion(resources=Resources(disk_bytes=MIB), reservation=RESERVED),
        p.Portion(resources=Resources(cpu_milli=1), revocable=True),
    ),
)  # fmt: skip
INVERSE = p.InverseOffer(
    offer_id="i", framework_id="f", agent_id="a1", reason="congestion", start_us=5, duration_us=9, link=LINKS[0]
)
EVENTS: list[p.StreamEvent] = [
    p.Subscribed(framework_id="f", heartbeat_us=15_000_000), p.Offers(offers=(OFFER,)),
    p.InverseOffers(offers=(INVERSE,)), p.Rescind(offer_id="o", reason="expired"), p.RescindInverse(offer_id="i"),
    p.Update(
        task_id="t", state="TASK_FAILED", agent_id="a", uuid=UUID, source="SOURCE_EXECUTOR", message="m", at_us=7,
        reason="REASON_COMMAND_EXECUTOR_FAILED", exit_code=3, outputs=(("model", SHARD),), labels=(("a", "b"),),
    ),
    p.Update(task_id="t", state="TASK_UNREACHABLE"),
    p.UpdateOperation(operation_id="o", state="OPERATION_FINISHED", uuid=UUID, agent_id="a"),
    p.UpdateOperation(operation_id="o", state="OPERATION_FINISHED", converted=OFFER.portions[1:2]),
    p.ExecutorMessage(agent_id="a", executor_id="e", data=b"\xfe"), p.Failure(agent_id="a"),
    p.Failure(agent_id="a", executor_id="e", status=9), p.Error(message="no"), p.Heartbeat(),
]  # fmt: skip
OURS = Dialect(multi_role=True, refined=True, partition_aware=True, task_killing=True)
PLAIN = Dialect()


def said(kind: str, body: Any = None, framework_id: Any = "f", **fields: Any) -> p.Call:
    tree = {"type": kind, "framework_id": {"value": framework_id}} | fields
    return decode_call(json.dumps(tree if body is None else tree | {kind.lower(): body}).encode()).call


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call.__struct_config__.tag))
def test_the_master_reads_what_the_client_writes(call: p.Call) -> None:
    decoded = decode_call(msgspec.json.encode(encode_call(call, "f")))
    assert decoded.framework_id == "f"
    assert decoded.call == call


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.__struct_config__.tag))
def test_the_client_reads_what_the_master_writes(event: p.StreamEvent) -> None:
    assert decode_event(encode_event(event, OURS)) == event


def test_lists_of_offers_are_nested_as_the_protobufs_have_them() -> None:
    tree = event_tree(EVENTS[1], PLAIN)
    assert tree["offers"]["offers"][0]["id"] == {"value": "o"}
    assert event_tree(EVENTS[2], PLAIN)["inverse_offers"]["inverse_offers"][0]["id"] == {"value": "i"}
    assert event_tree(p.Heartbeat(), PLAIN) == {"type": "HEARTBEAT"}


def test_only_multi_role_frameworks_are_told_of_allocations_and_refined_ones_of_reservation_lists() -> None:
    plain = event_tree(EVENTS[1], PLAIN)["offers"]["offers"][0]
    assert "allocation_info" not in json.dumps(plain)
    dynamic = next(r for r in plain["resources"] if r["name"] == "disk")
    assert (dynamic["role"], dynamic["reservation"]["principal"]) == ("ml", "me")
    refined = event_tree(EVENTS[1], OURS)["offers"]["offers"][0]
    assert {r["allocation_info"]["role"] for r in refined["resources"]} == {"ml"}
    assert next(r for r in refined["resources"] if r["name"] == "disk")["reservations"][0]["type"] == "DYNAMIC"
    assert [r.get("revocable") for r in refined["resources"]].count({}) == 1


def test_measured_links_travel_as_attributes_and_exactly_in_the_extension() -> None:
    offer = event_tree(EVENTS[1], PLAIN)["offers"]["offers"][0]
    attributes = {a["name"]: a.get("text", a.get("scalar"))["value"] for a in offer["attributes"]}
    assert attributes["link.rtt_us{from=site:b}"] == 1200
    assert attributes["zone"] == "z" and attributes["site"] == "a" and attributes["gpu.model"] == "H200"
    assert offer["offerflow"]["portions"][0]["resources"]["memory_bytes"] == MIB + 1
    assert offer["url"]["address"] == {"hostname": "10.0.0.1", "port": 99}


def test_an_update_without_a_uuid_has_no_such_key_and_states_fit_the_capabilities() -> None:
    status = event_tree(p.Update(task_id="t", state="TASK_UNREACHABLE"), PLAIN)["update"]["status"]
    assert "uuid" not in status and status["state"] == "TASK_LOST"
    killing = p.Update(task_id="t", state="TASK_KILLING", uuid=UUID)
    assert event_tree(killing, PLAIN)["update"]["status"]["state"] == "TASK_RUNNING"
    assert event_tree(killing, OURS)["update"]["status"]["uuid"] == base64.b64encode(UUID).decode()


# --- what clients write ----------------------------------------------------------------------------------------------


def test_sloppy_clients_are_understood() -> None:
    assert said("REVIVE") == said("REVIVE", {}) == said("REVIVE", {"roles": None}) == p.Revive()
    assert said("REVIVE", {"roles": "ml"}) == p.Revive(roles=("ml",))
    assert said("DECLINE", {"offer_ids": {"value": "o"}, "unknown": 1}) == p.Decline(offer_ids=("o",))
    grace = {"grace_period": {"nanoseconds": "5000"}}
    assert said("KILL", {"task_id": {"value": "t"}, "kill_policy": grace}) == p.KillTask(task_id="t", kill_grace_us=5)
    assert said("REQUEST", requests=[{"agent_id": {"value": "a"}}]) == p.Request(
        wants=(p.WantedOffer(request_id="request-0", where=Where(agents=("a",))),)
    )
    for seconds in (-1, 1e300):
        body = {"offer_ids": [], "filters": {"refuse_seconds": seconds}}
        assert isinstance(said("DECLINE", body), p.Decline)


def test_the_default_role_has_two_names() -> None:
    call = said("SUBSCRIBE", {"framework_info": {"user": "u", "name": "n"}})
    assert isinstance(call, p.Subscribe) and call.framework.roles == ("default",)
    dialect = Dialect(multi_role=True, star=True)
    assert event_tree(p.Offers(offers=(msgspec.structs.replace(OFFER, role="default"),)), dialect)["offers"]["offers"][
        0
    ]["allocation_info"] == {"role": "*"}


def test_a_shell_command_and_constraints_of_mesos() -> None:
    info = {"task_id": {"value": "t"}, "command": {"value": "echo $A"}}
    launch = {"type": "LAUNCH", "launch": {"task_infos": info}}
    call = said("ACCEPT", {"offer_ids": [{"value": "o"}], "operations": launch})
    assert isinstance(call, p.Accept) and isinstance(call.operations[0], p.Launch)
    assert call.operations[0].tasks[0].command == ("/bin/sh", "-c", "echo $A")
    group = {
        "attribute_constraints": [
            {"selector": {"attribute_name": "site"}, "predicate": {"text_equals": {"value": "a"}}},
            {"selector": {"attribute_name": "zone"}, "predicate": {"exists": {}}},
            {"selector": {"pseudoattribute_type": "HOSTNAME"}, "predicate": {"text_not_equals": {"value": "h"}}},
        ]
    }
    body = {
        "framework_info": {"user": "u", "name": "n", "role": "ml"},
        "offer_constraints": {"role_constraints": {"ml": {"groups": [group]}}},
    }
    call = said("SUBSCRIBE", body)
    assert isinstance(call, p.Subscribe)
    wanted = 'agent.site == "a" and label{key="zone"} and no agent.id == "h"'
    assert call.framework.constraints == {"ml": (wanted,)}


COMMAND = {"value": "true"}


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"task_id": {"value": "a/b"}, "command": COMMAND},
        {"task_id": {"value": ""}, "command": COMMAND},
        {"command": {}},
        {"command": COMMAND | {"environment": {"variables": {"name": "A", "type": "SECRET", "secret": {}}}}},
        {"command": COMMAND, "container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER"}}}},
        {"command": COMMAND, "container": {"type": "MESOS", "volumes": [{"mode": "RW", "container_path": "v"}]}},
        {"command": COMMAND, "container": {"type": "MESOS", "network_infos": [{"name": "cni"}]}},
        {"command": COMMAND, "executor": {"executor_id": {"value": "e"}, "command": {"value": "x"}}},
        {"command": COMMAND, "health_check": {"type": "TCP", "tcp": {"port": 1}}},
        {"command": COMMAND, "check": {"type": "COMMAND"}},
        {"command": COMMAND, "limits": {"mem": {"value": "Infinity"}}},
        {"command": COMMAND, "kill_policy": {"grace_period": {"nanoseconds": -1}}},
        {"command": COMMAND, "max_completion_time": {"nanoseconds": -1}},
        {
            "command": COMMAND,
            "resources": [{"name": "disk", "scalar": {"value": 1}, "disk": {"persistence": {"id": "v"}}}],
        },
        {"command": COMMAND, "resources": [{"name": "cpus", "scalar": {"value": 1}, "role": "NO ROLE"}]},
        {"task_id": {"value": "t"}, "command": COMMAND | {"uris": [{"value": "http://x"}]}},
        {"task_id": {"value": "t"}, "command": COMMAND, "container": {"type": "DOCKER"}},
        {"task_id": {"value": "t"}, "command": COMMAND, "executor": {"executor_id": {"value": "e"}, "type": "CUSTOM"}},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "ports", "type": "RANGES"}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "cpus"}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "cpus", "scalar": {"value": -1}}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "cpus", "scalar": {"value": "nan"}}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "gpus", "scalar": {"value": 1.5}}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "resources": [{"name": "mem", "scalar": {"value": 1e18}}]},
        {"task_id": {"value": "t"}, "command": COMMAND, "offerflow": {"reads": ["no hash"]}},
    ],
)
def test_a_task_that_cannot_be_run_is_refused_alone_and_a_group_as_a_whole(task: dict[str, Any]) -> None:
    bad = {"name": "bad", "task_id": {"value": "t"}} | task
    good = {"name": "good", "task_id": {"value": "good"}, "command": COMMAND}
    call = accepted({"type": "LAUNCH", "launch": {"task_infos": [bad, good]}})
    [launch], [refusal] = call.operations, call.refusals
    assert isinstance(launch, p.Launch) and [spec.task_id for spec in launch.tasks] == ["good"]
    assert refusal.task_id == bad["task_id"]["value"] and refusal.problem
    executor = {"type": "DEFAULT", "executor_id": {"value": "e"}}
    group = {"executor": executor, "task_group": {"tasks": [good, bad]}}
    call = accepted({"type": "LAUNCH_GROUP", "launch_group": group})
    assert not call.operations and all(each.is_grouped for each in call.refusals)
    assert [each.task_id for each in call.refusals] == ["good", bad["task_id"]["value"]]


def accepted(*operations: dict[str, Any]) -> p.Accept:
    call = said("ACCEPT", {"offer_ids": [{"value": "o"}], "operations": list(operations)})
    assert isinstance(call, p.Accept)
    return call


def test_a_container_that_asks_for_nothing_is_a_plain_process() -> None:
    """As serialisers of pods write it; so is an executor of the default type."""
    plain = {"type": "MESOS", "volumes": [], "mesos": {}, "hostname": "h"}
    executor = {"type": "DEFAULT", "executor_id": {"value": "e"}, "container": plain, "resources": []}
    task = {"task_id": {"value": "t"}, "command": COMMAND, "container": plain, "executor": executor}
    call = accepted({"type": "LAUNCH", "launch": {"task_infos": [task]}})
    assert len(call.operations) == 1 and not call.refusals
    custom = executor | {"container": {"type": "DOCKER"}}
    group = {"executor": custom, "task_group": {"tasks": [task]}}
    assert accepted({"type": "LAUNCH_GROUP", "launch_group": group}).refusals[0].is_grouped


@pytest.mark.parametrize(
    "operation",
    [
        {"type": "GROW_VOLUME"}, {"type": "CREATE_DISK", "create_disk": {}}, {"type": "UNKNOWN"},
        {"type": "CREATE", "create": {"volumes": [{"name": "disk", "scalar": {"value": 1}}]}},
        {"type": "DESTROY", "destroy": {"volumes": {"name": "disk", "disk": {"persistence": {"id": "no hash"}}}}},
        {"type": "RESERVE", "reserve": {"resources": [{"name": "cpus", "scalar": {"value": -1}}]}},
        {"type": "UNRESERVE", "unreserve": {"resources": [{"name": "ports", "type": "RANGES"}]}},
    ],
    ids=lambda operation: str(operation["type"]),
)  # fmt: skip
def test_an_operation_that_cannot_be_done_is_refused_alone(operation: dict[str, Any]) -> None:
    release = {"type": "UNRESERVE", "unreserve": {"resources": []}}
    call = accepted(operation | {"id": {"value": "op"}}, release)
    assert [refusal.operation_id for refusal in call.refusals] == ["op"] and call.refusals[0].task_id is None
    assert call.operations == (p.Unreserve(claims=()),)


def test_groups_of_constraints_are_alternatives() -> None:
    def constraint(kind: str, name: str, **body: str) -> dict[str, Any]:
        return {"selector": {"attribute_name": name}, "predicate": {kind: body}}

    groups = [
        {"attribute_constraints": [constraint("text_equals", "site", value="a"), constraint("not_exists", "zone")]},
        {"attribute_constraints": [constraint("not_exists", "gpu.model")]},
    ]
    body = {
        "framework_info": {"user": "u", "name": "n"},
        "offer_constraints": {"role_constraints": {"*": {"groups": groups}}},
    }
    call = said("SUBSCRIBE", body)
    assert isinstance(call, p.Subscribe)
    assert call.framework.constraints == {"default": ('agent.site == "a" and no label{key="zone"} or no gpu.model',)}
    groups[1]["attribute_constraints"] = []
    with pytest.raises(PeerError, match="each group a constraint"):
        said("SUBSCRIBE", body)


@pytest.mark.parametrize(
    ("name", "kind", "body", "text"),
    [
        ("site", "text_matches", {"regex": "plant-.*"}, 'agent.site matches "plant-.*"'),
        ("rack", "text_matches", {"regex": 'a|"b"'}, 'label{key="rack"} matches "a|""b"""'),
        ("gpu.model", "text_not_matches", {"regex": "t4"}, 'no gpu.model matches "t4"'),
        ('of "x"', "not_exists", {}, 'no label{key="of ""x"""}'),
        ("speed_milli", "exists", {}, "agent.speed_milli >= 0"),
        ("gpu.memory_bytes", "not_exists", {}, "no gpu.memory_bytes"),
        # A number is no text: both of these hold of it, and the framework looks itself.
        ("gpu.memory_bytes", "text_equals", {"value": "1"}, "gpu.memory_bytes >= 0"),
        ("speed_milli", "text_not_matches", {"regex": "1.*"}, "agent.speed_milli >= 0"),
        ("link.rtt_us{to=site:cloud}", "exists", {}, "link.rtt_us{to=site:cloud} >= 0"),
    ],
)
def test_what_a_constraint_of_mesos_says(name: str, kind: str, body: dict[str, str], text: str) -> None:
    assert constraints_of(name, kind, body) == (text,)
    assert parse_all(text)


@pytest.mark.parametrize(
    ("kind", "body"),
    [("text_matches", {}), ("text_equals", {"value": 3}), ("text_like", {"value": "a"}), ("exists", None)],
)
def test_a_constraint_that_says_nothing_is_refused(kind: str, body: Any) -> None:
    with pytest.raises(PeerError):
        constraints_of("site", kind, body)


def constraints_of(name: str, kind: str, body: Any) -> tuple[str, ...]:
    group = {"attribute_constraints": [{"selector": {"attribute_name": name}, "predicate": {kind: body}}]}
    call = said(
        "SUBSCRIBE",
        {
            "framework_info": {"user": "u", "name": "n"},
            "offer_constraints": {"role_constraints": {"*": {"groups": [group]}}},
        },
    )
    assert isinstance(call, p.Subscribe)
    return call.framework.constraints["default"]


KEYS = st.sampled_from(("type", "value", "framework_id", "accept", "offer_ids", "operations", "launch", "task_id"))
KINDS = st.sampled_from(["ACCEPT", "KILL", "LAUNCH"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner | KINDS, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_nothing_but_a_peer_error_comes_of_any_bytes(body: bytes) -> None:
    with contextlib.suppress(PeerError):
        decode_call(body)


@given(st.integers(0, 2**45))
def test_who_takes_all_that_was_said_takes_no_more_than_there_is(n_bytes: int) -> None:
    tree = {"name": "mem", "type": "SCALAR", "scalar": {"value": mib(n_bytes)}}
    [claim] = claims_of([decode(tree, Resource)])
    assert n_bytes - MIB // 500 <= claim.memory_bytes <= n_bytes


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_records_come_out_whole_however_the_bytes_are_cut(records: list[bytes], data: st.DataObject) -> None:
    stream, unframer, found = b"".join(frame(record) for record in records), Unframer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += unframer.feed(stream[:size])
        stream = stream[size:]
    assert found == records and unframer.is_between


@pytest.mark.parametrize("data", [b"x\n", b"-1\n", b"1" * 21, b"99999999999\n", b"\n"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        Unframer().feed(data)


def test_what_fits_into_an_offer() -> None:
    small = task("t", ["true"], cpus=1.0, memory_bytes=MIB)
    assert fits(OFFER, [small]) and not fits(OFFER, [small, small])
    assert not fits(OFFER, [task("t", ["true"], cpus=1.0, memory_bytes=MIB, gpus=2)])
    assert not fits(OFFER, [task("t", ["true"], cpus=0.1, memory_bytes=0, disk_bytes=1)]), "that is reserved"
