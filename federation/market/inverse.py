"""Inverse offers: frameworks are asked to give back what they have on an agent, for a drain or a congested link.

An accepted one is not repeated; a declined or unanswered one is made again later. Nothing is taken by force.
"""

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.market.book import FrameworkEntry
from federation.market.leasing import emit
from federation.market.protocol import AcceptInverse, DeclineInverse, InverseOffer, InverseOffers, RescindInverse
from policies.forecast.horizons import rate_bps
from policies.gpus import together
from policies.model import Gpu, Link, Resources

ACCEPTED = 2**62  # `expires_us` of one that was accepted: it is not made again


def ask_back(core: Core, entry: AgentEntry, reason: str, link: Link | None = None) -> None:
    """Ask every framework with tasks on the agent; those asked already are left alone."""
    by_framework: dict[str, list[int]] = {}
    gpus: dict[str, dict[str, Gpu]] = {}
    for task in entry.holdings.tasks.values():
        sums = by_framework.setdefault(task.framework_id, [0, 0, 0])
        for n, amount in enumerate((task.needs.cpu_milli, task.needs.memory_bytes, task.needs.disk_bytes)):
            sums[n] += amount
        held = entry.held_gpus(task.needs, task.all_gpus())
        gpus[task.framework_id] = together(gpus.get(task.framework_id, {}).values(), held)
    for framework_id, (cpu, memory, disk) in by_framework.items():
        framework = core.market.frameworks[framework_id]
        if not framework.stream_id or entry.agent_id in framework.inverse:
            continue
        core.market.n_offers += 1
        offer = InverseOffer(
            offer_id=f"{core.term}-i{core.market.n_offers}",
            framework_id=framework_id,
            agent_id=entry.agent_id,
            reason=reason,  # type: ignore[arg-type]
            start_us=core.now_us,
            resources=Resources(
                cpu_milli=cpu,
                memory_bytes=memory,
                disk_bytes=disk,
                gpus=tuple(gpus[framework_id].values()),
            ),
            expires_us=core.now_us + core.config.inverse_offer_us,
            link=link,
        )
        framework.inverse[entry.agent_id] = offer
        core.count("inverse_offers")
        core.deadlines.set_earlier(("market", "inverse", framework_id), offer.expires_us)
        emit(core, framework, InverseOffers(offers=(offer,)))


def answer(core: Core, framework: FrameworkEntry, call: AcceptInverse | DeclineInverse) -> None:
    for agent_id, offer in list(framework.inverse.items()):
        if offer.offer_id not in call.offer_ids:
            continue
        if isinstance(call, AcceptInverse):
            core.count("inverse_offers_accepted")
            framework.inverse[agent_id] = _until(offer, ACCEPTED)
        else:
            core.count("inverse_offers_declined")
            until_us = core.now_us + max(1, call.refuse_us)
            framework.inverse[agent_id] = _until(offer, until_us)
            core.deadlines.set_earlier(("market", "inverse", framework.framework_id), until_us)


def _until(offer: InverseOffer, expires_us: int) -> InverseOffer:
    return InverseOffer(
        offer_id=offer.offer_id,
        framework_id=offer.framework_id,
        agent_id=offer.agent_id,
        reason=offer.reason,
        start_us=offer.start_us,
        resources=offer.resources,
        expires_us=expires_us,
        link=offer.link,
    )


def ask_again(core: Core, framework: FrameworkEntry) -> None:
    """Those whose time has passed are made again while their reason stands."""
    for agent_id, offer in list(framework.inverse.items()):
        if offer.expires_us > core.now_us:
            continue
        del framework.inverse[agent_id]
        entry = core.agents.get(agent_id)
        if entry is not None and offer.reason == "drain" and entry.mode == "draining":
            ask_back(core, entry, "drain")
    waiting = [offer.expires_us for offer in framework.inverse.values() if offer.expires_us < ACCEPTED]
    if waiting:
        core.deadlines.set(("market", "inverse", framework.framework_id), min(waiting))


def withdraw(core: Core, entry: AgentEntry) -> None:
    """The agent is back in service: nothing is asked back any more."""
    for framework in core.market.frameworks.values():
        offer = framework.inverse.pop(entry.agent_id, None)
        if offer is not None:
            emit(core, framework, RescindInverse(offer_id=offer.offer_id))


def look_at_links(core: Core) -> None:
    """Ask back what frameworks run at the receiving end of links whose transfers take too long."""
    core.deadlines.set(("market", "congestion"), core.now_us + core.config.inverse_offer_us)
    links = {(link.from_id, link.to_id): link for link in core.network.links(core.now_us)}
    left: dict[tuple[str, str], int] = {}  # all that is under way: copies that frameworks ordered too
    for fetch in core.transfers.running(core.tasks.tasks, core.moves):
        if fetch.from_site != fetch.to_site:
            ends = fetch.from_site, fetch.to_site
            left[ends] = left.get(ends, 0) + fetch.left_bytes
    for (from_site, to_site), left_bytes in sorted(left.items()):
        link = links.get((f"site:{from_site}", f"site:{to_site}"))
        bps = rate_bps(link, left_bytes) if link is not None else None
        if link is None or not bps:
            continue
        if left_bytes * 8_000_000 // bps > core.config.congestion_us:
            core.count("links_congested")
            for entry in core.agents.sorted():
                if entry.site == to_site and entry.holdings.tasks:
                    ask_back(core, entry, "congestion", link)
