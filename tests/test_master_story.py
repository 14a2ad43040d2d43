"""Core stories: events in, exact commands out. Each tells one thing the master promises."""

from typing import Any

import pytest

from federation import views
from federation.api import (
    AddShard,
    CancelJob,
    KillTask,
    PlanJob,
    PlanView,
    Problem,
    SetAgentMode,
    SetRole,
    SubmitJob,
)
from federation.commands import Announce, Persist, Reply, Send, Solve
from federation.config import MasterConfig
from federation.events import Asked, BrokerFound, BrokerLost, PlanFailed, PlanReady, Started
from federation.facts import JobAccepted, JobEnded, TasksAssigned, TaskStateChanged, TermBegun
from federation.jobs import Artifact, Write
from federation.master import Master
from federation.states import TaskState
from federation.wire import CommandBatch, HeldShard, Kill, Launch, MasterState, RebirthRequest, StatusAck, Welcome
from policies.model import Amount, GpuNeed, Needs, Placement, Plan, Reason, ShardMove
from tests.master_world import SECOND, START_US, World, group, job, needs, resources, sha


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


# --- the main line ---------------------------------------------------------------------------------------------------


def test_a_term_begins_with_a_fact_and_an_announcement() -> None:
    commands = Master(MasterConfig(), "fifo").handle(Started(term=1, http_url="http://m:1"), START_US)
    assert commands == [
        Persist(fact=TermBegun(at_us=START_US, term=1)),
        Announce(state=MasterState(term=1, online=True, http_url="http://m:1")),
    ]


def test_from_birth_to_finished_step_by_step() -> None:
    world = World(solve=False)
    fake = world.agent("gw-1", offer=False)
    assert [m for m in fake.heard if isinstance(m, Welcome)] == [
        Welcome(
            term=1,
            boot=1,
            conn=1,
            offer_every_us=5 * SECOND,
            ping_every_us=30 * SECOND,
            offer_lease_us=15 * SECOND,
            data_url="http://master:1",
        )
    ]
    assert fake.offer() == []
    what = job("digits", group("train", writes=(Write(name="model", path="model.npz", bytes_max=99),)))
    submitted = world.handle(Asked(request_id="r", request=SubmitJob(job=what)))
    assert kinds(submitted) == ["Persist JobAccepted", "Reply", "Solve"], "first the fact, then the answer"
    solve = submitted[-1]
    assert isinstance(solve, Solve)
    (demand,), (node,) = solve.snapshot.demands, solve.snapshot.nodes
    assert (demand.count, demand.oldest_us, demand.profile) == (1, START_US, "digits/train")
    assert (node.agent_id, node.free, node.total) == ("gw-1", fake.total, fake.total)

    fake.deaf = True
    plan = Plan(placements=(Placement(demand_id=demand.demand_id, agent_id="gw-1", count=1),))
    placed = world.answer(plan)
    assert kinds(placed) == ["Persist TasksAssigned", "Send CommandBatch"]
    assigned, send = placed
    assert isinstance(assigned, Persist) and isinstance(assigned.fact, TasksAssigned)
    assert isinstance(send, Send) and isinstance(send.message, CommandBatch)
    (launch,) = send.message.commands
    assert isinstance(launch, Launch)
    assert (send.message.term, send.message.boot, send.message.conn) == (1, 1, 1)
    assert (launch.cmd_id, launch.task_id, launch.attempt) == ((1 << 32) | 1, "digits/train/0", 1)
    assert [output.name for output in launch.outputs] == ["model"]
    assert state_of(world, "digits/train/0") == "assigned"

    fake.deaf = False
    fake.take(launch, 1)
    report = fake.flush()
    assert kinds(report) == ["Persist TaskStateChanged", "Persist TaskStateChanged", "Send StatusAck"]
    assert state_of(world, "digits/train/0") == "running"
    ended = fake.end("digits/train/0")
    assert kinds(ended) == [
        "Persist TaskStateChanged",
        "Persist ProfileLearned",
        "Send StatusAck",
        "Persist JobEnded",
    ]
    view = views.task(world.master, "digits/train/0")
    assert view is not None and view.state == "finished" and view.outputs == ("digits/train/0/model",)
    (shard,) = views.shards(world.master)
    assert (shard.name, shard.replicas) == ("digits/train/0/model", ("gw-1",))
    found = views.job(world.master, "digits")
    assert found is not None and found.state == "finished"
    assert world.replayed() == world.master.durable()


