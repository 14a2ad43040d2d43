"""What the workers of a gang send between sites, and which of the savings that their job allows the plan chooses.

Ways are tried in the order of what they cost in accuracy: summing up at a site or rack first changes nothing but the
path, half precision nearly nothing, low-rank gradients more, and synchronising only every so many steps most. The
first is taken under which sending takes no more than `BUSY_PPM` of the declared iteration time over the slowest link
that the gang uses; where none is enough, the one that sends least. Without a declared time nothing lossy is chosen.
"""

from collections.abc import Iterable
from itertools import combinations, permutations

import msgspec

from policies.constraints import Links
from policies.model import (
    RACK_LABEL,
    Communication,
    Demand,
    Needs,
    Node,
    Placement,
    Plan,
    Running,
    Snapshot,
    Tuning,
)  # fmt: skip

BUSY_PPM = 250_000  # a quarter of a step may go into sending: most frameworks hide that behind the backward pass
FP16_RATIO = 2
POWERSGD_RATIO = 10  # of rank 2 on layers of some hundreds by some hundreds; Vogels et al. (2019) report 10 to 70
STEP_US = 1_000_000  # of a job that does not say how long its steps are
RING_SITES_MAX = 7  # of which all 360 rings are tried
_RING_BITS = 10**15  # what times over the ways of a ring are compared for: a step's bytes do not matter
UNMEASURED_BPS = 10_000_000  # as `cost.CostModel.wan_bandwidth_bps`

Pair = tuple[str, str]  # of sites, sorted
Places = list[tuple[Node, int]]


class Workers:
    """Where the workers of one gang are: how many at each site, and at each rack of it."""

    def __init__(self, places: Iterable[tuple[Node, int]]) -> None:
        self.by_site: dict[str, int] = {}
        self.by_rack: dict[tuple[str, str], int] = {}
        for node, count in places:
            rack = dict(node.labels).get(RACK_LABEL, "")
            self.by_site[node.site] = self.by_site.get(node.site, 0) + count
            self.by_rack[node.site, rack] = self.by_rack.get((node.site, rack), 0) + count

    @property
    def count(self) -> int:
        return sum(self.by_site.values())

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_site))

    @property
    def largest(self) -> str:
        """The site with most of them; of several the first that got some."""
        return max(self.by_site, key=lambda site: self.by_site[site])


def ways(communication: Communication, workers: Workers, links: Links, meet_at: str = "") -> tuple[Pair, ...]:
    """The pairs of sites between which it sends: neighbours of the ring of sites, all with where they meet (by default
    where most workers are), or all with all."""
    sites = workers.sites
    if len(sites) < 2:
        return ()
    match communication.pattern:
        case "allreduce":
            ring = ring_of(sites, links)
            found = set(zip(ring, (*ring[1:], ring[0]), strict=True))
        case "parameter_server":
            server = meet_at if meet_at in workers.by_site else workers.largest
            found = {(site, server) for site in sites if site != server}
        case "all_to_all":
            found = set(combinations(sites, 2))
    return tuple(sorted({(min(a, b), max(a, b)) for a, b in found}))


def way_bytes(communication: Communication, workers: Workers, sent_bytes: int) -> int:
    """What of the bytes that leave a site goes over one way: only all-to-all spreads them."""
    spread = len(workers.by_site) - 1 if communication.pattern == "all_to_all" else 1
    return sent_bytes // max(1, spread)


def ring_of(sites: tuple[str, ...], links: Links) -> tuple[str, ...]:
    """An order of sites that closes to a ring over the widest ways: its narrowest is as wide as can be, and of such
    rings all of them together take the least time. Of more than `RING_SITES_MAX` each is followed by the one to which
    its way is widest."""
    if len(sites) < 4:
        return sites  # All rings of three are one.

    def time_of(a: str, b: str) -> int:
        return _RING_BITS // _both_bps(links, a, b)

    first, *others = sites
    if len(sites) > RING_SITES_MAX:
        ring = [first]
        while others:
            ring.append(min(others, key=lambda site: (time_of(ring[-1], site), site)))
            others.remove(ring[-1])
        return tuple(ring)
    times = {(a, b): time_of(a, b) for a in sites for b in sites if a != b}

    def cost(ring: tuple[str, ...]) -> tuple[int, int]:
        of_ring = [times[pair] for pair in zip(ring, (*ring[1:], ring[0]), strict=True)]
        return max(of_ring), sum(of_ring)

    return min(((first, *rest) for rest in permutations(others)), key=cost)


