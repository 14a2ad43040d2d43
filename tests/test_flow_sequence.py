"""Who goes first: of those who want one place, whoever holds up the others least for its weight (Smith's rule)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.flow import Flow
from policies.model import Gang, Needs, Node, Release
from policies.model.plan import Plan
from tests.policy_worlds import GIB, demand, node, snapshot, where

FOUR = Needs(cpu_milli=4000, memory_bytes=GIB)


def busy(agent_id: str, cores: int, free: int, in_s: int) -> Node:
    """An agent of one site with so many cores, the others of which come back in so many seconds."""
    needs = Needs(cpu_milli=(cores - free) * 1000, memory_bytes=GIB)
    return node(agent_id, "rack", cpu=free, releases=(Release(in_us=in_s * 1_000_000, needs=needs),))


def plan(
    nodes: list[Node], runs_s: dict[str, float], needs: dict[str, Needs] | None = None, **rest: dict[str, Any]
) -> Plan:
    """Of one task each that runs so long."""
    one = Needs(cpu_milli=1000, memory_bytes=GIB)
    demands = [
        demand(name, needs=(needs or {}).get(name, one), run_us=int(run_s * 1e6), **rest.get(name, {}))
        for name, run_s in runs_s.items()
    ]
    return Flow().plan(snapshot(nodes, demands, now_us=10**9))


def test_the_short_one_goes_first_and_the_long_one_waits_for_its_end() -> None:
    """Four cores free, four more in 20 s: 3 + 37 s instead of 34 + 23."""
    found = plan([busy("vm", cores=8, free=4, in_s=20)], {"long": 34, "short": 3}, {"long": FOUR})
    assert where(found) == {"short": {"vm": 1}}
    waits = {each.demand_id: each.waits_for for each in found.refusals}["long"]
    assert waits is not None and waits.terms.wait_us == 3_000_000


def test_one_core_for_long_does_not_hold_up_sixty_four() -> None:
    """A task of one core and 30 s would save 40 s by going first, and 64 cores would stand still for 30."""
    needs = {"wide": Needs(cpu_milli=64_000, memory_bytes=GIB)}
    found = plan([busy("vm", cores=128, free=64, in_s=40)], {"narrow": 30, "wide": 34}, needs)
    assert where(found) == {"wide": {"vm": 1}}


def test_what_would_wait_elsewhere_may_go_first_here() -> None:
    nodes = [busy("a", cores=2, free=1, in_s=60), busy("b", cores=1, free=0, in_s=20)]
    assert "short" in where(plan(nodes, {"long": 50, "longer": 55, "short": 2}))


def test_weight_counts_as_much_as_time() -> None:
    """Twenty priorities are a weight of four: enough against a third of the time, not against a tenth."""
    nodes = [busy("vm", cores=2, free=1, in_s=200)]
    urgent = {"urgent": {"priority": 20}}
    assert where(plan(nodes, {"urgent": 30, "short": 10}, None, **urgent)) == {"urgent": {"vm": 1}}
    assert where(plan(nodes, {"urgent": 30, "short": 3}, None, **urgent)) == {"short": {"vm": 1}}


def test_nobody_waits_past_its_deadline_for_another() -> None:
    for left_s, first in ((40, "short"), (35, "long")):
        rest = {"long": {"deadline_us": 10**9 + left_s * 1_000_000}, "short": {"priority": 10}}
        found = plan([busy("vm", cores=8, free=4, in_s=20)], {"long": 34, "short": 2}, {"long": FOUR}, **rest)
        assert list(where(found)) == [first]


def test_services_keep_their_turn() -> None:
    """They answer clients, and do not end: neither is what they hold up told by how long they run."""
    service = {"long": {"is_service": True}}
    found = plan([busy("vm", cores=8, free=4, in_s=20)], {"long": 34, "short": 3}, {"long": FOUR}, **service)
    assert list(where(found)) == ["long"]


def test_gangs_keep_their_turn() -> None:
    together = {"long": {"gang": Gang(gang_id="g", size=1)}}
    found = plan([busy("vm", cores=8, free=4, in_s=20)], {"long": 34, "short": 3}, {"long": FOUR}, **together)
    assert where(found) == {"long": {"vm": 1}}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=8, unique=True))
def test_of_many_for_one_place_the_shortest_starts(runs_s: list[int]) -> None:
    found = plan([node("vm", "rack", cpu=1)], {f"t{n}": run_s for n, run_s in enumerate(runs_s)})
    assert list(where(found)) == [f"t{runs_s.index(min(runs_s))}"]
