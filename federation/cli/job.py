"""`offerflow job`: submit a job file, plan it without running it, and look after what was submitted."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.exits import CommandError, Exit
from federation.cli.output import (
    Format,
    MasterUrl,
    Output,
    TokenFile,
    ago,
    connect,
    counts,
    moment,
    note,
    print_fields,
    print_json,
    print_table,
    say,
    upload_progress,
)

if TYPE_CHECKING:
    from federation.api import JobView, PlanView, TaskView
    from federation.cli.client import Client
    from federation.jobfile import JobFile

app = typer.Typer(help="Submit jobs and look after them.", no_args_is_help=True)

WHY_MAX = 20  # Tasks of one class share their explanation; more than this is a wall of text.
POLL_S = (0.1, 0.2, 0.5, 1.0)  # and 1 s from then on: short jobs end soon, long ones cost nothing
PATIENCE_S = 120.0  # `--wait` outlasts a restart of the master

File = Annotated[Path, typer.Argument(help="A job file (YAML).", show_default=False)]
Tail = Annotated[str | None, typer.Option(help="Only the end of each log, such as 4KiB.", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, as `job list` shows it.", show_default=False)]


@app.command()
def submit(
    file: File,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the job has ended; exit 6 if it failed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON: the same as -o json.")] = False,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Upload the job's artifacts and submit it; prints the job's id."""
    from federation.jobfile import load_job

    jobfile = load_job(file)
    client = connect(master, token_file)
    upload_artifacts(client, jobfile)
    view = _submit_once(client, jobfile)
    if wait:
        view = _wait(client, view)
    if json or output is Format.JSON:
        print_json(view)
    else:
        say(f"{view.job_id}  {view.state}  {counts(view.tasks)}" if wait else view.job_id)
    if wait and view.state != "finished":
        sentence = f"job {view.job_id} {view.state}{': ' + view.detail if view.detail else ''}"
        raise CommandError(Exit.JOB_FAILED, f"{sentence}; see `offerflow job show {view.job_id}`")


