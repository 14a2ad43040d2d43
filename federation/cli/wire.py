"""`offerflow wire dump`: look into recordings and captured payloads, whoever wrote them."""

from collections.abc import Iterator
from typing import IO, Annotated, Any

import typer

from federation.cli.output import Format, Output

app = typer.Typer(help="Look into recordings and captured messages.", no_args_is_help=True)

BYTES_SHOWN_MAX = 32
READ_BYTES = 2**20


@app.callback()
def _group() -> None:
    """Keeps `dump` a command of its own: Typer would fold a single command into the group."""


@app.command()
def dump(
    file: Annotated[str, typer.Argument(help="A recording, or MessagePack of any kind; - reads standard input.")],
    output: Output = Format.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many values.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show byte strings in full.")] = False,
) -> None:
    """Print every MessagePack value of a file, one a line, without knowing its schema.

    Byte strings are shown in hexadecimal, as {"$bytes": …}.
    """
    import json
    import sys
    from pathlib import Path

    from federation.cli.exits import CommandError, Exit

    try:
        stream: IO[bytes] = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{file} cannot be read: {error.strerror}") from None
    with stream:
        for number, (offset, n_bytes, value) in enumerate(_values(stream, file), start=1):
            text = json.dumps(_plain(value, None if full else BYTES_SHOWN_MAX), ensure_ascii=False)
            typer.echo(text if output is Format.JSON else f"{offset:>10} {n_bytes:>8}  {text}")
            if limit is not None and number >= limit:
                return


def _values(stream: IO[bytes], name: str) -> Iterator[tuple[int, int, Any]]:
    """Where each value begins, how many bytes it has, and the value. Raises `CommandError` where it is no value."""
    import msgpack  # type: ignore[import-untyped]

    from federation.cli.exits import CommandError, Exit

    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False, max_buffer_size=0)
    begin = 0
    try:
        while chunk := stream.read(READ_BYTES):
            unpacker.feed(chunk)
            while True:
                try:
                    value = unpacker.unpack()
                except msgpack.OutOfData:
                    break
                yield begin, unpacker.tell() - begin, value
                begin = unpacker.tell()
    except (msgpack.UnpackException, ValueError, OverflowError) as error:
        why = str(error) or "no value begins so"
        raise CommandError(Exit.USAGE, f"{name} is not MessagePack from byte {begin} on: {why}") from None
    if unpacker.tell() != begin or _is_left(unpacker):
        raise CommandError(Exit.ERROR, f"{name} ends in the middle of the value that begins at byte {begin}")


def _is_left(unpacker: Any) -> bool:
    return bool(unpacker.read_bytes(1))


def _plain(value: Any, bytes_shown: int | None) -> Any:
    """The value as JSON has them: keys are text, byte strings are hexadecimal, what JSON lacks is described."""
    if isinstance(value, dict):
        return {_key(key): _plain(inner, bytes_shown) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, bytes_shown) for inner in value]
    if isinstance(value, bytes):
        shown = value if bytes_shown is None else value[:bytes_shown]
        rest = f"… {len(value)} bytes" if len(shown) < len(value) else ""
        return {"$bytes": shown.hex() + rest}
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return {"$other": repr(value)[:200]}


def _key(key: Any) -> str:
    return _text(key) if isinstance(key, str) else repr(key)


def _text(value: str) -> str:
    """Bytes that are no UTF-8 came through as lone surrogates, which cannot be printed."""
    return value.encode("utf-8", "replace").decode("utf-8")
