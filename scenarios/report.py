"""What a run amounts to, as numbers and as a table: the same measures for every policy."""

from typing import TYPE_CHECKING

from federation import views
from policies.model import Record
from scenarios.player import Outcome

if TYPE_CHECKING:
    from rich.table import Table


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


def summarise(outcome: Outcome) -> Summary:
    master = outcome.master
    jobs = views.jobs(master)
    started = min((job.submitted_us for job in jobs), default=None)
    ended = [job.ended_us for job in jobs]
    completion = (
        (max(end for end in ended if end is not None) - started) / 1e6
        if started is not None and all(end is not None for end in ended)
        else None
    )
    durations, tiers, states = [], [], []
    after: str | None = None
    while True:
        page = views.tasks(master, after=after, limit=1000)
        for task in page.tasks:
            states.append(task.state)
            if task.state == "finished":
                tiers.append(task.tier)
                if task.ended_us is not None and task.pending_us is not None:
                    durations.append((task.ended_us - task.pending_us) / 1e6)
        after = page.next_after
        if after is None:
            break
    durations.sort()
    n_ended = sum(state in ("finished", "failed", "cancelled") for state in states)
    return Summary(
        world=outcome.world.name,
        policy=outcome.policy,
        seed=outcome.world.seed,
        completion_s=completion,
        task_p50_s=quantile(durations, 0.5),
        task_p99_s=quantile(durations, 0.99),
        uplink_bytes=outcome.bytes_between_sites,
        tasks_edge=tiers.count("edge"),
        tasks_cloud=tiers.count("cloud"),
        tasks_finished=states.count("finished"),
        tasks_failed=states.count("failed"),
        tasks_open=len(states) - n_ended,
        rounds=outcome.n_rounds,
        events=outcome.n_events,
        digest=outcome.digest,
        refused=tuple(f"{name}: {problem.title}" for name, problem in outcome.refused),
        broken_laws=outcome.broken_laws,
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """The smallest value with at least that share at or below it; None of nothing."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def table(summaries: list[Summary]) -> "Table":
    """One column a policy, one row a measure."""
    from rich.table import Table

    from federation.units import about_bytes

    shown = Table(title=f"{summaries[0].world} (simulated, seed {summaries[0].seed})", title_justify="left")
    shown.add_column("")
    for summary in summaries:
        shown.add_column(summary.policy, justify="right")

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
        "placement rounds": [str(each.rounds) for each in summaries],
        "laws broken": [str(len(each.broken_laws)) for each in summaries],
        "digest": [each.digest[:16] for each in summaries],
    }
    for name, cells in rows.items():
        shown.add_row(name, *cells)
    return shown
