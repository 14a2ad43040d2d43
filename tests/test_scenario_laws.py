"""Each law of the observer is broken on purpose by a story that no master tells: else nobody knows that it looks."""

from federation import commands, events, facts
from federation.config import MasterConfig, RoleConfig
from federation.jobs import Job, TaskGroup
from federation.master import Master
from federation.wire import Offer, Welcome
from policies.model import Amount, Gpu, GpuNeed, Needs, Resources
from scenarios.laws import ORPHAN_US, Laws
from scenarios.tail import UNNAMED_MAX, tail
from scenarios.world import START_US

AT = 1_700_000_000_000_000
TICK = events.DeadlinePassed()
ROOM = Resources(cpu_milli=8000)
LEASE_US = 60_000_000


class Process:
    boot = 1
    tasks = ()


class Connections:
    is_harming = False

    def is_connected(self, agent_id: str) -> bool:
        return True


class Story:
    """A master that is told what to have decided, one agent `a`, one job `j` of two tasks that may try twice."""

    def __init__(self, *, quota_milli: int = 0, welcomed: bool = False) -> None:
        role = RoleConfig(path="r", quota=Amount(cpu_milli=quota_milli) if quota_milli else None)
        self.laws = Laws(MasterConfig(roles=(role,)), "fifo")
        if welcomed:
            told = Welcome(term=1, boot=1, conn=1, offer_every_us=1, ping_every_us=1, offer_lease_us=LEASE_US)
            self.step(commands.Send(agent_id="a", message=told))
        offer = Offer(agent_id="a", boot=1, conn=1, offer_id="o", free=ROOM, expires_in_us=LEASE_US)
        enrolled = facts.AgentEnrolled(at_us=AT, agent_id="a", boot=1, site="s", tier="edge", total=ROOM)
        self.laws.after_step(events.AgentSpoke(message=offer), [commands.Persist(fact=enrolled)], AT)
        group = TaskGroup(name="g", command=("x",), count=2, needs=Needs(cpu_milli=600), attempts_max=2)
        self.fact(facts.JobAccepted(at_us=AT, job_id="j", job=Job(name="j", role="r", tasks=(group,))))

    def step(self, command: commands.Command) -> None:
        self.laws.after_step(TICK, [command], AT)

    def fact(self, fact: facts.Fact) -> None:
        self.step(commands.Persist(fact=fact))

    def assign(self, index: int = 0, *, attempt: int = 1, at_us: int = AT) -> None:
        assignment = facts.Assignment(agent_id="a", task_ids=(f"j/g/{index}",), attempts=(attempt,), cmd_ids=(1,))
        self.fact(facts.TasksAssigned(at_us=at_us, round_id=1, policy="fifo", assignments=(assignment,)))

    def change(self, state: str, *, failed: bool = False) -> None:
        self.fact(facts.TaskStateChanged(at_us=AT, task_id="j/g/0", state=state, attempt=1, attempt_failed=failed))

    @property
    def broken(self) -> list[str]:
        return [sentence.split()[0] for sentence in self.laws.broken]


def test_a_job_that_ends_before_its_tasks_breaks_l2() -> None:
    story = Story()
    story.fact(facts.JobEnded(at_us=AT, job_id="j", state="finished"))
    assert story.broken == ["L2", "L2"]  # one for each task


def test_facts_that_no_book_takes_are_told_and_not_raised() -> None:
    """A finished task runs again: L8 at that step, and at the end a journal that cannot be replayed."""
    story, master = Story(), Master(MasterConfig(), "fifo")
    story.assign()
    for state in ("running", "finished", "running"):
        story.change(state)
    assert story.broken == ["L8"]
    story.laws.at_end(master, AT)
    assert story.laws.broken[-1].startswith("L7 the journal cannot be replayed: ")


def test_the_tail_holds_what_the_broken_law_names_and_the_last_event() -> None:
    def state(task_id: str, state: str) -> facts.TaskStateChanged:
        return facts.TaskStateChanged(at_us=START_US, task_id=task_id, state=state, attempt=1)

    noise = [(START_US + n, state(f"other/g/{n}", "running")) for n in range(100)]
    recent = [(START_US, state("j/g/0", "finished")), *noise, (START_US + 10**6, state("j/g/0", "running"))]
    shown = tail(recent, "L8 task j/g/0 went from finished to running", {"a"})
    assert [line.split()[0] for line in shown] == ["0.000000", "1.000000"]
    assert len(tail(recent, "L7 the replayed journal differs from the live state", {"a"})) == UNNAMED_MAX


