"""Job files: YAML as a person writes it, to a `Job` and the artifacts to upload. Reference: docs/jobs.md.

The file's shape is read here; what groups say about each other is checked in `jobchecks`. Every mistake is a
`FileError` with its line. `read_*` are for files that hold parts of a job in other shapes (scenarios).
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, cast

import msgspec

from federation import artifacts, units
from federation.errors import ConfigError
from federation.jobchecks import Draft, check_groups, output_path
from federation.jobs import TASKS_MAX, Artifact, Job, TaskGroup, Write
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    Scalar,
    as_mapping,
    choice,
    integer_between,
    list_of,
    load,
    mapping_of,
    matching,
    one_or_more,
    quantity,
    read_flag,
    read_text,
)
from policies.gpus import WHOLE
from policies.model import (
    TIERS,
    Communication,
    Elastic,
    GpuNeed,
    LatencyTarget,
    LinkNeed,
    Needs,
    Replicas,
    Saving,
    StepTime,
    Tier,
    Where,
)

JOB_KEYS = ("job", "role", "priority", "artifact", "env", "tasks")
SERVICE_RUN_US = 86_400_000_000  # a service that says nothing of its end is not waited for
GROUP_KEYS = (
    "command", "artifact", "env", "for_each", "count", "reads", "writes", "after", "needs", "where", "residency",
    "profile", "run", "retry", "time_limit", "deadline", "latency", "gang", "communication",
    "elastic", "service",
)  # fmt: skip
NEEDS_KEYS = ("cpu", "memory", "disk", "gpu", "links")
GPU_KEYS = ("count", "model", "memory")
LINK_KEYS = ("to", "rtt", "bandwidth")
WHERE_KEYS = ("tier", "site", "agents", "labels")
WRITE_KEYS = ("file", "max")
LATENCY_KEYS = ("to", "rtt", "weight")
COMMUNICATION_KEYS = (
    "pattern", "bytes", "synchronous", "compressible", "iteration", "duty", "savings", "local_steps",
)  # fmt: skip
ELASTIC_KEYS = ("min", "batch", "batch_max", "noise_scale", "steps")
SERVICE_KEYS = ("replicas", "answers")
REPLICAS_KEYS = ("min", "max")
STEP_KEYS = ("workers", "agents", "batch", "step")
WORKERS_MAX = 10_000
BATCH_MAX = 1_000_000_000
PATTERNS = ("allreduce", "parameter_server", "all_to_all")
SAVINGS = ("site_aggregation", "rack_aggregation", "fp16", "powersgd", "local_steps")
LOSSY = ("fp16", "powersgd")
BOTH_SIZES = '"elastic" and "gang: true" exclude each other: a gang has one size'

IDENTIFIER_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
IDENTIFIER = "a name: lower-case letters, digits and hyphens, at most 63, a letter or digit first"
ROLE_PATTERN = r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*"
ENV_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"
CPU_MILLI_MAX = 1_000_000 * 1000  # A million cores on one agent is a slip of the pen.

read_identifier = matching(IDENTIFIER_PATTERN, IDENTIFIER)
read_role = matching(ROLE_PATTERN, "a role: names of lower-case letters, digits and hyphens, joined by slashes")


@dataclass(frozen=True, eq=False)
class JobFile:
    """A job ready to submit. `artifacts` maps each SHA-256 to the file that holds those bytes; packed ones live in a
    temporary folder until this object is gone."""

    path: Path
    job: Job
    artifacts: dict[str, Path]


def load_job(path: Path | str) -> JobFile:
    """Read a job file; artifact paths in it are relative to it. Raises `ConfigError` with file, line and column."""
    path = Path(path)
    folder = Path(tempfile.mkdtemp(prefix="offerflow-job-"))
    try:
        packer = _Packer(path.parent, folder)
        job = read_job(load(path), packer.artifact)
        jobfile = JobFile(path=path, job=job, artifacts=packer.files)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(jobfile, shutil.rmtree, folder, ignore_errors=True)
    return jobfile


def read_job(root: Node, read_artifact: Callable[[Node], Artifact]) -> Job:
    """The job that a mapping describes; `read_artifact` turns the path that a scalar names into an artifact."""
    fields = Fields(root, "a job", JOB_KEYS)
    name = fields.required("job", read_identifier)
    tasks = as_mapping(fields.required("tasks", lambda node: node), '"tasks"')
    if not tasks.entries:
        raise FileError(tasks.place, '"tasks" is empty; a job needs at least one task group')
    artifact = fields.optional("artifact", read_artifact, None)
    env = fields.optional("env", read_env, {})
    drafts: dict[str, Draft] = {}
    for group_name, node in tasks.entries.items():
        read_identifier(Scalar(tasks.keys[group_name], group_name, plain=False))
        drafts[group_name] = read_group(group_name, node, read_artifact, artifact=artifact, env=env)
    check_groups(drafts)
    total = sum(draft.group.count for draft in drafts.values())
    if total > TASKS_MAX:
        raise FileError(tasks.place, f"the job has {total} tasks; the limit is {TASKS_MAX}")
    job = Job(
        name=name,
        role=fields.optional("role", read_role, "default"),
        priority=fields.optional("priority", integer_between(0, 100), 50),
        tasks=tuple(draft.group for draft in drafts.values()),
    )
    try:  # Lengths and counts are bounded by the job's own types; the master checks them the same way.
        msgspec.convert(msgspec.to_builtins(job), Job)
    except msgspec.ValidationError as error:
        raise FileError(root.place, f"the job is out of bounds: {error}") from None
    return job


def read_group(
    name: str,
    node: Node,
    read_artifact: Callable[[Node], Artifact],
    *,
    artifact: Artifact | None = None,
    env: dict[str, str] | None = None,
) -> Draft:
    """One task group, not yet checked against its siblings. `artifact` and `env` are the job's own."""
    fields = Fields(node, f'task group "{name}"', GROUP_KEYS)
    command = fields.required("command", _read_command)
    if "count" in fields and "for_each" in fields:
        raise FileError(fields.place_of("count"), '"count" and "for_each" exclude each other; for_each gives the count')
    communication = fields.optional("communication", read_communication, None)
    gang = fields.optional("gang", read_flag, False)
    if communication and not gang:
        place = fields.place_of("communication")
        raise FileError(place, '"communication" is between the tasks of a gang: add gang: true')
    elastic = fields.optional("elastic", read_elastic, None)
    if elastic and gang:
        raise FileError(fields.place_of("elastic"), BOTH_SIZES)
    replicas = fields.optional("service", read_service, None) if _is_mapping(fields, "service") else None
    service = replicas is not None or fields.optional("service", read_flag, False)
    _check_service(fields, replicas)
    needs = fields.optional("needs", read_needs, Needs(cpu_milli=1000, memory_bytes=256 * 2**20))
    writes = fields.optional("writes", lambda value: _read_writes(value, command), ())
    total_bytes = sum(write.bytes_max for write in writes)
    if 0 < needs.disk_bytes < total_bytes:
        raise FileError(
            fields.place_of("writes"),
            f"the task may write {units.format_bytes(total_bytes)} but needs only "
            f"{units.format_bytes(needs.disk_bytes)} of disk; raise needs.disk",
        )
    group = TaskGroup(
        name=name,
        command=command,
        needs=needs,
        count=replicas.most if replicas else fields.optional("count", integer_between(1, TASKS_MAX), 1),
        for_each=fields.optional("for_each", _read_for_each, None),
        reads=fields.optional("reads", one_or_more(read_text), ()),
        writes=writes,
        after=fields.optional("after", one_or_more(read_identifier), ()),
        artifact=fields.optional("artifact", read_artifact, artifact),
        env={**(env or {}), **fields.optional("env", read_env, {})},
        where=_read_where_or_residency(fields),
        profile=fields.optional("profile", read_text, ""),
        run_us=fields.optional("run", read_duration, SERVICE_RUN_US if service else 1_000_000),
        attempts_max=fields.optional("retry", _read_attempts, 3),
        time_limit_us=fields.optional("time_limit", read_duration, None),
        deadline_us=fields.optional("deadline", read_duration, None),
        latency=fields.optional("latency", list_of(read_latency, '"latency"'), ()),
        service=service,
        replicas=replicas,
        gang=gang,
        communication=communication,
        elastic=elastic,
    )
    return Draft(name=name, fields=fields, group=group)


