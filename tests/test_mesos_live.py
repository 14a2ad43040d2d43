"""Frameworks against `offerflow up`: bytes on a socket, and the SDK; real agents, real tasks."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from federation.client import Framework, FrameworkError, task
from tests.mesos_world import Wire, subscribe
from tests.test_up import Started, started

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("up")
    with started("up", "--agents", "2", "--http", "127.0.0.1:0", TMPDIR=str(folder)) as up:
        address = up.wait_for(r"^master +(http://\S+),")[1]
        up.wait_for(r"^ready")
        yield address
        stop(up)


def stop(up: Started) -> None:
    assert up.end() == 0


def _id(value: str) -> dict[str, str]:
    return {"value": value}


def sleeper(task_id: str, agent_id: str, command: str, cpus: float = 0.1) -> dict[str, Any]:
    amounts = {"cpus": cpus, "mem": 32}
    resources = [{"name": name, "type": "SCALAR", "scalar": {"value": value}} for name, value in amounts.items()]
    return {
        "name": task_id, "task_id": _id(task_id), "agent_id": _id(agent_id), "resources": resources,
        "command": {"value": command},
    }  # fmt: skip


class Client:
    """A Mesos client of a few lines: one connection for the stream, one for calls."""

    def __init__(self, stream: Wire, calls: Wire, framework_id: str) -> None:
        self.stream, self.calls, self.framework_id = stream, calls, framework_id

    @classmethod
    async def open(cls, url: str, name: str, **fields: Any) -> "Client":
        port = urlsplit(url).port
        assert port is not None
        stream = await Wire.open(port)
        await stream.send(subscribe(name, **fields))
        assert await stream.head() == 200, await stream.body()
        event = await stream.event()
        assert event["type"] == "SUBSCRIBED"
        assert (await stream.event())["type"] == "HEARTBEAT"
        return cls(stream, await Wire.open(port), event["subscribed"]["framework_id"]["value"])

    async def call(self, kind: str, body: Any = None, **headers: str) -> int:
        tree = {"framework_id": _id(self.framework_id), "type": kind} | ({} if body is None else {kind.lower(): body})
        stream_id = headers.pop("stream_id", self.stream.headers["mesos-stream-id"])
        return (await self.calls.ask(tree, Mesos_Stream_Id=stream_id, **headers))[0]

    async def offer(self) -> dict[str, Any]:
        offer: dict[str, Any] = (await self.stream.until("OFFERS"))["offers"]["offers"][0]
        return offer

    async def launch(self, offer: dict[str, Any], *tasks: dict[str, Any]) -> int:
        operation = {"type": "LAUNCH", "launch": {"task_infos": list(tasks)}}
        return await self.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": [operation]})

    async def status(self, task_id: str, *states: str) -> dict[str, Any]:
        """The first update of the task in one of the states; those before are acknowledged."""
        while True:
            event = await self.stream.until("UPDATE", lambda e: e["update"]["status"]["task_id"] == _id(task_id))
            status: dict[str, Any] = event["update"]["status"]
            if "uuid" in status:
                assert await self.acknowledge(status) == 202
            if status["state"] in states:
                return status

    async def acknowledge(self, status: dict[str, Any]) -> int:
        body = {"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]}
        return await self.call("ACKNOWLEDGE", body)

    async def leave(self) -> None:
        await self.call("TEARDOWN")
        self.stream.close()
        self.calls.close()


async def test_subscribe_accept_running_finished_acknowledged(url: str) -> None:
    client = await Client.open(url, "plain")
    offer = await client.offer()
    assert offer["hostname"] == offer["agent_id"]["value"]
    assert "allocation_info" not in offer and all("allocation_info" not in r for r in offer["resources"])
    names = {attribute["name"] for attribute in offer["attributes"]}
    assert {"site", "tier", "speed_milli"} <= names
    assert offer["offerflow"]["expires_us"] > 0
    agent_id = offer["agent_id"]["value"]
    assert await client.launch(offer, sleeper("t1", agent_id, "echo hello; sleep 0.5")) == 202
    running = await client.status("t1", "TASK_RUNNING")
    assert running["agent_id"] == _id(agent_id) and running["uuid"]
    finished = await client.status("t1", "TASK_FINISHED")
    assert finished["timestamp"] > running["timestamp"] > 0
    assert await client.acknowledge(finished) == 202, "twice does no harm"
    assert await client.call("RECONCILE", {"tasks": [{"task_id": _id("nobody's")}]}) == 202
    status = (await client.stream.until("UPDATE"))["update"]["status"]
    assert (status["task_id"], status["state"], status["reason"]) == (
        _id("nobody's"), "TASK_LOST", "REASON_RECONCILIATION",
    )  # fmt: skip
    assert "uuid" not in status
    await client.leave()


async def test_a_multi_role_framework_is_told_its_role_and_kills_a_task(url: str) -> None:
    client = await Client.open(url, "roles", roles=["ml", "web"], capabilities=[{"type": "MULTI_ROLE"}])
    offer = await client.offer()
    assert offer["allocation_info"]["role"] in ("ml", "web")
    assert {r["allocation_info"]["role"] for r in offer["resources"]} == {offer["allocation_info"]["role"]}
    assert await client.launch(offer, sleeper("long", offer["agent_id"]["value"], "sleep 100")) == 202
    await client.status("long", "TASK_RUNNING")
    assert await client.call("KILL", {"task_id": _id("long")}) == 202
    assert (await client.status("long", "TASK_KILLED"))["task_id"] == _id("long")
    assert await client.call("REVIVE", {"roles": "ml"}) == 202, "a scalar where a list is defined"
    assert await client.call("REVIVE") == 202
    await client.leave()


async def test_what_is_another_ones_is_not_touched(url: str) -> None:
    owner, thief = await Client.open(url, "owner"), await Client.open(url, "thief")
    offer = await owner.offer()
    assert await thief.launch(offer, sleeper("stolen", offer["agent_id"]["value"], "true")) == 202
    status = await thief.status("stolen", "TASK_LOST", "TASK_ERROR", "TASK_DROPPED")
    assert status["reason"] == "REASON_INVALID_OFFERS"
    assert await owner.launch(offer, sleeper("mine", offer["agent_id"]["value"], "sleep 100")) == 202
    await owner.status("mine", "TASK_RUNNING")
    assert await thief.call("KILL", {"task_id": _id("mine")}) == 202
    assert await thief.status("mine", "TASK_LOST"), "it is not the thief's, so it is not known"
    thief_stream = thief.stream.headers["mesos-stream-id"]
    assert await owner.call("KILL", {"task_id": _id("mine")}, stream_id=thief_stream) == 400
    assert await owner.call("SUPPRESS") == 202
    await owner.leave()
    assert await thief.call("REVIVE") == 202
    stream_id = owner.stream.headers["mesos-stream-id"]
    thief.framework_id = owner.framework_id
    assert await thief.call("REVIVE", stream_id=stream_id) == 403, "torn down"


async def test_a_stream_is_taken_over_and_the_older_one_hears_it(url: str) -> None:
    first = await Client.open(url, "twice", failover_timeout=60)
    second = await Client.open(url, "twice", id=_id(first.framework_id), failover_timeout=60)
    assert second.framework_id == first.framework_id
    assert (await first.stream.until("ERROR"))["error"]["message"]
    assert await first.call("REVIVE") == 400
    assert await second.call("REVIVE") == 202
    await second.leave()


async def test_the_sdk_runs_tasks_and_hears_how_they_end(url: str) -> None:
    async with Framework(url, "sdk") as framework:
        async for offer in framework.offers():
            good = task("good", ["sh", "-c", "exit 0"], cpus=0.1, memory_bytes=32 * 2**20)
            bad = task("bad", ["sh", "-c", "exit 3"], cpus=0.1, memory_bytes=32 * 2**20)
            await framework.launch(offer, good, bad)
            break
        assert (await framework.ended("good")).state == "TASK_FINISHED"
        ended = await framework.ended("bad")
        assert (ended.state, ended.exit_code) == ("TASK_FAILED", 3)


async def test_the_sdk_is_told_when_another_takes_its_place(url: str) -> None:
    async with (
        Framework(url, "one", failover_timeout_s=30) as one,
        Framework(url, "one", framework_id=one.framework_id, failover_timeout_s=30),
    ):
        with pytest.raises(FrameworkError, match="failed over"):
            await one.ended("never")
    with pytest.raises(FrameworkError) as refused:
        async with Framework(url, "gone", framework_id="offerflow-9-9999"):
            pass
    assert refused.value.status == 403
