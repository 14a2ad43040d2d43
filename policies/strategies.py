"""Hypothesis strategies for snapshots: small worlds in which everything that a policy must mind happens often.

Needs `hypothesis` (extra `dev`), and imports it only when a strategy is asked for:

```python
@given(strategies.snapshots())
def test_my_policy(snapshot): check_policy(MyPolicy, [snapshot])
```
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from policies.model import (
    Amount,
    Communication,
    Demand,
    Elastic,
    Gang,
    Gpu,
    GpuNeed,
    LatencyTarget,
    Link,
    LinkNeed,
    Needs,
    Node,
    Profile,
    Release,
    Resources,
    Role,
    Running,
    Shard,
    Snapshot,
    StepTime,
    Tier,
    Where,
)
from policies.resources import fits, take

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

NOW_US = 1_000_000_000
GIB = 2**30
SITES = ("plant", "rack", "shop")
_ROLES = ("ml", "ml/vision", "web")
_LABELS = (("arch", "arm64"), ("zone", "a"))
_HARDWARE = ("pi", "xeon")


def snapshots(n_nodes_max: int = 6, n_demands_max: int = 6) -> "SearchStrategy[Snapshot]":
    """Whole snapshots, sorted as the contract says."""
    from hypothesis import strategies as st

    @st.composite
    def build(draw: "DrawFn") -> Snapshot:
        nodes = [_node(draw, st, n) for n in range(draw(st.integers(0, n_nodes_max)))]
        shards = [_shard(draw, st, n, [node.agent_id for node in nodes]) for n in range(draw(st.integers(0, 4)))]
        nodes = [_holding(node, shards) for node in nodes]
        shard_ids = [shard.shard_id for shard in shards]
        demands = [
            _demand(draw, st, n, shard_ids, [node.agent_id for node in nodes])
            for n in range(draw(st.integers(0, n_demands_max)))
        ]
        return Snapshot(
            now_us=NOW_US,
            demands=tuple(demands),
            nodes=tuple(nodes),
            links=_links(draw, st, [node.agent_id for node in nodes]),
            shards=tuple(shards),
            roles=_roles(draw, st),
            profiles=_profiles(draw, st),
        )

    return build()


def sequences(n_max: int = 3) -> "SearchStrategy[list[Snapshot]]":
    """Snapshots that follow one another; some of their nodes are the same objects, as the master keeps them."""
    from hypothesis import strategies as st

    @st.composite
    def build(draw: "DrawFn") -> list[Snapshot]:
        import msgspec

        current = draw(snapshots())
        out = [current]
        for _ in range(draw(st.integers(0, n_max - 1))):
            kept = draw(st.sets(st.integers(0, max(0, len(current.nodes) - 1))))
            other = draw(snapshots())
            nodes = tuple(node for n, node in enumerate(current.nodes) if n in kept)
            known = {node.agent_id for node in nodes}
            fresh = tuple(node for node in other.nodes if node.agent_id not in known)
            merged = tuple(sorted((*nodes, *fresh), key=lambda node: node.agent_id))
            current = msgspec.structs.replace(other, nodes=merged)
            out.append(current)
        return out

    return build()


def _node(draw: "DrawFn", st: Any, n: int) -> Node:
    tier: Tier = draw(st.sampled_from(("edge", "cloud")))
    gpu_models = draw(st.lists(st.sampled_from((("a100", 40), ("a100", 80), ("t4", 16), (None, None))), max_size=3))
    is_shared = draw(st.booleans())
    gpus = tuple(
        Gpu(
            uuid=f"gpu-{n}-{m}",
            model=model,
            memory_bytes=None if size is None else size * GIB,
            isolation="shared" if is_shared else None,
        )
        for m, (model, size) in enumerate(gpu_models)
    )
    total = Resources(cpu_milli=8000, memory_bytes=16 * GIB, disk_bytes=64 * GIB, gpus=gpus)
    free = Resources(
        cpu_milli=draw(st.integers(0, 16)) * 500,
        memory_bytes=draw(st.integers(0, 16)) * GIB,
        disk_bytes=draw(st.integers(0, 8)) * 8 * GIB,
        gpus=gpus[: draw(st.integers(0, len(gpus)))],
    )
    sharing, free = _sharing(draw, st, n, free)
    return Node(
        agent_id=f"agent-{n}",
        site=draw(st.sampled_from(SITES)),
        tier=tier,
        free=free,
        total=total,
        labels=tuple(sorted(draw(st.sets(st.sampled_from(_LABELS))))),
        hardware=draw(st.sampled_from(_HARDWARE)),
        speed_milli=draw(st.sampled_from((250, 1000, 1013, 4000))),
        price_microusd_per_cpu_hour=draw(st.sampled_from((0, 0, 100_000))),
        releases=tuple(sorted(draw(_releases(st)), key=lambda release: release.in_us)),
        running=sharing
        + tuple(
            Running(
                task_id=f"job/running/{n}-{m}",
                role=draw(st.sampled_from(_ROLES)),
                needs=Needs(cpu_milli=draw(st.sampled_from((500, 2000))), memory_bytes=GIB),
                since_us=NOW_US - draw(st.sampled_from((0, 10**7, 10**10))),
                priority=draw(st.sampled_from((0, 50, 100))),
                gang_id=draw(st.sampled_from(("", "", "running-gang"))),
                attained_us=draw(st.sampled_from((0, 10**9))),
                ending=draw(st.booleans()),
                communication=draw(_talk(st)),
                elastic=draw(_elastic(st, f"elastic-{m}")),
            )
            for m in range(draw(st.integers(0, 3)))
        ),
    )


# A strategy is made once: making one costs more than drawing from it.


@cache
def _releases(st: Any) -> Any:
    needs = st.builds(Needs, cpu_milli=st.sampled_from((500, 2000)), memory_bytes=st.just(GIB))
    release = st.builds(Release, in_us=st.integers(0, 10**7), needs=needs, count=st.integers(1, 3))
    return st.lists(release, max_size=2)


def _sharing(draw: "DrawFn", st: Any, n: int, free: Resources) -> tuple[tuple[Running, ...], Resources]:
    """Tasks that hold shares of some of the GPUs, and what is left beside them."""
    running: list[Running] = []
    for gpu in free.gpus if any(gpu.isolation == "shared" for gpu in free.gpus) else ():
        milli = draw(st.sampled_from((0, 300, 750, 1000)))
        if milli:
            needs = Needs(gpu=GpuNeed(milli=milli, memory_bytes=draw(st.sampled_from((0, GIB))) if milli < 1000 else 0))
            if milli < 1000 and not fits(needs, free):
                continue
            free, uuids = take(needs, free, (gpu.uuid,))
            task_id = f"job/a-share/{n}-{gpu.uuid}"
            running.append(Running(task_id=task_id, role=draw(st.sampled_from(_ROLES)), needs=needs, since_us=NOW_US,
                                   gpus=uuids if milli < 1000 else ()))  # fmt: skip
    return tuple(running), free


def _holding(node: Node, shards: list[Shard]) -> Node:
    import msgspec

    held = tuple(shard.shard_id for shard in shards if node.agent_id in shard.replicas)
    return msgspec.structs.replace(node, shards=held)


def _shard(draw: "DrawFn", st: Any, n: int, agent_ids: list[str]) -> Shard:
    replicas = draw(st.sets(st.sampled_from(agent_ids), max_size=2)) if agent_ids else set()
    return Shard(
        shard_id=f"shard-{n}",
        size_bytes=draw(st.sampled_from((0, 10**6, 10**8, 20 * GIB))),
        replicas=tuple(sorted(replicas)),
        sites=tuple(sorted(draw(st.sets(st.sampled_from(SITES), max_size=2)))),
        replicas_wanted=draw(st.integers(0, 3)),
        in_store=draw(st.booleans()),
    )


def _demand(draw: "DrawFn", st: Any, n: int, shard_ids: list[str], agent_ids: list[str]) -> Demand:
    gpu = draw(_gpu_need(st))
    links = draw(_link_needs(st))
    gang_id = draw(st.sampled_from((None, None, None, "gang-a", "gang-b")))
    return Demand(
        demand_id=f"demand-{n}",
        role=draw(st.sampled_from((*_ROLES, "default"))),
        needs=Needs(
            cpu_milli=draw(st.sampled_from((0, 500, 1000, 3000))),
            memory_bytes=draw(st.integers(0, 4)) * GIB,
            disk_bytes=draw(st.sampled_from((0, 0, 8 * GIB))),
            gpu=gpu,
            links=tuple(links),
        ),
        count=draw(st.integers(1, 12)),
        oldest_us=NOW_US - draw(st.integers(0, 10**9)),
        priority=draw(st.sampled_from((0, 50, 50, 100))),
        where=draw(_where(st, tuple(agent_ids))),
        reads=tuple(sorted(draw(st.sets(st.sampled_from(shard_ids), max_size=2)))) if shard_ids else (),
        profile=draw(st.sampled_from(("", "train"))),
        run_us=draw(st.integers(1, 10**7)),
        deadline_us=draw(st.none() | st.integers(NOW_US - 10**6, NOW_US + 10**8)),
        latency=tuple(draw(_latency(st))),
        gang=None if gang_id is None else Gang(gang_id=gang_id, size=4, communication=draw(_talk(st))),
        attained_us=draw(st.sampled_from((0, 0, 1 << 33))),
        elastic=None if gang_id is not None else draw(_elastic(st, f"elastic-{n}")),
    )


@cache
def _gpu_need(st: Any) -> Any:
    model = st.sampled_from((None, "a100"))
    whole = st.builds(GpuNeed, count=st.integers(1, 2), model=model, memory_bytes=st.sampled_from((0, 40 * GIB)))
    share = st.builds(
        GpuNeed, milli=st.sampled_from((250, 400, 600)), model=model, memory_bytes=st.sampled_from((0, 0, 30 * GIB))
    )
    return st.none() | whole | share


@cache
def _latency(st: Any) -> Any:
    site, rtt_us = st.sampled_from((*SITES, "mall")), st.integers(0, 10**5)
    return st.lists(st.builds(LatencyTarget, site=site, rtt_us=rtt_us, weight=st.integers(0, 100)), max_size=1)


@cache
def _talk(st: Any) -> Any:
    """What the workers of a gang say to each other, if anything, and what the plan may do about it."""
    savings = ("site_aggregation", "rack_aggregation", "fp16", "powersgd", "local_steps")
    return st.none() | st.builds(
        Communication,
        pattern=st.sampled_from(("allreduce", "parameter_server", "all_to_all")),
        bytes_per_step=st.sampled_from((10**4, 10**7)),
        synchronous=st.sampled_from((True, True, False)),
        compressible=st.just(True),
        iteration_us=st.sampled_from((0, 100_000, 137_003, 250_000)),
        duty_ppm=st.sampled_from((0, 500_000, 1_000_000)),
        savings=st.sets(st.sampled_from(savings)).map(lambda chosen: tuple(sorted(chosen))),
        local_steps_max=st.sampled_from((1, 8)),
    )


@cache
def _elastic(st: Any, group_id: str) -> Any:
    """Mostly none."""
    steps = (StepTime(workers=1, batch=64, step_us=200_000), StepTime(workers=2, batch=128, step_us=230_000))
    job = st.builds(
        Elastic,
        group_id=st.just(group_id),
        workers_max=st.sampled_from((1, 4, 12)),
        workers_min=st.sampled_from((1, 2)),
        batch=st.just(64),
        batch_max=st.sampled_from((64, 1024)),
        noise_scale=st.sampled_from((0, 1000)),
        steps=st.sampled_from(((), steps)),
    )
    return st.one_of(st.none(), st.none(), st.none(), job)


@cache
def _link_needs(st: Any) -> Any:
    need = st.builds(
        LinkNeed,
        site=st.sampled_from((*SITES, "mall")),
        rtt_us_max=st.none() | st.sampled_from((5_000, 50_000)),
        bandwidth_bps_min=st.none() | st.sampled_from((10**6, 10**8)),
    )
    return st.lists(need, max_size=1)


@cache
def _where(st: Any, agent_ids: tuple[str, ...]) -> Any:
    agents = st.lists(st.sampled_from(agent_ids), max_size=2, unique=True) if agent_ids else st.just([])
    anywhere = st.just(Where())
    return anywhere | st.builds(
        Where,
        tiers=st.sampled_from(((), (), ("edge",), ("cloud",))),
        sites=st.sampled_from(((), (), ("plant", "rack"))),
        agents=st.just(()) | agents.map(lambda ids: tuple(sorted(ids))),
        labels=st.sampled_from(((), (), (("arch", "arm64"),))),
        agents_avoided=agents.map(lambda ids: tuple(sorted(ids))),
    )


def _links(draw: "DrawFn", st: Any, agent_ids: list[str]) -> tuple[Link, ...]:
    ends = [f"site:{site}" for site in (*SITES, "mall")] + [f"agent:{agent_id}" for agent_id in agent_ids[:2]]
    pairs = draw(st.sets(st.tuples(st.sampled_from(ends), st.sampled_from(ends)), max_size=12))
    return tuple(
        Link(
            from_id=from_id,
            to_id=to_id,
            rtt_us=draw(st.none() | st.integers(100, 200_000)),
            bandwidth_bps=draw(st.none() | st.integers(10**5, 10**9)),
            age_us=draw(st.integers(0, 10**7)),
            bandwidth_over=draw(st.just(()) | st.tuples(st.tuples(st.just(5 * 10**6), st.integers(10**5, 10**9)))),
        )
        for from_id, to_id in sorted(pairs)
        if from_id != to_id
    )


@cache
def _quota(st: Any) -> Any:
    return st.none() | st.builds(Amount, cpu_milli=st.sampled_from((0, 4000, 8000)), gpus=st.sampled_from((0, 0, 1)))


@cache
def _allocated(st: Any) -> Any:
    return st.builds(Amount, cpu_milli=st.sampled_from((0, 0, 3000, 9000)))


def _roles(draw: "DrawFn", st: Any) -> tuple[Role, ...]:
    quota, allocated = _quota(st), _allocated(st)
    return tuple(
        Role(path=path, quota=draw(quota), allocated=draw(allocated)) for path in _ROLES if draw(st.booleans())
    )


def _profiles(draw: "DrawFn", st: Any) -> tuple[Profile, ...]:
    return tuple(
        Profile(profile="train", hardware=hardware, run_us=draw(st.integers(1, 10**7)), samples=3)
        for hardware in _HARDWARE
        if draw(st.booleans())
    )
