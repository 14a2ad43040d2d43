"""The simplex with potentials kept by runs of the tree's list: the same tree, the same potentials, the same optimum."""

from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import mincost_graphs as graphs
from policies.kernels.jit import Int64s
from policies.kernels.mincost import repair, runs, simplex, tree
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Planted
from policies.kernels.mincost.runs import RUN_BITS, Runs
from tests.test_mincost import Arc, problems
from tests.test_mincost_kernels import network_of, tasks

pytestmark = pytest.mark.kernel
ENDLESS = 1 << 40  # Pivots.


def check_tree(held: Planted, n_nodes: int) -> list[int]:
    """Every node is in the list once, behind its parent; sizes and last nodes are those of its subtree. The list."""
    rows, listed = held.net.rows, [held.root]
    while len(listed) <= n_nodes and held.net.after[listed[-1]] != held.root:
        listed.append(int(held.net.after[listed[-1]]))
        assert held.net.before[listed[-1]] == listed[-2]
    assert sorted(listed) == list(range(n_nodes))
    place = {node: index for index, node in enumerate(listed)}
    size = dict.fromkeys(listed, 1)
    for node in reversed(listed[1:]):
        parent, pred = int(rows[node, tree.PARENT]), int(rows[node, tree.PRED])
        assert place[parent] < place[node] < place[parent] + rows[parent, tree.SIZE]
        assert pred < 0 or {node, parent} == {int(held.net.tail[pred]), int(held.net.head[pred])}
        size[parent] += size[node]
    for node in listed:
        assert rows[node, tree.SIZE] == size[node]
        assert rows[node, tree.LAST] == listed[place[node] + size[node] - 1]
    return listed


def planted_of(network: FlowNetwork) -> tuple[Planted, Int64s]:
    """Its first tree, feasible, with potentials; and zeros for work."""
    arcs, supply = network._all()
    held = Planted(arcs, supply, 0)
    held._raise_big(int(np.abs(arcs.cost).max(initial=0)))
    held._plant(arcs.alive, supply, bare=False)
    blocked = np.empty(supply.size, np.int64)
    for index in range(repair.rebalance(held.net, 0, False, blocked)):
        repair.hang(held.net, blocked[index], 0)
    tree.refresh(held.net, 0)
    return held, np.zeros(simplex.N_WORK, np.int64)


def check_potentials(held: Planted) -> None:
    """They are those of the tree."""
    told = held.net.potential - held.net.potential[held.root]
    tree.refresh(held.net, held.root)
    assert held.net.potential.tolist() == told.tolist()


@given(seed=st.integers(0, 1 << 32), bits=st.integers(1, 44), block=st.integers(1, 70), cursor=st.integers(0, 70))
@settings(deadline=None, max_examples=300)
def test_the_best_of_a_block_is_the_same_however_it_is_found(seed: int, bits: int, block: int, cursor: int) -> None:
    """With a list, as one number with its place, and by runs; from a cursor that may be past the end, and with ties."""
    rng = np.random.default_rng(seed)
    n_nodes, n_arcs, n_runs = 20, 60, 5
    tail, head = (rng.integers(0, n_nodes, n_arcs).astype(np.int32) for _ in range(2))
    state = rng.choice(np.array([tree.LOWER, tree.TREE, tree.UPPER], np.int8), n_arcs, p=[0.1, 0.8, 0.1])
    cost, potential = rng.integers(0, 1 << bits, n_arcs), rng.integers(-1 << bits, 1 << bits, n_nodes)
    run, offset = rng.integers(0, n_runs, n_nodes), rng.integers(-1 << bits, 1 << bits, n_runs)
    own = ((potential - offset[run]) << RUN_BITS) + run
    works = np.zeros((3, simplex.N_WORK), np.int64)
    works[:, simplex.CURSOR] = cursor
    arcs, limits, nothing = (tail, head, cost, state), (n_arcs, block), np.empty(0, np.int64)
    found = {
        simplex.find_entering(*arcs, potential, *limits, nothing, works[0]),
        simplex.find_best(*arcs, potential, *limits, works[1]),
        runs.find_best(*arcs, own, (offset << RUN_BITS) - np.arange(n_runs), *limits, works[2]),
    }
    assert len(found) == 1
    assert (works == works[0]).all()


