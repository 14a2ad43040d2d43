"""The market's rules of frameworks and what they are told, one story each: calls in, events and launches out."""

import pytest

from federation.api import Problem
from federation.config import MasterConfig
from federation.market import protocol as p
from tests.market_world import MarketWorld
from tests.master_world import SECOND


def world(**fields: object) -> MarketWorld:
    return MarketWorld(MasterConfig(round_every_us=0, allocate_every_us=0, **fields))  # type: ignore[arg-type]


# --- frameworks come and go ------------------------------------------------------------------------------------------


def test_a_framework_fails_over_and_its_tasks_live_on() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.launch(client.offer())
    old = client.stream_id
    client.subscribe()
    assert w.master.core.market.frameworks[client.framework_id].stream_id != old
    assert agent.running
    answer = client.call(p.Revive(), stream_id=old)
    assert isinstance(answer, Problem) and answer.status == 400


def test_a_framework_that_stays_away_is_over() -> None:
    w = world()
    agent = w.agent()
    client = w.client(failover_timeout_us=20 * SECOND)
    client.launch(client.offer())
    client.close()
    w.advance(19 * SECOND)
    assert agent.running
    w.advance(2 * SECOND)
    assert not agent.running
    answer = client.subscribe()
    assert isinstance(answer, Problem) and answer.code == "framework_removed"
    assert w.replayed() == w.master.durable()


def test_teardown_kills_and_closes() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.launch(client.offer())
    client.call(p.Teardown())
    assert not agent.running and client.closed
    assert isinstance(client.call(p.Revive()), Problem)
    assert not w.master.core.market.frameworks


def test_only_its_principal_speaks_for_a_framework() -> None:
    w = world()
    client = w.client(principal="alice")
    client.principal = "mallory"
    answer = client.call(p.Teardown())
    assert isinstance(answer, Problem) and answer.status == 403


def test_roles_need_the_capability() -> None:
    w = world()
    client = w.client(roles=("a", "b"), capabilities=())
    assert client.framework_id == "" and not client.heard


# --- updates ---------------------------------------------------------------------------------------------------------


def test_updates_are_repeated_until_acknowledged_in_order_and_survive_a_crash() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.acknowledges = False
    client.launch(client.offer())
    agent.end(f"@{client.framework_id}/t1")
    assert client.states() == ["TASK_STARTING"]
    w.advance(11 * SECOND)
    assert client.states() == ["TASK_STARTING"] * 2
    w.advance(18 * SECOND)
    assert client.states() == ["TASK_STARTING"] * 2
    w.advance(2 * SECOND)
    assert client.states() == ["TASK_STARTING"] * 3
    w.crash()
    client.acknowledges = True
    client.updates.clear()
    client.subscribe()
    assert client.states() == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
    assert w.replayed() == w.master.durable()


def test_reconciliation_explicit_and_implicit() -> None:
    w = world()
    w.agent()
    client = w.client()
    client.launch(client.offer())
    client.updates.clear()
    client.call(p.Reconcile())
    assert client.states() == ["TASK_RUNNING"]
    client.call(
        p.Reconcile(tasks=(p.KnownTask(task_id="t1"), p.KnownTask(task_id="x", agent_id="gw-1"),
                           p.KnownTask(task_id="y", agent_id="nobody")))
    )  # fmt: skip
    assert client.states("x") == ["TASK_GONE"] and client.states("y") == ["TASK_UNKNOWN"]
    assert all(update.uuid == b"" for update in client.updates)


def test_kill_and_killing() -> None:
    w = world()
    agent = w.agent()
    client = w.client(capabilities=("TASK_KILLING_STATE",))
    client.launch(client.offer())
    client.call(p.KillTask(task_id="t1"))
    assert client.states()[-2:] == ["TASK_KILLING", "TASK_KILLED"] and not agent.running
    client.call(p.KillTask(task_id="t1"))
    assert client.states()[-1] == "TASK_LOST"


@pytest.mark.parametrize(("capabilities", "state"), [(("PARTITION_AWARE",), "TASK_UNREACHABLE"), ((), "TASK_LOST")])
def test_an_agent_that_is_cut_off(capabilities: tuple[str, ...], state: str) -> None:
    w = world()
    agent = w.agent()
    client = w.client(capabilities=capabilities)
    client.launch(client.offer())
    agent.die()
    assert client.states()[-1] == state
    agent.connect()
    agent.offer()
    if capabilities:
        assert client.states()[-1] == "TASK_RUNNING" and agent.running
    else:
        assert not agent.running, "it is an orphan now"
    assert w.replayed() == w.master.durable()


def test_a_lost_launch_is_sent_again_and_a_lost_task_is_told() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    agent.deaf = True
    client.launch(client.offer())
    agent.deaf = False
    agent.connect()
    assert client.states() == ["TASK_STARTING", "TASK_RUNNING"]
    agent.running.clear()
    agent.connect()
    assert client.states()[-1] == "TASK_GONE"


# --- rate limit ------------------------------------------------------------------------------------------------------


def test_calls_wait_for_their_turn_and_the_queue_is_bounded() -> None:
    w = world(calls_per_s=2, calls_waiting_max=2)
    client = w.client(principal="p")
    assert client.call(p.Revive()) == p.CallTaken(framework_id=client.framework_id)
    assert client.call(p.Revive()) is None and client.call(p.Revive()) is None
    refused = client.call(p.Revive())
    assert isinstance(refused, Problem) and refused.status == 429
    w.advance(SECOND)
    assert sum(isinstance(answer, p.CallTaken) for answer in w.replies.values()) == 4


def test_a_principal_waits_for_its_own_calls_only() -> None:
    w = world(calls_per_s=1, calls_waiting_max=1)
    loud, quiet = w.client("loud", principal="p"), w.client("quiet", principal="q")
    w.advance(SECOND)
    answers = [loud.call(p.Revive()) for _ in range(3)]
    assert isinstance(answers[0], p.CallTaken) and answers[1] is None and isinstance(answers[2], Problem)
    assert isinstance(quiet.call(p.Revive()), p.CallTaken)
