"""`offerflow master run`: the master, against a broker that is already there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.output import note, say

app = typer.Typer(help="Run the master.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="TOML file; options override it.")]
Policy = Annotated[str | None, typer.Option(help="The placement policy; see `offerflow policy list`.")]
BROKER_HELP = "mqtt://HOST:PORT or mqtts://HOST:PORT."
BrokerUser = Annotated[str | None, typer.Option(help="User at the broker.")]
BrokerPasswordFile = Annotated[Path | None, typer.Option(help="A file that holds the user's password.")]
CaFile = Annotated[
    Path | None,
    typer.Option("--tls-ca-file", help="PEM of whom to trust for mqtts://.", show_default="the system's authorities"),
]
CertFile = Annotated[Path | None, typer.Option("--tls-cert-file", help="PEM of the certificate to show the broker.")]
KeyFile = Annotated[
    Path | None, typer.Option("--tls-key-file", help="PEM of its key.", show_default="in the certificate's file")
]
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
    broker: Annotated[str | None, typer.Option(help=BROKER_HELP)] = None,
    broker_user: BrokerUser = None,
    broker_password_file: BrokerPasswordFile = None,
    tls_ca_file: CaFile = None,
    tls_cert_file: CertFile = None,
    tls_key_file: KeyFile = None,
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
        **broker_settings(broker, broker_user, broker_password_file, tls_ca_file, tls_cert_file, tls_key_file),
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


def broker_settings(
    broker: str | None,
    user: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
) -> dict[str, Any]:
    """The options as settings. Raises `ConfigError` for a password among them."""
    from federation.mqtt_access import refuse_password

    refuse_password(broker)
    files = {
        "broker_password_file": password_file,
        "tls_ca_file": ca_file,
        "tls_cert_file": cert_file,
        "tls_key_file": key_file,
    }
    # Absolute: agents that `up` starts read them too.
    paths = {key: None if path is None else str(path.expanduser().absolute()) for key, path in files.items()}
    return {"broker": broker, "broker_user": user, **paths}


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
