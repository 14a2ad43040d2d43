"""The flow policy: min-cost flow over demand classes and node groups, fed by measured links.

What is minimised is the weighted completion time of all tasks: waiting for data over the best measured link of each
shard, queueing for capacity that comes later, running on that hardware, answering clients late, and money as time. The
weight grows with priority, with the wait and near a deadline, so nothing starves. A task may be planned to wait for a
busy agent when that is cheaper than any free one. docs/policies.md has the terms, docs/architecture.md the network.

A round: lower → costs → (slots → flow → sequence → pack) until everything that was given capacity has it → explain →
shards.
"""

import numpy as np

from policies.communication import tuned
from policies.continuing import continuing_classes, going_limits, stay_costs, with_continuing
from policies.cost import FREE, CostModel, Costs, costs
from policies.crowding import TURNS_MAX, Crowd, mean
from policies.explain import Explainer
from policies.flow_network import Flows, Quota, Share, solve
from policies.ledger import Ledger
from policies.lower import TIME_US_MAX, UNKNOWN, Bools, Columns, Int64s, Lowerer, release_columns
from policies.model import Blocker, Candidate, CostTerms, Miss, Placement, Plan, Reason, Refusal, Relocation, Snapshot
from policies.packing import pack
from policies.resources import role_chain
from policies.sequence import in_sequence
from policies.serving import decide, with_additions, with_services
from policies.shard_placement import ShardPlacer
from policies.slots import count_slots, shapes
from policies.targets import Offered, Targets
from policies.terms import WeightedTerm, with_terms
from policies.together import got_no_room, kept_together

ATTEMPTS_MAX = 4  # times what the flow promised and packing did not find room for is solved again in one round
GANGS_MAX = 16  # gangs left out one by one in a round; past that, all that are not whole at once
ALTERNATIVES = 3


class Flow:
    """Keeps what it lowered of unchanged agents from round to round, for speed, and the shard moves it ordered until
    they had time to arrive, so that it does not order them twice."""

    takes_terms = True

    def __init__(self, model: CostModel | None = None, terms: tuple[WeightedTerm, ...] = ()) -> None:
        """`terms`: cost terms of the operator's own, with their weights (policies/terms.py)."""
        self._model = model or CostModel()
        self._terms = terms
        self._lowerer = Lowerer(exact=bool(terms))
        self._placer = ShardPlacer(self._model)

    def plan(self, snapshot: Snapshot) -> Plan:
        services, additions = decide(snapshot, self._model) if snapshot.services else ((), ())
        plan = self._plan_together(with_continuing(with_additions(snapshot, additions)))
        return tuned(snapshot, with_services(plan, services, additions))

    def _plan_together(self, snapshot: Snapshot) -> Plan:
        """A round; where gangs talk, one in which each is kept to a part of the topology."""
        columns = self._lowerer.lower(snapshot)
        priced = self.costs(columns)
        together = kept_together(columns, priced, self._model)
        if together is None:
            return self._solved(columns, priced).plan()
        found = self._round(together)
        again = got_no_room(found.placed_ids(), together, snapshot)
        return (found if again is None else self._round(again)).plan()

    def _round(self, snapshot: Snapshot) -> "_Round":
        columns = self._lowerer.lower(snapshot)
        return self._solved(columns, self.costs(columns))

    def _solved(self, columns: Columns, priced: Costs) -> "_Round":
        """The round; where transfers meet in uplinks that were inferred, the best of some (policies/crowding.py)."""
        found = _Round(columns, priced, self._placer).solve()
        if not columns.snapshot.bottlenecks:
            return found
        crowd = Crowd(columns, priced)
        turns = [crowd.loads(found.placed)]
        best_us = crowd.total_us(found.placed)
        while crowd.is_shared(turns[0]) and len(turns) <= TURNS_MAX:
            trial = _Round(columns, crowd.crowded(mean(turns)), self._placer).solve()
            turns.append(crowd.loads(trial.placed))
            trial_us = crowd.total_us(trial.placed)
            if trial_us < best_us:
                found, best_us = trial, trial_us
        return found

    def costs(self, columns: Columns) -> Costs:
        """What a task of each class costs in each group: what policies that solve the same flow differ in."""
        priced = costs(columns, self._model)
        return with_terms(columns, priced, self._terms) if self._terms else priced


