"""The demo's tables."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from federation.units import about_bandwidth, about_bytes, about_duration
from scenarios.demo.play import Placed, Run
from scenarios.demo.stage import PLANTS, RACK


def links_table(run: Run) -> Table:
    shown = Table(title="What the agents measured before the job came", title_justify="left")
    for title in ("link", "emulated", "measured", "round trip"):
        shown.add_column(title, justify="left" if title == "link" else "right")
    for plant in PLANTS:
        for link in run.links:
            if (link.from_id, link.to_id) == (f"site:{plant.site}", f"site:{RACK}"):
                shown.add_row(
                    f"{plant.site} → {RACK}",
                    about_bandwidth(plant.uplink_bps),
                    about_bandwidth(link.bandwidth_bps or 0),
                    about_duration(link.rtt_us or 0),
                )
    return shown


def placement_table(runs: list[Run]) -> Table:
    shown = Table(title="Where each shard was trained, and why", title_justify="left")
    shown.add_column("shard", no_wrap=True)
    for run in runs:
        shown.add_column(run.policy, no_wrap=True)
    shown.add_column(f"why {runs[0].policy} chose so")
    others = [{placed.shard: placed for placed in run.placements} for run in runs[1:]]
    for placed in runs[0].placements:
        cells = [_where(placed), *(_where(other[placed.shard]) for other in others)]
        shown.add_row(placed.shard.rsplit("/", 1)[-1], *cells, _why(placed))
    return shown


def result_table(runs: list[Run]) -> RenderableType:
    shown = Table(title="The same job under each policy", title_justify="left")
    shown.add_column("")
    for run in runs:
        shown.add_column(run.policy, justify="right")
    shown.add_row("completion time", *(f"{run.completion_s:.1f} s" for run in runs))
    shown.add_row("bytes over the uplinks", *(about_bytes(run.uplink_bytes) for run in runs))
    shown.add_row("tasks at the edge", *(str(run.tasks_edge) for run in runs))
    shown.add_row("tasks in the cloud", *(str(run.tasks_cloud) for run in runs))
    shown.add_row("accuracy on held-out images", *(f"{run.accuracy:.3f}" for run in runs))
    ratio = runs[1].completion_s / runs[0].completion_s if len(runs) > 1 else None
    verdict = f"{runs[1].policy} took {ratio:.1f} times as long as {runs[0].policy}" if ratio else ""
    return Group(shown, Text(verdict, style="bold"))


def _where(placed: Placed) -> str:
    return "at home" if placed.site == placed.home else f"→ {placed.site}"


def _why(placed: Placed) -> str:
    if placed.terms is None:
        return ""
    terms = placed.terms
    parts = [
        f"{name} {about_duration(value)}"
        for name, value in (
            ("transfer", terms.transfer_us + terms.congestion_us),
            ("wait", terms.wait_us),
            ("run", terms.run_us),
        )
        if value
    ]
    text = f"{placed.agent_id}: {' + '.join(parts)}"
    if placed.next_best_us is not None:
        text += f" · {placed.next_best} {about_duration(placed.next_best_us)}"
    return text
