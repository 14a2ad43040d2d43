"""The values every part shares: resources, links, shards, demands, nodes, the snapshot and the plan.

All are frozen structs. Whatever is compared, added or optimised is an integer in a small unit, and the unit ends the
name: microseconds (`_us`), bytes (`_bytes`), bits per second (`_bps`), milli-CPU (`_milli`), parts per million
(`_ppm`), micro-dollars (`_microusd`). This module imports nothing of ours and nothing heavy: agents load it.
"""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every value that crosses a module, the wire or the journal.

    `kw_only` is not inherited, and mypy wants `frozen` on each subclass.
    """


Tier = Literal["edge", "cloud"]
TIERS: tuple[Tier, ...] = ("edge", "cloud")


# --- resources -------------------------------------------------------------------------------------------------------


class Gpu(Record, frozen=True, kw_only=True, gc=False):
    """One accelerator, or what is left of it. Every reading is nullable: drivers, MIG slices and unified memory each
    hide some of them. Only one whose `isolation` is `shared` is given out in parts; of the others all or nothing."""

    uuid: str
    model: str | None = None
    memory_bytes: int | None = None
    memory_kind: Literal["dedicated", "unified"] | None = None
    isolation: Literal["whole", "mig", "shared"] | None = None
    milli: int = 1000  # thousandths of it
    memory_left_bytes: int | None = None  # that come with them, where they are not all of `memory_bytes`


class Resources(Record, frozen=True, kw_only=True, gc=False):
    """Concrete resources of one agent: what it has, offers, or has left. GPUs are named one by one."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


class GpuNeed(Record, frozen=True, kw_only=True):
    """`count` GPUs of one agent, each of `model` (None: any) with at least `memory_bytes`.

    Below 1000 `milli` it is a share of one GPU (`count` 1) and takes `memory_bytes` of it; 0 is the same share of its
    memory.
    """

    count: int = 1
    model: str | None = None
    memory_bytes: int = 0
    milli: int = 1000


class LinkNeed(Record, frozen=True, kw_only=True):
    """A bound on the measured link between the task's agent and `site`; an unmeasured link does not meet it.

    Bandwidth is that from `site` to the agent: tasks pull.
    """

    site: str
    rtt_us_max: int | None = None
    bandwidth_bps_min: int | None = None


class Needs(Record, frozen=True, kw_only=True):
    """What one task must have on one agent, all at once."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu: GpuNeed | None = None
    links: tuple[LinkNeed, ...] = ()


class Amount(Record, frozen=True, kw_only=True, gc=False):
    """Resources summed over agents, GPUs as a count and the thousandths beyond it: quotas, allocations and shares are
    in these."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_milli: int = 0  # 0 … 999


# --- the network -----------------------------------------------------------------------------------------------------


class Link(Record, frozen=True, kw_only=True):
    """What is believed of one directed link. Ends are `site:<name>` or `agent:<id>`; data flows `from_id` → `to_id`.

    `bandwidth_bps` is a lower-quantile estimate. None means never measured. `rtt_us` is the round trip.

    Where enough was measured it is a forecast: over the next `forecast_us` the mean rate is at least `bandwidth_bps`
    nine times in ten, and at most `bandwidth_high_bps` as often; `forecast_by` is the model that counts most in it.
    Without a forecast it is `bandwidth_measured_bps`, the lower quartile of the newest samples.
    """

    from_id: str
    to_id: str
    rtt_us: int | None = None
    jitter_us: int | None = None
    loss_ppm: int | None = None
    bandwidth_bps: int | None = None
    confidence_ppm: int = 0
    age_us: int = 0
    bandwidth_high_bps: int | None = None
    bandwidth_measured_bps: int | None = None
    forecast_us: int | None = None
    forecast_by: str = ""
    is_disputed: bool = False  # its two ends tell different rates of the same transfers; the lower one counts


# --- data ------------------------------------------------------------------------------------------------------------