def test_placeholders_the_master_knows_are_filled() -> None:
    world = World()
    fake = world.agent()
    fake.queue_shard(HeldShard(shard_id=sha(1), size_bytes=5, name="digits/a"), "held")
    fake.flush()
    text = ("run", "{job}", "{index}", "{shard.name}", "{shard.path}", "{out}")
    spec = group("train", for_each="digits/*", reads=("{shard}",), env={"N": "{index}"})
    spec = type(spec)(**{**{f: getattr(spec, f) for f in spec.__struct_fields__}, "command": text})
    world.ask(SubmitJob(job=job("digits", spec)))
    (launch,) = fake.running.values()
    assert launch.command == ("run", "digits", "0", "digits/a", "{shard.path}", "{out}")
    assert launch.env == {"N": "0"}


def test_a_job_of_shards_reads_its_own_and_fetches_from_the_nearest() -> None:
    world = World()
    near = world.agent("gw-1", site="plant", offer=False)
    far = world.agent("vm-1", site="cloud", tier="cloud", offer=False)
    for fake in (near, far):
        fake.queue_shard(HeldShard(shard_id=sha(1), size_bytes=5, name="digits/a"), "held")
        fake.flush()
    taker = world.agent("gw-2", site="plant")
    world.ask(AddShard(shard_id=sha(1), size_bytes=5, name="digits/a", in_store=True))
    artifact = Artifact(shard_id=sha(9), size_bytes=3, name="code.tar.gz")
    world.ask(SubmitJob(job=job("digits", group("train", for_each="digits/*", reads=("{shard}",), artifact=artifact))))
    (launch,) = taker.running.values()
    (read,) = launch.reads
    assert [source.url for source in read.sources] == [
        f"http://gw-1:1/shards/{sha(1)}",
        f"http://vm-1:1/shards/{sha(1)}",
        f"http://master:1/shards/{sha(1)}",
    ]
    assert launch.artifact is not None
    assert [source.url for source in launch.artifact.sources] == [f"http://master:1/shards/{sha(9)}"]


def test_dependents_wait_and_read_what_was_written_even_equal_bytes_under_two_names() -> None:
    world = World()
    fake = world.agent()
    write = Write(name="model", path="m", bytes_max=9)
    what = job("digits", group("train", count=2, writes=(write,)), group("merge", reads=("train/*/model",)))
    world.ask(SubmitJob(job=what))
    assert state_of(world, "digits/merge/0") == "waiting"
    why = views.why(world.master, "digits/merge/0", world.now_us)
    assert why is not None and why.hints == ("train: 0 of 2 finished",)
    for n in range(2):
        held = HeldShard(shard_id=sha(7), size_bytes=4, name=f"digits/train/{n}/model")
        fake.end(f"digits/train/{n}", outputs=(held,))
    fake.offer()
    (launch,) = fake.running.values()
    assert launch.task_id == "digits/merge/0"
    assert [(read.shard_id, read.name) for read in launch.reads] == [
        (sha(7), "digits/train/0/model"),
        (sha(7), "digits/train/1/model"),
    ]


def test_a_failed_dependency_cancels_what_comes_after_and_fails_the_job() -> None:
    world = World()
    fake = world.agent()
    what = job("j", group("a", attempts_max=1), group("b", after=("a",)), group("c", after=("b",)), group("free"))
    world.ask(SubmitJob(job=what))
    fake.end("j/a/0", "failed", reason="exit", exit_code=3)
    assert [state_of(world, f"j/{name}/0") for name in ("a", "b", "c", "free")] == [
        "failed",
        "cancelled",
        "cancelled",
        "running",
    ]
    fake.end("j/free/0")
    found = views.job(world.master, "j")
    assert found is not None and found.state == "failed" and "j/a/0: exit" in found.detail


def test_equal_tasks_are_one_class_whatever_their_number() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job("a", group("t", count=1000, profile="p"))))
    world.ask(SubmitJob(job=job("b", group("t", count=500, profile="p"))))
    (solve,) = world.solves
    assert [demand.count for demand in solve.snapshot.demands] == [1000], "taken when the first job came"
    world.answer(Plan())
    (solve,) = world.solves
    assert [demand.count for demand in solve.snapshot.demands] == [1500]


