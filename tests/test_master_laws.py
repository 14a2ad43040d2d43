"""The laws of docs/architecture.md under random histories: agents come and go, messages repeat, masters crash."""

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from federation import views
from federation.api import CancelJob, KillTask, SetAgentMode, SetRole, SubmitJob
from federation.config import MasterConfig
from federation.durable import DurableState
from federation.events import AgentSpoke, BrokerFound, BrokerLost, PlanFailed, PlanReady
from federation.facts import JobEnded
from federation.jobs import Write
from federation.master import Master
from federation.offers import NodeBook, find_unused, free_of, is_offered, unused_of
from federation.states import PLACED_STATES, TERMINAL_STATES, AgentState, TaskState
from federation.wire import AgentMessage
from policies.fifo import Fifo
from policies.gpus import memory_of
from policies.model import Amount, GpuNeed, Needs
from tests.master_world import SECOND, Fake, World, group, job, resources

AGENTS = ("gw-1", "gw-2", "vm-1")
picks = st.integers(0, 10**6)


class Recorder(Fake):
    """Remembers what it said, so that it can be heard twice or late."""

    said: list[AgentMessage]

    def say(self, make, **fields):  # type: ignore[no-untyped-def]
        message = self.message(make, **fields)
        self.said.append(message)
        return self.world.handle(AgentSpoke(message=message))


