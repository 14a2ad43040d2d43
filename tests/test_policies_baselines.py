"""The baselines, one story each: who goes first, where to, and what is ended for it."""

from typing import Any

import pytest

from policies.conformance import check_plan
from policies.las import HOUR_US
from policies.model import (
    Amount,
    Demand,
    Gang,
    Gpu,
    GpuNeed,
    Needs,
    Node,
    Plan,
    Reason,
    Resources,
    Role,
    Running,
    Shard,
    Snapshot,
)  # fmt: skip
from policies.registry import load
from tests.policy_worlds import GIB, demand, links, node, reasons, snapshot, three_uplinks, where

SECOND_US = 1_000_000


def plan_of(name: str, world: Snapshot) -> Plan:
    plan = load(name).plan(world)
    check_plan(world, plan)
    return plan


def placed(name: str, world: Snapshot) -> dict[str, dict[str, int]]:
    return where(plan_of(name, world))


def running(task_id: str, priority: int = 0, cpu_milli: int = 1000, **rest: Any) -> Running:
    needs = Needs(cpu_milli=cpu_milli, memory_bytes=GIB)
    return Running(
        **{"task_id": task_id, "role": "default", "needs": needs, "since_us": 0, "priority": priority, **rest}
    )


def busy(agent_id: str, *tasks: Running, cpu: int = 1) -> Node:
    """An agent of `cpu` cores, all taken."""
    total = Resources(cpu_milli=cpu * 1000, memory_bytes=64 * GIB, disk_bytes=256 * GIB)
    free = Resources(cpu_milli=0, memory_bytes=32 * GIB, disk_bytes=256 * GIB)
    return node(agent_id, "x", total=total, free=free, running=tasks)


# --- fair ------------------------------------------------------------------------------------------------------------


def by_role(plan: Plan) -> dict[str, int]:
    out: dict[str, int] = {}
    for placement in plan.placements:
        out[placement.demand_id] = out.get(placement.demand_id, 0) + placement.count
    return out


def test_fair_is_the_example_of_the_drf_paper() -> None:
    # Ghodsi et al., section 4.1: 9 CPUs and 18 GB; A's tasks take 1 and 4, B's 3 and 1; A gets 3 and B 2 tasks.
    room = Resources(cpu_milli=9000, memory_bytes=18 * GIB)
    a = demand("a", 10, role="a", needs=Needs(cpu_milli=1000, memory_bytes=4 * GIB))
    b = demand("b", 10, role="b", needs=Needs(cpu_milli=3000, memory_bytes=GIB))
    world = snapshot([node("n", "x", free=room, total=room)], [a, b])
    assert by_role(plan_of("fair", world)) == {"a": 3, "b": 2}


def test_fair_weighs_roles_and_counts_what_they_hold() -> None:
    demands = [demand("a", 20, role="a"), demand("b", 20, role="b")]
    roles = (Role(path="a", weight=3), Role(path="b"))
    assert by_role(plan_of("fair", snapshot([node("n", "x", cpu=12)], demands, roles=roles))) == {"a": 9, "b": 3}
    room = Resources(cpu_milli=12_000, memory_bytes=64 * GIB, disk_bytes=GIB)
    half = Resources(cpu_milli=6000, memory_bytes=64 * GIB, disk_bytes=GIB)
    held = (Role(path="a", allocated=Amount(cpu_milli=6000)), Role(path="b"))
    world = snapshot([node("n", "x", free=half, total=room)], demands, roles=held)
    assert by_role(plan_of("fair", world)) == {"b": 6}


def test_fair_shares_hold_at_each_level_of_the_hierarchy() -> None:
    demands = [demand(path, 20, role=path) for path in ("ml/a", "ml/b", "web")]
    roles = tuple(Role(path=path) for path in ("ml", "ml/a", "ml/b", "web"))
    plan = plan_of("fair", snapshot([node("n", "x", cpu=8)], demands, roles=roles))
    assert by_role(plan) == {"ml/a": 2, "ml/b": 2, "web": 4}


