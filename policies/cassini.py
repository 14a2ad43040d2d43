"""CASSINI: training jobs that share links are placed and shifted so that they send at different times.

A host policy proposes; this one asks it for several candidate placements, scores how well the jobs of each fit the
links they would share (`policies/cassini_circle.py`), takes the best, and gives each new job the shift of its steps
under which that holds (Rajasekaran, Ghobadi and Akella, NSDI 2024). Workers find the shift in their environment.

Who takes part: gangs whose communication declares `iteration`, spread over several sites; running ones keep the shift
they were launched with. The links are pairs of sites with their measured bandwidth; of those that carry the same jobs
the narrowest counts. A candidate whose jobs and links form a loop is discarded, for no shift would suit all of its
links; when all are, the host's own plan is taken, without shifts. A candidate must place as many tasks as the host's
own plan.
"""

from collections.abc import Callable

import msgspec

from policies.api import Policy
from policies.cassini_circle import Traffic, fit, one_shift_each
from policies.communication import Workers, choose, placed_gangs, slowest_bps, tuned, uplink_bytes, way_bytes, ways
from policies.constraints import Links
from policies.flow import Flow
from policies.model import Communication, Demand, Node, Plan, Snapshot, Tuning, Where

CANDIDATES_MAX = 10  # as the paper; each costs a round of the host
_PPM = 1_000_000


class _Job(msgspec.Struct, frozen=True, gc=False):
    """A communicating gang: between which sites it sends, and what. `shift_us` is set where it runs already."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    traffic: dict[tuple[str, str], Traffic]
    shift_us: int | None = None


class Judged(msgspec.Struct, frozen=True):
    """A candidate: the mean score of the links that jobs share (1 where none do), and the shifts of its new jobs."""

    score: float
    shifts_us: dict[str, int]
    loops: bool = False


class Cassini:
    """Cost of a round: the host's, and where a communicating gang is placed up to `CANDIDATES_MAX` times that."""

    takes_terms = False

    def __init__(self, make_host: Callable[[], Policy] = Flow) -> None:
        self._make_host = make_host
        self._host = make_host()

    def plan(self, snapshot: Snapshot) -> Plan:
        first = self._host.plan(snapshot)
        found = placed_gangs(snapshot, first)
        if not any(_takes_part(demand) for demand, _ in found.values()):
            return tuned(snapshot, first)
        n_placed = _count(first)
        candidates = [first, *(plan for plan in self._others(snapshot, found) if _count(plan) >= n_placed)]
        judged = [judge(snapshot, plan) for plan in candidates]
        best = max(range(len(judged)), key=lambda n: (not judged[n].loops, judged[n].score, -n))
        shifts_us = {} if judged[best].loops else judged[best].shifts_us
        chosen = candidates[best]
        if best:  # What the host moves and ends it decided for its own plan; neither belongs to another.
            chosen = msgspec.structs.replace(chosen, moves=(), evictions=())
        kernel = f"cassini over {first.kernel}"
        return tuned(snapshot, msgspec.structs.replace(chosen, kernel=kernel), shifts_us)

    def _others(self, snapshot: Snapshot, found: dict[str, tuple[Demand, Workers]]) -> list[Plan]:
        """The host's plans where one gang is kept to other sites than it chose, the likeliest first."""
        sites = sorted({node.site for node in snapshot.nodes})
        wishes: list[tuple[str, tuple[str, ...]]] = []
        for demand_id, (demand, workers) in found.items():
            if _takes_part(demand):
                taken = workers.sites
                wishes += [(demand_id, (site,)) for site in sites if (site,) != taken]
                wishes += [(demand_id, tuple(site for site in sites if site != left)) for left in taken]
        plans = []
        for demand_id, allowed in wishes[: CANDIDATES_MAX - 1]:
            narrowed = _narrowed(snapshot, demand_id, allowed)
            if narrowed is not None:
                plans.append(self._make_host().plan(narrowed))
        return plans


