"""Published job traces as arrivals: what each row becomes, what is left out, and why."""

from collections.abc import Callable, Iterator
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from federation import units
from federation.errors import ConfigError
from federation.jobfile import read_duration, read_identifier, read_role
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    choice,
    integer_between,
    quantity,
    read_number,
    read_text,
)
from policies.model import GpuNeed, Needs
from scenarios.randomness import Constant
from scenarios.topology import as_is, read_sites
from scenarios.traces.folder import Traces, note_of, skipped_note
from scenarios.workload import Maker, Scope, read_task
from scenarios.world import Arrival

TRACE_KEYS = (
    "role", "name", "file", "limit", "skip", "from", "scale_time", "scale_run", "at", "priority", "task",
    "per_context_token", "per_generated_token", "gpus_per_task",
)  # fmt: skip
FILES = ("openb.jobs", "azure_llm.requests", "philly.jobs", "gavel.jobs")


class Row(NamedTuple):
    """One job of a trace: when it came and how long it ran, in µs of the trace; what it asked for, where told."""

    at_us: int
    run_us: int
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    model: str | None = None
    n_tasks: int = 1


class _Options(NamedTuple):
    """What a file says of how rows are to be read."""

    per_context_us: int
    per_generated_us: int
    gpus_per_task: int


class _Skips:
    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}

    def add(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


def read_trace(node: Node, number: int, scope: Scope) -> tuple[list[Arrival], tuple[str, ...]]:
    """The arrivals of a trace and what results have to say of it."""
    fields = Fields(node, "a trace", TRACE_KEYS)
    file = fields.required("file", choice(*FILES))
    role = fields.optional("role", read_role, "default")
    name = fields.optional("name", read_identifier, f"{file.partition('.')[0].replace('_', '-')}-{number}")
    first_us = fields.optional("from", quantity(units.parse_duration_us), 0)
    limit = fields.optional("limit", integer_between(1, 5_000_000), 5_000_000)
    n_skipped = fields.optional("skip", integer_between(0, 5_000_000), 0)
    arrival_scale = fields.optional("scale_time", _read_scale, Fraction(1))
    run_scale = fields.optional("scale_run", _read_scale, arrival_scale)
    options = _Options(
        per_context_us=fields.optional("per_context_token", read_duration, 500),
        per_generated_us=fields.optional("per_generated_token", read_duration, 30_000),
        gpus_per_task=fields.optional("gpus_per_task", integer_between(1, 1024), 8),
    )
    task = fields.required("task", as_is) if "task" in fields else Mapping(node.place, {}, {})
    spec = read_task(task, scope.sites, run=Constant(us=1_000_000))
    sites = fields.optional("at", read_sites(scope.sites), [])
    if (spec.at_home or spec.clients is not None or (spec.reads is not None and spec.reads.glob is None)) and not sites:
        raise FileError(node.place, "the task refers to the site where it arises: give the trace at: a site")
    maker = Maker(name, role, fields.optional("priority", integer_between(0, 100), 50), spec, sites, scope)
    skips = _Skips()
    arrivals: list[Arrival] = []
    begin_us: int | None = None
    for row in _rows(file, scope.traces, options, skips):
        if n_skipped:
            n_skipped -= 1
            continue
        begin_us = row.at_us if begin_us is None else begin_us
        at_us = first_us + int((row.at_us - begin_us) * arrival_scale)
        if len(arrivals) == limit or at_us >= scope.duration_us:
            break
        run_us = max(1, int(row.run_us * run_scale))
        arrivals.append(maker.make(at_us, needs=_needs(row, spec.needs), run_us=run_us, count=row.n_tasks))
    said = (note_of(file.partition(".")[0] if file != "philly.jobs" else "pollux"), *skipped_note(file, skips.reasons))
    return arrivals, said


def _read_scale(node: Node) -> Fraction:
    read_number(node)
    scale = Fraction(read_text(node))
    if scale <= 0:
        raise FileError(node.place, "a scale is above 0: 0.1 plays a trace ten times as fast")
    return scale


def _needs(row: Row, given: Needs) -> Needs:
    """The row's demand, and the file's where the row has none."""
    gpu = GpuNeed(count=row.gpus, model=row.model) if row.gpus else given.gpu
    return Needs(
        cpu_milli=given.cpu_milli if row.cpu_milli is None else row.cpu_milli,
        memory_bytes=given.memory_bytes if row.memory_bytes is None else row.memory_bytes,
        disk_bytes=given.disk_bytes,
        gpu=gpu,
        links=given.links,
    )


def _rows(file: str, traces: Traces, options: _Options, skips: _Skips) -> Iterator[Row]:
    """In order of arrival."""
    readers: dict[str, Callable[[Traces, _Options, _Skips], Iterator[Row]]] = {
        "openb.jobs": _openb,
        "azure_llm.requests": _azure,
        "philly.jobs": _philly,
        "gavel.jobs": _gavel,
    }
    return iter(sorted(readers[file](traces, options, skips), key=lambda row: row.at_us))


def _seconds(text: str) -> int:
    return int(Fraction(text) * 1_000_000)


def _openb(traces: Traces, options: _Options, skips: _Skips) -> Iterator[Row]:
    """Alibaba's pods. A share of a GPU becomes a whole one, which is said."""
    for _, row in traces.rows("openb", "openb_pod_list_default.csv"):
        if not row["deletion_time"] or not row["creation_time"]:
            skips.add("it has no time of creation or deletion")
            continue
        run_us = _seconds(row["deletion_time"]) - _seconds(row["creation_time"])
        if run_us <= 0:
            skips.add("it ended before it began")
            continue
        gpus = int(row["num_gpu"])
        models = [name for name in row["gpu_spec"].split("|") if name]
        if len(models) > 1:
            models = []  # Any of several models cannot be asked for; a pod that names one alone keeps it.
        yield Row(
            at_us=_seconds(row["creation_time"]),
            run_us=run_us,
            cpu_milli=int(row["cpu_milli"]),
            memory_bytes=int(row["memory_mib"]) * 2**20,
            gpus=gpus,
            model=models[0] if models and gpus else None,
        )


def _azure(traces: Traces, options: _Options, skips: _Skips) -> Iterator[Row]:
    """LLM requests: so much a token read and a token generated, on the reference machine."""
    for _, row in traces.rows("azure_llm", "AzureLLMInferenceTrace_conv.csv"):
        context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        run_us = context * options.per_context_us + generated * options.per_generated_us
        if run_us <= 0:
            skips.add("it has no tokens")
            continue
        yield Row(at_us=_unix_us(row["TIMESTAMP"]), run_us=run_us)


def _philly(traces: Traces, options: _Options, skips: _Skips) -> Iterator[Row]:
    """Microsoft's training jobs: GPUs in tasks of at most `gpus_per_task`, a gang where that takes several."""
    for _, row in traces.rows("pollux", "philly.csv"):
        n_gpus, run_us = int(row["num_gpus"]), _seconds(row["duration"])
        if n_gpus <= 0 or run_us <= 0:
            skips.add("it has no GPU or no duration")
            continue
        count = -(-n_gpus // options.gpus_per_task)
        yield Row(at_us=_unix_us(row["timestamp"]), run_us=run_us, gpus=-(-n_gpus // count), n_tasks=count)


def _gavel(traces: Traces, options: _Options, skips: _Skips) -> Iterator[Row]:
    """Training jobs by steps: their time on V100s alone, as its isolated throughput says."""
    for _, row in traces.rows("gavel", "phys_las.csv"):
        rate = Fraction(row["isolated_steps_per_s_v100"] or "0")
        if rate <= 0:
            skips.add("it was not measured on a V100")
            continue
        run_us = int(Fraction(row["total_steps"]) / rate * 1_000_000)
        n_gpus = int(row["scale_factor"])
        count = -(-n_gpus // options.gpus_per_task)
        yield Row(at_us=_seconds(row["arrival_s"]), run_us=run_us, gpus=-(-n_gpus // count), n_tasks=count)


def _unix_us(text: str) -> int:
    """`2023-11-16 18:15:46.6805900` (any number of decimals) as microseconds, exactly."""
    whole, _, decimals = text.partition(".")
    try:
        moment = datetime.fromisoformat(f"{whole}+00:00")
    except ValueError:
        raise ConfigError(f"{text!r} is no time") from None
    return int(moment.timestamp()) * 1_000_000 + int(f"{decimals[:6]:0<6}" or "0")
