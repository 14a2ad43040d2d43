"""REQUEST: what frameworks wish for goes into the placement rounds, and where the optimum puts it becomes an offer.

A wish is a demand like a pending task's. A gang is leased whole or not at all, so nothing is hoarded while it waits.
A wish of which nothing free has met a piece for long gets agents kept for it (reserve-ahead), where its data is or soon
would be: nothing new starts there, and as soon as what runs there has ended the wish is served. Small ones, whose turn
the price of waiting should bring, get it when that took four times as long: those of another framework in the same role
may look older for ever, and single cores that free up are filled by who needs no more. One wish has its turn at a time,
the one that nobody served for longest first, for a bounded while that doubles from turn to turn, so that in the end it
outlasts whatever runs there. Others go on everywhere else meanwhile (backfill).
"""

from collections.abc import Iterable

import msgspec

from federation.agents_book import AgentEntry
from federation.api import Answer, Problem
from federation.core import Core
from federation.market.book import FrameworkEntry, Want
from federation.market.constraints import ConstraintError, Predicate, admits, parse
from federation.market.holdings import OPEN
from federation.market.leasing import Grant, constraints_of, emit, lease, links_at, links_of
from federation.market.protocol import CallTaken, FrameworkOffer, Offers, Portion, Request, WantedOffer
from federation.market.subscriptions import changed, refusal
from federation.offers import FOREVER_US, free_of, is_offered, may_live
from federation.states import AgentState
from policies.entitlements import entitlements
from policies.gpus import together
from policies.model import (
    Demand,
    Gang,
    Link,
    LinkNeed,
    Needs,
    Node,
    Placement,
    Resources,
    Role,
    Transfer,
    Where,
)
from policies.resources import add, amount_of, copies, fits, gpus_of_tasks, quota_copies, role_chain, total

HOLD_DOUBLINGS_MAX = 10
SMALL_COPIES = 4
SMALL_WAITS = 4  # A wish for what some agent holds `SMALL_COPIES` of starves after so many times `starve_after_us`.
DATA_GRAIN_US = 5_000_000  # Data that comes sooner than another's by less is no reason to wait for a fuller agent.


def request(core: Core, framework: FrameworkEntry, call: Request) -> Answer:
    """All wishes of the call are taken, or none."""
    for wanted in call.wants:
        problem = _check(core, framework, wanted)
        if problem is not None:
            return problem
    known = set(framework.wants) | {wanted.request_id for wanted in call.wants if wanted.count}
    if len(known) > core.config.wants_max:
        return refusal(503, "full", "The framework wishes for too much", f"{core.config.wants_max} requests at once")
    for wanted in call.wants:
        earlier = framework.wants.get(wanted.request_id)
        if earlier is not None:
            core.market.drop_want(framework, wanted.request_id)
            _release(core, earlier.demand_id)
        if wanted.count:
            want = Want(framework.framework_id, wanted, core.now_us)
            framework.wants[wanted.request_id] = core.market.wants[want.demand_id] = want
            core.deadlines.set_earlier(("market", "holds"), core.now_us + core.config.starve_after_us)
    core.rounds.changed = True
    changed(core)
    core.count("requests")
    return CallTaken(framework_id=framework.framework_id)


def _check(core: Core, framework: FrameworkEntry, wanted: WantedOffer) -> Problem | None:
    if wanted.role not in framework.info.roles:
        return refusal(400, "bad_roles", "This is not the framework's role", wanted.role)
    if wanted.count and not (wanted.cpu_milli or wanted.memory_bytes):
        return refusal(400, "bad_request", "A request needs CPU or memory", wanted.request_id)
    if wanted.gpu is not None and not framework.has("GPU_RESOURCES"):
        return refusal(400, "bad_request", "GPUs need the capability GPU_RESOURCES", wanted.request_id)
    for shard_id in wanted.reads:
        if shard_id not in core.shards.entries:
            return refusal(400, "unknown_shard", "There is no such shard", shard_id)
    for text in wanted.constraints:
        try:
            parse(text)
        except ConstraintError as error:
            return refusal(400, "bad_constraint", "A constraint of the request is wrong", str(error))
    return None


# --- in the rounds ---------------------------------------------------------------------------------------------------


def are_open(core: Core) -> bool:
    """Whether any wish is left to be met."""
    return any(_is_open(core, want) for want in core.market.wants.values())


def _is_open(core: Core, want: Want) -> bool:
    framework = core.market.frameworks[want.framework_id]
    if not framework.stream_id or want.is_paused:
        return False
    # A gang that is offered, whole, is not wished for a second time meanwhile.
    return want.left == want.wanted.count if want.wanted.gang else want.left > 0


