"""Charts as SVG text: a bar with a whisker, a scatter, a line chart, a heat map. Plain string building, no library.

Colours come from the stylesheet (classes `c0` ... `c7` set `color`, shapes use it), so one chart serves both schemes. Text
is 12 units of a 460-unit drawing: readable on a phone, where the drawing shrinks to about 330 pixels. A `Chart` and a
`HeatMap` are what is shown, without the drawing: pages/drawing.py writes them to files, as PDF and PNG with matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unspoken.core.text.markup import escape
from unspoken.pages.templating import chart_style

COLOURS = 8  # of the page's style; from the ninth run on they come again, dashed
WIDTH, HEIGHT = 460, 268
LEFT, RIGHT, TOP, BOTTOM = 42, 120, 18, 40  # RIGHT holds the labels at the lines' ends
GAP = 14  # between the baselines of two labels
_CLEAR = 9  # between two names side by side
LONGEST = 17  # characters of a label that fit into RIGHT
_TITLE = 26  # height of a panel's title on a sheet
_SIDE = 268  # of a large heat map
_NUMBERS = 22  # room for the numbers beside it
_LEVELS = 10  # of each colour; cells of a level are one path, so that a page of 200 maps stays small
_CELL = 60  # the largest cell
_WRITTEN = 8  # up to so many latents, the numbers stand in the cells
LEGIBLE = 0.45  # the most of a colour behind them, so that they can be read in both schemes


@dataclass(frozen=True)
class Point:
    """A data point, optionally with an interval in y."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """The points of one run; `run` is its number on the page, which is its colour."""

    run: int
    label: str
    points: tuple[Point, ...]


Stages = Sequence[tuple[int, float, str]]
"""(run, x, name) of boundaries: "stage 2" where a stage of the curriculum begins, "collapse"."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves, labelled where they end; or a scatter, one labelled point per line.

    Attributes:
        name: the heading, also used as the text alternative.
        lines: at least one, each with at least one point.
        x_label: under the horizontal axis.
        percent: values are shares; the axis starts at 0.
        log_y: logarithmic vertical axis; values must be positive.
        markers: draw every point, with its interval if it has one.
        scatter: a share over a horizontal axis that begins at 0, one point per line.
        stages: boundaries to draw as thin vertical lines.
        note: a sentence below the heading.
    """

    name: str
    lines: Sequence[Line]
    x_label: str
    percent: bool = False
    log_y: bool = False
    markers: bool = False
    scatter: bool = False
    stages: Stages = ()
    note: str = ""

    @property
    def heading(self) -> str:
        """The name, and the scale if it is not linear."""
        return self.name + (", log scale" if self.log_y else "")

    @property
    def svg(self) -> Markup:
        """The chart drawn as SVG."""
        return scatter(self.lines, name=self.name, x_label=self.x_label) if self.scatter else line_chart(self)


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A number for every row and column, both counted from 1.

    Attributes:
        heading: above it.
        name: the text alternative, and what the colours mean.
        matrix: [rows][columns], at least one number.
        axes: names of the horizontal and the vertical axis.
        top: the number that has the full colour.
        note: a sentence below the heading.
    """

    heading: str
    name: str
    matrix: Sequence[Sequence[float]]
    axes: tuple[str, str]
    top: float = 1.0
    note: str = ""

    @property
    def svg(self) -> Markup:
        """The map drawn as SVG."""
        return heat_map(self.matrix, name=self.name, top=self.top)


def colour(run: int) -> str:
    """The run's CSS class."""
    return f"c{run % COLOURS}"


