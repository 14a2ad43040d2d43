"""The book of agents: who they are and in which state (durable), and what they last said (of this term only)."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

from federation.facts import AgentEnrolled, AgentForgotten, AgentModeSet, AgentStateChanged
from federation.market.holdings import Face, Holdings
from federation.states import AGENT_EDGES, AgentState
from federation.wire import Birth, NetReport, Offer, Peer
from policies.gpus import WHOLE, held, together
from policies.model import Amount, Gpu, Needs, Node, Record, Resources
from policies.resources import add, amount_of, subtract

Mode = Literal["active", "cordoned", "draining"]
HERE_STATES = frozenset({AgentState.ONLINE, AgentState.SUSPECT})


class Life:
    """One connection of one boot, since its birth was seen in this term."""

    __slots__ = ("boot", "conn", "dead", "heard_us", "missing", "next_seq")

    def __init__(self, boot: int, conn: int, seq: int, now_us: int) -> None:
        self.boot = boot
        self.conn = conn
        self.next_seq = seq + 1
        self.heard_us = now_us
        self.missing: set[int] = set()  # sequence numbers skipped and not yet arrived
        self.dead = False  # its death was seen: nothing of it counts any more


class LiveOffer:
    """The agent's current offer. `free` is as it was offered: `federation.offers` takes off what was launched since,
    and adds what has ended since, for the offer that says so is still on its way."""

    __slots__ = (
        "commands_seen", "cpu_freed", "disk_freed", "expires_us", "free", "gpus_freed", "memory_freed", "offer_id",
        "seq",
    )  # fmt: skip

    def __init__(self, offer: Offer, expires_us: int) -> None:
        self.offer_id = offer.offer_id
        self.free = offer.free
        self.commands_seen = offer.commands_seen
        self.seq = offer.seq
        self.expires_us = expires_us
        self.cpu_freed = 0
        self.memory_freed = 0
        self.disk_freed = 0
        self.gpus_freed: tuple[Gpu, ...] = ()

    def give_back(self, needs: Needs, gpus: tuple[Gpu, ...]) -> None:
        """A task that the offer had taken off `free` has ended; `gpus` are what it held of them."""
        self.cpu_freed += needs.cpu_milli
        self.memory_freed += needs.memory_bytes
        self.disk_freed += needs.disk_bytes
        if gpus:
            self.gpus_freed = tuple(together(self.gpus_freed, gpus).values())


class SentCommand(Record, frozen=True, kw_only=True):
    """A command on its way: sent, and not yet acknowledged as journalled."""

    cmd_id: int
    kind: Literal["launch", "kill", "fetch", "redirect", "drop"]
    key: str  # task id or shard id
    attempt: int = 0
    sent_us: int


class AgentEntry:
    """All that is known of one agent. The upper fields are durable, the lower ones end with the term."""

    __slots__ = (
        "_held", "_ordered", "agent_id", "births", "boots_left", "broken_word", "cpu_used", "detail", "disk_used",
        "enrolled", "face", "gpus_by_uuid", "gpus_used", "holdings", "life", "memory_used", "mode", "node",
        "node_until_us", "offer", "probe_plan", "quarantined_again_us", "rebirth_asked_us", "renew_us",
        "said", "sent", "shards", "since_us", "stale", "state", "tasks", "told", "unseen", "unused",
    )  # fmt: skip

    def __init__(self, fact: AgentEnrolled, stale: set[str] | None = None) -> None:
        """`stale`: where its id is put when its node is no longer what it was."""
        self.agent_id = fact.agent_id
        self.stale = set() if stale is None else stale
        self.enrolled = fact
        self.state = AgentState.ONLINE
        self.since_us = fact.at_us
        self.detail = ""
        self.mode: Mode = "active"
        self.shards: dict[str, None] = {}  # shard ids held
        self._ordered: list[str] | None = None  # the same, sorted; None until it is first asked for
        self._held: tuple[str, ...] | None = None  # … as others see it; None when to be made again
        # What the book has placed here: derived from the tasks.
        self.tasks: dict[str, int] = {}  # task id → attempt
        self.cpu_used = 0
        self.memory_used = 0
        self.disk_used = 0
        self.gpus_used: dict[str, dict[str, Gpu]] = {}  # uuid → task → what it holds of it
        self.gpus_by_uuid: dict[str, Gpu] = {gpu.uuid: gpu for gpu in fact.total.gpus}
        self.holdings = Holdings()  # what the market has here
        # Of this term only.
        self.life: Life | None = None
        self.offer: LiveOffer | None = None
        self.said: Offer | None = None  # the newest of this life, whether it stands or not: deltas begin there
        self.unseen: dict[int, Needs] = {}  # cmd_id → needs of launches that no offer has taken off yet
        self.sent: OrderedDict[int, SentCommand] = OrderedDict()
        self.rebirth_asked_us: int | None = None
        self.renew_us = 0  # how often it was told to renew its offer; 0: not yet told
        self.births: list[int] = []  # when, of the last few
        self.boots_left: dict[int, tuple[int, int]] = {}  # boot → (its last conn, when it was left for another)
        self.broken_word = ""  # why its last offer was refused
        self.quarantined_again_us = 0
        self.probe_plan: tuple[Peer, ...] = ()  # as last sent to this life
        self.unused: Resources | None = None  # what `offers.unused_of` last found; None when to be found again
        self.told: NetReport | None = None  # its last, for the bytes it counts
        self.face: Face | None = None  # what `leasing.face_of` last made; None when to be made again
        self.node: Node | None = None
        self.node_until_us = 0  # the cached node's releases hold until then

    @property
    def site(self) -> str:
        return self.enrolled.site

    def held_gpus(self, needs: Needs, uuids: Iterable[str]) -> tuple[Gpu, ...]:
        """What a task with these needs holds of the GPUs it was given; those no longer enrolled are left out."""
        here = self.gpus_by_uuid
        return tuple(held(needs.gpu, here[uuid]) for uuid in uuids if uuid in here)

    def use_gpus(self, task_id: str, needs: Needs, uuids: tuple[str, ...]) -> None:
        here = self.gpus_by_uuid
        for uuid in uuids:  # One that is not enrolled now may be again while the task holds it.
            gpu = held(needs.gpu, here[uuid]) if uuid in here else Gpu(uuid=uuid)
            self.gpus_used.setdefault(uuid, {})[task_id] = gpu

    def leave_gpus(self, task_id: str, uuids: tuple[str, ...]) -> None:
        for uuid in uuids:
            users = self.gpus_used.get(uuid, {})
            users.pop(task_id, None)
            if not users:
                self.gpus_used.pop(uuid, None)

    def changed(self) -> None:
        """What may be seen of this agent is no longer what `node` and `face` say, nor what is unused what it was."""
        self.node = self.unused = self.face = None
        self.stale.add(self.agent_id)

    def offer_changed(self) -> None:
        """Another offer stands. Who offers the same again is the same node."""
        self.unused = self.face = None

    def leases_changed(self) -> None:
        """More or less of what is unused is offered to frameworks."""
        self.node = None
        self.stale.add(self.agent_id)

    def hold(self, shard_id: str) -> None:
        """A shard is here from now on."""
        if shard_id in self.shards:
            return
        self.shards[shard_id] = None
        if self._ordered is not None:
            insort(self._ordered, shard_id)
        self._held = None
        self.changed()

    def let_go(self, shard_id: str) -> None:
        """A shard is here no more."""
        if shard_id not in self.shards:
            return
        del self.shards[shard_id]
        if self._ordered is not None:
            del self._ordered[bisect_left(self._ordered, shard_id)]
        self._held = None
        self.changed()

    def held_sorted(self) -> tuple[str, ...]:
        """Ids of the shards here. After a change it costs a copy: where tens of thousands lie, sorting them again was a
        quarter of the time of a day of 10,000 devices."""
        if self._ordered is None:
            self._ordered = sorted(self.shards)
        if self._held is None:
            self._held = tuple(self._ordered)
        return self._held


class AgentBook:
    def __init__(self) -> None:
        self.entries: dict[str, AgentEntry] = {}
        self.stale: set[str] = set()  # who has changed since the nodes of all were last made (`offers.NodeBook`)
        self.counts: dict[AgentState, int] = dict.fromkeys(AgentState, 0)
        self.total = Amount()  # of all agents that are here
        self.version = 0  # grows whenever an agent enrols, moves or changes state
        self._sorted: tuple[int, tuple[AgentEntry, ...]] = (-1, ())

    def get(self, agent_id: str) -> AgentEntry | None:
        return self.entries.get(agent_id)

    def __getitem__(self, agent_id: str) -> AgentEntry:
        return self.entries[agent_id]

    def __len__(self) -> int:
        return len(self.entries)

    # --- facts -------------------------------------------------------------------------------------------------------

    def enrol(self, fact: AgentEnrolled) -> None:
        entry = self.entries.get(fact.agent_id)
        self.version += 1
        if entry is None:
            entry = self.entries[fact.agent_id] = AgentEntry(fact, self.stale)
            self.counts[entry.state] += 1
            self.total = add(self.total, amount_of(fact.total))
            return
        if entry.state in HERE_STATES:
            self.total = add(subtract(self.total, amount_of(entry.enrolled.total)), amount_of(fact.total))
        entry.enrolled = fact
        entry.gpus_by_uuid = {gpu.uuid: gpu for gpu in fact.total.gpus}
        entry.changed()

    def change_state(self, fact: AgentStateChanged) -> None:
        entry, new = self.entries[fact.agent_id], AgentState(fact.state)
        assert new in AGENT_EDGES[entry.state], f"agent {entry.agent_id}: {entry.state} → {new}"
        self.put_state(entry, new)
        entry.since_us, entry.detail = fact.at_us, fact.detail

    def put_state(self, entry: AgentEntry, new: AgentState) -> None:
        """Keep counts and totals in step with a state, however it came about."""
        self.version += 1
        self.counts[entry.state] -= 1
        self.counts[new] += 1
        if (entry.state in HERE_STATES) != (new in HERE_STATES):
            change = amount_of(entry.enrolled.total)
            self.total = add(self.total, change) if new in HERE_STATES else subtract(self.total, change)
        entry.state = new
        entry.changed()

    def set_mode(self, fact: AgentModeSet) -> None:
        self.entries[fact.agent_id].mode = fact.mode
        self.entries[fact.agent_id].changed()

    def forget(self, fact: AgentForgotten) -> AgentEntry:
        self.version += 1
        entry = self.entries.pop(fact.agent_id)
        self.counts[entry.state] -= 1
        return entry

    # --- questions ---------------------------------------------------------------------------------------------------

    def sorted(self) -> tuple[AgentEntry, ...]:
        """Every agent, by id."""
        if self._sorted[0] != self.version:
            self._sorted = (self.version, tuple(entry for _, entry in sorted(self.entries.items())))
        return self._sorted[1]

    def longest_lost(self) -> AgentEntry | None:
        """Of the lost agents the one lost for longest: the first to be forgotten when the book is full."""
        lost = [
            entry
            for entry in self.entries.values()
            if entry.state is AgentState.LOST and not entry.tasks and not entry.holdings.tasks
        ]
        return min(lost, key=lambda entry: (entry.since_us, entry.agent_id), default=None)

    def is_here(self, agent_id: str) -> bool:
        """Whether its data server can be expected to answer."""
        entry = self.entries.get(agent_id)
        return entry is not None and entry.state in HERE_STATES


def enrolment(birth: Birth, now_us: int) -> AgentEnrolled:
    """The fact a birth would write."""
    return AgentEnrolled(
        at_us=now_us,
        agent_id=birth.agent_id,
        boot=birth.boot,
        site=birth.site,
        tier=birth.tier,
        total=birth.total,
        region=birth.region,
        labels=tuple(sorted(birth.labels)),
        hardware=birth.hardware,
        speed_milli=birth.speed_milli,
        price_microusd_per_cpu_hour=birth.price_microusd_per_cpu_hour,
        data_url=birth.data_url,
        metered=birth.metered,
        version=birth.version,
    )


CPU_MILLI_MAX = 10**9
BYTES_MAX = 2**60  # An exbibyte: sums over 20,000 agents would leave int64 no sooner than memory exists.
GPUS_MAX = 1024


def impossible_total(total: Resources) -> str | None:
    """Why no machine can have these resources; None when one can."""
    if not 0 <= total.cpu_milli <= CPU_MILLI_MAX:
        return f"cpu_milli {total.cpu_milli} is not within 0 … {CPU_MILLI_MAX}"
    for name, value in (("memory_bytes", total.memory_bytes), ("disk_bytes", total.disk_bytes)):
        if not 0 <= value <= BYTES_MAX:
            return f"{name} {value} is not within 0 … {BYTES_MAX}"
    uuids = {gpu.uuid for gpu in total.gpus}
    if len(uuids) != len(total.gpus) or len(total.gpus) > GPUS_MAX or "" in uuids:
        return "gpus: each needs its own uuid, and there may be 1,024"
    if any(gpu.memory_bytes is not None and not 0 <= gpu.memory_bytes <= BYTES_MAX for gpu in total.gpus):
        return f"gpus: memory_bytes is not within 0 … {BYTES_MAX}"
    if any(gpu.milli != WHOLE or gpu.memory_left_bytes is not None for gpu in total.gpus):
        return "gpus: an agent has whole ones, in use or not"
    return None
