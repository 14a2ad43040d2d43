"""The conformance kit: what every policy must keep, as numbered clauses. Needs no test framework.

```python
from policies.conformance import check_policy
check_policy(MyPolicy, snapshots)      # raises ConformanceError naming the clause
```

Clauses
  P1  the same sequence of snapshots gives the same sequence of plans
  P2  every task of every demand is answered once: placed or refused; counts are positive; ids are of the snapshot
  P3  nothing is overcommitted in any dimension, GPUs of the right kind (their memory, where they are shared) included,
      in the plan's order; GPUs that a placement names will do
  P4  hard constraints hold: tier, sites, agents, labels, agents avoided
  P5  data holds: residency of what is read, and a live replica of it
  P6  measured links meet the demand's link needs
  P7  quotas hold, for a role with all below it
  P8  a gang's pending tasks are placed together or not at all
  P9  a refusal names at least one reason; a shortage names the amount; a planned wait says for whom
  P10 moves are legal: a known shard, from a live replica, to a node that lacks it, may hold it and has room
  P11 alternatives are at most three, known, other than the one chosen, best first
  P12 evictions name a running task of that node, each once, and a demand of the snapshot that is not all placed
  P13 a plan comes within the time limit, where one is given
  P14 tunings are of demands that are placed, each once, and choose only what the job allows; shifts are below a step
  P15 services: only replicas that are ready are weighted and the parts of each client site make a whole; additions fit,
      are not more than there may be; what ends is placed, and no fewer stay than must run

The checks are plain loops over objects on purpose: they share no code with the array paths of the built-in policies.
"""

from collections.abc import Callable, Iterable
from typing import NoReturn

from policies.api import Policy
from policies.constraints import Links, obstacle, shards_by_id, unreachable
from policies.model import (
    Amount,
    Blocker,
    Demand,
    GpuNeed,
    Node,
    Placement,
    Plan,
    Reason,
    Resources,
    Service,
    ServicePlan,
    Snapshot,
    Tuning,
)
from policies.resources import add, amount_of, copies, gpus_of_tasks, role_chain, take_copies, within_quota

CLAUSES = tuple(f"P{n}" for n in range(1, 16))
PPM = 1_000_000
_SHORTAGES = (Reason.CPU, Reason.MEMORY, Reason.DISK, Reason.GPU)
_LINKS = (Reason.LINK_RTT, Reason.LINK_BANDWIDTH, Reason.LINK_UNMEASURED)


class ConformanceError(AssertionError):
    """A plan broke a clause; `clause` is its number, `at` the snapshot's place in the sequence."""

    def __init__(self, clause: str, detail: str, at: int = 0) -> None:
        super().__init__(f"{clause}, snapshot {at}: {detail}")
        self.clause, self.detail, self.at = clause, detail, at


def check_policy(
    make: Callable[[], Policy],
    snapshots: Iterable[Snapshot],
    limit_us: int | None = None,
    clock_us: Callable[[], int] | None = None,
) -> int:
    """Run two policies made by `make` over the sequence and check every plan; how many were checked.

    `limit_us` bounds each round by the caller's clock, as the master's `solve_limit_us` does; without them time is not
    looked at. Raises `ConformanceError` at the first clause that is broken. What the policy itself raises passes
    through; one that never answers is not ended here, as it is in the master.
    """
    one, other = make(), make()
    n = 0
    for n, snapshot in enumerate(snapshots, start=1):
        began_us = clock_us() if clock_us is not None else 0
        plan = one.plan(snapshot)
        took_us = clock_us() - began_us if clock_us is not None else 0
        if limit_us is not None and took_us > limit_us:
            raise ConformanceError("P13", f"the plan took {took_us} us, the limit is {limit_us}", n - 1)
        again = other.plan(snapshot)
        if plan != again:
            raise ConformanceError("P1", "two policies made alike gave different plans for the same sequence", n - 1)
        try:
            check_plan(snapshot, plan)
        except ConformanceError as broken:
            raise ConformanceError(broken.clause, broken.detail, n - 1) from None
    return n


def check_plan(snapshot: Snapshot, plan: Plan) -> None:
    """Check one plan against its snapshot. Raises `ConformanceError`."""
    _Check(snapshot, plan).run()


def _fail(clause: str, detail: str) -> NoReturn:
    raise ConformanceError(clause, detail)


