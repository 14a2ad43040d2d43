"""The HTTP contract as values: what is asked of the master and what it answers. `openapi.json` is made from these.

Requests reach the core inside `events.Asked` and are answered by `commands.Reply` once what they changed is durable.
Views are read from the core at any time (`federation/views.py`). Times ending in `_us` are Unix microseconds on the
master's clock unless they are durations.
"""

from typing import Annotated, Literal

import msgspec

from federation.jobs import Job, RolePath
from federation.market.protocol import CallTaken
from policies.model import (
    Amount,
    Blocker,
    Candidate,
    CostTerms,
    Link,
    Plan,
    Record,
    Resources,
    Tier,
)  # fmt: skip

# --- requests --------------------------------------------------------------------------------------------------------


class SubmitJob(Record, frozen=True, kw_only=True, tag_field="ask", tag="submit_job"):
    job: Job
    submission_id: Annotated[str, msgspec.Meta(max_length=128)] = ""  # idempotency key: the same one, the same answer


class PlanJob(Record, frozen=True, kw_only=True, tag_field="ask", tag="plan_job"):
    """Dry run: what the policy would do with this job now. Changes nothing."""

    job: Job


class CancelJob(Record, frozen=True, kw_only=True, tag_field="ask", tag="cancel_job"):
    job_id: str


class KillTask(Record, frozen=True, kw_only=True, tag_field="ask", tag="kill_task"):
    """End the running attempt and cancel the task."""

    task_id: str


class SetAgentMode(Record, frozen=True, kw_only=True, tag_field="ask", tag="set_agent_mode"):
    """`cordoned`: no new work. `draining`: no new work, and running work is moved away. `active`: as usual."""

    agent_id: str
    mode: Literal["active", "cordoned", "draining"]


class SetRole(Record, frozen=True, kw_only=True, tag_field="ask", tag="set_role"):
    path: RolePath
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    quota: Amount | None = None
    guarantee: Amount | None = None


class AddShard(Record, frozen=True, kw_only=True, tag_field="ask", tag="add_shard"):
    """Register a shard that the master's own store holds, or set what is wanted of a known one."""

    shard_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    name: Annotated[str, msgspec.Meta(max_length=255)] = ""
    sites: tuple[str, ...] = ()
    replicas_wanted: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    in_store: bool = False  # the master's store has the bytes


class SetServiceDemand(Record, frozen=True, kw_only=True, tag_field="ask", tag="set_service_demand"):
    """How many requests a second come from a service's client sites; of sites that are not named what the job file
    says stands, or what was told before."""

    service_id: str
    requests_per_second: dict[str, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]]


Request = SubmitJob | PlanJob | CancelJob | KillTask | SetAgentMode | SetRole | AddShard | SetServiceDemand


# --- answers ---------------------------------------------------------------------------------------------------------


class Problem(Record, frozen=True, kw_only=True):
    """A refusal, rendered as RFC 9457 `application/problem+json`; `type` is `/problems/<code>` and is stable."""

    status: int
    code: str
    title: str
    detail: str = ""


class JobView(Record, frozen=True, kw_only=True, omit_defaults=False):
    job_id: str
    name: str
    role: str
    priority: int
    state: Literal["running", "cancelling", "finished", "failed", "cancelled"]  # cancelling: tasks are still ending
    submitted_us: int
    ended_us: int | None
    n_tasks: int
    tasks: dict[str, int]  # task state → count
    detail: str  # why it failed


class TaskView(Record, frozen=True, kw_only=True, omit_defaults=False):
    task_id: str
    job_id: str
    group: str
    state: str
    attempt: int
    agent_id: str
    site: str
    tier: Tier | None
    since_us: int  # in this state
    pending_us: int | None  # when it could first be placed
    launched_us: int | None
    ended_us: int | None
    stage_us: int | None
    run_us: int | None
    fetched_bytes: int
    exit_code: int | None
    reason: str
    detail: str
    log_tail: str
    outputs: tuple[str, ...]  # shard names


class TaskPage(Record, frozen=True, kw_only=True, omit_defaults=False):
    tasks: tuple[TaskView, ...]
    next_after: str | None  # pass as ?after= for the next page


