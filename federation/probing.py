"""Probe plans: one agent of each site keeps the links from every other site measured, where real transfers do not.

A pull measures the direction towards the puller; since every site's probe agent pulls, both directions are covered.
With more sites than one agent may probe, half of the places are kept for the nearest by network coordinates, which work
is most likely to be sent to, and the rest rotate from plan to plan, so that every pair is measured in time. A site
whose way out is paid by the byte is probed with few others, in a rhythm of its own.

Probes take a thousandth of a link, and many pairs cross one uplink: a pair's share is divided by how many pairs leave
the site that is probed, or enter the one that probes, whichever are more. No pair carries more than either uplink does,
so the shares of all that cross one come to a thousandth of it at most.
"""

from collections import Counter

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.states import AgentState
from federation.wire import Peer, ProbePlan

# Agents come in bursts (a new term, a new site): the plan is made once things have been quiet for this long.
SETTLE_US = 1_000_000
SHARE_PPM = 1_000  # of an uplink, for all probes that cross it


def agents_changed(core: Core) -> None:
    core.deadlines.set_earlier("probes", core.now_us + SETTLE_US)


def make_plans(core: Core) -> None:
    """Send each site's probe agent its peers, where they changed, keep what forecasters learned, and come back after a
    probe period."""
    core.deadlines.set("probes", core.now_us + core.config.probe_every_us)
    if not core.broker_found:
        return
    for fact in core.network.to_keep(core.now_us):
        core.persist(fact)
    chosen = _probe_agents(core)
    partners = _metered_partners(core, chosen)
    sites = list(chosen)
    plans: dict[str, tuple[list[AgentEntry], list[AgentEntry]]] = {}
    n_in: dict[str, int] = {}  # pairs that may enter each site; as long as all are probed no plan changes this
    for n, (site, entry) in enumerate(chosen.items()):
        others = [chosen[name] for name in (*sites[n + 1 :], *sites[:n])]
        metered = list(partners.get(site, {}).values())
        free = [] if entry.enrolled.metered else [other for other in others if not other.enrolled.metered]
        n_in[site] = len(metered) + min(len(free), core.config.probe_peers_max)
        free = _without_fresh(core, free, site, core.config.probe_every_us)
        free = _some(core, site, free, core.config.probe_peers_max, core.now_us // core.config.probe_every_us)
        plans[site] = free, _without_fresh(core, metered, site, core.config.metered_probe_every_us)
    n_out = Counter(other.site for plan in plans.values() for peers in plan for other in peers)
    for site, (free, metered) in plans.items():
        every_us = core.config.metered_probe_every_us
        peers = [(other, 0) for other in free] + [(other, every_us) for other in metered]
        shares = [max(1, SHARE_PPM // max(n_in[site], n_out[other.site])) for other, _ in peers]
        _send(core, chosen[site], tuple(_peer(*peer, share) for peer, share in zip(peers, shares, strict=True)))
    for entry in core.agents.entries.values():
        if entry.probe_plan and chosen.get(entry.site) is not entry and entry.life is not None:
            _send(core, entry, ())


def _metered_partners(core: Core, chosen: dict[str, AgentEntry]) -> dict[str, dict[str, AgentEntry]]:
    """By site those that it is to probe though one of the two pays for it: always both ways, in the slow rhythm. A
    metered site is paired with another such only where there is nobody else."""
    period = core.now_us // core.config.metered_probe_every_us
    partners: dict[str, dict[str, AgentEntry]] = {}
    for site, entry in chosen.items():
        if not entry.enrolled.metered:
            continue
        others = [other for name, other in chosen.items() if name != site]
        others = [other for other in others if not other.enrolled.metered] or others
        for other in _some(core, site, others, core.config.metered_peers_max, period):
            partners.setdefault(site, {})[other.site] = other
            partners.setdefault(other.site, {})[site] = entry
    return partners


def _without_fresh(core: Core, others: list[AgentEntry], site: str, every_us: int) -> list[AgentEntry]:
    """Those from which nothing real has come within a period."""
    return [other for other in others if core.network.passive_us(other.site, site) < core.now_us - every_us]


def _some(core: Core, site: str, others: list[AgentEntry], most: int, period: int) -> list[AgentEntry]:
    """All of them, or the nearest and others in each period."""
    if len(others) <= most:
        return others
    of_site = {f"site:{other.site}": other for other in others}
    nearest = core.network.coordinates.nearest(f"site:{site}", list(of_site), most // 2)
    return [of_site[end] for end in shortlist(list(of_site), nearest, most, period)]


def _peer(other: AgentEntry, every_us: int, share_ppm: int) -> Peer:
    return Peer(
        agent_id=other.agent_id, site=other.site, data_url=other.enrolled.data_url, every_us=every_us,
        share_ppm=share_ppm,
    )  # fmt: skip


def shortlist(ends: list[str], nearest: list[str], most: int, period: int) -> list[str]:
    """The nearest, and of the rest as many as there are places left, others in each period."""
    rest = [end for end in ends if end not in nearest]
    places = most - len(nearest)
    start = period * places % len(rest)
    return [*nearest, *(rest + rest)[start : start + places]]


def _probe_agents(core: Core) -> dict[str, AgentEntry]:
    """Of each site, sorted, the first agent by id that is online and serves data; a metered one only where there is no
    other."""
    chosen: dict[str, AgentEntry] = {}
    for entry in core.agents.entries.values():
        if entry.state is not AgentState.ONLINE or entry.life is None or not entry.enrolled.data_url:
            continue
        best = chosen.get(entry.site)
        if best is None or _probe_order(entry) < _probe_order(best):
            chosen[entry.site] = entry
    return {site: chosen[site] for site in sorted(chosen)}


def _probe_order(entry: AgentEntry) -> tuple[bool, str]:
    return entry.enrolled.metered, entry.agent_id


def _send(core: Core, entry: AgentEntry, peers: tuple[Peer, ...]) -> None:
    if peers == entry.probe_plan:
        return
    entry.probe_plan = peers
    core.send(
        entry.agent_id,
        ProbePlan(
            term=core.term,
            peers=peers,
            every_us=core.config.probe_every_us,
            bytes_max=core.config.probe_bytes_max,
        ),
    )
