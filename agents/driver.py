"""The live agent: one task group, one bounded inbox, one timer around the core.

Every event that waits is handled, the facts of all of them are committed at once, and only then is anything done that
depends on them: MQTT acknowledgements, messages, processes. When the journal fails the agent stops with the error: it
takes nothing more, and running tasks are adopted by the next start.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from agents.agent import Agent
from agents.commands import (
    Acknowledge,
    AllowProbes,
    Command,
    Fetch,
    Leave,
    Measure,
    Persist,
    Probe,
    Publish,
    Redirect,
    RemoveShard,
    StartTask,
    StopTask,
)
from agents.config import AgentConfig
from agents.events import (
    Connected,
    DeadlinePassed,
    Disconnected,
    Event,
    FetchEnded,
    GarbageArrived,
    LinksMeasured,
    MasterSpoke,
    ShutdownAsked,
    Started,
    TaskEnded,
)
from agents.facts import Fact, ProcessStarted, StatusQueued
from agents.logs import get_logger
from agents.ports import Post, Workers
from agents.state import ENDED_STATES
from federation.errors import ConfigError, PeerError, StorageError
from federation.journal import Journal
from federation.mqtt import MqttLink, Will
from federation.mqtt_access import open_access
from federation.mqtt_parts import shown_url
from federation.wire import (
    MASTER_STATE_TOPIC,
    AgentChannel,
    AgentMessage,
    Birth,
    CommandAck,
    Death,
    HeldShard,
    Launch,
    MasterState,
    Offer,
    OfferDelta,
    StatusReport,
    TaskStatus,
    agent_topic,
    decode_master_message,
    encode,
    master_topic,
)

_log = get_logger("agents.driver")

_INBOX_MAX = 1024  # Events, mostly below a kilobyte; beyond, workers and the socket wait.
_HANDLED_AT_ONCE_MAX = 256  # Bounds one commit, hence the delay of its first event.
# The journal is rewritten to its shortest form after this many facts, if that is a quarter of them or less: a replay
# of 4,000 facts takes 20 ms.
_COMPACT_AFTER_FACTS = 4_000
_COMPACT_RATIO = 4
# An agent that says something every five seconds never needs a ping of the protocol; one that does every two minutes
# neither, if the broker waits longer. Between attempts to connect a line that is paid by the byte rests: SYNs cost too.
_KEEPALIVE_S, _METERED_KEEPALIVE_S = 30, 150
_BACKOFF_S, _METERED_BACKOFF_S = 15.0, 300.0

_REFUSED = {
    "stale_term": "a master with a lower term than seen before is refused; if its state was lost, remove data_dir",
    "quarantined": "the master took this agent out: another process uses its id, or it broke its word",
    "outbox_full": "commands refused until the master acknowledges statuses",
    "commands_for_another_life": "commands for an earlier connection refused; they are sent again",
    "duplicate_commands": "commands that came twice",
}

Build = Callable[[AgentConfig, Path, Post], Workers]


class _Clock:
    """Unix time in µs that never runs backwards: the wall clock at the start, monotonic from there."""

    def __init__(self) -> None:
        self._base_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now_us(self) -> int:
        return self._base_us + time.monotonic_ns() // 1000


def agent_folder(config: AgentConfig) -> Path:
    return Path(config.data_dir).expanduser().absolute() / config.agent_id  # Tasks run in folders of their own.


async def run_agent(config: AgentConfig, *, stop: asyncio.Event | None = None, build: Build | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until `stop` is set (then no signal is handled here).

    Raises `ConfigError` for settings that cannot work here, `StorageError` when the journal cannot be kept."""
    if build is None:
        from agents import workers  # Not at module level: tests bring their own workers.

        build = workers.build
    folder = agent_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"data_dir: {folder} cannot be made: {error.strerror}") from None
    journal: Journal[Fact] = Journal.open(folder / "journal.sqlite", Fact)
    try:
        live = LiveAgent(config, journal, folder, build)
        async with _stopping(live, stop):
            await live.run()
    finally:
        await journal.close()


