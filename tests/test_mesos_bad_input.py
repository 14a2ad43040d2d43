"""Every call of the scheduler API, ill made, at the wrong time or for what is another's; everyone is served on."""

import base64
import copy
import json
import random
from typing import Any

import pytest

from federation.api import SetAgentMode
from federation.master import Master
from tests.mesos_market import BODIES, Client, Served, join, launch, market, scalars, task
from tests.mesos_world import Wire, subscribe

MUTANTS = 24  # of each call
KINDS = sorted({"SUBSCRIBE", "TEARDOWN", *BODIES})
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, "", "\x00", "a/b", "x" * 70_000, [], [[]], {}, {"value": {}}, "@@@",
    [{"value": "o"}],
)  # fmt: skip


def body_of(kind: str) -> Any:
    return subscribe()["subscribe"] if kind == "SUBSCRIBE" else BODIES.get(kind, {})


def test_every_call_is_here() -> None:
    assert len(KINDS) == 17


def mutant(source: random.Random, tree: dict[str, Any]) -> bytes:
    """The call with one thing wrong: a value, a key, a cut, a byte."""
    tree = copy.deepcopy(tree)
    way = source.randrange(5)
    if way == 4:
        raw = bytearray(json.dumps(tree).encode())
        at = source.randrange(len(raw))
        return bytes(raw[:at]) if source.random() < 0.5 else bytes(raw[:at] + source.randbytes(3) + raw[at + 1 :])
    holders: list[Any] = [tree]
    for holder in holders:
        values = holder.values() if isinstance(holder, dict) else holder
        holders += [value for value in values if isinstance(value, dict | list) and value]
    holder = source.choice(holders)
    key = source.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = source.choice(ODD)
    return json.dumps(tree).encode()


async def still_serves(world: Served, port: int, owner: Client) -> None:
    """The one who was there before has its task and its stream, and whoever comes is served."""
    framework = world.master.core.market.frameworks[owner.framework_id]
    assert framework.tasks["t"].is_open and framework.stream_id == owner.stream.headers["mesos-stream-id"]
    assert await owner.call("RECONCILE", {"tasks": [{"task_id": {"value": "t"}}]}) == 202
    assert (await owner.status("t", "TASK_RUNNING"))["task_id"] == {"value": "t"}
    assert (await join(world, port, "late")).framework_id


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_with_something_wrong_is_refused_or_taken_and_never_breaks_anything(kind: str) -> None:
    source = random.Random(kind)
    async with market(frameworks_max=500) as (world, port):
        world.agent()
        owner = await join(world, port, "owner")
        await owner.accept(await owner.offer(), launch(task("t")))
        await owner.status("t", "TASK_RUNNING")
        for _ in range(MUTANTS):
            other = "gone"
            headers = {"Mesos_Stream_Id": "" if kind == "SUBSCRIBE" else "of-nobody"}
            if kind not in ("SUBSCRIBE", "TEARDOWN"):  # as one who is here, and may say it
                framework = next(
                    (f for f in world.master.core.market.frameworks.values() if f.info.name == "other"), None
                )
                if framework is None or not framework.stream_id:
                    framework = world.master.core.market.frameworks[(await join(world, port, "other")).framework_id]
                other, headers["Mesos_Stream_Id"] = framework.framework_id, framework.stream_id
            body = mutant(source, {"framework_id": {"value": other}, "type": kind, kind.lower(): body_of(kind)})
            wire = await Wire.open(port)
            await wire.send(body, **headers)
            status = await wire.head()
            assert status in (200, 202, 400, 403, 413), (status, body[:300])
            wire.close()
        await still_serves(world, port, owner)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_before_its_time_or_after_is_refused(kind: str) -> None:
    """Before there is a framework, after it is over, and cut off in its body."""
    async with market() as (world, port):
        world.agent()
        owner = await join(world, port, "owner")
        await owner.accept(await owner.offer(), launch(task("t")))
        await owner.status("t", "TASK_RUNNING")
        body = body_of(kind)
        early = {"framework_id": {"value": "never-seen"}, "type": kind, kind.lower(): body}
        wire = await Wire.open(port)
        acknowledges = kind.startswith("ACKNOWLEDGE")
        no_stream = kind == "SUBSCRIBE"
        status, _ = await wire.ask(early, Mesos_Stream_Id="" if no_stream else "none")
        assert status == (202 if acknowledges else 403)
        gone = await join(world, port, "gone")
        assert await gone.call("TEARDOWN") == 202
        late = {"framework_id": {"value": gone.framework_id}, "type": kind, kind.lower(): body}
        stream_id = "" if no_stream else gone.stream.headers["mesos-stream-id"]
        status, _ = await wire.ask(late, Mesos_Stream_Id=stream_id)
        assert status == (202 if acknowledges else 403)
        torn = await Wire.open(port)
        await torn.send(json.dumps(early).encode()[:-9], Mesos_Stream_Id="s", Content_Length="900")
        torn.writer.write_eof()
        await torn.reader.read()
        await still_serves(world, port, owner)


