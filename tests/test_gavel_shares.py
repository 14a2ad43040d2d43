"""Gavel's shares: the optima agree with published ones, water filling with its definition, centres with symmetry."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from policies import gavel_shares as shares
from policies.gavel_rounds import Received, by_priority

ORACLES = Path(__file__).parents[1].parent / "shared" / "traces" / "gavel" / "lp_oracles.json"


def cluster(gpus: list[int], room: list[int], tasks: list[int] | None = None) -> shares.Cluster:
    return shares.Cluster(
        needs=np.array(gpus, np.float64)[:, None],
        tasks=np.array(tasks or [1] * len(gpus), np.float64),
        room=np.array(room, np.float64)[:, None],
        open=np.ones((len(gpus), len(room)), np.bool_),
    )


@pytest.mark.parametrize("n", range(6))
def test_optima_are_the_published_ones_to_six_digits(n: int) -> None:
    case = json.loads(ORACLES.read_text())[n]
    rates, world = np.array(case["throughputs"]), cluster(case["scale_factors"], case["num_workers"])
    fair = shares.fairest(world, rates, np.array(case["priority_weights"]))
    assert fair.level == pytest.approx(case["max_min_objective_highs"], rel=1e-6)
    assert shares.equal_split(rates, world) == pytest.approx(case["proportional_throughputs"])
    soon = shares.soonest(world, rates, np.array(case["steps"]))
    assert 1 / soon.level == pytest.approx(case["min_makespan_s_highs"], rel=1e-6)
    for found in (fair, soon):
        assert (found.shares >= 0).all() and (found.shares.sum(axis=1) <= 1).all()
        assert (world.needs[:, 0] @ found.shares <= world.room[:, 0]).all()


@st.composite
def worlds(draw: st.DrawFn) -> tuple[shares.Cluster, shares.Floats]:
    n_jobs, n_types = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    gpus = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=n_jobs, max_size=n_jobs))
    room = draw(st.lists(st.integers(4, 12), min_size=n_types, max_size=n_types))
    rates = draw(st.lists(st.integers(1, 40), min_size=n_jobs * n_types, max_size=n_jobs * n_types))
    return cluster(gpus, room), np.array(rates, np.float64).reshape(n_jobs, n_types)


@settings(max_examples=15, deadline=None)
@given(worlds())
def test_water_filling_leaves_nobody_who_could_have_more_without_less_for_who_has_no_more(
    world: tuple[shares.Cluster, shares.Floats],
) -> None:
    """The definition: raising any job's level, with all others at theirs, is not possible."""
    cluster, rates = world
    weight = np.ones(len(rates))
    found = shares.water_filled(cluster, rates, weight)
    gain = rates * (cluster.needs[:, 0] / shares.equal_split(rates, cluster))[:, None]
    levels = (gain * found.shares).sum(axis=1)
    assert levels.min() == pytest.approx(shares.fairest(cluster, rates, weight).level, rel=1e-6)
    for job in range(len(rates)):
        poorer_or_equal = np.where(levels <= levels[job] * (1 + 1e-6), levels, 0.0)
        assert most_for(cluster, gain, job, poorer_or_equal) == pytest.approx(levels[job], rel=1e-4)


def most_for(cluster: shares.Cluster, gain: shares.Floats, job: int, floors: shares.Floats) -> float:
    """The most of one job's gain while the others keep their floors: the obvious programme."""
    n_jobs, n_types = gain.shape
    rows, limits = [], []
    for j in range(n_jobs):
        row = np.zeros((n_jobs, n_types))
        row[j] = 1
        rows.append(row.ravel())
        limits.append(cluster.tasks[j])
        if j != job:
            floor = np.zeros((n_jobs, n_types))
            floor[j] = -gain[j]
            rows.append(floor.ravel())
            limits.append(-floors[j] * (1 - 1e-7))
    for w in range(n_types):
        row = np.zeros((n_jobs, n_types))
        row[:, w] = cluster.needs[:, 0]
        rows.append(row.ravel())
        limits.append(cluster.room[w, 0])
    goal = np.zeros((n_jobs, n_types))
    goal[job] = -gain[job]
    return float(-linprog(goal.ravel(), A_ub=np.array(rows), b_ub=np.array(limits), method="highs").fun)


def test_like_jobs_get_like_shares_and_closed_types_none() -> None:
    world = cluster([1, 1, 2], [2, 2])
    closed = shares.Cluster(world.needs, world.tasks, world.room, np.array([[True, True], [True, True], [True, False]]))
    rates = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 1.0]])
    found = shares.fairest(closed, np.where(closed.open, rates, 0.0), np.ones(3)).shares
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[2, 1] == 0


def test_the_centre_is_where_the_product_of_slacks_is_largest() -> None:
    # One job of one task, one type with room for two, any level: x in (0, 1) with slacks x, 1 - x and 2 - x.
    world = cluster([1], [2])
    x = float(shares.centre(world, np.array([[1.0]]), np.array([1.0]), 1e-9)[0, 0])
    slack = [(at * (1 - at) * (2 - at) * at, at) for at in np.linspace(0.001, 0.999, 999)]  # gain - need is x too
    assert x == pytest.approx(max(slack)[1], abs=1e-3)


def test_finish_time_fairness_lets_the_late_catch_up() -> None:
    world, rates, steps = cluster([1, 1], [1]), np.ones((2, 1)), np.array([100.0, 100.0])
    found = shares.fair_finish(world, rates, steps, np.array([300.0, 0.0]), np.array([400.0, 400.0]))
    assert found.shares[0, 0] > found.shares[1, 0]
    finish = (np.array([300.0, 0.0]) + steps / found.shares[:, 0]) / 400
    assert finish == pytest.approx([found.level, found.level], rel=1e-3)


def test_priority_is_share_over_part_received_and_deficits_decide_ties() -> None:
    received = Received(1, 10)
    for job in (1, 2, 3):
        received.add(job)
    half = np.array([0.5])
    due = {1: half, 2: half, 3: np.array([0.0])}
    received.settle({}, 0)
    received.give(1, 0, 100)
    rates = dict.fromkeys((1, 2, 3), 1.0)
    assert [job for job, _ in by_priority(received, due, 0, rates)] == [2, 1, 3]
    received.settle(due, 100)  # Both were due 50: the first is 50 ahead, the second 50 behind.
    assert received.deficit[1][0] == -50 and received.deficit[2][0] == 50
    ranked = list(by_priority(received, due, 0, rates))
    assert [job for job, _ in ranked] == [2, 1, 3] and ranked[0][1] == ranked[1][1] > 0 == ranked[2][1]
