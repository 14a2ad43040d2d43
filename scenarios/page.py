"""One self-contained HTML page of a set of runs: no script, no font and no picture from anywhere else."""

from html import escape

from federation.units import about_bytes
from scenarios import plots
from scenarios.expect import shown
from scenarios.report import Summary
from scenarios.runs import Result

STYLE = """
:root{color-scheme:light dark;--line:#8884;--ink:#222;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--page:#181a1b}}
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--page)}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child{text-align:left}.missed{color:#d55e00;font-weight:600}.ok{color:#009e73}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
.grid{stroke:var(--line);stroke-width:.6}.axis{stroke:var(--ink)}
.legend span{margin-right:1.2rem}.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem}
pre{overflow-x:auto;font-size:12px}
""".strip()
RUNS_DRAWN_MAX = 8  # in full; all are in the tables


def page(name: str, purpose: str, results: list[Result]) -> str:
    notes = dict.fromkeys(note for result in results for note in result.summary.notes)
    parts = [
        f"<h1>{escape(name)}</h1><p>{escape(purpose)}</p>",
        *(f"<p><em>{escape(note)}</em></p>" for note in notes),
        _numbers(results),
        _verdicts(results),
        "<h2>Policies compared</h2>",
        plots.cdf("Completion of tasks", "seconds from arrival", _by_policy(results)),
        plots.bars("Bytes moved between sites", "GB", _moved(results)),
    ]
    for result in results[:RUNS_DRAWN_MAX]:
        parts += _run(result)
    if len(results) > RUNS_DRAWN_MAX:
        parts.append(f"<p>{len(results) - RUNS_DRAWN_MAX} more runs are in the tables above.</p>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def label(summary: Summary) -> str:
    return " ".join([summary.policy, f"#{summary.seed}", *(f"{k}={v}" for k, v in summary.parameters.items())])


def _by_policy(results: list[Result]) -> dict[str, list[float]]:
    """Latencies of all runs of a policy together."""
    series: dict[str, list[float]] = {}
    for result in results:
        series.setdefault(result.summary.policy, []).extend(result.curves.completions)
    return {policy: sorted(values) for policy, values in series.items()}


def _moved(results: list[Result]) -> dict[str, dict[str, float]]:
    """By policy, averaged over its runs."""
    found: dict[str, list[int]] = {}
    for result in results:
        found.setdefault(result.summary.policy, []).append(result.summary.uplink_bytes)
    return {policy: {"mean of runs": sum(values) / len(values) / 1e9} for policy, values in found.items()}


def _row(cells: list[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _numbers(results: list[Result]) -> str:
    head = [
        "run",
        "completion",
        "task p50",
        "task p99",
        "bytes moved",
        "edge / cloud",
        "failed / open",
        "laws",
        "digest",
    ]
    rows = [_row(head, "th")]
    for result in results:
        each = result.summary
        seconds = [
            "–" if value is None else f"{value:.1f} s"
            for value in (each.completion_s, each.task_p50_s, each.task_p99_s)
        ]
        broken = f'<span class="missed">{len(each.broken_laws)} broken</span>' if each.broken_laws else "hold"
        tail = [
            about_bytes(each.uplink_bytes),
            f"{each.tasks_edge} / {each.tasks_cloud}",
            f"{each.tasks_failed} / {each.tasks_open}",
            broken,
            f"<code>{each.digest[:12]}</code>",
        ]
        rows.append(_row([escape(label(each)), *seconds, *tail]))
    return f"<table>{''.join(rows)}</table>"


def _verdicts(results: list[Result]) -> str:
    if not results[0].verdicts:
        return ""
    rows = [_row(["expectation", *(escape(label(result.summary)) for result in results)], "th")]
    for number, first in enumerate(results[0].verdicts):
        cells = []
        for result in results:
            verdict = result.verdicts[number]
            text = shown(verdict.value, verdict.kind) + (f" ({verdict.why})" if verdict.why else "")
            judged = "" if result.case.is_baseline else "ok" if verdict.ok else "missed"
            cells.append(f'<span class="{judged}">{escape(text)}</span>')
        rows.append(_row([escape(first.text), *cells]))
    return f"<h2>Expectations</h2><table>{''.join(rows)}</table>"


def _run(result: Result) -> list[str]:
    curves, summary = result.curves, result.summary
    queue: dict[str, list[tuple[float, float]]] = {
        "waiting for other tasks": [(at, float(waiting)) for at, _, waiting, _ in curves.queue],
        "placed": [(at, float(placed)) for at, _, _, placed in curves.queue],
    }
    for name in sorted({name for _, reasons in curves.reasons for name in reasons}):
        queue[f"pending: {name}"] = [(at, float(reasons.get(name, 0))) for at, reasons in curves.reasons]
    shares = {role: {"held": held, "entitled": entitled} for role, (held, entitled) in curves.shares.items()}
    parts = [f"<h2>{escape(label(summary))}</h2>"]
    if summary.broken_laws:
        tail = escape("\n".join((*summary.broken_laws, "", *summary.tail)))
        parts.append(f'<p class="missed">A law was broken.</p><pre>{tail}</pre>')
    parts += [
        plots.timeline("Tasks by agent", curves.spans),
        plots.lines("Queue by reason", "seconds", "tasks", queue, steps=True),
        plots.lines("Link utilisation", "seconds", "% of bandwidth", dict(curves.links)),
    ]
    moved = {name: {"GB": count / 1e9} for name, count in sorted(curves.moved.items(), key=lambda item: -item[1])[:10]}
    parts.append(plots.bars("Bytes moved by link", "GB", moved))
    if shares:
        parts.append(plots.bars("Share against entitlement, while all wanted more", "dominant share", shares))
    if summary.incidents:
        rows = [_row(["fault", "began", "over", "recovered after"], "th")]
        for each in summary.incidents:
            cells = [f"{each.began_us / 1e6:.1f} s" if each.struck else "its moment never came"]
            cells.append("–" if each.over_us is None else f"{each.over_us / 1e6:.1f} s")
            cells.append("–" if each.recovery_us is None else f"{each.recovery_us / 1e6:.1f} s")
            rows.append(_row([escape(each.what), *cells]))
        parts.append(f"<h3>Faults</h3><table>{''.join(rows)}</table>")
    return parts
