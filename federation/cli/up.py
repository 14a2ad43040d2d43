"""`offerflow up`: everything on this machine in one go, and gone again with Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from federation.cli.master import (
    BrokerPasswordFile,
    BrokerUser,
    CaFile,
    CertFile,
    Config,
    Http,
    KeyFile,
    LogLevel,
    Policy,
    Record,
    TokenFile,
    broker_settings,
    http_settings,
)
from federation.cli.output import note, say


def up(
    http: Http = None,
    agents: Annotated[int, typer.Option(min=0, max=64, help="Agents to run; the first is a cloud rack.")] = 2,
    broker: Annotated[
        str | None,
        typer.Option(
            help="The broker at mqtt://HOST:PORT, or one `embedded` here.",
            show_default="the file's or a private one",
        ),
    ] = None,
    broker_user: BrokerUser = None,
    broker_password_file: BrokerPasswordFile = None,
    tls_ca_file: CaFile = None,
    tls_cert_file: CertFile = None,
    tls_key_file: KeyFile = None,
    policy: Policy = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="Keep the state here and go on from it.", show_default="a folder that is removed"),
    ] = None,
    config: Config = None,
    token_file: TokenFile = None,
    record: Record = None,
    log_level: LogLevel = None,
) -> None:
    """Start a broker, a master with HTTP, and agents on this machine; Ctrl-C stops all of them.

    Without --state-dir everything is new, lives in a private temporary folder, and tasks that still run at the end
    are cancelled. With it, tasks go on while the rest is down, and are found again.
    """
    import asyncio

    from federation.config import LiveConfig, read_live_config
    from federation.local import Local
    from federation.serving import warm_up

    overrides = {
        **broker_settings(
            broker if broker != "embedded" else None,
            broker_user,
            broker_password_file,
            tls_ca_file,
            tls_cert_file,
            tls_key_file,
        ),
        "policy": policy,
        "recording": None if record is None else str(record),
        "log_level": log_level,
        **http_settings(http, token_file),
    }
    settings = read_live_config(config, {key: value for key, value in overrides.items() if value is not None})
    warm_up(settings.policy, note)
    configured = "" if settings.broker == LiveConfig().broker else settings.broker
    asyncio.run(Local(settings, agents, state_dir, broker or configured, say, note).run())
