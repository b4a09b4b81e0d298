"""Charts drawn by matplotlib (the extra `plots`), as files for papers and slides. Loads no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unspoken.core.files import write_file
from unspoken.core.text.markup import printable
from unspoken.errors import ConfigError, RunError
from unspoken.pages.svg import Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_matplotlib() -> None:
    """Check for matplotlib before anything else, and say what to install.

    Raises:
        ConfigError: matplotlib is not there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("charts as files need matplotlib, which is not installed; pip install 'unspoken[plots]'")


def save_charts(charts: Sequence[Chart], path: str | Path) -> Path:
    """Draw charts below each other into a file, in the format of its suffix (.pdf, .png, .svg).

    Raises:
        ConfigError: matplotlib is not there.
        RunError: the file cannot be written, or matplotlib has no such format.
    """
    check_matplotlib()
    return save(panels(charts), Path(path))


def panels(charts: Sequence[Chart]) -> Figure:
    """A figure with the charts below each other."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(6.4, 2.6 * len(charts)), layout="constrained")
    for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        for line in chart.lines:
            x, y = [point.x for point in line.points], [point.y for point in line.points]
            axes.plot(x, y, marker="." if chart.markers else None, linewidth=1.2, label=_plain(line.label))
            for p in line.points if chart.markers else ():
                if p.low is not None and p.high is not None:
                    axes.vlines(p.x, p.low, p.high, color=axes.lines[-1].get_color(), linewidth=0.8, alpha=0.6)
        if chart.log_y:
            axes.set_yscale("log")
        elif chart.percent:
            axes.set_ylim(0, None)
        if len(chart.lines) > 1:
            axes.legend(fontsize=8)
        axes.set_xlabel(chart.x_label)
        axes.set_title(_plain(chart.name), loc="left", fontsize=9, pad=14)
        for _, where, name in chart.stages:
            axes.axvline(where, color="0.6", linewidth=0.7, linestyle=":")
            axes.annotate(_plain(name), (where, 1.01), xycoords=("data", "axes fraction"), fontsize=7)
    return figure


def _plain(text: object) -> str:
    """Escape text that matplotlib would take for a formula."""
    return printable(text).replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure atomically.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_file(path, lambda new: figure.savefig(new, dpi=150))
    except ValueError as error:  # matplotlib knows no such format
        raise RunError(f"cannot write {path}: {error}; choose another format, then run again") from error
    return path
