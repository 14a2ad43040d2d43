"""The JSON handlers: each reads a view or asks the core for a change. Bytes, logs and events have their own modules."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from federation import listing, services, topology, views
from federation.api import (
    AddShard,
    AgentView,
    CancelJob,
    FrameworkView,
    JobView,
    KillTask,
    NetworkView,
    PathView,
    PlanJob,
    RoleView,
    ServiceView,
    SetAgentMode,
    SetRole,
    SetServiceDemand,
    ShardView,
    StatusView,
    SubmitJob,
    TaskPage,
    TaskView,
    TopologyView,
    WhyView,
)
from federation.http.bodies import (
    AgentList,
    AgentMode,
    FrameworkList,
    Health,
    JobList,
    Nothing,
    OfferList,
    PageQuery,
    PolicyList,
    RoleList,
    RoleSettings,
    ServiceDemand,
    ServiceList,
    ShardList,
    ShardQuery,
    ShardWishes,
    TaskQuery,
)
from federation.http.live import Live
from federation.http.problems import not_found, refuse
from federation.http.route import Answered, Call
from federation.jobs import Job
from federation.market.views import framework
from policies import registry
from policies.model import Record

PREFIX = "/api/v1"
Plain = Call[Nothing, Nothing]
Listing = Call[PageQuery, Nothing]


@contextmanager
def cursor_of(query: PageQuery) -> Iterator[None]:
    """A cursor that is none ends the request."""
    try:
        yield
    except ValueError:
        raise refuse("invalid", f"{query.after!r} is no cursor - at `$.after`; pass a page's next_after") from None


# --- jobs ------------------------------------------------------------------------------------------------------------


async def submit_job(call: Call[Nothing, SubmitJob]) -> Answered:
    """Submit a job; the same `submission_id` again gives the same job."""
    _refuse_missing_artifacts(call.live, call.body.job)
    view = await call.ask(call.body)
    assert isinstance(view, JobView)
    return Answered(view, status=201, headers={"Location": f"{PREFIX}/jobs/{view.job_id}"})


def _refuse_missing_artifacts(live: Live, job: Job) -> None:
    """A task whose code is nowhere would fail on each agent in turn. Raises `ProblemError` (422)."""
    for group in job.tasks:
        artifact = group.artifact
        if artifact is None or live.blobs.path(artifact.shard_id) is not None:
            continue
        known = views.shard(live.master, artifact.shard_id)
        if known is None or not known.replicas:
            raise refuse(
                "artifact_missing",
                f"{group.name}: nobody holds its artifact {artifact.name or artifact.shard_id!r}; "
                f"PUT its bytes to /shards/{artifact.shard_id} first",
            )


async def plan_job(call: Call[Nothing, PlanJob]) -> Record:
    """Dry run: where the policy would place the job now. Changes nothing."""
    return await call.ask(call.body)


async def list_jobs(call: Listing) -> JobList:
    """Jobs that are remembered, newest last, a page at a time."""
    with cursor_of(call.query):
        jobs, next_after = listing.jobs(call.live.master, call.query.after, call.query.limit)
    return JobList(jobs=jobs, next_after=next_after)


async def show_job(call: Plain) -> JobView:
    """One job."""
    job_id = call.path["job_id"]
    view = views.job(call.live.master, job_id)
    if view is None:
        raise not_found("job", job_id, f"{PREFIX}/jobs")
    return view


async def cancel_job(call: Plain) -> Record:
    """Cancel a job and end its tasks; it is `cancelling` until the last has ended."""
    return await call.ask(CancelJob(job_id=call.path["job_id"]))


async def list_services(call: Listing) -> ServiceList:
    """Open services whose replicas are weighted, with who answers whom, a page at a time."""
    found, next_after = listing.services(call.live.master, call.query.after, call.query.limit)
    return ServiceList(services=found, next_after=next_after)


async def show_service(call: Plain) -> ServiceView:
    """One such service."""
    core = call.live.master.core
    service_id = f"{call.path['job_id']}/{call.path['group']}"
    group = core.tasks.services.get(service_id)
    if group is None:
        raise not_found("service", service_id, f"{PREFIX}/services")
    return services.service_view(core, group)


async def set_service_demand(call: Call[Nothing, ServiceDemand]) -> Record:
    """Tell how many requests a second come from a service's client sites; replicas and weights follow."""
    service_id = f"{call.path['job_id']}/{call.path['group']}"
    return await call.ask(SetServiceDemand(service_id=service_id, requests_per_second=call.body.requests_per_second))


