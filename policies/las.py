"""Least attained service in two queues (Tiresias, Gu et al., NSDI 2019): run times need not be known.

What a job attained is the time it ran, earlier attempts included, times what it holds: GPUs where it has any, else
cores; a gang is one job, and holds what all of its tasks hold. Below a threshold it is in the first queue, past it in
the second; the first queue goes first, each queue in order of age. When nothing is free, the first queue ends running
work that has sunk to the second, for a gang whole or not at all. So short work overtakes long work without anybody
having said which is which.

A task that waits `promote` times as long as it ever ran comes back to the first queue, and what it attained counts from
there on, so that none starves: once started it is not ended before it attained the threshold anew. Within the second
queue nobody is ended for another. Tasks that are ended start again unless they keep checkpoints: what that costs is
the price of not knowing.
"""

from policies.greedy import Greedy, Rank, Round
from policies.model import Demand, Needs, Plan, Running, Snapshot
from policies.preemption import Preemption, Standing

HOUR_US = 3_600_000_000

Like = tuple[str, str, Needs, str]
"""What is told of a task both while it waits and while it runs: role, profile, needs, gang."""


class Las(Greedy):
    """`threshold_us` is in GPU- (or core-) microseconds. Cost as `priority`'s."""

    kernel = "las-2"

    def __init__(self, threshold_us: int = HOUR_US, promote: int = 8) -> None:
        # One GPU-hour parts the many small jobs from the few that hold most of the service in the traces of Tiresias.
        super().__init__()
        self._threshold_us, self._promote = threshold_us, promote
        self._renewed = _Renewed()
        self._width: dict[str, int] = {}  # gang → thousandths of GPUs or cores that all of it holds

    def plan(self, snapshot: Snapshot) -> Plan:
        self._renewed.look(snapshot)
        self._width = _widths(snapshot)
        plan = super().plan(snapshot)
        promoted = {demand.demand_id: demand for demand in snapshot.demands if self._is_promoted(demand, snapshot)}
        for placement in plan.placements:
            if placement.demand_id in promoted:
                like = _like(promoted[placement.demand_id])
                self._renewed.expect(placement.agent_id, like, placement.count, snapshot.now_us)
        return plan

    def give_out(self, books: Round) -> None:
        preemption, asked = Preemption(books), set[str]()

        def standing(task: Running) -> Standing | None:
            service_us = self._service_us(task, books.snapshot.now_us)
            return (-service_us,) if service_us >= self._threshold_us else None

        for c in sorted(range(len(books.demands)), key=lambda c: self.rank(books, c)):
            books.serve(c)
            gang = books.demands[c].gang
            if not books.remaining[c] or self._queue(books, c):
                continue
            if gang is None:
                preemption.make_room(c, standing)
            elif gang.gang_id not in asked:
                asked.add(gang.gang_id)
                preemption.make_gang_room(gang.gang_id, standing)

    def rank(self, books: Round, c: int) -> Rank:
        demand = books.demands[c]
        return self._queue(books, c), demand.oldest_us, demand.demand_id

    def _queue(self, books: Round, c: int) -> int:
        demand = books.demands[c]
        return int(self._has_sunk(demand) and not self._is_promoted(demand, books.snapshot))

    def _has_sunk(self, demand: Demand) -> bool:
        gang_id = demand.gang.gang_id if demand.gang is not None else ""
        return demand.attained_us * self._width_milli(gang_id, demand.needs) // 1000 >= self._threshold_us

    def _is_promoted(self, demand: Demand, snapshot: Snapshot) -> bool:
        waited_us = max(0, snapshot.now_us - demand.oldest_us)
        return self._has_sunk(demand) and waited_us >= self._promote * demand.attained_us

    def _service_us(self, task: Running, now_us: int) -> int:
        before_us = 0 if task.task_id in self._renewed.tasks else task.attained_us
        ran_us = max(0, now_us - task.since_us) + before_us
        return ran_us * self._width_milli(task.gang_id, task.needs) // 1000

    def _width_milli(self, gang_id: str, needs: Needs) -> int:
        return self._width[gang_id] if gang_id else _width_milli(needs)


class _Renewed:
    """Which running tasks were started promoted, as far as an agent has been seen since. Not durable."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}  # task → its agent
        self._expected: dict[str, list[tuple[Like, int, int]]] = {}  # agent → (like, tasks, not before)

    def expect(self, agent_id: str, like: Like, count: int, at_us: int) -> None:
        self._expected.setdefault(agent_id, []).append((like, count, at_us))

    def look(self, snapshot: Snapshot) -> None:
        """Find those expected among what runs, and forget who ended. An agent without an offer stays as it was."""
        if not (self.tasks or self._expected):
            return
        shown = {node.agent_id: {task.task_id for task in node.running} for node in snapshot.nodes}
        self.tasks = {task: at for task, at in self.tasks.items() if task in shown.get(at, {task})}
        for node in snapshot.nodes:
            for like, count, at_us in self._expected.pop(node.agent_id, ()):
                young = [task for task in node.running if task.since_us >= at_us and _like(task) == like]
                self.tasks.update((task.task_id, node.agent_id) for task in young[:count])


def _like(of: Demand | Running) -> Like:
    gang_id = of.gang_id if isinstance(of, Running) else of.gang.gang_id if of.gang is not None else ""
    return of.role, of.profile, of.needs, gang_id


def _widths(snapshot: Snapshot) -> dict[str, int]:
    """What each gang holds or asks for in all, as far as its tasks are shown."""
    out: dict[str, int] = {}
    for demand in snapshot.demands:
        if demand.gang is not None:
            gang_id = demand.gang.gang_id
            out[gang_id] = out.get(gang_id, 0) + _width_milli(demand.needs) * demand.count
    for node in snapshot.nodes:
        for task in node.running:
            if task.gang_id:
                out[task.gang_id] = out.get(task.gang_id, 0) + _width_milli(task.needs)
    return out


def _width_milli(needs: Needs) -> int:
    """GPUs where it has any, else cores; in thousandths."""
    return needs.gpu.count * needs.gpu.milli if needs.gpu is not None and needs.gpu.count else max(1, needs.cpu_milli)
