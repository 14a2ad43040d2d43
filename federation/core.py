"""The books together, and the one way to change them: a fact is applied and committed in the same breath.

`Core` holds what every part of the master shares during one `handle`: the time, the commands gathered so far, the
counters and the timers. The parts (`liveness`, `reconcile`, `reports`, `requests`, `rounds`, …) are functions over it.
"""

from collections.abc import Callable
from typing import Any

from federation.agents_book import AgentBook, AgentEntry, Life, SentCommand
from federation.commands import Command, Persist, Send
from federation.config import MasterConfig
from federation.deadlines import Deadlines
from federation.facts import (
    AgentEnrolled,
    AgentForgotten,
    AgentModeSet,
    AgentStateChanged,
    EventSetAside,
    Fact,
    ForecastKept,
    JobAccepted,
    JobCancelled,
    JobEnded,
    ProfileLearned,
    ReplicaChanged,
    RoleSet,
    ServiceAsked,
    ServiceBalanced,
    ShardAdded,
    StepsLearned,
    TaskRefused,
    TasksAssigned,
    TaskStateChanged,
    TermBegun,
    TransferLearned,
)  # fmt: skip
from federation.market.book import MarketBook
from federation.market.facts import (
    FrameworkEnded,
    FrameworkSet,
    FrameworkTaskChanged,
    FrameworkTaskLaunched,
    OperationAcknowledged,
    OperationChanged,
    ResourcesReserved,
    ResourcesUnreserved,
    UpdateAcknowledged,
)
from federation.moves import MoveBook, MovingBook
from federation.network import NetworkBook
from federation.offers import NodeBook
from federation.profiles import ProfileBook
from federation.round_state import RoundState
from federation.services_book import ServicesBook
from federation.set_aside import SetAsideBook
from federation.shards import ShardBook
from federation.shares import RoleEntry, ShareBook
from federation.states import AgentState
from federation.steps import StepBook
from federation.tasks import TaskBook
from federation.transfers import TransferBook
from federation.wire import Command as WireCommand
from federation.wire import CommandBatch, Control, FetchShard, Launch

BATCH_BYTES_MAX = 192 * 1024  # of the wire's 256 KiB: sizes are estimates


def bytes_of(command: WireCommand) -> int:
    """About how many bytes a command takes on the wire, rather too many."""
    if isinstance(command, FetchShard):
        return 512 + 320 * len(command.fetch.sources)
    if not isinstance(command, Launch):
        return 512
    size = 512 + 128 * len(command.outputs) + 64 * len(command.gpus)
    for text in command.command:
        size += 4 * len(text) + 5
    for key, text in command.env.items():
        size += 4 * (len(key) + len(text)) + 10
    for fetch in command.reads:
        size += 200 + 2 * len(fetch.name) + 160 * len(fetch.sources)
    return size


