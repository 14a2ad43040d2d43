"""Lumping equal tasks and equal agents, and pricing targets in, lose nothing: the plan costs what the flow over single
tasks and single agents costs."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policies import targets
from policies.cost import FREE, CostModel, costs
from policies.flow import Flow
from policies.flow_network import unscheduled_us
from policies.lower import Lowerer
from policies.model import (
    Communication,
    Gpu,
    Needs,
    Node,
    Release,
    Resources,
    Running,
    Shard,
    Snapshot,
    Where,
)
from tests.policy_worlds import MB, demand, links, node, snapshot
from tests.reference import taskflow


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    """Equal needs; many equal agents and classes, some told apart by data, tier or being avoided. Each shard is read by
    one task only, so that no link is shared."""
    sites = ("plant", "rack", "shop")
    nodes = [
        node(
            f"n{n:02}",
            draw(st.sampled_from(sites)),
            draw(st.sampled_from(("edge", "cloud"))),
            cpu=draw(st.integers(0, 3)),
            speed_milli=draw(st.sampled_from((500, 1000))),
        )
        for n in range(draw(st.integers(1, 8)))
    ]
    demands, shards = [], []
    for n in range(draw(st.integers(1, 6))):
        reads: tuple[str, ...] = ()
        if draw(st.booleans()):
            holder = draw(st.sampled_from(nodes)).agent_id
            shards.append(
                Shard(shard_id=f"s{n}", size_bytes=draw(st.integers(1, 9)) * MB, replicas=(holder,), replicas_wanted=0)
            )
            reads = (f"s{n}",)
        avoided = (draw(st.sampled_from(nodes)).agent_id,) if draw(st.booleans()) else ()
        demands.append(
            demand(
                f"d{n}",
                1 if reads else draw(st.integers(1, 6)),
                reads=reads,
                where=Where(tiers=draw(st.sampled_from(((), ("edge",)))), agents_avoided=avoided),
                run_us=draw(st.integers(1, 5)) * 100_000,
                priority=draw(st.sampled_from((50, 70))),
            )
        )
    between = {("plant", "rack"): 8, ("rack", "shop"): 40}
    # Two readers of one site would share its uplink: keep one of them.
    seen: set[str] = set()
    site_of = {each.agent_id: each.site for each in nodes}
    for shard in list(shards):
        site = site_of[shard.replicas[0]]
        if site in seen:
            shards.remove(shard)
            demands = [d for d in demands if shard.shard_id not in d.reads]
        seen.add(site)
    return snapshot(nodes, demands, shards, links(between))


def two_cores_and_a_thin_link() -> Snapshot:
    """The one core beside the data suits both tasks; the other stands behind 8 Mbit/s and the light task avoids it."""
    nodes = [node("holder", "plant", cpu=0), node("far", "rack"), node("near", "plant")]
    shards = [Shard(shard_id="s", size_bytes=MB, replicas=("holder",), replicas_wanted=0)]
    heavy = demand("heavy", reads=("s",), run_us=100_000, priority=70)
    light = demand("light", where=Where(agents_avoided=("far",)), run_us=100_000, priority=50)
    return snapshot(nodes, [heavy, light], shards, links({("plant", "rack"): 8}))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
@example(two_cores_and_a_thin_link())
def test_the_plan_costs_what_the_task_level_optimum_costs(world: Snapshot) -> None:
    columns = Lowerer().lower(world)
    cost = costs(columns, CostModel())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "WAIT_GROUPS", 0)  # Nobody plans to wait: only who runs where now.
        plan = Flow().plan(world)
    placed = {(p.demand_id, p.agent_id): p.count for p in plan.placements}
    waiting_us = unscheduled_us(cost.total_us, cost.obstacle == FREE)
    assert taskflow.cost_of(columns, cost, placed, waiting_us) == taskflow.optimum(columns, cost, waiting_us)


def twins(n: int) -> list[Node]:
    return [node(f"n{k:03}", "x", cpu=2) for k in range(n)]


def test_equal_agents_are_one_group_and_data_sets_them_apart() -> None:
    plain = Lowerer().lower(snapshot(twins(50), [demand("d", 9)]))
    assert plain.n_groups == 1 and plain.members[0].tolist() == list(range(50))
    shard = Shard(shard_id="s", size_bytes=MB, replicas=("n003", "n007"), replicas_wanted=0)
    data = Lowerer().lower(snapshot(twins(50), [demand("d", 9, reads=("s",))], [shard]))
    assert data.n_groups == 2 and data.kind.tolist() == [0, 0]
    assert [m.tolist() for m in data.members if 3 in m] == [[3, 7]]


def test_what_no_demand_asks_for_does_not_split_groups() -> None:
    nodes = [
        node(f"n{k}", f"site-{k}", tier, labels=(("rack", str(k)),), hardware=f"h{k}")
        for k, tier in enumerate(("edge", "cloud", "edge"))
    ]
    assert Lowerer().lower(snapshot(nodes, [demand("d")])).n_groups == 1
    for where, groups in (
        (Where(tiers=("edge",)), 2),
        (Where(labels=(("rack", "1"),)), 2),
        (Where(sites=("site-0",)), 2),
    ):
        assert Lowerer().lower(snapshot(nodes, [demand("d", where=where)])).n_groups == groups


def test_what_is_remembered_changes_nothing() -> None:
    lowerer, policy = Lowerer(), Flow()
    nodes = twins(6)
    busy = (Release(in_us=5, needs=Needs(cpu_milli=500)),)
    talks = Running(
        task_id="t",
        role="",
        needs=Needs(),
        since_us=0,
        gang_id="g",
        communication=Communication(pattern="allreduce", bytes_per_step=9),
    )
    steps = [
        *((n, node(f"n00{n}", "x", cpu=n, speed_milli=1000 + 500 * n)) for n in range(4)),
        (4, node("n004", "x", free=Resources(cpu_milli=9, gpus=(Gpu(uuid="g"),)))),
        (200, node("n200", "y", releases=busy, running=(talks,))),
        (2, node("n002", "x", releases=busy)),
        (4, node("n004", "x")),  # It gave its GPU out.
        (2, node("n002", "x")),
        (5, None),
        (1, node("n001", "y")),
        (0, node("m000", "y")),  # as many agents as before, one of them another
    ]
    nodes += twins(300)[6:]
    for now_us, (n, changed) in enumerate(steps):
        nodes[n : n + 1] = [changed] if changed is not None else []
        world = snapshot(list(nodes), [demand("d", 5)], now_us=now_us)
        seen, fresh = lowerer.lower(world), Lowerer().lower(world)
        for field in ("free", "gpus", "group", "first", "speed_milli", "price"):
            assert getattr(seen, field).tolist() == getattr(fresh, field).tolist(), field
        assert (seen.releasing, seen.gpu_types, seen.n_groups) == (fresh.releasing, fresh.gpu_types, fresh.n_groups)
        assert [m.tolist() for m in seen.members] == [m.tolist() for m in fresh.members]
        assert policy.plan(world) == Flow().plan(world)


def test_thousands_of_unlike_agents_become_few_groups() -> None:
    nodes = [node(f"n{k:04}", f"s{k % 40:02}", cpu=2, speed_milli=500 + k) for k in range(2000)]
    shards = [Shard(shard_id="s", size_bytes=MB, replicas=("n0000",), replicas_wanted=0)]
    fat = links({(f"s{a:02}", f"s{b:02}"): 10 + a + b for a in range(40) for b in range(a)})
    columns = Lowerer().lower(snapshot(nodes, [demand("d", 9, reads=("s",))], shards, fat))
    assert columns.n_groups <= 512
    assert sum(len(members) for members in columns.members) == 2000
