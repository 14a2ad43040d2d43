"""What is left on nodes and under quotas while a round gives work out.

Columns for speed; beside them the GPUs one by one, chosen as `resources.take` chooses them.
"""

import numpy as np

from policies.lower import COUNT_MAX, KINDS, Columns, Int64s
from policies.model import Amount, Gpu, GpuNeed, Role
from policies.resources import add, amount_of, choose_gpus, quota_copies, role_chain


class Ledger:
    """Mutable books of one round. `take` assumes that what it takes was seen to fit."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.free = columns.free.copy()
        self.gpus = columns.gpus.copy()
        self._gpu_objects: dict[int, tuple[Gpu, ...]] = {}
        self._gpu_type = {key: n for n, key in enumerate(columns.gpu_types)}
        self._roles: dict[str, Role] = {role.path: role for role in columns.snapshot.roles}
        self._started: dict[str, Amount] = {}
        self.keeps_entitlements = any(role.entitlement is not None for role in self._roles.values())

    def copy(self) -> "Ledger":
        other = Ledger.__new__(Ledger)
        other.__dict__.update(self.__dict__)
        other.free, other.gpus = self.free.copy(), self.gpus.copy()
        other._gpu_objects, other._started = dict(self._gpu_objects), dict(self._started)
        return other

    def slots(self, k: int, nodes: Int64s | None = None) -> Int64s:
        """How many tasks of needs `k` each node has room for, none of the others' taken into account."""
        free = self.free if nodes is None else self.free[nodes]
        out = np.full(len(free), COUNT_MAX, np.int64)
        for kind in range(KINDS):
            need = int(self._columns.amounts[k, kind])
            if need:
                np.minimum(out, free[:, kind] // need, out=out)
        n_gpus = int(self._columns.gpu_count[k])
        if n_gpus:
            gpus = self.gpus if nodes is None else self.gpus[nodes]
            np.minimum(out, gpus[:, self._columns.gpu_mask[k]].sum(axis=1) // n_gpus, out=out)
        return out

    def take(self, c: int, node: int, count: int) -> None:
        """Book `count` tasks of class `c` on a node and under its roles."""
        columns = self._columns
        k = int(columns.needs_of[c])
        self.free[node] -= columns.amounts[k] * count
        need = columns.needs[k].gpu
        if need is not None and need.count:
            self._take_gpus(need, node, count)
        self.start(c, count)

    def start(self, c: int, count: int) -> None:
        """Count `count` tasks of class `c` against the quotas of its roles."""
        demand = self._columns.snapshot.demands[c]
        if self._roles:
            amount = amount_of(demand.needs, count)
            for path in role_chain(demand.role):
                self._started[path] = add(self._started.get(path, Amount()), amount)

    def gpus_left(self, node: int) -> tuple[Gpu, ...]:
        """The GPUs of a node that nobody was given yet."""
        return self._gpu_objects.get(node, self._columns.snapshot.nodes[node].free.gpus)

    def _take_gpus(self, need: GpuNeed, node: int, count: int) -> None:
        left = self._gpu_objects.get(node, self._columns.snapshot.nodes[node].free.gpus)
        many = GpuNeed(count=need.count * count, model=need.model, memory_bytes=need.memory_bytes)
        chosen = {gpu.uuid for gpu in choose_gpus(many, left) or ()}
        for gpu in left:
            if gpu.uuid in chosen:
                self.gpus[node, self._gpu_type[gpu.model, gpu.memory_bytes or 0]] -= 1
        self._gpu_objects[node] = tuple(gpu for gpu in left if gpu.uuid not in chosen)

    def quota_room(self, c: int, at_most: int) -> int:
        """How many tasks of class `c` its roles' quotas still allow, no more than `at_most`."""
        demand = self._columns.snapshot.demands[c]
        for path in role_chain(demand.role) if self._roles else ():
            at_most = min(at_most, self.role_room(c, path, at_most))
        return at_most

    def role_room(self, c: int, path: str, at_most: int) -> int:
        """The same for one role of the chain."""
        role = self._roles.get(path)
        if role is None:
            return at_most
        needs = self._columns.snapshot.demands[c].needs
        allocated = add(role.allocated, self._started.get(path, Amount()))
        if self.keeps_entitlements:
            at_most = quota_copies(needs, allocated, role.entitlement, at_most)
        return quota_copies(needs, allocated, role.quota, at_most)

    def limited_roles(self) -> list[str]:
        """Those that a quota limits, or as long as they are kept an entitlement, sorted by path."""
        return [
            path
            for path, role in sorted(self._roles.items())
            if role.quota is not None or (self.keeps_entitlements and role.entitlement is not None)
        ]

    def full_roles(self, c: int) -> tuple[str, ...]:
        """The roles whose quota leaves no room for one more task of class `c`, outermost first."""
        chain = role_chain(self._columns.snapshot.demands[c].role) if self._roles else ()
        return tuple(path for path in chain if self.role_room(c, path, 1) == 0)
