"""Where more is wanted than there is, prices rise before anything is searched for: they are right, and they clear."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mincost_graphs import scheduling
from policies.kernels.mincost import clearing, exchange, leaves, paths
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.contracted import Contracted
from policies.kernels.mincost.model import UNLIMITED
from policies.kernels.mincost.network import FlowNetwork
from tests.test_mincost_aim import steps

pytestmark = pytest.mark.kernel
Int64s = npt.NDArray[np.int64]


class Arcs:
    """Gathered one by one or many at a time."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []

    def add(self, tail: int, head: int, capacity: int, cost: int) -> None:
        self.rows.append((tail, head, capacity, cost))

    def network(self, supply: list[int]) -> FlowNetwork:
        tail, head, capacity, cost = np.array(self.rows, np.int64).T
        return FlowNetwork(len(supply), tail, head, capacity, cost, supply, kernel="exchange")


def sites(demand: list[int], wide: int = 3, slots: int = 2, lone: int = 0, far: int = 0, seed: int = 1) -> FlowNetwork:
    """Sites of `wide` machines behind a switch each, and so many tasks of each site that could wait, too.

    Nodes: sink, waiting, switches, machines site by site, `lone` machines without a switch, tasks. far: arcs to other
    sites' switches and lone machines, for each task.
    """
    rng = np.random.default_rng(seed)
    arcs, n = Arcs(), len(demand)
    machine, first_task = 2 + n, 2 + n + n * wide + lone
    arcs.add(1, 0, UNLIMITED, 0)
    for each in range(n * wide + lone):
        arcs.add(machine + each, 0, slots, 0)
        if each < n * wide:
            arcs.add(2 + each // wide, machine + each, slots, int(rng.integers(0, 9)))
    task = first_task
    for site, count in enumerate(demand):
        for _ in range(count):
            arcs.add(task, 2 + site, UNLIMITED, int(rng.integers(20, 100)))
            arcs.add(task, machine + site * wide + int(rng.integers(0, wide)), UNLIMITED, int(rng.integers(0, 50)))
            for _ in range(far):
                arcs.add(task, 2 + int(rng.integers(0, n)), UNLIMITED, int(rng.integers(100, 300)))
                if lone:
                    arcs.add(
                        task, machine + n * wide + int(rng.integers(0, lone)), UNLIMITED, int(rng.integers(0, 300))
                    )
            arcs.add(task, 1, UNLIMITED, int(rng.integers(500, 900)))
            task += 1
    return arcs.network([-sum(demand), *[0] * (first_task - 1), *[1] * sum(demand)])


def begun(network: FlowNetwork) -> tuple[Contracted, paths.Paths, Int64s]:
    """The network with nothing routed, and what waits."""
    arcs, supply = network._all()
    held = network._by_prices("exchange", arcs, supply)
    assert isinstance(held, Contracted)
    waiting = held._mended(arcs, supply)
    assert waiting is not None
    return held, paths.Paths(held.net, held.table, 0, held.scratch, np.zeros(exchange.N_WORK, np.int64)), waiting


def markets(held: Contracted) -> tuple[list[int], list[int]]:
    market, room = np.empty(held.net.price.size, np.int64), np.empty(held.net.price.size, np.int64)
    count = clearing.find_markets(held.net, held.table, 0, market, room)
    return market.tolist(), room[:count].tolist()


def bids(held: Contracted, market: Int64s, waiting: Int64s) -> tuple[Int64s, Int64s]:
    """Of leaves that are best off in a market: which, and what they save there."""
    columns = np.empty((4, waiting.size), np.int64)
    count = clearing.bid(held.net, held.table, waiting, market, *columns)
    return columns[1, :count], columns[2, :count]


def check_prices_are_right(held: Contracted) -> None:
    price = held.net.price
    assert all(cost + price[here] - price[there] >= 0 for here, there, cost in steps(held))


def test_a_site_is_a_market_and_lone_machines_are_one_together() -> None:
    held, _, _ = begun(sites([4, 9], wide=3, slots=2, lone=2, far=1))
    market, room = markets(held)
    sink, waits, one, other = market[:4]
    assert (sink, waits, one, other) == (-1, -1, 0, 1)
    assert market[4:12] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert set(market[12:]) == {-1}  # Tasks.
    assert room == [6, 6, 4]


def test_a_place_with_an_unbounded_way_is_not_scarce() -> None:
    network = sites([4, 9])
    network.set_capacity([int(np.flatnonzero(network.tail == 4)[0])], [UNLIMITED])  # A machine of the first site.
    held, _, _ = begun(network)
    market, room = markets(held)
    assert market[4] == -1
    assert market[2] == market[5] == 0  # Its switch still is: that leads there with a bound.
    assert room[0] == 6  # Through its neighbours to the sink, and through the switch to it.


@pytest.mark.parametrize("seed", range(5))
def test_each_market_clears_at_the_price_of_the_first_one_that_finds_no_room(seed: int) -> None:
    held, search, waiting = begun(sites([4, 11, 30], seed=seed))
    status, market = search._cleared(waiting)
    assert status == exchange.FINE
    assert market is not None
    check_prices_are_right(held)
    price = held.net.price
    assert price[2] == 0 > price[3] > price[4]  # Enough for 4, too little for 11, far too little for 30 in 6 places.
    left = waiting[held.net.excess[waiting] > 0]
    where, saving = bids(held, market, left)
    for one in (1, 2):
        assert int(((where == one) & (saving > 0)).sum()) <= 6
        assert int(((where == one) & (saving >= 0)).sum()) == 6  # Others that save nothing wait already.
    excess = held.net.excess
    assert [int(excess[machine]) for machine in (5, 6, 7)] == [0, 0, 0]
    assert [int(excess[machine]) for machine in (8, 9, 10, 11, 12, 13)] == [-2] * 6  # Places that must be taken.


def test_prices_stay_where_there_is_enough() -> None:
    held, search, waiting = begun(sites([4, 6]))
    assert search._cleared(waiting) == (exchange.FINE, None)
    assert set(held.net.price.tolist()) == {0}


def test_more_that_can_go_nowhere_else_than_there_is_room_for_is_stuck_at_once() -> None:
    network = sites([4, 9])
    network.remove_arcs(np.flatnonzero(network.head == 1))
    _, search, waiting = begun(network)
    assert search._cleared(waiting) == (exchange.STUCK, None)
    refused = network.solve()
    assert (refused.status, refused.kernel) == ("infeasible", "simplex")
    assert certificate_error(network, refused) is None


@given(
    demand=st.lists(st.integers(0, 24), min_size=1, max_size=4).filter(any),
    wide=st.integers(1, 4),
    slots=st.integers(1, 4),
    lone=st.integers(0, 4),
    far=st.integers(0, 2),
    few=st.integers(1, 8),
    turns=st.integers(2, 8),
    seed=st.integers(0, 1 << 20),
)
@settings(deadline=None, max_examples=150)
def test_the_optimum_is_that_of_the_simplex_whatever_is_wanted(
    demand: list[int], wide: int, slots: int, lone: int, far: int, few: int, turns: int, seed: int
) -> None:
    """Also where places are left over by the dozen or one by one, and prices stop rising early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "FEW", few)
        patch.setattr(paths, "TURNS_MAX", turns)
        network = sites(demand, wide, slots, lone, far, seed)
        result = network.solve()
    assert (result.status, result.kernel) == ("optimal", "exchange")
    assert certificate_error(network, result) is None
    columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
    assert result.objective == FlowNetwork(network.n_nodes, *columns, kernel="simplex").solve().objective


def test_prices_come_down_by_as_many_as_places_are_left_over() -> None:
    """Two machines that few would have: at the price of all the others nobody comes."""
    graph = scheduling("edge", 40, 120, "task")
    network = FlowNetwork(*graph[:6], kernel="exchange")
    held, search, waiting = begun(network)
    _, market = search._cleared(waiting)
    assert market is not None
    assert search._settle(waiting, 1 << 40) == exchange.FINE
    left = -int(held.net.excess[(market >= 0) & (held.net.excess < 0)].sum())
    assert left == held.net.excess[0] >= paths.FEW
    came, told = search._released(market, 1 << 40)
    assert told == left
    assert 0 < came.size <= left
    assert (held.net.excess[came] == 1).all()
    assert (held.table.row[came, leaves.AT] == -1).all()
    check_prices_are_right(held)


@pytest.mark.parametrize("family", ["quincy", "network", "edge"])
def test_searches_stay_near_in_overloaded_networks(family: str) -> None:
    """By prices of 0 each of 2,400 tasks too many passed through everything: 14,000 searches for some 150 M entries."""
    graph = scheduling(family, 1000, 120, "task")
    network = FlowNetwork(*graph[:6])
    result = network.solve()
    assert result.kernel == "exchange"
    assert certificate_error(network, result) is None
    assert result.work["entries_scanned"] < 50 * graph.tail.size
