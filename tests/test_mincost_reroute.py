"""Rounds in which what a change blocks is rerouted by pivots of the dual simplex, and results that are read later."""

import copy
import gc
import pickle
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.jit import Int64s
from policies.kernels.mincost import planted, reroute
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.dispatch import Kernel
from policies.kernels.mincost.incidence import Incidence, enter_some, incidence_of, take_out, with_nodes
from policies.kernels.mincost.model import UNLIMITED
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Planted
from tests.test_mincost_runs import check_tree
from tests.test_mincost_warm import change_and_balance, check_equals_cold, schedule

pytestmark = pytest.mark.kernel


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_rerouted_sequence_equals_cold_solves(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "REROUTE_ARCS_MIN", 0)
        network = FlowNetwork(1, [], [], [], [], [0], kernel="simplex")
        network.solve()
        for _ in range(data.draw(st.integers(1, 8))):
            change_and_balance(network, data)
            check_equals_cold(network)
            if isinstance(network._held, Planted):
                check_tree(network._held, network.n_nodes)
                check_incidence(network)


def check_incidence(network: FlowNetwork) -> None:
    """Every arc alive but loops is entered once at either end, with its other end; nothing else is."""
    held = network._held
    assert isinstance(held, Planted)
    if held._incidence is None:
        return
    position, tail, head = held._position, network.tail, network.head
    expected: Counter[tuple[int, int, int]] = Counter()
    for arc in np.flatnonzero(network.arc_alive & (tail != head)).tolist():
        expected[(int(tail[arc]), 2 * int(position[arc]) + 1, int(head[arc]))] += 1
        expected[(int(head[arc]), 2 * int(position[arc]), int(tail[arc]))] += 1
    assert entries_of(held._incidence, network.n_nodes) == expected


def entries_of(incidence: Incidence, n_nodes: int) -> Counter[tuple[int, int, int]]:
    return Counter(
        (node, int(incidence.way[at]), int(incidence.other[at]))
        for node in range(n_nodes)
        for at in range(incidence.first[node], incidence.stop[node])
    )


def test_entries_move_where_there_is_room_and_are_refused_where_there_is_none() -> None:
    tail, head = np.zeros(90, np.int32), np.ones(90, np.int32)
    position, arcs = np.arange(90, dtype=np.int32), np.arange(90)
    incidence = with_nodes(incidence_of(tail, head, np.ones(1, np.bool_), 2), 3)
    taken = 1
    while enter_some(incidence, tail, head, position, arcs[taken : taken + 1]):
        taken += 1
    assert 10 < taken < 90  # So many find room at both nodes.
    take_out(incidence, tail, head, position, arcs[:taken])
    assert sum(entries_of(incidence, 3)[(1, 2 * arc, 0)] for arc in range(taken)) == 0