def needs_of(want: Want) -> Needs:
    wanted = want.wanted
    return Needs(
        cpu_milli=wanted.cpu_milli,
        memory_bytes=wanted.memory_bytes,
        disk_bytes=wanted.disk_bytes,
        gpu=wanted.gpu,
        links=tuple(need for text in wanted.constraints if (need := _link_need(parse(text))) is not None),
    )


def _link_need(predicate: Predicate) -> LinkNeed | None:
    """The bound that the policy knows of by itself, if the predicate is one."""
    other = predicate.selector[0][1] if predicate.selector else ""
    if not other.startswith("site:"):
        return None
    site, number = other.removeprefix("site:"), predicate.number
    way, operator = predicate.selector[0][0], predicate.operator
    if predicate.field == "link.rtt_us" and operator in ("<", "<=") and way == "to":
        return LinkNeed(site=site, rtt_us_max=number - (operator == "<"))
    if predicate.field == "link.bandwidth_bps" and operator in (">", ">=") and way == "from":
        return LinkNeed(site=site, bandwidth_bps_min=number + (operator == ">"))
    return None


def demands(core: Core) -> Iterable[Demand]:
    """The open wishes as a policy sees them."""
    wants = [want for want in core.market.wants.values() if _is_open(core, want)]
    if not wants:
        return
    with_gpus = tuple(entry.agent_id for entry in core.agents.sorted() if entry.gpus_by_uuid)
    links = links_at(core)
    for want in wants:
        wanted, where = want.wanted, want.wanted.where
        avoided = tuple(sorted({*where.agents_avoided, *_avoided(core, want, with_gpus, links)}))
        yield Demand(
            demand_id=want.demand_id,
            role=wanted.role,
            needs=needs_of(want),
            count=want.left,
            oldest_us=want.since_us,
            priority=wanted.priority,
            where=Where(
                tiers=where.tiers,
                sites=where.sites,
                agents=where.agents,
                labels=where.labels,
                agents_avoided=avoided,
            ),
            reads=tuple(sorted(set(wanted.reads))),
            profile=wanted.profile,
            run_us=wanted.run_us,
            latency=wanted.latency,
            gang=Gang(gang_id=want.demand_id, size=wanted.count) if wanted.gang else None,
        )


def _avoided(core: Core, want: Want, with_gpus: tuple[str, ...], links: dict[str, tuple[Link, ...]]) -> set[str]:
    """Agents that constraints, filters or GPUs keep from this framework."""
    framework = core.market.frameworks[want.framework_id]
    found = set() if framework.has("GPU_RESOURCES") else set(with_gpus)
    found.update(agent_id for role, agent_id in framework.filters if _is_refused(framework, want, agent_id))
    texts = _predicates(core, framework, want)
    if texts:
        for entry in core.agents.sorted():
            if not admits(texts, entry, links_of(links, entry)):
                found.add(entry.agent_id)
    return found


def _predicates(core: Core, framework: FrameworkEntry, want: Want) -> tuple[str, ...]:
    """Those of the framework and of the wish that the policy does not judge itself."""
    own = tuple(text for text in want.wanted.constraints if _link_need(parse(text)) is None)
    return (*constraints_of(core, framework, want.wanted.role), *own)


def _is_refused(framework: FrameworkEntry, want: Want, agent_id: str) -> bool:
    found = framework.filters.get((want.wanted.role, agent_id))
    refused = found.refused.get(OPEN) if found is not None else None
    return refused is not None and fits(needs_of(want), refused)


def entitled_roles(core: Core, demands: tuple[Demand, ...], nodes: tuple[Node, ...]) -> tuple[Role, ...]:
    """The roles as a policy sees them. Where frameworks' requests compete with others, each role has its fair share of
    what is free beside it: the capacity of its source in the flow network, as long as others want the rest."""
    roles = core.shares.snapshot()
    paths = {demand.role for demand in demands}
    if len(paths) < 2 or not any(demand.demand_id in core.market.wants for demand in demands):
        return roles
    free = total(amount_of(node.free) for node in nodes)
    due = entitlements(roles, demands, free, core.agents.total)
    return tuple(
        msgspec.structs.replace(role, entitlement=due[role.path]) if role.path in due else role for role in roles
    )