class WhyView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The answer to "why is this task there, or not anywhere"; kept after the task has ended."""

    task_id: str
    state: str
    since_us: int
    policy: str
    round_id: int | None
    term: int
    agent_id: str  # "" while pending
    terms: CostTerms | None
    alternatives: tuple[Candidate, ...]
    blockers: tuple[Blocker, ...]
    n_agents: int  # that were looked at
    waits_for: Candidate | None
    hints: tuple[str, ...]  # "would run if …"; of a gang that runs and talks, where it meets
    detail: str  # of the last failed attempt


class AgentView(Record, frozen=True, kw_only=True, omit_defaults=False):
    agent_id: str
    site: str
    region: str
    tier: Tier
    state: str
    mode: str
    since_us: int
    hardware: str
    speed_milli: int
    labels: dict[str, str]
    total: Resources
    free: Resources
    offer_expires_us: int | None
    data_url: str
    boot: int
    version: str
    n_tasks: int
    n_shards: int
    metered: bool  # its way out of the site is paid by the byte
    control_bytes: int  # payloads of its connection to the broker, since its boot
    probe_bytes: int  # of its probes of others, since its boot
    measuring_cpu_us: int  # processor time its probes took, asked and served, at most; since its boot
    wire_bytes: int  # metered agents: control and probes with all headers, by estimate, since its boot
    detail: str  # why quarantined


class OfferView(Record, frozen=True, kw_only=True, omit_defaults=False):
    offer_id: str
    agent_id: str
    site: str
    tier: Tier
    free: Resources
    expires_us: int


class ShardView(Record, frozen=True, kw_only=True, omit_defaults=False):
    shard_id: str
    name: str
    size_bytes: int
    replicas: tuple[str, ...]
    sites: tuple[str, ...]
    replicas_wanted: int
    in_store: bool


class RoleView(Record, frozen=True, kw_only=True, omit_defaults=False):
    path: str
    weight: int
    quota: Amount | None
    allocated: Amount
    dominant_share_ppm: int
    n_pending: int
    n_running: int


class RequestView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A REQUEST of a framework that is not met yet; `held_agents` are kept for it (reserve-ahead)."""

    request_id: str
    role: str
    count: int
    n_offered: int
    n_taken: int
    gang: bool
    paused: bool
    since_us: int
    held_agents: tuple[str, ...]


class FrameworkView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A framework of the market. `running` is what its open tasks hold, `offered` what its live offers do; `n_ignored`
    counts the times in a row that it let offers lapse."""

    framework_id: str
    name: str
    principal: str
    roles: tuple[str, ...]
    suppressed: tuple[str, ...]
    capabilities: tuple[str, ...]
    state: Literal["connected", "disconnected"]
    since_us: int
    gone_us: int | None
    failover_timeout_us: int
    tasks: dict[str, int]  # by state; ended ones until their updates are acknowledged
    n_unacknowledged: int
    running: Amount
    offered: Amount
    n_offers: int
    n_filters: int
    n_ignored: int
    requests: tuple[RequestView, ...]
    webui_url: str


class PlanView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A dry run's answer: the plan for the job's demands only, with the groups they stand for."""

    policy: str
    plan: Plan
    groups: dict[str, str]  # demand_id → group name


class NetworkView(Record, frozen=True, kw_only=True, omit_defaults=False):
    links: tuple[Link, ...]
    next_after: str | None


class Hop(Record, frozen=True, kw_only=True, omit_defaults=False):
    from_site: str
    to_site: str
    bandwidth_bps: int
    rtt_us: int | None
    is_disputed: bool


class PathView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The way between two sites whose narrowest hop is the widest; `direct_bps` is what the direct way gives."""

    hops: tuple[Hop, ...]
    bandwidth_bps: int
    direct_bps: int | None


class SiteNode(Record, frozen=True, kw_only=True, omit_defaults=False):
    site: str
    region: str
    racks: tuple[str, ...]
    n_agents: int
    out_bps: int | None  # the most measured to any other site
    in_bps: int | None
    shares_uplink: tuple[str, ...]  # sites whose ways from here fall together: they share a bottleneck


class TopologyView(Record, frozen=True, kw_only=True, omit_defaults=False):
    sites: tuple[SiteNode, ...]


class ServiceShare(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The part of a client site's requests that goes to one replica."""

    task_id: str
    agent_id: str
    site: str
    share_ppm: int
    rtt_us: int | None  # None: not measured


class ServedSite(Record, frozen=True, kw_only=True, omit_defaults=False):
    site: str
    rtt_us_target: int
    requests_per_second: int
    shares: tuple[ServiceShare, ...]  # they add up to a million, or there are none: nothing answers


class ServiceView(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A service whose replicas are added, moved and weighted; `service_id` is `<job>/<group>`."""

    service_id: str
    job_id: str
    group: str
    replicas_min: int
    replicas_max: int
    answers_per_second: int | None  # of one replica; None: no bound
    n_placed: int
    n_ready: int
    n_pending: int
    n_spare: int
    missed_ppm: int | None  # of requests, expected past their target or unanswered; None: no round has looked yet
    clients: tuple[ServedSite, ...]


class StatusView(Record, frozen=True, kw_only=True, omit_defaults=False):
    version: str
    term: int
    state: Literal["recovering", "serving", "stepped_down"]
    policy: str
    now_us: int
    agents: dict[str, int]  # agent state → count
    tasks: dict[str, int]
    jobs: dict[str, int]
    n_offers: int
    n_demands: int  # pending classes
    n_rounds: int
    broker: str  # "connected …" | "lost …"
    total: Amount
    allocated: Amount
    policy_failure: str = ""  # of the last round, whether or not the fallback took it
    n_set_aside: int = 0  # events whose handling was a bug of the master's; the newest few are counted
    set_aside: str = ""  # the last of them


class Done(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The change is durable; there is nothing more to show."""

    detail: str = ""


Answer = JobView | TaskView | AgentView | RoleView | ShardView | PlanView | ServiceView | Done | Problem | CallTaken
