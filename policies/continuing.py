"""Placed work that may move, as classes of the flow network beside those that wait.

A continuation is a class of one task whose arc to "not scheduled" costs what staying costs, less the margin and the
cost of moving that going has to beat. So hysteresis is part of what is minimised, and a move is made only where the
capacity it takes is worth more to it than to all who wait.
"""

import msgspec
import numpy as np

from policies.cost import Costs
from policies.lower import TIME_US_MAX, UNKNOWN, Columns, Int64s
from policies.model import Continuation, Snapshot


def with_continuing(snapshot: Snapshot) -> Snapshot:
    """The snapshot with its continuations among the demands. What runs counts under its quota already."""
    if not snapshot.continuing:
        return snapshot
    # Their ids sort after those of classes.
    moving = tuple(msgspec.structs.replace(each.demand, role="") for each in snapshot.continuing)
    demands = sorted((*snapshot.demands, *moving), key=lambda demand: demand.demand_id)
    return msgspec.structs.replace(snapshot, demands=tuple(demands))


def continuing_classes(columns: Columns) -> dict[int, Continuation]:
    """Which classes of the columns stand for placed tasks."""
    by_id = {each.demand.demand_id: each for each in columns.snapshot.continuing}
    if not by_id:
        return {}
    found = enumerate(columns.snapshot.demands)
    return {c: by_id[demand.demand_id] for c, demand in found if demand.demand_id in by_id}


def stay_costs(columns: Columns, costs: Costs, continuing: dict[int, Continuation]) -> dict[int, int]:
    """What it costs each of these classes to go on where it is. An agent that is no node says nothing of its clients:
    then only what is left counts."""
    position = {node.agent_id: n for n, node in enumerate(columns.snapshot.nodes)} if continuing else {}
    stay_us: dict[int, int] = {}
    for c, each in continuing.items():
        here = position.get(each.agent_id)
        clients_us = int(costs.latency_us[c, columns.group[here]]) if here is not None else 0
        stay_us[c] = min(each.left_us + clients_us, TIME_US_MAX)
    return stay_us


def going_limits(n_classes: int, continuing: dict[int, Continuation], stay_us: dict[int, int]) -> Int64s:
    """[C] what going must not cost more than; UNKNOWN for classes that wait."""
    limit_us = np.full(n_classes, UNKNOWN, np.int64)
    for c, each in continuing.items():
        limit_us[c] = max(0, stay_us[c] * 1000 // (1000 + each.margin_milli) - each.move_us)
    return limit_us