def uplink_bytes(communication: Communication, workers: Workers, tuning: Tuning) -> int:
    """Bytes that leave the busiest site in a step, averaged over the steps between two synchronisations."""
    n, n_sites, size = workers.count, len(workers.by_site), communication.bytes_per_step
    if n_sites < 2:
        return 0
    match communication.pattern:
        case "allreduce":  # A ring crosses each site once: 2 (n − 1) / n of the vector (Patarasuk and Yuan, 2009).
            n_ring = n_sites if tuning.aggregate == "site" else _rings(workers) if tuning.aggregate == "rack" else n
            sent = 2 * size * (n_ring - 1) // n_ring
        case "parameter_server":  # Gradients go to where the server is, else where most workers are.
            away = [count for site, count in workers.by_site.items() if site != (tuning.meet_at or workers.largest)]
            sent = size * (1 if tuning.aggregate == "site" else max(away))
        case "all_to_all":
            sent = max(count * size * (n - count) // max(1, n - 1) for count in workers.by_site.values())
    ratio = {"": 1, "fp16": FP16_RATIO, "powersgd": POWERSGD_RATIO}[tuning.compression]
    return sent // ratio // tuning.local_steps


def _rings(workers: Workers) -> int:
    return max(2, len(workers.by_rack))


def slowest_bps(pairs: Iterable[Pair], links: Links) -> int:
    """Of the links between these sites, both directions; what nobody measured counts as a poor line."""
    return min((_both_bps(links, *pair) for pair in pairs), default=UNMEASURED_BPS)


def _both_bps(links: Links, a: str, b: str) -> int:
    rates_bps = [
        link.bandwidth_bps if link is not None and link.bandwidth_bps is not None else UNMEASURED_BPS
        for link in (links.between("", a, "", b), links.between("", b, "", a))
    ]
    return max(1, min(rates_bps))


def meeting_site(communication: Communication, workers: Workers, links: Links) -> str:
    """Where a parameter server has heard from all workers and answered them soonest, over the measured ways; "" within
    one site, and for patterns in which no site is before others."""
    if communication.pattern != "parameter_server" or len(workers.by_site) < 2:
        return ""
    sums_up = communication.synchronous and "site_aggregation" in communication.savings

    def time_of(at: str) -> tuple[int, int, str]:
        """For the slowest of the other sites, which send one gradient or one a worker."""
        slowest = max(
            communication.bytes_per_step * (1 if sums_up else count) * 8_000_000 // _both_bps(links, site, at)
            for site, count in workers.by_site.items()
            if site != at
        )
        return slowest, -workers.by_site[at], at

    return min(workers.sites, key=time_of)


def choose(demand: Demand, communication: Communication, workers: Workers, links: Links) -> Tuning:
    """The savings for a gang that is placed so."""
    meet_at = meeting_site(communication, workers, links)
    plain = Tuning(demand_id=demand.demand_id, iteration_us=communication.iteration_us, meet_at=meet_at)
    if len(workers.by_site) < 2:
        return msgspec.structs.replace(plain, aggregate=_within_site(communication, workers))
    bps = slowest_bps(ways(communication, workers, links, meet_at), links)
    trials = [
        msgspec.structs.replace(trial, uplink_bytes_per_step=uplink_bytes(communication, workers, trial))
        for trial in _trials(plain, communication, workers)
    ]
    for trial in trials:
        n_bytes = way_bytes(communication, workers, trial.uplink_bytes_per_step or 0)
        if n_bytes * 8_000_000 // bps * 1_000_000 <= BUSY_PPM * communication.iteration_us:
            return trial
    return min(trials, key=lambda trial: trial.uplink_bytes_per_step or 0)


def _trials(plain: Tuning, communication: Communication, workers: Workers) -> list[Tuning]:
    """What the job allows, least harmful first. The lossy ones only where it said how long a step takes."""
    savings, replace = communication.savings, msgspec.structs.replace
    first = plain
    for aggregate in ("site", "rack"):
        trial = replace(plain, aggregate=aggregate)
        saves = uplink_bytes(communication, workers, trial) < uplink_bytes(communication, workers, plain)
        if f"{aggregate}_aggregation" in savings and communication.synchronous and saves:
            first = trial
            break
    trials = [first]  # Where summing up first is allowed and saves, it changes nothing else: no reason not to.
    if not communication.iteration_us:
        return trials
    if "fp16" in savings:
        trials.append(replace(first, compression="fp16"))
    if "powersgd" in savings and communication.pattern == "allreduce":
        trials.append(replace(plain, compression="powersgd"))  # Its own reduction runs over all workers.
    steps = 2
    while "local_steps" in savings and steps <= communication.local_steps_max:
        trials.append(replace(plain, local_steps=steps))
        steps *= 2
    return trials


def _within_site(communication: Communication, workers: Workers) -> str:
    racks = len(workers.by_rack)
    return "rack" if "rack_aggregation" in communication.savings and 1 < racks < workers.count else ""


def sent_bytes(demand: Demand, communication: Communication, workers: Workers, links: Links) -> int:
    """That leave the busiest site in a step, with the savings that the plan would choose."""
    if len(workers.by_site) < 2:
        return 0
    return choose(demand, communication, workers, links).uplink_bytes_per_step or 0


def load_of(demand: Demand, communication: Communication, workers: Workers, links: Links) -> dict[Pair, int]:
    """Bit/s that it sends between its sites, on average."""
    sent = sent_bytes(demand, communication, workers, links)
    return _load(communication, workers, links, sent, meeting_site(communication, workers, links))


def _load(
    communication: Communication, workers: Workers, links: Links, sent_bytes: int, meet_at: str
) -> dict[Pair, int]:
    n_bytes = way_bytes(communication, workers, sent_bytes)
    bps = n_bytes * 8_000_000 // (communication.iteration_us or STEP_US)
    return dict.fromkeys(ways(communication, workers, links, meet_at), bps) if bps else {}


def running_loads(snapshot: Snapshot, busy: Iterable[Node] | None = None) -> dict[Pair, int]:
    """Bit/s that gangs which run send between each two sites, on average, by what they declared and were tuned to.
    `busy`: the nodes on which something runs, in order, where the caller knows them."""
    talking = [
        (node, task)
        for node in (snapshot.nodes if busy is None else busy)
        for task in node.running
        if task.communication is not None and task.gang_id and not task.ending
    ]
    if not talking:
        return {}
    links = Links(snapshot.links)
    gangs: dict[str, list[tuple[Node, Running]]] = {}
    for node, task in talking:
        gangs.setdefault(task.gang_id, []).append((node, task))
    loads: dict[Pair, int] = {}
    for gang_id in sorted(gangs):
        last = gangs[gang_id][-1][1]
        workers = Workers((node, 1) for node, _ in gangs[gang_id])
        communication, tuning = last.communication, last.tuning
        assert communication is not None, "it talks"
        if tuning is not None and tuning.uplink_bytes_per_step is not None:
            load = _load(communication, workers, links, tuning.uplink_bytes_per_step, tuning.meet_at)
        else:
            nobody = Demand(demand_id=gang_id, role="", needs=Needs(), count=0, oldest_us=0)
            load = load_of(nobody, communication, workers, links)
        for pair, bps in load.items():
            loads[pair] = loads.get(pair, 0) + bps
    return loads


def placed_gangs(snapshot: Snapshot, plan: Plan) -> dict[str, tuple[Demand, Workers]]:
    """The gangs with declared communication that a plan places, by demand; each class of a gang for itself."""
    nodes = {node.agent_id: node for node in snapshot.nodes}
    demands = {demand.demand_id: demand for demand in snapshot.demands}
    places: dict[str, list[tuple[Node, int]]] = {}
    for placement in plan.placements:
        demand = demands[placement.demand_id]
        if demand.gang is not None and demand.gang.communication is not None:
            places.setdefault(placement.demand_id, []).append((nodes[placement.agent_id], placement.count))
    return {demand_id: (demands[demand_id], Workers(places[demand_id])) for demand_id in sorted(places)}


def tuned(snapshot: Snapshot, plan: Plan, shifts_us: dict[str, int] | None = None) -> Plan:
    """The plan with a tuning for each gang in it that allows savings, is shifted or has a server, and its rings in
    order: workers are numbered as their placements follow each other. `shifts_us` is by demand."""
    if not any(demand.gang is not None and demand.gang.communication is not None for demand in snapshot.demands):
        return plan
    found = placed_gangs(snapshot, plan)
    links = Links(snapshot.links)
    tunings: list[Tuning] = []
    for demand_id, (demand, workers) in found.items():
        assert demand.gang is not None and demand.gang.communication is not None, "placed_gangs has no others"
        communication = demand.gang.communication
        shift_us = (shifts_us or {}).get(demand_id)
        chosen = choose(demand, communication, workers, links)
        if communication.savings or shift_us is not None or chosen.meet_at:
            tunings.append(msgspec.structs.replace(chosen, shift_us=shift_us))
    return msgspec.structs.replace(plan, tunings=tuple(tunings), placements=_in_rings(snapshot, plan, found, links))


def _in_rings(
    snapshot: Snapshot, plan: Plan, gangs: dict[str, tuple[Demand, Workers]], links: Links
) -> tuple[Placement, ...]:
    """Each gang whose workers pass sums on from one to the next, site by site along the ring of sites and rack by rack
    within one: so a ring of workers enters and leaves each of them once (Patarasuk and Yuan, 2009)."""
    nodes = {node.agent_id: node for node in snapshot.nodes}
    placements = list(plan.placements)
    for demand_id, (demand, workers) in gangs.items():
        if demand.gang is None or demand.gang.communication is None or demand.gang.communication.pattern != "allreduce":
            continue
        at = [n for n, placement in enumerate(placements) if placement.demand_id == demand_id]
        turn = {site: n for n, site in enumerate(ring_of(workers.sites, links))}

        def place(placement: Placement, turn: dict[str, int] = turn) -> tuple[int, str, str]:
            node = nodes[placement.agent_id]
            return turn[node.site], dict(node.labels).get(RACK_LABEL, ""), node.agent_id

        for n, placement in zip(at, sorted((placements[n] for n in at), key=place), strict=True):
            placements[n] = placement
    return tuple(placements)
