"""What the live tests of the agent need: a master that speaks the wire by hand, agents."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from agents.config import AgentConfig
from agents.state import ENDED_STATES
from federation.mqtt import MqttLink
from federation.wire import (
    AgentMessage,
    Birth,
    Command,
    CommandAck,
    CommandBatch,
    MasterMessage,
    Ping,
    Pong,
    ShardStatus,
    StatusAck,
    StatusReport,
    TaskStatus,
    Welcome,
    decode_agent_message,
    encode,
    master_topic,
)

T = TypeVar("T")
PATIENCE_S = 20.0  # Two busy cores; each wait ends as soon as its condition holds.


class DeskMaster:
    """Answers births, pings and statuses, and sends unacknowledged commands again after each birth: nothing more."""

    def __init__(self, url: str, agent_id: str) -> None:
        self.agent_id = agent_id
        self.term = 1
        self.heard: list[AgentMessage] = []
        self.statuses: dict[int, TaskStatus | ShardStatus] = {}
        self.times_told: dict[int, int] = {}
        self.commands: dict[int, Command] = {}  # unacknowledged
        self.acks_statuses = True
        self.births: list[Birth] = []
        self._news = asyncio.Condition()
        self._link = MqttLink(
            url,
            f"master-of-{agent_id}",
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
            subscriptions=(f"of/1/a/{agent_id}/+",),
            resend=True,
        )
        self._task: asyncio.Task[None] | None = None
        self.up = asyncio.Event()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._link.run())
        async with asyncio.timeout(PATIENCE_S):
            await self.up.wait()

    async def stop(self) -> None:
        assert self._task is not None
        await self._link.close()
        await self._task

    async def _on_up(self, protocol: str) -> None:
        self.up.set()

    async def _on_down(self, detail: str) -> None:
        self.up.clear()

    async def _on_message(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        message = decode_agent_message(payload)
        self.heard.append(message)
        match message:
            case Birth():
                self.births.append(message)
                self.say(
                    Welcome(term=self.term, boot=message.boot, conn=message.conn, offer_every_us=1_000_000,
                            ping_every_us=1_000_000, offer_lease_us=5_000_000)
                )  # fmt: skip
                self.order(*self.commands.values())
            case Ping(nonce=nonce):
                self.say(Pong(nonce=nonce))
            case CommandAck(cmd_ids=cmd_ids):
                for cmd_id in cmd_ids:
                    self.commands.pop(cmd_id, None)
            case StatusReport(statuses=statuses):
                for status in statuses:
                    known = self.statuses.setdefault(status.status_id, status)
                    assert known == status or status.status_id == 0, "a status id says one thing for ever"
                    self.times_told[status.status_id] = self.times_told.get(status.status_id, 0) + 1
                if self.acks_statuses:
                    self.say(StatusAck(term=self.term, status_ids=tuple(status.status_id for status in statuses)))
            case _:
                pass
        self._link.ack(delivery)
        async with self._news:
            self._news.notify_all()

    def say(self, message: MasterMessage) -> None:
        channel = "cmd" if isinstance(message, CommandBatch) else "ctl"
        self.say_bytes(encode(message), channel)

    def say_bytes(self, payload: bytes, channel: str) -> None:
        self._link.publish(master_topic(self.agent_id, channel), payload)  # type: ignore[arg-type]

    def order(self, *commands: Command) -> None:
        self.commands |= {command.cmd_id: command for command in commands}
        if self.births and commands:
            birth = self.births[-1]
            self.say(CommandBatch(term=self.term, boot=birth.boot, conn=birth.conn, commands=commands))

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition()` is true, checking after each message; returns its value."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while not (value := condition()):
                await self._news.wait()
            return value

    def states(self, task_id: str) -> list[str]:
        return [s.state for _, s in sorted(self.statuses.items()) if isinstance(s, TaskStatus) and s.task_id == task_id]

    def end_of(self, task_id: str) -> TaskStatus | None:
        ends = (
            status
            for status in self.statuses.values()
            if isinstance(status, TaskStatus) and status.task_id == task_id and status.state in ENDED_STATES
        )
        return next(ends, None)


class AgentProcess:
    """`python -m agents` with this configuration."""

    def __init__(self, settings: AgentConfig, folder: Path, *, fsize_max: int | None = None) -> None:
        self.log_path = folder / "agent.log"
        limit = f"ulimit -f {fsize_max // 512}; " if fsize_max is not None else ""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", limit + 'exec "$@"', "sh", sys.executable, "-P", "-m", "agents",
                 msgspec.json.encode(settings).decode(), "debug"],
                stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    async def leave(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.to_thread(self.process.wait)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
