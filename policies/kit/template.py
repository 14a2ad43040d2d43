"""The package that `offerflow policy new` writes: a policy that works, its entry point, and tests that judge it."""

import keyword
import re
from pathlib import Path

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
description = "A placement policy for offerflow"
requires-python = ">=3.11"
dependencies = ["offerflow[master]"]

[project.optional-dependencies]
test = ["hypothesis>=6.112", "pytest>=8"]

[project.entry-points."offerflow.policies"]
{name} = "{module}.policy:{cls}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

_POLICY = '''\
"""{cls}: say here in a paragraph who comes first, where work goes, and what that is good for."""

from policies.greedy import Greedy, Rank, Round, seniority
from policies.lower import Int64s


class {cls}(Greedy):
    """The oldest work of the highest priority first, each task where it is done soonest.

    `Greedy` keeps constraints, quotas, gangs, books and reasons; what makes a policy are these two answers. For one
    that is not greedy, write `plan(snapshot) -> Plan` instead: see docs/policies.md of offerflow.
    """

    kernel = "{name}"

    def rank(self, books: Round, c: int) -> Rank:
        """Smaller comes first; `c` names a class of equal tasks by its place in `books.demands`."""
        return seniority(books.demands[c])

    def scores(self, books: Round, c: int) -> Int64s | None:
        """One number an agent; the lowest is filled first. Microseconds until a task of the class is done there."""
        return books.by_node(books.costs.transfer_us[c] + books.costs.run_us[c])
'''

_TESTS = '''\
"""{cls} keeps every clause of the kit, and does what it is for."""

from hypothesis import HealthCheck, given, settings

from policies import strategies
from policies.conformance import check_policy
from policies.model import Demand, Needs, Node, Resources, Snapshot
from {module}.policy import {cls}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(strategies.sequences())
def test_every_clause_holds(snapshots: list[Snapshot]) -> None:
    check_policy({cls}, snapshots)


def test_the_fastest_agent_is_filled_first() -> None:
    room = Resources(cpu_milli=2000, memory_bytes=2**30)
    nodes = tuple(
        Node(agent_id=name, site="lab", tier="edge", free=room, total=room, speed_milli=speed)
        for name, speed in (("quick", 3000), ("slow", 500))
    )
    work = Demand(demand_id="d", role="default", needs=Needs(cpu_milli=1000), count=3, oldest_us=0)
    plan = {cls}().plan(Snapshot(now_us=1, demands=(work,), nodes=nodes))
    assert [(p.agent_id, p.count) for p in plan.placements] == [("quick", 2), ("slow", 1)]
'''

_README = """\
# {name}

```
pip install -e '.[test]'
pytest                                          # the kit's clauses and your own stories
offerflow policy check {name}                   # the same clauses, more worlds
offerflow policy bench {name} --against flow    # how long a round takes, by size
offerflow policy compare {name} flow --scenario quickstart
offerflow up --policy {name}
```
"""


def write_package(name: str, folder: Path) -> tuple[Path, ...]:
    """Write the package into `folder` (made if need be); the files written. Raises ValueError for a name that
    cannot be, and FileExistsError rather than overwrite anything."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} is no name for a policy: small letters and digits in words joined by hyphens")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in ("policies", "federation", "agents", "scenarios"):
        raise ValueError(f"{name!r} cannot be the name of a package: it is taken")
    cls = "".join(word.capitalize() for word in name.split("-"))
    texts = {
        folder / "pyproject.toml": _PYPROJECT,
        folder / "README.md": _README,
        folder / module / "__init__.py": '"""A placement policy for offerflow."""\n',
        folder / module / "policy.py": _POLICY,
        folder / "tests" / f"test_{module}.py": _TESTS,
    }
    for path in texts:
        if path.exists():
            raise FileExistsError(f"{path} exists already; name another folder with --folder")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        filled = text.replace("{name}", name).replace("{module}", module).replace("{cls}", cls)
        path.write_text(filled, encoding="utf-8")
    return tuple(texts)
