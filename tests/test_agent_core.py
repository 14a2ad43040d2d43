"""Stories of the agent's core: events in, exact commands out. No I/O, no clock."""

import itertools
import tomllib
from pathlib import Path

import pytest
from agent_world import SECOND_US, TOTAL, World, config, fetch, held, launch, sha

from agents.agent import VERSION, Agent
from agents.commands import (
    Acknowledge,
    Fetch,
    Leave,
    Measure,
    Persist,
    Probe,
    Publish,
    RemoveShard,
    StartTask,
    StopTask,
)
from agents.events import (
    Connected,
    Disconnected,
    FetchEnded,
    GarbageArrived,
    LinksMeasured,
    MasterSpoke,
    Measured,
    ProbeServed,
    ShardFound,
    ShardRemoved,
    ShutdownAsked,
    Started,
)
from agents.facts import CommandTaken, ProcessStarted, StatusesAcked, TermSeen
from agents.work import HELD_BYTES_MAX
from federation.wire import (
    PAYLOAD_BYTES_MAX,
    Birth,
    CommandAck,
    CommandBatch,
    Death,
    DropShard,
    FetchShard,
    HeldShard,
    HeldTask,
    Kill,
    LinkSample,
    MasterState,
    NetReport,
    Offer,
    Peer,
    Ping,
    Pong,
    ProbePlan,
    Quarantine,
    RebirthRequest,
    StatusAck,
    StatusReport,
    decode_agent_message,
    encode,
)
from policies.model import Gpu, Needs, Resources


def running_world() -> World:
    """An agent on which job/train/0 runs, everything acknowledged."""
    world = World()
    world.boot()
    world.order(launch(1))
    world.task_started("100:7")
    world.ack_all()
    world.clear()
    return world


# --- joining ---------------------------------------------------------------------------------------------------------


def test_the_first_connection_sends_birth_and_after_the_welcome_an_offer() -> None:
    world = World(config(labels={"zone": "b", "arm": "yes"}, region="eu"))
    world.on_disk[sha(3)] = held(3)
    world.boot(connect=False)
    assert world.published == []
    world.connect()
    birth, offer, ping = world.published
    assert birth == Birth(
        agent_id="cam-1", boot=1, conn=1, seq=0, version="0.1.0", site="plant-a", tier="edge", total=TOTAL, region="eu",
        labels=(("arm", "yes"), ("zone", "b")), shards=(held(3),),
    )  # fmt: skip
    assert isinstance(offer, Offer)
    assert (offer.seq, offer.free, offer.expires_in_us, offer.commands_seen) == (1, TOTAL, 15 * SECOND_US, 0)
    assert ping == Ping(agent_id="cam-1", boot=1, conn=1, seq=2, nonce=1)


def test_boot_is_durable_and_conn_and_seq_belong_to_the_connection() -> None:
    world = World()
    for boot in (1, 2):
        world.boot()
        world.event(Disconnected())
        assert world.agent.will() == Death(agent_id="cam-1", boot=boot, conn=2, reason="will")
        world.connect()
        births = world.take(Birth)
        assert [(birth.boot, birth.conn, birth.seq) for birth in births] == [(boot, 1, 0), (boot, 2, 0)]


def test_a_birth_is_repeated_until_welcomed_with_back_off() -> None:
    world = World()
    world.boot(connect=False)
    world.event(Connected())
    world.pass_time(30 * SECOND_US)
    assert [birth.seq for birth in world.take(Birth)] == [0, 1, 2, 3, 4]  # after 0, 2, 6, 14, 30 s
    world.welcome()
    world.clear()
    world.pass_time(120 * SECOND_US)
    assert world.take(Birth) == []


def test_a_rebirth_comes_within_the_spread_the_same_for_the_same_boot() -> None:
    delays = []
    for _ in range(2):
        world = World()
        world.boot()
        world.clear()
        asked_us = world.now_us
        world.say(RebirthRequest(term=1, spread_us=5 * SECOND_US))
        while not world.take(Birth):
            world.pass_time(1)
            due_us = world.agent.next_deadline_us()
            assert due_us is not None
            world.pass_time(due_us - world.now_us)
        delays.append(world.now_us - asked_us)
    assert delays[0] == delays[1]
    assert 0 <= delays[0] <= 5 * SECOND_US


