"""Expectations: what may be written, what is refused, and what the numbers mean."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.strictyaml import Place
from scenarios.expect import Metric, Window, judge, parse_slo
from scenarios.runs import Case, run_case
from tests.scenario_world import written

PLACE = Place("f.yaml", 1, 1)
SCOPES = {"vision", "ml/vision", "batch"}


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("vision.latency.p99 < 5s", Metric(measure="latency", scope="vision", stat="p99"), 5e6),
        ("ml/vision.latency.p99.9 < 5s", Metric(measure="latency", scope="ml/vision", stat="p99.9"), 5e6),
        ("latency.mean <= 250ms", Metric(measure="latency", stat="mean"), 250_000.0),
        ("recovery.time.max < 30s", Metric(measure="recovery.time", stat="max"), 3e7),
        ("vision.deadline_miss < 1%", Metric(measure="deadline_miss", scope="vision"), 0.01),
        ("jain(share) > 0.95", Metric(measure="share", function="jain"), 0.95),
        ("tasks.open == 0", Metric(measure="tasks.open"), 0.0),
        ("batch.tasks.finished >= 10", Metric(measure="tasks.finished", scope="batch"), 10.0),
        ("bytes_moved < 2GiB", Metric(measure="bytes_moved"), 2.0 * 2**30),
    ],
)
def test_what_an_expectation_says(text: str, metric: Metric, limit: float) -> None:
    slo = parse_slo(text, SCOPES, PLACE)
    assert (slo.metric, slo.limit, slo.window) == (metric, limit, Window())


def test_windows_and_baselines() -> None:
    assert parse_slo("vision.deadline_miss < 1% excluding faults", SCOPES, PLACE).window == Window(faults="excluding")
    assert parse_slo("latency.p50 < 1s from 5m to 9m", SCOPES, PLACE).window == Window(
        from_us=300_000_000, to_us=540_000_000
    )
    assert parse_slo("latency.p50 < 1s after 5m", SCOPES, PLACE).window == Window(from_us=300_000_000)
    slo = parse_slo("baseline(fifo).completion.p50 ratio < 0.9", SCOPES, PLACE)
    assert (slo.baseline, slo.metric, slo.limit) == ("fifo", Metric(measure="completion", stat="p50"), 0.9)
    assert judge(slo, 8.0, 10.0).ok and not judge(slo, 10.0, 10.0).ok and not judge(slo, 1.0, None).ok


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vision.latancy.p99 < 5s", 'there is no metric "vision.latancy.p99" (did you mean "vision.latency"?)'),
        ("visoin.latency.p99 < 5s", "there is no metric"),
        ("vision.latency < 5s", "has a distribution"),
        ("vision.latency.p101 < 5s", "has a distribution"),
        ("tasks.open.p99 < 5", "is one number"),
        ("vision.latency.p99 < 5", "has no unit"),
        ("tasks.open == 5s", "is not a number"),
        ("share > 0.5", "write jain(share)"),
        ("jane(share) > 0.5", 'there is no function "jane" (did you mean "jain"?)'),
        ("jain(latency) > 0.5", "takes what has a value for each role"),
        ("vision.rounds < 5", "is of the whole run"),
        ("completion.p50 ratio < 0.9", "a comparison reads"),
        ("baseline(fifo).completion.p50 < 9s", "a comparison reads"),
        ("latency.p50 < 1s while it rains", "is no window"),
        ("latency.p50 < 1s from 5m to 4m", "ends before it begins"),
        ("egress < 1 after 5m", '"egress" is of the whole run'),
        ("jain(share) > 0.5 excluding faults", '"share" is of no task that may have met a fault'),
        ("jain(shares) > 0.5", 'there is no metric "shares" (did you mean "share"?)'),
        ("latency.p50", "is no expectation"),
        ("latency.p50 < 1s; import os", "has an unknown unit"),
    ],
)
def test_mistakes_are_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_slo(text, SCOPES, PLACE)
    assert reason in str(caught.value) and str(caught.value).startswith("f.yaml:1:1: ")


def test_nothing_measured_is_missed() -> None:
    verdict = judge(parse_slo("latency.p50 < 1s", SCOPES, PLACE), None, None)
    assert not verdict.ok and verdict.why == "nothing was measured"


def test_shares_and_utilisation_have_windows(tmp_path: Path) -> None:
    """One core. Both roles want it all the time; one has it for the first ten seconds, the other from then on."""
    text = """
schema: offerflow/scenario/v1
name: turns
purpose: one core and two roles
seed: 1
duration: 40s
topology: {master: s, sites: {s: {tier: cloud, agents: {a: {cpu: 1, memory: 1GiB}}}}}
workload:
  roles: {first: {weight: 1}, second: {weight: 3}}
  generate:
    - {role: first, arrivals: {every: 100ms}, from: 1s, to: 2s, limit: 2, task: {cpu: 1, memory: 64MiB, run: 10s}}
    - {role: second, arrivals: {every: 100ms}, from: 1500ms, to: 2s, limit: 3, task: {cpu: 1, memory: 64MiB, run: 10s}}
expect:
  slo:
    - jain(share) > 0.4
    - max(share) > 0.99 from 2s to 10s
    - utilisation.cpu > 0.99 from 3s to 10s
    - utilisation.cpu < 0.01 before 1s
    - max(share) > 0 before 1s
"""
    found = run_case(Case(path=str(written(tmp_path, text)), policy="fifo")).values
    assert found["max(share) > 0.99 from 2s to 10s"] == pytest.approx(1.0), "it had the core, at weight 1"
    assert found["utilisation.cpu > 0.99 from 3s to 10s"] == pytest.approx(1.0)
    assert found["utilisation.cpu < 0.01 before 1s"] == 0.0
    assert found["max(share) > 0 before 1s"] is None, "nobody wanted anything then"
    assert found["jain(share) > 0.4"] == pytest.approx(0.5), "one of two had everything while both wanted it"
