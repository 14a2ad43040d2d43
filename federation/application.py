"""A plan meets the book of now: every placement is checked again, what still holds is applied, the rest waits on."""

from collections.abc import Iterator
from itertools import islice

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.demands import DemandClass
from federation.facts import Assignment, TaskRefused, TasksAssigned
from federation.launches import begin_move, kill, launch
from federation.market import wants
from federation.offers import free_of, is_offered, may_live
from federation.rescheduling import relocate
from federation.services import added, not_added, serve, spare_of
from federation.states import PLACED_STATES, TaskState
from federation.task_entries import TaskEntry
from policies.model import Amount, Candidate, Needs, Placement, Plan, Refusal, Resources, Tuning
from policies.resources import add, amount_of, copies, quota_copies, role_chain, take, take_copies

FACT_TASK_IDS_MAX = 16
WATCHES_MAX = 64


class Application:
    """Cost O(placements + tasks placed + refusals)."""

    def __init__(self, core: Core, round_id: int, policy_name: str) -> None:
        self._core = core
        self._policy_name = policy_name
        self._round_id = round_id
        self._assignments: list[Assignment] = []
        # What this plan has used so far; the books take it in with the fact at the end.
        self._free: dict[str, Resources] = {}
        self._used: dict[str, Amount] = {}  # role → amount
        self._taken: dict[str, int] = {}  # class → tasks taken from its front
        self._next: dict[str, Iterator[str]] = {}
        self._tunings: dict[str, Tuning] = {}

    def apply(self, plan: Plan) -> None:
        core = self._core
        core.rounds.watches = plan.watches[:WATCHES_MAX]
        self._tunings = {tuning.demand_id: tuning for tuning in plan.tunings}
        wished = [placement for placement in plan.placements if placement.demand_id in core.market.wants]
        n_offers = wants.place(core, wished) if wished else 0
        wanted = self._wake_replicas(plan)  # first of all: nothing may join a class while tasks are taken from it
        for placements in self._by_gang(plan):
            self._place_all(placements)
        stale = [task for task, wish in wanted if not self._place_replica(task, wish)]
        if self._assignments:
            core.persist(
                TasksAssigned(
                    at_us=core.now_us,
                    round_id=self._round_id,
                    policy=self._policy_name,
                    assignments=tuple(self._assignments),
                )
            )
            self._launch()
        for replica in stale:
            not_added(core, replica)
        self._slow_down(bool(plan.placements) and not self._assignments and not n_offers)
        for refusal in plan.refusals:
            for class_id in self._class_ids(refusal.demand_id):
                self._refuse(class_id, refusal)
        for eviction in plan.evictions:
            task = core.tasks.tasks.get(eviction.task_id)
            if task is not None and task.agent_id == eviction.agent_id and task.state in PLACED_STATES:
                self._evict(task, eviction.for_demand_id)
        for service in plan.services:
            serve(core, service)
        relocate(core, plan.relocations)
        for move in plan.moves:
            if begin_move(core, move):
                core.count("moves_begun")

    def _slow_down(self, is_fruitless: bool) -> None:
        """A policy that twice in a row wants only what cannot be may be wrong, not late: it is asked less often."""
        rounds = self._core.rounds
        rounds.n_fruitless = rounds.n_fruitless + 1 if is_fruitless else 0
        if rounds.n_fruitless >= 2:
            self._core.count("rounds_fruitless")
            rounds.not_before_us = self._core.now_us + self._core.config.round_retry_us

    # --- placements --------------------------------------------------------------------------------------------------

    def _class_ids(self, demand_id: str) -> tuple[str, ...]:
        return self._core.rounds.aliases.get(demand_id, (demand_id,))

    def _class(self, class_id: str) -> DemandClass | None:
        return self._core.tasks.demands.classes.get(class_id)

    def _by_gang(self, plan: Plan) -> list[list[Placement]]:
        """Placements in the plan's order, those of one gang together."""
        groups: dict[str, list[Placement]] = {}
        for n, placement in enumerate(plan.placements):
            if placement.demand_id in self._core.market.wants:
                continue
            found = self._class(self._class_ids(placement.demand_id)[0])
            gang = found.template.gang if found is not None else None
            groups.setdefault(f"{n}" if gang is None else f"gang {gang.gang_id}", []).append(placement)
        return list(groups.values())

    def _place_all(self, placements: list[Placement]) -> None:
        """Apply a placement as far as it holds; those of a gang all or none."""
        found = self._class(self._class_ids(placements[0].demand_id)[0])
        if found is None or found.template.gang is None:
            for placement in placements:
                self._count_stale(placement, self._place(placement))
            return
        n_before, free, used, taken = len(self._assignments), dict(self._free), dict(self._used), dict(self._taken)
        if sum(self._place(placement) for placement in placements) != found.template.gang.size:
            self._core.count("gangs_not_whole")
            self._core.rounds.changed = True
            del self._assignments[n_before:]
            self._free, self._used, self._taken = free, used, taken
            self._next.clear()

    def _wake_replicas(self, plan: Plan) -> list[tuple[TaskEntry, Candidate]]:
        """For each that a service is to have more, one of its spare replicas becomes pending."""
        found = [(spare_of(self._core, service.service_id), wish) for service in plan.services for wish in service.adds]
        return [(task, wish) for task, wish in found if task is not None]

    def _place_replica(self, task: TaskEntry, wish: Candidate) -> bool:
        placement = Placement(demand_id=task.demand_id, agent_id=wish.agent_id, count=1, terms=wish.terms)
        if not self._place(placement):
            return False
        added(self._core, task.group)
        return True

    def _count_stale(self, placement: Placement, placed: int) -> None:
        if placed < placement.count:
            self._core.count("placements_stale", placement.count - placed)
            self._core.rounds.changed = True

    def _place(self, placement: Placement) -> int:
        entry = self._core.agents.get(placement.agent_id)
        if entry is None or entry.life is None or not is_offered(entry, self._core.now_us):
            return 0
        if entry.agent_id in self._core.market.held:
            return 0
        placed = 0
        for class_id in self._class_ids(placement.demand_id):
            found = self._class(class_id)
            if found is None or placed >= placement.count:
                continue
            where = found.template.where
            if class_id == placement.demand_id and entry.agent_id in where.agents_avoided:
                continue
            if may_live(where, entry.agent_id, entry.enrolled) and self._can_read(found, entry):
                placed += self._place_class(found, entry, placement, placed)
        return placed

    def _can_read(self, found: DemandClass, entry: AgentEntry) -> bool:
        """Whether everything is on the agent or can be fetched, and may live where the agent is."""
        shards = self._core.shards
        for shard_id in found.template.reads:
            shard = shards.entries.get(shard_id)
            if shard is None or (shard.sites and entry.site not in shard.sites):
                return False
            if shard_id not in entry.shards and not shard.in_store and not shards.is_reachable(shard):
                return False
        return True

    def _place_class(self, found: DemandClass, entry: AgentEntry, placement: Placement, n_before: int) -> int:
        """What holds of a placement of which `n_before` tasks are placed already."""
        needs, role, class_id = found.template.needs, found.template.role, found.demand_id
        free = self._free.get(entry.agent_id) or free_of(entry)
        assert free is not None, "checked by is_offered"
        count = min(placement.count - n_before, len(found.tasks) - self._taken.get(class_id, 0))
        count = copies(needs, free, self._quota_left(role, needs, count)) if count > 0 else 0
        if count <= 0:
            return 0
        gpus: list[tuple[str, ...]] = []
        if needs.gpu is not None:
            width = needs.gpu.count
            for n in range(n_before, n_before + count):
                free, uuids = take(needs, free, placement.gpus[n * width : (n + 1) * width])
                gpus.append(uuids)
        else:
            free = take_copies(needs, free, count)
        self._free[entry.agent_id] = free
        amount = amount_of(needs, count)
        for above in role_chain(role):
            self._used[above] = add(self._used.get(above, Amount()), amount)
        task_ids = self._take_tasks(found, count)
        tasks = self._core.tasks.tasks
        self._assignments.append(
            Assignment(
                agent_id=entry.agent_id,
                task_ids=task_ids,
                attempts=tuple(tasks[task_id].attempt + 1 for task_id in task_ids),
                cmd_ids=tuple(self._core.new_cmd_id() for _ in task_ids),
                gpus=tuple(gpus),
                terms=placement.terms,
                alternatives=placement.alternatives[:3],
                tuning=self._tunings.get(placement.demand_id),
            )
        )
        return count

    def _take_tasks(self, found: DemandClass, count: int) -> tuple[str, ...]:
        """The longest-waiting tasks of a class that this plan has not taken yet; those of a gang by their numbers, for
        neighbours in the plan are to be neighbours of a ring."""
        class_id = found.demand_id
        taken = self._taken.get(class_id, 0)
        if class_id not in self._next:
            tasks = self._core.tasks.tasks
            in_gang = found.template.gang is not None
            waiting = sorted(found.tasks, key=lambda task_id: tasks[task_id].index) if in_gang else found.tasks
            self._next[class_id] = islice(waiting, taken, None)
        self._taken[class_id] = taken + count
        return tuple(islice(self._next[class_id], count))

    def _quota_left(self, role: str, needs: Needs, at_most: int) -> int:
        for above in role_chain(role):
            entry = self._core.shares.roles[above]
            if entry.quota is not None:
                allocated = add(entry.allocated, self._used.get(above, Amount()))
                at_most = quota_copies(needs, allocated, entry.quota, at_most)
        return at_most

    def _launch(self) -> None:
        core = self._core
        by_agent: dict[str, list[TaskEntry]] = {}
        for assignment in self._assignments:
            tasks = by_agent.setdefault(assignment.agent_id, [])
            tasks += [core.tasks.tasks[task_id] for task_id in assignment.task_ids]
        for agent_id, tasks in by_agent.items():
            core.count("tasks_placed", len(tasks))
            launch(core, core.agents[agent_id], tasks)

    # --- refusals and evictions --------------------------------------------------------------------------------------

    def _refuse(self, class_id: str, refusal: Refusal) -> None:
        """Keep the fresh numbers; write a fact when the reasons are others than those last written."""
        core, found = self._core, self._class(class_id)
        if found is None:
            return
        found.refusal = refusal
        kept = found.explanation
        if kept is not None and (
            {blocker.reason for blocker in kept.blockers} == {blocker.reason for blocker in refusal.blockers}
            or core.now_us - kept.at_us < core.config.refusal_every_us
        ):
            return
        core.persist(
            TaskRefused(
                at_us=core.now_us,
                round_id=self._round_id,
                policy=self._policy_name,
                task_ids=tuple(islice(found.tasks, FACT_TASK_IDS_MAX)),
                n_agents=core.rounds.n_nodes,
                blockers=refusal.blockers,
                waits_for=refusal.waits_for,
                demand_id=class_id,
            )
        )

    def _evict(self, task: TaskEntry, for_demand_id: str) -> None:
        if task.state not in (TaskState.KILLING, TaskState.UNKNOWN):
            self._core.count("evictions")
            kill(self._core, task, "evicted", f"for demand {for_demand_id}")
