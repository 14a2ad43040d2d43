"""A small world around one `Master` for its tests: time, agents that behave (or not), and the policy `fifo`.

No sockets, no threads: what the master sends is handed to the agents in order, what they say is handed to the master.
"""

from collections.abc import Iterable
from typing import Any, Literal

from federation import views
from federation.api import Answer, Request
from federation.commands import Announce, Command, Persist, Reply, Send, Solve
from federation.config import MasterConfig
from federation.durable import DurableState
from federation.events import AgentSpoke, Asked, DeadlinePassed, Event, PlanReady, Started
from federation.facts import Fact
from federation.jobs import Job, TaskGroup
from federation.master import Master
from federation.wire import (
    AgentMessage,
    Birth,
    CommandAck,
    CommandBatch,
    Death,
    DropShard,
    FetchShard,
    HeldShard,
    HeldTask,
    Kill,
    Launch,
    Offer,
    Ping,
    ShardStatus,
    Status,
    StatusAck,
    StatusReport,
    TaskStatus,
)  # fmt: skip
from policies.api import Policy
from policies.fifo import Fifo
from policies.gpus import held, without
from policies.model import Gpu, Needs, Plan, Resources

SECOND = 1_000_000
START_US = 1_700_000_000 * SECOND
GIB = 2**30


def sha(n: int) -> str:
    return f"{n:064x}"


def resources(
    cpu: int = 4,
    memory: int = 8,
    gpus: Iterable[str] = (),
    disk: int = 100,
    isolation: Literal["whole", "shared"] | None = None,
) -> Resources:
    return Resources(
        cpu_milli=cpu * 1000,
        memory_bytes=memory * GIB,
        disk_bytes=disk * GIB,
        gpus=tuple(Gpu(uuid=uuid, model="a100", memory_bytes=40 * GIB, isolation=isolation) for uuid in gpus),
    )


def needs(cpu: int = 1, memory: int = 1) -> Needs:
    return Needs(cpu_milli=cpu * 1000, memory_bytes=memory * GIB)


def group(name: str = "train", **fields: Any) -> TaskGroup:
    fields.setdefault("needs", needs())
    return TaskGroup(name=name, command=("python", "train.py"), **fields)


def job(name: str = "digits", *groups: TaskGroup, **fields: Any) -> Job:
    return Job(name=name, tasks=groups or (group(),), **fields)


