"""`offerflow scenario`: replay a world in simulated time."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from scenarios.format import Scenario
    from scenarios.runs import Case, Result

app = typer.Typer(help="Replay scenario files in simulated time.", no_args_is_help=True)

ROWS_MAX = 50  # of a table of `show`; -o json has all
EXIT_ERROR = 1
EXIT_INVALID = 2
EXIT_MISSED = 3  # an expectation was not met
EXIT_LAW = 4  # a law was broken, or the master or an agent raised: a bug of ours


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


File = Annotated[
    Path, typer.Argument(help="A scenario file (YAML), or the name of one that ships.", show_default=False)
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the file: name=value.")]
TracesOption = Annotated[
    Path | None, typer.Option(help="Where published traces lie, one folder a set. [default: $OFFERFLOW_TRACES]")
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]


@app.command()
def run(
    file: File,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A policy to run; give it several times to compare. [default: the file's matrix, else flow]"),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=2**31, help="Instead of the file's; several times for several runs.")
    ] = None,
    settings: SetOption = None,
    traces: TracesOption = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once, each in a process of its own.")] = 1,
    on: Annotated[str, typer.Option(help="Run on a Ray cluster: ray (one here) or ray://HOST:10001.")] = "",
    faults: Annotated[
        str | None, typer.Option(help="Only these faults of the file, by number: 2,5. [default: all]")
    ] = None,
    solve_times: Annotated[
        Path | None, typer.Option(help="Results (--json) of a run with `solve: measured`: its rounds' times again.")
    ] = None,
    live: Annotated[bool, typer.Option(help="Run real processes and a real broker, in real time.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="With --live: keep logs, journal and recordings here (a new folder).")
    ] = None,
    output: OutputOption = Output.TABLE,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all results here, for `scenario diff`.")
    ] = None,
    junit_path: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write a page with plots here.")] = None,
) -> None:
    """Run a scenario under each policy, check its laws and expectations, and compare. Exit codes: 3 an expectation was
    missed, 4 a law was broken."""
    import msgspec
    from rich.console import Console

    from policies.kernels.cache import warm_up
    from scenarios.difference import with_solve_times
    from scenarios.format import read_settings
    from scenarios.junit import junit
    from scenarios.page import page
    from scenarios.report import table, verdict_table
    from scenarios.runs import cases_of

    _check_writable(json_path, junit_path, html_path)
    scenario, cases = cases_of(
        file,
        policies=policy,
        seeds=seed,
        parameters=read_settings(settings or []),
        traces=traces,
        faults=_numbers(faults),
    )
    if solve_times is not None:
        cases = with_solve_times(cases, solve_times, scenario.world.seed)
    warm_up()
    results = _run_with_progress(scenario, cases, jobs, on, live, keep)
    summaries = [result.summary for result in results]
    if output is Output.JSON:
        shown = {"runs": summaries, "verdicts": [result.verdicts for result in results]}
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        typer.echo(f"{scenario.world.name}: {scenario.world.purpose}")
        for note in summaries[0].notes:
            typer.echo(f"  {note}")
        Console().print(table(summaries))
        if results[0].verdicts:
            Console().print(verdict_table(results))
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode({"results": results}), indent=1) + b"\n")
    if junit_path is not None:
        junit_path.write_text(junit(results), encoding="utf-8")
    if html_path is not None:
        html_path.write_text(page(scenario.world.name, scenario.world.purpose, results), encoding="utf-8")
    notes = Console(stderr=True)
    for summary in summaries:
        for sentence in (*summary.refused[:10], *summary.broken_laws):
            notes.print(f"{summary.policy}: {sentence}", style="red", markup=False)
        for line in summary.tail:
            notes.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if code := exit_code(results):
        raise typer.Exit(code)


def _check_writable(*paths: Path | None) -> None:
    """Before anything runs: a result that cannot be kept is an hour lost."""
    for path in paths:
        if path is None:
            continue
        is_new = not path.exists()
        try:
            with path.open("ab"):
                pass
            if is_new:
                path.unlink()  # A run that fails leaves no empty file that looks like results.
        except OSError as error:
            raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from None


def exit_code(results: "list[Result]") -> int:
    """The worst of what happened: a broken law, a policy that raised, a missed expectation, 0."""
    from scenarios.crash import is_crash

    broken = [sentence for result in results for sentence in result.summary.broken_laws]
    if broken:
        return EXIT_ERROR if all(is_crash(sentence, "the policy") for sentence in broken) else EXIT_LAW
    return 0 if all(verdict.ok for result in results for verdict in result.verdicts) else EXIT_MISSED


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise typer.BadParameter(f"--faults {text!r}: write numbers, such as 2,5; `scenario show` lists them") from None


def _run_with_progress(
    scenario: "Scenario", cases: "list[Case]", jobs: int, on: str, live: bool, keep: Path | None
) -> "list[Result]":
    """One bar for the run (simulated time), or for all runs where there are several; both with an ETA."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from scenarios.runs import compare, run_all, run_case, run_live

    notes = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
    slos = scenario.expect.slo
    with bar:
        if on or (jobs > 1 and len(cases) > 1 and not live):
            whole = bar.add_task(scenario.world.name, total=len(cases), at="")

            def ended(result: "Result") -> None:
                bar.update(whole, advance=1, at=f"{result.summary.policy} seed {result.summary.seed}")

            return run_all(cases, slos, jobs, ended, on)
        results: list[Result] = []
        for case in cases:
            task = bar.add_task(f"{scenario.world.name} · {case.policy}", total=scenario.world.duration_us, at="")

            def show(at_us: int, _: int, task_id: "TaskID" = task) -> None:
                bar.update(task_id, completed=at_us, at=f"{at_us / 1e6:.0f} s {'live' if live else 'simulated'}")

            results.append(run_live(case, keep, show) if live else run_case(case, show))
            bar.remove_task(task)
        return compare(results, slos)


