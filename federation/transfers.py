"""Bytes of placed work that are still to cross between sites: they slow what is planned after them, and are moved to
another source where theirs fails them.

Of this term only. A fetch counts in full until its agent has told how far it is, and until the task it belongs to has
started.
"""

from collections.abc import Iterator
from typing import Protocol

from federation.agents_book import AgentBook, AgentEntry
from federation.moves import MoveBook
from federation.states import TaskState
from federation.task_entries import TaskEntry
from federation.wire import Fetch, FetchProgress, Launch
from policies.model import Transfer

_FETCHING = frozenset({TaskState.ASSIGNED, TaskState.STAGING})

SILENT_US = 6_000_000  # A fetch of which its agent has told nothing for three of its reports waits for its turn.

Key = tuple[str, str]
"""(agent id, shard id)"""


class Waiter(Protocol):
    """A framework's task, as far as it is known here."""

    @property
    def is_fetching(self) -> bool: ...


class RunningFetch:
    """A shard on its way to an agent of another site. `source` "" is the master's store."""

    __slots__ = (
        "agent_id", "begun_us", "from_site", "left_bytes", "rate_bps", "shard_id", "size_bytes", "slow_looks", "source",
        "tasks", "to_site", "told_us", "waiters", "was_redirected",
    )  # fmt: skip

    def __init__(
        self, agent_id: str, to_site: str, shard_id: str, size_bytes: int, source: str, from_site: str, now_us: int
    ) -> None:
        self.begun_us = now_us
        self.agent_id = agent_id
        self.to_site = to_site
        self.shard_id = shard_id
        self.size_bytes = size_bytes
        self.left_bytes = size_bytes
        self.source = source
        self.from_site = from_site
        self.told_us: int | None = None  # when the agent last told how far it is
        self.rate_bps: int | None = None  # between the last two times it told of this source
        self.was_redirected = False
        self.slow_looks = 0  # in a row, at which it got far less than its share of what the map says
        self.tasks: dict[str, int] = {}  # that wait for it → attempt; none for a copy that a policy wished
        self.waiters: list[Waiter] = []

    @property
    def key(self) -> Key:
        return self.agent_id, self.shard_id

    def is_moving(self, now_us: int) -> bool:
        """Whether it is known to move, or too young to be known not to: agents queue what they cannot fetch at once."""
        return self.told_us is not None or now_us - self.begun_us < SILENT_US

    def come_from(self, source: str, site: str) -> None:
        """Another source serves it from now on; how fast is not known yet."""
        self.source, self.from_site = source, site
        self.rate_bps = self.told_us = None
        self.slow_looks = 0
        self.was_redirected = True


class TransferBook:
    def __init__(self) -> None:
        self._running: dict[Key, RunningFetch] = {}

    def begin(self, entry: AgentEntry, launch: Launch, now_us: int) -> None:
        """Note what a launch makes its agent fetch from other sites."""
        for fetch in launch.reads:
            running = self._note(entry, fetch, now_us)
            if running is not None:
                running.tasks[launch.task_id] = launch.attempt

    def begin_for(self, waiter: Waiter, entry: AgentEntry, launch: Launch, now_us: int) -> None:
        """The same for a framework's task."""
        for fetch in launch.reads:
            running = self._note(entry, fetch, now_us)
            if running is not None:
                running.waiters.append(waiter)

    def begin_copy(self, entry: AgentEntry, fetch: Fetch, now_us: int) -> None:
        """Note a shard copied for no task: it shares the way with those that are waited for."""
        self._note(entry, fetch, now_us)

    def _note(self, entry: AgentEntry, fetch: Fetch, now_us: int) -> RunningFetch | None:
        if not fetch.sources or fetch.shard_id in entry.shards or fetch.sources[0].site == entry.site:
            return None
        running = self._running.get((entry.agent_id, fetch.shard_id))
        if running is None:
            source = fetch.sources[0]
            running = RunningFetch(
                entry.agent_id, entry.site, fetch.shard_id, fetch.size_bytes, source.agent_id, source.site, now_us
            )
            self._running[running.key] = running
        return running

    def progress(self, agent_id: str, fetches: tuple[FetchProgress, ...], agents: AgentBook, now_us: int) -> None:
        """What an agent tells of its fetches; of those that nobody ordered nothing is kept."""
        for fetch in fetches:
            running = self._running.get((agent_id, fetch.shard_id))
            if running is None:
                continue
            left_bytes = max(0, running.size_bytes - fetch.done_bytes)
            if fetch.from_agent != running.source:
                source = agents.get(fetch.from_agent)
                running.come_from(fetch.from_agent, source.site if source is not None else "")
            elif running.told_us is not None and now_us > running.told_us:
                moved_bytes = max(0, running.left_bytes - left_bytes)
                running.rate_bps = moved_bytes * 8_000_000 // (now_us - running.told_us)
            running.left_bytes, running.told_us = left_bytes, now_us

    def ends_of(self, task: TaskEntry) -> tuple[str, str] | None:
        """The two sites between which all came that a task waited for; None when it was more than one link, none, or
        the source was changed on the way."""
        if not self._running:
            return None
        mine = [fetch for fetch in self._running.values() if fetch.tasks.get(task.task_id) == task.attempt]
        ends = {(fetch.from_site, fetch.to_site) for fetch in mine}
        if len(ends) != 1 or any(fetch.was_redirected or not fetch.from_site for fetch in mine):
            return None
        return ends.pop()

    def running(self, tasks: dict[str, TaskEntry], moves: MoveBook) -> Iterator[RunningFetch]:
        """Those that a task still waits for, and copies under way, in the order in which they were ordered."""
        for key, fetch in list(self._running.items()):
            for task_id, attempt in list(fetch.tasks.items()):
                task = tasks.get(task_id)
                if task is None or task.attempt != attempt or task.state not in _FETCHING:
                    del fetch.tasks[task_id]
            fetch.waiters = [waiter for waiter in fetch.waiters if waiter.is_fetching]
            if fetch.tasks or fetch.waiters or (fetch.shard_id, fetch.agent_id) in moves.in_flight:
                yield fetch
            else:
                del self._running[key]

    def snapshot(self, tasks: dict[str, TaskEntry], moves: MoveBook) -> tuple[Transfer, ...]:
        """The sum per pair of sites, of what tasks wait for. A shard that several tasks of one agent wait for crosses
        once."""
        left: dict[tuple[str, str], int] = {}
        for fetch in self.running(tasks, moves):
            if (fetch.tasks or fetch.waiters) and fetch.from_site != fetch.to_site:
                ends = fetch.from_site, fetch.to_site
                left[ends] = left.get(ends, 0) + fetch.left_bytes
        return tuple(
            Transfer(from_site=from_site, to_site=to_site, left_bytes=n_bytes)
            for (from_site, to_site), n_bytes in sorted(left.items())
        )
