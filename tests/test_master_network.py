"""The network map, probe plans, learned profiles, and the timers beneath them all."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import listing, topology, views
from federation.api import SubmitJob
from federation.config import MasterConfig
from federation.deadlines import Deadlines
from federation.events import AgentSpoke
from federation.profiles import ProfileBook
from federation.rounds import make_snapshot
from federation.wire import HeldShard, LinkSample, NetReport, ProbePlan
from policies.model import Link
from tests.master_world import SECOND, Fake, World, group, job, needs, resources, sha

MBIT = 10**6
MIB = 2**20


def sample(from_agent: str, to_agent: str, **fields: Any) -> LinkSample:
    fields.setdefault("method", "transfer")
    if "bandwidth_bps" in fields:
        fields.setdefault("bytes", MIB)
    return LinkSample(from_agent=from_agent, to_agent=to_agent, **fields)


def report(fake: Fake, *samples: LinkSample) -> None:
    fake.say(NetReport, samples=samples, control_bytes=123)


def links(world: World) -> dict[tuple[str, str], Link]:
    return {(link.from_id, link.to_id): link for link in views.network(world.master, world.now_us).links}


def two_sites() -> tuple[World, Fake, Fake, Fake]:
    world = World(solve=False)
    return (
        world,
        world.agent("gw-1", site="plant"),
        world.agent("gw-2", site="plant"),
        world.agent("vm-1", site="cloud"),
    )


def test_loss_is_of_all_bytes_and_a_sender_tells_of_the_way_but_raises_no_rate() -> None:
    world, one, _, cloud = two_sites()
    report(one, sample("vm-1", "gw-1", method="probe", bandwidth_bps=20 * MBIT, bytes=100_000, loss_ppm=40_000))
    report(cloud, sample("vm-1", "gw-1", bandwidth_bps=900 * MBIT, bytes=9 * 100_000, rtt_us=9_000, loss_ppm=0))
    link = links(world)["site:cloud", "site:plant"]
    assert (link.bandwidth_bps, link.rtt_us, link.loss_ppm) == (20 * MBIT, 9_000, 4_000)
    report(one, sample("gw-1", "vm-1", bandwidth_bps=900 * MBIT, rtt_us=9_000, loss_ppm=0))
    assert ("site:plant", "site:cloud") not in links(world), "the sender's word alone makes no link"


def test_samples_become_a_robust_estimate_between_sites() -> None:
    world, one, _, _ = two_sites()
    for bandwidth, rtt in ((20, 30), (21, 31), (900, 29), (19, 3000), (20, 30)):
        report(one, sample("vm-1", "gw-1", bandwidth_bps=bandwidth * MBIT, rtt_us=rtt * 1000, loss_ppm=100))
    link = links(world)["site:cloud", "site:plant"]
    assert (link.bandwidth_bps, link.rtt_us, link.loss_ppm) == (20 * MBIT, 30_000, 100)
    assert link.confidence_ppm > 950_000 and link.age_us == 0
    assert ("agent:vm-1", "agent:gw-1") not in links(world), "told apart only where it differs"
    assert ("site:plant", "site:cloud") not in links(world), "a link has a direction"
    told = world.master.core.agents["gw-1"].told
    assert told is not None and told.control_bytes == 123


def test_estimates_age_and_fade() -> None:
    world, one, _, _ = two_sites()
    report(one, sample("vm-1", "gw-1", bandwidth_bps=20 * MBIT))
    fresh = links(world)["site:cloud", "site:plant"]
    world.now_us += 300 * SECOND
    old = links(world)["site:cloud", "site:plant"]
    assert old.age_us == 300 * SECOND and old.bandwidth_bps == fresh.bandwidth_bps
    assert old.confidence_ppm == fresh.confidence_ppm // 2
    world.now_us += 10**6 * SECOND
    assert links(world)["site:cloud", "site:plant"].confidence_ppm == 0


@given(asked_us=st.lists(st.integers(0, 3 * SECOND), max_size=4), at_us=st.integers(0, 3 * SECOND))
def test_who_asks_for_the_map_changes_nothing_that_a_round_sees(asked_us: list[int], at_us: int) -> None:
    """Questions are in no recording: a replay has to see the same ages without them."""
    worlds = two_sites(), two_sites()
    for world, one, _, _ in worlds:
        report(one, sample("vm-1", "gw-1", bandwidth_bps=20 * MBIT))
        world.master.core.network.links(world.now_us)
    (asked, _, _, _), (left_alone, _, _, _) = worlds
    network, now_us = asked.master.core.network, asked.now_us
    for offset_us in sorted(asked_us):
        told = views.network(asked.master, now_us + offset_us).links
        assert listing.links(asked.master, now_us + offset_us, None, 100) == (told, None)
        assert topology.ways(network, now_us + offset_us).edges["cloud", "plant"]["link"] in told
        assert 0 <= offset_us - told[0].age_us < SECOND, "what is told is at most a second old"
    assert network.links(now_us + at_us) == left_alone.master.core.network.links(now_us + at_us)


def test_an_agent_that_differs_from_its_site_gets_a_link_of_its_own() -> None:
    world, one, two, _ = two_sites()
    for _ in range(6):
        report(one, sample("vm-1", "gw-1", bandwidth_bps=100 * MBIT))
        report(two, sample("vm-1", "gw-2", bandwidth_bps=10 * MBIT))
    found = links(world)
    assert found["agent:vm-1", "agent:gw-1"].bandwidth_bps == 100 * MBIT
    assert found["site:cloud", "site:plant"].bandwidth_bps == 10 * MBIT, "a quarter of what was seen is below"


def test_a_round_is_told_of_the_own_links_of_those_who_hold_what_it_reads() -> None:
    """Of 10,000 agents each may have a link of its own; a round that reads from three of them needs those."""
    world, one, two, cloud = two_sites()
    for fake in (one, two, cloud):
        fake.queue_shard(HeldShard(shard_id=sha(ord(fake.agent_id[-1])), size_bytes=MIB, name=fake.agent_id), "held")
        fake.flush()
    for _ in range(6):
        report(one, sample("vm-1", "gw-1", bandwidth_bps=100 * MBIT), sample("gw-1", "", rtt_us=9, method="mqtt_echo"))
        report(two, sample("vm-1", "gw-2", bandwidth_bps=10 * MBIT), sample("gw-2", "", rtt_us=99, method="mqtt_echo"))
    told = links(world)
    own = {("agent:vm-1", "agent:gw-1")}
    to_master = {(f"agent:{agent_id}", "master") for agent_id in ("gw-1", "gw-2")} & set(told)
    assert own < set(told) and to_master, "both differ from their sites'"
    world.ask(SubmitJob(job=job("j", group("t", reads=("gw-2",)))))

    def seen() -> dict[tuple[str, str], Link]:
        return {(link.from_id, link.to_id): link for link in make_snapshot(world.master.core)[0].links}

    assert seen() == {ends: link for ends, link in told.items() if ends not in own | to_master}
    world.ask(SubmitJob(job=job("k", group("t", reads=("gw-1",)))))
    assert seen() == {ends: link for ends, link in told.items() if ends not in to_master}
    gang = msgspec.structs.replace(group("t", count=2), gang=True)
    world.ask(SubmitJob(job=job("l", gang)))
    assert seen() == told, "workers may talk over any of them"


def test_tiny_transfers_say_nothing_of_bandwidth() -> None:
    world, one, _, _ = two_sites()
    report(one, sample("vm-1", "gw-1", bandwidth_bps=1, bytes=100, rtt_us=5))
    link = links(world)["site:cloud", "site:plant"]
    assert link.bandwidth_bps is None and link.rtt_us == 5


def test_a_link_is_only_reported_by_one_of_its_ends() -> None:
    world, one, _, _ = two_sites()
    report(
        one,
        sample("vm-1", "gw-2", rtt_us=1),
        sample("gw-1", "gw-1", rtt_us=1),
        sample("gw-1", "nobody", rtt_us=1),
        sample("gw-1", "", rtt_us=7, method="mqtt_echo"),
    )
    assert world.master.counters["samples_refused"] == 3
    assert list(links(world)) == [("site:plant", "master")]


def test_a_report_heard_twice_counts_once() -> None:
    world, one, _, _ = two_sites()
    message = one.message(NetReport, samples=(sample("vm-1", "gw-1", bandwidth_bps=20 * MBIT),))
    for _ in range(5):
        world.handle(AgentSpoke(message=message))
    assert len(world.master.core.network.tracks["site:cloud", "site:plant"].bandwidth) == 1


def test_the_map_is_bounded() -> None:
    world = World(MasterConfig(links_max=4), solve=False)
    fakes = [world.agent(f"gw-{n}", site=f"s{n}") for n in range(6)]
    for fake in fakes[1:]:
        report(fake, sample("gw-0", fake.agent_id, rtt_us=5))
    assert list(world.master.core.network.tracks) == [
        ("site:s0", "site:s4"),
        ("agent:gw-0", "agent:gw-4"),
        ("site:s0", "site:s5"),
        ("agent:gw-0", "agent:gw-5"),
    ]


def test_sources_are_ranked_by_measured_bandwidth() -> None:
    world = World()
    shard = HeldShard(shard_id=sha(1), size_bytes=9, name="a")
    for agent_id in ("gw-1", "gw-2", "gw-3"):
        fake = world.agent(agent_id, offer=False)
        fake.queue_shard(shard, "held")
        fake.flush()
    taker = world.agent("vm-1")
    report(taker, sample("gw-2", "vm-1", bandwidth_bps=10 * MBIT), sample("gw-3", "vm-1", bandwidth_bps=90 * MBIT))
    world.ask(SubmitJob(job=job("j", group("t", reads=("a",)))))
    (launch,) = taker.running.values()
    assert [source.agent_id for source in launch.reads[0].sources] == ["gw-3", "gw-2", "gw-1"]


def test_bytes_on_their_way_are_told_to_the_policy_until_the_task_runs() -> None:
    world = World(solve=False)
    holder = world.agent("gw-1", site="plant", offer=False)
    holder.queue_shard(HeldShard(shard_id=sha(1), size_bytes=900, name="a"), "held")
    holder.flush()
    taker = world.agent("vm-1", site="cloud", total=resources(cpu=2))
    world.ask(SubmitJob(job=job("j", group("t", count=3, reads=("a",)))))
    taker.deaf = True
    world.solve()
    world.ask(SubmitJob(job=job("k", group("t", needs=needs(cpu=50)))))
    core = world.master.core
    snapshot, _ = make_snapshot(core)
    assert [(t.from_site, t.to_site, t.left_bytes) for t in snapshot.transfers] == [("plant", "cloud", 900)]
    taker.deaf = False
    world.advance(11 * SECOND)
    assert make_snapshot(core)[0].transfers == ()


# --- probes ----------------------------------------------------------------------------------------------------------


def plans(fake: Fake) -> list[list[str]]:
    return [[peer.agent_id for peer in m.peers] for m in fake.heard if isinstance(m, ProbePlan)]


def test_one_agent_of_each_site_probes_one_of_each_other_site() -> None:
    world, one, two, cloud = two_sites()
    world.advance(2 * SECOND)
    assert (plans(one), plans(two), plans(cloud)) == ([["vm-1"]], [], [["gw-1"]])
    one.die()
    world.advance(2 * SECOND)
    assert (plans(two), plans(cloud)) == ([["vm-1"]], [["gw-1"], ["gw-2"]])
    one.connect()
    world.advance(2 * SECOND)
    assert plans(two)[-1] == [], "taken off again"


def test_a_link_that_transfers_measure_is_not_probed() -> None:
    world, one, _, cloud = two_sites()
    report(one, sample("vm-1", "gw-1", bandwidth_bps=MBIT))
    world.advance(2 * SECOND)
    assert plans(one) == [] and plans(cloud) == [["gw-1"]], "the other direction is another link"
    world.advance(125 * SECOND)
    assert plans(one) == [["vm-1"]]


@pytest.mark.parametrize(("n_sites", "peers_max"), [(2, 16), (5, 16), (9, 3)])
def test_all_probes_that_cross_one_uplink_share_its_thousandth(n_sites: int, peers_max: int) -> None:
    world = World(MasterConfig(probe_peers_max=peers_max), solve=False)
    fakes = [world.agent(f"gw-{n}", site=f"s{n}") for n in range(n_sites)]
    world.advance(2 * SECOND)
    latest = {fake.agent_id: [m for m in fake.heard if isinstance(m, ProbePlan)][-1].peers for fake in fakes}
    for fake in fakes:
        into = [peer.share_ppm for peer in latest[fake.agent_id]]
        out = [peer.share_ppm for peers in latest.values() for peer in peers if peer.agent_id == fake.agent_id]
        assert 500 < sum(into) <= 1000 or peers_max < n_sites
        assert 0 < sum(into) <= 1000 and sum(out) <= 1000


def test_with_many_sites_the_pairs_rotate() -> None:
    world = World(MasterConfig(probe_peers_max=2), solve=False)
    fakes = [world.agent(f"gw-{n}") for n in range(6)]
    for _ in range(4):
        world.advance(61 * SECOND)
    asked = plans(fakes[0])
    assert all(len(peers) == 2 for peers in asked) and len({peer for peers in asked for peer in peers}) == 5


# --- profiles --------------------------------------------------------------------------------------------------------


def test_run_times_are_learned_per_hardware_and_told_in_the_snapshot() -> None:
    world = World()
    fake = world.agent(hardware="rpi5")
    world.ask(SubmitJob(job=job("j", group("t", count=2, profile="p"))))
    fake.end("j/t/0", run_us=4 * SECOND)
    fake.end("j/t/1", run_us=6 * SECOND)
    (profile,) = world.master.durable().profiles
    assert (profile.profile, profile.hardware, profile.run_us, profile.samples) == ("p", "rpi5", 5 * SECOND, 2)
    world.auto_solve = False
    world.ask(SubmitJob(job=job("k", group("t", profile="p"))))
    assert world.solves[0].snapshot.profiles == (profile,)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200))
def test_a_profile_stays_within_what_was_seen_and_writes_few_facts(runs: list[int]) -> None:
    book = ProfileBook(10, 32)
    facts = 0
    for run_us in runs:
        fact = book.gather("p", "h", run_us, 0)
        if fact is not None:
            facts += 1
            book.learn(fact)
    learned = book.expected_us("p", "h")
    assert learned is not None and min(runs) <= learned + 1 and learned <= max(runs)
    assert facts <= 35 + len(runs) // 4


def test_profiles_are_bounded() -> None:
    book = ProfileBook(2, 32)
    for name in ("a", "b", "a", "c"):
        fact = book.gather(name, "h", 5, 0)
        assert fact is not None
        book.learn(fact)
    assert [profile for profile, _, _ in book.entries] == ["a", "c"] and book.of("b") == []


# --- timers ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["set", "earlier", "cancel", "due"]), st.integers(0, 9), st.integers(0, 99))))
def test_deadlines_equal_the_obvious_dict(steps: list[tuple[str, int, int]]) -> None:
    timers, plain = Deadlines(), dict[int, int]()
    for what, key, at_us in steps:
        match what:
            case "set":
                timers.set(key, at_us)
                plain[key] = at_us
            case "earlier":
                timers.set_earlier(key, at_us)
                plain[key] = min(at_us, plain.get(key, at_us))
            case "cancel":
                timers.cancel(key)
                plain.pop(key, None)
            case _:
                due = {k for k, v in plain.items() if v <= at_us}
                assert set(timers.due(at_us)) == due
                plain = {k: v for k, v in plain.items() if k not in due}
        assert timers.next_us() == min(plain.values(), default=None)
        assert len(timers) == len(plain)
        assert len(timers._heap) <= 65 + 4 * len(plain) + 1
