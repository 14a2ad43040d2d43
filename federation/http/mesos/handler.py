"""`POST /api/v1/scheduler` and `GET /version`, as clients of the Mesos v1 scheduler API know them."""

import socket
import struct
import uuid
from importlib.metadata import version as version_of
from typing import Any, Final

import msgspec
from aiohttp import web

from federation.errors import PeerError
from federation.http.bodies import Nothing
from federation.http.mesos.amounts import dialect_of
from federation.http.mesos.calls import Decoded, decode_call
from federation.http.mesos.stream import SCHEDULERS, Open, Schedulers, watch_clients
from federation.http.problems import ProblemError, from_peer_error, refuse
from federation.http.reading import is_json, read_body
from federation.http.route import Call, answer_of
from federation.market.protocol import (
    Acknowledge,
    AcknowledgeOperation,
    CallTaken,
    FrameworkInfo,
    Subscribe,
    UpdateFramework,
)  # fmt: skip
from policies.model import Record

__all__ = ["SCHEDULERS", "Schedulers", "Version", "scheduler", "version", "watch_clients"]

# Clients choose by it what they may say: the release whose protobuf definitions these are.
MESOS_VERSION: Final = "1.11.0"
STREAM_ID: Final = "Mesos-Stream-Id"
_STREAM_ID_LENGTH_MAX: Final = 64


class Version(Record, frozen=True, kw_only=True, omit_defaults=False):
    version: str  # of the API of Mesos
    offerflow: str


async def version(call: Call[Nothing, Nothing]) -> Version:
    """The version of the Mesos API that is spoken, and of this master."""
    return Version(version=MESOS_VERSION, offerflow=version_of("offerflow"))


async def scheduler(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """The Mesos v1 scheduler API: SUBSCRIBE is answered by a stream of events, other calls by 202."""
    request = call.request
    if "Content-Type" not in request.headers:
        raise refuse("bad_request", "Expecting 'Content-Type' to be present")
    if not is_json(request):
        raise refuse("unsupported_media_type", "Expecting 'Content-Type' of application/json")
    body = await read_body(request, call.config)
    try:
        decoded = decode_call(body)
    except PeerError as error:
        raise from_peer_error(error) from None
    if isinstance(decoded.call, Subscribe):
        return await _subscribe(call, decoded, decoded.call)
    return await _take(call, decoded)


# --- calls -----------------------------------------------------------------------------------------------------------


async def _take(call: Call[Nothing, Nothing], decoded: Decoded) -> web.Response:
    stream_id = call.request.headers.get(STREAM_ID, "")
    if not stream_id:
        raise refuse("bad_request", f"All non-subscribe calls should include the '{STREAM_ID}' header")
    asked = decoded.call
    if isinstance(asked, UpdateFramework):
        info = _with_principal(asked.framework, call.principal)
        asked = msgspec.structs.replace(asked, framework=info)
    asking = call.live.call(asked, decoded.framework_id, stream_id[:_STREAM_ID_LENGTH_MAX], call.principal)
    try:
        await answer_of(asking, call.config)
    except ProblemError as error:
        # A refused acknowledgement ends some clients, and changes nothing: the update is repeated if it must be.
        if not (isinstance(asked, Acknowledge | AcknowledgeOperation) and error.problem.status < 500):
            raise
    if isinstance(asked, UpdateFramework):
        call.request.app[SCHEDULERS].speak(stream_id, dialect_of(asked.framework, decoded.star))
        return web.Response(status=200)
    return web.Response(status=202)


def _with_principal(info: FrameworkInfo, principal: str) -> FrameworkInfo:
    """Where it names none; the core refuses another one than was shown."""
    return info if info.principal else msgspec.structs.replace(info, principal=principal)


# --- the stream ------------------------------------------------------------------------------------------------------


async def _subscribe(call: Call[Nothing, Nothing], decoded: Decoded, asked: Subscribe) -> web.StreamResponse:
    request, schedulers = call.request, call.request.app[SCHEDULERS]
    if not _accepts_json(request.headers.getall("Accept", [])):
        raise refuse("not_acceptable", "Expecting 'Accept' to allow application/json")
    if STREAM_ID in request.headers:
        raise refuse("bad_request", f"Subscribe calls should not include the '{STREAM_ID}' header")
    asked = msgspec.structs.replace(asked, framework=_with_principal(asked.framework, call.principal))
    name = asked.framework_id or f"{request.remote} {asked.framework.name}"
    await schedulers.turn((call.principal, name), named=bool(asked.framework_id))
    stream = call.live.streams.open(str(uuid.uuid4()))
    try:
        taken = await answer_of(
            call.live.call(asked, asked.framework_id, stream.stream_id, call.principal), call.config
        )
        assert isinstance(taken, CallTaken)
        stream.framework_id = taken.framework_id
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", STREAM_ID: stream.stream_id, "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        opened = Open(request, stream, dialect_of(asked.framework, decoded.star))
        await schedulers.pump(opened, response, _master_info(call))
    finally:
        call.live.streams.drop(stream)
    return response


def _accepts_json(headers: list[str]) -> bool:
    """Whether one of the ranges takes JSON; no header takes anything."""
    ranges = [part.strip() for header in headers for part in header.split(",") if part.strip()]
    if not ranges:
        return True
    for part in ranges:
        kind, _, parameters = part.partition(";")
        weight = next((p.partition("=")[2] for p in parameters.split(";") if p.strip().lower().startswith("q=")), "1")
        if kind.strip().lower() in ("*/*", "application/*", "application/json") and weight.strip(" 0."):
            return True
    return False


def _master_info(call: Call[Nothing, Nothing]) -> dict[str, Any]:
    transport = call.request.transport
    host, port = (transport.get_extra_info("sockname") or ("", 0))[:2] if transport is not None else ("", 0)
    try:
        number = struct.unpack("<I", socket.inet_aton(host))[0]  # in network order, as Mesos writes it
    except OSError:
        number = 0
    return {
        "id": f"offerflow-{call.live.master.term}",
        "ip": number,
        "port": port,
        "hostname": host,
        "address": {"hostname": host, "ip": host, "port": port},
        "version": MESOS_VERSION,
    }
