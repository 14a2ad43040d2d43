"""Small worlds that the policy tests share."""

from typing import Any

from policies.model import Demand, Link, Needs, Node, Plan, Reason, Resources, Shard, Snapshot, Tier

GIB = 2**30
MB = 10**6


def node(agent_id: str, site: str, tier: Tier = "edge", cpu: int = 1, speed_milli: int = 1000, **rest: Any) -> Node:
    """An agent with `cpu` whole cores free and plenty of the rest."""
    resources = Resources(cpu_milli=cpu * 1000, memory_bytes=64 * GIB, disk_bytes=256 * GIB)
    return Node(
        agent_id=agent_id,
        site=site,
        tier=tier,
        **{"free": resources, "total": resources, "speed_milli": speed_milli, **rest},
    )


def demand(demand_id: str, count: int = 1, cpu_milli: int = 1000, **rest: Any) -> Demand:
    given = {"role": "default", "needs": Needs(cpu_milli=cpu_milli, memory_bytes=GIB), "oldest_us": 0, **rest}
    return Demand(demand_id=demand_id, count=count, **given)


def links(between: dict[tuple[str, str], int], rtt_us: int = 20_000) -> list[Link]:
    """Links of so many Mbit/s in both directions."""
    return [
        Link(from_id=f"site:{a}", to_id=f"site:{b}", rtt_us=rtt_us, bandwidth_bps=mbit * MB, age_us=3_000_000)
        for (x, y), mbit in between.items()
        for a, b in ((x, y), (y, x))
    ]


def snapshot(
    nodes: list[Node],
    demands: list[Demand],
    shards: list[Shard] | None = None,
    link: list[Link] | None = None,
    now_us: int = 1000,
    **rest: Any,
) -> Snapshot:
    return Snapshot(
        now_us=now_us,
        nodes=tuple(sorted(nodes, key=lambda n: n.agent_id)),
        demands=tuple(sorted(demands, key=lambda d: d.demand_id)),
        shards=tuple(sorted(shards or [], key=lambda s: s.shard_id)),
        links=tuple(sorted(link or [], key=lambda k: (k.from_id, k.to_id))),
        **rest,
    )


def where(plan: Plan) -> dict[str, dict[str, int]]:
    """demand → agent → tasks"""
    out: dict[str, dict[str, int]] = {}
    for placement in plan.placements:
        out.setdefault(placement.demand_id, {})[placement.agent_id] = placement.count
    return out


def reasons(plan: Plan, demand_id: str) -> dict[Reason, int]:
    """reason → agents, of a demand's refusal"""
    return {b.reason: b.agents for r in plan.refusals if r.demand_id == demand_id for b in r.blockers}


def three_uplinks() -> Snapshot:
    """The demo's decision: four shards of 4 MB at each of three sites with one slow core and 2, 20, 200 Mbit/s to a
    rack of sixteen fast ones."""
    nodes = [node("cloud", "rack", "cloud", cpu=16, price_microusd_per_cpu_hour=100_000)]
    shards, demands, between = [], [], {}
    for site, mbit in (("slow", 2), ("mid", 20), ("fast", 200)):
        nodes.append(node(f"edge-{site}", site, speed_milli=300))
        between[site, "rack"] = mbit
        for n in range(4):
            shards.append(
                Shard(shard_id=f"{site}-{n}", size_bytes=4 * MB, replicas=(f"edge-{site}",), replicas_wanted=0)
            )
            demands.append(demand(f"{site}-{n}", reads=(f"{site}-{n}",)))
    return snapshot(nodes, demands, shards, links(between))
