"""The example of docs/frameworks.md does what the text says."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.test_up import started

DOC = Path(__file__).parents[1] / "docs" / "frameworks.md"


def example() -> str:
    [code] = re.findall(r"^```python\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    return code


def test_the_example_is_short() -> None:
    assert len(example().splitlines()) <= 120


@pytest.mark.live
@pytest.mark.slow
def test_the_coordinator_trains_each_shard_where_it_lies(tmp_path: Path) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(example())
    with started("up", "--agents", "2", "--http", "127.0.0.1:0", TMPDIR=str(tmp_path)) as up:
        url = up.wait_for(r"^master +(http://\S+),")[1]
        up.wait_for(r"^ready")
        done = subprocess.run(
            [sys.executable, str(script)], env=os.environ | {"OFFERFLOW_URL": url, "PYTHONPATH": str(DOC.parents[1])},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert up.end() == 0
    last = re.findall(r"a = (\S+), b = (\S+)", done.stdout)[-1]
    assert [abs(float(value) - wanted) < 0.1 for value, wanted in zip(last, (3, 1), strict=True)] == [True, True]
    n_by_agent: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for number, n_shards, agent_id in re.findall(r"round (\d): (\d) shards on (\S+)", done.stdout):
        n_by_agent[number][agent_id] += int(n_shards)
    assert n_by_agent["0"] == n_by_agent["1"] == n_by_agent["2"], "later rounds go where the shards are"