def test_a_new_term_announced_leads_to_a_birth_and_silence_until_the_welcome() -> None:
    world = World()
    world.boot()
    world.say(MasterState(term=1, online=False))
    world.clear()
    world.pass_time(60 * SECOND_US)
    assert world.published == []  # Nobody listens: no offers, no pings.
    world.say(MasterState(term=2, online=True))
    world.pass_time(2_200_000)
    assert len(world.take(Birth)) == 1
    assert world.published == []
    world.term = 2
    world.welcome()
    assert len(world.take(Offer)) == 1


def test_the_announcement_right_after_connecting_causes_no_second_birth() -> None:
    world = World()
    world.boot(connect=False)
    world.event(Connected())
    world.say(MasterState(term=1, online=True))
    world.welcome()
    world.pass_time(10 * SECOND_US)
    assert len(world.take(Birth)) == 1


def test_a_welcome_for_another_connection_is_counted_and_ignored() -> None:
    world = World()
    world.boot(connect=False)
    world.event(Connected())
    world.event(Disconnected())
    world.welcome()
    assert world.agent.counters == {"welcome_for_another_life": 1}
    assert world.take(Offer) == []


# --- offers ----------------------------------------------------------------------------------------------------------


def test_offers_are_renewed_by_time_and_changes_are_debounced() -> None:
    world = World()
    world.boot()
    world.clear()
    world.pass_time(11 * SECOND_US)
    assert len(world.take(Offer)) == 2
    world.event(Measured(usable=Resources(cpu_milli=3000, memory_bytes=2**29, disk_bytes=2**33)))
    assert world.take(Offer) == []
    world.pass_time(50_000)
    (offer,) = world.take(Offer)
    assert offer.free.cpu_milli == 3000


def test_what_launches_take_is_told_with_the_next_renewal() -> None:
    """The master knows it already, from the launch and its statuses."""
    world = World()
    world.boot()
    world.clear()
    world.order(launch(1), launch(2, "job/train/1"))
    world.pass_time(50_000)
    assert world.take(Offer) == []
    world.pass_time(6 * SECOND_US)
    offer = world.take(Offer)[-1]
    assert (offer.free.cpu_milli, offer.commands_seen) == (2000, 2)


def test_a_refused_launch_brings_an_offer_at_once() -> None:
    world = World()
    world.boot()
    world.clear()
    world.order(launch(1, gpus=("nowhere",)))
    assert world.states()[-1] == ("refused", "no_room")
    world.pass_time(50_000)
    (offer,) = world.take(Offer)
    assert offer.free.cpu_milli == 4000


def test_readings_are_floored_so_that_jitter_makes_no_new_offer() -> None:
    world = World()
    world.boot()
    world.event(Measured(usable=Resources(cpu_milli=3987, memory_bytes=2**29 + 12345, disk_bytes=2**33 + 999)))
    world.pass_time(50_000)
    offers = world.take(Offer)
    assert offers[-1].free == Resources(cpu_milli=3900, memory_bytes=2**29, disk_bytes=2**33)
    world.event(Measured(usable=Resources(cpu_milli=3950, memory_bytes=2**29 + 99999, disk_bytes=2**33 + 1)))
    world.pass_time(1_000_000)
    assert world.take(Offer) == []


def test_a_total_below_the_grain_is_offered_whole() -> None:
    tiny = Resources(cpu_milli=150, memory_bytes=10**7, disk_bytes=10**7)
    world = World()
    world.event(Started(total=tiny))
    world.event(Measured(usable=tiny))
    world.connect()
    assert world.take(Offer)[-1].free == tiny


def test_nothing_is_offered_before_the_first_measurement_or_in_quarantine() -> None:
    world = World()
    world.agent = Agent(world.config)
    world.event(Started(total=TOTAL))
    assert world.take(Measure) == []
    world.connect()
    assert world.take(Measure) == [Measure()]
    assert world.take(Offer) == []
    world.event(Measured(usable=TOTAL))
    assert len(world.take(Offer)) == 1
    world.say(Quarantine(term=1, reason="two processes"))
    world.pass_time(60 * SECOND_US)
    assert world.take(Offer) == []
    world.order(launch(1))
    assert world.states() == [("refused", "quarantined")]
    world.welcome()
    assert len(world.take(Offer)) == 1