# --- tasks -----------------------------------------------------------------------------------------------------------


async def list_tasks(call: Call[TaskQuery, Nothing]) -> TaskPage:
    """Tasks, a page at a time."""
    query = call.query
    # A page of one agent's tasks goes on behind an id, whatever became of its task; any other needs its place.
    if query.after is not None and query.agent is None and views.task(call.live.master, query.after) is None:
        raise refuse("gone", f"{query.after[:255]!r} has been forgotten meanwhile; begin again without `after`")
    return views.tasks(
        call.live.master,
        job_id=query.job,
        state=query.state,
        agent_id=query.agent,
        after=query.after,
        limit=query.limit,
    )


def task_id_of(path: dict[str, str]) -> str:
    return f"{path['job_id']}/{path['group']}/{path['index']}"


def find_task(live: Live, path: dict[str, str]) -> TaskView:
    """The task that the path names. Raises `ProblemError` (404)."""
    task_id = task_id_of(path)
    view = views.task(live.master, task_id)
    if view is None:
        raise not_found("task", task_id, f"{PREFIX}/tasks?job={path['job_id']}")
    return view


async def show_task(call: Plain) -> TaskView:
    """One task."""
    return find_task(call.live, call.path)


async def why_task(call: Plain) -> WhyView:
    """Why the task runs where it runs, or does not run."""
    task = find_task(call.live, call.path)
    view = views.why(call.live.master, task.task_id, call.live.now_us())
    if view is None:
        raise refuse("not_found", f"nothing was recorded about the placement of {task.task_id}")
    return view


async def kill_task(call: Plain) -> Record:
    """End the running attempt and cancel the task."""
    return await call.ask(KillTask(task_id=task_id_of(call.path)))


# --- agents ----------------------------------------------------------------------------------------------------------


async def list_agents(call: Listing) -> AgentList:
    """Agents, a page at a time."""
    agents, next_after = listing.agents(call.live.master, call.query.after, call.query.limit)
    return AgentList(agents=agents, next_after=next_after)


async def show_agent(call: Plain) -> AgentView:
    """One agent."""
    agent_id = call.path["agent_id"]
    view = views.agent(call.live.master, agent_id)
    if view is None:
        raise not_found("agent", agent_id, f"{PREFIX}/agents")
    return view


async def set_agent_mode(call: Call[Nothing, AgentMode]) -> Record:
    """Cordon, drain or reactivate an agent."""
    return await call.ask(SetAgentMode(agent_id=call.path["agent_id"], mode=call.body.mode))


# --- the market, the network, the data -------------------------------------------------------------------------------


async def list_offers(call: Listing) -> OfferList:
    """Live offers, a page at a time."""
    offers, next_after = listing.offers(call.live.master, call.query.after, call.query.limit)
    return OfferList(offers=offers, next_after=next_after)


async def show_network(call: Listing) -> NetworkView:
    """Measured links between sites and agents, a page at a time."""
    with cursor_of(call.query):
        links, next_after = listing.links(call.live.master, call.live.now_us(), call.query.after, call.query.limit)
    return NetworkView(links=links, next_after=next_after)


async def show_topology(call: Plain) -> TopologyView:
    """Every site with its region, racks and agents, the most it sends and receives, and shared uplinks inferred."""
    core = call.live.master.core
    return TopologyView(sites=topology.sites(core.agents, core.network, call.live.now_us()))


