"""A core or a policy that raises ends the run like a broken law: with the events that show it, and it can be shrunk."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation import events
from federation.config import MasterConfig
from policies import registry
from policies.model import Plan, Snapshot
from scenarios.cli import app
from scenarios.crash import same_crash
from scenarios.format import load_world
from scenarios.player import START_US, Player
from scenarios.runs import Case
from scenarios.shrinking import shrink
from tests.scenario_world import SMALL, written

FAULTS = """
faults:
  - {at: 2s, cordon: {agents: vm}, for: 1s}
  - {at: 3s, kill: {agents: gw-1}, restart: 2s}
  - {at: 4s, pause: {agents: gw-2}, for: 1s}
"""


class ShakyPolicy:
    """Cannot plan without a gateway of two."""

    def plan(self, snapshot: Snapshot) -> Plan:
        if sum(node.site == "plant" for node in snapshot.nodes) < 2 and snapshot.demands:
            raise KeyError("vision-3/task/0")
        return registry.load("fifo").plan(snapshot)


def test_a_core_that_raises_shows_the_event_and_what_led_to_it(tmp_path: Path) -> None:
    player = Player(load_world(written(tmp_path, SMALL)), registry.load("fifo"), "fifo", MasterConfig(), None)
    player.call(START_US + 2_000_000, lambda now_us: player._master.handle(events.Started(term=1), now_us))
    outcome = player.run()
    (broken,) = outcome.broken_laws
    assert broken.startswith("crash of the master: AssertionError at federation.master:")
    assert broken.endswith(": term 1 does not exceed 1, on Started")
    assert outcome.ended_us == 2_000_000
    assert outcome.tail[-1].startswith('2.000000 s Started {"type":"Started","term":1')


def test_two_crashes_are_one_defect_where_who_what_and_where_are_equal() -> None:
    first = "crash of the master: KeyError at federation.tasks:120: 'j/g/0', on AgentSpoke of gw-1"
    assert same_crash(first) == "crash of the master: KeyError at federation.tasks:120"
    assert same_crash(first.replace("j/g/0", "k/g: 1")) == same_crash(first)
    assert same_crash("crash of agent a: ValueError at agents.agent:7, on Started") == (
        "crash of agent a: ValueError at agents.agent:7"
    )


@pytest.fixture
def shaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as anyone's policy is, by its entry point."""
    info = tmp_path / "shaky-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shaky\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nshaky = {__name__}:ShakyPolicy\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("shaky")
def test_a_policy_that_raises_is_shown_and_shrunk(tmp_path: Path) -> None:
    text = SMALL[: SMALL.index("faults:")].replace("seed: 3", "seed: 1") + FAULTS.lstrip()
    path = written(tmp_path, text)
    done = CliRunner().invoke(app, ["run", str(path), "--policy", "shaky"])
    assert done.exit_code == 1, done.output
    assert "shaky: crash of the policy shaky: KeyError at" in done.output and "Traceback" not in done.output
    found = shrink(Case(path=str(path), policy="shaky"))
    assert found.faults == ("2: kill gw-1",) and found.n_faults_before == 3
    assert found.failure.startswith("crash of the policy shaky: KeyError at")
    assert found.result.summary.tail
