"""What attempts hold, by agent and by role, as an observer adds it up: no more than an agent has (L4), no more than a
quota allows (L6). A sum is compared, not all attempts added up at each.
"""

from collections.abc import Callable, Iterable

from federation.config import RoleConfig
from policies.model import Amount, Needs, Resources
from policies.resources import amount_of, kinds, role_chain

KINDS = ("cpu_milli", "memory_bytes", "disk_bytes", "gpus")


class Group:
    """Tasks of one group: how many there are, how many finished, and whom they come after."""

    __slots__ = ("after", "attempts_max", "chain", "kinds", "least", "n_finished", "needs", "task_ids")

    def __init__(
        self, needs: Needs, after: tuple[str, ...], task_ids: tuple[str, ...], role: str, attempts_max: int
    ) -> None:
        self.needs = needs
        self.kinds = kinds(amount_of(needs))
        self.after = after
        self.task_ids = task_ids
        self.chain = tuple(role_chain(role))
        self.attempts_max = attempts_max
        self.n_finished = 0
        self.least: int | None = None  # of a service: so many run at once, more when they are needed


GpuHeld = tuple[str, int, int]  # uuid, milli, bytes of its memory


class Attempt:
    __slots__ = ("agent_id", "attempt", "gpus", "needs")

    def __init__(self, agent_id: str, attempt: int, needs: Needs, gpus: tuple[GpuHeld, ...]) -> None:
        self.agent_id = agent_id
        self.attempt = attempt
        self.needs = needs
        self.gpus = gpus


class _Holding:
    """What the open attempts on one agent hold together: a sum is compared, not all attempts added up at each."""

    __slots__ = ("cpu_milli", "disk_bytes", "gpus", "memory_bytes", "task_ids")

    def __init__(self) -> None:
        self.task_ids: set[str] = set()
        self.cpu_milli = self.memory_bytes = self.disk_bytes = 0
        self.gpus: dict[str, list[int]] = {}  # uuid → milli and bytes of memory that attempts were given of it

    def change(self, attempt: Attempt, sign: int) -> None:
        needs = attempt.needs
        self.cpu_milli += sign * needs.cpu_milli
        self.memory_bytes += sign * needs.memory_bytes
        self.disk_bytes += sign * needs.disk_bytes
        for uuid, milli, memory_bytes in attempt.gpus:
            of_gpu = self.gpus.setdefault(uuid, [0, 0])
            of_gpu[0] += sign * milli
            of_gpu[1] += sign * memory_bytes
            if not of_gpu[0]:
                del self.gpus[uuid]


class Ledger:
    """`broken` is told each breach in a sentence."""

    def __init__(self, roles: Iterable[RoleConfig], broken: Callable[[str], None]) -> None:
        self.totals: dict[str, Resources] = {}  # by agent
        self.quotas: dict[str, Amount | None] = {role.path: role.quota for role in roles}
        self._break = broken
        self._held: dict[str, _Holding] = {}  # by agent
        self._used: dict[str, list[int]] = {}  # role → what its open attempts hold of each kind, its children's too

    def tasks_on(self, agent_id: str) -> list[str]:
        held = self._held.get(agent_id)
        return [] if held is None else sorted(held.task_ids)

    def take(self, attempt: Attempt, task_id: str = "") -> None:
        """`task_id` "" is a lease's."""
        held = self._held.get(attempt.agent_id)
        if held is None:
            held = self._held[attempt.agent_id] = _Holding()
        if task_id:
            held.task_ids.add(task_id)
        held.change(attempt, 1)
        self._check(attempt.agent_id, held, attempt.gpus)

    def release(self, attempt: Attempt, task_id: str = "") -> None:
        held = self._held[attempt.agent_id]
        held.task_ids.discard(task_id)
        held.change(attempt, -1)

    def gpus(self, agent_id: str, needs: Needs, uuids: tuple[str, ...]) -> tuple[GpuHeld, ...]:
        """What an attempt has of each GPU it was given: all of it, or a share and so much memory."""
        memory = {gpu.uuid: gpu.memory_bytes or 0 for gpu in self.totals[agent_id].gpus}
        milli = needs.gpu.milli if needs.gpu is not None else 1000
        named = needs.gpu.memory_bytes if needs.gpu is not None and milli < 1000 else 0
        return tuple((uuid, milli, named or memory.get(uuid, 0) * milli // 1000) for uuid in uuids)

    def _check(self, agent_id: str, held: _Holding, gpus: tuple[GpuHeld, ...]) -> None:
        """After `gpus` were given to one more attempt there."""
        total = self.totals[agent_id]
        for kind, used, has in (
            ("cpu", held.cpu_milli, total.cpu_milli),
            ("memory", held.memory_bytes, total.memory_bytes),
            ("disk", held.disk_bytes, total.disk_bytes),
        ):
            if used > has:
                self._break(f"L4 {kind} of agent {agent_id}: {used} allocated of {has}")
        has_gpus = {gpu.uuid: gpu for gpu in total.gpus} if gpus else {}
        for uuid, _, _ in gpus:
            gpu, (milli, memory_bytes) = has_gpus.get(uuid), held.gpus[uuid]
            if gpu is None:
                self._break(f"L4 agent {agent_id} has no such GPU: {uuid}")
            elif milli > 1000 or memory_bytes > (gpu.memory_bytes or 0):
                self._break(
                    f"L4 of GPU {uuid} of agent {agent_id}, {milli} milli and {memory_bytes} bytes are allocated"
                )

    def use(self, group: Group, sign: int) -> None:
        for path in group.chain:
            amounts = self._used.get(path)
            if amounts is None:
                amounts = self._used[path] = [0, 0, 0, 0]
            for kind, amount in enumerate(group.kinds):
                amounts[kind] += sign * amount

    def over_quota(self, group: Group, more: int = 1) -> str:
        """What is past a quota with so many tasks more of this group; "" where all fits."""
        for path in group.chain:
            quota = self.quotas.get(path)
            if quota is None:
                continue
            used = self._used.get(path, [0, 0, 0, 0])
            for kind, limit in enumerate(kinds(quota)):
                if limit and used[kind] + more * group.kinds[kind] > limit:
                    return f"role {path} uses {used[kind]} {KINDS[kind]} of {limit}"
        return ""
