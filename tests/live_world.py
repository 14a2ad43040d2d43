"""What the live tests share: a broker, a running master, and an agent that is only its wire."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.broker import Broker, Kind, find_mosquitto, start_broker
from federation.config import LiveConfig, MasterConfig
from federation.driver import LiveMaster
from federation.jobs import Job, TaskGroup
from federation.mqtt import MqttLink
from federation.wire import (
    MASTER_STATE_TOPIC,
    AgentMessage,
    Birth,
    CommandAck,
    CommandBatch,
    Launch,
    MasterMessage,
    MasterState,
    Offer,
    StatusAck,
    StatusReport,
    TaskStatus,
    Welcome,
    agent_topic,
    decode_master_message,
    encode,
)
from policies.model import Resources

KINDS: list[Any] = [
    pytest.param(
        "mosquitto",
        marks=pytest.mark.skipif(
            find_mosquitto() is None, reason="mosquitto is not installed (apt-get install mosquitto)"
        ),
    ),
    "amqtt",
]
ROOM = Resources(cpu_milli=64_000, memory_bytes=64 * 2**30, disk_bytes=100 * 2**30)


def job(name: str = "work", count: int = 1) -> Job:
    return Job(name=name, tasks=(TaskGroup(name="t", command=("true",), count=count),))


def live_config(folder: Path, url: str, **settings: Any) -> LiveConfig:
    settings.setdefault("master", MasterConfig(round_every_us=1_000, reconcile_timeout_us=2_000_000))
    settings.setdefault("policy", "fifo")
    return LiveConfig(folder=str(folder), broker=url, **settings)


@asynccontextmanager
async def broker_of(folder: Path, kind: Kind | None) -> AsyncIterator[Broker]:
    broker = await start_broker(folder, kind)
    try:
        yield broker
    finally:
        await broker.stop()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The live suite runs against both brokers."""
    chosen: Kind = request.param
    return chosen


@asynccontextmanager
async def running(live: LiveMaster) -> AsyncIterator[LiveMaster]:
    """The master until the block ends; then it stops in good order. What `run` raises comes out."""
    task = asyncio.create_task(live.run("http://127.0.0.1:1"))
    try:
        yield live
    finally:
        live.stop()
        await asyncio.wait_for(task, 20)


async def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the state of a running system, seen from outside
            await asyncio.sleep(0.01)


class WireAgent:
    """Says what the protocol asks for: a birth, an offer, and for each launch an acknowledgement and an end."""

    def __init__(self, url: str, agent_id: str, *, obeys: bool = True) -> None:
        self.agent_id = agent_id
        self.heard: list[MasterMessage] = []
        self.launches: list[Launch] = []
        self.acked_statuses: set[int] = set()
        self._obeys = obeys
        self._conn = 0
        self._seq = itertools.count()
        self._status_ids = itertools.count(1)
        self.link = MqttLink(
            url,
            agent_id,
            on_message=self._hear,
            on_up=self._up,
            on_down=self._down,
            subscriptions=[f"of/1/m/{agent_id}/+", MASTER_STATE_TOPIC],
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["WireAgent"]:
        task = asyncio.create_task(self.link.run())
        try:
            yield self
        finally:
            await self.link.close()
            await asyncio.wait_for(task, 10)

    def say(self, message: type[AgentMessage], channel: Any, **fields: Any) -> None:
        body = message(agent_id=self.agent_id, boot=1, conn=self._conn, seq=next(self._seq), **fields)
        self.link.publish(agent_topic(self.agent_id, channel), encode(body))

    def report(self, launch: Launch, term: int, state: Any, **fields: Any) -> None:
        names = {"task_id": launch.task_id, "attempt": launch.attempt, "term": term}
        status = TaskStatus(status_id=next(self._status_ids), state=state, **names, **fields)
        self.say(StatusReport, "status", statuses=(status,))

    def heard_term(self) -> int:
        """Of the last welcome."""
        return max((message.term for message in self.heard if isinstance(message, Welcome)), default=0)

    async def _up(self, protocol: str) -> None:
        self._be_born()

    def _be_born(self) -> None:
        self._conn += 1
        self._seq = itertools.count()
        self.say(Birth, "state", version="1", site="plant", tier="edge", total=ROOM)
        self.say(Offer, "offer", offer_id=f"o{self._conn}", free=ROOM, expires_in_us=3_600_000_000)

    async def _down(self, detail: str) -> None: ...

    async def _hear(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        message = decode_master_message(payload)
        self.heard.append(message)
        self.link.ack(delivery)
        if isinstance(message, MasterState) and message.online:
            self._be_born()  # It may have come after us, and have missed our birth.
        if isinstance(message, StatusAck):
            self.acked_statuses.update(message.status_ids)
        if isinstance(message, CommandBatch) and message.conn == self._conn:
            self.say(CommandAck, "ack", cmd_ids=tuple(command.cmd_id for command in message.commands))
            for command in message.commands:
                if isinstance(command, Launch):
                    self.launches.append(command)
                    if self._obeys:
                        self.report(command, message.term, "finished", exit_code=0, run_us=1000)
