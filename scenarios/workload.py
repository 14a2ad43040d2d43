"""The `workload` section: jobs at given times, generators, services and traces, all as one list of arrivals.

Each generator draws from streams of its own, so that another policy, or another generator beside it, changes nothing
of what it makes.
"""

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

import msgspec

from federation import units
from federation.config import RoleConfig
from federation.errors import ConfigError
from federation.jobfile import (
    BOTH_SIZES,
    SERVICE_RUN_US,
    read_communication,
    read_duration,
    read_elastic,
    read_identifier,
    read_job,
    read_latency,
    read_needs,
    read_role,
    read_size,
    read_where,
)
from federation.jobs import Artifact, Job, TaskGroup, Write
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    Place,
    Scalar,
    as_mapping,
    integer_between,
    list_of,
    load,
    quantity,
    read_flag,
    read_text,
)
from policies.model import Amount, LatencyTarget, Needs, Replicas, Where
from policies.resources import amount_from
from scenarios.behaviours import BEHAVIOUR_KEYS, by_group, read_behaviour, read_behaviours
from scenarios.chance import read_arrivals, read_law
from scenarios.randomness import Arrivals, Constant, Law, arrival_times_us, draw_us, median_us
from scenarios.sites import Sites, as_is, check_holders, no_site, read_begin, read_cores, read_sites, some
from scenarios.streams import stream
from scenarios.traces.folder import Traces
from scenarios.world import Arrival, Behaviour, Clients, ShardSpec

WORKLOAD_KEYS = ("roles", "jobs", "generate", "services", "traces")
ROLE_KEYS = ("weight", "quota")
QUOTA_KEYS = ("cpu", "memory", "disk", "gpus")
ARRIVAL_KEYS = ("at", "job", "file", "actual_run", *BEHAVIOUR_KEYS)
GENERATE_KEYS = ("role", "name", "arrivals", "from", "to", "limit", "at", "priority", "task")
TASK_KEYS = (
    "cpu", "memory", "disk", "gpu", "links", "run", "told", "reads", "writes", "deadline", "where", "retry",
    "time_limit", "count", "gang", "elastic", "communication", "clients", "latency", "profile", *BEHAVIOUR_KEYS,
)  # fmt: skip
READS_KEYS = ("at", "size", "count", "distinct")
CLIENTS_KEYS = ("rtt", "weight")
SERVICE_KEYS = ("role", "replicas", "answers", "clients", "demand", "task", "from", "to", "priority")
REPLICAS_KEYS = ("min", "max")
DEMAND_KEYS = ("at", "site", "requests")
NOT_OF_SERVICES = (
    "run", "told", "reads", "writes", "deadline", "time_limit", "count", "gang", "elastic", "communication", "clients",
    "latency", *BEHAVIOUR_KEYS,
)  # fmt: skip
PPM = 1_000_000
HERE = "here"  # in `where`, the site where a task arises


class Workload(NamedTuple):
    roles: tuple[RoleConfig, ...]
    arrivals: tuple[Arrival, ...]
    shards: tuple[ShardSpec, ...]  # pools that lie ready from the start
    notes: tuple[str, ...]


class Scope(NamedTuple):
    """What all readers of a workload share."""

    sites: Sites
    folder: Path
    seed: int
    duration_us: int
    traces: Traces


def read_workload(node: Node, scope: Scope) -> Workload:
    from scenarios.traces.jobs import read_trace

    fields = Fields(node, '"workload"', WORKLOAD_KEYS)
    arrivals: list[Arrival] = []
    shards: list[ShardSpec] = []
    notes: list[str] = []
    if "jobs" in fields:
        arrivals += fields.required("jobs", list_of(lambda entry: _read_job_arrival(entry, scope), '"jobs"'))
    names: set[str] = set()
    for number, entry in enumerate(_items(fields, "generate"), start=1):
        generator = _Generator(entry, number, scope)
        if generator.name in names:
            raise FileError(entry.place, f'two generators are called "{generator.name}"; give one a name:')
        names.add(generator.name)
        arrivals += generator.arrivals()
        shards += generator.pool()
    if "services" in fields:
        for name, value in as_mapping(fields.required("services", as_is), '"services"').entries.items():
            arrivals.append(_read_service(name, value, scope))
    for number, entry in enumerate(_items(fields, "traces"), start=1):
        made, said = read_trace(entry, number, scope)
        arrivals += made
        notes += said
    roles = tuple(_read_roles(fields))
    arrivals = [each for each in arrivals if each.at_us < scope.duration_us]
    return Workload(roles, tuple(sorted(arrivals, key=lambda each: each.at_us)), tuple(shards), tuple(notes))


