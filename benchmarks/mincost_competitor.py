"""One other solver in a process of its own: reads paths of .npz networks on stdin, answers each with a line of JSON.

Usage: python mincost_competitor.py ortools|highs|networkx|pot. It imports nothing of ours, so that any interpreter
that has the solver can run it. Building the solver's own graph counts: it is part of every round. Seconds are of this
process's processor time, so that other work on the machine disturbs them little.
"""

import importlib
import json
import sys
import time
from typing import Any

import numpy as np


def by_ortools(columns: dict[str, Any]) -> int | None:
    module = importlib.import_module("ortools.graph.python.min_cost_flow")
    solver = module.SimpleMinCostFlow()
    bound = int(np.abs(columns["supply"]).sum())
    solver.add_arcs_with_capacity_and_unit_cost(
        columns["tail"], columns["head"], np.minimum(columns["capacity"], bound), columns["cost"]
    )
    solver.set_nodes_supplies(np.arange(columns["supply"].size), columns["supply"])
    if solver.solve() != solver.OPTIMAL:
        return None
    solver.flows(np.arange(columns["tail"].size))  # Ours hands over its flow too.
    return int(solver.optimal_cost())


def by_highs(columns: dict[str, Any]) -> int | None:
    optimize, sparse = importlib.import_module("scipy.optimize"), importlib.import_module("scipy.sparse")
    n_arcs = columns["tail"].size
    rows = np.concatenate([columns["tail"], columns["head"]])
    signs = np.concatenate([np.ones(n_arcs), -np.ones(n_arcs)])
    matrix = sparse.csc_array((signs, (rows, np.tile(np.arange(n_arcs), 2))), (columns["supply"].size, n_arcs))
    bound = int(np.abs(columns["supply"]).sum())
    bounds = np.column_stack([np.zeros(n_arcs), np.minimum(columns["capacity"], bound)])
    answer = optimize.linprog(columns["cost"], A_eq=matrix, b_eq=columns["supply"], bounds=bounds, method="highs-ds")
    return round(answer.fun) if answer.status == 0 else None


def by_networkx(columns: dict[str, Any]) -> int | None:
    networkx = importlib.import_module("networkx")
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from((node, {"demand": -supply}) for node, supply in enumerate(columns["supply"].tolist()))
    bound = int(np.abs(columns["supply"]).sum())
    for tail, head, capacity, cost in zip(
        *(columns[k].tolist() for k in ("tail", "head", "capacity", "cost")), strict=True
    ):
        graph.add_edge(tail, head, capacity=min(capacity, bound), weight=cost)
    return int(networkx.network_simplex(graph)[0])


def by_pot(columns: dict[str, Any]) -> int | None:
    """Transport between two sides only: a dense matrix of costs, no capacities."""
    ot = importlib.import_module("ot")
    supply = columns["supply"]
    sources, sinks = np.flatnonzero(supply > 0), np.flatnonzero(supply < 0)
    side = np.empty(supply.size, np.int64)
    side[sources], side[sinks] = np.arange(sources.size), np.arange(sinks.size)
    cost = np.empty((sources.size, sinks.size))
    cost[side[columns["tail"]], side[columns["head"]]] = columns["cost"]
    plan = ot.emd(supply[sources].astype(float), -supply[sinks].astype(float), cost, numItermax=10_000_000)
    return round(float((plan * cost).sum()))


SOLVERS = {"ortools": by_ortools, "highs": by_highs, "networkx": by_networkx, "pot": by_pot}
NEEDS = {
    "ortools": "ortools.graph.python.min_cost_flow",
    "highs": "scipy.optimize",
    "networkx": "networkx",
    "pot": "ot",
}


def main() -> None:
    name = sys.argv[1]
    try:
        importlib.import_module(NEEDS[name])
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        with np.load(line.strip()) as file:
            columns = dict(file)
        begin = time.process_time()
        objective = SOLVERS[name](columns)
        print(json.dumps({"seconds": time.process_time() - begin, "objective": objective}), flush=True)


if __name__ == "__main__":
    main()
