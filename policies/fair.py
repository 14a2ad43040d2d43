"""Fair shares: weighted max-min fairness over roles in their dominant resource (DRF), filled up progressively.

A role's share is the largest part it holds of any kind of resource of the whole cluster, over its weight (Ghodsi et
al., NSDI 2011). What is free goes, a little at a time, to the role with the least share that can still use it; roles
nest, and fairness holds among the children of each ("ml/vision" competes within "ml"). Within a role: priority, then
age.

"A little" is one task, or as many as fit in a thousandth of the cluster: shares are even to that grain. A gang is one
piece. What cannot start is passed over and holds nobody up. Nothing running is taken away: a role above its share only
gets nothing new.

A role that has children counts for all that they hold together, as in Mesos. Where they hold unlike kinds, the one that
wants a kind of which they have little stands behind others of which the parent holds much: the rescaling of
hierarchical DRF (Bhattacharya et al., SoCC 2013) would mend that, and would let each new child, which holds nothing
yet, claim all that comes free in its parent's name.
"""

from collections import deque

import numpy as np

from policies.greedy import Greedy, Parts, Round, fill, seniority
from policies.lower import Int64s
from policies.model import Amount, Role
from policies.resources import (
    PPM,
    add,
    amount_from,
    amount_of,
    dominant_share_ppm,
    kinds,
    role_chain,
    subtract,
    total,
)  # fmt: skip

GRAIN_PPM = 1000


class Fair(Greedy):
    """Cost of a round: O((demands + 1000 × roles) × agents) array work at most."""

    kernel = "drf"

    def give_out(self, books: Round) -> None:
        _Filling(books).run()

    def choose(self, books: Round, c: int, room: Int64s, count: int) -> Parts:
        return fill(np.flatnonzero(room > 0), room, count)


class _Filling:
    def __init__(self, books: Round) -> None:
        self.books = books
        self.whole = total(amount_of(node.total) for node in books.nodes)
        self.roles = {role.path: role for role in books.snapshot.roles}
        self.held: dict[str, Amount] = {}
        self.waiting: dict[str, deque[int]] = {}  # role → its classes that may still start, next first
        self.children: dict[str, list[str]] = {}  # "" is the root
        for c in sorted(range(len(books.demands)), key=lambda c: seniority(books.demands[c])):
            self.waiting.setdefault(books.demands[c].role, deque()).append(c)
        for path in sorted(self.waiting):
            above = ""
            for each in role_chain(path):
                self.held.setdefault(each, self._role(each).allocated)
                below = self.children.setdefault(above, [])
                if each not in below:
                    below.append(each)
                above = each

    def run(self) -> None:
        while (path := self._poorest("")) is not None:
            queue = self.waiting[path]
            c = queue[0]
            demand = self.books.demands[c]
            share_ppm = dominant_share_ppm(amount_of(demand.needs), self.whole)
            weight = self._role(path).weight
            # Members of a gang start together, and may need unlike amounts.
            members = self.books.members(demand.gang.gang_id) if demand.gang is not None else [c]
            before = [self.books.remaining[member] for member in members]
            placed = self.books.serve(c, max(1, GRAIN_PPM * weight // max(1, share_ppm)))
            if not placed or not self.books.remaining[c]:
                queue.popleft()
            given = total(
                amount_of(self.books.demands[member].needs, had - self.books.remaining[member])
                for member, had in zip(members, before, strict=True)
            )
            for each in role_chain(path):
                self.held[each] = add(self.held[each], given)

    def _role(self, path: str) -> Role:
        return self.roles.get(path) or Role(path=path)

    def _poorest(self, above: str) -> str | None:
        """The role below `above` (or it itself) that is to be served next; None when none has work that may start."""
        own = bool(self.waiting.get(above))
        best = min(
            (
                (self._share(path), path, found)
                for path in self.children.get(above, ())
                if (found := self._poorest(path)) is not None
            ),
            default=None,
        )
        if own and (best is None or self._own_share(above) <= best[0]):
            return above
        return best[2] if best is not None else None

    def _share(self, path: str) -> int:
        return dominant_share_ppm(self.held[path], self.whole) * PPM // max(1, self._role(path).weight)

    def _own_share(self, path: str) -> int:
        """A role's own work competes with its children like a child of weight 1: what is held there and not below."""
        below = total(self.held[child] for child in self.children.get(path, ()))
        own = amount_from(*(max(0, each) for each in kinds(subtract(self.held[path], below))))
        return dominant_share_ppm(own, self.whole) * PPM