class Shard(Record, frozen=True, kw_only=True):
    """Immutable bytes named by their SHA-256 (hex). `replicas` are agent ids, sorted; empty `sites` means anywhere.

    `replica_sites` is parallel to `replicas`; it may be left empty when every replica's agent is a node of the
    snapshot. `in_store`: the master's own store has the bytes too, behind a link nobody measured.
    """

    shard_id: str
    size_bytes: int
    name: str = ""
    replicas: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()  # residency: the sites it may live in
    replicas_wanted: int = 1  # the master keeps at least this many; the policy says where
    replica_sites: tuple[str, ...] = ()
    in_store: bool = False


# --- demand ----------------------------------------------------------------------------------------------------------


class Where(Record, frozen=True, kw_only=True):
    """Hard placement constraints; an empty tuple constrains nothing. Labels are (key, value) pairs, all required."""

    tiers: tuple[Tier, ...] = ()
    sites: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    agents_avoided: tuple[str, ...] = ()  # agents on which this work failed before


class LatencyTarget(Record, frozen=True, kw_only=True):
    """Clients at `site` want answers within `rtt_us`; each microsecond above it costs `weight` microseconds."""

    site: str
    rtt_us: int
    weight: int = 1


RACK_LABEL = "rack"  # the label of an agent that says in which rack of its site it is

Saving = Literal["site_aggregation", "rack_aggregation", "fp16", "powersgd", "local_steps"]


class Communication(Record, frozen=True, kw_only=True):
    """What the workers of a gang say to each other: bytes each sends a step, in which pattern.

    `savings` are the ways to send less that the job allows; the plan chooses among them (`Tuning`). Those that lose
    digits (`fp16`, `powersgd`) need `compressible`.
    """

    pattern: Literal["allreduce", "parameter_server", "all_to_all"]
    bytes_per_step: int
    synchronous: bool = True
    compressible: bool = False
    iteration_us: int = 0  # from one step to the next where nobody is waited for; 0: not declared
    duty_ppm: int = 0  # the part of a step in which it sends; 0: as long as the bytes take
    savings: tuple[Saving, ...] = ()
    local_steps_max: int = 1  # steps between two synchronisations, with `local_steps`


class Tuning(Record, frozen=True, kw_only=True):
    """How the workers of one demand are to communicate: the plan's choice, which reaches them in their environment."""

    demand_id: str
    aggregate: Literal["", "site", "rack"] = ""  # sum up here first, and send one worker's worth on
    compression: Literal["", "fp16", "powersgd"] = ""
    local_steps: int = 1
    shift_us: int | None = None  # begin steps this long after whole multiples of `iteration_us`
    iteration_us: int = 0
    uplink_bytes_per_step: int | None = None  # what is expected to leave the busiest site each step
    batch_per_worker: int = 0  # of elastic work; 0: the job's own


class StepTime(Record, frozen=True, kw_only=True, gc=False):
    """A measured training step: `workers` on `agents` agents, `batch` samples in all, took `step_us`."""

    workers: int
    batch: int
    step_us: int
    agents: int = 1


class Elastic(Record, frozen=True, kw_only=True):
    """Work that runs with any number of workers between two bounds; each is a task, and all are of `group_id`.

    `noise_scale` is the gradient noise scale in samples: the batch beyond which more samples a step teach little.
    """

    group_id: str = ""  # filled in by the master, as is `workers_max`
    workers_max: int = 1
    workers_min: int = 1
    batch: int = 1  # samples a step that it was tuned for
    batch_max: int = 1
    noise_scale: int = 0  # 0: not known, the batch stays as it is
    steps: tuple[StepTime, ...] = ()


class GroupSteps(Record, frozen=True, kw_only=True):
    """What the workers of an elastic group measured while they ran; `noise_scale` 0: not estimated."""

    group_id: str
    steps: tuple[StepTime, ...] = ()  # one each of workers, agents and batch, sorted so
    noise_scale: int = 0


class Gang(Record, frozen=True, kw_only=True):
    """Tasks that run all together or not at all."""

    gang_id: str
    size: int
    communication: Communication | None = None


