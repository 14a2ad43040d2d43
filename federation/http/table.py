"""The route table: every address of the master, once. `app` serves it, `openapi` and the index page describe it."""

from federation import api
from federation.http import blobs, bodies, handlers, logs, pages, sse
from federation.http.handlers import PREFIX as V1
from federation.http.mesos import handler as mesos
from federation.http.route import Route

TASK = f"{V1}/tasks/{{job_id}}/{{group}}/{{index}}"
SERVICE = f"{V1}/services/{{job_id}}/{{group}}"
ROLE = f"{V1}/roles/{{role:.+}}"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
JSON = "application/json"
RANGE = {"Range": "one range, as in bytes=0-1023"}
RESUME = {"Last-Event-ID": "resume after this event; beats `after`"}

ROUTES: tuple[Route, ...] = (
    Route(
        "POST", f"{V1}/jobs", handlers.submit_job, api.JobView, "jobs",
        body=api.SubmitJob, status=201, problems=("artifact_missing",),
    ),
    Route("POST", f"{V1}/jobs/plan", handlers.plan_job, api.PlanView, "jobs", body=api.PlanJob),
    Route("GET", f"{V1}/jobs", handlers.list_jobs, bodies.JobList, "jobs", query=bodies.PageQuery),
    Route("GET", f"{V1}/jobs/{{job_id}}", handlers.show_job, api.JobView, "jobs"),
    Route("POST", f"{V1}/jobs/{{job_id}}/cancel", handlers.cancel_job, api.JobView, "jobs"),
    Route("GET", f"{V1}/services", handlers.list_services, bodies.ServiceList, "jobs", query=bodies.PageQuery),
    Route("GET", SERVICE, handlers.show_service, api.ServiceView, "jobs"),
    Route("PUT", f"{SERVICE}/demand", handlers.set_service_demand, api.ServiceView, "jobs", body=bodies.ServiceDemand),
    Route("GET", f"{V1}/tasks", handlers.list_tasks, api.TaskPage, "tasks", query=bodies.TaskQuery, problems=("gone",)),
    Route("GET", TASK, handlers.show_task, api.TaskView, "tasks"),
    Route("GET", f"{TASK}/why", handlers.why_task, api.WhyView, "tasks"),
    Route("GET", f"{TASK}/logs", logs.task_logs, "text/plain", "tasks", query=bodies.LogQuery),
    Route("POST", f"{TASK}/kill", handlers.kill_task, api.TaskView, "tasks"),
    Route("GET", f"{V1}/agents", handlers.list_agents, bodies.AgentList, "agents", query=bodies.PageQuery),
    Route("GET", f"{V1}/agents/{{agent_id}}", handlers.show_agent, api.AgentView, "agents"),
    Route(
        "POST", f"{V1}/agents/{{agent_id}}/mode", handlers.set_agent_mode, api.AgentView, "agents",
        body=bodies.AgentMode,
    ),
    Route("GET", f"{V1}/offers", handlers.list_offers, bodies.OfferList, "market", query=bodies.PageQuery),
    Route("GET", f"{V1}/roles", handlers.list_roles, bodies.RoleList, "market", query=bodies.PageQuery),
    Route("GET", ROLE, handlers.show_role, api.RoleView, "market"),
    Route("PUT", ROLE, handlers.set_role, api.RoleView, "market", body=bodies.RoleSettings),
    Route(
        "GET", f"{V1}/frameworks", handlers.list_frameworks, bodies.FrameworkList, "frameworks", query=bodies.PageQuery,
    ),
    Route("GET", f"{V1}/frameworks/{{framework_id}}", handlers.show_framework, api.FrameworkView, "frameworks"),
    Route("GET", f"{V1}/network", handlers.show_network, api.NetworkView, "network", query=bodies.PageQuery),
    Route("GET", f"{V1}/network/sites", handlers.show_topology, api.TopologyView, "network"),
    Route("GET", f"{V1}/network/paths/{{from_site}}/{{to_site}}", handlers.show_path, api.PathView, "network"),
    Route("GET", f"{V1}/shards", handlers.list_shards, bodies.ShardList, "shards", query=bodies.ShardQuery),
    Route("GET", f"{V1}/shards/{{sha256}}", handlers.show_shard, api.ShardView, "shards"),
    Route("PUT", f"{V1}/shards/{{sha256}}", handlers.set_shard, api.ShardView, "shards", body=bodies.ShardWishes),
    Route(
        "GET", "/shards/{sha256}", blobs.get_shard, BYTES, "shards",
        access="data", problems=("range_not_satisfiable",), headers=RANGE,
    ),
    Route(
        "PUT", "/shards/{sha256}", blobs.put_shard, api.ShardView, "shards",
        query=bodies.UploadQuery, body=BYTES, status=201, problems=("hash", "disk_full"),
    ),
    Route("GET", f"{V1}/policies", handlers.list_policies, bodies.PolicyList, "master"),
    Route("GET", f"{V1}/status", handlers.show_status, api.StatusView, "master"),
    Route(
        "GET", "/events", sse.events, EVENTS, "master",
        query=bodies.EventQuery, head=False, problems=("too_many_streams",), headers=RESUME,
    ),
    Route(
        "GET", f"{V1}/events", sse.events, EVENTS, "master",
        query=bodies.EventQuery, head=False, problems=("too_many_streams",), headers=RESUME,
    ),
    Route(
        "POST", f"{V1}/scheduler", mesos.scheduler, JSON, "frameworks",
        body=JSON, access="framework", problems=("not_acceptable", "not_ready", "too_many_streams"),
        headers={"Mesos-Stream-Id": "of every call but SUBSCRIBE: what the answer to SUBSCRIBE said"},
    ),
    Route("GET", "/version", mesos.version, mesos.Version, "frameworks", access="open"),
    Route("GET", "/metrics", pages.metrics, "text/plain", "master"),
    Route("GET", "/healthz", handlers.healthz, bodies.Health, "master", access="open"),
    Route("GET", "/readyz", handlers.readyz, bodies.Health, "master", access="open", problems=("not_ready",)),
    Route("GET", "/openapi.json", pages.openapi, "application/json", "master", access="open"),
    Route("GET", "/", pages.index, "text/html", "master", access="open"),
    Route("GET", "/problems/{code}", pages.problem, "text/html", "master", access="open"),
)  # fmt: skip
