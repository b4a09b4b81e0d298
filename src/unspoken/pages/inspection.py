"""The inspector's page: one HTML file, no script, nothing remote. Its HTML is templates/inspection.html.

Everything on it stands in inspect.json too, with more words per latent. Problems are the first of the split, not the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import write_text
from unspoken.core.text.markup import metric_rows, number, part
from unspoken.inspector.look import Inspection, Latent, Problem
from unspoken.inspector.stability import FLOOR, KINDS, SHRUNK, collapse
from unspoken.pages.runs import POINTS, PageRun, training, versions
from unspoken.pages.svg import Chart, Drawing, Line, Point, Stages, heat_map
from unspoken.pages.templating import render

WORDS = 5
"""Nearest words shown per latent; inspect.json has more."""

_MAPS = 16
"""Up to so many latents a problem has a heat map of its own."""


def write_inspection(seen: Inspection, folder: str | Path) -> tuple[Path, Path]:
    """Write inspect.json and index.html, each all or nothing; returns their paths.

    Raises:
        RunError: a file cannot be written.
    """
    data, shown = Path(folder) / "inspect.json", Path(folder) / "index.html"
    write_text(data, seen.to_json())
    write_text(shown, page(seen))
    return data, shown


def page(seen: Inspection) -> str:
    """The page as text."""
    label = Path(str(seen.head["run"])).name if seen.head.get("run") else "the model"
    return render(
        "inspection.html",
        title=f"The latents of {label}",
        lead=summary(seen),
        seen=seen,
        collapsed=verdict(seen),
        warning=next((row for row in metric_rows(seen.history, "stability") if row.get("collapse")), None),
        tables=_tables(seen),
        drawn=_charts(seen),
        curves=training([PageRun(label=label, metrics=seen.metrics)]),
        POINTS=POINTS,
        WORDS=WORDS,
        visible=visible,
        view_of=_view,
        facts_of=_facts,
        facts=_sources(seen),
    )


def summary(seen: Inspection) -> str:
    """The page in a few sentences."""
    f, head = seen.figures, seen.head
    n = head["n"]
    said = f"{percent(f['accuracy'])} of {n} {head['split']} problems of {head['task']['name']} answered correctly, "
    said += f"with {head['latents']} latent{'' if head['latents'] == 1 else 's'} each."
    if head["chains"] > 1:
        said += f" Of the {head['chains']} sets of thoughts per question this page shows the first."
    if steps := f["recovery"]["steps"]:
        said += f" The decoded steps are the true ones in {percent(steps['equal'])} of {steps['equal']['n']} cases."
    if (chaining := f.get("chaining")) and chaining["is_the_true_answer"]["n"]:
        said += (
            f" Carried out one after the other they give the true answer in {percent(chaining['is_the_true_answer'])} of "
            f"the problems, the model's own answer in {percent(chaining['is_the_said_answer'])}."
        )
    if attention := f.get("attention"):
        said += f" The latents get {100 * attention['latents']:.1f}% of the answer's attention."
    return said


def percent(rate: Mapping[str, float | None]) -> str:
    """A rate in per cent, or a dash."""
    return "–" if rate["value"] is None else f"{100 * rate['value']:.1f}%"


def verdict(seen: Inspection) -> str | None:
    """What has collapsed in the model that is looked at, in words."""
    geometry = seen.figures["geometry"]
    return None if geometry is None or seen.head.get("learned_tokens") else collapse(geometry, seen.history)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _tables(seen: Inspection) -> list[dict[str, Any]]:
    """Geometry, recovery, chaining."""
    f = seen.figures
    tables = []
    if (g := f["geometry"]) is not None:
        lines = (
            ("length of a latent", _number(g["norm"])),
            ("distance between two latents of a problem (Dist)", _number(g["distance"])),
            ("… divided by the length", _number(g["within"])),
            ("distance to the vocabulary's centre (DistVC)", _number(g["centre"])),
            ("distance between problems, latent by latent, divided by the length", _number(g["across"])),
        )
        tables.append({"heading": "Where they lie", "columns": ("mean",), "rows": lines, "note": ""})
    r = f["recovery"]
    sources: list[tuple[str, Mapping[str, Any] | None]] = [
        ("nearest words of any latent", r["words"]["anywhere"]),
        ("… of the latents of that step", r["words"]["in_place"]),
        ("… of another problem: chance", r["words"]["chance"]),
    ]
    if r["steps"]:
        sources += [
            ("decoded steps", r["steps"]["anywhere"]),
            ("… of the thought of that step", r["steps"]["in_place"]),
            ("… of another problem: chance", r["steps"]["chance"]),
        ]
    lines = tuple((name, *(percent(told[kind]) if told else "–" for kind in KINDS)) for name, told in sources)
    note = "Of what the true steps say, the share that is found there. The rules: docs/guides/inspector.md."
    tables.append({"heading": "What can be read from them", "columns": KINDS, "rows": lines, "note": note})
    if chaining := f.get("chaining"):
        lines = (
            ("equations that hold", percent(chaining["holds"])),
            ("… that use an earlier result", percent(chaining["linked"])),
            ("the chain gives what the true steps give", percent(chaining["is_the_steps"])),
            ("the chain gives the true answer", percent(chaining["is_the_true_answer"])),
            ("the chain gives the model's answer", percent(chaining["is_the_said_answer"])),
        )
        note = "" if chaining["is_the_true_answer"]["n"] else "The latents do not stand for the last step, so no chain ends."
        tables.append({"heading": "Decoded steps carried out", "columns": ("share",), "rows": lines, "note": note})
    return tables


def _charts(seen: Inspection) -> list[Chart | Drawing]:
    """Similarity, attention, and the figures over training and over the number of latents."""
    f = seen.figures
    charts: list[Chart | Drawing] = []
    if f["similarity"]:
        drawn = heat_map(f["similarity"], name="Mean cosine similarity of the latents of a problem")
        note = "Mean cosine over problems; blue alike, orange opposed."
        charts.append(Drawing(heading="Similarity of the latents", svg=drawn, note=note))
    if attention := f.get("attention"):
        latents = Line(0, "a latent", tuple(Point(k + 1, share) for k, share in enumerate(attention["by_latent"])))
        even = attention["a_question_position"]
        flat = Line(7, "before them", (Point(1, even), Point(max(len(attention["by_latent"]), 2), even)))
        note = "Share of the answer's attention, mean over layers and heads. The level line: a position before the latents."
        name = "Attention that the answer pays"
        charts.append(Chart(name=name, lines=[latents, flat], x_label="latent", percent=True, markers=True, note=note))
    charts += _over(seen.counts, "latents", "number of latents", "by number of latents")
    return charts + stability(seen)


def stability(seen: Inspection) -> list[Chart]:
    """Distances and recovery over training, as the monitor logged them, and where it first saw a collapse."""
    rows = metric_rows(seen.history, "stability")
    first = next((row["step"] for row in rows if row.get("collapse")), None)
    marks = [] if first is None else [(0, first, "collapse")]
    return _over(rows, "step", "optimizer step", "over training", marks)


def _curve(colour: int, label: str, rows: Sequence[Mapping[str, object]], x: str, path: Sequence[str]) -> list[Line]:
    points = []
    for row in rows:
        if (at := number(row.get(x))) is not None and (value := number(part(row, *path))) is not None:
            points.append(Point(float(at), float(value)))
    return [Line(colour, label, tuple(points))] if points else []


def _over(rows: Sequence[Mapping[str, object]], x: str, x_label: str, heading: str, stages: Stages = ()) -> list[Chart]:
    """Distances and recovery over something."""
    if len(rows) < 2:
        return []
    # Rows of the monitor have the figures of geometry and recovery at hand, those of a count have more of them.
    flat = "geometry" not in rows[0]
    lies = [] if flat else ["geometry"]
    charts = []
    lines = _curve(0, "one question", rows, x, [*lies, "within"]) + _curve(1, "across", rows, x, [*lies, "across"])
    few = len(rows) <= 40
    if lines:
        note = "Distance divided by length: between the latents of one question, and across questions."
        name = f"Distances {heading}"
        charts.append(Chart(name=name, lines=lines, x_label=x_label, markers=few, stages=stages, note=note))
    lines = []
    for place, (kind, source) in enumerate((kind, source) for source in ("words", "steps") for kind in KINDS):
        path = ["recovery", source, kind] if flat else ["recovery", source, "anywhere", kind, "value"]
        label = kind if source == "words" else f"{kind}, decoded"
        lines += _curve(place, label, rows, x, path)
    if not flat:
        lines += _curve(7, "accuracy", rows, x, ["accuracy", "value"])
    if lines:
        note = "Of what the true steps say, the share that stands among nearest words or in decoded steps."
        name = f"Recovery {heading}"
        charts.append(Chart(name=name, lines=lines, x_label=x_label, percent=True, markers=few, stages=stages, note=note))
    return charts


def _view(problem: Problem) -> dict[str, Any]:
    """What a problem's card says beside what the problem holds."""
    latents = [latent for thought in problem.thoughts for latent in thought.latents]
    chart = ""
    if 1 < len(latents) <= _MAPS:
        chart = heat_map([latent.similarity for latent in latents], name="Similarity of the latents", small=True)
    attention = ""
    if problem.before is not None and problem.rest is not None:
        on = sum(latent.attention or 0.0 for latent in latents)
        attention = f"Attention: {100 * problem.before:.0f}% before the latents, {100 * on:.1f}% on them."
    told = sum(len((thought.expected or "").splitlines()) for thought in problem.thoughts)
    return {
        "said": problem.said if problem.extracted is None else problem.extracted,
        "many": len(latents) > _MAPS,
        "map": chart,
        "chained": None if problem.chain is None else problem.chain["value"],
        "attention": attention,
        "beyond": problem.steps[told:],
    }


