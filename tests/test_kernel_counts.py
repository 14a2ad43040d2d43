"""What numba puts around a loop: counting who holds an array, two locked additions, must not happen inside of one.

It comes back by a small edit (an array last used in a branch, a condition inside of a call's arguments) and once made
whole solves twice as slow; docs/kernels.md says more.
"""

import re
from collections.abc import Callable
from typing import Any

import networkx as nx
import numba
import pytest

from policies.kernels.mincost import exchange, repair, reroute, runs, simplex, tree

pytestmark = pytest.mark.kernel

_config: Any = numba.config
_LABEL = re.compile(r'^("[^"]+"|[\w.$-]+):')
_TARGET = re.compile(r'label %("[^"]+"|[\w.$-]+)')


def counted_in_loops(code: str) -> int:
    """How many increments of a count lie in loops of the compiled functions."""
    found = 0
    for function in re.findall(r"^define [^\n]*\{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL):
        ways, counts, block = nx.DiGraph(), dict[str, int](), "first"
        for line in function.splitlines():
            label = _LABEL.match(line)
            block = label.group(1) if label else block
            ways.add_edges_from((block, target) for target in _TARGET.findall(line))
            counts[block] = counts.get(block, 0) + ("@NRT_incref" in line and "call" in line)
        for part in nx.strongly_connected_components(ways):
            if len(part) > 1 or any(ways.has_edge(each, each) for each in part):
                found += sum(counts.get(each, 0) for each in part)
    return found


def code_of(kernel: Callable[..., Any]) -> str:
    """Its machine-independent code, compiled anew: of code that was kept on disk numba has none."""
    known: Any = kernel
    fresh = numba.njit(known.signatures[0], nogil=True)(known.py_func)
    return str(next(iter(fresh.inspect_llvm().values())))


def test_what_lies_in_a_loop_is_found() -> None:
    looping = "first:\n br label %a\na:\n call void @NRT_incref(ptr %x)\n br i1 %c, label %a, label %b\nb:\n ret\n"
    assert counted_in_loops(f"define void @f() {{\n{looping}}}\n") == 1
    assert counted_in_loops(f"define void @f() {{\n{looping.replace('label %a, label', 'label %b, label')}}}\n") == 0


@pytest.mark.skipif(
    bool(_config.DISABLE_JIT or _config.BOUNDSCHECK), reason="nothing is compiled, or compiled with what may fail"
)
@pytest.mark.parametrize(
    "kernel",
    [simplex.optimise, runs.pivot_all, runs.cut_out, tree.refresh, repair.rebalance, reroute.reroute, exchange.grow],
    ids=lambda each: each.__name__,
)
def test_no_array_is_counted_in_a_loop(kernel: Callable[..., Any]) -> None:
    assert counted_in_loops(code_of(kernel)) == 0
