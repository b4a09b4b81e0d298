"""Charts of the inspector's page as files, with matplotlib (the extra `plots`): for papers and slides.

What they show is the page's: training curves with stage boundaries, stability over training, similarity of the latents.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import write_file
from unspoken.core.text.markup import printable
from unspoken.errors import ConfigError, RunError
from unspoken.inspector.look import Inspection
from unspoken.pages.inspection import stability
from unspoken.pages.runs import PageRun, training
from unspoken.pages.svg import Chart


def check_matplotlib() -> None:
    """Say what to install, before anything else is done.

    Raises:
        ConfigError: matplotlib is not there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("charts as files need matplotlib, which is not installed; pip install 'unspoken[plots]'")


def draw(seen: Inspection, folder: str | Path, suffix: str = ".png") -> list[Path]:
    """Draw what there is to draw; returns the files.

    Args:
        seen: what was seen.
        folder: where the files go.
        suffix: a format that matplotlib writes: ".png", ".svg", ".pdf".

    Raises:
        ConfigError: matplotlib is not there.
        RunError: a file cannot be written.
    """
    check_matplotlib()
    folder, files = Path(folder), []
    curves = training([PageRun(label="", metrics=seen.metrics)])
    for name, charts in (("training", curves), ("stability", stability(seen))):
        if charts:
            files.append(_save(_panels(charts), folder / f"{name}{suffix}"))
    if similar := seen.figures["similarity"]:
        files.append(_save(_map(similar), folder / f"similarity{suffix}"))
    return files


def save_charts(charts: Sequence[Chart], path: str | Path) -> Path:
    """Draw charts one below the other into a file; its suffix says the format (.pdf, .png, .svg).

    Raises:
        ConfigError: matplotlib is not there.
        RunError: the file cannot be written, or matplotlib has no such format.
    """
    check_matplotlib()
    return _save(_panels(charts), Path(path))


def _panels(charts: Sequence[Chart]) -> Any:
    """A figure with the charts one below the other."""
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


def _map(similar: Sequence[Sequence[float]]) -> Any:
    """A figure with the cosine of every latent with every other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    edge = len(similar) + 0.5
    image = axes.imshow(similar, vmin=-1, vmax=1, cmap="RdBu", extent=(0.5, edge, edge, 0.5))
    figure.colorbar(image, label="mean cosine similarity")
    axes.set(xlabel="latent", ylabel="latent")
    return figure


def _plain(text: Any) -> str:
    """Text that matplotlib does not take for a formula."""
    return printable(text).replace("$", r"\$")


def _save(figure: Any, path: Path) -> Path:
    """Write a figure, all or nothing.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_file(path, lambda new: figure.savefig(new, dpi=150))
    except ValueError as error:  # matplotlib knows no such format
        raise RunError(f"cannot write {path}: {error}; choose another format, then run again") from error
    return path
