"""Workers that talk a lot go where they meet lowest: under one rack or switch, else within one site, else on the sites
between which what they send takes least.

A flow prices tasks one by one and cannot say that two of them talk. So before a round each gang with declared
communication is kept to the part of the topology in which it is done soonest: the dearest of its tasks there, and its
steps times what sending takes over the slowest link that they would use. Within a rack that is the local network,
between racks of a site half of it (their uplinks are shared: M. Al-Fares, A. Loukissas and A. Vahdat, A Scalable,
Commodity Data Center Network Architecture, SIGCOMM 2008), between sites the measured links, less what gangs that run or
were placed before it send over them. A gang that then gets no room, for others need it more, is asked for once more
anywhere.
"""

from collections.abc import Iterator
from itertools import combinations

import msgspec

from policies.communication import (
    STEP_US,
    Pair,
    Places,
    Workers,
    load_of,
    meeting_site,
    running_loads,
    sent_bytes,
    way_bytes,
    ways,
)  # fmt: skip
from policies.constraints import Links
from policies.cost import FREE, CostModel, Costs
from policies.lower import TIME_US_MAX, Columns
from policies.model import RACK_LABEL, Communication, Demand, Node, Snapshot, Where
from policies.resources import copies

PARTS_MAX = 512  # of the topology, looked at for one gang
SITES_MAX = 8  # those with most room, of which two or more are put together
LEFT_SHARE = 10  # a tenth of a link is left to a gang, however much others send over it
RACK_UPLINK_SHARE = 2


def communication_of(demand: Demand) -> Communication | None:
    return demand.gang.communication if demand.gang is not None else None


def kept_together(columns: Columns, priced: Costs, model: CostModel) -> Snapshot | None:
    """The snapshot in which each gang that talks is kept to a part of the topology; None where that changes nothing.
    Cost: O(agents) for each such gang and part."""
    snapshot = columns.snapshot
    demands = list(snapshot.demands)
    talking = [c for c, demand in enumerate(demands) if communication_of(demand) is not None]
    if not talking:
        return None
    links = Links(snapshot.links)
    loads = running_loads(snapshot)
    for c in sorted(talking, key=lambda c: (-demands[c].priority, demands[c].oldest_us, demands[c].demand_id)):
        gang = demands[c].gang
        if gang is None or gang.size != demands[c].count:
            continue  # Of several classes: none alone says where the others are.
        best = _best(columns, priced, model, c, links, loads)
        if best is not None:
            demands[c] = msgspec.structs.replace(demands[c], where=best[0])
            for pair, bps in best[1].items():
                loads[pair] = loads.get(pair, 0) + bps
    if all(one is other for one, other in zip(demands, snapshot.demands, strict=True)):
        return None
    return msgspec.structs.replace(snapshot, demands=tuple(demands))


def got_no_room(placed: set[str], together: Snapshot, snapshot: Snapshot) -> Snapshot | None:
    """The snapshot in which the gangs that were kept together and not placed may go anywhere; None where all were."""
    demands = tuple(
        kept if kept is whole or kept.demand_id in placed else whole
        for kept, whole in zip(together.demands, snapshot.demands, strict=True)
    )
    if all(one is other for one, other in zip(demands, together.demands, strict=True)):
        return None
    return msgspec.structs.replace(snapshot, demands=demands)


# --- parts of the topology -------------------------------------------------------------------------------------------