def test_unchanged_parts_of_two_snapshots_are_the_same_objects() -> None:
    world = World(solve=False)
    for n in range(3):
        world.agent(f"gw-{n}")
    world.ask(SubmitJob(job=job("a", group("t", count=2, needs=needs(cpu=64)))))
    first = world.solves[0].snapshot
    world.answer(Plan())
    world.agents["gw-1"].offer(resources(cpu=2))
    world.ask(SubmitJob(job=job("b", group("u", needs=needs(cpu=99)))))
    second = world.solves[-1].snapshot
    assert [a is b for a, b in zip(first.nodes, second.nodes, strict=True)] == [True, False, True]
    kept = {demand.demand_id: demand for demand in second.demands}
    assert kept[first.demands[0].demand_id] is first.demands[0]


# --- plans meet the book of now --------------------------------------------------------------------------------------


def placement(world: World, agent_id: str, count: int = 1) -> Plan:
    (demand,) = world.solves[0].snapshot.demands
    return Plan(placements=(Placement(demand_id=demand.demand_id, agent_id=agent_id, count=count),))


def test_a_placement_on_an_agent_that_left_meanwhile_is_dropped() -> None:
    world = World(solve=False)
    fake = world.agent()
    world.ask(SubmitJob(job=job()))
    plan = placement(world, "gw-1")
    fake.die()
    assert kinds(world.answer(plan)) == ["Solve"], "the policy is asked again, and nothing is launched"
    assert world.master.counters["placements_stale"] == 1
    assert state_of(world, "digits/train/0") == "pending"


def test_a_placement_on_an_expired_offer_is_dropped() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job()))
    plan = placement(world, "gw-1")
    world.now_us += 15 * SECOND
    assert not [command for command in world.answer(plan) if isinstance(command, Persist)]
    assert world.master.counters["offers_expired"] == 1


def test_a_plan_that_overcommits_is_applied_as_far_as_it_fits() -> None:
    world = World(solve=False)
    world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("digits", group("train", count=9))))
    world.answer(placement(world, "gw-1", count=9))
    assert world.master.core.tasks.counts[TaskState.RUNNING] == 4
    assert world.master.counters["placements_stale"] == 5


def test_nonsense_in_a_plan_is_harmless() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job()))
    world.answer(
        Plan(
            placements=(
                Placement(demand_id="nobody", agent_id="gw-1", count=1),
                Placement(demand_id="nobody", agent_id="nowhere", count=-4),
            ),
            moves=(ShardMove(shard_id=sha(5), from_agent="gw-1", to_agent="gw-9"),),
        )
    )
    assert state_of(world, "digits/train/0") == "pending"


def test_a_policy_that_wants_only_what_cannot_be_is_slowed_down() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job("digits", group("train", needs=needs(cpu=99)))))
    rounds = 0
    while world.solves and rounds < 100:
        world.answer(placement(world, "gw-1"))
        rounds += 1
    assert rounds == 2
    world.advance(2 * SECOND, alive=False)
    assert len(world.solves) == 1


def test_an_answer_nobody_waits_for_is_ignored() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job()))
    plan = placement(world, "gw-1")
    round_id = world.solves[0].round_id
    assert world.handle(PlanReady(round_id=round_id + 7, plan=plan)) == []
    assert world.master.counters["plans_unasked"] == 1


def test_a_failed_policy_is_asked_again_a_little_later() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job()))
    world.handle(PlanFailed(round_id=world.solves.pop().round_id, detail="ZeroDivisionError"))
    assert not world.solves
    why = views.why(world.master, "digits/train/0", world.now_us)
    assert why is not None and why.blockers[0].reason is Reason.POLICY_FAILED and "ZeroDivision" in why.hints[0]
    world.advance(2 * SECOND)
    assert len(world.solves) == 1


def test_a_policy_that_never_answers_is_given_up() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job()))
    world.solves.clear()
    world.advance(62 * SECOND)
    assert world.master.counters["plans_failed"] == 1
    assert len(world.solves) == 1


# --- retries, gangs, kills -------------------------------------------------------------------------------------------


