"""Transfers are planned with what their link is forecast to give over the time that they take."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.wire import HeldShard
from policies.cost import CostModel, costs
from policies.forecast.forecaster import Forecaster, ForecasterState
from policies.forecast.horizons import BOUNDS_US, HORIZONS_US, USUAL_US, horizon_of, nearest, rate_bps
from policies.kernels.forecast.layout import FORGET_US, HORIZON, USUAL
from policies.kernels.forecast.outlook import FIRST
from policies.lower import Lowerer
from policies.model import Link, Shard, Where
from tests.master_world import SECOND, group, job, sha
from tests.policy_worlds import MB, demand, node, snapshot
from tests.test_forecast_links import a_plant_and_a_cloud, link, measure

MBIT = 10**6
SHORT_US, LONG_US = HORIZONS_US[0], HORIZONS_US[-1]


def noisy(forecaster: Forecaster, n: int, begun_s: int = 0, asked_us: int = 0) -> Forecaster:
    """Rates that differ from second to second: the mean of a few is lower at its worst than the mean of many."""
    for k in range(begun_s, begun_s + n):
        forecaster.update(int(50 * MBIT * (1 + 0.8 * math.sin(k * k))), k * SECOND)
        if asked_us:
            forecaster.forecast_over(asked_us)
    return forecaster


def horizons_of(state: ForecasterState) -> list[int]:
    """Beside the usual one."""
    return [outlook[HORIZON] for outlook in state.ints[USUAL + 1 :]]


@given(st.integers(0, 10**9))
def test_a_time_has_the_horizon_that_is_nearest_to_it_by_ratio(time_us: int) -> None:
    found = horizon_of(time_us)
    assert found in HORIZONS_US and found == nearest(max(1, time_us), HORIZONS_US)
    assert [horizon_of(bound_us) for bound_us in BOUNDS_US] == list(HORIZONS_US[:-1])


@pytest.mark.kernel
def test_what_nobody_asks_for_is_not_learned_and_is_forgotten_after_an_hour() -> None:
    quiet = noisy(Forecaster(), 300)
    assert horizons_of(quiet.state()) == []
    asked = noisy(Forecaster(), 300, asked_us=SHORT_US)
    assert horizons_of(asked.state()) == [SHORT_US]
    assert asked.forecast() == quiet.forecast(), "the usual one does not depend on it"
    for k in range(300 + FORGET_US // SECOND, 320 + FORGET_US // SECOND):
        asked.update(50 * MBIT, k * SECOND)
    assert horizons_of(asked.state()) == []


def test_the_worst_of_a_few_seconds_is_below_the_worst_of_minutes() -> None:
    forecaster = Forecaster()
    for k in range(1500):
        forecaster.update(int(50 * MBIT * (1 + 0.8 * math.sin(k * k))), k * SECOND)
        found = [forecaster.forecast_over(horizon_us) for horizon_us in (SHORT_US, USUAL_US, LONG_US)]
    lows = [each.low_bps for each in found if each is not None and each.outcomes >= FIRST]
    assert len(lows) == 3 and lows[0] < 0.9 * lows[1] and lows == sorted(lows)


def test_a_short_transfer_waits_for_its_horizon_to_have_been_judged_nine_times() -> None:
    world, gateway = a_plant_and_a_cloud()
    measure(world, gateway, [20 * MBIT] * 30)
    track = world.master.core.network.tracks["site:cloud", "site:plant"]
    usual_bps = track.bandwidth_bps(world.now_us)
    assert track.transfer_bps(MB, world.now_us) == usual_bps and track.bandwidth_over((SHORT_US,), world.now_us) == ()
    measure(world, gateway, [20 * MBIT, 5 * MBIT] * FIRST)
    ((horizon_us, short_bps),) = track.bandwidth_over((SHORT_US,), world.now_us)
    assert horizon_us == SHORT_US and track.transfer_bps(MB, world.now_us) == short_bps


def test_links_are_forecast_over_what_pending_reads_take_and_no_others() -> None:
    world, gateway = a_plant_and_a_cloud()
    holder: dict[str, HeldShard] = world.agents["vm-1"].shards
    for n, megabytes in ((1, 2), (2, 90)):  # of 20 Mbit/s: 0.8 s and 36 s
        holder[sha(n)] = HeldShard(shard_id=sha(n), size_bytes=megabytes * MB, name=f"data-{n}")
    world.agents["vm-1"].connect()

    def submit(name: str, reads: str) -> None:
        spec = group(reads=(reads,), where=Where(sites=("plant",)))
        world.ask(SubmitJob(job=job(name, spec), submission_id=name))

    def over(ends: tuple[str, str] = ("site:cloud", "site:plant")) -> list[int]:
        return [horizon_us for horizon_us, _ in link(world, ends).bandwidth_over]

    measure(world, gateway, [20 * MBIT] * 30)
    submit("long", "data-2")
    measure(world, gateway, [20 * MBIT] * 30)
    assert over() == [], "half a minute is the usual one"
    submit("short", "data-1")
    measure(world, gateway, [20 * MBIT] * 30)
    assert over() == [SHORT_US, 15 * SECOND]
    track = world.master.core.network.tracks["site:cloud", "site:plant"]
    assert track.forecaster is not None
    kept = Forecaster()
    kept.restore(track.forecaster.state())
    assert kept.forecast_over(SHORT_US) == track.forecaster.forecast_over(SHORT_US)


def test_a_transfer_costs_what_the_link_gives_over_the_time_that_it_takes() -> None:
    """Of one link: 8 Mbit/s over half a minute, 4 over five seconds, 10 over two minutes."""
    given = Link(
        from_id="site:plant", to_id="site:rack", rtt_us=0, bandwidth_bps=8 * MBIT, forecast_us=USUAL_US,
        bandwidth_over=((SHORT_US, 4 * MBIT), (LONG_US, 10 * MBIT)),
    )  # fmt: skip
    sizes = {"short": 2 * MB, "usual": 30 * MB, "long": 200 * MB}
    shards = [Shard(shard_id=name, size_bytes=size, replicas=("edge",)) for name, size in sizes.items()]
    nodes = [node("edge", "plant", cpu=0), node("cloud", "rack", "cloud", cpu=4)]
    world = snapshot(nodes, [demand(name, reads=(name,)) for name in sizes], shards, [given])
    columns = Lowerer().lower(world)
    priced = costs(columns, CostModel())
    group_of_cloud = int(columns.group[[each.agent_id for each in world.nodes].index("cloud")])
    found = {each.demand_id: int(priced.transfer_us[c, group_of_cloud]) for c, each in enumerate(world.demands)}
    assert found == {"long": 160 * SECOND, "short": 4 * SECOND, "usual": 30 * SECOND}
    assert [rate_bps(given, sizes[name]) for name in ("short", "usual", "long")] == [4 * MBIT, 8 * MBIT, 10 * MBIT]


@pytest.mark.parametrize(("n_bytes", "expected"), [(MB, 4 * MBIT), (12 * MB, 8 * MBIT), (100 * MB, 8 * MBIT)])
def test_a_horizon_that_is_not_forecast_has_the_nearest_ones_rate(n_bytes: int, expected: int) -> None:
    """Five and thirty seconds are known: a quarter of a minute is nearer to thirty."""
    some = Link(from_id="site:a", to_id="site:b", bandwidth_bps=8 * MBIT, bandwidth_over=((SHORT_US, 4 * MBIT),))
    assert rate_bps(some, n_bytes) == expected
    assert rate_bps(Link(from_id="site:a", to_id="site:b"), n_bytes) is None
