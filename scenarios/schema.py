"""JSON Schema (draft 2020-12) of scenario files, for editors: `offerflow schema scenario`.

It describes the shape of every section; what names mean to each other only reading the file checks.
"""

from typing import Any

from federation import jobfile, units
from federation.jobschema import job_schema
from policies.model import TIERS
from scenarios import behaviours, chance, faultfile, frameworks, links, preparing, topology, workload
from scenarios import format as scenario_format
from scenarios.faults import BROKER_KILL_POINTS, KILL_POINTS
from scenarios.traces import jobs, networks
from scenarios.world import FRAMEWORK_MODES

Schema = dict[str, Any]

_ANY: Schema = {}
_TEXT: Schema = {"type": "string", "minLength": 1}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_PARAMETER = r"\$[a-z]"  # any quantity may be a parameter


def _pattern(pattern: str, *examples: str) -> Schema:
    return {"type": ["string", "number"], "pattern": f"{_PARAMETER}|{pattern}", "examples": list(examples)}


_SIZE = _pattern(units.BYTES_PATTERN, "4MiB")
_DURATION = _pattern(units.DURATION_PATTERN, "50ms", "2s")
_BANDWIDTH = _pattern(units.BANDWIDTH_PATTERN, "100Mbit")
_PERCENT = _pattern(units.PERCENT_PATTERN, "5%")
_RATE = _pattern(units.FREQUENCY_PATTERN, "4/s")
_CPU = _pattern(units.CPU_PATTERN, "0.5")
_PRICE = _pattern(units.PRICE_PATTERN, "3.2/h")
_EGRESS = _pattern(units.EGRESS_PATTERN, "0.09/GB")
_COUNT: Schema = {"type": ["integer", "string"]}
_FLAG: Schema = {"type": ["boolean", "string"]}
_NAMES: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}


def scenario_schema() -> Schema:
    """The schema as a JSON-able value; the same at every call."""
    job = _with_parameters(job_schema())
    own = {key: value for key, value in job.items() if key not in ("$schema", "$id", "$defs", "title")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:offerflow:scenario:v1",
        "title": "offerflow scenario file",
        **_object(
            scenario_format.ROOT_KEYS,
            schema={"const": scenario_format.SCHEMA},
            name={"type": "string", "pattern": f"^{jobfile.IDENTIFIER_PATTERN}$"},
            purpose={**_TEXT, "description": "One sentence: what this world shows."},
            seed={"type": "integer", "minimum": 0, "maximum": preparing.SEED_MAX},
            duration=_DURATION,
            include={**_NAMES, "description": "Files merged beneath this one."},
            parameters=_map(_SCALAR),
            topology=_topology(),
            data=_map(_object(scenario_format.DATA_KEYS, at=_NAMES, count=_COUNT, size=_SIZE)),
            workload=_workload(),
            frameworks=_frameworks(),
            faults={"type": "array", "items": _fault()},
            expect=_object(("laws", "slo"), slo={"type": "array", "items": _TEXT}),
            recording={"type": "array", "items": _object(scenario_format.RECORDING_KEYS, file=_TEXT, digest=_TEXT)},
            matrix=_map({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}),
            model=_object(
                scenario_format.MODEL_KEYS,
                solve={"anyOf": [_DURATION, {"const": scenario_format.MEASURED}]},
                commit=_DURATION,
                measurement_noise=_PERCENT,
            ),
        ),
        "required": ["schema", "name", "purpose", "seed", "duration", "topology", "workload"],
        "$defs": {**job["$defs"], "job": own, "law": _law(), "task": _task()},
    }


