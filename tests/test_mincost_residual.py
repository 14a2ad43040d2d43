"""What the priced kernels keep between solves: a residual network whose parts agree, however it was changed."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.jit import Int64s
from policies.kernels.mincost import changes, exchange, leaves
from policies.kernels.mincost.contracted import Contracted, contracted
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


def check_leaves_agree(held: Contracted, network: FlowNetwork) -> None:
    """A leaf's slots are its arcs with room, its node has it among its members, its unit is somewhere or excess."""
    table, tail, head = held.table, network.tail, network.head
    sent = np.zeros(network.n_nodes, np.int64)
    slots = 0
    for arc in np.flatnonzero(network.arc_alive).tolist():
        slot = int(table.of_arc[arc])
        assert (slot >= 0) == (bool(table.is_leaf[tail[arc]]) and network.capacity[arc] > 0)
        if slot >= 0:
            row = table.row[tail[arc]]
            assert row[leaves.FIRST] <= slot < row[leaves.STOP] <= row[leaves.ROOM] <= table.ends[leaves.N_SLOTS]
            assert table.slot[slot].tolist() == [head[arc], network.cost[arc]]
            assert table.arc[slot] == arc
            slots += 1
        elif held.net.entry[arc] >= 0:
            sent[tail[arc]] += held.net.flow[arc]
            sent[head[arc]] -= held.net.flow[arc]
    assert slots == int((table.row[:, leaves.STOP] - table.row[:, leaves.FIRST])[table.is_leaf].sum())
    there: list[int] = []
    for node in range(network.n_nodes):
        chunk, stop = int(table.chunk[node]), int(table.chunk[node]) * leaves.CHUNK + int(table.filled[node])
        while chunk >= 0:
            for place in range(chunk * leaves.CHUNK, stop):
                leaf, here, begin, end = table.member[place].tolist()
                at = int(table.row[leaf, leaves.AT])
                assert table.row[leaf, leaves.PLACE] == place
                assert table.slot[at].tolist() == [node, here]
                assert [begin, end] == table.row[leaf, [leaves.FIRST, leaves.STOP]].tolist()
                there.append(leaf)
                sent[leaf] += 1
                sent[node] -= 1
            chunk = int(table.following[chunk])
            stop = (chunk + 1) * leaves.CHUNK
    assert sorted(there) == np.flatnonzero(table.is_leaf & (table.row[:, leaves.AT] >= 0)).tolist()
    assert (network.supply - sent).tolist() == held.net.excess[: network.n_nodes].tolist()


def solve_balanced(network: FlowNetwork) -> Int64s:
    """The first node alive takes what the others leave over; solve. Returns the nodes alive."""
    alive = np.flatnonzero(network.node_alive)
    if alive.size:
        network.set_supply(int(alive[0]), int(network.supply[alive[0]] - network.supply.sum()))
        network.solve()
    return alive


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_leaves_agree_after_any_changes_and_solves(data: st.DataObject) -> None:
    network = FlowNetwork(4, [0, 0, 1, 3], [1, 2, 2, 1], [4, 2, 5, 1], [1, 5, 2, 3], [3, 0, -4, 1], kernel="exchange")
    for _ in range(data.draw(st.integers(1, 5))):
        alive = solve_balanced(network)
        for _ in range(data.draw(st.integers(0, 5))):
            if alive.size and data.draw(st.booleans()):
                leaf = network.add_nodes([data.draw(st.integers(0, 1))])[0]
                places = data.draw(st.lists(st.sampled_from(np.flatnonzero(network.node_alive).tolist()), max_size=4))
                places = [place for place in places if place != leaf]
                network.add_arcs([leaf] * len(places), places, [1] * len(places), list(range(len(places))))
            change(network, data)
            if isinstance(network._held, Contracted) and network._held.flow is None:
                check_leaves_agree(network._held, network)


@pytest.mark.parametrize("kernel", ["scaling"])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_parts_agree_after_any_changes_and_solves(kernel: Kernel, data: st.DataObject) -> None:
    network = FlowNetwork(3, [0, 0, 1], [1, 2, 2], [4, 2, 5], [1, 5, 2], [3, 0, -3], kernel=kernel)
    for _ in range(data.draw(st.integers(1, 5))):
        solve_balanced(network)
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


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_search_finds_a_shortest_way_and_keeps_prices_right(seed: int) -> None:
    """Leaves and a core, nobody anywhere; one search after the other, held against Dijkstra over the whole network."""
    rng = np.random.default_rng(seed)
    n_core, n_leaves, m = 8, 10, 20
    n = n_core + n_leaves
    tail = np.concatenate([rng.integers(0, n_core, m), np.repeat(n_core + np.arange(n_leaves), 3)])
    head = np.concatenate([rng.integers(0, n_core, m), rng.integers(0, n_core, 3 * n_leaves)])
    arcs = Arcs(tail, head, np.ones(tail.size, np.bool_), rng.integers(1, 4, tail.size), rng.integers(0, 5, tail.size))
    supply = np.concatenate([rng.integers(-3, 3, n_core), np.ones(n_leaves, np.int64)])
    supply[0] -= supply.sum()
    held = contracted(arcs, supply, None, None, never_scales=True)
    count, work = np.zeros(exchange.N_COUNT, np.int64), np.zeros(exchange.N_WORK, np.int64)
    alive = np.ones(n, np.bool_)
    for root in rng.permutation(n).tolist():
        while held.net.excess[root] > 0:
            flow, price, _ = held.read(arcs, alive)
            whole = priced(arcs, supply, flow, price).net
            length = distance(whole, root, np.flatnonzero(held.net.excess < 0).tolist())
            found = exchange.grow(held.net, held.table, root, -1, 1, held.scratch, count, work)
            assert (held.scratch[exchange.DISTANCE] == OPEN).all()
            assert (found == 0) == (length == OPEN)
            if not found:
                break
            sent = exchange.augment(held.net, held.table, int(held.scratch[exchange.FOUND, 0]), -1, held.scratch, work)
            assert sent > 0
            after, later, _ = held.read(arcs, alive)
            assert int((after - flow) @ (arcs.cost + price[tail] - price[head])) == sent * length
            reduced = arcs.cost + later[tail] - later[head]
            assert (reduced[(after < arcs.bound) & (tail != head)] >= 0).all()
            assert (reduced[(after > 0) & (tail != head)] <= 0).all()


@given(st.lists(st.integers(-3, 4), max_size=20))
def test_ids_are_given_again_and_never_twice(steps: list[int]) -> None:
    """Positive: give so many; negative: take back so many."""
    ids, held = Ids(2), [0, 1]
    for step in steps:
        if step >= 0:
            given = np.empty(step, np.int64)
            count = ids.make_room(step)
            changes.give_ids(ids.count, ids.free, ids.n_free, ids.flags[0], given)
            ids.gave(step, count)
            new = given.tolist()
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


@pytest.mark.parametrize("kernel", ["simplex", "exchange", "scaling"])
def test_a_network_keeps_no_more_than_200_bytes_an_arc(kernel: Kernel) -> None:
    network = tasks(np.random.default_rng(1), 2000, 200, 12, kernel)
    network.solve()
    assert kept_bytes(network) <= 200 * network.n_arcs
