"""Which of a job's savings the plan chooses, what they are worth on the uplink, and that workers are told."""

from collections.abc import Callable
from itertools import combinations, pairwise, permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.why import why_view
from policies.api import Policy
from policies.cassini import Cassini
from policies.communication import RING_SITES_MAX, Workers, choose, load_of, ring_of, uplink_bytes, ways
from policies.constraints import Links
from policies.fifo import Fifo
from policies.flow import Flow
from policies.model import Communication, Gang, Saving, Tuning
from tests.master_world import World, group, job, needs, resources
from tests.policy_worlds import demand, links, node, snapshot
from tests.test_master_network import report, sample

MB = 10**6
ALL: tuple[Saving, ...] = ("fp16", "local_steps", "powersgd", "rack_aggregation", "site_aggregation")


def workers(**sites: int) -> Workers:
    return Workers((node(f"agent-{site}", site), count) for site, count in sites.items())


def communication(**fields: Any) -> Communication:
    given = {
        "pattern": "allreduce",
        "bytes_per_step": 8 * MB,
        "iteration_us": 1_000_000,
        "compressible": True,
        **fields,
    }
    return Communication(**given)


def chosen(spoken: Communication, mbit: int, at: Workers | None = None) -> Tuning:
    world = Links(tuple(links({("a", "b"): mbit})))
    return choose(demand("d"), spoken, at or workers(a=4, b=4), world)


def test_a_ring_crosses_each_site_once_and_summing_up_first_makes_it_a_ring_of_sites() -> None:
    spoken, plain = communication(), Tuning(demand_id="d")
    assert uplink_bytes(spoken, workers(a=4, b=4), plain) == 14 * MB, "2 (n − 1) / n of 8 MB"
    assert uplink_bytes(spoken, workers(a=4, b=4), Tuning(demand_id="d", aggregate="site")) == 8 * MB
    assert uplink_bytes(spoken, workers(a=8), plain) == 0


def test_a_parameter_servers_sites_send_one_gradient_each_where_they_sum_up() -> None:
    spoken = communication(pattern="parameter_server")
    assert uplink_bytes(spoken, workers(hub=9, a=3, b=5), Tuning(demand_id="d")) == 40 * MB
    assert uplink_bytes(spoken, workers(hub=9, a=3, b=5), Tuning(demand_id="d", aggregate="site")) == 8 * MB


def test_a_server_is_wanted_where_all_are_heard_soonest_and_not_where_most_workers_are() -> None:
    # From edge to edge there is next to nothing; both reach the hub, which has one worker.
    world = Links(tuple(links({("hub", "a"): 100, ("hub", "b"): 50, ("a", "b"): 2})))
    spoken = communication(pattern="parameter_server", savings=("site_aggregation",))
    tuning = choose(demand("d"), spoken, workers(a=5, b=3, hub=1), world)
    assert (tuning.meet_at, tuning.aggregate, tuning.uplink_bytes_per_step) == ("hub", "site", 8 * MB)
    # One gradient a worker instead of one a site: now those of a, over its 100 Mbit/s, are as long as those of b.
    plain = choose(demand("d"), msgspec.structs.replace(spoken, savings=()), workers(a=5, b=3, hub=1), world)
    assert (plain.meet_at, plain.uplink_bytes_per_step) == ("hub", 40 * MB)
    assert choose(demand("d"), spoken, workers(a=5), world).meet_at == ""
    assert choose(demand("d"), communication(), workers(a=5, b=3, hub=1), world).meet_at == "", "a ring has no middle"