# --- parts -----------------------------------------------------------------------------------------------------------


def read_duration(node: Node) -> int:
    """Microseconds, more than none."""
    return _positive(node, units.parse_duration_us)


def read_size(node: Node) -> int:
    """Bytes, more than none."""
    return _positive(node, units.parse_bytes)


def read_needs(node: Node) -> Needs:
    fields = Fields(node, '"needs"', NEEDS_KEYS)
    return Needs(
        cpu_milli=fields.optional("cpu", _read_cpu, 1000),
        memory_bytes=fields.optional("memory", read_size, 256 * 2**20),
        disk_bytes=fields.optional("disk", quantity(units.parse_bytes), 0),
        gpu=fields.optional("gpu", read_gpu, None),
        links=fields.optional("links", list_of(read_link, '"links"'), ()),
    )


def read_gpu(node: Node) -> GpuNeed:
    """`gpu: 2`, `gpu: 0.5` (a share of one), or a mapping of count, model and memory."""
    if isinstance(node, Scalar):
        count, milli = _read_gpu_count(node)
        return GpuNeed(count=count, milli=milli)
    fields = Fields(node, '"gpu"', GPU_KEYS)
    count, milli = fields.optional("count", _read_gpu_count, (1, WHOLE))
    return GpuNeed(
        count=count,
        milli=milli,
        model=fields.optional("model", read_text, None),
        memory_bytes=fields.optional("memory", read_size, 0),
    )


