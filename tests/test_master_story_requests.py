"""Stories of the core: what it is asked, and what it answers."""

from typing import Any

import pytest

from federation import views
from federation.api import (
    AddShard,
    PlanJob,
    PlanView,
    Problem,
    SetRole,
    SubmitJob,
)
from federation.commands import Reply
from federation.config import MasterConfig
from federation.events import Asked, PlanFailed
from federation.facts import JobAccepted, JobEnded
from federation.jobs import Write
from federation.wire import StatusAck
from policies.model import Amount, GpuNeed, Needs, Reason
from tests.master_world import SECOND, World, group, job, kinds, needs, resources, sha

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
