"""Predictive: what was read at a place and time of day is brought there before that time comes again."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.jobs import Write
from policies.fifo import Fifo
from policies.forecast.daily_peak import DailyPeak
from policies.model import Link, Needs, Plan, Running, Shard, Snapshot, Transfer, Where
from policies.predictive import DAY_US, Habit, Predictive
from policies.workload import Workload, kind_of
from tests.master_world import GIB, SECOND, World, group, job, resources
from tests.policy_worlds import MB, demand, links, node, snapshot

HOUR_US = 3_600 * SECOND
LINES = {("rack", "shop"): 20, ("rack", "kiosk"): 20}


def shard(number: int, *agents: str, name: str = "model-{}", size: int = 100 * MB, **rest: Any) -> Shard:
    return Shard(shard_id=f"id-{number}", size_bytes=size, name=name.format(number), replicas=agents, **rest)


def world(
    at_us: int, shards: list[Shard], reads: tuple[str, ...] = (), link: list[Link] | None = None, **rest: Any
) -> Snapshot:
    wanted = [demand("d", reads=reads, where=_AT_SHOP)] if reads else []
    nodes = [node("vm", "rack", "cloud"), node("box", "shop"), node("till", "kiosk")]
    return snapshot(nodes, wanted, shards, links(LINES) if link is None else link, now_us=at_us, **rest)


_AT_SHOP = Where(sites=("shop",))


def moves(plan: Plan) -> list[tuple[str, str, str]]:
    return [(move.shard_id, move.from_agent, move.to_agent) for move in plan.moves]


def after_a_morning(policy: Predictive, at_us: int = 9 * HOUR_US) -> Plan:
    return policy.plan(world(at_us, [shard(1, "vm")], ("id-1",)))


def test_names_that_differ_in_numbers_are_of_one_kind() -> None:
    assert kind_of("night-2/train/0/model") == kind_of("night-31/train/7/model") == "night-#/train/#/model"
    assert kind_of("night/model") != kind_of("night-2/model")


def test_it_watches_what_was_read_and_brings_tomorrows_before_it_is_asked_for() -> None:
    policy = Predictive(Fifo)
    plan = after_a_morning(policy)
    assert plan.watches == ("model-*",) and not plan.moves
    early = policy.plan(world(DAY_US + HOUR_US, [shard(2, "vm")]))
    assert moves(early) == [], "eight hours before is too early"
    ready = policy.plan(world(DAY_US + 5 * HOUR_US, [shard(1, "vm", "box"), shard(2, "vm")]))
    assert moves(ready) == [("id-2", "vm", "box")], "to where it was read; what was read already stays"
    assert ready.moves[0].saving_us == 40 * SECOND
    again = policy.plan(world(DAY_US + 5 * HOUR_US + SECOND, [shard(2, "vm")]))
    assert moves(again) == [], "it is on its way"
    lost = policy.plan(world(DAY_US + 6 * HOUR_US, [shard(2, "vm")]))
    assert moves(lost) == [("id-2", "vm", "box")], "but not for ever"
    assert moves(policy.plan(world(DAY_US + 7 * HOUR_US, [shard(2, "box", "vm")]))) == [], "it is there"


def test_a_habit_that_ended_is_forgotten() -> None:
    habit = Habit()
    habit.note(3, 0, DAY_US, 1)
    assert [habit.at(3, day * DAY_US, DAY_US) for day in (0, 1, 3)] == [1.0, 0.5, 0.125]
    policy = Predictive(Fifo)
    after_a_morning(policy)
    assert moves(policy.plan(world(2 * DAY_US + 5 * HOUR_US, [shard(2, "vm")])))
    gone = Predictive(Fifo)
    after_a_morning(gone)
    assert not moves(gone.plan(world(4 * DAY_US + 5 * HOUR_US, [shard(2, "vm")])))


@pytest.mark.parametrize(
    "rest",
    [
        {"shards": [shard(2, "vm", sites=("rack",))]},
        {"shards": [shard(2, "vm", name="other-{}")]},
        {"shards": [shard(2)]},
        {"shards": [shard(2, "vm", size=2**50)]},
        {"shards": [shard(2, "vm")], "link": []},
        {"shards": [shard(2, "vm")], "transfers": (Transfer(from_site="rack", to_site="shop", left_bytes=MB),)},
    ],
    ids=["residency", "another kind", "nobody has it", "no room", "nobody measured", "the link is busy"],
)
def test_nothing_is_moved_that_may_not_or_had_better_not(rest: dict[str, Any]) -> None:
    policy = Predictive(Fifo)
    after_a_morning(policy)
    assert not policy.plan(world(DAY_US + 5 * HOUR_US, **rest)).moves


def test_a_copy_waits_for_the_hours_in_which_the_link_was_fast() -> None:
    policy = Predictive(Fifo)
    policy.plan(world(6 * HOUR_US, [], link=links({("rack", "shop"): 80})))
    after_a_morning(policy)
    assert not moves(policy.plan(world(DAY_US + 5 * HOUR_US, [shard(2, "vm")]))), "at six it was four times as fast"
    assert moves(policy.plan(world(DAY_US + 6 * HOUR_US, [shard(2, "vm")], link=links({("rack", "shop"): 80}))))
    late = Predictive(Fifo)
    late.plan(world(9 * HOUR_US - SECOND, [], link=links({("rack", "shop"): 80})))
    after_a_morning(late)
    huge = shard(2, "vm", size=10**10)
    assert moves(late.plan(world(DAY_US + 7 * HOUR_US, [huge]))), "the fast hour comes too late for so much"


# --- how much work there will be ------------------------------------------------------------------------------------


def crowd(at_us: int, count: int = 0, shards: list[Shard] | None = None, **rest: Any) -> Snapshot:
    """Three sites of four cores each; `count` tasks that may run at any of them wait to read the model."""
    given = {"role": "shops", "profile": "score", "reads": ("id-1",), **rest}
    wanted = [demand("d", count, **given)] if count else []
    nodes = [node("vm", "rack", "cloud", cpu=4), node("box", "shop", cpu=4), node("till", "kiosk", cpu=4)]
    lines = links({("rack", "shop"): 40, ("rack", "kiosk"): 20})
    return snapshot(nodes, wanted, shards or [shard(1, "vm")], lines, now_us=at_us)


def next_day(count: int, at_us: int = DAY_US + 5 * HOUR_US, **rest: Any) -> list[tuple[str, str, str]]:
    """What is copied four hours before so many tasks came the day before."""
    policy = Predictive(Fifo)
    policy.plan(crowd(9 * HOUR_US, count, **rest))
    policy.plan(crowd(9 * HOUR_US + 60 * SECOND))
    return moves(policy.plan(crowd(at_us)))


def test_where_work_will_overflow_its_data_goes_to_as_many_sites_as_it_takes() -> None:
    assert next_day(4) == [], "the site that has the model has room for them"
    assert next_day(8) == [("id-1", "vm", "box")], "half of them will go elsewhere: where the model comes to soonest"
    assert next_day(12) == [("id-1", "vm", "box"), ("id-1", "vm", "till")]
    assert next_day(12, at_us=DAY_US + HOUR_US) == [], "eight hours before is too early"
    assert next_day(12, where=Where(sites=("rack",))) == [], "they may not go elsewhere"
    assert next_day(12, where=Where(sites=("rack", "kiosk"))) == [("id-1", "vm", "till")]


def test_running_work_is_demand_and_another_role_is_not_the_same() -> None:
    policy = Predictive(Fifo)
    policy.plan(crowd(9 * HOUR_US, 6, role="others"))
    policy.plan(crowd(9 * HOUR_US + SECOND, 4))
    assert moves(policy.plan(crowd(DAY_US + 5 * HOUR_US))) == [("id-1", "vm", "box")], "six of one, four of another"
    running = Running(task_id="t", role="shops", needs=Needs(cpu_milli=1000), since_us=0, profile="score")
    workload = Workload(DAY_US, 96, 24)
    workload.note(crowd(9 * HOUR_US, 4))
    busy = crowd(9 * HOUR_US + SECOND, 4)
    vm = msgspec.structs.replace(busy.nodes[1], running=(running,) * 3)
    workload.note(msgspec.structs.replace(busy, nodes=(busy.nodes[0], vm, busy.nodes[2])))
    workload.note(crowd(DAY_US + 8 * HOUR_US))
    assert max(workload.streams["shops", "score"].peak.ahead()) == 7


def test_many_shards_read_at_once_are_each_read_by_their_part() -> None:
    models = [shard(n, "vm") for n in range(1, 5)]
    policy = Predictive(Fifo)
    classes = [demand(f"d{n}", 2, role="shops", profile="score", reads=(f"id-{n}",)) for n in range(1, 5)]
    base = crowd(9 * HOUR_US, shards=models)
    policy.plan(msgspec.structs.replace(base, demands=tuple(classes)))
    ready = policy.plan(crowd(DAY_US + 5 * HOUR_US, shards=models))
    assert len(ready.moves) <= 1, "one over a link at a time"
    assert {move.to_agent for move in ready.moves} == {"box"}, "eight tasks, four places where the models are"


@given(
    rates=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 3 * DAY_US)), min_size=1, max_size=30),
    cut=st.integers(0, 29),
)
def test_a_daily_peak_is_within_what_was_and_goes_on_from_its_state(rates: list[tuple[int, int]], cut: int) -> None:
    peak, other = DailyPeak(DAY_US, 96, 24), DailyPeak(DAY_US, 96, 24)
    at_us = most = 0
    for n, (rate, gap_us) in enumerate(rates):
        if n == cut:
            other.restore(peak.state())
        at_us, most = at_us + gap_us, max(most, rate)
        expected = peak.update(float(rate), at_us)
        assert 0 <= expected <= most
        assert n < cut or other.update(float(rate), at_us) == expected


def test_a_peak_that_comes_every_day_is_expected_every_day() -> None:
    peak = DailyPeak(DAY_US, 96, 24)
    for day in range(3):
        begun_us = day * DAY_US
        assert peak.update(0.0, begun_us + 4 * HOUR_US) == (30.0 if day else 0.0)
        peak.update(30.0, begun_us + 9 * HOUR_US)
        peak.update(0.0, begun_us + 10 * HOUR_US)
    assert peak.update(0.0, 5 * DAY_US + 4 * HOUR_US) == 7.5, "half of it for each day on which it did not come"


# --- beside the host ------------------------------------------------------------------------------------------------


def test_the_hosts_own_plan_is_kept() -> None:
    asked = world(HOUR_US, [shard(1, "vm")], ("id-1",))
    plan = Predictive(Fifo).plan(asked)
    assert (plan.placements, plan.refusals) == (Fifo().plan(asked).placements, Fifo().plan(asked).refusals)


def test_the_master_shows_watched_shards_and_asks_while_nothing_waits() -> None:
    class Watching(Fifo):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, tuple[str, ...]]] = []

        def plan(self, snapshot: Snapshot) -> Plan:
            self.seen.append((len(snapshot.demands), tuple(shard.name for shard in snapshot.shards)))
            made = super().plan(snapshot)
            return Plan(placements=made.placements, refusals=made.refusals, watches=("night-*",))

    policy = Watching()
    master = World(policy=policy)
    fake = master.agent(total=resources())
    write = Write(name="model", path="model", bytes_max=GIB)
    master.ask(SubmitJob(job=job("night-1", group(writes=(write,)))))
    fake.end("night-1/train/0")
    rounds = len(policy.seen)
    master.advance(95 * SECOND)
    assert policy.seen[rounds:] == [(0, ("night-1/train/0/model",))] * 3, "every half minute"