def _read_gpu_count(node: Node) -> tuple[int, int]:
    """How many, and how much of each in thousandths."""
    milli = _positive(node, units.parse_gpu_milli)
    if milli < WHOLE:
        return 1, milli
    if milli % WHOLE or milli > 1024 * WHOLE:
        raise FileError(
            node.place, f"a task has whole GPUs of one agent (1 to 1024) or a share of one, such as 0.5; "
            f"{read_text(node)} is neither"
        )  # fmt: skip
    return milli // WHOLE, WHOLE


def read_link(node: Node) -> LinkNeed:
    fields = Fields(node, "a link", LINK_KEYS)
    site = fields.required("to", read_identifier)
    if "rtt" not in fields and "bandwidth" not in fields:
        raise FileError(node.place, f'the link to "{site}" demands nothing: give rtt, bandwidth or both')
    return LinkNeed(
        site=site,
        rtt_us_max=fields.optional("rtt", read_rtt, None),
        bandwidth_bps_min=fields.optional("bandwidth", lambda value: _positive(value, units.parse_bandwidth_bps), None),
    )


def read_rtt(node: Node) -> int:
    """`<20ms` or `20ms`: at most that, in microseconds."""
    return _positive(node, lambda text: units.parse_duration_us(text.strip().removeprefix("<").removeprefix("=")))


def read_where(node: Node) -> Where:
    fields = Fields(node, '"where"', WHERE_KEYS)
    tiers = fields.optional("tier", one_or_more(choice(*TIERS)), ())
    labels = fields.optional("labels", mapping_of(read_text, '"labels"'), {})
    return Where(
        tiers=cast(tuple[Tier, ...], tuple(sorted(set(tiers)))),
        sites=tuple(sorted(set(fields.optional("site", one_or_more(read_identifier), ())))),
        agents=tuple(sorted(set(fields.optional("agents", one_or_more(read_identifier), ())))),
        labels=tuple(sorted(labels.items())),
    )


