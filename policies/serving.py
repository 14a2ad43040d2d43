"""Services: how many replicas, where, and who answers whom, so that client sites' targets hold at the least cost.

A transportation problem, solved as a min-cost flow: requests go from client sites over arcs that cost what an answer
over that round trip costs, through replicas that take so many a second, and what no replica takes leaves at a price of
its own. Its flow is the weights. Which replicas there should be is a capacitated facility location problem on top of
it, which is NP-hard: it is approached by adding, removing or exchanging one replica after the other while that pays
(A. A. Kuehn and M. J. Hamburger, A Heuristic Program for Locating Warehouses, Management Science 9, 1963), each judged
by the exact flow. A change must save a quarter (`margin_milli`) more than the replica costs, or lose a quarter less; so
what was added is not removed because the network breathed.

All costs are microseconds of a minute of the service, as `policies.cost` weighs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from policies.constraints import Links as LinksByEnds
from policies.constraints import obstacle, shards_by_id, unreachable
from policies.cost import SERVICE_ANSWERS, SERVICE_US, CostModel
from policies.kernels.jit import Int64s
from policies.kernels.mincost.model import UNLIMITED
from policies.kernels.mincost.network import FlowNetwork
from policies.model import (
    Candidate,
    Demand,
    LatencyTarget,
    Link,
    Node,
    Placement,
    Plan,
    Refusal,
    Resources,
    Service,
    ServicePlan,
    Snapshot,
    Weight,
)
from policies.resources import copies, take_copies

PPM = 1_000_000
# An answer past its target costs a second beyond what it is late, one that nobody gives four: targets come before
# money, which counts as 36 cents an hour, but not before any sum of it.
MISS_US = 1_000_000
NONE_US = 4_000_000
# What a replica costs where nobody asks for money: a sixtieth of the time for which it holds its agent's capacity.
REPLICA_US = SERVICE_US // 60
STEPS_MAX = 16  # changes of one service in one round
SITES_MAX = 24  # considered for a further replica: the best of each client site in turn
OVER_US_MAX = 10_000_000  # a round trip beyond this is no worse


@dataclass(frozen=True, slots=True)
class _Replica:
    """One that is placed, or one that might be (`task_id` "")."""

    agent_id: str
    site: str
    cost_us: int
    task_id: str = ""
    is_ready: bool = False


@dataclass(frozen=True, slots=True)
class Addition:
    """A replica to be placed on an agent, for the clients it would answer. `demand_id` "": beyond those that wait."""

    service_id: str
    demand_id: str
    demand: Demand  # restricted to the agent, under an id of its own

    @property
    def agent_id(self) -> str:
        return self.demand.where.agents[0]


def decide(snapshot: Snapshot, model: CostModel) -> tuple[tuple[ServicePlan, ...], tuple[Addition, ...]]:
    """What each service should be, and the replicas that the round has to find room for. Plans name no additions yet.

    Cost: O(agents) for each service, and a flow of client sites × replicas for each of at most `STEPS_MAX` ×
    (`SITES_MAX` + replicas) changes considered."""
    room = {node.agent_id: node.free for node in snapshot.nodes}
    rtts = _round_trips(snapshot.links)
    plans: list[ServicePlan] = []
    additions: list[Addition] = []
    for service in snapshot.services:
        waiting = [demand for demand in snapshot.demands if demand.service_id == service.service_id]
        found = _Deciding(snapshot, model, service, rtts, sum(demand.count for demand in waiting), room)
        found.search()
        plans.append(found.plan())
        additions += found.additions(waiting)
    return tuple(plans), tuple(additions)


def with_additions(snapshot: Snapshot, additions: tuple[Addition, ...]) -> Snapshot:
    """The snapshot with each addition as a demand of its own, in place of those that wait."""
    if not additions:
        return snapshot
    taken: dict[str, int] = {}
    for each in additions:
        taken[each.demand_id] = taken.get(each.demand_id, 0) + 1
    demands: list[Demand] = [each.demand for each in additions]
    for demand in snapshot.demands:
        left = demand.count - taken.get(demand.demand_id, 0)
        if left > 0:
            demands.append(demand if left == demand.count else msgspec.structs.replace(demand, count=left))
    return msgspec.structs.replace(snapshot, demands=tuple(sorted(demands, key=lambda demand: demand.demand_id)))


def with_services(plan: Plan, plans: tuple[ServicePlan, ...], additions: tuple[Addition, ...]) -> Plan:
    """The plan of `with_additions` in terms of the snapshot's own demands, services beside them."""
    if not plans:
        return plan
    of_id = {each.demand.demand_id: each for each in additions}
    adds: dict[str, list[Candidate]] = {}
    placements: dict[tuple[str, str], Placement] = {}
    for placement in plan.placements:
        addition = of_id.get(placement.demand_id)
        if addition is not None and not addition.demand_id:
            wish = Candidate(agent_id=placement.agent_id, terms=placement.terms)
            adds.setdefault(addition.service_id, []).append(wish)
            continue
        demand_id = placement.demand_id if addition is None else addition.demand_id
        key = demand_id, placement.agent_id
        known = placements.get(key)
        count = placement.count + (known.count if known is not None else 0)
        placements[key] = msgspec.structs.replace(known or placement, demand_id=demand_id, count=count)
    refusals: dict[str, Refusal] = {}
    for refusal in plan.refusals:
        addition = of_id.get(refusal.demand_id)
        if addition is not None and not addition.demand_id:
            continue
        demand_id = refusal.demand_id if addition is None else addition.demand_id
        before = refusals.get(demand_id)
        count = refusal.count + (before.count if before is not None else 0)
        refusals[demand_id] = msgspec.structs.replace(before or refusal, demand_id=demand_id, count=count)
    services = tuple(msgspec.structs.replace(each, adds=tuple(adds.get(each.service_id, ()))) for each in plans)
    return msgspec.structs.replace(
        plan, placements=tuple(placements.values()), refusals=tuple(refusals.values()), services=services
    )


