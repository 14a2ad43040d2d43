"""A world as the player needs it: sites, agents, links, what lies where, and which jobs come when."""

from federation.jobs import Job
from policies.model import Record, Resources, Tier
from scenarios.network import LinkSpec


class AgentSpec(Record, frozen=True, kw_only=True):
    """One simulated agent. `uplink_bps` caps what it sends to and receives from other sites, each direction."""

    agent_id: str
    site: str
    tier: Tier
    total: Resources
    region: str = ""
    hardware: str = "reference"
    speed_milli: int = 1000
    price_microusd_per_cpu_hour: int = 0
    uplink_bps: int | None = None


class ShardSpec(Record, frozen=True, kw_only=True):
    """A shard that an agent holds from the start; its id is derived from its name."""

    name: str
    size_bytes: int
    agent_id: str


class Arrival(Record, frozen=True, kw_only=True):
    at_us: int
    job: Job


class World(Record, frozen=True, kw_only=True):
    """Everything a run depends on besides the policy. `links` maps (from site, to site) to the truth; a site's own
    network is (site, site)."""

    name: str
    purpose: str
    seed: int
    duration_us: int
    agents: tuple[AgentSpec, ...]
    links: tuple[tuple[str, str, LinkSpec], ...]
    master_site: str
    shards: tuple[ShardSpec, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    solve_us: int = 5_000  # how long a round is taken to compute; declared, because a replay must not depend on our CPU
    commit_us: int = 1_000  # journal commit before anything is sent
    noise_ppm: int = 30_000  # standard deviation of a bandwidth measurement
