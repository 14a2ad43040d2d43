"""Gangs that talk go where they meet lowest, unless something else is worth more."""

from typing import Any

import msgspec

from policies.conformance import check_plan
from policies.flow import Flow
from policies.model import Communication, Gang, Node, Plan, Running, Snapshot
from tests.policy_worlds import demand, links, node, snapshot

MB = 10**6
SECOND = 1_000_000


def talk(mb: int = 50, **rest: Any) -> Communication:
    return Communication(pattern="allreduce", bytes_per_step=mb * MB, iteration_us=SECOND, **rest)


def gang(size: int = 4, said: Communication | None = None, name: str = "g", **rest: Any) -> Any:
    of = Gang(gang_id=name, size=size, communication=said)
    return demand(name, count=size, run_us=60 * SECOND, gang=of, **rest)


def racks(*named: tuple[str, str, int], **rest: Any) -> list[Node]:
    """(agent, site/rack, cores) each."""
    out = []
    for name, place, cpu in named:
        site, _, rack = place.partition("/")
        out.append(node(name, site, "cloud", cpu=cpu, labels=(("rack", rack),) if rack else (), **rest))
    return out


def planned(world: Snapshot) -> Plan:
    plan = Flow().plan(world)
    check_plan(world, plan)
    assert plan == Flow().plan(world)
    return plan


def on(plan: Plan, name: str = "g") -> dict[str, int]:
    return {each.agent_id: each.count for each in plan.placements if each.demand_id == name}


HUB = racks(("a1", "hub/a", 2), ("b1", "hub/b", 2), ("a2", "hub/a", 1), ("b2", "hub/b", 2))


def test_workers_that_talk_are_put_under_one_rack() -> None:
    assert on(planned(snapshot(HUB, [gang(said=talk())]))) == {"b1": 2, "b2": 2}, "rack a has room for three"


def test_where_no_rack_has_room_they_stay_within_a_site() -> None:
    nodes = [*HUB, *racks(("c1", "far", 4))]
    ways = links({("hub", "far"): 100})
    assert "c1" not in on(planned(snapshot(nodes, [gang(size=5, said=talk())], link=ways)))


def test_those_that_say_little_go_where_the_hardware_is_faster() -> None:
    nodes = [*HUB, *racks(("quick-1", "far", 2), ("quick-2", "hub/a", 2), speed_milli=4000)]
    ways = links({("hub", "far"): 100})
    quiet = on(planned(snapshot(nodes, [gang(said=talk(mb=0))], link=ways)))
    assert quiet == {"quick-1": 2, "quick-2": 2}
    assert "quick-1" not in on(planned(snapshot(nodes, [gang(said=talk())], link=ways)))


def across(loaded: bool) -> Snapshot:
    """Two sites near each other by either of two ways; on the better one another gang may talk."""
    nodes = racks(("x", "x", 3), ("y", "y", 3), ("z", "z", 3))
    ways = links({("x", "y"): 400, ("x", "z"): 300, ("y", "z"): 10})
    if loaded:
        running = [
            msgspec.structs.replace(
                each,
                running=(
                    Running(
                        task_id=f"other/{each.agent_id}", role="default", needs=gang().needs, since_us=0,
                        gang_id="other", communication=talk(mb=40),
                    ),
                ),
            )
            for each in nodes[:2]
        ]  # fmt: skip
        nodes = [*running, nodes[2]]
    return snapshot(nodes, [gang(said=talk(mb=20))], link=ways)


def test_what_gangs_send_is_charged_to_the_links_they_use() -> None:
    assert set(on(planned(across(loaded=False)))) == {"x", "y"}
    assert set(on(planned(across(loaded=True)))) == {"x", "z"}, "320 of the 400 Mbit/s are taken"


def test_two_gangs_of_one_round_do_not_choose_the_same_link() -> None:
    nodes = racks(("x", "x", 4), ("y", "y", 2), ("z", "z", 2))
    ways = links({("x", "y"): 400, ("x", "z"): 390, ("y", "z"): 10})
    both = [gang(size=3, said=talk(mb=20), name=name) for name in ("g", "h")]
    world = snapshot([*nodes, *racks(("w", "w", 4))], both, link=[*ways, *links({("w", "x"): 5, ("w", "y"): 5})])
    plan = planned(world)
    assert sum(on(plan, "g").values()) == 3 == sum(on(plan, "h").values())
    assert set(on(plan, "g")).isdisjoint(on(plan, "h")) or on(plan, "g") != on(plan, "h")


def test_a_gang_that_gets_no_room_in_its_part_may_go_anywhere() -> None:
    nodes = racks(("a1", "hub/a", 2), ("b1", "hub/b", 1), ("c1", "hub/c", 1))
    urgent = demand("first", count=1, priority=100, run_us=600 * SECOND, oldest_us=0)
    world = snapshot(nodes, [gang(size=2, said=talk(mb=1)), urgent])
    plan = planned(world)
    assert sum(on(plan).values()) == 2 and sum(on(plan, "first").values()) == 1
