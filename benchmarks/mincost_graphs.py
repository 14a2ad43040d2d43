"""Scheduling-shaped and general flow networks, reproducible from a seed, as int64 columns."""

from math import isqrt
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UNLIMITED = int(np.iinfo(np.int64).max)
SINK = np.array([0])  # A scheduling graph's one consumer.


class Graph(NamedTuple):
    """The columns of a FlowNetwork. Scheduling graphs: `n_fixed` nodes (sink first), then one node a task or class."""

    n_nodes: int
    tail: Int64s
    head: Int64s
    capacity: Int64s
    cost: Int64s
    supply: Int64s
    n_fixed: int = 0


class Columns:
    """Arcs gathered block by block."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Int64s, ...]] = []

    def add(self, tail: npt.ArrayLike, head: npt.ArrayLike, capacity: npt.ArrayLike, cost: npt.ArrayLike) -> None:
        columns = np.broadcast_arrays(*(np.asarray(column, np.int64) for column in (tail, head, capacity, cost)))
        self._blocks.append(tuple(column.ravel() for column in columns))

    def graph(self, supply: Int64s, n_fixed: int = 0) -> Graph:
        tail, head, capacity, cost = (
            np.ascontiguousarray(np.concatenate(parts)) for parts in zip(*self._blocks, strict=True)
        )
        return Graph(supply.size, tail, head, capacity, cost, supply, n_fixed)


SLOTS = 12  # Per machine: 12,500 machines and 150,000 tasks are 100 % load.
RACK = 40
PREFERENCES = 8
PARTS = (2, 3, 2)  # Sockets of a machine, cores of a socket, threads of a core: one for each slot.


def demand_arcs(rng: np.random.Generator, family: str, agents: int, nodes: Int64s) -> tuple[Int64s, ...]:
    """The arcs of new task or class nodes: tail, head, capacity, cost. Costs are milliseconds of completion.

    quincy: the cluster, two racks, eight machines that hold the data, a dear way to wait. network: distances to sites
    follow measured links, so costs are alike within a site. edge: a few near agents and the cloud. parts: as quincy.
    """
    n, racks = nodes.size, max(agents // RACK, 1)
    machine, rack, cluster, waiting = 3, 3 + agents, 1, 2
    columns = Columns()
    size = rng.integers(200, 3000, n)  # What all the data takes over the worst link.
    if family in ("quincy", "parts"):
        columns.add(nodes, cluster, UNLIMITED, size)
        columns.add(nodes[:, None], rack + rng.integers(0, racks, (n, 2)), UNLIMITED, size[:, None] * 6 // 10)
        share = rng.integers(0, 50, (n, PREFERENCES))
        where = machine + rng.integers(0, agents, (n, PREFERENCES))
        columns.add(nodes[:, None], where, UNLIMITED, size[:, None] * share // 100)
    elif family == "network":
        link = 50 + 37 * np.arange(racks) % 1000
        near = rng.integers(0, racks, (n, 6))
        columns.add(nodes[:, None], rack + near, UNLIMITED, size[:, None] * link[near] // 1000)
        columns.add(nodes, cluster, UNLIMITED, size)
        columns.add(nodes[:, None], machine + rng.integers(0, agents, (n, 4)), UNLIMITED, size[:, None] // 20)
    else:
        home = rng.integers(0, agents, n)
        for hop in range(6):
            reached = machine + (home + hop * hop) % agents
            columns.add(nodes, reached, UNLIMITED, size * hop // 12 + rng.integers(0, 40, n))
        columns.add(nodes, cluster, UNLIMITED, size // 2 + 400)
    columns.add(nodes, waiting, UNLIMITED, 5000 + rng.integers(0, 3000, n))
    return columns.graph(np.empty(0, np.int64))[1:5]


def add_parts(rng: np.random.Generator, columns: Columns, machines: Int64s, first: int) -> int:
    """Sockets, cores and threads of these machines, each with a cost of its own; the first node id after them."""
    above, room = machines, SLOTS
    for split in PARTS:
        room //= split
        parts = first + np.arange(above.size * split)
        columns.add(np.repeat(above, split), parts, room, rng.integers(0, 250, parts.size))
        above, first = parts, first + parts.size
    columns.add(above, 0, room, 0)
    return first


def scheduling(family: str, agents: int, load_percent: int, level: str, seed: int = 1) -> Graph:
    """Tasks (or classes of tasks) → cluster, racks, machines → sink, or → waiting → sink. See `demand_arcs`.

    With family parts, machines reach the sink through their sockets, cores and threads.
    """
    rng = np.random.default_rng([seed, agents, load_percent, sum(family.encode())])
    n_tasks, racks = agents * SLOTS * load_percent // 100, max(agents // RACK, 1)
    n_fixed = 3 + agents + racks
    counts = np.ones(n_tasks, np.int64)
    if level == "class":
        counts = rng.multinomial(n_tasks, rng.dirichlet(np.ones(max(n_tasks // 50, 1)))).astype(np.int64)
        counts = counts[counts > 0]
    machines, of_rack = 3 + np.arange(agents), 3 + agents + np.arange(agents) % racks
    columns = Columns()
    if family == "parts":
        n_fixed = add_parts(rng, columns, machines, n_fixed)
    else:
        columns.add(machines, 0, SLOTS, 0)
    columns.add(2, 0, UNLIMITED, 0)
    columns.add(of_rack, machines, SLOTS, rng.integers(0, 20, agents))
    columns.add(1, 3 + agents + np.arange(racks), RACK * SLOTS * 2, 10)
    nodes = n_fixed + np.arange(counts.size)
    columns.add(*demand_arcs(rng, family, agents, nodes))
    supply = np.concatenate([[-n_tasks], np.zeros(n_fixed - 1, np.int64), counts])
    return columns.graph(supply.astype(np.int64), n_fixed)


class Mutable(Protocol):
    """What `churn` changes: a FlowNetwork."""

    @property
    def supply(self) -> Int64s: ...
    @property
    def arc_alive(self) -> npt.NDArray[np.bool_]: ...
    @property
    def tail(self) -> Int64s: ...
    @property
    def cost(self) -> Int64s: ...
    def set_supply(self, nodes: Int64s, values: Int64s) -> None: ...
    def set_cost(self, arcs: Int64s, values: Int64s) -> None: ...
    def add_nodes(self, supplies: Int64s) -> Int64s: ...
    def remove_nodes(self, nodes: Int64s) -> None: ...
    def add_arcs(self, tail: Int64s, head: Int64s, capacity: Int64s, cost: Int64s) -> Int64s: ...


class Delta(NamedTuple):
    """One round's changes, drawn before the clock runs."""

    sink_supply: Int64s
    left: Int64s  # nodes whose last task left
    changed: Int64s  # nodes with another count
    counts: Int64s
    new_counts: Int64s
    arcs: Int64s  # links with another cost
    costs: Int64s
    new_arcs: tuple[Int64s, ...]  # tail (counting from the first new node), head, capacity, cost


