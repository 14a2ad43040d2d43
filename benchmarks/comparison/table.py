"""Means over seeds, what differs from the policy held against, and the page that shows both."""

import math
import statistics
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from benchmarks.comparison.measure import MEASURES, Measure, Run
from scenarios import plots
from scenarios.page import STYLE

MARGIN = 0.01  # of the value: differences below are called none, however sure
_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)  # by n − 2


class Cell(NamedTuple):
    """A measure of a policy on a scenario. `against` is the mean difference to the policy held against, over the same
    seeds played on the same builds, those left out at which that one has changed since by more than `MARGIN`, and
    `half` the half width of its 95 % interval (Student's t); None with fewer than two such seeds."""

    mean: float
    seeds: int
    against: float | None
    half: float | None

    def verdict(self, measure: Measure) -> str:
        """`better` or `worse` than the policy held against, or `` where that cannot be told or is too little."""
        if self.against is None or self.half is None or abs(self.against) <= self.half:
            return ""
        if abs(self.against) <= MARGIN * max(abs(self.mean), abs(self.mean - self.against)):
            return ""
        return "better" if self.against * measure.sign < 0 else "worse"


Table = dict[str, dict[str, dict[str, Cell]]]
"""scenario → policy → measure → cell"""


def table_of(runs: Iterable[Run], base: str) -> Table:
    """Of several runs of a policy and seed the last one counts; of `base` also those of older builds, for others that
    were not played again, as long as nothing has changed for `base`."""
    by: dict[str, dict[str, dict[int, Run]]] = {}
    bases: dict[tuple[str, int, str], Run] = {}
    for run in sorted(runs, key=lambda run: (run.scenario, run.policy != base, run.policy, run.seed)):
        by.setdefault(run.scenario, {}).setdefault(run.policy, {})[run.seed] = run
        if run.policy == base:
            bases[run.scenario, run.seed, run.world] = run
    return {
        scenario: {
            policy: {
                measure.name: cell
                for measure in MEASURES
                if (cell := _cell(measure.name, list(seeds.values()), policies.get(base, {}), bases)) is not None
            }
            for policy, seeds in policies.items()
        }
        for scenario, policies in by.items()
    }


def _cell(name: str, own: list[Run], newest: dict[int, Run], bases: dict[tuple[str, int, str], Run]) -> Cell | None:
    values = [value for run in own if (value := run.values.get(name)) is not None]
    if not values:
        return None
    pairs = [
        (mine, theirs)
        for run in own
        if (base := bases.get((run.scenario, run.seed, run.world))) is not None
        and (mine := run.values.get(name)) is not None and (theirs := base.values.get(name)) is not None
        and (name.startswith("decision") or _is_like(theirs, newest[run.seed].values.get(name)))
    ]  # fmt: skip
    against = half = None
    if len(pairs) >= 2:
        differences = [mine - theirs for mine, theirs in pairs]
        against = statistics.fmean(differences)
        t = _T_95[min(len(pairs) - 2, len(_T_95) - 1)]
        half = t * statistics.stdev(differences) / math.sqrt(len(pairs))
    return Cell(statistics.fmean(values), len(values), against, half)


def _is_like(value: float, other: float | None) -> bool:
    return other is not None and abs(value - other) <= MARGIN * max(abs(value), abs(other))


def losses(table: Table, base: str) -> list[tuple[str, str, list[tuple[str, float, float]]]]:
    """(scenario, measure, [(policy, its mean, the base's)]) wherever another policy is better than `base`; who decides
    faster is left to the table."""
    found: list[tuple[str, str, list[tuple[str, float, float]]]] = []
    for scenario, policies in table.items():
        for measure in MEASURES:
            if measure.name.startswith("decision"):
                continue
            better = [
                (policy, cells[measure.name].mean, policies[base][measure.name].mean)
                for policy, cells in policies.items()
                if base in policies and measure.name in cells and measure.name in policies[base]
                and cells[measure.name].verdict(measure) == "better"
            ]  # fmt: skip
            if better:
                found.append((scenario, measure.name, sorted(better, key=lambda each: each[1] * measure.sign)))
    return found