class Replicas(Record, frozen=True, kw_only=True):
    """How many replicas of a service may run, and how many answers a second one gives (0: as many as are asked)."""

    least: Annotated[int, msgspec.Meta(ge=1)] = 1
    most: Annotated[int, msgspec.Meta(ge=1)] = 1
    answers_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0


class Demand(Record, frozen=True, kw_only=True):
    """An equivalence class of pending tasks: everything a policy may see of them, and how many there are.

    `demand_id` is a digest of every field but `count` and `oldest_us`: equal classes have equal ids.
    """

    demand_id: str
    role: str
    needs: Needs
    count: int
    oldest_us: int  # when its longest-waiting task became pending (the snapshot's clock)
    priority: int = 0  # higher first; 0–100
    where: Where = Where()
    reads: tuple[str, ...] = ()  # shard ids, sorted
    output_bytes: int = 0
    profile: str = ""  # run times are learned under this name, per hardware
    run_us: int = 1_000_000  # declared run time on speed_milli = 1000; the prior until the profile is learned
    deadline_us: int | None = None  # absolute, the snapshot's clock
    latency: tuple[LatencyTarget, ...] = ()
    gang: Gang | None = None
    attained_us: int = 0  # what earlier attempts ran before they were stopped, rounded down to a power of two
    elastic: Elastic | None = None
    is_service: bool = False  # it runs until it is stopped and answers clients all the time: its run time says nothing
    service_id: str = ""  # of a service that adds and removes replicas: these are to be placed, for it needs them


class Profile(Record, frozen=True, kw_only=True):
    """Learned run time of a work profile on a hardware class (mean over `samples` runs), for reads of one size:
    `data_class` is the number of bits of their bytes."""

    profile: str
    hardware: str
    run_us: int
    samples: int
    data_class: int = 0


# --- supply ----------------------------------------------------------------------------------------------------------


class Release(Record, frozen=True, kw_only=True):
    """`count` running tasks of these needs are expected to end in `in_us`: capacity that can be waited for.

    Of a task past its expected end, `in_us` is at least as long as it is overdue: who hangs is not waited for.
    """

    in_us: int
    needs: Needs
    count: int = 1


class Running(Record, frozen=True, kw_only=True):
    """A task placed on an agent: what a policy that ends running work has to weigh.

    `attained_us` is what earlier attempts ran before they were stopped; `ending`: it is being stopped already.
    """

    task_id: str
    role: str
    needs: Needs
    since_us: int  # when it was placed (the snapshot's clock)
    priority: int = 0
    gang_id: str = ""
    attained_us: int = 0
    ending: bool = False
    profile: str = ""  # as of its class, and so is `run_us`
    run_us: int = 0
    communication: Communication | None = None  # of its gang
    tuning: Tuning | None = None  # what the plan chose for it
    elastic: Elastic | None = None
    gpus: tuple[str, ...] = ()  # where its share of a GPU is; whole ones are not told


class Node(Record, frozen=True, kw_only=True):
    """An agent as a policy sees it: only those with a live offer and not drained appear."""

    agent_id: str
    site: str
    tier: Tier
    free: Resources
    total: Resources
    region: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    hardware: str = ""  # work profiles are learned per hardware class
    speed_milli: int = 1000  # measured single-core speed, 1000 = the reference core
    price_microusd_per_cpu_hour: int = 0
    shards: tuple[str, ...] = ()  # shard ids held, sorted
    releases: tuple[Release, ...] = ()  # sorted by in_us
    running: tuple[Running, ...] = ()  # sorted by task_id


class Transfer(Record, frozen=True, kw_only=True):
    """Bytes of placed work that are still to cross from one site to another: they slow what comes after them."""

    from_site: str  # "" is the master's store
    to_site: str
    left_bytes: int


class Bottleneck(Record, frozen=True, kw_only=True):
    """Ways from one site that fall together share something: what goes over one of them slows the others."""

    from_site: str
    to_sites: tuple[str, ...]  # sorted


