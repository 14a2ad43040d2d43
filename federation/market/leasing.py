"""Leases: made, ended, and remembered as filters when they are refused. Every unit is in at most one of them."""

import heapq
from collections.abc import Sequence
from operator import itemgetter

from federation.agents_book import AgentEntry
from federation.commands import Emit
from federation.core import Core
from federation.market.book import Filter, FrameworkEntry
from federation.market.constraints import quoted
from federation.market.holdings import OPEN, Face, Item, Lease, Standing, by_standing
from federation.market.protocol import FrameworkOffer, OfferedAgent, Portion, Rescind, StreamEvent
from federation.offers import unused_of
from policies.model import Gpu, Link, Resources

SHARDS_SHOWN_MAX = 256
IGNORED_DOUBLINGS_MAX = 6
_PIECES = itemgetter(6)


def emit(core: Core, framework: FrameworkEntry, event: StreamEvent, *, close: bool = False) -> None:
    """Say it on the framework's stream; without one nobody hears it."""
    if framework.stream_id:
        core.out.append(
            Emit(framework_id=framework.framework_id, stream_id=framework.stream_id, event=event, close=close)
        )


# What one offer is to hold, and of which agent; the request it answers, and how many of its pieces.
Grant = tuple[FrameworkEntry, str, AgentEntry, tuple[Portion, ...], tuple[Link, ...], str, int]


def lease(core: Core, grants: Sequence[Grant]) -> list[FrameworkOffer]:
    """Make leases of resources that `free_of` or a pool says are free. The caller emits them, and charges the roles."""
    market = core.market
    prefix, expires_us = f"{core.term}-o", core.now_us + core.config.lease_us
    numbers = range(market.n_offers + 1, market.n_offers + 1 + len(grants))
    market.n_offers += len(grants)
    if not market.leases:  # Later ones end later.
        core.deadlines.set_earlier(("market", "leases"), expires_us)
    # A cycle makes thousands: what can be done to all of them by one step of the interpreter is.
    offers = [
        FrameworkOffer(
            offer_id=f"{prefix}{number}",
            framework_id=framework.framework_id,
            agent=(entry.face or face_of(entry)).agent,
            role=role,
            portions=portions,
            expires_us=expires_us,
            links=links,
            request_id=request_id,
            running=_running(entry, framework) if entry.holdings.tasks else (),
        )
        for number, (framework, role, entry, portions, links, request_id, _) in zip(numbers, grants, strict=True)
    ]
    leases = list(map(Lease, offers, numbers, map(_PIECES, grants)))
    market.leases.update(zip(numbers, leases, strict=True))
    for made, offer, (framework, _, entry, portions, _, _, _) in zip(leases, offers, grants, strict=True):
        framework.offers[offer.offer_id] = made
        holdings = entry.holdings
        holdings.leases = (*holdings.leases, made) if holdings.leases else (made,)
        for portion in portions:
            if portion.reservation is not None:
                holdings.bundle_leased(portion.reservation, portion.revocable).add(portion.resources)
        entry.leases_changed()
    return offers


def _running(entry: AgentEntry, framework: FrameworkEntry) -> tuple[str, ...]:
    """The framework's own tasks there."""
    tasks = entry.holdings.tasks.values()
    return tuple(task.spec.task_id for task in tasks if task.framework_id == framework.framework_id)


def face_of(entry: AgentEntry) -> Face:
    """What a cycle asks of an agent that takes work (`is_offered`), and what every offer says of it: kept until the
    agent or its offer changes, and shared by its offers."""
    face = entry.face
    if face is None:
        unused, enrolled = unused_of(entry), entry.enrolled
        assert unused is not None and entry.offer is not None, "an agent without an offer takes no work"
        agent = OfferedAgent(
            agent_id=entry.agent_id,
            site=enrolled.site,
            region=enrolled.region,
            tier=enrolled.tier,
            hardware=enrolled.hardware,
            speed_milli=enrolled.speed_milli,
            labels=enrolled.labels,
            shards=entry.held_sorted()[:SHARDS_SHOWN_MAX],
            data_url=enrolled.data_url,
        )
        item = Item(OPEN, unused, in_order(unused.gpus), (Portion(resources=unused),))
        is_plain = not (entry.gpus_by_uuid or entry.holdings.pools)
        face = entry.face = Face(agent, entry.offer.expires_us, is_plain, item, item.row)
    return face


def end_lease(core: Core, made: Lease) -> FrameworkEntry:
    """The lease is over, however it came about: what it held is free again."""
    market, offer = core.market, made.offer
    framework, entry = market.frameworks[offer.framework_id], core.agents[offer.agent_id]
    del market.leases[made.number], framework.offers[offer.offer_id]
    entry.holdings.leases = tuple(other for other in entry.holdings.leases if other is not made)
    for portion in offer.portions:
        if portion.reservation is not None:
            entry.holdings.bundle_leased(portion.reservation, portion.revocable).take(portion.resources)
    market.charge(framework, offer.role, made.amount, -1)
    if made.request_id and (want := framework.wants.get(made.request_id)) is not None:
        want.n_leased = max(0, want.n_leased - made.pieces)
    entry.leases_changed()
    market.mark(entry.agent_id)
    core.rounds.changed = True
    return framework