def bar(run: int, value: float, low: float, high: float) -> Markup:
    """A share as a bar from 0 to 1, with its interval as a whisker."""
    said = f"{100 * value:.1f}%, 95% interval {100 * low:.1f} to {100 * high:.1f}"
    x = [f"{2 + 196 * share:.1f}" for share in (value, low, high)]
    return Markup(
        f'<svg class="{colour(run)}" viewBox="0 0 200 18" role="img" aria-label="{said}">'
        '<rect class="track" x="2" y="4" width="196" height="10" rx="2"/>'
        f'<rect class="fill" x="2" y="4" width="{196 * value:.1f}" height="10" rx="2"/>'
        f'<path class="error" d="M{x[1]} 9H{x[2]}M{x[1]} 5.5V12.5M{x[2]} 5.5V12.5"/></svg>'
    )


def line_chart(chart: Chart) -> Markup:
    """The chart of curves."""
    lines, percent, log_y, markers = chart.lines, chart.percent, chart.log_y, chart.markers
    xs = [p.x for line in lines for p in line.points]
    ys = [v for line in lines for p in line.points for v in (p.y, p.low, p.high) if v is not None]
    pad = 0.04 * (max(xs) - min(xs)) if markers else 0.0
    plot = _Plot(min(xs) - pad, max(xs) + pad, *_bounds(ys, percent, log_y), percent=percent, log_y=log_y)
    whole = markers and len(set(xs)) <= 12 and all(x == int(x) for x in xs)
    parts = [plot.frame(chart.x_label, sorted(set(xs)) if whole else None), _stages(plot, chart.stages)]
    ends = []
    for line in lines:
        places = [(plot.x(p.x), plot.y(p.y)) for p in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = ' stroke-dasharray="6 3"' if line.run >= COLOURS else ""
        shapes = [_whisker(plot, p) for p in line.points if markers] if markers else []
        shapes.append(f'<path class="curve" d="{path}"{dashes}/>')
        if markers or len(places) == 1:
            shapes.extend(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in places)
        parts.append(f'<g class="{colour(line.run)}">{"".join(shapes)}</g>')
        ends.append((line, *places[-1]))
    return _svg(chart.name, parts + _labels(ends))


def scatter(lines: Sequence[Line], *, name: str, x_label: str) -> Markup:
    """One labelled point per run, with its interval. The vertical axis is a share."""
    xs = [p.x for line in lines for p in line.points]
    ys = [v for line in lines for p in line.points for v in (p.y, p.low, p.high) if v is not None]
    plot = _Plot(0.0, max(xs) * 1.06 or 1.0, *_bounds(ys, True, False), percent=True)
    parts, ends = [plot.frame(x_label)], []
    for line in lines:
        point = line.points[0]
        x, y = plot.x(point.x), plot.y(point.y)
        dot = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.6"/>'
        parts.append(f'<g class="{colour(line.run)}">{_whisker(plot, point)}{dot}</g>')
        ends.append((line, x + 3, y))
    return _svg(name, parts + _labels(ends))


def heat_map(matrix: Sequence[Sequence[float]], *, name: str, small: bool = False, top: float = 1.0) -> Markup:
    """A map of numbers: `c0` for those above 0, `c1` for those below, the stronger the farther away, no colour at 0.

    Args:
        matrix: [rows][columns]; cosine similarities, latent against latent, or shares by layer and latent.
        name: the text alternative.
        small: without numbers, for pages with many maps.
        top: the number that has the full colour. Cosines (1) are written as they are, shares in per cent.
    """
    rows, columns = len(matrix), max(map(len, matrix), default=0)
    edge = 8.0 if small else min((_SIDE - _NUMBERS) / max(rows, columns, 1), _CELL)
    room = 0 if small else _NUMBERS
    width, height = room + edge * columns, room + edge * rows
    written = not small and max(rows, columns) <= _WRITTEN
    deep = LEGIBLE if written else 1.0
    levels: dict[tuple[str, int], list[str]] = {}
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if not math.isfinite(value) or not (level := _level(value, top)):
                continue
            cell = f"M{room + j * edge:.4g} {room + i * edge:.4g}h{edge:.4g}v{edge:.4g}h-{edge:.4g}z"
            levels.setdefault(("c0" if value > 0 else "c1", level), []).append(cell)
    parts = [
        f'<path class="{colour}" fill="currentColor" opacity="{deep * level / _LEVELS:.2g}" d="{"".join(cells)}"/>'
        for (colour, level), cells in sorted(levels.items())
    ]
    parts.append(f'<rect class="edge" x="{room}" y="{room}" width="{edge * columns:.4g}" height="{edge * rows:.4g}"/>')
    if not small:
        parts += _numbered(rows, columns, edge)
        parts += _numbers_in(matrix, edge, top) if written else []
    kind = "map small" if small else "map"
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:.4g} {height:.4g}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )


