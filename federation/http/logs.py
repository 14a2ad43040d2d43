"""A task's output: asked of the agent while it can be reached, else what the master's book kept."""

import re
from typing import Final

import aiohttp
from aiohttp import web

from federation import views
from federation.http.bodies import LogQuery, Nothing
from federation.http.handlers import find_task
from federation.http.route import Call

SESSION: Final = web.AppKey("session", aiohttp.ClientSession)
CONNECT_S = 3  # An agent that takes longer is as good as away: the book answers.
TOTAL_S = 20  # 4 MiB over a link of 2 Mbit/s take 17 s.
_SCHEMES = ("http://", "https://")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


async def task_logs(call: Call[LogQuery, Nothing]) -> web.Response:
    """The task's output, from its agent or the master's book.

    The header `Offerflow-Log-Source` says `agent` or `book`; the book keeps only the end of it.
    """
    task = find_task(call.live, call.path)
    bytes_max = min(call.query.tail_bytes or call.config.log_bytes_max, call.config.log_bytes_max)
    agent = views.agent(call.live.master, task.agent_id) if task.agent_id else None
    text, source = None, "agent"
    if agent is not None and agent.state == "online" and call.query.source == "auto":
        text = await _from_agent(call, agent.data_url, f"{task.task_id}/{task.attempt}", bytes_max)
    if text is None:
        text, source = task.log_tail.encode()[-bytes_max:], "book"
    return web.Response(body=text, content_type="text/plain", charset="utf-8", headers={"Offerflow-Log-Source": source})


async def _from_agent(call: Call[LogQuery, Nothing], data_url: str, name: str, bytes_max: int) -> bytes | None:
    """The last `bytes_max` bytes of the log, or None if the agent cannot say.

    The address comes from the agent, so it is held short: HTTP only, no redirects, our path below it, bounded time and
    size, and never the operator's token.
    """
    if not data_url.startswith(_SCHEMES):
        return None
    headers = {"Range": f"bytes=-{bytes_max}", "Accept-Encoding": "identity"}
    if call.config.data_token:
        headers["Authorization"] = f"Bearer {call.config.data_token}"
    try:
        async with call.request.app[SESSION].get(
            f"{data_url.rstrip('/')}/logs/{name}", headers=headers, allow_redirects=False
        ) as answer:
            if answer.status not in (200, 206):
                return None
            return await _tail(answer.content, bytes_max, call.config.log_bytes_max)
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
        return None


async def _tail(stream: aiohttp.StreamReader, bytes_max: int, read_bytes_max: int) -> bytes:
    """The end of the stream; an agent that ignores Range is read to twice what it should hold, then cut off."""
    kept = bytearray()
    n_bytes = 0
    async for chunk in stream.iter_chunked(64 * 1024):
        kept += chunk
        n_bytes += len(chunk)
        del kept[:-bytes_max]
        if n_bytes > 2 * read_bytes_max:
            break
    return bytes(kept)
