"""`offerflow schema`: JSON Schema of the files that people write, for editors."""

import typer

app = typer.Typer(help="JSON Schema of the files that people write.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `job` a command of its own: Typer would fold a single command into the group."""


@app.command()
def job() -> None:
    """Print the JSON Schema of job files."""
    from federation.cli.output import print_json
    from federation.jobschema import job_schema

    print_json(job_schema())
