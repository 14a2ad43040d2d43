"""Bodies of requests, read with bounds of size and time."""

import asyncio

from aiohttp import web

from federation.http.problems import refuse
from federation.http.settings import HttpConfig


def is_json(request: web.BaseRequest) -> bool:
    kind = request.content_type.lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def read_body(request: web.Request, config: HttpConfig) -> bytes:
    """The whole body of at most `body_bytes_max`. Raises `ProblemError`."""
    if (request.content_length or 0) > config.body_bytes_max:
        raise refuse("oversized", f"{request.content_length} bytes exceed {config.body_bytes_max}")
    try:
        async with asyncio.timeout(config.stall_us / 1e6):
            return await request.read()
    except TimeoutError:
        raise refuse("request_timeout", f"the body did not arrive within {config.stall_us / 1e6:g} s") from None
    except web.RequestPayloadError as error:
        raise refuse("bad_request", f"the body broke off: {error}") from None
