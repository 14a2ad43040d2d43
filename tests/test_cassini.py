"""CASSINI: traffic on circles, one shift for each job, placements that share links well, shifts that reach workers."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.launches import launch_of
from policies.cassini import Cassini, judge
from policies.cassini_circle import Traffic, fit, one_shift_each
from policies.fifo import Fifo
from policies.flow import Flow
from policies.least_loaded import LeastLoaded
from policies.model import Communication, Demand, Gang, Node, Running, Tuning
from tests.master_world import World, group, job, needs, resources
from tests.policy_worlds import demand, links, node, snapshot, where

GBIT = 10**9
MS = 1_000


def traffic(duty_percent: int, iteration_ms: int = 100, rate_bps: int = GBIT) -> Traffic:
    return Traffic(iteration_ms * MS, duty_percent * 10_000, rate_bps)


# --- circles ---------------------------------------------------------------------------------------------------------


def test_two_jobs_of_half_duty_fit_perfectly_half_a_step_apart() -> None:
    assert fit([traffic(50), traffic(50)], GBIT) == (1.0, (0, 50 * MS))


def test_two_jobs_of_sixty_percent_score_point_eight() -> None:
    assert fit([traffic(60), traffic(60)], GBIT).score == pytest.approx(0.8)


def test_jobs_of_different_periods_meet_on_the_common_circle() -> None:
    quick, slow = traffic(25, 100), traffic(50, 200)
    best = fit([quick, slow], GBIT)
    assert best.score == pytest.approx(0.875), "a burst of 100 ms does not fit between bursts 75 ms apart"
    assert fit([traffic(25, 100), traffic(37, 200)], GBIT).score == 1.0


def test_what_stays_below_the_capacity_together_needs_no_shift_to_fit() -> None:
    assert fit([traffic(90, rate_bps=GBIT // 2), traffic(90, rate_bps=GBIT // 2)], GBIT).score == 1.0


def test_a_job_that_cannot_move_is_gone_around() -> None:
    assert fit([traffic(50), traffic(50)], GBIT, [30 * MS, None]).shifts_us == (30 * MS, 80 * MS)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from((40, 50, 100, 200))), min_size=1, max_size=4),
    st.integers(0, 199),
)
def test_a_score_is_at_most_one_and_turning_all_alike_changes_nothing(
    made: list[tuple[int, int]], turned_ms: int
) -> None:
    jobs = [traffic(duty, iteration) for duty, iteration in made]
    best = fit(jobs, GBIT)
    assert best.score <= 1.0
    assert all(0 <= shift < each.iteration_us for shift, each in zip(best.shifts_us, jobs, strict=True))
    assert best.score >= fit(jobs, GBIT, [0] * len(jobs)).score - 1e-9, "no worse than starting all at once"
    turned = [(shift + turned_ms * MS) % each.iteration_us for shift, each in zip(best.shifts_us, jobs, strict=True)]
    assert fit(jobs, GBIT, turned).score == pytest.approx(best.score, abs=0.03), "to the width of a slot"


def test_shifts_of_links_join_to_one_for_each_job() -> None:
    iteration = dict.fromkeys("abcd", 100)
    chain = [{"a": 0, "b": 50}, {"b": 10, "c": 30}, {"c": 0, "d": 95}]
    assert one_shift_each(chain, iteration) == {"a": 0, "b": 50, "c": 70, "d": 65}
    assert one_shift_each([{"a": 5, "b": 20}, {"c": 0, "d": 1}], iteration) == {"a": 0, "b": 15, "c": 0, "d": 1}


def test_links_that_close_a_loop_have_no_common_shifts() -> None:
    iteration = dict.fromkeys("abc", 100)
    assert one_shift_each([{"a": 0, "b": 50}, {"b": 0, "c": 50}, {"a": 0, "c": 50}], iteration) is None
    held = [{"a": 0, "c": 50}, {"b": 10, "c": 20}]
    assert one_shift_each(held, iteration, fixed=["a", "b"]) is None, "two that cannot move ask different things of c"
    assert one_shift_each(held[:1], iteration, fixed=["a", "b"]) == {"c": 50}


# --- placements ------------------------------------------------------------------------------------------------------

LINKS = {("north", "south"): 1000, ("north", "west"): 1000, ("south", "west"): 1000}


def gang(name: str, count: int = 2, duty_percent: int = 60, iteration_ms: int = 100, **rest: Any) -> Demand:
    communication = Communication(
        pattern="allreduce",
        bytes_per_step=duty_percent * iteration_ms * 1250,  # what a gigabit carries in that time, over two workers
        iteration_us=iteration_ms * MS,
        duty_ppm=duty_percent * 10_000,
        **rest,
    )
    return demand(name, count, gang=Gang(gang_id=name, size=count, communication=communication))


def trainers(site: str, other: str, name: str = "old", shift_us: int = 0) -> list[Node]:
    """A gang of two that runs at two sites and leaves no room there."""
    communication = gang(name).gang
    assert communication is not None
    running = Running(
        task_id=f"{name}/0",
        role="default",
        needs=demand("x").needs,
        since_us=0,
        gang_id=name,
        communication=communication.communication,
        tuning=Tuning(demand_id="", shift_us=shift_us),
    )
    return [node(f"{name}-{at}", at, cpu=1, free=resources(cpu=0), running=(running,)) for at in (site, other)]


def test_jobs_of_one_link_are_scored_and_shifted() -> None:
    world = snapshot([node("n1", "north", cpu=2), node("n2", "south", cpu=2)], [gang("a", 4)], link=links(LINKS))
    plan = Cassini(Fifo).plan(world)
    assert judge(world, plan).score == 1.0, "alone on its link"
    assert [(tuning.demand_id, tuning.shift_us) for tuning in plan.tunings] == [("a", 0)]


def test_of_links_that_carry_the_same_jobs_the_narrowest_counts_with_what_it_carries() -> None:
    """Two rings over three sites, 60 % of each step: 0.8 on the narrow link, whatever the wide ones could carry."""
    wide = links({("north", "south"): 10_000, ("north", "west"): 10_000, ("south", "west"): 1000})
    nodes = [node(at, at, cpu=2) for at in ("north", "south", "west")]
    world = snapshot(nodes, [gang("one", 3), gang("two", 3)], link=wide)
    host = LeastLoaded().plan(world)
    assert where(host) == {name: {"north": 1, "south": 1, "west": 1} for name in ("one", "two")}
    assert judge(world, host).score == pytest.approx(0.8)


def test_the_candidate_whose_jobs_fit_best_is_taken() -> None:
    free = [node("n", "north"), node("s", "south"), node("w1", "west"), node("w2", "west")]
    world = snapshot([*free, *trainers("north", "south")], [gang("new")], link=links(LINKS))
    host = Fifo().plan(world)
    assert where(host) == {"new": {"n": 1, "s": 1}} and judge(world, host).score == pytest.approx(0.8)
    plan = Cassini(Fifo).plan(world)
    assert judge(world, plan).score == 1.0 and set(where(plan)["new"]) != {"n", "s"}


def test_where_there_is_no_choice_steps_are_shifted_around_what_runs() -> None:
    held = trainers("north", "south", shift_us=20 * MS)
    world = snapshot([node("n", "north"), node("s", "south"), *held], [gang("new", duty_percent=40)], link=links(LINKS))
    plan = Cassini(Fifo).plan(world)
    (tuning,) = plan.tunings
    assert tuning.iteration_us == 100 * MS and tuning.shift_us == pytest.approx(80 * MS, abs=500), "from 80 to 20 ms"


def test_a_plan_that_places_less_is_no_candidate() -> None:
    free = [node("n", "north"), node("s", "south"), node("w", "west")]
    world = snapshot([*free, *trainers("north", "south")], [gang("new"), demand("other")], link=links(LINKS))
    assert sum(p.count for p in Cassini(Fifo).plan(world).placements) == 3


def test_without_communicating_gangs_the_host_is_left_alone() -> None:
    world = snapshot([node("n", "north")], [demand("d", 3)], link=links(LINKS))
    assert Cassini().plan(world) == Flow().plan(world)


# --- end to end ------------------------------------------------------------------------------------------------------


def test_workers_find_their_shift_in_the_environment_also_after_a_restart() -> None:
    declared = gang("x", duty_percent=50).gang
    assert declared is not None
    world = World(policy=Cassini(Fifo))
    for name in ("gw-1", "gw-2"):
        world.agent(name, total=resources(cpu=4))
    for name, cpu in (("one", 3), ("two", 1)):  # Of each gang one worker fits an agent.
        workers = group(count=2, needs=needs(cpu), gang=True, communication=declared.communication)
        world.ask(SubmitJob(job=job(name, workers)))
    launches = [launch for fake in world.agents.values() for launch in fake.running.values()]
    assert len(launches) == 4
    told = {(launch.task_id.split("/")[0], launch.env["OFFERFLOW_COMM_SHIFT_US"]) for launch in launches}
    assert told == {("one", "0"), ("two", str(50 * MS))}
    assert {launch.env["OFFERFLOW_COMM_ITERATION_US"] for launch in launches} == {str(100 * MS)}
    assert world.master.durable() == world.replayed()
    task = world.master.core.tasks.tasks["two/train/0"]
    assert launch_of(world.master.core, world.master.core.agents["gw-2"], task).env == launches[-1].env
