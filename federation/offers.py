"""Offers: leases on what is free, checked, expiring, and turned into the nodes a policy sees.

Free of an agent is, per kind, the lesser of what the book has left of it (its total less what is placed on it) and what
it offered less the launches its offer did not know of yet, plus what ended since. So neither a late offer nor a late
status can overcommit it.
"""

import heapq
from collections.abc import Collection, Set

from federation.agents_book import AgentBook, AgentEntry, LiveOffer
from federation.facts import AgentEnrolled
from federation.market.book import FrameworkTask
from federation.profiles import ProfileBook
from federation.states import AgentState
from federation.task_entries import TaskEntry, running_of
from federation.wire import Offer
from policies.gpus import WHOLE, least, milli_of, together, without
from policies.model import Gpu, Needs, Node, Release, Resources, Where

RELEASE_STEP_US = 250_000  # Releases are told no finer: below this a round's own time hides the difference.


def impossible_offer(free: Resources, entry: AgentEntry) -> str | None:
    """Why an agent cannot have this to offer; None when it can."""
    total = entry.enrolled.total
    for name, has, most in (
        ("cpu_milli", free.cpu_milli, total.cpu_milli),
        ("memory_bytes", free.memory_bytes, total.memory_bytes),
        ("disk_bytes", free.disk_bytes, total.disk_bytes),
    ):
        if has < 0:
            return f"{name} {has} is negative"
        if has > most:
            return f"{name} {has} is more than the {most} it enrolled"
    for gpu in free.gpus:
        known = entry.gpus_by_uuid.get(gpu.uuid)
        if known is None:
            return f"gpu {gpu.uuid[:80]!r} was not enrolled"
        if not 0 < gpu.milli <= (WHOLE if known.isolation == "shared" or gpu.milli == WHOLE else 0):
            return f"gpu {gpu.uuid[:80]!r}: {gpu.milli} of {WHOLE} milli of one that is not shared, or of none"
        if gpu.memory_left_bytes is not None and not 0 <= gpu.memory_left_bytes <= (known.memory_bytes or 0):
            return f"gpu {gpu.uuid[:80]!r}: {gpu.memory_left_bytes} bytes are left of {known.memory_bytes}"
    if len({gpu.uuid for gpu in free.gpus}) != len(free.gpus):
        return "a gpu is offered twice"
    return None


def take_offer(entry: AgentEntry, offer: Offer, now_us: int, lease_us_max: int) -> bool:
    """Replace the agent's offer by a newer one. True when more of anything is free than before."""
    before, known = free_of(entry), entry.offer
    entry.offer = LiveOffer(offer, now_us + min(offer.expires_in_us, lease_us_max))
    if known is not None and entry.offer.expires_us < known.expires_us:
        entry.stale.add(entry.agent_id)  # Its node is as it was, but not for as long as was seen.
    for cmd_id in [cmd_id for cmd_id in entry.unseen if cmd_id <= offer.commands_seen]:
        del entry.unseen[cmd_id]
    entry.offer_changed()
    after = free_of(entry)
    if before == after:
        return False
    entry.changed()
    return (
        before is None
        or after is None
        or after.cpu_milli > before.cpu_milli
        # Free memory breathes by pages all the time; less than 16 MiB more starts no round.
        or after.memory_bytes >> 24 > before.memory_bytes >> 24
        or after.disk_bytes >> 28 > before.disk_bytes >> 28
        or milli_of(after.gpus) > milli_of(before.gpus)
    )


def drop_offer(entry: AgentEntry) -> bool:
    """Rescind the agent's offer. True when there was one."""
    if entry.offer is None:
        return False
    entry.offer = None
    entry.changed()
    return True


def free_of(entry: AgentEntry) -> Resources | None:
    """What may be placed on the agent now, or offered to a framework: neither used, nor reserved, nor leased. None
    without a live offer."""
    free = unused_of(entry)
    held = entry.holdings
    return free if free is None or not (held.leases or held.pools) else held.open_part(free)


def unused_of(entry: AgentEntry) -> Resources | None:
    """What nothing runs on, reserved and leased parts included; None without a live offer. Found once until the agent
    changes: most of a cycle's agents were only offered and declined."""
    unused = entry.unused
    if unused is None and entry.offer is not None:
        unused = entry.unused = find_unused(entry, entry.offer)
    return unused