class LiveAgent:
    def __init__(self, config: AgentConfig, journal: Journal[Fact], folder: Path, build: Build) -> None:
        self.config = config
        recovered = journal.recover()
        facts = [] if recovered.state is None else msgspec.msgpack.decode(recovered.state, type=list[Fact])
        self.agent = Agent(config, [*facts, *recovered.facts])
        self._journal = journal
        self._n_facts = len(recovered.facts)  # since the last snapshot
        self._clock = _Clock()
        self._inbox: asyncio.Queue[tuple[Event, asyncio.Future[None] | None]] = asyncio.Queue(_INBOX_MAX)
        self._workers = build(config, folder, self.post)
        self._link = self._make_link()
        self._shards_folder = Path(config.shards_folder).expanduser() if config.shards_folder else None
        self._conn = 0  # connections the link has had; equals the core's once it has handled them
        self._tcp_rtt_due_us = 0
        self._told_counters: dict[str, int] = {}  # counter → the value at which it is told again
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._left = False

    async def post(self, event: Event) -> None:
        """For the workers: waits while the inbox is full."""
        await self._inbox.put((event, None))

    async def run(self) -> None:
        """Raises `StorageError` when the journal failed; returns after a clean leave."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._start()
                link = self._spawn(self._link.run(), "mqtt")
                while not self._left:
                    await self._step()
                timeout_s = self.config.shutdown_timeout_us / 1e6
                await self._link.close(timeout_s)
                await asyncio.wait({link}, timeout=timeout_s)  # Cancelled too early it would break, not leave.
                for task in list(self._tasks):
                    task.cancel()
        except BaseExceptionGroup as failures:
            storage, rest = failures.split(StorageError)
            if storage is None or rest is not None:
                raise
            raise _first(storage) from None
        finally:
            await self._workers.data_server.stop()

    # --- start -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        workers = self._workers
        shards, data_url, speed_milli = await asyncio.gather(
            workers.store.open(), workers.data_server.start(), workers.gauge.speed_milli()
        )
        alive = [(handle, launch) for handle, launch in self.agent.processes() if workers.executor.is_alive(handle)]
        started = Started(
            total=workers.gauge.total(),
            running=tuple(handle for handle, _ in alive),
            shards=shards,
            hardware=workers.gauge.hardware(),
            speed_milli=speed_milli,
            data_url=self.config.data_url or data_url,
        )
        for handle, launch in alive:
            self._spawn(self._guarded(workers.executor.adopt(launch, handle), _ended_badly(launch)), "adopt")
        await self._handle([(started, None)])
        if self._shards_folder is not None:
            watch = workers.store.watch(self._shards_folder, self.config.shards_folder_every_us)
            self._spawn(self._guarded(watch, None), "shards-folder")
        _log.info("agent started", agent_id=self.config.agent_id, boot=self.agent.boot, data_url=started.data_url)

    def _make_link(self) -> MqttLink:
        access = open_access(self.config)
        agent_id = self.config.agent_id
        return MqttLink(
            access.url,
            agent_id,
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
            on_refused=lambda topic, reason: _log.warning("publish refused", topic=topic, reason=reason),
            subscriptions=(master_topic(agent_id, "cmd"), master_topic(agent_id, "ctl"), MASTER_STATE_TOPIC),
            will=self._will,
            keepalive_s=_METERED_KEEPALIVE_S if self.config.metered else _KEEPALIVE_S,
            backoff_s_max=_METERED_BACKOFF_S if self.config.metered else _BACKOFF_S,
            tls=access.tls,
        )

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        """Wait for an event or the core's deadline; handle all that is there."""
        due_us = self.agent.next_deadline_us()
        events: list[tuple[Event, asyncio.Future[None] | None]] = []
        try:
            async with asyncio.timeout(None if due_us is None else max(0, due_us - self._clock.now_us()) / 1e6):
                events.append(await self._inbox.get())
        except TimeoutError:
            events.append((DeadlinePassed(), None))
        while len(events) < _HANDLED_AT_ONCE_MAX and not self._inbox.empty():
            events.append(self._inbox.get_nowait())
        await self._handle(events)

    async def _handle(self, events: list[tuple[Event, asyncio.Future[None] | None]]) -> None:
        now_us = self._clock.now_us()
        for event, _ in events:
            _log.debug("event", now_us=now_us, event_kind=type(event).__name__)
        commands = self.agent.handle_all([event for event, _ in events], now_us)
        facts = [command.fact for command in commands if isinstance(command, Persist)]
        await self._commit(facts)
        self._tell_counters()
        for command in commands:
            self._act(command)
        for _, handled in events:
            if handled is not None and not handled.done():
                handled.set_result(None)

    def _tell_counters(self) -> None:
        """What the core refused is logged as it grows: at 1, 2, 4, 8 … of a kind."""
        for name, count in self.agent.counters.items():
            if count >= self._told_counters.get(name, 1):
                self._told_counters[name] = 2 * count
                _log.warning(_REFUSED.get(name, "the core counted"), counter=name, count=count)

    async def _commit(self, facts: list[Fact]) -> None:
        """Raises `StorageError`: then nothing of the batch may be done."""
        if not facts:
            return
        seq = await self._journal.commit(facts)
        self._n_facts += len(facts)
        if self._n_facts >= _COMPACT_AFTER_FACTS:
            shortest = self.agent.facts()
            if len(shortest) * _COMPACT_RATIO <= self._n_facts:
                await self._journal.snapshot(seq, msgspec.msgpack.encode(shortest))
                self._n_facts = 0

    # --- what the core wants -----------------------------------------------------------------------------------------

    def _act(self, command: Command) -> None:
        workers = self._workers
        match command:
            case Persist(fact=fact):
                self._allow(fact)
            case Publish(message=message):
                self._publish(message)
            case Acknowledge(delivery=delivery):
                self._link.ack(delivery)
            case Fetch(fetch_id=fetch_id, fetch=fetch):
                shard = HeldShard(shard_id=fetch.shard_id, size_bytes=fetch.size_bytes, name=fetch.name)
                failed = FetchEnded(fetch_id=fetch_id, shard=shard, ok=False, reason="fetch", detail="internal error")
                self._spawn(self._guarded(workers.fetcher.fetch(fetch_id, fetch), failed), "fetch")
            case Redirect(fetch_id=fetch_id, fetch=fetch):
                workers.fetcher.redirect(fetch_id, fetch)
            case StartTask(launch=launch):
                self._spawn(self._guarded(workers.executor.run(launch), _ended_badly(launch)), "task")
            case StopTask():
                workers.executor.stop(command.task_id, command.attempt, command.grace_us, command.reason)
            case RemoveShard(shard_id=shard_id):
                self._spawn(self._guarded(workers.store.remove(shard_id), None), "remove-shard")
            case Probe(peer=peer, bytes_max=bytes_max):
                nothing = LinksMeasured(samples=())
                self._spawn(self._guarded(workers.prober.probe(peer, bytes_max), nothing), "probe")
            case AllowProbes(n_bytes=n_bytes):
                workers.data_server.allow_probes(n_bytes)
            case Measure():
                self._measure()
            case Leave():
                self._left = True
        if not isinstance(command, Persist | Measure):
            _log.debug("command", command_kind=type(command).__name__)

    def _allow(self, fact: Fact) -> None:
        """What a fact allows once it is durable."""
        match fact:
            case ProcessStarted(task_id=task_id, attempt=attempt):
                self._workers.executor.release(task_id, attempt)
                _log.info("task started", task_id=task_id, attempt=attempt)
            case StatusQueued(status=TaskStatus() as status) if status.state in ENDED_STATES:
                self._workers.executor.forget(status.task_id, status.attempt)
                _log.info("task ended", task_id=status.task_id, attempt=status.attempt, state=status.state,
                          reason=status.reason)  # fmt: skip
            case _:
                pass

    def _measure(self) -> None:
        self._spawn(self._guarded(self._workers.gauge.measure(), None), "measure")
        connection = self._link.tcp_info_socket()
        now_us = self._clock.now_us()
        if connection is not None and now_us >= self._tcp_rtt_due_us:
            self._tcp_rtt_due_us = now_us + self.config.report_every_us
            sample = self._workers.gauge.tcp_rtt(connection, self.config.agent_id)
            if sample is not None:
                self._spawn(self.post(LinksMeasured(samples=(sample,))), "tcp-rtt")

    def _publish(self, message: AgentMessage) -> None:
        if message.conn != self._conn:
            return  # The core spoke to a connection that is no more.
        topic = agent_topic(self.config.agent_id, _channel(message))
        expires_s = max(1, message.expires_in_us // 1_000_000) if isinstance(message, Offer) else None
        self._link.publish(topic, encode(message), qos=1, expires_s=expires_s)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None, "nothing runs before the group"
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], failed: Event | None) -> None:
        """Workers are plug-ins: one that raises fails its own work, not the agent."""
        try:
            await work
        except Exception:
            _log.exception("worker failed", event_kind=type(failed).__name__)
            if failed is not None:
                await self.post(failed)

    # --- from the link -----------------------------------------------------------------------------------------------

    def _will(self) -> Will:
        return Will(agent_topic(self.config.agent_id, "state"), encode(self.agent.will()))

    async def _on_up(self, protocol: str) -> None:
        """Returns when the core has handled it: the will of the next connection depends on that."""
        self._conn += 1
        _log.info("connected", broker=shown_url(self.config.broker), protocol=protocol)
        handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._inbox.put((Connected(), handled))
        await handled

    async def _on_down(self, detail: str) -> None:
        _log.warning("not connected", broker=shown_url(self.config.broker), detail=detail)
        await self.post(Disconnected(detail=detail))

    async def _on_message(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        event: Event
        try:
            message = decode_master_message(payload)
            if isinstance(message, MasterState) != (topic == MASTER_STATE_TOPIC):
                raise PeerError("wrong_topic", f"a {type(message).__name__} on {topic}")
            event = MasterSpoke(
                message=message, delivery=delivery, received_us=self._clock.now_us(), n_bytes=len(payload)
            )
        except PeerError as error:
            _log.warning("garbage from the broker", topic=topic, code=error.code, detail=error.detail)
            event = GarbageArrived(code=error.code, n_bytes=len(payload), delivery=delivery)
        await self.post(event)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _channel(message: AgentMessage) -> AgentChannel:
    match message:
        case Birth() | Death():
            return "state"
        case Offer() | OfferDelta():
            return "offer"
        case StatusReport():
            return "status"
        case CommandAck():
            return "ack"
        case _:
            return "net"


def _ended_badly(launch: Launch) -> TaskEnded:
    return TaskEnded(task_id=launch.task_id, attempt=launch.attempt, reason="start", detail="internal error")


def _first(group: BaseExceptionGroup[StorageError]) -> StorageError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StorageError), "split by type"
    return found


@contextlib.asynccontextmanager
async def _stopping(live: LiveAgent, stop: asyncio.Event | None) -> AsyncIterator[None]:
    """Turn SIGTERM and SIGINT, or `stop`, into a clean leave."""
    loop = asyncio.get_running_loop()
    own = stop is None
    asked = stop or asyncio.Event()
    if own:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)

    async def watch() -> None:
        await asked.wait()
        await live.post(ShutdownAsked())

    watcher = asyncio.create_task(watch(), name="stopping")
    try:
        yield
    finally:
        watcher.cancel()
        if own:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
