"""docs/policies.md and docs/reasons.md say what is so: the example runs and conforms, every reason is there."""

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

from policies import strategies
from policies.cli import app
from policies.conformance import CLAUSES, check_policy
from policies.model import Reason, Snapshot
from policies.registry import names

DOCS = Path(__file__).parents[1] / "docs"


def example() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "policies.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    given: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "docs/policies.md", "exec"), given)
    return given


def test_the_example_runs_as_printed() -> None:
    assert example()["FastestFirst"]


def test_each_policy_has_its_source_and_tests_that_exist() -> None:
    section = (DOCS / "policies.md").read_text().split("### Each policy and its source")[1].split("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    described = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row[0])]
    assert sorted(described) == list(names())
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    told = [name for row in rows for name in re.findall(r"`(test_\w+)`", row[-1])]
    assert len(told) >= len(rows) and [name for name in told if f"def {name}(" not in tests] == []


def plain(snapshot: Snapshot) -> bool:
    """What the example says it is for: no roles, no gangs."""
    return not snapshot.roles and all(demand.gang is None for demand in snapshot.demands)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(strategies.snapshots(n_demands_max=3).filter(plain))
def test_the_example_conforms(snapshot: Snapshot) -> None:
    check_policy(example()["FastestFirst"], [snapshot])


def test_every_reason_is_documented_and_no_other() -> None:
    text = (DOCS / "reasons.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {reason.value for reason in Reason}


def test_the_page_names_the_last_clause() -> None:
    assert f"P1 to\n{CLAUSES[-1]}" in (DOCS / "policies.md").read_text()


def test_policies_are_listed_and_shown() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list", "-o", "json"])
    assert listed.exit_code == 0
    rows = {row["name"]: row for row in json.loads(listed.output)}
    assert rows["flow"]["object"] == "policies.flow:Flow" and "min-cost flow" in rows["flow"]["summary"]
    assert "fifo" in runner.invoke(app, ["list"]).output
    shown = runner.invoke(app, ["show", "fifo"])
    assert shown.exit_code == 0 and "network-blind" in shown.output
    unknown = runner.invoke(app, ["show", "flwo"])
    assert unknown.exit_code == 3 and "did you mean 'flow'" in unknown.output
