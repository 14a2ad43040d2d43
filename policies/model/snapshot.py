"""What a policy is shown: agents and what runs on them, links and transfers, services, roles."""

from policies.model.demand import Communication, Demand, Elastic, GroupSteps, Profile, Replicas, Tuning
from policies.model.network import Link, Shard
from policies.model.record import Record, Tier
from policies.model.resources import Amount, Needs, Resources


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
    # Between sites, and agents' own where they differ and matter: of holders of what is read, of all for gangs.
    links: tuple[Link, ...] = ()
    shards: tuple[Shard, ...] = ()  # those read by a demand or wanting replicas
    roles: tuple[Role, ...] = ()
    profiles: tuple[Profile, ...] = ()
    transfers: tuple[Transfer, ...] = ()  # sorted by (from_site, to_site), one each
    bottlenecks: tuple[Bottleneck, ...] = ()  # sorted by from_site, one each; inferred, not declared
    continuing: tuple[Continuation, ...] = ()  # sorted by task_id; a policy may leave all of them where they are
    services: tuple[Service, ...] = ()  # sorted by service_id; a policy may leave all of them as they are
    measured: tuple[GroupSteps, ...] = ()  # of elastic groups, sorted by group_id
