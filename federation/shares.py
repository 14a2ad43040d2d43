"""Roles: hierarchical paths with weights, quotas as limits on a role and all below it, and what each has allocated."""

from federation.facts import RoleSet
from policies.model import Amount, Role
from policies.resources import add, role_chain, subtract


class RoleEntry:
    __slots__ = ("allocated", "guarantee", "implied", "n_pending", "n_running", "path", "quota", "weight")

    def __init__(self, path: str, weight: int = 1, quota: Amount | None = None, *, implied: bool = True) -> None:
        self.path = path
        self.weight = weight
        self.quota = quota
        self.guarantee: Amount | None = None
        self.implied = implied  # no fact set it: a job named it, or it is the parent of one
        self.allocated = Amount()  # by this role and all below
        self.n_pending = 0
        self.n_running = 0


class ShareBook:
    def __init__(self) -> None:
        self.roles: dict[str, RoleEntry] = {}
        self._chains: dict[str, tuple[RoleEntry, ...]] = {}  # path → it and all above, outermost first
        self._view: tuple[Role, ...] | None = None

    # --- facts -------------------------------------------------------------------------------------------------------

    def set(self, fact: RoleSet) -> None:
        entry = self.ensure(fact.path)
        entry.weight, entry.quota, entry.guarantee, entry.implied = fact.weight, fact.quota, fact.guarantee, False
        self._view = None

    def ensure(self, path: str) -> RoleEntry:
        """The role, made with weight 1 and no quota when nobody set it up; its parents too."""
        for above in role_chain(path):
            if above not in self.roles:
                self.roles[above] = RoleEntry(above)
                self._view = None
        return self.roles[path]

    def chain(self, path: str) -> tuple[RoleEntry, ...]:
        """A role that exists and all above it, outermost first."""
        found = self._chains.get(path)
        if found is None:
            found = self._chains[path] = tuple(self.roles[above] for above in role_chain(path))
        return found

    # --- what the tasks use ------------------------------------------------------------------------------------------

    def allocate(self, path: str, amount: Amount, n: int) -> None:
        """`n` more tasks run, with `amount` together."""
        for entry in self.chain(path):
            entry.allocated = add(entry.allocated, amount)
            entry.n_running += n
        self._view = None

    def release(self, path: str, amount: Amount, n: int) -> None:
        """`n` tasks that had `amount` together have ended."""
        for entry in self.chain(path):
            entry.allocated = subtract(entry.allocated, amount)
            entry.n_running -= n
        self._view = None

    def charge(self, path: str, amount: Amount, sign: int) -> None:
        """What frameworks have of a role, in tasks and leases, comes (1) or goes (-1)."""
        for entry in self.chain(path):
            entry.allocated = add(entry.allocated, amount) if sign > 0 else subtract(entry.allocated, amount)
        self._view = None

    def pend(self, path: str, change: int) -> None:
        for entry in self.chain(path):
            entry.n_pending += change

    # --- questions ---------------------------------------------------------------------------------------------------

    def new_roles(self, path: str) -> int:
        """How many roles `ensure` would make."""
        return sum(above not in self.roles for above in role_chain(path))

    def allocated(self) -> Amount:
        out = Amount()
        for path, entry in self.roles.items():
            if "/" not in path:
                out = add(out, entry.allocated)
        return out

    def snapshot(self) -> tuple[Role, ...]:
        if self._view is None:
            self._view = tuple(
                Role(path=path, weight=entry.weight, quota=entry.quota, allocated=entry.allocated)
                for path, entry in sorted(self.roles.items())
            )
        return self._view
