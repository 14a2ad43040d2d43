"""The min-cost-flow kernel against networkx, an obvious reference, and its own certificate."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.model import UNLIMITED, Result
from policies.kernels.mincost.network import FlowNetwork
from tests.reference import mincost as reference

pytestmark = pytest.mark.kernel

Arc = tuple[int, int, int | None, int]


@st.composite
def problems(draw: st.DrawFn, cost_min: int = -9) -> tuple[int, list[Arc], list[int]]:
    """Up to 7 nodes; loops, parallel arcs, open arcs, isolated nodes and unreachable demands included."""
    n_nodes = draw(st.integers(1, 7))
    node = st.integers(0, n_nodes - 1)
    capacity = st.one_of(st.none(), st.integers(0, 6))
    arcs = draw(st.lists(st.tuples(node, node, capacity, st.integers(cost_min, 20)), max_size=16))
    supply = draw(st.lists(st.integers(-4, 4), min_size=n_nodes, max_size=n_nodes))
    supply[draw(node)] -= sum(supply)
    return n_nodes, arcs, supply


def network_of(n_nodes: int, arcs: list[Arc], supply: list[int]) -> FlowNetwork:
    tail, head, capacity, cost = zip(*arcs, strict=True) if arcs else ((), (), (), ())
    bounds = [UNLIMITED if bound is None else bound for bound in capacity]
    return FlowNetwork(n_nodes, list(tail), list(head), bounds, list(cost), supply)


def by_networkx(n_nodes: int, arcs: list[Arc], supply: list[int]) -> tuple[str, int | None]:
    """Open arcs get a bound that no optimum can reach, and cycles that earn without bound are looked for apart:
    networkx's `network_simplex` turns for ever where two open arcs of such a cycle face each other.
    """
    out_of_reach = 1 + sum(capacity or 0 for *_, capacity, _ in arcs) + sum(map(abs, supply))
    graph, open_arcs = nx.MultiDiGraph(), nx.MultiDiGraph()
    for node in range(n_nodes):
        graph.add_node(node, demand=-supply[node])
    for tail, head, capacity, cost in arcs:
        graph.add_edge(tail, head, weight=cost, capacity=out_of_reach if capacity is None else capacity)
        if capacity is None:
            open_arcs.add_edge(tail, head, weight=cost)
    try:
        objective = nx.network_simplex(graph)[0]
    except nx.NetworkXUnfeasible:
        return "infeasible", None
    return ("unbounded", None) if nx.negative_edge_cycle(open_arcs) else ("optimal", objective)


@given(problems())
@example((2, [(0, 1, None, -4), (1, 0, None, -6)], [-2, 2]))  # Where networkx itself never came back.
@settings(deadline=None)
def test_status_and_objective_equal_networkx_and_are_proved(problem: tuple[int, list[Arc], list[int]]) -> None:
    network = network_of(*problem)
    result = network.solve()
    assert (result.status, result.objective) == by_networkx(*problem)
    assert certificate_error(network, result) is None


@given(problems())
@settings(deadline=None)
def test_the_reference_agrees(problem: tuple[int, list[Arc], list[int]]) -> None:
    result = network_of(*problem).solve()
    assert (result.status, result.objective) == reference.solve(*problem)[:2]


@given(problems(cost_min=1), st.data())
@settings(deadline=None)
def test_a_corrupted_result_is_caught(problem: tuple[int, list[Arc], list[int]], data: st.DataObject) -> None:
    """Any other flow of another cost, any unbalanced flow, any other objective; each with a sentence."""
    network = network_of(*problem)
    result = network.solve()
    if result.status != "optimal":
        assert certificate_error(network, replace(result, status="optimal", objective=0)) is not None
        return
    assert result.objective is not None
    assert certificate_error(network, replace(result, objective=result.objective + 1)) is not None
    proper = [arc for arc, (tail, head, *_) in enumerate(problem[1]) if tail != head]
    if proper:
        flow = result.flow.copy()
        flow[data.draw(st.sampled_from(proper))] += data.draw(st.sampled_from([-1, 1, 7]))
        assert certificate_error(network, replace(result, flow=flow)) is not None


def test_a_suboptimal_flow_is_caught() -> None:
    network = network_of(2, [(0, 1, 5, 1), (0, 1, 5, 2)], [3, -3])
    worse = replace(network.solve(), flow=np.array([2, 1], np.int64), objective=4)
    assert certificate_error(network, worse) is not None
    assert certificate_error(network, replace(worse, potential=np.array([0, 2], np.int64))) is not None


def test_an_empty_network_costs_nothing() -> None:
    result = FlowNetwork(0, [], [], [], [], []).solve()
    assert (result.status, result.objective) == ("optimal", 0)


def test_large_numbers_are_exact() -> None:
    network = FlowNetwork(2, [0, 0], [1, 1], [2**57, UNLIMITED], [-(2**50), 2**50], [2**58, -(2**58)])
    result = network.solve()
    assert result.objective == 0
    assert certificate_error(network, result) is None
    network.set_cost([0], [2**50])
    assert network.solve().objective == 2**108


BAD = {
    "tail[1] is 2; 0 to 1": ([0, 2], [1, 1], [1, 1], [1, 1], [0, 0]),
    "head[0] is -1; 0 to 1": ([0, 0], [-1, 1], [1, 1], [1, 1], [0, 0]),
    "head has length 1; 2": ([0, 0], [1], [1, 1], [1, 1], [0, 0]),
    "supply has length 3; 2": ([0, 0], [1, 1], [1, 1], [1, 1], [0, 0, 0]),
    "cost has dtype float64": ([0, 0], [1, 1], [1, 1], [1.5, 1], [0, 0]),
    "capacity[1] is -1": ([0, 0], [1, 1], [1, -1], [1, 1], [0, 0]),
    "supplies sum to 1": ([0, 0], [1, 1], [1, 1], [1, 1], [1, 0]),
    "finite capacities (1729382256910270464) sum to more": ([0, 0], [1, 1], [2**60, 2**59], [1, 1], [0, 0]),
    "|cost| up to 288230376151711744": ([0, 0], [1, 1], [1, 1], [2**58, 1], [0, 0]),
    "cost[0] is 9223372036854775807": ([0, 0], [1, 1], [1, 1], [2**63 - 1, 1], [0, 0]),
    "dimensions": ([[0, 0]], [1, 1], [1, 1], [1, 1], [0, 0]),
}


@pytest.mark.parametrize("message", BAD)
def test_the_gate_refuses(message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        FlowNetwork(2, *BAD[message])
    assert message in str(caught.value)


@given(problems())
@settings(deadline=None)
def test_a_result_names_its_status(problem: tuple[int, list[Arc], list[int]]) -> None:
    result: Result = network_of(*problem).solve()
    assert (result.status == "infeasible") == (result.unrouted > 0)
    assert (result.objective is None) == (result.status != "optimal")


def test_columns_may_be_read_only_or_lie_anyhow() -> None:
    """Views of other people's buffers are networks too, and are not written to."""
    rows = np.array([[0, 1, 5, 2], [1, 2, 3, 4], [0, 2, 9, 7]], np.int64)
    rows.setflags(write=False)
    packed = np.frombuffer(b"\0" + np.array([4, 0, -4], np.int64).tobytes(), np.int64, offset=1)
    network = FlowNetwork(3, *rows.T, packed)
    assert network.solve().objective == 3 * 6 + 7
    network.set_cost(np.broadcast_to(np.int64(2), 1), np.frombuffer(np.int64(5).tobytes(), np.int64))
    result = network.solve()
    assert (result.objective, certificate_error(network, result)) == (4 * 5, None)
    assert rows.tolist() == [[0, 1, 5, 2], [1, 2, 3, 4], [0, 2, 9, 7]]