class Core:
    def __init__(self, config: MasterConfig, policy_name: str) -> None:
        config.check()
        self.config = config
        self.policy_name = policy_name
        # Durable, with the books below: a function of the facts.
        self.term = 0
        self.last_round_id = 0
        self.agents = AgentBook()
        self.nodes = NodeBook(self.agents)
        self.shares = ShareBook()
        self.shards = ShardBook(self.agents)
        self.tasks = TaskBook(
            self.agents,
            self.shards,
            self.shares,
            deadline_grid_us=config.deadline_grid_us,
            ended_jobs_max=config.ended_jobs_max,
            ended_tasks_max=config.ended_tasks_max,
            names_max=config.jobs_max,
        )
        self.market = MarketBook(self.agents, self.shares, config)
        self.profiles = ProfileBook(config.profiles_max, config.profile_samples_max)
        self.set_aside = SetAsideBook()
        self.steps = StepBook()
        for role in config.roles:
            entry: RoleEntry = self.shares.ensure(role.path)
            entry.weight, entry.quota, entry.guarantee = role.weight, role.quota, role.guarantee
        # Of this term only.
        self.network = NetworkBook(
            self.agents,
            samples_max=config.link_samples_max,
            half_life_us=config.link_half_life_us,
            links_max=config.links_max,
        )
        self.rounds = RoundState()
        self.moves = MoveBook()
        self.transfers = TransferBook()
        self.rescheduling = MovingBook()
        self.services = ServicesBook()
        self.http_url = ""  # without a slash at its end
        self.started = False
        self.term_begun_us = 0
        self.awaited: set[str] = set()  # agents with placed tasks, not yet born in this term
        self.recovering = False
        self.broker_found = True
        self.broker_detail = ""
        self.quiet_until_us = 0  # silence before this is our own fault: the broker was lost, or we were
        self.asked_unborn: dict[str, int] = {}  # agents heard without a birth → when they were asked for one
        self.counters: dict[str, int] = {}
        self.deadlines = Deadlines()
        self.now_us = 0
        self.out: list[Command] = []
        self._next_cmd = 1
        self._apply: dict[type[Any], Callable[[Any], None]] = {
            TermBegun: self._begin_term,
            AgentEnrolled: self._enrol,
            AgentStateChanged: self._change_agent,
            AgentModeSet: self.agents.set_mode,
            AgentForgotten: self._forget_agent,
            JobAccepted: self.tasks.accept,
            JobCancelled: self.tasks.cancel,
            JobEnded: self.tasks.end,
            TasksAssigned: self._assign,
            TaskRefused: self._refuse,
            TaskStateChanged: self.tasks.change,
            RoleSet: self.shares.set,
            ShardAdded: self.shards.add,
            ReplicaChanged: self.shards.change_replica,
            ProfileLearned: self.profiles.learn,
            TransferLearned: self.network.learn_factor,
            ForecastKept: self.network.keep,
            FrameworkSet: self.market.set_framework,
            FrameworkEnded: self.market.end_framework,
            FrameworkTaskLaunched: self.market.launch,
            FrameworkTaskChanged: self.market.change_task,
            UpdateAcknowledged: self.market.acknowledge,
            ResourcesReserved: self.market.reserve,
            ResourcesUnreserved: self.market.unreserve,
            OperationChanged: self.market.change_operation,
            OperationAcknowledged: self.market.acknowledge_operation,
            EventSetAside: self.set_aside.add,
            ServiceBalanced: self.tasks.balance,
            ServiceAsked: self.tasks.ask,
            StepsLearned: self.steps.learn,
        }

    # --- facts -------------------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """Take a fact into the books; the only way durable state ever changes, live and at replay."""
        self._apply[type(fact)](fact)

    def persist(self, fact: Fact) -> None:
        self.apply(fact)
        self.out.append(Persist(fact=fact))

    def _enrol(self, fact: AgentEnrolled) -> None:
        self.agents.enrol(fact)
        self.market.enrolled(self.agents[fact.agent_id])

    def _begin_term(self, fact: TermBegun) -> None:
        self.term = fact.term

    def _change_agent(self, fact: AgentStateChanged) -> None:
        self.agents.change_state(fact)
        if fact.state == AgentState.DISCONNECTED:
            self.tasks.forget_whereabouts(fact.agent_id, fact.at_us)

    def _forget_agent(self, fact: AgentForgotten) -> None:
        entry = self.agents.forget(fact)
        for shard_id in entry.shards:
            self.shards.drop_replica(shard_id, entry.agent_id)

    def _assign(self, fact: TasksAssigned) -> None:
        self.last_round_id = max(self.last_round_id, fact.round_id)
        self.tasks.assign(fact, self.term)

    def _refuse(self, fact: TaskRefused) -> None:
        self.last_round_id = max(self.last_round_id, fact.round_id)
        self.tasks.refuse(fact, self.term)

    # --- effects -----------------------------------------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def send(self, agent_id: str, message: CommandBatch | Control) -> None:
        self.out.append(Send(agent_id=agent_id, message=message))

    def order(self, entry: AgentEntry, commands: list[WireCommand]) -> None:
        """Send commands to an agent's current life, remembering each until it is acknowledged. Without a life they
        wait for the birth: `reconcile` orders anew what is still wanted then."""
        if not commands or entry.life is None or entry.life.dead:
            return
        life, most = entry.life, self.config.commands_per_batch_max
        batch: list[WireCommand] = []
        n_bytes = 0
        for command in commands:
            size = bytes_of(command)
            if batch and (len(batch) == most or n_bytes + size > BATCH_BYTES_MAX):
                self._send_batch(entry.agent_id, life, batch)
                batch, n_bytes = [], 0
            batch.append(command)
            n_bytes += size
        self._send_batch(entry.agent_id, life, batch)
        self.deadlines.set_earlier(("resend", entry.agent_id), self.now_us + self.config.resend_after_us)

    def _send_batch(self, agent_id: str, life: Life, commands: list[WireCommand]) -> None:
        self.send(agent_id, CommandBatch(term=self.term, boot=life.boot, conn=life.conn, commands=tuple(commands)))

    def remember(self, entry: AgentEntry, command: SentCommand) -> None:
        entry.sent[command.cmd_id] = command

    def new_cmd_id(self) -> int:
        cmd_id = (self.term << 32) | self._next_cmd
        self._next_cmd += 1
        return cmd_id

    def change_agent_state(self, entry: AgentEntry, state: AgentState, detail: str = "") -> None:
        self.persist(AgentStateChanged(at_us=self.now_us, agent_id=entry.agent_id, state=state, detail=detail))
        self.count(f"agents_{state}")
        if self.tasks.services:
            self.rounds.changed = True  # Replicas on it get requests no more, or again.
