"""`offerflow policy bench`: how long a round takes, by the size of the cluster.

The worlds are made here, from a seed: sites of 32 agents (every fourth site a cloud rack of faster ones), measured
links between 16 sites and all others, tasks of eight shapes that read shards, half the capacity taken. In each round a
tenth of the agents changes, as it does in life, so that policies that keep state show what it is worth.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from policies.api import Policy
from policies.model import Demand, Link, Needs, Node, Resources, Shard, Snapshot

GIB = 2**30
AGENTS_PER_SITE = 32
_SOURCES = 16


class Timing(NamedTuple):
    """Milliseconds of a round: the median and the worst over all rounds but the first, and the first."""

    policy: str
    n_agents: int
    n_classes: int
    n_tasks: int
    n_placed: int
    first_ms: float
    p50_ms: float
    worst_ms: float


def bench(policy: str, make: Callable[[], Policy], n_agents: int, n_classes: int, rounds: int, seed: int) -> Timing:
    """Time one policy over the same rounds as any other of that size and seed."""
    measured, chosen = [], make()
    n_placed, world = 0, None
    for world in worlds(n_agents, n_classes, rounds + 1, seed):
        began_ns = time.perf_counter_ns()
        plan = chosen.plan(world)
        measured.append((time.perf_counter_ns() - began_ns) / 1e6)
        n_placed = sum(placement.count for placement in plan.placements)
    assert world is not None
    later = sorted(measured[1:])
    n_tasks = sum(demand.count for demand in world.demands)
    return Timing(
        policy, n_agents, len(world.demands), n_tasks, n_placed, measured[0], later[len(later) // 2], later[-1]
    )


def worlds(n_agents: int, n_classes: int, count: int, seed: int) -> Iterator[Snapshot]:
    draw = random.Random(seed)
    n_sites = max(1, n_agents // AGENTS_PER_SITE)
    sites = [f"site-{n:04d}" for n in range(n_sites)]
    nodes = [_node(draw, n, sites[n % n_sites], n % n_sites % 4 == 0) for n in range(n_agents)]
    shards = tuple(
        Shard(shard_id=f"shard-{n:05d}", size_bytes=draw.randrange(1, 64) * 10**6, replicas=(nodes[at].agent_id,))
        for n in range(max(1, n_classes // 2))
        for at in (draw.randrange(n_agents),)
    )
    links = tuple(
        Link(
            from_id=f"site:{a}",
            to_id=f"site:{b}",
            rtt_us=draw.randrange(1_000, 80_000),
            bandwidth_bps=draw.randrange(5, 1000) * 10**6,
        )
        for a in sites[:_SOURCES]
        for b in sites
        if a != b
    )
    for n in range(count):
        now_us = 10**12 + n * 10**6
        for at in draw.sample(range(n_agents), n_agents // 10):
            nodes[at] = _changed(draw, nodes[at])
        demands = tuple(_demand(draw, each, shards, now_us) for each in range(n_classes))
        yield Snapshot(now_us=now_us, nodes=tuple(nodes), demands=demands, links=links, shards=shards)


def _node(draw: random.Random, n: int, site: str, is_cloud: bool) -> Node:
    cpu_milli = draw.choice((32_000, 64_000) if is_cloud else (2_000, 4_000, 8_000))
    total = Resources(cpu_milli=cpu_milli, memory_bytes=cpu_milli // 1000 * 4 * GIB, disk_bytes=512 * GIB)
    node = Node(
        agent_id=f"agent-{n:05d}",
        site=site,
        tier="cloud" if is_cloud else "edge",
        free=total,
        total=total,
        hardware="rack" if is_cloud else "edge",
        speed_milli=draw.choice((1500, 2000) if is_cloud else (300, 500, 1000)),
    )
    return _changed(draw, node)


def _changed(draw: random.Random, node: Node) -> Node:
    tenths = draw.randrange(11)
    free = msgspec.structs.replace(
        node.total,
        cpu_milli=node.total.cpu_milli * tenths // 10,
        memory_bytes=node.total.memory_bytes * tenths // 10,
    )
    return msgspec.structs.replace(node, free=free)


def _demand(draw: random.Random, n: int, shards: tuple[Shard, ...], now_us: int) -> Demand:
    return Demand(
        demand_id=f"demand-{n:05d}",
        role="default",
        needs=Needs(cpu_milli=draw.choice((250, 500, 1000, 2000)), memory_bytes=draw.choice((1, 4)) * GIB),
        count=draw.randrange(1, 40),
        oldest_us=now_us - draw.randrange(60 * 10**6),
        priority=draw.choice((30, 50, 50, 80)),
        reads=(draw.choice(shards).shard_id,) if n % 2 else (),
        run_us=draw.randrange(1, 600) * 10**6,
    )