def rescind(core: Core, made: Lease, reason: str) -> None:
    framework = end_lease(core, made)
    core.count("framework_offers_rescinded")
    emit(core, framework, Rescind(offer_id=made.offer.offer_id, reason=reason))


def rescind_agent(core: Core, entry: AgentEntry, reason: str) -> None:
    for made in entry.holdings.leases:
        rescind(core, made, reason)


def rescind_expired(core: Core) -> None:
    """Leases all last equally long, so the oldest end first. Who answers nothing has refused what it kept, for twice as
    long each time in a row: else it, holding nothing, would be the first to be offered it again."""
    market, ignored = core.market, dict[str, None]()
    while (made := market.oldest_lease()) is not None:
        if made.expires_us > core.now_us:
            core.deadlines.set(("market", "leases"), made.expires_us)
            break
        core.count("framework_offers_expired")
        offer = made.offer
        rescind(core, made, "expired")
        framework = market.frameworks[offer.framework_id]
        for_us = core.config.lease_us << min(framework.n_ignored, IGNORED_DOUBLINGS_MAX)
        refuse(core, framework, offer.role, offer.agent_id, by_standing(offer.portions), for_us)
        ignored[framework.framework_id] = None
    for framework_id in ignored:
        market.frameworks[framework_id].n_ignored += 1


# --- filters ---------------------------------------------------------------------------------------------------------


def refuse(
    core: Core, framework: FrameworkEntry, role: str, agent_id: str, refused: dict[Standing, Resources], for_us: int
) -> None:
    """Do not offer what this contains again for a while. A later refusal of more replaces an earlier one."""
    if for_us <= 0 or not refused:
        return
    market, key = core.market, (role, agent_id)
    if key not in framework.filters and len(framework.filters) >= core.config.filters_max:
        core.count("filters_over_bound")
        return
    until_us = core.now_us + for_us
    framework.filters[key] = market.filters.setdefault(agent_id, {})[framework.framework_id, role] = Filter(
        refused, until_us
    )
    heapq.heappush(market.filter_ends, (until_us, framework.framework_id, role, agent_id))
    core.deadlines.set_earlier(("market", "filters"), until_us)


def clear_filters(core: Core, framework: FrameworkEntry, roles: frozenset[str]) -> None:
    for role, agent_id in [key for key in framework.filters if key[0] in roles]:
        _drop_filter(core, framework, role, agent_id)


def _drop_filter(core: Core, framework: FrameworkEntry, role: str, agent_id: str) -> None:
    del framework.filters[role, agent_id]
    of_agent = core.market.filters[agent_id]
    del of_agent[framework.framework_id, role]
    if not of_agent:
        del core.market.filters[agent_id]
    core.market.mark(agent_id)


def end_filters(core: Core) -> None:
    """Those whose time has come."""
    ends = core.market.filter_ends
    while ends and ends[0][0] <= core.now_us:
        until_us, framework_id, role, agent_id = heapq.heappop(ends)
        framework = core.market.frameworks.get(framework_id)
        found = framework.filters.get((role, agent_id)) if framework is not None else None
        if framework is not None and found is not None and found.until_us == until_us:
            _drop_filter(core, framework, role, agent_id)
    if ends:
        core.deadlines.set(("market", "filters"), ends[0][0])


def constraints_of(core: Core, framework: FrameworkEntry, role: str) -> tuple[str, ...]:
    """What its agents must satisfy: what it said, and the master's region where it is not prepared for others."""
    info, region = framework.info, core.config.region
    said = (*info.constraints.get("", ()), *info.constraints.get(role, ()))
    if not region or framework.has("REGION_AWARE"):
        return said
    return (*said, f"agent.region == {quoted(region)} or no agent.region")


def gpu_order(gpu: Gpu) -> tuple[int, str]:
    """The order in which GPUs are offered and given: small ones first, so that large ones stay."""
    return gpu.memory_bytes or 0, gpu.uuid


def in_order(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=gpu_order)) if gpus else ()


def links_at(core: Core) -> dict[str, tuple[Link, ...]]:
    """The measured links by the end they share: `site:x`, `agent:y`."""
    found: dict[str, list[Link]] = {}
    for link in core.network.links(core.now_us):
        found.setdefault(link.from_id, []).append(link)
        if link.to_id != link.from_id:
            found.setdefault(link.to_id, []).append(link)
    return {end: tuple(links) for end, links in found.items()}


def links_of(at: dict[str, tuple[Link, ...]], entry: AgentEntry) -> tuple[Link, ...]:
    if not at:
        return ()
    of_site, of_agent = at.get(f"site:{entry.site}", ()), at.get(f"agent:{entry.agent_id}", ())
    return of_site + of_agent if of_agent else of_site
