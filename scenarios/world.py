"""A world as the player needs it: sites, agents, links, what lies where, which jobs come when, and what breaks."""

from typing import Final, Literal, get_args

import msgspec

from federation.config import RoleConfig
from federation.jobs import Job
from policies.model import LatencyTarget, Record, Resources, Tier
from scenarios.faults import Fault
from scenarios.transport import LinkSpec

DIGEST_BYTES = 16
START_US = 1_700_000_000_000_000  # Simulated runs begin at a fixed Unix time: digests hold no wall clock.


class AgentSpec(Record, frozen=True, kw_only=True):
    """One simulated agent. `uplink` is the line, outward and inward, over which it reaches other sites and the master.

    `access` names the links between it and its site's core, its own first: a rack, a pod. `total` is what it claims;
    `real` is what it has, where that is less: its tasks then share it, and run slower."""

    agent_id: str
    site: str
    tier: Tier
    total: Resources
    region: str = ""
    hardware: str = "reference"
    speed_milli: int = 1000
    price_microusd_per_cpu_hour: int = 0
    gpu_prices: tuple[tuple[str, int], ...] = ()  # model → micro-dollars an hour of one
    uplink: tuple[LinkSpec, LinkSpec] | None = None
    metered: bool = False  # its way out is paid by the byte
    labels: tuple[tuple[str, str], ...] = ()
    access: tuple[str, ...] = ()
    real_cpu_milli: int | None = None
    group: str = ""  # the name it was counted under in the file


class ShardSpec(Record, frozen=True, kw_only=True):
    """A shard that an agent holds from the start, or from a job's arrival; its id is derived from its name."""

    name: str
    size_bytes: int
    agent_id: str


class Training(Record, frozen=True, kw_only=True):
    """How the workers of an elastic group really train: the parameters of `policies.goodput_model.Speed`, in µs. Nobody
    tells the master; it hears what workers measure."""

    batch: int  # samples a step that the job was tuned for
    grad_us: int = 0  # of computing, whatever the batch
    sample_us: int  # … and for each sample of a worker
    local_us: int = 0  # to synchronise two workers of one agent
    local_more_us: int = 0  # … and for each further one
    apart_us: int = 0  # the same where they are on several agents
    apart_more_us: int = 0
    overlap_milli: int = 1000  # γ: 1000 means one after the other, 10000 wholly side by side
    noise_scale: int = 0  # the gradient noise scale in samples; 0: a larger batch teaches no more
    restart_us: int = 30_000_000  # from a change of the workers until they train again


class Behaviour(Record, frozen=True, kw_only=True):
    """What really happens to the tasks of a group, besides their run time: nobody tells the master."""

    fails_ppm: int = 0  # of attempts end with exit code 1
    until_us: int | None = None  # ends then, whenever it was started: a service
    crashes_agent: bool = False  # … and take their agent's process with them
    training: Training | None = None  # they train one model together, however many of them there are


class Clients(Record, frozen=True, kw_only=True):
    """Of a service whose replicas are weighted: who asks from where, and how that changes. The weights of `targets` are
    requests a second. The job is cancelled at `until_us`."""

    targets: tuple[LatencyTarget, ...]
    changes: tuple[tuple[int, str, int], ...] = ()  # from then on so many requests a second from that site
    until_us: int


class Arrival(Record, frozen=True, kw_only=True):
    """`origin` names the generator or trace that made it. `shards` appear at their agents as it arrives."""

    at_us: int
    job: Job
    origin: str = ""
    behaviours: dict[str, Behaviour] = msgspec.field(default_factory=dict)  # by task group
    shards: tuple[ShardSpec, ...] = ()
    clients: Clients | None = None


FrameworkMode = Literal["shaped", "plain", "ignored"]
FRAMEWORK_MODES: Final[tuple[FrameworkMode, ...]] = get_args(FrameworkMode)


class FrameworkSpec(Record, frozen=True, kw_only=True):
    """A scheduler of its own (scenarios/frameworks.py): the work it brings, and how it deals with offers."""

    name: str
    roles: tuple[str, ...]
    offers: FrameworkMode
    patience_us: int  # how long a task waits for an agent that holds what it reads
    refuse_us: int
    failover_us: int
    arrivals: tuple[Arrival, ...] = ()


class Variation(Record, frozen=True, kw_only=True):
    """From `at_us` on the directed link is this; how measured link traces are replayed."""

    at_us: int
    from_site: str
    to_site: str
    spec: LinkSpec


class Recording(Record, frozen=True, kw_only=True):
    """What one master was told in its life (`federation/recording.py`). `digest` is of the file's bytes: another file
    is another run."""

    path: str
    digest: str


class World(Record, frozen=True, kw_only=True):
    """Everything a run depends on besides the policy. `links` maps (from site, to site) to the truth; a site's own
    network is (site, site). `access` holds the links between agents and their site's core: id, outward, inward."""

    name: str
    purpose: str
    seed: int
    duration_us: int
    agents: tuple[AgentSpec, ...]
    links: tuple[tuple[str, str, LinkSpec], ...]
    master_site: str
    shards: tuple[ShardSpec, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    roles: tuple[RoleConfig, ...] = ()
    frameworks: tuple[FrameworkSpec, ...] = ()
    faults: tuple[Fault, ...] = ()
    variations: tuple[Variation, ...] = ()
    access: tuple[tuple[str, LinkSpec, LinkSpec], ...] = ()
    egress: tuple[tuple[str, str, int], ...] = ()  # from site, to site: micro-dollars a gigabyte that leaves
    quiet_tail_us: int = 0  # the end of the run in which nothing breaks, for L13
    to_the_end: bool = False  # run for the whole duration, even when all jobs have ended
    solve_us: int = 5_000  # how long a round is taken to compute; declared, because a replay must not depend on our CPU
    solve_measured: bool = False  # or as long as this machine's processor takes
    commit_us: int = 1_000  # journal commit before anything is sent
    moves_per_minute: int | None = None  # the master's budget of moves because a link changed; None: its default
    noise_ppm: int = 30_000  # standard deviation of a bandwidth measurement
    notes: tuple[str, ...] = ()  # what a reader of the results has to know: sources, licences, skipped rows
