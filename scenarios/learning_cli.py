"""`offerflow policy train`: a network for the policy `learned`. Joins the group of `policies`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.callback()
def group() -> None:
    """Only so that one command alone is a group, and can join another."""


@app.command("train")
def train(
    out: Annotated[Path, typer.Option(help="Where to write the network.", show_default=False)],
    decisions: Annotated[int, typer.Option(min=1, help="Decisions to learn from.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed, versions and machine make the same network.")] = 1,
    rates: Annotated[str, typer.Option(help="Chances of a job a step, one drawn for each episode.")] = "0.3,0.5,0.7",
) -> None:
    """Train the policy `learned` on DeepRM's cluster. Needs the extra `learn`."""
    from scenarios.learning import Training, save
    from scenarios.learning import train as run

    try:
        chosen = tuple(float(rate) for rate in rates.split(","))
    except ValueError:
        typer.echo(f"error: --rates {rates!r}: numbers, separated by commas", err=True)
        raise typer.Exit(2) from None

    def show(n_decisions: int, slowdown: float) -> None:
        typer.echo(f"{n_decisions:>9} decisions, slowdown {slowdown:.3f}")

    try:
        network = run(Training(n_decisions=decisions, seed=seed, rates=chosen), show)
    except ImportError as error:
        typer.echo(f"error: {error}; pip install 'offerflow[learn]'", err=True)
        raise typer.Exit(1) from None
    save(network, out)
    typer.echo(f"wrote {out}")