def test_a_failed_attempt_goes_elsewhere_and_a_poison_task_ends() -> None:
    world = World()
    one, two = world.agent("gw-1"), world.agent("gw-2")
    world.ask(SubmitJob(job=job("j", group("t", attempts_max=3))))
    one.end("j/t/0", "failed", reason="exit", exit_code=1, log_tail="boom")
    assert ("j/t/0", 2) in two.running, "where it failed is avoided while there are others"
    two.end("j/t/0", "failed", reason="exit", exit_code=1)
    assert ("j/t/0", 3) in one.running, "it failed everywhere, so nowhere is avoided"
    one.end("j/t/0", "failed", reason="exit", exit_code=1)
    view = views.task(world.master, "j/t/0")
    assert view is not None and (view.state, view.attempt, view.exit_code) == ("failed", 3, 1)


def test_a_refused_launch_costs_no_attempt_and_waits_for_a_new_offer() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j", group("t", attempts_max=1))))
    fake.end("j/t/0", "refused", reason="no_room")
    assert state_of(world, "j/t/0") == "pending"
    fake.offer()
    assert ("j/t/0", 2) in fake.running


def test_a_gang_runs_whole_or_not_and_restarts_whole() -> None:
    world = World()
    one = world.agent("gw-1", total=resources(cpu=2))
    world.ask(SubmitJob(job=job("g", group("w", count=3, gang=True))))
    assert not one.running
    two = world.agent("gw-2", total=resources(cpu=2))
    assert len(one.running) + len(two.running) == 3
    task_id, _ = next(iter(one.running))
    one.end(task_id, "failed", reason="exit")
    for fake in (one, two):
        fake.offer()
    assert sorted(attempt for fake in (one, two) for _, attempt in fake.running) == [2, 2, 2]


def test_a_gang_whose_member_is_poison_is_given_up() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("g", group("w", count=2, gang=True, attempts_max=1))))
    fake.end("g/w/0", "failed", reason="exit")
    assert [state_of(world, f"g/w/{n}") for n in range(2)] == ["failed", "cancelled"]
    assert not fake.running


def test_kill_and_cancel() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=2))
    world.ask(SubmitJob(job=job("j", group("t", count=4))))
    assert world.ask(KillTask(task_id="j/t/0")).state == "killing"
    assert state_of(world, "j/t/0") == "cancelled"
    fake.offer()
    world.ask(CancelJob(job_id="j"))
    assert not fake.running
    found = views.job(world.master, "j")
    assert found is not None and found.state == "cancelled" and found.tasks == {"cancelled": 4}
    assert world.ask(CancelJob(job_id="j")).state == "cancelled", "asked twice, done once"
    assert world.ask(CancelJob(job_id="nope")).status == 404
    assert world.ask(KillTask(task_id="nope")).status == 404


def test_what_finishes_before_the_kill_arrives_has_finished() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    fake.deaf = True
    world.ask(KillTask(task_id="j/train/0"))
    fake.end("j/train/0")
    assert state_of(world, "j/train/0") == "finished"


def test_draining_moves_work_and_cordoning_keeps_it() -> None:
    world = World()
    one = world.agent("gw-1")
    world.ask(SubmitJob(job=job("j")))
    world.ask(SetAgentMode(agent_id="gw-1", mode="cordoned"))
    assert one.running
    two = world.agent("gw-2")
    world.ask(SetAgentMode(agent_id="gw-1", mode="draining"))
    assert not one.running and ("j/train/0", 2) in two.running
    view = views.task(world.master, "j/train/0")
    assert view is not None and view.attempt == 2
    assert world.ask(SetAgentMode(agent_id="gw-7", mode="active")).status == 404


# --- shares ----------------------------------------------------------------------------------------------------------


def test_quota_of_a_parent_limits_its_children_and_the_hint_says_how_much() -> None:
    world = World()
    world.agent(total=resources(cpu=8))
    world.ask(SetRole(path="ml", quota=Amount(cpu_milli=2500)))
    world.ask(SubmitJob(job=job("v", group("t", count=2), role="ml/vision")))
    world.ask(SubmitJob(job=job("s", group("t", count=2), role="ml/speech")))
    roles = {role.path: role for role in views.roles(world.master)}
    assert roles["ml"].allocated.cpu_milli == 2000
    assert (roles["ml"].n_running, roles["ml"].n_pending) == (2, 2)
    assert roles["ml"].dominant_share_ppm == 250_000
    why = views.why(world.master, "s/t/1", world.now_us)
    assert why is not None and Reason.QUOTA in [blocker.reason for blocker in why.blockers]
    assert "quota of ml +0.5 cpu" in why.hints
    assert any(hint.startswith("gw-1 frees in ~") for hint in why.hints)


