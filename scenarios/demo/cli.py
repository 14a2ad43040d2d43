"""`offerflow demo`: real ML tasks on real data, placed because of what agents measured."""

from enum import StrEnum
from typing import Annotated

import typer

POLICIES = ("flow", "fifo")
SHARDS_PER_SITE = 4
IMAGES_PER_SHARD = 12_000  # 3.1 MB a shard
PIPE_COLUMNS = 110


class Keep(StrEnum):
    NEVER = "never"
    ON_ERROR = "on-error"
    ALWAYS = "always"


def demo(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of tables.")] = False,
    policy: Annotated[list[str] | None, typer.Option(help="Policies to run, in order. [default: flow, fifo]")] = None,
    keep: Annotated[Keep, typer.Option(help="Keep the processes' folder with logs and journals.")] = Keep.ON_ERROR,
) -> None:
    """Start a broker, a master, a rack and three edge agents; train on handwritten digits under flow, then fifo.

    Everything runs on loopback as separate processes. Uplinks of 2, 20 and 200 Mbit/s and slower edge cores are
    emulated by the agents and printed as such; times, bytes and accuracy are measured."""
    import asyncio
    import shutil
    import sys
    import tempfile
    from pathlib import Path

    import msgspec
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from federation.api import JobView
    from federation.errors import ConfigError
    from policies.kernels.cache import warm_up
    from scenarios.demo.play import Run, run_policy
    from scenarios.demo.report import links_table, placement_table, result_table
    from scenarios.demo.stage import EDGE_CORE_MILLI, PLANTS, RACK
    from scenarios.demo.words import intro

    try:
        from scenarios.demo.data import write_held_out, write_shards
    except ImportError as error:
        raise ConfigError(f"the demo needs scikit-learn ({error}): pip install 'offerflow[dev]'") from error

    notes = Console(stderr=True)
    names = tuple(policy or POLICIES)
    folder = Path(tempfile.mkdtemp(prefix="offerflow-demo-"))
    failed = True
    try:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=notes, disable=not notes.is_terminal)
        with bar:
            step = bar.add_task("preparing", total=None)

            def on_step(text: str) -> None:
                bar.update(step, description=text, total=None)
                if not notes.is_terminal:
                    notes.print(text, highlight=False)

            def on_job(job: JobView) -> None:
                done = job.tasks.get("finished", 0)
                bar.update(step, total=job.n_tasks, completed=done)

            on_step("loading the kernels")
            warm_up()
            on_step("making shards of handwritten digits")
            data = folder / "data"
            shards = write_shards(data, tuple(plant.site for plant in PLANTS), SHARDS_PER_SITE, IMAGES_PER_SHARD)
            write_held_out(data / RACK)
            if not json:
                notes.print(intro(shards, EDGE_CORE_MILLI), highlight=False)
            runs: list[Run] = [asyncio.run(run_policy(folder / name, name, data, on_step, on_job)) for name in names]
            bar.remove_task(step)
        failed = False
    finally:
        if keep is Keep.ALWAYS or (failed and keep is Keep.ON_ERROR):
            notes.print(f"logs and journals are kept in {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode({"runs": runs}), indent=2).decode())
        return
    out = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    for shown in (links_table(runs[0]), placement_table(runs), result_table(runs)):
        out.print(shown)
