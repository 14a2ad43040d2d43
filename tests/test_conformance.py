"""The conformance kit catches what it says it catches: policies broken on purpose, one clause each."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policies.conformance import CLAUSES, ConformanceError, check_policy
from policies.fifo import Fifo
from policies.model import (
    Amount,
    Blocker,
    Candidate,
    Communication,
    CostTerms,
    Eviction,
    Gang,
    Gpu,
    GpuNeed,
    LinkNeed,
    Needs,
    Placement,
    Plan,
    Reason,
    Refusal,
    Replicas,
    Resources,
    Role,
    Service,
    ServicePlan,
    ServiceReplica,
    Shard,
    ShardMove,
    Snapshot,
    Tuning,
    Weight,
    Where,
)
from tests.policy_worlds import GIB, demand, links, node, snapshot

WORLD = snapshot([node("a", "x", cpu=4), node("b", "y", cpu=4)], [demand("d", 2), demand("e", 1, cpu_milli=3000)])


class Scripted:
    """Answers as `change` makes of fifo's plan."""

    def __init__(self, change: Callable[[Snapshot, Plan], Plan]) -> None:
        self._change = change

    def plan(self, snapshot: Snapshot) -> Plan:
        return self._change(snapshot, Fifo().plan(snapshot))


def put(world: Snapshot, at: dict[str, str]) -> Callable[[Snapshot, Plan], Plan]:
    """A plan that places whole demands on agents, and nothing else."""
    counts = {d.demand_id: d.count for d in world.demands}
    placements = tuple(Placement(demand_id=key, agent_id=agent, count=counts[key]) for key, agent in at.items())
    return lambda _, plan: msgspec.structs.replace(plan, placements=placements, refusals=())


def refuse(*blockers: Blocker, waits_for: Candidate | None = None) -> Callable[[Snapshot, Plan], Plan]:
    return lambda world, plan: Plan(
        refusals=tuple(
            Refusal(demand_id=d.demand_id, count=d.count, blockers=blockers, waits_for=waits_for) for d in world.demands
        )
    )


def with_(**fields: object) -> Callable[[Snapshot, Plan], Plan]:
    return lambda _, plan: msgspec.structs.replace(plan, **fields)


def one(**rest: Any) -> Snapshot:
    return snapshot(
        [node("a", "x", cpu=4), node("b", "y", cpu=4)], [demand("d", 2, **rest)], link=links({("x", "y"): 5})
    )


SHARD = Shard(shard_id="s", size_bytes=GIB, replicas=("a",), sites=("x",))
DATA = snapshot([node("a", "x", cpu=4), node("b", "y", cpu=4)], [demand("d", 2, reads=("s",))], [SHARD])
GPUS = tuple(Gpu(uuid=u, model="t4", memory_bytes=16 * GIB) for u in ("g0", "g1"))
BOX = Resources(cpu_milli=4000, memory_bytes=GIB, gpus=GPUS)
TWO_GPUS = snapshot(
    [node("a", "x", free=BOX, total=BOX)], [demand("d", 2, needs=Needs(gpu=GpuNeed(count=2, model="t4")))]
)
FULL = snapshot(
    [node("a", "x", cpu=4), node("b", "y", cpu=4)],
    [demand("d", 2, role="ml/vision")],
    roles=(Role(path="ml", quota=Amount(cpu_milli=3000), allocated=Amount(cpu_milli=2000)),),
)
GANG = snapshot([node("a", "x", cpu=2)], [demand("d", 3, gang=Gang(gang_id="g", size=3))])
HALF_GANG = Plan(
    placements=(Placement(demand_id="d", agent_id="a", count=2),),
    refusals=(Refusal(demand_id="d", count=1, blockers=(Blocker(reason=Reason.GANG),)),),
)
LINKED = one(needs=Needs(cpu_milli=1000, links=(LinkNeed(site="x", rtt_us_max=1000),)))
UNREADABLE = snapshot(
    [node("a", "x")], [demand("d", 1, reads=("s",))], [Shard(shard_id="s", size_bytes=1, replicas_wanted=0)]
)
TALK = Communication(
    pattern="allreduce", bytes_per_step=1, compressible=True, savings=("fp16", "local_steps"), local_steps_max=8
)
TALKING = snapshot([node("a", "x", cpu=4)], [demand("d", 2, gang=Gang(gang_id="g", size=2, communication=TALK))])
WAIT = Candidate(agent_id="a", terms=CostTerms())
SERVING = msgspec.structs.replace(
    WORLD,
    services=(
        Service(
            service_id="v",
            demand=demand("v", 1, cpu_milli=3000),
            replicas=Replicas(least=2, most=3),
            placed=(
                ServiceReplica(task_id="v/0", agent_id="a", site="x", is_ready=True),
                ServiceReplica(task_id="v/1", agent_id="b", site="y"),
            ),
        ),
    ),
)