@app.command()
def plan(file: File, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Show where each task would go if the job were submitted now, and why. Changes nothing."""
    from federation.jobfile import load_job

    client = connect(master, token_file)
    view = client.plan(load_job(file).job)
    if output is Format.JSON:
        print_json(view)
    else:
        _print_plan(view, {agent.agent_id: agent.site for agent in client.agents()})


@app.command("list")
def list_(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """All jobs that the master remembers."""
    client = connect(master, token_file)
    jobs = client.jobs()
    if output is Format.JSON:
        return print_json(jobs)
    now_us = client.status().now_us
    return print_table(
        ("job", "state", "role", "priority", "tasks", "submitted", "took"),
        [
            (
                job.job_id, job.state, job.role, str(job.priority), counts(job.tasks),
                f"{ago(job.submitted_us, now_us)} ago",
                ago(job.submitted_us, now_us if job.ended_us is None else job.ended_us),
            )
            for job in jobs
        ],
        right=("priority", "took"),
    )  # fmt: skip


@app.command()
def show(job_id: JobId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """One job: its state, its tasks by state, and what went wrong."""
    client = connect(master, token_file)
    job = client.job(job_id)
    if output is Format.JSON:
        return print_json(job)
    print_fields(
        (
            ("job", job.job_id),
            ("state", job.state),
            ("role", job.role),
            ("priority", str(job.priority)),
            ("submitted", moment(job.submitted_us)),
            ("ended", moment(job.ended_us) if job.ended_us is not None else ""),
            ("took", ago(job.submitted_us, client.status().now_us if job.ended_us is None else job.ended_us)),
            ("tasks", counts(job.tasks)),
            ("detail", job.detail),
        )
    )
    if services := tuple(service for service in client.services() if service.job_id == job_id):
        from federation.cli.service import print_services

        say("")
        print_services(services)
    if job.tasks.get("failed"):
        failed = client.task_page(job_id=job_id, state="failed", limit=WHY_MAX).tasks
        say("")
        print_table(("failed task", "agent", "reason", "detail"),
                    [(task.task_id, task.agent_id, task.reason, task.detail) for task in failed])  # fmt: skip
    return None


@app.command()
def demand(
    service_id: Annotated[
        str, typer.Argument(metavar="SERVICE", help="JOB/GROUP, as `net services` shows it.", show_default=False)
    ],
    asked: Annotated[
        list[str], typer.Argument(metavar="SITE=N…", help="Requests a second from a site.", show_default=False)
    ],
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Tell how much a service's client sites ask for; its replicas and their weights follow."""
    from federation.cli.service import print_services, read_demand

    view = connect(master, token_file).set_demand(service_id, read_demand(asked))
    return print_json(view) if output is Format.JSON else print_services((view,))


@app.command()
def logs(
    job_id: JobId,
    tail: Annotated[
        str | None, typer.Option(help="Only the end of each log, such as 4KiB.", show_default=False)
    ] = None,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """The output of every task of the job that has run, each line after its task."""
    from federation.cli.task import tail_bytes

    client = connect(master, token_file)
    client.job(job_id)
    for task in client.tasks(job_id=job_id):
        if not task.attempt:
            continue
        head = task.task_id.removeprefix(f"{job_id}/")
        for line in client.logs(task.task_id, tail_bytes(tail)).splitlines():
            say(f"{head}: {line}")


@app.command()
def cancel(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until its last task has ended.")] = False,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Cancel the job and end its running tasks; until the last of them has ended it is `cancelling`."""
    client = connect(master, token_file)
    client.cancel_job(job_id)
    view = client.job(job_id)  # Where nothing ran any more, the job has ended by now.
    if wait:
        try:
            for latest in _polls(client, view):
                view = latest
        except KeyboardInterrupt:
            sentence = f"the job goes on ending; `offerflow job show {job_id}` tells how far it is"
            raise CommandError(Exit.INTERRUPTED, sentence) from None
    if output is Format.JSON:
        print_json(view)
    else:
        say(f"{view.job_id}  {view.state}  {counts(view.tasks)}")


@app.command()
def why(job_id: JobId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Why the job's tasks are where they are, or are nowhere: those not yet placed first, one of each kind."""
    from federation.cli.why import why_lines

    client = connect(master, token_file)
    client.job(job_id)
    views = [client.why(task.task_id) for task in _tasks_to_explain(client, job_id)]
    if output is Format.JSON:
        return print_json(views)
    now_us = client.status().now_us
    say("\n\n".join("\n".join(why_lines(view, now_us)) for view in views) or "the job has no tasks")
    return None


# --- submitting ------------------------------------------------------------------------------------------------------


def upload_artifacts(client: "Client", jobfile: "JobFile") -> None:
    """Bring what the master's store lacks of the job's artifacts."""
    for shard_id, path in jobfile.artifacts.items():
        if not client.has_shard(shard_id):
            with upload_progress("artifact", path.stat().st_size) as progress:
                client.put_shard(shard_id, path, progress=progress)


def _submit_once(client: "Client", jobfile: "JobFile") -> "JobView":
    """Submit under one submission id, so that trying again after a broken connection makes no second job."""
    import time
    import uuid

    submission_id = uuid.uuid4().hex
    for pause_s in POLL_S:
        try:
            return client.submit(jobfile.job, submission_id)
        except CommandError as error:
            if error.exit_code is not Exit.UNREACHABLE:
                raise
            time.sleep(pause_s)
    return client.submit(jobfile.job, submission_id)


def _wait(client: "Client", view: "JobView") -> "JobView":
    """Poll until the job has ended. Ctrl-C leaves the job running and says so."""
    import sys

    from rich.console import Console

    try:
        note(f"{view.job_id} is submitted; waiting for its {view.n_tasks} task{'' if view.n_tasks == 1 else 's'}")
        if not sys.stderr.isatty():
            for latest in _polls(client, view):
                view = latest
            return view
        with Console(stderr=True).status(f"{view.job_id}: {counts(view.tasks)}") as status:
            for latest in _polls(client, view):
                view = latest
                status.update(f"{view.job_id}: {counts(view.tasks)}")
        return view
    except KeyboardInterrupt:
        sentence = f"the job runs on without you; `offerflow job show {view.job_id}` tells how it fares"
        raise CommandError(Exit.INTERRUPTED, sentence) from None


def _polls(client: "Client", view: "JobView") -> "Iterator[JobView]":
    """The job, again and again, until it has ended; the master may be away for `PATIENCE_S`."""
    import time

    n_polls, away_since = 0, None
    while view.ended_us is None:
        time.sleep(POLL_S[min(n_polls, len(POLL_S) - 1)])
        n_polls += 1
        try:
            view, away_since = client.job(view.job_id), None
        except CommandError as error:
            now = time.monotonic()
            away_since = now if away_since is None else away_since
            if error.exit_code is not Exit.UNREACHABLE or now - away_since > PATIENCE_S:
                raise
            continue
        yield view


# --- showing ---------------------------------------------------------------------------------------------------------


def _print_plan(view: "PlanView", site_of: dict[str, str]) -> None:
    from federation.cli.why import blockers_text, needs_text

    counted: dict[tuple[str, ...], int] = {}  # Classes of a group that fare the same make one row.
    for placement in view.plan.placements:
        terms = placement.terms
        best = placement.alternatives[0] if placement.alternatives else None
        next_best = f"{best.agent_id} {(best.terms.total_us() - terms.total_us()) / 1e6:+.2f}" if best else ""
        numbers = (terms.transfer_us + terms.congestion_us, terms.wait_us, terms.run_us, terms.total_us())
        cells = (f"{number / 1e6:.2f}" if terms.total_us() else "" for number in numbers)
        row = (view.groups.get(placement.demand_id, placement.demand_id), placement.agent_id, *cells, next_best)
        counted[row] = counted.get(row, 0) + placement.count
    if counted:
        header = ("group", "tasks", "agent", "transfer s", "wait s", "run s", "total s", "next best")
        rows = [(row[0], str(count), *row[1:]) for row, count in sorted(counted.items())]
        print_table(header, rows, right=("tasks", "transfer s", "wait s", "run s", "total s"))
    for refusal in view.plan.refusals:
        group = view.groups.get(refusal.demand_id, refusal.demand_id)
        say(f"{group}: {refusal.count} would wait: {blockers_text(refusal.blockers)}")
        miss = next((blocker for blocker in refusal.blockers if blocker.nearest), None)
        if miss is not None and miss.nearest is not None:
            say(f"  nearest miss {miss.nearest.agent_id}: {needs_text(miss.reason, miss.nearest)}")
        if refusal.waits_for is not None:
            wait_s = refusal.waits_for.terms.wait_us / 1e6
            say(f"  waits for {refusal.waits_for.agent_id}: free in ~{wait_s:.1f} s")
    at_site: dict[str, int] = {}
    for placement in view.plan.placements:
        site = site_of.get(placement.agent_id, placement.agent_id)
        at_site[site] = at_site.get(site, 0) + placement.count
    n_waiting = sum(refusal.count for refusal in view.plan.refusals)
    n_placed = sum(at_site.values())
    places = f" ({', '.join(f'{count} at {site}' for site, count in sorted(at_site.items()))})" if at_site else ""
    say(f"{n_placed} of {n_placed + n_waiting} tasks would be placed{places}, {n_waiting} would wait")
    say(f"by {view.policy}; nothing was changed")


def _tasks_to_explain(client: "Client", job_id: str) -> "list[TaskView]":
    """One task for each (group, state, agent), those without an agent first; at most `WHY_MAX`."""
    chosen: dict[tuple[str, str, str], TaskView] = {}
    for task in client.tasks(job_id=job_id):
        chosen.setdefault((task.group, task.state, task.agent_id), task)
    tasks = sorted(chosen.values(), key=lambda task: bool(task.agent_id))
    if len(tasks) > WHY_MAX:
        note(f"{len(tasks)} kinds of task; the first {WHY_MAX} are shown, `offerflow task why` explains any")
    return tasks[:WHY_MAX]
