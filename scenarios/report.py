"""What a run amounts to, as numbers and as a table: the same measures for every policy."""

from typing import TYPE_CHECKING

import msgspec

from federation.states import TERMINAL_STATES, TaskState
from policies.model import Record
from scenarios.expect import Metric, Verdict, shown
from scenarios.injection import Incident
from scenarios.metrics import Metrics, quantile
from scenarios.player import Outcome
from scenarios.predictions import thirds
from scenarios.records import Records

if TYPE_CHECKING:
    from rich.table import Table

    from scenarios.runs import Result


COLUMNS_MAX = 6  # runs that a terminal has room for side by side


class Summary(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One policy on one world. Times are simulated. `completion_s` is from the first submission to the last job's end,
    None while a job has not ended."""

    world: str
    policy: str
    seed: int
    completion_s: float | None
    task_p50_s: float | None  # from pending to ended, queueing and transfers included
    task_p99_s: float | None
    uplink_bytes: int
    tasks_edge: int
    tasks_cloud: int
    tasks_finished: int
    tasks_failed: int
    tasks_open: int
    rounds: int
    events: int
    digest: str
    refused: tuple[str, ...]
    broken_laws: tuple[str, ...]
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    incidents: tuple[Incident, ...] = ()
    tail: tuple[str, ...] = ()  # the last events before the first broken law
    live: bool = False
    replayed: bool = False
    # Mean of |expected - taken| / taken over the first and the last third of the tasks that finished.
    prediction_error_first: float | None = None
    prediction_error_last: float | None = None


def summarise(outcome: Outcome, records: Records | None = None, parameters: dict[str, str] | None = None) -> Summary:
    records = records or Records(outcome)
    metrics = Metrics(records)
    tasks = list(records.tasks.values())
    finished = [task for task in tasks if task.state is TaskState.FINISHED]
    tiers = [records.specs[task.agent_id].tier for task in finished]
    durations = sorted(
        (task.ended_us - task.pending_us) / 1e6
        for task in finished
        if task.ended_us is not None and task.pending_us is not None
    )
    first_error, last_error = thirds(outcome.facts)
    makespan_us = metrics.value(Metric(measure="makespan"))
    return Summary(
        world=outcome.world.name,
        policy=outcome.policy,
        seed=outcome.world.seed,
        completion_s=None if makespan_us is None else makespan_us / 1e6,
        task_p50_s=quantile(durations, 0.5),
        task_p99_s=quantile(durations, 0.99),
        uplink_bytes=outcome.bytes_between_sites,
        tasks_edge=tiers.count("edge"),
        tasks_cloud=tiers.count("cloud"),
        tasks_finished=len(finished),
        tasks_failed=sum(task.state is TaskState.FAILED for task in tasks),
        tasks_open=sum(task.state not in TERMINAL_STATES for task in tasks),
        rounds=outcome.n_rounds,
        events=outcome.n_events,
        digest=outcome.digest,
        refused=tuple(f"{name}: {problem.title}" for name, problem in outcome.refused),
        broken_laws=outcome.broken_laws,
        parameters=parameters or {},
        notes=outcome.world.notes,
        incidents=outcome.incidents,
        tail=outcome.tail,
        live=outcome.live,
        replayed=outcome.n_decided_otherwise is not None,
        prediction_error_first=first_error,
        prediction_error_last=last_error,
    )


def table(summaries: list[Summary]) -> "Table":
    """One column a run, one row a measure; of many runs one row a policy and parameters, averaged over seeds."""
    from rich.table import Table

    from federation.units import about_bytes

    if len(summaries) > COLUMNS_MAX:
        return _table_of_means(summaries)
    seeds = sorted({summary.seed for summary in summaries})
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    how = "live" if summaries[0].live else "replayed" if summaries[0].replayed else "simulated"
    shown_table = Table(title=f"{summaries[0].world} ({how}, {seed})", title_justify="left")
    shown_table.add_column("")
    for summary in summaries:
        shown_table.add_column(_head(summary, len(seeds) > 1), justify="right")

    def seconds(value: float | None) -> str:
        return "not ended" if value is None else f"{value:.1f} s"

    rows = {
        "completion time": [seconds(each.completion_s) for each in summaries],
        "task time p50": [seconds(each.task_p50_s) for each in summaries],
        "task time p99": [seconds(each.task_p99_s) for each in summaries],
        "bytes between sites": [about_bytes(each.uplink_bytes) for each in summaries],
        "tasks at the edge": [str(each.tasks_edge) for each in summaries],
        "tasks in the cloud": [str(each.tasks_cloud) for each in summaries],
        "failed / not ended": [f"{each.tasks_failed} / {each.tasks_open}" for each in summaries],
        "prediction error": [_errors(each) for each in summaries],
        "placement rounds": [str(each.rounds) for each in summaries],
        "faults": [str(len(each.incidents)) for each in summaries],
        "laws broken": [str(len(each.broken_laws)) for each in summaries],
        "digest": [each.digest[:16] for each in summaries],
    }
    if not any(summary.incidents for summary in summaries):
        del rows["faults"]
    for name, cells in rows.items():
        shown_table.add_row(name, *cells)
    return shown_table


def _table_of_means(summaries: list[Summary]) -> "Table":
    from rich.table import Table

    from federation.units import about_bytes

    kinds: dict[str, list[Summary]] = {}
    for each in summaries:
        kinds.setdefault(_head(each, many_seeds=False).replace("\n", " "), []).append(each)
    shown_table = Table(title=f"{summaries[0].world}: {len(summaries)} runs, means over seeds", title_justify="left")
    for head in ("", "runs", "completion", "task p50", "task p99", "bytes", "failed / open", "laws broken"):
        shown_table.add_column(head, justify="right" if head else "left", overflow="fold")

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        missing = f" ({len(values) - len(known)} not ended)" if len(known) < len(values) else ""
        return f"{sum(known) / len(known):.1f} s{missing}" if known else "not ended"

    for name, runs in kinds.items():
        shown_table.add_row(
            name,
            str(len(runs)),
            mean([each.completion_s for each in runs]),
            mean([each.task_p50_s for each in runs]),
            mean([each.task_p99_s for each in runs]),
            about_bytes(sum(each.uplink_bytes for each in runs) // len(runs)),
            f"{sum(each.tasks_failed for each in runs)} / {sum(each.tasks_open for each in runs)}",
            str(sum(len(each.broken_laws) for each in runs)),
        )
    return shown_table


def _errors(summary: Summary) -> str:
    """Of the first third of the tasks, and of the last: what was learned in between is the difference."""
    first, last = summary.prediction_error_first, summary.prediction_error_last
    return "none" if first is None or last is None else f"{first:.0%} → {last:.0%}"


def _head(summary: Summary, many_seeds: bool) -> str:
    parts = [summary.policy, *([f"seed {summary.seed}"] if many_seeds else [])]
    return "\n".join([*parts, *(f"{name}={value}" for name, value in summary.parameters.items())])


def verdict_table(results: "list[Result]") -> "Table":
    """One row an expectation, one column a run; of many runs, how many met it."""
    from rich.table import Table

    if len(results) > COLUMNS_MAX:
        return _verdicts_of_many(results)
    shown_table = Table(title="expectations", title_justify="left")
    shown_table.add_column("", overflow="fold")
    many_seeds = len({result.summary.seed for result in results}) > 1
    for result in results:
        shown_table.add_column(_head(result.summary, many_seeds), justify="right")
    for number, first in enumerate(results[0].verdicts):
        cells = [_cell(result.verdicts[number], result.case.is_baseline) for result in results]
        shown_table.add_row(first.text, *cells)
    return shown_table


def _verdicts_of_many(results: "list[Result]") -> "Table":
    """How many runs of each kind met each expectation, and which seeds missed it."""
    from rich.table import Table

    kinds: dict[str, list[Result]] = {}
    for each in results:
        if each.case.is_baseline:
            continue  # Nothing is expected of it.
        kinds.setdefault(_head(each.summary, many_seeds=False).replace("\n", " "), []).append(each)
    shown_table = Table("", "expectation", "met", "missed by seeds", title="expectations", title_justify="left")
    for name, runs in kinds.items():
        for number, first in enumerate(runs[0].verdicts):
            missed = [run.summary.seed for run in runs if not run.verdicts[number].ok]
            met = f"{len(runs) - len(missed)} of {len(runs)}"
            colour = "red" if missed else "green"
            seeds = ", ".join(str(seed) for seed in missed[:20]) + (" …" if len(missed) > 20 else "")
            shown_table.add_row(name, first.text, f"[{colour}]{met}[/{colour}]", seeds)
    return shown_table


def _cell(verdict: Verdict, is_baseline: bool) -> str:
    text = shown(verdict.value, verdict.kind)
    if is_baseline:
        return text
    why = f" ({verdict.why})" if verdict.why else ""
    return f"[green]{text}{why}[/green]" if verdict.ok else f"[red]{text} missed{why}[/red]"
