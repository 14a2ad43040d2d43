"""What each role is entitled to of a round: weighted dominant resource fairness over everything that is free at once.

Progressive filling (Ghodsi et al., NSDI 2011, §4): what is free goes, a little at a time, to the role with the least
weighted dominant share that still wants something, among the children of each role in turn. No node is looked at: this
says how much, and the flow says where. "A little" is one task, or as many as fit in a hundredth of the whole.
"""

from collections.abc import Iterable, Mapping

from policies.model import Amount, Demand, Role
from policies.resources import PPM, add, amount_from, amount_of, dominant_share_ppm, kinds, quota_copies, role_chain

GRAIN_PPM = 10_000


def entitlements(roles: Iterable[Role], demands: Iterable[Demand], free: Amount, whole: Amount) -> dict[str, Amount]:
    """By role, with all below it: what it has and what it should get. Only roles with demands, and those above them,
    are named. Time O((100 + demands) · roles)."""
    filling = _Filling({role.path: role for role in roles}, demands, free, whole)
    filling.run()
    return filling.held


class _Filling:
    def __init__(self, roles: Mapping[str, Role], demands: Iterable[Demand], free: Amount, whole: Amount) -> None:
        self._roles = roles
        self._whole = whole
        self._free = list(kinds(free))
        self.held: dict[str, Amount] = {}
        self._queues: dict[str, list[tuple[Demand, int]]] = {}  # role → its demands and how many are left, next last
        self._children: dict[str, list[str]] = {}
        for demand in sorted(demands, key=lambda demand: (demand.priority, -demand.oldest_us, demand.demand_id)):
            self._queues.setdefault(demand.role, []).append((demand, demand.count))
        for path in sorted(self._queues):
            above = ""
            for each in role_chain(path):
                self.held.setdefault(each, self._role(each).allocated)
                below = self._children.setdefault(above, [])
                if each not in below:
                    below.append(each)
                above = each

    def _role(self, path: str) -> Role:
        return self._roles.get(path) or Role(path=path)

    def run(self) -> None:
        while (path := self._poorest("")) is not None:
            queue = self._queues[path]
            demand, left = queue.pop()
            one = amount_of(demand.needs)
            grain = GRAIN_PPM * self._role(path).weight // max(1, dominant_share_ppm(one, self._whole))
            wanted = left if demand.gang is not None else min(left, max(1, grain))  # A gang is one piece.
            count = self._room(path, demand, wanted)
            if count <= 0 or (demand.gang is not None and count < left):
                continue  # What does not fit any more is nobody's entitlement.
            if count < left:
                queue.append((demand, left - count))
            amount = amount_of(demand.needs, count)
            self._free = [have - taken for have, taken in zip(self._free, kinds(amount), strict=True)]
            for each in role_chain(path):
                self.held[each] = add(self.held[each], amount)

    def _room(self, path: str, demand: Demand, count: int) -> int:
        for need, have in zip(kinds(amount_of(demand.needs)), self._free, strict=True):
            if need > 0:
                count = min(count, max(0, have) // need)
        for each in role_chain(path):
            count = quota_copies(demand.needs, self.held[each], self._role(each).quota, count)
        return count

    def _poorest(self, above: str) -> str | None:
        """The role below `above` (or it itself) that is next; None when none wants more. Its own work competes with
        its children like a child of weight 1."""
        best: tuple[int, str] | None = None
        for child in self._children.get(above, ()):
            found = self._poorest(child)
            if found is not None:
                share = dominant_share_ppm(self.held[child], self._whole) * PPM // self._role(child).weight
                if best is None or share < best[0]:
                    best = share, found
        if self._queues.get(above) and (best is None or self._own_share(above) <= best[0]):
            return above
        return best[1] if best is not None else None

    def _own_share(self, path: str) -> int:
        own = [
            have - sum(kinds(self.held[child])[kind] for child in self._children.get(path, ()))
            for kind, have in enumerate(kinds(self.held[path]))
        ]
        held = amount_from(*(max(0, each) for each in own))
        return dominant_share_ppm(held, self._whole) * PPM
