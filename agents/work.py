"""Attempts and shards: what the master's commands become, and what is told of them.

An attempt is taken (journaled), fetches what it reads, is started, runs and ends; each step that the master must know
queues a status. Fetches are shared: two attempts that read one shard wait for the same transfer.
"""

from typing import Literal

from msgspec.structs import replace

from agents.commands import Fetch, Redirect, RemoveShard, StartTask, StopTask
from agents.config import AgentConfig
from agents.events import FetchEnded, TaskEnded, TaskStarted
from agents.facts import CommandTaken, ProcessStarted, ShardForgotten, ShardStored, StatusQueued
from agents.offering import Offering
from agents.session import Batch
from agents.state import Attempt, Key, State
from federation.wire import (
    Command,
    DropShard,
    FetchShard,
    HeldShard,
    HeldTask,
    Kill,
    Launch,
    RedirectFetch,
    ShardStatus,
    TaskState,
    TaskStatus,
)
from federation.wire import Fetch as WireFetch

_DETAIL_CHARS_MAX = 2_000  # a paragraph
_NAME_CHARS_MAX = 255  # the wire's bound
_LOG_TAIL_CHARS_MAX = 8_000  # two screens; the whole log stays on the agent
HELD_BYTES_MAX = 120 * 1024  # of a birth's 256 KiB, for all attempts; the rest is for shards
_HELD_TASK_BYTES = 80  # field names and numbers of one held task in a birth


class _Fetching:
    """One transfer in flight, and who waits for it. `None` among the waiters is a replica command."""

    __slots__ = ("fetch", "shard_id", "waiters")

    def __init__(self, fetch: WireFetch) -> None:
        self.fetch = fetch
        self.shard_id = fetch.shard_id
        self.waiters: dict[Key | None, WireFetch] = {}


class _Progress:
    """What of a live attempt need not survive a restart."""

    __slots__ = ("fetched_bytes", "missing", "stage_us", "started", "taken_us")

    def __init__(self, taken_us: int) -> None:
        self.taken_us = taken_us
        self.missing: dict[str, None] = {}
        self.fetched_bytes = 0
        self.stage_us = 0
        self.started = False  # `StartTask` went out: its end comes as `TaskEnded`


def wanted(launch: Launch) -> dict[str, WireFetch]:
    """All that must lie in the store before it starts, by shard."""
    fetches = ((launch.artifact,) if launch.artifact is not None else ()) + launch.reads
    return {fetch.shard_id: fetch for fetch in fetches}


