"""Jobs, tasks, agents, roles and the rest over a real socket, with the real core behind it."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from agents.data.rate import Uplink
from agents.data.server import DataServer
from federation.api import JobView, TaskPage, WhyView
from federation.events import BrokerLost
from federation.http.app import serve
from federation.http.settings import HttpConfig
from federation.wire import HeldShard
from tests.http_client import DATA_TOKEN, JOB, TOKEN, client, client_of, problem, world
from tests.http_world import FakeAgent, World

__all__ = ["client", "world"]  # fixtures

V1 = "/api/v1"
SHARD = "ab" * 32


async def submit(client: aiohttp.ClientSession, body: dict[str, Any] = JOB) -> dict[str, Any]:
    async with client.post(f"{V1}/jobs", json=body) as answer:
        document: dict[str, Any] = await answer.json(content_type=None)
        assert answer.status == 201, document
        assert answer.headers["Location"] == f"{V1}/jobs/{document['job_id']}"
    return document


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        document = await answer.json(content_type=None)
        assert answer.status == 200, document
    return document


def job(name: str = "digits", **group: Any) -> dict[str, Any]:
    return {"job": {"name": name, "tasks": [{"name": "train", "command": ["true"]} | group]}}


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_shown_and_cancelled(client: aiohttp.ClientSession) -> None:
    submitted = await submit(client, job(count=3))
    assert (submitted["job_id"], submitted["state"], submitted["n_tasks"]) == ("digits", "running", 3)
    assert await get(client, f"{V1}/jobs") == {"jobs": [await get(client, f"{V1}/jobs/digits")], "next_after": None}
    async with client.post(f"{V1}/jobs/digits/cancel") as answer:
        assert answer.status == 200
    cancelled = await get(client, f"{V1}/jobs/digits")
    assert (cancelled["state"], cancelled["tasks"]) == ("cancelled", {"cancelled": 3})


async def test_a_repeated_submission_is_the_same_job(client: aiohttp.ClientSession) -> None:
    body = job() | {"submission_id": "once"}
    first, second = await submit(client, body), await submit(client, body)
    third = await submit(client, job())
    assert (first["job_id"], second["job_id"], third["job_id"]) == ("digits", "digits", "digits-2")


async def test_unknown_jobs_are_not_found(client: aiohttp.ClientSession) -> None:
    async with client.get(f"{V1}/jobs/nope") as answer:
        assert "'nope'" in (await problem(answer, 404, "not_found"))["detail"]
    async with client.post(f"{V1}/jobs/nope/cancel") as answer:
        assert answer.status == 404
        assert answer.content_type == "application/problem+json"


async def test_a_job_the_core_refuses_is_a_problem(client: aiohttp.ClientSession) -> None:
    cyclic = {"job": {"name": "loop", "tasks": [
        {"name": "a", "command": ["true"], "after": ["b"]}, {"name": "b", "command": ["true"], "after": ["a"]},
    ]}}  # fmt: skip
    async with client.post(f"{V1}/jobs", json=cyclic) as answer:
        assert 400 <= answer.status < 500
        assert answer.content_type == "application/problem+json"
        document = await answer.json(content_type=None)
    assert document["detail"]
    assert await get(client, f"{V1}/jobs") == {"jobs": [], "next_after": None}


async def test_code_that_nobody_holds_is_missed_at_submission(world: World, client: aiohttp.ClientSession) -> None:
    code = b"print('training')"
    digest = hashlib.sha256(code).hexdigest()
    body = job(artifact={"shard_id": digest, "size_bytes": len(code), "name": "train.py"})
    async with client.post(f"{V1}/jobs", json=body) as answer:
        detail = (await problem(answer, 422, "artifact_missing"))["detail"]
    assert detail == f"train: nobody holds its artifact 'train.py'; PUT its bytes to /shards/{digest} first"
    assert (await get(client, f"{V1}/jobs"))["jobs"] == []
    async with client.post(f"{V1}/jobs/plan", json=body) as answer:
        assert answer.status == 200, "a dry run needs no code"
    async with client.put(f"/shards/{digest}", data=code) as answer:
        assert answer.status == 201
    await submit(client, body)
    world.blobs.path(digest).unlink()  # type: ignore[union-attr]
    async with client.post(f"{V1}/jobs", json=body) as answer:
        await problem(answer, 422, "artifact_missing")
    held = HeldShard(shard_id=digest, size_bytes=len(code), name="train.py")
    await FakeAgent(world, "gw-1", "plant").join((held,))
    await submit(client, body)  # It can be fetched from the agent.


async def test_a_dry_run_plans_and_changes_nothing(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join()
    async with client.post(f"{V1}/jobs/plan", json=job(count=2)) as answer:
        assert answer.status == 200
        plan = await answer.json()
    assert plan["policy"] == "fifo"
    assert sum(placement["count"] for placement in plan["plan"]["placements"]) == 2
    assert list(plan["groups"].values()) == ["train"]
    assert await get(client, f"{V1}/jobs") == {"jobs": [], "next_after": None}


# --- tasks -----------------------------------------------------------------------------------------------------------


async def test_tasks_come_a_page_at_a_time(client: aiohttp.ClientSession) -> None:
    await submit(client, job(count=5))
    await submit(client, job("other"))
    found: list[str] = []
    after = ""
    while True:
        page = await get(client, f"{V1}/tasks?job=digits&limit=2{after}")
        found += [task["task_id"] for task in page["tasks"]]
        if page["next_after"] is None:
            break
        after = f"&after={page['next_after']}"
    assert found == [f"digits/train/{index}" for index in range(5)]
    assert len((await get(client, f"{V1}/tasks"))["tasks"]) == 6
    assert (await get(client, f"{V1}/tasks?state=running"))["tasks"] == []
    assert (await get(client, f"{V1}/tasks?agent=gw-1"))["tasks"] == []


async def test_a_task_tells_where_it_is_and_why(world: World, client: aiohttp.ClientSession) -> None:
    await submit(client)
    why = await get(client, f"{V1}/tasks/digits/train/0/why")
    assert why["agent_id"] == ""
    agent = FakeAgent(world, "gw-1", "plant")
    await agent.join()
    (launch,) = agent.launches()
    await agent.report(launch, state="running")
    task = await get(client, f"{V1}/tasks/digits/train/0")
    assert (task["task_id"], task["state"], task["agent_id"]) == ("digits/train/0", "running", "gw-1")
    why = await get(client, f"{V1}/tasks/digits/train/0/why")
    assert (why["agent_id"], why["policy"]) == ("gw-1", "fifo")
    assert len((await get(client, f"{V1}/tasks?agent=gw-1&state=running"))["tasks"]) == 1
    async with client.post(f"{V1}/tasks/digits/train/0/kill") as answer:
        assert answer.status == 200
    assert (await get(client, f"{V1}/tasks/digits/train/0"))["state"] == "killing"


async def test_unknown_tasks_are_not_found(client: aiohttp.ClientSession) -> None:
    for method, path in (("GET", ""), ("GET", "/why"), ("GET", "/logs"), ("POST", "/kill")):
        async with client.request(method, f"{V1}/tasks/digits/train/0{path}") as answer:
            assert answer.status == 404
            assert answer.content_type == "application/problem+json"
    async with client.get(f"{V1}/tasks/digits/train/x") as answer:
        await problem(answer, 400, "invalid")


# --- logs ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def data_server(log: bytes, seen: list[web.Request], *, heeds_range: bool = True) -> AsyncIterator[str]:
    """An agent's data plane, logs only."""

    async def logs(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        if request.match_info["name"] == "moved/train/0/1":
            raise web.HTTPFound("/elsewhere")
        wanted = request.http_range if heeds_range else slice(None)
        return web.Response(status=206 if heeds_range else 200, body=log[wanted], content_type="text/plain")

    app = web.Application()
    app.router.add_get("/logs/{name:.+}", logs)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def log_of(client: aiohttp.ClientSession, path: str) -> tuple[str, str]:
    async with client.get(f"{V1}/tasks/{path}") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        return answer.headers["Offerflow-Log-Source"], await answer.text()


async def test_logs_come_from_the_agent_while_it_can_be_reached(world: World) -> None:
    seen: list[web.Request] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        data_server(b"epoch 1\nepoch 2\n", seen) as data_url,
        serve(world, HttpConfig(token=TOKEN, data_token=DATA_TOKEN)) as serving,
        aiohttp.ClientSession(serving.url, headers=headers) as client,
    ):
        await submit(client)
        agent = FakeAgent(world, "gw-1", "plant", data_url)
        await agent.join()
        await agent.report(agent.launches()[0], state="running")
        assert await log_of(client, "digits/train/0/logs") == ("agent", "epoch 1\nepoch 2\n")
        assert await log_of(client, "digits/train/0/logs?tail_bytes=8") == ("agent", "epoch 2\n")
        assert await log_of(client, "digits/train/0/logs?source=book") == ("book", "")
        assert [request.path for request in seen] == ["/logs/digits/train/0/1"] * 2
        # The operator's token is never shown to an agent.
        assert {request.headers["Authorization"] for request in seen} == {f"Bearer {DATA_TOKEN}"}


