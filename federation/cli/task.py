"""`offerflow task`: the single tasks of all jobs."""

from typing import Annotated

import typer

from federation.cli.output import (
    Format,
    MasterUrl,
    Output,
    TokenFile,
    ago,
    connect,
    moment,
    note,
    print_fields,
    print_json,
    print_table,
    say,
)

app = typer.Typer(help="Look at single tasks, and end them.", no_args_is_help=True)

TaskId = Annotated[
    str, typer.Argument(metavar="TASK", help="job/group/index, as `task list` shows it.", show_default=False)
]


@app.command("list")
def list_(
    job: Annotated[str | None, typer.Option(help="Only this job's.", show_default=False)] = None,
    state: Annotated[str | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(help="Only those on this agent.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="Stop after so many.")] = 1000,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Tasks, with where they are and since when."""
    from itertools import islice

    from federation.cli.exits import CommandError, Exit
    from federation.states import TaskState
    from federation.strictyaml import suggest
    from federation.units import about_bytes, about_duration

    if state is not None and state not in list(TaskState):
        raise CommandError(
            Exit.USAGE, f'"{state}" is no task state{suggest(state, TaskState)}; known: {", ".join(TaskState)}'
        )
    client = connect(master, token_file)
    found = list(islice(client.tasks(job_id=job, state=state, agent_id=agent), limit + 1))
    if len(found) > limit:
        note(f"there are more than {limit}; narrow it with --job, --state or --agent, or raise --limit")
    tasks = found[:limit]
    if output is Format.JSON:
        return print_json(tasks)
    now_us = client.status().now_us
    return print_table(
        ("task", "state", "for", "agent", "site", "ran", "fetched", "reason"),
        [
            (
                task.task_id,
                task.state,
                ago(task.since_us, now_us),
                task.agent_id,
                task.site,
                about_duration(task.run_us) if task.run_us is not None else "",
                about_bytes(task.fetched_bytes) if task.fetched_bytes else "",
                task.reason if task.state != TaskState.FINISHED else "",
            )
            for task in tasks
        ],
        right=("for", "ran", "fetched"),
    )


@app.command()
def show(
    task_id: TaskId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """One task: its state, attempt, times, outputs, and the end of its log."""
    from federation.units import about_bytes, about_duration

    task = connect(master, token_file).task(task_id)
    if output is Format.JSON:
        return print_json(task)
    return print_fields(
        (
            ("task", task.task_id),
            ("state", f"{task.state} since {moment(task.since_us)}"),
            ("attempt", str(task.attempt)),
            ("agent", task.agent_id and f"{task.agent_id} at {task.site} ({task.tier})"),
            ("pending", moment(task.pending_us) if task.pending_us is not None else ""),
            ("launched", moment(task.launched_us) if task.launched_us is not None else ""),
            ("ended", moment(task.ended_us) if task.ended_us is not None else ""),
            ("staged in", about_duration(task.stage_us) if task.stage_us is not None else ""),
            ("ran", about_duration(task.run_us) if task.run_us is not None else ""),
            ("fetched", about_bytes(task.fetched_bytes) if task.fetched_bytes else ""),
            ("exit code", str(task.exit_code) if task.exit_code is not None else ""),
            ("reason", task.reason),
            ("detail", task.detail),
            ("outputs", "\n".join(task.outputs)),
            ("log ends", task.log_tail.rstrip("\n")),
        )
    )


@app.command()
def logs(
    task_id: TaskId,
    tail: Annotated[str | None, typer.Option(help="Only the end, such as 4KiB.", show_default=False)] = None,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """The task's output, as its agent or the master has it."""
    typer.echo(connect(master, token_file).logs(task_id, tail_bytes(tail)), nl=False)


@app.command()
def why(task_id: TaskId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Why the task is where it is, or is nowhere: reasons, the nearest miss, what would help."""
    from federation.cli.why import why_lines

    client = connect(master, token_file)
    view = client.why(task_id)
    if output is Format.JSON:
        return print_json(view)
    say("\n".join(why_lines(view, client.status().now_us)))
    return None


@app.command()
def kill(
    task_id: TaskId, output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None
) -> None:
    """End the task's running attempt and cancel the task."""
    task = connect(master, token_file).kill_task(task_id)
    if output is Format.JSON:
        print_json(task)
    else:
        say(f"{task.task_id}  {task.state}")


def tail_bytes(text: str | None) -> int | None:
    """The option `--tail` as bytes."""
    from federation.units import parse_bytes

    return None if text is None else max(1, parse_bytes(text))
