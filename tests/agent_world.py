"""A world around one `Agent` for its tests: the driver's duties (facts first, then the rest) without any I/O."""

from typing import TypeVar

from agents.agent import Agent
from agents.commands import Command, Fetch, Persist, Publish
from agents.config import AgentConfig
from agents.events import (
    Connected,
    DeadlinePassed,
    Event,
    FetchEnded,
    MasterSpoke,
    Measured,
    Started,
    TaskEnded,
    TaskStarted,
)
from agents.facts import Fact
from federation.wire import (
    AgentMessage,
    CommandBatch,
    HeldShard,
    Launch,
    MasterMessage,
    Source,
    StatusAck,
    StatusReport,
    Welcome,
)
from federation.wire import Command as WireCommand
from federation.wire import Fetch as WireFetch
from policies.model import Needs, Resources

SECOND_US = 1_000_000
TOTAL = Resources(cpu_milli=4000, memory_bytes=2**30, disk_bytes=2**34)
T = TypeVar("T")


def config(**fields: object) -> AgentConfig:
    return AgentConfig(**{"agent_id": "cam-1", "site": "plant-a", **fields})  # type: ignore[arg-type]


def sha(n: int) -> str:
    return f"{n:064x}"


def fetch(n: int, host: str = "a") -> WireFetch:
    return WireFetch(shard_id=sha(n), size_bytes=100 + n, name=f"s{n}", sources=(Source(url=f"http://{host}"),))


def held(n: int) -> HeldShard:
    return HeldShard(shard_id=sha(n), size_bytes=100 + n, name=f"s{n}")


def launch(cmd_id: int, task_id: str = "job/train/0", attempt: int = 1, **fields: object) -> Launch:
    defaults = {"expires_in_us": 60 * SECOND_US, "needs": Needs(cpu_milli=1000), "command": ("true",)}
    return Launch(cmd_id=cmd_id, task_id=task_id, attempt=attempt, **{**defaults, **fields})  # type: ignore[arg-type]


class World:
    """Runs an agent; `journal` is what is durable, `published` what went out since the last `take`."""

    def __init__(self, agent_config: AgentConfig | None = None, *, term: int = 1) -> None:
        self.config = agent_config or config()
        self.journal: list[Fact] = []
        self.published: list[AgentMessage] = []
        self.done: list[Command] = []
        self.now_us = 1_000 * SECOND_US
        self.term = term
        self.delivery = 0
        self.alive: dict[str, tuple[str, int]] = {}  # handle → attempt whose process runs
        self.on_disk: dict[str, HeldShard] = {}
        self.fetch_ids: dict[str, int] = {}  # newest fetch of each shard
        self.agent = Agent(self.config)

    # --- the agent's life --------------------------------------------------------------------------------------------

    def boot(self, *, connect: bool = True) -> None:
        self.agent = Agent(self.config, self.journal)
        running = tuple(handle for handle, _ in self.agent.processes() if handle in self.alive)
        self.event(Started(total=TOTAL, running=running, shards=tuple(self.on_disk.values())))
        self.event(Measured(usable=TOTAL))
        if connect:
            self.connect()

    def connect(self) -> None:
        self.event(Connected())
        self.welcome()

    def welcome(self) -> list[Command]:
        boot, conn = self.life
        return self.say(
            Welcome(
                term=self.term,
                boot=boot,
                conn=conn,
                offer_every_us=5 * SECOND_US,
                ping_every_us=5 * SECOND_US,
                offer_lease_us=15 * SECOND_US,
            )
        )

    @property
    def life(self) -> tuple[int, int]:
        will = self.agent.will()
        return will.boot, will.conn - 1

    # --- events ------------------------------------------------------------------------------------------------------

    def event(self, event: Event) -> list[Command]:
        commands = self.agent.handle(event, self.now_us)
        self.journal += [command.fact for command in commands if isinstance(command, Persist)]
        self.published += [command.message for command in commands if isinstance(command, Publish)]
        self.fetch_ids |= {
            command.fetch.shard_id: command.fetch_id for command in commands if isinstance(command, Fetch)
        }
        self.done += [command for command in commands if not isinstance(command, Persist | Publish)]
        return commands

    def say(self, message: MasterMessage, delivery: int | None = None) -> list[Command]:
        if delivery is None:
            self.delivery += 1
            delivery = self.delivery
        return self.event(MasterSpoke(message=message, delivery=delivery))

    def order(
        self, *commands: WireCommand, term: int | None = None, life: tuple[int, int] | None = None
    ) -> list[Command]:
        boot, conn = self.life if life is None else life
        return self.say(CommandBatch(term=self.term if term is None else term, boot=boot, conn=conn, commands=commands))

    def ack_all(self) -> None:
        """The master acknowledges every status published and not yet taken."""
        reports = [message for message in self.published if isinstance(message, StatusReport)]
        ids = tuple(sorted({status.status_id for report in reports for status in report.statuses}))
        if ids:
            self.say(StatusAck(term=self.term, status_ids=ids))

    def pass_time(self, us: int) -> None:
        """Let time pass, with every deadline on the way."""
        until_us = self.now_us + us
        for _ in range(100_000):
            due_us = self.agent.next_deadline_us()
            if due_us is None or due_us > until_us:
                break
            self.now_us = max(self.now_us, due_us)
            self.event(DeadlinePassed())
        else:
            raise AssertionError("deadlines do not move on")
        self.now_us = until_us

    def fetched(self, n: int, *, ok: bool = True, **fields: object) -> list[Command]:
        """Answer the newest fetch of shard `n`."""
        fetch_id = self.fetch_ids[sha(n)]
        if ok:
            self.on_disk[sha(n)] = held(n)
        return self.event(FetchEnded(fetch_id=fetch_id, shard=held(n), ok=ok, **fields))  # type: ignore[arg-type]

    def task_started(self, handle: str, task_id: str = "job/train/0", attempt: int = 1) -> list[Command]:
        self.alive[handle] = (task_id, attempt)
        return self.event(TaskStarted(task_id=task_id, attempt=attempt, handle=handle))

    def task_ended(
        self,
        task_id: str = "job/train/0",
        attempt: int = 1,
        reason: str = "exit",
        exit_code: int | None = 0,
        **fields: object,
    ) -> list[Command]:
        self.alive = {handle: key for handle, key in self.alive.items() if key != (task_id, attempt)}
        event = TaskEnded(task_id=task_id, attempt=attempt, reason=reason, exit_code=exit_code, **fields)  # type: ignore[arg-type]
        return self.event(event)

    # --- what came out -----------------------------------------------------------------------------------------------

    def take(self, kind: type[T]) -> list[T]:
        """Messages or commands of this type since the last call, which forgets them."""
        found = [thing for thing in (*self.published, *self.done) if isinstance(thing, kind)]
        self.published = [thing for thing in self.published if not isinstance(thing, kind)]
        self.done = [thing for thing in self.done if not isinstance(thing, kind)]
        return found

    def clear(self) -> None:
        self.published.clear()
        self.done.clear()

    def states(self) -> list[tuple[str, str]]:
        """(state, reason) of every status published since the last call."""
        return [(s.state, s.reason) for report in self.take(StatusReport) for s in report.statuses]


def running_world() -> World:
    """An agent on which job/train/0 runs, everything acknowledged."""
    world = World()
    world.boot()
    world.order(launch(1))
    world.task_started("100:7")
    world.ack_all()
    world.clear()
    return world
