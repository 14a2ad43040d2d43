"""`offerflow policy compare`: policies on the same scenarios and seeds, side by side. Joins the group of `policies`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from policies.cli import EXIT_NOT_FOUND

app = typer.Typer()

EXIT_LAW = 4  # as in `offerflow scenario run`


@app.callback()
def group() -> None:
    """Only so that one command alone is a group, and can join another."""


@app.command("compare")
def compare(
    policies: Annotated[list[str], typer.Argument(help="Policies; the first is what the others are held against.")],
    scenario: Annotated[
        list[Path], typer.Option(help="A scenario file, or the name of one that ships; repeatable.", show_default=False)
    ],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the scenario's own on.")] = 3,
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="How to print.")] = "table",
) -> None:
    """Play scenarios under each policy: completion and task times, bytes between sites, and how long deciding took."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from federation.units import about_bytes
    from policies import registry
    from policies.kernels.cache import warm_up
    from scenarios.comparison import Row, run

    for name in policies:
        try:
            registry.load(name)
        except ValueError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_NOT_FOUND) from None
    warm_up()
    rows: list[Row] = [run(path, name, seeds) for path in scenario for name in policies]
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:

        def seconds(row: Row, name: str) -> str:
            value, base = getattr(row, name), getattr(first[row.scenario], name)
            if value is None:
                return "not ended"
            return (
                f"{value:.1f} s" if not base or row is first[row.scenario] else f"{value:.1f} s ({value / base:.2f}×)"
            )

        first: dict[str, Row] = {}
        table = Table(
            "SCENARIO", "POLICY", "COMPLETION", "TASK P50", "TASK P99", "BETWEEN SITES", "FAILED", "DECIDING P50",
            "P99",
            box=None, header_style="bold",
        )  # fmt: skip
        for row in rows:
            first.setdefault(row.scenario, row)
            table.add_row(
                row.scenario, row.policy, seconds(row, "completion_s"), seconds(row, "task_p50_s"),
                seconds(row, "task_p99_s"), about_bytes(row.uplink_bytes), f"{row.tasks_failed + row.tasks_open}",
                f"{row.decision_p50_ms:.1f} ms", f"{row.decision_p99_ms:.1f} ms",
            )  # fmt: skip
        Console(soft_wrap=True).print(table)
        typer.echo(f"means over {seeds} seeds; simulated times, but for deciding, which was measured here")
    if any(row.broken_laws for row in rows):
        raise typer.Exit(EXIT_LAW)
