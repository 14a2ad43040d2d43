"""Where more is wanted than there is, prices rise before anything is searched for: they are right, and they clear."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mincost_graphs import Columns, scheduling
from policies.kernels.mincost import aim, clearing, contracted, exchange, leaves, paths
from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.contracted import Contracted
from policies.kernels.mincost.model import UNLIMITED
from policies.kernels.mincost.network import FlowNetwork
from tests.test_mincost_aim import steps

pytestmark = pytest.mark.kernel
Int64s = npt.NDArray[np.int64]


def network_of(arcs: Columns, supply: list[int]) -> FlowNetwork:
    return FlowNetwork(*arcs.graph(np.array(supply, np.int64))[:6], kernel="exchange")


def sites(
    demand: list[int], wide: int = 3, slots: int = 2, lone: int = 0, far: int = 0, seed: int = 1, queue: int = 1
) -> FlowNetwork:
    """Sites of `wide` machines behind a switch each, and so many tasks of each site that could wait, too.

    Nodes: sink, waiting, switches, machines site by site, `lone` machines without a switch, tasks. far: arcs to other
    sites' switches and lone machines, for each task. queue: where tasks wait, at 1 or at the sink, 0.
    """
    rng = np.random.default_rng(seed)
    arcs, n = Columns(), len(demand)
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
            arcs.add(task, queue, UNLIMITED, int(rng.integers(500, 900)))
            task += 1
    return network_of(arcs, [-sum(demand), *[0] * (first_task - 1), *[1] * sum(demand)])


def tangled(seed: int) -> FlowNetwork:
    """A few switches, many machines on their own, tasks with some places each that many others want too, and a queue.

    The queue is the sink itself: leaves that leave it lack nowhere else.
    """
    rng = np.random.default_rng(seed)
    arcs = Columns()
    switches = int(rng.integers(0, 4) * 8) // 2 + int(rng.integers(0, 2))
    wide, lone, slots = int(rng.integers(1, 5)), int(rng.integers(0, 12) * 8), int(rng.integers(1, 4))
    machines = switches * wide + lone
    first_task = 2 + switches + machines
    arcs.add(1, 0, UNLIMITED, 0)
    for each in range(machines):
        arcs.add(2 + switches + each, 0, slots, int(rng.integers(0, 20)))
        if each < switches * wide:
            room = int(rng.integers(1, slots + 1))
            arcs.add(2 + each // wide, 2 + switches + each, room, int(rng.integers(0, 30)))
    tasks = int(machines * slots * rng.uniform(0.9, 1.6)) + 1
    dear, most = int(rng.choice([20, 200, 5000])), int(rng.integers(1, 6))
    for task in range(first_task, first_task + tasks):
        for _ in range(int(rng.integers(1, most + 1))):
            place = 2 + int((switches + machines) * rng.random() ** float(rng.choice([1, 2])))
            arcs.add(task, place, UNLIMITED, int(rng.integers(0, dear)))
        arcs.add(task, 0, UNLIMITED, int(rng.integers(int(rng.choice([0, dear // 4, dear])), 2 * dear)))
    return network_of(arcs, [-tasks, *[0] * (first_task - 1), *[1] * tasks])


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
    """Six places each: enough for 4, too few for 11, far too few for 30."""
    network = sites([4, 11, 30], seed=seed)
    held, search, waiting = begun(network)
    saved: list[list[int]] = [[], [], []]
    for task in waiting.tolist():
        costs = network.cost[network.tail == task]  # The switch, a machine, to wait.
        saved[int(network.head[network.tail == task][0]) - 2].append(int(costs[2] - min(costs[:2])))
    status, market = search._cleared(waiting)
    assert status == exchange.FINE
    assert market is not None
    check_prices_are_right(held)
    price = held.net.price
    assert [-int(price[switch]) for switch in (2, 3, 4)] == [0, *(sorted(one)[-7] for one in saved[1:])]
    left = waiting[held.net.excess[waiting] > 0]
    where, _ = bids(held, market, left)
    assert [int((where == one).sum()) for one in (0, 1, 2)] == [4, 6, 6]  # Others that save nothing wait already.
    excess = held.net.excess
    assert [int(excess[machine]) for machine in (5, 6, 7)] == [0, 0, 0]
    assert [int(excess[machine]) for machine in (8, 9, 10, 11, 12, 13)] == [-2] * 6  # Places that must be taken.


def test_prices_stay_where_there_is_enough() -> None:
    held, search, waiting = begun(sites([4, 5]))
    assert search._cleared(waiting) == (exchange.FINE, None)
    assert set(held.net.price.tolist()) == {0}


def test_a_full_market_clears_as_if_there_were_a_little_less() -> None:
    """640 tasks, 640 places: ten wait at first, and nobody in the end."""
    network = sites([640, 3], wide=320)
    held, search, waiting = begun(network)
    status, market = search._cleared(waiting)
    assert status == exchange.FINE
    assert market is not None
    where, _ = bids(held, market, waiting[held.net.excess[waiting] > 0])
    assert int((where == 0).sum()) == 640 - 640 // paths.HELD == 630
    check_prices_are_right(held)
    result = network.solve()
    assert result.flow[network.head == 1].sum() == 0
    assert certificate_error(network, result) is None


def test_those_that_can_do_nothing_else_tell_no_price() -> None:
    """Four of nine cannot wait: the price in six places is the highest bid of the others that finds no room."""
    network = sites([9])
    ways = np.flatnonzero(network.head == 1)
    bid = [int(network.cost[way] - network.cost[network.tail == network.tail[way]][:2].min()) for way in ways]
    network.remove_arcs(ways[:4])
    held, search, waiting = begun(network)
    assert search._cleared(waiting)[0] == exchange.FINE
    assert -int(held.net.price[2]) == sorted(bid[4:])[-3]
    result = network.solve()
    assert (result.status, result.kernel) == ("optimal", "exchange")
    assert certificate_error(network, result) is None


def test_what_lacks_inside_of_a_market_and_what_it_sends_itself_count_for_its_room() -> None:
    """A way to the sink that earns is filled before anything else; a switch has work of its own."""
    arcs = Columns()
    arcs.add(1, 2, UNLIMITED, 0)
    arcs.add(2, 0, 5, -10)
    for task in range(3, 8):
        arcs.add(task, 1, UNLIMITED, 1)
    network = network_of(arcs, [-5, 0, 0, *[1] * 5])
    held, _, _ = begun(network)
    assert markets(held)[1] == [5]
    result = network.solve()
    assert (result.objective, result.kernel) == (-45, "exchange")
    network.set_supply([0, 1, 2, 3, 4], [-5, 2, 0, 0, 0])
    held, _, _ = begun(network)
    assert markets(held)[1] == [3]


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
    turns=st.integers(1, 8),
    seed=st.integers(0, 1 << 20),
    queue=st.integers(0, 1),
)
@settings(deadline=None, max_examples=200)
def test_the_optimum_is_that_of_the_simplex_whatever_is_wanted(
    demand: list[int], wide: int, slots: int, lone: int, far: int, few: int, turns: int, seed: int, queue: int
) -> None:
    """Also where places are left over by the dozen or one by one, and prices stop rising early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "FEW", few)
        patch.setattr(paths, "TURNS_MAX", turns)
        network = sites(demand, wide, slots, lone, far, seed, queue)
        result = network.solve()
    assert (result.status, result.kernel) == ("optimal", "exchange")
    assert certificate_error(network, result) is None
    columns = (network.tail, network.head, network.capacity, network.cost, network.supply)
    assert result.objective == FlowNetwork(network.n_nodes, *columns, kernel="simplex").solve().objective


