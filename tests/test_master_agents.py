"""Agents as the master sees them: births and deaths, silence, gaps, twins, and offers that cannot be."""

from typing import Any

import pytest

from federation import views
from federation.api import SubmitJob
from federation.config import MasterConfig
from federation.errors import ConfigError
from federation.events import AgentSpoke, BrokerFound, BrokerLost, DeadlinePassed, GarbageArrived
from federation.facts import AgentEnrolled, AgentStateChanged
from federation.wire import Birth, Offer, Ping, Pong, Quarantine, RebirthRequest, StatusReport, TaskStatus, Welcome
from policies.model import Gpu, Resources
from tests.master_world import GIB, SECOND, Fake, World, group, job, needs, resources


def agent_state(world: World, agent_id: str = "gw-1") -> str:
    view = views.agent(world.master, agent_id)
    assert view is not None
    return view.state


def heard(fake: Fake, kind: type[Any]) -> list[Any]:
    return [message for message in fake.heard if isinstance(message, kind)]


# --- silence ---------------------------------------------------------------------------------------------------------


def test_silence_steps_down_and_work_moves_on_after_the_grace() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    steps: list[tuple[int, str, str]] = []
    start_us = world.now_us
    while agent_state(world) != "lost":
        due_us = world.master.next_deadline_us()
        assert due_us is not None
        world.now_us = due_us
        before = agent_state(world)
        world.handle(DeadlinePassed())
        if agent_state(world) != before:
            view = views.task(world.master, "j/train/0")
            assert view is not None
            steps.append(((world.now_us - start_us) // SECOND, agent_state(world), view.state))
    assert steps == [(12, "suspect", "running"), (30, "disconnected", "unknown"), (330, "lost", "pending")]
    assert views.offers(world.master) == ()
    other = world.agent("gw-2")
    assert ("j/train/0", 2) in other.running
    fake.connect()
    assert not fake.running, "what it still ran is not authorised any more"
    assert agent_state(world) == "online"


def test_any_message_ends_a_suspicion_but_only_a_birth_ends_a_disconnection() -> None:
    world = World()
    fake = world.agent()
    world.advance(13 * SECOND, alive=False)
    assert agent_state(world) == "suspect"
    fake.ping()
    assert agent_state(world) == "online"
    world.advance(40 * SECOND, alive=False)
    assert agent_state(world) == "disconnected"
    fake.ping()
    assert agent_state(world) == "disconnected"
    assert heard(fake, RebirthRequest) == [RebirthRequest(term=1, spread_us=5 * SECOND)]
    fake.birth()
    assert agent_state(world) == "online"


def test_pings_are_answered() -> None:
    world = World()
    fake = world.agent()
    fake.say(Ping, nonce=77)
    assert heard(fake, Pong) == [Pong(nonce=77)]


def test_silence_while_the_broker_is_lost_is_not_counted() -> None:
    world = World()
    world.agent()
    world.handle(BrokerLost())
    world.advance(3600 * SECOND, alive=False)
    world.handle(BrokerFound())
    assert agent_state(world) == "online"
    world.advance(11 * SECOND, alive=False)
    assert agent_state(world) == "online"
    world.advance(2 * SECOND, alive=False)
    assert agent_state(world) == "suspect"


def test_a_stalled_master_suspects_nobody() -> None:
    world = World()
    fake = world.agent()
    world.now_us += 100 * SECOND
    fake.ping()
    assert agent_state(world) == "online" and world.master.counters["stalls"] == 1


def test_a_thousand_silent_agents_cost_one_timer_each() -> None:
    world = World(solve=False)
    for n in range(1000):
        world.agent(f"gw-{n}")
    for _ in range(20):
        world.advance(5 * SECOND)
    assert len(world.master.core.deadlines) <= 2 * 1000 + 4


# --- births and deaths -----------------------------------------------------------------------------------------------


def test_a_death_counts_only_for_the_connection_it_names() -> None:
    world = World()
    fake = world.agent()
    fake.conn -= 1
    fake.die()
    assert agent_state(world) == "online" and world.master.counters["deaths_stale"] == 1
    fake.conn += 1
    fake.die()
    assert agent_state(world) == "disconnected" and views.offers(world.master) == ()
    fake.ping()
    assert agent_state(world) == "disconnected", "a dead connection does not speak"


def test_a_birth_heard_twice_or_late_changes_nothing() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    old = Birth(agent_id="gw-1", boot=1, conn=1, seq=0, **fake.fields)
    facts = len(world.facts)
    assert world.handle(AgentSpoke(message=old)) == []
    assert world.master.counters["births_stale"] == 1 and len(world.facts) == facts
    assert ("j/train/0", 1) in fake.running
    fake.connect()
    assert world.handle(AgentSpoke(message=old)) == []


def test_a_birth_that_tells_nothing_new_writes_no_fact() -> None:
    world = World()
    fake = world.agent()
    facts = len(world.facts)
    fake.connect()
    assert len(world.facts) == facts
    fake.fields["speed_milli"] = 1200
    fake.connect()
    assert [type(fact) for fact in world.facts[facts:]] == [AgentEnrolled]
    assert len(heard(fake, Welcome)) == 3


@pytest.mark.parametrize(
    "total",
    [
        Resources(cpu_milli=-1),
        Resources(cpu_milli=10**9 + 1),
        Resources(memory_bytes=2**61),
        Resources(disk_bytes=-5),
        Resources(gpus=(Gpu(uuid="a"), Gpu(uuid="a"))),
        Resources(gpus=(Gpu(uuid=""),)),
        Resources(gpus=(Gpu(uuid="a", memory_bytes=-1),)),
    ],
)
def test_a_birth_with_an_impossible_machine_is_refused(total: Resources) -> None:
    world = World()
    world.agent(total=total)
    assert views.agents(world.master) == () and world.master.counters["births_impossible"] == 1


def test_a_full_book_forgets_who_was_lost_longest() -> None:
    world = World(MasterConfig(agents_max=2))
    world.agent("gw-1")
    world.advance(20 * SECOND)
    world.agent("gw-2")
    world.agent("gw-3")
    assert [view.agent_id for view in views.agents(world.master)] == ["gw-1", "gw-2"]
    assert world.master.counters["births_over_bound"] == 1
    del world.agents["gw-3"], world.agents["gw-1"]
    world.advance(400 * SECOND)
    world.agent("gw-4")
    assert [view.agent_id for view in views.agents(world.master)] == ["gw-2", "gw-4"]
    assert world.replayed() == world.master.durable()


# --- sequence numbers ------------------------------------------------------------------------------------------------


def test_a_gap_asks_for_one_rebirth_unless_it_is_filled() -> None:
    world = World()
    fake = world.agent()
    late = fake.message(Ping, nonce=1)
    fake.ping()
    world.handle(AgentSpoke(message=late))
    world.advance(2 * SECOND)
    assert not heard(fake, RebirthRequest), "it was only late"
    fake.seq += 3
    fake.ping()
    fake.seq += 3
    fake.ping()
    world.advance(2 * SECOND)
    assert len(heard(fake, RebirthRequest)) == 1
    fake.seq += 1
    fake.ping()
    world.advance(2 * SECOND)
    assert len(heard(fake, RebirthRequest)) == 1, "not again within ten seconds"


def test_an_agent_nobody_saw_born_is_asked_once_in_a_while() -> None:
    world = World()
    fake = Fake(world, "gw-1")
    world.agents["gw-1"] = fake
    fake.conn = 4
    for _ in range(5):
        fake.ping()
    assert len(heard(fake, RebirthRequest)) == 1 and world.master.counters["messages_of_unborn"] == 5
    world.advance(11 * SECOND, alive=False)
    fake.ping()
    assert len(heard(fake, RebirthRequest)) == 2


def test_messages_of_an_earlier_connection_are_not_listened_to() -> None:
    world = World()
    fake = world.agent()
    old = fake.message(Offer, offer_id="old", free=resources(cpu=1), expires_in_us=9 * SECOND)
    fake.connect()
    fake.offer()
    world.handle(AgentSpoke(message=old))
    assert [offer.offer_id for offer in views.offers(world.master)] == ["gw-1-2"]


# --- two processes, one id -------------------------------------------------------------------------------------------


def test_two_processes_that_take_turns_are_quarantined() -> None:
    world = World()
    world.agent("gw-2")
    fake = world.agent()
    world.ask(SubmitJob(job=job("j", group("t", count=8))))
    n_running = len(fake.running)
    lives = {1: 1, 7: 0}
    for boot in (7, 1, 7, 1):
        lives[boot] += 1
        fake.boot, fake.conn = boot, lives[boot] - 1
        fake.connect()
    assert agent_state(world) == "quarantined"
    view = views.agent(world.master, "gw-1")
    assert view is not None and "two processes" in view.detail
    assert heard(fake, Quarantine)
    fake.offer()
    assert [offer.agent_id for offer in views.offers(world.master)] == ["gw-2"]
    assert n_running, "its work is kept"


def test_a_quarantine_ends_when_one_process_is_left() -> None:
    world = World()
    fake = world.agent()
    for boot, conn in ((7, 1), (1, 2), (7, 2)):
        fake.boot, fake.conn = boot, conn - 1
        fake.connect()
    assert agent_state(world) == "quarantined"
    world.advance(130 * SECOND)
    assert agent_state(world) == "online"
    fake.birth()
    fake.offer()
    assert len(views.offers(world.master)) == 1


def test_a_new_installation_and_a_restart_are_no_twins() -> None:
    world = World()
    fake = world.agent()
    fake.restart()
    assert agent_state(world) == "online" and views.agents(world.master)[0].boot == 2
    fake.die()
    fake.boot, fake.conn = 1, 0  # its disk was wiped
    world.now_us += 100 * SECOND
    fake.connect()
    assert agent_state(world) == "online"


def test_endless_births_are_a_quarantine_too() -> None:
    world = World()
    fake = world.agent()
    for _ in range(25):
        fake.connect()
    assert agent_state(world) == "quarantined"


# --- offers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "free",
    [
        Resources(cpu_milli=-1),
        Resources(cpu_milli=4001),
        Resources(memory_bytes=9 * GIB),
        Resources(disk_bytes=101 * GIB),
        Resources(gpus=(Gpu(uuid="not-mine"),)),
        Resources(gpus=(Gpu(uuid="a"), Gpu(uuid="a"))),
    ],
)
def test_impossible_offers_are_refused_counted_and_shown(free: Resources) -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"]))
    fake.offer(free)
    assert world.master.counters["offers_impossible"] == 1
    assert [offer.free for offer in views.offers(world.master)] == [fake.total], "the one before stands"
    (view,) = views.agents(world.master)
    assert view.detail.startswith("its offer was refused: ")
    fake.offer()
    assert views.agents(world.master)[0].detail == ""


def test_an_offer_is_a_lease_however_long_it_wants_to_be() -> None:
    world = World()
    fake = world.agent(offer=False)
    fake.offer(lease_us=3600 * SECOND)
    (offer,) = views.offers(world.master)
    assert offer.expires_us == world.now_us + 15 * SECOND
    for _ in range(3):
        world.advance(6 * SECOND, alive=False)
        fake.ping()
    assert views.offers(world.master) == () and world.master.counters["offers_expired"] == 1


def test_an_older_offer_does_not_replace_a_newer_one() -> None:
    world = World()
    fake = world.agent(offer=False)
    old = fake.message(Offer, offer_id="old", free=resources(cpu=1), expires_in_us=9 * SECOND)
    fake.offer()
    world.handle(AgentSpoke(message=old))
    assert [offer.offer_id for offer in views.offers(world.master)] == ["gw-1-1"]


def test_free_is_the_least_of_what_book_and_agent_say() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=4))
    fake.deaf = True
    world.ask(SubmitJob(job=job("j", group("t", count=1))))
    (offer,) = views.offers(world.master)
    assert offer.free.cpu_milli == 3000, "launched, and the offer does not know yet"
    fake.offer(resources(cpu=4))
    (offer,) = views.offers(world.master)
    assert offer.free.cpu_milli == 3000, "the book knows, whatever the agent says"
    fake.commands_seen = 1 << 32 | 1
    fake.offer(resources(cpu=1))
    (offer,) = views.offers(world.master)
    assert offer.free.cpu_milli == 1000, "someone else uses the machine too, and the launch is taken off already"


