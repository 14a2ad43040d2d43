"""What belongs to HTTP alone: bodies whose ids stand in the path, query parameters, and lists as objects."""

from typing import Annotated, Literal

import msgspec

from federation.api import AgentView, FrameworkView, JobView, OfferView, RoleView, ServiceView, ShardView
from federation.states import TaskState
from policies.model import Amount, Record

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000, description="entries a page")]
Id = Annotated[str, msgspec.Meta(max_length=255)]
Cursor = Annotated[str, msgspec.Meta(max_length=1024)]


class Nothing(Record, frozen=True, kw_only=True):
    """No parameters, or an empty body."""


# --- bodies ----------------------------------------------------------------------------------------------------------


class AgentMode(Record, frozen=True, kw_only=True):
    mode: Literal["active", "cordoned", "draining"]


class RoleSettings(Record, frozen=True, kw_only=True):
    """Replaces what is set: a `quota` left out or null is no limit."""

    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    quota: Amount | None = None


class ShardWishes(Record, frozen=True, kw_only=True):
    """Replaces what is wanted of a shard."""

    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    name: Annotated[str, msgspec.Meta(max_length=255)] = ""
    sites: tuple[Id, ...] = ()
    replicas_wanted: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


class ServiceDemand(Record, frozen=True, kw_only=True):
    """Requests a second by client site; sites that are not named keep what they have."""

    requests_per_second: dict[Id, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]]


# --- queries ---------------------------------------------------------------------------------------------------------


class PageQuery(Record, frozen=True, kw_only=True):
    after: Annotated[Cursor, msgspec.Meta(description="`next_after` of the page before")] | None = None
    limit: Limit = 100


class TaskQuery(PageQuery, frozen=True, kw_only=True):
    job: Annotated[Id, msgspec.Meta(description="only this job's")] | None = None
    state: Annotated[TaskState, msgspec.Meta(description="only those in this state")] | None = None
    agent: Annotated[Id, msgspec.Meta(description="only those placed there")] | None = None


class LogQuery(Record, frozen=True, kw_only=True):
    tail_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**30, description="only the end of it")] | None = None
    source: Annotated[
        Literal["auto", "book"], msgspec.Meta(description="`book`: what the master kept, the agent is not asked")
    ] = "auto"


class ShardQuery(PageQuery, frozen=True, kw_only=True):
    glob: Annotated[Id, msgspec.Meta(description="only names that match, such as `digits/*`")] = "*"


class UploadQuery(Record, frozen=True, kw_only=True):
    """Of an upload; the bytes are the body."""

    name: Annotated[Id, msgspec.Meta(description="the shard's name, for globs")] = ""
    site: Annotated[tuple[Id, ...], msgspec.Meta(description="a site it may live in; repeat it for more")] = ()
    replicas_wanted: Annotated[int, msgspec.Meta(ge=0, le=1000, description="copies to keep on agents")] = 0


class EventQuery(Record, frozen=True, kw_only=True):
    after: (
        Annotated[int, msgspec.Meta(ge=0, le=2**53, description="replay what came after this event; 0: from the start")]
        | None
    ) = None


# --- lists, a page at a time: objects, so that they can gain fields ---------------------------------------------------


class JobList(Record, frozen=True, kw_only=True, omit_defaults=False):
    jobs: tuple[JobView, ...]
    next_after: str | None


class AgentList(Record, frozen=True, kw_only=True, omit_defaults=False):
    agents: tuple[AgentView, ...]
    next_after: str | None


class OfferList(Record, frozen=True, kw_only=True, omit_defaults=False):
    offers: tuple[OfferView, ...]
    next_after: str | None


class ShardList(Record, frozen=True, kw_only=True, omit_defaults=False):
    shards: tuple[ShardView, ...]
    next_after: str | None


class RoleList(Record, frozen=True, kw_only=True, omit_defaults=False):
    roles: tuple[RoleView, ...]
    next_after: str | None


class ServiceList(Record, frozen=True, kw_only=True, omit_defaults=False):
    services: tuple[ServiceView, ...]
    next_after: str | None


class FrameworkList(Record, frozen=True, kw_only=True, omit_defaults=False):
    frameworks: tuple[FrameworkView, ...]
    next_after: str | None


class PolicyList(Record, frozen=True, kw_only=True, omit_defaults=False):
    policies: tuple[str, ...]
    active: str


class Health(Record, frozen=True, kw_only=True, omit_defaults=False):
    status: Literal["ok"]


class ProblemDetails(Record, frozen=True, kw_only=True, omit_defaults=False):
    """RFC 9457, `application/problem+json`. `type` is stable; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    instance: str  # the path that was asked for