def _items(fields: Fields, key: str) -> tuple[Node, ...]:
    return fields.required(key, list_of(as_is, f'"{key}"')) if key in fields else ()


def _read_roles(fields: Fields) -> list[RoleConfig]:
    if "roles" not in fields:
        return []
    roles: list[RoleConfig] = []
    mapping = as_mapping(fields.required("roles", as_is), '"roles"')
    for path, value in mapping.entries.items():
        read_role(Scalar(mapping.keys[path], path, plain=False))
        role = Fields(value, f'role "{path}"', ROLE_KEYS)
        weight = role.optional("weight", integer_between(1, 1_000_000), 1)
        roles.append(RoleConfig(path=path, weight=weight, quota=role.optional("quota", _read_quota, None)))
    return roles


def _read_quota(node: Node) -> Amount:
    fields = Fields(node, '"quota"', QUOTA_KEYS)
    return amount_from(
        fields.optional("cpu", read_cores, 0),
        fields.optional("memory", read_size, 0),
        fields.optional("disk", read_size, 0),
        fields.optional("gpus", some(units.parse_gpu_milli, "leave the key out, and GPUs are not limited"), 0),
    )


# --- jobs as they are submitted --------------------------------------------------------------------------------------


def _read_job_arrival(node: Node, scope: Scope) -> Arrival:
    fields = Fields(node, "a job's arrival", ARRIVAL_KEYS)
    if ("job" in fields) == ("file" in fields):
        raise FileError(node.place, "give the job itself (job:) or a job file (file:), one of them")
    if "job" in fields:
        job = fields.required("job", lambda value: read_job(value, _simulated_artifact))
    else:
        job = read_job(load(scope.folder / fields.required("file", read_text)), _simulated_artifact)
    run_us = by_group(fields, "actual_run", lambda node, _: read_duration(node), job.tasks)
    behaviours = read_behaviours(fields, job.tasks)
    at_us = fields.optional("at", read_begin(scope.duration_us), 0)
    return Arrival(at_us=at_us, job=_simulated(job, run_us), origin=job.name, behaviours=behaviours)


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


# --- tasks of generators and traces ----------------------------------------------------------------------------------


class Reads(NamedTuple):
    """Inputs of a generated task: shards of its own, `n_distinct` shared ones, or those that a name matches."""

    glob: str | None
    sites: list[str]  # where they lie; none: at the arrival's own site
    size_bytes: int
    n_each: int
    n_distinct: int


class TaskSpec(NamedTuple):
    """One group, told and true. `run` is what happens, `told_us` what the scheduler hears (None: the law's median)."""

    needs: Needs
    run: Law
    told_us: int | None
    group: TaskGroup  # everything else
    reads: Reads | None
    at_home: bool  # where it may run names the arrival's own site
    clients: LatencyTarget | None  # its clients are at the arrival's own site
    behaviour: Behaviour


