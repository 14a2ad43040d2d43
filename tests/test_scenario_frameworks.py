"""Frameworks in simulated time: they take offers beside the built-in jobs, through restarts, under the laws."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from policies import registry
from scenarios.format import load_scenario
from scenarios.metrics import Metrics
from scenarios.player import Outcome, play
from scenarios.records import Records
from scenarios.runs import cases_of, compare, run_case

TEXT = """
schema: offerflow/scenario/v1
name: small
purpose: a test
seed: 3
duration: 20m
parameters: {offers: shaped}
topology:
  master: core
  sites:
    core: {tier: cloud, agents: {srv: {cpu: 8, memory: 16GiB, count: 2}}}
    edge: {tier: edge, agents: {box: {cpu: 8, memory: 16GiB, count: 2}}}
  links: [{between: [core, edge], rtt: 20ms, bandwidth: 50Mbit}]
workload:
  roles: {mine: {weight: 2}}
  generate:
    - {role: other, arrivals: {every: 2s}, to: 20s, task: {cpu: 2, run: 5s}}
frameworks:
  mine:
    offers: $offers
    failover: 5m
    generate:
      - role: mine
        at: edge
        arrivals: {every: 2s}
        to: 20s
        task: {cpu: 2, count: 2, run: 5s, reads: {size: 20MB}, fails: 20%}
  gang:
    offers: $offers
    generate:
      - {role: gang, arrivals: {every: 1m}, from: 10s, limit: 1, task: {cpu: 8, count: 2, gang: true, run: 5s}}
expect:
  slo:
    - baseline(offers=plain).mine.completion.mean ratio < 2
"""
FAULTS = "faults: [{at: 8s, kill: master, restart: 2s}, {at: 30s, kill: box-1, restart: 5s}]\n"


def played(tmp_path: Path, text: str = TEXT, **parameters: str) -> Outcome:
    path = tmp_path / "world.yaml"
    path.write_text(text)
    world = load_scenario(path, parameters=parameters).world
    return play(world, registry.load("flow"), "flow")


@pytest.mark.parametrize("offers", ["shaped", "plain"])
@pytest.mark.parametrize("faults", ["", FAULTS])
def test_all_work_is_done_under_the_laws(tmp_path: Path, offers: str, faults: str) -> None:
    outcome = played(tmp_path, TEXT + faults, offers=offers)
    records = Records(outcome)
    assert outcome.broken_laws == ()
    assert {task.state for task in records.tasks.values()} <= {"finished"}
    assert sum(task.role == "mine" for task in records.tasks.values()) == 20
    assert sum(task.n_failed for task in records.tasks.values()) > 0, "what failed was launched again"
    counts = outcome.offers["mine"]
    assert counts.made and (offers == "plain" or not counts.declined)
    again = played(tmp_path, TEXT + faults, offers=offers)
    assert again.digest == outcome.digest


def test_the_gang_runs_together(tmp_path: Path) -> None:
    records = Records(played(tmp_path))
    first, second = (task for task in records.tasks.values() if task.role == "gang")
    assert first.placed_us == second.placed_us and first.running_us is not None


def test_who_answers_nothing_is_passed_over(tmp_path: Path) -> None:
    text = TEXT.replace("frameworks:", "frameworks:\n  silent: {offers: ignored}").replace("$offers", "plain")
    outcome = played(tmp_path, text)
    assert outcome.broken_laws == () and outcome.offers["silent"].lapsed
    assert Metrics(Records(outcome)).by_role().keys() >= {"mine"}


def test_a_run_is_compared_with_another_value_of_a_parameter(tmp_path: Path) -> None:
    path = tmp_path / "world.yaml"
    path.write_text(TEXT)
    scenario, cases = cases_of(path, parameters={"offers": "shaped"})
    assert [(case.parameters["offers"], case.is_baseline) for case in cases] == [("shaped", False), ("plain", True)]
    results = compare([run_case(case) for case in cases], scenario.expect.slo)
    (verdict,) = results[0].verdicts
    shaped, plain = (result.values[verdict.text] for result in results)
    assert shaped and plain and verdict.value == shaped / plain
    path.write_text(TEXT.replace("offers=plain", "offer=plain"))
    with pytest.raises(ConfigError, match="no parameter"):
        cases_of(path)


def test_what_a_framework_cannot_bring_is_refused(tmp_path: Path) -> None:
    for wrong, says in (
        ("offers: maybe", "unknown"),
        ("offers: shaped, workload: {}", "workload"),
        ("generate: [{arrivals: {every: 1m}, task: {run: 1s, reads: 'a*'}}]", "name their reads"),
    ):
        path = tmp_path / "world.yaml"
        path.write_text(TEXT.replace("frameworks:", f"frameworks:\n  wrong: {{{wrong}}}"))
        with pytest.raises(ConfigError, match=says):
            load_scenario(path)
