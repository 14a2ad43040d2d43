"""Ids that stay, are taken back and given again: of nodes, and of arcs."""

import numpy as np

from policies.kernels.jit import Int64s
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
        reused = min(count, self._n_free)
        ids = np.arange(self.count - reused, self.count - reused + count)
        ids[:reused] = self._free[self._n_free - reused : self._n_free][::-1]
        self._n_free -= reused
        self.count += count - reused
        self._alive = grown(self._alive, self.count)
        self._marks = grown(self._marks, self.count)
        self._alive[ids] = True
        return ids

    def take_back(self, ids: Int64s) -> None:
        """Let them be given again. They must have been checked."""
        self._alive[ids] = False
        self._free = grown(self._free, self._n_free + ids.size)
        self._free[self._n_free : self._n_free + ids.size] = ids
        self._n_free += ids.size
