"""Every min-cost-flow kernel by itself obeys the same laws; the dispatcher chooses; `Result.kernel` says what ran."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.kernels.mincost import contracted, scaling
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.dispatch import Kernel, simplex_reason
from policies.kernels.mincost.model import NO_BOUND, UNLIMITED, NetworkError
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Arcs
from tests.test_mincost import Arc, by_networkx, problems
from tests.test_mincost_warm import change_and_balance

pytestmark = pytest.mark.kernel

KERNELS: tuple[Kernel, ...] = ("simplex", "exchange", "scaling")
by_each = pytest.mark.parametrize("kernel", KERNELS)


def network_of(problem: tuple[int, list[Arc], list[int]], kernel: Kernel) -> FlowNetwork:
    n_nodes, arcs, supply = problem
    tail, head, capacity, cost = zip(*arcs, strict=True) if arcs else ((), (), (), ())
    bounds = [UNLIMITED if bound is None else bound for bound in capacity]
    return FlowNetwork(n_nodes, list(tail), list(head), bounds, list(cost), supply, kernel=kernel)


@by_each
@given(problem=problems())
@example(problem=(4, [(2, 0, None, 2), (3, 2, None, 1)], [-1, 0, -1, 2]))  # What left node 3 may not come back.
@settings(deadline=None)
def test_status_and_objective_equal_networkx_and_are_proved(
    kernel: Kernel, problem: tuple[int, list[Arc], list[int]]
) -> None:
    network = network_of(problem, kernel)
    result = network.solve()
    assert (result.status, result.objective) == by_networkx(*problem)
    assert certificate_error(network, result) is None
    earns_without_bound = any(cost < 0 and capacity is None for *_, capacity, cost in problem[1])
    if kernel != "simplex" and result.status == "optimal" and not earns_without_bound:
        assert result.kernel.startswith(kernel)


@by_each
@given(problem=problems(cost_min=1), data=st.data())
@settings(deadline=None)
def test_a_corrupted_result_is_caught(
    kernel: Kernel, problem: tuple[int, list[Arc], list[int]], data: st.DataObject
) -> None:
    network = network_of(problem, kernel)
    result = network.solve()
    proper = [arc for arc, (tail, head, *_) in enumerate(problem[1]) if tail != head]
    if result.status != "optimal" or not proper:
        return
    assert result.objective is not None
    assert certificate_error(network, replace(result, objective=result.objective + 1)) is not None
    flow = result.flow.copy()
    flow[data.draw(st.sampled_from(proper))] += data.draw(st.sampled_from([-1, 1, 7]))
    assert certificate_error(network, replace(result, flow=flow)) is not None


@by_each
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_warm_sequence_equals_cold_solves(kernel: Kernel, data: st.DataObject) -> None:
    network = FlowNetwork(1, [], [], [], [], [0], kernel=kernel)
    for _ in range(data.draw(st.integers(1, 8))):
        change_and_balance(network, data)
        warm = network.solve()
        columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
        cold = FlowNetwork(network.n_nodes, *columns, kernel="simplex").solve()
        assert (warm.status, warm.objective) == (cold.status, cold.objective)
        assert certificate_error(network, warm) is None


def tasks(rng: np.random.Generator, count: int, machines: int, slots: int, kernel: Kernel = "auto") -> FlowNetwork:
    """Tasks → machines → sink, and a dear way round. Nodes: sink, way round, machines, tasks."""
    first = 2 + machines
    task = first + np.arange(count)
    tail = np.concatenate([[1], 2 + np.arange(machines), np.repeat(task, 5)])
    where = rng.integers(2, first, (count, 5))
    where[:, 0] = 1
    price = rng.integers(0, 400, (count, 5))
    price[:, 0] = 1000
    head = np.concatenate([np.zeros(1 + machines, np.int64), where.ravel()])
    capacity = np.concatenate([[UNLIMITED], np.full(machines, slots), np.full(count * 5, UNLIMITED)])
    cost = np.concatenate([np.zeros(1 + machines, np.int64), price.ravel()])
    supply = np.concatenate([[-count], np.zeros(1 + machines, np.int64), np.ones(count, np.int64)])
    return FlowNetwork(first + count, tail, head, capacity, cost, supply, kernel=kernel)


def churn(rng: np.random.Generator, network: FlowNetwork, machines: int, count: int) -> None:
    network.remove_nodes(rng.choice(np.flatnonzero(network.supply > 0), size=count, replace=False))
    new = network.add_nodes([1] * count)
    where = rng.integers(2, 2 + machines, 4 * count)
    network.add_arcs(np.repeat(new, 4), where, [UNLIMITED] * (4 * count), rng.integers(0, 400, 4 * count))
    network.add_arcs(new, [1] * count, [UNLIMITED] * count, [1000] * count)
    chosen = rng.choice(np.flatnonzero(network.arc_alive), size=4 * count, replace=False)
    network.set_cost(chosen, rng.integers(0, 500, 4 * count))
    capacities = rng.choice(np.arange(1, 1 + machines), size=2, replace=False)
    network.set_capacity(capacities, [UNLIMITED if arc == 0 else int(rng.integers(0, 9)) for arc in capacities])


@by_each
@pytest.mark.parametrize("slots", [3, 4, 8])
def test_rounds_of_a_task_level_network(slots: int, kernel: Kernel) -> None:
    """Contended, full and slack; the same changes to each kernel."""
    rng = np.random.default_rng(slots)
    network = tasks(rng, 160, 40, slots, kernel)
    for _ in range(5):
        result = network.solve()
        columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
        assert result.objective == FlowNetwork(network.n_nodes, *columns, kernel="simplex").solve().objective
        assert certificate_error(network, result) is None
        churn(rng, network, 40, 7)


@pytest.mark.parametrize("slots", [4, 8, 20])
def test_the_dispatcher_takes_prices_for_tasks(slots: int) -> None:
    network = tasks(np.random.default_rng(1), 500, 100, slots)
    result = network.solve()
    assert result.kernel == "exchange"
    assert certificate_error(network, result) is None


def test_the_dispatcher_takes_the_simplex_for_lumped_networks() -> None:
    network = tasks(np.random.default_rng(1), 500, 100, 20)
    network.set_supply(np.arange(102, 602), [9] * 500)
    network.set_supply([0], [-4500])
    assert network.solve().kernel == "simplex"


def test_an_infeasible_change_and_back() -> None:
    """Paths find no way; the simplex proves it; and the next solve is right again."""
    network = tasks(np.random.default_rng(2), 500, 100, 5)
    before = network.solve()
    network.set_capacity([0], [0])
    network.set_capacity(np.arange(1, 101), [4] * 100)
    refused = network.solve()
    assert (refused.status, refused.kernel) == ("infeasible", "simplex")
    assert certificate_error(network, refused) is None
    network.set_capacity([0], [UNLIMITED])
    network.set_capacity(np.arange(1, 101), [5] * 100)
    assert network.solve().objective == before.objective


@pytest.mark.parametrize("slots", [3, 4])
def test_scaling_takes_over_where_paths_take_too_long(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold and warm: after so few searches that the flow is far from done; and paths go on from there."""
    monkeypatch.setattr(contracted, "SCANS_COLD", 0)
    monkeypatch.setattr(contracted, "SCANS_WARM", 0)
    rng = np.random.default_rng(slots)
    network = tasks(rng, 800, 100, slots, "auto")
    kernels = []
    for _ in range(4):
        result = network.solve()
        kernels.append(result.kernel)
        columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
        assert result.objective == FlowNetwork(network.n_nodes, *columns, kernel="simplex").solve().objective
        assert certificate_error(network, result) is None
        churn(rng, network, 100, 9)
    assert kernels[0] == "exchange+scaling"