def test_gpus_are_named_and_never_given_twice() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=8, gpus=["a", "b", "c"]))
    spec = group("t", count=2, needs=Needs(cpu_milli=100, gpu=GpuNeed(count=2, model="a100")))
    world.ask(SubmitJob(job=job("j", spec)))
    assert [sorted(launch.gpus) for launch in fake.running.values()] == [["a", "b"]]
    fake.end("j/t/0")
    assert [len(launch.gpus) for launch in fake.running.values()] == [2]


# --- recovery --------------------------------------------------------------------------------------------------------


def test_nothing_is_placed_after_a_restart_until_agents_with_work_are_back() -> None:
    world = World()
    one = world.agent("gw-1", total=resources(cpu=1))
    world.ask(SubmitJob(job=job("j", group("t", count=2))))
    assert len(one.running) == 1
    one.deaf = True
    world.crash()
    two = world.agent("gw-2")
    assert not two.running
    assert views.status(world.master, world.now_us).state == "recovering"
    why = views.why(world.master, "j/t/1", world.now_us)
    assert why is not None and why.blockers[0].reason is Reason.RECOVERING
    one.birth()
    assert len(two.running) == 1
    assert views.status(world.master, world.now_us).state == "serving"
    assert world.master.core.tasks.tasks["j/t/0"].attempt == 1, "the attempt of before is the attempt of now"


def test_recovery_ends_by_itself() -> None:
    world = World()
    one = world.agent("gw-1", total=resources(cpu=1))
    world.ask(SubmitJob(job=job("j", group("t", count=2))))
    del world.agents["gw-1"]
    world.crash()
    two = world.agent("gw-2")
    world.advance(31 * SECOND)
    assert len(two.running) == 1 and world.master.counters["reconcile_timeouts"] == 1
    assert one.running, "it may still be at it; its agent is only disconnected"
    world.advance(400 * SECOND)
    assert len(two.running) == 2, "lost: run again elsewhere"


def test_a_launch_that_was_lost_is_sent_again_under_the_same_id() -> None:
    world = World()
    fake = world.agent()
    fake.deaf = True
    world.ask(SubmitJob(job=job("j")))
    fake.deaf = False
    assert not fake.running
    fake.connect()
    (launch,) = fake.running.values()
    assert (launch.cmd_id, launch.attempt) == ((1 << 32) | 1, 1)
    assert state_of(world, "j/train/0") == "running"


def test_an_unacknowledged_launch_is_sent_again_in_time() -> None:
    world = World()
    fake = world.agent()
    fake.deaf = True
    world.ask(SubmitJob(job=job("j")))
    fake.deaf = False
    world.advance(11 * SECOND)
    assert ("j/train/0", 1) in fake.running


def test_a_launch_committed_but_never_sent_before_the_crash_is_sent_after() -> None:
    world = World()
    fake = world.agent()
    fake.deaf = True
    world.ask(SubmitJob(job=job("j")))
    world.crash()
    fake.deaf = False
    fake.connect()
    (launch,) = fake.running.values()
    assert (launch.cmd_id, launch.attempt) == ((1 << 32) | 1, 1)
    assert [m.term for m in fake.heard if isinstance(m, CommandBatch)][-1] == 2


def test_an_agent_that_lost_its_task_loses_an_attempt() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    fake.running.clear()
    fake.connect()
    fake.offer()
    assert [(fact.reason, fact.attempt_failed) for fact in world.facts if isinstance(fact, TaskStateChanged)][-3] == (
        "agent_restart",
        True,
    )
    assert ("j/train/0", 2) in fake.running


def test_an_orphan_is_killed() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    fake.running["ghost/t/0", 4] = fake.running["j/train/0", 1]
    fake.terms["ghost/t/0", 4] = 1
    fake.connect()
    assert list(fake.running) == [("j/train/0", 1)]
    kills = [c for m in fake.heard if isinstance(m, CommandBatch) for c in m.commands if isinstance(c, Kill)]
    assert [(kill.task_id, kill.attempt) for kill in kills] == [("ghost/t/0", 4)]


