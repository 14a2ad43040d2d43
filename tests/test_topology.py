"""What hangs on what, the widest way, where talking agents meet, and uplinks that nobody declared."""

from hypothesis import given
from hypothesis import strategies as st

from federation.rounds import make_snapshot
from federation.topology import meeting_point, shared_uplinks, sites, widest_path
from federation.wire import LinkSample, NetReport
from policies.flow import Flow
from policies.model import Bottleneck, Communication, Needs, Node, Running, Shard, Transfer, Where
from tests.master_world import SECOND, World
from tests.policy_worlds import demand, links, node, snapshot, where

MBIT = MB = 10**6


def measure(world: World, from_agent: str, to_agent: str, mbit: int, times: int = 1) -> None:
    sample = LinkSample(
        from_agent=from_agent, to_agent=to_agent, method="probe", bandwidth_bps=mbit * MBIT, bytes=10**6
    )
    for _ in range(times):
        world.agents[to_agent].say(NetReport, samples=(sample,))


def of_sites(*names: str) -> World:
    world = World(solve=False)
    for name in names:
        world.agent(name, site=name)
    return world


@given(st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), st.integers(1, 9), min_size=1))
def test_the_widest_path_is_the_best_of_all_paths(rates: dict[tuple[str, str], int]) -> None:
    world = of_sites(*"abcd")
    rates = {ends: rate for ends, rate in rates.items() if ends[0] != ends[1]}
    for (first, second), rate in rates.items():
        measure(world, first, second, rate)

    def widest(at: str, seen: frozenset[str]) -> int:
        if at == "d":
            return 2**62
        ways = [(b, rate) for (a, b), rate in rates.items() if a == at and b not in seen]
        return max((min(rate * MBIT, widest(b, seen | {b})) for b, rate in ways), default=0)

    found = widest_path(world.master.core.network, "a", "d", world.now_us)
    assert (found.bandwidth_bps if found is not None else 0) == widest("a", frozenset("a"))
    if found is not None:
        assert found.bandwidth_bps == min(hop.bandwidth_bps for hop in found.hops)
        assert [hop.to_site for hop in found.hops[:-1]] == [hop.from_site for hop in found.hops[1:]]


def test_talking_agents_meet_at_their_rack_their_site_or_above() -> None:
    world = World(solve=False)
    for name, site, rack, region in (("a", "x", "r1", "eu"), ("b", "x", "r1", "eu"), ("c", "x", "r2", "eu"),
                                     ("d", "y", "", "eu"), ("e", "z", "", "us")):  # fmt: skip
        world.agent(name, site=site, region=region, labels=(("rack", rack),) if rack else ())
    agents = world.master.core.agents
    for who, at in (("ab", "rack:x/r1"), ("abc", "site:x"), ("ad", "region:eu"), ("ae", "core"), ("a", "agent:a")):
        assert meeting_point(agents, who) == at
    assert sites(agents, world.master.core.network, world.now_us)[0].racks == ("r1", "r2")


def test_ways_that_fall_together_share_a_bottleneck_and_others_do_not() -> None:
    world = of_sites("plant", "east", "west", "north")
    for turn in range(4):
        for rate in (90, 10):
            for end in ("east", "west"):
                measure(world, "plant", end, rate, times=3)
            world.advance(60 * SECOND)
            measure(world, "plant", "north", 100 - rate, times=3)
            world.advance(60 * SECOND)
        assert turn < 2 or shared_uplinks(world.master.core.network) == {"plant": ("east", "west")}
    asked, _ = make_snapshot(world.master.core)
    assert asked.bottlenecks == (Bottleneck(from_site="plant", to_sites=("east", "west")),)


def test_what_crosses_a_shared_bottleneck_slows_what_goes_over_its_other_ways() -> None:
    nodes = [node("p", "plant", cpu=0), node("w", "west"), node("n", "north")]
    frame = Shard(shard_id="frame", size_bytes=10 * MB, replicas=("p",), replicas_wanted=0)
    ways = links({("plant", "west"): 100, ("plant", "east"): 100, ("plant", "north"): 40})
    under_way = (Transfer(from_site="plant", to_site="east", left_bytes=100 * MB),)
    shared = (Bottleneck(from_site="plant", to_sites=("east", "west")),)
    for bottlenecks, agent_id in (((), "w"), (shared, "n")):
        world = snapshot(
            nodes, [demand("see", reads=("frame",))], [frame], ways, transfers=under_way, bottlenecks=bottlenecks
        )
        assert where(Flow().plan(world)) == {"see": {agent_id: 1}}


def test_transfers_of_one_round_that_meet_in_an_inferred_uplink_make_way_for_each_other() -> None:
    nodes = [node("p", "plant", cpu=4, speed_milli=500), node("e", "east", cpu=2), node("w", "west", cpu=2)]
    frame = Shard(shard_id="frame", size_bytes=100 * MB, replicas=("p",), replicas_wanted=0)
    ways = links({("plant", "west"): 100, ("plant", "east"): 98})
    shared = (Bottleneck(from_site="plant", to_sites=("east", "west")),)
    tasks = demand("see", count=4, reads=("frame",), run_us=20 * SECOND)  # 20 s longer where the data is; 8 s away
    alone = where(Flow().plan(snapshot(nodes, [tasks], [frame], ways)))["see"]
    together = where(Flow().plan(snapshot(nodes, [tasks], [frame], ways, bottlenecks=shared)))["see"]
    assert alone == {"e": 2, "w": 2}
    assert together == {"p": 2, "e": 1, "w": 1}, "the third and fourth over one uplink would take 24 and 32 s"
    # Where no second way is used, nothing changes.
    one_way = snapshot(nodes[:2], [tasks], [frame], ways, bottlenecks=shared)
    assert Flow().plan(one_way) == Flow().plan(snapshot(nodes[:2], [tasks], [frame], ways))


def test_what_gangs_send_is_off_the_rate_that_transfers_are_priced_with() -> None:
    talk = Communication(pattern="allreduce", bytes_per_step=7 * MB, iteration_us=SECOND)  # 56 Mbit/s

    def worker(agent_id: str, site: str) -> Node:
        task = Running(
            task_id=f"g/{agent_id}", role="r", needs=Needs(cpu_milli=1000), since_us=0, gang_id="g", communication=talk
        )
        return node(agent_id, site, cpu=2, running=(task,))

    frame = Shard(shard_id="frame", size_bytes=10 * MB, replicas=("p",), replicas_wanted=0)
    ways = links({("plant", "west"): 100, ("plant", "north"): 70})
    for talks, agent_id in ((False, "w"), (True, "n")):
        of = worker if talks else lambda agent_id, site: node(agent_id, site, cpu=2)
        nodes = [node("n", "north", cpu=2), of("p", "plant"), of("w", "west")]
        reading = demand("see", reads=("frame",), where=Where(agents_avoided=("p",)))
        plan = Flow().plan(snapshot(nodes, [reading], [frame], ways))
        assert where(plan) == {"see": {agent_id: 1}}
