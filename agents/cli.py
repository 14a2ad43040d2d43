"""`offerflow agent run`: join this machine. (The listing commands of the group talk to the master and live with it.)"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from agents.config import AgentConfig

app = typer.Typer(help="Join this machine; look at and steer those that have joined.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Join this machine; look at and steer those that have joined."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file; options override it.")] = None,
    agent_id: Annotated[str | None, typer.Option("--id", help="Name of this agent: a-z, 0-9 and hyphens.")] = None,
    site: Annotated[str | None, typer.Option(help="The site it stands at; links are measured between sites.")] = None,
    tier: Annotated[str | None, typer.Option(help="edge or cloud.")] = None,
    broker: Annotated[str | None, typer.Option(help="mqtt://HOST:PORT or mqtts://HOST:PORT.")] = None,
    broker_user: Annotated[str | None, typer.Option(help="User at the broker.")] = None,
    broker_password_file: Annotated[str | None, typer.Option(help="A file that holds the user's password.")] = None,
    tls_ca_file: Annotated[str | None, typer.Option(help="PEM of whom to trust for mqtts:// and https://.")] = None,
    tls_cert_file: Annotated[str | None, typer.Option(help="PEM of the certificate to show the broker.")] = None,
    tls_key_file: Annotated[str | None, typer.Option(help="PEM of its key.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder for its journal, shards and tasks.")] = None,
    data_host: Annotated[str | None, typer.Option(help="Address its data server listens on.")] = None,
    data_port: Annotated[int | None, typer.Option(help="Port of its data server; 0: any free one.")] = None,
    data_url: Annotated[str | None, typer.Option(help="URL that peers reach the data server by.")] = None,
    shards_folder: Annotated[str | None, typer.Option(help="Files that appear here become its shards.")] = None,
    token_file: Annotated[str | None, typer.Option(help="Bearer token of the data plane.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    cpu_milli: Annotated[int | None, typer.Option(help="Milli-CPU that tasks may use.")] = None,
    memory_bytes: Annotated[int | None, typer.Option(help="Memory that tasks may use.")] = None,
    disk_bytes: Annotated[int | None, typer.Option(help="Disk that tasks may use.")] = None,
    uplink_bps: Annotated[int | None, typer.Option(help="Emulated: caps transfers to and from other sites.")] = None,
    cpu_share_milli: Annotated[int | None, typer.Option(help="Emulated: tasks get this share of a core.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run an agent on this machine until SIGTERM or Ctrl-C. Running tasks go on and are adopted at the next start.

    Exit codes: 0 left cleanly; 1 the journal could not be kept; 2 wrong options or configuration.
    """
    from agents.config import read_config

    overrides: dict[str, Any] = {
        "agent_id": agent_id,
        "site": site,
        "tier": tier,
        "broker": broker,
        "broker_user": broker_user,
        "broker_password_file": broker_password_file,
        "tls_ca_file": tls_ca_file,
        "tls_cert_file": tls_cert_file,
        "tls_key_file": tls_key_file,
        "data_dir": data_dir,
        "data_host": data_host,
        "data_port": data_port,
        "data_url": data_url,
        "shards_folder": shards_folder,
        "token_file": token_file,
        "labels": _labels(label),
        "cpu_milli": cpu_milli,
        "memory_bytes": memory_bytes,
        "disk_bytes": disk_bytes,
        "uplink_bps": uplink_bps,
        "cpu_share_milli": cpu_share_milli,
    }
    from federation.errors import ConfigError
    from federation.mqtt_access import refuse_password

    try:
        refuse_password(broker)
        settings = read_config(config, overrides)
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("write --log-level debug, info, warning or error")
    _become_the_agent(settings, log_level)


def _become_the_agent(settings: "AgentConfig", log_level: str) -> None:
    """Replace this process by `python -m agents`, which never loads what reading options took (15 MB). The settings go
    through its standard input: arguments can be read by everyone here, and a file's broker may hold a password."""
    import os
    import sys
    import tempfile

    import msgspec

    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:  # It has no name from the start.
        file.write(msgspec.json.encode(settings))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "agents", "-", log_level])


def _labels(pairs: list[str] | None) -> dict[str, str] | None:
    if pairs is None:
        return None
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not key or not equals:
            raise typer.BadParameter("write --label KEY=VALUE")
    return {key: value for key, _, value in split}
