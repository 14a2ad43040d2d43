"""A small running master for the HTTP tests: the real core, journal and policy, and agents that speak the wire.

It is a driver without a broker, so that a test says exactly what the agents said; the live suite uses `LiveMaster`.
"""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from federation.api import Answer, Request
from federation.commands import Command, Emit, Persist, Reply, Send, Solve
from federation.config import MasterConfig
from federation.errors import PeerError
from federation.events import (
    AgentSpoke,
    Asked,
    BrokerFound,
    DeadlinePassed,
    Event,
    FrameworkCalled,
    PlanReady,
    Started,
    StreamClosed,
)
from federation.facts import Fact
from federation.journal import Journal
from federation.market.protocol import Call
from federation.master import Master
from federation.streams import FrameworkStreams
from federation.wire import AgentMessage, Birth, CommandBatch, HeldShard, Launch, Offer, StatusReport, TaskStatus
from policies import registry
from policies.model import Resources

START_US = 1_700_000_000_000_000
ROOM = Resources(cpu_milli=8000, memory_bytes=16 * 2**30, disk_bytes=100 * 2**30)


class Files:
    """The store: one file a shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.full = False

    def path(self, shard_id: str) -> Path | None:
        path = self.folder / shard_id
        return path if path.exists() else None

    async def put(self, chunks: AsyncIterator[bytes], shard_id: str) -> int:
        body = b"".join([chunk async for chunk in chunks])
        if self.full:
            raise OSError(28, "No space left on device")
        if hashlib.sha256(body).hexdigest() != shard_id:
            raise PeerError("hash", f"the bytes do not hash to {shard_id}")
        (self.folder / shard_id).write_bytes(body)
        return len(body)


class World:
    """A master that serves, on a clock that moves one millisecond an event."""

    def __init__(self, folder: Path) -> None:
        self.policy_name = "fifo"
        self.master = Master(MasterConfig(round_every_us=0), self.policy_name)
        self.journal: Journal[Fact] = Journal.open(folder / "journal.sqlite", Fact)
        self.blobs = Files(folder)
        self.broker = "connected to nothing"
        self.sent: list[Send] = []
        self.principals: list[str] = []
        self.answers = asyncio.Event()  # cleared: the core hangs
        self.answers.set()
        self._now_us = START_US
        self._ids = itertools.count(1)
        self._replies: dict[str, Answer] = {}
        self._grown = asyncio.Condition()
        self.streams = FrameworkStreams(self._stream_gone)
        self._telling: set[asyncio.Task[None]] = set()
        self._policy = registry.load(self.policy_name)

    def now_us(self) -> int:
        return self._now_us

    def broker_status(self) -> str:
        return self.broker

    def gauges(self) -> dict[str, int]:
        return {"journal_seq": self.journal.last_seq}

    def counters(self) -> dict[str, int]:
        return {"events": 1}

    async def start(self) -> None:
        await self.tell(Started(term=1), BrokerFound())

    async def tell(self, *events: Event) -> None:
        """Handle events and whatever follows at once: rounds are solved, due deadlines pass."""
        waiting = list(events)
        while waiting:
            self._now_us += 1000
            commands = self.master.handle(waiting.pop(0), self._now_us)
            facts = [command.fact for command in commands if isinstance(command, Persist)]
            if facts:
                await self.journal.commit(facts)
                async with self._grown:
                    self._grown.notify_all()
            waiting += [event for command in commands for event in self._act(command)]
            due_us = self.master.next_deadline_us()
            if not waiting and due_us is not None and due_us <= self._now_us:
                waiting.append(DeadlinePassed())

    def _act(self, command: Command) -> list[Event]:
        if isinstance(command, Solve):
            return [PlanReady(round_id=command.round_id, plan=self._policy.plan(command.snapshot))]
        if isinstance(command, Reply):
            self._replies[command.request_id] = command.answer
        elif isinstance(command, Emit):
            self.streams.emit(command)
        elif isinstance(command, Send):
            self.sent.append(command)
        return []

    async def ask(self, request: Request, principal: str = "") -> Answer:
        await self.answers.wait()
        self.principals.append(principal)
        request_id = f"request-{next(self._ids)}"
        await self.tell(Asked(request_id=request_id, request=request, principal=principal))
        return self._replies.pop(request_id)

    async def call(self, call: Call, framework_id: str, stream_id: str, principal: str = "") -> Answer:
        request_id = f"request-{next(self._ids)}"
        await self.tell(
            FrameworkCalled(
                request_id=request_id, framework_id=framework_id, stream_id=stream_id, principal=principal, call=call
            )
        )
        return self._replies.pop(request_id)

    def _stream_gone(self, framework_id: str, stream_id: str) -> None:
        task = asyncio.create_task(self.tell(StreamClosed(framework_id=framework_id, stream_id=stream_id)))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def subscribe(self, after_seq: int | None = None) -> AsyncGenerator[tuple[int, Fact], None]:
        seq = self.journal.last_seq if after_seq is None else after_seq
        while True:
            for found_seq, fact in await self.journal.read(seq, 100):
                seq = found_seq
                yield found_seq, fact
            async with self._grown:
                while self.journal.last_seq <= seq:
                    await self._grown.wait()


class FakeAgent:
    """Speaks for one agent, in order."""

    def __init__(self, world: World, agent_id: str, site: str, data_url: str = "") -> None:
        self.world = world
        self.agent_id = agent_id
        self.site = site
        self.data_url = data_url
        self._seq = itertools.count(1)
        self._status_ids = itertools.count(1)

    async def join(self, shards: tuple[HeldShard, ...] = ()) -> None:
        await self._say(
            Birth(
                agent_id=self.agent_id, boot=1, conn=1, version="1", site=self.site, tier="edge", total=ROOM,
                data_url=self.data_url, shards=shards,
            )
        )  # fmt: skip
        await self._say(
            Offer(
                agent_id=self.agent_id, boot=1, conn=1, seq=next(self._seq), offer_id=f"{self.agent_id}-1", free=ROOM,
                expires_in_us=3_600_000_000,
            )
        )  # fmt: skip

    async def report(self, launch: Launch, **fields: object) -> None:
        status = TaskStatus(
            status_id=next(self._status_ids),
            task_id=launch.task_id,
            attempt=launch.attempt,
            term=1,
            **fields,  # type: ignore[arg-type]
        )
        await self._say(StatusReport(agent_id=self.agent_id, boot=1, conn=1, seq=next(self._seq), statuses=(status,)))

    def launches(self) -> list[Launch]:
        """What it was told to run, oldest first."""
        batches = [send.message for send in self.world.sent if send.agent_id == self.agent_id]
        commands = [command for batch in batches if isinstance(batch, CommandBatch) for command in batch.commands]
        return [command for command in commands if isinstance(command, Launch)]

    async def _say(self, message: AgentMessage) -> None:
        await self.world.tell(AgentSpoke(message=message))
