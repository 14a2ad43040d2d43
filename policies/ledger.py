"""What is left on nodes and under quotas while a round gives work out.

Columns for speed; beside them the GPUs one by one, chosen as `resources.take` chooses them.
"""

import numpy as np

from policies.gpus import WHOLE, memory_of, without
from policies.lower import COUNT_MAX, KINDS, Columns, Devices, Int64s, gpu_type
from policies.model import Amount, Gpu, GpuNeed, Role
from policies.resources import add, amount_of, gpus_of_tasks, quota_copies, role_chain


class Ledger:
    """Mutable books of one round. `take` assumes that what it takes was seen to fit."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.free = columns.free.copy()
        self.gpus = columns.gpus.copy()
        given = columns.devices
        self.devices = Devices(given.milli.copy(), given.memory_bytes.copy(), given.kind.copy(), given.uuids)
        self._named: dict[tuple[int, int], tuple[str, ...]] = {}  # (class, node) → GPUs, where it shares them
        self._gpu_objects: dict[int, tuple[Gpu, ...]] = {}
        self._gpu_type = {key: n for n, key in enumerate(columns.gpu_types)}
        self._roles: dict[str, Role] = {role.path: role for role in columns.snapshot.roles}
        self._started: dict[str, Amount] = {}
        self.keeps_entitlements = any(role.entitlement is not None for role in self._roles.values())

    def copy(self) -> "Ledger":
        other = Ledger.__new__(Ledger)
        other.__dict__.update(self.__dict__)
        other.free, other.gpus = self.free.copy(), self.gpus.copy()
        here = self.devices
        other.devices = Devices(here.milli.copy(), here.memory_bytes.copy(), here.kind.copy(), here.uuids)
        other._gpu_objects, other._started = dict(self._gpu_objects), dict(self._started)
        other._named = dict(self._named)
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
        if n_gpus and self._columns.gpu_milli[k] < WHOLE:
            np.minimum(out, self.shares(k, nodes).sum(axis=1), out=out)
        elif n_gpus:
            gpus = self.gpus if nodes is None else self.gpus[nodes]
            np.minimum(out, gpus[:, self._columns.gpu_mask[k]].sum(axis=1) // n_gpus, out=out)
        return out

    def shares(self, k: int, nodes: Int64s | None = None) -> Int64s:
        """[N, D] how many shares of needs `k` each single GPU has room for."""
        columns, here = self._columns, self.devices
        milli, memory, kind = (
            of_all if nodes is None else of_all[nodes] for of_all in (here.milli, here.memory_bytes, here.kind)
        )
        if not columns.gpu_types:
            return np.zeros_like(milli)
        each = columns.gpu_bytes[k][kind]  # Empty slots have no thousandths: what is read for them does not count.
        fit = np.where(each > 0, memory // np.maximum(1, each), COUNT_MAX)
        out: Int64s = np.minimum(milli // columns.gpu_milli[k], fit) * (columns.gpu_mask[k][kind] & (kind >= 0))
        return out

    def gpu_milli(self) -> Int64s:
        """[N] thousandths of GPUs that are left."""
        of_devices: Int64s = self.devices.milli.sum(axis=1)
        return of_devices if self.devices.milli.shape[1] else self.gpus.sum(axis=1) * WHOLE

    def named(self, c: int, node: int) -> tuple[str, ...]:
        """The GPUs that the tasks of class `c` were given on a node that shares them; () where best fit will do."""
        return self._named.get((c, node), ())

    def close_gpus(self, node: int) -> None:
        """Give out no more GPUs of a node in this round."""
        self.gpus[node] = 0
        self.devices.milli[node] = 0

    def take(self, c: int, node: int, count: int, uuids: tuple[str, ...] = ()) -> None:
        """Book `count` tasks of class `c` on a node and under its roles; on the GPUs named where they will do."""
        columns = self._columns
        k = int(columns.needs_of[c])
        self.free[node] -= columns.amounts[k] * count
        need = columns.needs[k].gpu
        if need is not None and need.count:
            self._take_gpus(c, need, node, count, uuids)
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

    def _take_gpus(self, c: int, need: GpuNeed, node: int, count: int, uuids: tuple[str, ...]) -> None:
        left = self.gpus_left(node)
        given = gpus_of_tasks(need, left, count, uuids)
        for _, taken in given:
            left = without(left, taken)
        self._gpu_objects[node] = left
        self.gpus[node] = 0
        for gpu in left:
            self.gpus[node, self._gpu_type[gpu_type(gpu)]] += gpu.milli >= WHOLE
        if any(gpu.isolation == "shared" for gpu in self._columns.snapshot.nodes[node].free.gpus):
            self._named[c, node] = (*self.named(c, node), *(uuid for names, _ in given for uuid in names))
            self._refresh(node, left)

    def _refresh(self, node: int, left: tuple[Gpu, ...]) -> None:
        """Bring the columns of single GPUs up to date: each stays in its slot."""
        here, by_uuid = self.devices, {gpu.uuid: gpu for gpu in left}
        for d, uuid in enumerate(here.uuids[node]):
            gpu = by_uuid.get(uuid)
            here.milli[node, d] = gpu.milli if gpu is not None else 0
            here.memory_bytes[node, d] = memory_of(gpu) if gpu is not None else 0

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