def read_latency(node: Node) -> LatencyTarget:
    fields = Fields(node, "a latency target", LATENCY_KEYS)
    return LatencyTarget(
        site=fields.required("to", read_identifier),
        rtt_us=fields.required("rtt", read_rtt),
        weight=fields.optional("weight", integer_between(1, 1_000_000), 1),
    )


def read_communication(node: Node) -> Communication:
    fields = Fields(node, '"communication"', COMMUNICATION_KEYS)
    pattern = fields.required("pattern", choice(*PATTERNS))
    compressible = fields.optional("compressible", read_flag, False)
    savings = fields.optional("savings", one_or_more(choice(*SAVINGS)), ())
    if not compressible and any(saving in LOSSY for saving in savings):
        raise FileError(fields.place_of("savings"), "what rounds gradients (fp16, powersgd) needs compressible: true")
    local_steps_max = fields.optional("local_steps", integer_between(1, 1_000_000), 1)
    if (local_steps_max > 1) != ("local_steps" in savings):
        raise FileError(node.place, "local_steps: N, the most of them, and savings: [local_steps] come together")
    return Communication(
        pattern=cast(Literal["allreduce", "parameter_server", "all_to_all"], pattern),
        bytes_per_step=fields.required("bytes", read_size),
        synchronous=fields.optional("synchronous", read_flag, True),
        compressible=compressible,
        iteration_us=fields.optional("iteration", read_duration, 0),
        duty_ppm=fields.optional("duty", quantity(units.parse_percent_ppm), 0),
        savings=cast(tuple[Saving, ...], tuple(sorted(set(savings)))),
        local_steps_max=local_steps_max,
    )


def read_elastic(node: Node) -> Elastic:
    fields = Fields(node, '"elastic"', ELASTIC_KEYS)
    batch = fields.optional("batch", integer_between(1, BATCH_MAX), 1)
    return Elastic(
        workers_min=fields.optional("min", integer_between(1, WORKERS_MAX), 1),
        batch=batch,
        batch_max=fields.optional("batch_max", integer_between(batch, BATCH_MAX), batch),
        noise_scale=fields.optional("noise_scale", integer_between(1, BATCH_MAX), 0),
        steps=fields.optional("steps", list_of(read_step, '"steps"'), ()),
    )


def read_service(node: Node) -> Replicas:
    """`{replicas: {min, max}, answers}`: how many may run, and the requests a second that one of them answers."""
    fields = Fields(node, '"service"', SERVICE_KEYS)
    bounds = fields.required("replicas", lambda value: Fields(value, '"replicas"', REPLICAS_KEYS))
    least = bounds.optional("min", integer_between(1, WORKERS_MAX), 1)
    most = bounds.required("max", integer_between(1, WORKERS_MAX))
    if most < least:
        raise FileError(bounds.place_of("max"), f"at most {most} replicas are fewer than at least {least}")
    return Replicas(
        least=least,
        most=most,
        answers_per_second=fields.optional("answers", integer_between(1, 1_000_000_000), 0),
    )


def _is_mapping(fields: Fields, key: str) -> bool:
    return isinstance(fields.node(key), Mapping)


def _check_service(fields: Fields, replicas: Replicas | None) -> None:
    if replicas is None:
        return
    for key in ("count", "for_each", "gang", "elastic"):
        if key in fields:
            raise FileError(fields.place_of(key), f'"{key}" does not go with service: {{replicas: …}}')
    if "latency" not in fields:
        raise FileError(fields.place_of("service"), "replicas are chosen for clients: say where they are, with latency")


