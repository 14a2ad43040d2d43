"""OpenAPI 3.1 from the route table and the msgspec types; nothing is written by hand."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from federation.http.bodies import Nothing, ProblemDetails
from federation.http.problems import PROBLEMS
from federation.http.route import Route
from federation.jobs import RolePath
from federation.wire import Name, Sha256

_REF = "#/components/schemas/{name}"
Index = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]{0,8})$")]
# The type and meaning of each name that stands in a path.
PATH_TYPES: dict[str, tuple[Any, str]] = {
    "job_id": (Name, "the job's id: its name, with -2, -3 … where that was taken"),
    "group": (Name, "the task group's name"),
    "index": (Index, "the task's number in its group; a task id is job/group/index"),
    "agent_id": (Name, "the agent's id"),
    "from_site": (Name, "the site that data flows from"),
    "to_site": (Name, "the site that it flows to"),
    "framework_id": (Name, "the framework's id, as SUBSCRIBED told it"),
    "role": (RolePath, "the role's path; its slashes stay as they are"),
    "sha256": (Sha256, "SHA-256 of the shard's bytes, in hex"),
    "code": (str, "the code of a problem"),
}
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "open": [],
    "data": [{"token": []}, {"data_token": []}],
    "framework": [{"token": []}, {"framework": []}],
    "full": [{"token": []}],
}
_ALWAYS = ("bad_request", "foreign_host", "foreign_origin", "internal")


def document(routes: Sequence[Route], version: str, *, with_token: bool) -> bytes:
    """The document as JSON. `with_token` says whether this master asks for one."""
    types = [*{kind: None for route in routes for kind in (route.answer, route.body) if _is_record(kind)}]
    _, components = msgspec.json.schema_components([*types, ProblemDetails], ref_template=_REF)
    _forbid_unknown(components, routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_template(route.path), {})[route.method.lower()] = _operation(route, with_token)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "offerflow master",
                "version": version,
                "description": "Times ending in _us are microseconds, Unix time unless they are durations. "
                "Every error is an RFC 9457 problem document.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "description": "may do everything"},
                    "data_token": {"type": "http", "scheme": "bearer", "description": "may read shards"},
                    "framework": {"type": "http", "scheme": "basic", "description": "principal and secret"},
                },
            },
        }
    )


def path_names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)", path)


def _template(path: str) -> str:
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _operation(route: Route, with_token: bool) -> dict[str, Any]:
    name = route.handler.__name__ + ("_v1" if route.path.endswith("/api/v1/events") else "")
    codes = [*_ALWAYS, *route.problems]
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    parameters += [_parameter(key, "header", {"type": "string"}, text) for key, text in route.headers.items()]
    operation: dict[str, Any] = {"operationId": name, "summary": route.summary, "tags": [route.tag]}
    if path_names(route.path):
        codes.append("not_found")
    if parameters:
        operation["parameters"] = parameters
    if route.query is not Nothing or path_names(route.path):
        codes += ["invalid", "unknown_key"]
    if route.body is not Nothing:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
        codes += ["malformed", "invalid", "unknown_key", "oversized", "unsupported_media_type", "request_timeout"]
    if route.method != "GET":
        codes += ["stepped_down", "timeout"]
    if route.access != "open":
        codes += ["unauthorized", "forbidden"]
    if with_token:
        operation["security"] = _SECURITY[route.access]
    answers: dict[str, Any] = {str(route.status): {"description": route.summary, "content": _content(route.answer)}}
    if "Range" in route.headers:
        answers["206"] = {"description": "The range", "content": _content(route.answer)}
    operation["responses"] = answers | _problem_answers(codes)
    return operation


def _problem_answers(codes: list[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    content = {"application/problem+json": {"schema": {"$ref": _REF.format(name="ProblemDetails")}}}
    answers: dict[str, Any] = {}
    for status, of_status in sorted(by_status.items()):
        text = "; ".join(f"{code}: {PROBLEMS[code][1]}" for code in of_status)
        answers[str(status)] = {"description": text, "content": content}
    return answers | {"default": {"description": "Any other refusal of the master's core", "content": content}}


def _content(kind: type | str) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {} if kind == "application/json" else {"type": "string"}}}
    return {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}}


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in path_names(route.path):
        type_, text = PATH_TYPES[name]
        yield _parameter(name, "path", msgspec.json.schema(type_), text) | {"required": True}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    schema = msgspec.json.schema_components([route.query], ref_template="{name}")[1]
    own = schema[route.query.__name__]
    for name, of_field in own.get("properties", {}).items():
        plain, text = _inlined(of_field, schema), _description(of_field)
        plain.pop("description", None)
        yield _parameter(name, "query", plain, text) | {"required": name in own.get("required", ())}


def _parameter(name: str, place: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": text, "schema": schema}


def _inlined(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without references and without null: a parameter that is left out is not null."""
    if "$ref" in schema:
        return dict(components[schema["$ref"]])
    variants = [variant for variant in schema.get("anyOf", ()) if variant.get("type") != "null"]
    return _inlined(variants[0], components) if len(variants) == 1 else dict(schema)


def _description(schema: dict[str, Any]) -> str:
    if "description" in schema:
        return str(schema["description"])
    return next((text for variant in schema.get("anyOf", ()) if (text := _description(variant))), "")


def _forbid_unknown(components: dict[str, Any], routes: Sequence[Route]) -> None:
    """Say of what only requests hold that unknown keys are refused; answers may gain fields."""
    asked = _reachable(components, [route.body for route in routes])
    answered = _reachable(components, [route.answer for route in routes])
    for name in asked - answered:
        if components[name].get("type") == "object":
            components[name]["additionalProperties"] = False
    for name in asked:  # The tag tells requests apart inside the core; on HTTP the address does.
        components[name]["required"] = [key for key in components[name].get("required", []) if key != "ask"]
        components[name].get("properties", {}).pop("ask", None)


def _reachable(components: dict[str, Any], roots: Sequence[type | str]) -> set[str]:
    found: set[str] = set()
    waiting = [kind.__name__ for kind in roots if not isinstance(kind, str) and kind is not Nothing]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            text = msgspec.json.encode(components[name]).decode()
            waiting += re.findall(r'"#/components/schemas/([^"]+)"', text)
    return found


def _is_record(kind: type | str) -> bool:
    return not isinstance(kind, str) and kind is not Nothing