def test_what_ended_after_an_offer_was_made_is_free_again() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("j", group("t", count=2))))
    fake.offer(resources(cpu=1))  # two of ours, and one core of someone else's
    fake.end("j/t/0")
    (offer,) = views.offers(world.master)
    assert offer.free.cpu_milli == 2000
    fake.offer(resources(cpu=2))
    (offer,) = views.offers(world.master)
    assert offer.free.cpu_milli == 2000


# --- statuses that make no sense -------------------------------------------------------------------------------------


def test_statuses_of_unknown_tasks_and_old_attempts_are_acknowledged_and_change_nothing() -> None:
    world = World()
    fake = world.agent()
    other = world.agent("gw-2")
    world.ask(SubmitJob(job=job("j", group("t", needs=needs(cpu=3)))))
    before = world.master.durable()
    for task_id, attempt in (("nobody/t/0", 1), ("j/t/0", 9), ("j/t/0", 0)):
        fake.queue(task_id, attempt, "finished")
    other.queue("j/t/0", 1, "failed")
    fake.flush()
    other.flush()
    assert world.master.durable() == before
    assert not fake.outbox and not other.outbox
    assert world.master.counters["statuses_unknown_task"] == 1 and world.master.counters["statuses_stale"] == 3


def test_duplicate_and_reordered_statuses_change_nothing() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    statuses = [
        TaskStatus(status_id=n, task_id="j/train/0", attempt=1, term=1, state=state)  # type: ignore[arg-type]
        for n, state in enumerate(("staging", "running", "finished", "running", "staging", "failed", "finished"), 50)
    ]
    fake.say(StatusReport, statuses=tuple(statuses[:3]))
    after = world.master.durable()
    fake.say(StatusReport, statuses=tuple(statuses))
    assert world.master.durable() == after
    view = views.task(world.master, "j/train/0")
    assert view is not None and view.state == "finished"


