"""Faults in a small world: the laws hold through kills at named points, clocks that jump, and chance. What each fault
does: test_scenario_bites.py."""

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


@pytest.mark.parametrize("seed", range(1, 8))
def test_an_agent_that_dies_before_it_lets_a_process_go_takes_it_along(tmp_path: Path, seed: int) -> None:
    """Its handle is not in the journal: the next start would run the attempt beside it."""
    faults = [f"at: {at}s, kill: {{agents: gw, pick: 2}}, when: half-sent, restart: 2s" for at in range(20, 120, 10)]
    run(tmp_path, *faults, seed=seed)


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
