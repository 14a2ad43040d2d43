"""What is made from the route table and the problem table: the index, OpenAPI, problem types; and the metrics page."""

from html import escape
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from federation.http.bodies import Nothing
from federation.http.problems import PROBLEMS, refuse
from federation.http.route import Call, Route

REGISTRY: Final = web.AppKey("registry", CollectorRegistry)
ROUTES: Final = web.AppKey("routes", tuple[Route, ...])
OPENAPI: Final = web.AppKey("openapi", bytes)

_STYLE = "body{font:15px/1.5 system-ui;margin:2em auto;max-width:60em;padding:0 1em}td{padding:.1em 1em .1em 0}"
# Nothing is loaded, run, framed or sent from these pages.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}

Plain = Call[Nothing, Nothing]


async def index(call: Plain) -> web.Response:
    """Every address with its meaning; HTML for browsers, text for curl."""
    rows = [(route.method, route.path.replace(":.+}", "}"), route.summary) for route in call.request.app[ROUTES]]
    if "text/html" not in call.request.headers.get("Accept", ""):
        width = max(len(path) for _, path, _ in rows)
        lines = [f"{method:5} {path:{width}}  {summary}" for method, path, summary in rows]
        return web.Response(text="\n".join(["offerflow master", "", *lines, ""]))
    cells = "".join(
        f"<tr><td>{method}</td><td>{_linked(method, path)}</td><td>{escape(summary)}</td></tr>"
        for method, path, summary in rows
    )
    return _page("offerflow master", f"<table>{cells}</table>")


async def problem(call: Plain) -> web.Response:
    """What the `type` of a problem document stands for."""
    code = call.path["code"]
    if code not in PROBLEMS:
        raise refuse("not_found", f"{code[:80]!r} is a refusal of the master's core; its detail says what to do")
    status, title = PROBLEMS[code]
    return _page(code, f"<p>{status}: {escape(title)}.</p>")


async def openapi(call: Plain) -> web.Response:
    """This interface as OpenAPI 3.1."""
    return web.Response(body=call.request.app[OPENAPI], content_type="application/json")


async def metrics(call: Plain) -> web.Response:
    """Metrics for Prometheus, as text or OpenMetrics."""
    encode, content_type = choose_encoder(call.request.headers.get("Accept", ""))
    return web.Response(body=encode(call.request.app[REGISTRY]), headers={"Content-Type": content_type})


def _page(title: str, body: str) -> web.Response:
    text = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    text += f"<h1>{escape(title)}</h1>{body}"
    return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)


def _linked(method: str, path: str) -> str:
    shown = escape(path)
    return f'<a href="{shown}">{shown}</a>' if method == "GET" and "{" not in path else shown