async def test_what_is_anothers_is_left_alone_whatever_is_said_of_it() -> None:
    """Its offer, its task, its operation, its inverse offer: named by the ids that the owner was told."""
    async with market() as (world, port):
        world.agent("gw-1")
        owner = await join(world, port, "owner")
        await owner.accept(await owner.offer(), launch(task("t")))
        await owner.status("t", "TASK_RUNNING")
        world.agent("gw-2")
        event = await owner.until("OFFERS", lambda e: e["offers"]["offers"][0]["agent_id"] == {"value": "gw-2"})
        offer = event["offers"]["offers"][0]
        world.ask(SetAgentMode(agent_id="gw-1", mode="draining"))
        inverse = (await owner.until("INVERSE_OFFERS"))["inverse_offers"]["inverse_offers"][0]
        thief = await join(world, port, "thief")
        named = {
            "ACCEPT": {
                "offer_ids": [offer["id"]],
                "operations": [launch(task("mine") | {"agent_id": offer["agent_id"]})],
            },
            "DECLINE": {"offer_ids": [offer["id"]]},
            "ACCEPT_INVERSE_OFFERS": {"inverse_offer_ids": [inverse["id"]]},
            "DECLINE_INVERSE_OFFERS": {"inverse_offer_ids": [inverse["id"]]},
            "KILL": {"task_id": {"value": "t"}, "agent_id": {"value": "gw-1"}},
            "SHUTDOWN": {"executor_id": {"value": ""}, "agent_id": {"value": "gw-1"}},
            "ACKNOWLEDGE": BODIES["ACKNOWLEDGE"],
            "RECONCILE": {"tasks": [{"task_id": {"value": "t"}}]},
            "RECONCILE_OPERATIONS": {"operations": [{"operation_id": {"value": "op"}}]},
            "REQUEST": {"requests": [{"resources": scalars(), "offerflow": {"count": 0, "request_id": "r"}}]},
        }
        before = world.master.core.market.frameworks[owner.framework_id]
        leases, inverses = dict(before.offers), dict(before.inverse)
        for kind, body in named.items():
            assert await thief.call(kind, body) == 202
        assert (await thief.status("mine", "TASK_DROPPED"))["reason"] == "REASON_INVALID_OFFERS"
        assert before.offers == leases and before.inverse == inverses and len(leases) == len(inverses) == 1
        assert before.tasks["t"].is_open and not before.tasks["t"].kill_asked
        await owner.accept(offer, launch(task("u") | {"agent_id": offer["agent_id"]}))
        await owner.status("u", "TASK_RUNNING")