def _level(value: float, top: float) -> int:
    """How strong a cell's colour is."""
    return round(min(abs(value) / (top or 1.0), 1.0) * _LEVELS)


def _numbered(rows: int, columns: int, edge: float) -> list[str]:
    """The numbers of rows and columns, from 1, beside a map."""
    parts = []
    for k in range(0, columns, max(1, columns // 12)):
        x = _NUMBERS + (k + 0.5) * edge
        parts.append(f'<text x="{x:.1f}" y="{_NUMBERS - 6}" text-anchor="middle">{k + 1}</text>')
    for k in range(0, rows, max(1, rows // 12)):
        y = _NUMBERS + (k + 0.5) * edge + 4
        parts.append(f'<text x="{_NUMBERS - 6}" y="{y:.1f}" text-anchor="end">{k + 1}</text>')
    return parts


def _numbers_in(matrix: Sequence[Sequence[float]], edge: float, top: float) -> list[str]:
    """The numbers in the cells."""
    parts = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            place = f'x="{_NUMBERS + (j + 0.5) * edge:.1f}" y="{_NUMBERS + (i + 0.5) * edge + 4:.1f}"'
            text = f"{value:.2f}" if top == 1.0 else f"{100 * value:.1f}"
            parts.append(f'<text class="cell" {place} text-anchor="middle">{text}</text>')
    return parts


def sheet(name: str, charts: Sequence[Chart | HeatMap]) -> str:
    """Charts below each other as one SVG file.

    Args:
        name: what all of them show.
        charts: each stands under its heading.
    """
    parts, top = [], 0
    for chart in charts:
        parts.append(f'<text class="title" x="8" y="{top + 18}">{escape(chart.heading)}</text>')
        top += _TITLE
        inner = str(chart.svg).removeprefix("<svg ")
        parts.append(f'<svg y="{top}" width="{WIDTH}" height="{HEIGHT}" {inner}')
        top += HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img" '
        f'aria-label="{escape(name)}"><style>{chart_style()}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


class _Plot:
    """Scales from data to drawing, and the frame around them."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, *, percent: bool = False, log_y: bool = False) -> None:
        around = max(0.5, 1e-6 * abs(x0))  # large numbers swallow a half
        self.x0, self.x1 = (x0, x1) if x1 - x0 > 1e-9 * max(abs(x0), abs(x1)) else (x0 - around, x1 + around)
        self.y0, self.y1, self.percent, self.log_y = y0, y1, percent, log_y

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x0) / (self.x1 - self.x0)

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high, v = (math.log(n) if self.log_y else n for n in (self.y0, self.y1, value))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - low) / (high - low)

    def frame(self, x_label: str, x_ticks: Sequence[float] | None = None) -> str:
        """Grid, ticks and the name of the horizontal axis."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for tick in _log_ticks(self.y0, self.y1) if self.log_y else _ticks(self.y0, self.y1):
            y, text = self.y(tick), f"{100 * tick:g}%" if self.percent else _short(tick)
            parts.append(f'<line class="rule" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
        for tick in _ticks(self.x0, self.x1, 5) if x_ticks is None else x_ticks:
            x = self.x(tick)
            parts.append(f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_short(tick)}</text>')
        middle = (LEFT + right) / 2
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        return "".join(parts)


def _svg(name: str, parts: Iterable[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>')


def _whisker(plot: _Plot, point: Point) -> str:
    """A point's interval."""
    if point.low is None or point.high is None:
        return ""
    x, low, high = plot.x(point.x), plot.y(point.low), plot.y(point.high)
    return f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"/>'


def _stages(plot: _Plot, stages: Stages) -> str:
    """Stage boundaries, in a neutral colour if all runs agree, else in each run's colour; with names if there is room."""
    by_run: dict[int, list[tuple[float, str]]] = {}
    for run, x, name in stages:
        by_run.setdefault(run, []).append((x, name))
    shared = len({tuple(marks) for marks in by_run.values()}) == 1
    parts: list[str] = []
    for run, marks in by_run.items():
        last = -math.inf
        for value, name in marks:
            if not plot.x0 <= value <= plot.x1:
                continue
            x = plot.x(value)
            line = f'<line class="stage" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
            # The longest name that stays clear of the one before: "stage 2", then "3", or none.
            fits = (text for text in (name, name.removeprefix("stage ")) if x - 3.2 * len(text) > last + _CLEAR)
            text = next(fits, "")
            if not shared or x + 3.2 * len(text) > WIDTH - 6:
                text = ""
            if text:
                last = x + 3.2 * len(text)
                line += f'<text x="{x:.1f}" y="{TOP - 6}" text-anchor="middle">{escape(text)}</text>'
            parts.append(f'<g class="{"plain" if shared else colour(run)}">{line}</g>')
        if shared:
            break
    return "".join(parts)


def _labels(ends: Sequence[tuple[Line, float, float]]) -> list[str]:
    """Each line's name at its end, moved apart where they would overlap."""
    ordered = sorted(ends, key=lambda end: end[2])
    places: list[float] = []
    for _, _, y in ordered:
        places.append(max(y, places[-1] + GAP) if places else max(y, TOP))
    limit = float(HEIGHT - BOTTOM)
    for i in reversed(range(len(places))):  # what was pushed out at the bottom goes up again
        places[i] = min(places[i], limit)
        limit = places[i] - GAP
    parts = []
    for (line, x, y), place in zip(ordered, places, strict=True):
        name = line.label if len(line.label) <= LONGEST else line.label[: LONGEST - 1] + "…"
        leader = f'<line class="leader" x1="{x + 3:.1f}" y1="{y:.1f}" x2="{x + 8:.1f}" y2="{place:.1f}"/>'
        moved = abs(place - y) > 3
        parts.append(
            f'<g class="{colour(line.run)}">{leader if moved else ""}<text class="name" x="{x + (10 if moved else 6):.1f}" '
            f'y="{place + 4:.1f}"><title>{escape(line.label)}</title>{escape(name)}</text></g>'
        )
    return parts


def _bounds(ys: Sequence[float], percent: bool, log_y: bool) -> tuple[float, float]:
    """Ends of the vertical axis, on ticks where it is linear."""
    low, high = min(ys), max(ys)
    if log_y:
        return low / 1.15, high * 1.15
    low = 0.0 if percent or 0 <= low < 0.5 * high else low
    if high - low <= 1e-12 * max(abs(low), abs(high)) or high - low < 1e-100:  # as good as one value
        low, high = (0.0, 0.1) if percent or high == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = _step(low, high)
    top = math.ceil(high / step - 1e-9) * step
    return math.floor(low / step + 1e-9) * step, min(top, 1.0) if percent else top


def _step(low: float, high: float, most: int = 5) -> float:
    """A round distance between ticks: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from low to high."""
    step = _step(low, high, most)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; also 2 and 5 times them if there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    stride = max(1, (last - first) // 6)
    ticks = [m * 10.0**k for k in range(first, last + 1, stride) for m in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _short(value: float) -> str:
    """A number in a few characters: 12000 -> 12k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
