"""What one agent costs a device: memory, CPU, start, control traffic. Real process, real Mosquitto, on loopback.

    python -m benchmarks.agent_footprint --json PATH [--warm-up 20] [--seconds 120]

- start_s: from `offerflow agent run` to its first offer at the master, on a fresh data folder (calibration included);
  the median of three starts. `start_cpu_s` is the processor time of one: what counts on a busy machine.
- pss_bytes: proportional set size after one task has run and the warm-up has passed. Other Python processes share
  pages with it, so `rss_bytes` (every shared page counted whole) is the bound for a device that runs nothing else.
- cpu_percent: of one core, while idle but connected: measuring, pinging, offering at the master's default rates.
- control_bytes_per_hour: every byte of its MQTT connection, both ways, counted by a relay in between (without TCP/IP).

The master is played by this program over the wire, with the rates of `MasterConfig`; it answers and asks nothing.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from federation.broker import start_broker
from federation.config import MasterConfig
from federation.mqtt import MqttLink, parse_url
from federation.wire import (
    AgentMessage,
    Birth,
    CommandBatch,
    Launch,
    MasterChannel,
    MasterMessage,
    Offer,
    Ping,
    Pong,
    StatusAck,
    StatusReport,
    TaskStatus,
    Welcome,
    decode_agent_message,
    encode,
    master_topic,
)
from policies.model import Needs

AGENT_ID = "footprint"
TARGETS = {"pss_bytes": 40 * 10**6, "cpu_percent": 1.0, "start_s": 2.0}
PATIENCE_S = 30.0
STARTS = 3


class Relay:
    """Counts what passes between the agent and the broker."""

    def __init__(self, host: str, port: int) -> None:
        self.n_bytes = 0
        self._peer = (host, port)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(*self._peer)
        await asyncio.gather(self._pump(reader, downstream), self._pump(upstream, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.n_bytes += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


class Answerer:
    """The master's part of the wire."""

    def __init__(self, url: str) -> None:
        self.config = MasterConfig()
        self.offered = asyncio.Event()
        self.task_ended = asyncio.Event()
        self.birth: Birth | None = None
        self._up = asyncio.Event()
        self._link = MqttLink(
            url,
            "footprint-master",
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
            subscriptions=(f"of/1/a/{AGENT_ID}/+",),
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._link.run())
        await asyncio.wait_for(self._up.wait(), PATIENCE_S)

    async def stop(self) -> None:
        await self._link.close()
        assert self._task is not None
        await self._task

    async def joined(self) -> float:
        """Seconds from this call to the agent's first offer."""
        self.offered.clear()
        began = time.monotonic()
        await asyncio.wait_for(self.offered.wait(), PATIENCE_S)
        return time.monotonic() - began

    def say(self, message: MasterMessage) -> None:
        channel: MasterChannel = "cmd" if isinstance(message, CommandBatch) else "ctl"
        self._link.publish(master_topic(AGENT_ID, channel), encode(message))

    async def _on_up(self, protocol: str) -> None:
        self._up.set()

    async def _on_down(self, detail: str) -> None:
        print(f"the broker: {detail}", file=sys.stderr)

    async def _on_message(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        self._answer(decode_agent_message(payload))
        self._link.ack(delivery)

    def _answer(self, message: AgentMessage) -> None:
        match message:
            case Birth():
                self.birth = message
                self.say(
                    Welcome(
                        term=1,
                        boot=message.boot,
                        conn=message.conn,
                        offer_every_us=self.config.offer_every_us,
                        ping_every_us=self.config.echo_every_us,  # as the master does
                        offer_lease_us=self.config.offer_lease_us,
                    )
                )
            case Offer():
                self.offered.set()
            case Ping(nonce=nonce):
                self.say(Pong(nonce=nonce))
            case StatusReport(statuses=statuses):
                self.say(StatusAck(term=1, status_ids=tuple(status.status_id for status in statuses)))
                if any(isinstance(status, TaskStatus) and status.state == "finished" for status in statuses):
                    self.task_ended.set()
            case _:
                pass


async def measure(warm_up_s: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="offerflow-footprint-") as name:
        folder = Path(name)
        broker = await start_broker(folder / "broker", "mosquitto")
        address = parse_url(broker.url)
        relay = Relay(address.host, address.port)
        url = await relay.start()
        master = Answerer(broker.url)
        await master.start()
        starts: list[float] = []
        try:
            for n in range(STARTS):
                async with _agent(url, folder / f"agent-{n}") as pid:
                    starts.append(await master.joined())
                    start_cpu_s = _cpu_s(pid)
                    if n == STARTS - 1:
                        figures = await _watch(pid, master, relay, warm_up_s, seconds)
            return {**figures, "start_s": round(statistics.median(starts), 3), "start_cpu_s": round(start_cpu_s, 2)}
        finally:
            await master.stop()
            await relay.stop()
            await broker.stop()


@contextlib.asynccontextmanager
async def _agent(url: str, folder: Path) -> AsyncIterator[int]:
    """An agent as an operator starts it; gives its process id."""
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation.cli.main", "agent", "run", "--id", AGENT_ID, "--site", "here"),
        *("--broker", url, "--data-dir", str(folder), "--log-level", "warning"),
    )
    try:
        yield agent.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            agent.terminate()
        await agent.wait()


async def _watch(pid: int, master: Answerer, relay: Relay, warm_up_s: float, seconds: float) -> dict[str, Any]:
    await _run_a_task(master)
    print(f"warming up for {warm_up_s:.0f} s", file=sys.stderr)
    await asyncio.sleep(warm_up_s)
    memory = _memory(pid)
    cpu_s, n_bytes, at = _cpu_s(pid), relay.n_bytes, time.monotonic()
    print(f"measuring for {seconds:.0f} s", file=sys.stderr)
    await asyncio.sleep(seconds)
    passed_s = time.monotonic() - at
    return {
        **memory,
        "cpu_percent": round(100 * (_cpu_s(pid) - cpu_s) / passed_s, 3),
        "control_bytes_per_hour": round((relay.n_bytes - n_bytes) * 3600 / passed_s),
    }


async def _run_a_task(master: Answerer) -> None:
    """So that what a first task loads is counted."""
    assert master.birth is not None
    launch = Launch(
        cmd_id=1, task_id="footprint/task/0", attempt=1, expires_in_us=60_000_000,
        needs=Needs(cpu_milli=100, memory_bytes=2**24), command=("/bin/sh", "-c", "exit 0"),
    )  # fmt: skip
    master.say(CommandBatch(term=1, boot=master.birth.boot, conn=master.birth.conn, commands=(launch,)))
    await asyncio.wait_for(master.task_ended.wait(), PATIENCE_S)


def _memory(pid: int) -> dict[str, int]:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        fields[key] = int(value.split()[0]) * 1024
    return {"pss_bytes": fields["Pss"], "rss_bytes": fields["Rss"]}


def _cpu_s(pid: int) -> float:
    """User and system time, its reaped children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds before memory is read")
    parser.add_argument("--seconds", type=float, default=120.0, help="seconds of idling that are measured")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.warm_up, options.seconds))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for key, value in figures.items():
        target = f"  (target: at most {TARGETS[key]})" if key in TARGETS else ""
        print(f"{key:24} {value}{target}")


if __name__ == "__main__":
    main()