class Fake:
    """An agent as far as the master can tell: it journals commands, runs attempts until told, keeps an outbox."""

    def __init__(self, world: "World", agent_id: str, **fields: Any) -> None:
        self.world = world
        self.agent_id = agent_id
        self.fields: dict[str, Any] = {
            "version": "0.1.0", "site": f"site-{agent_id}", "tier": "edge", "total": resources(),
            "hardware": "rpi5", "data_url": f"http://{agent_id}:1", **fields,
        }  # fmt: skip
        self.boot, self.conn, self.seq = 1, 0, 0
        self.offers = 0
        self.taken: dict[int, Launch] = {}
        self.running: dict[tuple[str, int], Launch] = {}
        self.terms: dict[tuple[str, int], int] = {}
        self.outbox: dict[int, Status] = {}
        self.status_id = 0
        self.commands_seen = 0
        self.shards: dict[str, HeldShard] = {}
        self.started: list[tuple[str, int]] = []  # every (task, attempt) ever run, to check L3
        self.heard: list[Any] = []
        self.deaf = False  # commands do not reach it

    @property
    def total(self) -> Resources:
        total: Resources = self.fields["total"]
        return total

    def say(self, make: type[Any], **fields: Any) -> list[Command]:
        message = self.message(make, **fields)
        return self.world.handle(AgentSpoke(message=message))

    def message(self, make: type[Any], **fields: Any) -> AgentMessage:
        message: AgentMessage = make(agent_id=self.agent_id, boot=self.boot, conn=self.conn, seq=self.seq, **fields)
        self.seq += 1
        return message

    def connect(self) -> list[Command]:
        self.conn += 1
        self.seq = 0
        return self.birth()

    def birth(self) -> list[Command]:
        tasks = tuple(
            HeldTask(task_id=task_id, attempt=attempt, term=self.terms[task_id, attempt], state="running")
            for task_id, attempt in self.running
        )
        ended = tuple(
            HeldTask(task_id=s.task_id, attempt=s.attempt, term=s.term, state="ended")
            for s in self.outbox.values()
            if isinstance(s, TaskStatus) and s.state in ("finished", "failed", "killed")
        )
        return self.say(Birth, tasks=(*tasks, *ended), shards=tuple(self.shards.values()), **self.fields)

    def free(self) -> Resources:
        used = [launch.needs for launch in self.running.values()]
        here = {gpu.uuid: gpu for gpu in self.total.gpus}
        taken = [held(launch.needs.gpu, here[uuid]) for launch in self.running.values() for uuid in launch.gpus]
        return Resources(
            cpu_milli=self.total.cpu_milli - sum(n.cpu_milli for n in used),
            memory_bytes=self.total.memory_bytes - sum(n.memory_bytes for n in used),
            disk_bytes=self.total.disk_bytes - sum(n.disk_bytes for n in used),
            gpus=without(self.total.gpus, taken),
        )

    def offer(self, free: Resources | None = None, lease_us: int = 15 * SECOND) -> list[Command]:
        self.offers += 1
        return self.say(
            Offer,
            offer_id=f"{self.agent_id}-{self.offers}",
            free=free if free is not None else self.free(),
            expires_in_us=lease_us,
            commands_seen=self.commands_seen,
        )

    def ping(self) -> list[Command]:
        return self.say(Ping, nonce=self.seq)

    def die(self, reason: str = "will") -> list[Command]:
        return self.world.handle(
            AgentSpoke(message=Death(agent_id=self.agent_id, boot=self.boot, conn=self.conn, reason=reason))  # type: ignore[arg-type]
        )

    def restart(self, *, keep_running: bool = False) -> list[Command]:
        """A new boot. Its processes are gone unless kept; the journal knows which, as the real agent's does."""
        self.boot += 1
        self.conn = 0
        if not keep_running:
            for task_id, _ in list(self.running):
                self.end(task_id, "failed", reason="agent_restart", send=False)
        return self.connect()

    # --- what the master sends ---

    def receive(self, message: Any) -> None:
        self.heard.append(message)
        if self.deaf:
            return
        if isinstance(message, StatusAck):
            for status_id in message.status_ids:
                self.outbox.pop(status_id, None)
        if not isinstance(message, CommandBatch) or (message.boot, message.conn) != (self.boot, self.conn):
            return
        for command in message.commands:
            self.commands_seen = max(self.commands_seen, command.cmd_id)
            self.take(command, message.term)
        self.say(CommandAck, cmd_ids=tuple(command.cmd_id for command in message.commands))
        self.flush()

    def take(self, command: Any, term: int) -> None:
        if command.cmd_id in self.taken:
            return
        self.taken[command.cmd_id] = command
        match command:
            case Launch(task_id=task_id, attempt=attempt):
                self.running[task_id, attempt] = command
                self.terms[task_id, attempt] = term
                self.started.append((task_id, attempt))
                self.queue(task_id, attempt, "staging")
                self.queue(task_id, attempt, "running")
            case Kill(task_id=task_id, attempt=attempt):
                if (task_id, attempt) in self.running:
                    del self.running[task_id, attempt]
                self.terms.setdefault((task_id, attempt), term)
                self.queue(task_id, attempt, "killed", reason="killed")
            case FetchShard(fetch=fetch):
                held = HeldShard(shard_id=fetch.shard_id, size_bytes=fetch.size_bytes, name=fetch.name)
                self.shards[fetch.shard_id] = held
                self.queue_shard(held, "held")
            case DropShard(shard_id=shard_id):
                self.queue_shard(self.shards.pop(shard_id), "dropped")

    # --- what it reports ---

    def queue(self, task_id: str, attempt: int, state: str, **fields: Any) -> None:
        self.status_id += 1
        self.outbox[self.status_id] = TaskStatus(
            status_id=self.status_id,
            task_id=task_id,
            attempt=attempt,
            term=self.terms.get((task_id, attempt), 1),
            state=state,  # type: ignore[arg-type]
            **fields,
        )

    def queue_shard(self, shard: HeldShard, state: str, reason: str = "") -> None:
        self.status_id += 1
        self.outbox[self.status_id] = ShardStatus(
            status_id=self.status_id,
            shard=shard,
            state=state,  # type: ignore[arg-type]
            reason=reason,
        )

    def flush(self) -> list[Command]:
        return self.say(StatusReport, statuses=tuple(self.outbox.values())[:256]) if self.outbox else []

    def end(self, task_id: str, state: str = "finished", *, send: bool = True, **fields: Any) -> list[Command]:
        attempt = next(attempt for name, attempt in self.running if name == task_id)
        launch = self.running.pop((task_id, attempt))
        if state == "finished":
            outputs = tuple(
                HeldShard(
                    shard_id=sha(abs(hash((task_id, attempt, output.name))) + 10**6),
                    size_bytes=7,
                    name=f"{task_id}/{output.name}",
                )
                for output in launch.outputs
            )
            for held in outputs:
                self.shards[held.shard_id] = held
            fields.setdefault("outputs", outputs)
            fields.setdefault("run_us", 2 * SECOND)
        self.queue(task_id, attempt, state, **fields)
        return self.flush() if send else []


