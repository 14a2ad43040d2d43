"""A plan that ends running work: who is stopped runs again, what it attained is kept, nothing is lost on the way."""

from federation import views
from federation.api import SubmitJob
from policies.las import Las
from policies.model import Eviction, Plan
from policies.priority import Priority
from tests.master_world import SECOND, World, group, job, resources


def states(world: World, job_id: str, count: int) -> list[str]:
    found = [views.task(world.master, f"{job_id}/train/{n}") for n in range(count)]
    return [view.state for view in found if view is not None]


def test_priority_takes_the_place_of_what_counts_less_and_gives_it_back() -> None:
    world = World(policy=Priority())
    fake = world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("low", group(count=4), priority=10)))
    world.advance(30 * SECOND)
    world.ask(SubmitJob(job=job("high", group(count=2), priority=80)))
    fake.offer()
    assert states(world, "high", 2) == ["running", "running"]
    assert sorted(states(world, "low", 4)) == ["pending", "pending", "running", "running"]
    assert world.master.counters["evictions"] == 2, "one victim each, none ended twice"
    evicted = [task for task in world.master.core.tasks.tasks.values() if task.attained_us]
    assert [30 <= task.attained_us / SECOND < 31 for task in evicted] == [True, True]
    assert {task.n_failed for task in evicted} == {0}, "an eviction is nobody's failure"
    assert world.master.durable() == world.replayed()
    for n in range(2):
        fake.end(f"high/train/{n}")
    fake.offer()
    assert states(world, "low", 4) == ["running"] * 4


def test_the_classes_of_the_evicted_say_what_they_attained_in_powers_of_two() -> None:
    world = World(policy=Priority())
    fake = world.agent(total=resources(cpu=1))
    world.ask(SubmitJob(job=job("low", group(), priority=10)))
    world.advance(30 * SECOND)
    world.ask(SubmitJob(job=job("high", group(), priority=80)))
    fake.offer()
    demand = next(iter(world.master.core.tasks.demands.classes.values())).demand()
    assert demand.attained_us == 1 << (30 * SECOND).bit_length() - 1


def test_least_attained_service_alternates_by_what_ran() -> None:
    world = World(policy=Las(threshold_us=60 * SECOND))
    fake = world.agent(total=resources(cpu=1))
    world.ask(SubmitJob(job=job("long", group())))
    world.advance(30 * SECOND)
    world.ask(SubmitJob(job=job("short", group())))
    world.advance(10 * SECOND)
    assert states(world, "short", 1) == ["pending"], "the first has not sunk yet"
    world.advance(30 * SECOND)
    assert states(world, "short", 1) == ["running"] and states(world, "long", 1) == ["pending"]
    fake.end("short/train/0")
    fake.offer()
    assert states(world, "long", 1) == ["running"]


def test_an_eviction_of_what_does_not_run_there_does_nothing() -> None:
    world = World(solve=False)
    world.agent()
    world.ask(SubmitJob(job=job("j", group(count=2))))
    demand_id = world.solves[0].snapshot.demands[0].demand_id
    nobody = Eviction(task_id="nobody/at/0", agent_id="gw-1", for_demand_id=demand_id)
    pending = Eviction(task_id="j/train/0", agent_id="gw-1", for_demand_id=demand_id)
    world.answer(Plan(evictions=(nobody, pending)))
    assert states(world, "j", 2) == ["pending", "pending"]
    assert "evictions" not in world.master.counters
