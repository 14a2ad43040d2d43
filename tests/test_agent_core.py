"""Stories of the agent's core: joining, offers, commands it was sent, its outbox, restarts. No I/O, no clock."""

import tomllib
from pathlib import Path

from agent_world import SECOND_US, TOTAL, World, config, fetch, held, launch, running_world, sha

from agents.agent import VERSION, Agent
from agents.commands import (
    Acknowledge,
    Fetch,
    Leave,
    Measure,
    Persist,
    Publish,
    StartTask,
    StopTask,
)
from agents.events import (
    Connected,
    Disconnected,
    GarbageArrived,
    LinksMeasured,
    Measured,
    ShutdownAsked,
    Started,
)
from agents.facts import CommandTaken, StatusesAcked, TermSeen
from federation.wire import (
    Birth,
    CommandAck,
    Death,
    HeldTask,
    Kill,
    LinkSample,
    MasterState,
    Offer,
    Ping,
    Quarantine,
    RebirthRequest,
    StatusAck,
    StatusReport,
)
from policies.model import Gpu, Needs, Resources

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
