"""Shard bytes over HTTP: streamed, checked against their name, bounded, resumable."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest

from federation.http.app import serve
from federation.http.settings import HttpConfig
from tests.http_client import client, client_of, problem, raw, world
from tests.http_world import World

__all__ = ["client", "world"]  # fixtures

BYTES = random.Random(7).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(BYTES).hexdigest()
NONE = hashlib.sha256(b"").hexdigest()


async def test_bytes_go_in_and_come_out(world: World, client: aiohttp.ClientSession) -> None:
    query = "name=digits/1&site=plant&site=rack&replicas_wanted=1"
    async with client.put(f"/shards/{SHA256}?{query}", data=BYTES) as answer:
        assert answer.status == 201
        assert answer.headers["Location"] == f"/shards/{SHA256}"
        view = await answer.json()
    assert (view["name"], view["size_bytes"], view["in_store"]) == ("digits/1", len(BYTES), True)
    assert (view["sites"], view["replicas_wanted"]) == (["plant", "rack"], 1)
    async with client.get(f"/shards/{SHA256}") as answer:
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "immutable" in answer.headers["Cache-Control"]
        assert await answer.read() == BYTES
    async with client.put(f"/shards/{SHA256}?{query}", data=BYTES) as answer:
        assert answer.status == 200
    async with client.put(f"/shards/{NONE}", data=b"") as answer:
        assert answer.status == 201
    async with client.get(f"/shards/{NONE}") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_downloads_resume(client: aiohttp.ClientSession) -> None:
    async with client.put(f"/shards/{SHA256}", data=BYTES) as answer:
        assert answer.status == 201
    total = len(BYTES)
    for wanted, expected in (
        ("bytes=0-9", BYTES[:10]),
        (f"bytes={total - 5}-", BYTES[-5:]),
        ("bytes=-7", BYTES[-7:]),
        (f"bytes=100-{total * 2}", BYTES[100:]),
    ):
        async with client.get(f"/shards/{SHA256}", headers={"Range": wanted}) as answer:
            assert answer.status == 206
            assert await answer.read() == expected
            first = total - len(expected) if wanted != "bytes=0-9" else 0
            assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{total}"
    async with client.head(f"/shards/{SHA256}") as answer:
        assert (answer.status, int(answer.headers["Content-Length"])) == (200, total)
        assert answer.headers["Accept-Ranges"] == "bytes"
    for wanted in (f"bytes={total}-", "bytes=5-2", "bytes=0-1,4-5", "lines=1-2"):
        async with client.get(f"/shards/{SHA256}", headers={"Range": wanted}) as answer:
            await problem(answer, 416, "range_not_satisfiable")
            assert answer.headers["Content-Range"] == f"bytes */{total}"


async def test_bytes_that_do_not_match_their_name_are_not_kept(client: aiohttp.ClientSession) -> None:
    async with client.put(f"/shards/{SHA256}", data=BYTES[:-1]) as answer:
        await problem(answer, 422, "hash")
    async with client.get(f"/shards/{SHA256}") as answer:
        await problem(answer, 404, "not_found")
    async with client.get("/api/v1/shards") as answer:
        assert await answer.json() == {"shards": [], "next_after": None}


@pytest.mark.parametrize("name", ["zz" * 32, SHA256.upper(), SHA256[:-1], "..%2F..%2Fetc%2Fpasswd"])
async def test_names_are_hashes(client: aiohttp.ClientSession, name: str) -> None:
    for method in ("GET", "PUT"):
        async with client.request(method, f"/shards/{name}") as answer:
            await problem(answer, 400, "invalid")


async def test_shards_are_bounded_announced_or_not(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1024)

    async with client_of(world, shard_bytes_max=10_000) as client:
        async with client.put(f"/shards/{SHA256}", data=BYTES[:10_001]) as answer:
            await problem(answer, 413, "oversized")
        async with client.put(f"/shards/{SHA256}", data=endless()) as answer:
            await problem(answer, 413, "oversized")
        async with client.get(f"/shards/{SHA256}") as answer:
            assert answer.status == 404


async def test_a_full_disk_is_said_and_nothing_kept(world: World, client: aiohttp.ClientSession) -> None:
    world.blobs.full = True
    async with client.put(f"/shards/{SHA256}", data=BYTES) as answer:
        await problem(answer, 507, "disk_full")
    world.blobs.full = False
    async with client.head(f"/shards/{SHA256}") as answer:
        assert answer.status == 404
    async with client.put(f"/shards/{SHA256}", data=BYTES) as answer:
        assert answer.status == 201


async def test_a_client_that_asks_first_need_not_send_in_vain(world: World) -> None:
    def head(sha256: str, n_bytes: int, expect: str = "100-continue") -> bytes:
        lines = [f"PUT /shards/{sha256} HTTP/1.1", "Host: localhost", f"Content-Length: {n_bytes}", f"Expect: {expect}"]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()

    async with client_of(world, shard_bytes_max=10_000, linger_us=10_000) as client:
        answer = await raw(client, head(NONE, 0))
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
        for refused, status in ((head(NONE, 10_001), b"413"), (head(NONE, 5, "tea"), b"417")):
            assert (await raw(client, refused)).startswith(b"HTTP/1.1 " + status)
    async with client_of(world, token="t0ken-of-enough-length", linger_us=10_000) as client:
        assert (await raw(client, head(NONE, 5))).startswith(b"HTTP/1.1 401")


async def test_shards_may_be_larger_than_json_bodies(world: World) -> None:
    async with client_of(world, body_bytes_max=1000) as client, client.put(f"/shards/{SHA256}", data=BYTES) as answer:
        assert answer.status == 201


async def test_an_upload_that_stalls_or_breaks_leaves_nothing(world: World) -> None:
    head = f"PUT /shards/{SHA256} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BYTES)}\r\n".encode()
    async with (
        serve(world, HttpConfig(stall_us=100_000, linger_us=50_000)) as serving,
        aiohttp.ClientSession(serving.url) as client,
    ):
        answer = await raw(client, head + b"Connection: close\r\n\r\n" + BYTES[:1000])
        assert answer.startswith(b"HTTP/1.1 408")
        _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(head + b"\r\n" + BYTES[:1000])
        await writer.drain()
        writer.transport.abort()
        async with client.get(f"/shards/{SHA256}") as response:
            await problem(response, 404, "not_found")


async def test_compressed_uploads_are_refused(client: aiohttp.ClientSession) -> None:
    async with client.put(f"/shards/{SHA256}", data=b"x", headers={"Content-Encoding": "br"}) as answer:
        await problem(answer, 415, "unsupported_media_type")
