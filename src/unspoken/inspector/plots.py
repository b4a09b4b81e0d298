"""The inspector's charts as files, with matplotlib (the extra `plots`): for papers and slides. The page draws its own.

Training curves per loss term with stage boundaries, stability over training, similarity of the latents.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import write_file
from unspoken.core.text.markup import metric_rows, number, part, printable
from unspoken.errors import ConfigError, RunError
from unspoken.inspector.look import Inspection
from unspoken.inspector.stability import KINDS


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
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    folder = Path(folder)
    files = []
    train = metric_rows(seen.metrics, "train")
    terms = list(dict.fromkeys(term for row in train if isinstance(row.get("terms"), dict) for term in row["terms"]))
    if train and terms:
        figure = Figure(figsize=(6.4, 2.6 * len(terms)), layout="constrained")
        for axes, term in zip(figure.subplots(len(terms), squeeze=False)[:, 0], terms, strict=True):
            points = [(row["step"], v) for row in train if (v := number(part(row, "terms", term))) is not None]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), linewidth=1.2)
            if all(value > 0 for _, value in points):
                axes.set_yscale("log")
            axes.set(ylabel=_plain(f"loss: {term}"), xlabel="optimizer step")
            _stages(axes, train)
        files.append(_save(figure, folder / f"training{suffix}"))
    history = metric_rows(seen.history, "stability")
    if len(history) > 1:
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for name, label in (("within", "latents of one question"), ("across", "across questions")):
            _line(above, history, label, lambda row, n=name: row.get(n))
        above.set(ylabel="distance / length", ylim=(0, None))
        for source, style in (("words", "-"), ("steps", "--")):
            for kind in KINDS:
                said = kind if source == "words" else f"{kind}, decoded"
                _line(below, history, said, lambda row, s=source, k=kind: part(row, "recovery", s, k), style)
        below.set(ylabel="recovered", xlabel="optimizer step", ylim=(0, 1.02))
        for axes in (above, below):
            axes.legend(fontsize=8)
        if first := next((row["step"] for row in history if row.get("collapse")), None):
            above.axvline(first, color="tab:red", linewidth=0.9)
            above.annotate("collapse", (first, 0.02), color="tab:red", fontsize=8)
        files.append(_save(figure, folder / f"stability{suffix}"))
    if similar := seen.figures["similarity"]:
        figure = Figure(figsize=(4.6, 3.8), layout="constrained")
        axes = figure.subplots()
        edge = len(similar) + 0.5
        image = axes.imshow(similar, vmin=-1, vmax=1, cmap="RdBu", extent=(0.5, edge, edge, 0.5))
        figure.colorbar(image, label="mean cosine similarity")
        axes.set(xlabel="latent", ylabel="latent")
        files.append(_save(figure, folder / f"similarity{suffix}"))
    return files


def _line(axes: Any, rows: Sequence[Mapping[str, Any]], label: str, read: Any, style: str = "-") -> None:
    points = [(row["step"], value) for row in rows if (value := number(read(row))) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), style, marker=".", linewidth=1.2, label=label)


def _stages(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A thin line where a stage begins."""
    before = None
    for row in rows:
        if before is not None and row.get("stage") != before:
            axes.axvline(row["step"], color="0.6", linewidth=0.7, linestyle=":")
            axes.annotate(_plain(row.get("stage")), (row["step"], 1.01), xycoords=("data", "axes fraction"), fontsize=7)
        before = row.get("stage")


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