def slack(n_machines: int, n_classes: int) -> tuple[FlowNetwork, Int64s]:
    """Classes of tasks with eight machines each, a dear way round; half full. Nodes: sink, way round, machines."""
    rng = np.random.default_rng(3)
    first = 2 + n_machines
    classes = first + np.arange(n_classes)
    machines = 2 + rng.integers(0, n_machines, (n_classes, 8))
    tail = [*range(2, first), 1, *np.repeat(classes, 8), *classes]
    head = [*[0] * n_machines, 0, *machines.ravel(), *[1] * n_classes]
    cost = [*[0] * n_machines, 0, *rng.integers(0, 400, n_classes * 8), *[9_000] * n_classes]
    capacity = [*[12] * n_machines, *[UNLIMITED] * (1 + 9 * n_classes)]
    counts = rng.integers(1, 12 * n_machines // n_classes, n_classes)
    supply = np.concatenate([[-counts.sum()], np.zeros(1 + n_machines, np.int64), counts])
    return FlowNetwork(first + n_classes, tail, head, capacity, cost, supply, kernel="simplex"), classes


def test_a_full_machine_passes_on_what_comes_in_few_pivots() -> None:
    """Less than half of what the primal simplex takes for the same rounds."""
    pivots = []
    for arcs_min in (0, 1 << 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planted, "REROUTE_ARCS_MIN", arcs_min)
            network, classes = slack(200, 60)
            network.solve()
            rng, taken = np.random.default_rng(4), 0
            for _ in range(10):
                chosen = rng.choice(classes, 20, replace=False)
                network.set_supply(chosen, np.maximum(network.supply[chosen] + rng.integers(-2, 3, 20), 0))
                network.set_supply(0, int(network.supply[0] - network.supply.sum()))
                result = network.solve()
                assert certificate_error(network, result) is None
                taken += result.work["pivots"]
            pivots.append(taken)
    assert 0 < 2 * pivots[0] < pivots[1]


def test_a_bound_that_could_not_bind_is_put_back_when_flow_would_pass_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's 3 slots bind nobody while 3 tasks could come; then a cheap arc brings 5 more."""
    monkeypatch.setattr(planted, "REROUTE_ARCS_MIN", 0)
    network = FlowNetwork(
        4, [2, 2, 1, 3], [1, 0, 0, 0], [3, UNLIMITED, 3, UNLIMITED], [1, 50, 0, 50], [-8, 0, 3, 5], kernel="simplex"
    )
    assert network.solve().objective == 3 + 5 * 50
    network.add_arcs([3], [1], [UNLIMITED], [0])
    result = network.solve()
    assert (result.objective, result.flow.tolist()) == (5 * 50, [0, 3, 3, 2, 3])
    assert certificate_error(network, result) is None


def test_what_cannot_be_rerouted_in_time_is_left_to_the_simplex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "REROUTE_ARCS_MIN", 0)
    network = schedule(np.random.default_rng(5), n_tasks=60, n_machines=15, slots=4)
    check_equals_cold(network)
    held = network._held
    assert isinstance(held, Planted)
    network.set_supply([0, 20], [-61, 2])
    held._raise_big(int(network.cost.max()))
    blocked = np.zeros(held.net.excess.size, np.int64)
    known = incidence_of(held.net.tail, held.net.head, np.ones(network.n_arcs, np.bool_), network.n_nodes)
    blocked[0] = 20
    reroute.reroute(held.net, known, held.root, blocked, 1, -1, held._work)
    assert not held.net.excess.any()
    check_tree(held, network.n_nodes)
    check_equals_cold(network)


@pytest.mark.parametrize("kernel", ["simplex", "exchange"])
def test_a_result_is_what_it_was_when_the_network_has_changed_since(kernel: Kernel) -> None:
    def build() -> FlowNetwork:
        plan = schedule(np.random.default_rng(6), n_tasks=40, n_machines=10, slots=6)
        return FlowNetwork(plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply, kernel=kernel)

    network, twin = build(), build().solve()
    first = network.solve()
    assert (first.kernel, first.objective) == (kernel, twin.objective)
    network.set_cost([15], [2_000])
    second = network.solve()
    network.remove_nodes([20])
    assert (first.flow.tolist(), first.potential.tolist()) == (twin.flow.tolist(), twin.potential.tolist())
    assert int(second.flow @ np.where(np.arange(network.n_arcs) == 15, 2_000, build().cost)) == second.objective


def test_a_result_that_is_read_later_is_a_result() -> None:
    network, _ = slack(50, 20)
    result = network.solve()
    assert pickle.loads(pickle.dumps(network.solve())).flow.tolist() == result.flow.tolist()
    assert certificate_error(network, replace(result, objective=0)) is not None
    with pytest.raises(AttributeError, match="flows"):
        result.flows  # type: ignore[attr-defined]  # noqa: B018
    assert result.flow is result.flow


@pytest.mark.parametrize("kernel", ["simplex", "exchange", "scaling"])
def test_a_copied_network_goes_its_own_way(kernel: Kernel) -> None:
    plan = schedule(np.random.default_rng(6), n_tasks=40, n_machines=10, slots=6)
    network = FlowNetwork(plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply, kernel=kernel)
    result = network.solve()
    twin = copy.deepcopy(network)
    twin.set_cost([15], [2_000])
    assert twin.solve().objective != result.objective
    check_equals_cold(twin)
    assert network.solve().flow.tolist() == result.flow.tolist()


@pytest.mark.parametrize("kernel", ["simplex", "exchange"])
def test_a_result_that_was_read_keeps_nothing_of_its_network(kernel: Kernel) -> None:
    plan = schedule(np.random.default_rng(6), n_tasks=40, n_machines=10, slots=6)
    network = FlowNetwork(plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply, kernel=kernel)
    result = network.solve()
    held = weakref.ref(network._held)
    assert result.flow.any() and result.potential.any()
    del network
    gc.collect()
    assert held() is None