def judge(snapshot: Snapshot, plan: Plan) -> Judged:
    """How well the jobs of a plan and those that run fit the links they would share."""
    links = Links(snapshot.links)
    jobs = {job.name: job for job in (*_running(snapshot, links), *_placed(snapshot, plan, links))}
    shared: dict[tuple[str, ...], tuple[int, tuple[str, str]]] = {}  # jobs → the narrowest link that all of them share
    for pair in sorted({pair for job in jobs.values() for pair in job.pairs}):
        names = tuple(name for name in sorted(jobs) if pair in jobs[name].traffic)
        if len(names) > 1:
            link = slowest_bps((pair,), links), pair
            shared[names] = min(shared.get(names, link), link)
    new = [name for name in sorted(jobs) if jobs[name].shift_us is None]
    if not any(name in new for names in shared for name in names):
        return Judged(1.0, dict.fromkeys(new, 0))
    scores, per_link = [], []
    for names, (capacity_bps, pair) in shared.items():
        best = fit([jobs[n].traffic[pair] for n in names], capacity_bps, [jobs[n].shift_us for n in names])
        scores.append(best.score)
        per_link.append(dict(zip(names, best.shifts_us, strict=True)))
    iteration_us = {job.name: next(iter(job.traffic.values())).iteration_us for job in jobs.values() if job.traffic}
    fixed = [name for name in sorted(jobs) if jobs[name].shift_us is not None]
    shifts = one_shift_each(per_link, iteration_us, fixed)
    score = sum(scores) / len(scores)
    if shifts is None:
        return Judged(score, {}, loops=True)
    return Judged(score, {name: shifts.get(name, 0) for name in new})


def _takes_part(demand: Demand) -> bool:
    communication = demand.gang.communication if demand.gang is not None else None
    return communication is not None and communication.iteration_us > 0 and communication.synchronous


def _count(plan: Plan) -> int:
    return sum(placement.count for placement in plan.placements)


def _traffic(communication: Communication, workers: Workers, tuning: Tuning, bps: int) -> Traffic:
    """What it sends over one of its links. Without a declared duty it sends as fast as the link takes."""
    sent_bits = way_bytes(communication, workers, uplink_bytes(communication, workers, tuning)) * 8
    iteration_us = communication.iteration_us
    duty_ppm = communication.duty_ppm or min(_PPM, max(1, sent_bits * _PPM * _PPM // (bps * iteration_us)))
    up_us = max(1, duty_ppm * iteration_us // _PPM)
    return Traffic(iteration_us, duty_ppm, min(bps, sent_bits * 1_000_000 // up_us))


def _job(
    name: str, communication: Communication, workers: Workers, tuning: Tuning, links: Links, shift_us: int | None
) -> _Job:
    pairs = ways(communication, workers, links, tuning.meet_at)
    traffic = {pair: _traffic(communication, workers, tuning, slowest_bps((pair,), links)) for pair in pairs}
    return _Job(name, pairs, traffic, shift_us)


def _placed(snapshot: Snapshot, plan: Plan, links: Links) -> list[_Job]:
    out = []
    for demand_id, (demand, workers) in placed_gangs(snapshot, plan).items():
        if _takes_part(demand):
            assert demand.gang is not None and demand.gang.communication is not None, "it takes part"
            communication = demand.gang.communication
            tuning = choose(demand, communication, workers, links)
            out.append(_job(demand_id, communication, workers, tuning, links, None))
    return out


def _running(snapshot: Snapshot, links: Links) -> list[_Job]:
    places: dict[str, list[tuple[Node, int]]] = {}
    spoken: dict[str, tuple[Communication, Tuning]] = {}
    for node in snapshot.nodes:
        for task in node.running:
            communication = task.communication
            if task.gang_id and communication is not None and communication.iteration_us and communication.synchronous:
                places.setdefault(task.gang_id, []).append((node, 1))
                spoken[task.gang_id] = communication, task.tuning or Tuning(demand_id="")
    out = []
    for gang_id in sorted(places):
        communication, tuning = spoken[gang_id]
        # One that nobody shifted starts its steps when it likes: as good as at 0.
        shift_us = tuning.shift_us or 0
        out.append(_job(f"running {gang_id}", communication, Workers(places[gang_id]), tuning, links, shift_us))
    return out


def _narrowed(snapshot: Snapshot, demand_id: str, sites: tuple[str, ...]) -> Snapshot | None:
    """The same world where one demand may only go to some of the sites; None where it could not go there anyway."""
    demands = []
    for demand in snapshot.demands:
        if demand.demand_id == demand_id:
            allowed = tuple(site for site in sites if not demand.where.sites or site in demand.where.sites)
            if not allowed or allowed == demand.where.sites:
                return None
            where: Where = msgspec.structs.replace(demand.where, sites=tuple(sorted(allowed)))
            demand = msgspec.structs.replace(demand, where=where)
        demands.append(demand)
    return msgspec.structs.replace(snapshot, demands=tuple(demands))
