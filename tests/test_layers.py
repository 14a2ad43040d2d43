"""Imports run one way: scenarios → agents → federation → policies, and an agent stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("policies", "federation", "agents", "scenarios", "offerflow")
# What of the master's package an agent may use: light modules only (docs/decisions/0002-light-agent.md).
AGENT_MAY_IMPORT = {
    "federation.errors", "federation.journal", "federation.machine", "federation.mqtt", "federation.mqtt_access",
    "federation.mqtt_parts", "federation.wire", "policies.gpus", "policies.model",
}  # fmt: skip
HEAVY = ("aiohttp", "amqtt", "networkx", "numba", "numpy", "prometheus_client", "ruamel", "scipy", "sklearn")


def imported_modules(path: Path) -> set[str]:
    """Every absolute import of the file, as `package.module` where that is a module of ours."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*inner.split("."))).with_suffix(".py").exists() or (
                    ROOT / Path(*inner.split("."))
                ).is_dir()
                found.add(inner if is_module else str(node.module))
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package: str) -> None:
    above = ORDER[ORDER.index(package) + 1 :]
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = {name for name in imported_modules(path) if name.split(".")[0] in (*above, "tests", "benchmarks")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_agents_see_only_the_light_modules() -> None:
    for path in sorted((ROOT / "agents").rglob("*.py")):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in ("federation", "policies")}
        assert ours <= AGENT_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {sorted(ours - AGENT_MAY_IMPORT)}"


def test_an_agent_loads_nothing_heavy() -> None:
    code = "import sys, agents.cli, agents.driver; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