class MasterLaws(RuleBasedStateMachine):
    @initialize(solve=st.booleans())
    def begin(self, solve: bool) -> None:
        self.world = World(MasterConfig(round_every_us=0, ended_jobs_max=5, refusal_every_us=0), solve=solve)
        self.world.ask(SetRole(path="small", quota=Amount(cpu_milli=3000)))
        self.snapshot: tuple[bytes, int] | None = None
        for agent_id in AGENTS:
            fake = Recorder(
                self.world,
                agent_id,
                total=resources(gpus=["gpu-a", "gpu-b"] if agent_id == "vm-1" else [], isolation="shared"),
                site="cloud" if agent_id == "vm-1" else f"plant-{agent_id}",
                tier="cloud" if agent_id == "vm-1" else "edge",
            )
            fake.said = []
            self.world.agents[agent_id] = fake
            fake.connect()
            fake.offer()
        self.jobs = 0

    def fake(self, n: int) -> Recorder:
        fake = self.world.agents[AGENTS[n % len(AGENTS)]]
        assert isinstance(fake, Recorder)
        return fake

    # --- people ---

    @rule(
        kind=st.sampled_from(["plain", "chain", "gang", "gpu", "share", "small", "reads"]),
        count=st.integers(1, 6),
        attempts=st.integers(1, 3),
    )
    def submit(self, kind: str, count: int, attempts: int) -> None:
        if len(self.world.master.core.tasks.jobs) > 12:
            return
        first = group("train", count=count, attempts_max=attempts, writes=(Write(name="model", path="m", bytes_max=9),))
        match kind:
            case "plain":
                what = job("plain", first)
            case "chain":
                what = job("chain", first, group("merge", after=("train",)), group("eval", after=("merge",)))
            case "gang":
                what = job("gang", group("train", count=min(count, 4), gang=True, attempts_max=attempts))
            case "gpu":
                what = job("gpu", group("train", count=count, needs=Needs(cpu_milli=500, gpu=GpuNeed(count=1))))
            case "share":
                share = GpuNeed(milli=400, memory_bytes=25 * 2**30 if count % 2 else 0)
                what = job("share", group("train", count=count, needs=Needs(cpu_milli=100, gpu=share)))
            case "small":
                what = job("small", first, role="small")
            case _:
                what = job("reads", first, group("merge", reads=("train/*/model",)))
        self.jobs += 1
        answer = self.world.ask(SubmitJob(job=what))
        assert answer.n_tasks >= 1

    @rule(n=picks)
    def cancel(self, n: int) -> None:
        ids = list(self.world.master.core.tasks.jobs)
        if ids:
            self.world.ask(CancelJob(job_id=ids[n % len(ids)]))

    @rule(n=picks)
    def kill_task(self, n: int) -> None:
        ids = list(self.world.master.core.tasks.tasks)
        if ids:
            self.world.ask(KillTask(task_id=ids[n % len(ids)]))

    @rule(n=picks, mode=st.sampled_from(["active", "active", "cordoned", "draining"]))
    def set_mode(self, n: int, mode: str) -> None:
        self.world.ask(SetAgentMode(agent_id=AGENTS[n % len(AGENTS)], mode=mode))  # type: ignore[arg-type]

    # --- agents ---

    @rule(n=picks, how=st.sampled_from(["offer", "ping", "connect", "birth", "die", "flush"]))
    def act(self, n: int, how: str) -> None:
        getattr(self.fake(n), how)()

    @rule(n=picks, keep=st.booleans())
    def restart(self, n: int, keep: bool) -> None:
        self.fake(n).restart(keep_running=keep)
        self.fake(n).offer()

    @rule(n=picks)
    def toggle_deaf(self, n: int) -> None:
        self.fake(n).deaf = not self.fake(n).deaf

    @rule(n=picks, m=picks, state=st.sampled_from(["finished", "finished", "failed", "killed", "refused"]))
    def end(self, n: int, m: int, state: str) -> None:
        fake = self.fake(n)
        if fake.running:
            task_id, _ = list(fake.running)[m % len(fake.running)]
            fake.end(task_id, state, reason="exit")
            fake.offer()

    @rule(n=picks, m=picks)
    def repeat(self, n: int, m: int) -> None:
        """A duplicate, or a late copy, of anything ever said."""
        fake = self.fake(n)
        if fake.said:
            self.world.handle(AgentSpoke(message=fake.said[m % len(fake.said)]))

    @rule(n=picks)
    def skip(self, n: int) -> None:
        """A message is lost on its way."""
        self.fake(n).seq += 1

    @rule(n=picks, attempt=st.integers(0, 3), state=st.sampled_from(["running", "finished", "failed"]))
    def lie(self, n: int, attempt: int, state: str) -> None:
        """A status of work that this agent may never have been given."""
        ids = list(self.world.master.core.tasks.tasks)
        fake = self.fake(n)
        task_id = ids[n % len(ids)] if ids and n % 3 else "nobody/knows/0"
        if (task_id, attempt) in fake.running:
            return
        fake.queue(task_id, attempt, state)
        fake.flush()

    # --- the world ---

    @rule(seconds=st.sampled_from([1, 6, 20, 40, 400]), alive=st.booleans())
    def wait(self, seconds: int, alive: bool) -> None:
        self.world.advance(seconds * SECOND, alive=alive)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule(n=picks)
    def crash_before_sending(self, n: int) -> None:
        """The facts of an event are committed, and the master dies before anything else of it leaves."""
        self.world.mute = True
        self.submit("plain", 1 + n % 4, 2)
        if self.world.solves:
            self.solve(fail=False)
        self.world.mute = False
        self.world.crash()

    @rule()
    def broker_blinks(self) -> None:
        self.world.handle(BrokerLost(detail="gone"))
        self.world.handle(BrokerFound())

    @precondition(lambda self: self.world.solves)
    @rule(fail=st.booleans())
    def solve(self, fail: bool) -> None:
        asked = self.world.solves.pop(0)
        if fail:
            self.world.handle(PlanFailed(round_id=asked.round_id, detail="no"))
        else:
            self.world.handle(PlanReady(round_id=asked.round_id, plan=Fifo().plan(asked.snapshot)))

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = msgspec.msgpack.encode(self.world.master.durable()), len(self.world.facts)

    # --- the laws ---

    @invariant()
    def l2_everything_has_an_owner(self) -> None:
        core = self.world.master.core
        for task in core.tasks.tasks.values():
            if task.state in PLACED_STATES:
                assert core.agents[task.agent_id].tasks[task.task_id] == task.attempt
            elif task.state is TaskState.PENDING:
                assert task.task_id in core.tasks.demands.classes[task.demand_id].tasks
            assert task.state in TERMINAL_STATES or task.group.job.state == "running"
            assert views.why(self.world.master, task.task_id, self.world.now_us) is not None
        placed = sum(len(entry.tasks) for entry in core.agents.entries.values())
        assert placed == sum(core.tasks.counts[state] for state in PLACED_STATES)
        assert sum(len(c.tasks) for c in core.tasks.demands.classes.values()) == core.tasks.counts[TaskState.PENDING]

    @invariant()
    def l2_a_job_ends_once(self) -> None:
        ended = [fact.job_id for fact in self.world.facts if isinstance(fact, JobEnded)]
        assert len(ended) == len(set(ended))
        core = self.world.master.core
        assert not core.tasks.drained
        assert core.tasks.job_counts["running"] == sum(job.state == "running" for job in core.tasks.jobs.values())

    @invariant()
    def l3_no_attempt_runs_twice(self) -> None:
        started = [key for fake in self.world.agents.values() for key in fake.started]
        assert len(started) == len(set(started))

    @invariant()
    def l4_nothing_is_overcommitted(self) -> None:
        core = self.world.master.core
        for entry in core.agents.entries.values():
            total = entry.enrolled.total
            tasks = [core.tasks.tasks[task_id] for task_id in entry.tasks]
            assert sum(t.group.spec.needs.cpu_milli for t in tasks) == entry.cpu_used <= total.cpu_milli
            assert sum(t.group.spec.needs.memory_bytes for t in tasks) == entry.memory_used <= total.memory_bytes
            assert {uuid for task in tasks for uuid in task.gpus} == set(entry.gpus_used) <= set(entry.gpus_by_uuid)
            for gpu in total.gpus:
                parts = [entry.held_gpus(t.group.spec.needs, t.gpus) for t in tasks if gpu.uuid in t.gpus]
                assert sum(part.milli for held in parts for part in held) <= 1000
                assert sum(memory_of(part) for held in parts for part in held) <= (gpu.memory_bytes or 0)
        for fake in self.world.agents.values():
            assert fake.free().cpu_milli >= 0 and fake.free().memory_bytes >= 0

    @invariant()
    def a_round_sees_every_agent_that_offers_and_what_it_has_free(self) -> None:
        core, now_us = self.world.master.core, self.world.now_us
        entries = core.agents.sorted()
        nodes = core.nodes.nodes(frozenset(), core.tasks.tasks, core.profiles, now_us)
        assert nodes == NodeBook(core.agents).nodes(frozenset(), core.tasks.tasks, core.profiles, now_us)
        offering = [entry for entry in entries if is_offered(entry, now_us)]
        assert [(node.agent_id, node.free) for node in nodes] == [(e.agent_id, free_of(e)) for e in offering]
        assert all(unused_of(e) == find_unused(e, e.offer) for e in offering if e.offer is not None)

    @invariant()
    def l6_quota_holds(self) -> None:
        assert self.world.master.core.shares.roles["small"].allocated.cpu_milli <= 3000

    @invariant()
    def l7_replay_is_the_live_state(self) -> None:
        durable = self.world.master.durable()
        assert self.world.replayed() == durable
        if self.snapshot is not None:
            encoded, n_facts = self.snapshot
            state = msgspec.msgpack.decode(encoded, type=DurableState)
            master = Master.restore(self.world.config, state, "fifo")
            for fact in self.world.facts[n_facts:]:
                master.apply(fact)
            assert master.durable() == durable

    @invariant()
    def l10_bounded(self) -> None:
        core = self.world.master.core
        assert len(core.tasks.ended) <= 5
        assert len(core.deadlines) <= 4 * len(AGENTS) + 8

    def teardown(self) -> None:
        """L9 and L13: after a quiet time everybody agrees, and all work comes to its end."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.auto_solve = True
        world.solve()
        for fake in world.agents.values():
            world.ask(SetAgentMode(agent_id=fake.agent_id, mode="active"))
            fake.deaf = False
            fake.connect()
        world.advance(200 * SECOND)
        for fake in world.agents.values():
            fake.connect()
        assert not world.master.core.recovering
        for _ in range(60):
            for fake in world.agents.values():
                fake.flush()
                for task_id, attempt in list(fake.running):
                    task = world.master.core.tasks.tasks.get(task_id)
                    assert task is not None and task.agent_id == fake.agent_id and task.attempt == attempt, "L9"
                    fake.end(task_id)
            world.advance(6 * SECOND)
        open_tasks = [t for t in world.master.core.tasks.tasks.values() if t.state not in TERMINAL_STATES]
        assert not open_tasks, [(t.task_id, t.state, t.reason) for t in open_tasks]
        assert all(entry.state is AgentState.ONLINE for entry in world.master.core.agents.entries.values())
        self.l7_replay_is_the_live_state()


MasterLaws.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMasterLaws = MasterLaws.TestCase
