"""The OpenAPI document is valid, complete, and true of what is answered; the written docs name every address."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

from federation.http.problems import PROBLEMS
from federation.http.table import ROUTES
from tests.http_client import TOKEN, client, client_of, world
from tests.http_world import FakeAgent, World
from tests.test_http_api import get, job, submit

__all__ = ["client", "world"]  # fixtures

DOCS = Path(__file__).parents[1] / "docs" / "http.md"


def template(path: str) -> str:
    return re.sub(r":[^}]*\}", "}", path)


async def test_the_document_is_valid_openapi(client: aiohttp.ClientSession) -> None:
    document = await get(client, "/openapi.json")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_every_route_is_in_it_with_a_summary(client: aiohttp.ClientSession) -> None:
    document = await get(client, "/openapi.json")
    described = {(method.upper(), path) for path, of_path in document["paths"].items() for method in of_path}
    assert described == {(route.method, template(route.path)) for route in ROUTES}
    operations = [operation for of_path in document["paths"].values() for operation in of_path.values()]
    assert all(operation["summary"].endswith(".") for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert not any("security" in operation for operation in operations)


async def test_it_says_when_a_token_is_needed(world: World) -> None:
    async with client_of(world, token=TOKEN) as client:
        paths = (await get(client, "/openapi.json"))["paths"]
    assert paths["/api/v1/jobs"]["post"]["security"] == [{"token": []}]
    assert paths["/shards/{sha256}"]["get"]["security"] == [{"token": []}, {"data_token": []}]
    assert paths["/healthz"]["get"]["security"] == []


def conforms(document: dict[str, Any], schema: dict[str, Any], answer: object) -> None:
    """Raise unless the answer is of the document's schema, whose own validity another test looks at."""
    text = json.dumps(schema | {"$defs": document["components"]["schemas"]})
    alone = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    jsonschema.Draft202012Validator(alone).validate(answer)


async def test_answers_are_as_it_says(world: World, client: aiohttp.ClientSession) -> None:
    document = await get(client, "/openapi.json")
    await FakeAgent(world, "gw-1", "plant").join()
    await submit(client)
    served = {"service": True, "count": 2, "replicas": {"most": 2}, "latency": [{"site": "plant", "rtt_us": 9000}]}
    await submit(client, job("web", **served))
    names = {"job_id": "digits", "group": "train", "index": "0", "agent_id": "gw-1", "role": "default"}
    n_checked = 0
    for route in ROUTES:
        if route.method != "GET" or isinstance(route.answer, str):
            continue
        if not set(re.findall(r"{(\w+)", template(route.path))) <= names.keys():
            continue  # There is no shard, framework or way here to be asked for.
        of = names | ({"job_id": "web"} if "/services/" in route.path else {})
        answer = await get(client, template(route.path).format(**of))
        schema = document["paths"][template(route.path)]["get"]["responses"]["200"]["content"]["application/json"]
        conforms(document, schema["schema"], answer)
        n_checked += 1
    assert n_checked >= 14
    async with client.get("/nowhere") as response:
        problem = await response.json(content_type=None)
    conforms(document, {"$ref": "#/components/schemas/ProblemDetails"}, problem)


async def test_requests_say_that_unknown_keys_are_refused(client: aiohttp.ClientSession) -> None:
    schemas = (await get(client, "/openapi.json"))["components"]["schemas"]
    assert schemas["SubmitJob"] == {
        "title": "SubmitJob",
        "type": "object",
        "properties": {
            "job": {"$ref": "#/components/schemas/Job"},
            "submission_id": {"type": "string", "maxLength": 128, "default": ""},
        },
        "required": ["job"],
        "additionalProperties": False,
    }
    assert schemas["TaskGroup"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["JobView"]


def test_the_docs_name_every_address_and_code() -> None:
    text = DOCS.read_text()
    written = set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", text, re.MULTILINE))
    assert written == {(route.method, template(route.path)) for route in ROUTES}
    missing = [code for code in PROBLEMS if f"`{code}`" not in text]
    assert missing == []
