"""Gavel as a policy: who gets which hardware, who gives way after a round, and what it remembers."""

from typing import Any

import pytest

from policies.conformance import check_plan, check_policy
from policies.gavel import Gavel
from policies.model import Demand, Gang, Needs, Node, Profile, Reason, Resources, Running, Snapshot
from policies.registry import load
from tests.policy_worlds import GIB, demand, node, reasons, snapshot, where

ROUND_US = 360_000_000
NAMES = ("gavel", "gavel-finish-time", "gavel-makespan", "gavel-water-filling")


def learned(profile: str, **run_us: int) -> list[Profile]:
    return [Profile(profile=profile, hardware=name, run_us=us, samples=9) for name, us in sorted(run_us.items())]


def two_kinds(**rest: Any) -> Snapshot:
    """Work that a fast accelerator helps tenfold, and work that it hardly helps; room for one of each on each kind."""
    profiles = [*learned("picky", v100=10**6, k80=10**7), *learned("plain", v100=10**6, k80=11 * 10**5)]
    demands = [demand("plain", 1, profile="plain", oldest_us=0), demand("picky", 1, profile="picky", oldest_us=5)]
    nodes = [node("fast", "x", cpu=1, hardware="v100"), node("slow", "x", cpu=1, hardware="k80")]
    return snapshot(nodes, demands, profiles=tuple(profiles), **rest)


@pytest.mark.parametrize("name", ["gavel", "gavel-makespan", "gavel-water-filling"])
def test_hardware_goes_to_who_gains_most_by_it(name: str) -> None:
    world = two_kinds()
    plan = load(name).plan(world)
    check_plan(world, plan)
    assert where(plan) == {"picky": {"fast": 1}, "plain": {"slow": 1}}
    assert where(load("fifo").plan(world)) == {"plain": {"fast": 1}, "picky": {"slow": 1}}


def holding(task_id: str, profile: str = "", since_us: int = 0, **rest: Any) -> Node:
    needs = Needs(cpu_milli=1000, memory_bytes=GIB)
    task = Running(
        task_id=task_id,
        role="default",
        needs=needs,
        since_us=since_us,
        profile=profile,
        **{"run_us": 10**6, **rest},
    )
    total = Resources(cpu_milli=1000, memory_bytes=64 * GIB, disk_bytes=256 * GIB)
    return node(f"on-{task_id}", "x", total=total, free=Resources(memory_bytes=32 * GIB), running=(task,))


def test_what_ran_a_round_gives_way_to_what_waits_and_not_before() -> None:
    waiting = demand("waiting", 1, profile="b", oldest_us=1)

    def ended(ran_us: int) -> list[str]:
        policy = Gavel()
        early = snapshot([holding("old", "a")], [waiting], now_us=1)
        check_plan(early, policy.plan(early))
        world = snapshot([holding("old", "a")], [waiting], now_us=ran_us)
        plan = policy.plan(world)
        check_plan(world, plan)
        assert not plan.placements
        return [each.task_id for each in plan.evictions]

    assert ended(ROUND_US - 1) == []
    assert ended(ROUND_US) == ["old"]


def test_nobody_is_ended_where_nobody_waits_or_there_is_room() -> None:
    policy = Gavel()
    for now_us in (1, 10 * ROUND_US):
        world = snapshot([holding("old", "a"), node("free", "x", cpu=1)], [demand("d", 1, profile="b")], now_us=now_us)
        plan = policy.plan(world)
        assert not plan.evictions and where(plan) == {"d": {"free": 1}}


def test_shares_are_weighed_by_priority_and_rounds_even_out_over_time() -> None:
    """Two jobs of many tasks on six cores: equal weights get three each, and ten priorities more get twice as much."""

    def split(priority: int) -> dict[str, dict[str, int]]:
        demands = [demand("a", 9, profile="a"), demand("b", 9, profile="b", priority=priority)]
        return where(load("gavel-water-filling").plan(snapshot([node("n", "x", cpu=6)], demands)))

    assert split(0) == {"a": {"n": 3}, "b": {"n": 3}}
    assert split(10) == {"a": {"n": 2}, "b": {"n": 4}}


def test_a_gang_runs_whole_on_one_kind() -> None:
    gang = demand("g", 3, gang=Gang(gang_id="g", size=3))
    nodes = [node(f"v{n}", "x", cpu=1, hardware="v100") for n in range(2)]
    nodes += [node(f"k{n}", "x", cpu=1, hardware="k80") for n in range(3)]
    plan = load("gavel").plan(snapshot(nodes, [gang]))
    assert where(plan) == {"g": {"k0": 1, "k1": 1, "k2": 1}}
    plan = load("gavel").plan(snapshot(nodes[:2], [gang]))
    assert not plan.placements and Reason.GANG in reasons(plan, "g")


@pytest.mark.parametrize("name", NAMES)
def test_rounds_over_time_keep_every_clause(name: str) -> None:
    def demands(n: int) -> list[Demand]:
        return [
            demand("a", 3 + n, profile="a"),
            demand("b", 2, profile="b", priority=20),
            demand("z", 1, needs=Needs()),
        ]

    worlds = [
        snapshot([holding("old", "a"), node("n", "x", cpu=2, hardware="v100")], demands(n), now_us=n * ROUND_US)
        for n in range(1, 5)
    ]
    assert check_policy(lambda: load(name), [*worlds, snapshot([], demands(1)), snapshot([node("n", "x")], [])]) == 6


def test_an_objective_that_there_is_not_is_told() -> None:
    with pytest.raises(ValueError, match="known are fairness"):
        Gavel("speed").plan(two_kinds())