def test_gpus_in_use_are_not_offered() -> None:
    gpus = (Gpu(uuid="g0"), Gpu(uuid="g1"))
    total = Resources(cpu_milli=4000, gpus=gpus)
    world = World()
    world.event(Started(total=total))
    world.event(Measured(usable=total))
    world.connect()
    world.order(launch(1, gpus=("g1",)))
    world.pass_time(6 * SECOND_US)
    assert world.take(Offer)[-1].free.gpus == (Gpu(uuid="g0"),)
    world.order(launch(2, "job/train/1", gpus=("g1",)))
    assert ("refused", "no_room") in world.states()


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


# --- duplicates, terms, lives ----------------------------------------------------------------------------------------


def test_a_duplicate_command_sends_the_status_again_and_does_nothing_else() -> None:
    world = World()
    world.boot()
    world.order(launch(1))
    world.task_started("100:7")
    world.clear()
    commands = world.order(launch(1))
    assert [type(command) for command in commands] == [Publish, Acknowledge, Publish]
    assert world.take(CommandAck)[0].cmd_ids == (1,)
    assert world.states() == [("running", "")]
    world.say(StatusAck(term=1, status_ids=(1,)))
    world.clear()
    assert not any(isinstance(command, Persist) for command in world.order(launch(1)))
    assert world.states() == [("running", "")]  # Though acknowledged before.
    assert world.agent.counters["duplicate_commands"] == 2


def test_a_duplicate_of_a_closed_attempt_is_acknowledged_and_not_run() -> None:
    world = running_world()
    world.task_ended()
    world.pass_time(0)
    world.say(StatusAck(term=1, status_ids=(2,)))
    assert world.agent.processes() == ()
    world.clear()
    world.order(launch(1))
    assert world.take(StartTask) == []
    assert world.take(CommandAck)[0].cmd_ids == (1,)
    world.order(launch(9))  # The same attempt under another command id.
    assert world.take(StartTask) == []
    assert world.states() == [("refused", "killed")]


def test_lower_terms_are_refused_for_ever() -> None:
    world = World(term=5)
    world.boot()
    assert Persist(fact=TermSeen(term=5)).fact in world.journal
    world.clear()
    assert world.order(launch(1), term=4) == [Acknowledge(delivery=world.delivery)]
    world.boot()
    world.clear()
    world.order(launch(1), term=4)
    world.say(StatusAck(term=4, status_ids=(1,)))
    world.say(Quarantine(term=4, reason="old"))
    assert world.agent.counters == {"stale_term": 3}
    assert world.published == []


def test_a_batch_for_another_life_is_refused_whole_yet_taken_from_the_broker() -> None:
    world = World()
    world.boot()
    for life in ((1, 2), (2, 1), (0, 0)):
        assert world.order(launch(1), life=life) == [Acknowledge(delivery=world.delivery)]
    assert world.agent.counters == {"commands_for_another_life": 3}
    assert not any(isinstance(fact, CommandTaken) for fact in world.journal)


def test_garbage_is_counted_and_taken_from_the_broker() -> None:
    world = World()
    world.boot()
    event = GarbageArrived(code="malformed", n_bytes=3, delivery=9)
    assert world.event(event) == [Acknowledge(delivery=9)]
    assert world.agent.counters == {"garbage_malformed": 1}


# --- the outbox ------------------------------------------------------------------------------------------------------


def test_statuses_are_repeated_with_back_off_until_acknowledged() -> None:
    world = running_world()
    world.task_ended()
    world.pass_time(63 * SECOND_US)  # repeats after 2, 6, 14, 30, 62 s
    assert world.states() == [("finished", "exit")] * 6
    world.say(StatusAck(term=1, status_ids=(2,)))
    world.pass_time(300 * SECOND_US)
    assert world.states() == []
    assert world.journal[-1] == StatusesAcked(status_ids=(2,))


def test_after_a_connect_unacknowledged_statuses_go_again_oldest_first_after_the_welcome() -> None:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1),)))
    world.event(Disconnected())
    world.fetched(1)
    world.task_started("100:7")
    world.task_ended()
    world.clear()
    world.event(Connected())
    assert world.take(StatusReport) == []
    (birth,) = world.take(Birth)
    assert birth.tasks == (HeldTask(task_id="job/train/0", attempt=1, term=1, state="ended"),)
    world.welcome()
    (report,) = world.take(StatusReport)
    ids = [status.status_id for status in report.statuses]
    assert ids == sorted(ids)
    assert [s.state for s in report.statuses] == ["staging", "held", "running", "finished"]


