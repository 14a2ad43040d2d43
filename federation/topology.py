"""What hangs on what: a graph of device → rack → site → region → core, and of the measured ways between sites.

Declared: an agent's label `rack`, its site and its region. Measured: the rate of each way between sites. Inferred: ways
that fall together share a bottleneck nobody declared (the idea of C. Rubenstein, J. Kurose and D. Towsley, Detecting
Shared Congestion of Flows via End-to-End Measurement, SIGMETRICS 2000, with steps of the rate in place of probes).

Built when asked, from the books. Cost O(agents + links), and O(ways² of a site) for what is inferred.
"""

import heapq
from collections.abc import Iterable
from itertools import combinations, pairwise

import networkx as nx

from federation.agents_book import AgentBook
from federation.api import Hop, PathView, SiteNode
from federation.link_track import LinkTrack
from federation.network import NetworkBook
from policies.model import RACK_LABEL, Bottleneck

CORE = "core"
TOGETHER_US = 15_000_000  # Falls this close are one: reports come seconds apart, and a fall takes two of them to show.
FALLS_MIN = 3  # of each way, and two in three of them together: less is chance


def hierarchy(agents: AgentBook) -> "nx.DiGraph[str]":
    """Edges point towards the core. Nodes are `agent:<id>`, `rack:<site>/<rack>`, `site:<name>`, `region:<name>`."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node(CORE)
    for entry in agents.sorted():
        site, rack = f"site:{entry.site}", rack_of(entry.enrolled.labels)
        above = f"rack:{entry.site}/{rack}" if rack else site
        graph.add_edge(f"agent:{entry.agent_id}", above)
        if rack:
            graph.add_edge(above, site)
        region = f"region:{entry.enrolled.region}" if entry.enrolled.region else CORE
        graph.add_edge(site, region)
        if region != CORE:
            graph.add_edge(region, CORE)
    return graph


def rack_of(labels: tuple[tuple[str, str], ...]) -> str:
    return dict(labels).get(RACK_LABEL, "")


def meeting_point(agents: AgentBook, agent_ids: Iterable[str]) -> str:
    """The lowest node that all these agents hang on: where what they say to each other is best summed up."""
    graph = hierarchy(agents)
    ways = [_upwards(graph, f"agent:{agent_id}") for agent_id in agent_ids]
    if not ways:
        return CORE
    return next(node for node in ways[0] if all(node in way for way in ways))


def _upwards(graph: "nx.DiGraph[str]", node: str) -> list[str]:
    way = [node]
    while following := sorted(graph.successors(way[-1])):
        way.append(following[0])
    return way if way[-1] == CORE else [*way, CORE]


def ways(network: NetworkBook, now_us: int) -> "nx.DiGraph[str]":
    """The measured ways between sites, by name, with what is planned with."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for link in network.links_told(now_us):
        if link.from_id.startswith("site:") and link.to_id.startswith("site:") and link.bandwidth_bps:
            graph.add_edge(link.from_id[5:], link.to_id[5:], link=link)
    return graph


def widest_path(network: NetworkBook, from_site: str, to_site: str, now_us: int) -> PathView | None:
    """Dijkstra's algorithm with the narrowest hop in place of the sum (M. Pollack, The Maximum Capacity Through a
    Network, Operations Research 8, 1960); of equally wide ways the one with fewer hops. None where nothing measured
    leads there."""
    graph = ways(network, now_us)
    if from_site not in graph or to_site not in graph or from_site == to_site:
        return None
    heap: list[tuple[int, int, tuple[str, ...]]] = [(-(2**62), 0, (from_site,))]
    done: set[str] = set()
    while heap:
        width, n_hops, path = heapq.heappop(heap)
        at = path[-1]
        if at == to_site:
            hops = tuple(_hop(graph, first, second) for first, second in pairwise(path))
            is_direct = graph.has_edge(from_site, to_site)
            direct = graph.edges[from_site, to_site]["link"].bandwidth_bps if is_direct else None
            return PathView(hops=hops, bandwidth_bps=-width, direct_bps=direct)
        if at in done:
            continue
        done.add(at)
        for following in sorted(graph.successors(at)):
            if following not in done:
                rate = graph.edges[at, following]["link"].bandwidth_bps
                heapq.heappush(heap, (max(width, -rate), n_hops + 1, (*path, following)))
    return None


def _hop(graph: "nx.DiGraph[str]", from_site: str, to_site: str) -> Hop:
    link = graph.edges[from_site, to_site]["link"]
    return Hop(
        from_site=from_site,
        to_site=to_site,
        bandwidth_bps=link.bandwidth_bps,
        rtt_us=link.rtt_us,
        is_disputed=link.is_disputed,
    )


def sites(agents: AgentBook, network: NetworkBook, now_us: int) -> tuple[SiteNode, ...]:
    """Every site with agents, sorted, with what it reaches and what was inferred of its uplink."""
    graph = ways(network, now_us)
    shared = shared_uplinks(network)
    members: dict[str, list[tuple[str, str]]] = {}
    for entry in agents.sorted():
        members.setdefault(entry.site, []).append((entry.enrolled.region, rack_of(entry.enrolled.labels)))
    found: list[SiteNode] = []
    for site, some in sorted(members.items()):
        out = [data["link"].bandwidth_bps for _, _, data in graph.out_edges(site, data=True)] if site in graph else []
        into = [data["link"].bandwidth_bps for _, _, data in graph.in_edges(site, data=True)] if site in graph else []
        found.append(
            SiteNode(
                site=site,
                region=max(region for region, _ in some),
                racks=tuple(sorted({rack for _, rack in some if rack})),
                n_agents=len(some),
                out_bps=max(out, default=None),
                in_bps=max(into, default=None),
                shares_uplink=shared.get(site, ()),
            )
        )
    return tuple(found)


def shared_uplinks(network: NetworkBook) -> dict[str, tuple[str, ...]]:
    """By site, the sites to which ways from it fall together; none where fewer than two do."""
    leaving: dict[str, list[LinkTrack]] = {}
    for track in network.between.values():
        if track.from_id.startswith("site:") and track.to_id.startswith("site:") and len(track.falls) >= FALLS_MIN:
            leaving.setdefault(track.from_id[5:], []).append(track)
    shared: dict[str, tuple[str, ...]] = {}
    for site, tracks in sorted(leaving.items()):
        ends = {track.to_id[5:] for pair in combinations(tracks, 2) if _fall_together(*pair) for track in pair}
        if ends:
            shared[site] = tuple(sorted(ends))
    return shared


def bottlenecks(network: NetworkBook) -> tuple[Bottleneck, ...]:
    """The same as policies see it."""
    return tuple(
        Bottleneck(from_site=site, to_sites=to_sites) for site, to_sites in sorted(shared_uplinks(network).items())
    )


def _fall_together(first: LinkTrack, second: LinkTrack) -> bool:
    fewer, more = sorted((first.falls, second.falls), key=len)
    together = sum(any(abs(at_us - other_us) <= TOGETHER_US for other_us in fewer) for at_us in more)
    return 3 * together >= 2 * len(more)