def test_fair_passes_over_what_nobody_can_run_and_keeps_the_weights() -> None:
    demands = [demand("big", 3, cpu_milli=99_000, role="a", priority=90), demand("a", 20, role="a")]
    demands.append(demand("b", 20, role="b"))
    roles = (Role(path="a", weight=3), Role(path="b"))
    plan = plan_of("fair", snapshot([node("n", "x", cpu=8)], demands, roles=roles))
    assert by_role(plan) == {"a": 6, "b": 2} and Reason.CPU in reasons(plan, "big")


def test_fair_counts_each_member_of_a_gang_for_what_it_takes() -> None:
    """A server of six cores and two workers of one: eight, so both roles end with twelve of the twenty-four."""
    gang = Gang(gang_id="g", size=3)
    demands = [
        demand("a-server", 1, cpu_milli=6000, role="a", gang=gang, priority=9),
        demand("a-workers", 2, role="a", gang=gang, priority=9),
        demand("a-singles", 20, role="a"),
        demand("b", 20, role="b"),
    ]
    plan = plan_of("fair", snapshot([node("n", "x", cpu=24)], demands))
    assert by_role(plan) == {"a-server": 1, "a-workers": 2, "a-singles": 4, "b": 12}


def test_fair_among_unlike_kinds_counts_a_parent_for_all_that_its_children_hold() -> None:
    """As Mesos' roles do, and unlike hierarchical DRF: one GPU is free, "one" holds half of them and no processors,
    "two/gpu" four tenths, and its sibling all processors."""
    gpus = tuple(Gpu(uuid=f"g{n}") for n in range(10))
    total = Resources(cpu_milli=10_000, memory_bytes=GIB, gpus=gpus)
    held = {
        "one": Amount(gpus=5),
        "two": Amount(cpu_milli=10_000, gpus=4),
        "two/cpu": Amount(cpu_milli=10_000),
        "two/gpu": Amount(gpus=4),
    }
    demands = [demand(path, 5, role=path, needs=Needs(gpu=GpuNeed())) for path in ("one", "two/gpu")]
    world = snapshot(
        [node("n", "x", total=total, free=Resources(memory_bytes=GIB, gpus=gpus[:1]))],
        demands,
        roles=tuple(Role(path=path, allocated=amount) for path, amount in held.items()),
    )
    assert by_role(plan_of("fair", world)) == {"one": 1}


def test_fair_gives_what_one_role_cannot_use_to_the_others() -> None:
    demands = [demand("a", 1, role="a"), demand("b", 20, role="b")]
    assert by_role(plan_of("fair", snapshot([node("n", "x", cpu=8)], demands))) == {"a": 1, "b": 7}


# --- priority and least attained service -----------------------------------------------------------------------------


def test_priority_ends_what_counts_least_and_loses_least() -> None:
    long_run = running("long", since_us=0)
    short_run = running("short", since_us=50 * SECOND_US)
    vip = running("vip", priority=90, since_us=59 * SECOND_US)
    world = snapshot(
        [busy("a", long_run), busy("b", short_run), busy("c", vip)],
        [demand("urgent", priority=80)],
        now_us=60 * SECOND_US,
    )
    plan = plan_of("priority", world)
    assert [(e.task_id, e.agent_id, e.for_demand_id) for e in plan.evictions] == [("short", "b", "urgent")]
    waits_for = plan.refusals[0].waits_for
    assert waits_for is not None and waits_for.agent_id == "b" and waits_for.terms.wait_us > 0


def test_priority_ends_nothing_for_little_or_where_something_is_free() -> None:
    world = snapshot([busy("a", running("t", priority=50))], [demand("d", priority=55)])
    assert not plan_of("priority", world).evictions
    free = snapshot([busy("a", running("t")), node("b", "x")], [demand("d", priority=90)])
    plan = plan_of("priority", free)
    assert not plan.evictions and where(plan) == {"d": {"b": 1}}


def test_what_is_ending_already_is_waited_for_and_kept_from_others() -> None:
    half = Resources(cpu_milli=1000, memory_bytes=32 * GIB, disk_bytes=256 * GIB)
    ending = node("a", "x", cpu=2, free=half, running=(running("t", ending=True), running("u", priority=10)))
    world = snapshot([ending], [demand("big", cpu_milli=2000, priority=90), demand("small", priority=10)])
    plan = plan_of("priority", world)
    assert not plan.evictions and not plan.placements
    assert Reason.PLANNED_WAIT in reasons(plan, "big") and Reason.QUEUE in reasons(plan, "small")


