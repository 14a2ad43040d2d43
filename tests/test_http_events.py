"""`/events`: in order, resumable, bounded."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from federation.facts import Fact
from federation.http.app import serve
from federation.http.settings import HttpConfig
from tests.http_client import client, client_of, problem, world
from tests.http_world import World
from tests.test_http_api import job, submit

__all__ = ["client", "world"]  # fixtures


async def next_event(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event (fields id, event, data), or {"comment": …}."""
    event: dict[str, Any] = {}
    while True:
        line = (await answer.content.readline()).decode()
        assert line, "the stream ended"
        if line == "\n" and event:
            return event
        name, _, value = line.strip().partition(": ")
        if (not name and value) or name == ":":
            event["comment"] = value
        elif name and name != "retry":
            event[name] = json.loads(value) if name == "data" else value


async def events(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [await next_event(answer) for _ in range(count)]


async def test_facts_arrive_in_order_with_their_numbers(world: World, client: aiohttp.ClientSession) -> None:
    last = world.journal.last_seq
    async with client.get("/events") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        await submit(client)
        (event,) = await events(answer, 1)
    assert event["id"] == str(last + 1)
    assert event["event"] == "job_accepted"
    assert event["data"]["job_id"] == "digits"
    ((_, fact),) = await world.journal.read(last, 1)
    assert msgspec.json.decode(json.dumps(event["data"]), type=Fact) == fact


async def test_a_client_resumes_behind_what_it_saw(world: World, client: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "c"):
        await submit(client, job(name))
    last = world.journal.last_seq
    async with client.get("/events?after=0") as answer:
        everything = await events(answer, last)
    assert [event["id"] for event in everything] == [str(seq) for seq in range(1, last + 1)]
    for resume in ({"headers": {"Last-Event-ID": "2"}}, {"params": {"after": "2"}}):
        async with client.get("/api/v1/events", **resume) as answer:  # type: ignore[arg-type]
            assert await events(answer, last - 2) == everything[2:]
    async with client.get("/events?after=0", headers={"Last-Event-ID": str(last - 1)}) as answer:
        assert await events(answer, 1) == everything[-1:]


async def test_bad_resume_points_are_refused(client: aiohttp.ClientSession) -> None:
    for seen in ("x", "-1", "1.5", "9" * 30, "٣"):
        async with client.get("/events", headers={"Last-Event-ID": seen}) as answer:
            await problem(answer, 400, "invalid")
    async with client.get("/events?after=-1") as answer:
        await problem(answer, 400, "invalid")


async def test_what_a_snapshot_dropped_is_named(world: World, client: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "c"):
        await submit(client, job(name))
    last = world.journal.last_seq
    await world.journal.snapshot(last - 1, b"state")
    async with client.get("/events?after=0") as answer:
        gap, event = await events(answer, 2)
    assert gap == {"event": "gap", "data": {"after": 0, "next": last}}
    assert event["id"] == str(last)


async def test_an_idle_stream_beats(world: World) -> None:
    async with client_of(world, heartbeat_us=20_000) as client, client.get("/events") as answer:
        beats = await events(answer, 3)
    assert beats == [{"comment": "heartbeat"}] * 3


async def test_streams_are_bounded_and_given_back(world: World) -> None:
    async with client_of(world, event_streams_max=2, heartbeat_us=10_000) as client:
        first, second = await client.get("/events"), await client.get("/events")
        async with client.get("/events") as answer:
            await problem(answer, 503, "too_many_streams")
            assert answer.headers["Retry-After"] == "5"
        first.close()
        async with asyncio.timeout(10):
            while (answer := await client.get("/events")).status != 200:
                answer.close()
        answer.close()
        second.close()


class Flood(World):
    """A master that never runs out of facts."""

    n_given = 0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ended = asyncio.Event()

    async def subscribe(self, after_seq: int | None = None) -> AsyncGenerator[tuple[int, Fact], None]:
        ((_, fact),) = await self.journal.read(0, 1)
        try:
            while True:
                self.n_given += 1
                yield self.n_given, fact
        finally:
            self.ended.set()


async def test_a_client_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    world = Flood(tmp_path)
    await world.start()
    async with serve(world, HttpConfig(stall_us=200_000)) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port, limit=1024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            await world.ended.wait()
        assert world.n_given < 500_000  # what fits in the sockets' buffers and the queue, no more
        async with aiohttp.ClientSession(serving.url) as client, client.get("/metrics") as answer:
            text = await answer.text()
        assert "offerflow_http_event_streams_dropped_total 1.0" in text
        assert "offerflow_http_event_streams 0.0" in text
        writer.close()
        del reader
    await world.journal.close()


async def test_a_stopping_server_ends_its_streams(world: World) -> None:
    async with aiohttp.ClientSession() as client:
        async with asyncio.timeout(2):
            async with serve(world, HttpConfig()) as serving:
                answer = await client.get(f"{serving.url}/events")
            assert b"retry" in await answer.content.read()
