"""A network that was changed and solved again gives what a new one gives, with its proof."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.model import UNLIMITED, NetworkError
from policies.kernels.mincost.network import FlowNetwork

pytestmark = pytest.mark.kernel

CAPACITY = st.one_of(st.just(UNLIMITED), st.integers(0, 6))
COST = st.integers(-5, 20)


def rebuilt(network: FlowNetwork) -> FlowNetwork:
    """The same problem, never solved. Removed arcs have capacity 0, removed nodes supply 0."""
    return FlowNetwork(network.n_nodes, network.tail, network.head, network.capacity, network.cost, network.supply)


def check_equals_cold(network: FlowNetwork) -> None:
    warm, cold = network.solve(), rebuilt(network).solve()
    assert (warm.status, warm.objective) == (cold.status, cold.objective)
    assert certificate_error(network, warm) is None
    assert warm.unrouted == cold.unrouted or warm.status == "infeasible"


def change(network: FlowNetwork, data: st.DataObject) -> None:
    """One random change, which may leave the supplies unbalanced."""
    nodes, arcs = np.flatnonzero(network.node_alive), np.flatnonzero(network.arc_alive)
    kind = data.draw(
        st.sampled_from(["supply", "cost", "capacity", "add node", "remove node", "add arc", "remove arc"])
    )
    node = st.sampled_from(nodes.tolist()) if nodes.size else st.nothing()
    some_arcs = (
        st.lists(st.sampled_from(arcs.tolist()), min_size=1, max_size=4, unique=True) if arcs.size else st.nothing()
    )
    if kind == "add node" or nodes.size == 0:
        network.add_nodes(data.draw(st.lists(st.integers(-4, 4), min_size=1, max_size=2)))
    elif kind == "add arc" or (arcs.size == 0 and kind in ("cost", "capacity", "remove arc")):
        rows = data.draw(st.lists(st.tuples(node, node, CAPACITY, COST), min_size=1, max_size=5))
        network.add_arcs(*zip(*rows, strict=True))
    elif kind == "supply":
        network.set_supply(data.draw(node), data.draw(st.integers(-6, 6)))
    elif kind == "remove node":
        network.remove_nodes(data.draw(node))
    elif kind == "remove arc":
        network.remove_arcs(data.draw(some_arcs))
    else:
        chosen = data.draw(some_arcs)
        values = data.draw(st.lists(COST if kind == "cost" else CAPACITY, min_size=len(chosen), max_size=len(chosen)))
        (network.set_cost if kind == "cost" else network.set_capacity)(chosen, values)


def change_and_balance(network: FlowNetwork, data: st.DataObject) -> None:
    """One round: some changes, after which supplies sum to zero again."""
    for _ in range(data.draw(st.integers(1, 6))):
        change(network, data)
    alive = np.flatnonzero(network.node_alive)
    balance = int(network.supply.sum())
    if balance and not alive.size:
        network.add_nodes([-balance])
    elif balance:
        node = data.draw(st.sampled_from(alive.tolist()))
        network.set_supply(node, int(network.supply[node]) - balance)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_warm_sequence_equals_cold_solves(data: st.DataObject) -> None:
    network = FlowNetwork(1, [], [], [], [], [0])
    for _ in range(data.draw(st.integers(1, 12))):
        change_and_balance(network, data)
        check_equals_cold(network)


def schedule(rng: np.random.Generator, n_tasks: int, n_machines: int, slots: int) -> FlowNetwork:
    """Tasks → machines → sink, and a dear way round. Nodes: sink, way round, machines, tasks."""
    first_task = 2 + n_machines
    tasks = first_task + np.arange(n_tasks)
    tail = [1, *range(2, first_task)]
    head = [0] * (1 + n_machines)
    capacity, cost = [UNLIMITED, *[slots] * n_machines], [0] * (1 + n_machines)
    for task in tasks.tolist():
        machines = rng.choice(n_machines, size=4, replace=False) + 2
        tail += [task] * 5
        head += [1, *machines.tolist()]
        capacity += [1] * 5
        cost += [1000, *rng.integers(0, 400, 4).tolist()]
    supply = [-n_tasks, *[0] * (1 + n_machines), *[1] * n_tasks]
    return FlowNetwork(first_task + n_tasks, tail, head, capacity, cost, supply)


@pytest.mark.parametrize("slots", [1, 3, 6])
def test_rounds_of_arrivals_departures_and_new_costs(slots: int) -> None:
    """Contended, nearly full and slack."""
    rng = np.random.default_rng(slots)
    network = schedule(rng, n_tasks=60, n_machines=15, slots=slots)
    check_equals_cold(network)
    for _ in range(8):
        tasks = np.flatnonzero(network.supply > 0)
        network.remove_nodes(rng.choice(tasks, size=4, replace=False))
        new = network.add_nodes([1] * 6)
        network.add_arcs(np.repeat(new, 3), rng.integers(2, 17, 18), [1] * 18, rng.integers(0, 400, 18))
        network.add_arcs(new, [1] * 6, [UNLIMITED] * 6, [1000] * 6)
        network.set_supply(0, 1 - int(network.supply[1:].sum()) - 1)
        arcs = np.flatnonzero(network.arc_alive)
        chosen = rng.choice(arcs, size=10, replace=False)
        network.set_cost(chosen, rng.integers(0, 500, 10))
        check_equals_cold(network)


def test_little_changes_cost_little_work() -> None:
    network = schedule(np.random.default_rng(1), n_tasks=300, n_machines=60, slots=6)
    cold = network.solve().work["pivots"]
    assert network.solve().work["pivots"] == 0
    network.set_cost([7], [int(network.cost[7]) + 50])
    assert network.solve().work["pivots"] < cold / 10


def test_work_is_that_of_the_solve_it_is_asked_of() -> None:
    def build() -> FlowNetwork:
        return schedule(np.random.default_rng(2), n_tasks=30, n_machines=10, slots=2)

    network = build()
    first, second = network.solve(), network.solve()
    assert first.work == build().solve().work
    assert second.work["pivots"] == 0


def test_removed_ids_are_given_again_and_never_accepted_meanwhile() -> None:
    network = FlowNetwork(3, [0, 1], [1, 2], [5, 5], [1, 1], [0, 0, 0])
    network.remove_nodes([1])
    assert network.arc_alive.tolist() == [False, False]
    for wrong in (lambda: network.set_supply([1], [1]), lambda: network.set_cost([0], [1])):
        with pytest.raises(NetworkError, match="was removed"):
            wrong()
    assert network.add_nodes([0]).tolist() == [1]
    assert sorted(network.add_arcs([0, 1, 0], [1, 2, 2], [5, 5, 5], [1, 1, 9]).tolist()) == [0, 1, 2]
    network.set_supply([0, 2], [3, -3])
    assert network.solve().objective == 6


def test_a_refused_change_changes_nothing() -> None:
    network = FlowNetwork(2, [0], [1], [5], [1], [2, -2])
    before = network.solve()
    for wrong in (
        lambda: network.set_supply([0, 0], [1, 2]),
        lambda: network.set_supply([0], [2**61]),
        lambda: network.set_capacity([0], [-1]),
        lambda: network.set_cost([0], [2**60]),
        lambda: network.add_arcs([0], [2], [1], [1]),
        lambda: network.add_nodes([1.5]),
    ):
        with pytest.raises(NetworkError):
            wrong()
    after = network.solve()
    assert (after.objective, after.flow.tolist()) == (before.objective, before.flow.tolist())
    network.set_supply([0], [3])
    with pytest.raises(NetworkError, match="sum to 1"):
        network.solve()
    network.set_supply([1], [-3])
    assert network.solve().objective == 3