def test_known_agents_are_asked_for_their_birth_at_the_start_of_a_term() -> None:
    world = World()
    fake = world.agent()
    world.crash()
    assert [m for m in fake.heard if isinstance(m, RebirthRequest)] == [RebirthRequest(term=2, spread_us=5 * SECOND)]


def test_rounds_stand_still_while_the_broker_is_lost() -> None:
    world = World()
    fake = world.agent()
    world.handle(BrokerLost(detail="connection refused"))
    world.ask(SubmitJob(job=job("j")))
    world.advance(60 * SECOND, alive=False)
    assert not fake.running
    assert views.status(world.master, world.now_us).broker == "lost connection refused"
    assert world.master.core.agents["gw-1"].state == "online", "silence while the broker is lost is nobody's"
    world.handle(BrokerFound())
    fake.offer()
    assert fake.running


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_submission_id_gives_the_same_answer_twice() -> None:
    world = World()
    first = world.ask(SubmitJob(job=job("j"), submission_id="x"))
    again = world.ask(SubmitJob(job=job("j"), submission_id="x"))
    assert first.job_id == again.job_id == "j" and len(views.jobs(world.master)) == 1
    assert world.ask(SubmitJob(job=job("k"), submission_id="x")).status == 409
    assert world.ask(SubmitJob(job=job("j"))).job_id == "j-2"
    assert world.ask(SubmitJob(job=job("j"))).job_id == "j-3"


@pytest.mark.parametrize(
    ("groups", "code", "text"),
    [
        ((group("a", after=("b",)), group("b", after=("a",))), "cycle", "a after b after a"),
        ((group("a", after=("z",)),), "unknown_group", "'z'"),
        ((group("a"), group("a")), "duplicate_group", "a is there twice"),
        ((group("a", for_each="none/*"),), "no_shards", "none/*"),
        ((group("a", reads=("none/*",)),), "no_shards", "none/*"),
        ((group("a", reads=("{shard}",)),), "no_own_shard", "for_each"),
        ((group("a"), group("b", reads=("a/*/model",))), "no_such_output", "matches nothing that a writes"),
        ((group("a", needs=Needs(cpu_milli=-1)),), "impossible_demand", "cpu_milli"),
        ((group("a", needs=Needs(gpu=GpuNeed(count=0))),), "impossible_demand", "gpus"),
        ((group("a", writes=(Write(name="x", path="../x", bytes_max=1),)),), "bad_path", "under {out}"),
        ((group("a", env={"X": "y" * 70_000}),), "command_too_long", "65,536"),
    ],
)
def test_jobs_that_can_never_run_are_refused(groups: tuple[Any, ...], code: str, text: str) -> None:
    world = World()
    answer = world.ask(SubmitJob(job=job("j", *groups)))
    assert isinstance(answer, Problem) and answer.code == code and text in answer.detail
    assert not views.jobs(world.master) and world.master.counters["requests_refused"] == 1


def test_residency_that_excludes_itself_is_refused() -> None:
    world = World()
    world.ask(AddShard(shard_id=sha(1), size_bytes=1, name="eu", sites=("paris",), in_store=True))
    world.ask(AddShard(shard_id=sha(2), size_bytes=1, name="us", sites=("austin",), in_store=True))
    answer = world.ask(SubmitJob(job=job("j", group("a", reads=("eu", "us")))))
    assert answer.code == "residency"


def test_a_demand_no_agent_meets_today_stays_pending_and_says_why() -> None:
    world = World()
    world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("j", group("t", needs=needs(cpu=5)))))
    why = views.why(world.master, "j/t/0", world.now_us)
    assert why is not None and why.state == "pending" and why.round_id is not None
    assert [blocker.reason for blocker in why.blockers] == [Reason.CPU]
    assert why.hints[0] == "gw-1: +1 cpu"
    assert world.replayed() == world.master.durable()


def test_bounds_are_named() -> None:
    world = World(MasterConfig(round_every_us=0, tasks_max=5, demands_max=3, shards_max=1, roles_max=2))
    assert world.ask(SubmitJob(job=job("j", group("t", count=6)))).code == "full"
    assert world.ask(SubmitJob(job=job("j", *(group(f"t{n}") for n in range(4))))).code == "full"
    assert world.ask(SubmitJob(job=job("j", role="a/b"))).code == "full"
    assert world.ask(SetRole(path="x/y/z")).code == "full"
    assert world.ask(AddShard(shard_id=sha(1), size_bytes=1)).size_bytes == 1
    assert world.ask(AddShard(shard_id=sha(2), size_bytes=1)).code == "full"
    assert world.ask(AddShard(shard_id=sha(1), size_bytes=2)).code == "size_mismatch"
    assert world.ask(SetRole(path="default", quota=Amount(cpu_milli=-1))).code == "bad_quota"


