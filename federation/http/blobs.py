"""Shard bytes in and out of the master's own store. Content is named by its hash, so it never changes."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from federation.api import AddShard
from federation.errors import PeerError
from federation.http.bodies import Nothing, UploadQuery
from federation.http.problems import from_peer_error, refuse
from federation.http.route import Answered, Call

PIECE_BYTES = 1024 * 1024  # A hop to the store's thread costs as much as hashing 100 KiB.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


async def get_shard(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """The bytes of a shard in the master's store.

    GET and HEAD, with one Range; the kernel copies the bytes (sendfile).
    """
    shard_id = call.path["sha256"]
    path = call.live.blobs.path(shard_id)
    if path is None:
        raise refuse("not_found", f"the master's store has no shard {shard_id}; agents may hold it")
    size_bytes = (await asyncio.to_thread(path.stat)).st_size
    unsatisfied = {"Content-Range": f"bytes */{size_bytes}"}
    try:
        wanted = call.request.http_range
    except ValueError:
        raise refuse("range_not_satisfiable", "send one range, as in bytes=0-1023", unsatisfied) from None
    if wanted.start is not None and wanted.start >= size_bytes:
        raise refuse("range_not_satisfiable", f"the shard has {size_bytes} bytes", unsatisfied)
    _drop_when_stalled(call.request, call.config.stall_us)
    headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private, max-age=31536000, immutable"}
    return web.FileResponse(path, chunk_size=PIECE_BYTES, headers=headers)


async def put_shard(call: Call[UploadQuery, Nothing]) -> Answered:
    """Upload a shard and register it; 201, or 200 where it was there before.

    The answer means that both are durable.
    """
    shard_id, config = call.path["sha256"], call.config
    announced = call.request.content_length
    if announced is not None and announced > config.shard_bytes_max:
        raise refuse("oversized", f"{announced} bytes exceed the {config.shard_bytes_max} that a shard may have")
    known = call.live.blobs.path(shard_id) is not None
    try:
        size_bytes = await call.live.blobs.put(_chunks(call.request, config.shard_bytes_max, config.stall_us), shard_id)
    except PeerError as error:
        raise from_peer_error(error) from None
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise refuse("disk_full", "the master's disk is full; nothing of the upload was kept") from None
    view = await call.ask(
        AddShard(
            shard_id=shard_id,
            size_bytes=size_bytes,
            name=call.query.name,
            sites=call.query.site,
            replicas_wanted=call.query.replicas_wanted,
            in_store=True,
        )
    )
    return Answered(view, status=200 if known else 201, headers={"Location": f"/shards/{shard_id}"})


def _drop_when_stalled(request: web.Request, stall_us: int) -> None:
    """Let the kernel drop the connection of a client that takes nothing (Linux; RFC 5482): sendfile waits for ever."""
    sock = request.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_us // 1000)


async def _chunks(request: web.Request, bytes_max: int, stall_us: int) -> AsyncIterator[bytes]:
    """The body in pieces of about `PIECE_BYTES`. Raises `ProblemError` if it grows too large, stalls or breaks off."""
    n_bytes = 0
    piece = bytearray()
    while True:
        try:
            async with asyncio.timeout(stall_us / 1e6):
                chunk = await request.content.readany()
        except TimeoutError:
            raise refuse("request_timeout", f"nothing arrived for {stall_us / 1e6:g} s; the upload is gone") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise refuse("bad_request", f"the upload broke off after {n_bytes} bytes: {error}") from None
        n_bytes += len(chunk)
        if n_bytes > bytes_max:
            raise refuse("oversized", f"more than the {bytes_max} bytes that a shard may have")
        piece += chunk
        if piece and (len(piece) >= PIECE_BYTES or not chunk):
            yield bytes(piece)
            piece.clear()
        if not chunk:
            return
