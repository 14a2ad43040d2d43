"""Pending tasks, grouped by demand class at all times: a round looks at classes, never at tasks."""

import hashlib

import msgspec

from federation.explanation import Explanation
from policies.model import Demand, Refusal

_encoder = msgspec.msgpack.Encoder()


def demand_id_of(template: Demand) -> str:
    """The digest of every field but `demand_id`, `count` and `oldest_us` (the template has them at "", 0 and 0)."""
    return hashlib.blake2b(_encoder.encode(template), digest_size=8).hexdigest()


class DemandClass:
    """Equal pending tasks, longest-waiting first. `tasks` maps task id → pending since."""

    __slots__ = ("_demand", "explained_us", "explanation", "refusal", "tasks", "template")

    def __init__(self, template: Demand) -> None:
        self.template = template
        self.tasks: dict[str, int] = {}
        self.explanation: Explanation | None = None  # durable: the last `TaskRefused`
        self.refusal: Refusal | None = None  # the newest round's, with fresh numbers
        self.explained_us = 0
        self._demand: Demand | None = None

    @property
    def demand_id(self) -> str:
        return self.template.demand_id

    def demand(self) -> Demand:
        """The class as a policy sees it: the same object until it changes."""
        if self._demand is None:
            oldest_us = self.tasks[next(iter(self.tasks))]
            self._demand = msgspec.structs.replace(self.template, count=len(self.tasks), oldest_us=oldest_us)
        return self._demand

    def add(self, task_id: str, since_us: int) -> None:
        self.tasks[task_id] = since_us
        self._demand = None

    def remove(self, task_id: str) -> None:
        del self.tasks[task_id]
        self._demand = None


class DemandBook:
    def __init__(self) -> None:
        self.classes: dict[str, DemandClass] = {}
        self.gangs: dict[str, DemandClass] = {}  # those of `classes` that are of a gang
        self.version = 0  # grows when a class comes or goes
        self._sorted: tuple[int, tuple[str, ...]] = (-1, ())

    def __len__(self) -> int:
        return len(self.classes)

    def add(self, template: Demand, task_id: str, since_us: int) -> DemandClass:
        found = self.classes.get(template.demand_id)
        if found is None:
            found = self.classes[template.demand_id] = DemandClass(template)
            self.version += 1
            if template.gang is not None:
                self.gangs[template.demand_id] = found
        found.add(task_id, since_us)
        return found

    def remove(self, demand_id: str, task_id: str) -> DemandClass:
        found = self.classes[demand_id]
        found.remove(task_id)
        if not found.tasks:
            del self.classes[demand_id]
            self.gangs.pop(demand_id, None)
            self.version += 1
        return found

    def ids_sorted(self) -> tuple[str, ...]:
        if self._sorted[0] != self.version:
            self._sorted = (self.version, tuple(sorted(self.classes)))
        return self._sorted[1]