def _best(
    columns: Columns, priced: Costs, model: CostModel, c: int, links: Links, loads: dict[Pair, int]
) -> tuple[Where, dict[Pair, int]] | None:
    """Where the gang is done soonest, of equal parts the lowest, and what it will send; None where it fits nowhere."""
    demand = columns.snapshot.demands[c]
    communication = communication_of(demand)
    assert communication is not None and demand.gang is not None, "it talks"
    usable = _usable(columns, priced, c)
    found: tuple[int, int, Where, Places] | None = None
    for rank, (where, some) in enumerate(_parts(demand.where, usable)):
        if rank == PARTS_MAX:
            break
        filled = _fill(some, demand.gang.size)
        if filled is None:
            continue
        places, dearest_us = filled
        send_us = _send_us(demand, communication, Workers(places), len(places), links, loads, model)
        steps = max(1, demand.run_us // (communication.iteration_us or STEP_US))
        total_us = min(TIME_US_MAX, dearest_us + steps * send_us)
        if found is None or total_us < found[0]:
            found = total_us, rank, where, places
    if found is None:
        return None
    _, _, where, places = found
    load = load_of(demand, communication, Workers(places), links)
    return where, load


def _usable(columns: Columns, priced: Costs, c: int) -> list[tuple[int, int, Node]]:
    """(cost, room, agent) of those that nothing forbids and that have room, cheapest first."""
    demand, nodes = columns.snapshot.demands[c], columns.snapshot.nodes
    out: list[tuple[int, int, int]] = []
    for n, g in enumerate(columns.group.tolist()):
        if priced.obstacle[c, g] == FREE:
            room = copies(demand.needs, nodes[n].free, demand.count)
            if room:
                out.append((int(priced.total_us[c, g]), -room, n))
    return [(cost_us, -room, nodes[n]) for cost_us, room, n in sorted(out)]


def _parts(where: Where, usable: list[tuple[int, int, Node]]) -> Iterator[tuple[Where, list[tuple[int, int, Node]]]]:
    """Racks, then sites, regions, some sites with room together, and everywhere."""
    racks: dict[tuple[str, str], list[tuple[int, int, Node]]] = {}
    sites: dict[str, list[tuple[int, int, Node]]] = {}
    regions: dict[str, list[tuple[int, int, Node]]] = {}
    for each in usable:
        node = each[2]
        rack = dict(node.labels).get(RACK_LABEL, "")
        if rack:
            racks.setdefault((node.site, rack), []).append(each)
        sites.setdefault(node.site, []).append(each)
        regions.setdefault(node.region, []).append(each)
    for (site, rack), some in sorted(racks.items()):
        labels = tuple(sorted({*where.labels, (RACK_LABEL, rack)}))
        yield msgspec.structs.replace(where, sites=(site,), labels=labels), some
    for site, some in sorted(sites.items()):
        yield msgspec.structs.replace(where, sites=(site,)), some
    for _, some in sorted(regions.items()):
        yield _at_sites(where, some), some
    by_room = sorted(sites, key=lambda site: (-sum(room for _, room, _ in sites[site]), site))
    roomy = by_room[:SITES_MAX]
    for few in (*combinations(roomy, 2), *(roomy[:n] for n in range(3, len(roomy) + 1))):
        some = [each for each in usable if each[2].site in few]
        yield _at_sites(where, some), some
    yield where, usable


def _at_sites(where: Where, some: list[tuple[int, int, Node]]) -> Where:
    return msgspec.structs.replace(where, sites=tuple(sorted({node.site for _, _, node in some})))


def _fill(some: list[tuple[int, int, Node]], size: int) -> tuple[Places, int] | None:
    """The cheapest places for a gang, and what its dearest task costs; None where there is not enough room."""
    places: Places = []
    left, dearest_us = size, 0
    for cost_us, room, node in some:
        taken = min(room, left)
        places.append((node, taken))
        left -= taken
        dearest_us = cost_us
        if not left:
            return places, dearest_us
    return None


# --- what is sent ----------------------------------------------------------------------------------------------------


def _send_us(
    demand: Demand,
    communication: Communication,
    workers: Workers,
    n_agents: int,
    links: Links,
    loads: dict[Pair, int],
    model: CostModel,
) -> int:
    """What sending takes of one step, over the slowest link that they use."""
    if n_agents < 2:
        return 0
    local_bps = model.lan_bandwidth_bps // (RACK_UPLINK_SHARE if len(workers.by_rack) > 1 else 1)
    local_us = communication.bytes_per_step * 8_000_000 // max(1, local_bps)
    sent = sent_bytes(demand, communication, workers, links)
    if not sent:
        return local_us
    slowest_bps = min(
        max(bps // LEFT_SHARE, bps - loads.get((min(a, b), max(a, b)), 0))
        for a, b in ways(communication, workers, links, meeting_site(communication, workers, links))
        for bps in (_bps(links, a, b, model), _bps(links, b, a, model))
    )
    return local_us + way_bytes(communication, workers, sent) * 8_000_000 // max(1, slowest_bps)


def _bps(links: Links, from_site: str, to_site: str, model: CostModel) -> int:
    link = links.between("", from_site, "", to_site)
    return link.bandwidth_bps if link is not None and link.bandwidth_bps is not None else model.wan_bandwidth_bps
