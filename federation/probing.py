"""Probe plans: one agent of each site keeps the links from every other site measured, where real transfers do not.

A pull measures the direction towards the puller; since every site's probe agent pulls, both directions are covered.
With more sites than one agent may probe, half of the places are kept for the nearest by network coordinates, which work
is most likely to be sent to, and the rest rotate from plan to plan, so that every pair is measured in time.
"""

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.states import AgentState
from federation.wire import Peer, ProbePlan

# Agents come in bursts (a new term, a new site): the plan is made once things have been quiet for this long.
SETTLE_US = 1_000_000


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
    sites = list(chosen)
    period = core.now_us // core.config.probe_every_us
    for n, (site, entry) in enumerate(chosen.items()):
        others = [chosen[name] for name in (*sites[n + 1 :], *sites[:n])]
        stale_us = core.now_us - core.config.probe_every_us
        others = [other for other in others if core.network.passive_us(other.site, site) < stale_us]
        most = core.config.probe_peers_max
        if len(others) > most:
            of_site = {f"site:{other.site}": other for other in others}
            nearest = core.network.coordinates.nearest(f"site:{site}", list(of_site), most // 2)
            others = [of_site[end] for end in shortlist(list(of_site), nearest, most, period)]
        peers = tuple(
            Peer(agent_id=other.agent_id, site=other.site, data_url=other.enrolled.data_url) for other in others
        )
        _send(core, entry, peers)
    for entry in core.agents.entries.values():
        if entry.probe_plan and chosen.get(entry.site) is not entry and entry.life is not None:
            _send(core, entry, ())


def shortlist(ends: list[str], nearest: list[str], most: int, period: int) -> list[str]:
    """The nearest, and of the rest as many as there are places left, others in each period."""
    rest = [end for end in ends if end not in nearest]
    places = most - len(nearest)
    start = period * places % len(rest)
    return [*nearest, *(rest + rest)[start : start + places]]


def _probe_agents(core: Core) -> dict[str, AgentEntry]:
    """Of each site, sorted, the first agent by id that is online and serves data."""
    chosen: dict[str, AgentEntry] = {}
    for entry in core.agents.entries.values():
        if entry.state is not AgentState.ONLINE or entry.life is None or not entry.enrolled.data_url:
            continue
        best = chosen.get(entry.site)
        if best is None or entry.agent_id < best.agent_id:
            chosen[entry.site] = entry
    return {site: chosen[site] for site in sorted(chosen)}


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
