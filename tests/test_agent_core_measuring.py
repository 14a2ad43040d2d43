"""Stories of the agent's core: what it measures, and what it leaves be. No I/O, no clock."""

import itertools

import pytest
from agent_world import SECOND_US, World, config, held

from agents.commands import (
    Probe,
)
from agents.events import (
    FetchEnded,
    LinksMeasured,
    ProbeServed,
)
from federation.wire import (
    LinkSample,
    NetReport,
    Peer,
    Ping,
    Pong,
    ProbePlan,
    encode,
)

# --- measuring -------------------------------------------------------------------------------------------------------


def test_pings_are_echoed_into_samples_of_their_own_method() -> None:
    world = World()
    world.boot()
    for rtt_us in (4_000, 6_000):
        ping = world.take(Ping)[-1]
        world.pass_time(rtt_us)
        world.say(Pong(nonce=ping.nonce))
        world.pass_time(5 * SECOND_US - rtt_us)
    world.pass_time(20 * SECOND_US)
    samples = [sample for report in world.take(NetReport) for sample in report.samples]
    assert [(s.method, s.from_agent, s.to_agent, s.rtt_us, s.jitter_us) for s in samples] == [
        ("mqtt_echo", "cam-1", "", 4_000, None),
        ("mqtt_echo", "cam-1", "", 6_000, 2_000),
    ]


def test_measured_bandwidth_is_told_soon_and_control_bytes_with_it() -> None:
    world = World()
    world.boot()
    sent = sum(len(encode(message)) for message in world.published)
    world.clear()
    sample = LinkSample(from_agent="x", to_agent="cam-1", method="transfer", bandwidth_bps=10**6, bytes=10**6)
    world.event(FetchEnded(fetch_id=99, shard=held(1), ok=True, samples=(sample,)))
    sent += sum(len(encode(message)) for message in world.published)
    world.clear()
    world.pass_time(SECOND_US)
    (report,) = world.take(NetReport)
    assert (report.samples, report.control_bytes) == ((sample,), sent)


def plan(*sites: str, bytes_max: int = 1000, share_ppm: int = 1000) -> ProbePlan:
    peers = tuple(
        Peer(agent_id=f"{site}-1", site=site, data_url=f"http://{site}", share_ppm=share_ppm) for site in sites
    )
    return ProbePlan(term=1, peers=peers, every_us=60 * SECOND_US, bytes_max=bytes_max)


def test_peers_are_probed_one_at_a_time_each_in_turn() -> None:
    world = World()
    world.boot()
    world.say(plan("b", "c"))
    assert [probe.peer.site for probe in world.take(Probe)] == ["b"]
    world.pass_time(SECOND_US)
    world.event(LinksMeasured(samples=(LinkSample(from_agent="cam-1", to_agent="", method="tcp_info", rtt_us=1),)))
    assert world.take(Probe) == []  # Only a reading of our own socket.
    world.event(LinksMeasured(samples=()))
    assert [probe.peer.site for probe in world.take(Probe)] == ["c"]
    world.event(LinksMeasured(samples=()))
    assert world.take(Probe) == []
    world.say(plan("b", "c"))  # Those that stay keep their turn.
    world.pass_time(58 * SECOND_US)
    assert world.take(Probe) == []
    world.pass_time(10 * SECOND_US)
    assert [probe.peer.site for probe in world.take(Probe)] == ["b"]


