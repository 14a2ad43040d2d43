"""The baseline: order decides, links do not."""

from policies.conformance import check_plan
from policies.fifo import Fifo
from policies.model import Gang, Reason, Snapshot
from tests.policy_worlds import demand, node, reasons, snapshot, three_uplinks, where


def planned(world: Snapshot) -> dict[str, dict[str, int]]:
    plan = Fifo().plan(world)
    check_plan(world, plan)
    return where(plan)


def test_priority_then_age_then_the_first_agent_that_fits() -> None:
    nodes = [node("a", "x", cpu=2), node("b", "x", cpu=2)]
    demands = [
        demand("late", 2, oldest_us=9),
        demand("early", 1, oldest_us=1),
        demand("vip", 1, priority=9, oldest_us=99),
    ]
    assert planned(snapshot(nodes, demands)) == {"vip": {"a": 1}, "early": {"a": 1}, "late": {"b": 2}}


def test_it_is_blind_to_links() -> None:
    assert {agent for at in planned(three_uplinks()).values() for agent in at} == {"cloud"}


def test_a_gang_that_does_not_fit_leaves_its_place_to_others() -> None:
    demands = [demand("g", 3, gang=Gang(gang_id="g", size=3), priority=9), demand("single", 2)]
    world = snapshot([node("a", "x", cpu=2)], demands)
    assert planned(world) == {"single": {"a": 2}}
    assert list(reasons(Fifo().plan(world), "g")) == [Reason.GANG, Reason.QUEUE]