@app.command()
def shrink(
    file: File,
    policy: Annotated[str, typer.Option(help="The policy under which it fails.")] = "flow",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31, help="The seed with which it fails. [default: the file's]")
    ] = None,
    settings: SetOption = None,
    traces: TracesOption = None,
) -> None:
    """Find the lowest seed and the fewest faults with which a run still fails as it does: the same law broken, or the
    same expectation missed."""
    from rich.console import Console

    from policies.kernels.cache import warm_up
    from scenarios.format import read_settings
    from scenarios.runs import Case
    from scenarios.shrinking import shrink as shrink_case

    notes = Console(stderr=True)

    def tried(case: Case, fails: bool) -> None:
        if notes.is_terminal:
            n_faults = "all" if case.faults is None else str(len(case.faults))
            notes.print(f"seed {case.seed}, {n_faults} faults: {'fails' if fails else 'passes'}", highlight=False)

    given = read_settings(settings or [])
    warm_up()
    case = Case(
        path=str(file), policy=policy, seed=seed, parameters=given, traces=None if traces is None else str(traces)
    )
    found = shrink_case(case, tried)
    typer.echo(f"{found.failure}")
    typer.echo(f"{len(found.faults)} of {found.n_faults_before} faults do, after {found.n_runs} runs:")
    for line in found.faults:
        typer.echo(f"  {line}")
    for line in found.result.summary.tail:
        typer.echo(f"  {line}")
    options = "".join(f" --set {name}={value}" for name, value in given.items())
    kept = ",".join(str(number) for number in found.case.faults or ())
    typer.echo(
        f"again: offerflow scenario run {file} --policy {policy} --seed {found.case.seed}{options} --faults '{kept}'"
    )


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="Made by a master with --record.", show_default=False)],
    policy: Annotated[str | None, typer.Option(help="Ask this policy instead. [default: the recorded one]")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a recording's events to the master again, and its snapshots to the policy: are the decisions the same?

    Exit codes: 3 the recorded policy decides otherwise; 4 a law was broken."""
    import msgspec

    from policies.kernels.cache import warm_up
    from scenarios.replay import replay as replay_recording

    warm_up()
    found = replay_recording(recording, policy)
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo(
            f"{found.n_events} events, {found.n_facts} facts, {found.n_rounds} rounds of {found.recorded_policy}"
        )
        typer.echo(f"{found.policy} decides the same in {found.n_equal} of {found.n_rounds}")
        if found.parting:
            typer.echo(f"first otherwise in {found.parting}")
        if not found.laws_checked:
            typer.echo("the laws were not checked: the recording begins amid the life of jobs")
        for sentence in found.broken_laws:
            typer.echo(sentence)
    if found.broken_laws:
        raise typer.Exit(EXIT_LAW)
    if found.parting and found.policy == found.recorded_policy:
        raise typer.Exit(EXIT_MISSED)


@app.command()
def record(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Made by a master with --record; of its restarts too, in order.", show_default=False),
    ],
    scenario: Annotated[Path, typer.Argument(help="The scenario file to write.", show_default=False)],
) -> None:
    """Write what a master with --record went through as a scenario. Run under the policy of then, it repeats the
    recorded events and holds each decision against the one that was made; under another policy or seed it plays the
    world that they tell of: who offered what, the links as measured, the jobs with the times that they really took, who
    was gone when."""
    from scenarios.recorded import scenario_of

    text, notes = scenario_of(recordings, scenario.parent)
    try:
        scenario.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{scenario} cannot be written: {error.strerror}") from None
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"{scenario}: offerflow scenario run {scenario}")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Results written by `scenario run --json`.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Results to compare with them.", show_default=False)],
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare two sets of results: each expectation's change, with its confidence over seeds, and the first decision
    in which equal runs part."""
    import msgspec
    from rich.console import Console

    from scenarios.difference import compare_files, difference_table

    found = compare_files(before, after)
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    Console().print(difference_table(found))
    for each in found.partings:
        typer.echo(each.sentence)
    typer.echo(f"the same in every event: {found.n_equal} of {found.n_equal + len(found.partings)} pairs")
    for name in found.unpaired:
        typer.echo(f"in one of the two only: {name}")


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Scenario files.", show_default=False)],
    settings: SetOption = None,
    traces: TracesOption = None,
) -> None:
    """Check scenario files without running them; the first error of each is printed with its line."""
    from federation.errors import ConfigError
    from scenarios.format import read_settings
    from scenarios.runs import cases_of, read_case

    n_bad = 0
    for file in files:
        try:
            scenario, cases = cases_of(file, parameters=read_settings(settings or []), traces=traces)
            world = scenario.world
            for case in {tuple(case.parameters.items()): case for case in cases if case.parameters}.values():
                read_case(case)  # Another value of a parameter makes another world.
        except ConfigError as error:
            typer.echo(str(error), err=True)
            n_bad += 1
        else:
            counts = f"{len(world.agents)} agents, {len(world.arrivals)} jobs, {len(world.faults)} faults"
            typer.echo(f"{file}: {world.name}, {counts}")
    if n_bad:
        raise typer.Exit(EXIT_INVALID)


