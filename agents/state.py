"""What an agent must remember across a power cut: a function of its facts alone.

Live changes and replay both go through `apply`; `facts` is the shortest journal that leads to the same state, so a
compacted journal is a list of facts too, and two states are equal iff their `facts` are.
"""

from collections.abc import Iterable

from agents.facts import (
    Booted,
    BytesMetered,
    CommandTaken,
    Fact,
    ProcessStarted,
    Remembered,
    ShardForgotten,
    ShardStored,
    StatusesAcked,
    StatusQueued,
    TermSeen,
)
from federation.wire import Command, DropShard, FetchShard, HeldShard, Kill, Launch, Status, TaskStatus

# How many command ids and closed attempts are remembered, to know a duplicate. A duplicate comes within a resend
# period (10 s); 4,096 are 400 commands a second for one device, ten times what it could start.
REMEMBERED_MAX = 4096
ENDED_STATES = frozenset({"finished", "failed", "killed", "refused"})

Key = tuple[str, int]
"""(task_id, attempt)"""


class Attempt:
    """A launch that was taken, until the master has acknowledged its end."""

    __slots__ = ("handle", "kill", "last", "launch", "term")

    def __init__(self, launch: Launch, term: int) -> None:
        self.launch = launch
        self.term = term
        self.handle = ""  # of its process; "" until one was started
        self.kill: tuple[int, Kill] | None = None  # term and command that asked for its end
        self.last: TaskStatus | None = None

    @property
    def key(self) -> Key:
        return (self.launch.task_id, self.launch.attempt)

    @property
    def ended(self) -> bool:
        return self.last is not None and self.last.state in ENDED_STATES


class Holding:
    """What live attempts hold together. Sums are kept: a launch must not cost what all that run here would."""

    __slots__ = ("cpu_milli", "disk_bytes", "memory_bytes", "with_gpus")

    def __init__(self) -> None:
        self.cpu_milli = self.memory_bytes = self.disk_bytes = 0
        self.with_gpus: dict[Key, Launch] = {}  # those that were given GPUs, or shares of them

    def change(self, launch: Launch, sign: int) -> None:
        needs = launch.needs
        self.cpu_milli += sign * needs.cpu_milli
        self.memory_bytes += sign * needs.memory_bytes
        self.disk_bytes += sign * needs.disk_bytes
        if launch.gpus:
            key = (launch.task_id, launch.attempt)
            if sign > 0:
                self.with_gpus[key] = launch
            else:
                del self.with_gpus[key]