def test_workers_are_told_where_their_server_is_wanted() -> None:
    world = World(policy=Flow())
    for name, cpu in (("a", 2), ("b", 2), ("hub", 1)):
        world.agent(name, site=name, total=resources(cpu=cpu))
    for one, other, mbit in (("hub", "a", 100), ("hub", "b", 50), ("a", "b", 2)):
        for ends in ((one, other), (other, one)):
            report(world.agents[ends[1]], sample(*ends, bandwidth_bps=mbit * MB))
    spoken = communication(pattern="parameter_server")
    world.ask(SubmitJob(job=job("j", group(count=5, needs=needs(1), gang=True, communication=spoken))))
    launches = [launch for name in ("a", "b", "hub") for launch in world.agents[name].running.values()]
    assert [launch.env["OFFERFLOW_COMM_MEET_AT"] for launch in launches] == ["hub"] * 5
    core = world.master.core
    view = why_view(core, next(iter(core.tasks.tasks.values())), world.now_us)
    assert view.hints == ("its gang is on 3 agents and meets at core",), "three sites of no region"


def narrowest_mbit(ring: tuple[str, ...], rates: dict[tuple[str, str], int]) -> int:
    return min(rates[min(a, b), max(a, b)] for a, b in pairwise((*ring, ring[0])))


@given(st.data())
def test_no_ring_of_sites_has_a_wider_narrowest_way(data: st.DataObject) -> None:
    sites = tuple("abcdef"[: data.draw(st.integers(2, 6))])
    rates = {pair: data.draw(st.integers(1, 50)) for pair in combinations(sites, 2)}
    ring = ring_of(sites, Links(tuple(links(rates))))
    assert sorted(ring) == sorted(sites)
    best = max(narrowest_mbit((sites[0], *rest), rates) for rest in permutations(sites[1:]))
    assert narrowest_mbit(ring, rates) == best


def test_a_ring_goes_around_a_thin_way_and_is_charged_where_it_goes() -> None:
    rates = dict.fromkeys(combinations("abcd", 2), 100) | {("a", "b"): 1, ("c", "d"): 1}
    world = Links(tuple(links(rates)))
    at, spoken = workers(a=2, b=2, c=2, d=2), communication()
    assert ring_of(at.sites, world) == ("a", "c", "b", "d")
    assert set(load_of(demand("d"), spoken, at, world)) == {("a", "c"), ("b", "c"), ("b", "d"), ("a", "d")}
    many = tuple(f"s{n}" for n in range(RING_SITES_MAX + 2))
    assert sorted(ring_of(many, world)) == sorted(many)


def test_what_each_says_to_each_goes_over_every_way_in_equal_parts() -> None:
    world = Links(tuple(links(dict.fromkeys(combinations("abc", 2), 100))))
    at, spoken = workers(a=1, b=1, c=1), communication(pattern="all_to_all")
    assert ways(spoken, at, world) == (("a", "b"), ("a", "c"), ("b", "c"))
    assert load_of(demand("d"), spoken, at, world) == dict.fromkeys(combinations("abc", 2), 32 * MB), "half of 8 MB"


def places_of(world: World) -> list[str]:
    """The agent of each worker, by its number."""
    launched = {launch.task_id: name for name, fake in world.agents.items() for launch in fake.running.values()}
    return [launched[task_id] for task_id in sorted(launched, key=lambda task_id: int(task_id.rpartition("/")[2]))]


@pytest.mark.parametrize("policy", [Flow, Fifo])
def test_workers_are_numbered_along_the_ring(policy: Callable[[], Policy]) -> None:
    """By their names agents alternate between sites and racks: numbered so, a step would leave one at each worker."""
    world = World(policy=policy())
    for n, (site, rack) in enumerate(zip("xyxyxyx", ("r1", "", "r2", "", "r1", "", "r2"), strict=True)):
        labels = (("rack", rack),) if rack else ()
        world.agent(f"n{n}", site=site, labels=labels, total=resources(cpu=1))
    world.ask(SubmitJob(job=job("j", group(count=7, needs=needs(1), gang=True, communication=communication()))))
    assert places_of(world) == ["n0", "n4", "n2", "n6", "n1", "n3", "n5"]
    # One fails, so that all are stopped: they wait in the order in which they ended, and are numbered by racks again.
    world.agents["n2"].end("j/train/2", "failed")
    world.advance(60_000_000)
    assert {task.attempt for task in world.master.core.tasks.tasks.values()} == {2}
    assert places_of(world) == ["n0", "n4", "n6", "n2", "n1", "n3", "n5"], "that one not where it failed"


