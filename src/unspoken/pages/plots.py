"""Charts of the inspector's page as files, with matplotlib (the extra `plots`): for papers and slides.

What they show is the page's: training curves with stage boundaries, stability over training, similarity of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unspoken.errors import ConfigError
from unspoken.inspector.look import Inspection
from unspoken.pages.drawing import check_matplotlib, panels, save
from unspoken.pages.inspection import attention_chart, by_count, file_part, stability
from unspoken.pages.runs import PageRun, training

FORMATS = ("svg", "pdf", "png")
"""What figures are saved as."""


def draw(seen: Inspection, folder: str | Path, formats: Sequence[str] = ("png",), label: str = "") -> list[Path]:
    """Draw the page's figures, each in every format; returns the files.

    Args:
        seen: what was seen.
        folder: where the files go.
        formats: of `FORMATS`.
        label: a part of the files' names, where there are those of several runs.

    Raises:
        ConfigError: matplotlib is not there, or an unknown format.
        RunError: a file cannot be written.
    """
    check_matplotlib()
    if odd := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"unknown format {odd[0]!r} of figures; known: {', '.join(FORMATS)}")
    end = f"-{file_part(label)}" if label else ""
    files = []
    for suffix in formats:
        for name, figure in _figures(seen):
            files.append(save(figure, Path(folder) / f"{name}{end}.{suffix}"))
    return files


def _figures(seen: Inspection) -> Iterator[tuple[str, Any]]:
    """Each figure with its name, drawn anew: one can be saved once."""
    attention, shares = seen.figures.get("attention"), attention_chart(seen)
    parts = (
        ("training", training([PageRun(label="", metrics=seen.metrics)])),
        ("stability", stability(seen)),
        ("by-number-of-latents", by_count(seen)),
        ("attention", [] if shares is None else [shares]),
    )
    for name, charts in parts:
        if charts:
            yield name, panels(charts)
    if similar := seen.figures["similarity"]:
        yield "similarity", _map(similar, "mean cosine similarity", ("latent", "latent"), -1.0, 1.0)
    if attention and attention.get("by_layer"):
        most = max(map(max, attention["by_layer"]))
        yield "attention-by-layer", _map(attention["by_layer"], "share of the attention", ("latent", "layer"), 0.0, most)


def _map(matrix: Sequence[Sequence[float]], what: str, axes_names: tuple[str, str], low: float, high: float) -> Any:
    """A figure with a number for every row and column, both counted from 1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    extent = (0.5, len(matrix[0]) + 0.5, len(matrix) + 0.5, 0.5)
    image = axes.imshow(matrix, vmin=low, vmax=high, cmap="RdBu" if low < 0 else "Blues", extent=extent, aspect="auto")
    figure.colorbar(image, label=what)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure
