"""Simulated agents measure as live ones do: beside nobody, or saying so."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from federation import views
from policies.registry import load
from scenarios.fabric import Fabric, Sight
from scenarios.format import load_world
from scenarios.network import Flow
from scenarios.player import START_US, play

QUICKSTART = Path(__file__).parents[1] / "scenarios" / "quickstart.yaml"
SECOND_US = 1_000_000
MBIT = 1_000_000


def test_three_probers_of_one_gateway_see_its_uplink_not_a_third_of_it() -> None:
    world = replace(load_world(QUICKSTART), duration_us=19 * SECOND_US)  # before the job arrives
    outcome = play(world, load("fifo"), "fifo")
    links = views.network(outcome.master, START_US + outcome.ended_us).links
    found = {(link.from_id, link.to_id): link.bandwidth_bps for link in links}
    for site, mbit in (("plant-slow", 2), ("plant-mid", 20), ("plant-fast", 200)):
        for ends in ((f"site:{site}", "site:rack-1"), ("site:rack-1", f"site:{site}")):
            assert found[ends] == pytest.approx(mbit * MBIT, rel=0.15), ends


def fabric() -> Fabric:
    return Fabric(load_world(QUICKSTART))


def test_a_way_is_busy_while_its_sender_sends_or_its_receiver_receives() -> None:
    one = fabric()
    one.transfer("gw-slow", "vm", 1_000_000, 0, lambda *_: None)
    assert one.is_busy("gw-slow", "gw-mid") and one.is_busy("gw-mid", "vm") and one.is_busy("gw-slow", "vm")
    assert not one.is_busy("vm", "gw-slow") and not one.is_busy("gw-mid", "gw-slow")


def test_a_transfer_tells_what_it_shared_the_way_with() -> None:
    one = fabric()
    sights: dict[str, Sight] = {}

    def noted(name: str):  # type: ignore[no-untyped-def]
        def on_end(_: int, __: Flow, sight: Sight) -> None:
            sights[name] = sight

        return on_end

    for name in ("first", "second"):
        one.transfer("gw-mid", "vm", 1_000_000, 0, noted(name))
    one.transfer("vm", "gw-mid", 1_000_000, 0, noted("back"))
    while (at_us := one.next_end_us()) is not None:
        one.settle(at_us)
    start_us = SECOND_US * 100
    one.transfer("gw-slow", "vm", 1_000_000, start_us, noted("to the rack"))
    one.transfer("gw-slow", "gw-mid", 1_000_000, start_us, noted("to a plant"))
    while (at_us := one.next_end_us()) is not None:
        one.settle(at_us)
    assert {name: (sight.shared_milli // 100, sight.is_lower_bound) for name, sight in sights.items()} == {
        "first": (20, False),
        "second": (20, False),
        "back": (10, False),
        "to the rack": (10, True),
        "to a plant": (10, True),
    }
