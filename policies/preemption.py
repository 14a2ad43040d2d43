"""Which running work to end so that other work can start, and what that costs.

What is lost when a task is ended is the time it ran, its earlier attempts' included, times the share of its agent that
it held: it starts again from nothing unless it keeps checkpoints. Ending one member of a gang ends all of them, and the
rest of the gang elsewhere is counted too. Of an agent's tasks those that count least go first, then those that lose
least; what turns out not to be needed is spared. Of all agents the one that ends the least important work is chosen,
then the one where least is lost.

For a gang, room is made for all of its tasks or for none: half a gang's room, freed, helps nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.greedy import Round
from policies.lower import Int64s
from policies.model import Candidate, CostTerms, Eviction, Gpu, Node, Resources, Running
from policies.resources import PPM, amount_of, dominant_share_ppm, fits, give, take_copies

END_US = 5_000_000  # how long an attempt is expected to take to end: SIGTERM, and SIGKILL after the default grace

_NOTHING = Resources()
Standing = tuple[int, ...]
"""What a running task counts for, as a policy sees it: who counts least is ended first."""


@dataclass(frozen=True, slots=True)
class _Offer:
    worst: Standing  # of the most important victim; () when none is needed
    lost_us: int
    node: int
    victims: tuple[Running, ...]


@dataclass(frozen=True, slots=True)
class _Victims:
    """A task, or all of a gang that run on one agent; `lost_us` is of the whole gang, once."""

    standing: Standing
    lost_us: int
    tasks: tuple[Running, ...]


class Preemption:
    """The evictions of one round. `standing(task)` is what a running task counts for, or None where it may not be
    ended for the class that asks."""

    def __init__(self, books: Round) -> None:
        self._books = books
        # On nodes where room was made: what is being freed beyond the ledger's free and not spoken for; GPUs in all.
        self._extra: dict[int, Int64s] = {}
        self._gpus: dict[int, tuple[Gpu, ...]] = {}
        self._ended: set[str] = set()
        self._falling: set[str] = set()  # those that end because one of their gang is ended
        self._gangs: dict[str, list[tuple[Running, Node]]] = {}
        self._place = {node.agent_id: n for n, node in enumerate(books.nodes)}
        for node in books.nodes:
            for task in node.running:
                if task.gang_id:
                    self._gangs.setdefault(task.gang_id, []).append((task, node))

    def make_room(self, c: int, standing: Callable[[Running], Standing | None], at_most: int | None = None) -> int:
        """Reserve what is ending, and end what must be, for the tasks of a class that are left; for how many.

        They start when the room is free, in a later round. Time O(tasks × nodes × running tasks a node).
        """
        books = self._books
        if books.columns.unreachable[c]:
            return 0
        open_nodes = books.allowed(c)
        # A gang may find room for some of its tasks without anybody's end; a single task would have been placed.
        is_gang = books.demands[c].gang is not None
        allowed = [n for n, node in enumerate(books.nodes) if open_nodes[n] and (node.running or is_gang)]
        made = 0
        wanted = books.remaining[c] if at_most is None else min(at_most, books.remaining[c])
        count = books.ledger.quota_room(c, wanted)
        while made < count and allowed:
            offers = [offer for n in allowed if (offer := self._offer(c, n, standing)) is not None]
            if not offers:
                break
            self._accept(c, min(offers, key=lambda offer: (offer.worst, offer.lost_us, offer.node)))
            made += 1
        books.ledger.start(c, made)  # Others of the role must not take the quota meanwhile.
        return made

    def make_gang_room(self, gang_id: str, standing: Callable[[Running], Standing | None]) -> bool:
        """The same for all that is left of a gang, or for none of it: what was reserved and ended is taken back."""
        books = self._books
        members = books.members(gang_id)
        ledger, extra, gpus = books.ledger.copy(), dict(self._extra), dict(self._gpus)
        ended, falling, n_evictions = set(self._ended), set(self._falling), len(books.evictions)
        waits_for = dict(books.waits_for)
        if all(self.make_room(c, standing) == books.remaining[c] for c in members):
            return True
        books.ledger, self._extra, self._gpus = ledger, extra, gpus
        self._ended, self._falling, books.waits_for = ended, falling, waits_for
        del books.evictions[n_evictions:]
        return False

    def _offer(self, c: int, n: int, standing: Callable[[Running], Standing | None]) -> _Offer | None:
        """What one task of the class on this agent would cost; None when it cannot be had."""
        books, node = self._books, self._books.nodes[n]
        needs, free = books.demands[c].needs, self._free(n)
        if fits(needs, free):
            return _Offer((), 0, n, ())
        chosen: list[_Victims] = []
        for each in self._victims(node, standing):
            chosen.append(each)
            free = _all_freed(free, each.tasks, node)
            if fits(needs, free):
                break
        else:
            return None
        for each in sorted(chosen, key=lambda each: (each.standing, each.lost_us), reverse=True):
            others = self._free(n)
            for other in chosen:
                if other is not each:
                    others = _all_freed(others, other.tasks, node)
            if fits(needs, others):
                chosen.remove(each)
        worst, lost_us = max(each.standing for each in chosen), sum(each.lost_us for each in chosen)
        return _Offer(worst, lost_us, n, tuple(task for each in chosen for task in each.tasks))

    def _victims(self, node: Node, standing: Callable[[Running], Standing | None]) -> list[_Victims]:
        """Who may be ended on an agent, who counts least and loses least first. Those of a gang end together."""
        together: dict[tuple[str, str], list[Running]] = {}
        for task in node.running:
            if not self._is_ending(task):
                together.setdefault((task.gang_id, "" if task.gang_id else task.task_id), []).append(task)
        out: list[_Victims] = []
        for tasks in together.values():
            ranks = [rank for task in tasks if (rank := standing(task)) is not None]
            if ranks:
                out.append(_Victims(max(ranks), self._lost_us(tasks[0], node), tuple(tasks)))
        return sorted(out, key=lambda each: (each.standing, each.lost_us, each.tasks[0].task_id))

    def _accept(self, c: int, offer: _Offer) -> None:
        books, node = self._books, self._books.nodes[offer.node]
        demand, free = books.demands[c], self._free(offer.node)
        named: set[str] = set()
        for task in offer.victims:
            free = _freed(free, task, node)
            self._ended.add(task.task_id)
            if task.gang_id not in named:  # The others of a gang end with the one that is named.
                books.evictions.append(
                    Eviction(task_id=task.task_id, agent_id=node.agent_id, for_demand_id=demand.demand_id)
                )
            named |= {task.gang_id} - {""}
        left = take_copies(demand.needs, free, 1)
        # What is free there already is kept for it: less important work must not take it meanwhile.
        k = int(books.columns.needs_of[c])
        row = books.ledger.free[offer.node]
        row -= np.minimum(books.columns.amounts[k], row)
        self._extra[offer.node] = _kinds(left) - row
        if demand.needs.gpu is not None:
            self._gpus[offer.node] = left.gpus
            books.ledger.close_gpus(offer.node)
        for task in offer.victims:
            self._fall(task)
        wait = Candidate(agent_id=node.agent_id, terms=CostTerms(wait_us=END_US))
        books.waits_for.setdefault(c, wait)

    def _free(self, n: int) -> Resources:
        """What is left on an agent now, with what is being freed there."""
        ledger, node = self._books.ledger, self._books.nodes[n]
        row = (ledger.free[n] + self._extra.get(n, 0)).tolist()
        gpus = self._gpus[n] if n in self._gpus else ledger.gpus_left(n)
        free = Resources(cpu_milli=row[0], memory_bytes=row[1], disk_bytes=row[2], gpus=gpus)
        if n not in self._extra:
            for task in node.running:
                if task.ending or task.task_id in self._falling:
                    free = _freed(free, task, node)
        return free

    def _is_ending(self, task: Running) -> bool:
        return task.ending or task.task_id in self._ended or task.task_id in self._falling

    def _fall(self, victim: Running) -> None:
        """The rest of a victim's gang ends too: their room is there for who comes next, here and elsewhere."""
        for task, node in self._gangs[victim.gang_id] if victim.gang_id else ():
            if self._is_ending(task):
                continue
            n = self._place[node.agent_id]
            if n in self._extra:  # Reckoned already: what falls comes on top.
                self._extra[n] = self._extra[n] + _kinds(_freed(_NOTHING, task, node))
                if n in self._gpus and task.needs.gpu is not None:
                    self._gpus[n] = _freed(self._free(n), task, node).gpus
            self._falling.add(task.task_id)

    def _lost_us(self, task: Running, node: Node) -> int:
        members = self._gangs[task.gang_id] if task.gang_id else [(task, node)]
        now_us = self._books.snapshot.now_us
        return sum(
            (max(0, now_us - each.since_us) + each.attained_us)
            * max(1, dominant_share_ppm(amount_of(each.needs), amount_of(at.total)))
            // PPM
            for each, at in members
        )


def _kinds(free: Resources) -> Int64s:
    return np.array([free.cpu_milli, free.memory_bytes, free.disk_bytes], np.int64)


def _all_freed(free: Resources, tasks: tuple[Running, ...], node: Node) -> Resources:
    for task in tasks:
        free = _freed(free, task, node)
    return free


def _freed(free: Resources, task: Running, node: Node) -> Resources:
    """`free` once a task has ended, no more than the agent has. Which whole GPUs it holds is not known: any that are
    neither free nor shared out."""
    if task.gpus:
        taken = tuple(gpu for gpu in node.total.gpus if gpu.uuid in task.gpus)
    else:
        others = {each.uuid for each in free.gpus}.union(*(each.gpus for each in node.running))
        n_gpus = task.needs.gpu.count if task.needs.gpu is not None else 0
        taken = tuple(gpu for gpu in node.total.gpus if gpu.uuid not in others)[:n_gpus]
    grown = give(task.needs, taken, free)
    return Resources(
        cpu_milli=min(grown.cpu_milli, node.total.cpu_milli),
        memory_bytes=min(grown.memory_bytes, node.total.memory_bytes),
        disk_bytes=min(grown.disk_bytes, node.total.disk_bytes),
        gpus=grown.gpus,
    )
