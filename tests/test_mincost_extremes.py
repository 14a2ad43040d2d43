"""Rounds of changes at the edges of what is allowed, held against the plain reference after each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.mincost import changes, dispatch, exchange, leaves, tree
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.contracted import contracted
from policies.kernels.mincost.dispatch import Kernel
from policies.kernels.mincost.gate import cost_limit
from policies.kernels.mincost.model import FLOW_MAX, NO_BOUND, OPEN, UNLIMITED, NetworkError, Result
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Arcs, Planted
from tests.reference import mincost as reference
from tests.test_mincost_runs import check_tree

pytestmark = pytest.mark.kernel

NODES_MAX = 15  # Ids stay below, so that one limit on costs holds all along.
COST_MAX = cost_limit(NODES_MAX)


def plain(network: FlowNetwork) -> tuple[int, list[tuple[int, int, int | None, int]], list[int]]:
    """The network as the reference takes it. Removed arcs have no room, removed nodes supply nothing."""
    columns = (network.tail, network.head, network.capacity, network.cost)
    arcs = [
        (tail, head, None if room == UNLIMITED else room, cost)
        for tail, head, room, cost in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return network.n_nodes, arcs, network.supply.tolist()


def check_like_plain(network: FlowNetwork) -> Result:
    """Balance the supplies at one node, solve, compare."""
    alive = np.flatnonzero(network.node_alive)
    taker = int(alive[0]) if alive.size else int(network.add_nodes([0])[0])
    network.set_supply(taker, int(network.supply[taker] - network.supply.sum()))
    result = network.solve()
    assert (result.status, result.objective) == reference.solve(*plain(network))[:2]
    assert certificate_error(network, result) is None
    return result


def disturb(rng: np.random.Generator, network: FlowNetwork, result: Result) -> None:
    """Some changes at once, of the kinds that hurt: what carries flow goes, what had room has none, signs flip."""
    for kind in rng.integers(0, 9, int(rng.integers(1, 6))).tolist():
        nodes, arcs = np.flatnonzero(network.node_alive), np.flatnonzero(network.arc_alive)
        if not nodes.size:
            network.add_nodes([0, 0])
            continue
        busy = np.flatnonzero(result.flow[: network.n_arcs] > 0)
        busy = busy[network.arc_alive[busy]] if busy.size else arcs
        some = rng.choice(busy if busy.size and rng.integers(2) else arcs, 2) if arcs.size else arcs
        some = np.unique(some)
        if kind == 0:
            flipped = rng.choice(nodes, min(3, nodes.size), replace=False)
            network.set_supply(flipped, -network.supply[flipped])
        elif kind == 1:
            network.set_supply(rng.choice(nodes), rng.integers(-5, 6))
        elif kind == 2:
            network.set_capacity(some, np.zeros(some.size, np.int64))
        elif kind == 3:
            network.set_capacity(some, rng.choice([1, 5, UNLIMITED], some.size))
        elif kind == 4:
            network.set_cost(some, rng.choice([0, -7, 9, COST_MAX, -COST_MAX], some.size, p=[0.2, 0.1, 0.4, 0.2, 0.1]))
        elif kind == 5 and nodes.size > 2:
            ends = np.concatenate([network.tail[busy], network.head[busy]])
            network.remove_nodes([rng.choice(ends) if ends.size else nodes[-1]])
        elif kind == 6:
            network.remove_arcs(some)
        elif kind == 7 and network.n_nodes + 2 <= NODES_MAX:  # A part of its own, at first.
            pair = network.add_nodes([2, -2])
            network.add_arcs(pair[:1], pair[1:], [UNLIMITED], [rng.integers(0, 9)])
        else:
            ends = rng.choice(nodes, (4, 2))
            network.add_arcs(ends[:, 0], ends[:, 1], rng.choice([0, 1, 6, UNLIMITED], 4), rng.integers(0, 12, 4))
    alive, supply = network.node_alive, network.supply
    if alive.any() and rng.integers(5):  # A dear way for whatever may be cut off, or little would be feasible for long.
        hub = int(np.flatnonzero(alive)[0])
        for nodes, out in ((np.flatnonzero(alive & (supply > 0)), True), (np.flatnonzero(alive & (supply < 0)), False)):
            ends = (nodes, np.full(nodes.size, hub))
            room, cost = np.full(nodes.size, UNLIMITED), np.full(nodes.size, 40)
            network.add_arcs(*(ends if out else ends[::-1]), room, cost)


def classes(rng: np.random.Generator, kernel: Kernel) -> FlowNetwork:
    """Sink, a way to wait, machines, then classes of tasks: nodes 0, 1, 2…4, 5…8."""
    tail = np.concatenate([[1, 2, 3, 4], np.repeat(5 + np.arange(4), 3)])
    head = np.concatenate([[0, 0, 0, 0], np.tile([1, 2, 3], 4)])
    head[5::3] = rng.integers(2, 5, 4)
    room = np.concatenate([[UNLIMITED], rng.integers(0, 6, 3), np.full(12, UNLIMITED)])
    cost = np.concatenate([np.zeros(4, np.int64), rng.integers(0, 30, 12)])
    supply = np.concatenate([[0, 0, 0, 0, 0], rng.integers(0, 5, 4)])
    supply[0] = -supply.sum()
    return FlowNetwork(9, tail, head, room, cost, supply, kernel=kernel)


@pytest.mark.parametrize("kernel", ["simplex", "exchange", "scaling"])
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_rounds_at_the_edges_equal_the_plain_reference(kernel: Kernel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = classes(rng, kernel)
    result = check_like_plain(network)
    for _ in range(5):
        disturb(rng, network, result)
        result = check_like_plain(network)


def check_repaired(held: Planted, network: FlowNetwork) -> None:
    """The tree is one, each tree arc's flow lies within its bounds and costs what its ends' potentials say."""
    check_tree(held, network.n_nodes)
    net, rows = held.net, held.net.rows
    assert not net.excess[: network.n_nodes].any()
    sent = np.zeros(network.n_nodes, np.int64)
    for node in range(network.n_nodes):
        pred, parent = int(rows[node, tree.PRED]), int(rows[node, tree.PARENT])
        if node == held.root:
            continue
        assert min(rows[node, tree.UP], rows[node, tree.DOWN]) >= 0
        apart = int(net.potential[node] - net.potential[parent])
        if pred < 0:
            assert abs(apart) == held.big
            more = int(rows[node, tree.DOWN] if pred == tree.ARTIFICIAL_UP else -rows[node, tree.UP])
        else:
            rises = net.tail[pred] == node
            assert rows[node, tree.RISES] == rises
            assert apart == (-net.cost[pred] if rises else net.cost[pred])
            assert rows[node, tree.UP] + rows[node, tree.DOWN] == net.capacity[pred]
            assert rows[node, tree.LIMIT] == (net.bound[pred] if net.capacity[pred] == NO_BOUND else NO_BOUND)
            more = int(rows[node, tree.DOWN] if rises else -rows[node, tree.UP])
        sent[node] += more
        sent[parent] -= more
    for arc in np.flatnonzero(net.state == tree.UPPER).tolist():
        sent[net.tail[arc]] += net.capacity[arc]
        sent[net.head[arc]] -= net.capacity[arc]
    assert sent.tolist() == network.supply.tolist()


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_a_repaired_tree_balances_and_is_priced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = classes(rng, "simplex")
    result = network.solve()
    for _ in range(4):
        disturb(rng, network, result)
        result = check_like_plain(network)
        if isinstance(network._held, Planted):
            check_repaired(network._held, network)


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_totals_are_those_of_the_columns_and_a_refusal_is_for_a_bound(seed: int) -> None:
    """Values about the bounds: what is taken is within them, what is refused would pass one, and then nothing moved."""
    rng = np.random.default_rng(seed)
    network = FlowNetwork(3, [0, 1, 2], [1, 2, 0], [1, UNLIMITED, 7], [5, -4, 0], [1, 0, -1])
    amounts = [0, 1, FLOW_MAX // 3, FLOW_MAX - 9, FLOW_MAX, UNLIMITED]
    cost_ever = 5
    for _ in range(12):
        arcs, nodes = np.flatnonzero(network.arc_alive), np.flatnonzero(network.node_alive)
        before = (network.supply.tolist(), network.capacity.tolist(), network.cost.tolist())
        limit = cost_limit(network.n_nodes)
        kind, value = int(rng.integers(4)), int(rng.choice(amounts))
        cost = int(rng.choice([0, limit, limit + 1, -limit, -limit - 1, limit // 2]))
        finite = sum(room for room in network.capacity.tolist() if room != UNLIMITED)
        supplied = sum(abs(each) for each in network.supply.tolist())
        node, arc = int(rng.choice(nodes)), int(rng.choice(arcs))
        fits = abs(cost) <= limit
        try:
            if kind == 0:
                value = min(value, FLOW_MAX) * int(rng.choice([1, -1]))
                fits = supplied - abs(int(network.supply[node])) + abs(value) + finite <= FLOW_MAX
                network.set_supply(node, value)
            elif kind == 1:
                was = int(network.capacity[arc])
                left = supplied + finite - (was if was != UNLIMITED else 0)
                fits = value == UNLIMITED or left + value <= FLOW_MAX
                network.set_capacity(arc, value)
            elif kind == 2:
                network.set_cost(arc, cost)
            else:
                fits = cost_ever <= cost_limit(network.n_nodes + 1)
                network.add_nodes([0])
        except NetworkError:
            assert not fits
            assert before == (network.supply.tolist(), network.capacity.tolist(), network.cost.tolist())
        else:
            assert fits
            cost_ever = max(cost_ever, abs(cost)) if kind == 2 else cost_ever
        told = network._totals.tolist()
        assert told[changes.SUPPLY] == sum(abs(each) for each in network.supply.tolist())
        assert told[changes.CAPACITY] == sum(room for room in network.capacity.tolist() if room != UNLIMITED)
        assert told[changes.BALANCE] == sum(network.supply.tolist())
        assert told[changes.COST_MAX] == cost_ever


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_a_search_that_stays_near_finds_as_short_a_way_as_a_full_one(seed: int) -> None:
    """Where it finds a lack, a full search moves no price either; and what is sent along either's way is right."""
    rng = np.random.default_rng(seed)
    n_core, n_leaves = 6, 12
    tail = np.concatenate([rng.integers(0, n_core, 14), np.repeat(n_core + np.arange(n_leaves), 3)])
    head = np.concatenate([rng.integers(0, n_core, 14), rng.integers(0, n_core, 3 * n_leaves)])
    arcs = Arcs(tail, head, tail >= 0, rng.integers(1, 3, tail.size), rng.integers(0, 3, tail.size))
    supply = np.concatenate([-rng.integers(0, 4, n_core), np.ones(n_leaves, np.int64)])
    supply[0] -= supply.sum()
    hub = int(rng.integers(-1, 1))
    held = contracted(arcs, supply, None, None, never_scales=True)
    count, work = np.zeros(exchange.N_COUNT, np.int64), np.zeros(exchange.N_WORK, np.int64)
    for leaf in (n_core + rng.permutation(n_leaves)).tolist():
        before = held.net.price.copy()
        scratch = held.scratch.copy()
        found = exchange.near(held.net, held.table, leaf, hub, scratch, count, work)
        assert (held.net.price == before).all()
        assert (scratch[exchange.DISTANCE] == OPEN).all()
        full = exchange.grow(held.net, held.table, leaf, hub, 1, held.scratch, count, work)
        target = int(held.scratch[exchange.FOUND, 0])
        if found >= 0:
            assert full == 1
            assert (held.net.price == before).all()
            assert found == hub or held.net.excess[found] < 0
            held.scratch[:] = scratch
            target = found
        elif not full:
            break
        assert exchange.augment(held.net, held.table, target, hub, held.scratch, work) == 1
        flow, price, _ = held.read(arcs, np.ones(supply.size, np.bool_))
        reduced = arcs.cost + price[tail] - price[head]
        assert (reduced[(flow < arcs.bound) & (tail != head)] >= 0).all()
        assert (reduced[(flow > 0) & (tail != head)] <= 0).all()


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_tasks_with_two_places_go_to_scaling_and_stay_right(seed: int) -> None:
    """One place or a way to wait for each; ways to machines through three steps."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_ARCS_MIN", 0)
        tail = np.concatenate([[1, 1, 2, 3, 3, 4, 4, 5, 5], np.repeat([6, 7, 8, 9], 2)])
        head = np.concatenate([[0, 2, 3, 4, 5, 0, 0, 0, 2], np.tile([1, 2], 4)])
        room, cost = rng.integers(1, 4, tail.size), rng.integers(0, 9, tail.size)
        room[0], room[9:] = UNLIMITED, 1
        network = FlowNetwork(10, tail, head, room, cost, [-4, 0, 0, 0, 0, 0, 1, 1, 1, 1])
        result = network.solve()
        assert result.kernel == "scaling"
        for _ in range(4):
            disturb(rng, network, result)
            result = check_like_plain(network)


def test_costs_at_the_bound_without_end() -> None:
    """The dearest way there may be, ten arcs at the limit, beside a direct one of as much."""
    limit = cost_limit(11)
    tail, head = [*range(10), 0], [*range(1, 11), 10]
    network = FlowNetwork(11, tail, head, [3] * 10 + [1], [limit] * 11, [2, *[0] * 9, -2])
    result = network.solve()
    assert result.objective == 11 * limit
    assert certificate_error(network, result) is None
    network.set_cost(np.arange(10), [-limit] * 10)
    result = network.solve()
    assert result.objective == -20 * limit
    assert certificate_error(network, result) is None


@pytest.mark.parametrize("way", ["set", "add"])
def test_exchange_paths_hold_costs_of_31_bits_and_the_simplex_takes_over_beyond(way: str) -> None:
    most = leaves.SLOT_COST_MAX
    tail, head, cost = [0, 0, 1, 1, 2, 3], [2, 3, 2, 3, 4, 4], [most, 1, 2, 4, 0, 0]
    network = FlowNetwork(5, tail, head, [1] * 6, cost, [1, 1, 0, 0, -2], kernel="exchange")
    result = check_like_plain(network)
    assert (result.kernel, result.objective) == ("exchange", 3)
    network.set_capacity([1], [0])  # Task 0 has the dear place alone.
    result = check_like_plain(network)
    assert (result.kernel, result.objective) == ("exchange", most + 4)
    if way == "set":
        network.set_cost([0], [most + 1])
    else:
        network.remove_arcs([0])
        network.add_arcs([0], [2], [1], [most + 1])
    result = check_like_plain(network)
    assert (result.kernel, result.objective) == ("simplex", most + 5)
