"""Elastic training in scenarios: what workers really learn together, what they tell, what the master makes of it."""

import heapq
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents.events import StepsTold
from federation.errors import ConfigError
from federation.facts import ProfileLearned, StepsLearned
from policies.model import StepTime
from scenarios.format import load_world
from scenarios.predictions import predictions
from scenarios.records import Records
from scenarios.trainings import MILLIONTHS, Trainings, Worker, useful_samples
from scenarios.world import Training
from tests.scenario_world import played, run_s, written

SECOND = 1_000_000
TRAIN = """
schema: offerflow/scenario/v1
name: grow
purpose: workers that share one job's samples
seed: 1
duration: 30m
topology:
  master: a
  sites:
    a: {tier: cloud, agents: {box: {cpu: 2, memory: 1GiB, count: 2}}}
workload:
  generate:
    - role: train
      arrivals: {every: 1h}
      limit: 1
      task: {cpu: 1, memory: 64MiB, count: 1, run: 4m, elastic: {batch: 100}, training: {sample: 10ms, restart: 20s}}
"""


def test_one_worker_takes_what_the_file_says_and_many_share_it(tmp_path: Path) -> None:
    assert run_s(played(tmp_path, TRAIN)) == pytest.approx(20 + 240)
    assert run_s(played(tmp_path, TRAIN.replace("count: 1,", "count: 4,"))) == pytest.approx(20 + 60, abs=0.1)


def test_synchronising_costs_what_it_costs_between_agents(tmp_path: Path) -> None:
    """A step of a second alone; two workers compute half of it each, and synchronise for one more."""
    two = TRAIN.replace("count: 1,", "count: 2,")
    together, apart = (
        two.replace("sample: 10ms", "sample: 10ms, local: 1s"),
        two.replace("sample: 10ms", "sample: 10ms, apart: 1s"),
    )
    assert run_s(played(tmp_path, together)) == pytest.approx(20 + 240 * 1.5, abs=0.1), "fifo fills one agent first"
    assert run_s(played(tmp_path, apart)) == pytest.approx(20 + 240 / 2, abs=0.1)
    four = apart.replace("count: 2,", "count: 4,")
    assert run_s(played(tmp_path, four)) == pytest.approx(20 + 240 * 1.25, abs=0.1)


def test_all_wait_for_the_slowest_agent(tmp_path: Path) -> None:
    four = TRAIN.replace("count: 1,", "count: 4,")
    mixed = four.replace("count: 2}}}", "count: 1}, old: {cpu: 2, memory: 1GiB, speed: 0.5}}}")
    assert run_s(played(tmp_path, mixed)) == pytest.approx(20 + 240 / 4 * 2, abs=0.1)


def test_who_is_gone_slows_the_others_and_what_was_learned_stays(tmp_path: Path) -> None:
    """Four workers until 50 s, two with another restart; those that were lost find it done when there is room again."""
    four = TRAIN.replace("count: 1,", "count: 4, retry: 5,")
    fault = "faults:\n  - {at: 50s, power_off: {agents: box-2}, restart: 10m}\n"
    tasks = Records(played(tmp_path, four + fault)).tasks.values()
    assert {task.state for task in tasks} == {"finished"}
    stayed_s = sorted((task.run_us or 0) / 1e6 for task in tasks)
    began_s = min(task.running_us or 0 for task in tasks) / 1e6
    learned_s = 4 * (50 - began_s - 20)
    assert stayed_s[2:] == pytest.approx([50 - began_s + 20 + (240 - learned_s) / 2] * 2, abs=1)
    assert stayed_s[1] < 1


def test_the_master_hears_what_steps_really_take_and_learns_no_run_time(tmp_path: Path) -> None:
    outcome = played(
        tmp_path, TRAIN.replace("count: 1,", "count: 4,").replace("10ms,", "10ms, apart: 700ms, noise_scale: 900,")
    )
    learned = [fact for fact in outcome.facts if isinstance(fact, StepsLearned)]
    assert [(fact.step, fact.noise_scale) for fact in learned] == [
        (StepTime(workers=4, batch=100, step_us=950_000, agents=2), 900)
    ]
    assert not [fact for fact in outcome.facts if isinstance(fact, ProfileLearned)]
    assert predictions(outcome.facts) == []


def test_goodput_gives_workers_to_who_gains_by_them(tmp_path: Path) -> None:
    """Two jobs, one of which learns no faster with more than one worker: nothing is declared, all is heard."""
    steep = "elastic: {batch: 100}, training: {sample: 10ms, restart: 1s}}"
    flat = "elastic: {batch: 100}, training: {sample: 10ms, local: 3s, apart: 3s, restart: 1s}}"
    task = "{{cpu: 1, memory: 64MiB, count: 4, run: 20m, {1}}}"
    generator = "    - {{role: {0}, arrivals: {{every: 1h}}, limit: 1, task: " + task + "\n"
    head = TRAIN[: TRAIN.index("    - role")].replace("30m", "4h")
    text = head + generator.format("flat", flat) + generator.format("steep", steep)
    ends = {}
    for policy in ("fifo", "goodput"):
        jobs = Records(played(tmp_path, text, policy)).jobs.values()
        ends[policy] = {job.role: (job.ended_us or 0) / 1e6 for job in jobs}
    assert ends["goodput"]["flat"] < ends["fifo"]["flat"] / 2
    assert max(ends["goodput"].values()) < max(ends["fifo"].values()) / 2