def test_an_instance_nobody_authorised_is_killed() -> None:
    world = World()
    fake = world.agent()
    world.ask(SubmitJob(job=job("j")))
    launch = fake.running["j/train/0", 1]
    fake.running["ghost/t/0", 2] = launch
    fake.queue("ghost/t/0", 2, "running")
    fake.flush()
    assert list(fake.running) == [("j/train/0", 1)]


def test_garbage_is_counted_by_its_code() -> None:
    world = World()
    for code in ("malformed", "oversized", "malformed"):
        world.handle(GarbageArrived(agent_id="gw-1", code=code, n_bytes=10))
    assert world.master.counters["garbage_malformed"] == 2 and world.master.counters["garbage_oversized"] == 1


def test_nothing_is_heard_before_the_term_has_begun() -> None:
    world = World(start=False)
    fake = Fake(world, "gw-1")
    fake.connect()
    assert world.facts == [] and world.master.counters["messages_before_start"] == 1


def test_states_are_facts() -> None:
    world = World()
    fake = world.agent()
    fake.die("shutdown")
    changes = [fact for fact in world.facts if isinstance(fact, AgentStateChanged)]
    assert [(fact.state, fact.detail) for fact in changes] == [("disconnected", "shutdown")]
    status = views.status(world.master, world.now_us)
    assert status.agents == {"disconnected": 1} and status.total == type(status.total)()


@pytest.mark.parametrize(
    "fields",
    [
        {"suspect_after_us": 1},
        {"offer_lease_us": 1},
        {"roles": ({"path": "a"}, {"path": "a"})},
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any]) -> None:
    import msgspec

    with pytest.raises(ConfigError):
        World(msgspec.convert(fields, MasterConfig))
