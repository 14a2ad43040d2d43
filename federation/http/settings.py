"""Where the master's HTTP listens and whom it trusts. Wrong settings are a `ConfigError` before anything is bound."""

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated

import msgspec

from federation.errors import ConfigError
from policies.model import Record

TOKEN_LENGTH_MIN = 16  # 16 random characters of base64 are 96 bits: not guessed over a network
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # the token68 of RFC 6750: nothing else fits in the header

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Credential(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a framework shows in Basic authentication."""

    principal: Annotated[str, msgspec.Meta(pattern=r"^[^:\x00-\x1f]{1,255}$")]  # the framework's name
    secret: Annotated[str, msgspec.Meta(max_length=1024)]  # 16 characters or more


class HttpConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Loopback without a token by default; any other address needs a token, and TLS or `plaintext_ok`."""

    host: str = "127.0.0.1"  # An address, not a name: a name may resolve to something that was not meant.
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0  # 0: any free one; `offerflow` itself listens on 8642
    public_url: str = ""  # what agents are told; "": made of host and port
    token: str = ""  # whoever shows it may do everything
    token_file: str = ""  # the token stands in this file: better than in one that people read
    data_token: str = ""  # whoever shows it may read shards and nothing else: for agents; shown to them for logs
    data_token_file: str = ""  # the same for data_token
    # Frameworks that may use the scheduler endpoint and nothing else. Empty, with no token: whoever is on this machine.
    credentials: tuple[Credential, ...] = ()
    tls_cert: str = ""  # PEM; "": plain HTTP
    tls_key: str = ""  # PEM
    plaintext_ok: bool = False  # the token crosses the network readably: right only inside a tunnel or a closed network
    # The largest sensible job (256 groups, a few KiB each) is about 1 MiB.
    body_bytes_max: Positive = 4 * 2**20
    # A shard or artifact that is uploaded; agents' own shards are not bound by this.
    shard_bytes_max: Positive = 16 * 2**30
    # A client that sends or takes nothing for this long is dropped; a bad mobile link stalls for less.
    stall_us: Positive = 30_000_000
    # Half of the 1,024 files that a process may usually have open; the rest is for the journal, shards and the broker.
    connections_max: Positive = 512
    # An idle connection is kept this long for the next request. Mesos clients keep one for their calls, write to it
    # after minutes of silence, and take its end for the master's.
    keep_alive_us: Positive = 3_600_000_000
    # After an early refusal the rest of a body is read and thrown away for so long, so that the client sees the answer.
    linger_us: Positive = 10_000_000
    # The core answers within a round; a change that takes longer means that the journal or the policy hangs.
    answer_us: Positive = 30_000_000
    # Event streams open at once; each holds at most `events_queued_max` facts, about 1 KiB each.
    event_streams_max: Positive = 64
    events_queued_max: Positive = 256  # a slower client is dropped, and can resume
    # A comment this often keeps proxies from closing an idle stream (their default is 60 s) and finds dead clients.
    heartbeat_us: Positive = 15_000_000
    # After an ERROR event a framework's stream stays open this long: clients that see it close at once subscribe again
    # thousands of times a second.
    error_pause_us: Positive = 5_000_000
    # A framework that subscribes again and again has to wait this long each time, but for the first few.
    subscribe_every_us: Positive = 1_000_000
    subscribe_burst: Positive = 5  # so many at once are let through
    # What is asked of an agent for a log, at most; the agent itself keeps 4 MiB an attempt.
    log_bytes_max: Positive = 4 * 2**20


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. Names count as loopback only if they are `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check(config: HttpConfig) -> None:
    """Raise `ConfigError`, naming the mend, if the settings would expose the master or cannot work."""
    if not config.host:
        raise ConfigError("http host is empty; name an address such as 127.0.0.1")
    if not is_loopback(config.host):
        if not (config.token or config.token_file):
            raise ConfigError(f"http on {config.host} needs a token, since others can reach it; or listen on 127.0.0.1")
        if not (config.tls_cert or config.plaintext_ok):
            raise ConfigError(
                f"http on {config.host} needs tls_cert and tls_key, or plaintext_ok where the network itself is trusted"
            )
    if len({credential.principal for credential in config.credentials}) != len(config.credentials):
        raise ConfigError("http credentials: each principal may be given once")
    for credential in config.credentials:
        if len(credential.secret) < TOKEN_LENGTH_MIN:
            raise ConfigError(
                f"http credentials: {credential.principal!r} has fewer than {TOKEN_LENGTH_MIN} characters"
            )
    for name, token in (("token", config.token), ("data_token", config.data_token)):
        if token and len(token) < TOKEN_LENGTH_MIN:
            raise ConfigError(f"http {name} is shorter than {TOKEN_LENGTH_MIN} characters; make one of random ones")
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError(f"http {name} may hold letters, digits and -._~+/ only, with = at the end")
    if (config.data_token or config.data_token_file) and not (config.token or config.token_file):
        raise ConfigError("http data_token without token protects nothing; set token too")
    if config.data_token and config.data_token == config.token:
        raise ConfigError("http data_token equals token, so every agent could do everything; make two")
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("http tls_cert and tls_key belong together; set both")
    if config.public_url and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", config.public_url):
        raise ConfigError("http public_url must look like https://master.example:8080")


def with_tokens(config: HttpConfig) -> HttpConfig:
    """The checked settings with their token files read. Raises `ConfigError`."""
    check(config)
    read: dict[str, str] = {}
    for name, path in (("token", config.token_file), ("data_token", config.data_token_file)):
        if not path:
            continue
        if getattr(config, name):
            raise ConfigError(f"http {name} and {name}_file are both set; keep one")
        try:
            read[name] = Path(path).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"http {name}_file {path} cannot be read: {error}") from None
        if not read[name]:
            raise ConfigError(f"http {name}_file {path} is empty; write {TOKEN_LENGTH_MIN} or more characters into it")
    config = msgspec.structs.replace(config, token_file="", data_token_file="", **read)
    check(config)
    return config


def tls_context(config: HttpConfig) -> ssl.SSLContext | None:
    """The server's TLS (1.2 and up), or None for plain HTTP. Raises `ConfigError` if the files do not serve."""
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(Path(config.tls_cert).expanduser(), Path(config.tls_key).expanduser())
    except FileNotFoundError:
        raise ConfigError(f"http tls_cert {config.tls_cert} or tls_key {config.tls_key} does not exist") from None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"http tls_cert {config.tls_cert} with tls_key {config.tls_key}: {error}") from None
    return context
