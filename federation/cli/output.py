"""What every command shares: how it reaches the master, and how it prints tables, JSON, progress and notes.

Results go to stdout, everything else to stderr. Tables have colours on a terminal only, and their lines are never cut.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from federation.cli.client import Client, Progress


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


MASTER_HELP = "The master's address."
TOKEN_HELP = "A file that holds the token; else the environment's OFFERFLOW_TOKEN."
OUTPUT_HELP = "How to print."
MasterUrl = Annotated[
    str | None,
    typer.Option("--master", envvar="OFFERFLOW_URL", help=MASTER_HELP, show_default="http://127.0.0.1:8642"),
]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help=TOKEN_HELP)]
Output = Annotated[Format, typer.Option("--output", "-o", help=OUTPUT_HELP)]


def connect(master: str | None, token_file: Path | None) -> "Client":
    """The client for the options that every command takes. Nothing is sent yet."""
    from federation.cli.client import DEFAULT_URL, Client

    token = os.environ.get("OFFERFLOW_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(Exit.USAGE, f"cannot read the token file {token_file}: {error}") from None
    if any(not "!" <= char <= "~" for char in token):
        raise CommandError(
            Exit.USAGE, "the token holds characters that no token has; write one line of printable ASCII"
        )
    return Client(master or DEFAULT_URL, token)


def print_json(value: Any) -> None:
    """A value of ours, or a list of them, as indented JSON."""
    import json

    import msgspec

    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """Columns two blanks apart under a header; those named in `right` are set right. Lines are never cut or folded."""
    from rich.cells import cell_len  # wide characters take two columns

    table = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(cell) for cell in column) for column in zip(*table, strict=True)]
    numeric = [title in set(right) for title in header]
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for index, row in enumerate(table):
        line = []
        for cell, width, to_right in zip(row, widths, numeric, strict=True):
            blanks = " " * (width - cell_len(cell))
            styled = _styled(cell, is_title=index == 0) if colours else cell
            line.append(blanks + styled if to_right else styled + blanks)
        typer.echo("  ".join(line).rstrip(), color=colours)


def _styled(cell: str, *, is_title: bool) -> str:
    if is_title:
        return typer.style(cell, bold=True)
    return typer.style(cell, fg=_COLOURS[cell]) if cell in _COLOURS else cell


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """`name  value` lines, for one thing; empty values are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        head = f"{name:<{width}}  "
        typer.echo(head + printable(value).replace("\n", "\n" + " " * len(head)))


def say(text: str) -> None:
    """A line of the result, on stdout."""
    typer.echo(printable(text))


def note(text: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    typer.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Without control characters: what agents and tasks say must not drive the terminal."""
    return "".join(char if char == "\n" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


@contextmanager
def upload_progress(title: str, n_bytes: int) -> "Iterator[Progress | None]":
    """A progress bar on stderr while bytes move; None when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(printable(title), total=n_bytes)
        yield lambda n: progress.advance(task, n)


# States, wherever they stand in a table.
_COLOURS = {
    "running": "cyan", "staging": "cyan", "assigned": "cyan", "finished": "green", "online": "green",
    "failed": "red", "lost": "red", "quarantined": "red", "cancelled": "yellow", "unknown": "yellow",
    "suspect": "yellow", "disconnected": "yellow", "draining": "yellow", "cordoned": "yellow",
}  # fmt: skip


# --- cells -----------------------------------------------------------------------------------------------------------


def moment(at_us: int) -> str:
    """A Unix time as local date and time."""
    from datetime import datetime

    return datetime.fromtimestamp(at_us / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(since_us: int, now_us: int) -> str:
    """`18 s`: how long ago on the master's clock, in whole seconds."""
    from federation.units import about_duration

    seconds = max(0, now_us - since_us) // 1_000_000
    return about_duration(seconds * 1_000_000) if seconds else "0 s"


def counts(numbers: dict[str, int]) -> str:
    """`3 running, 1 failed`; zeros left out."""
    return ", ".join(f"{count} {name}" for name, count in numbers.items() if count) or "none"
