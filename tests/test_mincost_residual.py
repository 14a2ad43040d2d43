"""What the priced kernels keep between solves: a residual network whose parts agree, however it was changed."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.mincost import pairs, paths
from policies.kernels.mincost.dispatch import Kernel
from policies.kernels.mincost.ids import Ids
from policies.kernels.mincost.model import NO_BOUND, OPEN, NetworkError
from policies.kernels.mincost.network import FlowNetwork
from policies.kernels.mincost.planted import Arcs
from policies.kernels.mincost.priced import Priced, priced
from policies.kernels.mincost.residual import Residual
from tests.test_mincost_kernels import tasks
from tests.test_mincost_warm import change

pytestmark = pytest.mark.kernel


def check_parts_agree(net: Residual, network: FlowNetwork) -> None:
    """Every arc has its two entries, each on the right side of `shut`; flows, room and excess add up."""
    tail, head, capacity = network.tail, network.head, network.capacity
    sent = np.zeros(network.n_nodes, np.int64)
    for arc in np.flatnonzero(network.arc_alive & (tail != head)).tolist():
        forth = int(net.entry[arc])
        back = int(net.sister[forth])
        assert (int(net.sister[back]), int(net.arc[forth]), int(net.arc[back])) == (forth, arc, arc)
        assert (int(net.to[forth]), int(net.to[back])) == (head[arc], tail[arc])
        assert net.cost[forth] == -net.cost[back] == network.cost[arc]
        assert net.left[back] == net.flow[arc]
        room = int(net.left[forth] + net.left[back])
        assert room == capacity[arc] or (room == NO_BOUND and capacity[arc] > NO_BOUND)
        for node, at in ((tail[arc], forth), (head[arc], back)):
            assert net.first[node] <= at < net.stop[node] <= net.room[node]
            assert (net.left[at] > 0) == (at < net.shut[node])
        sent[tail[arc]] += net.flow[arc]
        sent[head[arc]] -= net.flow[arc]
    assert (network.supply - sent).tolist() == net.excess[: network.n_nodes].tolist()
    assert int((net.stop - net.first).sum()) == 2 * int((network.arc_alive & (tail != head)).sum())


@pytest.mark.parametrize("kernel", ["paths", "scaling"])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_parts_agree_after_any_changes_and_solves(kernel: Kernel, data: st.DataObject) -> None:
    network = FlowNetwork(3, [0, 0, 1], [1, 2, 2], [4, 2, 5], [1, 5, 2], [3, 0, -3], kernel=kernel)
    for _ in range(data.draw(st.integers(1, 5))):
        balance = int(network.supply.sum())
        alive = np.flatnonzero(network.node_alive)
        if alive.size:
            network.set_supply(int(alive[0]), int(network.supply[alive[0]]) - balance)
            network.solve()
        for _ in range(data.draw(st.integers(0, 5))):
            change(network, data)
            if isinstance(network._held, Priced):
                check_parts_agree(network._held.net, network)


def distance(net: Residual, source: int, lacks: list[int]) -> int:
    """Dijkstra over reduced costs the obvious way; OPEN when no lack can be reached."""
    best = {source: 0}
    heap = [(0, source)]
    while heap:
        length, node = heapq.heappop(heap)
        if node in lacks:
            return length
        for at in range(int(net.first[node]), int(net.stop[node])):
            to = int(net.to[at])
            longer = length + int(net.cost[at] + net.price[node] - net.price[to])
            if net.left[at] > 0 and longer < best.get(to, OPEN):
                best[to] = longer
                heapq.heappush(heap, (longer, to))
    return OPEN


@given(st.integers(0, 10_000), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_search_from_both_ends_finds_a_shortest_way_and_keeps_prices_right(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 12, 40
    arcs = Arcs(rng.integers(0, n, m), rng.integers(0, n, m), np.ones(m, np.bool_), rng.integers(1, 5, m),
                rng.integers(0, 4, m))  # fmt: skip
    supply = rng.integers(-3, 4, n)
    supply[0] -= supply.sum()
    net = priced(arcs, supply).net
    fore, back = np.empty((5, n), np.int64), np.empty((5, n), np.int64)
    fore[0] = back[0] = OPEN
    way, work = np.empty(2 * n, np.int64), np.zeros(paths.N_WORK, np.int64)
    for _ in range(rounds + 1):
        givers, lacks = np.flatnonzero(net.excess > 0), np.flatnonzero(net.excess < 0)
        if not givers.size:
            return
        source = int(givers[0])
        length = distance(net, source, lacks.tolist())
        before, flow = net.excess.copy(), net.flow.copy()
        price = net.price.copy()
        sent = pairs.meet(net, source, lacks, lacks.size, fore, back, way, work)
        assert (sent == 0) == (length == OPEN)
        assert net.excess[source] == before[source] - sent
        reduced_at_old_prices = arcs.cost + price[arcs.tail] - price[arcs.head]
        assert int(((net.flow - flow) * reduced_at_old_prices).sum()) == sent * (length if sent else 0)
        for node in range(n):
            for at in range(int(net.first[node]), int(net.shut[node])):
                assert net.cost[at] + net.price[node] - net.price[net.to[at]] >= 0
        assert (fore[0] == OPEN).all()
        assert (back[0] == OPEN).all()


@given(st.lists(st.integers(-3, 4), max_size=20))
def test_ids_are_given_again_and_never_twice(steps: list[int]) -> None:
    """Positive: give so many; negative: take back so many."""
    ids, held = Ids(2), [0, 1]
    for step in steps:
        if step >= 0:
            new = ids.give(step).tolist()
            assert not set(new) & set(held)
            held += new
        else:
            ids.take_back(np.array(held[step:], np.int64))
            held = held[:step]
        assert np.flatnonzero(ids.alive).tolist() == sorted(held)
        ids.check("ids", np.array(held, np.int64))
        for wrong in (-1, ids.count, *(one for one in range(ids.count) if one not in held)):
            with pytest.raises(NetworkError):
                ids.check("ids", np.array([wrong], np.int64))


def kept_bytes(thing: object) -> int:
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    parts = list(thing) if isinstance(thing, list | tuple) else list(getattr(thing, "__dict__", {}).values())
    return sum(kept_bytes(part) for part in parts)


@pytest.mark.parametrize("kernel", ["simplex", "paths"])
def test_a_network_keeps_no_more_than_200_bytes_an_arc(kernel: Kernel) -> None:
    network = tasks(np.random.default_rng(1), 2000, 200, 12, kernel)
    network.solve()
    assert kept_bytes(network) <= 200 * network.n_arcs
