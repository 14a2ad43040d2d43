"""A client of a served `World`, and the fixtures of the HTTP tests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from federation.http.app import serve
from federation.http.settings import HttpConfig
from tests.http_world import World

TOKEN = "t0ken-of-enough-length"
DATA_TOKEN = "data-t0ken-of-enough-length"
JSON = {"Content-Type": "application/json"}
JOB = {"job": {"name": "digits", "tasks": [{"name": "train", "command": ["true"]}]}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.journal.close()


@contextlib.asynccontextmanager
async def client_of(world: World, **settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with serve(world, HttpConfig(**settings)) as serving, aiohttp.ClientSession(serving.url) as client:
        yield client


@pytest.fixture
async def client(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(world) as client:
        yield client


async def problem(answer: aiohttp.ClientResponse, status: int, code: str) -> dict[str, Any]:
    """The document, checked for shape."""
    body = await answer.text()
    assert answer.status == status, body
    assert answer.content_type == "application/problem+json"
    document: dict[str, Any] = json.loads(body)
    assert document.keys() == {"type", "title", "status", "detail", "instance"}
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == status
    assert document["title"] and document["detail"]
    return document


async def raw(client: aiohttp.ClientSession, request: bytes) -> bytes:
    """Send bytes, return everything until the server closes."""
    base = client._base_url
    assert base is not None
    reader, writer = await asyncio.open_connection(base.host, base.port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer
