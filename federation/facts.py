"""The facts of the journal: what the master must remember to be the same master after a crash.

Durable state is a function of the facts alone (L7): each book has `apply(fact)`, live changes go through it too.
Facts only ever gain optional fields; one that changes its meaning gets a new tag.
"""

from typing import Literal

import msgspec

from federation.jobs import Job
from federation.market.facts import (
    FrameworkEnded,
    FrameworkSet,
    FrameworkTaskChanged,
    FrameworkTaskLaunched,
    OperationAcknowledged,
    OperationChanged,
    ResourcesReserved,
    ResourcesUnreserved,
    UpdateAcknowledged,
)
from federation.wire import HeldShard
from policies.forecast.forecaster import ForecasterState
from policies.model import Amount, Blocker, Candidate, CostTerms, Record, Resources, StepTime, Tier, Tuning, Weight


class TermBegun(Record, frozen=True, kw_only=True, tag="term_begun"):
    at_us: int
    term: int


class AgentEnrolled(Record, frozen=True, kw_only=True, tag="agent_enrolled"):
    """A birth that told something new of the agent."""

    at_us: int
    agent_id: str
    boot: int
    site: str
    tier: Tier
    total: Resources
    region: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    hardware: str = ""
    speed_milli: int = 1000
    price_microusd_per_cpu_hour: int = 0
    data_url: str = ""
    metered: bool = False
    version: str = ""


class AgentStateChanged(Record, frozen=True, kw_only=True, tag="agent_state"):
    at_us: int
    agent_id: str
    state: str
    detail: str = ""


class AgentModeSet(Record, frozen=True, kw_only=True, tag="agent_mode"):
    at_us: int
    agent_id: str
    mode: Literal["active", "cordoned", "draining"]


class AgentForgotten(Record, frozen=True, kw_only=True, tag="agent_forgotten"):
    """The book was full, and this one lost for longest. Its replicas are forgotten with it."""

    at_us: int
    agent_id: str


class JobAccepted(Record, frozen=True, kw_only=True, tag="job_accepted"):
    """`each` holds, per group with `for_each`, the shard ids it expanded to: replay needs nothing else."""

    at_us: int
    job_id: str
    job: Job
    submission_id: str = ""
    each: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    # Per group, what its globs of existing shards resolved to: (shard id, name), since equal bytes may have two names.
    reads: dict[str, tuple[tuple[str, str], ...]] = msgspec.field(default_factory=dict)


class JobCancelled(Record, frozen=True, kw_only=True, tag="job_cancelled"):
    """Its waiting and pending tasks are cancelled by this; those that are placed are being killed."""

    at_us: int
    job_id: str
    principal: str = ""


class Assignment(Record, frozen=True, kw_only=True):
    """Tasks of one placement: same agent, same explanation. GPUs are per task, in the order of `task_ids`."""

    agent_id: str
    task_ids: tuple[str, ...]
    attempts: tuple[int, ...]
    cmd_ids: tuple[int, ...]
    gpus: tuple[tuple[str, ...], ...] = ()
    terms: CostTerms | None = None
    alternatives: tuple[Candidate, ...] = ()
    tuning: Tuning | None = None


class TasksAssigned(Record, frozen=True, kw_only=True, tag="tasks_assigned"):
    """One round's placements, as applied. Committed before any launch of it is sent."""

    at_us: int
    round_id: int
    policy: str
    assignments: tuple[Assignment, ...]


class TaskRefused(Record, frozen=True, kw_only=True, tag="task_refused"):
    """A demand class stays pending, for these reasons: written when the reasons change, not every round.

    The class is named by `demand_id`; `task_ids` are its longest-waiting tasks, a few of them, for readers.
    """

    at_us: int
    round_id: int
    policy: str
    task_ids: tuple[str, ...]
    n_agents: int
    blockers: tuple[Blocker, ...]
    waits_for: Candidate | None = None
    demand_id: str = ""


class TaskStateChanged(Record, frozen=True, kw_only=True, tag="task_state"):
    at_us: int
    task_id: str
    state: str
    attempt: int
    agent_id: str = ""
    reason: str = ""
    detail: str = ""
    exit_code: int | None = None
    log_tail: str = ""
    outputs: tuple[HeldShard, ...] = ()
    fetched_bytes: int = 0
    stage_us: int | None = None
    run_us: int | None = None
    attempt_failed: bool = False  # counts towards attempts_max


class JobEnded(Record, frozen=True, kw_only=True, tag="job_ended"):
    at_us: int
    job_id: str
    state: Literal["finished", "failed", "cancelled"]
    detail: str = ""


class RoleSet(Record, frozen=True, kw_only=True, tag="role_set"):
    at_us: int
    path: str
    weight: int
    quota: Amount | None = None
    guarantee: Amount | None = None  # kept free for the role until it has so much


class ShardAdded(Record, frozen=True, kw_only=True, tag="shard_added"):
    at_us: int
    shard_id: str
    size_bytes: int
    name: str = ""
    sites: tuple[str, ...] = ()
    replicas_wanted: int = 0
    in_store: bool = False


class ReplicaChanged(Record, frozen=True, kw_only=True, tag="replica"):
    at_us: int
    shard_id: str
    agent_id: str
    held: bool


class ProfileLearned(Record, frozen=True, kw_only=True, tag="profile"):
    at_us: int
    profile: str
    hardware: str
    run_us: int
    samples: int
    data_class: int = 0  # bits of the number of bytes read


class TransferLearned(Record, frozen=True, kw_only=True, tag="transfer_learned"):
    """Transfers from one site to another take so many times as long as was planned, in thousandths."""

    at_us: int
    from_site: str
    to_site: str
    factor_milli: int
    samples: int


class ServiceBalanced(Record, frozen=True, kw_only=True, tag="service_balanced"):
    """From now on the requests of a service's client sites go to its replicas in these parts."""

    at_us: int
    job_id: str
    group: str
    weights: tuple[Weight, ...]
    missed_ppm: int = 0  # of requests, expected past their target or unanswered


class ServiceAsked(Record, frozen=True, kw_only=True, tag="service_asked"):
    """Someone told how many requests a second come from a service's client sites."""

    at_us: int
    job_id: str
    group: str
    asked: tuple[tuple[str, int], ...]  # (site, requests a second), sorted; of others the job's own weight stands


class StepsLearned(Record, frozen=True, kw_only=True, tag="steps_learned"):
    """How long steps of an elastic group take, as its workers measured them."""

    at_us: int
    group_id: str  # job/group
    step: StepTime
    noise_scale: int = 0


class ForecastKept(Record, frozen=True, kw_only=True, tag="forecast_kept"):
    """What a link's forecaster has learned, written now and then: a new term goes on from here."""

    at_us: int
    from_site: str
    to_site: str
    state: ForecasterState


class EventSetAside(Record, frozen=True, kw_only=True, tag="event_set_aside"):
    """Handling an event raised: a bug of ours. Nothing of it was done, and nothing will be when it comes again."""

    at_us: int
    event_type: str
    source: str  # the agent, principal or framework it came from; "" for none
    error: str
    digests: tuple[str, ...]  # what it is known by (`federation.set_aside`)
    version: str  # of the master: another one may do better


Fact = (
    TermBegun | AgentEnrolled | AgentStateChanged | AgentModeSet | AgentForgotten | JobAccepted | JobCancelled
    | TasksAssigned | TaskRefused | TaskStateChanged | JobEnded | RoleSet | ShardAdded | ReplicaChanged | ProfileLearned
    | TransferLearned | FrameworkSet | FrameworkEnded | FrameworkTaskLaunched | FrameworkTaskChanged
    | UpdateAcknowledged | ResourcesReserved | ResourcesUnreserved | OperationChanged | OperationAcknowledged
    | EventSetAside | ServiceBalanced | ServiceAsked | StepsLearned | ForecastKept
)  # fmt: skip
