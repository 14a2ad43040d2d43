"""The facts of an agent's journal: what it must remember across a power cut."""

from federation.wire import Command, HeldShard, Status
from policies.model import Record


class Booted(Record, frozen=True, kw_only=True, tag="booted"):
    boot: int


class TermSeen(Record, frozen=True, kw_only=True, tag="term_seen"):
    """The highest master term; commands of lower ones are refused for ever."""

    term: int


class CommandTaken(Record, frozen=True, kw_only=True, tag="command_taken"):
    """Written before the command is acknowledged to the broker or acted upon."""

    term: int
    command: Command


class ProcessStarted(Record, frozen=True, kw_only=True, tag="process_started"):
    """Identifies a live process across a restart of the agent: executor-specific `handle` (pid and start time)."""

    task_id: str
    attempt: int
    handle: str


class StatusQueued(Record, frozen=True, kw_only=True, tag="status_queued"):
    status: Status


class StatusesAcked(Record, frozen=True, kw_only=True, tag="statuses_acked"):
    status_ids: tuple[int, ...]


class ShardStored(Record, frozen=True, kw_only=True, tag="shard_stored"):
    shard: HeldShard


class ShardForgotten(Record, frozen=True, kw_only=True, tag="shard_forgotten"):
    shard_id: str


class BytesMetered(Record, frozen=True, kw_only=True, tag="bytes_metered"):
    """What is left of a metered line's allowance, at a time of the wall clock (`agents.metering`)."""

    at_us: int
    balance_bytes: int


class Remembered(Record, frozen=True, kw_only=True, tag="remembered"):
    """What a compacted journal cannot say otherwise; last of its facts. Lists are oldest first."""

    next_status_id: int
    commands_seen: int
    cmd_ids: tuple[int, ...] = ()
    cmd_id_floor: int = 0  # of ids up to this one, those not listed count as taken
    ended: tuple[tuple[str, int], ...] = ()  # (task_id, attempt) closed and acknowledged


Fact = (
    Booted
    | TermSeen
    | CommandTaken
    | ProcessStarted
    | StatusQueued
    | StatusesAcked
    | ShardStored
    | ShardForgotten
    | BytesMetered
    | Remembered
)
