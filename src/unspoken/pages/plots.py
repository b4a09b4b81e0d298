"""Charts of the inspector's page as files, with matplotlib (the extra `plots`): for papers and slides.

What they show is the page's: training curves with stage boundaries, stability over training, similarity of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unspoken.inspector.look import Inspection
from unspoken.pages.drawing import check_matplotlib, panels, save
from unspoken.pages.inspection import stability
from unspoken.pages.runs import PageRun, training


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
            files.append(save(panels(charts), folder / f"{name}{suffix}"))
    if similar := seen.figures["similarity"]:
        files.append(save(_map(similar), folder / f"similarity{suffix}"))
    return files


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
