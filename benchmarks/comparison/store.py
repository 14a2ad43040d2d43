"""Runs that were made, kept as text: one file a scenario, one line a run, appended as runs end.

A run names the build it was played on (`build`), the digest of the code that decided it and of the part of it that is
the same under every policy (`Code`), so runs of many builds stand together and one can tell which are of today's code,
and which were played in the same world.
"""

import ast
import functools
import hashlib
import importlib.util
import math
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

import offerflow
from benchmarks.comparison.measure import MEASURES, Run
from policies import registry

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "docs" / "results" / "comparison"
OURS = ("policies", "federation", "agents", "scenarios")
_PLAYER = "scenarios.runs"
_DIGITS = 6
Key = tuple[str, str, int]  # scenario, policy, seed number


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A run as a line: `values` in the order of `MEASURES`."""

    policy: str
    nth: int
    seed: int
    scenario_digest: str
    code: str
    build: str
    outcome: str
    rounds: int
    cpu_s: float
    values: tuple[float | None, ...]
    broken_laws: tuple[str, ...] = ()
    player: str = ""


class Store:
    """A folder of runs, older ones of the same (scenario, policy, seed number) before newer ones.

    A last line that a stop cut off is left out, and played again. What was not yet a measure has no value.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._row = msgspec.json.Decoder(_Row)

    def read(self) -> list[tuple[Key, Run]]:
        found: list[tuple[Key, Run]] = []
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    row = self._row.decode(line)
                except msgspec.DecodeError:
                    continue
                found.append(((path.stem, row.policy, row.nth), _run(path.stem, row)))
        return found

    def add(self, nth: int, run: Run) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{run.scenario}.jsonl").open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            file.write((b"" if file.read(1) in (b"", b"\n") else b"\n") + _line(nth, run))

    def tidy(self, base: str) -> None:
        """Each file anew, sorted: the newest run of each key, and those of `base` that others of their world are still
        held against."""
        by_scenario: dict[str, dict[tuple[Key, str], Run]] = {}
        runs = self.read()
        newest = dict(runs)
        for key, run in runs:
            is_held_against = key[1] == base and any(
                each.world == run.world and other[0] == key[0] and other[2] == key[2] for other, each in newest.items()
            )
            if newest[key] is run or is_held_against:
                kept = by_scenario.setdefault(key[0], {})
                kept.pop((key, run.world), None)
                kept[key, run.world] = run
        for scenario, kept in by_scenario.items():
            path = self._folder / f"{scenario}.jsonl"
            fresh = path.with_suffix(".new")
            lines = [_line(key[2], run) for (key, _), run in sorted(kept.items(), key=lambda each: each[0][0])]
            fresh.write_bytes(b"".join(lines))
            fresh.replace(path)


def _line(nth: int, run: Run) -> bytes:
    row = _Row(
        policy=run.policy,
        nth=nth,
        seed=run.seed,
        scenario_digest=run.scenario_digest,
        code=run.code,
        build=run.build,
        outcome=run.outcome,
        rounds=run.rounds,
        cpu_s=_short(run.cpu_s) or 0.0,
        values=tuple(_short(run.values.get(measure.name)) for measure in MEASURES),
        broken_laws=run.broken_laws,
        player=run.player,
    )
    return msgspec.json.encode(row) + b"\n"


def _run(scenario: str, row: _Row) -> Run:
    values: dict[str, float | None] = {measure.name: None for measure in MEASURES}
    values.update(zip(values, row.values, strict=False))
    return Run(
        scenario=scenario,
        scenario_digest=row.scenario_digest,
        policy=row.policy,
        seed=row.seed,
        values=values,
        rounds=row.rounds,
        broken_laws=row.broken_laws,
        cpu_s=row.cpu_s,
        code=row.code,
        build=row.build,
        outcome=row.outcome,
        player=row.player,
    )


def _short(value: float | None) -> float | None:
    return value if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def build() -> str:
    """Which build this is: the commit, `+` where files differ from it, those of the store aside; the version where
    there is no repository."""
    try:
        commit = _git("rev-parse", "--short=7", "HEAD")
        changed = _git("status", "--porcelain", "--", ":/", f":(exclude,top){RUNS.relative_to(ROOT)}")
    except (OSError, subprocess.CalledProcessError):
        return offerflow.__version__
    return f"{commit}+" if changed else commit


def _git(*asked: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *asked], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Code:
    """Digests of the code that decides a run, of the files as they are when each is first looked at."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module] = {}
        self._imports: dict[str, set[str]] = {}
        self._meanings: dict[str, bytes] = {}

    def of_policy(self, name: str) -> str:
        """Its module and the player's, with every module of ours and of its package that they import, and the data
        files that these name. Comments and docstrings do not count."""
        module = registry.entry(name).module
        return self.digest((module, _PLAYER), {*OURS, module.partition(".")[0]})

    def of_player(self) -> str:
        """What plays every policy alike: scenarios, master, agents, and what of `policies` these share."""
        return self.digest((_PLAYER,), set(OURS))

    def digest(self, modules: Iterable[str], packages: set[str]) -> str:
        """Of these modules and of all that they import from `packages`."""
        digest = hashlib.blake2b(digest_size=4)
        for name in sorted(self._closure(modules, packages)):
            digest.update(name.encode() + self._meaning(name))
        return digest.hexdigest()

    def _closure(self, modules: Iterable[str], packages: set[str]) -> set[str]:
        found: set[str] = set()
        queue = list(modules)
        while queue:
            name = queue.pop()
            if name not in found and name.partition(".")[0] in packages and _source(name) is not None:
                found.add(name)
                if name not in self._imports:
                    self._imports[name] = _imports(self._tree(name))
                queue += self._imports[name]
        return found

    def _tree(self, name: str) -> ast.Module:
        if name not in self._trees:
            path = _source(name)
            assert path is not None, name
            self._trees[name] = _without_prose(ast.parse(path.read_text()))
        return self._trees[name]

    def _meaning(self, name: str) -> bytes:
        if name not in self._meanings:
            path, tree = _source(name), self._tree(name)
            assert path is not None, name
            parts = [ast.dump(tree).encode()]
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".npz"):
                    beside = path.with_name(node.value)
                    parts += [beside.read_bytes()] if beside.is_file() else []
            self._meanings[name] = hashlib.blake2b(b"".join(parts)).digest()
        return self._meanings[name]


@functools.cache
def _source(name: str) -> Path | None:
    """The file of a module, None where there is no such module: an imported name may be a value."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _without_prose(tree: ast.Module) -> ast.Module:
    """Without strings that are statements: docstrings, and those below values."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
