"""`offerflow policy`: what policies there are, what each is, and the kit to write, judge and time another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from policies.api import Policy

EXIT_BROKEN = 1  # a clause of the kit does not hold
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3  # as in docs/cli.md

app = typer.Typer(help="Placement policies: built-in ones and those that packages brought.", no_args_is_help=True)

Output = Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_policies(output: Output = "table") -> None:
    """List the registered policies."""
    from policies import registry

    rows = [_describe(name) for name in registry.names()]
    if output == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("POLICY", "FROM", "WHAT IT IS", box=None, header_style="bold")
    for row in rows:
        table.add_row(row["name"], row["package"], row["summary"])
    Console(soft_wrap=True).print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A registered policy, as `policy list` names it.", show_default=False)],
    output: Output = "table",
) -> None:
    """Show one policy: where it comes from and how it describes itself."""
    from policies import registry

    try:
        row = _describe(name)
        registry.load(name)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_NOT_FOUND) from None
    if output == "json":
        typer.echo(json.dumps(row, indent=2))
    else:
        typer.echo(f"{row['name']}  ({row['object']}, from {row['package']})\n\n{row['description']}")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Small letters and hyphens: the policy's name and the package's.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to write it. [default: ./NAME]", show_default=False)
    ] = None,
) -> None:
    """Write a package with a policy that works, its entry point and its tests."""
    from policies.kit.template import write_package

    at = folder or Path(name)
    try:
        files = write_package(name, at)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    for path in files:
        typer.echo(f"wrote {path}")
    typer.echo(f"next: pip install -e '{at}[test]' && pytest {at} && offerflow policy check {name}")


Target = Annotated[str, typer.Argument(help="A registered policy, or module:Class that can be imported from here.")]


@app.command("check")
def check(
    policy: Target,
    examples: Annotated[int, typer.Option(min=1, help="Sequences of snapshots to try.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed tries the same worlds.")] = 0,
    limit: Annotated[float, typer.Option(min=0.001, help="Seconds a plan may take, as in the master's config.")] = 20.0,
    output: Output = "table",
) -> None:
    """Judge a policy by every clause of the conformance kit; exit code 1 when one is broken. Needs hypothesis."""
    make = _make(policy)
    from policies.conformance import CLAUSES
    from policies.kit.checking import check as run

    verdict = run(make, examples, seed, int(limit * 1e6))
    if output == "json":
        import msgspec

        fields = verdict._asdict() | {"world": msgspec.to_builtins(verdict.world)}
        typer.echo(json.dumps({"policy": policy, **fields}, indent=2))
    elif not verdict.clause:
        typer.echo(f"{policy}: {CLAUSES[0]} to {CLAUSES[-1]} hold over {verdict.n_snapshots} snapshots")
    else:
        import msgspec

        typer.echo(f"{policy}: {verdict.clause}: {verdict.detail}\n\nThe smallest sequence that shows it:")
        for snapshot in verdict.world:
            typer.echo(msgspec.json.format(msgspec.json.encode(snapshot), indent=2).decode())
    if verdict.clause:
        raise typer.Exit(EXIT_BROKEN)


@app.command("bench")
def bench(
    policy: Target,
    against: Annotated[list[str] | None, typer.Option(help="Another policy on the same worlds; repeatable.")] = None,
    agents: Annotated[str, typer.Option(help="Sizes of the cluster, comma-separated.")] = "100,1000,5000",
    classes: Annotated[int, typer.Option(min=1, help="Demand classes pending.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds timed after the first.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed measures the same rounds.")] = 0,
    output: Output = "table",
) -> None:
    """Time a round, by the number of agents."""
    from policies.kernels.cache import warm_up
    from policies.kit.benching import bench as run

    try:
        sizes = [int(size) for size in agents.split(",")]
    except ValueError:
        typer.echo(f"error: --agents {agents!r}: numbers, separated by commas", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    makes = [(name, _make(name)) for name in (policy, *(against or ()))]
    warm_up()
    timings = [run(name, make, size, classes, rounds, seed) for size in sizes for name, make in makes]
    if output == "json":
        typer.echo(json.dumps([timing._asdict() for timing in timings], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("POLICY", "AGENTS", "TASKS", "PLACED", "FIRST", "MEDIAN", "WORST", box=None, header_style="bold")
    for each in timings:
        times = (f"{value:.1f} ms" for value in (each.first_ms, each.p50_ms, each.worst_ms))
        table.add_row(each.policy, str(each.n_agents), str(each.n_tasks), str(each.n_placed), *times)
    Console(soft_wrap=True).print(table)


def _make(target: str) -> "Callable[[], Policy]":
    """What makes the policy; ends the command when there is none of that name."""
    import importlib
    import sys

    from policies import registry

    try:
        if ":" not in target:
            registry.load(target)
            return lambda: registry.load(target)
        module, _, name = target.partition(":")
        sys.path.insert(0, "")
        found: Callable[[], Policy] = getattr(importlib.import_module(module), name)
        return found
    except (ValueError, ImportError, AttributeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_NOT_FOUND) from None


def _describe(name: str) -> dict[str, str]:
    """What is known of a policy without running it; one that does not import says why."""
    import importlib
    import inspect

    from policies import registry

    point = registry.entry(name)
    try:
        module = importlib.import_module(point.module)
        text = inspect.getdoc(module) or inspect.getdoc(getattr(module, point.attr)) or ""
    except (ImportError, AttributeError) as error:
        text = f"does not load: {error}"
    package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"
    summary = text.split("\n\n")[0].replace("\n", " ")
    return {"name": name, "object": point.value, "package": package, "summary": summary, "description": text}
