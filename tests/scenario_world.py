"""A small scenario that several tests change and run."""

from pathlib import Path

from policies import registry
from scenarios.format import load_world
from scenarios.player import Outcome, play
from scenarios.records import Records

SMALL = """
schema: offerflow/scenario/v1
name: small
purpose: two gateways, a rack, a handful of tasks, one death
seed: 3
duration: 60s
topology:
  master: rack
  sites:
    plant: {tier: edge, agents: {gw: {cpu: 2, memory: 512MiB, disk: 256MiB, count: 2}}}
    rack: {tier: cloud, agents: {vm: {cpu: 4, memory: 1GiB, disk: 512MiB}}}
  links:
    - {between: [plant, rack], rtt: 20ms, bandwidth: 100Mbit}
workload:
  roles: {vision: {weight: 2}}
  generate:
    - {role: vision, arrivals: {every: 500ms}, from: 1s, to: 6s, task: {cpu: 1, memory: 64MiB, run: 700ms}}
faults:
  - {at: 3s, kill: {agents: gw-1}, restart: 2s}
expect:
  slo: [tasks.open == 0, tasks.failed == 0, recovery.missing == 0]
"""


def written(folder: Path, text: str, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def played(folder: Path, text: str, policy: str = "fifo") -> Outcome:
    """A run that breaks no law."""
    outcome = play(load_world(written(folder, text)), registry.load(policy), policy)
    assert outcome.broken_laws == ()
    return outcome


def run_s(outcome: Outcome) -> float:
    """How long the longest task ran; all must have finished."""
    tasks = Records(outcome).tasks.values()
    assert {task.state for task in tasks} == {"finished"}
    return max(task.run_us or 0 for task in tasks) / 1e6
