"""The HTTP side of a master that really runs: its driver, journal, store and broker, an agent on the wire."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from federation.broker import Kind
from federation.driver import LiveMaster
from federation.http.app import serve
from federation.http.live import Live
from federation.http.settings import HttpConfig
from tests.http_client import problem
from tests.live_world import WireAgent, broker_of, kind, live_config, until
from tests.test_http_api import V1, get, job, submit
from tests.test_http_events import events, next_event

__all__ = ["kind"]  # a fixture

pytestmark = pytest.mark.live

BYTES = b"the bytes of a shard" * 10_000
SHA256 = hashlib.sha256(BYTES).hexdigest()


@asynccontextmanager
async def served(folder: Path, url: str) -> AsyncIterator[tuple[LiveMaster, aiohttp.ClientSession]]:
    """As `offerflow master run` does it: bind, then run with the address that came of it."""
    live = LiveMaster.open(live_config(folder, url))
    as_http_needs_it: Live = live
    async with serve(as_http_needs_it, HttpConfig()) as serving, aiohttp.ClientSession(serving.url) as client:
        async with client.get("/readyz") as answer:
            assert answer.status == 503  # nothing runs yet
        running = asyncio.create_task(live.run(serving.url))
        try:
            yield live, client
        finally:
            live.stop()
            await asyncio.wait_for(running, 20)


async def wait_ready(client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(15):
        while (await client.get("/readyz")).status != 200:  # noqa: ASYNC110 - the answer is what is waited for
            await asyncio.sleep(0.02)


async def test_a_job_goes_all_the_way(tmp_path: Path, kind: Kind) -> None:
    async with (
        broker_of(tmp_path / "broker", kind) as broker,
        served(tmp_path / "master", broker.url) as (live, client),
    ):
        await wait_ready(client)
        stream = await client.get("/events")
        await submit(client, job(count=3))
        agent = WireAgent(broker.url, "gw-1")
        async with agent.running(), asyncio.timeout(20):
            while (event := await next_event(stream))["event"] != "job_ended":
                assert event["event"] != "gap"
            assert event["data"]["state"] == "finished"
            assert (await get(client, f"{V1}/jobs/digits"))["tasks"] == {"finished": 3}
            assert (await get(client, f"{V1}/tasks/digits/train/2/why"))["agent_id"] == "gw-1"
            async with client.get("/metrics") as answer:
                metrics = await answer.text()
            assert f"offerflow_driver_journal_seq {live.journal.last_seq:.1f}" in metrics
            assert "offerflow_driver_commits_total" in metrics and "offerflow_driver_mqtt_received_total" in metrics
            status = await get(client, f"{V1}/status")
            assert status["broker"].startswith("connected to 127.0.0.1:")
        stream.close()
        last = live.journal.last_seq
        async with client.get("/events", headers={"Last-Event-ID": "0"}) as answer:
            everything = await events(answer, last)
        assert [int(event["id"]) for event in everything] == list(range(1, last + 1))


async def test_what_was_acknowledged_survives_the_master(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path / "broker", kind) as broker:
        async with served(tmp_path / "master", broker.url) as (_, client):
            await wait_ready(client)
            await submit(client, job() | {"submission_id": "once"})
            async with client.put(f"/shards/{SHA256}?name=data/1", data=BYTES) as answer:
                assert answer.status == 201
            async with client.put(f"/shards/{SHA256[::-1]}", data=BYTES) as answer:
                await problem(answer, 422, "hash")
            seq = (await get(client, f"{V1}/status"))["term"]
        async with served(tmp_path / "master", broker.url) as (live, client):
            await wait_ready(client)
            assert (await get(client, f"{V1}/status"))["term"] == seq + 1
            assert (await submit(client, job() | {"submission_id": "once"}))["job_id"] == "digits"
            async with client.get(f"/shards/{SHA256}", headers={"Range": "bytes=100-"}) as answer:
                assert await answer.read() == BYTES[100:]
            (shard,) = (await get(client, f"{V1}/shards?glob=data/*"))["shards"]
            assert shard["in_store"]
            assert list(live.blobs.folder.glob("incoming/*")) == []


async def test_ready_follows_the_broker(tmp_path: Path, kind: Kind) -> None:
    async with (
        broker_of(tmp_path / "broker", kind) as broker,
        served(tmp_path / "master", broker.url) as (live, client),
    ):
        await wait_ready(client)
        await broker.stop()
        await until(lambda: not live.broker_status().startswith("connected"))
        async with client.get("/readyz") as answer:
            assert "lost" in (await problem(answer, 503, "not_ready"))["detail"]
        async with client.post(f"{V1}/jobs", json=job()) as answer:
            assert answer.status == 201  # Jobs are taken all the same: they wait.


async def test_a_stopped_master_says_so(tmp_path: Path, kind: Kind) -> None:
    async with (
        broker_of(tmp_path / "broker", kind) as broker,
        served(tmp_path / "master", broker.url) as (live, client),
    ):
        await wait_ready(client)
        stream = await client.get("/events")
        live.stop()
        await until(lambda: live.broker_status() == "lost: the master has stopped")
        async with client.post(f"{V1}/jobs", json=job()) as answer:
            await problem(answer, 503, "stepped_down")
        async with client.get("/readyz") as answer:
            await problem(answer, 503, "not_ready")
        async with asyncio.timeout(10):
            await stream.content.read()  # Streams end, so that clients look for the next master.
