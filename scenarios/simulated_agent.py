"""The production agent core in a simulated device: processes are durations, transfers and probes are flows."""

import hashlib
from collections.abc import Callable

from agents import commands, events
from agents.agent import Agent
from agents.config import AgentConfig
from agents.facts import Fact
from federation import events as master_events
from federation.wire import HeldShard, Launch, LinkSample, MasterMessage
from scenarios.fabric import Fabric, Sight
from scenarios.network import Flow
from scenarios.world import AgentSpec, World

Schedule = Callable[[int, str, "master_events.Event | events.Event | None"], None]

PROBE_TIMEOUT_US = 10_000_000  # what the live prober allows itself


class SimulatedAgent:
    """Carries out the commands of one `Agent`. `schedule(at_us, target, event)` is the player's queue."""

    def __init__(self, spec: AgentSpec, world: World, fabric: Fabric, schedule: Schedule) -> None:
        config = AgentConfig(
            agent_id=spec.agent_id,
            site=spec.site,
            tier=spec.tier,
            region=spec.region,
            hardware=spec.hardware,
            speed_milli=spec.speed_milli,
            price_microusd_per_cpu_hour=spec.price_microusd_per_cpu_hour,
        )
        self.facts: list[Fact] = []  # its journal
        self._spec = spec
        self._fabric = fabric
        self._schedule = schedule
        self._core = Agent(config, ())
        self._store = {
            shard_id_of(shard.name): HeldShard(
                shard_id=shard_id_of(shard.name), size_bytes=shard.size_bytes, name=shard.name
            )
            for shard in world.shards
            if shard.agent_id == spec.agent_id
        }
        self._ends: dict[tuple[str, int], tuple[int, Launch]] = {}  # running attempts: when they end
        self._inbound_us = 0  # MQTT keeps the order of a connection, whatever the jitter
        self._outbound_us = 0

    def start(self, now_us: int) -> None:
        shards = tuple(self._store[key] for key in sorted(self._store))
        started = events.Started(total=self._spec.total, shards=shards, data_url=f"sim://{self._spec.agent_id}")
        self._schedule(now_us, self._spec.agent_id, started)
        self._schedule(now_us, self._spec.agent_id, events.Connected())

    def next_deadline_us(self) -> int | None:
        return self._core.next_deadline_us()

    def deliver(self, message: MasterMessage, sent_us: int) -> None:
        delay_us = self._fabric.control_delay_us(self._spec.agent_id)
        if delay_us is not None:
            self._inbound_us = max(self._inbound_us, sent_us + delay_us)
            self._schedule(self._inbound_us, self._spec.agent_id, events.MasterSpoke(message=message))

    def handle(self, event: master_events.Event | events.Event | None, now_us: int) -> None:
        handled = events.DeadlinePassed() if event is None else event
        assert isinstance(handled, events.Event)
        if isinstance(handled, events.TaskEnded):
            if self._ends.pop((handled.task_id, handled.attempt), None) is None:
                return  # it was stopped before it came to its end
            self._store |= {shard.shard_id: shard for shard in handled.outputs}
        for command in self._core.handle(handled, now_us):
            self._carry_out(command, now_us)

    def _post(self, at_us: int, event: events.Event) -> None:
        self._schedule(at_us, self._spec.agent_id, event)

    def _carry_out(self, command: commands.Command, now_us: int) -> None:
        match command:
            case commands.Persist(fact=fact):
                self.facts.append(fact)
            case commands.Publish(message=message):
                delay_us = self._fabric.control_delay_us(self._spec.agent_id)
                if delay_us is not None:
                    self._outbound_us = max(self._outbound_us, now_us + delay_us)
                    self._schedule(self._outbound_us, "", master_events.AgentSpoke(message=message))
            case commands.Fetch():
                self._fetch(command, now_us)
            case commands.StartTask(launch=launch):
                self._start_task(launch, now_us)
            case commands.StopTask(task_id=task_id, attempt=attempt, reason=reason):
                if (task_id, attempt) in self._ends:
                    ended = events.TaskEnded(task_id=task_id, attempt=attempt, reason=reason, exit_code=-15)
                    self._post(now_us, ended)
            case commands.RemoveShard(shard_id=shard_id):
                self._store.pop(shard_id, None)
                self._post(now_us, events.ShardRemoved(shard_id=shard_id))
            case commands.Probe(peer=peer, bytes_max=bytes_max):
                self._probe(peer.agent_id, bytes_max, now_us)
            case commands.Measure():
                self._post(now_us, events.Measured(usable=self._spec.total))
            case commands.Acknowledge() | commands.Leave():
                pass  # There is no broker to acknowledge to, and the player ends the run.

    def _fetch(self, command: commands.Fetch, now_us: int) -> None:
        wanted = command.fetch
        shard = HeldShard(shard_id=wanted.shard_id, size_bytes=wanted.size_bytes, name=wanted.name)
        if wanted.shard_id in self._store:
            self._post(now_us, events.FetchEnded(fetch_id=command.fetch_id, shard=shard, ok=True))
            return

        def arrived(ended_us: int, flow: Flow, sight: Sight) -> None:
            self._store[shard.shard_id] = shard
            ended_us += self._fabric.start_up_us(source, self._spec.agent_id)
            sample = LinkSample(
                from_agent=source,
                to_agent=self._spec.agent_id,
                method="transfer",
                bandwidth_bps=sight.bandwidth_bps,
                bytes=flow.size_bytes,
                duration_us=sight.duration_us,
                shared_milli=sight.shared_milli,
                is_lower_bound=sight.is_lower_bound,
            )
            fetched = events.FetchEnded(
                fetch_id=command.fetch_id, shard=shard, ok=True, fetched_bytes=flow.size_bytes, samples=(sample,)
            )
            self._post(ended_us, fetched)

        for source in (candidate.agent_id for candidate in wanted.sources if candidate.agent_id):
            if self._fabric.transfer(source, self._spec.agent_id, wanted.size_bytes, now_us, arrived) is not None:
                return
        failed = events.FetchEnded(
            fetch_id=command.fetch_id, shard=shard, ok=False, reason="fetch", detail="no source has a path to here"
        )
        self._post(now_us, failed)

    def _start_task(self, launch: Launch, now_us: int) -> None:
        key = (launch.task_id, launch.attempt)
        run_us = (launch.simulated_run_us or 1) * 1000 // self._spec.speed_milli
        self._ends[key] = (now_us + run_us, launch)
        self._post(now_us, events.TaskStarted(task_id=launch.task_id, attempt=launch.attempt, handle="simulated"))
        outputs = tuple(
            HeldShard(shard_id=shard_id_of(name), size_bytes=output.bytes_max, name=name)
            for output in launch.outputs
            if (name := f"{launch.task_id}/{output.name}")
        )
        limit_us = launch.time_limit_us
        if limit_us is not None and limit_us < run_us:
            ended = events.TaskEnded(
                task_id=launch.task_id, attempt=launch.attempt, reason="time_limit", exit_code=-9, run_us=limit_us
            )
            self._post(now_us + limit_us, ended)
            return
        ended = events.TaskEnded(
            task_id=launch.task_id, attempt=launch.attempt, reason="exit", exit_code=0, outputs=outputs, run_us=run_us
        )
        self._post(now_us + run_us, ended)

    def _probe(self, peer_id: str, bytes_max: int, now_us: int) -> None:
        own_id = self._spec.agent_id
        rtt_us = self._fabric.rtt_us(own_id, peer_id)

        def measured(ended_us: int, flow: Flow, sight: Sight) -> None:
            echo = LinkSample(from_agent=own_id, to_agent=peer_id, method="echo", rtt_us=rtt_us)
            probe = LinkSample(
                from_agent=peer_id,
                to_agent=own_id,
                method="probe",
                rtt_us=rtt_us,
                bandwidth_bps=sight.bandwidth_bps,
                bytes=flow.size_bytes,
                duration_us=sight.duration_us,
                shared_milli=sight.shared_milli,
                is_lower_bound=sight.is_lower_bound,
            )
            self._post(ended_us, events.LinksMeasured(samples=(echo, probe)))

        if rtt_us is not None and self._fabric.is_busy(peer_id, own_id):
            echo = LinkSample(from_agent=own_id, to_agent=peer_id, method="echo", rtt_us=rtt_us)
            self._post(now_us + rtt_us, events.LinksMeasured(samples=(echo,), busy=True))
        elif rtt_us is None or self._fabric.transfer(peer_id, own_id, bytes_max, now_us, measured) is None:
            self._post(now_us + PROBE_TIMEOUT_US, events.LinksMeasured(samples=()))


def shard_id_of(name: str) -> str:
    """The id of a simulated shard: a hash of its name, since it has no bytes."""
    return hashlib.sha256(name.encode()).hexdigest()