class _Round:
    def __init__(self, columns: Columns, priced: Costs, placer: ShardPlacer) -> None:
        self.columns, self.placer, self.costs = columns, placer, priced
        self.demands = columns.snapshot.demands
        self.ledger = Ledger(columns)
        self.releases = release_columns(columns.snapshot.nodes, columns.releasing)
        self.remaining = columns.count.copy()
        self.open = np.ones((len(self.demands), columns.n_groups), np.bool_)
        self.placed: dict[tuple[int, int], list[int]] = {}  # (class, node) → [tasks, congestion_us]
        self.later: dict[int, list[Share]] = {}
        self.gangs: dict[str, list[int]] = {}
        for c, demand in enumerate(self.demands):
            if demand.gang is not None:
                self.gangs.setdefault(demand.gang.gang_id, []).append(c)
        self.broken_gangs: dict[str, int] = {}  # gang → members that did fit
        self.shapes = shapes(columns)
        self.size = self.shapes.size
        order = sorted(range(len(self.demands)), key=self._rank)
        self.order = np.array(order, np.int64)
        self.continuing = continuing_classes(columns)
        self.stay_us = stay_costs(columns, priced, self.continuing)
        self.going_us = going_limits(len(self.demands), self.continuing, self.stay_us)
        self._room_of: dict[int, Int64s] = {}
        self.objective: int | None = None
        self.kernel = "none"
        self.first_wait_us = np.full((self.shapes.n_kinds, columns.n_groups), TIME_US_MAX, np.int64)

    def _rank(self, c: int) -> tuple[int, int, float, int, str]:
        """Who comes first where the flow does not care: weight, priority, then what is hardest to fit, then age."""
        demand = self.demands[c]
        share = float(self.shapes.share[self.columns.needs_of[c]])
        return -int(self.costs.level[c]), -demand.priority, -share, demand.oldest_us, demand.demand_id

    def placed_ids(self) -> set[str]:
        return {self.demands[c].demand_id for c, _ in self.placed}

    def solve(self) -> "_Round":
        self._give_out()
        if self.ledger.keeps_entitlements:
            # What the entitled left is anyone's: nothing stays idle for the sake of fairness.
            self.ledger.keeps_entitlements = False
            self.broken_gangs.clear()
            self._give_out()
        return self

    def plan(self) -> Plan:
        explainer = Explainer(
            self.columns, self.costs.obstacle, self.ledger, self.costs.transfer_us + self.costs.run_us
        )
        placements = self._placements()
        return Plan(
            placements=placements,
            refusals=self._refusals(explainer),
            relocations=self._relocations(),
            moves=self.placer.moves(self.columns, self.ledger, self._readers()),
            objective=self.objective,
            kernel=self.kernel,
        )

    # --- solving -----------------------------------------------------------------------------------------------------

    def _give_out(self) -> None:
        attempts = 0
        while attempts < ATTEMPTS_MAX:
            active = self._active()
            if not len(active) or not self.columns.n_groups:
                break
            flows = self._solve(active)
            if self._break_gang(active, flows):
                continue
            attempts += 1
            if not self._pack(active, flows):
                break

    def _active(self) -> Int64s:
        """Classes that still have tasks, in order of rank."""
        left = self.remaining[self.order] > 0
        reachable = np.array([not self.columns.unreachable[c] for c in self.order.tolist()], np.bool_)
        broken = {c for gang in self.broken_gangs for c in self.gangs[gang]}
        whole = np.array([c not in broken for c in self.order.tolist()], np.bool_)
        return self.order[left & reachable & whole] if len(self.order) else self.order

    def _solve(self, active: Int64s) -> Flows:
        columns = self.columns
        tasks = np.zeros(len(columns.needs), np.int64)
        np.add.at(tasks, columns.needs_of[active], self.remaining[active])
        free = (self.costs.obstacle == FREE) & self.open
        allowed = np.zeros((len(columns.needs), columns.n_groups), np.bool_)
        np.logical_or.at(allowed, columns.needs_of[active], free[active])
        slots = count_slots(
            columns,
            self.ledger,
            tasks,
            self.shapes,
            allowed,
            self.releases,
            self._service_us(active, free),
        )
        first_us = np.where(slots.wave > 0, slots.wave_us, TIME_US_MAX).min(axis=0, initial=TIME_US_MAX)
        self.first_wait_us = first_us.reshape(self.shapes.n_kinds, columns.n_groups)
        offered = Offered(
            classes=active,
            tasks=self.remaining[active],
            may_wait=np.array(
                [self.demands[c].gang is None and c not in self.continuing for c in active.tolist()], np.bool_
            ),
            open=self.open,
            going_us=self.going_us[active],
        )
        targets = Targets(columns, self.costs, slots, offered)
        flows = solve(targets, self._quotas(active))
        if self.objective is None:
            self.objective, self.kernel = flows.objective, flows.kernel
        return in_sequence(flows, targets)

    def _service_us(self, active: Int64s, free: Bools) -> Int64s:
        """How long capacity of each group stays taken: the mean over the classes that like the group best, else the
        harmonic mean over all that may run there (who runs long there would rather go elsewhere)."""
        busy_us = (self.costs.transfer_us + self.costs.run_us)[active].astype(np.float64)
        allowed = free[active]
        tasks = self.remaining[active].astype(np.float64)
        best = np.where(allowed, self.costs.total_us[active], 4 * TIME_US_MAX).argmin(axis=1)
        rows = np.flatnonzero(allowed.any(axis=1))
        n_groups = self.columns.n_groups
        count = np.bincount(best[rows], weights=tasks[rows], minlength=n_groups)
        busy = np.bincount(best[rows], weights=tasks[rows] * busy_us[rows, best[rows]], minlength=n_groups)
        every = allowed * tasks[:, None]
        harmonic = every.sum(axis=0) / np.maximum(1e-12, (every / np.maximum(1, busy_us)).sum(axis=0))
        mean: Int64s = np.clip(np.where(count > 0, busy / np.maximum(1, count), harmonic), 1, TIME_US_MAX).astype(
            np.int64
        )
        return mean

    def _quotas(self, active: Int64s) -> tuple[Quota, ...]:
        limited = self.ledger.limited_roles()
        below: dict[str, list[int]] = {path: [] for path in limited}
        room = dict.fromkeys(limited, 0)
        for a, c in enumerate(active.tolist()):
            chain = [path for path in role_chain(self.demands[c].role) if path in room]
            if chain:
                below[chain[-1]].append(a)
            for path in chain:
                tasks = self.ledger.role_room(c, path, int(self.remaining[c]))
                slots = tasks * int(self.size[self.columns.needs_of[c]])
                full = tasks < self.remaining[c]
                # One class below alone would fill so much; a quota that bounds none of them is the sum of all.
                room[path] = max(room[path], slots) if full else room[path] + slots
        index = {path: n for n, path in enumerate(limited)}
        quotas = []
        for path in limited:  # Sorted by path: a role comes after those above it.
            above = [index[p] for p in role_chain(path)[:-1] if p in index]
            quotas.append(Quota(room[path], above[-1] if above else UNKNOWN, tuple(below[path])))
        return tuple(quotas)

    # --- gangs and packing -------------------------------------------------------------------------------------------

    def _break_gang(self, active: Int64s, flows: Flows) -> bool:
        """Leave out the gang that came shortest of being whole, if any did; the next solve gives its room to others."""
        if not self.gangs:
            return False
        slots = np.zeros(len(self.demands), np.int64)
        for share in flows.now:
            slots[active[share.a]] += share.slots
        tasks = slots // self.size[self.columns.needs_of]
        short: list[tuple[float, int, str, int]] = []
        for gang_id, members in self.gangs.items():
            wanted, given = int(self.remaining[members].sum()), int(tasks[members].sum())
            if gang_id not in self.broken_gangs and wanted and given < wanted:
                short.append((given / wanted, int(self.costs.level[members].max()), gang_id, given))
        left_out = sorted(short)[:1] if len(self.broken_gangs) < GANGS_MAX else short
        self.broken_gangs.update({gang_id: given for _, _, gang_id, given in left_out})
        return bool(left_out)

    def _pack(self, active: Int64s, flows: Flows) -> bool:
        """Put what the flow starts now on agents; True when something did not fit and another solve may help."""
        shares: dict[int, list[Share]] = {}
        for share in flows.now:
            shares.setdefault(share.a, []).append(share)
        self.later = {}
        for share in flows.later:
            self.later.setdefault(int(active[share.a]), []).append(share)
        failed: list[tuple[int, Share]] = []
        n_placed = 0
        done: set[str] = set()
        for a in sorted(shares):
            c = int(active[a])
            gang = self.demands[c].gang
            if gang is None:
                placed, short = self._pack_class(c, shares[a])
                n_placed += placed
                failed += [(c, share) for share in short]
            elif gang.gang_id not in done:
                done.add(gang.gang_id)
                n_placed += self._pack_gang(gang.gang_id, active, shares)
        if failed and not n_placed:
            for c, share in failed:
                self.open[c, share.group] = False
        broken = any(gang in self.broken_gangs for gang in done)
        return bool(failed) or broken

    def _pack_class(self, c: int, shares: list[Share]) -> tuple[int, list[Share]]:
        """Whole tasks for each share, largest fractions rounded up; tasks placed, and the shares that fell short."""
        size = int(self.size[self.columns.needs_of[c]])
        whole = [share.slots // size for share in shares]
        spare = sum(share.slots for share in shares) // size - sum(whole)
        by_fraction = sorted(range(len(shares)), key=lambda n: (-(shares[n].slots % size), n))
        for n in by_fraction[:spare]:
            whole[n] += 1
        total, short = 0, []
        for share, tasks in zip(shares, whole, strict=True):
            placed = 0
            for node, count in pack(self.columns, self.ledger, c, share.group, tasks):
                entry = self.placed.setdefault((c, node), [0, share.congestion_us])
                entry[0] += count
                placed += count
            self.remaining[c] -= placed
            total += placed
            if placed < tasks:
                short.append(share)
        return total, short

    def _pack_gang(self, gang_id: str, active: Int64s, shares: dict[int, list[Share]]) -> int:
        """All of a gang or nothing of it; how many tasks were placed."""
        members = self.gangs[gang_id]
        books = self.ledger.copy(), self.remaining.copy(), {key: list(value) for key, value in self.placed.items()}
        place = {int(c): a for a, c in enumerate(active)}
        wanted = int(self.remaining[members].sum())
        placed = sum(self._pack_class(c, shares.get(place[c], []))[0] for c in members if c in place)
        if placed < wanted:
            self.ledger, self.remaining, self.placed = books
            self.broken_gangs[gang_id] = placed
            return 0
        return placed

    # --- the plan ----------------------------------------------------------------------------------------------------

    def _terms(self, c: int, g: int, congestion_us: int = 0, wait_us: int = 0) -> CostTerms:
        costs = self.costs
        return CostTerms(
            transfer_us=int(costs.transfer_us[c, g]),
            congestion_us=congestion_us,
            wait_us=wait_us,
            run_us=int(costs.run_us[c, g]),
            latency_us=int(costs.latency_us[c, g]),
            price_us=int(costs.price_us[c, g]),
            extra_us=int(costs.extra_us[c, g]) if costs.extra_us is not None else 0,
        )

    def _placements(self) -> tuple[Placement, ...]:
        """In the order in which they were booked: GPUs are given out in that order."""
        nodes, group = self.columns.snapshot.nodes, self.columns.group
        candidates: dict[int, list[tuple[int, Candidate]]] = {}
        shared: dict[tuple[int, int, int], tuple[CostTerms, tuple[Candidate, ...]]] = {}
        out: list[Placement] = []
        for (c, node), (count, congestion_us) in self.placed.items():
            if c in self.continuing:
                continue
            g = int(group[node])
            if (c, g, congestion_us) not in shared:
                if c not in candidates:
                    candidates[c] = self._candidates(c)
                others = tuple(each for other, each in candidates[c] if other != g)[:ALTERNATIVES]
                shared[c, g, congestion_us] = self._terms(c, g, congestion_us), others
            terms, alternatives = shared[c, g, congestion_us]
            out.append(
                Placement(
                    demand_id=self.demands[c].demand_id,
                    agent_id=nodes[node].agent_id,
                    count=count,
                    terms=terms,
                    alternatives=alternatives,
                    gpus=self.ledger.named(c, node),
                )
            )
        return tuple(out)

    def _relocations(self) -> tuple[Relocation, ...]:
        nodes, group = self.columns.snapshot.nodes, self.columns.group
        return tuple(
            Relocation(
                task_id=self.continuing[c].task_id,
                from_agent=self.continuing[c].agent_id,
                to_agent=nodes[node].agent_id,
                stay_us=self.stay_us[c],
                terms=self._terms(c, int(group[node]), congestion_us),
            )
            for (c, node), (_, congestion_us) in self.placed.items()
            if c in self.continuing
        )

    def _candidates(self, c: int) -> list[tuple[int, Candidate]]:
        """The cheapest groups for a class, the wait included where they are full by now, an agent for each."""
        k = int(self.columns.needs_of[c])
        columns = self.columns
        ways = np.flatnonzero(self.costs.obstacle[c] == FREE)
        rooms = self._rooms(k)
        wait_us = np.where(rooms[ways] != UNKNOWN, 0, self.first_wait_us[self.shapes.kind[k], ways])
        total = self.costs.total_us[c, ways] + wait_us
        out: list[tuple[int, Candidate]] = []
        for n in np.argsort(total, kind="stable")[: ALTERNATIVES + 1].tolist():
            if wait_us[n] < TIME_US_MAX:
                g = int(ways[n])
                node = int(rooms[g]) if rooms[g] != UNKNOWN else int(columns.first[g])
                terms = self._terms(c, g, wait_us=int(wait_us[n]))
                out.append((g, Candidate(agent_id=columns.snapshot.nodes[node].agent_id, terms=terms)))
        return out

    def _rooms(self, k: int) -> Int64s:
        """[G] an agent of each group that still has room for needs `k`, or UNKNOWN."""
        if k not in self._room_of:
            fits = np.flatnonzero(self.ledger.slots(k))[::-1]
            out = np.full(self.columns.n_groups, UNKNOWN, np.int64)
            out[self.columns.group[fits]] = fits
            self._room_of[k] = out
        return self._room_of[k]

    def _refusals(self, explainer: Explainer) -> tuple[Refusal, ...]:
        out: list[Refusal] = []
        for c, demand in enumerate(self.demands):
            if c in self.continuing:
                continue  # It runs where it is.
            short = demand.count - (int(self.columns.count[c]) - int(self.remaining[c]))
            if short <= 0:
                continue
            first: list[Blocker] = []
            waits_for: Candidate | None = None
            if demand.gang is not None and demand.gang.gang_id in self.broken_gangs:
                wanted = int(self.remaining[self.gangs[demand.gang.gang_id]].sum())
                has = min(self.broken_gangs[demand.gang.gang_id], wanted - 1)
                first.append(
                    Blocker(reason=Reason.GANG, nearest=Miss(agent_id="", needs=wanted, has=has, unit="count"))
                )
            elif self.later.get(c):
                waits_for, blocker = self._planned_wait(c)
                first.append(blocker)
            out.append(
                Refusal(
                    demand_id=demand.demand_id,
                    count=short,
                    blockers=explainer.blockers(c, first),
                    waits_for=waits_for,
                )
            )
        return tuple(out)

    def _planned_wait(self, c: int) -> tuple[Candidate, Blocker]:
        share = min(self.later[c], key=lambda s: (s.wait_us, s.group))
        g = share.group
        members = self.columns.members[g]
        nodes = self.columns.snapshot.nodes
        busy = [n for n in members.tolist() if nodes[n].releases]
        node = min(busy, key=lambda n: (nodes[n].releases[0].in_us, n), default=int(members[0]))
        groups = {s.group for s in self.later[c]}
        agents = sum(len(self.columns.members[each]) for each in groups)
        terms = self._terms(c, g, share.congestion_us, share.wait_us)
        return Candidate(agent_id=nodes[node].agent_id, terms=terms), Blocker(reason=Reason.PLANNED_WAIT, agents=agents)

    def _readers(self) -> dict[tuple[int, int], int]:
        """Where reads are coming: (class, group) → tasks that wait for it, or would best run there."""
        out: dict[tuple[int, int], int] = {}
        for c in np.flatnonzero(self.remaining).tolist():
            if c in self.continuing:
                continue
            size = int(self.size[self.columns.needs_of[c]])
            left = int(self.remaining[c])
            for share in self.later.get(c, ()):
                key = (c, share.group)
                out[key] = out.get(key, 0) + share.slots // size
                left -= share.slots // size
            ways = np.flatnonzero(self.costs.obstacle[c] == FREE)
            if left > 0 and len(ways):
                key = (c, int(ways[self.costs.run_us[c, ways].argmin()]))
                out[key] = out.get(key, 0) + left
        return out