class Continuation(Record, frozen=True, kw_only=True):
    """A placed task that might be better off elsewhere, for a link it depends on has become worse.

    Staying costs `left_us`, and the latency to its clients from where it is; going costs all that `demand` (count 1)
    costs there, from the start. It goes only where that beats what staying costs by `margin_milli` and `move_us`.
    """

    task_id: str
    agent_id: str
    demand: Demand
    left_us: int  # until it is done where it is: data still to come, and run time
    move_us: int  # to stop it and start it again, beside the work itself
    margin_milli: int


class Weight(Record, frozen=True, kw_only=True):
    """The part of one client site's requests that goes to one replica."""

    site: str
    task_id: str
    share_ppm: int


class ServiceReplica(Record, frozen=True, kw_only=True):
    """A replica that is placed; `is_ready`: it runs, on an agent that is heard."""

    task_id: str
    agent_id: str
    site: str
    price_microusd_per_cpu_hour: int = 0
    is_ready: bool = False


class Service(Record, frozen=True, kw_only=True):
    """A service whose replicas are added, moved and weighted.

    `demand` is what one more replica needs; the weights of its latency targets are requests a second from that site.
    Its `count` says how many more there may be, beside those of the snapshot's demands that bear this `service_id`.
    """

    service_id: str
    demand: Demand
    replicas: Replicas
    placed: tuple[ServiceReplica, ...] = ()  # sorted by task_id; those that are being stopped are left out
    weights: tuple[Weight, ...] = ()  # in force, sorted by (site, task_id)
    may_grow: bool = True
    may_shrink: bool = True  # not for a while after a change
    margin_milli: int = 250


class Role(Record, frozen=True, kw_only=True):
    """A role's standing. `path` is hierarchical ("ml/vision"); `quota` limits the role with all below it, and
    `allocated` counts all below it too. A kind of which the quota names 0 is not limited. `entitlement` is what it is
    due in this round by its fair share, where that was worked out: others come before what exceeds it."""

    path: str
    weight: int = 1
    quota: Amount | None = None
    allocated: Amount = Amount()
    entitlement: Amount | None = None


class Snapshot(Record, frozen=True, kw_only=True):
    """All that a policy may know. Every tuple is sorted by its id: equal worlds are equal bytes."""

    now_us: int
    demands: tuple[Demand, ...] = ()
    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    shards: tuple[Shard, ...] = ()  # those read by a demand or wanting replicas
    roles: tuple[Role, ...] = ()
    profiles: tuple[Profile, ...] = ()
    transfers: tuple[Transfer, ...] = ()  # sorted by (from_site, to_site), one each
    bottlenecks: tuple[Bottleneck, ...] = ()  # sorted by from_site, one each; inferred, not declared
    continuing: tuple[Continuation, ...] = ()  # sorted by task_id; a policy may leave all of them where they are
    services: tuple[Service, ...] = ()  # sorted by service_id; a policy may leave all of them as they are
    measured: tuple[GroupSteps, ...] = ()  # of elastic groups, sorted by group_id


# --- the plan --------------------------------------------------------------------------------------------------------


class Reason(StrEnum):
    """Why work does not run on an agent, or not yet. Closed: every value is documented in docs/reasons.md."""

    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    GPU = "gpu"
    TIER = "tier"
    SITE = "site"
    LABEL = "label"
    AVOIDED = "avoided"  # it failed there before
    RESIDENCY = "residency"  # a shard it reads may not live there
    LINK_RTT = "link_rtt"
    LINK_BANDWIDTH = "link_bandwidth"
    LINK_UNMEASURED = "link_unmeasured"
    DATA_UNREACHABLE = "data_unreachable"  # no live replica of a shard it reads
    QUOTA = "quota"
    GANG = "gang"  # not all members fit together
    DEADLINE = "deadline"  # cannot finish in time anywhere
    PLANNED_WAIT = "planned_wait"  # waiting for a busy agent is cheaper than any free one
    QUEUE = "queue"  # it fits, but others go first
    NO_AGENTS = "no_agents"
    DEPENDENCY = "dependency"  # a task it comes after has not finished
    SPARE = "spare"  # a replica that its service does not need now
    RECOVERING = "recovering"  # the master is reconciling after a restart
    POLICY_FAILED = "policy_failed"


