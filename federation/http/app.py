"""The aiohttp application made of the route table, and the server that runs it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import aiohttp
import msgspec
import structlog
from aiohttp import web

from federation.errors import ConfigError, PeerError
from federation.http import auth, logs, openapi, pages, problems, sse
from federation.http.bodies import Nothing
from federation.http.live import Live
from federation.http.mesos import handler as mesos
from federation.http.problems import ProblemError, refuse
from federation.http.reading import is_json, read_body
from federation.http.route import Answered, Call, Route
from federation.http.settings import HttpConfig, tls_context, with_tokens
from federation.http.strict import convert_text, decode_json, decode_query
from federation.http.table import ROUTES
from federation.metrics import HttpCounts, registry_of
from policies.model import Record

LINE_BYTES_MAX = 8190  # of the request line and of each header: aiohttp's own bound, stated
SHUTDOWN_S = 3.0  # what requests in flight get when the master stops; an upload that takes longer is resent
# No versions of what serves: they help only those who look for a hole.
_HEADERS = {"Server": "offerflow", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

log = structlog.get_logger(__name__)
RawHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Serving(NamedTuple):
    url: str  # what others are told
    port: int


def make_app(live: Live, config: HttpConfig, routes: tuple[Route, ...] = ROUTES) -> web.Application:
    """The application. Raises `ConfigError` if `config` would expose the master."""
    config = with_tokens(config)
    counts = HttpCounts()
    # Routes read their bodies with bounds of their own; aiohttp's bound is the net below them.
    app = web.Application(middlewares=[_edge(config, counts)], client_max_size=config.body_bytes_max)
    streams = sse.Streams()
    app[sse.STREAMS] = streams
    app[mesos.SCHEDULERS] = mesos.Schedulers(live.streams, config)
    app[pages.REGISTRY] = registry_of(live, counts, streams)
    app[pages.ROUTES] = routes
    app[pages.OPENAPI] = openapi.document(routes, version("offerflow"), with_token=bool(config.token))
    app.cleanup_ctx.append(_client_session)
    app.cleanup_ctx.append(mesos.watch_clients)
    app.on_shutdown.append(_close_streams)
    app.on_response_prepare.append(_complete_headers)
    for route in routes:
        handler, expect = _endpoint(route, live, config), _expecting(route, config)
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=route.head, expect_handler=expect)
        else:
            app.router.add_route(route.method, route.path, handler, expect_handler=expect)
    return app


@contextlib.asynccontextmanager
async def serve(live: Live, config: HttpConfig) -> AsyncIterator[Serving]:
    """Serve until the block ends. Raises `ConfigError` if the address cannot be had."""
    app = make_app(live, config)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # Compressed bodies are refused: a small one can be a large one.
        keepalive_timeout=config.keep_alive_us / 1e6,
        lingering_time=config.linger_us / 1e6,
        shutdown_timeout=SHUTDOWN_S,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
    )
    tls = tls_context(config)
    await runner.setup()
    listening: asyncio.Server | None = None
    try:
        try:
            listening = await asyncio.get_running_loop().create_server(
                _bounded(runner.server, config.connections_max),
                config.host.strip("[]"),
                config.port,
                ssl=tls,
                reuse_address=True,
            )
        except OSError as error:
            raise ConfigError(f"http cannot listen on {config.host} port {config.port}: {error.strerror}") from None
        port = listening.sockets[0].getsockname()[1]
        yield Serving(url=config.public_url or _url(config, port), port=port)
    finally:
        if listening is not None:
            listening.close()
        await runner.cleanup()


_TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Full(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_TURNED_AWAY)
        transport.close()


def _bounded(server: web.Server | None, connections_max: int) -> Callable[[], asyncio.BaseProtocol]:
    """Makes the protocol of each new connection, of which there are at most so many: others do not cost a request."""
    assert server is not None

    def make() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < connections_max else _Full()

    return make


def _url(config: HttpConfig, port: int) -> str:
    host = config.host.strip("[]")
    if host in ("0.0.0.0", "::"):  # every address of this machine; others know it by its name
        host = socket.gethostname()
    scheme = "https" if config.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _edge(config: HttpConfig, counts: HttpCounts) -> Any:
    """Around everything, unknown addresses included: who may ask at all, problem documents, counts."""

    @web.middleware
    async def edge(request: web.Request, handler: RawHandler) -> web.StreamResponse:
        try:
            auth.check_source(request, config)
            response = await handler(request)
        except ProblemError as error:
            response = problems.response(request, error)
        except web.HTTPException as error:
            response = problems.response(request, problems.from_aiohttp(error))
        except Exception:
            log.exception("http request failed", method=request.method, path=request.path)
            response = problems.response(request, refuse("internal", "this is a bug; the master's log has the details"))
        counts.count(request, response.status)
        return response

    return edge


async def _complete_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.update(_HEADERS)


def _endpoint(route: Route, live: Live, config: HttpConfig) -> RawHandler:
    names = openapi.path_names(route.path)

    async def endpoint(request: web.Request) -> web.StreamResponse:
        principal = auth.principal_of(request, config, route.access)
        try:
            for name in names:
                convert_text(request.match_info[name], openapi.PATH_TYPES[name][0])
        except PeerError as error:
            raise refuse("invalid", f"{name} in the path: {error}") from None
        try:
            query = decode_query(request.query.items(), route.query)
            body = await _body(request, route, config)
        except PeerError as error:
            raise problems.from_peer_error(error) from None
        path = {name: request.match_info[name] for name in names}
        call = Call(request=request, live=live, config=config, principal=principal, path=path, query=query, body=body)
        answer = await route.handler(call)
        if isinstance(answer, web.StreamResponse):
            return answer
        answered = answer if isinstance(answer, Answered) else Answered(answer)
        return web.Response(
            status=answered.status,
            body=msgspec.json.encode(answered.value),
            content_type="application/json",
            headers=answered.headers,
        )

    return endpoint


def _expecting(route: Route, config: HttpConfig) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Answers `Expect: 100-continue`: a body that would be refused anyway is not asked for."""
    bytes_max = config.shard_bytes_max if route.body == "application/octet-stream" else config.body_bytes_max

    async def expecting(request: web.Request) -> web.StreamResponse | None:
        try:
            if request.headers.get("Expect", "").lower() != "100-continue":
                raise refuse("expectation_failed", "only 100-continue can be expected")
            auth.check_source(request, config)
            auth.principal_of(request, config, route.access)
        except ProblemError as error:
            return problems.response(request, error)
        if (request.content_length or 0) <= bytes_max:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # It is no part of the answer that follows.
        return None

    return expecting


async def _body(request: web.Request, route: Route, config: HttpConfig) -> Record:
    """The decoded body; a route that takes bytes reads them itself. Raises `ProblemError`, `PeerError`."""
    if route.method == "GET":
        return Nothing()
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise refuse("unsupported_media_type", "send the body as it is, without Content-Encoding")
    if isinstance(route.body, str):
        return Nothing()
    if route.body is not Nothing and not is_json(request):
        raise refuse("unsupported_media_type", "send JSON with the header Content-Type: application/json")
    body = await read_body(request, config)
    if route.body is Nothing and not body:
        return Nothing()
    return decode_json(body, route.body)


async def _client_session(app: web.Application) -> AsyncIterator[None]:
    """For logs: bounded connections and time, no cookies, no proxies from the environment."""
    timeout = aiohttp.ClientTimeout(total=logs.TOTAL_S, sock_connect=logs.CONNECT_S)
    connector = aiohttp.TCPConnector(limit=32, limit_per_host=4)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        app[logs.SESSION] = session
        yield


async def _close_streams(app: web.Application) -> None:
    app[sse.STREAMS].close()
    app[mesos.SCHEDULERS].close()
