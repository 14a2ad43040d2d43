"""`offerflow master run`: the master, against a broker that is already there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.output import note, say

app = typer.Typer(help="Run the master.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="TOML file; options override it.")]
Policy = Annotated[str | None, typer.Option(help="The placement policy; see `offerflow policy list`.")]
Http = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where HTTP listens.", show_default="127.0.0.1:8642")
]
TokenFile = Annotated[Path | None, typer.Option(help="A file that holds the token which HTTP clients must show.")]
Record = Annotated[Path | None, typer.Option(help="Record every event to this new file, for replay.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")]


@app.callback()
def _group() -> None:
    """Run the master."""


@app.command()
def run(
    config: Config = None,
    broker: Annotated[str | None, typer.Option(help="mqtt://HOST:PORT or mqtts://HOST:PORT.")] = None,
    policy: Policy = None,
    http: Http = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder for journal and shards.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name at the broker; two masters on one broker need two.")
    ] = None,
    token_file: TokenFile = None,
    plaintext_ok: Annotated[
        bool, typer.Option("--plaintext-ok", help="Allow HTTP without TLS beyond loopback: the network is trusted.")
    ] = False,
    record: Record = None,
    log_level: LogLevel = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.", show_default="console")] = None,
) -> None:
    """Run the master until SIGTERM or Ctrl-C. Started again on the same folder it goes on where it was.

    Exit codes: 0 stopped in order; 1 the journal could not be kept; 2 wrong options or configuration.
    """
    import asyncio

    from federation.config import read_live_config
    from federation.serving import run_master, set_up_logging, warm_up

    overrides = {
        "broker": broker,
        "policy": policy,
        "folder": None if state_dir is None else str(state_dir),
        "name": name,
        "http.plaintext_ok": plaintext_ok or None,
        "recording": None if record is None else str(record),
        "log_level": log_level,
        "log_format": log_format,
        **http_settings(http, token_file),
    }
    settings = read_live_config(config, {key: value for key, value in overrides.items() if value is not None})
    set_up_logging(settings.log_level, settings.log_format)
    warm_up(settings.policy, note)
    asyncio.run(run_master(settings, lambda _, url: say(f"the master serves at {url}")))


def http_settings(address: str | None, token_file: Path | None) -> dict[str, Any]:
    """The options as settings. Raises `ConfigError`."""
    from federation.errors import ConfigError

    settings: dict[str, Any] = {}
    if address is not None:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ConfigError(f"--http {address!r}: write HOST:PORT, for example 127.0.0.1:8642")
        settings |= {"http.host": host.strip("[]") or "127.0.0.1", "http.port": int(port)}
    if token_file is not None:
        try:
            settings["http.token"] = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the token file {token_file}: {error}") from None
    return settings