@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_prices_come_down_where_places_are_left_over_and_stay_right_at_every_step(seed: int, queue: int) -> None:
    """Machines on their own have one price; those that few would have at it are left over."""
    network = sites([600], wide=1, slots=2, lone=240, far=2, seed=seed, queue=queue)
    held, search, waiting = begun(network)
    net = held.net
    _, market = search._cleared(waiting)
    assert market is not None
    assert search._settle(waiting, 1 << 40) == exchange.FINE
    left = -int(net.excess[(market >= 0) & (net.excess < 0)].sum())
    assert left == net.excess[0] >= paths.FEW
    came, told = search._released(market, 1 << 40)
    assert told == left
    assert 0 < came.size < left
    assert (net.excess[came] == 1).all()
    assert (held.table.row[came, leaves.AT] == -1).all()
    assert net.price[0] < 0  # The sink became dearer instead: only differences count.
    check_prices_are_right(held)
    went = aim.follow(net, held.table, came, 0, search._ways, held.scratch, search._work)
    assert 0 < went <= came.size
    check_prices_are_right(held)
    lack = search._lack_in_queues(market)
    assert lack == (came.size if queue else 0)
    assert search._drain(lack, 1 << 40) == exchange.FINE
    check_prices_are_right(held)
    assert search._settle(came, 1 << 40) == exchange.FINE
    check_prices_are_right(held)
    assert -int(net.excess[(market >= 0) & (net.excess < 0)].sum()) < left


@pytest.mark.parametrize("seed", [*range(12), 585])
def test_ways_are_gone_before_a_search_makes_them_dear(seed: int) -> None:
    """With a search from the hub in between, prices were wrong in the end with the last of these seeds."""
    network = tangled(seed)
    result = network.solve()
    assert result.kernel == "exchange"
    assert certificate_error(network, result) is None


def test_leaves_that_left_are_none_lost_where_searches_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaling goes on from the middle of it."""
    network = sites([600], wide=1, slots=2, lone=240, far=2)
    expected = FlowNetwork(
        network.n_nodes, network.tail, network.head, network.capacity, network.cost, network.supply, kernel="simplex"
    ).solve()
    kernels = set()
    for scans in range(12):
        again = sites([600], wide=1, slots=2, lone=240, far=2)
        held, _, _ = begun(again)
        held.never_scales = False
        monkeypatch.setattr(contracted, "SCANS_COLD", scans)
        arcs, supply = again._all()
        assert held.solve(arcs, supply, 900) == 0
        assert held.objective()[0] == expected.objective
        kernels.add(held.kernel)
    assert kernels == {"exchange", "exchange+scaling"}


@pytest.mark.parametrize("load", [100, 120])
@pytest.mark.parametrize("family", ["quincy", "network", "edge"])
def test_searches_stay_near_in_full_and_overloaded_networks(family: str, load: int) -> None:
    """All searches together look at each arc less than fifty times, whatever there is too much."""
    graph = scheduling(family, 300, load, "task")
    network = FlowNetwork(*graph[:6])
    result = network.solve()
    assert result.kernel == "exchange"
    assert certificate_error(network, result) is None
    assert result.work["entries_scanned"] < 50 * graph.tail.size