def test_only_as_much_is_ended_as_is_needed() -> None:
    tasks = (running("a-small", cpu_milli=500), running("b-large", cpu_milli=3000, priority=1))
    plan = plan_of("priority", snapshot([busy("n", *tasks, cpu=4)], [demand("d", cpu_milli=3000, priority=90)]))
    assert [e.task_id for e in plan.evictions] == ["b-large"]


def test_a_gang_is_dearer_to_end_than_a_single_task() -> None:
    gang = [running(f"g{n}", gang_id="g", since_us=30 * SECOND_US) for n in range(3)]
    single = running("single", since_us=0)
    nodes = [busy("a", gang[0]), busy("b", gang[1]), busy("c", gang[2]), busy("d", single)]
    plan = plan_of("priority", snapshot(nodes, [demand("d", priority=90)], now_us=60 * SECOND_US))
    assert [e.task_id for e in plan.evictions] == ["single"]


def test_a_gang_on_one_agent_is_lost_once_and_ends_as_one() -> None:
    """Two of a gang, 60 s on half the agent each, lose 60 s; a task of 70 s on all of its agent loses more."""
    now_us = 60 * SECOND_US
    gang = [running(f"g{n}", gang_id="g") for n in range(2)]
    single = running("single", cpu_milli=2000, since_us=-10 * SECOND_US)
    nodes = [busy("a", *gang, cpu=2), busy("b", single, cpu=2)]
    plan = plan_of("priority", snapshot(nodes, [demand("d", cpu_milli=2000, priority=90)], now_us=now_us))
    assert [e.task_id for e in plan.evictions] == ["g0"]
    both = [demand("d", 2, priority=90), demand("e", priority=80)]
    plan = plan_of("priority", snapshot(nodes, both, now_us=now_us))
    assert [(e.task_id, e.for_demand_id) for e in plan.evictions] == [("g0", "d"), ("single", "e")], (
        "its mate's is free"
    )


def test_priority_makes_room_for_a_whole_gang_or_for_none_of_it() -> None:
    gang = demand("g", 3, gang=Gang(gang_id="g", size=3), priority=90)
    free, vip = node("free", "x"), busy("vip", running("keeps", priority=90))
    world = snapshot([busy("a", running("t1")), busy("b", running("t2")), free, vip], [gang])
    plan = plan_of("priority", world)
    assert [e.task_id for e in plan.evictions] == ["t1", "t2"] and not plan.placements
    assert Reason.PLANNED_WAIT in reasons(plan, "g")
    plan = plan_of("priority", snapshot([busy("a", running("t1")), free, vip], [gang]))
    assert not plan.evictions and Reason.GANG in reasons(plan, "g")


def test_what_a_gang_in_the_way_leaves_behind_is_used_before_more_is_ended() -> None:
    victims = [running(f"v{n}", gang_id="v") for n in range(2)]
    nodes = [busy("a", victims[0]), busy("b", victims[1]), busy("c", running("single", priority=5))]
    gang = demand("g", 2, gang=Gang(gang_id="g", size=2), priority=90)
    plan = plan_of("priority", snapshot(nodes, [gang]))
    assert [e.task_id for e in plan.evictions] == ["v0"]  # The other ends with it.


def test_room_kept_for_a_gang_is_not_given_to_less_important_work() -> None:
    gang = demand("g", 2, gang=Gang(gang_id="g", size=2), priority=90)
    world = snapshot([busy("a", running("t")), node("free", "x")], [gang, demand("small", priority=10)])
    plan = plan_of("priority", world)
    assert [e.task_id for e in plan.evictions] == ["t"] and not plan.placements
    assert Reason.QUEUE in reasons(plan, "small")


def test_each_task_that_room_is_made_for_has_its_own_victim() -> None:
    nodes = [busy(name, running(f"on-{name}")) for name in "abc"]
    plan = plan_of("priority", snapshot(nodes, [demand("d", 2, priority=90), demand("e", 2, priority=80)]))
    assert [(e.task_id, e.for_demand_id) for e in plan.evictions] == [("on-a", "d"), ("on-b", "d"), ("on-c", "e")]