class World:
    """Holds the master, the time and every fact committed so far."""

    def __init__(
        self,
        config: MasterConfig | None = None,
        *,
        start: bool = True,
        solve: bool = True,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy or Fifo()
        self.config = config or MasterConfig(round_every_us=0)
        self.master = Master(self.config, "fifo")
        self.now_us = START_US
        self.facts: list[Fact] = []
        self.agents: dict[str, Fake] = {}
        self.replies: dict[str, Answer] = {}
        self.solves: list[Solve] = []
        self.announced: list[Any] = []
        self.auto_solve = solve
        self.term = 0
        self.mute = False  # nothing that the master sends arrives
        self._asked = 0
        self._inbox: list[tuple[str, Any]] = []
        self._delivering = False
        if start:
            self.start()

    def start(self) -> list[Command]:
        self.term += 1
        return self.handle(Started(term=self.term, http_url="http://master:1"))

    def handle(self, event: Event) -> list[Command]:
        commands = self.master.handle(event, self.now_us)
        for command in commands:
            match command:
                case Persist(fact=fact):
                    self.facts.append(fact)
                case Send(agent_id=agent_id, message=message):
                    if not self.mute:
                        self._inbox.append((agent_id, message))
                case Solve():
                    self.solves.append(command)
                case Reply(request_id=request_id, answer=answer):
                    assert request_id not in self.replies, "one reply a request"
                    self.replies[request_id] = answer
                case Announce(state=state):
                    self.announced.append(state)
        self._deliver()
        if self.auto_solve and not self._delivering:
            self.solve()
        return commands

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        while self._inbox:
            agent_id, message = self._inbox.pop(0)
            if agent_id in self.agents:
                self.agents[agent_id].receive(message)
        self._delivering = False

    def solve(self) -> None:
        while self.solves:
            asked = self.solves.pop(0)
            self.handle(PlanReady(round_id=asked.round_id, plan=self.policy.plan(asked.snapshot)))

    def answer(self, plan: Plan) -> list[Command]:
        """Answer the round in flight with a plan of our own."""
        return self.handle(PlanReady(round_id=self.solves.pop(0).round_id, plan=plan))

    def agent(self, agent_id: str = "gw-1", *, offer: bool = True, **fields: Any) -> Fake:
        fake = self.agents[agent_id] = Fake(self, agent_id, **fields)
        fake.connect()
        if offer:
            fake.offer()
        return fake

    def ask(self, request: Request) -> Any:
        self._asked += 1
        request_id = f"r{self._asked}"
        self.handle(Asked(request_id=request_id, request=request))
        return self.replies.get(request_id)

    def advance(self, duration_us: int, *, alive: bool = True) -> None:
        """Let time pass, stopping at every deadline of the master; agents ping and offer each five seconds."""
        end_us = self.now_us + duration_us
        beat_us = self.now_us + 5 * SECOND
        while True:
            due_us = self.master.next_deadline_us()
            stops = [end_us] + ([due_us] if due_us is not None else []) + ([beat_us] if alive else [])
            stop_us = max(self.now_us, min(stops))
            if stop_us >= end_us and (due_us is None or due_us > end_us):
                self.now_us = end_us
                return
            self.now_us = stop_us
            if alive and stop_us >= beat_us:
                beat_us += 5 * SECOND
                for fake in self.agents.values():
                    if fake.conn and not fake.deaf:
                        fake.ping()
                        fake.offer()
            else:
                self.handle(DeadlinePassed())

    # --- recovery ---

    def replayed(self) -> DurableState:
        master = Master(self.config, "fifo")
        for fact in self.facts:
            master.apply(fact)
        return master.durable()

    def crash(self) -> None:
        """The master dies and comes back from its journal alone."""
        self.master = Master(self.config, "fifo")
        for fact in self.facts:
            self.master.apply(fact)
        self.solves.clear()
        self._inbox.clear()
        self.start()


def state_of(world: World, task_id: str) -> str:
    view = views.task(world.master, task_id)
    assert view is not None
    return view.state


def kinds(commands: list[Any]) -> list[str]:
    names: list[str] = []
    for command in commands:
        inner = getattr(command, "fact", None) or getattr(command, "message", None)
        names.append(type(command).__name__ + (f" {type(inner).__name__}" if inner is not None else ""))
    return names
