"""The live driver: gives the core its events and the time, makes its facts durable, then does what it commands.

One loop handles every event that waits, commits the facts of all of them at once, and only then acts on the commands
and acknowledges the messages: what is sent was committed first, what is acknowledged is durable. One bounded inbox
(full, it stops the reading of the broker's socket), one timer, one policy thread.

When the journal fails, nothing of the batch is sent: the master says goodbye and `run` raises `StorageError`. When the
core raises, the event is set aside and the master goes on from the journal (`federation.recovery`).
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import structlog

from federation import set_aside
from federation.api import Answer, Request
from federation.blobs import BlobStore
from federation.clock import Clock
from federation.commands import Announce, Command, Emit, Persist, Reply, Send, Solve
from federation.config import LiveConfig
from federation.driver_log import log_handled
from federation.errors import ConfigError, StorageError
from federation.events import (
    Asked,
    BrokerFound,
    BrokerLost,
    DeadlinePassed,
    Event,
    FrameworkCalled,
    GarbageArrived,
    PlanFailed,
    Started,
    StreamClosed,
)  # fmt: skip
from federation.facts import Fact
from federation.journal import Journal
from federation.lateness import Lateness
from federation.market.protocol import Call
from federation.master import Master
from federation.mqtt import MqttLink, Will
from federation.mqtt_access import Access, open_access
from federation.postman import AGENT_TOPICS, event_of, payloads_of
from federation.recording import Recorder
from federation.recovery import FaultError, Faults, keep_copy, recover, start_recording
from federation.round_state import REFUSED_WHILE_RECOVERING
from federation.saved import encode_saved
from federation.solver import contained
from federation.streams import FrameworkStreams
from federation.wire import MASTER_STATE_TOPIC, MasterState, encode, master_topic
from policies import registry
from policies.api import Policy

log = structlog.get_logger("offerflow.master")

# The broker keeps our session this long. Longer only piles up offers that nobody wants; agents repeat what matters.
_SESSION_S: Final = 60
# Statuses and births arrive in bursts of one per agent; the broker may have this many on the way to us.
_RECEIVE_MAX: Final = 1_024
# Launches waiting for the broker: 10 s of the highest rate we measured. What is dropped here is sent again.
_OUTBOX_MAX: Final = 20_000
_READ_FACTS: Final = 256


class _Delivery(NamedTuple):
    event: Event
    delivery: int  # what the broker is to forget once the event's facts are durable; 0: nothing


class LiveMaster:
    """A master that runs. Make it with `open`, then `await run()`; everything else may be called while it runs."""

    def __init__(
        self,
        config: LiveConfig,
        master: Master,
        journal: Journal[Fact],
        clock: Clock,
        make_policy: Callable[[], Policy],
        access: Access,
    ) -> None:
        """Use `open`. `master` must hold every fact of `journal`."""
        self.config = config
        self.master = master
        self.journal = journal
        self.blobs = BlobStore(_folder(config) / "shards")
        self.policy_name = config.policy
        self._clock = clock
        self._solver = contained(config, make_policy)
        self._dry_solver = contained(config, make_policy)  # A dry run must not touch the policy's state.
        self._inbox: asyncio.Queue[_Delivery] = asyncio.Queue(config.inbox_max)
        self._replies: dict[str, asyncio.Future[Answer]] = {}
        self.streams = FrameworkStreams(self._stream_gone)
        self._request_ids = itertools.count(1)
        self._term = master.term + 1
        self._http_url = ""
        self._link = MqttLink(
            access.url,
            f"of-{config.name}",
            on_message=self._message_arrived,
            on_up=self._broker_found,
            on_down=self._broker_lost,
            on_refused=self._publish_refused,
            subscriptions=[AGENT_TOPICS],
            will=lambda: Will(MASTER_STATE_TOPIC, self._state(online=False), retain=True),
            session_s=_SESSION_S,
            receive_max=_RECEIVE_MAX,
            outbox_max=_OUTBOX_MAX,
            resend=True,
            tls=access.tls,
        )
        self._broker_detail = "lost: not connected yet"
        self._committed = asyncio.Event()  # Set, and replaced, when the journal has grown.
        self._snapshot_seq = journal.last_seq
        self._stopping = asyncio.Event()
        self._failure: StorageError | None = None
        self._recorder: Recorder | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._snapshot: asyncio.Task[None] | None = None
        self._log_all = config.log_level == "debug"
        self._faults = Faults()
        self._lateness = Lateness()
        self._counts = {"events": 0, "commits": 0, "facts": 0, "commit_us": 0, "faults": 0}

    @classmethod
    def open(cls, config: LiveConfig, make: type[Master] = Master) -> Self:
        """Recover the master, a `make`, from its folder; blocks. Raises `ConfigError` and `StorageError`."""
        access = open_access(config)
        try:
            registry.load(config.policy, config.costs)
            if config.fallback_policy:
                registry.load(config.fallback_policy)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        folder = _folder(config)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be made ({error.strerror}): name another one") from None
        journal: Journal[Fact] = Journal.open(folder / "journal.sqlite", Fact, history=config.history_facts)
        master, at_us = recover(config, journal, make)
        clock = Clock(at_us)
        if clock.behind_us:
            log.warning(
                "the machine's clock is behind the journal; going on from the journal's", behind_us=clock.behind_us
            )
        return cls(config, master, journal, clock, lambda: registry.load(config.policy, config.costs), access)

    # --- what others call --------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        return self._clock.now_us()

    def broker_status(self) -> str:
        """For people; starts with "connected" while the session stands."""
        return self._broker_detail

    def gauges(self) -> dict[str, int]:
        """What stands now, for metrics."""
        return {
            "inbox_events": self._inbox.qsize(),
            "requests_waiting": len(self._replies),
            "mqtt_unsent": self._link.n_unsent,
            "framework_streams": len(self.streams),
            "journal_seq": self.journal.last_seq,
            "loop_late_us_max": self._lateness.us_max,
        }

    def counters(self) -> dict[str, int]:
        """What happened since the start, for metrics."""
        return self._counts | {f"mqtt_{name}": count for name, count in self._link.counters.items()}

    async def ask(self, request: Request, principal: str = "") -> Answer:
        """Ask for a change; the answer comes once it is durable. Raises `StorageError` when nothing can be any more."""
        request_id = self._new_request_id()
        return await self._answer(request_id, Asked(request_id=request_id, request=request, principal=principal))

    async def call(self, call: Call, framework_id: str, stream_id: str, principal: str = "") -> Answer:
        """A framework's call: taken or refused, once that is durable. Raises `StorageError`."""
        request_id = self._new_request_id()
        event = FrameworkCalled(
            request_id=request_id, framework_id=framework_id, stream_id=stream_id, principal=principal, call=call
        )
        return await self._answer(request_id, event)

    def _new_request_id(self) -> str:
        return f"{self._term}-{next(self._request_ids)}"

    async def _answer(self, request_id: str, event: Event) -> Answer:
        self._refuse_if_over()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = answer
        try:
            await self._inbox.put(_Delivery(event, 0))
            self._refuse_if_over()
            return await answer
        finally:
            del self._replies[request_id]

    async def subscribe(self, after_seq: int | None = None) -> AsyncGenerator[tuple[int, Fact], None]:
        """Committed facts with their numbers, from after `after_seq` (None: from now on). Raises `StorageError` when
        the master ends."""
        seq = self.journal.last_seq if after_seq is None else after_seq
        while True:
            grown = self._committed
            while facts := await self.journal.read(seq, _READ_FACTS):
                for seq, fact in facts:
                    yield seq, fact
            self._refuse_if_over()
            await grown.wait()

    def stop(self) -> None:
        """Ask `run` to end in good order."""
        self._stopping.set()
        if self._inbox.empty():
            self._inbox.put_nowait(_Delivery(DeadlinePassed(), 0))  # Wakes the loop; saying the time harms nobody.

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, http_url: str = "") -> None:
        """Serve until `stop`, cancellation or failure. Raises `StorageError` when the journal fails."""
        self._http_url = http_url
        self._recorder = start_recording(self.config, self.master, self._clock.now_us())
        self._help(self._lateness.watch(), "lateness")
        serving = asyncio.create_task(self._loop(), name="serve")
        linking = asyncio.create_task(self._link.run(), name="mqtt")
        try:
            await asyncio.wait((serving, linking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end()
            await self._leave(serving, linking)
        for task in (serving, linking):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _leave(self, serving: asyncio.Task[None], linking: asyncio.Task[None]) -> None:
        in_order = serving.done() and not serving.cancelled() and serving.exception() is None
        tasks = [serving, *self._helpers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not linking.done():
            self._link.publish(MASTER_STATE_TOPIC, self._state(online=False), retain=True)
            await self._link.close(self.config.stop_us / 1e6)
            await asyncio.gather(linking, return_exceptions=True)
        if in_order:
            with contextlib.suppress(StorageError):  # The facts are safe: the next start only takes longer.
                await self._saving()
        await self.journal.close()

    async def _loop(self) -> None:
        batch = [_Delivery(self._started(), 0)]  # Before whatever waits already.
        while not self._stopping.is_set():
            try:
                commands = self._handle(batch)
            except FaultError as fault:
                batch = await self._begin_again(batch, fault)
                continue
            await self._commit([command.fact for command in commands if isinstance(command, Persist)])
            for command in commands:
                self._act(command)
            for _, delivery in batch:
                self._link.ack(delivery)
            if self._recorder is not None:
                self._recorder.flush()
            self._snapshot_if_due()
            batch = await self._next_batch()

    def _handle(self, batch: list[_Delivery]) -> list[Command]:
        """Raises `FaultError`: the core is then not to be used any more."""
        commands: list[Command] = []
        for place, (event, _) in enumerate(batch):
            if isinstance(event, Asked | FrameworkCalled) and self._is_answered(event.request_id):
                continue  # When the core began again; whoever asked is asking anew.
            now_us = self._clock.now_us()
            if self._recorder is not None:
                self._recorder.add(event, now_us)
            try:
                made = self.master.handle(event, now_us)
            except Exception as error:
                raise FaultError(place, error) from error
            log_handled(event, made, now_us, everything=self._log_all)
            commands += made
        self._counts["events"] += len(batch)
        return commands

    async def _commit(self, facts: list[Fact]) -> None:
        if not facts:
            return
        began_us = self._clock.now_us()
        try:
            await self.journal.commit(facts)
        except StorageError as error:
            self._failure = error
            log.error("the journal failed; stepping down", error=str(error))
            raise
        self._counts["commits"] += 1
        self._counts["facts"] += len(facts)
        self._counts["commit_us"] += self._clock.now_us() - began_us
        grown, self._committed = self._committed, asyncio.Event()
        grown.set()

    async def _begin_again(self, batch: list[_Delivery], fault: FaultError) -> list[_Delivery]:
        """Throw away the core that raised, set the event aside, durably, and go on from the journal as a restart would;
        returns what is to be handled then. Raises what the core raised when it does so too often, or at its start."""
        event, delivery = batch[fault.place]
        now_us = self._clock.now_us()
        log.error("handling an event raised; it is set aside", exc_info=fault.error, event_type=type(event).__name__)
        if isinstance(event, Started) or self._faults.is_too_often(now_us):
            raise fault.error
        self._counts["faults"] += 1
        await self._commit([set_aside.fact_of(event, fault.error, now_us)])
        self._link.ack(delivery)
        self.master = (await asyncio.to_thread(recover, self.config, self.journal, type(self.master))).master
        await asyncio.to_thread(keep_copy, _folder(self.config) / "set-aside", self.master, event, now_us)
        for request_id, waiting in self._replies.items():
            if not waiting.done():
                guilty = isinstance(event, Asked | FrameworkCalled) and event.request_id == request_id
                waiting.set_result(set_aside.problem() if guilty else REFUSED_WHILE_RECOVERING)
        self.streams.end_all()
        self._end_recording("the master began again after a fault")
        self._term = self.master.term + 1
        first: list[Event] = [self._started()]
        if not self._broker_detail.startswith("connected"):
            first.append(BrokerLost(detail=self._broker_detail.removeprefix("lost: ")))
        return [*(_Delivery(each, 0) for each in first), *batch[: fault.place], *batch[fault.place + 1 :]]

    def _started(self) -> Started:
        return Started(term=self._term, http_url=self._http_url)

    def _is_answered(self, request_id: str) -> bool:
        waiting = self._replies.get(request_id)
        return waiting is not None and waiting.done()

    async def _next_batch(self) -> list[_Delivery]:
        """Everything that waits, at least one event: the deadline, if nothing comes before it."""
        due_us = self.master.next_deadline_us()
        batch: list[_Delivery] = []
        if due_us is not None and due_us <= self._clock.now_us():
            await asyncio.sleep(0)  # A core that is always due must not starve the loop.
            batch.append(_Delivery(DeadlinePassed(), 0))
        elif self._inbox.empty():
            try:
                async with asyncio.timeout(None if due_us is None else max(0, due_us - self._clock.now_us()) / 1e6):
                    batch.append(await self._inbox.get())
            except TimeoutError:
                batch.append(_Delivery(DeadlinePassed(), 0))
        while len(batch) < self.config.batch_max and not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        return batch

    def _act(self, command: Command) -> None:
        match command:
            case Persist():
                pass
            case Send(agent_id=agent_id, message=message, expires_in_us=expires_in_us):
                expires_s = None if expires_in_us is None else max(1, expires_in_us // 1_000_000)
                for channel, payload in payloads_of(message):
                    topic = master_topic(agent_id, channel)
                    if not self._link.publish(topic, payload, expires_s=expires_s):
                        log.warning("a message was dropped; it will be sent again", topic=topic)
            case Announce(state=state):
                self._link.publish(MASTER_STATE_TOPIC, encode(state), retain=True)
            case Solve():
                self._help(self._solve(command), "solve")
            case Emit():
                self.streams.emit(command)
            case Reply(request_id=request_id, answer=answer):
                waiting = self._replies.get(request_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)

    async def _solve(self, command: Solve) -> None:
        solver, term = self._solver if command.round_id >= 0 else self._dry_solver, self._term
        event = await solver.solve(command.round_id, command.snapshot)
        if term != self._term:
            return  # Asked by a core that is no more.
        if isinstance(event, PlanFailed):
            log.warning("the policy failed", policy=self.policy_name, round_id=event.round_id, detail=event.detail)
        elif event.failure:
            log.warning(
                "the policy failed, the fallback took the round",
                policy=self.policy_name, fallback=event.policy, round_id=event.round_id, detail=event.failure,
            )  # fmt: skip
        await self._inbox.put(_Delivery(event, 0))

    def _stream_gone(self, framework_id: str, stream_id: str) -> None:
        async def tell() -> None:
            await self._inbox.put(_Delivery(StreamClosed(framework_id=framework_id, stream_id=stream_id), 0))

        if not self._stopping.is_set():
            self._help(tell(), "stream-gone")

    # --- the broker --------------------------------------------------------------------------------------------------

    async def _message_arrived(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        event = event_of(topic, payload, retained)
        if isinstance(event, GarbageArrived):
            log.warning("garbage arrived", agent_id=event.agent_id, code=event.code, n_bytes=event.n_bytes)
        await self._inbox.put(_Delivery(event, delivery))

    async def _broker_found(self, protocol: str) -> None:
        address = self._link.address
        self._broker_detail = f"connected to {address.host}:{address.port} over MQTT {protocol}"
        await self._inbox.put(_Delivery(BrokerFound(), 0))

    async def _broker_lost(self, detail: str) -> None:
        was_connected = self._broker_detail.startswith("connected")
        self._broker_detail = f"lost: {detail}"
        if was_connected:
            await self._inbox.put(_Delivery(BrokerLost(detail=detail), 0))
        else:
            log.warning("no broker", detail=detail)

    def _publish_refused(self, topic: str, reason: str) -> None:
        log.error("the broker refuses a message: check its access rules", topic=topic, reason=reason)

    def _state(self, *, online: bool) -> bytes:
        return encode(MasterState(term=self._term, online=online, http_url=self._http_url))

    # --- snapshots, recording, the end -------------------------------------------------------------------------------

    def _snapshot_if_due(self) -> None:
        due = self.journal.last_seq - self._snapshot_seq >= self.config.snapshot_every_facts
        if due and (self._snapshot is None or self._snapshot.done()):
            self._snapshot = self._help(self._save_or_stop(self._saving()), "snapshot")

    async def _save_or_stop(self, saving: Coroutine[Any, Any, None]) -> None:
        try:
            await saving
        except StorageError as error:  # The journal is dead: the next commit would say the same.
            self._failure = error
            self.stop()

    def _help(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)
        return task

    def _saving(self) -> Coroutine[Any, Any, None]:
        """A snapshot of this very moment, at which the core holds exactly the facts of the journal; awaiting the
        result writes it, whatever the core has done by then."""
        seq = self._snapshot_seq = self.journal.last_seq
        durable, now_us = self.master.durable(), self._clock.now_us()

        async def save() -> None:
            await self.journal.snapshot(seq, await asyncio.to_thread(encode_saved, now_us, durable))
            log.info("snapshot", seq=seq)

        return save()

    def _end(self) -> None:
        """Nobody may wait for what will not come."""
        self._stopping.set()
        self.streams.stop()
        self._solver.close()
        self._dry_solver.close()
        self._broker_detail = "lost: the master has stopped"
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(self._failure or _stopped())
        while not self._inbox.empty():
            self._inbox.get_nowait()  # Whoever waits for room wakes up and is told.
        self._committed.set()
        self._end_recording()

    def _end_recording(self, reason: str = "") -> None:
        if self._recorder is None:
            return
        self._recorder.close()
        if reason := self._recorder.failure or reason:
            log.warning("the recording is incomplete", reason=reason)
        self._recorder = None

    def _refuse_if_over(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping.is_set():
            raise _stopped()


def _stopped() -> StorageError:
    return StorageError("the master is stopping: ask again when it is back")


def _folder(config: LiveConfig) -> Path:
    return Path(config.folder).expanduser()