def test_room_is_made_for_gpus_too() -> None:
    gpu = Gpu(uuid="g", model="a100")
    needs = Needs(cpu_milli=1000, gpu=GpuNeed())
    total = Resources(cpu_milli=4000, memory_bytes=GIB, gpus=(gpu,))
    free = Resources(cpu_milli=3000, memory_bytes=GIB)
    world = snapshot(
        [node("n", "x", total=total, free=free, running=(running("t", needs=needs),))],
        [demand("d", needs=needs, priority=90)],
    )
    assert [e.task_id for e in plan_of("priority", world).evictions] == ["t"]


def test_las_lets_fresh_work_end_what_ran_for_hours() -> None:
    now_us = 10 * HOUR_US
    old, young = running("old", priority=100), running("young", since_us=now_us - SECOND_US)
    world = snapshot([busy("a", young), busy("b", old)], [demand("fresh", oldest_us=now_us)], now_us=now_us)
    assert [e.task_id for e in plan_of("las", world).evictions] == ["old"]


def test_las_puts_what_attained_much_behind_until_it_waited_long() -> None:
    def order(waited_us: int) -> dict[str, dict[str, int]]:
        now_us = 100 * HOUR_US
        sunk = demand("sunk", attained_us=2 * HOUR_US, oldest_us=now_us - waited_us)
        fresh = demand("fresh", oldest_us=now_us - SECOND_US)
        return placed("las", snapshot([node("n", "x")], [fresh, sunk], now_us=now_us))

    assert order(HOUR_US) == {"fresh": {"n": 1}}
    assert order(16 * HOUR_US) == {"sunk": {"n": 1}}


def test_las_counts_what_all_of_a_gang_held() -> None:
    """Tiresias: attained service is a job's GPUs times its time. Four cores for twenty minutes are past one hour."""
    now_us = HOUR_US // 3

    def ended(n_members: int) -> list[str]:
        gang = [running(f"g{n}", gang_id="g", cpu_milli=1000) for n in range(n_members)]
        world = snapshot([busy("a", *gang, cpu=n_members)], [demand("fresh", oldest_us=now_us)], now_us=now_us)
        return [e.task_id for e in plan_of("las", world).evictions]

    assert ended(2) == [] and ended(4) == ["g0"], "the others end with it"
    waiting = [
        demand("g", 4, gang=Gang(gang_id="g", size=4), attained_us=now_us, oldest_us=0),
        demand("single", 4, attained_us=now_us, oldest_us=SECOND_US),
    ]
    assert placed("las", snapshot([node("n", "x", cpu=4)], waiting, now_us=2 * now_us)) == {"single": {"n": 4}}


def test_las_makes_room_for_a_whole_gang_or_for_none_of_it() -> None:
    now_us = 10 * HOUR_US
    gang = demand("g", 2, gang=Gang(gang_id="g", size=2), oldest_us=now_us)
    sunk, young = running("sunk"), running("young", since_us=now_us - SECOND_US)
    world = snapshot([busy("a", sunk), busy("b", running("too"))], [gang], now_us=now_us)
    assert [e.task_id for e in plan_of("las", world).evictions] == ["sunk", "too"]
    plan = plan_of("las", snapshot([busy("a", sunk), busy("b", young)], [gang], now_us=now_us))
    assert not plan.evictions and Reason.GANG in reasons(plan, "g")


def test_las_lets_what_was_promoted_attain_the_threshold_anew() -> None:
    """Tiresias sets the attained service of a starving job back to nothing: else the next that comes would end it."""
    policy, now_us, attained_us = load("las"), 100 * HOUR_US, 2 * HOUR_US

    def ended(ran_us: int) -> list[str]:
        task = running("starved", since_us=now_us, attained_us=attained_us)
        at_us = now_us + ran_us
        world = snapshot([busy("a", task)], [demand("fresh", oldest_us=at_us)], now_us=at_us)
        plan = policy.plan(world)
        check_plan(world, plan)
        return [e.task_id for e in plan.evictions]

    assert ended(SECOND_US) == ["starved"], "it was not promoted: there was room"
    starved = demand("d", attained_us=attained_us, oldest_us=now_us - 8 * attained_us)
    assert where(policy.plan(snapshot([node("a", "x")], [starved], now_us=now_us))) == {"d": {"a": 1}}
    assert ended(SECOND_US) == [] == ended(HOUR_US - 1) and ended(HOUR_US) == ["starved"]


