"""A policy may raise, exit, hang or talk nonsense: a round loses its plan, never the master."""

import sys
import threading
from collections.abc import Callable

import pytest

from federation.events import PlanFailed, PlanReady
from federation.solver import HUNG_MAX, Contained, Solver
from policies.fifo import Fifo
from policies.model import Demand, Needs, Node, Placement, Plan, Resources, Snapshot

SNAPSHOT = Snapshot(now_us=1)


class Scripted:
    """A policy that does the next thing of its script each time it is asked."""

    def __init__(self, *script: Callable[[], object]) -> None:
        self._script = iter(script)

    def plan(self, snapshot: Snapshot) -> Plan:
        return next(self._script)()  # type: ignore[return-value]


def fail() -> Plan:
    raise ZeroDivisionError("x" * 10_000)


async def test_a_plan_arrives_with_its_time() -> None:
    solver = Solver(lambda: Scripted(lambda: Plan(kernel="k")), 1_000_000)
    event = await solver.solve(7, SNAPSHOT)
    assert isinstance(event, PlanReady) and event.round_id == 7 and event.plan.kernel == "k"
    assert 0 <= event.solve_us < 1_000_000
    solver.close()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (fail, "ZeroDivisionError: xxx"),
        (sys.exit, "SystemExit"),
        (lambda: None, "ValidationError"),
        (lambda: "a plan", "ValidationError"),
        (lambda: Plan(placements=(Placement(demand_id="d", agent_id="a", count="many"),)), "ValidationError"),  # type: ignore[arg-type]
        (lambda: Plan(objective=2**70), "OverflowError"),
        (lambda: iter(()).__next__(), "StopIteration"),
    ],
)
async def test_what_a_policy_does_wrong_is_its_rounds_failure(does: Callable[[], object], said: str) -> None:
    makes: list[Scripted] = [Scripted(does), Scripted(lambda: Plan(kernel="good"))]
    solver = Solver(lambda: makes.pop(0), 5_000_000)
    event = await solver.solve(1, SNAPSHOT)
    assert isinstance(event, PlanFailed) and said in event.detail and len(event.detail) <= 500
    again = await solver.solve(2, SNAPSHOT)  # A fresh policy: the state of the last may be half changed.
    assert isinstance(again, PlanReady) and again.plan.kernel == "good"
    solver.close()


async def test_a_policy_that_cannot_be_made_fails_its_round() -> None:
    def make() -> Scripted:
        raise ImportError("no such module")

    event = await Solver(make, 5_000_000).solve(1, SNAPSHOT)
    assert isinstance(event, PlanFailed) and "no such module" in event.detail


async def test_a_policy_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    makes = [
        Scripted(lambda: release.wait(30)),
        Scripted(lambda: Plan(kernel="good"), lambda: release.wait(30)),
        Scripted(lambda: release.wait(30)),
    ]
    solver = Solver(lambda: makes.pop(0), 50_000)
    assert (await solver.solve(1, SNAPSHOT)) == PlanFailed(round_id=1, detail="no plan within 0.05 s")
    assert isinstance(await solver.solve(2, SNAPSHOT), PlanReady)
    assert isinstance(await solver.solve(3, SNAPSHOT), PlanFailed)
    assert isinstance(await solver.solve(4, SNAPSHOT), PlanFailed)
    assert solver.n_hung == HUNG_MAX
    last = await solver.solve(5, SNAPSHOT)
    assert isinstance(last, PlanFailed) and "restart the master" in last.detail
    release.set()


async def test_snapshots_are_solved_in_order_by_one_policy() -> None:
    class Counting:
        def __init__(self) -> None:
            self.n_asked = 0

        def plan(self, snapshot: Snapshot) -> Plan:
            self.n_asked += 1
            return Plan(objective=self.n_asked)

    solver = Solver(Counting, 5_000_000)
    events = [await solver.solve(i, SNAPSHOT) for i in range(5)]
    assert [event.plan.objective for event in events if isinstance(event, PlanReady)] == [1, 2, 3, 4, 5]
    solver.close()


# --- containment: the fallback takes the round -----------------------------------------------------------------------

WORK = Snapshot(
    now_us=1,
    demands=(Demand(demand_id="d", role="default", needs=Needs(cpu_milli=1000), count=2, oldest_us=0),),
    nodes=(Node(agent_id="a", site="s", tier="edge", free=Resources(cpu_milli=1000), total=Resources(cpu_milli=1000)),),
)


def contained(*script: Callable[[], object], limit_us: int = 5_000_000) -> Contained:
    policy = Scripted(*script)
    return Contained(Solver(lambda: policy, limit_us, checks=True), Solver(Fifo, 5_000_000), "fifo")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (fail, "ZeroDivisionError"),
        (sys.exit, "SystemExit"),
        (lambda: "a plan", "ValidationError"),
        (Plan, "P2"),  # Two tasks wait and nothing is said of them.
        (lambda: Plan(placements=(Placement(demand_id="d", agent_id="a", count=2),)), "P3"),
        (lambda: Plan(placements=(Placement(demand_id="d", agent_id="nobody", count=2),)), "P2"),
    ],
)
async def test_the_fallback_takes_a_round_that_the_policy_failed(does: Callable[[], object], said: str) -> None:
    both = contained(does)
    event = await both.solve(3, WORK)
    assert isinstance(event, PlanReady) and event.round_id == 3
    assert event.policy == "fifo" and said in event.failure
    assert [(p.agent_id, p.count) for p in event.plan.placements] == [("a", 1)]
    both.close()


async def test_the_fallback_takes_a_round_in_which_the_policy_hangs() -> None:
    wakes = threading.Event()
    both = contained(lambda: wakes.wait(10), limit_us=50_000)
    event = await both.solve(1, WORK)
    assert isinstance(event, PlanReady) and event.policy == "fifo" and "no plan within" in event.failure
    wakes.set()
    both.close()


async def test_a_good_policy_never_meets_its_fallback() -> None:
    good = Fifo().plan(WORK)
    both = contained(lambda: good)
    event = await both.solve(1, WORK)
    assert isinstance(event, PlanReady) and (event.policy, event.failure) == ("", "") and event.plan == good
    both.close()


async def test_when_both_fail_both_reasons_are_told() -> None:
    both = Contained(Solver(lambda: Scripted(fail), 5_000_000), Solver(lambda: Scripted(sys.exit), 5_000_000), "other")
    event = await both.solve(1, WORK)
    assert isinstance(event, PlanFailed)
    alone = Contained(Solver(lambda: Scripted(fail), 5_000_000))
    assert isinstance(await alone.solve(1, WORK), PlanFailed)
    both.close()
    alone.close()
