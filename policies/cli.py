"""`offerflow policy`: what policies there are and what each is."""

import json
from typing import Annotated, Literal

import typer

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
def show(name: str, output: Output = "table") -> None:
    """Show one policy: where it comes from and how it describes itself."""
    from policies import registry

    try:
        row = _describe(name)
        registry.load(name)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(3) from None  # not found: see docs/cli.md
    if output == "json":
        typer.echo(json.dumps(row, indent=2))
    else:
        typer.echo(f"{row['name']}  ({row['object']}, from {row['package']})\n\n{row['description']}")


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