def test_a_way_in_use_is_probed_again_soon_and_only_so_often() -> None:
    world = World()
    world.boot()
    world.say(plan("b"))
    asked_us: list[int] = []
    for _ in range(600):
        if world.take(Probe):
            asked_us.append(world.now_us)
            echo = LinkSample(from_agent="b-1", to_agent="cam-1", method="echo", rtt_us=1000)
            world.event(LinksMeasured(samples=(echo,), busy=True))
        world.pass_time(SECOND_US // 4)
    waits_s = [(after - before) / SECOND_US for before, after in itertools.pairwise(asked_us)]
    for n, wait_s in enumerate(waits_s[:6], 1):
        assert n <= wait_s <= 2 * n + 0.5, "1–2 s, 2–4 s, 3–6 s …"
    assert waits_s[6] > 30, "then its turn as all have it"


@pytest.mark.parametrize("share_ppm", [1000, 250])
def test_probes_take_their_share_of_a_slow_link_and_go_on_as_echoes(share_ppm: int) -> None:
    world = World()
    world.boot()
    world.say(plan("b", bytes_max=250_000, share_ppm=share_ppm))
    began_us, asked = world.now_us, []
    for _ in range(600):
        for probe in world.take(Probe):
            asked.append(probe.bytes_max)
            sample = LinkSample(
                from_agent="b-1", to_agent="cam-1", method="probe", bandwidth_bps=20_000_000, bytes=probe.bytes_max
            )
            world.event(LinksMeasured(samples=(sample,) if probe.bytes_max else ()))
        world.pass_time(5 * SECOND_US)
    elapsed_s = (world.now_us - began_us) / SECOND_US
    assert asked[:3] == [250_000] * 3 and len(asked) > 0.9 * elapsed_s / 66, "a turn a minute, most of them echoes"
    share, allowed = sum(asked) * 8 / (20_000_000 * elapsed_s), share_ppm / 1e6
    assert 0.9 * allowed < share <= allowed + 3 * 250_000 * 8 / (20_000_000 * elapsed_s)
    world.pass_time(60 * SECOND_US)
    assert world.take(NetReport)[-1].probe_bytes == sum(asked)


def test_a_probe_that_finds_another_link_is_repeated_at_once_and_both_are_paid_for() -> None:
    """A link of 2 Mbit/s that halves, then swings with every look: one period later its halving has been seen twice."""
    world = World()
    world.boot()
    world.say(plan("b", bytes_max=75_000))
    period_s = 75_000 * 8 / 2_000_000 * 1000  # five minutes
    found: list[tuple[float, int]] = []
    began_us, swings = world.now_us, False
    for _ in range(500):
        world.clear()
        world.pass_time(5 * SECOND_US)
        while probes := world.take(Probe):
            if not probes[0].bytes_max:
                world.event(LinksMeasured(samples=()))
                continue
            at_s = (world.now_us - began_us) / SECOND_US
            bps = 1_000_000 if at_s > 1000 and not (swings and len(found) % 2) else 2_000_000
            found.append((at_s, bps))
            sample = LinkSample(
                from_agent="b-1", to_agent="cam-1", method="probe", bandwidth_bps=bps, bytes=probes[0].bytes_max
            )
            world.event(LinksMeasured(samples=(sample,)))
            swings = sum(bps == 1_000_000 for _, bps in found) >= 2
    fallen = [at_s for at_s, bps in found if bps == 1_000_000]
    assert 1000 < fallen[0] <= 1000 + period_s + 66 and fallen[1] - fallen[0] <= 5
    elapsed_s = (world.now_us - began_us) / SECOND_US
    took_s = sum(75_000 * 8 / bps for _, bps in found)
    assert took_s <= elapsed_s / 1000 + 4 * 75_000 * 8 / 1_000_000, "a thousandth, and what is paid for ahead"


def test_measuring_takes_half_a_per_cent_of_a_processor_at_most() -> None:
    world = World()
    world.boot()
    world.say(plan(*"bcdefghi"))  # Eight turns a minute, each of which costs this slow machine a tenth of a second.
    began_us, spent_us = world.now_us, 0
    for _ in range(300):
        for _probe in world.take(Probe):
            spent_us += 100_000
            world.event(LinksMeasured(samples=(), cpu_us=100_000))
        world.pass_time(3 * SECOND_US)
    elapsed_us = world.now_us - began_us
    assert 0.005 * elapsed_us < spent_us <= 0.005 * elapsed_us + SECOND_US + 100_000
    world.event(ProbeServed(n_bytes=0, cpu_us=9_000_000))
    world.take(Probe)
    world.pass_time(210 * SECOND_US)
    assert world.take(Probe) == [], "what peers' probes take counts as well"
    assert world.take(NetReport)[-1].measuring_cpu_us == spent_us + 9_000_000


def test_probes_keep_to_the_hourly_budget_and_one_without_an_answer_is_given_up() -> None:
    world = World(config(probe_bytes_per_hour=10_000))
    world.boot()
    world.say(plan("b", bytes_max=1000))
    world.event(LinksMeasured(samples=()))
    n_probes = 1
    for _ in range(3600):
        world.pass_time(SECOND_US)
        for probe in world.take(Probe):
            n_probes += 1
            sample = LinkSample(from_agent="b-1", to_agent="cam-1", method="probe", bytes=probe.bytes_max)
            world.event(LinksMeasured(samples=(sample,)))
    assert 19 <= n_probes <= 22  # A full budget at the start, and what an hour refills.
    world.pass_time(3600 * SECOND_US)
    world.take(Probe)
    world.pass_time(3600 * SECOND_US)
    assert len(world.take(Probe)) > 1
