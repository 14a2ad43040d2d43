"""`offerflow trace`: published traces as scenario inputs. None is shipped; where each is published is said."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Published traces as inputs of scenarios.", no_args_is_help=True)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


Name = Annotated[
    str, typer.Argument(help="A set, such as openb.jobs; `offerflow trace list` has all.", show_default=False)
]
TracesOption = Annotated[
    Path | None, typer.Option(help="Where published traces lie, one folder a set. [default: $OFFERFLOW_TRACES]")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="An option of the set: hosts=20, regions=a,b.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]


@app.command("list")
def list_sets(traces: TracesOption = None, output: OutputOption = Output.TABLE) -> None:
    """All sets that can be imported: where each is published, under which licence, and whether it is here."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from scenarios.traces.catalog import NAMES, set_of
    from scenarios.traces.folder import SOURCES, Traces

    folder = Traces(traces)
    sources = {name: SOURCES[set_of(name)] for name in NAMES}
    if output is Output.JSON:
        shown = [
            {"set": name, "here": folder.has(source.name), "licence": source.licence, "origin": source.origin}
            for name, source in sources.items()
        ]
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    table = Table("set", "here", "licence", "published at")
    for name, source in sources.items():
        table.add_row(name, "yes" if folder.has(source.name) else "no", source.licence, source.origin)
    Console().print(table)


@app.command()
def show(
    name: Name, traces: TracesOption = None, settings: SetOption = None, output: OutputOption = Output.TABLE
) -> None:
    """What a set holds: source, licence, how much of it, and what was skipped for which reason."""
    import msgspec

    from scenarios.format import read_settings
    from scenarios.traces.catalog import read_set
    from scenarios.traces.folder import Traces

    found = read_set(name, Traces(traces), read_settings(settings or []))
    if output is Output.JSON:
        shown = {"name": found.name, "notes": found.notes, "facts": found.facts}
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    for note in found.notes:
        typer.echo(note)
    for key, value in found.facts.items():
        typer.echo(f"{key:20} {value}")


@app.command("import")
def import_set(
    name: Name,
    path: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    traces: TracesOption = None,
    settings: SetOption = None,
) -> None:
    """Write a set's compact form: jobs as CSV for `workload.traces: [{file: jobs.csv}]`, a network as a file to
    `include`. Source, licence and skipped rows are in its head."""
    from scenarios.format import read_settings
    from scenarios.traces.catalog import read_set
    from scenarios.traces.folder import Traces

    found = read_set(name, Traces(traces), read_settings(settings or []))
    if path.suffix != found.suffix:
        raise typer.BadParameter(f"{name} is written as {found.suffix}: name the file so")
    try:
        path.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from None
    for note in found.notes:
        typer.echo(note)
    typer.echo(f"{path}: {len(found.text.encode())} bytes")
