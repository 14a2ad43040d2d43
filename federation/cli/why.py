"""How the answer to "why" reads: pure functions from views to lines of text."""

from collections.abc import Iterable

from federation.api import WhyView
from federation.cli.output import ago
from federation.states import TaskState
from federation.units import about_bandwidth, about_bytes, about_duration, format_cpu
from policies.model import Blocker, Candidate, CostTerms, Miss, Reason

# Each term's field of `CostTerms` without `_us`, in the order of the table; "*" marks columns that are always shown.
TERMS = ("transfer*", "congestion", "wait", "run*", "latency", "price")


def why_lines(view: WhyView, now_us: int) -> list[str]:
    """The explanation of one task; times are told relative to `now_us`, the master's clock."""
    lines = _placed(view) if view.agent_id else _pending(view, now_us)
    if view.detail and view.state != TaskState.FINISHED:
        lines.append(f"  last failed attempt: {view.detail}")
    return lines


def blockers_text(blockers: Iterable[Blocker]) -> str:
    """`4 label · 22 cpu (short 0.5) · 6 quota role=vision`."""
    return " · ".join(_blocker(blocker) for blocker in blockers)


def needs_text(reason: Reason, miss: Miss) -> str:
    """`needs 12 Mbit/s from plant-a, has 9.1 Mbit/s (measured 3 s ago)`."""
    needs = _amount(miss.needs, miss.unit)
    if miss.unit == "us" and miss.site:
        needs = f"a round trip to {miss.site} of at most {needs}"
    elif miss.site:
        needs = f"{needs} from {miss.site}"
    what = {"milli": " cores", "count": " GPUs"}.get(miss.unit, "") if reason in (Reason.CPU, Reason.GPU) else ""
    if miss.unit == "bytes" and reason in (Reason.MEMORY, Reason.DISK):
        what = f" of {reason}"
    if miss.has is None:
        return f"needs {needs}{what}, which was never measured"
    measured = f" (measured {about_duration(miss.age_us)} ago)" if miss.age_us is not None else ""
    return f"needs {needs}{what}, has {_amount(miss.has, miss.unit)}{measured}"


def candidate_rows(
    agent_id: str, terms: CostTerms, alternatives: Iterable[Candidate]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of candidates, in seconds; the first is the chosen one."""
    others = [Candidate(agent_id=agent_id, terms=terms), *alternatives]
    shown = [
        term.rstrip("*")
        for term in TERMS
        if term.endswith("*") or any(getattr(other.terms, f"{term}_us") for other in others)
    ]
    rows = []
    for index, other in enumerate(others):
        extra_us = other.terms.total_us() - terms.total_us()
        verdict = "chosen" if index == 0 else f"{extra_us / 1e6:+.2f}"
        numbers = [getattr(other.terms, f"{term}_us") for term in shown]
        rows.append(
            [other.agent_id, *(f"{number / 1e6:.2f}" for number in (*numbers, other.terms.total_us())), verdict]
        )
    return ["agent", *shown, "total", ""], rows


def _placed(view: WhyView) -> list[str]:
    state = (
        "" if view.state in (TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING) else f"  {view.state.upper()}"
    )
    lines = [f"task {view.task_id}{state}  on {view.agent_id}  by {view.policy}, {_round(view)}"]
    if view.terms is None or view.terms.total_us() == 0:
        return [*lines, f"  {view.policy} places without costs, so there is nothing to compare"]
    header, rows = candidate_rows(view.agent_id, view.terms, view.alternatives)
    lines += [f"  {line}" for line in aligned([header, *rows])]
    return [*lines, "  (seconds; price and latency count as time)", *(f"  {hint}" for hint in view.hints)]


def _pending(view: WhyView, now_us: int) -> list[str]:
    lines = [f"task {view.task_id}  {view.state.upper()} {ago(view.since_us, now_us)}"]
    if view.state == TaskState.WAITING:
        return [*lines, f"  waits for: {' | '.join(view.hints) or 'the groups it comes after'}"]
    if not view.blockers:
        return [*lines, *_hints(view)]
    lines[0] += f"  blocked by: {_word(view.blockers[0].reason)}"
    about_agents = f"{view.n_agents} agents: " if any(blocker.agents for blocker in view.blockers) else ""
    by = f"  (by {view.policy}, {_round(view)})" if view.policy else ""
    lines.append(f"  {about_agents}{blockers_text(view.blockers)}{by}")
    nearest = next((blocker for blocker in view.blockers if blocker.nearest is not None), None)
    if nearest is not None and nearest.nearest is not None:
        lines.append(f"  nearest miss {nearest.nearest.agent_id}: {needs_text(nearest.reason, nearest.nearest)}")
    if view.waits_for is not None:
        terms = view.waits_for.terms
        lines.append(
            f"  waits for {view.waits_for.agent_id}: free in ~{about_duration(terms.wait_us)}, "
            f"done in ~{about_duration(terms.total_us())}"
        )
    return [*lines, *_hints(view)]


def _hints(view: WhyView) -> list[str]:
    return [f"  would run if: {' | '.join(view.hints)}"] if view.hints else []


def _round(view: WhyView) -> str:
    return f"round {view.round_id}, term {view.term}" if view.round_id is not None else f"term {view.term}"


def _blocker(blocker: Blocker) -> str:
    text = f"{blocker.agents} {_word(blocker.reason)}" if blocker.agents else _word(blocker.reason)
    if blocker.role:
        text += f" role={blocker.role}"
    miss = blocker.nearest
    if miss is None or miss.has is None:
        return text
    return f"{text} (short {_amount(abs(miss.needs - miss.has), miss.unit)})"


def _word(reason: Reason) -> str:
    return reason.value.replace("_", " ")


def _amount(value: int, unit: str) -> str:
    match unit:
        case "milli":
            return format_cpu(value)
        case "bytes":
            return about_bytes(value)
        case "bps":
            return about_bandwidth(value)
        case "us":
            return about_duration(value)
        case _:
            return str(value)


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns two blanks apart: the first and the last set left, numbers between them right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            f"{cell:<{width}}" if index in (0, last) else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
