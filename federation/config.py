"""The settings of the master's core: one frozen record, read once. Unknown keys are fatal, each default justified here.

Durations are microseconds on the master's own clock. The values together must satisfy `check`. `MasterConfig` is the
core's; `LiveConfig` holds it and what the live driver needs, and is read from TOML.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from federation.errors import ConfigError
from federation.http.settings import HttpConfig
from federation.http.settings import check as check_http
from policies.model import Amount, Record

Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]

SECOND_US = 1_000_000
HTTP_PORT = 8642  # Where `offerflow`'s client looks for a master when it is told nothing.


class RoleConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role that exists from the first start on. A `RoleSet` fact of the journal overrides it."""

    path: str  # such as ml/vision
    weight: Positive = 1  # its share against its siblings
    quota: Amount | None = None  # the most it may hold; none: no limit
    guarantee: Amount | None = None  # kept free for the role until it has so much


class ReservationConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resources of some agents kept for a role from their first birth on (a static reservation)."""

    agents: str  # a glob of agent ids
    role: str  # whose they are
    cpu_milli: NonNegative = 0  # of each of the agents
    memory_bytes: NonNegative = 0  # of each
    disk_bytes: NonNegative = 0  # of each
    gpus: NonNegative = 0  # of each


class MasterConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the core decides by. The same record drives the live master and the scenario player."""

    # --- liveness: silence is measured from the last message of the agent's current connection ---
    # The unit of silence: an agent that lives says something this often, by renewing its offer.
    ping_every_us: Positive = 5 * SECOND_US
    # What agents are told for their echo: it measures the way through the broker, which changes within minutes.
    echo_every_us: Positive = 30 * SECOND_US
    # Two pings and a half may be missed: a Wi-Fi roam or an LTE handover takes less and must not rescind offers.
    suspect_after_us: Positive = 12 * SECOND_US
    # From suspect on: three more periods of silence, and its tasks are shown as unknown.
    disconnected_after_us: Positive = 30 * SECOND_US
    # From disconnected on: tasks keep running on a cut-off edge device, so restarting them elsewhere is dear; five
    # minutes outlast a router's reboot, and longer ones are work worth repeating.
    lost_after_us: Positive = 300 * SECOND_US
    # A quarantined agent whose second process has stayed silent for a minute was a hand-over, not a twin.
    quarantine_us: Positive = 60 * SECOND_US
    # A gap in `seq` asks for a rebirth within this spread: 5,000 births over 5 s are what one master enrols in time.
    rebirth_spread_us: NonNegative = 5 * SECOND_US
    # One rebirth request an agent in this time, whatever the number of gaps: a lossy link must not cause a storm.
    rebirth_every_us: Positive = 10 * SECOND_US

    # --- offers ---
    # Renewed often enough to be the sign of life too: one lost message costs nothing (the lease outlives two).
    offer_every_us: Positive = 5 * SECOND_US
    # All agents together renew about this often: past 2,000 agents each renews less often, and is given more silence.
    # It is told at its birth, so the first of a fleet that grows keep a faster pace: 5,000 that join at once make 770 a
    # second. A renewal costs the master some 70 µs of CPU time, so that is a twentieth of a core.
    renewals_per_s_max: Positive = 400
    # What the agent is told to ask for, and the most it gets: three renewals. Longer ones are cut to this.
    offer_lease_us: Positive = 15 * SECOND_US

    # --- agents whose way out is paid by the byte (docs/agents.md) ---
    # A renewal takes 300 bytes with all headers: 6.5 MB a month. Half an hour of NAT memory is common, two minutes is
    # the least a carrier keeps; leases and silence are stretched with it.
    metered_offer_every_us: Positive = 120 * SECOND_US
    # An echo takes 600 bytes there and back: 1.7 MB a month.
    metered_echo_every_us: Positive = 900 * SECOND_US
    # Each pair of sites, each way; a probe takes 80 KB. A real transfer within this time makes it needless.
    metered_probe_every_us: Positive = 86_400 * SECOND_US
    # Sites that such a site is probed with in one period: half of them the nearest, the others change.
    metered_peers_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4

    # --- launches ---
    # A launch that is older when it reaches the agent is refused ("expired"): the master would have re-sent it.
    launch_expires_us: Positive = 60 * SECOND_US
    # Between SIGTERM and SIGKILL; Kubernetes gives 30 s to services, batch tasks that checkpoint need a few.
    kill_grace_us: NonNegative = 5 * SECOND_US
    # Acknowledged by nobody after this long while its agent is online: sent again (same cmd_id, harmless if it came).
    resend_after_us: Positive = 10 * SECOND_US
    # Launches in one batch: with an explanation each stays below the wire's 256 KiB at ~1 KiB a launch.
    commands_per_batch_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 128

    # --- rounds ---
    # At most one round is in flight; a new one starts no sooner than this after the last began. 50 ms gather a burst
    # of submissions into one solve and are below what a person notices.
    round_every_us: NonNegative = 50_000
    # Reasons change with time alone (waits grow, links age): with work pending, a round at least this often.
    round_idle_us: Positive = 5 * SECOND_US
    # A policy that watches shards is asked this often while nothing waits: what it prepares for is minutes away.
    round_watch_us: Positive = 30 * SECOND_US
    # A policy that failed is asked again after this long, not at once: it would fail the same way.
    round_retry_us: Positive = 1 * SECOND_US
    # A round that is not answered is given up after this long and the driver's answer ignored.
    round_timeout_us: Positive = 60 * SECOND_US
    # Deadlines of demands are rounded down to this grid, so that tasks submitted together share a class: a job's
    # deadlines are seconds, and half a second of safety costs nothing.
    deadline_grid_us: Positive = 500_000
    # `why` hints look at the releases of this many agents.
    hints_max: Positive = 4
    # One refusal fact is written per demand class when its reasons change, no more often than this.
    refusal_every_us: NonNegative = 1 * SECOND_US

    # --- recovery ---
    # After a restart nothing is placed until every agent with placed tasks has been born again, or this has passed:
    # a reconnecting agent backs off for at most 15 s.
    reconcile_timeout_us: NonNegative = 30 * SECOND_US

    # --- the network ---
    # A pair of sites is probed this often when nothing passive is fresher; 256 KiB a minute is 35 kbit/s.
    probe_every_us: Positive = 60 * SECOND_US
    # A token bucket's burst hides in less, and a metered line would pay for more.
    probe_bytes_max: Positive = 256 * 1024
    # Peers one agent is asked to probe: with more sites than this, pairs rotate from plan to plan.
    probe_peers_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    # Samples kept a link. The median of 16 survives seven outliers.
    link_samples_max: Positive = 16
    # Confidence halves with each such age: mobile links change within minutes.
    link_half_life_us: Positive = 300 * SECOND_US
    # Directed links kept in the book; the least recently measured go first. 65,536 × ~1 KiB bound the memory.
    links_max: Positive = 65_536

    # --- moving work because a link changed (docs/network.md) ---
    # Running transfers and services are looked at this often: as often as agents tell how far their fetches are.
    move_look_us: Positive = 2 * SECOND_US
    # A move must promise to save a quarter of what staying costs: twice the error of a good bandwidth estimate.
    move_margin_milli: NonNegative = 250
    # What it costs to stop a task and to start it again: SIGTERM's grace and a launch's round trips.
    move_us: NonNegative = 5 * SECOND_US
    # What it costs to let a transfer go on from another source: a connection, a request and slow start.
    redirect_us: NonNegative = 1 * SECOND_US
    # What was moved is left alone for so long: a link that swings faster than this is not followed.
    move_hold_us: NonNegative = 60 * SECOND_US
    # Tasks moved and transfers redirected within any minute, over the whole federation; 0: nothing is ever moved.
    moves_per_minute_max: NonNegative = 30

    # --- roles ---
    roles: tuple[RoleConfig, ...] = (RoleConfig(path="default"),)  # those that exist from the first start on
    # A job may name a role that nobody set up; it gets weight 1 and no quota. False refuses it.
    roles_open: bool = True
    roles_max: Positive = 1_000  # a few hundred bytes each; metrics show the 100 largest

    # --- the market of frameworks (docs/market.md) ---
    # Resources kept for roles.
    reservations: tuple[ReservationConfig, ...] = ()
    # A framework's offer is void after this long: Mesos clients answer within a second or two, and what a hoarder keeps
    # comes back soon enough that nobody starves.
    lease_us: Positive = 30 * SECOND_US
    # Allocation cycles are this far apart, so that a burst of declines or new agents is one cycle. Mesos takes 1 s.
    allocate_every_us: NonNegative = 100_000
    # Where the master is: frameworks without REGION_AWARE are offered nothing of other regions. "": of every region.
    region: str = ""
    # Less than this is not worth an offer (Mesos: 0.01 CPU, 32 MiB), unless a framework names its own least.
    offer_cpu_milli_min: NonNegative = 10
    offer_memory_bytes_min: NonNegative = 32 * 2**20  # as for CPU
    # An agent whose turn is a built-in job's is left to the placement rounds for this long; then it is offered.
    left_to_rounds_us: NonNegative = 1 * SECOND_US
    # A wish (REQUEST) that nothing free can meet for this long gets agents kept for it (reserve-ahead) …
    starve_after_us: Positive = 30 * SECOND_US
    # … for at most this long, then the next starving wish has its turn.
    hold_us: Positive = 60 * SECOND_US
    # Heartbeats on each framework's stream; Mesos clients reconnect after a few are missed.
    heartbeat_us: Positive = 15 * SECOND_US
    # Updates are repeated after this long without an acknowledgement, then after twice as long, up to 64 times it.
    update_retry_us: Positive = 10 * SECOND_US
    # An inverse offer nobody answered is made again after this long.
    inverse_offer_us: Positive = 60 * SECOND_US
    # A link whose transfers under way take longer than this asks for work back (0: never).
    congestion_us: NonNegative = 0
    # Calls a second of one principal, and how many wait for their turn (0 a second: unlimited).
    calls_per_s: NonNegative = 0
    calls_waiting_max: Positive = 1_000  # of one principal; more are refused with 429
    frameworks_max: Positive = 10_000  # subscribed or within their failover time
    # Of one framework.
    framework_tasks_max: Positive = 100_000
    filters_max: Positive = 50_000  # of one framework; past it the next one has no effect
    wants_max: Positive = 256  # in one framework's REQUEST

    # --- bounds (L10): past each, a request is refused with a Problem that names the bound ---
    agents_max: Positive = 20_000  # four times the 5,000 that are measured
    # Tasks not yet ended, over all jobs: about 1 KiB each.
    tasks_max: Positive = 2_000_000
    jobs_max: Positive = 100_000  # not yet ended
    # Demand classes pending at once: a round is O(classes + nodes).
    demands_max: Positive = 20_000
    # Ended jobs (with their tasks and explanations) kept to look at; older ones are forgotten, oldest first.
    ended_jobs_max: NonNegative = 1_000
    # Tasks kept of ended jobs: one job of a million tasks is forgotten before a thousand small ones.
    ended_tasks_max: NonNegative = 200_000
    shards_max: Positive = 1_000_000  # a few hundred bytes each
    # Reads of one task, its outputs aside: the wire takes 1,024 in a launch.
    reads_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1_024
    # Dry runs in flight: each is a solve.
    dry_runs_max: Positive = 4
    # Shard copies ordered and not yet reported, over all agents: transfers compete with tasks' own reads.
    moves_in_flight_max: Positive = 64
    # A copy that nobody reported after this long is forgotten and may be planned again.
    move_timeout_us: Positive = 600 * SECOND_US
    # Run times learned: (profile, hardware) pairs, the least recently learned go first.
    profiles_max: Positive = 100_000
    # A profile's mean weighs the newest of this many samples: hardware ages and inputs drift.
    profile_samples_max: Positive = 32
    # An attempt's output kept in the book, of what the agent sent: a screenful.
    log_tail_bytes_max: NonNegative = 4_096

    def check(self) -> None:
        """Raise `ConfigError` where settings contradict each other."""
        if self.suspect_after_us <= self.ping_every_us:
            raise ConfigError("suspect_after_us must exceed ping_every_us, or every agent is suspect between two pings")
        if self.offer_lease_us <= self.offer_every_us:
            raise ConfigError("offer_lease_us must exceed offer_every_us, or every offer lapses before its renewal")
        if len({role.path for role in self.roles}) != len(self.roles):
            raise ConfigError("roles: each path may be given once")


class LiveConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the live master needs beside its core: where it keeps things, whom it talks to, how much it holds."""

    # The journal, the store of shards and the recording live here. One master a folder: the journal is locked.
    folder: str = "~/.local/state/offerflow"
    # mqtt[s]://host[:port]; a broker that knows only MQTT 3.1.1 may say so with ?protocol=3.1.1.
    broker: str = "mqtt://127.0.0.1:1883"
    broker_user: str = ""  # "": the broker asks for none, or the client certificate names us
    broker_password_file: str = ""  # a file: what stands in arguments or settings is read by too many
    tls_ca_file: str = ""  # PEM: trusted for mqtts://; "": the system's authorities
    tls_cert_file: str = ""  # PEM: shown to the broker of mqtts://; "": none
    tls_key_file: str = ""  # PEM, without a password; "": in tls_cert_file
    # Names this master at the broker: two masters on one broker need two names.
    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]([a-z0-9-]{0,62})$")] = "master"
    policy: str = "flow"  # `offerflow policy list` names them
    # Takes the rounds in which the policy raises, hangs or answers nonsense; "" leaves them unanswered. `fifo` needs no
    # kernel, no run times and no links.
    fallback_policy: str = "fifo"
    # Plans of policies from other packages are held to every clause of the kit before anything of them is applied; that
    # takes as long as a round of a simple policy. "all": the built-in ones too.
    check_plans: Literal["foreign", "all"] = "foreign"
    # Weights of the operator's own cost terms, in thousandths (docs/policies.md). Only policies that price take any.
    costs: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    master: MasterConfig = MasterConfig()  # [master]: what the core decides by
    http: HttpConfig = HttpConfig(port=HTTP_PORT)  # [http]

    # A policy that has not answered by then has hung; a round of the largest size we test takes under a second.
    solve_limit_us: Positive = 20 * SECOND_US
    # Events waiting for the core: a quarter of a second of the highest rate we measured. More wait in the broker.
    inbox_max: Positive = 2_048
    # Events handled before their facts are committed together: one fsync serves them all.
    batch_max: Positive = 512
    # A snapshot after this many facts: replaying them takes about a second.
    snapshot_every_facts: Positive = 50_000
    # Facts kept behind a snapshot for event streams that resume: at ~300 bytes each, 15 MB.
    history_facts: NonNegative = 50_000
    # "": events are not recorded.
    recording: str = ""
    # A day of a busy master; past it recording ends, and the master goes on.
    recording_bytes_max: Positive = 4 * 2**30
    # What a clean stop waits for: the broker to take what is queued.
    stop_us: Positive = 3 * SECOND_US
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # debug: a record for every event and command
    log_format: Literal["console", "json"] = "console"  # json: an object a line

    def check(self) -> None:
        """Raise `ConfigError` where settings contradict each other or name nothing that is."""
        self.master.check()
        check_http(self.http)
        if self.solve_limit_us * (2 if self.fallback_policy else 1) >= self.master.round_timeout_us:
            raise ConfigError(
                "solve_limit_us must be below master.round_timeout_us (half of it with a fallback_policy), "
                "or the core gives up first"
            )


def read_live_config(path: Path | None, overrides: dict[str, Any]) -> LiveConfig:
    """The settings of a TOML file (None: the defaults), with `overrides` on top: keys as in the file, `http.port` for
    a key of a table. Raises `ConfigError` naming the file, the key and the mend."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from None
    where = f"{path}: " if path is not None else ""
    _refuse_unknown(values, LiveConfig, where, "")
    http = values.setdefault("http", {})
    if isinstance(http, dict):
        http.setdefault("port", HTTP_PORT)
    for key, value in overrides.items():
        table, _, name = key.rpartition(".")
        inner = values.setdefault(table, {}) if table else values
        if isinstance(inner, dict):  # Else the conversion below says what it should have been.
            inner[name] = value
    try:
        config = msgspec.convert(values, LiveConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{error}") from None
    config.check()
    return config


def _refuse_unknown(values: dict[str, Any], record: type[msgspec.Struct], where: str, prefix: str) -> None:
    """msgspec refuses unknown keys too, but cannot say which one was meant."""
    types = {field.name: field.type for field in msgspec.structs.fields(record)}
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f"; did you mean {prefix + near[0]!r}?" if near else f"; known are {', '.join(types)}"
            raise ConfigError(f"{where}there is no setting {prefix + key!r}{hint}")
        if isinstance(value, dict) and isinstance(types[key], type) and issubclass(types[key], msgspec.Struct):
            _refuse_unknown(value, types[key], where, f"{prefix}{key}.")