def _object(keys: tuple[str, ...], **known: Schema) -> Schema:
    """A mapping of exactly these keys; those not described take anything."""
    properties = {key: known.get(key, _ANY) for key in keys}
    assert set(known) <= set(keys), set(known) - set(keys)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _map(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


def _with_parameters(schema: Any) -> Any:
    """The schema of a file without parameters, for one with them: any number or word may be one instead."""
    if isinstance(schema, list):
        return [_with_parameters(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: value if key in ("enum", "examples") else _with_parameters(value) for key, value in schema.items()}
    is_leaf = "enum" in schema or schema.get("type") == "integer" or ("pattern" in schema and "type" in schema)
    return {"anyOf": [inner, {"type": "string", "pattern": f"^{_PARAMETER}"}]} if is_leaf else inner


def _law() -> Schema:
    return {"anyOf": [_DURATION, _object(chance.LAWS, exponential=_DURATION)]}


def _topology() -> Schema:
    gpu = _object(topology.GPU_KEYS, count=_COUNT, memory=_SIZE, shared={"type": "boolean"}, price=_PRICE)
    directions = _object(topology.DIRECTIONS, up=_BANDWIDTH, down=_BANDWIDTH)
    line = {"bandwidth": {"anyOf": [_BANDWIDTH, directions]}, "rtt": _DURATION, "jitter": _DURATION, "loss": _PERCENT}
    agents = _object(
        topology.AGENT_KEYS,
        like=_TEXT,
        count=_COUNT,
        cpu=_CPU,
        memory=_SIZE,
        disk=_SIZE,
        gpus=_map(gpu),
        speed=_CPU,
        price=_PRICE,
        hardware=_TEXT,
        uplink={"anyOf": [_BANDWIDTH, _object(topology.LINE_KEYS, **line)]},
        metered=_FLAG,
        labels=_map(_SCALAR),
        claims=_object(topology.CLAIM_KEYS, cpu=_CPU, memory=_SIZE),
    )
    racks = _object(topology.RACK_KEYS, count=_COUNT, agents=_map(agents), **line)
    wiring = _object(topology.WIRING_KEYS, links=_map(_object(topology.LINE_KEYS, **line)))
    site = _object(
        topology.SITE_KEYS,
        tier={"enum": list(TIERS)},
        region=_TEXT,
        agents=_map(agents),
        racks=racks,
        network=_object(topology.NETWORKS, wiring=wiring),
    )
    link = _object(
        links.LINK_KEYS,
        between={"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2},
        within=_TEXT,
        to=_TEXT,
        rtt=_DURATION,
        jitter=_DURATION,
        bandwidth={"anyOf": [_BANDWIDTH, _map(_BANDWIDTH)]},
        loss=_PERCENT,
        shared=_FLAG,
    )
    return _object(
        topology.TOPOLOGY_KEYS,
        master=_TEXT,
        templates=_map(agents),
        sites=_map(site),
        links={"type": "array", "items": link},
        egress={"type": "array", "items": _object(links.EGRESS_KEYS, **{"from": _NAMES}, to=_NAMES, price=_EGRESS)},
        notes={"type": "array", "items": _TEXT},
        **{"from": _object(networks.KINDS)},
    )


def _task() -> Schema:
    reads = _object(workload.READS_KEYS, at=_NAMES, size=_SIZE, count=_COUNT, distinct=_COUNT)
    return _object(
        workload.TASK_KEYS,
        cpu=_CPU,
        memory=_SIZE,
        disk=_SIZE,
        run={"$ref": "#/$defs/law"},
        told=_DURATION,
        reads={"anyOf": [_TEXT, reads]},
        writes=_SIZE,
        deadline=_DURATION,
        where={"anyOf": [{"const": workload.HERE}, {"$ref": "#/$defs/where"}]},
        retry=_COUNT,
        time_limit=_DURATION,
        count=_COUNT,
        gang=_FLAG,
        training=_training(),
        clients=_object(workload.CLIENTS_KEYS, rtt=_DURATION, weight=_COUNT),
        fails=_PERCENT,
        crashes=_FLAG,
    )


def _training() -> Schema:
    times = ("grad", "sample", "local", "local_more", "apart", "apart_more", "restart")
    overlap = {"type": "number", "minimum": 1, "maximum": 10}
    return _object(behaviours.TRAINING_KEYS, **dict.fromkeys(times, _DURATION), overlap=overlap, noise_scale=_COUNT)


def _workload() -> Schema:
    task = {"$ref": "#/$defs/task"}
    quota = _object(workload.QUOTA_KEYS, cpu=_CPU, memory=_SIZE, disk=_SIZE, gpus=_CPU)
    arrival = _object(
        workload.ARRIVAL_KEYS,
        at=_DURATION,
        job={"$ref": "#/$defs/job"},
        file=_TEXT,
        actual_run=_map(_DURATION),
        fails=_map(_PERCENT),
        crashes=_map(_FLAG),
        training=_map(_training()),
    )
    process = _object(chance.PROCESSES, every=_DURATION, poisson=_RATE)
    generator = _object(
        workload.GENERATE_KEYS, role=_TEXT, name=_TEXT, arrivals=process, to=_DURATION, at=_NAMES, task=task
    )
    replicas = {"anyOf": [_COUNT, _object(workload.REPLICAS_KEYS, min=_COUNT, max=_COUNT)]}
    change = _object(workload.DEMAND_KEYS, at=_DURATION, site=_TEXT, requests=_COUNT)
    service = _object(
        workload.SERVICE_KEYS,
        role=_TEXT,
        replicas=replicas,
        answers=_COUNT,
        demand={"type": "array", "items": change},
        task=task,
    )
    file = {"anyOf": [{"enum": list(jobs.SETS)}, {"type": "string", "pattern": "[.]csv$"}]}
    trace = _object(jobs.TRACE_KEYS, role=_TEXT, file=file, limit=_COUNT, task=task)
    return _object(
        workload.WORKLOAD_KEYS,
        roles=_map(_object(workload.ROLE_KEYS, weight=_COUNT, quota=quota)),
        jobs={"type": "array", "items": arrival},
        generate={"type": "array", "items": generator},
        services=_map(service),
        traces={"type": "array", "items": trace},
    )


def _frameworks() -> Schema:
    work = {key: _workload()["properties"][key] for key in frameworks.WORK_KEYS}
    durations = dict.fromkeys(("patience", "refuse", "failover"), _DURATION)
    offers = {"anyOf": [{"enum": list(FRAMEWORK_MODES)}, {"type": "string", "pattern": f"^{_PARAMETER}"}]}
    return _map(_object(frameworks.KEYS, offers=offers, **durations, **work))


def _fault() -> Schema:
    pick = _object(faultfile.PICK_KEYS, agents=_NAMES, site=_NAMES)
    target = {"anyOf": [_TEXT, pick]}
    chances = dict.fromkeys(("drop", "duplicate", "reorder", "corrupt", "delay"), _PERCENT)
    restart = {"anyOf": [_DURATION, _object(("after", "spread"), after=_DURATION, spread=_DURATION)]}
    changes = _object(faultfile.SET_KEYS, bandwidth=_BANDWIDTH, rtt=_DURATION, jitter=_DURATION, loss=_PERCENT)
    chance_of = {"type": "array", "items": {"enum": list(faultfile.KINDS)}}
    fault = _object(
        faultfile.FAULT_KEYS,
        at=_DURATION,
        when={"enum": list(dict.fromkeys((*KILL_POINTS, *BROKER_KILL_POINTS)))},
        restart=restart,
        direction={"type": "string", "pattern": "^to "},
        set=changes,
        flap=_object(faultfile.FLAP_KEYS, every=_DURATION, down=_DURATION),
        kill=target,
        power_off=target,
        pause=target,
        partition=_NAMES,
        link=_NAMES,
        messages=_object(faultfile.MESSAGE_KEYS, by=_DURATION, **chances),
        disk_full=target,
        drain=target,
        cordon=target,
        random=_object(faultfile.RANDOM_KEYS, rate=_RATE, of=chance_of, quiet_tail=_DURATION),
    )
    return {**fault, "oneOf": [{"required": [action]} for action in faultfile.ACTIONS]}