def place(core: Core, placements: Iterable[Placement]) -> int:
    """Turn what a plan gives to wishes into offers, as far as it still holds; the number of offers made."""
    offers: dict[str, list[FrameworkOffer]] = {}
    by_want: dict[str, list[Placement]] = {}
    for placement in placements:
        by_want.setdefault(placement.demand_id, []).append(placement)
    at = links_at(core)
    for demand_id, of_want in by_want.items():
        want = core.market.wants.get(demand_id)
        if want is None or not _is_open(core, want):
            continue
        framework = core.market.frameworks[want.framework_id]
        parts: list[tuple[AgentEntry, int, Resources]] = []
        left = want.left
        for placement in of_want:
            entry = core.agents.get(placement.agent_id)
            if entry is None or not _may_have(core, want, entry):
                continue
            count = min(left, placement.count, _quota_left(core, want, left - want.left, left))
            count, resources = _take(want, entry, count)
            if count:
                parts.append((entry, count, resources))
                left -= count
        if want.wanted.gang and left > 0:
            core.count("gangs_not_whole")
            core.rounds.changed = True
            continue
        role, request_id = want.wanted.role, want.wanted.request_id
        grants: list[Grant] = []
        for entry, count, resources in parts:
            want.n_leased += count
            portions = (Portion(resources=resources),)
            grants.append((framework, role, entry, portions, links_of(at, entry), request_id, count))
            core.market.charge_leases(framework, role, amount_of(resources), 1)
        if grants:
            offers.setdefault(framework.framework_id, []).extend(lease(core, grants))
    made = 0
    for framework_id, of_framework in offers.items():
        made += len(of_framework)
        emit(core, core.market.frameworks[framework_id], Offers(offers=tuple(of_framework)))
    core.count("shaped_offers", made)
    return made


def _may_have(core: Core, want: Want, entry: AgentEntry) -> bool:
    kept_for = core.market.held.get(entry.agent_id)
    return is_offered(entry, core.now_us) and kept_for in (None, want.demand_id) and _suits(core, want, entry)


def _suits(core: Core, want: Want, entry: AgentEntry) -> bool:
    """Whether the standing constraints of a wish admit an agent."""
    framework, wanted = core.market.frameworks[want.framework_id], want.wanted
    if entry.gpus_by_uuid and not framework.has("GPU_RESOURCES"):
        return False
    if not may_live(wanted.where, entry.agent_id, entry.enrolled) or entry.agent_id in wanted.where.agents_avoided:
        return False
    if _is_refused(framework, want, entry.agent_id):
        return False
    for shard_id in wanted.reads:
        shard = core.shards.entries.get(shard_id)
        if shard is None or (shard.sites and entry.site not in shard.sites):
            return False
    texts = (*_predicates(core, framework, want), *wanted.constraints)
    if not texts:
        return True
    return admits(texts, entry, links_of(links_at(core), entry))


def _take(want: Want, entry: AgentEntry, count: int) -> tuple[int, Resources]:
    """As many pieces as fit, up to `count`, and what they take together."""
    free, needs = free_of(entry), needs_of(want)
    assert free is not None, "checked by is_offered"
    count = copies(needs, free, count) if count > 0 else 0
    pieces = gpus_of_tasks(needs.gpu, free.gpus, count) if needs.gpu is not None else []
    return count, Resources(
        cpu_milli=needs.cpu_milli * count,
        memory_bytes=needs.memory_bytes * count,
        disk_bytes=needs.disk_bytes * count,
        gpus=tuple(together(*(taken for _, taken in pieces)).values()),
    )


def _quota_left(core: Core, want: Want, taken: int, at_most: int) -> int:
    """How many more pieces the quotas of the role allow; `taken` (≤ 0) are those of this plan not leased yet."""
    needs = needs_of(want)
    used = amount_of(needs, -taken)
    for above in role_chain(want.wanted.role):
        entry = core.shares.roles[above]
        if entry.quota is not None:
            at_most = quota_copies(needs, add(entry.allocated, used), entry.quota, at_most)
    return at_most


# --- reserve-ahead ---------------------------------------------------------------------------------------------------


def _release(core: Core, demand_id: str) -> None:
    for agent_id in [agent_id for agent_id, kept_for in core.market.held.items() if kept_for == demand_id]:
        del core.market.held[agent_id]
        core.market.mark(agent_id)
        core.rounds.changed = True


def _end_turn(core: Core, demand_id: str) -> None:
    """Let the next in line have its turn at once."""
    _release(core, demand_id)
    core.deadlines.set_earlier(("market", "holds"), core.now_us + 1)


