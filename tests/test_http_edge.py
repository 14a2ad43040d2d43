"""What every request meets first: who may ask, which addresses there are, how large, slow and odd a body may be."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from federation.errors import ConfigError
from federation.http.app import make_app, serve
from federation.http.settings import HttpConfig
from tests.http_client import DATA_TOKEN, JOB, JSON, TOKEN, client, client_of, problem, raw, world
from tests.http_world import World

__all__ = ["client", "world"]  # fixtures


# --- addresses and methods -------------------------------------------------------------------------------------------


async def test_the_index_names_every_address(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as answer:
        text = await answer.text()
    assert answer.content_type == "text/plain"
    assert "POST  /api/v1/jobs " in text
    assert "/api/v1/roles/{role} " in text
    async with client.get("/", headers={"Accept": "text/html"}) as answer:
        page = await answer.text()
    assert answer.content_type == "text/html"
    assert '<a href="/api/v1/jobs">' in page
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_problem_types_lead_somewhere(client: aiohttp.ClientSession) -> None:
    async with client.get("/nowhere") as answer:
        document = await problem(answer, 404, "not_found")
    async with client.get(document["type"]) as answer:
        assert answer.status == 200
        assert document["title"] in await answer.text()
    async with client.get("/problems/of-the-core") as answer:
        await problem(answer, 404, "not_found")


async def test_unknown_addresses_and_wrong_methods(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/jbos") as answer:
        await problem(answer, 404, "not_found")
    async with client.delete("/api/v1/jobs") as answer:
        document = await problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET,HEAD,POST"
    assert "GET,HEAD,POST" in document["detail"]
    async with client.options("/api/v1/jobs", headers={"Access-Control-Request-Method": "POST"}) as answer:
        await problem(answer, 405, "method_not_allowed")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_head_is_get_without_a_body(client: aiohttp.ClientSession) -> None:
    async with client.head("/api/v1/jobs") as answer:
        assert answer.status == 200
        assert await answer.read() == b""
        assert int(answer.headers["Content-Length"]) == len(b'{"jobs":[],"next_after":null}')
    async with client.head("/events") as answer:
        assert answer.status == 405


async def test_queries_are_strict(client: aiohttp.ClientSession) -> None:
    for query, code, says in (
        ("limt=3", "unknown_key", "did you mean 'limit'?"),
        ("limit=0", "invalid", ">= 1"),
        ("limit=5000", "invalid", "<= 1000"),
        ("state=happy", "invalid", "happy"),
        ("limit=1&limit=2", "unknown_key", "twice"),
    ):
        async with client.get(f"/api/v1/tasks?{query}") as answer:
            document = await problem(answer, 400, code)
        assert says in document["detail"]
    async with client.get("/api/v1/shards/xyz") as answer:
        assert "sha256 in the path" in (await problem(answer, 400, "invalid"))["detail"]


async def test_nothing_is_cached_or_sniffed(client: aiohttp.ClientSession) -> None:
    for path in ("/api/v1/status", "/nowhere"):
        async with client.get(path) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Server"] == "offerflow"


# --- bodies ----------------------------------------------------------------------------------------------------------


async def test_bodies_that_do_not_decode(client: aiohttp.ClientSession) -> None:
    typo = {"job": {"name": "digits", "tasks": [{"name": "train", "comand": ["true"]}]}}
    for body, code, says in (
        (b"{", "malformed", "not a JSON document"),
        (b"\xff\xff", "malformed", "not a JSON document"),
        (b"[" * 50_000, "malformed", "nested too deeply"),
        (b"{}", "invalid", "missing required field `job`"),
        (json.dumps(typo).encode(), "unknown_key", "`$.job.tasks[0]`; did you mean 'command'?"),
        (
            json.dumps(JOB | {"submission_id": 3}).encode(),
            "invalid",
            "got `int` - at `$.submission_id`",
        ),
        (b"", "malformed", "not a JSON document"),
    ):
        async with client.post("/api/v1/jobs", data=body, headers=JSON) as answer:
            document = await problem(answer, 400, code)
        assert says in document["detail"]
        assert document["instance"] == "/api/v1/jobs"
    async with client.get("/api/v1/jobs") as answer:
        assert await answer.json() == {"jobs": [], "next_after": None}


async def test_bodies_must_be_json_as_it_is(client: aiohttp.ClientSession) -> None:
    body = json.dumps(JOB).encode()
    for kind in ("application/x-www-form-urlencoded", "text/plain", "text/json"):
        async with client.post("/api/v1/jobs", data=body, headers={"Content-Type": kind}) as answer:
            await problem(answer, 415, "unsupported_media_type")
    async with client.post("/api/v1/jobs", data=body, headers=JSON | {"Content-Encoding": "gzip"}) as answer:
        await problem(answer, 415, "unsupported_media_type")
    async with client.post("/api/v1/jobs/digits/cancel", data=b'{"force": true}', headers=JSON) as answer:
        await problem(answer, 400, "unknown_key")


async def test_bodies_are_bounded_announced_or_not(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    async with client_of(world, body_bytes_max=4096) as client:
        async with client.post("/api/v1/jobs", data=b" " * 5000, headers=JSON) as answer:
            assert "4096" in (await problem(answer, 413, "oversized"))["detail"]
        async with client.post("/api/v1/jobs", data=endless(), headers=JSON) as answer:
            await problem(answer, 413, "oversized")
        async with client.get("/healthz") as answer:
            assert answer.status == 200


async def test_a_body_that_never_comes_is_given_up(world: World) -> None:
    async with client_of(world, stall_us=50_000, linger_us=50_000) as client:
        head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = await raw(client, head + b"Content-Length: 100\r\nConnection: close\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"/problems/request_timeout" in answer


async def test_what_is_not_http_is_answered_and_harms_nobody(client: aiohttp.ClientSession) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert b"400" in (await raw(client, garbage)).partition(b"\r\n")[0]
    long_line = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert b"400" in (await raw(client, long_line)).partition(b"\r\n")[0]
    async with client.get("/healthz") as answer:
        assert answer.status == 200


async def test_connections_are_bounded(world: World) -> None:
    async with serve(world, HttpConfig(connections_max=2)) as serving:
        held = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [await reader.readline() for reader, _ in held] == [b"HTTP/1.1 200 OK\r\n"] * 2
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        held[0][1].close()
        await held[0][1].wait_closed()
        async with aiohttp.ClientSession(serving.url) as client, asyncio.timeout(10):
            while (answer := await client.get("/healthz")).status != 200:
                answer.close()
        held[1][1].close()


# --- the core behind it ----------------------------------------------------------------------------------------------


async def test_a_core_that_hangs_is_a_timeout(world: World) -> None:
    world.answers.clear()
    async with client_of(world, answer_us=50_000) as client, client.post("/api/v1/jobs", json=JOB) as answer:
        document = await problem(answer, 504, "timeout")
    assert "0.05 s" in document["detail"]


async def test_a_dead_journal_is_said_so(world: World, client: aiohttp.ClientSession) -> None:
    await world.journal.close()
    async with client.post("/api/v1/jobs", json=JOB) as answer:
        await problem(answer, 503, "stepped_down")
    async with client.get("/healthz") as answer:
        assert answer.status == 200


async def test_a_bug_is_a_problem_without_its_innards(world: World, client: aiohttp.ClientSession) -> None:
    del world.blobs
    async with client.get(f"/shards/{'0' * 64}") as answer:
        document = await problem(answer, 500, "internal")
    assert "blobs" not in str(document)


# --- who may ask -----------------------------------------------------------------------------------------------------


async def test_without_a_token_only_loopback_names_are_answered(client: aiohttp.ClientSession) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "169.254.169.254"):
        async with client.get("/api/v1/status", headers={"Host": host}) as answer:
            await problem(answer, 403, "foreign_host")
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8080", "127.0.0.9"):
        async with client.get("/api/v1/status", headers={"Host": host}) as answer:
            assert answer.status == 200


async def test_pages_of_other_origins_may_not_ask(client: aiohttp.ClientSession) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        async with client.post("/api/v1/jobs/digits/cancel", headers={"Origin": origin}) as answer:
            await problem(answer, 403, "foreign_origin")
    base = client._base_url
    assert base is not None
    own = f"http://{base.host}:{base.port}"
    async with client.post("/api/v1/jobs/digits/cancel", headers={"Origin": own}) as answer:
        await problem(answer, 404, (await answer.json())["type"].removeprefix("/problems/"))


async def test_with_a_token_nothing_but_the_open_pages_goes_without(world: World) -> None:
    async with client_of(world, token=TOKEN, data_token=DATA_TOKEN) as client:
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            async with client.get(path, headers={"Host": "any.example"}) as answer:
                assert answer.status == 200
        for headers in (
            {},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong-token-of-length"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer tökén"},
        ):
            for method, path in (("GET", "/api/v1/status"), ("GET", "/metrics"), ("GET", "/events")):
                async with client.request(method, path, headers=headers) as answer:
                    await problem(answer, 401, "unauthorized")
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        async with client.get("/api/v1/status", headers={"Authorization": f"bearer {TOKEN}"}) as answer:
            assert answer.status == 200


async def test_the_data_token_reads_shards_and_nothing_else(world: World) -> None:
    (world.blobs.folder / ("0" * 64)).write_bytes(b"bytes")
    headers = {"Authorization": f"Bearer {DATA_TOKEN}"}
    async with client_of(world, token=TOKEN, data_token=DATA_TOKEN) as client:
        async with client.get(f"/shards/{'0' * 64}", headers=headers) as answer:
            assert await answer.read() == b"bytes"
        async with client.put(f"/shards/{'0' * 64}", headers=headers, data=b"x") as answer:
            await problem(answer, 403, "forbidden")
        async with client.get("/api/v1/status", headers=headers) as answer:
            await problem(answer, 403, "forbidden")


async def test_the_core_learns_who_asked(world: World) -> None:
    async with client_of(world) as client, client.post("/api/v1/jobs", json=JOB) as answer:
        assert answer.status == 201
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        client_of(world, token=TOKEN) as client,
        client.post("/api/v1/jobs", json=JOB, headers=headers) as answer,
    ):
        assert answer.status == 201
    assert world.principals == ["local", "operator"]


async def test_an_exposed_master_does_not_start(world: World) -> None:
    with pytest.raises(ConfigError, match="needs a token"):
        make_app(world, HttpConfig(host="0.0.0.0"))
    async with serve(world, HttpConfig()) as serving:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {serving.port}"):
            async with serve(world, HttpConfig(port=serving.port)):
                pass


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_tls(world: World, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    trust = ssl.create_default_context(cafile=str(cert))
    async with (
        serve(world, HttpConfig(tls_cert=str(cert), tls_key=str(key))) as serving,
        aiohttp.ClientSession(serving.url, connector=aiohttp.TCPConnector(ssl=trust)) as client,
        client.get("/healthz") as answer,
    ):
        assert serving.url.startswith("https://127.0.0.1:")
        assert await answer.json() == {"status": "ok"}