def read_task(node: Node, sites: Sites, *, run: Law | None = None) -> TaskSpec:
    """`run` is the run time where the task itself says none (traces bring their own)."""
    fields = Fields(node, '"task"', TASK_KEYS)
    mapping = as_mapping(node, '"task"')
    own = {key: mapping.entries[key] for key in ("cpu", "memory", "disk", "gpu", "links") if key in fields}
    needs = read_needs(Mapping(node.place, own, {key: mapping.keys[key] for key in own}))
    law = fields.optional("run", read_law, run)
    if law is None:
        raise FileError(node.place, '"task" needs the key "run": how long it really takes')
    node_where = fields.node("where")
    if isinstance(node_where, Scalar) and node_where.text == HERE:
        where = Where(sites=(HERE,))
    else:
        where = fields.optional("where", read_where, Where())
    count = fields.optional("count", integer_between(1, 100_000), 1)
    gang = fields.optional("gang", read_flag, False)
    communication = fields.optional("communication", read_communication, None)
    if communication and not (gang and count > 1):
        raise FileError(node.place, '"communication" is of a gang: add gang: true and a count above 1')
    elastic = fields.optional("elastic", read_elastic, None)
    if elastic and gang:
        raise FileError(fields.place_of("elastic"), BOTH_SIZES)
    if elastic and "training" not in fields:
        raise FileError(node.place, 'elastic work needs the key "training": how its workers really train')
    size_bytes = fields.optional("writes", read_size, 0)
    group = TaskGroup(
        name="task",
        command=("simulated",),
        needs=needs,
        count=count,
        writes=(Write(name="out", path="out", bytes_max=size_bytes),) if size_bytes else (),
        where=where,
        profile=fields.optional("profile", read_text, ""),
        attempts_max=fields.optional("retry", integer_between(1, 100), 3),
        time_limit_us=fields.optional("time_limit", read_duration, None),
        deadline_us=fields.optional("deadline", read_duration, None),
        latency=fields.optional("latency", list_of(read_latency, '"latency"'), ()),
        gang=gang,
        communication=communication,
        elastic=elastic,
    )
    return TaskSpec(
        needs=needs,
        run=law,
        told_us=fields.optional("told", read_duration, None),
        group=group,
        reads=fields.optional("reads", lambda value: _read_reads(value, sites), None),
        at_home=HERE in where.sites,
        clients=fields.optional("clients", _read_clients, None),
        behaviour=read_behaviour(fields, group),
    )


def _read_reads(node: Node, sites: Sites) -> Reads:
    if isinstance(node, Scalar):
        return Reads(read_text(node), [], 0, 1, 0)
    fields = Fields(node, '"reads"', READS_KEYS)
    return Reads(
        glob=None,
        sites=fields.optional("at", read_sites(sites), []),
        size_bytes=fields.required("size", read_size),
        n_each=fields.optional("count", integer_between(1, 1024), 1),
        n_distinct=fields.optional("distinct", integer_between(1, 1_000_000), 0),
    )


def _read_clients(node: Node) -> LatencyTarget:
    """The site is filled in by each arrival."""
    fields = Fields(node, '"clients"', CLIENTS_KEYS)
    weight = fields.optional("weight", integer_between(1, 1_000_000), 1)
    return LatencyTarget(site="", rtt_us=fields.required("rtt", read_duration), weight=weight)


def _at(spec: TaskSpec, site: str) -> Where:
    """`here` is where the arrival comes from."""
    where = spec.group.where
    if not spec.at_home:
        return where
    sites = tuple(sorted({site if each == HERE else each for each in where.sites}))
    return msgspec.structs.replace(where, sites=sites)


def _check_sites(spec: TaskSpec, sites: list[str], scope: Scope, place: Place) -> None:
    """`sites` are where tasks arise; some things that a task may say need one."""
    has_own = spec.reads is not None and spec.reads.glob is None
    holders = spec.reads.sites if spec.reads is not None and spec.reads.sites else sites
    if (spec.at_home or spec.clients is not None or (has_own and not holders)) and not sites:
        raise FileError(place, "the task refers to the site where it arises; say which by at: beside it")
    if has_own:
        check_holders(place, holders, scope.sites)


