"""Training steps that workers measure: from the process to the plan, and nothing that a task says can do harm."""

import json
import os
from pathlib import Path

import pytest
from agent_world import SECOND_US, TOTAL
from agent_world import World as AgentWorld
from master_world import SECOND, World, group, job, needs, resources

from agents.events import Measured, Started, StepsTold, TaskEnded, TaskStarted
from agents.training.steps import NoiseScale, StepTimer
from federation.api import SubmitJob
from federation.config import MasterConfig
from federation.wire import NetReport, Steps, TaskSteps
from policies.goodput import GoodputPolicy, as_measured
from policies.goodput_model import Speed, fit
from policies.model import Elastic, GroupSteps, StepTime
from tests.executor_world import Bench, bench, python, shell

__all__ = ["bench"]  # the fixture

WORKER = """
from agents.training.steps import StepTimer
timer = StepTimer(workers=4, agents=2)
for _ in range(3):
    timer.record(0.125, 256)
"""


# --- the helper ------------------------------------------------------------------------------------------------------


def test_the_median_is_written_now_and_then_and_another_batch_begins_anew(tmp_path: Path) -> None:
    now_s = 100.0
    path = tmp_path / "progress"
    timer = StepTimer(workers=2, path=path, every_s=5, clock=lambda: now_s)
    timer.record(0.5, 64)
    first = {"workers": 2, "agents": 1, "batch": 64, "step_us": 500_000, "noise_scale": 0}
    assert json.loads(path.read_text()) == first
    for step_s in (0.1, 0.1, 9.0):
        timer.record(step_s, 64)
    assert json.loads(path.read_text()) == first, "not so soon again"
    now_s = 105.0
    timer.record(0.2, 64)
    assert json.loads(path.read_text())["step_us"] == 200_000, "one step that waited does not count"
    timer.record(0.7, 128)
    assert json.loads(path.read_text()) == {**first, "batch": 128, "step_us": 700_000}
    assert [each.name for each in tmp_path.iterdir()] == ["progress"]


def test_a_step_is_timed_around_the_work_and_one_that_raises_does_not_count(tmp_path: Path) -> None:
    times = iter((0.0, 0.25, 0.25, 1.0))
    timer = StepTimer(path=tmp_path / "progress", clock=lambda: next(times))
    with timer.step(batch=8):
        pass
    with pytest.raises(RuntimeError), timer.step(batch=8):
        raise RuntimeError
    assert json.loads((tmp_path / "progress").read_text())["step_us"] == 250_000


def test_outside_an_agent_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OFFERFLOW_PROGRESS", raising=False)
    StepTimer().record(1.0, 8)


def test_the_noise_scale_is_found_in_the_norms_of_small_and_large_batches() -> None:
    """|G|² = 4 and Tr(Σ) = 2,000: E|G_B|² = |G|² + Tr(Σ) ÷ B."""
    noise = NoiseScale()
    assert noise.samples == 0
    for _ in range(5):
        noise.add(4 + 2000 / 32, 32, 4 + 2000 / 256, 256)
    assert noise.samples == 500
    with pytest.raises(ValueError, match="a small and a larger batch"):
        noise.add(1.0, 64, 1.0, 64)


# --- the agent -------------------------------------------------------------------------------------------------------


async def test_a_real_process_tells_its_step_times(bench: Bench) -> None:
    assert isinstance(await bench.start(python(WORKER)), TaskStarted)
    told = await bench.next()
    assert told == StepsTold(
        steps=TaskSteps(task_id="job/train/0", attempt=1, steps=Steps(workers=4, agents=2, batch=256, step_us=125_000))
    )
    ended = await bench.next()
    assert isinstance(ended, TaskEnded) and ended.exit_code == 0