def look_at_holds(core: Core) -> None:
    """Time has passed: a hold that took too long ends, and the longest-starving wish has its turn."""
    market, config = core.market, core.config
    if market.held and core.now_us >= market.held_until_us:
        kept_for = next(iter(market.held.values()))
        _release(core, kept_for)
        if (want := market.wants.get(kept_for)) is not None:
            want.since_us = core.now_us  # To the end of the line, and for twice as long the next time.
            want.n_holds += 1
        core.count("holds_ended")
    if not market.held:
        starving = [
            want
            for want in market.wants.values()
            if _is_open(core, want) and core.now_us - want.unserved_since_us >= _patience_us(core, want)
        ]
        for want in sorted(starving, key=lambda want: (want.unserved_since_us, want.demand_id)):
            if _hold_for(core, want):
                break
    if market.held:
        core.deadlines.set_earlier(("market", "holds"), market.held_until_us)
    elif market.wants:
        core.deadlines.set_earlier(("market", "holds"), core.now_us + config.starve_after_us)


def _patience_us(core: Core, want: Want) -> int:
    """How long it may go unserved. Room that frees up piece by piece does not do for a gang, nor for a piece of which
    no agent could hold four; smaller ones mostly wait for their turn only."""
    starve_us, needs = core.config.starve_after_us, needs_of(want)
    is_small = not want.wanted.gang and any(
        copies(needs, entry.enrolled.total, SMALL_COPIES) == SMALL_COPIES and _suits(core, want, entry)
        for entry in core.agents.sorted()
    )
    return starve_us * SMALL_WAITS if is_small else starve_us


def _hold_for(core: Core, want: Want) -> bool:
    """Keep the agents that can begin it soonest: those to which its data comes first, of these those with the least in
    use. False when none ever could."""
    crossing = {(way.from_site, way.to_site): way for way in core.transfers.snapshot(core.tasks.tasks, core.moves)}
    needs, left = needs_of(want), want.left if want.wanted.gang else 1
    found: list[tuple[int, int, str, int]] = []
    for entry in core.agents.sorted():
        here = entry.state is AgentState.ONLINE and entry.mode == "active"
        if here and fits(needs, entry.enrolled.total) and _suits(core, want, entry):
            most = copies(needs, entry.enrolled.total, left)
            used_milli = entry.cpu_used * 1000 // max(1, entry.enrolled.total.cpu_milli)
            grains = _data_us(core, want, entry, crossing) // DATA_GRAIN_US
            found.append((grains, used_milli, entry.agent_id, most))
    for _, _, agent_id, most in sorted(found):
        if left <= 0:
            break
        core.market.held[agent_id] = want.demand_id
        left -= most
    if left > 0:
        _release(core, want.demand_id)
        return False
    core.market.held_until_us = core.now_us + (core.config.hold_us << min(want.n_holds, HOLD_DOUBLINGS_MAX))
    core.count("holds")
    core.rounds.changed = True
    serve_held(core)
    return True


def _data_us(core: Core, want: Want, entry: AgentEntry, crossing: dict[tuple[str, str], Transfer]) -> int:
    """How long what it reads would take to an agent, after all that is on the same ways already."""
    data_us = 0
    for shard_id in want.wanted.reads:
        shard = core.shards.entries.get(shard_id)
        if shard is None or shard_id in entry.shards:
            continue
        best_us = FOREVER_US
        for agent_id in core.shards.live_replicas(shard):
            site = core.agents[agent_id].site
            if site == entry.site:
                best_us = 0
                break
            way = crossing.get((site, entry.site))
            n_bytes = shard.size_bytes + (way.left_bytes if way is not None else 0)
            bps = core.network.transfer_bps(agent_id, entry.agent_id, n_bytes, core.now_us)
            if bps:
                best_us = min(best_us, n_bytes * 8_000_000 // bps)
        data_us += best_us
    return data_us


def serve_held(core: Core) -> None:
    """Offer what is kept as soon as there is room; a gang when there is room for all of it."""
    market = core.market
    kept_for = next(iter(market.held.values()), "")
    want = market.wants.get(kept_for)
    if want is None or not _is_open(core, want):
        _end_turn(core, kept_for)
        return
    needs, left = needs_of(want), want.left
    placements: list[Placement] = []
    for agent_id in market.held:
        entry = core.agents.get(agent_id)
        free = free_of(entry) if entry is not None and is_offered(entry, core.now_us) else None
        count = copies(needs, free, left) if free is not None else 0
        if count:
            placements.append(Placement(demand_id=kept_for, agent_id=agent_id, count=count))
            left -= count
    if placements and (left == 0 or not want.wanted.gang) and place(core, placements):
        _end_turn(core, kept_for)
