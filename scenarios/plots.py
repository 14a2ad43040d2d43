"""Plots as SVG text, without a library: axes, lines, steps, bars and spans. Readable on white and black."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
LABEL_MAX, LETTER, LEAN = 24, 6, 60  # letters under a bar, pixels a letter, height for labels that lean
# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a400")
STATE_COLOURS = {"finished": "#009e73", "failed": "#d55e00", "cancelled": "#7f7f7f", "open": "#e69f00"}

Point = tuple[float, float]


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers that cover the range."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    if value and (abs(value) >= 100_000 or abs(value) < 0.001):
        return f"{value:.1e}"
    return f"{value:.4g}"


class _Frame:
    """Maps values into the picture and draws its axes."""

    def __init__(self, low: Point, high: Point, height: int) -> None:
        self.low, self.high, self.height = low, high, height

    def x(self, value: float) -> float:
        span = self.high[0] - self.low[0] or 1
        return LEFT + (value - self.low[0]) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        span = self.high[1] - self.low[1] or 1
        return self.height - BOTTOM - (value - self.low[1]) / span * (self.height - TOP - BOTTOM)

    def axes(self, x_title: str, y_title: str, *, with_y: bool = True) -> list[str]:
        bottom = self.height - BOTTOM
        parts = [f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>']
        for value in ticks(self.low[0], self.high[0]):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_label(value)}</text>')
        for value in ticks(self.low[1], self.high[1], 5) if with_y else ():
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{self.height - 6}" text-anchor="middle">{escape(x_title)}</text>')
        if y_title:
            across = f"translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)"
            parts.append(f'<text transform="{across}" text-anchor="middle">{escape(y_title)}</text>')
        return parts


def _svg(parts: Iterable[str], height: int, title: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{body}</svg>'


def _legend(names: Sequence[str], colours: Sequence[str] = COLOURS) -> str:
    keys = (
        f'<span><i style="background:{colours[number % len(colours)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(keys)}</p>'


def lines(title: str, x_title: str, y_title: str, series: Mapping[str, Sequence[Point]], *, steps: bool = False) -> str:
    """One line a name; with `steps` a value holds until the next."""
    points = [point for each in series.values() for point in each]
    if not points:
        return _nothing(title)
    high = (max(x for x, _ in points), max(y for _, y in points) or 1)
    frame = _Frame((0, 0), (high[0] or 1, high[1] * 1.05), HEIGHT)
    parts = frame.axes(x_title, y_title)
    for number, each in enumerate(series.values()):
        path: list[str] = []
        for index, (x, y) in enumerate(each):
            if steps and index:
                path.append(f"H{frame.x(x):.1f}")
            path.append(f"{'L' if index else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        parts.append(
            f'<path fill="none" stroke-width="1.6" stroke="{COLOURS[number % len(COLOURS)]}" d="{"".join(path)}"/>'
        )
    return f"<h3>{escape(title)}</h3>" + _svg(parts, HEIGHT, title) + _legend(list(series))


def cdf(title: str, x_title: str, series: Mapping[str, Sequence[float]]) -> str:
    """What share lay at or below each value."""
    curves = {
        name: [(0.0, 0.0), *((value, (number + 1) / len(values)) for number, value in enumerate(values))]
        for name, values in series.items()
        if values
    }
    return lines(title, x_title, "share of tasks", curves, steps=True)


def bars(title: str, y_title: str, groups: dict[str, dict[str, float]]) -> str:
    """For each group a bar a name."""
    names = list(dict.fromkeys(name for each in groups.values() for name in each))
    values = [value for each in groups.values() for value in each.values()]
    if not values:
        return _nothing(title)
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    leans = max(len(group[:LABEL_MAX]) for group in groups) * LETTER > slot
    frame = _Frame((0, 0), (len(groups), max(values) * 1.05 or 1), HEIGHT)
    bottom = HEIGHT - BOTTOM
    parts: list[str] = []
    for value in ticks(0, frame.high[1], 5):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(value)}</text>')
    across = f"translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{across}" text-anchor="middle">{escape(y_title)}</text>')
    width = slot * 0.8 / max(1, len(names))
    for index, (group, each) in enumerate(groups.items()):
        start = LEFT + slot * index + slot * 0.1
        for number, name in enumerate(names):
            value = each.get(name, 0.0)
            y = frame.y(value)
            parts.append(
                f'<rect x="{start + width * number:.1f}" y="{y:.1f}" width="{max(0.5, width - 1):.1f}" '
                f'height="{bottom - y:.1f}" fill="{COLOURS[number % len(COLOURS)]}">'
                f"<title>{escape(group)} {escape(name)}: {_label(value)}</title></rect>"
            )
        x, y = start + slot * 0.4, bottom + 15
        place = (
            f'transform="translate({x:.1f} {y}) rotate(-35)" text-anchor="end"'
            if leans
            else (f'x="{x:.1f}" y="{y}" text-anchor="middle"')
        )
        parts.append(f"<text {place}>{escape(group[:LABEL_MAX])}</text>")
    return f"<h3>{escape(title)}</h3>" + _svg(parts, HEIGHT + (LEAN if leans else 0), title) + _legend(names)


def timeline(title: str, spans: Sequence[tuple[str, float, float, str, str]], rows_max: int = 40) -> str:
    """Attempts by agent: (agent, from, to, state, what). The busiest agents are drawn."""
    if not spans:
        return _nothing(title)
    busy: dict[str, float] = {}
    for agent, start, end, _, _ in spans:
        busy[agent] = busy.get(agent, 0.0) + end - start
    agents = sorted(sorted(busy, key=lambda agent: (-busy[agent], agent))[:rows_max])
    height = TOP + BOTTOM + 14 * len(agents)
    frame = _Frame((0, 0), (max(end for _, _, end, _, _ in spans) or 1, len(agents)), height)
    parts = frame.axes("seconds", "", with_y=False)
    for row, agent in enumerate(agents):
        y = TOP + 14 * row
        parts.append(f'<text x="{LEFT - 4}" y="{y + 10}" text-anchor="end">{escape(agent[-10:])}</text>')
    for agent, start, end, state, what in spans:
        if agent in agents:
            x, y = frame.x(start), TOP + 14 * agents.index(agent) + 1
            said = f"<title>{escape(agent)} {escape(what)} {state}</title>"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(0.6, frame.x(end) - x):.1f}" height="11" opacity="0.6" '
                f'fill="{STATE_COLOURS.get(state, "#56b4e9")}">{said}</rect>'
            )
    more = f"<p>{len(busy) - len(agents)} more agents are not drawn.</p>" if len(busy) > len(agents) else ""
    legend = _legend(list(STATE_COLOURS), list(STATE_COLOURS.values()))
    return f"<h3>{escape(title)}</h3>" + _svg(parts, height, title) + legend + more


def _nothing(title: str) -> str:
    return f"<h3>{escape(title)}</h3><p>Nothing to show.</p>"