def find_unused(entry: AgentEntry, offer: LiveOffer) -> Resources:
    """The same, by the books."""
    total, free = entry.enrolled.total, offer.free
    cpu = free.cpu_milli + offer.cpu_freed
    memory = free.memory_bytes + offer.memory_freed
    disk = free.disk_bytes + offer.disk_freed
    for needs in entry.unseen.values():
        cpu -= needs.cpu_milli
        memory -= needs.memory_bytes
        disk -= needs.disk_bytes
    gpus = free.gpus
    if offer.gpus_freed:
        gpus = tuple(together(gpus, offer.gpus_freed).values())
    if gpus and entry.gpus_used:
        gpus = _unused_gpus(entry, gpus)
    # Spelt out, for a cycle asks this of every agent: `min` and `max` would take twice as long.
    cpu_left, memory_left = total.cpu_milli - entry.cpu_used, total.memory_bytes - entry.memory_used
    disk_left = total.disk_bytes - entry.disk_used
    cpu = cpu if cpu < cpu_left else cpu_left
    memory = memory if memory < memory_left else memory_left
    disk = disk if disk < disk_left else disk_left
    if gpus is free.gpus and cpu == free.cpu_milli and memory == free.memory_bytes and disk == free.disk_bytes:
        return free
    return Resources(
        cpu_milli=cpu if cpu > 0 else 0,
        memory_bytes=memory if memory > 0 else 0,
        disk_bytes=disk if disk > 0 else 0,
        gpus=gpus,
    )


