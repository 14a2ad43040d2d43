"""Stories of the agent's core: the life of its tasks and shards. No I/O, no clock."""

import pytest
from agent_world import SECOND_US, TOTAL, World, config, fetch, held, launch, running_world, sha

from agents.commands import (
    Acknowledge,
    Fetch,
    Persist,
    Publish,
    RemoveShard,
    StartTask,
    StopTask,
)
from agents.events import (
    Disconnected,
    FetchEnded,
    MasterSpoke,
    ShardFound,
    ShardRemoved,
)
from agents.facts import ProcessStarted
from agents.work import HELD_BYTES_MAX
from federation.wire import (
    PAYLOAD_BYTES_MAX,
    Birth,
    CommandAck,
    CommandBatch,
    DropShard,
    FetchShard,
    HeldShard,
    Kill,
    Offer,
    StatusReport,
    decode_agent_message,
    encode,
)
from policies.model import Needs

# --- a task's life ---------------------------------------------------------------------------------------------------


def test_a_launch_is_journaled_then_acknowledged_then_acted_upon() -> None:
    world = World()
    world.boot()
    world.clear()
    commands = world.order(launch(7, reads=(fetch(1), fetch(2))))
    kinds = [type(command.fact).__name__ if isinstance(command, Persist) else type(command) for command in commands]
    assert kinds == ["CommandTaken", "StatusQueued", Fetch, Fetch, Publish, Acknowledge, Publish]
    assert world.take(CommandAck)[0].cmd_ids == (7,)
    assert world.states() == [("staging", "")]
    world.pass_time(3 * SECOND_US)
    world.fetched(1, fetched_bytes=101)
    assert world.take(StartTask) == []
    world.fetched(2, fetched_bytes=102)
    assert [start.launch.cmd_id for start in world.take(StartTask)] == [7]
    world.clear()
    started = world.task_started("100:7")
    assert Persist(fact=ProcessStarted(task_id="job/train/0", attempt=1, handle="100:7")) in started
    world.task_ended(run_us=9, log_tail="done", outputs=(held(9),))
    running, finished = (s for report in world.take(StatusReport) for s in report.statuses)
    assert (running.state, running.stage_us, running.fetched_bytes) == ("running", 3 * SECOND_US, 203)
    assert (finished.state, finished.exit_code, finished.run_us, finished.outputs) == ("finished", 0, 9, (held(9),))
    assert held(9) in world.agent.held_shards()


def test_a_task_that_reads_nothing_or_only_held_shards_starts_at_once() -> None:
    world = World()
    world.on_disk[sha(1)] = held(1)
    world.boot()
    world.order(launch(1), launch(2, "job/train/1", reads=(fetch(1),)))
    assert len(world.take(StartTask)) == 2
    assert world.take(Fetch) == []


def test_two_tasks_share_one_fetch_and_its_bytes_are_counted_once() -> None:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1),)), launch(2, "job/train/1", artifact=fetch(1)))
    assert len(world.take(Fetch)) == 1
    world.fetched(1, fetched_bytes=101)
    assert len(world.take(StartTask)) == 2
    world.task_started("1:1")
    world.task_started("2:2", "job/train/1")
    statuses = [s for r in world.take(StatusReport) for s in r.statuses if getattr(s, "state", "") == "running"]
    assert [status.fetched_bytes for status in statuses] == [101, 0]


def test_a_failed_fetch_fails_its_task_and_leaves_other_sources_their_try() -> None:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1, "a"),)), launch(2, "job/train/1", reads=(fetch(1, "b"),)))
    world.clear()
    world.fetched(1, ok=False, reason="hash", detail="bytes differ")
    assert world.states() == [("failed", "hash")]
    (second,) = world.take(Fetch)
    assert second.fetch.sources[0].url == "http://b"
    world.event(FetchEnded(fetch_id=second.fetch_id, shard=held(1), ok=True))
    assert [start.launch.task_id for start in world.take(StartTask)] == ["job/train/1"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reason": "exit", "exit_code": 3}, ("failed", "exit")),
        ({"reason": "signal", "exit_code": None}, ("failed", "signal")),
        ({"reason": "time_limit", "exit_code": None}, ("failed", "time_limit")),
        ({"reason": "disk_full", "exit_code": None}, ("failed", "disk_full")),
        ({"reason": "outputs", "exit_code": 0}, ("failed", "outputs")),
    ],
)
def test_an_end_is_told_with_its_reason(fields: dict[str, object], expected: tuple[str, str]) -> None:
    world = running_world()
    world.task_ended(**fields)  # type: ignore[arg-type]
    assert world.states() == [expected]