def draw_churn(
    rng: np.random.Generator, network: Mutable, graph: Graph, family: str, agents: int, churn_permille: int
) -> Delta:
    """That share of the tasks leaves, as many arrive (four of five in a class that is there), as many links change."""
    n_fixed = graph.n_fixed
    supply = network.supply
    nodes = n_fixed + np.flatnonzero(supply[n_fixed:] > 0)
    n_changed = max(int(supply[nodes].sum()) * churn_permille // 1000, 1)
    left = rng.multivariate_hypergeometric(supply[nodes], n_changed, method="marginals")
    counts = supply[nodes] - left
    arrived = n_changed
    if counts.size < supply[nodes].sum():  # Classes; a task of its own is always a new node.
        more = rng.multinomial(n_changed * 4 // 5, np.full(nodes.size, 1 / nodes.size))
        counts, arrived = counts + more, n_changed - n_changed * 4 // 5
    new = np.ones(arrived, np.int64)
    if counts.size < supply[nodes].sum():
        new = rng.multinomial(arrived, np.full(max(arrived // 50, 1), 1 / max(arrived // 50, 1)))
    arcs = np.flatnonzero(network.arc_alive & (network.tail >= n_fixed) & (network.cost < 5000))
    links = rng.choice(arcs, size=max(arcs.size * churn_permille // 1000, 1), replace=False)
    moved = (counts != supply[nodes]) & (counts > 0)
    new = new[new > 0].astype(np.int64)
    return Delta(
        np.array([-int(counts.sum() + new.sum())]),
        nodes[counts == 0],
        nodes[moved],
        counts[moved],
        new,
        links,
        np.maximum(network.cost[links] * rng.integers(80, 121, links.size) // 100, 0),
        demand_arcs(rng, family, agents, np.arange(new.size)),
    )


def apply_churn(network: Mutable, delta: Delta) -> None:
    """Feed the round's changes to the network; the sink (node 0) takes what is left."""
    network.set_cost(delta.arcs, delta.costs)
    network.remove_nodes(delta.left)
    network.set_supply(delta.changed, delta.counts)
    new = network.add_nodes(delta.new_counts)
    tail, *rest = delta.new_arcs
    network.add_arcs(new.take(tail), *rest)
    network.set_supply(SINK, delta.sink_supply)


def netgen_like(n_nodes: int, seed: int = 1) -> Graph:
    """Random transshipment in NETGEN's manner: a backbone that makes it feasible, then random capacitated arcs."""
    rng = np.random.default_rng([seed, n_nodes])
    ends = max(isqrt(n_nodes), 1)
    supply = np.zeros(n_nodes, np.int64)
    amount = rng.multinomial(1000 * ends, np.full(ends, 1 / ends))
    supply[:ends] = amount
    supply[n_nodes - ends :] = -rng.permutation(amount)
    columns = Columns()
    order = rng.permutation(n_nodes)
    columns.add(order, np.roll(order, -1), UNLIMITED, 10_000)
    n_random = 8 * n_nodes
    columns.add(
        rng.integers(0, n_nodes, n_random), rng.integers(0, n_nodes, n_random),
        rng.integers(1, 1001, n_random), rng.integers(1, 10_001, n_random),
    )  # fmt: skip
    return columns.graph(supply)


def goto_like(n_nodes: int, seed: int = 1) -> Graph:
    """A ring with longer and longer hops in GOTO's manner: near arcs are cheap, far ones dear; one source, one sink."""
    rng = np.random.default_rng([seed, n_nodes, 7])
    columns = Columns()
    nodes = np.arange(n_nodes)
    for hop in (1, 2, 3, isqrt(n_nodes), isqrt(n_nodes) + 1, 2 * isqrt(n_nodes), n_nodes // 7, n_nodes // 3):
        columns.add(
            nodes, (nodes + hop) % n_nodes, rng.integers(1, 1000, n_nodes), rng.integers(1, 100 * (hop + 1), n_nodes)
        )
    columns.add(nodes, (nodes + 1) % n_nodes, UNLIMITED, 1_000_000)
    supply = np.zeros(n_nodes, np.int64)
    supply[0], supply[n_nodes // 2] = 8000, -8000
    return columns.graph(supply)


def road_like(n_nodes: int, seed: int = 1) -> Graph:
    """A street grid with both directions, lengths as costs, and demands scattered over it."""
    rng = np.random.default_rng([seed, n_nodes, 9])
    side = isqrt(n_nodes)
    nodes = np.arange(side * side).reshape(side, side)
    columns = Columns()
    for one, other in ((nodes[:, :-1], nodes[:, 1:]), (nodes[:-1], nodes[1:])):
        length = rng.integers(10, 1000, one.shape)
        columns.add(one, other, rng.integers(20, 200, one.shape), length)
        columns.add(other, one, rng.integers(20, 200, one.shape), length)
    columns.add(nodes.ravel(), np.roll(nodes.ravel(), -1), UNLIMITED, 100_000)
    supply = np.zeros(side * side, np.int64)
    chosen = rng.permutation(side * side)[: 2 * (side * side // 20)]
    amount = rng.integers(1, 30, chosen.size // 2)
    supply[chosen[: amount.size]] = amount
    supply[chosen[amount.size :]] = -rng.permutation(amount)
    return columns.graph(supply)


def transport(n_nodes: int, seed: int = 1) -> Graph:
    """Half of the nodes send to every node of the other half: distances in a square, as in optimal transport."""
    rng = np.random.default_rng([seed, n_nodes, 11])
    side = n_nodes // 2
    places = rng.integers(0, 10_000, (2, side, 2))
    distance = np.abs(places[0][:, None] - places[1][None]).sum(axis=2)
    columns = Columns()
    columns.add(np.repeat(np.arange(side), side), side + np.tile(np.arange(side), side), UNLIMITED, distance.ravel())
    amount = rng.multinomial(100 * side, np.full(side, 1 / side))
    return columns.graph(np.concatenate([amount, -rng.permutation(amount)]).astype(np.int64))


def read_dimacs(path: Path) -> Graph:
    """A network in DIMACS format (`p min N A`, `n id supply`, `a tail head low high cost`), low bounds of 0."""
    rows = [line.split() for line in path.read_text().splitlines()]
    n_nodes = next(int(row[2]) for row in rows if row and row[0] == "p")
    supply = np.zeros(n_nodes, np.int64)
    for row in rows:
        if row and row[0] == "n":
            supply[int(row[1]) - 1] = int(row[2])
    arcs = np.array([row[1:6] for row in rows if row and row[0] == "a"], np.int64)
    columns = Columns()
    columns.add(arcs[:, 0] - 1, arcs[:, 1] - 1, arcs[:, 3], arcs[:, 4])
    return columns.graph(supply)
