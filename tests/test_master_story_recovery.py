"""Stories of the core: retries, gangs, kills, shares; terms that end and begin."""

from federation import views
from federation.api import (
    CancelJob,
    KillTask,
    SetAgentMode,
    SetRole,
    SubmitJob,
)
from federation.events import BrokerFound, BrokerLost
from federation.facts import TaskStateChanged
from federation.wire import CommandBatch, Kill, RebirthRequest
from policies.model import Amount, GpuNeed, Needs, Reason
from tests.master_world import SECOND, World, group, job, resources, state_of

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