def markdown(table: Table, measure: Measure) -> list[str]:
    """Policies across, scenarios down; `+` is better than the policy held against, `−` worse."""
    policies = list(dict.fromkeys(policy for each in table.values() for policy in each))
    out = [f"| | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    for scenario, each in table.items():
        cells = [each.get(policy, {}).get(measure.name) for policy in policies]
        if any(cells):
            out.append(f"| {scenario} | {' | '.join(_said(cell, measure) for cell in cells)} |")
    return out


def document(table: Table, base: str, notes: list[str]) -> str:
    """The notes, how many seeds there are, a table for each measure, and where another policy is better than `base`."""
    policies = list(dict.fromkeys(policy for each in table.values() for policy in each))
    out = [*(f"{note}\n" for note in notes), "## Seeds\n"]
    out += [f"| | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    for scenario, each in table.items():
        seeds = [max((cell.seeds for cell in each.get(policy, {}).values()), default=0) for policy in policies]
        out.append(f"| {scenario} | {' | '.join(map(str, seeds))} |")
    for measure in MEASURES:
        out += [f"\n## {measure.title} ({measure.unit})\n", *markdown(table, measure)]
    out.append(f"\n## Where another policy is better than {base}\n")
    for scenario, name, better in losses(table, base):
        said = ", ".join(f"{policy} {mean:.4g} against {own:.4g}" for policy, mean, own in better[:3])
        out.append(f"- {scenario}, {name}: {said}{f' and {len(better) - 3} more' if len(better) > 3 else ''}")
    return "\n".join(out)


def _said(cell: Cell | None, measure: Measure) -> str:
    if cell is None:
        return "–"
    mark = {"better": " +", "worse": " −", "": ""}[cell.verdict(measure)]
    return f"{shown(cell.mean)}{mark}"


def shown(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(table: Table, base: str, notes: list[str]) -> str:
    """One self-contained HTML page: a table and a plot for each measure, means with the half width of the interval."""
    parts = ["<h1>Policies compared</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    for measure in MEASURES:
        policies = list(dict.fromkeys(policy for each in table.values() for policy in each))
        parts.append(f"<h2>{escape(measure.title)} ({escape(measure.unit)})</h2>")
        rows = ["<tr><th>scenario</th>" + "".join(f"<th>{escape(name)}</th>" for name in policies) + "</tr>"]
        ratios: dict[str, dict[str, float]] = {}
        for scenario, each in table.items():
            cells = [each.get(policy, {}).get(measure.name) for policy in policies]
            if not any(cells):
                continue
            rows.append(f"<tr><td>{escape(scenario)}</td>{''.join(_td(cell, measure) for cell in cells)}</tr>")
            own = each.get(base, {}).get(measure.name)
            if own is not None and own.mean:
                ratios[scenario] = {
                    policy: cell.mean / own.mean for policy, cell in zip(policies, cells, strict=True) if cell
                }
        parts.append(f"<div style='overflow-x:auto'><table>{''.join(rows)}</table></div>")
        parts += [plots.bars(f"{measure.title}, {base} = 1", "ratio", few) for few in _chunks(ratios, 5)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Policies compared</title>\n'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _td(cell: Cell | None, measure: Measure) -> str:
    if cell is None:
        return "<td>–</td>"
    style = {"better": "ok", "worse": "missed", "": ""}[cell.verdict(measure)]
    more = "" if cell.half is None or not cell.against else f" title='{cell.against:+.4g} ± {cell.half:.3g}'"
    return f"<td class='{style}'{more}>{shown(cell.mean)}</td>"


def _chunks(groups: dict[str, dict[str, float]], size: int) -> list[dict[str, dict[str, float]]]:
    names = list(groups)
    return [{name: groups[name] for name in names[at : at + size]} for at in range(0, len(names), size)]
