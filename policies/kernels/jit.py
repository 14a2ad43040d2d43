"""The decorator every kernel carries, and the folders their machine code is kept in.

A kernel is compiled when its module is imported (its signature is explicit), releases the GIL and is kept on disk.
Numba decides whether kept code is fresh by the kernel's own file alone: an edit in a kernel imported from another file
goes unseen, and so does a change of NUMBA_BOUNDSCHECK. Hence each module has a folder named by a digest of all that
matters to it, and an edit compiles anew what it can have changed, no more.
"""

import hashlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Index = np.uint64  # Around what cannot be negative: numba else looks at each index whether it counts from the end.

_config: Any = numba.config  # Its attributes are made at run time.
_F = TypeVar("_F", bound=Callable[..., Any])
_KERNELS = Path(__file__).resolve().parent
_IMPORT = re.compile(r"^\s*(?:from|import) (policies\.kernels[.\w]*)", re.MULTILINE)


def digest_of(paths: Iterable[Path]) -> str:
    """A name for everything the machine code of these files depends on: sources, versions, processor, bounds checks."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(_KERNELS).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (numba.__version__, np.__version__, platform.python_version(), platform.machine())
    settings = (str(llvmlite.binding.get_host_cpu_name()), str(_config.BOUNDSCHECK), str(_config.OPT))
    digest.update(repr(versions + settings).encode())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """Of all kernels."""
    return sorted(_KERNELS.rglob("*.py"))


def sources_of(path: Path) -> set[Path]:
    """A kernel's file and those of kernels it imports, directly or not. A package that is imported is all in it."""
    found, left = set[Path](), [path]
    while left:
        each = left.pop()
        if each in found:
            continue
        found.add(each)
        for name in _IMPORT.findall(each.read_text(encoding="utf-8")):
            module = _KERNELS.joinpath(*name.split(".")[2:])
            left += [module.with_suffix(".py")] if module.with_suffix(".py").exists() else module.rglob("*.py")
    return found


@cache
def cache_folder() -> Path:
    """`$NUMBA_CACHE_DIR` where set, else in the user's cache; a temporary folder where neither can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(home) / "offerflow" / "numba")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"offerflow-numba-{user}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@cache
def folder_of(module: str) -> Path:
    """Where the machine code of a module is kept."""
    return cache_folder() / digest_of(sources_of(Path(str(sys.modules[module].__file__)).resolve()))


def kernel(signature: object, *, inline: bool = False, entry: bool = False) -> Callable[[_F], _F]:
    """Compile for `signature` now (or load what was kept), without the GIL. A wrong dtype is then a TypeError.

    `inline` is for what another calls in a loop: a call hands over nine numbers for each array. `entry` is for what
    Python alone calls, many times, with arrays that are right by construction or were checked: numba does not look at
    their types any more, which for a dozen arrays takes longer than what a small change does to them. Of a wrong array
    it then notices the size of an item at most, so neither tests nor callers may guess.
    """

    def compile_now(function: _F) -> _F:
        _config.CACHE_DIR = str(folder_of(function.__module__))  # numba asks for it when it makes the dispatcher
        compiled = numba.njit(signature, nogil=True, cache=True, forceinline=inline)(function)
        return cast(_F, _entry_of(compiled) if entry else compiled)

    return compile_now


def _entry_of(dispatcher: Any) -> Any:
    """What numba calls when it has found the types to be those of its one signature; itself where it is interpreted."""
    compiled = getattr(dispatcher, "overloads", None)
    return next(iter(compiled.values())).entry_point if compiled else dispatcher