def test_a_role_nobody_set_up_is_refused_where_roles_are_closed() -> None:
    world = World(MasterConfig(roles_open=False))
    assert world.ask(SubmitJob(job=job("j", role="mine"))).code == "unknown_role"


def test_a_dry_run_changes_nothing() -> None:
    world = World()
    world.agent()
    before = world.master.durable()
    answer = world.ask(PlanJob(job=job("j", group("a", count=3), group("b", after=("a",)))))
    assert isinstance(answer, PlanView)
    assert sorted(answer.groups.values()) == ["a", "b"]
    assert sum(placement.count for placement in answer.plan.placements) == 4
    assert world.master.durable() == before
    assert world.ask(PlanJob(job=job("j", group("a", after=("a",))))).code == "cycle"


def test_dry_runs_are_answered_even_if_the_policy_is_not() -> None:
    world = World(MasterConfig(dry_runs_max=2), solve=False)
    world.agent()
    for _ in range(3):
        world.ask(PlanJob(job=job("j")))
    assert [answer.code for answer in world.replies.values() if isinstance(answer, Problem)] == ["full"]
    world.handle(PlanFailed(round_id=world.solves[0].round_id, detail="no"))
    world.advance(61 * SECOND)
    codes = sorted(answer.code for answer in world.replies.values() if isinstance(answer, Problem))
    assert codes == ["full", "policy_failed", "policy_timeout"]


def test_old_jobs_are_forgotten_and_their_ids_not_given_again() -> None:
    world = World(MasterConfig(round_every_us=0, ended_jobs_max=1))
    fake = world.agent()
    for _ in range(3):
        view = world.ask(SubmitJob(job=job("j")))
        fake.end(f"{view.job_id}/train/0")
    assert [view.job_id for view in views.jobs(world.master)] == ["j-3"]
    assert world.ask(SubmitJob(job=job("j"))).job_id == "j-4"
    assert len(world.master.core.tasks.tasks) == 2
    assert world.replayed() == world.master.durable()


def test_every_request_is_answered_once_after_its_facts() -> None:
    world = World(solve=False)
    commands = world.handle(Asked(request_id="r9", request=SetRole(path="ml", weight=3)))
    assert kinds(commands) == ["Persist RoleSet", "Reply"]
    reply = commands[1]
    assert isinstance(reply, Reply) and reply.request_id == "r9"


# --- shards ----------------------------------------------------------------------------------------------------------


def test_a_planned_copy_is_ordered_and_its_source_dropped_after() -> None:
    world = World(solve=False)
    one, two = world.agent("gw-1"), world.agent("gw-2")
    one.shards[sha(1)] = HeldShard(shard_id=sha(1), size_bytes=9, name="a")
    one.queue_shard(one.shards[sha(1)], "held")
    one.flush()
    world.ask(SubmitJob(job=job("j", group("t", reads=("a",), needs=needs(cpu=99)))))
    move = ShardMove(shard_id=sha(1), from_agent="gw-1", to_agent="gw-2", drop_source=True)
    world.answer(Plan(moves=(move, move)))
    assert sha(1) in two.shards and sha(1) not in one.shards
    (shard,) = views.shards(world.master, "a")
    assert shard.replicas == ("gw-2",)
    assert world.master.counters["moves_begun"] == 1 and world.master.counters["moves_done"] == 1
    assert not world.master.core.moves.in_flight


def test_a_shard_that_lacks_replicas_opens_a_round_of_its_own() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(AddShard(shard_id=sha(1), size_bytes=9, replicas_wanted=1, in_store=True))
    assert [shard.shard_id for shard in world.solves[0].snapshot.shards] == [sha(1)]
    world.answer(Plan(moves=(ShardMove(shard_id=sha(1), from_agent="", to_agent="gw-1"),)))
    (shard,) = views.shards(world.master)
    assert shard.replicas == ("gw-1",)
    world.advance(60 * SECOND)
    assert not world.solves, "nothing is wanted any more"


