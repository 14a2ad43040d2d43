"""JSON Schema (draft 2020-12) of job files, for editors: `offerflow schema job`.

It describes the shape; what groups say about each other (order, placeholders, outputs) only reading the file checks.
"""

from typing import Any

from federation import jobfile, units
from federation.jobs import TASKS_MAX
from policies.model import TIERS

Schema = dict[str, Any]


def job_schema() -> Schema:
    """The schema as a JSON-able value; the same at every call."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:offerflow:job:v1",
        "title": "offerflow job file",
        **_object(
            {
                "job": _described(_IDENTIFIER, "The job's name; its id gets -2, -3, … when taken."),
                "role": {
                    "type": "string",
                    "pattern": f"^{jobfile.ROLE_PATTERN}$",
                    "maxLength": 255,
                    "description": "Whose share and quota the job counts against, such as ml/vision.",
                    "default": "default",
                },
                "priority": {**_integer(0, 100, "Higher goes first."), "default": 50},
                "artifact": _described(_TEXT, "Task code for every group that names none."),
                "env": _described(_env(), "Environment for every group."),
                "tasks": {
                    "type": "object",
                    "description": "The task groups by name.",
                    "minProperties": 1,
                    "propertyNames": {"pattern": f"^{jobfile.IDENTIFIER_PATTERN}$"},
                    "additionalProperties": {"$ref": "#/$defs/group"},
                },
            },
            required=("job", "tasks"),
        ),
        "$defs": {"group": _group(), "needs": _needs(), "where": _where()},
    }


def _group() -> Schema:
    return {
        **_object(
            {
                "command": _described(
                    {"type": "array", "minItems": 1, "maxItems": 1024, "items": _SCALAR},
                    "The program and its arguments. Placeholders: {shard.path} {shard.name} {in} {out} {index} {job}.",
                ),
                "artifact": _described(
                    _TEXT, "Task code: a .tar.gz, a file or a folder, relative to this file; unpacked where it runs."
                ),
                "env": _env(),
                "for_each": _described(
                    _object({"shard": _TEXT}, required=("shard",)), "One task for each shard whose name matches."
                ),
                "count": {**_integer(1, TASKS_MAX, "How many equal tasks."), "default": 1},
                "reads": _described(
                    _one_or_more(_TEXT), '"{shard}", shard name globs, or <group>/*/<output> of an earlier group.'
                ),
                "writes": {
                    "type": "object",
                    "description": "Files under {out} that become shards, and how large each may be.",
                    "propertyNames": {"pattern": f"^{jobfile.IDENTIFIER_PATTERN}$"},
                    "additionalProperties": {
                        "anyOf": [_SIZE, _object({"file": _TEXT, "max": _SIZE}, required=("file", "max"))]
                    },
                },
                "after": _described(_one_or_more(_IDENTIFIER), "Groups that must have finished before."),
                "needs": {"$ref": "#/$defs/needs"},
                "where": {"$ref": "#/$defs/where"},
                "residency": {"$ref": "#/$defs/where", "description": "Another word for where."},
                "profile": _described(_TEXT, "Run times are learned under this name. Default: <job>/<group>."),
                "run": _described(_DURATION, "Expected run time on the reference core, until it is learned."),
                "retry": _object({"attempts": {**_integer(1, 100, "Attempts in all."), "default": 3}}),
                "time_limit": _described(_DURATION, "An attempt is ended after this long."),
                "deadline": _described(_DURATION, "When the task should be done, from submission."),
                "latency": {"type": "array", "items": _latency()},
                "service": _described(
                    {"anyOf": [{"type": "boolean", "default": False}, _service()]},
                    "Runs until it is stopped, answering clients; with replicas, as many as their targets need.",
                ),
                "gang": _described({"type": "boolean", "default": False}, "All tasks run together or not at all."),
                "communication": _communication(),
                "elastic": _elastic(),
            },
            required=("command",),
        ),
        "not": {"anyOf": [{"required": ["count", "for_each"]}, {"required": ["where", "residency"]}]},
        "dependentRequired": {"communication": ["gang"]},
    }


def _needs() -> Schema:
    link = _object({"to": _IDENTIFIER, "rtt": _RTT, "bandwidth": _BANDWIDTH}, required=("to",))
    n_gpus: Schema = {
        "description": "GPUs of one agent, or a share of one, such as 0.5.",
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 1024},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ],
    }
    gpu = _object({"count": n_gpus, "model": _TEXT, "memory": _SIZE})
    return _described(
        _object(
            {
                "cpu": {
                    "description": "Cores, such as 2 or 0.5.",
                    "anyOf": [
                        {"type": "number", "exclusiveMinimum": 0},
                        {"type": "string", "pattern": units.CPU_PATTERN},
                    ],
                    "default": 1,
                },
                "memory": {**_SIZE, "default": "256MiB"},
                "disk": _SIZE,
                "gpu": {"anyOf": [n_gpus, gpu]},
                "links": {
                    "type": "array",
                    "description": "Bounds on the measured link between the task's agent and a site.",
                    "items": {**link, "anyOf": [{"required": ["rtt"]}, {"required": ["bandwidth"]}]},
                },
            }
        ),
        "What one task must have on one agent.",
    )


def _where() -> Schema:
    return _described(
        _object(
            {
                "tier": _one_or_more({"enum": list(TIERS)}),
                "site": _one_or_more(_IDENTIFIER),
                "agents": _one_or_more(_IDENTIFIER),
                "labels": {"type": "object", "additionalProperties": _SCALAR},
            }
        ),
        "Where the tasks may run; what is left out constrains nothing.",
    )


def _latency() -> Schema:
    properties = {"to": _IDENTIFIER, "rtt": _RTT, "weight": _integer(1, 1_000_000, "Cost of each unit above.")}
    return _object(properties, required=("to", "rtt"))


def _service() -> Schema:
    replicas = _object(
        {
            "min": {**_integer(1, jobfile.WORKERS_MAX, "Replicas that always run."), "default": 1},
            "max": _integer(1, jobfile.WORKERS_MAX, "Replicas at most."),
        },
        required=("max",),
    )
    answers = _integer(1, 1_000_000_000, "Requests a second that one replica answers. Without it: any number.")
    return _object({"replicas": replicas, "answers": answers}, required=("replicas",))


def _communication() -> Schema:
    return _described(
        _object(
            {
                "pattern": {"enum": list(jobfile.PATTERNS)},
                "bytes": _SIZE,
                "synchronous": {"type": "boolean", "default": True},
                "compressible": {"type": "boolean", "default": False},
                "iteration": _DURATION,
                "duty": {"type": "string", "pattern": r"^ ?[0-9]+(\.[0-9]+)? ?%$", "examples": ["40%"]},
                "savings": _one_or_more({"enum": list(jobfile.SAVINGS)}),
                "local_steps": _integer(1, 1_000_000, "Steps between two synchronisations, at most."),
            },
            required=("pattern", "bytes"),
        ),
        "What the workers of a gang say to each other in each step.",
    )


def _elastic() -> Schema:
    step = _object(
        {
            "workers": _integer(1, jobfile.WORKERS_MAX, "Workers it was measured with."),
            "agents": _integer(1, jobfile.WORKERS_MAX, "On so many agents."),
            "batch": _integer(1, jobfile.BATCH_MAX, "Samples in all."),
            "step": _DURATION,
        },
        required=("workers", "batch", "step"),
    )
    return _described(
        _object(
            {
                "min": _integer(1, jobfile.WORKERS_MAX, "Workers below which it does not run."),
                "batch": _integer(1, jobfile.BATCH_MAX, "Samples a step that it was tuned for."),
                "batch_max": _integer(1, jobfile.BATCH_MAX, "The most samples a step."),
                "noise_scale": _integer(1, jobfile.BATCH_MAX, "Gradient noise scale, in samples."),
                "steps": {"type": "array", "items": step},
            }
        ),
        "Any number of the tasks makes progress; the policy says how many run.",
    )


# --- shapes ----------------------------------------------------------------------------------------------------------

_TEXT: Schema = {"type": "string", "minLength": 1}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_IDENTIFIER: Schema = {"type": "string", "pattern": f"^{jobfile.IDENTIFIER_PATTERN}$"}
_SIZE: Schema = {"type": "string", "pattern": units.BYTES_PATTERN, "examples": ["256MiB", "4MB"]}
_DURATION: Schema = {"type": "string", "pattern": units.DURATION_PATTERN, "examples": ["50ms", "2s", "1h30m"]}
_BANDWIDTH: Schema = {"type": "string", "pattern": units.BANDWIDTH_PATTERN, "examples": ["12Mbit"]}
_RTT: Schema = {
    "type": "string",
    "pattern": "^ ?<?=? ?" + units.DURATION_PATTERN.removeprefix("^"),
    "examples": ["<20ms"],
}


def _object(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    shape: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**shape, "required": list(required)} if required else shape


def _integer(low: int, high: int, description: str) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, "description": description}


def _one_or_more(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item}]}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _env() -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": f"^{jobfile.ENV_PATTERN}$"},
        "additionalProperties": _SCALAR,
    }
