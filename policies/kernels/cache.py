"""Compile every kernel before the first round needs one.

`make setup` and the master's start call `warm_up`; a round never compiles. A new kernel's module is added to `MODULES`.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from policies.kernels.jit import cache_folder, digest_of, sources

MODULES = (  # What is imported by another comes before it, so that progress is shown where the time goes.
    "policies.kernels.mincost.gate",
    "policies.kernels.mincost.changes",
    "policies.kernels.mincost.tree",
    "policies.kernels.mincost.repair",
    "policies.kernels.mincost.simplex",
    "policies.kernels.mincost.answer",
    "policies.kernels.mincost.crash",
    "policies.kernels.mincost.residual",
    "policies.kernels.mincost.patch",
    "policies.kernels.mincost.leaves",
    "policies.kernels.mincost.exchange",
    "policies.kernels.mincost.aim",
    "policies.kernels.mincost.scaling",
    "policies.kernels.mincost.basis",
    "policies.kernels.mincost.network",
    "policies.kernels.mincost.certificate",
    "policies.kernels.maxmin",
    "policies.kernels.fragmentation",
    "policies.kernels.drf",
    "policies.kernels.greedy",
    "policies.kernels.forecast",
)


def is_cached() -> bool:
    """True when `warm_up` has completed on this machine for these very sources: it will then only load, in a second."""
    return _mark().exists()


def warm_up(progress: Callable[[str, int, int], None] | None = None) -> None:
    """Compile or load every kernel; idempotent. `progress(module, done, total)` is called before each and after."""
    for done, module in enumerate(MODULES):
        if progress is not None:
            progress(module, done, len(MODULES))
        importlib.import_module(module)
    if progress is not None:
        progress("", len(MODULES), len(MODULES))
    if not os.environ.get("NUMBA_DISABLE_JIT"):
        _mark().touch()


def _mark() -> Path:
    return cache_folder() / f"complete-{digest_of(sources())}"
