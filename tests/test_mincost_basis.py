"""Near the optimum by scaling, then a tree out of its flow and prices, from which the simplex ends at the optimum."""

import numpy as np
import pytest
from hypothesis import given, settings

from policies.kernels.mincost import planted, simplex, tree
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Planted
from tests.test_mincost import Arc, problems
from tests.test_mincost_kernels import churn, network_of, tasks

pytestmark = pytest.mark.kernel


def check_tree(held: Planted, n_nodes: int) -> None:
    """Every node is in the list once, behind its parent; sizes and last nodes are those of its subtree."""
    rows, listed = held.net.rows, [held.root]
    while len(listed) <= n_nodes and held.net.after[listed[-1]] != held.root:
        listed.append(int(held.net.after[listed[-1]]))
        assert held.net.before[listed[-1]] == listed[-2]
    assert sorted(listed) == list(range(n_nodes))
    below: dict[int, list[int]] = {node: [node] for node in listed}
    for node in reversed(listed[1:]):
        parent, pred = int(rows[node, tree.PARENT]), int(rows[node, tree.PRED])
        assert listed.index(parent) < listed.index(node)
        assert pred < 0 or {node, parent} == {int(held.net.tail[pred]), int(held.net.head[pred])}
        below[parent] += below[node]
    for node in listed:
        run = listed[listed.index(node) :][: rows[node, tree.SIZE]]
        assert sorted(below[node]) == sorted(run)
        assert rows[node, tree.LAST] == run[-1]


@given(problem=problems(cost_min=0))
@settings(deadline=None, max_examples=150)
def test_the_simplex_gets_to_the_optimum_from_any_such_tree(
    problem: tuple[int, list[Arc], list[int]],
) -> None:
    network = network_of(problem, "simplex")
    if not problem[1]:
        return
    arcs, supply = network._all()
    held = Planted(arcs, supply, 0)
    if not held._plant_near(arcs, supply):
        return
    check_tree(held, supply.size)
    held._is_planted = True
    assert held.solve(network._all, supply, int(arcs.cost.max())) == simplex.OPTIMAL
    value, sent_up, sent_down = held.told.tolist()
    result = network.solve()
    assert (result.status == "optimal") == (sent_up == sent_down == 0)
    if result.status == "optimal":
        assert value == result.objective


@pytest.mark.parametrize("slots", [9, 10, 25])
def test_a_large_lumped_network_is_solved_from_near_and_kept(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contended, full, slack: where the simplex may take no time, scaling comes near first; rounds go on from there."""
    rng = np.random.default_rng(slots)
    network = tasks(rng, 2_000, 1_000, slots)
    network.set_supply(np.arange(1_002, 3_002), [5] * 2_000)
    network.set_supply([0], [-10_000])
    columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
    alone = FlowNetwork(network.n_nodes, *columns).solve()
    monkeypatch.setattr(planted, "PROBE", 0)
    result = network.solve()
    assert result.work["pushes"] > 0
    assert result.objective == alone.objective
    assert certificate_error(network, result) is None
    for _ in range(3):
        churn(rng, network, 1_000, 20)
        network.set_supply([0], [network.supply[0] - network.supply.sum()])
        result = network.solve()
        assert result.work["pushes"] == 0
        assert certificate_error(network, result) is None


def test_a_large_network_that_is_infeasible_is_proved_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tasks(np.random.default_rng(1), 2_100, 1_000, 2)
    network.set_supply(np.arange(1_002, 3_102), [2] * 2_100)
    network.set_supply([0], [-4_200])
    network.set_capacity([0], [0])
    monkeypatch.setattr(planted, "PROBE", 0)
    result = network.solve()
    assert result.status == "infeasible"
    assert certificate_error(network, result) is None