@pytest.mark.parametrize(
    ("mbit", "aggregate", "compression", "local_steps"),
    [
        (1000, "site", "", 1),  # 8 MB take 64 ms of the second
        (200, "site", "fp16", 1),  # 320 ms, or 160 at half precision
        (50, "", "powersgd", 1),  # 640 ms at half precision; a tenth of 14 MB takes 224
        (20, "", "", 32),  # 560 ms even so: 5.6 s ÷ 32
        (1, "", "", 64),  # nothing is enough: what sends least
    ],
)
def test_the_least_harmful_that_is_enough_is_taken(
    mbit: int, aggregate: str, compression: str, local_steps: int
) -> None:
    tuning = chosen(communication(savings=ALL, local_steps_max=100), mbit)
    assert (tuning.aggregate, tuning.compression, tuning.local_steps) == (aggregate, compression, local_steps)


def test_nothing_is_chosen_that_the_job_does_not_allow() -> None:
    assert chosen(communication(savings=()), 1) == Tuning(
        demand_id="d", iteration_us=1_000_000, uplink_bytes_per_step=14 * MB
    )
    assert chosen(communication(savings=("fp16",)), 1).compression == "fp16"
    unknown = chosen(communication(savings=ALL, iteration_us=0, local_steps_max=8), 1)
    assert (unknown.aggregate, unknown.compression, unknown.local_steps) == ("site", "", 1), "no step time, no loss"
    assert chosen(communication(savings=ALL, synchronous=False), 1000).aggregate == ""


def test_within_one_site_only_racks_can_be_summed_up() -> None:
    racks = Workers((node(f"n{n}", "a", labels=(("rack", f"r{n % 2}"),)), 2) for n in range(4))
    assert chosen(communication(savings=ALL), 1000, racks).aggregate == "rack"
    assert chosen(communication(savings=ALL), 1000, workers(a=4)).aggregate == ""


def test_workers_find_the_choice_in_their_environment_and_their_own_values_win() -> None:
    spoken = communication(savings=("site_aggregation", "fp16"), iteration_us=100_000)
    world = World(policy=Cassini(Fifo))
    for name in ("gw-1", "gw-2"):
        world.agent(name, total=resources(cpu=2))
    own = {"OFFERFLOW_COMM_LOCAL_STEPS": "3"}
    world.ask(SubmitJob(job=job("j", group(count=4, needs=needs(1), gang=True, communication=spoken, env=own))))
    launches = [launch for fake in world.agents.values() for launch in fake.running.values()]
    assert len(launches) == 4
    for launch in launches:
        assert launch.env["OFFERFLOW_COMM_AGGREGATE"] == "site" and launch.env["OFFERFLOW_COMM_COMPRESSION"] == "fp16"
        assert launch.env["OFFERFLOW_COMM_LOCAL_STEPS"] == "3"
    assert {launch.env["OFFERFLOW_COMM_GROUP"] for launch in launches} == {"site-gw-1", "site-gw-2"}


def test_a_job_without_declared_communication_gets_no_such_variables() -> None:
    world = World(policy=Cassini(Fifo))
    fake = world.agent()
    world.ask(SubmitJob(job=job("j", group(count=2, gang=True))))
    assert [launch.env for launch in fake.running.values()] == [{}, {}]


def test_every_class_of_a_plan_has_at_most_one_tuning() -> None:
    gangs = [
        demand(f"g{n}", 2, gang=Gang(gang_id=f"g{n}", size=2, communication=communication(savings=ALL)))
        for n in range(3)
    ]
    world = snapshot([node("x", "a", cpu=3), node("y", "b", cpu=3)], gangs, link=links({("a", "b"): 10}))
    plan = Cassini(Fifo).plan(world)
    assert [tuning.demand_id for tuning in plan.tunings] == ["g0", "g1", "g2"]