def serve(service_id: str = "v", **fields: Any) -> Callable[[Snapshot, Plan], Plan]:
    return with_(services=(ServicePlan(service_id=service_id, **fields),))


def answer(task_id: str, share_ppm: int = 1_000_000) -> tuple[Weight, ...]:
    return (Weight(site="y", task_id=task_id, share_ppm=share_ppm),)


BROKEN: list[tuple[str, Snapshot, Callable[[Snapshot, Plan], Plan]]] = [
    ("P2", WORLD, with_(refusals=(), placements=())),
    ("P2", WORLD, put(WORLD, {"d": "a", "e": "nobody"})),
    ("P2", WORLD, with_(placements=(Placement(demand_id="d", agent_id="a", count=0),))),
    ("P3", WORLD, put(snapshot([], [demand("d", 2), demand("e", 1)]), {"d": "a", "e": "a"})),
    ("P3", TWO_GPUS, put(TWO_GPUS, {"d": "a"})),
    ("P4", one(where=Where(tiers=("cloud",))), put(one(), {"d": "a"})),
    ("P4", one(where=Where(sites=("x",))), put(one(), {"d": "b"})),
    ("P4", one(where=Where(agents=("a",))), put(one(), {"d": "b"})),
    ("P4", one(where=Where(labels=(("arch", "arm64"),))), put(one(), {"d": "b"})),
    ("P4", one(where=Where(agents_avoided=("b",))), put(one(), {"d": "b"})),
    ("P5", DATA, put(DATA, {"d": "b"})),
    ("P5", UNREADABLE, put(UNREADABLE, {"d": "a"})),
    ("P6", LINKED, put(LINKED, {"d": "b"})),
    ("P7", FULL, put(FULL, {"d": "a"})),
    ("P8", GANG, lambda _, plan: HALF_GANG),
    ("P9", WORLD, refuse()),
    ("P9", WORLD, refuse(Blocker(reason=Reason.CPU, agents=2))),
    ("P9", WORLD, refuse(Blocker(reason=Reason.QUEUE, agents=3))),
    ("P9", WORLD, refuse(Blocker(reason=Reason.QUOTA))),
    ("P9", WORLD, refuse(Blocker(reason=Reason.PLANNED_WAIT))),
    ("P9", WORLD, refuse(Blocker(reason=Reason.QUEUE), waits_for=WAIT)),
    ("P10", DATA, with_(moves=(ShardMove(shard_id="s", from_agent="a", to_agent="b"),))),
    ("P10", DATA, with_(moves=(ShardMove(shard_id="s", from_agent="a", to_agent="a"),))),
    ("P10", DATA, with_(moves=(ShardMove(shard_id="s", from_agent="b", to_agent="a"),))),
    ("P10", DATA, with_(moves=(ShardMove(shard_id="t", from_agent="a", to_agent="b"),))),
    ("P12", WORLD, with_(evictions=(Eviction(task_id="t", agent_id="nobody", for_demand_id="d"),))),
    ("P14", WORLD, with_(tunings=(Tuning(demand_id="nobody"),))),
    ("P14", WORLD, with_(tunings=(Tuning(demand_id="d"), Tuning(demand_id="d")))),
    ("P14", WORLD, with_(tunings=(Tuning(demand_id="d", compression="fp16"),))),
    ("P14", TALKING, with_(tunings=(Tuning(demand_id="d", aggregate="site"),))),
    ("P14", TALKING, with_(tunings=(Tuning(demand_id="d", local_steps=9),))),
    ("P14", TALKING, with_(tunings=(Tuning(demand_id="d", shift_us=100, iteration_us=100),))),
    ("P15", SERVING, serve("nobody")),
    ("P15", SERVING, serve(removes=("v/9",))),
    ("P15", SERVING, serve(removes=("v/1",))),
    ("P15", SERVING, serve(weights=answer("v/1"))),
    ("P15", SERVING, serve(weights=answer("v/0", share_ppm=999_999))),
    ("P15", SERVING, serve(adds=(WAIT, WAIT))),
    ("P15", SERVING, serve(adds=(Candidate(agent_id="nobody", terms=CostTerms()),))),
    ("P15", SERVING, serve(adds=(Candidate(agent_id="b", terms=CostTerms()),))),
]


