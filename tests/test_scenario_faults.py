"""Faults in a small world: each does what it says, and the laws hold through it."""

from pathlib import Path

import pytest

from policies import registry
from scenarios.format import load_scenario
from scenarios.player import Outcome, play
from scenarios.records import Records

WORLD = """\
schema: offerflow/scenario/v1
name: small
purpose: one plant and one rack
seed: 7
duration: 8m
topology:
  master: rack
  sites:
    plant: {{tier: edge, agents: {{gw: {{count: 3, cpu: 2, memory: 4GiB}}}}}}
    rack: {{tier: cloud, agents: {{vm: {{cpu: 2, memory: 4GiB}}}}}}
  links:
    - {{between: [plant, rack], rtt: 20ms, jitter: 4ms, bandwidth: 50Mbit}}
workload:
  generate:
    - role: work
      at: plant
      arrivals: {{every: 3s}}
      to: 3m
      task: {{cpu: 1, memory: 512MiB, run: {{lognormal: {{p50: 6s, p99: 20s}}}}, reads: {{size: 1MiB}}, writes: 64kB}}
model: {{to_the_end: true}}
faults:
{faults}
"""


def run(tmp_path: Path, *faults: str, seed: int | None = None) -> Outcome:
    path = tmp_path / "world.yaml"
    path.write_text(WORLD.format(faults="\n".join(f"  - {{{fault}}}" for fault in faults)))
    world = load_scenario(path, seed=seed).world
    outcome = play(world, registry.load("fifo"), "fifo")
    assert outcome.broken_laws == (), outcome.tail
    states = {str(task.state) for task in Records(outcome).tasks.values()}
    assert states == {"finished"}, states
    return outcome


POINTS = [
    "now",
    "before-journal",
    "after-journal-before-send",
    "half-sent",
    "after-assign-before-send",
    "while-solving",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_master_killed_at_any_point_recovers_from_its_journal(tmp_path: Path, point: str) -> None:
    outcome = run(
        tmp_path,
        f"at: 30s, kill: master, when: {point}, restart: 2s",
        f"at: 61s, kill: master, when: {point}, restart: 2s",
    )
    assert [incident.struck for incident in outcome.incidents] == [True, True]
    assert all(incident.recovery_us is not None for incident in outcome.incidents)
    assert outcome.master.term == 3


@pytest.mark.parametrize("point", POINTS[:4])
def test_agents_killed_at_any_point_take_up_their_work(tmp_path: Path, point: str) -> None:
    faults = [f"at: {at}s, kill: {{agents: gw, pick: 2}}, when: {point}, restart: 4s" for at in (20, 50, 80)]
    outcome = run(tmp_path, *faults)
    assert all(incident.struck and incident.recovery_us is not None for incident in outcome.incidents)


@pytest.mark.parametrize(
    "fault",
    [
        "at: 30s, power_off: {agents: gw-1}, restart: 20s",
        "at: 30s, kill: broker, restart: 5s",
        "at: 30s, pause: {agents: gw-1}, for: 90s",
        "at: 30s, pause: master, for: 90s",
        "at: 30s, partition: [plant, rack], for: 20s",
        "at: 30s, partition: [plant, rack], for: 100s",
        "at: 30s, partition: [plant, rack], direction: to rack, for: 100s",
        "at: 30s, partition: [plant, rack], direction: to plant, for: 100s",
        "at: 30s, link: [plant, rack], set: {bandwidth: 200kbit, loss: 5%}, for: 60s",
        "at: 30s, link: [plant, rack], flap: {every: 10s, down: 2s}, for: 60s",
        "at: 20s, messages: {from: agents, to: agents, drop: 10%, duplicate: 20%, reorder: 20%, corrupt: 5%}, for: 2m",
        "at: 20s, messages: {from: agents, to: agents, delay: 20%, by: 8s}, for: 2m",
        "at: 30s, disk_full: {agents: gw-1}, for: 30s",
        "at: 30s, disk_full: master, for: 30s",
        "at: 30s, lie: {agents: gw, bandwidth: 1000%}, for: 60s",
        "at: 30s, drain: {agents: gw-1}, for: 60s",
    ],
    ids=lambda fault: fault.split(", ", 1)[1][:40],
)
def test_everything_finishes_after_it(tmp_path: Path, fault: str) -> None:
    (incident,) = run(tmp_path, fault).incidents[:1]
    assert incident.struck and incident.over_us is not None


@pytest.mark.parametrize("jump", ["-1h", "1h"])
def test_a_clock_that_jumps_across_a_restart_harms_nobody(tmp_path: Path, jump: str) -> None:
    run(
        tmp_path,
        f"at: 30s, clock: {{of: master, jump: {jump}}}",
        "at: 31s, kill: master, restart: 2s",
        f"at: 60s, clock: {{agents: gw, jump: {jump}}}",
        "at: 61s, kill: {agents: gw}, restart: 2s",
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_faults_break_no_law(tmp_path: Path, seed: int) -> None:
    outcome = run(tmp_path, "random: {rate: 1/s, from: 20s, quiet_tail: 6m, down: 10s}", seed=seed)
    assert len(outcome.incidents) > 50


def test_kinds_that_chance_takes_only_when_they_are_named_break_no_law_either(tmp_path: Path) -> None:
    kinds = "[pause-master, disk_full, disk_full-master, clock, flap, lie]"
    outcome = run(tmp_path, f"random: {{rate: 0.3/s, of: {kinds}, from: 20s, quiet_tail: 6m, down: 10s}}")
    began = {each.what.split()[0] for each in outcome.incidents if each.struck}
    assert began >= {"pause", "disk", "clock", "cut"} and any("report false" in each.what for each in outcome.incidents)


def test_the_same_faults_give_the_same_digest(tmp_path: Path) -> None:
    faults = ("random: {rate: 0.2/s, quiet_tail: 5m}",)
    assert run(tmp_path, *faults).digest == run(tmp_path, *faults).digest
