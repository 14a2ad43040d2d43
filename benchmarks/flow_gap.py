"""How far `flow` is from the best there is: the gap to a linear programme, round by round.

    python -m benchmarks.flow_gap --json PATH [--scenario NAME …] [--rounds 200]

The scenarios are played under `flow`, and every round with something to place is solved again by SciPy's HiGHS: place
fractions of each class on groups of agents, all kinds of resources, GPUs by type, and quotas at once, each task at its
cost there times its weight; what is left over pays, each side alike, what the plan says waiting costs its class, or
twice the dearest place where it says nothing. No plan of whole tasks on single agents can be below that. So the gap
(plan − bound) ÷ bound holds all that the flow leaves out and repairs afterwards (one kind of resource at a time, gangs,
packing), what it pays to spread work over shared links, which the bound knows nothing of, and what no plan could save,
for the bound may break tasks and agents in pieces.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from benchmarks.comparison.__main__ import SCENARIOS, TRACES
from benchmarks.comparison.smaller import parameters_of
from policies.cost import FREE, CostModel, Costs, costs, weight
from policies.flow import Flow
from policies.gpus import WHOLE
from policies.lower import KINDS, Columns, Lowerer
from policies.model import Plan, Snapshot
from policies.resources import amount_of, kinds, role_chain
from policies.slots import gpus_by_node
from scenarios.player import play
from scenarios.runs import Case, read_case

DEFAULT = ("quickstart", "federated-learning", "gpu-fragmentation", "quota-fight", "mobile-edge")


class Watched:
    """`flow`, and the rounds in which it had something to place."""

    def __init__(self, at_most: int) -> None:
        self._flow, self._at_most = Flow(), at_most
        self.rounds: list[tuple[Snapshot, Plan]] = []

    def plan(self, snapshot: Snapshot) -> Plan:
        plan = self._flow.plan(snapshot)
        if snapshot.demands and snapshot.nodes and len(self.rounds) < self._at_most:
            self.rounds.append((snapshot, plan))
        return plan


def gap(snapshot: Snapshot, plan: Plan) -> tuple[float, float] | None:
    """(cost of the plan, bound), in weighted µs; None where nothing could be placed at any cost."""
    columns = Lowerer().lower(snapshot)
    priced = costs(columns, CostModel())
    open_ = (priced.obstacle == FREE) & np.array([not each for each in columns.unreachable], np.bool_)[:, None]
    if not open_.any():
        return None
    weights = np.array([weight(int(level)) for level in priced.level], np.float64)
    leaving = _leaving(snapshot, plan, priced, open_) * weights
    return _cost(columns, plan, priced, weights, leaving), _bound(columns, priced, open_, weights, leaving)


def _leaving(snapshot: Snapshot, plan: Plan, priced: Costs, open_: Any) -> Any:
    """[C] what a task that is left over costs: what the plan says its class waits for, else twice the dearest place."""
    dearest = float(np.where(open_, priced.total_us, 0).max())
    waits = {each.demand_id: each.waits_for for each in plan.refusals}
    found = [waits.get(demand.demand_id) for demand in snapshot.demands]
    return np.array([2 * dearest + 1e6 if each is None else float(each.terms.total_us()) for each in found])


def _cost(columns: Columns, plan: Plan, priced: Costs, weights: Any, leaving: Any) -> float:
    place = {demand.demand_id: c for c, demand in enumerate(columns.snapshot.demands)}
    group = {node.agent_id: int(columns.group[n]) for n, node in enumerate(columns.snapshot.nodes)}
    left = columns.count.astype(np.float64)
    total = 0.0
    for each in plan.placements:
        c = place[each.demand_id]
        left[c] -= each.count
        total += each.count * weights[c] * float(priced.total_us[c, group[each.agent_id]])
    return total + float(left @ leaving)


def _bound(columns: Columns, priced: Costs, open_: Any, weights: Any, leaving: Any) -> float:
    classes, groups = np.nonzero(open_)
    n_classes, n_arcs = len(columns.count), len(classes)
    at = np.arange(n_arcs)
    needs_of = columns.needs_of[classes]
    free = np.array([columns.free[nodes].sum(axis=0) for nodes in columns.members], np.float64)
    rows, limits = [], []
    for kind in range(KINDS):
        scale = max(1.0, float(free[:, kind].max()))  # HiGHS' tolerances are absolute.
        rows.append(sp.csr_array((columns.amounts[needs_of, kind] / scale, (groups, at)), (columns.n_groups, n_arcs)))
        limits.append(free[:, kind] / scale)
    for mask in np.unique(columns.gpu_mask[columns.gpu_count > 0], axis=0) if columns.gpu_count.any() else ():
        inside = ~(columns.gpu_mask & ~mask).any(axis=1)  # Needs that only these types will meet.
        taken = np.where(inside, columns.gpu_count * columns.gpu_milli / WHOLE, 0)[needs_of]
        rows.append(sp.csr_array((taken.astype(np.float64), (groups, at)), (columns.n_groups, n_arcs)))
        free_gpus = gpus_by_node(columns)[:, mask].sum(axis=1)
        limits.append(np.array([free_gpus[nodes].sum() for nodes in columns.members], np.float64))
    of_class = sp.csr_array((np.ones(n_arcs), (classes, at)), (n_classes, n_arcs))
    for row, limit in _quotas(columns):
        rows.append(sp.csr_array(row[None, :]) @ of_class)
        limits.append(np.array([limit]))
    # What is left over is what is not placed: its cost is paid for all, and saved by placing.
    saved = leaving[classes] - weights[classes] * priced.total_us[classes, groups]
    unit = max(1.0, float(np.abs(saved).max()))
    answer = linprog(
        -saved / unit,
        A_ub=sp.vstack([*rows, of_class]).tocsr(),
        b_ub=np.concatenate([*limits, columns.count.astype(np.float64)]),
        method="highs",
    )
    if not answer.success:
        raise ArithmeticError(f"HiGHS found no bound: {answer.message}")
    return float(columns.count @ leaving + answer.fun * unit)


def _quotas(columns: Columns) -> list[tuple[Any, float]]:
    """([C] what a task takes of a quota, what is left of it), all scaled to that."""
    out: list[tuple[Any, float]] = []
    demands = columns.snapshot.demands
    for role in columns.snapshot.roles:
        if role.quota is None:
            continue
        below = np.array([role.path in role_chain(demand.role) for demand in demands], np.float64)
        for r, (limit, held) in enumerate(zip(kinds(role.quota), kinds(role.allocated), strict=True)):
            if limit:
                takes = np.array([kinds(amount_of(demand.needs))[r] for demand in demands], np.float64)
                out.append((below * takes / limit, max(0, limit - held) / limit))
    return out


def measure(name: str, at_most: int) -> dict[str, Any]:
    world = read_case(Case(path=str(SCENARIOS / f"{name}.yaml"), policy="flow", parameters=parameters_of(name))).world
    watched = Watched(at_most)
    play(world, watched, "flow")
    gaps: list[float] = []
    for snapshot, plan in watched.rounds:
        found = gap(snapshot, plan)
        if found is not None:
            cost, bound = found
            gaps.append(float((cost - bound) / max(1.0, bound)))
    ordered = sorted(gaps)

    def at(share: float) -> float | None:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    return {
        "scenario": name, "rounds": len(gaps), "optimal": sum(int(each < 1e-6) for each in gaps),
        "median": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0), "by_round": gaps,
    }  # fmt: skip


def _percent(value: float | None) -> str:
    return f"{'–':>8}" if value is None else f"{100 * value:7.2f}%"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow_gap", description="The flow's gap to an LP bound.")
    parser.add_argument("--json", type=Path, help="write the gap of every round here")
    parser.add_argument("--scenario", nargs="+", default=list(DEFAULT))
    parser.add_argument("--rounds", type=int, default=200, help="of a scenario, the first so many")
    given = parser.parse_args()
    if TRACES.exists():
        os.environ.setdefault("OFFERFLOW_TRACES", str(TRACES))
    results = []
    print(f"{'scenario':22} {'rounds':>6} {'at the bound':>12} {'median':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    for name in given.scenario:
        found = measure(name, given.rounds)
        results.append(found)
        shown = [_percent(found[key]) for key in ("median", "p90", "p99", "max")]
        print(f"{name:22} {found['rounds']:6} {found['optimal']:12} {' '.join(shown)}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"flow_gap": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
