"""Agents whose way out is paid by the byte, as the master sees them: their rhythm, their offers, who probes them."""

from typing import TypeVar

import pytest

from federation.events import AgentSpoke
from federation.wire import Offer, OfferDelta, ProbePlan, RebirthRequest, Welcome
from tests.master_world import SECOND, Fake, World, resources

T = TypeVar("T")
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND


def world_of(**metered: bool) -> tuple[World, dict[str, Fake]]:
    """Agents by id, each at a site of its own."""
    world = World(solve=False)
    return world, {agent_id: world.agent(agent_id, metered=paid) for agent_id, paid in metered.items()}


def told(fake: Fake, kind: type[T]) -> list[T]:
    return [message for message in fake.heard if isinstance(message, kind)]


def test_it_is_told_a_slower_rhythm_and_its_silence_may_be_longer() -> None:
    world, fakes = world_of(cam=True, vm=False)
    (welcome,), (usual,) = told(fakes["cam"], Welcome), told(fakes["vm"], Welcome)
    assert (welcome.offer_every_us, welcome.ping_every_us) == (2 * MINUTE, 15 * MINUTE)
    assert welcome.offer_lease_us == 6 * MINUTE
    assert welcome.offer_deltas and not usual.offer_deltas
    world.advance(4 * MINUTE, alive=False)
    agents = world.master.core.agents
    assert {agent_id: str(agents[agent_id].state) for agent_id in fakes} == {"cam": "online", "vm": "disconnected"}


def test_a_delta_renews_and_changes_the_offer_before_it() -> None:
    world, fakes = world_of(cam=True)
    cam = fakes["cam"]
    cam.offer(lease_us=6 * MINUTE)
    entry = world.master.core.agents["cam"]
    assert entry.said is not None
    seq = entry.said.seq
    world.advance(5 * MINUTE, alive=False)
    cam.say(OfferDelta, base_seq=seq, cpu_milli=1000)
    assert entry.offer is not None
    assert entry.offer.free == resources(cpu=1) and entry.offer.expires_us == world.now_us + 6 * MINUTE


def test_a_delta_on_an_offer_that_never_came_asks_for_a_birth_once() -> None:
    world, fakes = world_of(cam=True)
    cam = fakes["cam"]
    cam.offer(lease_us=6 * MINUTE)
    entry = world.master.core.agents["cam"]
    before = entry.offer
    lost = cam.message(Offer, offer_id="lost", free=resources(cpu=2), expires_in_us=6 * MINUTE)
    late = cam.message(OfferDelta, base_seq=lost.seq)
    world.handle(AgentSpoke(message=late))
    world.handle(AgentSpoke(message=late))
    assert entry.offer is before and len(told(cam, RebirthRequest)) == 1
    assert world.master.counters["offers_unfounded"] == 2


def test_an_impossible_delta_is_refused_as_the_offer_would_be() -> None:
    world, fakes = world_of(cam=True)
    fakes["cam"].offer(lease_us=6 * MINUTE)
    entry = world.master.core.agents["cam"]
    assert entry.said is not None
    fakes["cam"].say(OfferDelta, base_seq=entry.said.seq, cpu_milli=10**9)
    assert "more than" in entry.broken_word and world.master.counters["offers_impossible"] == 1


def plans(world: World) -> dict[str, dict[str, int]]:
    """Who probes whom, and how often where that is not the plan's."""
    world.advance(2 * SECOND)
    newest = {agent_id: told(fake, ProbePlan)[-1:] for agent_id, fake in world.agents.items()}
    return {
        agent_id: {peer.agent_id: peer.every_us for plan in found for peer in plan.peers}
        for agent_id, found in newest.items()
    }


def test_its_links_are_probed_once_a_day_and_the_others_as_ever() -> None:
    world, _ = world_of(cam=True, one=False, two=False)
    assert plans(world) == {
        "cam": {"one": DAY, "two": DAY},
        "one": {"two": 0, "cam": DAY},
        "two": {"one": 0, "cam": DAY},
    }


def test_it_is_paired_with_few_and_with_another_like_it_only_where_there_is_nobody_else() -> None:
    many = {f"vm-{n}": False for n in range(9)}
    world, _ = world_of(**{"cam-1": True, "cam-2": True}, **many)
    found = plans(world)
    for cam in ("cam-1", "cam-2"):
        assert len(found[cam]) == 4 and not {"cam-1", "cam-2"} & set(found[cam])
        assert {vm for vm in many if cam in found[vm]} == set(found[cam]), "both ways"
    alone, _ = world_of(**{"cam-1": True, "cam-2": True})
    assert plans(alone) == {"cam-1": {"cam-2": DAY}, "cam-2": {"cam-1": DAY}}


@pytest.mark.parametrize("paid", ["a", "b"])
def test_of_a_site_the_one_probes_that_pays_nothing(paid: str) -> None:
    world = World(solve=False)
    for agent_id, site in (("a", "plant"), ("b", "plant"), ("vm", "cloud")):
        world.agent(agent_id, site=site, metered=agent_id == paid)
    assert {peer for peers in plans(world).values() for peer in peers} == {"vm", "b" if paid == "a" else "a"}