def test_a_lease_is_as_long_as_the_agent_was_told_and_no_longer() -> None:
    configured_us = MasterConfig().offer_lease_us
    assert configured_us < LEASE_US
    for welcomed, after_us, broken in (
        (False, configured_us - 1, []),
        (False, configured_us, ["L5"]),
        (True, configured_us, []),  # A large fleet renews less often.
        (True, LEASE_US, ["L5"]),
    ):
        story = Story(welcomed=welcomed)
        story.assign(at_us=AT + after_us)
        assert story.broken == broken


def test_a_role_past_its_quota_breaks_l6() -> None:
    story = Story(quota_milli=1000)
    story.assign(0)
    assert story.broken == []
    story.assign(1)
    assert story.laws.broken == ["L6 role r uses 1200 cpu_milli of 1000 after j/g/1 was assigned"]


def test_a_process_that_nobody_authorised_breaks_l9_once_it_is_old() -> None:
    story, config = Story(), MasterConfig()
    master = Master(config, "fifo")
    master.handle(events.Started(term=1), AT)
    story.laws.process_began("a", "j/g/0", 1, AT)
    for at_us, broken in ((AT, []), (AT + ORPHAN_US - 1, []), (AT + ORPHAN_US, ["L9"])):
        story.laws.look(master, {"a": Process()}, Connections(), at_us)
        assert story.broken == broken


def test_the_same_attempt_on_two_devices_breaks_l3() -> None:
    story = Story()
    story.laws.process_began("a", "j/g/0", 1, AT)
    story.laws.process_began("b", "j/g/0", 1, AT)
    assert story.broken == ["L3"]


def test_more_failures_than_attempts_break_l11() -> None:
    story = Story()
    for attempt in (1, 2, 3):
        story.assign(attempt=attempt)
        story.change("pending", failed=True)
    assert story.laws.broken == ["L11 task j/g/0 failed 3 times; 2 attempts were allowed"]


def test_room_that_is_given_back_may_be_given_again() -> None:
    """Sums by agent come back to nothing: fourteen attempts of 600 in a row on 8,000."""
    story = Story()
    for attempt in range(1, 15):
        story.assign(attempt=attempt)
        story.change("pending")
    assert story.broken == []


def test_a_book_past_its_bound_breaks_l10() -> None:
    laws = Laws(MasterConfig(agents_max=1), "fifo")
    master = Master(MasterConfig(agents_max=9), "fifo")
    for agent_id, broken in (("a", 0), ("b", 1)):
        master.apply(facts.AgentEnrolled(at_us=AT, agent_id=agent_id, boot=1, site="s", tier="edge", total=Resources()))
        laws.look(master, {}, Connections(), AT)
        assert len(laws.broken) == broken
    assert laws.broken == ["L10 the master keeps 2 agents; the bound is 1"]


def test_an_agent_that_is_there_and_not_in_service_breaks_l13() -> None:
    story, master = Story(), Master(MasterConfig(), "fifo")
    story.laws.converged(master, {"a": Process()}, Connections(), AT)
    assert story.broken == []
    story.fact(facts.AgentStateChanged(at_us=AT, agent_id="a", state="disconnected"))
    story.laws.converged(master, {"a": Process()}, Connections(), AT)
    assert story.laws.broken == ["L13 agent a is disconnected long after all was mended"]


def test_l4_no_more_of_a_gpu_than_there_is() -> None:
    gpu = Gpu(uuid="g", memory_bytes=1000, isolation="shared")
    total = Resources(cpu_milli=8000, gpus=(gpu,))

    def broken(milli: int, memory_bytes: int = 0) -> list[str]:
        laws = Laws(MasterConfig(roles=(RoleConfig(path="r"),)), "fifo")
        needs = Needs(cpu_milli=1, gpu=GpuNeed(milli=milli, memory_bytes=memory_bytes))
        assignment = facts.Assignment(
            agent_id="a", task_ids=("j/g/0", "j/g/1"), attempts=(1, 1), cmd_ids=(1, 2), gpus=(("g",), ("g",))
        )
        told: list[facts.Fact] = [
            facts.AgentEnrolled(at_us=AT, agent_id="a", boot=1, site="s", tier="edge", total=total),
            facts.JobAccepted(
                at_us=AT,
                job_id="j",
                job=Job(name="j", role="r", tasks=(TaskGroup(name="g", command=("x",), count=2, needs=needs),)),
            ),
            facts.TasksAssigned(at_us=AT, round_id=1, policy="fifo", assignments=(assignment,)),
        ]
        for fact in told:
            laws.after_step(TICK, [commands.Persist(fact=fact)], AT)
        return [sentence for sentence in laws.broken if sentence.startswith("L4")]

    assert broken(500) == [] == broken(400, 500)
    assert broken(501) == ["L4 of GPU g of agent a, 1002 milli and 1002 bytes are allocated"]
    assert broken(100, 501) == ["L4 of GPU g of agent a, 200 milli and 1002 bytes are allocated"]
