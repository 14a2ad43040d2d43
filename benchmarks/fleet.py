"""Many simulated agents in one process, over a few real MQTT connections: the load for `benchmarks.control_plane`.

Each agent is the production `Agent` core; only its world is simulated (a task is a timer, a fetch succeeds at once) and
its journal is not written to disk. Agents share connections, because the machine under test has no cores to spare for
5,000 TCP stacks; the broker still routes 5,000 agents' topics.

Run by the benchmark: reads one command a line on stdin and answers each with one JSON line on stdout:
`births` (all agents are born; seconds until the last welcome), `offers N` (each agent sends N new offers; seconds until
the master has answered a ping sent after the last), `launches` (task id → Unix time of its launch's arrival), `stop`.
"""

import argparse
import asyncio
import heapq
import itertools
import json
import sys
import time
from collections.abc import Callable

from agents import commands, events
from agents.agent import Agent
from agents.config import AgentConfig
from federation.mqtt import MqttLink
from federation.wire import (
    AgentChannel,
    AgentMessage,
    Birth,
    CommandAck,
    CommandBatch,
    Death,
    Launch,
    NetReport,
    Offer,
    Ping,
    Pong,
    StatusReport,
    Welcome,
    agent_topic,
    decode_master_message,
    encode,
    master_topic,
)
from policies.model import Resources

CHANNELS: dict[type[AgentMessage], AgentChannel] = {
    Birth: "state",
    Death: "state",
    Offer: "offer",
    StatusReport: "status",
    CommandAck: "ack",
    NetReport: "net",
    Ping: "net",
}
AGENTS_PER_SITE = 50
TOTAL = Resources(cpu_milli=4000, memory_bytes=8 * 2**30, disk_bytes=64 * 2**30)
PONG_NONCE = 2**40  # above any nonce that an agent core counts to here
WAIT_S = 300.0


