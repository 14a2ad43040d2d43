"""One policy on one scenario over several seeds: means of what a run amounts to, and what deciding took."""

import time
from pathlib import Path

import msgspec

from policies import registry
from policies.api import Policy
from policies.model import Plan, Record, Snapshot
from scenarios.format import load_world
from scenarios.player import play
from scenarios.report import summarise


class Row(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Means over the seeds, simulated but for the decision times, which are of this machine. `completion_s` is None
    where a run did not end."""

    scenario: str
    policy: str
    seeds: int
    completion_s: float | None
    task_p50_s: float | None
    task_p99_s: float | None
    uplink_bytes: int
    tasks_failed: int
    tasks_open: int
    decision_p50_ms: float
    decision_p99_ms: float
    broken_laws: tuple[str, ...]


class _Timed:
    """A policy and how long each of its rounds took."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.rounds_ms: list[float] = []

    def plan(self, snapshot: Snapshot) -> Plan:
        began_ns = time.perf_counter_ns()
        plan = self._policy.plan(snapshot)
        self.rounds_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return plan


def run(path: Path, name: str, seeds: int) -> Row:
    """Play the scenario with its own seed and those after it. Raises ValueError for an unknown policy."""
    world = load_world(path)
    summaries, rounds_ms = [], []
    for n in range(seeds):
        policy = _Timed(registry.load(name))
        summaries.append(summarise(play(msgspec.structs.replace(world, seed=world.seed + n), policy, name)))
        rounds_ms += policy.rounds_ms
    rounds_ms.sort()
    n_rounds = len(rounds_ms)
    return Row(
        scenario=world.name,
        policy=name,
        seeds=seeds,
        completion_s=_mean([each.completion_s for each in summaries]),
        task_p50_s=_mean([each.task_p50_s for each in summaries]),
        task_p99_s=_mean([each.task_p99_s for each in summaries]),
        uplink_bytes=sum(each.uplink_bytes for each in summaries) // seeds,
        tasks_failed=sum(each.tasks_failed for each in summaries),
        tasks_open=sum(each.tasks_open for each in summaries),
        decision_p50_ms=rounds_ms[n_rounds // 2] if n_rounds else 0.0,
        decision_p99_ms=rounds_ms[min(n_rounds - 1, n_rounds * 99 // 100)] if n_rounds else 0.0,
        broken_laws=tuple(law for each in summaries for law in each.broken_laws),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