class _Check:
    def __init__(self, snapshot: Snapshot, plan: Plan) -> None:
        self.snapshot, self.plan = snapshot, plan
        self.demands: dict[str, Demand] = {demand.demand_id: demand for demand in snapshot.demands}
        self.nodes: dict[str, Node] = {node.agent_id: node for node in snapshot.nodes}
        self.shards = shards_by_id(snapshot)
        self.links = Links(snapshot.links)
        self.left: dict[str, Resources] = {node.agent_id: node.free for node in snapshot.nodes}

    def run(self) -> None:
        self.answered_once()
        self.nothing_overcommitted()
        self.constraints()
        self.quotas()
        self.gangs()
        self.refusals()
        self.moves()
        self.alternatives()
        self.evictions()
        self.tunings()
        self.services()

    def answered_once(self) -> None:
        counts = dict.fromkeys(self.demands, 0)
        refused: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for placement in self.plan.placements:
            if placement.demand_id not in counts or placement.agent_id not in self.nodes:
                _fail("P2", f"{placement.demand_id} on {placement.agent_id} is not of this snapshot")
            if placement.count <= 0 or (placement.demand_id, placement.agent_id) in pairs:
                _fail("P2", f"{placement.demand_id} on {placement.agent_id}: count {placement.count}, or listed twice")
            pairs.add((placement.demand_id, placement.agent_id))
            counts[placement.demand_id] += placement.count
        for refusal in self.plan.refusals:
            if refusal.demand_id not in counts or refusal.demand_id in refused or refusal.count <= 0:
                _fail("P2", f"refusal of {refusal.demand_id}: unknown, listed twice, or count {refusal.count}")
            refused.add(refusal.demand_id)
            counts[refusal.demand_id] += refusal.count
        for demand_id, demand in self.demands.items():
            if counts[demand_id] != demand.count:
                _fail("P2", f"{demand_id} has {demand.count} tasks, {counts[demand_id]} are answered")

    def nothing_overcommitted(self) -> None:
        for placement in self.plan.placements:
            needs = self.demands[placement.demand_id].needs
            left = self.left[placement.agent_id]
            fit = copies(needs, left, placement.count)
            if fit < placement.count:
                _fail("P3", f"{placement.count} of {placement.demand_id} on {placement.agent_id}, only {fit} fit")
            if needs.gpu is not None and placement.gpus:
                self._named_gpus(placement, needs.gpu, left)
            self.left[placement.agent_id] = take_copies(needs, left, placement.count, placement.gpus)

    def _named_gpus(self, placement: Placement, need: GpuNeed, left: Resources) -> None:
        given = gpus_of_tasks(need, left.gpus, placement.count, placement.gpus)
        if tuple(uuid for names, _ in given for uuid in names) != placement.gpus:
            _fail("P3", f"{placement.demand_id} on {placement.agent_id}: the GPUs named will not do")

    def constraints(self) -> None:
        for placement in self.plan.placements:
            demand, node = self.demands[placement.demand_id], self.nodes[placement.agent_id]
            missing = unreachable(demand, self.shards)
            if missing:
                _fail("P5", f"{demand.demand_id} is placed, but nobody has {missing[0]}")
            found = obstacle(demand, node, self.shards, self.links)
            if found is not None:
                clause = "P6" if found.reason in _LINKS else "P5" if found.reason is Reason.RESIDENCY else "P4"
                _fail(clause, f"{demand.demand_id} on {node.agent_id} is ruled out by {found.reason}")

    def quotas(self) -> None:
        started: dict[str, Amount] = {}
        for placement in self.plan.placements:
            demand = self.demands[placement.demand_id]
            for path in role_chain(demand.role):
                amount = amount_of(demand.needs, placement.count)
                started[path] = add(started.get(path, Amount()), amount)
        for role in self.snapshot.roles:
            grown = started.get(role.path, Amount())
            if role.quota is not None and grown != Amount():
                # A role may already be above a quota that was lowered; what the plan adds may not push it further.
                limited = _grown_kinds_only(add(role.allocated, grown), grown)
                if not within_quota(limited, role.quota):
                    _fail("P7", f"role {role.path} would hold {add(role.allocated, grown)}, its quota is {role.quota}")

    def gangs(self) -> None:
        placed: dict[str, int] = {}
        for placement in self.plan.placements:
            gang = self.demands[placement.demand_id].gang
            if gang is not None:
                placed[gang.gang_id] = placed.get(gang.gang_id, 0) + placement.count
        for demand in self.demands.values():
            if demand.gang is not None and demand.gang.gang_id in placed:
                gang_id = demand.gang.gang_id
                pending = sum(
                    d.count for d in self.demands.values() if d.gang is not None and d.gang.gang_id == gang_id
                )
                if placed[gang_id] != pending:
                    _fail("P8", f"gang {gang_id} has {pending} pending tasks, {placed[gang_id]} are placed")

    def refusals(self) -> None:
        for refusal in self.plan.refusals:
            if not refusal.blockers:
                _fail("P9", f"{refusal.demand_id} is refused without a reason")
            for blocker in refusal.blockers:
                self._check_blocker(refusal.demand_id, blocker)
            planned = any(blocker.reason is Reason.PLANNED_WAIT for blocker in refusal.blockers)
            if planned != (refusal.waits_for is not None):
                _fail("P9", f"{refusal.demand_id}: planned_wait and waits_for come together")
            if refusal.waits_for is not None and refusal.waits_for.agent_id not in self.nodes:
                _fail("P9", f"{refusal.demand_id} waits for {refusal.waits_for.agent_id}, who is not of this snapshot")

    def _check_blocker(self, demand_id: str, blocker: Blocker) -> None:
        reason, miss = blocker.reason, blocker.nearest
        if not 0 <= blocker.agents <= len(self.nodes):
            _fail("P9", f"{demand_id}: {reason} rules out {blocker.agents} of {len(self.nodes)} agents")
        if reason is Reason.QUOTA and not blocker.role:
            _fail("P9", f"{demand_id}: quota of which role?")
        if reason in (*_SHORTAGES, *_LINKS) and miss is None:
            _fail("P9", f"{demand_id}: {reason} names no amount")
        if miss is None:
            return
        if miss.agent_id and miss.agent_id not in self.nodes:
            _fail("P9", f"{demand_id}: nearest miss {miss.agent_id} is not of this snapshot")
        if reason in _SHORTAGES and (miss.has is None or miss.has >= miss.needs):
            _fail("P9", f"{demand_id}: {reason} needs {miss.needs} and has {miss.has}: that is no shortage")

    def moves(self) -> None:
        room = {agent_id: left.disk_bytes for agent_id, left in self.left.items()}
        seen: set[tuple[str, str]] = set()
        for move in self.plan.moves:
            shard, node = self.shards.get(move.shard_id), self.nodes.get(move.to_agent)
            if shard is None or node is None or (move.shard_id, move.to_agent) in seen:
                _fail("P10", f"{move.shard_id} to {move.to_agent}: unknown, or listed twice")
            seen.add((move.shard_id, move.to_agent))
            from_store = move.from_agent == "" and shard.in_store
            if not from_store and move.from_agent not in shard.replicas:
                _fail("P10", f"{move.shard_id} is not on {move.from_agent or 'the master'}")
            if move.to_agent in shard.replicas:
                _fail("P10", f"{move.to_agent} holds {move.shard_id} already")
            if shard.sites and node.site not in shard.sites:
                _fail("P10", f"{move.shard_id} may not live in {node.site}")
            room[move.to_agent] -= shard.size_bytes
            if room[move.to_agent] < 0:
                _fail("P10", f"{move.to_agent} has no room for {move.shard_id}")

    def alternatives(self) -> None:
        for placement in self.plan.placements:
            ids = [candidate.agent_id for candidate in placement.alternatives]
            totals = [candidate.terms.total_us() for candidate in placement.alternatives]
            wrong = len(ids) > 3 or placement.agent_id in ids or any(each not in self.nodes for each in ids)
            if wrong or totals != sorted(totals):
                _fail("P11", f"{placement.demand_id} on {placement.agent_id}: alternatives {ids} cost {totals}")

    def evictions(self) -> None:
        seen: set[str] = set()
        refused = {refusal.demand_id for refusal in self.plan.refusals}
        for eviction in self.plan.evictions:
            if eviction.agent_id not in self.nodes or eviction.for_demand_id not in self.demands:
                _fail("P12", f"eviction of {eviction.task_id} names what is not of this snapshot")
            running = {task.task_id for task in self.nodes[eviction.agent_id].running if not task.ending}
            if eviction.task_id not in running or eviction.task_id in seen:
                _fail("P12", f"{eviction.task_id} does not run on {eviction.agent_id}, or is ended twice")
            seen.add(eviction.task_id)
            if eviction.for_demand_id not in refused:
                _fail("P12", f"{eviction.task_id} is ended for {eviction.for_demand_id}, all of which is placed")

    def tunings(self) -> None:
        placed: dict[str, set[str]] = {}
        for placement in self.plan.placements:
            placed.setdefault(placement.demand_id, set()).add(self.nodes[placement.agent_id].site)
        seen: set[str] = set()
        for tuning in self.plan.tunings:
            if tuning.demand_id not in placed or tuning.demand_id in seen:
                _fail("P14", f"{tuning.demand_id} is tuned, but not placed, or twice")
            seen.add(tuning.demand_id)
            gang = self.demands[tuning.demand_id].gang
            spoken = gang.communication if gang is not None else None
            savings, steps_max = (spoken.savings, spoken.local_steps_max) if spoken is not None else ((), 1)
            if not _allows(savings, steps_max, tuning):
                _fail("P14", f"{tuning.demand_id} allows {', '.join(savings) or 'no savings'}; it is tuned {tuning}")
            if tuning.meet_at and tuning.meet_at not in placed[tuning.demand_id]:
                _fail("P14", f"{tuning.demand_id} is to meet at {tuning.meet_at}, where none of it is")
            if tuning.shift_us is not None and not 0 <= tuning.shift_us < max(1, tuning.iteration_us):
                _fail("P14", f"{tuning.demand_id} is shifted by {tuning.shift_us} us of {tuning.iteration_us}")

    def services(self) -> None:
        known = {service.service_id: service for service in self.snapshot.services}
        ids = [plan.service_id for plan in self.plan.services]
        if ids != sorted(set(ids)) or not set(ids) <= known.keys():
            _fail("P15", f"services {ids} are not of this snapshot, or not sorted")
        for plan in self.plan.services:
            self._check_service(known[plan.service_id], plan)

    def _check_service(self, service: Service, plan: ServicePlan) -> None:
        ending = (*plan.removes, *plan.moves)
        placed = {replica.task_id for replica in service.placed}
        if len(set(ending)) != len(ending) or not set(ending) <= placed:
            _fail("P15", f"{plan.service_id} ends {ending}, of which some are not placed")
        if plan.removes and len(placed) - len(ending) < service.replicas.least:
            _fail("P15", f"{plan.service_id} would keep fewer than {service.replicas.least} replicas")
        ready = {replica.task_id for replica in service.placed if replica.is_ready} - set(ending)
        parts: dict[str, int] = {}
        for weight in plan.weights:
            if weight.task_id not in ready or weight.share_ppm <= 0:
                _fail("P15", f"{plan.service_id} sends {weight.share_ppm} ppm to {weight.task_id}, which is not ready")
            parts[weight.site] = parts.get(weight.site, 0) + weight.share_ppm
        if any(part != PPM for part in parts.values()):
            _fail("P15", f"{plan.service_id}: the parts of a site make {parts}")
        if len(plan.adds) > service.demand.count:
            _fail("P15", f"{plan.service_id} adds {len(plan.adds)} replicas, {service.demand.count} are spare")
        for wish in plan.adds:
            node = self.nodes.get(wish.agent_id)
            if node is None or obstacle(service.demand, node, self.shards, self.links) is not None:
                _fail("P15", f"{plan.service_id} adds a replica on {wish.agent_id}, where it may not run")
            if not copies(service.demand.needs, self.left[wish.agent_id], 1):
                _fail("P15", f"{plan.service_id} adds a replica on {wish.agent_id}, where it does not fit")
            self.left[wish.agent_id] = take_copies(service.demand.needs, self.left[wish.agent_id], 1)


def _allows(savings: tuple[str, ...], local_steps_max: int, tuning: Tuning) -> bool:
    wanted = {f"{tuning.aggregate}_aggregation"} if tuning.aggregate else set()
    wanted |= {tuning.compression} if tuning.compression else set()
    wanted |= {"local_steps"} if tuning.local_steps > 1 else set()
    return wanted <= set(savings) and 1 <= tuning.local_steps <= max(1, local_steps_max)


def _grown_kinds_only(after: Amount, grown: Amount) -> Amount:
    """`after` in the kinds that grew; the others do not count."""
    return Amount(
        cpu_milli=after.cpu_milli if grown.cpu_milli else 0,
        memory_bytes=after.memory_bytes if grown.memory_bytes else 0,
        disk_bytes=after.disk_bytes if grown.disk_bytes else 0,
        gpus=after.gpus if grown.gpus or grown.gpu_milli else 0,
        gpu_milli=after.gpu_milli if grown.gpus or grown.gpu_milli else 0,
    )
