"""Services: replicas that run for as long as the file says, near their clients; what clients get is measured truly."""

from pathlib import Path

from policies import registry
from scenarios.expect import Metric
from scenarios.format import load_world
from scenarios.metrics import Metrics
from scenarios.player import Outcome, play
from scenarios.records import Records
from tests.scenario_world import written

SERVICE = """
schema: offerflow/scenario/v1
name: service
purpose: three replicas for clients at the shop, within 5 ms of them; one small box is there
seed: 1
duration: 10m
topology:
  master: rack
  sites:
    shop: {tier: edge, agents: {box: {cpu: 2, memory: 1GiB}}}
    mall: {tier: edge, agents: {mec: {cpu: 8, memory: 8GiB}}}
    rack: {tier: cloud, agents: {vm: {cpu: 32, memory: 64GiB}}}
  links:
    - {between: [shop, mall], rtt: 4ms, bandwidth: 1Gbit}
    - {between: [shop, rack], rtt: 40ms, bandwidth: 1Gbit}
    - {between: [mall, rack], rtt: 36ms, bandwidth: 1Gbit}
workload:
  services:
    web:
      replicas: 3
      from: 1m
      to: 5m
      clients: [{to: shop, rtt: 5ms, weight: 20}]
      task: {cpu: 1, memory: 256MiB}
"""


def played(tmp_path: Path, text: str, policy: str = "flow") -> tuple[Outcome, Records]:
    outcome = play(load_world(written(tmp_path, text)), registry.load(policy), policy)
    assert outcome.broken_laws == ()
    return outcome, Records(outcome)


def test_replicas_run_where_their_clients_are_near(tmp_path: Path) -> None:
    _, records = played(tmp_path, SERVICE)
    assert {task.agent_id for task in records.tasks.values()} <= {"box", "mec"}
    metrics = Metrics(records)
    assert metrics.value(Metric(measure="client_miss", scope="web")) == 0
    most_us = metrics.value(Metric(measure="client_rtt", stat="max", scope="web"))
    assert most_us is not None and most_us <= 4_000


def test_a_service_runs_from_when_to_when_the_file_says(tmp_path: Path) -> None:
    _, records = played(tmp_path, SERVICE)
    for task in records.tasks.values():
        assert task.arrived_us == 60_000_000
        assert task.ended_us is not None and 300_000_000 <= task.ended_us < 301_000_000


def test_clients_that_are_served_from_afar_are_missed(tmp_path: Path) -> None:
    _, records = played(tmp_path, SERVICE.replace("memory: 256MiB}", "memory: 256MiB, where: {tier: cloud}}"))
    assert Metrics(records).value(Metric(measure="client_miss", scope="web")) == 1
    assert Metrics(records).value(Metric(measure="client_rtt", stat="mean", scope="web")) == 40_000


def test_a_replica_that_lost_its_device_serves_elsewhere_until_the_same_end(tmp_path: Path) -> None:
    faults = "faults:\n  - {at: 2m, power_off: {agents: box}, restart: 6m}\n"
    _, records = played(tmp_path, SERVICE.replace("duration: 10m", "duration: 20m") + faults)
    assert {task.agent_id for task in records.tasks.values()} <= {"mec", "vm"}
    assert all((task.ended_us or 0) < 420_000_000 for task in records.tasks.values())