# --- deadline and sjf ------------------------------------------------------------------------------------------------


def due(demand_id: str, in_s: int, run_s: int = 1, **rest: Any) -> Demand:
    return demand(demand_id, deadline_us=in_s * SECOND_US, run_us=run_s * SECOND_US, **rest)


def test_deadline_serves_the_earliest_first_and_the_least_laxity_among_equals() -> None:
    nodes = [node("n", "x", cpu=2)]
    demands = [due("late", 90), due("soon-long", 60, 50), due("soon-short", 60, 5), demand("never", priority=100)]
    assert placed("deadline", snapshot(nodes, demands)) == {"soon-long": {"n": 1}, "soon-short": {"n": 1}}


def test_deadline_admits_only_what_can_be_in_time_and_where() -> None:
    nodes = [node("slow", "x", speed_milli=500), node("quick", "x", speed_milli=2000)]
    world = snapshot(nodes, [due("hopeless", 10, 50), due("tight", 10, 15)])
    plan = plan_of("deadline", world)
    assert where(plan) == {"tight": {"quick": 1}}
    assert Reason.DEADLINE in reasons(plan, "hopeless")


def test_sjf_runs_the_short_first_and_on_the_fastest() -> None:
    nodes = [node("slow", "x"), node("fast", "x", speed_milli=2000)]
    demands = [demand("long", run_us=60 * SECOND_US, priority=100), demand("short", run_us=SECOND_US)]
    assert placed("sjf", snapshot(nodes, demands)) == {"short": {"fast": 1}, "long": {"slow": 1}}


# --- where: random, least-loaded, best-fit, packing, locality --------------------------------------------------------


def test_random_spreads_evenly_and_the_snapshot_is_the_seed() -> None:
    nodes = [node(f"n{n}", "x", cpu=1000) for n in range(4)]
    world = snapshot(nodes, [demand("d", 2000, needs=Needs(cpu_milli=100))])
    once = placed("random", world)
    assert once == placed("random", world)
    assert set(once["d"]) == {"n0", "n1", "n2", "n3"} and all(420 < count < 580 for count in once["d"].values())
    assert once != placed("random", snapshot(nodes, list(world.demands), now_us=2000))


def test_random_uses_the_last_room_there_is() -> None:
    nodes = [node("tiny", "x", cpu=1), node("large", "x", cpu=9)]
    assert placed("random", snapshot(nodes, [demand("d", 10)])) == {"d": {"tiny": 1, "large": 9}}


def test_least_loaded_levels_relative_load() -> None:
    nodes = [node("large", "x", cpu=8), node("small", "x", cpu=4)]
    assert placed("least-loaded", snapshot(nodes, [demand("d", 6)])) == {"d": {"large": 4, "small": 2}}
    used = Resources(cpu_milli=2000, memory_bytes=64 * GIB, disk_bytes=256 * GIB)
    half_full = node("large", "x", cpu=8, free=used)
    assert placed("least-loaded", snapshot([half_full, nodes[1]], [demand("d", 3)])) == {"d": {"small": 3}}


@pytest.mark.parametrize("count", [1, 2, 5, 7, 11, 12, 20])
def test_least_loaded_is_what_one_after_the_other_gives(count: int) -> None:
    sizes = {"a": 3, "b": 8, "c": 1}
    world = snapshot([node(name, "x", cpu=cpu) for name, cpu in sizes.items()], [demand("d", count)])
    expected = dict.fromkeys(sizes, 0)
    for _ in range(min(count, 12)):
        room = [name for name in sizes if expected[name] < sizes[name]]
        expected[min(room, key=lambda name: ((expected[name] + 1) / sizes[name], name))] += 1
    assert placed("least-loaded", world)["d"] == {name: n for name, n in expected.items() if n}


