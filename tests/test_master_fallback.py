"""A round that the fallback took: its plan is applied, the failure is shown, and the next good round forgets it."""

from federation import views
from federation.api import SubmitJob
from federation.events import PlanReady
from policies.fifo import Fifo
from tests.master_world import World, group, job, resources


def test_the_fallbacks_plan_counts_and_the_failure_is_shown() -> None:
    world = World(solve=False)
    world.agent(total=resources(cpu=1))
    world.ask(SubmitJob(job=job("j", group(count=2))))
    asked = world.solves.pop(0)
    plan = Fifo().plan(asked.snapshot)
    world.handle(PlanReady(round_id=asked.round_id, plan=plan, policy="spare", failure="ZeroDivisionError: x"))
    assert world.master.counters["plans_by_fallback"] == world.master.counters["plans_failed"] == 1
    assert views.status(world.master, world.now_us).policy_failure == "ZeroDivisionError: x"
    placed = views.why(world.master, "j/train/0", world.now_us)
    waiting = views.why(world.master, "j/train/1", world.now_us)
    assert placed is not None and placed.policy == "spare"
    assert waiting is not None and any(
        "the fallback took the round: ZeroDivisionError" in hint for hint in waiting.hints
    )
    world.solves.clear()
    world.agents["gw-1"].end("j/train/0")
    world.agents["gw-1"].offer()
    asked = world.solves.pop(0)
    world.handle(PlanReady(round_id=asked.round_id, plan=Fifo().plan(asked.snapshot)))
    assert views.status(world.master, world.now_us).policy_failure == ""