def test_the_window_bounds_what_is_unacknowledged_at_once() -> None:
    world = World(config(tasks_max=4096, outbox_max=65_536))
    world.boot()
    world.event(Disconnected())
    world.connect()
    for n in range(1, 1001):
        world.order(launch(n, f"j/t/{n}", needs=Needs(cpu_milli=5000)))
    sent = [status.status_id for report in world.take(StatusReport) for status in report.statuses]
    assert sent == list(range(1, 513))
    world.say(StatusAck(term=1, status_ids=tuple(sent)))
    sent = [status.status_id for report in world.take(StatusReport) for status in report.statuses]
    assert sent == list(range(513, 1001))


def test_a_full_outbox_takes_no_command_and_acknowledges_none() -> None:
    world = World(config(outbox_max=16))
    world.boot()
    for n in range(1, 30):
        world.order(launch(n, f"j/t/{n}", needs=Needs(cpu_milli=9000)))
    acked = [cmd_id for message in world.take(CommandAck) for cmd_id in message.cmd_ids]
    assert acked == list(range(1, 15))
    assert world.agent.counters["outbox_full"] == 15
    world.ack_all()
    world.order(launch(20, "j/t/20", needs=Needs(cpu_milli=9000)))
    assert world.take(CommandAck)[0].cmd_ids == (20,)


def test_a_day_offline_loses_nothing_and_stays_bounded() -> None:
    world = running_world()
    world.order(launch(2, "job/train/1", reads=(fetch(1),)))
    world.event(Disconnected())
    world.clear()
    for hour in range(24):
        world.pass_time(3600 * SECOND_US)
        world.event(LinksMeasured(samples=(LinkSample(from_agent="a", to_agent="b", method="echo", rtt_us=hour),)))
    world.task_ended()
    world.fetched(1)
    world.task_started("200:8", "job/train/1")
    assert world.published == []
    world.connect()
    (birth,) = world.take(Birth)
    assert [(task.task_id, task.state) for task in birth.tasks] == [
        ("job/train/0", "ended"),
        ("job/train/1", "running"),
    ]
    assert [state for state, _ in world.states()] == ["staging", "finished", "held", "running"]


# --- restarts --------------------------------------------------------------------------------------------------------


def test_a_process_found_alive_is_adopted_and_one_that_is_gone_has_failed() -> None:
    world = running_world()
    world.order(launch(2, "job/train/1"))
    world.task_started("200:8", "job/train/1")
    world.ack_all()
    del world.alive["100:7"]
    world.clear()
    world.boot()
    (birth,) = world.take(Birth)
    assert [(task.task_id, task.state) for task in birth.tasks] == [
        ("job/train/0", "ended"),
        ("job/train/1", "running"),
    ]
    assert world.states() == [("failed", "agent_restart")]
    assert world.take(StartTask) == []
    world.task_ended("job/train/1")
    assert world.states() == [("finished", "exit")]


def test_what_had_not_started_goes_on_after_a_restart() -> None:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1),)), launch(2, "job/train/1"))
    world.clear()
    world.boot()
    assert [start.launch.task_id for start in world.take(StartTask)] == ["job/train/1"]
    assert [command.fetch.shard_id for command in world.take(Fetch)] == [sha(1)]
    assert world.states() == [("staging", "")]


def test_a_kill_is_remembered_over_a_restart() -> None:
    world = running_world()
    world.order(launch(2, "job/train/1", reads=(fetch(1),)))
    world.order(Kill(cmd_id=3, task_id="job/train/0", attempt=1, reason="cancelled"))
    world.clear()
    world.boot()
    assert [stop.reason for stop in world.take(StopTask)] == ["cancelled"]
    world.alive.clear()
    world.clear()
    world.boot()
    assert ("killed", "cancelled") in world.states()


def test_a_compacted_journal_still_answers_duplicates_and_knows_its_processes() -> None:
    world = running_world()
    world.journal = world.agent.facts()
    world.boot()
    world.clear()
    world.order(launch(1))
    assert world.states() == [("running", "")]
    assert [handle for handle, _ in world.agent.processes()] == ["100:7"]


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


# --- measuring -------------------------------------------------------------------------------------------------------


