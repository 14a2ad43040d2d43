"""Kernels are compiled once a user and never load machine code of other sources or settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from policies.kernels.cache import is_cached, warm_up
from policies.kernels.jit import cache_folder
calls = []
before = is_cached()
warm_up(lambda module, done, total: calls.append((module, done, total)))
assert [done for _, done, _ in calls] == list(range(len(calls))) and calls[-1][1] == calls[-1][2]
print(before, is_cached(), cache_folder())
"""


def run(code: str, **environment: str) -> list[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.slow
def test_the_second_start_finds_everything_compiled(tmp_path: Path) -> None:
    before, after, folder = run(CODE, XDG_CACHE_HOME=str(tmp_path))
    assert (before, after) == ("False", "True")
    assert Path(folder) == tmp_path / "offerflow" / "numba"
    kept = sorted(path.name for path in Path(folder).rglob("*.nbc"))
    assert run(CODE, XDG_CACHE_HOME=str(tmp_path))[:2] == ["True", "True"]
    assert sorted(path.name for path in Path(folder).rglob("*.nbc")) == kept


FOLDER = "from policies.kernels import jit; print(jit.folder_of('policies.kernels.jit'))"


def test_an_edit_compiles_anew_what_can_have_changed_and_no_more() -> None:
    code = """
from pathlib import Path
from policies.kernels import jit
root = Path(jit.__file__).parent
for name in ("drf", "mincost/answer"):
    print(*sorted(path.relative_to(root).as_posix() for path in jit.sources_of(root / f"{name}.py")), sep=",")
"""
    drf, answer = (line.split(",") for line in run(code))
    assert drf == ["drf.py", "jit.py"]
    assert {"jit.py", "mincost/simplex.py", "mincost/tree.py", "mincost/repair.py"} <= set(answer)
    assert "drf.py" not in answer and "maxmin/levels.py" not in answer


def test_bounds_checks_and_a_chosen_folder_have_their_own_place(tmp_path: Path) -> None:
    (plain,) = run(FOLDER, NUMBA_CACHE_DIR=str(tmp_path))
    (checked,) = run(FOLDER, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_BOUNDSCHECK="1")
    assert Path(plain).parent == Path(checked).parent == tmp_path
    assert plain != checked


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (folder,) = run(FOLDER, XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert Path(folder).is_relative_to(tmp_path)
    assert Path(folder).parent.is_dir()


def test_a_wrong_dtype_is_a_type_error_and_not_a_compilation() -> None:
    code = """
import numpy as np
from policies.kernels.mincost.certificate import check_arcs
try:
    check_arcs(*[np.zeros(2)] * 8)  # float64 where int64 is declared
except TypeError:
    print("refused", len(check_arcs.signatures))
"""
    assert run(code) == ["refused", "1"]


def test_an_entry_takes_what_its_signature_says_and_refuses_what_is_not_even_as_wide() -> None:
    code = """
import numpy as np
from policies.kernels.mincost.exchange import only_consumer
print(only_consumer(np.array([3, 0, -3])), only_consumer(np.array([-1, 2, -1])))
try:
    only_consumer(np.zeros(3, np.int32))
except TypeError:
    print("refused", hasattr(only_consumer, "signatures"))
"""
    assert run(code) == ["2", "-1", "refused", "False"]
