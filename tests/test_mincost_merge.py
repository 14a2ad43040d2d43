"""Networks with nodes merged: the same optimum, proved on the whole network, and rounds that go on from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.mincost import network as network_module
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.gate import cost_limit
from policies.kernels.mincost.merge import merged, unfolded
from policies.kernels.mincost.model import UNLIMITED
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Planted
from tests.reference import mincost as reference
from tests.test_mincost_extremes import check_like_plain, disturb, plain
from tests.test_mincost_runs import check_tree

pytestmark = pytest.mark.kernel


def grown(rng: np.random.Generator, cost_max: int) -> tuple[list[list[int]], list[int]]:
    """Columns (tail, head, capacity, cost) and supplies: a tree, each arc either way, more arcs, dear ways round."""
    n = int(rng.integers(2, 9))
    rows = []
    for node in range(1, n):
        ends = [int(rng.integers(0, node)), node]
        rows.append(ends if rng.integers(2) else ends[::-1])
    rows += rng.integers(0, n, (int(rng.integers(0, 6)), 2)).tolist()
    rooms = [0, 1, 2, 3, 4, 5, 9, UNLIMITED]
    rows = [[*ends, rooms[rng.integers(8)], int(rng.integers(0, cost_max // 2 + 1))] for ends in rows]
    supply = rng.integers(-4, 5, n) * rng.integers(0, 2, n)
    supply[rng.integers(n)] -= supply.sum()
    if rng.integers(4):
        ways = [(one, other) for one in np.flatnonzero(supply > 0) for other in np.flatnonzero(supply < 0)]
        rows += [[int(one), int(other), UNLIMITED, cost_max] for one, other in ways]
    return [list(column) for column in zip(*rows, strict=True)], supply.tolist()


@given(st.integers(0, 2**32), st.sampled_from([3, 200, cost_limit(8)]))
@settings(deadline=None, max_examples=120)
def test_the_merged_network_has_the_same_optimum(seed: int, cost_max: int) -> None:
    rng = np.random.default_rng(seed)
    columns, supply = grown(rng, cost_max)
    network = FlowNetwork(len(supply), *columns, supply, kernel="simplex")
    small = merged(*network._all(), 0)
    if small is None:
        return
    assert int(small.inside.sum()) == len(supply) - small.supply.size
    assert (small.arcs.cost >= 0).all()
    bounds = [min(int(bound), UNLIMITED) if bound < 1 << 62 else UNLIMITED for bound in small.arcs.bound]
    own = (small.arcs.tail, small.arcs.head, bounds, small.arcs.cost)
    first = FlowNetwork(small.supply.size, *own, small.supply, kernel="simplex").solve()
    whole = network.solve()
    assert first.status == whole.status
    if whole.status == "optimal":
        flow, potential = unfolded(small, *network._all(), first.flow, first.potential)
        assert sum(int(a) * int(c) for a, c in zip(flow, network.cost, strict=True)) == whole.objective
        found = whole.__class__("optimal", whole.objective, flow, potential, "merged")
        assert certificate_error(network, found) is None


@pytest.mark.parametrize("by", ["simplex", "exchange", "scaling"])
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_rounds_go_on_from_a_merged_solve(by: str, seed: int) -> None:
    """Whichever kernel keeps the whole network; what the merging leaves is a tree, or a flow with prices, like any."""
    rng = np.random.default_rng(seed)
    columns, supply = grown(rng, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "PERCENT", 0)
        patch.setattr(network_module, "PERCENT_TREE", 0)
        patch.setattr(network_module, "is_worth_merging", lambda arcs, supply: True)
        patch.setattr(network_module, "first_kernel", lambda wanted, supply, arcs: by if wanted == "auto" else wanted)
        network = FlowNetwork(len(supply), *columns, supply)
        result = network.solve()
        expected = reference.solve(*plain(network))
        assert (result.status, result.objective) == expected[:2]
        assert certificate_error(network, result) is None
        if by == "simplex" and network._held is not None:
            assert isinstance(network._held, Planted)
            check_tree(network._held, network.n_nodes)
    for _ in range(4):
        disturb(rng, network, result)
        result = check_like_plain(network)


def test_a_tree_of_parts_under_each_machine_is_merged() -> None:
    """Tasks → machines → sockets → cores → sink, at class and at task level."""
    rng = np.random.default_rng(4)
    machines, sink = 1 + np.arange(150), 0
    sockets, cores = 151 + np.arange(600), 751 + np.arange(2_400)
    for count, units in ((40, 12), (400, 1)):
        tasks = 3_151 + np.arange(count)
        tail = np.concatenate([np.repeat(machines, 4), np.repeat(sockets, 4), cores, np.repeat(tasks, 6), tasks])
        where = rng.choice(machines, 6 * count)
        head = np.concatenate([sockets, cores, np.zeros(2_400, np.int64), where, np.full(count, sink)])
        room = np.concatenate([np.full(600, 4), np.ones(4_800, np.int64), np.full(7 * count, units)])
        cost = np.concatenate([rng.integers(0, 99, 5_400), rng.integers(0, 300, 6 * count), np.full(count, 900)])
        supply = np.concatenate([[-count * units], np.zeros(3_150, np.int64), np.full(count, units)])
        network = FlowNetwork(supply.size, tail, head, room, cost, supply)
        result = network.solve()
        assert result.kernel.startswith("merged+")
        assert certificate_error(network, result) is None
        assert (
            result.objective
            == FlowNetwork(supply.size, tail, head, room, cost, supply, kernel="simplex").solve().objective
        )
        network.remove_nodes([1, 751])
        network.set_supply([0], [network.supply[0] - network.supply.sum()])
        result = network.solve()
        assert not result.kernel.startswith("merged")
        assert certificate_error(network, result) is None
