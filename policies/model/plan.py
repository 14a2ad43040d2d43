"""What a policy answers: placements, refusals with their reasons, and what else a plan may change."""

from enum import StrEnum
from typing import Literal

from policies.model.demand import Tuning
from policies.model.record import Record
from policies.model.snapshot import Weight


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
