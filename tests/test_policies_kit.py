"""The kit: a new package works as written, a broken policy is found out, cost terms are found by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies import registry
from policies.cli import app
from policies.flow import Flow
from policies.kit.benching import worlds
from policies.kit.checking import check
from policies.model import Demand, Link, Node, Plan, Snapshot
from policies.terms import Forecast, WeightedTerm
from scenarios.policy_cli import app as comparing
from tests.policy_worlds import demand, node, snapshot

runner = CliRunner()


def test_a_new_package_passes_its_own_tests(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = runner.invoke(app, ["new", "nearest-first", "--folder", str(folder)])
    assert done.exit_code == 0, done.output
    assert 'nearest-first = "nearest_first.policy:NearestFirst"' in (folder / "pyproject.toml").read_text()
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}"}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout


@pytest.mark.parametrize("name", ["Nearest", "9lives", "a--b", "class", "policies"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    assert runner.invoke(app, ["new", name, "--folder", str(tmp_path / "x")]).exit_code == 2
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert runner.invoke(app, ["new", "other", "--folder", str(tmp_path)]).exit_code == 2
    assert (tmp_path / "README.md").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


class Silent:
    """Breaks P2 as soon as anything is asked."""

    def plan(self, snapshot: Snapshot) -> Plan:
        return Plan()


class Raising:
    def plan(self, snapshot: Snapshot) -> Plan:
        if snapshot.demands:
            raise KeyError("demand")
        return Plan()


def test_check_finds_the_clause_and_a_small_world() -> None:
    verdict = check(Silent, 50, seed=1)
    assert verdict.clause == "P2" and len(verdict.world) == 1 and len(verdict.world[0].demands) == 1
    assert len(verdict.world[0].nodes) <= 1
    assert check(Raising, 50, seed=1).clause == "raised"
    broken = runner.invoke(app, ["check", "tests.test_policies_kit:Silent", "--examples", "20", "-o", "json"])
    assert broken.exit_code == 1 and json.loads(broken.output)["clause"] == "P2"


def test_check_praises_what_holds_and_misses_what_is_not_there() -> None:
    done = runner.invoke(app, ["check", "fifo", "--examples", "10"])
    assert done.exit_code == 0 and "P1 to P15 hold" in done.output
    assert runner.invoke(app, ["check", "fifi"]).exit_code == 3
    assert runner.invoke(app, ["check", "nowhere:Policy"]).exit_code == 3


def test_bench_times_every_policy_on_the_same_worlds() -> None:
    done = runner.invoke(
        app, ["bench", "fifo", "--against", "sjf", "--agents", "20,64", "--classes", "8", "--rounds", "2", "-o", "json"]
    )
    rows = json.loads(done.output)
    assert [(row["policy"], row["n_agents"]) for row in rows] == [("fifo", 20), ("sjf", 20), ("fifo", 64), ("sjf", 64)]
    assert rows[0]["n_tasks"] == rows[1]["n_tasks"] and all(row["p50_ms"] > 0 for row in rows)
    assert list(worlds(20, 8, 2, 7)) == list(worlds(20, 8, 2, 7))
    assert runner.invoke(app, ["bench", "fifo", "--agents", "many"]).exit_code == 2


def test_unknown_cost_terms_and_policies_that_take_none_are_named() -> None:
    with pytest.raises(ValueError, match="no cost term is called 'carbon'"):
        registry.load("flow", {"carbon": 1000})
    for name in ("fifo", "locality"):
        with pytest.raises(ValueError, match=f"'{name}' takes no cost terms"):
            registry.load(name, {"carbon": 1000})


def test_a_term_sees_the_agents_own_site_though_no_demand_asks_for_it() -> None:
    seen: list[tuple[str, Link | None, int]] = []

    def site_term(of: Demand, at: Node, link: Link | None, forecast: Forecast) -> int:
        seen.append((at.site, link, forecast.run_us))
        return 10**7 if at.site == "a" else -5

    world = snapshot([node("n1", "a"), node("n2", "b")], [demand("d", run_us=2_000_000)])
    plan = Flow(terms=(WeightedTerm("site", site_term, 500),)).plan(world)
    assert [(p.agent_id, p.terms.extra_us) for p in plan.placements] == [("n2", 0)], "what is below zero counts as 0"
    assert plan.placements[0].alternatives[0].terms.extra_us == 5 * 10**6, "the weight is in thousandths"
    assert sorted(site for site, _, _ in seen) == ["a", "b"] and {run_us for _, _, run_us in seen} == {2_000_000}


def test_comparing_a_policy_that_nobody_registered_says_which_there_are() -> None:
    done = runner.invoke(comparing, ["compare", "sjff", "fifo", "--scenario", "quickstart"])
    assert done.exit_code == 3 and "Traceback" not in done.output
    assert "no policy is called 'sjff'" in done.output and "sjf" in done.output
