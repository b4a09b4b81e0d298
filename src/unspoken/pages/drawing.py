"""Charts as files for papers and slides: SVG as pages show them, PDF and PNG by matplotlib (the extra `plots`). No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unspoken.core.files import write_file, write_text
from unspoken.core.text.markup import printable
from unspoken.errors import ConfigError, RunError
from unspoken.pages.svg import Chart, HeatMap, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def has_matplotlib() -> bool:
    """Whether PDF and PNG can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def check_matplotlib() -> None:
    """Check for matplotlib before anything else, and say what to install.

    Raises:
        ConfigError: matplotlib is not there.
    """
    if not has_matplotlib():
        raise ConfigError("charts as files need matplotlib, which is not installed; pip install 'unspoken[plots]'")


def check_formats(formats: Iterable[str]) -> None:
    """Check that charts can be written in some formats or suffixes: all but svg need matplotlib.

    Raises:
        ConfigError: it is not there.
    """
    if any(one.lower().removeprefix(".") != "svg" for one in formats):
        check_matplotlib()


def save_charts(charts: Sequence[Chart | HeatMap], path: Path, title: str) -> Path:
    """Draw charts below each other into a file, in the format of its suffix (.svg, .pdf, .png).

    Args:
        charts: at least one.
        path: the file, written atomically.
        title: what all of them show; the text alternative of an SVG.

    Raises:
        ConfigError: matplotlib is needed and not there.
        RunError: the file cannot be written, or matplotlib has no such format.
    """
    if path.suffix.lower() == ".svg":
        write_text(path, sheet(title, charts))
        return path
    check_formats([path.suffix])
    figure = _panels(charts)
    # The same figures are the same file: no date in it. PNG has none, and no such entry.
    metadata = {"CreationDate": None} if path.suffix.lower() == ".pdf" else None
    try:
        write_file(path, lambda new: figure.savefig(new, dpi=150, metadata=metadata))
    except ValueError as error:  # matplotlib knows no such format
        raise RunError(f"cannot write {path}: {error}; choose another format, then run again") from error
    return path


def _panels(charts: Sequence[Chart | HeatMap]) -> Figure:
    """A figure with the charts below each other."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    heights = [3.8 if isinstance(chart, HeatMap) else max(2.6, 0.17 * len(chart.lines) + 0.7) for chart in charts]
    beside = any(_legend_is_beside(chart) for chart in charts)
    figure = Figure(figsize=(9.0 if beside else 6.4, sum(heights)), layout="constrained")
    for axes, chart in zip(figure.subplots(len(charts), squeeze=False, height_ratios=heights)[:, 0], charts, strict=True):
        if isinstance(chart, HeatMap):
            _map(axes, chart)
        else:
            _curves(axes, chart)
        axes.set_title(_plain(chart.heading), loc="left", fontsize=9, pad=14)
    return figure


def _legend_is_beside(chart: Chart | HeatMap) -> bool:
    """Whether so many names would cover the lines that they name."""
    return not isinstance(chart, HeatMap) and len(chart.lines) > 8


def _curves(axes: Axes, chart: Chart) -> None:
    """Lines or points with their intervals, and the stages."""
    for i, line in enumerate(chart.lines):
        x, y = [point.x for point in line.points], [point.y for point in line.points]
        marker = ".^sv"[i // 10 % 4] if chart.markers else None  # there are ten colours
        axes.plot(x, y, marker=marker, linewidth=1.2, label=_plain(line.label))
        for p in line.points if chart.markers else ():
            if p.low is not None and p.high is not None:
                axes.vlines(p.x, p.low, p.high, color=axes.lines[-1].get_color(), linewidth=0.8, alpha=0.6)
    if chart.log_y:
        axes.set_yscale("log")
    elif chart.percent:
        axes.set_ylim(0, None)
    if _legend_is_beside(chart):
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    elif len(chart.lines) > 1:
        axes.legend(fontsize=8)
    axes.set_xlabel(chart.x_label)
    for _, where, name in chart.stages:
        axes.axvline(where, color="0.6", linewidth=0.7, linestyle=":")
        axes.annotate(_plain(name), (where, 1.01), xycoords=("data", "axes fraction"), fontsize=7)


def _map(axes: Axes, chart: HeatMap) -> None:
    """A coloured cell for each number; red to blue where there are some below 0."""
    from matplotlib.ticker import MaxNLocator

    matrix = chart.matrix
    below = min(map(min, matrix)) < 0
    extent = (0.5, len(matrix[0]) + 0.5, len(matrix) + 0.5, 0.5)
    image = axes.imshow(
        matrix, vmin=-chart.top if below else 0.0, vmax=chart.top, cmap="RdBu" if below else "Blues",
        extent=extent, aspect="auto",
    )  # fmt: skip
    axes.figure.colorbar(image, ax=axes)
    axes.set(xlabel=chart.axes[0], ylabel=chart.axes[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def _plain(text: object) -> str:
    """Escape text that matplotlib would take for a formula."""
    return printable(text).replace("$", r"\$")