def test_pings_are_echoed_into_samples_of_their_own_method() -> None:
    world = World()
    world.boot()
    for rtt_us in (4_000, 6_000):
        ping = world.take(Ping)[-1]
        world.pass_time(rtt_us)
        world.say(Pong(nonce=ping.nonce))
        world.pass_time(5 * SECOND_US - rtt_us)
    world.pass_time(20 * SECOND_US)
    samples = [sample for report in world.take(NetReport) for sample in report.samples]
    assert [(s.method, s.from_agent, s.to_agent, s.rtt_us, s.jitter_us) for s in samples] == [
        ("mqtt_echo", "cam-1", "", 4_000, None),
        ("mqtt_echo", "cam-1", "", 6_000, 2_000),
    ]


def test_measured_bandwidth_is_told_soon_and_control_bytes_with_it() -> None:
    world = World()
    world.boot()
    sent = sum(len(encode(message)) for message in world.published)
    world.clear()
    sample = LinkSample(from_agent="x", to_agent="cam-1", method="transfer", bandwidth_bps=10**6, bytes=10**6)
    world.event(FetchEnded(fetch_id=99, shard=held(1), ok=True, samples=(sample,)))
    sent += sum(len(encode(message)) for message in world.published)
    world.clear()
    world.pass_time(SECOND_US)
    (report,) = world.take(NetReport)
    assert (report.samples, report.control_bytes) == ((sample,), sent)


def plan(*sites: str, bytes_max: int = 1000, share_ppm: int = 1000) -> ProbePlan:
    peers = tuple(
        Peer(agent_id=f"{site}-1", site=site, data_url=f"http://{site}", share_ppm=share_ppm) for site in sites
    )
    return ProbePlan(term=1, peers=peers, every_us=60 * SECOND_US, bytes_max=bytes_max)


def test_peers_are_probed_one_at_a_time_each_in_turn() -> None:
    world = World()
    world.boot()
    world.say(plan("b", "c"))
    assert [probe.peer.site for probe in world.take(Probe)] == ["b"]
    world.pass_time(SECOND_US)
    world.event(LinksMeasured(samples=(LinkSample(from_agent="cam-1", to_agent="", method="tcp_info", rtt_us=1),)))
    assert world.take(Probe) == []  # Only a reading of our own socket.
    world.event(LinksMeasured(samples=()))
    assert [probe.peer.site for probe in world.take(Probe)] == ["c"]
    world.event(LinksMeasured(samples=()))
    assert world.take(Probe) == []
    world.say(plan("b", "c"))  # Those that stay keep their turn.
    world.pass_time(58 * SECOND_US)
    assert world.take(Probe) == []
    world.pass_time(10 * SECOND_US)
    assert [probe.peer.site for probe in world.take(Probe)] == ["b"]