class Maker:
    """Makes arrivals of one task spec; `name` is theirs with a number behind it."""

    def __init__(
        self, name: str, role: str, priority: int, spec: TaskSpec, sites: list[str], scope: Scope, place: Place
    ) -> None:
        _check_sites(spec, sites, scope, place)
        self.name = name
        self._role = role
        self._priority = priority
        self._spec = spec
        self._sites = sites
        self._scope = scope
        self._runs = stream(scope.seed, f"runs/{name}")
        self._places = stream(scope.seed, f"places/{name}")
        self._n_held: dict[str, int] = {}
        self._n_made = 0

    def make(self, at_us: int, *, needs: Needs | None = None, run_us: int | None = None, count: int = 0) -> Arrival:
        """What a trace knows better than the spec is given."""
        spec = self._spec
        self._n_made += 1
        number = self._n_made
        site = self._sites[self._places.randrange(len(self._sites))] if self._sites else ""
        true_us = draw_us(spec.run, self._runs) if run_us is None else run_us
        told_us = spec.told_us
        if told_us is None:
            told_us = median_us(spec.run) if run_us is None else run_us
        names, fresh = self._inputs(number, site)
        group = msgspec.structs.replace(
            spec.group,
            needs=spec.needs if needs is None else needs,
            run_us=told_us,
            simulated_run_us=true_us,
            count=count or spec.group.count,
            gang=spec.group.gang or (count > 1 and spec.group.elastic is None),
            profile=spec.group.profile or self.name,
            reads=names,
            where=_at(spec, site),
            latency=spec.group.latency
            if spec.clients is None or not site
            else (*spec.group.latency, msgspec.structs.replace(spec.clients, site=site)),
        )
        job = Job(name=f"{self.name}-{number}", role=self._role, priority=self._priority, tasks=(group,))
        behaviours = {} if spec.behaviour == Behaviour() else {"task": spec.behaviour}
        return Arrival(at_us=at_us, job=job, origin=self.name, behaviours=behaviours, shards=fresh)

    def pool(self) -> list[ShardSpec]:
        reads = self._spec.reads
        if reads is None or not reads.n_distinct:
            return []
        sites = reads.sites or self._sites
        return [
            ShardSpec(
                name=f"{self.name}/pool-{number}",
                size_bytes=reads.size_bytes,
                agent_id=self._holder(sites[number % len(sites)]),
            )
            for number in range(reads.n_distinct)
        ]

    def _inputs(self, number: int, site: str) -> tuple[tuple[str, ...], tuple[ShardSpec, ...]]:
        reads = self._spec.reads
        if reads is None:
            return (), ()
        if reads.glob is not None:
            return (reads.glob,), ()
        if reads.n_distinct:
            chosen = sorted({self._places.randrange(reads.n_distinct) for _ in range(reads.n_each)})
            return tuple(f"{self.name}/pool-{each}" for each in chosen), ()
        sites = reads.sites or [site]
        fresh = tuple(
            ShardSpec(
                name=f"{self.name}/{number}-{index}",
                size_bytes=reads.size_bytes,
                agent_id=self._holder(sites[self._places.randrange(len(sites))] if len(sites) > 1 else sites[0]),
            )
            for index in range(reads.n_each)
        )
        return tuple(shard.name for shard in fresh), fresh

    def _holder(self, site: str) -> str:
        """The site's agents in turn."""
        agents = self._scope.sites[site].agents
        number = self._n_held[site] = self._n_held.get(site, -1) + 1
        return agents[number % len(agents)].agent_id


class _Generator:
    def __init__(self, node: Node, number: int, scope: Scope) -> None:
        fields = Fields(node, "a generator", GENERATE_KEYS)
        role = fields.optional("role", read_role, "default")
        default = role.replace("/", "-") if number == 1 else f"{role.replace('/', '-')}-{number}"
        self.name = fields.optional("name", read_identifier, default)
        self._process: Arrivals = fields.required("arrivals", read_arrivals)
        self._from_us = fields.optional("from", read_begin(scope.duration_us), 0)
        self._to_us = min(fields.optional("to", read_duration, scope.duration_us), scope.duration_us)
        self._limit = fields.optional("limit", integer_between(1, 5_000_000), None)
        sites = fields.optional("at", read_sites(scope.sites), [])
        spec = fields.required("task", lambda value: read_task(value, scope.sites))
        priority = fields.optional("priority", integer_between(0, 100), 50)
        self._maker = Maker(self.name, role, priority, spec, sites, scope, node.place)
        self._source: random.Random = stream(scope.seed, f"arrivals/{self.name}")

    def arrivals(self) -> list[Arrival]:
        times = arrival_times_us(self._process, self._from_us, self._to_us, self._source)
        return [self._maker.make(at_us) for at_us in times[: self._limit]]

    def pool(self) -> list[ShardSpec]:
        return self._maker.pool()