@pytest.mark.parametrize(
    "script",
    [
        "echo nonsense > $OFFERFLOW_PROGRESS",
        'echo \'{"workers": 0, "batch": 1, "step_us": 1}\' > $OFFERFLOW_PROGRESS',
        'echo \'{"workers": 1e9, "batch": 1, "step_us": 1}\' > $OFFERFLOW_PROGRESS',
        "head -c 100000 /dev/zero > $OFFERFLOW_PROGRESS",
        "ln -s /etc/passwd $OFFERFLOW_PROGRESS",
        "mkfifo $OFFERFLOW_PROGRESS",
        "mkdir $OFFERFLOW_PROGRESS",
    ],
)
async def test_what_is_no_word_on_steps_is_ignored(bench: Bench, script: str) -> None:
    ended = await bench.run(shell(script))
    assert (ended.reason, ended.exit_code) == ("exit", 0)


def test_the_newest_word_of_each_task_goes_with_the_next_report() -> None:
    world = AgentWorld()
    world.event(Started(total=TOTAL))
    world.event(Measured(usable=TOTAL))
    world.connect()
    for step_us in (5, 7):
        for name in ("a", "b"):
            steps = Steps(workers=1, batch=1, step_us=step_us)
            world.event(StepsTold(steps=TaskSteps(task_id=name, attempt=1, steps=steps)))
    world.pass_time(31 * SECOND_US)
    (report,) = world.take(NetReport)
    assert [(each.task_id, each.steps.step_us) for each in report.steps] == [("a", 7), ("b", 7)]
    world.pass_time(31 * SECOND_US)
    assert all(not later.steps for later in world.take(NetReport))


# --- the master ------------------------------------------------------------------------------------------------------

ELASTIC = Elastic(batch=64, batch_max=64)


def told(task_id: str, attempt: int = 1, **fields: int) -> TaskSteps:
    given = {"workers": 2, "batch": 64, "step_us": 100_000, **fields}
    return TaskSteps(task_id=task_id, attempt=attempt, steps=Steps(**given))


def test_what_is_new_is_written_and_seen_by_policies_and_survives() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("j", group(count=4, needs=needs(1), elastic=ELASTIC))))
    assert len(fake.running) == 4

    def learned() -> list[str]:
        return [type(fact).__name__ for fact in world.facts].count("StepsLearned") * ["fact"]

    fake.say(NetReport, samples=(), steps=(told("j/train/0"),))
    fake.say(NetReport, samples=(), steps=(told("j/train/1", step_us=104_000),))
    assert len(learned()) == 1, "a twentieth is no news"
    fake.say(NetReport, samples=(), steps=(told("j/train/1", step_us=200_000, noise_scale=900),))
    fake.say(NetReport, samples=(), steps=(told("j/train/1", workers=4, agents=1),))
    expected = GroupSteps(
        group_id="j/train",
        steps=(
            StepTime(workers=2, batch=64, step_us=150_000),
            StepTime(workers=4, batch=64, step_us=100_000),
        ),
        noise_scale=900,
    )
    core = world.master.core
    assert core.steps.snapshot(core.tasks) == (expected,)
    assert world.replayed() == world.master.durable()
    assert world.master.durable().measured == (expected,)
    for task_id, _ in list(fake.running):
        fake.end(task_id)
    assert core.steps.snapshot(core.tasks) == (), "of a job that is done nobody asks"


def test_what_cannot_be_is_counted_and_changes_nothing() -> None:
    world = World()
    fake = world.agent(total=resources(cpu=4))
    world.ask(SubmitJob(job=job("j", group(count=2, needs=needs(1), elastic=ELASTIC), group("plain", needs=needs(1)))))
    words = (
        told("j/train/9"), told("j/train/0", attempt=7), told("j/plain/0"), told("j/train/0", workers=3),
        told("j/train/0", workers=1, agents=2), told("j/train/0", batch=1),
    )  # fmt: skip
    fake.say(NetReport, samples=(), steps=words)
    counters = world.master.core.counters
    assert (counters["steps_stale"], counters["steps_refused"]) == (2, 4)
    assert world.master.core.steps.groups == {}


