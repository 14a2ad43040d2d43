"""Workers of gangs talk over the same network as everyone: how long they take, who holds them up, what they send."""

from pathlib import Path

import msgspec
import pytest

from federation.states import TaskState
from policies.model import Communication
from scenarios.gangs import TURNS_MAX, exchanges
from scenarios.records import Records
from tests.scenario_world import played, run_s

GANG = """
schema: offerflow/scenario/v1
name: gang
purpose: two workers at two sites, a step each second, 12.5 MB a step over 100 Mbit/s
seed: 1
duration: 10m
topology:
  master: a
  sites:
    a: {tier: cloud, agents: {one: {cpu: 1, memory: 1GiB}}}
    b: {tier: cloud, agents: {two: {cpu: 1, memory: 1GiB}}}
  links:
    - {between: [a, b], rtt: 1ms, bandwidth: 100Mbit}
workload:
  jobs:
    - at: 30s
      job: {job: train, tasks: {w: {command: [x], count: 2, gang: true, run: 32s, retry: {attempts: 5}, needs: {cpu: 1, memory: 64MiB}, communication: {pattern: allreduce, bytes: 12500kB, iteration: 1s}}}}
"""  # noqa: E501


def test_steps_take_what_computing_and_the_slowest_flow_take(tmp_path: Path) -> None:
    """32 steps: a second each to compute, and one to send 100 Mbit at what TCP makes of 100 Mbit/s."""
    took_s = run_s(played(tmp_path, GANG))
    assert 32 + 32 < took_s < 32 + 32 / 0.9 + TURNS_MAX * 0.1


def test_work_that_need_not_wait_computes_meanwhile(tmp_path: Path) -> None:
    took_s = run_s(played(tmp_path, GANG.replace("iteration: 1s", "iteration: 1s, synchronous: false")))
    assert 32 < took_s < 32 / 0.9 + TURNS_MAX * 0.1


def test_other_traffic_on_the_link_slows_the_gang(tmp_path: Path) -> None:
    other = """
    - at: 31s
      job: {job: copy, tasks: {c: {command: [x], reads: [big], run: 1s, needs: {cpu: 0.001, memory: 1MiB}, where: {site: b}}}}
data: {big: {at: a, size: 200MB}}
"""  # noqa: E501
    text = GANG.replace("{cpu: 1, memory: 1GiB}", "{cpu: 1.5, memory: 1GiB}") + other.lstrip("\n")
    assert run_s(played(tmp_path, text)) > run_s(played(tmp_path, GANG)) + 4


def test_what_they_send_is_carried_by_the_links(tmp_path: Path) -> None:
    outcome = played(tmp_path, GANG)
    assert {name: count for name, count in outcome.bytes_by_link.items() if name in ("a→b", "b→a")} == {
        "a→b": pytest.approx(32 * 12_500_000, rel=0.01),  # and some probes
        "b→a": pytest.approx(32 * 12_500_000, rel=0.01),
    }


def test_a_worker_that_is_gone_stops_the_others_until_it_is_back(tmp_path: Path) -> None:
    """Its finished turns are not done again."""
    faults = "faults:\n  - {at: 60s, power_off: {agents: two}, restart: 20s}\n"
    whole, broken = played(tmp_path, GANG), played(tmp_path, GANG + faults)
    ends = [max(task.ended_us or 0 for task in Records(each).tasks.values()) / 1e6 for each in (whole, broken)]
    assert ends[0] + 20 < ends[1] < ends[0] + 60


def test_an_attempt_that_was_given_up_takes_nobody_out_when_it_ends(tmp_path: Path) -> None:
    """A worker is cut off for seven minutes: it runs on, is given up after five, and starts again elsewhere. When its
    agent is back the old attempt ends; the gang has both its workers all the same, and finishes."""
    third = "    c: {tier: cloud, agents: {zwei: {cpu: 1, memory: 1GiB}}}\n  links:\n"
    text = GANG.replace("  links:\n", third + "    - {between: [a, c], rtt: 1ms, bandwidth: 100Mbit}\n")
    text = text.replace("run: 32s", "run: 5m").replace("duration: 10m", "duration: 30m")
    outcome = played(tmp_path, text + "faults:\n  - {at: 60s, for: 7m, partition: [a, b]}\n")
    assert {task.state for task in Records(outcome).tasks.values()} == {TaskState.FINISHED}


def test_a_gang_without_a_way_between_its_workers_does_not_finish(tmp_path: Path) -> None:
    faults = "faults:\n  - {at: 40s, for: 9m, link: [a, b], set: {bandwidth: 1kbit}}\n"
    tasks = Records(played(tmp_path, GANG.replace("100Mbit}", "100Mbit}") + faults)).tasks.values()
    assert {task.state for task in tasks} == {"running"}


SAID = Communication(pattern="allreduce", bytes_per_step=1000)
PLACES = [("a1", "a"), ("a2", "a"), ("b1", "b")]


def test_patterns_say_who_sends_what_to_whom() -> None:
    assert exchanges(SAID, PLACES, {}) == [("a1", "a2", 1000), ("a2", "b1", 1000), ("b1", "a1", 1000)]
    server = msgspec.structs.replace(SAID, pattern="parameter_server")
    assert exchanges(server, PLACES, {}) == [
        ("a2", "a1", 1000), ("a1", "a2", 1000), ("b1", "a1", 1000), ("a1", "b1", 1000),
    ]  # fmt: skip
    meet_at_b = exchanges(server, PLACES, {"OFFERFLOW_COMM_MEET_AT": "b"})
    assert meet_at_b == [("a1", "b1", 1000), ("b1", "a1", 1000), ("a2", "b1", 1000), ("b1", "a2", 1000)]
    everyone = exchanges(msgspec.structs.replace(SAID, pattern="all_to_all"), PLACES, {})
    assert len(everyone) == 6 and {size for _, _, size in everyone} == {500}
    assert exchanges(SAID, [("a1", "a"), ("a1", "a")], {}) == []  # one machine


def test_a_plans_tuning_sends_less() -> None:
    assert exchanges(SAID, PLACES, {"OFFERFLOW_COMM_COMPRESSION": "fp16"})[0] == ("a1", "a2", 500)
    assert exchanges(SAID, PLACES, {"OFFERFLOW_COMM_AGGREGATE": "site"}) == [
        ("a2", "a1", 1000), ("a1", "a2", 1000),  # within the site
        ("a1", "b1", 1000), ("b1", "a1", 1000),  # one for each site
    ]  # fmt: skip