def clean(text: str) -> str:
    """Text that MessagePack takes: what was no Unicode (in a file's name, in a task's output) becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def sendable(shard: HeldShard) -> HeldShard:
    """With a name that the wire takes. One status it refuses would block the outbox, one birth the agent, for ever."""
    name = clean(shard.name)[:_NAME_CHARS_MAX]
    return shard if name == shard.name else replace(shard, name=name)


class Work:
    def __init__(self, config: AgentConfig, state: State, offering: Offering) -> None:
        self._config = config
        self._state = state
        self._offering = offering
        self._progress: dict[Key, _Progress] = {}
        self._fetches: dict[int, _Fetching] = {}  # by fetch_id
        self._fetching: dict[str, int] = {}  # shard_id → fetch_id
        self._n_fetches = 0
        self.untold: dict[str, HeldShard] = {}  # held, in no birth and no status: told without a place in the outbox

    # --- questions ---------------------------------------------------------------------------------------------------

    def held_tasks(self) -> tuple[HeldTask, ...]:
        return tuple(
            HeldTask(task_id=attempt.key[0], attempt=attempt.key[1], term=attempt.term, state=self._held_state(attempt))
            for attempt in self._state.attempts.values()
        )

    def _held_state(self, attempt: Attempt) -> Literal["accepted", "staging", "running", "ended"]:
        if attempt.ended:
            return "ended"
        if attempt.handle:
            return "running"
        return "staging" if self._progress[attempt.key].missing else "accepted"

    def _is_needed(self, shard_id: str) -> bool:
        return any(shard_id in wanted(attempt.launch) for attempt in self._state.live_attempts())

    # --- after a restart ---------------------------------------------------------------------------------------------

    def on_started(self, batch: Batch, running: tuple[str, ...], shards: tuple[HeldShard, ...]) -> None:
        """Adopt what is alive, close what is not, go on with what had not started. A process is let go only once its
        handle is durable, so an attempt without one has never run."""
        self._compare_shards(batch, {shard.shard_id: shard for shard in shards})
        for attempt in self._state.live_attempts():
            self._progress[attempt.key] = _Progress(batch.now_us)
            if attempt.handle in running:
                self._progress[attempt.key].started = True
                if attempt.kill is not None:
                    self._stop(batch, attempt)
            elif attempt.kill is not None:
                self._end(batch, attempt, "killed", reason=attempt.kill[1].reason or "killed")
            elif attempt.handle:
                self._end(batch, attempt, "failed", reason="agent_restart", detail="its process was gone")
            else:
                self._stage(batch, attempt)
        for _, command in list(self._state.replicas.values()):
            self._copy(batch, command.fetch)
        for _, drop in list(self._state.drops.values()):
            self._drop(batch, drop.shard_id)

    def _compare_shards(self, batch: Batch, found: dict[str, HeldShard]) -> None:
        for shard_id in [shard_id for shard_id in self._state.shards if shard_id not in found]:
            self.on_shard_removed(batch, shard_id, "missing")
        for shard in found.values():
            if shard.shard_id not in self._state.shards:
                batch.persist(ShardStored(shard=sendable(shard)))  # The birth that follows tells it.

    # --- commands ----------------------------------------------------------------------------------------------------

    def take(self, batch: Batch, term: int, command: Command, received_us: int) -> None:
        """A command that was never taken before: journal it, then do what it says."""
        batch.persist(CommandTaken(term=term, command=command))
        match command:
            case Launch():
                self._launch(batch, command, received_us)
            case Kill():
                self._kill(batch, command, term)
            case FetchShard(fetch=fetch):
                self._copy(batch, fetch)
            case RedirectFetch(fetch=fetch):
                self._redirect(batch, fetch)
            case DropShard(shard_id=shard_id):
                self._drop(batch, shard_id)

    def _launch(self, batch: Batch, launch: Launch, received_us: int) -> None:
        attempt = self._state.attempts[launch.task_id, launch.attempt]
        self._progress[attempt.key] = _Progress(batch.now_us)
        if reason_detail := self._refusal(batch, launch, received_us):
            reason, detail = reason_detail
            self._end(batch, attempt, "refused", reason=reason, detail=detail)
            self._offering.doubted = True
        else:
            self._stage(batch, attempt)

    def _refusal(self, batch: Batch, launch: Launch, received_us: int) -> tuple[str, str] | None:
        """Why it is not run here, as (reason, detail). It is among the live attempts already."""
        if self._state.is_closed((launch.task_id, launch.attempt)):
            return "killed", "this attempt was closed before its launch came"
        if min(launch.needs.cpu_milli, launch.needs.memory_bytes, launch.needs.disk_bytes) < 0:
            return "invalid", "its needs are negative"
        if self._offering.quarantined:
            return "quarantined", "the master told this agent to take no work"
        if batch.now_us - received_us >= launch.expires_in_us:
            return "expired", f"taken up {batch.now_us - received_us} us after receipt"
        if self._state.n_live > self._config.tasks_max:
            return "no_room", f"the agent holds {self._config.tasks_max} tasks, its most"
        if self._state.task_id_bytes + len(self._state.attempts) * _HELD_TASK_BYTES > HELD_BYTES_MAX:
            return "no_room", "the held tasks would no longer fit in a birth"
        short = self._offering.lacks(launch)
        return ("no_room", short) if short else None

    def _kill(self, batch: Batch, kill: Kill, term: int) -> None:
        attempt = self._state.attempts.get((kill.task_id, kill.attempt))
        if attempt is None:
            status = TaskStatus(
                status_id=self._state.next_status_id,
                task_id=kill.task_id,
                attempt=kill.attempt,
                term=term,
                state="killed",
                reason=kill.reason or "killed",
                detail="the agent holds no such attempt",
            )
            batch.persist(StatusQueued(status=status))
        elif attempt.ended:
            pass  # Its end is in the outbox.
        elif self._progress[attempt.key].started:
            self._stop(batch, attempt)
        else:
            self._end(batch, attempt, "killed", reason=kill.reason or "killed")

    def _stop(self, batch: Batch, attempt: Attempt) -> None:
        assert attempt.kill is not None, "stopped without a kill command"
        kill = attempt.kill[1]
        batch.do(
            StopTask(
                task_id=attempt.launch.task_id,
                attempt=attempt.launch.attempt,
                grace_us=attempt.launch.kill_grace_us if kill.grace_us is None else kill.grace_us,
                reason=kill.reason or "killed",
            )
        )

    # --- fetching ----------------------------------------------------------------------------------------------------

    def _stage(self, batch: Batch, attempt: Attempt) -> None:
        """Start it if all it reads is here; else fetch what is missing."""
        progress = self._progress[attempt.key]
        missing = {key: fetch for key, fetch in wanted(attempt.launch).items() if key not in self._state.shards}
        progress.missing = dict.fromkeys(missing)
        if not missing:
            self._start(batch, attempt)
            return
        if attempt.last is None:
            self._tell(batch, attempt, "staging")
        for fetch in missing.values():
            self._fetch(batch, attempt.key, fetch)

    def _fetch(self, batch: Batch, waiter: Key | None, fetch: WireFetch) -> None:
        fetch_id = self._fetching.get(fetch.shard_id)
        if fetch_id is None:
            self._n_fetches += 1
            fetch_id = self._n_fetches
            self._fetches[fetch_id] = _Fetching(fetch)
            self._fetching[fetch.shard_id] = fetch_id
            batch.do(Fetch(fetch_id=fetch_id, fetch=fetch))
        self._fetches[fetch_id].waiters[waiter] = fetch

    def _redirect(self, batch: Batch, fetch: WireFetch) -> None:
        """Those who wait keep their own sources: should the new ones fail, they are tried after them."""
        fetch_id = self._fetching.get(fetch.shard_id)
        if fetch_id is not None and fetch.sources:
            self._fetches[fetch_id].fetch = fetch
            batch.do(Redirect(fetch_id=fetch_id, fetch=fetch))

    def on_fetch_ended(self, batch: Batch, event: FetchEnded) -> None:
        fetching = self._fetches.pop(event.fetch_id, None)
        if fetching is not None:
            del self._fetching[fetching.shard_id]
        if event.ok:
            self._store(batch, event.shard)
        if fetching is None:
            return
        fetched_bytes = event.fetched_bytes  # Counted once, for the first that waits.
        for waiter, fetch in fetching.waiters.items():
            attempt = self._state.attempts.get(waiter) if waiter is not None else None
            if waiter is None:
                if fetching.shard_id in self._state.replicas:
                    self._answer_replica(batch, fetching, event, fetch)
            elif attempt is None or attempt.ended:
                continue
            elif event.ok:
                progress = self._progress[attempt.key]
                progress.fetched_bytes += fetched_bytes
                fetched_bytes = 0
                progress.missing.pop(fetching.shard_id, None)
                if not progress.missing:
                    self._start(batch, attempt)
            elif fetch.sources != fetching.fetch.sources:
                self._fetch(batch, waiter, fetch)  # Its own sources are untried.
            else:
                name = event.shard.name or fetching.shard_id
                self._end(batch, attempt, "failed", reason=event.reason or "fetch", detail=f"{name}: {event.detail}")

    def _answer_replica(self, batch: Batch, fetching: _Fetching, event: FetchEnded, fetch: WireFetch) -> None:
        if event.ok:
            self._tell_shard(batch, event.shard, "held")
        elif fetch.sources != fetching.fetch.sources:
            self._fetch(batch, None, fetch)
        else:
            self._tell_shard(batch, event.shard, "failed", reason=event.reason or "fetch", detail=event.detail)

    # --- running -----------------------------------------------------------------------------------------------------

    def _start(self, batch: Batch, attempt: Attempt) -> None:
        progress = self._progress[attempt.key]
        progress.started = True
        progress.stage_us = max(0, batch.now_us - progress.taken_us)
        batch.do(StartTask(launch=attempt.launch))

    def on_task_started(self, batch: Batch, event: TaskStarted) -> None:
        attempt = self._state.attempts.get((event.task_id, event.attempt))
        if attempt is None or attempt.ended or attempt.handle == event.handle:
            return
        if attempt.kill is not None:
            self._stop(batch, attempt)  # Still behind its gate: it ends unrun.
            return
        batch.persist(ProcessStarted(task_id=event.task_id, attempt=event.attempt, handle=event.handle))
        self._tell(batch, attempt, "running")

    def on_task_ended(self, batch: Batch, event: TaskEnded) -> None:
        attempt = self._state.attempts.get((event.task_id, event.attempt))
        outputs = tuple(sendable(shard) for shard in event.outputs)
        event = replace(event, outputs=outputs)
        for shard in outputs:
            if shard.shard_id not in self._state.shards:
                batch.persist(ShardStored(shard=shard))
        if attempt is None or attempt.ended:
            return
        state: TaskState = "failed"
        reason = event.reason
        if event.reason == "exit" and event.exit_code == 0:
            state = "finished"
        elif attempt.kill is not None or event.reason == "killed":
            state = "killed"
            reason = (attempt.kill[1].reason if attempt.kill is not None else "") or "killed"
        self._end(batch, attempt, state, reason=reason, detail=event.detail, ended=event)

    # --- shards ------------------------------------------------------------------------------------------------------

    def _copy(self, batch: Batch, fetch: WireFetch) -> None:
        held = self._state.shards.get(fetch.shard_id)
        if held is not None:
            self._tell_shard(batch, held, "held")
        else:
            self._fetch(batch, None, fetch)

    def _drop(self, batch: Batch, shard_id: str) -> None:
        held = self._state.shards.get(shard_id)
        if held is None:
            self._tell_shard(batch, HeldShard(shard_id=shard_id, size_bytes=0), "dropped", reason="not_held")
        elif self._is_needed(shard_id):
            self._tell_shard(batch, held, "held", reason="in_use", detail="a task here reads it")
        else:
            batch.do(RemoveShard(shard_id=shard_id))

    def _store(self, batch: Batch, shard: HeldShard) -> None:
        """Held from now on; a waiting replica command is answered by its own status."""
        if shard.shard_id in self._state.shards:
            return
        batch.persist(ShardStored(shard=shard))
        if shard.shard_id not in self._state.replicas:
            self._tell_shard(batch, shard, "held")

    def on_shard_found(self, batch: Batch, shard: HeldShard) -> None:
        """Files added by hand are not bounded by any command, so they take no place in the outbox."""
        if shard.shard_id not in self._state.shards:
            shard = sendable(shard)
            batch.persist(ShardStored(shard=shard))
            self.untold[shard.shard_id] = shard

    def on_shard_removed(self, batch: Batch, shard_id: str, reason: str) -> None:
        held = self._state.shards.get(shard_id)
        self.untold.pop(shard_id, None)
        if held is not None:
            batch.persist(ShardForgotten(shard_id=shard_id))
        if held is not None or shard_id in self._state.drops:
            self._tell_shard(batch, held or HeldShard(shard_id=shard_id, size_bytes=0), "dropped", reason=reason)

    # --- statuses ----------------------------------------------------------------------------------------------------

    def _tell(
        self,
        batch: Batch,
        attempt: Attempt,
        state: TaskState,
        *,
        reason: str = "",
        detail: str = "",
        ended: TaskEnded | None = None,
    ) -> None:
        progress = self._progress[attempt.key]
        status = TaskStatus(
            status_id=self._state.next_status_id,
            task_id=attempt.launch.task_id,
            attempt=attempt.launch.attempt,
            term=attempt.term,
            state=state,
            reason=reason,
            detail=clean(detail[:_DETAIL_CHARS_MAX]),
            exit_code=ended.exit_code if ended else None,
            log_tail=clean(ended.log_tail[-_LOG_TAIL_CHARS_MAX:]) if ended else "",
            outputs=ended.outputs if ended else (),
            fetched_bytes=progress.fetched_bytes,
            stage_us=progress.stage_us,
            run_us=max(0, ended.run_us) if ended else 0,
        )
        batch.persist(StatusQueued(status=status))

    def _end(
        self,
        batch: Batch,
        attempt: Attempt,
        state: TaskState,
        *,
        reason: str,
        detail: str = "",
        ended: TaskEnded | None = None,
    ) -> None:
        self._tell(batch, attempt, state, reason=reason, detail=detail, ended=ended)
        del self._progress[attempt.key]

    def _tell_shard(
        self,
        batch: Batch,
        shard: HeldShard,
        state: Literal["held", "failed", "dropped"],
        *,
        reason: str = "",
        detail: str = "",
    ) -> None:
        status = ShardStatus(
            status_id=self._state.next_status_id,
            shard=shard,
            state=state,
            reason=reason,
            detail=clean(detail[:_DETAIL_CHARS_MAX]),
        )
        batch.persist(StatusQueued(status=status))