def test_one_that_cannot_start_fails_without_having_run() -> None:
    world = World()
    world.boot()
    world.order(launch(1))
    world.task_ended(reason="start", exit_code=None, detail="no such file")
    assert world.states() == [("failed", "start")]
    assert not any(isinstance(fact, ProcessStarted) for fact in world.journal)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (launch(1, needs=Needs(cpu_milli=4001)), "no_room"),
        (launch(1, needs=Needs(memory_bytes=2**30 + 1)), "no_room"),
        (launch(1, needs=Needs(disk_bytes=2**40)), "no_room"),
        (launch(1, gpus=("g7",)), "no_room"),
        (launch(1, needs=Needs(cpu_milli=-1)), "invalid"),
        (launch(1, expires_in_us=0), "expired"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_with_a_status(refused: object, reason: str) -> None:
    world = World()
    world.boot()
    world.order(refused)  # type: ignore[arg-type]
    assert world.states() == [("refused", reason)]
    assert world.take(StartTask) == []
    assert world.take(CommandAck)[0].cmd_ids == (1,)
    world.pass_time(50_000)
    assert world.take(Offer)[-1].free == TOTAL


def test_a_launch_expires_from_its_receipt_not_from_when_it_is_handled() -> None:
    world = World()
    world.boot()
    boot, conn = world.life
    batch = CommandBatch(term=1, boot=boot, conn=conn, commands=(launch(1, expires_in_us=SECOND_US),))
    world.event(MasterSpoke(message=batch, delivery=1, received_us=world.now_us - SECOND_US))
    assert world.states() == [("refused", "expired")]


def test_the_agent_holds_no_more_than_its_birth_can_tell() -> None:
    world = World(config(tasks_max=2))
    world.boot()
    world.order(*(launch(n, f"j/t/{n}", needs=Needs()) for n in (1, 2, 3)))
    assert ("refused", "no_room") in world.states()
    world = World(config(tasks_max=4096))
    world.boot()
    for n in range(1, 500):
        world.order(launch(n, f"{n:0255d}", needs=Needs()))
        world.ack_all()
    refused = [state for state, _ in world.states() if state == "refused"]
    assert refused
    world.event(Disconnected())
    for n in range(3000):
        world.event(ShardFound(shard=held(n)))
    world.clear()
    world.connect()
    (birth,) = world.take(Birth)
    assert len(encode(birth)) < PAYLOAD_BYTES_MAX
    assert sum(len(task.task_id) + 80 for task in birth.tasks) <= HELD_BYTES_MAX
    told = {shard.shard_id for shard in birth.shards}
    told |= {status.shard.shard_id for report in world.take(StatusReport) for status in report.statuses}
    assert told == {sha(n) for n in range(3000)}


# --- kill ------------------------------------------------------------------------------------------------------------


def test_killing_a_running_task_stops_it_and_tells_when_it_is_gone() -> None:
    world = running_world()
    world.order(Kill(cmd_id=2, task_id="job/train/0", attempt=1, reason="cancelled"))
    assert world.take(StopTask) == [
        StopTask(task_id="job/train/0", attempt=1, grace_us=5 * SECOND_US, reason="cancelled")
    ]
    assert world.states() == []
    world.task_ended(reason="cancelled", exit_code=None)
    assert world.states() == [("killed", "cancelled")]


def test_a_kill_may_bring_its_own_grace_and_a_later_one_a_shorter() -> None:
    world = running_world()
    for number, grace_us in enumerate((60 * SECOND_US, 0)):
        world.order(Kill(cmd_id=2 + number, task_id="job/train/0", attempt=1, reason="killed", grace_us=grace_us))
    assert [stop.grace_us for stop in world.take(StopTask)] == [60 * SECOND_US, 0]


def test_a_task_that_finished_while_being_killed_has_finished() -> None:
    world = running_world()
    world.order(Kill(cmd_id=2, task_id="job/train/0", attempt=1))
    world.task_ended()
    assert world.states() == [("finished", "exit")]


def test_killing_a_staging_task_ends_it_at_once_and_the_fetch_goes_on() -> None:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1),)))
    world.order(Kill(cmd_id=2, task_id="job/train/0", attempt=1))
    assert world.states() == [("staging", ""), ("killed", "killed")]
    world.fetched(1)
    assert world.take(StartTask) == []
    assert held(1) in world.agent.held_shards()