async def test_logs_come_from_a_real_agents_server(world: World) -> None:
    async def no_shard(shard_id: str) -> Path | None:
        return None

    def read_log(task_id: str, attempt: int) -> bytes | None:
        return b"epoch 1\nepoch 2\n" if (task_id, attempt) == ("digits/train/0", 1) else None

    async with client_of(world, token=TOKEN, data_token=DATA_TOKEN) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        agent_data = DataServer(
            host="127.0.0.1",
            port=0,
            verified=no_shard,
            read_log=read_log,
            uplink=Uplink("plant", None),
            token=DATA_TOKEN,
        )
        agent = FakeAgent(world, "gw-1", "plant", await agent_data.start())
        await agent.join()
        await submit(client, job(count=2))
        assert await log_of(client, "digits/train/0/logs?tail_bytes=8") == ("agent", "epoch 2\n")
        assert await log_of(client, "digits/train/1/logs") == ("book", "")
        await agent_data.stop()


async def test_logs_fall_back_to_the_book(world: World, client: aiohttp.ClientSession) -> None:
    seen: list[web.Request] = []
    async with data_server(b"never shown", seen) as data_url:
        await submit(client, job("moved", attempts_max=1))
        agent = FakeAgent(world, "gw-1", "plant", data_url)
        await agent.join()
        await agent.report(agent.launches()[0], state="failed", reason="exit", exit_code=1, log_tail="Traceback: ☃")
        await submit(client, job("gone"))
        assert await log_of(client, "moved/train/0/logs") == ("book", "Traceback: ☃")  # a redirect is not followed
        assert len(seen) == 1
    assert await log_of(client, "moved/train/0/logs") == ("book", "Traceback: ☃")  # nobody listens
    assert await log_of(client, "moved/train/0/logs?tail_bytes=4") == ("book", " ☃")
    strange = FakeAgent(world, "gw-2", "plant", "file:///etc/passwd?")
    await strange.join()
    await submit(client, job("local", where={"agents": ["gw-2"]}))
    assert await log_of(client, "local/train/0/logs") == ("book", "")


