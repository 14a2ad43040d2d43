"""Ids that stay, are taken back and given again: of nodes, and of arcs."""

import numpy as np

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes
from policies.kernels.mincost.columns import grown
from policies.kernels.mincost.gate import Flags, check_range, wrong_id
from policies.kernels.mincost.model import NetworkError


class Ids:
    """Ids 0 up.

    count: how many there ever were, those taken back included; flags: which are alive, and marks that are all false,
    both with room to grow, for kernels that check ids; free: those taken back, of which n_free can be given again.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.flags = np.ones(count, np.bool_), np.zeros(count, np.bool_)
        self.free = np.empty(0, np.int64)
        self.n_free = 0

    @property
    def alive(self) -> Flags:
        """A view, by id."""
        return self.flags[0][: self.count]

    @property
    def any(self) -> bool:
        """One is alive."""
        return self.count > self.n_free

    def check(self, name: str, ids: Int64s, unique: bool = True) -> None:
        """Refuse an id that was never given or was taken back, and with `unique` one that is given twice."""
        alive, marks = self.flags
        wrong = wrong_id(ids, alive, marks, unique)
        if wrong < 0:
            return
        check_range(name, ids[wrong : wrong + 1], 0, self.count - 1, first=wrong)
        if not alive[ids[wrong]]:
            raise NetworkError(f"{name}[{wrong}] is {int(ids[wrong])}, which was removed")
        raise NetworkError(f"{name} names an id twice")

    def make_room(self, more: int) -> int:
        """For so many, which `changes.give_ids` may then give. Returns what `count` will be."""
        count = max(self.count, self.count + more - self.n_free)
        if count > self.flags[0].size:
            alive, marks = self.flags
            self.flags = grown(alive, count), grown(marks, count)
        return count

    def gave(self, more: int, count: int) -> None:
        """So many were given, for which there was room."""
        self.count = count
        self.n_free = max(self.n_free - more, 0)

    def take_back(self, ids: Int64s) -> None:
        """Let them be given again. They must have been checked."""
        self.free = grown(self.free, self.n_free + ids.size)
        changes.take_ids(ids, self.free, self.n_free, self.flags[0])
        self.n_free += ids.size
