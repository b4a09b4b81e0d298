"""Figures of the inspector's page as files, for papers and slides.

What they show is the page's: training curves with stage boundaries, stability over training, similarity of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unspoken.errors import ConfigError
from unspoken.inspector.look import Inspection
from unspoken.pages.drawing import check_formats, save_charts
from unspoken.pages.inspection import attention_by_layer, attention_chart, by_count, file_part, similarity, stability
from unspoken.pages.runs import PageRun, training
from unspoken.pages.svg import Chart, HeatMap

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
        ConfigError: an unknown format, or matplotlib is needed (all but svg) and not there.
        RunError: a file cannot be written.
    """
    if odd := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"unknown format {odd[0]!r} of figures; known: {', '.join(FORMATS)}")
    check_formats(formats)
    end = f"-{file_part(label)}" if label else ""
    return [
        save_charts(charts, Path(folder) / f"{name}{end}.{suffix}", name)
        for suffix in formats
        for name, charts in _figures(seen).items()
    ]


def _figures(seen: Inspection) -> dict[str, list[Chart | HeatMap]]:
    """What each file shows; nothing of what the inspection has no figures for."""
    parts = {
        "training": training([PageRun(label="", metrics=seen.metrics)]),
        "stability": stability(seen),
        "by-number-of-latents": by_count(seen),
        "attention": [attention_chart(seen)],
        "similarity": [similarity(seen)],
        "attention-by-layer": [attention_by_layer(seen)],
    }
    found = {name: [chart for chart in charts if chart is not None] for name, charts in parts.items()}
    return {name: charts for name, charts in found.items() if charts}
