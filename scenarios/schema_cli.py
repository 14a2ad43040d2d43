"""`offerflow schema scenario`: beside the schemas of the lower packages, in their group."""

import typer

app = typer.Typer(help="JSON Schema of the files that people write.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `scenario` a command of its own: Typer would fold a single command into the group."""


@app.command()
def scenario() -> None:
    """Print the JSON Schema of scenario files."""
    from federation.cli.output import print_json
    from scenarios.schema import scenario_schema

    print_json(scenario_schema())