def test_a_way_in_use_is_probed_again_soon_and_only_so_often() -> None:
    world = World()
    world.boot()
    world.say(plan("b"))
    asked_us: list[int] = []
    for _ in range(600):
        if world.take(Probe):
            asked_us.append(world.now_us)
            echo = LinkSample(from_agent="b-1", to_agent="cam-1", method="echo", rtt_us=1000)
            world.event(LinksMeasured(samples=(echo,), busy=True))
        world.pass_time(SECOND_US // 4)
    waits_s = [(after - before) / SECOND_US for before, after in itertools.pairwise(asked_us)]
    for n, wait_s in enumerate(waits_s[:6], 1):
        assert n <= wait_s <= 2 * n + 0.5, "1–2 s, 2–4 s, 3–6 s …"
    assert waits_s[6] > 30, "then its turn as all have it"


@pytest.mark.parametrize("share_ppm", [1000, 250])
def test_probes_take_their_share_of_a_slow_link_and_go_on_as_echoes(share_ppm: int) -> None:
    world = World()
    world.boot()
    world.say(plan("b", bytes_max=250_000, share_ppm=share_ppm))
    began_us, asked = world.now_us, []
    for _ in range(600):
        for probe in world.take(Probe):
            asked.append(probe.bytes_max)
            sample = LinkSample(
                from_agent="b-1", to_agent="cam-1", method="probe", bandwidth_bps=20_000_000, bytes=probe.bytes_max
            )
            world.event(LinksMeasured(samples=(sample,) if probe.bytes_max else ()))
        world.pass_time(5 * SECOND_US)
    elapsed_s = (world.now_us - began_us) / SECOND_US
    assert asked[:3] == [250_000] * 3 and len(asked) > 0.9 * elapsed_s / 66, "a turn a minute, most of them echoes"
    share, allowed = sum(asked) * 8 / (20_000_000 * elapsed_s), share_ppm / 1e6
    assert 0.9 * allowed < share <= allowed + 3 * 250_000 * 8 / (20_000_000 * elapsed_s)
    world.pass_time(60 * SECOND_US)
    assert world.take(NetReport)[-1].probe_bytes == sum(asked)


def test_a_probe_that_finds_another_link_is_repeated_at_once_and_both_are_paid_for() -> None:
    """A link of 2 Mbit/s that halves, then swings with every look: one period later its halving has been seen twice."""
    world = World()
    world.boot()
    world.say(plan("b", bytes_max=75_000))
    period_s = 75_000 * 8 / 2_000_000 * 1000  # five minutes
    found: list[tuple[float, int]] = []
    began_us, swings = world.now_us, False
    for _ in range(500):
        world.clear()
        world.pass_time(5 * SECOND_US)
        while probes := world.take(Probe):
            if not probes[0].bytes_max:
                world.event(LinksMeasured(samples=()))
                continue
            at_s = (world.now_us - began_us) / SECOND_US
            bps = 1_000_000 if at_s > 1000 and not (swings and len(found) % 2) else 2_000_000
            found.append((at_s, bps))
            sample = LinkSample(
                from_agent="b-1", to_agent="cam-1", method="probe", bandwidth_bps=bps, bytes=probes[0].bytes_max
            )
            world.event(LinksMeasured(samples=(sample,)))
            swings = sum(bps == 1_000_000 for _, bps in found) >= 2
    fallen = [at_s for at_s, bps in found if bps == 1_000_000]
    assert 1000 < fallen[0] <= 1000 + period_s + 66 and fallen[1] - fallen[0] <= 5
    elapsed_s = (world.now_us - began_us) / SECOND_US
    took_s = sum(75_000 * 8 / bps for _, bps in found)
    assert took_s <= elapsed_s / 1000 + 4 * 75_000 * 8 / 1_000_000, "a thousandth, and what is paid for ahead"


def test_measuring_takes_half_a_per_cent_of_a_processor_at_most() -> None:
    world = World()
    world.boot()
    world.say(plan(*"bcdefghi"))  # Eight turns a minute, each of which costs this slow machine a tenth of a second.
    began_us, spent_us = world.now_us, 0
    for _ in range(300):
        for _probe in world.take(Probe):
            spent_us += 100_000
            world.event(LinksMeasured(samples=(), cpu_us=100_000))
        world.pass_time(3 * SECOND_US)
    elapsed_us = world.now_us - began_us
    assert 0.005 * elapsed_us < spent_us <= 0.005 * elapsed_us + SECOND_US + 100_000
    world.event(ProbeServed(n_bytes=0, cpu_us=9_000_000))
    world.take(Probe)
    world.pass_time(210 * SECOND_US)
    assert world.take(Probe) == [], "what peers' probes take counts as well"
    assert world.take(NetReport)[-1].measuring_cpu_us == spent_us + 9_000_000


def test_probes_keep_to_the_hourly_budget_and_one_without_an_answer_is_given_up() -> None:
    world = World(config(probe_bytes_per_hour=10_000))
    world.boot()
    world.say(plan("b", bytes_max=1000))
    world.event(LinksMeasured(samples=()))
    n_probes = 1
    for _ in range(3600):
        world.pass_time(SECOND_US)
        for probe in world.take(Probe):
            n_probes += 1
            sample = LinkSample(from_agent="b-1", to_agent="cam-1", method="probe", bytes=probe.bytes_max)
            world.event(LinksMeasured(samples=(sample,)))
    assert 19 <= n_probes <= 22  # A full budget at the start, and what an hour refills.
    world.pass_time(3600 * SECOND_US)
    world.take(Probe)
    world.pass_time(3600 * SECOND_US)
    assert len(world.take(Probe)) > 1


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_leaving_publishes_a_death_and_leaves_tasks_running() -> None:
    world = running_world()
    commands = world.event(ShutdownAsked())
    assert [type(command) for command in commands] == [Publish, Leave]
    (death,) = world.take(Death)
    assert (death.boot, death.conn, death.reason) == (1, 1, "shutdown")
    assert world.agent.next_deadline_us() is None
    assert world.event(Disconnected()) == []
    world.clear()
    world.boot()
    assert world.take(Birth)[0].tasks[0].state == "running"


def test_the_version_told_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
