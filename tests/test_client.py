"""The SDK over a real socket, with a desk that says what the test wants: reconnecting, acknowledging, declining."""

import asyncio

import pytest

from federation.api import Problem
from federation.client import Framework, FrameworkError, task
from federation.events import FrameworkCalled
from federation.market import protocol as p
from policies.model import Resources
from tests.mesos_world import FRAMEWORK, Desk, serving

UUID = bytes(range(16))


def offer(offer_id: str) -> p.FrameworkOffer:
    portion = p.Portion(resources=Resources(cpu_milli=1000, memory_bytes=2**30))
    return p.FrameworkOffer(
        offer_id=offer_id, framework_id=FRAMEWORK, agent=p.OfferedAgent(agent_id="a"), role="default",
        portions=(portion,), expires_us=1,
    )  # fmt: skip


async def called(desk: Desk, n: int) -> list[FrameworkCalled]:
    """The first `n` calls, once they came."""
    async with asyncio.timeout(10):
        while len(desk.called) < n:  # noqa: ASYNC110 - what came over a socket, seen from outside
            await asyncio.sleep(0.01)
    return desk.called


async def test_updates_are_noted_once_and_acknowledged_each_time_if_they_ask_for_it() -> None:
    desk = Desk()
    async with serving(desk) as port, Framework(f"http://127.0.0.1:{port}", "n") as framework:
        stream_id = desk.called[0].stream_id
        running = p.Update(task_id="t", state="TASK_RUNNING", agent_id="a", uuid=UUID)
        for update in (
            p.Update(task_id="t", state="TASK_STAGING", agent_id="a"),
            running,
            p.Update(task_id="t", state="TASK_FINISHED", agent_id="a", uuid=UUID[::-1]),
            running,
        ):
            desk.say(update, stream_id)
        assert (await framework.ended("t")).state == "TASK_FINISHED"
        calls = [event.call for event in (await called(desk, 4))[1:4]]
        uuids = [call.uuid for call in calls if isinstance(call, p.Acknowledge)]
        assert uuids == [UUID, UUID[::-1], UUID], "what is told again was not heard: it is acknowledged again"
        assert framework.tasks["t"].state == "TASK_FINISHED", "an old update replaces nothing"
    assert isinstance(desk.called[-1].call, p.Teardown)


async def test_an_offer_left_unanswered_is_declined_and_a_rescinded_one_never_shown() -> None:
    desk = Desk()
    async with serving(desk) as port, Framework(f"http://127.0.0.1:{port}", "n") as framework:
        stream_id = desk.called[0].stream_id
        desk.say(p.Offers(offers=(offer("o1"), offer("o2"), offer("o3"))), stream_id)
        desk.say(p.Rescind(offer_id="o2"), stream_id)
        desk.say(p.Update(task_id="mark", state="TASK_FINISHED"), stream_id)
        await framework.ended("mark")
        seen = []
        async for each in framework.offers():
            seen.append(each.offer_id)
            if each.offer_id == "o3":
                await framework.launch(each, task("t", ["true"]))
                break
        assert seen == ["o1", "o3"]
        first, second = [event.call for event in desk.called[1:3]]
        assert isinstance(first, p.Decline) and first.offer_ids == ("o1",)
        assert isinstance(second, p.Accept) and second.offer_ids == ("o3",)


async def test_a_stream_that_breaks_is_opened_again_and_tasks_are_reconciled() -> None:
    desk = Desk()
    async with serving(desk) as port, Framework(f"http://127.0.0.1:{port}", "n") as framework:
        first = desk.called[0].stream_id
        desk.say(p.Offers(offers=(offer("o1"),)), first)
        async for each in framework.offers():
            await framework.launch(each, task("new", ["true"]))
            break
        desk.say(p.Update(task_id="old", state="TASK_RUNNING", agent_id="a"), first)
        desk.say(p.Update(task_id="mark", state="TASK_FINISHED"), first)
        await framework.ended("mark")
        desk.streams.stop()  # as a master that goes away
        desk.streams = type(desk.streams)(desk.streams._on_gone)
        again, reconciling = (await called(desk, 4))[2:4]
        assert isinstance(again.call, p.Subscribe) and again.call.framework_id == FRAMEWORK
        assert isinstance(reconciling.call, p.Reconcile)
        assert {(known.task_id, known.agent_id) for known in reconciling.call.tasks} == {("new", "a"), ("old", "a")}
        assert reconciling.stream_id == again.stream_id != first


async def test_a_refusal_for_good_is_raised_where_one_waits() -> None:
    desk = Desk()
    async with serving(desk) as port:
        async with Framework(f"http://127.0.0.1:{port}", "n") as framework:
            desk.say(p.Error(message="Framework failed over"), desk.called[0].stream_id, close=True)
            with pytest.raises(FrameworkError, match="failed over"):
                await framework.ended("t")
            with pytest.raises(FrameworkError, match="failed over"):
                await framework.revive()
        desk.decide = lambda event: Problem(status=403, code="other_principal", title="t", detail="not yours")
        with pytest.raises(FrameworkError, match="not yours") as refused:
            await Framework(f"http://127.0.0.1:{port}", "n").__aenter__()
        assert refused.value.status == 403
