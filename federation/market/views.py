"""What people see of frameworks: read from the market's book at any time, never changing it."""

from collections import Counter
from typing import TYPE_CHECKING

from federation.api import FrameworkView, RequestView
from federation.market.book import FrameworkEntry, Want
from policies.model import Amount
from policies.resources import amount_of, total

if TYPE_CHECKING:
    from federation.core import Core
    from federation.master import Master


def frameworks(m: "Master") -> tuple[FrameworkView, ...]:
    """By id."""
    return tuple(framework_view(m.core, entry) for _, entry in sorted(m.core.market.frameworks.items()))


def framework(m: "Master", framework_id: str) -> FrameworkView | None:
    entry = m.core.market.frameworks.get(framework_id)
    return None if entry is None else framework_view(m.core, entry)


def framework_view(core: "Core", entry: FrameworkEntry) -> FrameworkView:
    """Cost O(its tasks + its offers)."""
    info = entry.info
    running = [task for task in entry.tasks.values() if task.is_open]
    return FrameworkView(
        framework_id=entry.framework_id,
        name=info.name,
        principal=entry.principal,
        roles=info.roles,
        suppressed=tuple(sorted(entry.suppressed)),
        capabilities=tuple(sorted(info.capabilities)),
        state="connected" if entry.stream_id else "disconnected",
        since_us=entry.since_us,
        gone_us=entry.gone_us,
        failover_timeout_us=info.failover_timeout_us,
        tasks=dict(sorted(Counter(task.state for task in entry.tasks.values()).items())),
        n_unacknowledged=sum(len(task.updates) for task in entry.tasks.values()),
        running=total(amount_of(task.needs) for task in running),
        offered=_offered(entry),
        n_offers=len(entry.offers),
        n_filters=len(entry.filters),
        n_ignored=entry.n_ignored,
        requests=tuple(_request_view(core, want) for _, want in sorted(entry.wants.items())),
        webui_url=info.webui_url,
    )


def _offered(entry: FrameworkEntry) -> Amount:
    return total(made.amount for made in entry.offers.values())


def _request_view(core: "Core", want: Want) -> RequestView:
    held = sorted(agent_id for agent_id, kept_for in core.market.held.items() if kept_for == want.demand_id)
    return RequestView(
        request_id=want.wanted.request_id,
        role=want.wanted.role,
        count=want.wanted.count,
        n_offered=want.n_leased,
        n_taken=want.n_taken,
        gang=want.wanted.gang,
        paused=want.is_paused,
        since_us=want.since_us,
        held_agents=tuple(held),
    )