async def test_anothers_reservations_roles_and_operations_are_of_no_use() -> None:
    """Named in operations and acknowledgements exactly as the owner would: by its role, its labels, its uuids."""
    async with market() as (world, port):
        world.agent("gw-1")
        owner = await join(world, port, "owner", role="ml", principal="me")
        reservation = {"type": "DYNAMIC", "role": "ml", "principal": "me", "labels": {"labels": [{"key": "a"}]}}
        reserved = scalars(1, 64, reservations=[reservation])
        reserve = {"type": "RESERVE", "id": {"value": "op"}, "reserve": {"resources": reserved}}
        await owner.accept(await owner.offer(), reserve, launch(task("t", scalars(2))))
        done = (await owner.until("UPDATE_OPERATION_STATUS"))["update_operation_status"]["status"]
        update = (await owner.until("UPDATE"))["update"]["status"]
        assert await owner.call("SUPPRESS") == 202
        assert await owner.call("DECLINE", {"offer_ids": [(await owner.offer())["id"]]}) == 202
        thief = await join(world, port, "thief", role="web")
        offer = await thief.offer()
        assert not any("ml" in str(resource) for resource in offer["resources"])
        ids = {"unreserve": {"value": "u"}, "reserve": {"value": "r"}}
        await thief.accept(
            offer,
            {"type": "UNRESERVE", "id": ids["unreserve"], "unreserve": {"resources": reserved}},
            {"type": "RESERVE", "id": ids["reserve"], "reserve": {"resources": reserved}},
            launch(task("mine", reserved)),
        )
        assert await thief.operation("u") == await thief.operation("r") == "OPERATION_ERROR"
        assert (await thief.status("mine", "TASK_ERROR"))["reason"] == "REASON_TASK_INVALID"
        named = {"agent_id": {"value": "gw-1"}, "operation_id": {"value": "op"}, "uuid": done["uuid"]["value"]}
        assert await thief.call("ACKNOWLEDGE_OPERATION_STATUS", named) == 202
        body = {name: update[name] for name in ("agent_id", "task_id", "uuid")}
        assert await thief.call("ACKNOWLEDGE", body) == 202
        for kind in ("REVIVE", "SUPPRESS"):
            assert await thief.call(kind, {"roles": ["ml"]}) == 400
        assert await thief.call("RECONCILE_OPERATIONS", {"operations": [{"operation_id": {"value": "op"}}]}) == 202
        assert await thief.operation("op") == "OPERATION_UNKNOWN"
        framework = world.master.core.market.frameworks[owner.framework_id]
        assert "op" in framework.operations and framework.suppressed == {"ml"}
        assert framework.tasks["t"].updates[0].uuid == base64.b64decode(update["uuid"])
        [pool] = world.master.core.agents["gw-1"].holdings.pools.values()
        assert pool.size.cpu_milli == 1000 and not pool.used.cpu_milli
        assert await owner.call("ACKNOWLEDGE_OPERATION_STATUS", named) == 202
        assert "op" not in framework.operations


async def test_no_call_comes_through_on_anothers_stream() -> None:
    """With the owner's framework id on the thief's stream, and the other way round."""
    async with market() as (world, port):
        world.agent()
        owner = await join(world, port, "owner", principal="me")
        await owner.accept(await owner.offer(), launch(task("t")))
        await owner.status("t", "TASK_RUNNING")
        thief = await join(world, port, "thief")
        streams = [client.stream.headers["mesos-stream-id"] for client in (owner, thief)]
        for kind in KINDS:
            if kind == "SUBSCRIBE":
                continue
            for framework_id, stream_id in zip((thief.framework_id, owner.framework_id), streams, strict=True):
                wire = await Wire.open(port)
                tree = {"framework_id": {"value": framework_id}, "type": kind, kind.lower(): body_of(kind)}
                status, _ = await wire.ask(tree, Mesos_Stream_Id=stream_id)
                assert status == (202 if kind.startswith("ACKNOWLEDGE") else 400), kind
                wire.close()
        await still_serves(world, port, owner)
        assert world.master.core.market.frameworks[thief.framework_id].stream_id == streams[1]


async def test_a_master_that_does_not_serve_yet_and_full_books_are_503() -> None:
    async with market(frameworks_max=1) as (world, port):
        started = world.master
        world.master = Master(world.config, "flow")  # as it is before its journal was read
        wire = await Wire.open(port)
        assert (await wire.ask(subscribe("early")))[0] == 503
        world.master = started
        await join(world, port, "one")
        assert (await wire.ask(subscribe("two")))[0] == 503
        wire.close()