async def test_an_agent_that_ignores_the_range_is_cut(world: World) -> None:
    async with (
        data_server(b"x" * 50_000 + b"end", [], heeds_range=False) as data_url,
        serve(world, HttpConfig(log_bytes_max=100_000)) as serving,
        aiohttp.ClientSession(serving.url) as client,
    ):
        await submit(client)
        agent = FakeAgent(world, "gw-1", "plant", data_url)
        await agent.join()
        assert await log_of(client, "digits/train/0/logs?tail_bytes=5") == ("agent", "xxend")


# --- agents, the market, the network ---------------------------------------------------------------------------------


async def test_agents_are_shown_and_cordoned(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join()
    agents = (await get(client, f"{V1}/agents"))["agents"]
    assert [(agent["agent_id"], agent["state"], agent["mode"]) for agent in agents] == [("gw-1", "online", "active")]
    (offer,) = (await get(client, f"{V1}/offers"))["offers"]
    assert (offer["agent_id"], offer["free"]["cpu_milli"]) == ("gw-1", 8000)
    async with client.post(f"{V1}/agents/gw-1/mode", json={"mode": "cordoned"}) as answer:
        assert answer.status == 200
    assert (await get(client, f"{V1}/agents/gw-1"))["mode"] == "cordoned"
    async with client.post(f"{V1}/agents/gw-1/mode", json={"mode": "happy"}) as answer:
        await problem(answer, 400, "invalid")
    async with client.post(f"{V1}/agents/gw-9/mode", json={"mode": "active"}) as answer:
        assert answer.status == 404
    async with client.get(f"{V1}/agents/gw-9") as answer:
        await problem(answer, 404, "not_found")


async def test_roles_have_weights_and_quotas(client: aiohttp.ClientSession) -> None:
    async with client.put(f"{V1}/roles/ml/vision", json={"weight": 3, "quota": {"cpu_milli": 4000}}) as answer:
        assert answer.status == 200
    role = await get(client, f"{V1}/roles/ml/vision")
    assert (role["path"], role["weight"], role["quota"]["cpu_milli"]) == ("ml/vision", 3, 4000)
    assert "ml/vision" in [role["path"] for role in (await get(client, f"{V1}/roles"))["roles"]]
    for body, code in (
        ({"weight": 0}, "invalid"),
        ({"wieght": 1}, "unknown_key"),
        ({"quota": {"cpu": 1}}, "unknown_key"),
    ):
        async with client.put(f"{V1}/roles/ml", json=body) as answer:
            await problem(answer, 400, code)
    async with client.put(f"{V1}/roles/Not%20A%20Role", json={}) as answer:
        await problem(answer, 400, "invalid")
    async with client.get(f"{V1}/roles/none/such") as answer:
        await problem(answer, 404, "not_found")


async def test_the_network_policies_and_status(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join()
    assert (await get(client, f"{V1}/network"))["links"] == []
    policies = await get(client, f"{V1}/policies")
    assert policies["active"] == "fifo"
    assert "fifo" in policies["policies"]
    status = await get(client, f"{V1}/status")
    assert (status["state"], status["term"], status["agents"]["online"]) == ("serving", 1, 1)
    assert status["total"]["cpu_milli"] == 8000
    assert status["broker"] == "connected to nothing"


async def test_shards_are_listed_and_wished_for(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join((HeldShard(shard_id=SHARD, size_bytes=5, name="digits/1"),))
    (shard,) = (await get(client, f"{V1}/shards?glob=digits/*"))["shards"]
    assert (shard["shard_id"], shard["replicas"], shard["in_store"]) == (SHARD, ["gw-1"], False)
    assert (await get(client, f"{V1}/shards?glob=other/*"))["shards"] == []
    wishes = {"size_bytes": 5, "name": "digits/1", "replicas_wanted": 2}
    async with client.put(f"{V1}/shards/{SHARD}", json=wishes) as answer:
        assert answer.status == 200
    shard = await get(client, f"{V1}/shards/{SHARD}")
    assert (shard["replicas_wanted"], shard["in_store"]) == (2, False)
    async with client.get(f"{V1}/shards/{'0' * 64}") as answer:
        await problem(answer, 404, "not_found")


# --- health ----------------------------------------------------------------------------------------------------------


async def test_ready_means_that_work_is_placed(world: World, client: aiohttp.ClientSession) -> None:
    assert await get(client, "/readyz") == {"status": "ok"}
    world.broker = "lost 3 s ago"
    await world.tell(BrokerLost(detail="reset"))
    async with client.get("/readyz") as answer:
        assert "lost 3 s ago" in (await problem(answer, 503, "not_ready"))["detail"]
        assert answer.headers["Retry-After"] == "1"
    assert await get(client, "/healthz") == {"status": "ok"}


async def test_a_master_that_has_not_started_is_not_ready(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with client_of(world) as client, client.get("/readyz") as answer:
        assert "recovering" in (await problem(answer, 503, "not_ready"))["detail"]
    await world.journal.close()


# --- answers have the types that the table says ----------------------------------------------------------------------


async def test_answers_decode_into_the_view_types(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join()
    await submit(client)
    for path, type_ in (
        (f"{V1}/jobs/digits", JobView),
        (f"{V1}/tasks", TaskPage),
        (f"{V1}/tasks/digits/train/0/why", WhyView),
    ):
        async with client.get(path) as answer:
            msgspec.json.decode(await answer.read(), type=type_)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_task_ids_with_escaped_slashes_are_not_another_form(client: aiohttp.ClientSession, method: str) -> None:
    async with client.request(method, f"{V1}/tasks/digits%2Ftrain%2F0") as answer:
        assert answer.status in (404, 405)
