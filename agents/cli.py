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
    from federation.errors import ConfigError, StorageError

    try:
        _run(read_config(config, overrides), log_level)
    except ConfigError as error:
        _fail(str(error), 2)
    except StorageError as error:
        _fail(str(error), 1)


def _run(config: "AgentConfig", log_level: str) -> None:
    import asyncio

    from agents.driver import run_agent

    _set_up_logs(log_level)
    asyncio.run(run_agent(config))


def _set_up_logs(level: str) -> None:
    """One line a record on stderr, `key=value`, from structlog and from the libraries' own loggers alike."""
    import logging
    import sys

    import structlog

    number = {"debug": 10, "info": 20, "warning": 30, "error": 40}.get(level)
    if number is None:
        raise typer.BadParameter("write --log-level debug, info, warning or error")
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="level=%(levelname)s %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _labels(pairs: list[str] | None) -> dict[str, str] | None:
    if pairs is None:
        return None
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not key or not equals:
            raise typer.BadParameter("write --label KEY=VALUE")
    return {key: value for key, _, value in split}


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(code)