def read_step(node: Node) -> StepTime:
    fields = Fields(node, "a measured step", STEP_KEYS)
    return StepTime(
        workers=fields.required("workers", integer_between(1, WORKERS_MAX)),
        agents=fields.optional("agents", integer_between(1, WORKERS_MAX), 1),
        batch=fields.required("batch", integer_between(1, BATCH_MAX)),
        step_us=fields.required("step", read_duration),
    )


def read_env(node: Node) -> dict[str, str]:
    mapping = as_mapping(node, '"env"')
    for key, place in mapping.keys.items():
        matching(ENV_PATTERN, "a name for an environment variable")(Scalar(place, key, plain=False))
    return {key: read_text(value) for key, value in mapping.entries.items()}


def _read_command(node: Node) -> tuple[str, ...]:
    if isinstance(node, Scalar) and not node.is_null:
        raise FileError(node.place, 'a command is a list of arguments: write [sh, -c, "…"] for a line of shell')
    command = list_of(read_text, '"command"')(node)
    if not command or not command[0]:
        raise FileError(node.place, "a command needs a program as its first argument")
    return command


def _read_for_each(node: Node) -> str:
    return Fields(node, '"for_each"', ("shard",)).required("shard", read_text)


def _read_attempts(node: Node) -> int:
    return Fields(node, '"retry"', ("attempts",)).optional("attempts", integer_between(1, 100), 3)


def _read_cpu(node: Node) -> int:
    milli = _positive(node, units.parse_cpu_milli)
    if milli > CPU_MILLI_MAX:
        raise FileError(node.place, f'"{read_text(node)}" cores are more than any agent has')
    return milli


def _read_writes(node: Node, command: tuple[str, ...]) -> tuple[Write, ...]:
    writes: list[Write] = []
    mapping = as_mapping(node, '"writes"')
    for name, value in mapping.entries.items():
        read_identifier(Scalar(mapping.keys[name], name, plain=False))
        if isinstance(value, Scalar):
            path = output_path(name, command)
            if path is None:
                raise FileError(
                    value.place,
                    f"no argument names one file {{out}}/{name}…, so say which file it is: {name}: "
                    f"{{file: {name}, max: {value.text or '1MiB'}}}",
                )
            writes.append(Write(name=name, path=path, bytes_max=read_size(value)))
            continue
        fields = Fields(value, f'output "{name}"', WRITE_KEYS)
        path = fields.required("file", read_text)
        if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise FileError(fields.place_of("file"), f'"{path}" is not a path within {{out}}')
        writes.append(Write(name=name, path=path, bytes_max=fields.required("max", read_size)))
    return tuple(writes)


def _read_where_or_residency(fields: Fields) -> Where:
    """`residency` is the older word for `where`."""
    if "where" in fields and "residency" in fields:
        raise FileError(fields.place_of("residency"), '"residency" is another word for "where"; give one of them')
    return fields.optional("where", read_where, fields.optional("residency", read_where, Where()))


def _positive(node: Node, parse: Callable[[str], int]) -> int:
    value = quantity(parse)(node)
    if value == 0:
        raise FileError(node.place, f'"{read_text(node)}" is none at all; it must be more than 0')
    return value


class _Packer:
    """Packs each path once; groups that name the same one share the archive."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        self._base = base
        self._folder = folder
        self._known: dict[Path, Artifact] = {}

    def artifact(self, node: Node) -> Artifact:
        source = self._base / read_text(node)
        if not source.exists():
            raise FileError(node.place, f"there is no {source}; paths are relative to the job file")
        if source not in self._known:
            try:
                packed, digest = artifacts.pack(source, self._folder)
            except ConfigError as error:
                raise FileError(node.place, str(error)) from None
            stem = source.resolve().name
            name = stem if stem.endswith(artifacts.ARCHIVE_SUFFIXES) else f"{stem}.tar.gz"
            self.files[digest] = packed
            self._known[source] = Artifact(shard_id=digest, size_bytes=packed.stat().st_size, name=name)
        return self._known[source]
