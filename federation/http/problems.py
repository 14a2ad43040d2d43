"""Every error of the HTTP side is an RFC 9457 problem document; here they are made."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from federation.api import Problem
from federation.errors import PeerError
from federation.http.bodies import ProblemDetails

# Problems that HTTP itself causes: code → (status, title). Those of the core come as `api.Problem`.
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The body is not JSON"),
    "invalid": (400, "A value is not allowed"),
    "unknown_key": (400, "A key is unknown or repeated"),
    "bad_request": (400, "The request is not understood"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "foreign_host": (403, "The request was meant for another host"),
    "foreign_origin": (403, "Web pages of other origins may not ask"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "The method does not fit the address"),
    "not_acceptable": (406, "The answer would not be understood"),
    "request_timeout": (408, "The body did not arrive"),
    "gone": (410, "The place in the list is forgotten"),
    "oversized": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body's type is not taken"),
    "range_not_satisfiable": (416, "The range is not in the shard"),
    "expectation_failed": (417, "The expectation cannot be met"),
    "artifact_missing": (422, "The job's code is not there"),
    "hash": (422, "The bytes do not match their name"),
    "internal": (500, "The master failed to answer"),
    "stepped_down": (503, "The master has stepped down"),
    "not_ready": (503, "The master is not ready"),
    "too_many_streams": (503, "Too many event streams are open"),
    "timeout": (504, "The master did not answer in time"),
    "disk_full": (507, "The master's disk is full"),
}
_BY_STATUS = {
    400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "oversized", 415: "unsupported_media_type",
}  # fmt: skip


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = dict(headers or {})


def problem(code: str, detail: str = "") -> Problem:
    status, title = PROBLEMS[code]
    return Problem(status=status, code=code, title=title, detail=detail)


def refuse(code: str, detail: str, headers: Mapping[str, str] | None = None) -> ProblemError:
    """The exception for a problem of the table above; to be raised."""
    return ProblemError(problem(code, detail), headers)


def not_found(kind: str, name: str, listing: str) -> ProblemError:
    return refuse("not_found", f"no {kind} is called {name[:255]!r}; GET {listing} lists them")


def from_peer_error(error: PeerError) -> ProblemError:
    return refuse(error.code if error.code in PROBLEMS else "bad_request", error.detail)


def from_aiohttp(error: web.HTTPException) -> ProblemError:
    """What aiohttp itself raises: unknown address, wrong method, body too large."""
    headers = {name: error.headers[name] for name in ("Allow", "Location") if name in error.headers}
    code = _BY_STATUS.get(error.status)
    if code is None:
        title = error.reason
        return ProblemError(Problem(status=error.status, code="bad_request", title=title, detail=title), headers)
    if code == "method_not_allowed":
        detail = f"this address takes {headers.get('Allow', 'other methods')}"
    elif code == "not_found":
        detail = "nothing answers at this address; GET / lists what does"
    else:
        detail = error.text or error.reason
    return refuse(code, detail, headers)


def response(request: web.BaseRequest, error: ProblemError) -> web.Response:
    shown = error.problem
    details = ProblemDetails(
        type=f"/problems/{shown.code}",
        title=shown.title,
        status=shown.status,
        detail=shown.detail,
        instance=request.path,
    )
    return web.Response(
        status=shown.status,
        body=msgspec.json.encode(details),
        content_type="application/problem+json",
        headers=error.headers,
    )