@pytest.mark.parametrize(("clause", "world", "change"), BROKEN, ids=[f"{n}-{each[0]}" for n, each in enumerate(BROKEN)])
def test_a_broken_policy_is_caught(clause: str, world: Snapshot, change: Callable[[Snapshot, Plan], Plan]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_policy(lambda: Scripted(change), [world])
    assert caught.value.clause == clause
    assert caught.value.detail and caught.value.at == 0


def test_alternatives_must_be_other_agents() -> None:
    chosen = Placement(demand_id="d", agent_id="a", count=2, alternatives=(WAIT,))
    with pytest.raises(ConformanceError, match="P11"):
        check_policy(lambda: Scripted(with_(placements=(chosen,))), [one()])


class Moody:
    """Counts its instances: no two are alike."""

    made = 0

    def __init__(self) -> None:
        Moody.made += 1
        self._kernel = str(Moody.made)

    def plan(self, snapshot: Snapshot) -> Plan:
        return msgspec.structs.replace(Fifo().plan(snapshot), kernel=self._kernel)


def test_plans_must_not_depend_on_anything_but_the_snapshots() -> None:
    with pytest.raises(ConformanceError, match="P1, snapshot 0"):
        check_policy(Moody, [WORLD])


def test_a_plan_must_come_in_time_by_the_callers_clock() -> None:
    ticks = iter(range(0, 10**6, 1000))
    assert check_policy(Fifo, [WORLD], limit_us=1000, clock_us=lambda: next(ticks)) == 1
    with pytest.raises(ConformanceError, match=r"P13, snapshot 0: the plan took 1000 us, the limit is 999"):
        check_policy(Fifo, [WORLD], limit_us=999, clock_us=lambda: next(ticks))


def test_what_a_job_allows_may_be_chosen() -> None:
    tuning = Tuning(demand_id="d", compression="fp16", local_steps=8, shift_us=99, iteration_us=100)
    assert check_policy(lambda: Scripted(with_(tunings=(tuning,))), [TALKING]) == 1


def test_a_service_may_be_answered_by_what_is_ready_and_grow_where_it_fits() -> None:
    assert check_policy(lambda: Scripted(serve(weights=answer("v/0"))), [SERVING]) == 1


def test_every_clause_has_a_policy_that_breaks_it() -> None:
    assert {"P1", "P11", "P13"} | {clause for clause, _, _ in BROKEN} == set(CLAUSES)


def test_the_place_in_the_sequence_is_told() -> None:
    spoilt = Scripted(lambda world, plan: plan if world.now_us == 1 else Plan())
    worlds = [msgspec.structs.replace(WORLD, now_us=n) for n in (1, 1, 2)]
    with pytest.raises(ConformanceError) as caught:
        check_policy(lambda: spoilt, worlds)
    assert (caught.value.clause, caught.value.at) == ("P2", 2)
