"""The network map plans by forecasts: from when on, for which links, and what stays beside them."""

from typing import Any

import msgspec

from federation import views
from federation.durable import DurableState, capture, restore
from federation.facts import Fact, ForecastKept
from federation.link_track import FORECAST_SAMPLES_MIN
from federation.rounds import make_snapshot
from federation.wire import LinkSample, NetReport
from policies.forecast.horizons import USUAL_US
from policies.kernels.forecast.layout import MODELS
from policies.kernels.forecast.outlook import FIRST
from policies.model import Link
from tests.master_world import SECOND, Fake, World

MBIT = 10**6


def measure(world: World, fake: Fake, rates: list[int], *, every_us: int = 60 * SECOND, **fields: Any) -> None:
    """The agent reports that it fetched from `vm-1` at these rates."""
    for bps in rates:
        world.now_us += every_us
        fetched = LinkSample(
            from_agent="vm-1", to_agent=fake.agent_id, method="transfer", bandwidth_bps=bps, bytes=2**20, **fields
        )
        fake.say(NetReport, samples=(fetched,))


def link(world: World, ends: tuple[str, str] = ("site:cloud", "site:plant")) -> Link:
    found = {(link.from_id, link.to_id): link for link in views.network(world.master, world.now_us).links}
    return found[ends]


def a_plant_and_a_cloud() -> tuple[World, Fake]:
    world = World(solve=False)
    gateway = world.agent("gw-1", site="plant")
    world.agent("vm-1", site="cloud")
    return world, gateway


def test_before_nine_outcomes_a_link_is_what_was_measured() -> None:
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [20 * MBIT, 24 * MBIT, 22 * MBIT, 21 * MBIT])
    young = link(world)
    assert young.bandwidth_bps == young.bandwidth_measured_bps == 20 * MBIT
    assert (young.bandwidth_high_bps, young.forecast_us, young.forecast_by) == (None, None, "")


def test_then_it_is_forecast_with_its_bounds_and_the_measured_stays_beside_it() -> None:
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [(20 + 7 * n % 10) * MBIT for n in range(60)])
    old = link(world)
    assert old.bandwidth_bps is not None and old.bandwidth_high_bps is not None
    assert 15 * MBIT < old.bandwidth_bps < 25 * MBIT < old.bandwidth_high_bps <= 29 * MBIT
    assert old.bandwidth_measured_bps in (21 * MBIT, 22 * MBIT)
    assert old.forecast_us == USUAL_US and old.forecast_by in MODELS
    snapshot, _ = make_snapshot(world.master.core)
    assert old in snapshot.links, "policies plan with the same"


def test_a_link_of_changing_rate_is_planned_with_below_its_lower_quartile() -> None:
    """One fetch in six is slow: the quartile does not see it, the planner that pays for risk does."""
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [(10 if n % 6 == 5 else 50) * MBIT for n in range(120)])
    wild = link(world)
    assert wild.bandwidth_bps is not None and wild.bandwidth_measured_bps == 50 * MBIT
    assert wild.bandwidth_bps <= 20 * MBIT


def test_agents_links_are_forecast_once_they_are_used() -> None:
    world, gateway = a_plant_and_a_cloud()
    tracks = world.master.core.network.tracks
    measure(world, gateway, [20 * MBIT] * (FORECAST_SAMPLES_MIN - 1))
    assert tracks["site:cloud", "site:plant"].forecaster is not None
    assert tracks["agent:vm-1", "agent:gw-1"].forecaster is None
    measure(world, gateway, [20 * MBIT] * (FIRST + 2))
    assert tracks["agent:vm-1", "agent:gw-1"].forecast() is not None


def test_lower_bounds_below_what_is_believed_teach_a_forecast_nothing() -> None:
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [40 * MBIT] * 30)
    before = link(world)
    measure(world, gateway, [2 * MBIT] * 10, is_lower_bound=True)
    assert link(world).bandwidth_bps == before.bandwidth_bps
    assert link(world).bandwidth_measured_bps == 40 * MBIT


def test_what_a_forecaster_learned_outlives_the_master() -> None:
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [(20 + 7 * n % 10) * MBIT for n in range(60)])
    before = link(world)
    world.advance(61 * SECOND)
    kept = [fact for fact in world.facts if isinstance(fact, ForecastKept)]
    assert [(fact.from_site, fact.to_site) for fact in kept] == [("cloud", "plant")]
    assert len(msgspec.msgpack.encode(kept[0])) < 4_000
    world.advance(180 * SECOND)
    assert len([fact for fact in world.facts if isinstance(fact, ForecastKept)]) == 1, "nothing was learned since"
    world.crash()
    gateway.connect()
    world.agents["vm-1"].connect()
    assert not any(each.bandwidth_bps for each in views.network(world.master, world.now_us).links)
    measure(world, gateway, [24 * MBIT])
    after = link(world)
    assert after.forecast_us == USUAL_US, "the first measurement of a term goes on where the last one ended"
    assert before.bandwidth_bps is not None and after.bandwidth_bps is not None
    assert abs(after.bandwidth_bps - before.bandwidth_bps) < MBIT
    assert world.replayed() == world.master.durable()


# What the state of a forecaster was before its layout had a number, as far as that matters here.
EARLIER = {
    "at_us": 60 * SECOND, "samples": 60, "sum_bps": 9, "most_bps": 9, "levels": (1.0,), "models": ((1.0,), (0.2, 3)),
    "bands": ((0.9, 1.1, 0.0, 3, 4.0, 0.01),), "pending": (),
}  # fmt: skip


def test_what_an_earlier_build_had_learned_is_learned_anew() -> None:
    """Its journal is read; the link is planned with as measured until nine forecasts were judged, and is kept again."""
    world, gateway = a_plant_and_a_cloud()
    fact = {"type": "forecast_kept", "at_us": 1, "from_site": "cloud", "to_site": "plant", "state": EARLIER}
    earlier = msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=Fact)
    assert isinstance(earlier, ForecastKept) and not earlier.state.is_known()
    world.facts.append(earlier)
    world.crash()
    assert world.master.durable().forecasts == () and world.replayed() == world.master.durable()
    gateway.connect()
    world.agents["vm-1"].connect()
    measure(world, gateway, [24 * MBIT] * 3)
    young = link(world)
    assert young.bandwidth_bps == 24 * MBIT and young.forecast_us is None
    measure(world, gateway, [24 * MBIT] * 60)
    assert link(world).forecast_us == USUAL_US
    world.advance(61 * SECOND)
    ((from_site, to_site, state),) = world.master.durable().forecasts
    assert (from_site, to_site) == ("cloud", "plant") and state.is_known()


def test_a_snapshot_of_an_earlier_build_is_read_without_its_forecasts() -> None:
    world, _ = a_plant_and_a_cloud()
    before = world.master.durable()
    old = msgspec.to_builtins(before) | {"forecasts": [["cloud", "plant", EARLIER]]}
    core = World(solve=False).master.core
    restore(core, msgspec.convert(old, DurableState))
    assert core.network.kept == {} and capture(core) == before
