"""Published job traces as arrivals: what each row becomes, what is left out, and why."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from federation import units
from federation.errors import ConfigError
from federation.jobfile import read_duration, read_identifier, read_role
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    Scalar,
    choice,
    integer_between,
    quantity,
    read_number,
    read_text,
)
from policies.gpus import WHOLE
from policies.model import GpuNeed, Needs
from scenarios.randomness import Constant
from scenarios.sites import as_is, read_sites
from scenarios.traces.folder import Traces, note_of, skipped_note
from scenarios.traces.networks import DAMAGED
from scenarios.workload import Maker, Scope, read_task
from scenarios.world import Arrival

OPTION_KEYS = ("per_context_token", "per_generated_token", "gpus_per_task", "rate", "sequence")
TRACE_KEYS = (
    "role", "name", "file", "limit", "skip", "from", "scale_time", "scale_run", "at", "priority", "task",
    *OPTION_KEYS,
)  # fmt: skip
SETS = {  # what can be read → the set it belongs to
    "openb.jobs": "openb", "azure_llm.requests": "azure_llm", "philly.jobs": "pollux", "pollux.jobs": "pollux",
    "gavel.jobs": "gavel", "gavel.makespan": "gavel", "gavel.small": "gavel", "deeprm.jobs": "deeprm",
}  # fmt: skip
IMPORTED = ".csv"  # what `offerflow trace import` wrote, named by its path
COLUMNS = ("at_us", "run_us", "cpu_milli", "memory_bytes", "gpus", "model", "n_tasks", "gpu_milli")


class Row(NamedTuple):
    """One job of a trace: when it came and how long it ran, in µs of the trace; what it asked for, where told. Without
    a `run_us` the trace has no run times, and the file's law draws them."""

    at_us: int
    run_us: int | None
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    model: str | None = None
    n_tasks: int = 1
    gpu_milli: int = WHOLE  # of each


class Options(NamedTuple):
    """What a file says of how rows are to be read."""

    per_context_us: int = 500
    per_generated_us: int = 30_000
    gpus_per_task: int = 8
    rate: str = "0.7"
    sequence: int = 0


def read_options(fields: Fields) -> Options:
    plain = Options()
    return Options(
        per_context_us=fields.optional("per_context_token", read_duration, plain.per_context_us),
        per_generated_us=fields.optional("per_generated_token", read_duration, plain.per_generated_us),
        gpus_per_task=fields.optional("gpus_per_task", integer_between(1, 1024), plain.gpus_per_task),
        rate=fields.optional("rate", choice("0.3", "0.5", "0.7"), plain.rate),
        sequence=fields.optional("sequence", integer_between(0, 99), plain.sequence),
    )