async def show_path(call: Plain) -> PathView:
    """The way between two sites whose narrowest hop is the widest, by what was measured."""
    from_site, to_site = call.path["from_site"], call.path["to_site"]
    path = topology.widest_path(call.live.master.core.network, from_site, to_site, call.live.now_us())
    if path is None:
        raise not_found("path", f"{from_site}/{to_site}", f"{PREFIX}/network/sites")
    return path


async def list_shards(call: Call[ShardQuery, Nothing]) -> ShardList:
    """Shards and who holds them, a page at a time."""
    query = call.query
    with cursor_of(query):
        shards, next_after = listing.shards(call.live.master, query.glob, query.after, query.limit)
    return ShardList(shards=shards, next_after=next_after)


async def show_shard(call: Plain) -> ShardView:
    """One shard."""
    shard_id = call.path["sha256"]
    view = views.shard(call.live.master, shard_id)
    if view is None:
        raise not_found("shard", shard_id, f"{PREFIX}/shards")
    return view


async def set_shard(call: Call[Nothing, ShardWishes]) -> Record:
    """Register a shard, or set what is wanted of it."""
    shard_id, wishes = call.path["sha256"], call.body
    return await call.ask(
        AddShard(
            shard_id=shard_id,
            size_bytes=wishes.size_bytes,
            name=wishes.name,
            sites=wishes.sites,
            replicas_wanted=wishes.replicas_wanted,
            in_store=call.live.blobs.path(shard_id) is not None,
        )
    )


# --- roles -----------------------------------------------------------------------------------------------------------


async def list_roles(call: Listing) -> RoleList:
    """Roles with weight, quota and share, a page at a time."""
    roles, next_after = listing.roles(call.live.master, call.query.after, call.query.limit)
    return RoleList(roles=roles, next_after=next_after)


async def show_role(call: Plain) -> RoleView:
    """One role."""
    path = call.path["role"]
    for view in views.roles(call.live.master):
        if view.path == path:
            return view
    raise not_found("role", path, f"{PREFIX}/roles")


async def set_role(call: Call[Nothing, RoleSettings]) -> Record:
    """Set a role's weight and quota."""
    return await call.ask(SetRole(path=call.path["role"], weight=call.body.weight, quota=call.body.quota))


# --- frameworks ------------------------------------------------------------------------------------------------------


async def list_frameworks(call: Listing) -> FrameworkList:
    """Frameworks of the market with what they run, are offered and ask for, a page at a time."""
    with cursor_of(call.query):
        found, next_after = listing.frameworks(call.live.master, call.query.after, call.query.limit)
    return FrameworkList(frameworks=found, next_after=next_after)


async def show_framework(call: Plain) -> FrameworkView:
    """One framework."""
    framework_id = call.path["framework_id"]
    view = framework(call.live.master, framework_id)
    if view is None:
        raise not_found("framework", framework_id, f"{PREFIX}/frameworks")
    return view


# --- the master itself -----------------------------------------------------------------------------------------------


async def list_policies(call: Plain) -> PolicyList:
    """Policies that can be chosen, and the active one."""
    return PolicyList(policies=tuple(registry.names()), active=status_of(call).policy)


def status_of(call: Call[Nothing, Nothing]) -> StatusView:
    """The view, with what only the driver knows of the broker."""
    status = views.status(call.live.master, call.live.now_us())
    return msgspec.structs.replace(status, broker=call.live.broker_status())


async def show_status(call: Plain) -> StatusView:
    """The master at a glance."""
    return status_of(call)


async def healthz(call: Plain) -> Health:
    """Whether the process serves; nothing else is claimed."""
    return Health(status="ok")


async def readyz(call: Plain) -> Health:
    """Whether work is placed: 503 while the master recovers, has stepped down, or has lost its broker."""
    status, broker = status_of(call), call.live.broker_status()
    if status.state != "serving":
        raise refuse("not_ready", f"the master is {status.state.replace('_', ' ')}", {"Retry-After": "1"})
    if not broker.startswith("connected"):
        raise refuse("not_ready", f"broker {broker}", {"Retry-After": "1"})
    return Health(status="ok")
