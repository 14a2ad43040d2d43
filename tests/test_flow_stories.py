"""What the flow policy decides, told one world at a time."""

import msgspec

from policies.conformance import check_plan
from policies.flow import Flow
from policies.model import (
    Amount,
    Gang,
    Gpu,
    GpuNeed,
    LatencyTarget,
    LinkNeed,
    Needs,
    Plan,
    Profile,
    Reason,
    Release,
    Resources,
    Role,
    Shard,
    Snapshot,
    Transfer,
    Where,
)  # fmt: skip
from tests.policy_worlds import GIB, MB, demand, links, node, reasons, snapshot, three_uplinks, where


def planned(world: Snapshot) -> Plan:
    plan = Flow().plan(world)
    check_plan(world, plan)
    return plan


def test_the_slow_site_queues_at_home_and_the_fast_one_sends_to_the_cloud() -> None:
    plan = planned(three_uplinks())
    at = where(plan)
    assert all(at[f"fast-{n}"] == {"cloud": 1} for n in range(4))
    mid = [next(iter(at[f"mid-{n}"])) for n in range(4)]
    assert sorted(mid) == ["cloud", "cloud", "cloud", "edge-mid"]
    slow = [n for n in range(4) if f"slow-{n}" in at]
    assert [at[f"slow-{n}"] for n in slow] == [{"edge-slow": 1}]
    waiting = [refusal for refusal in plan.refusals if refusal.demand_id.startswith("slow-")]
    assert len(waiting) == 3
    for refusal in waiting:
        assert refusal.blockers[0].reason is Reason.PLANNED_WAIT
        assert refusal.waits_for is not None and refusal.waits_for.agent_id == "edge-slow"
    waits = sorted(refusal.waits_for.terms.wait_us for refusal in waiting if refusal.waits_for)
    run_us = 1_000_000 * 1000 // 300
    assert waits == [run_us, 2 * run_us, 3 * run_us]


def test_a_busy_home_is_waited_for_when_its_work_ends_soon_enough() -> None:
    world = three_uplinks()
    busy = Resources(memory_bytes=64 * GIB, disk_bytes=256 * GIB)

    def occupied(in_us: int) -> Plan:
        release = Release(in_us=in_us, needs=Needs(cpu_milli=1000, memory_bytes=GIB))
        nodes = [
            msgspec.structs.replace(n, free=busy, releases=(release,)) if n.agent_id == "edge-slow" else n
            for n in world.nodes
        ]
        slow = [d for d in world.demands if d.demand_id == "slow-0"]
        return planned(snapshot(nodes, slow, list(world.shards), list(world.links)))

    soon = occupied(2_000_000)
    assert not soon.placements and reasons(soon, "slow-0")[Reason.PLANNED_WAIT] == 1
    late = occupied(600_000_000)
    assert where(late) == {"slow-0": {"cloud": 1}}


def test_the_tenth_transfer_over_a_link_costs_more_than_the_first() -> None:
    shards = [Shard(shard_id="s", size_bytes=10 * MB, replicas=("home",), replicas_wanted=0)]
    nodes = [node("home", "plant", cpu=1, speed_milli=200), node("cloud", "rack", "cloud", cpu=64)]
    link = links({("plant", "rack"): 80})
    counts = {}
    for count in (1, 4, 40):
        plan = planned(snapshot(nodes, [demand("d", count, reads=("s",))], shards, link))
        counts[count] = where(plan).get("d", {}).get("cloud", 0)
        (congestion_us,) = [p.terms.congestion_us for p in plan.placements if p.agent_id == "cloud"]
        mean_us = (counts[count] - 1) * 1_020_000 // 2
        assert mean_us <= congestion_us <= mean_us * 11 // 10
    assert counts[1] == 1 and counts[4] in (3, 4) and counts[4] < counts[40] < 40


def test_bytes_already_on_the_way_hold_others_back() -> None:
    world = three_uplinks()
    mid = [d for d in world.demands if d.demand_id == "mid-0"]
    busy = Resources(memory_bytes=64 * GIB, disk_bytes=256 * GIB)
    release = (Release(in_us=3_000_000, needs=Needs(cpu_milli=1000, memory_bytes=GIB)),)
    nodes = [
        msgspec.structs.replace(n, free=busy, releases=release) if n.agent_id == "edge-mid" else n for n in world.nodes
    ]
    quiet = snapshot(nodes, mid, list(world.shards), list(world.links))
    assert where(planned(quiet)) == {"mid-0": {"cloud": 1}}
    loaded = msgspec.structs.replace(quiet, transfers=(Transfer(from_site="mid", to_site="rack", left_bytes=40 * MB),))
    assert not planned(loaded).placements


def test_learned_run_times_replace_declared_ones() -> None:
    nodes = [node("a", "x", hardware="slowpoke"), node("b", "x", hardware="racer")]
    learned = (
        Profile(profile="p", hardware="racer", run_us=100_000, samples=5),
        Profile(profile="p", hardware="slowpoke", run_us=9_000_000, samples=5),
    )
    plan = planned(snapshot(nodes, [demand("d", profile="p")], profiles=learned))
    assert where(plan) == {"d": {"b": 1}}
    (placement,) = plan.placements
    assert placement.terms.run_us == 100_000
    assert [(c.agent_id, c.terms.run_us) for c in placement.alternatives] == [("a", 9_000_000)]


