"""Laws of the agent's core under random histories with power cuts: no status lost or repeated, nothing run twice."""

from dataclasses import dataclass, field

import msgspec
from agent_world import SECOND_US, TOTAL, World, config, fetch, held, launch, sha
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.agent import Agent
from agents.commands import Acknowledge, Command, Fetch, Persist, Publish, RemoveShard, StartTask, StopTask
from agents.events import (
    Connected,
    DeadlinePassed,
    Disconnected,
    Event,
    FetchEnded,
    MasterSpoke,
    Measured,
    ShardFound,
    ShardRemoved,
    Started,
    TaskEnded,
    TaskStarted,
)
from agents.facts import Fact
from agents.state import State
from agents.work import wanted
from federation.wire import (
    Birth,
    CommandAck,
    CommandBatch,
    DropShard,
    FetchShard,
    Kill,
    Launch,
    Offer,
    StatusAck,
    StatusReport,
    TaskStatus,
    Welcome,
    decode_agent_message,
    encode,
)
from federation.wire import Command as WireCommand
from policies.model import Needs

TASKS, SHARDS = 4, 3
EDGES = {
    None: {"staging", "running", "finished", "failed", "killed", "refused"},
    "staging": {"running", "finished", "failed", "killed"},
    "running": {"finished", "failed", "killed"},
}


