"""The scheduler endpoint, byte by byte: framing, statuses, streams that are slow, closed, taken over, left."""

import asyncio
import base64
import json
from typing import Any

import pytest

from federation.api import Problem
from federation.http.mesos.recordio import frame
from federation.http.settings import HttpConfig
from federation.market.protocol import Error, ExecutorMessage, Heartbeat, Subscribe
from tests.mesos_world import FRAMEWORK, Desk, Wire, call, serving, subscribe, subscribed

SECRET = "s3cret-of-enough-length"
HEARTBEAT = b'20\n{"type":"HEARTBEAT"}'


def basic(principal: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{principal}:{secret}".encode()).decode()


def http_credentials() -> Any:
    from federation.http.settings import Credential

    return (Credential(principal="ml", secret=SECRET),)


# --- the stream ------------------------------------------------------------------------------------------------------


async def test_subscribe_is_answered_by_recordio_in_chunks() -> None:
    desk = Desk()
    async with serving(desk) as port:
        wire = await Wire.open(port)
        await wire.send(subscribe(), Accept="application/json")
        assert await wire.head() == 200
        assert wire.headers["transfer-encoding"] == "chunked" and "content-length" not in wire.headers
        assert wire.headers["content-type"] == "application/json"
        stream_id = wire.headers["mesos-stream-id"]
        first = b""
        while not first.endswith(HEARTBEAT):
            first += await wire.chunk()
        size, _, rest = first.partition(b"\n")
        event = json.loads(rest[: int(size)])
        assert event["type"] == "SUBSCRIBED"
        assert event["subscribed"]["framework_id"] == {"value": FRAMEWORK}
        assert event["subscribed"]["heartbeat_interval_seconds"] == 15
        assert event["subscribed"]["master_info"]["port"] == port
        assert rest[int(size) :] == HEARTBEAT
        desk.say(Heartbeat(), stream_id)
        assert await wire.chunk() == HEARTBEAT
        [event] = desk.called
        assert isinstance(event.call, Subscribe) and event.stream_id == stream_id
        wire.close()
        async with asyncio.timeout(10):
            await desk.gone_grown.wait()
        assert desk.gone == [(FRAMEWORK, stream_id)], "the core hears at once of a client that leaves an idle stream"


async def test_an_error_is_followed_by_a_pause_and_then_the_end() -> None:
    desk = Desk()
    async with serving(desk, error_pause_us=300_000) as port:
        wire, stream_id = await subscribed(port)
        began = asyncio.get_running_loop().time()
        desk.say(Error(message="Framework failed over"), stream_id, close=True)
        desk.say(Heartbeat(), stream_id)  # nothing follows the end
        assert await wire.event() == {"type": "ERROR", "error": {"message": "Framework failed over"}}
        assert asyncio.get_running_loop().time() - began < 0.25
        assert await wire.chunk() == b""
        assert asyncio.get_running_loop().time() - began >= 0.29


async def test_who_subscribes_again_and_again_waits_for_its_turn() -> None:
    desk = Desk()
    async with serving(desk, subscribe_every_us=200_000, subscribe_burst=2) as port:
        began = asyncio.get_running_loop().time()
        wires = [await subscribed(port, id={"value": FRAMEWORK}) for _ in range(2)]
        assert asyncio.get_running_loop().time() - began < 0.2
        wires.append(await subscribed(port, id={"value": FRAMEWORK}))
        assert asyncio.get_running_loop().time() - began >= 0.15
        wires.append(await subscribed(port, id={"value": "another"}))  # others do not wait
        for wire, _ in wires:
            wire.close()


async def test_no_answer_waits_for_a_client_that_reads_nothing_and_it_is_dropped() -> None:
    desk = Desk(events_max=64)
    async with serving(desk, stall_us=300_000) as port:
        wire, stream_id = await subscribed(port)
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        blob = ExecutorMessage(agent_id="a", executor_id="e", data=bytes(256 * 1024))
        calls = await Wire.open(port)
        for _ in range(80):
            desk.say(blob, stream_id)
            status, _ = await calls.ask(call("REVIVE"), Mesos_Stream_Id=stream_id)
            assert status == 202
        async with asyncio.timeout(10):
            await desk.gone_grown.wait()
        assert desk.gone[0] == (FRAMEWORK, stream_id)
        assert desk.streams.n_overrun == 1
        calls.close()
        wire.close()


async def test_streams_end_when_the_master_stops() -> None:
    desk = Desk()
    async with serving(desk) as port:
        wire, _ = await subscribed(port)
    assert await wire.chunk() == b""


async def test_what_the_core_says_to_a_stream_that_is_gone_tells_it_so() -> None:
    desk = Desk()
    desk.say(Heartbeat(), "nobody's")
    assert desk.gone == [(FRAMEWORK, "nobody's")]


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_calls_share_a_connection_of_their_own_and_are_answered_202_without_a_body() -> None:
    desk = Desk()
    async with serving(desk) as port:
        stream, stream_id = await subscribed(port)
        wire = await Wire.open(port)
        for body in (call("SUPPRESS"), call("DECLINE", {"offer_ids": [{"value": "o1"}]}), call("TEARDOWN")):
            assert await wire.ask(body, Mesos_Stream_Id=stream_id) == (202, b"")
        update = call("UPDATE_FRAMEWORK", {"framework_info": {"user": "me", "name": "other"}})
        assert await wire.ask(update, Mesos_Stream_Id=stream_id) == (200, b"")
        assert [event.stream_id for event in desk.called] == [stream_id] * 5
        assert "keep-alive" not in wire.headers and wire.headers.get("connection") != "close"
        wire.close()
        stream.close()


def test_an_idle_connection_for_calls_stays_open() -> None:
    """Clients of Mesos keep one and take its end for the end of the master."""
    assert HttpConfig().keep_alive_us >= 600_000_000 > HttpConfig().stall_us


async def test_an_acknowledgement_is_never_refused_by_the_core_but_other_calls_are() -> None:
    desk = Desk()
    async with serving(desk) as port:
        stream, stream_id = await subscribed(port)
        desk.decide = lambda event: Problem(status=400, code="other_stream", title="t", detail="didn't match")
        wire = await Wire.open(port)
        body = {"agent_id": {"value": "a"}, "task_id": {"value": "t"}, "uuid": base64.b64encode(bytes(16)).decode()}
        assert (await wire.ask(call("ACKNOWLEDGE", body), Mesos_Stream_Id="other"))[0] == 202
        operation = {"operation_id": {"value": "o"}, "uuid": body["uuid"]}
        answer = await wire.ask(call("ACKNOWLEDGE_OPERATION_STATUS", operation), Mesos_Stream_Id="other")
        assert answer[0] == 202
        status, document = await wire.ask(call("REVIVE"), Mesos_Stream_Id="other")
        assert status == 400 and b"didn't match" in document
        desk.decide = lambda event: Problem(status=503, code="recovering", title="t")
        assert (await wire.ask(call("ACKNOWLEDGE", body), Mesos_Stream_Id=stream_id))[0] == 503
        wire.close()
        stream.close()


BAD: list[tuple[str, int, Any, dict[str, str]]] = [
    ("no JSON", 400, b"{", {}),
    ("empty", 400, b"", {}),
    ("a list", 400, b"[]", {}),
    ("NaN", 400, b'{"type": NaN}', {}),
    ("not UTF-8", 400, b'{"type": "\xff"}', {}),
    ("deep", 400, b"[" * 100_000, {}),
    ("no type", 400, {"framework_id": {"value": "x"}}, {}),
    ("unknown type", 400, call("DANCE"), {}),
    ("a number as type", 400, call(7), {}),  # type: ignore[arg-type]
    ("no framework id", 400, {"type": "REVIVE"}, {}),
    ("framework id as text", 400, {"type": "REVIVE", "framework_id": "x"}, {}),
    ("no body", 400, call("ACCEPT"), {}),
    ("body as list", 400, call("KILL", []), {}),
    ("no stream id", 400, call("REVIVE"), {"Mesos_Stream_Id": ""}),
    ("subscribe without info", 400, {"type": "SUBSCRIBE", "subscribe": {}}, {}),
    ("subscribe with a stream id", 400, subscribe(), {"Mesos_Stream_Id": "s"}),
    ("subscribe as two", 400, subscribe(id={"value": "a"}) | {"framework_id": {"value": "b"}}, {}),
    ("role of a multi-role framework", 400, subscribe(role="a", capabilities=[{"type": "MULTI_ROLE"}]), {}),
    ("roles without MULTI_ROLE", 400, subscribe(roles=["a"]), {}),
    ("a role that is none", 400, subscribe(role="../x"), {}),
    ("no content type", 400, call("REVIVE"), {"Content_Type": ""}),
    ("protobuf", 415, b"\x08\x01", {"Content_Type": "application/x-protobuf"}),
    ("compressed", 415, call("REVIVE"), {"Content_Encoding": "gzip"}),
    ("wants protobuf", 406, subscribe(), {"Accept": "application/x-protobuf"}),
    ("refuses JSON", 406, subscribe(), {"Accept": "application/json;q=0, text/html"}),
    ("oversized", 413, b" " * (4 * 2**20 + 1), {}),
    ("negative length", 400, call("REVIVE"), {"Content_Length": "-1"}),
]


@pytest.mark.parametrize(("status", "body", "headers"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_what_cannot_be_taken_is_refused(status: int, body: Any, headers: dict[str, str]) -> None:
    desk = Desk()
    async with serving(desk) as port:
        wire = await Wire.open(port)
        is_subscribe = isinstance(body, dict) and body.get("type") == "SUBSCRIBE"
        stream = {} if is_subscribe else {"Mesos_Stream_Id": "some"}
        await wire.send(body, **(stream | headers))
        assert await wire.head() == status, await wire.body()
        assert not desk.called
        wire.close()


async def test_other_addresses_and_methods() -> None:
    async with serving(Desk()) as port:
        wire = await Wire.open(port)
        await wire.send(b"", method="GET")
        assert await wire.head() == 405 and wire.headers["allow"] == "POST"
        await wire.body()
        await wire.send(b"", head="POST /api/v1/schedule HTTP/1.1")
        assert await wire.head() == 404
        await wire.body()
        await wire.send(b"", head="GET /version HTTP/1.1")
        assert await wire.head() == 200
        numbers = json.loads(await wire.body())["version"].split(".")
        assert [number.isdigit() for number in numbers] == [True] * 3
        wire.close()


async def test_a_body_that_breaks_off_is_no_call() -> None:
    desk = Desk()
    async with serving(desk) as port:
        wire = await Wire.open(port)
        await wire.send(b'{"type": "REVIVE"', Content_Length="500", Mesos_Stream_Id="s")
        wire.writer.write_eof()
        await wire.reader.read()
        assert not desk.called
    async with serving(desk, stall_us=100_000) as port:
        wire = await Wire.open(port)
        await wire.send(b'{"type": "REVIVE"', Content_Length="500", Mesos_Stream_Id="s")
        assert await wire.head() == 408
        assert not desk.called


# --- who calls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "status", "principal"),
    [
        ("", 401, ""),
        ("Basic !!", 401, ""),
        ("Basic " + base64.b64encode(b"ml").decode(), 401, ""),
        (basic("ml", "wrong"), 401, ""),
        (basic("other", SECRET), 401, ""),
        ("Bearer wrong-token-of-some-length", 401, ""),
        (basic("ml", SECRET), 200, "ml"),
    ],
)
async def test_basic_credentials_are_the_principal(shown: str, status: int, principal: str) -> None:
    desk = Desk()
    async with serving(desk, credentials=http_credentials()) as port:
        wire = await Wire.open(port)
        await wire.send(subscribe(), Authorization=shown)
        assert await wire.head() == status
        if status == 401:
            assert wire.headers["www-authenticate"].startswith("Basic ")
        else:
            [event] = desk.called
            assert event.principal == principal
            assert isinstance(event.call, Subscribe) and event.call.framework.principal == principal
        wire.close()


async def test_tokens_open_the_endpoint_too_but_not_the_data_token_nor_credentials_the_rest() -> None:
    desk = Desk()
    token, data_token = "t0ken-of-enough-length", "data-t0ken-of-enough-length"
    async with serving(desk, token=token, data_token=data_token, credentials=http_credentials()) as port:
        for shown, status in (
            (f"Bearer {token}", 200),
            (basic("me", token), 200),
            (f"Bearer {data_token}", 403),
            (basic("ml", SECRET), 200),
        ):
            wire = await Wire.open(port)
            await wire.send(subscribe(), Authorization=shown)
            assert await wire.head() == status
            wire.close()
        assert [event.principal for event in desk.called] == ["operator", "me", "ml"]
        wire = await Wire.open(port)
        await wire.send(b"", head="GET /api/v1/agents HTTP/1.1", Authorization=basic("ml", SECRET))
        assert await wire.head() == 401
        wire.close()


async def test_on_this_machine_a_principal_may_be_named() -> None:
    desk = Desk()
    async with serving(desk) as port:
        wire = await Wire.open(port)
        await wire.send(subscribe(), Authorization=basic("me", "anything"))
        assert await wire.head() == 200
        assert desk.called[0].principal == "me"
        wire.close()


def test_frames_are_digits_a_line_feed_and_the_record() -> None:
    assert frame(b"") == b"0\n"
    assert frame("é".encode()) == b"2\n\xc3\xa9"
