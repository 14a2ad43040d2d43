"""The flow network spelled out: an arc from every single task to every single agent, solved by networkx."""

import networkx as nx
import numpy as np

from policies.cost import FREE, Costs, weight
from policies.lower import Columns
from policies.resources import copies


def optimum(columns: Columns, costs: Costs, unscheduled_us: int) -> int:
    """Least weighted completion time of all tasks, each on an agent with a free slot or not scheduled at all.

    For worlds whose needs are all alike, whose links nobody shares, and in which nobody waits: what is left is the
    assignment that lumping must not change.
    """
    graph = nx.DiGraph()
    n_tasks = 0
    for n, node in enumerate(columns.snapshot.nodes):
        room = copies(columns.needs[0], node.free, 10**6) if columns.needs else 0
        graph.add_edge(("node", n), "sink", capacity=room, weight=0)
    for c, demand in enumerate(columns.snapshot.demands):
        factor = weight(int(costs.level[c]))
        for task in range(demand.count):
            n_tasks += 1
            graph.add_node((c, task), demand=-1)
            graph.add_edge((c, task), "sink", capacity=1, weight=factor * unscheduled_us)
            for n in range(len(columns.snapshot.nodes)):
                g = int(columns.group[n])
                if costs.obstacle[c, g] == FREE:
                    graph.add_edge((c, task), ("node", n), capacity=1, weight=factor * int(costs.total_us[c, g]))
    graph.add_node("sink", demand=n_tasks)
    return int(nx.min_cost_flow_cost(graph))


def cost_of(columns: Columns, costs: Costs, placed: dict[tuple[str, str], int], unscheduled_us: int) -> int:
    """The same measure of a plan: (demand, agent) → tasks."""
    position = {node.agent_id: n for n, node in enumerate(columns.snapshot.nodes)}
    total = 0
    for c, demand in enumerate(columns.snapshot.demands):
        factor, left = weight(int(costs.level[c])), demand.count
        for (demand_id, agent_id), count in placed.items():
            if demand_id == demand.demand_id:
                total += factor * int(np.int64(costs.total_us[c, columns.group[position[agent_id]]])) * count
                left -= count
        total += factor * unscheduled_us * left
    return total