def test_best_fit_takes_the_tightest_and_leaves_the_large_whole() -> None:
    nodes = [node("a-large", "x", cpu=16), node("b-small", "x", cpu=2)]
    assert placed("best-fit", snapshot(nodes, [demand("d", 3)])) == {"d": {"b-small": 2, "a-large": 1}}


def test_packing_keeps_cpu_work_off_agents_whose_gpus_it_would_strand() -> None:
    gpus = tuple(Gpu(uuid=f"g{n}") for n in range(2))
    room = Resources(cpu_milli=8000, memory_bytes=64 * GIB, disk_bytes=GIB, gpus=gpus)
    nodes = [node("a-gpu", "x", free=room, total=room), node("b-cpu", "x", cpu=8)]
    training = demand("train", 2, needs=Needs(cpu_milli=4000, gpu=GpuNeed()), oldest_us=9)
    world = snapshot(nodes, [demand("plain", 1, cpu_milli=4000, oldest_us=1), training])
    assert placed("packing", world) == {"plain": {"b-cpu": 1}, "train": {"a-gpu": 2}}
    assert placed("fifo", world) == {"plain": {"a-gpu": 1}, "train": {"a-gpu": 1}}


def test_packing_fills_the_gpus_that_are_broken_into_already() -> None:
    def gpu_node(name: str, n_gpus: int) -> Node:
        gpus = tuple(Gpu(uuid=f"{name}{n}") for n in range(n_gpus))
        room = Resources(cpu_milli=64_000, memory_bytes=64 * GIB, disk_bytes=GIB, gpus=gpus)
        return node(name, "x", free=room, total=room)

    large = demand("large", 1, needs=Needs(cpu_milli=1000, gpu=GpuNeed(count=4)), oldest_us=9)
    small = demand("small", 3, needs=Needs(cpu_milli=1000, gpu=GpuNeed()), oldest_us=1)
    world = snapshot([gpu_node("a", 4), gpu_node("b", 3)], [large, small])
    assert placed("packing", world) == {"small": {"b": 3}, "large": {"a": 1}}


def test_locality_counts_bytes_and_not_what_links_measure() -> None:
    at = placed("locality", three_uplinks())
    # 4 MB cost 64 ms through the core and a second's wait at home: everything goes to the rack, the slow site's too.
    assert {agent for agents in at.values() for agent in agents} >= {"cloud"}
    assert "cloud" in at["slow-1"] or "cloud" in at["slow-0"]


def test_locality_prefers_the_data_s_agent_then_its_rack_then_the_core() -> None:
    shard = Shard(shard_id="s", size_bytes=GIB, replicas=("holder",), replicas_wanted=0)
    rack = [node("holder", "rack-1"), node("neighbour", "rack-1"), node("far", "rack-2")]
    reads = demand("d", 1, reads=("s",))
    fast = links({("rack-1", "rack-2"): 100_000})
    assert placed("locality", snapshot(rack, [reads], [shard], fast)) == {"d": {"holder": 1}}
    assert placed("locality", snapshot(rack[1:], [reads], [shard_at(shard)], fast)) == {"d": {"neighbour": 1}}


def shard_at(shard: Shard) -> Shard:
    """The same, its holder not being offered: its site is still known."""
    return Shard(
        shard_id=shard.shard_id,
        size_bytes=shard.size_bytes,
        replicas=shard.replicas,
        replica_sites=("rack-1",),
        replicas_wanted=0,
    )


# --- what all share --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["best-fit", "deadline", "fair", "fifo", "las", "least-loaded", "packing", "priority", "random", "sjf"]
)
def test_a_gang_starts_whole_or_leaves_its_place_to_others(name: str) -> None:
    gang = demand("g", 3, gang=Gang(gang_id="g", size=3), priority=9, oldest_us=0)
    world = snapshot([node("a", "x"), node("b", "x")], [gang, demand("single", 2, oldest_us=5)])
    plan = plan_of(name, world)
    assert by_role(plan) == {"single": 2}
    assert Reason.GANG in reasons(plan, "g")
    assert by_role(plan_of(name, snapshot([node("a", "x", cpu=5)], [gang]))) == {"g": 3}