@app.command()
def show(
    file: File, settings: SetOption = None, traces: TracesOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Print the world a file describes: sites, agents, links, jobs, faults."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from federation.units import about_bandwidth, about_bytes, about_duration
    from scenarios.faults import ends_us, sentence
    from scenarios.format import load_scenario, read_settings

    world = load_scenario(file, parameters=read_settings(settings or []), traces=traces).world
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(world), indent=2).decode())
        return
    typer.echo(f"{world.name}: {world.purpose}")
    agents = Table("agent", "site", "tier", "cpu", "memory", "GPUs", "speed", "shards")
    for spec in world.agents[:ROWS_MAX]:
        held = [shard.size_bytes for shard in world.shards if shard.agent_id == spec.agent_id]
        agents.add_row(
            spec.agent_id,
            spec.site,
            spec.tier,
            f"{spec.total.cpu_milli / 1000:g}",
            about_bytes(spec.total.memory_bytes),
            str(len(spec.total.gpus)),
            f"{spec.speed_milli / 1000:g}",
            f"{len(held)} × {about_bytes(sum(held) // len(held))}" if held else "",
        )
    links = Table("from", "to", "bandwidth", "round trip", "jitter", "loss", "shared")
    for from_site, to_site, truth in world.links[:ROWS_MAX]:
        links.add_row(
            from_site,
            to_site,
            about_bandwidth(truth.bandwidth_bps),
            about_duration(truth.rtt_us),
            about_duration(truth.jitter_us),
            f"{truth.loss_ppm / 10_000:g} %",
            "yes" if truth.shared else "no",
        )
    jobs = Table("at", "job", "role", "tasks")
    for arrival in world.arrivals[:ROWS_MAX]:
        groups = ", ".join(
            f"{group.name} {f'each {group.for_each}' if group.for_each else f'× {group.count}'}"
            for group in arrival.job.tasks
        )
        jobs.add_row(about_duration(arrival.at_us), arrival.job.name, arrival.job.role, groups)
    faults = Table("", "at", "over", "fault")
    for number, fault in enumerate(world.faults[:ROWS_MAX], start=1):
        over_us = ends_us(fault)
        faults.add_row(
            str(number),
            about_duration(fault.at_us),
            "never" if over_us is None else about_duration(over_us),
            sentence(fault),
        )
    for shown in (agents, links, jobs, *([faults] if world.faults else [])):
        Console().print(shown)
    counts = f"{len(world.agents)} agents, {len(world.links)} links, {len(world.arrivals)} jobs"
    typer.echo(f"{counts}, {len(world.faults)} faults; tables show at most {ROWS_MAX} rows each")