@given(
    problem=problems(cost_min=0),
    length=st.integers(1, 4),
    pivots=st.integers(0, 12),
    block=st.integers(1, 20),
    scale=st.sampled_from([1, (simplex.BIG_MAX // 16 - 1) // 20]),
)
@settings(deadline=None, max_examples=400)
def test_after_any_number_of_pivots_potentials_are_those_of_the_tree(
    problem: tuple[int, list[Arc], list[int]], length: int, pivots: int, block: int, scale: int
) -> None:
    """With costs as large as runs can have them, too."""
    n_nodes, arcs, supply = problem
    network = network_of((n_nodes, [(*arc[:3], arc[3] * scale) for arc in arcs], supply), "simplex")
    if not arcs:
        return
    held, work = planted_of(network)
    assert held.big <= simplex.BIG_MAX
    runs.optimise_by_runs(held.net, 0, network.n_arcs, block, length, pivots, work)
    check_tree(held, network.n_nodes)
    check_potentials(held)
    assert work[simplex.PIVOTS] <= pivots


@given(problem=problems(cost_min=0), length=st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_it_ends_at_the_optimum(problem: tuple[int, list[Arc], list[int]], length: int) -> None:
    network = network_of(problem, "simplex")
    if not problem[1]:
        return
    held, work = planted_of(network)
    runs.optimise_by_runs(held.net, 0, network.n_arcs, 3, length, ENDLESS, work)
    assert work[simplex.STATUS] == simplex.OPTIMAL
    _, supply = network._all()
    held.solve(network._all, supply, int(network.cost.max()))  # Puts back dropped bounds that bind after all.
    value, sent_up, sent_down = held.told.tolist()
    result = network.solve()
    assert (result.status == "optimal") == (sent_up == sent_down == 0)
    if result.status == "optimal":
        assert value == result.objective


def test_a_cycle_that_earns_without_a_bound_is_told() -> None:
    network = FlowNetwork(3, [0, 1, 2], [1, 2, 1], [5, 9, 9], [1, -3, 1], [0, 0, 0], kernel="simplex")
    held, work = planted_of(network)
    held.net.capacity[:] = held.net.bound[:] = 1 << 62
    runs.optimise_by_runs(held.net, 0, 3, 3, 1, ENDLESS, work)
    assert work[simplex.STATUS] == simplex.UNBOUNDED
    held._work[:] = work
    assert held.cycle().tolist() == [0, 1, 1]


def lumped(slots: int) -> FlowNetwork:
    """2,000 classes of five tasks on 1,000 machines; contended with 9, full with 10, slack with 25 slots."""
    network = tasks(np.random.default_rng(slots), 2_000, 1_000, slots)
    network.set_supply(np.arange(1_002, 3_002), [5] * 2_000)
    network.set_supply([0], [-10_000])
    return network


def check_runs(held: Planted, kept: Runs) -> None:
    """Each run lies together in the list, and its begin and end are told."""
    listed = check_tree(held, held.net.potential.size)
    run = [int(kept.own[node]) & ((1 << RUN_BITS) - 1) for node in listed]
    ends = [node for node, one, next_one in zip(listed, run, [*run[1:], -1], strict=True) if one != next_one]
    named = [one for one, next_one in zip(run, [*run[1:], -1], strict=True) if one != next_one]
    assert len(set(named)) == len(named)
    assert [int(kept.end[one]) for one in named] == ends
    assert [int(kept.begin[one]) for one in named] == [
        listed[0],
        *(listed[listed.index(node) + 1] for node in ends[:-1]),
    ]
    assert max(named) < kept.notes[runs.N_RUNS]


@pytest.mark.parametrize("ids", ["plenty", "few"])
@pytest.mark.parametrize("slots", [9, 10])
def test_runs_stay_whole_through_thousands_of_pivots(slots: int, ids: str) -> None:
    """With plenty of ids they are cut and made anew; with few, large subtrees join other runs too."""
    network = lumped(slots)
    held, work = planted_of(network)
    length, n_nodes = 40, network.n_nodes
    n_ids = n_nodes // length + (400 if ids == "plenty" else 20)
    notes = np.zeros(runs.N_NOTES, np.int64)
    notes[runs.LENGTH] = length
    own = held.net.potential << RUN_BITS
    kept = Runs(own, np.zeros(n_ids, np.int64), np.empty(n_ids, np.int32), np.empty(n_ids, np.int32), notes)
    runs.renew(kept, held.net.after, 0, n_nodes)
    check_runs(held, kept)
    most = 0
    for _ in range(60):
        runs.pivot_all(held.net, kept, 0, network.n_arcs, 100, 97, work)
        most = max(most, int(notes[runs.N_RUNS]))
        check_runs(held, kept)
        held.net.potential[:] = [runs.scaled(own, kept.offset, node) >> RUN_BITS for node in range(n_nodes)]
        check_potentials(held)
        if work[simplex.STATUS] == simplex.OPTIMAL:
            break
    assert most > n_nodes // length + 1  # Some were cut.
    assert work[simplex.PIVOTS] > 1_000


def yielded(graph: graphs.Graph) -> tuple[Planted, Int64s]:
    """Solved by the simplex until it yields, if it does."""
    held, work = planted_of(FlowNetwork(*graph[:6], kernel="simplex"))
    simplex.optimise(held.net, 0, graph.tail.size, isqrt(graph.tail.size), 0, False, True, ENDLESS, work)
    return held, work


@pytest.mark.parametrize("load", [80, 95, 120])
def test_the_simplex_yields_where_all_hang_under_one_node(load: int) -> None:
    graph = graphs.scheduling("edge", 1_000, load, "class")
    held, work = yielded(graph)
    assert work[simplex.STATUS] == simplex.HEAVY
    before = int(work[simplex.PIVOTS])
    runs.optimise_by_runs(held.net, 0, graph.tail.size, 60, 35, ENDLESS, work)
    assert work[simplex.STATUS] == simplex.OPTIMAL
    assert work[simplex.PIVOTS] > before
    check_potentials(held)


@pytest.mark.parametrize("graph", [graphs.scheduling("quincy", 1_000, 50, "class"), graphs.road_like(1 << 10)])
def test_it_does_not_where_little_moves_or_cycles_are_long(graph: graphs.Graph) -> None:
    held, work = yielded(graph)
    assert work[simplex.STATUS] == simplex.OPTIMAL
    check_potentials(held)


@pytest.mark.parametrize("slots", [9, 10, 25])
def test_a_large_lumped_network_is_solved_and_proved(slots: int) -> None:
    network = lumped(slots)
    result = network.solve()
    assert result.kernel == "simplex"
    columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
    assert result.objective == FlowNetwork(network.n_nodes, *columns, kernel="scaling").solve().objective
    assert certificate_error(network, result) is None


def test_a_large_network_that_is_infeasible_is_proved_so() -> None:
    network = tasks(np.random.default_rng(1), 2_100, 1_000, 2)
    network.set_supply(np.arange(1_002, 3_102), [2] * 2_100)
    network.set_supply([0], [-4_200])
    network.set_capacity([0], [0])
    result = network.solve()
    assert result.status == "infeasible"
    assert certificate_error(network, result) is None
