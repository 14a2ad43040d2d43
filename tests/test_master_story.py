"""Core stories: events in, exact commands out. Each tells one thing the master promises."""

from federation import views
from federation.api import (
    AddShard,
    SubmitJob,
)
from federation.commands import Announce, Persist, Send, Solve
from federation.config import MasterConfig
from federation.events import Asked, PlanFailed, PlanReady, Started
from federation.facts import TasksAssigned, TermBegun
from federation.jobs import Artifact, Write
from federation.master import Master
from federation.states import TaskState
from federation.wire import CommandBatch, HeldShard, Launch, MasterState, Welcome
from policies.model import Placement, Plan, Reason, ShardMove
from tests.master_world import SECOND, START_US, World, group, job, kinds, needs, resources, sha, state_of

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
    assert link.bandwidth_bps(world.now_us) == 1_000, "a way that brought nothing attracts no work"
    miss()  # Nothing else is left: the second time on the same agent counts.
    assert (task.n_failed, task.state) == (1, TaskState.ASSIGNED)
    miss()
    assert (task.n_failed, task.state) == (2, TaskState.FAILED)
    assert world.replayed() == world.master.durable()
