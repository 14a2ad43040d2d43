"""Prices set anew between searches for exchange paths: they stay right, and every node has a way that costs nothing."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.mincost import aim, exchange, leaves, paths
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.contracted import Contracted
from policies.kernels.mincost.model import OPEN
from policies.kernels.mincost.network import FlowNetwork
from tests.test_mincost_warm import change_and_balance, check_equals_cold, schedule

pytestmark = pytest.mark.kernel


def steps(held: Contracted) -> list[tuple[int, int, int]]:
    """All ways from node to node of the core, and what each costs: entries with room, and leaves that change places."""
    net, table = held.net, held.table
    found = [
        (node, int(net.to[entry]), int(net.cost[entry]))
        for node in np.flatnonzero(~table.is_leaf).tolist()
        for entry in range(net.first[node], net.shut[node])
    ]
    for leaf in np.flatnonzero(table.is_leaf).tolist():
        first, stop, _, at, _ = table.row[leaf].tolist()
        if at >= 0:
            here, cost = table.slot[at].tolist()
            found += [(here, to, there - cost) for to, there in table.slot[first:stop].tolist()]
    return found


def far_from_lack(held: Contracted, hub: int) -> dict[int, int]:
    """Each node's distance by reduced costs to the nearest that lacks: over all steps until nothing changes."""
    price, excess = held.net.price, held.net.excess
    distance = {node: 0 for node in np.flatnonzero(~held.table.is_leaf).tolist() if node == hub or excess[node] < 0}
    changed = True
    while changed:
        changed = False
        for here, there, cost in steps(held):
            new = distance.get(there, OPEN) + cost + int(price[here] - price[there])
            if there in distance and new < distance.get(here, OPEN):
                distance[here], changed = new, True
    return distance


def aimed(held: Contracted, hub: int) -> npt.NDArray[np.int64]:
    """Returns the ways that were told."""
    n_slots = int(held.table.ends[leaves.N_SLOTS]) + aim.AHEAD
    slots = (
        np.zeros(held.table.is_leaf.size + 1, np.int64),
        np.empty(n_slots, np.int32),
        np.empty(n_slots, np.int32),
    )
    aim.list_backwards(held.table, *slots)
    ways = np.empty((aim.N_WAYS, held.scratch.shape[1]), np.int64)
    nobody, work = np.zeros(held.net.price.size, np.bool_), np.zeros(exchange.N_WORK, np.int64)
    far = aim.aim(held.net, held.table, hub, nobody, *slots, ways, held.scratch, work)
    aim.approach(held.net, held.table, ways, far)
    return ways


@pytest.mark.parametrize("hub", [-1, 0])
@pytest.mark.parametrize("seed", range(6))
def test_every_node_has_a_way_to_what_lacks_that_costs_nothing(seed: int, hub: int) -> None:
    rng = np.random.default_rng(seed)
    plan = schedule(rng, n_tasks=60, n_machines=15, slots=4)
    network = FlowNetwork(plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply, kernel="exchange")
    assert network.solve().status == "optimal"
    held = network._held
    assert isinstance(held, Contracted)
    placed = np.flatnonzero(held.table.is_leaf & (held.table.row[:, leaves.AT] >= 0))
    for leaf in rng.choice(placed, 5, replace=False).tolist():  # As if these had gone: where they were lacks one each.
        held.net.excess[held.table.slot[held.table.row[leaf, leaves.AT], leaves.TO]] -= 1
        leaves.leave(held.table, leaf)
    before = far_from_lack(held, hub)
    price = held.net.price.copy()
    ways = aimed(held, hub)
    assert max(before.values()) > 0
    assert all(price[node] - held.net.price[node] == far for node, far in before.items())
    assert set(far_from_lack(held, hub).values()) == {0}
    assert all(cost + held.net.price[here] - held.net.price[there] >= 0 for here, there, cost in steps(held))
    assert (held.scratch[exchange.DISTANCE] == OPEN).all()
    nodes, excess = np.flatnonzero(~held.table.is_leaf).tolist(), held.net.excess
    for node in nodes:  # Each way is there and ends at what lacks.
        met = [node]
        while ways[aim.NEXT, met[-1]] >= 0 and len(met) <= len(nodes):
            met.append(int(ways[aim.NEXT, met[-1]]))
        assert ways[aim.NEXT, met[-1]] == (aim.THERE if node in before else aim.LOST)
        assert met[-1] == hub or excess[met[-1]] < 0 or node not in before


@pytest.mark.parametrize("seed", range(6))
def test_what_waits_goes_the_ways_that_were_told_while_they_are_free(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = schedule(rng, n_tasks=60, n_machines=15, slots=4)
    network = FlowNetwork(plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply, kernel="exchange")
    network.solve()
    held = network._held
    assert isinstance(held, Contracted)
    net, table = held.net, held.table
    placed = np.flatnonzero(table.is_leaf & (table.row[:, leaves.AT] >= 0))
    gone = rng.choice(placed, 6, replace=False)
    for leaf in gone.tolist():  # Nowhere: they wait, and where they were lacks one each.
        net.excess[table.slot[table.row[leaf, leaves.AT], leaves.TO]] -= 1
        net.excess[leaf] += 1
        leaves.leave(table, leaf)
    lacks = -int(net.excess[net.excess < 0].sum())
    work = np.zeros(exchange.N_WORK, np.int64)
    went = aim.follow(net, table, gone, -1, aimed(held, -1), held.scratch, work)
    assert 1 <= went == work[exchange.PATHS]
    assert -int(net.excess[net.excess < 0].sum()) == lacks - went
    assert int((net.excess[gone] > 0).sum()) == gone.size - went
    price = net.price
    assert all(cost + price[here] - price[there] >= 0 for here, there, cost in steps(held))  # Still right.


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_sequence_with_prices_set_anew_after_every_search_equals_cold_solves(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "SCANS_ONCE", 0)
        patch.setattr(paths, "LONG", 1 << 40)
        network = FlowNetwork(1, [], [], [], [], [0], kernel="exchange")
        for _ in range(data.draw(st.integers(1, 8))):
            change_and_balance(network, data)
            check_equals_cold(network)


@pytest.mark.parametrize("slots", [3, 4, 5])
def test_full_networks_are_solved_as_before(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices are set anew between searches, and the optimum is the same."""
    plan = schedule(np.random.default_rng(slots), n_tasks=60, n_machines=15, slots=slots)
    columns = (plan.n_nodes, plan.tail, plan.head, plan.capacity, plan.cost, plan.supply)
    expected = FlowNetwork(*columns, kernel="simplex").solve().objective
    calls: list[int] = []
    kernel = aim.aim
    monkeypatch.setattr(paths, "SCANS_ONCE", 0)
    monkeypatch.setattr(paths, "LONG", 1 << 40)
    monkeypatch.setattr(aim, "aim", lambda *given: calls.append(1) or kernel(*given))
    network = FlowNetwork(*columns, kernel="exchange")
    result = network.solve()
    assert result.objective == expected
    assert certificate_error(network, result) is None
    assert calls
