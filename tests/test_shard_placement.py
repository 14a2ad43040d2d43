"""Replicas go where coming reads are cheapest, within storage and residency, and are ordered once."""

import msgspec

from policies.conformance import check_plan
from policies.flow import Flow
from policies.model import Needs, Release, Resources, Shard, ShardMove, Snapshot, Transfer, Where
from tests.policy_worlds import GIB, MB, demand, links, node, snapshot

LINKS = links({("plant", "rack"): 8, ("plant", "shop"): 8, ("rack", "shop"): 800})
NODES = [node("home", "plant"), node("rack-1", "rack", "cloud", cpu=8), node("till", "shop")]


def moves(world: Snapshot, policy: Flow | None = None) -> list[ShardMove]:
    plan = (policy or Flow()).plan(world)
    check_plan(world, plan)
    return list(plan.moves)


def shard(**rest: object) -> Shard:
    return msgspec.structs.replace(
        Shard(shard_id="s", size_bytes=10 * MB, replicas=("home",), replicas_wanted=2), **rest
    )


def ends(found: list[ShardMove]) -> list[tuple[str, str]]:
    return [(move.from_agent, move.to_agent) for move in found]


def test_a_lacking_replica_is_copied_from_the_nearest_source() -> None:
    both = shard(replicas=("home", "rack-1"), replicas_wanted=3)
    assert ends(moves(snapshot(NODES, [], [both], LINKS))) == [("rack-1", "till")]


def test_enough_replicas_stay_where_they_are() -> None:
    assert moves(snapshot(NODES, [], [shard(replicas_wanted=1)], LINKS)) == []


def test_the_store_serves_what_no_agent_has() -> None:
    (move,) = moves(snapshot(NODES, [], [shard(replicas=(), replicas_wanted=1, in_store=True)], LINKS))
    assert move.from_agent == ""


def test_it_goes_to_those_who_will_read_it() -> None:
    full = Resources(memory_bytes=64 * GIB, disk_bytes=GIB)
    release = Release(in_us=10**6, needs=Needs(cpu_milli=1000, memory_bytes=GIB))
    busy = node("till", "shop", speed_milli=8000, free=full, releases=(release,))
    readers = demand("d", 3, reads=("s",), where=Where(sites=("shop",)))
    (move,) = moves(snapshot([NODES[0], NODES[1], busy], [readers], [shard()], LINKS))
    assert move.to_agent == "till" and move.saving_us > 0


def test_a_copy_waits_behind_what_its_link_is_busy_with_as_the_read_that_it_would_spare() -> None:
    """One read of what is elsewhere is never spared by a copy over the same link, however long its queue is."""
    release = Release(in_us=60 * 10**6, needs=Needs(cpu_milli=1000, memory_bytes=GIB))
    busy = node("till", "shop", free=Resources(memory_bytes=64 * GIB, disk_bytes=GIB), releases=(release,))
    for left_bytes in (0, 10 * MB, 1000 * MB):
        under_way = (Transfer(from_site="plant", to_site="shop", left_bytes=left_bytes),)
        for n_readers, n_copies in ((1, 0), (4, 1)):
            readers = demand("d", n_readers, reads=("s",), where=Where(sites=("shop",)))
            world = snapshot([NODES[0], busy], [readers], [shard(replicas_wanted=1)], LINKS, transfers=under_way)
            assert len(moves(world)) == n_copies, (left_bytes, n_readers)


def test_residency_and_room_close_agents() -> None:
    assert moves(snapshot(NODES, [], [shard(sites=("plant",))], LINKS)) == []
    tiny = Resources(cpu_milli=1000, disk_bytes=MB)
    nodes = [NODES[0], node("rack-1", "rack", free=tiny), node("till", "shop", free=tiny)]
    assert moves(snapshot(nodes, [], [shard()], LINKS)) == []


def test_another_site_protects_more_than_another_agent_of_the_same() -> None:
    nodes = [*NODES, node("home-2", "plant")]
    assert ends(moves(snapshot(nodes, [], [shard()], LINKS))) in ([("home", "rack-1")], [("home", "till")])


def test_what_is_on_its_way_is_not_ordered_again_until_it_is_overdue() -> None:
    policy = Flow()
    (first,) = moves(snapshot(NODES, [], [shard()], LINKS, now_us=0), policy)
    assert moves(snapshot(NODES, [], [shard()], LINKS, now_us=1_000_000), policy) == []
    overdue_us = 2 * (20_000 + 10_000_000) + 30_000_000
    assert ends(moves(snapshot(NODES, [], [shard()], LINKS, now_us=overdue_us), policy)) == [
        (first.from_agent, first.to_agent)
    ]
    arrived = shard(replicas=tuple(sorted(("home", first.to_agent))))
    assert moves(snapshot(NODES, [], [arrived], LINKS, now_us=overdue_us + 1), policy) == []


def test_many_at_once_share_the_disks_there_are() -> None:
    small = Resources(cpu_milli=1000, memory_bytes=GIB, disk_bytes=35 * MB)
    nodes = [NODES[0], node("a", "rack", free=small), node("b", "shop", free=small)]
    shards = [shard(shard_id=f"s{n}") for n in range(9)]
    found = moves(snapshot(nodes, [], shards, LINKS))
    assert sorted(move.to_agent for move in found) == ["a", "a", "a", "b", "b", "b"]