def _unused_gpus(entry: AgentEntry, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Of each GPU the lesser of what the offer says and what the book has left of it."""
    found: list[Gpu] = []
    for gpu in gpus:
        users, known = entry.gpus_used.get(gpu.uuid), entry.gpus_by_uuid.get(gpu.uuid)
        if not users:
            found.append(gpu)
        elif known is not None and (left := without((known,), users.values())):
            found.append(least(gpu, left[0]))
    return tuple(found)


def is_offered(entry: AgentEntry, now_us: int) -> bool:
    """Whether new work may be placed on the agent."""
    return (
        entry.offer is not None
        and entry.offer.expires_us > now_us
        and entry.state is AgentState.ONLINE
        and entry.mode == "active"
    )


class NodeBook:
    """What may be placed on, as policies see it. Thousands of agents have not changed since the last round: only those
    are asked anew that have, whose work comes nearer its end, or whose offer would have lapsed without a renewal."""

    def __init__(self, agents: AgentBook) -> None:
        self._agents = agents
        self._entries: tuple[AgentEntry, ...] = ()
        self._position: dict[str, int] = {}
        self._slots: list[Node | None] = []
        self._timed: dict[int, int] = {}  # by position: until when its node holds, where work runs on it
        self._lapses: list[tuple[int, int]] = []  # a heap: when an offer lapses, as it was seen, and its position
        self._lapse_us: list[int] = []  # of each position the one of these that counts; later renewals are seen then
        self._nodes: tuple[Node, ...] = ()

    def nodes(
        self, elsewhere: Set[str], tasks: dict[str, TaskEntry], profiles: ProfileBook, now_us: int
    ) -> tuple[Node, ...]:
        """Sorted by id, without those `elsewhere`; the same object while nothing changed."""
        changed = self._changed(now_us)
        for n in changed:
            self._slots[n] = self._ask(n, tasks, profiles, now_us)
        if changed:
            self._nodes = tuple(filter(None, self._slots))
        return tuple(node for node in self._nodes if node.agent_id not in elsewhere) if elsewhere else self._nodes

    def _changed(self, now_us: int) -> Collection[int]:
        entries, stale = self._agents.sorted(), self._agents.stale
        if entries is not self._entries:
            self._entries = entries
            self._position = {entry.agent_id: n for n, entry in enumerate(entries)}
            self._slots, self._lapse_us = [None] * len(entries), [FOREVER_US] * len(entries)
            self._timed, self._lapses = {}, []
            stale.clear()
            return range(len(entries))
        changed = {self._position[agent_id] for agent_id in stale if agent_id in self._position}
        stale.clear()
        changed.update(n for n, until_us in self._timed.items() if until_us <= now_us)
        while self._lapses and self._lapses[0][0] <= now_us:
            at_us, n = heapq.heappop(self._lapses)
            if at_us == self._lapse_us[n]:
                self._lapse_us[n] = FOREVER_US
                changed.add(n)
        return changed

    def _ask(self, n: int, tasks: dict[str, TaskEntry], profiles: ProfileBook, now_us: int) -> Node | None:
        entry = self._entries[n]
        offer = entry.offer
        self._timed.pop(n, None)
        if offer is None or not is_offered(entry, now_us):
            return None
        if offer.expires_us < self._lapse_us[n]:
            self._lapse_us[n] = offer.expires_us
            heapq.heappush(self._lapses, (offer.expires_us, n))
        node = node_of(entry, tasks, profiles, now_us)
        if entry.node_until_us != FOREVER_US:
            self._timed[n] = entry.node_until_us
        return node


def node_of(entry: AgentEntry, tasks: dict[str, TaskEntry], profiles: ProfileBook, now_us: int) -> Node:
    """The agent as a policy sees it: the same object until something of it changes."""
    if entry.node is not None and now_us < entry.node_until_us:
        return entry.node
    releases, until_us = _releases(entry, tasks, profiles, now_us)
    enrolled, free = entry.enrolled, free_of(entry)
    assert free is not None, "a node is made of a live offer"
    entry.node_until_us = until_us
    entry.node = Node(
        agent_id=entry.agent_id,
        site=enrolled.site,
        tier=enrolled.tier,
        free=free,
        total=enrolled.total,
        region=enrolled.region,
        labels=enrolled.labels,
        hardware=enrolled.hardware,
        speed_milli=enrolled.speed_milli,
        price_microusd_per_cpu_hour=enrolled.price_microusd_per_cpu_hour,
        shards=entry.held_sorted(),
        releases=releases,
        running=tuple(running_of(tasks[task_id]) for task_id in sorted(entry.tasks)),
    )
    return entry.node


FOREVER_US = 2**62


def _releases(
    entry: AgentEntry, tasks: dict[str, TaskEntry], profiles: ProfileBook, now_us: int
) -> tuple[tuple[Release, ...], int]:
    """When running work is expected to end, and until when that answer holds.

    Times are rounded up to an eighth of their magnitude: an agent with an hour to go is the same node for minutes.
    """
    ends = [
        (expected_end_us(tasks[task_id], entry, profiles), tasks[task_id].group.spec.needs) for task_id in entry.tasks
    ]
    ends += [(end_us, task.needs) for task in entry.holdings.tasks.values() if (end_us := task_end_us(task, entry))]
    if not ends:
        return (), FOREVER_US
    found: dict[tuple[int, Needs], int] = {}
    until_us = FOREVER_US
    for end_us, needs in ends:
        is_overdue = end_us <= now_us
        left_us = max(1, abs(end_us - now_us))  # Overdue, it may well take as long again.
        step_us = max(RELEASE_STEP_US, 1 << max(0, left_us.bit_length() - 3))
        in_us = -(-left_us // step_us) * step_us
        # The next value comes a step earlier before the end, and once it is overdue by more than the last one after.
        until_us = min(until_us, end_us + in_us + 1 if is_overdue or in_us == step_us else end_us - in_us + step_us)
        key = (in_us, needs)
        found[key] = found.get(key, 0) + 1
    releases = [Release(in_us=in_us, needs=needs, count=count) for (in_us, needs), count in found.items()]
    if len(releases) > 1:
        releases.sort(key=_release_order)
    return tuple(releases), until_us


def _release_order(release: Release) -> tuple[int, ...]:
    needs = release.needs
    gpu_milli = needs.gpu.count * needs.gpu.milli if needs.gpu is not None else 0
    return release.in_us, needs.cpu_milli, needs.memory_bytes, needs.disk_bytes, gpu_milli


def expected_run_us(task: TaskEntry, entry: AgentEntry, profiles: ProfileBook) -> int:
    """The run time known for this hardware, or else declared."""
    run_us = profiles.expected_us(task.group.profile, entry.enrolled.hardware, task.read_bytes)
    return task.group.spec.run_us * 1000 // max(1, entry.enrolled.speed_milli) if run_us is None else run_us


def expected_end_us(task: TaskEntry, entry: AgentEntry, profiles: ProfileBook) -> int:
    """When a placed task should end: start plus the run time known for this hardware."""
    run_us = expected_run_us(task, entry, profiles)
    if task.started_us is not None:
        return task.started_us + run_us
    transfer_us = task.explanation.terms.transfer_us if task.explanation and task.explanation.terms else 0
    return (task.launched_us or task.since_us) + transfer_us + run_us


def task_end_us(task: FrameworkTask, entry: AgentEntry) -> int | None:
    """When a framework's task should end; None where nobody said how long it runs."""
    if task.expected_run_us is None:
        return None
    run_us = task.expected_run_us * 1000 // max(1, entry.enrolled.speed_milli)
    return task.since_us + run_us if task.state in ("TASK_STARTING", "TASK_RUNNING") else task.launched_us + run_us


def may_live(where: Where, agent_id: str, at: Node | AgentEnrolled) -> bool:
    """Whether the standing constraints admit an agent; where work failed before is not looked at."""
    return (
        (not where.tiers or at.tier in where.tiers)
        and (not where.sites or at.site in where.sites)
        and (not where.agents or agent_id in where.agents)
        and all(label in at.labels for label in where.labels)
    )