def test_money_is_time() -> None:
    nodes = [node("dear", "x", price_microusd_per_cpu_hour=1_000_000), node("slower", "x", speed_milli=800)]
    assert where(planned(snapshot(nodes, [demand("d")]))) == {"d": {"slower": 1}}


def test_clients_latency_pulls_work_to_them() -> None:
    nodes = [node("far", "rack", "cloud", cpu=8, speed_milli=4000), node("near", "plant")]
    target = (LatencyTarget(site="plant", rtt_us=5_000, weight=100),)
    link = links({("plant", "rack"): 1000}, rtt_us=40_000)
    assert where(planned(snapshot(nodes, [demand("d", latency=target)], link=link))) == {"d": {"near": 1}}
    assert where(planned(snapshot(nodes, [demand("d")], link=link))) == {"d": {"far": 1}}


def test_residency_keeps_work_with_its_data() -> None:
    shard = Shard(shard_id="s", size_bytes=MB, replicas=("home",), sites=("plant",), replicas_wanted=0)
    nodes = [node("home", "plant", cpu=1, speed_milli=100), node("cloud", "rack", "cloud", cpu=8)]
    plan = planned(snapshot(nodes, [demand("d", 2, reads=("s",))], [shard], links({("plant", "rack"): 1000})))
    assert where(plan) == {"d": {"home": 1}}
    assert reasons(plan, "d")[Reason.RESIDENCY] == 1


def test_data_that_nobody_has_is_named() -> None:
    shard = Shard(shard_id="s", size_bytes=MB, replicas_wanted=0)
    plan = planned(snapshot([node("a", "x")], [demand("d", reads=("s",))], [shard]))
    assert Reason.DATA_UNREACHABLE in reasons(plan, "d")
    stored = msgspec.structs.replace(shard, in_store=True)
    assert where(planned(snapshot([node("a", "x")], [demand("d", reads=("s",))], [stored]))) == {"d": {"a": 1}}


def test_link_needs_and_their_nearest_miss() -> None:
    need = LinkNeed(site="plant", bandwidth_bps_min=12 * MB)
    nodes = [node("gw-1", "shop"), node("gw-2", "mall"), node("gw-3", "dark")]
    link = links({("plant", "shop"): 9, ("plant", "mall"): 4})
    plan = planned(snapshot(nodes, [demand("d", needs=Needs(cpu_milli=1000, links=(need,)))], link=link))
    (refusal,) = plan.refusals
    by_reason = {blocker.reason: blocker for blocker in refusal.blockers}
    assert by_reason[Reason.LINK_BANDWIDTH].agents == 2
    assert by_reason[Reason.LINK_UNMEASURED].agents == 1
    miss = by_reason[Reason.LINK_BANDWIDTH].nearest
    assert miss is not None
    assert (miss.agent_id, miss.needs, miss.has, miss.unit, miss.site, miss.age_us) == (
        "gw-1", 12 * MB, 9 * MB, "bps", "plant", 3_000_000,
    )  # fmt: skip


def test_each_agent_is_counted_once_and_the_nearest_is_named() -> None:
    nodes = [node("a", "x", "cloud", cpu=8), node("b", "x", cpu=1), node("c", "x", cpu=2), node("d", "y", cpu=8)]
    spot = Where(tiers=("edge",), sites=("x",))
    plan = planned(snapshot(nodes, [demand("big", cpu_milli=2500, where=spot)]))
    (refusal,) = plan.refusals
    assert reasons(plan, "big") == {Reason.CPU: 2, Reason.SITE: 1, Reason.TIER: 1}
    miss = refusal.blockers[0].nearest
    assert miss is not None and (miss.agent_id, miss.needs, miss.has) == ("c", 2500, 2000)


def test_quotas_hold_up_the_tree() -> None:
    roles = (
        Role(path="ml", quota=Amount(cpu_milli=6000), allocated=Amount(cpu_milli=1000)),
        Role(path="ml/vision", quota=Amount(cpu_milli=3000)),
    )
    demands = [demand("text", 9, role="ml/text"), demand("vision", 9, role="ml/vision"), demand("web", 2, role="web")]
    plan = planned(snapshot([node("a", "x", cpu=32)], demands, roles=roles))
    counts = {key: sum(value.values()) for key, value in where(plan).items()}
    assert counts.get("vision", 0) <= 3 and counts["text"] + counts.get("vision", 0) == 5 and counts["web"] == 2
    refused = {r.demand_id: r.blockers[0] for r in plan.refusals}
    assert (refused["text"].reason, refused["text"].role) == (Reason.QUOTA, "ml")