class State:
    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self.boot = 0
        self.term = 0
        self.commands_seen = 0  # highest cmd_id ever taken
        self.next_status_id = 1
        self.attempts: dict[Key, Attempt] = {}
        self._live: dict[Key, Attempt] = {}  # those that have not ended, in the same order
        self.holding = Holding()  # of these
        self.task_id_bytes = 0  # of `attempts`
        self.outbox: dict[int, Status] = {}
        self.shards: dict[str, HeldShard] = {}
        self.replicas: dict[str, tuple[int, FetchShard]] = {}  # copies asked for and not yet answered, by shard
        self.drops: dict[str, tuple[int, DropShard]] = {}
        self.metered: BytesMetered | None = None
        self._cmd_ids: dict[int, None] = {}
        self._cmd_id_floor = 0
        self._closed: dict[Key, None] = {}
        for fact in facts:
            self.apply(fact)

    # --- questions ---------------------------------------------------------------------------------------------------

    def is_taken(self, cmd_id: int) -> bool:
        """Whether this command was taken before. Ids too old to be remembered count as taken: never run twice."""
        return cmd_id in self._cmd_ids or cmd_id <= self._cmd_id_floor

    def is_closed(self, key: Key) -> bool:
        return key in self._closed

    def live_attempts(self) -> list[Attempt]:
        return list(self._live.values())

    @property
    def n_live(self) -> int:
        return len(self._live)

    # --- changes -----------------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        match fact:
            case Booted(boot=boot):
                self.boot = boot
            case TermSeen(term=term):
                self.term = term
            case CommandTaken(term=term, command=command):
                self._take(term, command)
            case ProcessStarted(task_id=task_id, attempt=number, handle=handle):
                self.attempts[task_id, number].handle = handle
            case StatusQueued(status=status):
                self._queue(status)
            case StatusesAcked(status_ids=status_ids):
                for status_id in status_ids:
                    self._forget_status(status_id)
            case ShardStored(shard=shard):
                self.shards[shard.shard_id] = shard
            case ShardForgotten(shard_id=shard_id):
                self.shards.pop(shard_id, None)
            case BytesMetered():
                self.metered = fact
            case Remembered():
                self.next_status_id = fact.next_status_id
                self.commands_seen = fact.commands_seen
                self._cmd_ids = dict.fromkeys(fact.cmd_ids)
                self._cmd_id_floor = fact.cmd_id_floor
                self._closed = dict.fromkeys(fact.ended)

    def _take(self, term: int, command: Command) -> None:
        self._cmd_ids[command.cmd_id] = None
        if len(self._cmd_ids) > REMEMBERED_MAX:
            oldest = next(iter(self._cmd_ids))
            del self._cmd_ids[oldest]
            self._cmd_id_floor = max(self._cmd_id_floor, oldest)
        self.commands_seen = max(self.commands_seen, command.cmd_id)
        match command:
            case Launch():
                taken = Attempt(command, term)
                assert taken.key not in self.attempts, "a launch is taken once"
                self.attempts[taken.key] = self._live[taken.key] = taken
                self.holding.change(command, 1)
                self.task_id_bytes += len(command.task_id.encode())
            case Kill():
                attempt = self.attempts.get((command.task_id, command.attempt))
                if attempt is not None and (attempt.kill is None or command.grace_us is not None):
                    attempt.kill = (term, command)
            case FetchShard():
                self.replicas[command.fetch.shard_id] = (term, command)
            case DropShard():
                self.drops[command.shard_id] = (term, command)

    def _queue(self, status: Status) -> None:
        self.outbox[status.status_id] = status
        self.next_status_id = max(self.next_status_id, status.status_id + 1)
        if isinstance(status, TaskStatus):
            key = (status.task_id, status.attempt)
            attempt = self.attempts.get(key)
            if attempt is not None:
                if attempt.last is None or attempt.last.status_id < status.status_id:
                    attempt.last = status
                    if attempt.ended and self._live.pop(key, None) is not None:
                        self.holding.change(attempt.launch, -1)
            elif status.state in ENDED_STATES:
                self._close(key)
        else:
            self.replicas.pop(status.shard.shard_id, None)
            self.drops.pop(status.shard.shard_id, None)

    def _forget_status(self, status_id: int) -> None:
        status = self.outbox.pop(status_id, None)
        if isinstance(status, TaskStatus) and status.state in ENDED_STATES:
            key = (status.task_id, status.attempt)
            attempt = self.attempts.get(key)
            if attempt is not None and attempt.last == status:
                del self.attempts[key]
                self.task_id_bytes -= len(status.task_id.encode())
                self._close(key)

    def _close(self, key: Key) -> None:
        self._closed.pop(key, None)
        self._closed[key] = None
        if len(self._closed) > REMEMBERED_MAX:
            del self._closed[next(iter(self._closed))]

    # --- the shortest journal ----------------------------------------------------------------------------------------

    def facts(self) -> list[Fact]:
        """Replaying these gives this state again. Cost and size: linear in what is held, not in what ever happened."""
        facts: list[Fact] = [Booted(boot=self.boot), TermSeen(term=self.term)]
        if self.metered is not None:
            facts.append(self.metered)
        for attempt in self.attempts.values():
            facts += self._attempt_facts(attempt)
        facts += [StatusQueued(status=status) for status in self.outbox.values()]
        # After the outbox: a queued status answers only orders that came before it.
        facts += [CommandTaken(term=term, command=command) for term, command in self.replicas.values()]
        facts += [CommandTaken(term=term, command=drop) for term, drop in self.drops.values()]
        facts += [ShardStored(shard=shard) for shard in self.shards.values()]
        facts.append(
            Remembered(
                next_status_id=self.next_status_id,
                commands_seen=self.commands_seen,
                cmd_ids=tuple(self._cmd_ids),
                cmd_id_floor=self._cmd_id_floor,
                ended=tuple(self._closed),
            )
        )
        return facts

    def _attempt_facts(self, attempt: Attempt) -> list[Fact]:
        task_id, number = attempt.key
        facts: list[Fact] = [CommandTaken(term=attempt.term, command=attempt.launch)]
        if attempt.handle:
            facts.append(ProcessStarted(task_id=task_id, attempt=number, handle=attempt.handle))
        if attempt.kill is not None:
            term, kill = attempt.kill
            facts.append(CommandTaken(term=term, command=kill))
        if attempt.last is not None and attempt.last.status_id not in self.outbox:
            # Acknowledged, yet still what a duplicate launch is answered with.
            facts += [StatusQueued(status=attempt.last), StatusesAcked(status_ids=(attempt.last.status_id,))]
        return facts
