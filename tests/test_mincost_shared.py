"""Scheduling networks of others (Flowlessly, Apache-2.0): known optima, and their deltas solved warm."""

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from policies.kernels.mincost.certificate import certificate_error
from policies.kernels.mincost.network import FlowNetwork
from tests.reference import dimacs

SHARED = Path(__file__).parents[1].parent / "shared" / "mcf"
OPTIMA = {"graph_100m_16j_100t_10p": 1115043, "graph_1000m_32j_100t_10p": 2089244, "graph_1000m_64j_100t_10p": 4321713}
SMALL = "graph_4m_2crs_10j"
NO_DELTA = {f"{SMALL}.in", f"{SMALL}_incremental.in"}

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the shared networks are not beside this checkout")


@pytest.mark.parametrize("name", OPTIMA)
def test_the_known_optimum(name: str) -> None:
    network = FlowNetwork(*dimacs.read(SHARED / f"{name}.in"))
    result = network.solve()
    assert result.objective == OPTIMA[name]
    assert certificate_error(network, result) is None


def apply(network: FlowNetwork, delta: Path) -> None:
    """Apply one delta file; node 0 in its arcs is the node it added. The sink, node 27, takes what is left."""
    added = -1
    for kind, *fields in dimacs.rows(delta):
        numbers = [int(field) for field in fields]
        if kind == "d":
            added = int(network.add_nodes([1 if numbers[2] == 6 else 0])[0])  # Type 6 is a task: one unit.
        elif kind == "r":
            network.remove_nodes([numbers[0] - 1])
        elif kind in ("a", "x"):
            tail, head = (added if node == 0 else node - 1 for node in numbers[:2])
            _, high, cost = numbers[2:]
            known = np.flatnonzero((network.tail == tail) & (network.head == head) & network.arc_alive)
            if known.size:
                network.set_capacity(known, [high])
                network.set_cost(known, [cost])
            else:
                network.add_arcs([tail], [head], [high], [cost])
    supply = network.supply
    network.set_supply([27], [-int(supply[:27].sum() + supply[28:].sum())])


def by_networkx(network: FlowNetwork) -> int:
    graph = nx.MultiDiGraph()
    for node, supply in enumerate(network.supply.tolist()):
        graph.add_node(node, demand=-supply)
    columns = (network.tail, network.head, network.capacity, network.cost)
    for tail, head, capacity, cost in zip(*(column.tolist() for column in columns), strict=True):
        graph.add_edge(tail, head, capacity=capacity, weight=cost)
    objective: int = nx.network_simplex(graph)[0]
    return objective


DELTAS = sorted(path.name for path in SHARED.glob(f"{SMALL}_*.in") if path.name not in NO_DELTA)


@pytest.mark.kernel
@pytest.mark.parametrize("delta", DELTAS)
def test_a_delta_solved_warm(delta: str) -> None:
    network = FlowNetwork(*dimacs.read(SHARED / f"{SMALL}.in"))
    network.solve()
    apply(network, SHARED / delta)
    result = network.solve()
    assert result.objective == by_networkx(network)
    assert certificate_error(network, result) is None


@pytest.mark.kernel
def test_every_delta_after_the_other() -> None:
    network = FlowNetwork(*dimacs.read(SHARED / f"{SMALL}.in"))
    for delta in sorted(DELTAS, key=lambda name: ("rem_" in name, name)):
        if not ("core" in delta and "rem_core" in delta):  # Removed again by rem_machine; an id is removed once.
            apply(network, SHARED / delta)
        result = network.solve()
        assert result.objective == by_networkx(network), delta
        assert certificate_error(network, result) is None