def test_replicas_follow_the_birth() -> None:
    world = World()
    fake = world.agent()
    fake.shards = {sha(n): HeldShard(shard_id=sha(n), size_bytes=n, name=f"s/{n}") for n in (1, 2)}
    fake.connect()
    assert len(views.shards(world.master, "s/*")) == 2
    del fake.shards[sha(1)]
    fake.connect()
    assert [shard.replicas for shard in views.shards(world.master, "s/*")] == [(), ("gw-1",)]


def test_a_shard_with_another_size_is_not_believed() -> None:
    world = World()
    one, two = world.agent("gw-1"), world.agent("gw-2")
    one.queue_shard(HeldShard(shard_id=sha(1), size_bytes=5, name="a"), "held")
    one.flush()
    two.queue_shard(HeldShard(shard_id=sha(1), size_bytes=6, name="a"), "held")
    two.flush()
    (shard,) = views.shards(world.master)
    assert (shard.size_bytes, shard.replicas) == (5, ("gw-1",))
    assert world.master.counters["shards_size_mismatch"] == 1


# --- pages -----------------------------------------------------------------------------------------------------------


def test_tasks_are_paged_in_order() -> None:
    world = World(solve=False)
    world.ask(SubmitJob(job=job("a", group("t", count=3), group("u", count=2))))
    world.ask(SubmitJob(job=job("b", group("t", count=2))))
    seen: list[str] = []
    after = None
    while True:
        page = views.tasks(world.master, after=after, limit=2)
        seen += [task.task_id for task in page.tasks]
        after = page.next_after
        if after is None:
            break
    assert seen == ["a/t/0", "a/t/1", "a/t/2", "a/u/0", "a/u/1", "b/t/0", "b/t/1"]
    page = views.tasks(world.master, job_id="b", state="pending", limit=1)
    assert [task.task_id for task in page.tasks] == ["b/t/0"] and page.next_after == "b/t/0"
    assert views.tasks(world.master, agent_id="gw-9").tasks == ()
    assert views.task(world.master, "x") is None and views.job(world.master, "x") is None
    assert views.agent(world.master, "x") is None and views.why(world.master, "x", 0) is None


def test_jobs_are_facts_with_all_that_replay_needs() -> None:
    world = World()
    world.agent()
    world.ask(SubmitJob(job=job("j")))
    world.agents["gw-1"].end("j/train/0")
    kept = [type(fact) for fact in world.facts]
    assert JobAccepted in kept and JobEnded in kept
    acked = [m for m in world.agents["gw-1"].heard if isinstance(m, StatusAck)]
    assert [status_id for ack in acked for status_id in ack.status_ids] == [1, 2, 3]


def test_an_attempt_whose_data_has_no_way_to_it_is_not_the_tasks_own() -> None:
    world = World()
    holder = world.agent("car", offer=False, total=resources(0))
    shard = HeldShard(shard_id=sha(1), size_bytes=10**6, name="frame")
    holder.shards[shard.shard_id] = shard
    holder.connect()
    for n in range(4):
        world.agent(f"gw-{n}").deaf = True  # They fetch, and start nothing.
    world.ask(SubmitJob(job=job("see", group(reads=("frame",), attempts_max=2)), submission_id="1"))
    task = world.master.core.tasks.tasks["see/train/0"]

    def miss() -> str:
        fake = world.agents[task.agent_id]
        fake.queue(task.task_id, task.attempt, "failed", reason="fetch")
        fake.flush()
        fake.outbox.clear()
        fake.offer()
        return fake.agent_id

    assert sorted(miss() for _ in range(4)) == ["gw-0", "gw-1", "gw-2", "gw-3"], "each is tried once"
    assert (task.n_failed, task.state) == (0, TaskState.ASSIGNED)
    link = world.master.core.network.tracks["site:site-car", "site:site-gw-0"]
    assert link.bandwidth_bps() == 1_000, "a way that brought nothing attracts no work"
    miss()  # Nothing else is left: the second time on the same agent counts.
    assert (task.n_failed, task.state) == (1, TaskState.ASSIGNED)
    miss()
    assert (task.n_failed, task.state) == (2, TaskState.FAILED)
    assert world.replayed() == world.master.durable()