def _facts(latent: Latent) -> list[str]:
    """What stands below a latent's words."""
    facts = [f"length {latent.norm:.3g}"]
    others = [(value, k + 1) for k, value in enumerate(latent.similarity) if k + 1 != latent.number]
    if others:
        value, which = max(others)
        facts.append(f"like {which}: {value:.2f}")
    if latent.attention is not None:
        facts.append(f"attention {100 * latent.attention:.1f}%")
    return facts if latent.fed else [*facts, "not fed"]


def visible(text: str) -> str:
    """Text with its spaces at the ends, line breaks and control characters made visible."""
    text = "".join(c if c.isprintable() else "⏎" if c == "\n" else f"\\x{ord(c):02x}" for c in text)
    inner = text.strip(" ")
    lead, tail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return "␣" * lead + inner + "␣" * (tail if inner else 0)


def _sources(seen: Inspection) -> list[tuple[str, list[str]]]:
    """Where the numbers come from, and the rule of the alarm."""
    head = seen.head
    where = head["environment"]
    facts = [
        f"{head['task']['name']} / {head['split']}, fingerprint {head['fingerprint']}, the first {head['n']}",
        f"run {head['run'] or 'in memory'}",
        f"method {head['method']['name']}",
        *versions(where),
        str(where.get("time") or ""),
    ]
    rule = (
        f"Collapse: a distance divided by length below {SHRUNK:g} of its highest value in training, or below {FLOOR:g}; "
        "within a question or across questions."
    )
    return [("Data and model", facts), ("Rule", [rule])]
