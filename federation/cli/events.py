"""`offerflow events`: what the master's journal records, as it is recorded."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.output import Format, MasterUrl, Output, TokenFile, connect, note, printable

if TYPE_CHECKING:
    from federation.cli.client import StreamEvent

IDLE_S = 1.0  # Without --follow: a master that has sent nothing for so long has sent all it had.
VALUE_CHARACTERS_MAX = 60
# What a line begins with, by kind of thing; the rest of the fact follows as key=value.
_LEAD = ("job_id", "task_id", "agent_id", "shard_id", "path")


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print what comes.")] = False,
    after: Annotated[
        int | None,
        typer.Option(min=0, help="Begin after this event; 0 is the oldest kept.", show_default="0, or now with -f"),
    ] = None,
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Print the journal's facts, oldest first; -f goes on for ever and resumes where a connection broke."""
    import json

    start = after if after is not None or follow else 0
    client = connect(master, token_file)
    stream = client.events(
        start,
        idle_s=None if follow else IDLE_S,
        on_reconnect=lambda reason: note(f"{reason}; reconnecting"),
    )
    for event in stream:
        if output is Format.JSON:  # One document a line, for pipes.
            typer.echo(json.dumps({"seq": event.seq, "event": event.kind, "data": event.data}, ensure_ascii=False))
        else:
            typer.echo(printable(event_line(event)))


def event_line(event: "StreamEvent") -> str:
    """`   42  14:03:09.120  task_state  digits/train/0  state=running agent_id=gw-1`."""
    from datetime import datetime

    data = dict(event.data)
    at_us = data.pop("at_us", None)
    time = datetime.fromtimestamp(at_us / 1e6).strftime("%H:%M:%S.%f")[:-3] if isinstance(at_us, int) else " " * 12
    data.pop("type", None)
    lead = next((str(data.pop(key)) for key in _LEAD if data.get(key)), "")
    if len(lead) == 64:  # A shard's hash: twelve digits tell them apart.
        lead = lead[:12]
    rest = " ".join(f"{key}={_brief(value)}" for key, value in data.items() if value not in ("", None, [], {}))
    return "  ".join(part for part in (f"{event.seq:>7}", time, f"{event.kind:<14}", lead, rest) if part).rstrip()


def _brief(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "⏎")
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"
