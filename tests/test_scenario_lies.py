"""Clocks that are off, capacity and bandwidth that are not there, a policy that remembers nothing after a restart."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from policies import registry
from policies.model import Plan, Snapshot
from scenarios.clock import Clock
from scenarios.format import load_world
from scenarios.player import Outcome, play
from scenarios.records import Records
from tests.scenario_world import SMALL, written

FAULTS = SMALL.index("faults:")


def played(tmp_path: Path, fault: str, text: str = SMALL) -> Outcome:
    world = load_world(written(tmp_path, text[: text.index("faults:")] + f"faults:\n  - {fault}\n"))
    outcome = play(world, registry.load("fifo"), "fifo")
    assert outcome.broken_laws == ()
    return outcome


def longest_run_s(outcome: Outcome) -> float:
    return max(task.run_us or 0 for task in Records(outcome).tasks.values()) / 1e6


# --- clocks ----------------------------------------------------------------------------------------------------------

changes = st.lists(st.tuples(st.integers(0, 10**9), st.integers(-500_000, 500_000), st.integers(-(10**8), 10**8)))


@given(changes, st.integers(0, 10**12))
def test_a_clock_counts_on_and_real_is_its_inverse(some: list[tuple[int, int, int]], later_us: int) -> None:
    clock, now_us, read_us = Clock(), 0, 0
    for passed_us, ppm, jump_us in some:
        now_us += passed_us
        assert clock.local(now_us) >= read_us, "a running process never sees time run backwards"
        clock.jump(jump_us)
        clock.drift(ppm, now_us)
        read_us = clock.local(now_us)
    due_us = read_us + later_us
    real_us = clock.real(due_us)
    assert clock.local(real_us) >= due_us, "a deadline is met when it is handled"
    assert real_us == now_us or clock.local(real_us - 1) < due_us, "and no later than need be"


def test_a_jump_shows_at_the_next_start_alone() -> None:
    clock = Clock()
    clock.jump(-30)
    assert clock.local(100) == 100
    clock.start(100)
    assert clock.local(100) == 70


@pytest.mark.parametrize("whose", ["of: master", "agents: gw"])
@pytest.mark.parametrize("drift", ["20%", "-20%"])
def test_a_clock_that_drifts_harms_nobody_and_changes_what_happens(tmp_path: Path, whose: str, drift: str) -> None:
    outcome = played(tmp_path, f"{{at: 1s, for: 30s, clock: {{{whose}, drift: {drift}}}}}")
    assert {task.state for task in Records(outcome).tasks.values()} == {"finished"}
    assert outcome.digest != played(tmp_path, "{at: 1s, clock: {of: master, jump: 0s}}").digest
    assert "drifts by" in outcome.incidents[0].what


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("{at: 1s, clock: {of: master}}", "jumps or drifts"),
        ("{at: 1s, for: 1s, clock: {of: master, jump: 1s}}", 'has no "for"'),
        ("{at: 1s, for: 1s, clock: {of: master, drift: 60%}}", "the most is 50%"),
        ("{at: 1s, for: 1s, lie: {agents: gw}}", "bandwidth, capacity or both"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, fault: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        played(tmp_path, fault)


# --- lies ------------------------------------------------------------------------------------------------------------


def test_capacity_that_is_not_there_is_shared_while_the_lie_lasts(tmp_path: Path) -> None:
    crowd = SMALL.replace("{every: 500ms}", "{every: 100ms}").replace("run: 700ms}", "run: 700ms, where: {tier: edge}}")
    honest = played(tmp_path, "{at: 1s, for: 60s, lie: {agents: gw, bandwidth: 1000%}}", crowd)
    liars = played(tmp_path, "{at: 0s, for: 60s, lie: {agents: gw, capacity: 400%}}", crowd)
    assert longest_run_s(honest) == 0.7
    assert longest_run_s(liars) == pytest.approx(4 * 0.7)  # two tasks on half a core
    brief = played(tmp_path, "{at: 0s, for: 3s, lie: {agents: gw, capacity: 400%}}", crowd)
    runs = [task.run_us for task in Records(brief).tasks.values() if task.placed_us and task.placed_us > 3_100_000]
    assert runs and set(runs) == {700_000}


def test_bandwidth_that_is_not_there_is_believed_until_it_is_measured(tmp_path: Path) -> None:
    """The master's own map holds what the liar said."""
    text = SMALL.replace("run: 700ms}", "run: 700ms, reads: {size: 1MiB}}").replace(
        "{role: vision,", "{role: vision, at: rack,"
    )
    text = text.replace("run: 700ms", "run: 700ms, where: {site: plant}")

    def most_bps(fault: str) -> int:
        outcome = played(tmp_path, fault, text)
        return max(link.bandwidth_bps or 0 for link in outcome.master.core.network.links(outcome.master.core.now_us))

    truth = most_bps("{at: 0s, for: 60s, lie: {agents: gw, bandwidth: 100%}}")
    assert most_bps("{at: 0s, for: 60s, lie: {agents: gw, bandwidth: 1000%}}") > 3 * truth


# --- a restarted master ----------------------------------------------------------------------------------------------


class Counting:
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        self.inner = registry.load("fifo")
        self.asked: list[int] = []
        self.n_plans = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "Counting":
        twin = Counting()
        twin.n_plans, twin.asked = self.n_plans, self.asked
        return twin

    def plan(self, snapshot: Snapshot) -> Plan:
        self.n_plans += 1
        self.asked.append(self.n_plans)
        return self.inner.plan(snapshot)


def test_a_restarted_master_has_a_policy_that_remembers_nothing(tmp_path: Path) -> None:
    world = load_world(written(tmp_path, SMALL[:FAULTS] + "faults:\n  - {at: 3s, kill: master, restart: 1s}\n"))
    policy = Counting()
    play(world, policy, "fifo")
    assert policy.asked.count(1) == 2
    assert policy.asked.index(1, 1) == policy.n_plans
