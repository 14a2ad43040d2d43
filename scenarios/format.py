"""Scenario files: YAML as a tester writes it, to a `World`. Reference: docs/scenarios.md.

Strict like job files: an unknown or duplicate key, a missing unit or a name that nothing bears is a `FileError` with
file, line and column. Jobs are job files, inline or by path, in the very grammar of `offerflow job submit`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import msgspec

from federation import units
from federation.errors import ConfigError
from federation.jobfile import read_duration, read_identifier, read_job, read_size
from federation.jobs import Artifact, Job
from federation.strictyaml import (
    Fields,
    FileError,
    Node,
    as_mapping,
    choice,
    integer_between,
    list_of,
    load,
    quantity,
    read_flag,
    read_text,
)
from policies.model import TIERS, Gpu, Resources, Tier
from scenarios.transport import LinkSpec
from scenarios.world import AgentSpec, Arrival, ShardSpec, World

SCHEMA = "offerflow/scenario/v1"
ROOT_KEYS = ("schema", "name", "purpose", "seed", "duration", "topology", "data", "workload", "model")
TOPOLOGY_KEYS = ("master", "sites", "links")
SITE_KEYS = ("tier", "region", "agents")
AGENT_KEYS = ("count", "cpu", "memory", "disk", "gpus", "speed", "price", "hardware", "uplink")
GPU_KEYS = ("count", "memory")
LINK_KEYS = ("between", "within", "rtt", "jitter", "bandwidth", "loss", "shared")
DATA_KEYS = ("at", "count", "size")
ARRIVAL_KEYS = ("at", "job", "file", "actual_run")
MODEL_KEYS = ("solve", "commit", "measurement_noise")
AGENTS_MAX = 100_000

T = TypeVar("T")


class _Site(NamedTuple):
    name: str
    agents: tuple[AgentSpec, ...]


def load_world(path: Path) -> World:
    """Read a scenario file. Raises `ConfigError` with file, line and column."""
    fields = Fields(load(path), "a scenario", ROOT_KEYS)
    fields.required("schema", choice(SCHEMA))
    topology = Fields(fields.required("topology", _node), '"topology"', TOPOLOGY_KEYS)
    sites = _read_sites(topology.required("sites", _node))
    agents = tuple(spec for site in sites.values() for spec in site.agents)
    links = topology.optional("links", list_of(lambda node: _read_link(node, sites), '"links"'), ())
    master_site = topology.required("master", read_identifier)
    if master_site not in sites:
        raise FileError(topology.place_of("master"), _no_site(master_site, sites))
    model = Fields(fields.required("model", _node), '"model"', MODEL_KEYS) if "model" in fields else None
    workload = fields.required("workload", lambda node: _read_workload(node, path.parent))
    return World(
        name=fields.required("name", read_identifier),
        purpose=fields.required("purpose", read_text),
        seed=fields.required("seed", integer_between(0, 2**31)),
        duration_us=fields.required("duration", read_duration),
        agents=agents,
        links=_once(tuple(entry for pair in links for entry in pair), topology),
        master_site=master_site,
        shards=fields.optional("data", lambda node: _read_data(node, sites), ()),
        arrivals=tuple(sorted(workload, key=lambda arrival: arrival.at_us)),
        solve_us=_of(model, "solve", read_duration, 5_000),
        commit_us=_of(model, "commit", read_duration, 1_000),
        noise_ppm=_of(model, "measurement_noise", quantity(units.parse_percent_ppm), 30_000),
    )


def _node(node: Node) -> Node:
    return node


def _of(fields: Fields | None, key: str, read: Callable[[Node], T], default: T) -> T:
    return default if fields is None else fields.optional(key, read, default)


def _no_site(name: str, sites: dict[str, _Site]) -> str:
    return f'no site is called "{name}"; the file has {", ".join(sites)}'


# --- topology --------------------------------------------------------------------------------------------------------


def _read_sites(node: Node) -> dict[str, _Site]:
    mapping = as_mapping(node, '"sites"')
    sites: dict[str, _Site] = {}
    for name, value in mapping.entries.items():
        fields = Fields(value, f'site "{name}"', SITE_KEYS)
        tier = cast(Tier, fields.required("tier", choice(*TIERS)))
        region = fields.optional("region", read_text, "")
        groups = as_mapping(fields.required("agents", _node), f'the agents of site "{name}"')
        agents: list[AgentSpec] = []
        for prefix, group in groups.entries.items():
            agents += _read_agents(prefix, group, name, tier, region)
        sites[name] = _Site(name, tuple(agents))
    ids = [spec.agent_id for site in sites.values() for spec in site.agents]
    if not ids:
        raise FileError(node.place, "the topology has no agents")
    if len(ids) > AGENTS_MAX:
        raise FileError(node.place, f"the topology has {len(ids)} agents; the limit is {AGENTS_MAX}")
    twice = sorted({agent_id for agent_id in ids if ids.count(agent_id) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise FileError(node.place, f'agent "{twice[0]}" is there twice; name the groups of agents differently')
    return sites


def _read_agents(prefix: str, node: Node, site: str, tier: Tier, region: str) -> list[AgentSpec]:
    fields = Fields(node, f'agents "{prefix}"', AGENT_KEYS)
    count = fields.optional("count", integer_between(1, AGENTS_MAX), None)
    total = Resources(
        cpu_milli=fields.required("cpu", quantity(units.parse_cpu_milli)),
        memory_bytes=fields.required("memory", read_size),
        disk_bytes=fields.optional("disk", read_size, 100 * 10**9),
    )
    gpus = as_mapping(fields.required("gpus", _node), '"gpus"') if "gpus" in fields else None
    specs: list[AgentSpec] = []
    for index in range(1, 2 if count is None else count + 1):
        agent_id = prefix if count is None else f"{prefix}-{index}"
        own: list[Gpu] = []
        for model, value in gpus.entries.items() if gpus is not None else ():
            gpu = Fields(value, f'GPU "{model}"', GPU_KEYS)
            own += [
                Gpu(
                    uuid=f"{agent_id}-{model}-{number}",
                    model=model,
                    memory_bytes=gpu.required("memory", read_size),
                    memory_kind="dedicated",
                    isolation="whole",
                )
                for number in range(gpu.required("count", integer_between(1, 1024)))
            ]
        specs.append(
            AgentSpec(
                agent_id=agent_id,
                site=site,
                tier=tier,
                region=region,
                total=msgspec.structs.replace(total, gpus=tuple(own)),
                hardware=fields.optional("hardware", read_text, prefix),
                speed_milli=fields.optional("speed", quantity(units.parse_cpu_milli), 1000),
                price_microusd_per_cpu_hour=fields.optional("price", quantity(units.parse_price_microusd_per_hour), 0),
                uplink_bps=fields.optional("uplink", quantity(units.parse_bandwidth_bps), None),
            )
        )
    return specs


def _read_link(node: Node, sites: dict[str, _Site]) -> list[tuple[str, str, LinkSpec]]:
    fields = Fields(node, "a link", LINK_KEYS)
    if ("between" in fields) == ("within" in fields):
        raise FileError(node.place, "a link is either between: [one site, another] or within: a site")
    if "within" in fields:
        ends = [fields.required("within", read_identifier)] * 2
    else:
        ends = list(fields.required("between", list_of(read_identifier, '"between"')))
        if len(ends) != 2 or ends[0] == ends[1]:
            raise FileError(fields.place_of("between"), '"between" names two different sites')
    for site in ends:
        if site not in sites:
            raise FileError(fields.place_of("within" if "within" in fields else "between"), _no_site(site, sites))
    spec = LinkSpec(
        rtt_us=fields.required("rtt", read_duration),
        bandwidth_bps=fields.required("bandwidth", quantity(units.parse_bandwidth_bps)),
        jitter_us=fields.optional("jitter", quantity(units.parse_duration_us), 0),
        loss_ppm=fields.optional("loss", quantity(units.parse_percent_ppm), 0),
        shared=fields.optional("shared", read_flag, True),
    )
    return [(first, second, spec) for first, second in sorted({(ends[0], ends[1]), (ends[1], ends[0])})]


def _once(links: tuple[tuple[str, str, LinkSpec], ...], topology: Fields) -> tuple[tuple[str, str, LinkSpec], ...]:
    pairs = [(from_site, to_site) for from_site, to_site, _ in links]
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise FileError(topology.place_of("links"), f"the link {pair[0]} → {pair[1]} is given twice")
    return links


# --- data and workload -----------------------------------------------------------------------------------------------


def _read_data(node: Node, sites: dict[str, _Site]) -> tuple[ShardSpec, ...]:
    """`prefix: {at: site, count: n, size: s}`: shards `prefix-0` … dealt to the site's agents in turn."""
    shards: list[ShardSpec] = []
    for prefix, value in as_mapping(node, '"data"').entries.items():
        fields = Fields(value, f'data "{prefix}"', DATA_KEYS)
        site = fields.required("at", read_identifier)
        if site not in sites:
            raise FileError(fields.place_of("at"), _no_site(site, sites))
        holders = sites[site].agents
        count = fields.optional("count", integer_between(1, 1_000_000), None)
        size_bytes = fields.required("size", read_size)
        shards += [
            ShardSpec(
                name=prefix if count is None else f"{prefix}-{index}",
                size_bytes=size_bytes,
                agent_id=holders[index % len(holders)].agent_id,
            )
            for index in range(1 if count is None else count)
        ]
    return tuple(shards)


