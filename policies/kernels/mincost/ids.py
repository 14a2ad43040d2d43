"""Ids that stay, are taken back and given again: of nodes, and of arcs."""

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes
from policies.kernels.mincost.columns import grown
from policies.kernels.mincost.gate import Flags, check_range, wrong_id
from policies.kernels.mincost.model import NetworkError


class Ids:
    """Ids 0 up. `count`: how many there ever were, those taken back included."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._alive = np.ones(count, np.bool_)
        self._marks = np.zeros(count, np.bool_)
        self._free = np.empty(0, np.int64)
        self._n_free = 0

    @property
    def alive(self) -> Flags:
        """A view, by id."""
        return self._alive[: self.count]

    @property
    def flags(self) -> tuple[Flags, Flags]:
        """Which are alive, and marks that are all false, both with room to grow: for kernels that check ids."""
        return self._alive, self._marks

    @property
    def any(self) -> bool:
        """One is alive."""
        return self.count > self._n_free

    def check(self, name: str, ids: Int64s, unique: bool = True) -> None:
        """Refuse an id that was never given or was taken back, and with `unique` one that is given twice."""
        wrong = wrong_id(ids, self._alive, self._marks, unique)
        if wrong < 0:
            return
        check_range(name, ids[wrong : wrong + 1], 0, self.count - 1, first=wrong)
        if not self._alive[ids[wrong]]:
            raise NetworkError(f"{name}[{wrong}] is {int(ids[wrong])}, which was removed")
        raise NetworkError(f"{name} names an id twice")

    def give(self, count: int) -> Int64s:
        """So many ids: the last that were taken back, then new ones."""
        before, self.count = self.count, max(self.count, self.count + count - self._n_free)
        if self.count > self._alive.size:
            self._alive, self._marks = grown(self._alive, self.count), grown(self._marks, self.count)
        ids = np.empty(count, np.int64)
        changes.give_ids(before, self._free, self._n_free, self._alive, ids)
        self._n_free = max(self._n_free - count, 0)
        return ids

    def take_back(self, ids: Int64s) -> None:
        """Let them be given again. They must have been checked."""
        self._free = grown(self._free, self._n_free + ids.size)
        changes.take_ids(ids, self._free, self._n_free, self._alive)
        self._n_free += ids.size
