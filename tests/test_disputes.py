"""A link that its two ends tell differently of is flagged, attracts nothing, and teaches its sites nothing."""

from federation.wire import LinkSample, NetReport
from policies.model import Link
from tests.master_world import Fake, World
from tests.test_master_network import links

MBIT = 10**6
MB = 10**6


def told(fake: Fake, from_agent: str, to_agent: str, mbit: int, times: int = 3) -> None:
    sample = LinkSample(
        from_agent=from_agent, to_agent=to_agent, method="transfer", bandwidth_bps=mbit * MBIT, bytes=32 * MB,
        duration_us=32 * 8_000_000 // mbit,
    )  # fmt: skip
    for _ in range(times):
        fake.say(NetReport, samples=(sample,))


def world_of(received: int, sent: int | None) -> World:
    world = World(solve=False)
    depot, bench, other = (world.agent(name, site=site) for name, site in
                           (("depot", "east"), ("bench", "lab"), ("other", "lab")))  # fmt: skip
    told(other, "depot", "other", 20)
    told(bench, "depot", "bench", received, times=1)
    for _ in range(3):
        if sent is not None:
            told(depot, "depot", "bench", sent, times=1)
        told(bench, "depot", "bench", received, times=1)
    return world


def own_link(world: World) -> Link:
    track = world.master.core.network.tracks["agent:depot", "agent:bench"]
    return track.estimate(world.now_us, 300_000_000)


def test_who_boasts_is_disputed_and_the_lower_word_counts() -> None:
    world = world_of(received=200, sent=20)
    own = links(world)["agent:depot", "agent:bench"]
    assert own.is_disputed and own.bandwidth_bps == 20 * MBIT and own.confidence_ppm < 250_000
    assert world.master.core.network.transfer_bps("depot", "bench", 10**6, world.now_us) == 20 * MBIT
    assert not links(world)["site:east", "site:lab"].is_disputed


def test_a_sender_that_boasts_attracts_no_more() -> None:
    own = own_link(world_of(received=20, sent=200))
    assert own.is_disputed and own.bandwidth_bps == 20 * MBIT


def test_ends_that_agree_are_believed_and_one_end_alone_is_believed_less() -> None:
    both, alone = own_link(world_of(received=60, sent=66)), own_link(world_of(received=60, sent=None))
    assert not both.is_disputed and not alone.is_disputed
    assert alone.confidence_ppm < both.confidence_ppm
