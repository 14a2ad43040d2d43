"""Predictive: what was read at a place and time of day is brought there before that time comes again."""

from typing import Any

import pytest

from federation.api import SubmitJob
from federation.jobs import Write
from policies.fifo import Fifo
from policies.model import Link, Plan, Shard, Snapshot, Transfer, Where
from policies.predictive import DAY_US, Habit, Predictive, kind_of
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