def test_a_task_killed_behind_its_gate_never_becomes_durable_as_started() -> None:
    world = World()
    world.boot()
    world.order(launch(1))
    world.order(Kill(cmd_id=2, task_id="job/train/0", attempt=1))
    world.task_started("100:7")
    assert len(world.take(StopTask)) == 2
    assert not any(isinstance(fact, ProcessStarted) for fact in world.journal)
    world.task_ended(reason="killed", exit_code=None)
    assert world.states() == [("killed", "killed")]


def test_killing_an_unknown_task_is_answered_and_its_late_launch_refused() -> None:
    world = World()
    world.boot()
    world.order(Kill(cmd_id=2, task_id="job/train/0", attempt=1))
    assert world.states() == [("killed", "killed")]
    world.ack_all()
    world.order(launch(1))
    assert world.states() == [("refused", "killed")]
    assert world.take(StartTask) == []


# --- shards ----------------------------------------------------------------------------------------------------------


def test_a_replica_is_fetched_told_and_dropped() -> None:
    world = World()
    world.boot()
    world.order(FetchShard(cmd_id=1, fetch=fetch(1)))
    world.fetched(1)
    assert world.states() == [("held", "")]
    world.order(FetchShard(cmd_id=2, fetch=fetch(1)))
    assert world.states() == [("held", "")]
    world.order(DropShard(cmd_id=3, shard_id=sha(1)))
    assert world.take(RemoveShard) == [RemoveShard(shard_id=sha(1))]
    world.event(ShardRemoved(shard_id=sha(1)))
    assert world.states() == [("dropped", "")]
    world.order(DropShard(cmd_id=4, shard_id=sha(1)))
    assert world.states() == [("dropped", "not_held")]
    assert world.agent.held_shards() == ()


def test_a_replica_that_cannot_be_had_is_told() -> None:
    world = World()
    world.boot()
    world.order(FetchShard(cmd_id=1, fetch=fetch(1)))
    world.fetched(1, ok=False, reason="disk_full")
    assert world.states() == [("failed", "disk_full")]


def test_a_shard_in_use_is_not_dropped() -> None:
    world = World()
    world.on_disk[sha(1)] = held(1)
    world.boot()
    world.order(launch(1, reads=(fetch(1),)), DropShard(cmd_id=2, shard_id=sha(1)))
    assert ("held", "in_use") in world.states()
    assert world.take(RemoveShard) == []


def test_orders_for_shards_are_remembered_over_a_restart() -> None:
    world = World()
    world.on_disk[sha(2)] = held(2)
    world.boot()
    world.order(FetchShard(cmd_id=1, fetch=fetch(1)), DropShard(cmd_id=2, shard_id=sha(2)))
    world.clear()
    world.boot()
    assert len(world.take(Fetch)) == 1
    assert len(world.take(RemoveShard)) == 1


def test_shards_missing_at_a_start_are_told_and_found_ones_are_in_the_birth() -> None:
    world = World()
    world.on_disk[sha(1)] = held(1)
    world.boot()
    world.on_disk = {sha(2): held(2)}
    world.clear()
    world.boot()
    assert world.take(Birth)[0].shards == (held(2),)
    assert world.states() == [("dropped", "missing")]


def test_a_shard_added_by_hand_is_told_without_a_place_in_the_outbox() -> None:
    world = World()
    world.boot()
    world.event(ShardFound(shard=held(1)))
    (report,) = world.take(StatusReport)
    assert [(s.status_id, s.shard, s.state) for s in report.statuses] == [(0, held(1), "held")]
    world.pass_time(100 * SECOND_US)
    assert world.states() == []


def test_names_and_texts_that_are_no_unicode_or_too_long_still_reach_the_master() -> None:
    """A status or birth that the master cannot decode would be repeated for ever."""
    world = World()
    world.boot()
    bad = "caf\udce9" + "x" * 300
    world.event(ShardFound(shard=HeldShard(shard_id=sha(1), size_bytes=1, name=bad)))
    world.order(launch(1))
    world.task_started("100:7")
    output = HeldShard(shard_id=sha(2), size_bytes=1, name=bad)
    world.task_ended(detail=bad * 100, log_tail=bad * 100, outputs=(output,), run_us=-5)
    world.event(Disconnected())
    world.connect()
    for message in world.published:
        assert decode_agent_message(encode(message)) == message
    assert world.take(Birth)[-1].shards[0].name == ("caf?" + "x" * 251)