def test_the_dispatcher_takes_scaling_where_most_arcs_are_among_machines() -> None:
    rng = np.random.default_rng(5)
    network = tasks(rng, 300, 300, 2)
    between = rng.integers(2, 302, (2, 3000))
    network.add_arcs(between[0], between[1], [1] * 3000, rng.integers(0, 50, 3000))
    result = network.solve()
    assert result.kernel == "scaling"
    assert certificate_error(network, result) is None


def test_the_dispatcher_takes_scaling_where_tasks_have_two_places_and_ways_are_long() -> None:
    """Tasks → one of many ways in, or wait; the ways lead to machines."""
    rng = np.random.default_rng(6)
    task = np.arange(1_000)
    tail = np.concatenate([task, task, 1_001 + np.arange(600), [1_000]])
    head = np.concatenate([rng.integers(1_001, 1_601, 1_000), [1_000] * 1_000, 1_601 + np.arange(600) % 60, [1_661]])
    out = np.arange(1_601, 1_661)
    tail, head = np.concatenate([tail, np.repeat(out, 9)]), np.concatenate([head, [1_661] * 540])
    supply = np.concatenate([np.ones(1_000, np.int64), np.zeros(661, np.int64), [-1_000]])
    cost = rng.integers(0, 50, tail.size) + 1_000 * (head == 1_000)
    columns = (tail, head, [1_000] * tail.size, cost, supply)
    result = FlowNetwork(1_662, *columns).solve()
    assert result.kernel == "scaling"
    assert result.objective == FlowNetwork(1_662, *columns, kernel="simplex").solve().objective


def test_magnitudes_that_could_wrap_are_left_to_the_simplex() -> None:
    assert scaling.magnitude_error(100, 1000, 1000, 1000) is None
    assert "2^60" in (scaling.magnitude_error(100, 1000, 2**50, 1000) or "")
    assert "2^60" in (scaling.magnitude_error(100, 1000, 1000, 2**58) or "")
    one = np.ones(1, np.int64)
    assert "unbounded" in (simplex_reason(Arcs(one, one, one > 0, one * NO_BOUND, -one), 1, 0, 1, True, False) or "")
    network = FlowNetwork(2, [0], [1], [UNLIMITED], [2**54], [2**10, -(2**10)], kernel="scaling")
    result = network.solve()
    assert (result.kernel, result.objective) == ("simplex", 2**64)
    with pytest.raises(NetworkError, match="simplex, exchange"):
        FlowNetwork(1, [], [], [], [], [0], kernel="magic")  # type: ignore[arg-type]