class Skips:
    """Rows that were left out, and rows that were taken as something else, by reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}
        self.changes: dict[str, int] = {}

    def add(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def change(self, reason: str) -> None:
        self.changes[reason] = self.changes.get(reason, 0) + 1


def read_trace(node: Node, number: int, scope: Scope) -> tuple[list[Arrival], tuple[str, ...]]:
    """The arrivals of a trace and what results have to say of it."""
    fields = Fields(node, "a trace", TRACE_KEYS)
    file = fields.required("file", _read_file)
    role = fields.optional("role", read_role, "default")
    name = fields.optional("name", read_identifier, f"{_stem(file)}-{number}")
    first_us = fields.optional("from", quantity(units.parse_duration_us), 0)
    limit = fields.optional("limit", integer_between(1, 5_000_000), 5_000_000)
    n_skipped = fields.optional("skip", integer_between(0, 5_000_000), 0)
    arrival_scale = fields.optional("scale_time", _read_scale, Fraction(1))
    run_scale = fields.optional("scale_run", _read_scale, arrival_scale)
    options = read_options(fields)
    task = fields.required("task", as_is) if "task" in fields else Mapping(node.place, {}, {})
    spec = read_task(task, scope.sites, run=Constant(us=1_000_000))
    sites = fields.optional("at", read_sites(scope.sites), [])
    priority = fields.optional("priority", integer_between(0, 100), 50)
    maker = Maker(name, role, priority, spec, sites, scope, node.place)
    skips = Skips()
    arrivals: list[Arrival] = []
    begin_us: int | None = None
    imported = read_imported(scope.folder / file) if file.endswith(IMPORTED) else None
    rows = imported.rows if imported is not None else tuple(rows_of(file, scope.traces, options, skips))
    for row in rows[n_skipped:]:
        begin_us = row.at_us if begin_us is None else begin_us
        at_us = first_us + int((row.at_us - begin_us) * arrival_scale)
        if len(arrivals) == limit or at_us >= scope.duration_us:
            break
        run_us = None if row.run_us is None else max(1, int(row.run_us * run_scale))
        arrivals.append(maker.make(at_us, needs=_needs(row, spec.needs), run_us=run_us, count=row.n_tasks))
    cut = {
        "the file skips them": min(n_skipped, len(rows)),
        "past the limit, or the end of the run": max(0, len(rows) - n_skipped) - len(arrivals),
    }
    notes = imported.notes if imported is not None else notes_of(file, skips)
    return arrivals, (*notes, *skipped_note(file, cut))


def notes_of(file: str, skips: Skips) -> tuple[str, ...]:
    """What every result has to say that rests on it."""
    changed = (f"{file}: in {count} rows {reason}" for reason, count in skips.changes.items())
    return note_of(SETS[file]), *skipped_note(file, skips.reasons), *changed


def _read_file(node: Node) -> str:
    return read_text(node) if isinstance(node, Scalar) and node.text.endswith(IMPORTED) else choice(*SETS)(node)


def _stem(file: str) -> str:
    text = file.rpartition("/")[2].partition(".")[0].replace("_", "-").lower()
    return text if text.replace("-", "").isalnum() else "trace"


# --- what was imported -----------------------------------------------------------------------------------------------


class Imported(NamedTuple):
    rows: tuple[Row, ...]
    notes: tuple[str, ...]  # source, licence and what was skipped, from its head


def imported_text(rows: Iterable[Row], notes: Iterable[str]) -> str:
    """The compact form: notes as comments, one line a job; empty where the trace does not tell."""
    lines = [f"# {note}" for note in notes]
    lines.append(",".join(COLUMNS))
    lines += [",".join("" if value is None else str(value) for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def read_imported(path: Path) -> Imported:
    """Raises `ConfigError` for what `trace import` did not write."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    notes = tuple(line.removeprefix("# ") for line in lines if line.startswith("#"))
    body = lines[len(notes) :]
    if not body or tuple(body[0].split(",")) not in (COLUMNS, COLUMNS[:-1]):  # Without shares, as it once was.
        raise ConfigError(f"{path}:{len(notes) + 1}: this is no trace that `offerflow trace import` wrote")
    rows = []
    for number, line in enumerate(body[1:], start=len(notes) + 2):
        try:
            at_us, run_us, cpu_milli, memory_bytes, gpus, model, n_tasks, *gpu_milli = line.split(",")
            rows.append(
                Row(
                    at_us=int(at_us),
                    run_us=int(run_us) if run_us else None,
                    cpu_milli=int(cpu_milli) if cpu_milli else None,
                    memory_bytes=int(memory_bytes) if memory_bytes else None,
                    gpus=int(gpus),
                    model=model or None,
                    n_tasks=int(n_tasks),
                    gpu_milli=int(*gpu_milli) if gpu_milli else WHOLE,
                )
            )
        except ValueError:
            raise ConfigError(f"{path}:{number}: {line!r} is not one number a column") from None
    return Imported(tuple(rows), notes)


def _read_scale(node: Node) -> Fraction:
    read_number(node)
    scale = Fraction(read_text(node))
    if scale <= 0:
        raise FileError(node.place, "a scale is above 0: 0.1 plays a trace ten times as fast")
    return scale


def _needs(row: Row, given: Needs) -> Needs:
    """The row's demand, and the file's where the row has none."""
    gpu = GpuNeed(count=row.gpus, model=row.model, milli=row.gpu_milli) if row.gpus else given.gpu
    return Needs(
        cpu_milli=given.cpu_milli if row.cpu_milli is None else row.cpu_milli,
        memory_bytes=given.memory_bytes if row.memory_bytes is None else row.memory_bytes,
        disk_bytes=given.disk_bytes,
        gpu=gpu,
        links=given.links,
    )


def rows_of(file: str, traces: Traces, options: Options, skips: Skips) -> Iterator[Row]:
    """In order of arrival. A row that cannot be read is one more that is skipped."""
    if file == "deeprm.jobs":
        found = _deeprm(traces, options, skips)
    else:
        found = _published(_TABLES[file], traces, options, skips)
    return iter(sorted(found, key=lambda row: row.at_us))


class Table(NamedTuple):
    """A published CSV file. `read` makes a job of a row, or says why there is none in it."""

    source: str
    file: str
    columns: tuple[str, ...]
    read: "Callable[[dict[str, str], Options, Skips], Row | str]"


def _published(table: Table, traces: Traces, options: Options, skips: Skips) -> Iterator[Row]:
    for _, row in traces.rows(table.source, table.file, *table.columns):
        try:
            found = table.read(row, options, skips)
        except (ValueError, ArithmeticError):
            found = DAMAGED
        if isinstance(found, str):
            skips.add(found)
        else:
            yield found


def _seconds(text: str) -> int:
    return int(Fraction(text) * 1_000_000)