@dataclass
class Harsh:
    """A driver, workers, a broker and a master that keep their words and no more. `cut` is a power cut between commit
    and action, or before the commit: whatever was not committed is gone, and so is every process behind its gate."""

    agent_config: object = field(default_factory=lambda: config(outbox_max=40, tasks_max=3))
    term: int = 1
    now_us: int = 10**12

    def __post_init__(self) -> None:
        self.journal: list[Fact] = []
        self.gated: dict[tuple[str, int], str] = {}
        self.running: dict[tuple[str, int], str] = {}
        self.ended_unseen: dict[str, TaskEnded] = {}  # ended, the agent's journal does not know yet
        self.ran: list[tuple[str, int]] = []
        self.disk: dict[str, object] = {}
        self.fetches: dict[int, Fetch] = {}
        self.starting: list[Launch] = []
        self.n_handles = 0
        self.n_cmds = 0
        self.sent: dict[int, WireCommand] = {}  # by cmd_id
        self.cmd_acked: set[int] = set()
        self.mqtt_acked: set[int] = set()
        self.deliveries = 0
        self.told: dict[int, object] = {}  # status_id → status, as the master received them
        self.taken_statuses: set[int] = set()
        self.unanswered: set[int] = set()  # reported and not acknowledged since
        self.connected = False
        self.life = (0, 0)
        self.agent = Agent(self.agent_config)  # type: ignore[arg-type]
        self.start()

    # --- the driver --------------------------------------------------------------------------------------------------

    def event(self, event: Event, *, cut: str = "") -> None:
        commands = self.agent.handle(event, self.now_us)
        if cut != "before_commit":
            self.journal += [command.fact for command in commands if isinstance(command, Persist)]
        if cut:
            self.start()
            return
        for command in commands:
            if isinstance(command, Persist) and type(command.fact).__name__ == "ProcessStarted":
                self.release(command.fact.task_id, command.fact.attempt)
        for command in commands:
            self.act(command)
        assert State(self.journal).facts() == self.agent.facts(), "replayed journal = live state"

    def release(self, task_id: str, attempt: int) -> None:
        handle = self.gated.pop((task_id, attempt))
        assert (task_id, attempt) not in self.ran, "no attempt runs twice"
        self.ran.append((task_id, attempt))
        self.running[task_id, attempt] = handle

    def act(self, command: Command) -> None:
        match command:
            case Publish(message=message):
                self.hear(decode_agent_message(encode(message)))
            case Acknowledge(delivery=delivery):
                self.mqtt_acked.add(delivery)
            case Fetch():
                assert not any(f.fetch.shard_id == command.fetch.shard_id for f in self.fetches.values())
                self.fetches[command.fetch_id] = command
            case StartTask(launch=wish):
                assert set(wanted(wish)) <= set(self.disk), "started before all was there"
                self.starting.append(wish)
            case StopTask():
                key = (command.task_id, command.attempt)
                if key in self.gated or key in self.running:
                    self.end(key, "killed")
            case RemoveShard(shard_id=shard_id):
                self.disk.pop(shard_id, None)
                self.event(ShardRemoved(shard_id=shard_id))
            case _:
                pass

    def start(self) -> None:
        """Boot after a cut: gated processes are gone, running ones go on."""
        self.gated.clear()
        self.starting.clear()
        self.fetches.clear()
        self.connected = False
        self.agent = Agent(self.agent_config, self.journal)  # type: ignore[arg-type]
        alive = set(self.running.values()) | set(self.ended_unseen)
        handles = tuple(handle for handle, _ in self.agent.processes() if handle in alive)
        self.event(Started(total=TOTAL, running=handles, shards=tuple(self.disk.values())))  # type: ignore[arg-type]
        self.event(Measured(usable=TOTAL))
        for handle in handles:
            if handle in self.ended_unseen:
                self.event(self.ended_unseen[handle])

    # --- workers -----------------------------------------------------------------------------------------------------

    def begin(self, *, cut: str = "") -> None:
        if self.starting:
            wish = self.starting.pop(0)
            self.n_handles += 1
            handle = f"{self.n_handles}:0"
            self.gated[wish.task_id, wish.attempt] = handle
            self.event(TaskStarted(task_id=wish.task_id, attempt=wish.attempt, handle=handle), cut=cut)

    def end(self, key: tuple[str, int], reason: str = "exit", *, cut: str = "") -> None:
        self.gated.pop(key, None)
        handle = self.running.pop(key, "")
        code = 0 if reason == "exit" else None
        event = TaskEnded(task_id=key[0], attempt=key[1], reason=reason, exit_code=code)
        if handle:
            self.ended_unseen[handle] = event  # Its exit file stays until the journal knows.
        self.event(event, cut=cut)

    def fetched(self, *, ok: bool, cut: str = "") -> None:
        if self.fetches:
            fetch_id, command = next(iter(self.fetches.items()))
            del self.fetches[fetch_id]
            shard = held(int(command.fetch.shard_id, 16))
            if ok:
                self.disk[shard.shard_id] = shard
            self.event(FetchEnded(fetch_id=fetch_id, shard=shard, ok=ok, reason="" if ok else "fetch"), cut=cut)

    # --- the master --------------------------------------------------------------------------------------------------

    def hear(self, message: object) -> None:
        if isinstance(message, Birth):
            self.life = (message.boot, message.conn)
        elif isinstance(message, CommandAck):
            self.cmd_acked.update(message.cmd_ids)
        elif isinstance(message, Offer):
            assert message.free.cpu_milli >= 0
        elif isinstance(message, StatusReport):
            for status in message.statuses:
                if status.status_id:
                    self.unanswered.add(status.status_id)
                    known = self.told.setdefault(status.status_id, status)
                    assert known == status, "a status id says one thing for ever"

    def say(self, message: object, *, cut: str = "") -> None:
        self.deliveries += 1
        self.event(MasterSpoke(message=message, delivery=self.deliveries), cut=cut)  # type: ignore[arg-type]

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.event(Connected())
            boot, conn = self.life
            self.say(
                Welcome(term=self.term, boot=boot, conn=conn, offer_every_us=5 * SECOND_US,
                        ping_every_us=5 * SECOND_US, offer_lease_us=15 * SECOND_US)
            )  # fmt: skip

    def order(self, command: WireCommand, *, cut: str = "") -> None:
        self.sent[command.cmd_id] = command
        if self.connected:
            self.say(CommandBatch(term=self.term, boot=self.life[0], conn=self.life[1], commands=(command,)), cut=cut)

    def new_cmd(self) -> int:
        self.n_cmds += 1
        return (self.term << 32) | self.n_cmds

    def ack_statuses(self, *, cut: str = "") -> None:
        ids = tuple(sorted(self.unanswered))[:5]
        if ids:
            self.unanswered.difference_update(ids)
            self.taken_statuses.update(ids)
            self.say(StatusAck(term=self.term, status_ids=ids), cut=cut)

    def pass_time(self, us: int) -> None:
        until_us = self.now_us + us
        while (due_us := self.agent.next_deadline_us()) is not None and due_us <= until_us:
            self.now_us = max(self.now_us, due_us)
            self.event(DeadlinePassed())
        self.now_us = until_us

    # --- the end of the story ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything that can go well does, until nothing moves: every command answered, every status taken."""
        for _ in range(200):
            self.connect()
            for cmd_id in sorted(set(self.sent) - self.cmd_acked):
                self.order(self.sent[cmd_id])
            while self.fetches:
                self.fetched(ok=True)
            while self.starting:
                self.begin()
            for key in list(self.running):
                self.end(key)
            self.ack_statuses()
            self.pass_time(100_000)
            if set(self.sent) <= self.cmd_acked and not self.agent._state.outbox:
                return
        raise AssertionError("does not converge")


cuts = st.sampled_from(["", "", "", "", "before_commit", "after_commit"])
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["launch", "launch", "kill", "copy", "drop", "resend", "begin", "begin", "end", "end_badly", "fetched",
             "fetch_failed", "ack", "ack", "reack", "connect", "connect", "disconnect", "wait", "found", "cut", "term"]
        ),
        st.integers(0, TASKS - 1),
        st.integers(1, 2),
        st.integers(1, SHARDS),
        cuts,
    ),
    max_size=60,
)  # fmt: skip