# --- round trips and answers -----------------------------------------------------------------------------------------

_Trips = dict[tuple[str, str], int]


def _round_trips(links: tuple[Link, ...]) -> _Trips:
    """Between sites, as measured in either direction."""
    found: _Trips = {}
    for link in links:
        if link.rtt_us is not None and link.from_id.startswith("site:") and link.to_id.startswith("site:"):
            found[link.from_id[5:], link.to_id[5:]] = link.rtt_us
    return {(b, a): rtt_us for (a, b), rtt_us in found.items()} | found


def answer_us(target: LatencyTarget, rtt_us: int) -> int:
    """What a request a second costs over such a round trip, for a minute. Where it is in time, nearer is better, by
    so little that no replica is added for it."""
    over_us = min(OVER_US_MAX, max(0, rtt_us - target.rtt_us))
    return SERVICE_ANSWERS * (over_us + MISS_US * (over_us > 0)) + min(rtt_us, OVER_US_MAX) // 16


class _Deciding:
    """One service in one round."""

    def __init__(
        self,
        snapshot: Snapshot,
        model: CostModel,
        service: Service,
        rtts: _Trips,
        n_waiting: int,
        room: dict[str, Resources],
    ) -> None:
        self._model, self._service, self._rtts, self._room = model, service, rtts, room
        self._targets = service.demand.latency
        self._n_waiting = n_waiting
        self._n_more = n_waiting + service.demand.count
        self._nodes = self._eligible(snapshot)
        self.kept = [self._placed(each.task_id, each.agent_id) for each in service.placed]
        self.new: list[_Replica] = []
        self.removed: list[_Replica] = []
        self.moved: list[_Replica] = []
        self._costs: dict[tuple[str, ...], int] = {}

    # --- places ------------------------------------------------------------------------------------------------------

    def _eligible(self, snapshot: Snapshot) -> list[Node]:
        """Agents on which one more may run, as far as they have room at all."""
        demand, by_id, links = self._service.demand, shards_by_id(snapshot), LinksByEnds(snapshot.links)
        if unreachable(demand, by_id):
            return []
        return [
            node
            for node in snapshot.nodes
            if copies(demand.needs, node.free, 1) and obstacle(demand, node, by_id, links) is None
        ]

    def _price_us(self, microusd_per_cpu_hour: int) -> int:
        cpu_milli = self._service.demand.needs.cpu_milli
        spent_us = cpu_milli * microusd_per_cpu_hour // 60_000 * self._model.us_per_microusd
        return REPLICA_US + min(spent_us, SERVICE_US * 1000)

    def _placed(self, task_id: str, agent_id: str) -> _Replica:
        each = next(each for each in self._service.placed if each.task_id == task_id)
        return _Replica(agent_id, each.site, self._price_us(each.price_microusd_per_cpu_hour), task_id, each.is_ready)

    def _candidates(self) -> list[_Replica]:
        """One agent a site, the cheapest that has room: of each client's best sites in turn, `SITES_MAX` in all."""
        best: dict[str, Node] = {}
        for node in self._nodes:
            known = best.get(node.site)
            is_cheaper = known is None or node.price_microusd_per_cpu_hour < known.price_microusd_per_cpu_hour
            if is_cheaper and copies(self._service.demand.needs, self._room[node.agent_id], 1):
                best[node.site] = node
        sites = sorted(best)
        if len(sites) > SITES_MAX:
            ranked = [sorted(sites, key=lambda site: (self._answer_us(t, site), site)) for t in self._targets]
            turns = (site for some in zip(*ranked, strict=True) for site in some)
            sites = list(dict.fromkeys(turns))[:SITES_MAX]
        nodes = [best[site] for site in sites]
        return [_Replica(n.agent_id, n.site, self._price_us(n.price_microusd_per_cpu_hour)) for n in nodes]

    def _answer_us(self, target: LatencyTarget, site: str) -> int:
        return answer_us(target, self._rtt_us(target.site, site))

    def _rtt_us(self, client: str, site: str) -> int:
        known = self._rtts.get((client, site))
        if known is not None:
            return known
        return self._model.lan_rtt_us if client == site else self._model.wan_rtt_us

    # --- the flow ----------------------------------------------------------------------------------------------------

    def route(self, replicas: Sequence[_Replica]) -> tuple[int, Int64s]:
        """The least cost of answering all requests, and how many each replica gets of each client site [C, R]."""
        n_clients, n_replicas = len(self._targets), len(replicas)
        asked = np.array([target.weight for target in self._targets], np.int64)
        sink = n_clients + n_replicas
        client = np.repeat(np.arange(n_clients), n_replicas)
        replica = np.tile(np.arange(n_replicas), n_clients)
        cost = [self._answer_us(target, each.site) for target in self._targets for each in replicas]
        limit = self._service.replicas.answers_per_second or UNLIMITED
        tail = np.concatenate([client, np.arange(n_clients), n_clients + np.arange(n_replicas)])
        head = np.concatenate([n_clients + replica, np.full(n_clients + n_replicas, sink)])
        capacity = np.full(len(tail), UNLIMITED, np.int64)
        capacity[len(tail) - n_replicas :] = limit
        none_us = np.full(n_clients, SERVICE_ANSWERS * (OVER_US_MAX + NONE_US), np.int64)
        costs = np.concatenate([np.array(cost, np.int64), none_us, np.zeros(n_replicas, np.int64)])
        supply = np.zeros(sink + 1, np.int64)
        supply[:n_clients], supply[sink] = asked, -asked.sum()
        result = FlowNetwork(sink + 1, tail, head, capacity, costs, supply).solve()
        assert result.objective is not None, "what nobody answers leaves too"
        return result.objective, result.flow[: n_clients * n_replicas].reshape(n_clients, n_replicas)

    def _cost(self, replicas: Sequence[_Replica]) -> int:
        key = tuple(sorted(each.site for each in replicas))
        if key not in self._costs:
            self._costs[key] = self.route(replicas)[0]
        return self._costs[key] + sum(each.cost_us for each in replicas)

    # --- which replicas ----------------------------------------------------------------------------------------------

    @property
    def all(self) -> list[_Replica]:
        return [*self.kept, *self.new]

    def search(self) -> None:
        for _ in range(STEPS_MAX):
            if not self._step():
                return

    def _step(self) -> bool:
        """The one change that saves most, if it saves enough."""
        service, bounds = self._service, self._service.replicas
        now_us, n = self._cost(self.all), len(self.all)
        places = self._candidates()
        more = places if len(self.new) < self._n_more else []
        is_short = n < bounds.least or len(self.new) < min(self._n_waiting, bounds.most - len(self.kept))
        if is_short:
            return bool(more) and self._add(min(more, key=lambda each: (self._cost([*self.all, each]), each.agent_id)))
        best: tuple[int, str, _Replica | None, _Replica | None] | None = None
        choices: list[tuple[_Replica | None, _Replica | None]] = []
        if service.may_grow:
            choices += [(each, None) for each in more if n < bounds.most]
        if service.may_shrink and not self.removed and not self.new and not self._n_waiting:
            choices += [(None, each) for each in self.kept if n > bounds.least]
            if service.may_grow:
                choices += [(each, old) for each in places for old in self.kept if each.site != old.site]
        for added, removed in choices:
            rest = [each for each in self.all if each is not removed] + ([added] if added else [])
            saved_us = now_us - self._cost(rest) - self._margin_us(added, removed)
            key = -saved_us, f"{added.agent_id if added else ''}/{removed.task_id if removed else ''}"
            if saved_us > 0 and (best is None or key < best[:2]):
                best = (*key, added, removed)
        if best is None:
            return False
        _, _, added, removed = best
        if added is not None and removed is not None:
            if more and n < bounds.most:  # The new one first; then the old one is not worth its place any more.
                return self._add(added)
            self.kept.remove(removed)
            self.moved.append(removed)
            return False
        if removed is not None:
            self.kept.remove(removed)
            self.removed.append(removed)
        return self._add(added) if added is not None else True

    def _margin_us(self, added: _Replica | None, removed: _Replica | None) -> int:
        changed = added or removed
        assert changed is not None, "a change changes something"
        return changed.cost_us * self._service.margin_milli // 1000

    def _add(self, replica: _Replica) -> bool:
        self.new.append(replica)
        room = self._room[replica.agent_id]
        self._room[replica.agent_id] = take_copies(self._service.demand.needs, room, 1)
        return True

    def additions(self, waiting: list[Demand]) -> list[Addition]:
        """Those that wait go first: they are replicas that the service had."""
        _, flow = self.route(self.all)
        out: list[Addition] = []
        owners = [demand.demand_id for demand in waiting for _ in range(demand.count)]
        of_id = {demand.demand_id: demand for demand in waiting}
        for n, replica in enumerate(self.new):
            demand_id = owners[n] if n < len(owners) else ""
            base = of_id.get(demand_id, self._service.demand)
            served = flow[:, len(self.kept) + n]
            clients = tuple(target for c, target in enumerate(self._targets) if served[c])
            where = msgspec.structs.replace(base.where, agents=(replica.agent_id,))
            name = f"+{self._service.service_id}/{n}"
            demand = msgspec.structs.replace(base, demand_id=name, count=1, latency=clients, where=where)
            out.append(Addition(self._service.service_id, demand_id, demand))
        return out

    # --- who answers whom --------------------------------------------------------------------------------------------

    def plan(self) -> ServicePlan:
        ready = [each for each in self.kept if each.is_ready]
        cost_us, flow = self.route(ready)
        weights = self._weights(ready, flow)
        kept = self._in_force(ready)
        if kept is not None and kept[0] * 1000 <= cost_us * (1000 + self._service.margin_milli):
            weights, flow = self._service.weights, kept[1]
        return ServicePlan(
            service_id=self._service.service_id,
            weights=weights,
            removes=tuple(sorted(each.task_id for each in self.removed)),
            moves=tuple(sorted(each.task_id for each in self.moved)),
            missed_ppm=self._missed_ppm(ready, flow),
        )

    def _in_force(self, ready: list[_Replica]) -> tuple[int, Int64s] | None:
        """What the weights in force cost now, and whom they send where; None where they are of other replicas, or not
        of all clients."""
        column = {each.task_id: n for n, each in enumerate(ready)}
        row = {target.site: c for c, target in enumerate(self._targets)}
        shares = np.zeros((len(row), len(ready)), np.int64)
        for each in self._service.weights:
            if each.task_id not in column or each.site not in row:
                return None
            shares[row[each.site], column[each.task_id]] = each.share_ppm
        if not len(ready) or (shares.sum(axis=1) != PPM).any():
            return None
        asked = np.array([target.weight for target in self._targets], np.int64)[:, None]
        flow = (shares * asked + PPM // 2) // PPM
        cost_us = sum(
            int(flow[c, n]) * self._answer_us(target, each.site)
            for c, target in enumerate(self._targets)
            for n, each in enumerate(ready)
        )
        limit = self._service.replicas.answers_per_second or UNLIMITED
        over = int(np.maximum(0, flow.sum(axis=0) - limit).sum())
        return cost_us + over * SERVICE_ANSWERS * (OVER_US_MAX + NONE_US), flow

    def _missed_ppm(self, ready: list[_Replica], flow: Int64s) -> int:
        limit = self._service.replicas.answers_per_second or UNLIMITED
        asked = sum(target.weight for target in self._targets)
        load = flow.sum(axis=0)
        in_time = 0
        for n, each in enumerate(ready):
            taken = min(int(load[n]), limit)
            good = sum(
                int(flow[c, n])
                for c, target in enumerate(self._targets)
                if self._rtt_us(target.site, each.site) <= target.rtt_us
            )
            in_time += good * taken // max(1, int(load[n]))
        return max(0, PPM - in_time * PPM // asked) if asked else 0

    def _weights(self, ready: list[_Replica], flow: Int64s) -> tuple[Weight, ...]:
        """The flow as shares; a site of which nobody has room for a request sends all to the nearest replica."""
        out: list[Weight] = []
        for c, target in enumerate(self._targets if ready else ()):
            parts = [int(part) for part in flow[c]]
            if not any(parts):
                nearest = min(range(len(ready)), key=lambda n: (self._rtt_us(target.site, ready[n].site), n))
                parts[nearest] = 1
            shares = [part * PPM // sum(parts) for part in parts]
            shares[shares.index(max(shares))] += PPM - sum(shares)
            out += [
                Weight(site=target.site, task_id=each.task_id, share_ppm=share)
                for each, share in zip(ready, shares, strict=True)
                if share
            ]
        return tuple(sorted(out, key=lambda each: (each.site, each.task_id)))