def _openb(row: dict[str, str], options: Options, skips: Skips) -> Row | str:
    """Alibaba's pods, some of which ask for a share of a GPU."""
    if not row["deletion_time"] or not row["creation_time"]:
        return "it has no time of creation or deletion"
    at_us = _seconds(row["creation_time"])
    run_us = _seconds(row["deletion_time"]) - at_us
    if run_us <= 0:
        return "it ended before it began"
    gpus = int(row["num_gpu"])
    cpu_milli, memory_bytes = int(row["cpu_milli"]), int(row["memory_mib"]) * 2**20
    models = [name for name in row["gpu_spec"].split("|") if name] if gpus else []
    if len(models) > 1:
        skips.change("any of several GPU models became any model at all")
    return Row(
        at_us=at_us,
        run_us=run_us,
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        gpus=gpus,
        model=models[0] if len(models) == 1 else None,
        gpu_milli=int(row["gpu_milli"]) if gpus == 1 else WHOLE,
    )


def _azure(row: dict[str, str], options: Options, skips: Skips) -> Row | str:
    """LLM requests: so much a token read and a token generated, on the reference machine."""
    context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
    run_us = context * options.per_context_us + generated * options.per_generated_us
    return Row(at_us=_unix_us(row["TIMESTAMP"]), run_us=run_us) if run_us > 0 else "it has no tokens"


def _philly(row: dict[str, str], options: Options, skips: Skips) -> Row | str:
    """Microsoft's training jobs: GPUs in tasks of at most `gpus_per_task`, a gang where that takes several."""
    n_gpus, run_us = int(row["num_gpus"]), _seconds(row["duration"])
    if n_gpus <= 0 or run_us <= 0:
        return "it has no GPU or no duration"
    count = -(-n_gpus // options.gpus_per_task)
    return Row(at_us=_unix_us(row["timestamp"]), run_us=run_us, gpus=-(-n_gpus // count), n_tasks=count)


def _gavel(row: dict[str, str], options: Options, skips: Skips) -> Row | str:
    """Training jobs by steps: their time on V100s alone, as its isolated throughput says."""
    rate = Fraction(row["isolated_steps_per_s_v100"] or "0")
    if rate <= 0:
        return "it was not measured on a V100"
    run_us = int(Fraction(row["total_steps"]) / rate * 1_000_000)
    n_gpus = int(row["scale_factor"])
    count = -(-n_gpus // options.gpus_per_task)
    return Row(at_us=_seconds(row["arrival_s"]), run_us=run_us, gpus=-(-n_gpus // count), n_tasks=count)


def _pollux(row: dict[str, str], options: Options, skips: Skips) -> Row | str:
    """Training jobs of Pollux's evaluation: a gang of one GPU each. How long they run depends on what they are given,
    so the trace does not say, and the file's `run` is drawn."""
    n_replicas = int(row["num_replicas"])
    if n_replicas <= 0:
        return "it has no replica"
    return Row(at_us=_seconds(row["time"]), run_us=None, gpus=1, n_tasks=n_replicas)


_GAVEL = ("arrival_s", "total_steps", "scale_factor", "isolated_steps_per_s_v100")
_TABLES: dict[str, Table] = {
    "openb.jobs": Table(
        "openb", "openb_pod_list_default.csv",
        ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "creation_time", "deletion_time"), _openb,
    ),
    "azure_llm.requests": Table(
        "azure_llm", "AzureLLMInferenceTrace_conv.csv", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure
    ),
    "philly.jobs": Table("pollux", "philly.csv", ("timestamp", "duration", "num_gpus"), _philly),
    "pollux.jobs": Table("pollux", "workload-6.csv", ("time", "num_replicas"), _pollux),
    "gavel.jobs": Table("gavel", "phys_las.csv", _GAVEL, _gavel),
    "gavel.makespan": Table("gavel", "phys_makespan.csv", _GAVEL, _gavel),
    "gavel.small": Table("gavel", "small_test.csv", _GAVEL, _gavel),
}  # fmt: skip


def _deeprm(traces: Traces, options: Options, skips: Skips) -> Iterator[Row]:
    """One of DeepRM's hundred job sequences at a rate: a step is a second, a unit of its two resources a core and a
    gibibyte (its cluster has ten of each)."""
    path = traces.path("deeprm", f"seq_rate{options.rate}.json")
    try:
        drawn = json.loads(path.read_bytes())
        steps, sizes = drawn["len"][options.sequence], drawn["size"][options.sequence]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise ConfigError(f"{path} does not hold DeepRM's sequences") from None
    for number, (n_steps, size) in enumerate(zip(steps, sizes, strict=True)):
        if not n_steps:
            skips.add("no job came in that step")
            continue
        yield Row(
            at_us=number * 1_000_000, run_us=n_steps * 1_000_000, cpu_milli=size[0] * 1000, memory_bytes=size[1] * 2**30
        )


def _unix_us(text: str) -> int:
    """`2023-11-16 18:15:46.6805900` (any number of decimals) as microseconds, exactly."""
    whole, _, decimals = text.partition(".")
    try:
        moment = datetime.fromisoformat(f"{whole}+00:00")
    except ValueError:
        raise ValueError(f"{text!r} is no time") from None
    return int(moment.timestamp()) * 1_000_000 + int(f"{decimals[:6]:0<6}" or "0")