class CostTerms(Record, frozen=True, kw_only=True):
    """The expected completion of one task on one agent, term by term, in microseconds. Prices count as time."""

    transfer_us: int = 0
    congestion_us: int = 0
    wait_us: int = 0
    run_us: int = 0
    latency_us: int = 0
    price_us: int = 0
    extra_us: int = 0  # the operator's own cost terms, weighted (docs/policies.md)

    def total_us(self) -> int:
        own_us = self.transfer_us + self.congestion_us + self.wait_us + self.run_us
        return own_us + self.latency_us + self.price_us + self.extra_us


class Candidate(Record, frozen=True, kw_only=True):
    agent_id: str
    terms: CostTerms


class Placement(Record, frozen=True, kw_only=True):
    """`count` tasks of a demand go to an agent, now. `alternatives` are the next-best candidates, best first (≤ 3).

    A plan's placements hold in their order: GPUs are given out best fit, one placement after the other, but for those
    that `gpus` names (uuids, task after task).
    """

    demand_id: str
    agent_id: str
    count: int
    terms: CostTerms = CostTerms()
    alternatives: tuple[Candidate, ...] = ()
    gpus: tuple[str, ...] = ()


class Miss(Record, frozen=True, kw_only=True):
    """The agent that came nearest, and by how much it is short. `unit` is that of `needs` and `has`."""

    agent_id: str
    needs: int
    has: int | None  # None: not measured
    unit: Literal["milli", "bytes", "bps", "us", "count"]
    site: str = ""  # the other end, for links
    age_us: int | None = None  # of the measurement, for links


class Blocker(Record, frozen=True, kw_only=True):
    """One reason, the number of agents it rules out (0 where it is not an agent's), and the nearest miss."""

    reason: Reason
    agents: int = 0
    nearest: Miss | None = None
    role: str = ""  # for quota


class Refusal(Record, frozen=True, kw_only=True):
    """`count` tasks of a demand stay pending: each reason, most telling first. A bare "no" is a bug."""

    demand_id: str
    count: int
    blockers: tuple[Blocker, ...]
    waits_for: Candidate | None = None  # for planned_wait: where, and the terms, wait included


class ShardMove(Record, frozen=True, kw_only=True):
    """Copy a shard to an agent; the old replica is dropped later if `drop_source`."""

    shard_id: str
    from_agent: str
    to_agent: str
    drop_source: bool = False
    saving_us: int = 0  # expected read time saved


class Eviction(Record, frozen=True, kw_only=True):
    """End running work of `role` on an agent to free what a demand needs."""

    task_id: str
    agent_id: str
    for_demand_id: str


class Relocation(Record, frozen=True, kw_only=True):
    """A task of the snapshot's `continuing` is to be stopped and to run on another agent: `terms` there against
    `stay_us` where it is."""

    task_id: str
    from_agent: str
    to_agent: str
    stay_us: int
    terms: CostTerms


class ServicePlan(Record, frozen=True, kw_only=True):
    """What a service should be: more replicas (where, and the terms there), fewer (which), and who answers whom."""

    service_id: str
    weights: tuple[Weight, ...] = ()  # sorted by (site, task_id); over replicas that are ready
    adds: tuple[Candidate, ...] = ()
    removes: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()  # of a service that has all it may have: stopped, to be placed anew
    missed_ppm: int = 0  # of requests, expected to be answered past their target, or not at all


class Plan(Record, frozen=True, kw_only=True):
    """The answer to a snapshot. Every demand's count is divided over its placements and its refusal."""

    placements: tuple[Placement, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    moves: tuple[ShardMove, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    relocations: tuple[Relocation, ...] = ()
    tunings: tuple[Tuning, ...] = ()  # of demands that are placed, one each
    services: tuple[ServicePlan, ...] = ()  # of the snapshot's, sorted by service_id
    watches: tuple[str, ...] = ()  # globs of shard names: coming snapshots have them too, though nobody reads them
    objective: int | None = None
    kernel: str = ""