# --- the policy ------------------------------------------------------------------------------------------------------


def test_measured_steps_take_the_place_of_declared_ones() -> None:
    said = tuple(StepTime(workers=k, batch=64, step_us=1000 * k) for k in (1, 2))
    declared = Elastic(group_id="g", steps=said, noise_scale=5)
    one = GroupSteps(group_id="g", steps=(StepTime(workers=1, batch=64, step_us=7),))
    two = GroupSteps(group_id="g", steps=(*one.steps, StepTime(workers=4, batch=64, step_us=3)), noise_scale=8)
    assert as_measured(declared, None) is declared
    assert as_measured(declared, one).steps == (said[1], *one.steps)
    assert (as_measured(declared, two).steps, as_measured(declared, two).noise_scale) == (two.steps, 8)


STEEP = Speed(0.02, 0.01)  # all of it is shared out: eight workers are nearly eight times as fast
FLAT = Speed(0.05, 0.0005, local=0.3, local_per_worker=0.2)  # more than one worker is slower than one


def shares_of(world: World) -> dict[str, int]:
    names = [task_id.split("/")[0] for task_id, _ in world.agents["gw-1"].running]
    return {name: names.count(name) for name in ("steep", "flat")}


def two_jobs(**declared: tuple[StepTime, ...]) -> World:
    config = MasterConfig(round_every_us=0, round_idle_us=100 * SECOND)  # Thousands of rounds otherwise.
    world = World(config, policy=GoodputPolicy())
    world.agent(total=resources(cpu=8, memory=32))
    for name in ("steep", "flat"):
        spec = Elastic(batch=256, batch_max=256, steps=declared.get(name, ()))
        world.ask(SubmitJob(job=job(name, group(count=8, needs=needs(1), elastic=spec))))
    return world


def test_the_fit_converges_and_the_workers_go_where_they_teach_most() -> None:
    """Two jobs about which nothing is declared share eight cores; one gains by every worker, the other by none. What
    their workers measure leads to the shares that the truth, had it been declared, leads to."""
    world, truth = two_jobs(), {"steep": STEEP, "flat": FLAT}
    fake = world.agents["gw-1"]

    def train(world: World) -> None:
        for _ in range(10):
            world.advance(120 * SECOND)
            if world is learning:
                held = shares_of(world)
                for name, speed in truth.items():
                    task_id = next((task_id for task_id, _ in fake.running if task_id.startswith(name)), None)
                    if task_id is not None:
                        step_us = round(1e6 * speed.step_s(held[name], 1, 256))
                        attempt = next(n for each, n in fake.running if each == task_id)
                        word = told(task_id, attempt, workers=held[name], batch=256, step_us=step_us)
                        fake.say(NetReport, samples=(), steps=(word,))
            world.agents["gw-1"].offer()

    learning = world
    train(world)
    known = two_jobs(
        **{
            name: tuple(
                StepTime(workers=k, batch=256, step_us=round(1e6 * speed.step_s(k, 1, 256))) for k in range(1, 9)
            )
            for name, speed in truth.items()
        }
    )
    train(known)
    assert shares_of(known) == {"steep": 7, "flat": 1}
    assert shares_of(world) == shares_of(known)
    for group_id, speed in (("flat/train", FLAT), ("steep/train", STEEP)):
        found = world.master.core.steps.groups[group_id].steps
        assert len(found) > 1, "several numbers of workers were tried"
        for step in found:
            guess = fit(found).step_s(step.workers, 1, step.batch)
            assert guess == pytest.approx(speed.step_s(step.workers, 1, step.batch), rel=0.1)


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFERFLOW_PROGRESS", str(tmp_path / "told"))
    StepTimer().record(0.001, 4)
    assert os.listdir(tmp_path) == ["told"]
