"""That each fault bites: what the master was told, or what became of tasks, is what such a fault does to them. And that
faults of one kind nest: the end of one is not the end of another."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from federation import events, facts
from federation.config import MasterConfig
from federation.facts import Fact
from federation.wire import Birth, Death
from policies import registry
from scenarios.format import load_world
from scenarios.player import START_US, Outcome, Player
from scenarios.records import Records
from tests.scenario_world import written

WORLD = """
schema: offerflow/scenario/v1
name: bites
purpose: a plant whose work reads what lies in the rack
seed: 7
duration: 4m
topology:
  master: rack
  sites:
    plant: {tier: edge, agents: {gw: {count: 3, cpu: 2, memory: 4GiB}}}
    rack: {tier: cloud, agents: {vm: {cpu: 2, memory: 4GiB}}}
  links:
    - {between: [plant, rack], rtt: 20ms, jitter: 4ms, bandwidth: 50Mbit}
workload:
  generate:
    - role: work
      at: rack
      arrivals: {every: 3s}
      to: 100s
      task:
        cpu: 1
        memory: 512MiB
        run: {lognormal: {p50: 6s, p99: 20s}}
        reads: {size: 1MiB}
        writes: 64kB
        where: {site: plant}
        retry: 50
model: {to_the_end: true}
"""


class Heard(Player):
    """Keeps what its master was told."""

    def watch(self) -> tuple[Outcome, list[tuple[float, events.Event]]]:
        self.told: list[tuple[float, events.Event]] = []
        return self.run(), self.told

    def _note(self, now_us: int, value: events.Event | Fact) -> None:
        super()._note(now_us, value)
        if isinstance(value, events.Event):
            self.told.append(((now_us - START_US) / 1e6, value))


class Run:
    """A run, and questions about it. Times in seconds from the start."""

    def __init__(self, folder: Path, *faults: str) -> None:
        lines = "".join(f"  - {{{fault}}}\n" for fault in faults)
        world = load_world(written(folder, WORLD + (f"faults:\n{lines}" if faults else "")))
        player = Heard(world, registry.load("fifo"), "fifo", MasterConfig(), None)
        self.outcome, told = player.watch()
        assert self.outcome.broken_laws == (), self.outcome.tail
        records = Records(self.outcome)
        self.tasks = list(records.tasks.values())
        self.spans = records.spans
        assert {str(task.state) for task in self.tasks} == {"finished"}
        assert all(each.struck for each in self.outcome.incidents)
        self.n_garbage = sum(isinstance(event, events.GarbageArrived) for _, event in told)
        self.told = [
            (at_s, event.message)
            for at_s, event in told
            if isinstance(event, events.AgentSpoke)
            and event.message.agent_id.startswith("gw")
            and not isinstance(event.message, Death)  # Wills are the broker's.
        ]

    def spoke(self, from_s: float, to_s: float, agent: str = "") -> int:
        return sum(from_s < at_s < to_s and agent in message.agent_id for at_s, message in self.told)

    def silence_s(self) -> float:
        """The longest in which no gateway was heard."""
        return max(after - before for (before, _), (after, _) in itertools.pairwise(self.told))

    def n_silences(self, over_s: float) -> int:
        return sum(after - before > over_s for (before, _), (after, _) in itertools.pairwise(self.told))

    def births(self, agent: str) -> list[int]:
        """The boots with which it presented itself."""
        return [told.boot for _, told in self.told if isinstance(told, Birth) and told.agent_id == agent]

    def details(self, agent: str) -> list[str]:
        """How the master came to lose it."""
        changes = [fact for fact in self.outcome.facts if isinstance(fact, facts.AgentStateChanged)]
        return [fact.detail.split()[0] for fact in changes if fact.agent_id == agent and fact.detail]

    def reasons(self, from_s: float = 0) -> set[str]:
        """Why tasks had to be placed again."""
        changes = [fact for fact in self.outcome.facts if isinstance(fact, facts.TaskStateChanged)]
        since_us = START_US + int(from_s * 1e6)
        return {str(fact.reason) for fact in changes if fact.state == "pending" and fact.at_us >= since_us}

    def placed(self, agent: str, from_s: float, to_s: float) -> int:
        return sum(from_s < span.placed_us / 1e6 < to_s for span in self.spans if span.agent_id == agent)

    def mean_s(self, from_s: float, to_s: float) -> float:
        """Of the tasks placed in that time, from there to their ends."""
        some = [span.ended_us - span.placed_us for span in self.spans if from_s < span.placed_us / 1e6 < to_s]
        return sum(some) / len(some) / 1e6

    def stage_s(self) -> float:
        return max(task.stage_us or 0 for task in self.tasks) / 1e6


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("calm"))


Shows = Callable[[Run, Run], bool]

BITES: list[tuple[str, Shows]] = [
    ("at: 30s, kill: {agents: gw-1}, restart: 5s", lambda run, _: run.births("gw-1") == [1, 2]),
    (
        "at: 30s, power_off: {agents: gw}, restart: {after: 5s, spread: 0s}",
        lambda run, _: run.births("gw-2") == [1, 2] and "agent_restart" in run.reasons(),
    ),
    ("at: 30s, kill: master, restart: 2s", lambda run, _: run.outcome.master.term == 2),
    ("at: 30s, kill: broker, restart: 5s", lambda run, _: run.births("gw-1") == [1, 1] and run.silence_s() > 5),
    ("at: 30s, kill: broker, when: before-forward, restart: 5s", lambda run, _: run.births("gw-1") == [1, 1]),
    ("at: 30s, kill: broker, when: after-forward, restart: 5s", lambda run, _: run.births("gw-1") == [1, 1]),
    (
        "at: 30s, pause: {agents: gw-1}, for: 60s",
        lambda run, _: run.spoke(31, 89, "gw-1") == 0 < run.spoke(90, 99, "gw-1"),
    ),
    ("at: 30s, pause: master, for: 20s", lambda run, _: run.spoke(30, 50) == 0),
    (
        "at: 30s, partition: [plant, rack], for: 60s",
        lambda run, _: run.spoke(31, 89) == 0 and run.details("gw-1") == ["silent", "silent"],
    ),
    (
        "at: 30s, partition: [plant, rack], direction: to rack, for: 60s",
        lambda run, _: run.spoke(31, 89) == 0 and run.details("gw-1") == ["silent", "silent"],
    ),
    (  # They are heard until their own keep-alive ends, and their wills are.
        "at: 30s, partition: [plant, rack], direction: to plant, for: 60s",
        lambda run, _: run.spoke(40, 70) > 5 and "will" in run.details("gw-1"),
    ),
    (
        "at: 30s, link: [plant, rack], set: {bandwidth: 1Mbit}, for: 60s",
        lambda run, calm: run.stage_s() > 8 > 2 > calm.stage_s(),
    ),
    ("at: 30s, link: [plant, rack], set: {loss: 20%}, for: 60s", lambda run, calm: run.stage_s() > 3 * calm.stage_s()),
    ("at: 30s, link: [plant, rack], set: {rtt: 2s}, for: 60s", lambda run, calm: run.stage_s() > 1 + calm.stage_s()),
    (
        "at: 30s, link: [plant, rack], flap: {every: 20s, down: 10s}, for: 60s",
        lambda run, _: run.n_silences(8) == 3,
    ),
    (
        "at: 30s, for: 60s, messages: {from: agents, drop: 50%}",
        lambda run, calm: run.outcome.n_messages_harmed > 20 and run.spoke(31, 89) < 0.9 * calm.spoke(31, 89),
    ),
    (
        "at: 30s, for: 60s, messages: {from: agents, duplicate: 100%}",
        lambda run, calm: run.spoke(31, 89) > 1.5 * calm.spoke(31, 89),
    ),
    ("at: 30s, for: 60s, messages: {from: agents, corrupt: 30%}", lambda run, calm: run.n_garbage > 5 > calm.n_garbage),
    (
        "at: 30s, for: 60s, messages: {from: agents, delay: 100%, by: 8s}",
        lambda run, calm: run.silence_s() > 7 > calm.silence_s(),
    ),
    (
        "at: 30s, for: 60s, messages: {from: agents, reorder: 50%}",
        lambda run, calm: run.outcome.n_messages_harmed > 20 and run.outcome.digest != calm.outcome.digest,
    ),
    ("at: 30s, disk_full: {agents: gw-1}, for: 30s", lambda run, _: "disk_full" in run.reasons()),
    ("at: 30s, disk_full: master, for: 20s", lambda run, _: run.outcome.master.term == 2 and run.silence_s() > 15),
    (
        "at: 30s, drain: {agents: gw-1}, for: 60s",
        lambda run, _: "drain" in run.reasons() and not run.placed("gw-1", 31, 89),
    ),
    (
        "at: 30s, cordon: {agents: gw-1}, for: 60s",
        lambda run, _: (
            "drain" not in run.reasons() and not run.placed("gw-1", 31, 89) and run.placed("gw-1", 0, 30) > 0
        ),
    ),
]


@pytest.mark.parametrize(("fault", "shows"), BITES, ids=[fault for fault, _ in BITES])
def test_it_bites(tmp_path: Path, calm: Run, fault: str, shows: Shows) -> None:
    assert not shows(calm, calm), "and nothing of the kind happens without it"
    assert shows(Run(tmp_path, fault), calm)


def test_a_broker_dies_when_half_of_the_agents_know_of_a_master(tmp_path: Path) -> None:
    faults = ("at: 30s, kill: master, restart: 2s", "at: 31s, kill: broker, when: half-announced, restart: 5s")
    run = Run(tmp_path, *faults)
    assert run.outcome.incidents[1].began_us > 32_000_000, "the master that came back announces itself"
    assert run.births("gw-3") == [1, 1]


def test_a_clock_that_jumped_shows_when_its_process_starts_next(tmp_path: Path) -> None:
    run = Run(tmp_path, "at: 30s, clock: {of: master, jump: 1h}", "at: 31s, kill: master, restart: 1s")
    times = [fact.at_us - START_US for fact in run.outcome.facts]
    assert max(times) > 3_600_000_000 > 240_000_000 > min(times)


NESTS: list[tuple[str, str, Callable[[Run], bool]]] = [
    (
        "disk_full: {agents: gw-1}, for: 20s",
        "disk_full: {agents: gw-1}, for: 50s",
        lambda run: "disk_full" in run.reasons(60),
    ),
    ("pause: {agents: gw-1}, for: 20s", "pause: {agents: gw-1}, for: 50s", lambda run: not run.spoke(51, 84, "gw-1")),
    ("pause: master, for: 10s", "pause: master, for: 30s", lambda run: not run.spoke(41, 64)),
    ("drain: {agents: gw-1}, for: 20s", "drain: {agents: gw-1}, for: 50s", lambda run: not run.placed("gw-1", 36, 84)),
    (
        "kill: {agents: gw-1}, restart: 10s",
        "power_off: {agents: gw-1}, restart: 50s",
        lambda run: not run.spoke(36, 84, "gw-1"),
    ),
    ("kill: master, restart: 10s", "kill: master, restart: 30s", lambda run: run.silence_s() > 33),
    ("kill: broker, restart: 10s", "kill: broker, restart: 30s", lambda run: run.silence_s() > 33),
    ("disk_full: master, for: 10s", "disk_full: master, for: 40s", lambda run: run.silence_s() > 40),
    (
        "lie: {agents: gw, capacity: 800%}, for: 20s",
        "lie: {agents: gw, capacity: 400%}, for: 65s",
        lambda run: run.mean_s(52, 99) > 20,
    ),
]


@pytest.mark.parametrize(("first", "second", "goes_on"), NESTS, ids=[first for first, _, _ in NESTS])
def test_the_end_of_one_fault_is_not_the_end_of_another(
    tmp_path: Path, first: str, second: str, goes_on: Callable[[Run], bool]
) -> None:
    both = Run(tmp_path, f"at: 30s, {first}", f"at: 35s, {second}")
    assert goes_on(both)
    assert not goes_on(Run(tmp_path, f"at: 30s, {first}")), "it was the second that went on"