class Fleet:
    def __init__(self, broker: str, first: int, n_agents: int, n_links: int) -> None:
        self._agents: dict[str, Agent] = {}
        self._link_of: dict[str, MqttLink] = {}
        self._links: list[MqttLink] = []
        self._timers: list[tuple[int, int, str, events.Event | None]] = []
        self._serial = itertools.count()
        self._armed: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._welcomed: set[str] = set()
        self._pongs: set[str] = set()
        self._changed = asyncio.Event()
        self.launched_at: dict[str, float] = {}
        ids = [f"sim-{first + index:05d}" for index in range(n_agents)]
        for index in range(n_links):
            own = ids[index::n_links]
            link = MqttLink(
                broker,
                f"fleet-{first}-{index}",
                on_message=self._on_message,
                on_up=self._on_up,
                on_down=self._on_down,
                subscriptions=[master_topic(agent_id, channel) for agent_id in own for channel in ("cmd", "ctl")],
                receive_max=4096,
                window=4096,
                outbox_max=200_000,
            )
            self._links.append(link)
            self._link_of |= dict.fromkeys(own, link)
        for index, agent_id in enumerate(ids, first):
            site = index // AGENTS_PER_SITE
            config = AgentConfig(
                agent_id=agent_id,
                site=f"site-{site:03d}",
                tier="cloud" if site % 10 == 0 else "edge",
                hardware="simulated",
                speed_milli=1000,
                offer_debounce_us=1_000,
                data_url="http://127.0.0.1:9",  # nobody fetches: there are no shards
            )
            self._agents[agent_id] = Agent(config)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for link in self._links:
                group.create_task(link.run())
            timer = group.create_task(self._keep_time())
            await self._until(lambda: all(link.is_up for link in self._links))
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            print(json.dumps({"ready": len(self._agents)}), flush=True)
            while line := (await reader.readline()).decode().split():
                if line[0] == "stop":
                    break
                print(json.dumps(await self._obey(line)), flush=True)
            for link in self._links:
                await link.close()
            timer.cancel()

    async def _obey(self, line: list[str]) -> dict[str, object]:
        began = time.perf_counter()
        match line:
            case ["births"]:
                for agent_id in self._agents:
                    self._handle(agent_id, events.Started(total=TOTAL))
                    self._handle(agent_id, events.Connected())
                    await asyncio.sleep(0)
                await self._until(lambda: len(self._welcomed) == len(self._agents))
                return {"n": len(self._agents), "seconds": time.perf_counter() - began}
            case ["offers", times]:
                for turn in range(int(times)):
                    usable = Resources(
                        cpu_milli=TOTAL.cpu_milli - 1 - turn % 2,
                        memory_bytes=TOTAL.memory_bytes,
                        disk_bytes=TOTAL.disk_bytes,
                    )
                    for agent_id in self._agents:
                        self._handle(agent_id, events.Measured(usable=usable))
                    await asyncio.sleep(0.002)
                    self._fire_due()
                    await self._until(lambda: all(link.n_unsent < 2000 for link in self._links))
                last = [
                    next(agent_id for agent_id in self._agents if self._link_of[agent_id] is link)
                    for link in self._links
                ]
                self._pongs.clear()
                for agent_id in last:
                    ping = Ping(agent_id=agent_id, boot=1, conn=1, seq=2**40, nonce=PONG_NONCE)
                    self._link_of[agent_id].publish(agent_topic(agent_id, "net"), encode(ping))
                await self._until(lambda: self._pongs >= set(last))
                return {"n": len(self._agents) * int(times), "seconds": time.perf_counter() - began}
            case ["launches"]:
                return {"launched_at": self.launched_at}
            case _:
                return {"error": f"unknown command {line}"}

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def _on_up(self, protocol: str) -> None:
        self._changed.set()

    async def _on_down(self, detail: str) -> None:
        print(detail, file=sys.stderr)

    async def _on_message(self, topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        agent_id = topic.split("/")[3]
        link = self._link_of[agent_id]
        message = decode_master_message(payload)
        link.ack(delivery)  # The simulated journal takes it at once.
        if isinstance(message, CommandBatch):
            now = time.time()
            for command in message.commands:
                if isinstance(command, Launch):
                    self.launched_at.setdefault(command.task_id, now)
        elif isinstance(message, Welcome):
            self._welcomed.add(agent_id)
            self._changed.set()
        elif isinstance(message, Pong) and message.nonce == PONG_NONCE:
            self._pongs.add(agent_id)
            self._changed.set()
            return
        self._handle(agent_id, events.MasterSpoke(message=message))

    def _handle(self, agent_id: str, event: events.Event) -> None:
        agent = self._agents[agent_id]
        now_us = time.time_ns() // 1000
        for command in agent.handle(event, now_us):
            self._carry_out(agent_id, command, now_us)
        due_us = agent.next_deadline_us()
        if due_us is not None and due_us < self._armed.get(agent_id, 2**62):
            self._armed[agent_id] = due_us
            self._schedule(due_us, agent_id, None)

    def _carry_out(self, agent_id: str, command: commands.Command, now_us: int) -> None:
        match command:
            case commands.Publish(message=message):
                self._link_of[agent_id].publish(agent_topic(agent_id, CHANNELS[type(message)]), encode(message))
            case commands.Fetch(fetch_id=fetch_id, fetch=fetch):
                shard = events.HeldShard(shard_id=fetch.shard_id, size_bytes=fetch.size_bytes, name=fetch.name)
                self._schedule(now_us, agent_id, events.FetchEnded(fetch_id=fetch_id, shard=shard, ok=True))
            case commands.StartTask(launch=launch):
                key = {"task_id": launch.task_id, "attempt": launch.attempt}
                run_us = launch.simulated_run_us or 1
                self._schedule(now_us, agent_id, events.TaskStarted(**key, handle="simulated"))
                ended = events.TaskEnded(**key, reason="exit", exit_code=0, run_us=run_us)
                self._schedule(now_us + run_us, agent_id, ended)
            case commands.Measure():
                self._schedule(now_us, agent_id, events.Measured(usable=TOTAL))
            case commands.Probe():
                self._schedule(now_us, agent_id, events.LinksMeasured(samples=()))
            case _:
                pass  # Nothing is written, and no real process is there to stop.

    def _schedule(self, at_us: int, agent_id: str, event: events.Event | None) -> None:
        heapq.heappush(self._timers, (at_us, next(self._serial), agent_id, event))
        self._wake.set()

    async def _keep_time(self) -> None:
        while True:
            self._fire_due()
            self._wake.clear()
            wait_us = self._timers[0][0] - time.time_ns() // 1000 if self._timers else 1_000_000
            try:
                async with asyncio.timeout(max(0, wait_us) / 1e6):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(0)

    def _fire_due(self) -> None:
        now_us = time.time_ns() // 1000
        while self._timers and self._timers[0][0] <= now_us:
            at_us, _, agent_id, event = heapq.heappop(self._timers)
            if event is None:
                if self._armed.get(agent_id) != at_us:
                    continue
                del self._armed[agent_id]
            self._handle(agent_id, events.DeadlinePassed() if event is None else event)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--broker", required=True)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--agents", type=int, required=True)
    options.add_argument("--links", type=int, default=4)
    arguments = options.parse_args()
    fleet = Fleet(arguments.broker, arguments.first, arguments.agents, arguments.links)
    asyncio.run(fleet.run())


if __name__ == "__main__":
    main()