def test_gangs_start_together_or_not_at_all() -> None:
    nodes = [node("a", "x", cpu=3), node("b", "x", cpu=3)]
    two = [demand(f"g{n}", 4, gang=Gang(gang_id=f"gang-{n}", size=4)) for n in range(2)]
    plan = planned(snapshot(nodes, two))
    assert sorted(sum(each.values()) for each in where(plan).values()) == [4]
    (refusal,) = plan.refusals
    assert refusal.blockers[0].reason is Reason.GANG
    assert refusal.blockers[0].nearest is not None and refusal.blockers[0].nearest.needs == 4
    five = planned(snapshot(nodes, [demand("g", 7, gang=Gang(gang_id="g", size=7)), demand("single", 5)]))
    assert where(five).keys() == {"single"}, "what a gang cannot use is left to others"


def test_deadlines_choose_the_agent_and_say_what_is_missing() -> None:
    nodes = [node("fast", "x", speed_milli=4000), node("slow", "x", cpu=4, speed_milli=500)]
    both = [demand("calm", 1, run_us=4_000_000), demand("urgent", 1, run_us=4_000_000, deadline_us=3_000_000)]
    plan = planned(snapshot(nodes, both))
    assert where(plan) == {"urgent": {"fast": 1}}
    assert reasons(plan, "calm")[Reason.PLANNED_WAIT] == 1, "a second behind it beats eight on the slow one"
    hopeless = demand("hopeless", run_us=40_000_000, deadline_us=3_000_000)
    plan = planned(snapshot(nodes, [hopeless]))
    (refusal,) = plan.refusals
    assert refusal.blockers[0].reason is Reason.DEADLINE and refusal.blockers[0].agents == 2
    miss = refusal.blockers[0].nearest
    assert miss is not None and (miss.agent_id, miss.needs, miss.has) == ("fast", 10_000_000, 2_999_000)
    late = planned(snapshot(nodes, [hopeless], now_us=3_000_001))
    assert where(late) == {"hopeless": {"fast": 1}}, "late rather than never"


def test_priority_and_age_decide_who_goes_first() -> None:
    one = [node("a", "x")]
    assert where(planned(snapshot(one, [demand("a", priority=40), demand("b", priority=60)]))) == {"b": {"a": 1}}
    hour_us = 3_600_000_000
    aged = [demand("new", priority=55, oldest_us=hour_us), demand("old", priority=50, oldest_us=0)]
    assert where(planned(snapshot(one, aged, now_us=hour_us))) == {"old": {"a": 1}}


def test_gpus_of_the_right_kind_are_kept_for_who_needs_them() -> None:
    gpus = tuple(Gpu(uuid=f"g{n}", model="a100", memory_bytes=(40 + 40 * n) * GIB) for n in range(2))
    free = Resources(cpu_milli=8000, memory_bytes=64 * GIB, disk_bytes=GIB, gpus=gpus)
    box = node("box", "x", free=free, total=free)
    small = demand("small", needs=Needs(cpu_milli=1000, gpu=GpuNeed()), priority=100)
    large = demand("large", needs=Needs(cpu_milli=1000, gpu=GpuNeed(memory_bytes=80 * GIB)))
    assert where(planned(snapshot([box], [small, large]))) == {"small": {"box": 1}, "large": {"box": 1}}
    plan = planned(snapshot([box], [demand("pair", needs=Needs(gpu=GpuNeed(count=3)))]))
    assert reasons(plan, "pair") == {Reason.GPU: 1}


def test_several_kinds_are_packed_at_once() -> None:
    free = Resources(cpu_milli=8000, memory_bytes=8 * GIB, disk_bytes=GIB)
    nodes = [node(f"n{n}", "x", free=free, total=free) for n in range(4)]
    fat = demand("fat", 8, needs=Needs(cpu_milli=1000, memory_bytes=3 * GIB))
    thin = demand("thin", 20, needs=Needs(cpu_milli=1000, memory_bytes=GIB // 8))
    plan = planned(snapshot(nodes, [fat, thin]))
    assert {key: sum(value.values()) for key, value in where(plan).items()} == {"fat": 8, "thin": 20}


def test_nothing_to_do_and_nobody_to_do_it() -> None:
    assert planned(snapshot([node("a", "x")], [])).placements == ()
    plan = planned(snapshot([], [demand("d", 3)]))
    assert reasons(plan, "d") == {Reason.NO_AGENTS: 0}


def test_absurd_magnitudes_do_not_wrap() -> None:
    huge = 2**62
    nodes = [
        node("a", "x", free=Resources(cpu_milli=huge, memory_bytes=huge, disk_bytes=huge), speed_milli=1),
        node("b", "y", price_microusd_per_cpu_hour=huge),
    ]
    shard = Shard(shard_id="s", size_bytes=2**53, replicas=("b",), replicas_wanted=0)
    demands = [
        demand("d", 10**6, run_us=huge, reads=("s",), latency=(LatencyTarget(site="y", rtt_us=0, weight=huge),)),
        demand("e", 1, cpu_milli=huge, priority=100),
    ]
    plan = planned(snapshot(nodes, demands, [shard], links({("x", "y"): 1}), now_us=2**60))
    assert plan.objective is None or plan.objective >= 0
