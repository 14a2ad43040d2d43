"""Lists a page at a time: what HTTP answers is bounded whatever the books hold.

Each function gives at most `limit` entries behind the cursor `after` (None: from the start), and the cursor of the
next page (None: this was the last). A cursor names a place in the order, not an entry, so it serves after its entry has
gone: nothing that stayed is missed. Only the views of the page are made. A cursor that is none is a `ValueError`.
"""

from bisect import bisect_right
from heapq import nsmallest
from itertools import dropwhile, islice
from typing import TYPE_CHECKING

from federation import views
from federation.api import AgentView, FrameworkView, JobView, OfferView, RoleView, ServiceView, ShardView
from federation.market.views import framework_view
from federation.services import service_view
from policies.model import Link

if TYPE_CHECKING:
    from federation.master import Master


def jobs(m: "Master", after: str | None, limit: int) -> tuple[tuple[JobView, ...], str | None]:
    """In order of submission, newest last. Time O(jobs)."""
    entries = iter(m.core.tasks.jobs.values())
    if after is not None:
        time, _, job_id = after.partition("/")
        if not time.isdigit() or not job_id:
            raise ValueError(after)
        entries = dropwhile(lambda entry: entry.submitted_us < int(time), entries)
        if job_id in m.core.tasks.jobs:
            entries = islice(dropwhile(lambda entry: entry.job_id != job_id, entries), 1, None)
    page = list(islice(entries, limit + 1))
    last = page[limit - 1] if len(page) > limit else None
    found = tuple(views.job_view(entry) for entry in page[:limit])
    return found, None if last is None else f"{last.submitted_us}/{last.job_id}"


def agents(m: "Master", after: str | None, limit: int) -> tuple[tuple[AgentView, ...], str | None]:
    """By id."""
    entries = m.core.agents.entries
    ids, next_after = _keys(sorted(entries), after, limit)
    return tuple(views.agent_view(m.core, entries[agent_id]) for agent_id in ids), next_after


def offers(m: "Master", after: str | None, limit: int) -> tuple[tuple[OfferView, ...], str | None]:
    """By agent: each has one."""
    entries = m.core.agents.entries
    with_offer = sorted(agent_id for agent_id, entry in entries.items() if views.is_offering(entry))
    ids, next_after = _keys(with_offer, after, limit)
    return tuple(views.offer_view(entries[agent_id]) for agent_id in ids), next_after


def roles(m: "Master", after: str | None, limit: int) -> tuple[tuple[RoleView, ...], str | None]:
    """By path."""
    entries = m.core.shares.roles
    paths, next_after = _keys(sorted(entries), after, limit)
    return tuple(views.role_view(m.core, entries[path]) for path in paths), next_after


def frameworks(m: "Master", after: str | None, limit: int) -> tuple[tuple[FrameworkView, ...], str | None]:
    """By id."""
    entries = m.core.market.frameworks
    ids, next_after = _keys(sorted(entries), after, limit)
    return tuple(framework_view(m.core, entries[framework_id]) for framework_id in ids), next_after


def services(m: "Master", after: str | None, limit: int) -> tuple[tuple[ServiceView, ...], str | None]:
    """By id, those of open jobs."""
    entries = m.core.tasks.services
    ids, next_after = _keys(sorted(entries), after, limit)
    return tuple(service_view(m.core, entries[service_id]) for service_id in ids), next_after


def shards(m: "Master", glob: str, after: str | None, limit: int) -> tuple[tuple[ShardView, ...], str | None]:
    """By name, then id; those that `views.matches`. Time O(shards)."""
    behind = ("", "")
    if after is not None:
        name, mark, shard_id = after.rpartition("/")
        if not mark:
            raise ValueError(after)
        behind = (name, shard_id)
    found = nsmallest(
        limit + 1,
        (
            entry
            for entry in m.core.shards.entries.values()
            if (entry.name, entry.shard_id) > behind and views.matches(entry, glob)
        ),
        key=lambda entry: (entry.name, entry.shard_id),
    )
    last = found[limit - 1] if len(found) > limit else None
    page = tuple(views.shard_view(m.core, entry) for entry in found[:limit])
    return page, None if last is None else f"{last.name}/{last.shard_id}"


def links(m: "Master", now_us: int, after: str | None, limit: int) -> tuple[tuple[Link, ...], str | None]:
    """By ends."""
    found = m.core.network.links_told(now_us)
    start = 0 if after is None else bisect_right(found, _ends(after), key=lambda link: (link.from_id, link.to_id))
    page = found[start : start + limit]
    return page, f"{page[-1].from_id}/{page[-1].to_id}" if start + limit < len(found) else None


def _ends(after: str) -> tuple[str, str]:
    from_id, mark, to_id = after.partition("/")
    if not mark:
        raise ValueError(after)
    return from_id, to_id


def _keys(keys: list[str], after: str | None, limit: int) -> tuple[list[str], str | None]:
    start = 0 if after is None else bisect_right(keys, after)
    page = keys[start : start + limit]
    return page, page[-1] if start + limit < len(keys) else None
