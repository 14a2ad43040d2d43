"""The player: production cores in simulated time, repeatable to the bit, watched by laws that can be broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation import commands, events, facts
from federation.api import JobView
from federation.config import MasterConfig
from federation.jobs import Job, TaskGroup
from federation.wire import CommandBatch, Launch, Offer
from policies import registry
from policies.model import Needs, Resources
from scenarios import simulated_agent
from scenarios.format import load_world
from scenarios.laws import Laws
from scenarios.player import play
from scenarios.report import summarise

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "scenarios" / "quickstart.yaml"
AT = 1_700_000_000_000_000


@pytest.mark.parametrize("policy", ["fifo", "flow"])
def test_quickstart_finishes_and_breaks_no_law(policy: str) -> None:
    summary = summarise(play(load_world(QUICKSTART), registry.load(policy), policy))
    assert summary.broken_laws == ()
    assert (summary.tasks_finished, summary.tasks_failed, summary.tasks_open) == (14, 0, 0)
    assert summary.completion_s is not None


def test_flow_beats_fifo_on_quickstart_and_keeps_the_slow_plants_images_at_home() -> None:
    world = load_world(QUICKSTART)
    flow = play(world, registry.load("flow"), "flow")
    fifo = summarise(play(world, registry.load("fifo"), "fifo"))
    ours = summarise(flow)
    assert ours.completion_s is not None and fifo.completion_s is not None
    assert ours.completion_s < 0.7 * fifo.completion_s
    assert ours.uplink_bytes < fifo.uplink_bytes
    moved = {task_id: agent for task_id, agent in placed(flow.facts) if "/train/" in task_id}
    assert moved["digits/train/0"] == "vm"  # of the fast plant
    assert sum(agent == "gw-slow" for task_id, agent in moved.items()) >= 3


def placed(all_facts: tuple[facts.Fact, ...]) -> list[tuple[str, str]]:
    return [
        (task_id, assignment.agent_id)
        for fact in all_facts
        if isinstance(fact, facts.TasksAssigned)
        for assignment in fact.assignments
        for task_id in assignment.task_ids
    ]


def test_journals_of_devices_are_compacted_and_lead_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices crash and recover from them. One that holds more than the bound is compacted when it has doubled."""
    world = load_world(ROOT / "scenarios" / "poison-job.yaml")
    plain = play(world, registry.load("fifo"), "fifo")
    monkeypatch.setattr(simulated_agent, "FACTS_MAX", 2)
    assert play(world, registry.load("fifo"), "fifo").digest == plain.digest


def test_the_digest_depends_on_world_seed_and_policy_alone() -> None:
    """In fresh interpreters with different hash seeds, so that no set or dict order leaks into a decision."""

    def digests(hash_seed: str, *options: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "federation.cli.main",
            "scenario",
            "run",
            str(QUICKSTART),
            "-o",
            "json",
            *options,
        ]
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=ROOT)
        return [run["digest"] for run in json.loads(done.stdout)["runs"]]

    both = ("--policy", "flow", "--policy", "fifo")
    first = digests("1", *both)
    assert first == digests("2", *both)
    assert first[0] != first[1]
    assert digests("3", "--policy", "fifo", "--seed", "43") != first[1:]


# --- the laws see what breaks them -----------------------------------------------------------------------------------


def watched(*steps: tuple[events.Event, list[commands.Command]]) -> list[str]:
    laws = Laws(MasterConfig(), "fifo")
    for event, wanted in steps:
        laws.after_step(event, wanted, AT)
    return laws.broken


def enrolled(cpu_milli: int = 1000) -> tuple[events.Event, list[commands.Command]]:
    offer = Offer(agent_id="a", boot=1, conn=1, offer_id="o", free=Resources(cpu_milli=cpu_milli), expires_in_us=10**7)
    fact = facts.AgentEnrolled(
        at_us=AT, agent_id="a", boot=1, site="s", tier="edge", total=Resources(cpu_milli=cpu_milli)
    )
    return events.AgentSpoke(message=offer), [commands.Persist(fact=fact)]


def accepted(count: int = 2) -> tuple[events.Event, list[commands.Command]]:
    group = TaskGroup(name="g", command=("x",), count=count, needs=Needs(cpu_milli=600))
    fact = facts.JobAccepted(at_us=AT, job_id="j", job=Job(name="j", tasks=(group,)))
    return events.DeadlinePassed(), [commands.Persist(fact=fact)]


def assigned(*indices: int, attempt: int = 1, agent_id: str = "a") -> tuple[events.Event, list[commands.Command]]:
    assignment = facts.Assignment(
        agent_id=agent_id,
        task_ids=tuple(f"j/g/{index}" for index in indices),
        attempts=(attempt,) * len(indices),
        cmd_ids=tuple(range(len(indices))),
    )
    fact = facts.TasksAssigned(at_us=AT, round_id=1, policy="fifo", assignments=(assignment,))
    return events.DeadlinePassed(), [commands.Persist(fact=fact)]


def changed(state: str, index: int = 0) -> tuple[events.Event, list[commands.Command]]:
    fact = facts.TaskStateChanged(at_us=AT, task_id=f"j/g/{index}", state=state, attempt=1)
    return events.DeadlinePassed(), [commands.Persist(fact=fact)]


def test_a_lawful_run_breaks_nothing() -> None:
    assert watched(enrolled(), accepted(), assigned(0), changed("running"), changed("finished"), assigned(1)) == []


def test_an_answer_before_the_fact_breaks_l1() -> None:
    view = JobView(
        job_id="j", name="j", role="default", priority=50, state="running", submitted_us=AT, ended_us=None, n_tasks=1,
        tasks={}, detail="",
    )  # fmt: skip
    (broken,) = watched((events.DeadlinePassed(), [commands.Reply(request_id="r", answer=view)]))
    assert broken.startswith("L1")


def test_a_second_instance_breaks_l3() -> None:
    broken = watched(enrolled(4000), accepted(), assigned(0), assigned(0, attempt=2))
    assert [sentence[:2] for sentence in broken] == ["L8", "L3"]


def test_a_launch_without_authority_breaks_l3() -> None:
    launch = Launch(cmd_id=1, task_id="j/g/0", attempt=1, expires_in_us=1, needs=Needs(), command=("x",))
    batch = CommandBatch(term=1, boot=1, conn=1, commands=(launch,))
    (broken,) = watched((events.DeadlinePassed(), [commands.Send(agent_id="a", message=batch)]))
    assert broken.startswith("L3")


def test_overcommitment_breaks_l4() -> None:
    (broken,) = watched(enrolled(), accepted(), assigned(0, 1))
    assert broken.startswith("L4 cpu of agent a: 1200 allocated of 1000")


def test_work_without_an_offer_breaks_l5() -> None:
    _, facts_only = enrolled()
    (broken,) = watched((events.DeadlinePassed(), facts_only), accepted(), assigned(0))
    assert broken.startswith("L5")


def test_an_illegal_edge_breaks_l8() -> None:
    (broken,) = watched(enrolled(), accepted(), assigned(0), changed("finished"), changed("running"))
    assert broken.startswith("L8 task j/g/0 went from finished to running")