def _read_service(name: str, node: Node, scope: Scope) -> Arrival:
    """Replicas that run from `from` to `to` near their clients."""
    read_identifier(Scalar(node.place, name, plain=False))
    fields = Fields(node, f'service "{name}"', SERVICE_KEYS)
    from_us = fields.optional("from", read_begin(scope.duration_us), 0)
    to_us = fields.optional("to", read_duration, scope.duration_us)
    if to_us <= from_us:
        raise FileError(node.place, "the service ends before it begins")
    run = Constant(us=to_us - from_us)
    spec = fields.required("task", lambda value: read_task(_of_service(value), scope.sites, run=run))
    if spec.at_home:
        raise FileError(fields.place_of("task"), "a service arises at no site: name the sites in where:")
    clients = fields.required("clients", list_of(read_latency, '"clients"'))
    for client in clients:
        if client.site not in scope.sites:
            raise FileError(fields.place_of("clients"), no_site(client.site, scope.sites))
    replicas = _read_replicas(fields)
    changes = fields.optional("demand", list_of(lambda entry: _read_demand(entry, clients), '"demand"'), ())
    if replicas is None and (changes or "answers" in fields):
        raise FileError(node.place, "demand and answers are of a service with replicas: {min, max}")
    group = msgspec.structs.replace(
        spec.group,
        count=replicas.most if replicas else fields.optional("replicas", integer_between(1, 100_000), 1),
        run_us=run.us if replicas is None else SERVICE_RUN_US,
        simulated_run_us=run.us if replicas is None else SERVICE_RUN_US,
        service=True,
        replicas=replicas,
        latency=clients,
    )
    role = fields.optional("role", read_role, "default")
    priority = fields.optional("priority", integer_between(0, 100), 50)
    job = Job(name=name, role=role, priority=priority, tasks=(group,))
    if replicas is not None:
        asking = Clients(targets=clients, changes=tuple(sorted(changes)), until_us=to_us)
        return Arrival(at_us=from_us, job=job, origin=name, clients=asking)
    return Arrival(at_us=from_us, job=job, origin=name, behaviours={group.name: Behaviour(until_us=to_us)})


def _of_service(node: Node) -> Node:
    """What is said of tasks that come and end has no meaning for replicas."""
    for key, place in as_mapping(node, '"task"').keys.items():
        if key in NOT_OF_SERVICES:
            raise FileError(place, f'"{key}" is not of a service: its replicas run from its beginning to its end')
    return node


def _read_replicas(fields: Fields) -> Replicas | None:
    """`{min, max}`: as many as their targets need; a number: so many."""
    if not isinstance(fields.node("replicas"), Mapping):
        return None
    bounds = fields.required("replicas", lambda value: Fields(value, '"replicas"', REPLICAS_KEYS))
    least = bounds.optional("min", integer_between(1, 10_000), 1)
    most = bounds.required("max", integer_between(1, 10_000))
    if most < least:
        raise FileError(bounds.place_of("max"), f"at most {most} replicas are fewer than at least {least}")
    answers = fields.optional("answers", integer_between(1, 1_000_000_000), 0)
    return Replicas(least=least, most=most, answers_per_second=answers)


def _read_demand(node: Node, clients: tuple[LatencyTarget, ...]) -> tuple[int, str, int]:
    fields = Fields(node, "a change of demand", DEMAND_KEYS)
    site = fields.required("site", read_text)
    if site not in (client.site for client in clients):
        raise FileError(fields.place_of("site"), f'the service has no clients at "{site}"')
    at_us = fields.required("at", quantity(units.parse_duration_us))
    return at_us, site, fields.required("requests", integer_between(1, 1_000_000))
