"""The agent's core: what a device decides, without I/O, clock, random source or logger.

`Agent(config, facts)` recovers; the first event is `Started`. Every batch of commands it returns may hold facts: the
driver makes all of them durable before it acts on anything else of the batch, an `Acknowledge` included.
"""

from collections.abc import Iterable

from agents.commands import Acknowledge, AllowProbes, Command, Leave
from agents.config import AgentConfig
from agents.events import (
    Connected,
    DeadlinePassed,
    Disconnected,
    Event,
    FetchEnded,
    FetchesProgressed,
    GarbageArrived,
    LinksMeasured,
    MasterSpoke,
    Measured,
    ProbeServed,
    ShardFound,
    ShardRemoved,
    ShutdownAsked,
    Started,
    StepsTold,
    TaskEnded,
    TaskStarted,
)
from agents.facts import Booted, Fact, StatusesAcked
from agents.measuring import Measuring
from agents.metering import Meter
from agents.offering import Offering
from agents.outbox import Outbox
from agents.session import Batch, Session, earlier
from agents.state import State
from agents.work import Work
from federation.wire import (
    Birth,
    CommandAck,
    CommandBatch,
    Death,
    HeldShard,
    Launch,
    MasterMessage,
    MasterState,
    Pong,
    ProbePlan,
    Quarantine,
    RebirthRequest,
    ShardStatus,
    Status,
    StatusAck,
    StatusReport,
    Welcome,
)

VERSION = "0.1.0"
_BIRTH_SHARDS_MAX = 2048  # the wire's bound
_BIRTH_SHARDS_BYTES_MAX = 100 * 1024  # with 120 KiB of tasks and the rest, below the wire's 256 KiB
_SHARD_BYTES = 64 + 40  # id, field names, size
_UNTOLD_PER_REPORT = 256


