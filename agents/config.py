"""The agent's configuration: one frozen record, read once from TOML, every default justified where it stands.

Keys are the field names below, flat; an unknown key is fatal. The core reads the first part, the live driver and the
workers the rest; a simulated agent sets only the first.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from federation.errors import ConfigError
from federation.wire import AgentId, Name
from policies.model import Record, Tier

Micros = Annotated[int, msgspec.Meta(ge=1_000, le=86_400_000_000)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Milli = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Bps = Annotated[int, msgspec.Meta(ge=1_000, le=2**53)]

_METERED_REPORT_US = 1_800_000_000  # Half an hour: 800 bytes each with headers, 1.2 MB a month.


class AgentConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # Who it is. Both ids are the operator's: the agent id is also its MQTT client id and certificate name.
    agent_id: AgentId
    site: AgentId  # where it stands: links are measured between sites
    tier: Tier = "edge"  # An agent somebody forgot to describe is a small device, not a rack.
    region: Name = ""  # jobs may ask for one
    labels: dict[Name, Name] = msgspec.field(default_factory=dict)  # such as { camera = "yes" }: jobs may ask for them
    price_microusd_per_cpu_hour: Annotated[int, msgspec.Meta(ge=0)] = 0  # A device one owns costs nothing to use.
    hardware: Name = ""  # "": named after the CPU and GPU models found.
    speed_milli: Milli | None = None  # None: measured at the first start.

    # What tasks may use; None: all that the machine has, less the reserve.
    cpu_milli: Annotated[int, msgspec.Meta(ge=0)] | None = None
    memory_bytes: Bytes | None = None  # likewise
    disk_bytes: Bytes | None = None  # likewise
    share_gpus: bool = False  # True: tasks may have shares of one. Only MPS holds them to it, so it is yours to say.
    memory_reserved_bytes: Bytes = 256 * 2**20  # The system and this agent (40 MB) keep running beside the tasks.
    disk_reserved_bytes: Bytes = 512 * 2**20  # A full root file system breaks more than the tasks.

    # Bounds of what it remembers. Each status is ≤ 33 KiB on disk, usually 200 bytes.
    tasks_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1024  # A birth lists them all; 4,096 fit in it.
    outbox_max: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 4096  # 1,024 tasks with their 3 states, offline.
    report_bytes_max: Annotated[int, msgspec.Meta(ge=65_536, le=200_000)] = 128 * 1024  # Half the largest payload.

    # Its rhythm, until the master's welcome says otherwise.
    measure_every_us: Micros = 5_000_000  # psutil costs 1 ms; 5 s keeps it at 0.02 % of a core.
    offer_debounce_us: Micros = 50_000  # A burst of task ends becomes one offer; below what a person notices.
    status_retry_min_us: Micros = 2_000_000  # Some round trips of a bad mobile link.
    status_retry_max_us: Micros = 60_000_000  # A deaf master is asked once a minute, so it recovers within one.
    net_report_every_us: Micros = 30_000_000  # Echo samples are gathered; a measured bandwidth is told at once.
    probe_bytes_per_hour: Bytes = 64 * 2**20  # 0.15 Mbit/s on average: 2 % of an 8 Mbit/s uplink.
    # A way out of the site that is paid by the byte: the agent says less, and probes within a month's allowance.
    metered: bool = False
    # Beside work: the control connection and probes, with all headers. Tariffs for machines begin at about 25 MB.
    metered_bytes_per_month: Annotated[int, msgspec.Meta(ge=1_000_000, le=2**53)] = 20_000_000
    shutdown_timeout_us: Micros = 5_000_000  # Within systemd's default stop time of 90 s, several times over.

    # --- live only ---------------------------------------------------------------------------------------------------

    data_dir: str = "~/.local/share/offerflow/agent"  # "{data_dir}/{agent_id}" holds journal, shards and tasks.
    broker: str = "mqtt://127.0.0.1:1883"  # `offerflow up` prints the one to use elsewhere.
    broker_user: str = ""  # "": the broker asks for none, or the client certificate names us
    broker_password_file: str = ""  # a file: what stands in arguments or settings is read by too many
    tls_ca_file: str = ""  # trusted for mqtts:// and for transfers over https://; "": the system's authorities
    tls_cert_file: str = ""  # shown to the broker of mqtts://; "": none
    tls_key_file: str = ""  # "": in the same file

    # The data plane. Loopback unless told: an open port is the operator's decision.
    data_host: str = "127.0.0.1"
    data_port: Port = 0  # any free one
    data_url: Name = ""  # what peers are told; "": http://{data_host}:{port}
    token_file: str = ""  # bearer token of the data plane and the master's store; "": none is asked or sent
    shards_folder: str = ""  # files that appear here become this agent's shards, named by their path
    shards_folder_every_us: Micros = 5_000_000  # Listing a folder of 1,000 files costs 1 ms.
    shards_bytes_max: Bytes | None = None  # None: the disk, less the reserve
    fetches_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4  # More at once only share the same uplink.
    uplink_bps: Bps | None = None  # emulated: caps transfers to and from other sites, both ways
    cpu_share_milli: Annotated[int, msgspec.Meta(ge=10, le=1000)] | None = None  # emulated: a slower core

    # Tasks.
    log_bytes_max: Bytes = 4 * 2**20  # per attempt: head and tail are kept, the middle goes
    logs_kept_bytes: Bytes = 256 * 2**20  # of ended attempts, oldest first out

    @property
    def report_every_us(self) -> int:
        """How often measurements that can wait are told."""
        return max(self.net_report_every_us, _METERED_REPORT_US) if self.metered else self.net_report_every_us


def read_config(path: Path | None, overrides: dict[str, Any]) -> AgentConfig:
    """Read the TOML file (None: none), then apply `overrides` (options of the command line; None values are absent).

    Raises `ConfigError` that names the place and the mend."""
    values: dict[str, Any] = {}
    where = "the options"
    if path is not None:
        where = str(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist; name a TOML file or leave --config out") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from None
    values |= {key: value for key, value in overrides.items() if value is not None}
    for key in values:
        if key not in AgentConfig.__struct_fields__:
            raise ConfigError(f"{where}: unknown key {key!r}{_suggestion(key)}")
    for key, option in (("agent_id", "--id"), ("site", "--site")):
        if key not in values:
            raise ConfigError(f"{where}: {key} is missing; set it there or give {option}")
    try:
        return msgspec.convert(values, AgentConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_at_key(str(error))}") from None


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, AgentConfig.__struct_fields__, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; docs/agents.md lists the keys"


def _at_key(text: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.site`", with the key first."""
    found = re.fullmatch(r"(.*) - at `\$\.?(.*)`", text)
    return f"{found[2]}: {found[1]}" if found else text