def _read_workload(node: Node, folder: Path) -> tuple[Arrival, ...]:
    fields = Fields(node, '"workload"', ("jobs",))
    return fields.required("jobs", list_of(lambda entry: _read_arrival(entry, folder), '"jobs"'))


def _read_arrival(node: Node, folder: Path) -> Arrival:
    fields = Fields(node, "a job's arrival", ARRIVAL_KEYS)
    if ("job" in fields) == ("file" in fields):
        raise FileError(node.place, "give the job itself (job:) or a job file (file:), one of them")
    if "job" in fields:
        job = fields.required("job", lambda value: read_job(value, _simulated_artifact))
    else:
        path = folder / fields.required("file", read_text)
        job = read_job(load(path), _simulated_artifact)
    actual = as_mapping(fields.required("actual_run", _node), '"actual_run"') if "actual_run" in fields else None
    run_us = {name: read_duration(value) for name, value in actual.entries.items()} if actual is not None else {}
    for name in run_us:
        if name not in {group.name for group in job.tasks}:
            raise FileError(fields.place_of("actual_run"), f'the job has no task group "{name}"')
    return Arrival(at_us=fields.optional("at", quantity(units.parse_duration_us), 0), job=_simulated(job, run_us))


def _simulated(job: Job, run_us: dict[str, int]) -> Job:
    """The job as the scheduler is told of it, with what really happens beside it; code is not needed."""
    groups = tuple(
        msgspec.structs.replace(group, artifact=None, simulated_run_us=run_us.get(group.name, group.run_us))
        for group in job.tasks
    )
    return msgspec.structs.replace(job, tasks=groups)


def _simulated_artifact(node: Node) -> Artifact:
    name = read_text(node)
    if not name:
        raise ConfigError("an artifact needs a path")
    return Artifact(shard_id=hashlib.sha256(name.encode()).hexdigest(), size_bytes=0, name=name)