def play(harsh: Harsh, script: list[tuple[str, int, int, int, str]]) -> None:
    harsh.connect()
    for kind, task, attempt, shard, cut in script:
        task_id = f"job/t/{task}"
        match kind:
            case "launch":
                reads = (fetch(shard),) if shard > 1 else ()
                order = launch(harsh.new_cmd(), task_id, attempt, needs=Needs(cpu_milli=1500), reads=reads)
                harsh.order(order, cut=cut)
            case "kill":
                harsh.order(Kill(cmd_id=harsh.new_cmd(), task_id=task_id, attempt=attempt), cut=cut)
            case "copy":
                harsh.order(FetchShard(cmd_id=harsh.new_cmd(), fetch=fetch(shard, "b")), cut=cut)
            case "drop":
                harsh.order(DropShard(cmd_id=harsh.new_cmd(), shard_id=sha(shard)), cut=cut)
            case "resend" if harsh.sent:
                harsh.order(harsh.sent[sorted(harsh.sent)[task * attempt % len(harsh.sent)]], cut=cut)
            case "begin":
                harsh.begin(cut=cut)
            case "end" | "end_badly" if harsh.running:
                harsh.end(next(iter(harsh.running)), "exit" if kind == "end" else "signal", cut=cut)
            case "fetched" | "fetch_failed":
                harsh.fetched(ok=kind == "fetched", cut=cut)
            case "ack" if harsh.connected:
                harsh.ack_statuses(cut=cut)
            case "reack" if harsh.connected and harsh.taken_statuses:
                harsh.say(StatusAck(term=harsh.term, status_ids=tuple(sorted(harsh.taken_statuses))), cut=cut)
            case "connect":
                harsh.connect()
            case "disconnect" if harsh.connected:
                harsh.connected = False
                harsh.event(Disconnected(), cut=cut)
            case "wait":
                harsh.pass_time(task * 3 * SECOND_US)
            case "found":
                harsh.disk[sha(shard + 10)] = held(shard + 10)
                harsh.event(ShardFound(shard=held(shard + 10)), cut=cut)
            case "cut":
                harsh.start()
            case "term" if harsh.connected:
                harsh.term += 1
                harsh.connected = False
                harsh.event(Disconnected())
            case _:
                pass


@settings(max_examples=300, deadline=None)
@given(steps)
def test_power_cuts_lose_and_repeat_nothing(script: list[tuple[str, int, int, int, str]]) -> None:
    harsh = Harsh()
    play(harsh, script)
    harsh.settle()
    # Every launch has exactly one end, of one status id, and its states follow the edges.
    per_attempt: dict[tuple[str, int], list[str]] = {}
    for _, status in sorted(harsh.told.items()):
        if isinstance(status, TaskStatus):
            per_attempt.setdefault((status.task_id, status.attempt), []).append(status.state)
    launched = {(c.task_id, c.attempt) for c in harsh.sent.values() if isinstance(c, Launch)}
    for key in launched:
        assert set(per_attempt[key]) & {"finished", "failed", "killed", "refused"}, f"{key} has no end"
        real = [state for state in per_attempt[key] if state not in ("killed", "refused")]
        state = None
        for step in real:
            assert step in EDGES.get(state, set()), f"{key}: {per_attempt[key]}"
            state = step
    assert len(harsh.ran) == len(set(harsh.ran))
    # No gap in what the master took: nothing was lost.
    assert sorted(harsh.told) == list(range(1, len(harsh.told) + 1))
    assert set(harsh.told) == harsh.taken_statuses


@settings(max_examples=150, deadline=None)
@given(steps)
def test_durable_state_is_a_function_of_facts_and_survives_compaction(
    script: list[tuple[str, int, int, int, str]],
) -> None:
    harsh = Harsh()
    play(harsh, script)
    compact = harsh.agent.facts()
    again = State(msgspec.msgpack.decode(msgspec.msgpack.encode(compact), type=list[Fact]))
    assert again.facts() == compact == State(harsh.journal).facts()
    live = again.live_attempts()
    assert again.holding.cpu_milli == sum(attempt.launch.needs.cpu_milli for attempt in live)
    assert again.task_id_bytes == sum(len(task_id) for task_id, _ in again.attempts)
    # The rest of the story is the same from either journal.
    harsh.journal = compact
    harsh.start()
    harsh.settle()


def test_a_quiet_agent_has_the_shortest_journal() -> None:
    world = World()
    world.boot()
    for n in range(1, 200):
        world.order(launch(n, f"j/t/{n}"))
        world.task_started(f"{n}:0", f"j/t/{n}")
        world.task_ended(f"j/t/{n}")
        world.ack_all()
        world.clear()
    assert len(world.journal) > 900
    assert len(world.agent.facts()) == 3
