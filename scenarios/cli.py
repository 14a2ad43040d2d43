"""`offerflow scenario`: replay a world in simulated time."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Replay scenario files in simulated time.", no_args_is_help=True)

EXIT_INVALID = 2
EXIT_LAW = 4  # a law of the master was broken: a bug of ours


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


File = Annotated[Path, typer.Argument(help="A scenario file (YAML).", show_default=False)]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]


@app.command()
def run(
    file: File,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to run; give it several times to compare. [default: flow]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's seed.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run the world under each policy and compare: completion time, bytes moved, tasks at edge and cloud, digest."""
    import msgspec
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from federation.errors import OfferflowError
    from policies import registry
    from policies.kernels.cache import warm_up
    from scenarios.format import load_world
    from scenarios.player import play
    from scenarios.report import Summary, summarise, table

    notes = Console(stderr=True)
    world = load_world(file)
    if seed is not None:
        world = msgspec.structs.replace(world, seed=seed)
    names = policy or ["flow"]
    try:
        chosen = [(name, registry.load(name)) for name in names]
    except ValueError as error:
        raise OfferflowError(str(error)) from error
    warm_up()
    summaries: list[Summary] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
    with bar:
        for name, made in chosen:
            task = bar.add_task(f"{world.name} · {name}", total=world.duration_us, at="")

            def show(at_us: int, _: int, task_id: "object" = task) -> None:
                bar.update(task_id, completed=at_us, at=f"{at_us / 1e6:.0f} s simulated")  # type: ignore[arg-type]

            summaries.append(summarise(play(world, made, name, on_progress=show)))
            bar.remove_task(task)
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode({"runs": summaries}), indent=2).decode())
    else:
        typer.echo(f"{world.name}: {world.purpose}")
        Console().print(table(summaries))
    for summary in summaries:
        for sentence in (*summary.refused, *summary.broken_laws):
            notes.print(f"{summary.policy}: {sentence}", style="red", markup=False)
    if any(summary.broken_laws for summary in summaries):
        raise typer.Exit(EXIT_LAW)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="Scenario files.", show_default=False)]) -> None:
    """Check scenario files without running them; the first error of each is printed with its line."""
    from federation.errors import ConfigError
    from scenarios.format import load_world

    n_bad = 0
    for file in files:
        try:
            world = load_world(file)
        except ConfigError as error:
            typer.echo(str(error), err=True)
            n_bad += 1
        else:
            typer.echo(f"{file}: {world.name}, {len(world.agents)} agents, {len(world.arrivals)} jobs")
    if n_bad:
        raise typer.Exit(EXIT_INVALID)


@app.command()
def show(file: File, output: OutputOption = Output.TABLE) -> None:
    """Print the world a file describes: sites, agents, links, jobs."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from federation.units import about_bandwidth, about_bytes, about_duration
    from scenarios.format import load_world

    world = load_world(file)
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(world), indent=2).decode())
        return
    typer.echo(f"{world.name}: {world.purpose}")
    agents = Table("agent", "site", "tier", "cpu", "memory", "GPUs", "speed", "shards")
    for spec in world.agents:
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
    for from_site, to_site, truth in world.links:
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
    for arrival in world.arrivals:
        groups = ", ".join(
            f"{group.name} {f'each {group.for_each}' if group.for_each else f'× {group.count}'}"
            for group in arrival.job.tasks
        )
        jobs.add_row(about_duration(arrival.at_us), arrival.job.name, arrival.job.role, groups)
    for shown in (agents, links, jobs):
        Console().print(shown)