def test_a_job_of_a_file_trains_as_a_generated_task_does(tmp_path: Path) -> None:
    head = TRAIN[: TRAIN.index("  generate")]
    group = "command: [x], count: 4, run: 4m, needs: {cpu: 1, memory: 64MiB}, elastic: {batch: 100}"
    job = "{job: j, tasks: {w: {" + group + "}}}"
    jobs = f"  jobs:\n    - {{job: {job}, training: {{w: {{sample: 10ms, restart: 20s}}}}}}\n"
    assert run_s(played(tmp_path, head + jobs)) == pytest.approx(20 + 60, abs=0.1)


def test_an_attempt_that_was_given_up_takes_no_one_else_along() -> None:
    """Cut off from the master it still runs while the task runs again elsewhere; it is the old one that goes."""
    heap, ended = Heap(), list[int]()
    trainings, training = Trainings(heap), Training(batch=1, sample_us=SECOND, restart_us=0)
    for attempt, at_us in ((1, 0), (2, 40 * SECOND)):
        worker = Worker("w/0", attempt, f"agent-{attempt}", 1000, {}, lambda at, event: None, ended.append)
        trainings.join("g", training, 100 * SECOND, worker, at_us)
    trainings.leave("g", "w/0", 1, 50 * SECOND)
    heap.until(10**9)
    assert len(ended) == 1 and ended[0] >= 95 * SECOND, "the new one goes on with what both learned, and finishes"


def test_frameworks_bring_no_elastic_work(tmp_path: Path) -> None:
    head, generate = TRAIN.split("workload:\n")
    text = (
        head
        + "workload: {}\nframeworks:\n  ours:\n"
        + generate.replace("\n  ", "\n    ").replace("  generate", "    generate", 1)
    )
    with pytest.raises(ConfigError, match="elastic work is of built-in jobs"):
        load_world(written(tmp_path, text))


@pytest.mark.parametrize(
    ("was", "is_now", "said"),
    [
        ("elastic: {batch: 100}, ", "", '"training" is of elastic work'),
        (", training: {sample: 10ms, restart: 20s}", "", 'needs the key "training"'),
        ("count: 1,", "count: 2, gang: true,", "a gang has one size"),
        ("restart: 20s", "overlap: 11", "from 1, one after the other, to 10"),
        ("restart: 20s", "restarts: 20s", "did you mean"),
        ("sample: 10ms, ", "", "sample"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, was: str, is_now: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_world(written(tmp_path, TRAIN.replace(was, is_now)))


class Heap:
    """A timetable without a player: calls in order of time."""

    def __init__(self) -> None:
        self.queue: list[tuple[int, int, Callable[[int], None]]] = []
        self.serial = itertools.count()

    def schedule(self, at_us: int, target: str, event: object) -> None:
        raise AssertionError("nobody schedules here")

    def call(self, at_us: int, action: Callable[[int], None]) -> None:
        heapq.heappush(self.queue, (at_us, next(self.serial), action))

    def until(self, at_us: int) -> None:
        while self.queue and self.queue[0][0] <= at_us:
            due_us, _, action = heapq.heappop(self.queue)
            action(due_us)


@given(
    changes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400 * SECOND)), min_size=1, max_size=12),
    noise=st.sampled_from([0, 300]),
    restart_us=st.sampled_from([0, 30 * SECOND]),
)
def test_however_workers_come_and_go_all_ends_when_the_last_sample_is_learned(
    changes: list[tuple[int, int]], noise: int, restart_us: int
) -> None:
    """Against the same reckoning in fractions: useful samples a second times the time that they could be learned."""
    training = Training(batch=64, sample_us=1000, apart_us=50_000, noise_scale=noise, restart_us=restart_us)
    heap, ended, told = Heap(), {}, []
    trainings = Trainings(heap)
    alone_us = 2000 * SECOND
    left, now_us, ready_us, there = Fraction(alone_us, 64_000) * 64, 0, 0, set[int]()
    for number, after_us in [(0, 0), *changes, (-1, 10**13)]:
        n = len(there)
        rate = Fraction(useful_samples(training, 64), MILLIONTHS) / step_us(n) if n else Fraction(0)
        ends_us = ready_us + left / rate if n else None
        at_us = now_us + after_us
        heap.until(at_us)
        assume(ends_us is None or not ends_us <= at_us < ends_us + 5)  # a change in the very moment: either is right
        if ends_us is not None and ends_us <= at_us:
            assert set(ended) == there and all(ends_us <= each < ends_us + 5 for each in ended.values())
            return
        assert not ended
        left -= max(0, at_us - ready_us) * rate if n else 0
        now_us = at_us
        if number < 0:
            assert not there
            return
        if number in there:
            there.remove(number)
            trainings.leave("g", f"w/{number}", 1, now_us)
        else:
            there.add(number)
            worker = Worker(
                f"w/{number}", 1, f"agent-{number}", 1000, {}, lambda at, event: told.append(event),
                lambda at, number=number: ended.__setitem__(number, at),
            )  # fmt: skip
            trainings.join("g", training, alone_us, worker, now_us)
        ready_us = now_us + restart_us
    assert all(isinstance(each, StepsTold) for each in told)


def step_us(n_workers: int) -> int:
    return round(64_000 / n_workers) + (50_000 if n_workers > 1 else 0)
