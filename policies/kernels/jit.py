"""The decorator every kernel carries, and the folder its machine code is kept in.

A kernel is compiled when its module is imported (its signature is explicit), releases the GIL and is kept on disk.
Numba decides whether kept code is fresh by the kernel's own file alone: an edit in a kernel imported from another file
goes unseen, and so does a change of NUMBA_BOUNDSCHECK. Hence the folder's name is a digest of all that matters.
"""

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

_config: Any = numba.config  # Its attributes are made at run time.
_F = TypeVar("_F", bound=Callable[..., Any])
_KERNELS = Path(__file__).resolve().parent


def _digest() -> str:
    """A name for everything the machine code depends on: sources, versions, processor, bounds checks."""
    digest = hashlib.sha256()
    for path in sorted(_KERNELS.rglob("*.py")):
        digest.update(path.relative_to(_KERNELS).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (numba.__version__, np.__version__, platform.python_version(), platform.machine())
    settings = (str(llvmlite.binding.get_host_cpu_name()), str(_config.BOUNDSCHECK), str(_config.OPT))
    digest.update(repr(versions + settings).encode())
    return digest.hexdigest()[:16]


def _choose_folder() -> Path:
    """`$NUMBA_CACHE_DIR` where set, else the user's cache; a temporary folder where neither can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    base = os.environ.get("NUMBA_CACHE_DIR") or str(Path(home) / "offerflow" / "numba")
    folder = Path(base) / _digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"offerflow-numba-{user}" / folder.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


CACHE_FOLDER = _choose_folder()
_config.CACHE_DIR = str(CACHE_FOLDER)


def kernel(signature: object) -> Callable[[_F], _F]:
    """Compile for `signature` now (or load what was kept), without the GIL. A wrong dtype is then a TypeError."""

    def compile_now(function: _F) -> _F:
        return cast(_F, numba.njit(signature, nogil=True, cache=True)(function))

    return compile_now