class Agent:
    """What the agent decides; the same object runs live and in scenarios."""

    def __init__(self, config: AgentConfig, journal_facts: Iterable[Fact] = ()) -> None:
        self.config = config
        self.counters: dict[str, int] = {}
        self._state = State(journal_facts)
        self._session = Session(config, self._state)
        self._outbox = Outbox(config, self._state)
        self._offering = Offering(config, self._state)
        self._meter = Meter(config, self._state)
        self._measuring = Measuring(config, self._meter)
        self._work = Work(config, self._state, self._offering)
        self._started: Started | None = None
        self._leaving = False
        self._bytes_received = self._n_received = 0

    # --- for the driver ----------------------------------------------------------------------------------------------

    @property
    def boot(self) -> int:
        return self._state.boot

    def processes(self) -> tuple[tuple[str, Launch], ...]:
        """Handle and launch of every attempt that was running when the journal ended: to be looked for at a start."""
        return tuple((held.handle, held.launch) for held in self._state.live_attempts() if held.handle)

    def will(self) -> Death:
        """To be registered with the next connection."""
        return self._session.will()

    def facts(self) -> list[Fact]:
        """The shortest journal that leads here. Equal iff the durable states are equal."""
        return self._state.facts()

    def held_shards(self) -> tuple[HeldShard, ...]:
        return tuple(self._state.shards.values())

    # --- the machine -------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_us: int) -> list[Command]:
        return self.handle_all((event,), now_us)

    def handle_all(self, events: Iterable[Event], now_us: int) -> list[Command]:
        """What waits is handled in its order; then what it led to is told once, ten statuses in one report."""
        batch = Batch(self._state, now_us)
        for event in events:
            if not self._leaving:
                self._dispatch(event, batch)
        if not self._leaving:
            self._flush(batch)
        return batch.commands

    def next_deadline_us(self) -> int | None:
        """When time alone changes something; None: never. Not in the future: at once."""
        if self._started is None or self._leaving:
            return None
        session = self._session
        due_us = earlier(self._measuring.due_us(session), session.birth_due_us)
        if session.is_welcome:
            due_us = earlier(earlier(due_us, self._offering.due_us(session)), self._outbox.retry_due_us)
        return due_us

    def _dispatch(self, event: Event, batch: Batch) -> None:
        match event:
            case Started():
                self._start(event, batch)
            case Connected():
                self._session.on_connected(batch.now_us)
            case Disconnected():
                self._session.on_disconnected()
                self._measuring.on_disconnected()
            case MasterSpoke(message=message, delivery=delivery):
                self._receive(event.n_bytes)
                received_us = batch.now_us if event.received_us is None else event.received_us
                self._hear(message, received_us, batch)
                self._acknowledge(delivery, batch)
            case GarbageArrived(code=code, delivery=delivery):
                self._receive(event.n_bytes)
                self._count(f"garbage_{code}")
                self._acknowledge(delivery, batch)
            case Measured(usable=usable):
                self._offering.measured(usable)
            case LinksMeasured(samples=samples, busy=busy):
                self._measuring.on_cpu_spent(event.cpu_us, batch.now_us)
                self._measuring.on_links_measured(samples, batch.now_us, busy=busy)
            case ProbeServed(n_bytes=n_bytes):
                self._measuring.on_cpu_spent(event.cpu_us, batch.now_us)
                self._meter.on_served(n_bytes)
            case FetchEnded():
                self._measuring.gather(event.samples, batch.now_us)
                self._work.on_fetch_ended(batch, event)
            case FetchesProgressed():
                self._measuring.on_fetches_progressed(event, batch.now_us)
            case StepsTold(steps=steps):
                self._measuring.on_steps_told(steps)
            case TaskStarted():
                self._work.on_task_started(batch, event)
            case TaskEnded():
                self._work.on_task_ended(batch, event)
            case ShardRemoved(shard_id=shard_id, reason=reason):
                self._work.on_shard_removed(batch, shard_id, reason)
            case ShardFound(shard=shard):
                self._work.on_shard_found(batch, shard)
            case ShutdownAsked():
                self._session.publish(batch, Death, reason="shutdown")
                batch.do(Leave())
                self._leaving = True
            case DeadlinePassed():
                pass  # `_flush` does what is due.

    def _start(self, event: Started, batch: Batch) -> None:
        assert self._started is None, "Started comes once"
        self._started = event
        self._offering.total = event.total
        batch.persist(Booted(boot=self._state.boot + 1))
        self._work.on_started(batch, event.running, event.shards)
        self._meter.on_started(batch.now_us)
        self._measuring.on_started(batch.now_us)

    def _receive(self, n_bytes: int) -> None:
        self._bytes_received += n_bytes
        self._n_received += 1

    def _acknowledge(self, delivery: int, batch: Batch) -> None:
        if delivery:
            batch.do(Acknowledge(delivery=delivery))

    # --- from the master ---------------------------------------------------------------------------------------------

    def _hear(self, message: MasterMessage, received_us: int, batch: Batch) -> None:
        if isinstance(message, Pong):
            self._measuring.on_pong(message, batch.now_us)
            return
        if not self._session.admits(batch, message.term):
            self._count("stale_term")
            return
        match message:
            case CommandBatch():
                self._command(message, received_us, batch)
            case Welcome():
                self._welcome(message, batch)
            case StatusAck(status_ids=status_ids):
                known = tuple(status_id for status_id in status_ids if status_id in self._state.outbox)
                if known:
                    batch.persist(StatusesAcked(status_ids=known))
                self._outbox.on_acked(status_ids)
            case RebirthRequest():
                self._session.on_rebirth_request(message, batch.now_us)
            case ProbePlan():
                self._measuring.on_probe_plan(message, batch.now_us)
            case Quarantine():
                self._offering.quarantined = True
                self._count("quarantined")
            case MasterState(term=term, online=online):
                self._session.on_master_state(term, online, batch.now_us)

    def _welcome(self, welcome: Welcome, batch: Batch) -> None:
        if not self._session.on_welcome(welcome):
            self._count("welcome_for_another_life")
            return
        self._offering.quarantined = False
        self._offering.restart()
        self._outbox.restart()
        self._measuring.on_welcome(batch.now_us)

    def _command(self, message: CommandBatch, received_us: int, batch: Batch) -> None:
        if (message.boot, message.conn) != (self._state.boot, self._session.conn) or not self._session.connected:
            self._count("commands_for_another_life")  # The master sends them again after the birth.
            return
        acked: list[int] = []
        repeated: list[Status] = []
        for command in message.commands:
            key = (command.task_id, command.attempt) if isinstance(command, Launch) else None
            held = self._state.attempts.get(key) if key is not None else None
            if self._state.is_taken(command.cmd_id) or held is not None:
                self._count("duplicate_commands")
                if held is not None and (status := self._outbox.repeat(held)) is not None:
                    repeated.append(status)
            elif self._outbox.has_room(1):
                self._work.take(batch, message.term, command, received_us)
            else:
                self._count("outbox_full")  # Neither taken nor acknowledged: it comes again.
                continue
            acked.append(command.cmd_id)
        if acked:
            self._session.publish(batch, CommandAck, cmd_ids=tuple(acked))
        if repeated:
            self._session.publish(batch, StatusReport, statuses=tuple(repeated))

    # --- to the master -----------------------------------------------------------------------------------------------

    def _flush(self, batch: Batch) -> None:
        if self._started is None:
            return
        birth_due_us = self._session.birth_due_us
        if birth_due_us is not None and batch.now_us >= birth_due_us:
            self._birth(batch, self._started)
        self._outbox.flush(batch, self._session)
        self._tell_shards(batch)
        self._offering.flush(batch, self._session)
        session = self._session
        control_bytes = session.bytes_sent + self._bytes_received
        if self._meter.is_on:
            self._meter.on_control(control_bytes, session.n_sent + self._n_received, session.conn, batch.now_us)
        self._measuring.flush(batch, session, control_bytes)
        if self._meter.flush(batch):
            batch.do(AllowProbes(n_bytes=self._meter.allowed_bytes or 0))

    def _birth(self, batch: Batch, started: Started) -> None:
        config = self.config
        shards = self._birth_shards()
        self._session.publish(
            batch,
            Birth,
            version=VERSION,
            site=config.site,
            tier=config.tier,
            total=started.total,
            region=config.region,
            labels=tuple(sorted(config.labels.items())),
            hardware=config.hardware or started.hardware,
            speed_milli=config.speed_milli or started.speed_milli,
            price_microusd_per_cpu_hour=config.price_microusd_per_cpu_hour,
            data_url=started.data_url,
            metered=config.metered,
            tasks=self._work.held_tasks(),
            shards=shards,
            shards_complete=len(shards) == len(self._state.shards),
        )
        listed = {shard.shard_id for shard in shards}
        self._work.untold = {key: shard for key, shard in self._state.shards.items() if key not in listed}
        self._session.on_birth_sent(batch.now_us)

    def _birth_shards(self) -> tuple[HeldShard, ...]:
        shards: list[HeldShard] = []
        n_bytes = 0
        for shard in self._state.shards.values():
            n_bytes += _SHARD_BYTES + len(shard.name.encode())
            if n_bytes > _BIRTH_SHARDS_BYTES_MAX or len(shards) == _BIRTH_SHARDS_MAX:
                break
            shards.append(shard)
        return tuple(shards)

    def _tell_shards(self, batch: Batch) -> None:
        """Shards that the birth had no room for, or that were found since. Not in the outbox: a lost report is mended
        by the next birth. Their status id is 0, which no acknowledgement needs to name."""
        if not self._work.untold or not self._session.is_welcome:
            return
        shards = list(self._work.untold.values())
        self._work.untold.clear()
        for start in range(0, len(shards), _UNTOLD_PER_REPORT):
            statuses = tuple(
                ShardStatus(status_id=0, shard=shard, state="held")
                for shard in shards[start : start + _UNTOLD_PER_REPORT]
            )
            self._session.publish(batch, StatusReport, statuses=statuses)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
