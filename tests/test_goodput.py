"""Goodput: the model keeps what is known of it, the allocation is the best there is, and jobs grow and shrink by it."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.api import SubmitJob
from policies.goodput import GoodputPolicy, solve
from policies.goodput_model import Speed, efficiency, fit, goodput
from policies.model import Elastic, Plan, Running, StepTime
from tests.master_world import SECOND, World, group, job, needs, resources
from tests.policy_worlds import demand, node, snapshot, where

TRUE = Speed(0.05, 0.002, local=0.01, local_per_worker=0.002, apart=0.06, apart_per_worker=0.01, gamma=2.0)


def measured(speed: Speed, cells: list[tuple[int, int, int]]) -> tuple[StepTime, ...]:
    """Steps of (workers, agents, batch), as they would be measured."""
    return tuple(
        StepTime(workers=k, agents=n, batch=m, step_us=round(1e6 * speed.step_s(k, n, m))) for k, n, m in cells
    )


CELLS = [(1, 1, 64), (1, 1, 256), (2, 1, 128), (2, 1, 512), (4, 1, 256), (4, 2, 256), (8, 2, 512), (8, 4, 2048)]
STEPS = measured(TRUE, CELLS)


def elastic(**fields: object) -> Elastic:
    given = {"group_id": "g", "workers_max": 8, "batch": 64, "batch_max": 4096, "noise_scale": 2000, "steps": STEPS}
    return Elastic(**{**given, **fields})  # type: ignore[arg-type]


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_fit_foretells_steps_that_were_not_measured() -> None:
    found = fit(STEPS)
    for k, n, m in [(2, 1, 256), (3, 1, 300), (6, 2, 1024), (8, 4, 512), (1, 1, 128)]:
        assert found.step_s(k, n, m) == pytest.approx(TRUE.step_s(k, n, m), rel=0.05)


def test_what_was_never_measured_costs_nothing() -> None:
    alone = fit(measured(TRUE, CELLS[:2]))
    assert alone.step_s(4, 2, 400) == pytest.approx(alone.step_s(1, 1, 100)), "as fast as one with its share"
    pair = fit(measured(TRUE, [*CELLS[:2], (2, 1, 128), (2, 1, 512)]))
    assert (pair.local_per_worker, pair.apart, pair.apart_per_worker) == (0, 0, 0), "nor what a third worker would add"
    assert goodput(elastic(steps=()), 4, 1).per_s == pytest.approx(4 * goodput(elastic(steps=()), 1, 1).per_s, rel=0.1)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 10**6))
def test_larger_batches_teach_less_a_sample_and_the_jobs_own_batch_teaches_one(one: int, more: int, noise: int) -> None:
    job_ = elastic(batch=64, noise_scale=noise)
    assert efficiency(job_, 64) == 1.0
    assert efficiency(job_, 64 + one) >= efficiency(job_, 64 + one + more) > 0


@given(st.integers(1, 16), st.integers(1, 4))
def test_goodput_is_at_most_throughput_and_a_noisier_gradient_never_hurts(workers: int, agents: int) -> None:
    quiet, noisy = goodput(elastic(), workers, agents), goodput(elastic(noise_scale=50_000), workers, agents)
    speed = fit(STEPS)
    assert quiet.per_s <= quiet.batch / speed.step_s(workers, agents, quiet.batch) + 1e-9
    assert noisy.per_s >= quiet.per_s - 1e-9 and noisy.batch >= quiet.batch


def test_without_a_noise_scale_the_batch_stays_and_one_agent_beats_several() -> None:
    fixed = elastic(noise_scale=0)
    assert {goodput(fixed, k, 1).batch for k in range(1, 9)} == {64}
    assert all(goodput(fixed, k, 1).per_s > goodput(fixed, k, 2).per_s for k in range(2, 9))


# --- the allocation --------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 10),
)
def test_the_programme_finds_what_trying_everything_finds(made: list[list[int]], capacity: int) -> None:
    costs = [[100.0, *map(float, each)] for each in made]
    uses = [[[n] for n in range(len(each))] for each in costs]
    chosen = solve(costs, uses, [capacity])
    best = min(
        sum(cost[n] for cost, n in zip(costs, picked, strict=True))
        for picked in itertools.product(*(range(len(each)) for each in costs))
        if sum(picked) <= capacity
    )
    assert sum(chosen) <= capacity
    assert sum(cost[n] for cost, n in zip(costs, chosen, strict=True)) == pytest.approx(best)


def workers_of(plan: Plan) -> dict[str, int]:
    return {name: sum(agents.values()) for name, agents in where(plan).items()}


def test_equal_jobs_share_equally() -> None:
    world = snapshot(
        [node("n1", "s", cpu=4), node("n2", "s", cpu=4)],
        [demand(name, 8, elastic=elastic(group_id=name)) for name in "ab"],
    )
    assert workers_of(GoodputPolicy().plan(world)) == {"a": 4, "b": 4}


def test_a_speedup_is_over_an_equal_share_of_the_cluster_whatever_a_job_may_use() -> None:
    """Pollux, section 4.1: one J-th of the cluster is every job's share, 4 of 16; jobs alike then get it, though two of
    them could use more."""
    most = {"a": 4, "b": 4, "c": 16, "d": 16}
    asks = [demand(name, 16, elastic=elastic(group_id=name, workers_max=n)) for name, n in most.items()]
    assert workers_of(GoodputPolicy().plan(snapshot([node("n1", "s", cpu=16)], asks))) == dict.fromkeys(most, 4)


def test_who_learns_more_from_workers_gets_more_of_them() -> None:
    stuck = measured(Speed(0.05, 0.002, local=0.5, local_per_worker=0.2, apart=0.5, apart_per_worker=0.2), CELLS)
    world = snapshot(
        [node("n1", "s", cpu=8)],
        [
            demand("fast", 8, elastic=elastic(group_id="f")),
            demand("stuck", 8, elastic=elastic(group_id="s", steps=stuck)),
        ],
    )
    found = workers_of(GoodputPolicy().plan(world))
    assert found["fast"] + found["stuck"] <= 8 and found["fast"] > found["stuck"] >= 1


def test_bounds_hold_and_the_batch_is_told() -> None:
    world = snapshot([node("n1", "s", cpu=8)], [demand("a", 3, elastic=elastic(workers_max=3))])
    plan = GoodputPolicy().plan(world)
    assert workers_of(plan) == {"a": 3}
    assert plan.tunings[0].batch_per_worker == goodput(elastic(workers_max=3), 3, 1).batch // 3
    few = snapshot([node("n1", "s", cpu=2)], [demand("a", 8, elastic=elastic(workers_min=3))])
    assert workers_of(GoodputPolicy().plan(few)) == {}, "less than it needs is nothing"


def running(name: str, count: int, since_us: int = 0) -> tuple[Running, ...]:
    return tuple(
        Running(task_id=f"{name}/w/{n}", role="default", needs=demand("x").needs, since_us=since_us,
                elastic=elastic(group_id=name))
        for n in range(count)
    )  # fmt: skip


HOUR_US = 3_600_000_000


def test_a_job_shrinks_for_one_that_comes() -> None:
    full = node("n1", "s", cpu=8, free=node("x", "s", cpu=0).free, running=running("old", 8))
    plan = GoodputPolicy().plan(snapshot([full], [demand("new", 8, elastic=elastic(group_id="new"))], now_us=HOUR_US))
    assert len(plan.evictions) == 4 and {each.for_demand_id for each in plan.evictions} == {"new"}
    rigid = GoodputPolicy().plan(snapshot([full], [demand("rigid", 2)], now_us=HOUR_US))
    assert len(rigid.evictions) == 2, "and for work that is not elastic, all of it"


def test_a_job_of_which_nothing_is_known_begins_with_its_least_and_at_most_doubles() -> None:
    empty = [node("n1", "s", cpu=8)]
    for least, steps, wanted in [(1, (), 1), (3, (), 3), (1, (StepTime(workers=2, batch=64, step_us=1000),), 4)]:
        asks = [demand("new", 8, elastic=elastic(workers_min=least, steps=steps))]
        assert workers_of(GoodputPolicy().plan(snapshot(empty, asks))) == {"new": wanted}


def test_nobody_is_ended_when_nobody_waits_and_change_must_pay() -> None:
    full = node("n1", "s", cpu=8, free=node("x", "s", cpu=3).free, running=running("a", 5))
    assert not GoodputPolicy().plan(snapshot([full], [], now_us=HOUR_US)).evictions
    young = node("n1", "s", cpu=8, free=node("x", "s", cpu=1).free, running=running("a", 7, since_us=HOUR_US - 1))
    waiting = [demand("more", 1, elastic=elastic(group_id="a"))]
    assert workers_of(GoodputPolicy().plan(snapshot([young], waiting, now_us=HOUR_US))) == {}, "just started"
    old = node("n1", "s", cpu=8, free=node("x", "s", cpu=4).free, running=running("a", 4))
    waiting = [demand("more", 4, elastic=elastic(group_id="a"))]
    assert workers_of(GoodputPolicy().plan(snapshot([old], waiting, now_us=HOUR_US)))["more"] == 4


def test_end_to_end_a_second_job_gets_its_share_and_gives_it_back() -> None:
    world = World(policy=GoodputPolicy())
    fake = world.agent(total=resources(cpu=8, memory=32))
    spec = elastic(group_id="", workers_max=1)
    world.ask(SubmitJob(job=job("one", group(count=8, needs=needs(1), elastic=spec))))
    assert len(fake.running) == 8
    assert all(int(launch.env["OFFERFLOW_BATCH_PER_WORKER"]) > 0 for launch in fake.running.values())
    world.advance(600 * SECOND)
    world.ask(SubmitJob(job=job("two", group(count=8, needs=needs(1), elastic=spec))))
    world.advance(10 * SECOND)
    fake.offer()

    def held() -> dict[str, int]:
        names = [task_id.split("/")[0] for task_id, _ in fake.running]
        return {name: names.count(name) for name in sorted(set(names))}

    assert held() == {"one": 4, "two": 4}
    assert world.master.durable() == world.replayed()
