"""The inspector's page: one HTML file with one script, nothing remote. Its HTML is templates/inspection.html.

Thoughts come first, each problem with its number; averages and curves stand behind. What is on the page stands in
inspect.json too, with more words per latent, and the vectors in latents.npz. Problems are the first of the split, not the
best. Two runs that answered the same problems can stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from unspoken.core.files import write_file, write_text
from unspoken.core.text.markup import metric_rows, number, part
from unspoken.errors import ConfigError
from unspoken.inspector.look import Inspection, Latent, Problem
from unspoken.inspector.stability import FLOOR, KINDS, SHRUNK, collapse
from unspoken.pages.runs import POINTS, PageRun, training, versions
from unspoken.pages.svg import Chart, HeatMap, Line, Point, Stages, heat_map
from unspoken.pages.templating import chart_style, render, script

WORDS = 5
"""Nearest words shown per latent; inspect.json has more."""

_MAPS = 16
"""Up to so many latents a problem has heat maps of its own."""


def write_inspection(seen: Inspection, folder: str | Path, beside: Inspection | None = None) -> list[Path]:
    """Write the page (index.html), and of each run its data (inspect.json) and its vectors (latents.npz); returns the files.

    With two runs, the names of the data files have the runs' names in them.

    Args:
        seen: what was seen of a run.
        folder: where the files go.
        beside: what was seen of another run on the same problems, to stand beside it.

    Raises:
        ConfigError: the two are about different problems.
        RunError: a file cannot be written.
    """
    runs, files = [seen] if beside is None else [seen, beside], []
    shown = page(seen, beside)
    for one, label in zip(runs, labels(runs), strict=True):
        name = "" if beside is None else f"-{file_part(label)}"
        data = Path(folder) / f"inspect{name}.json"
        write_text(data, one.to_json())
        files.append(data)
        if one.vectors:
            vectors = Path(folder) / f"latents{name}.npz"
            write_file(vectors, lambda new, one=one: _save_vectors(new, one))
            files.append(vectors)
    write_text(Path(folder) / "index.html", shown)
    return [*files, Path(folder) / "index.html"]


def _save_vectors(path: Path, seen: Inspection) -> None:
    """`latents` [problems, K, D], 0 where a problem has fewer than K; `counts`, `ids`, `correct` [problems]."""
    counts = [len(vectors_KD) for vectors_KD in seen.vectors]
    latents = np.zeros((len(counts), max(counts), seen.vectors[0].shape[1]), dtype=np.float32)
    for row, vectors_KD in zip(latents, seen.vectors, strict=True):
        row[: len(vectors_KD)] = vectors_KD
    ids, correct = [problem.id for problem in seen.problems], [problem.correct for problem in seen.problems]
    with open(path, "wb") as file:  # numpy would add a suffix to a name
        np.savez_compressed(file, latents=latents, counts=np.array(counts), ids=np.array(ids), correct=np.array(correct))


def labels(runs: Sequence[Inspection]) -> list[str]:
    """A name for each run: its folder's; numbered where two would be the same."""
    names = [Path(str(one.head["run"])).name if one.head.get("run") else "the model" for one in runs]
    return [f"{name}-{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def file_part(label: str) -> str:
    """A label as part of a file's name on every system."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "-", label)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the page shows of one run as a whole."""

    label: str
    seen: Inspection
    lead: str
    collapsed: str | None
    warning: Mapping[str, Any] | None
    tables: list[dict[str, Any]]
    drawn: list[Chart | HeatMap]


def page(seen: Inspection, beside: Inspection | None = None) -> str:
    """The page as text (see `write_inspection`).

    Raises:
        ConfigError: the two runs are about different problems.
    """
    both = [seen] if beside is None else [seen, beside]
    named = list(zip(labels(both), both, strict=True))
    problems = _problems(both)
    code, code_hash = script("inspection.js")
    return render(
        "inspection.html",
        title=f"The latents of {' and '.join(label for label, _ in named)}",
        lead=summary(seen) if beside is None else _compared(named, problems),
        runs=[_run(label, one) for label, one in named],
        problems=problems,
        kinds=_kinds(problems, len(both)),
        curves=training([PageRun(label=label, metrics=one.metrics) for label, one in named]),
        POINTS=POINTS,
        WORDS=WORDS,
        visible=visible,
        percents=lambda share: f"{100 * share:.0f}" if share >= 0.01 else "<1",
        view_of=_view,
        facts_of=_facts,
        facts=[fact for label, one in named for fact in _sources(one, label if beside is not None else "Data and model")]
        + [("Rule", [_RULE])],
        chart_style=chart_style(),
        script=code,
        script_hash=code_hash,
    )


def _run(label: str, seen: Inspection) -> _Run:
    warning = next((row for row in metric_rows(seen.history, "stability") if row.get("collapse")), None)
    return _Run(
        label=label, seen=seen, lead=summary(seen), collapsed=verdict(seen), warning=warning, tables=_tables(seen),
        drawn=_charts(seen),
    )  # fmt: skip


class _SideBySide(TypedDict):
    """A problem, what each run made of it, and which filters it passes."""

    question: str
    sides: tuple[Problem, ...]
    kinds: list[str]


def _problems(runs: Sequence[Inspection]) -> list[_SideBySide]:
    """Each problem with what each run made of it, and which filters it passes.

    Raises:
        ConfigError: the runs are about different problems.
    """
    questions = [[problem.question for problem in one.problems] for one in runs]
    if any(other != questions[0] for other in questions[1:]):
        raise ConfigError("two runs stand side by side on the same problems; give the same task, split and number for both")
    rows: list[_SideBySide] = []
    for sides in zip(*(one.problems for one in runs), strict=True):
        right = {side.correct for side in sides}
        kinds = ["yes" if right == {True} else "no", *(["differ"] if len(right) > 1 else [])]
        rows.append({"question": sides[0].question, "sides": sides, "kinds": kinds})
    return rows


def _kinds(problems: Sequence[_SideBySide], runs: int) -> list[tuple[str, str, int]]:
    """The filters: kind, name, and how many problems pass."""
    names = {"all": "all", "yes": "right", "no": "wrong", **({"differ": "differ"} if runs > 1 else {})}
    return [(k, name, sum(k == "all" or k in one["kinds"] for one in problems)) for k, name in names.items()]


def _compared(named: Sequence[tuple[str, Inspection]], problems: Sequence[_SideBySide]) -> str:
    """Two runs in a few sentences."""
    (a, first), (b, second) = named
    head = first.head
    pairs = [[side.correct for side in one["sides"]] for one in problems]
    right, other = percent(first.figures["accuracy"]), percent(second.figures["accuracy"])
    return (
        f"Of {head['n']} {head['split']} problems of {head['task']['name']}, {a} answers {right} correctly, {b} {other}. "
        f"{a} alone is right on {pairs.count([True, False])}, {b} alone on {pairs.count([False, True])}."
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


def _charts(seen: Inspection) -> list[Chart | HeatMap]:
    """Similarity, attention, and the figures over training and over the number of latents."""
    found = (similarity(seen), attention_chart(seen), attention_by_layer(seen))
    return [chart for chart in found if chart is not None] + by_count(seen) + stability(seen)


def similarity(seen: Inspection) -> HeatMap | None:
    """The similarity of the latents, latent against latent; None where there are none."""
    if not (matrix := seen.figures["similarity"]):
        return None
    name = "Mean cosine similarity of the latents of a problem"
    note = "Mean cosine over problems; blue alike, orange opposed."
    return HeatMap(heading="Similarity of the latents", name=name, matrix=matrix, axes=("latent", "latent"), note=note)


def attention_by_layer(seen: Inspection) -> HeatMap | None:
    """The attention that each latent gets in each layer; None where nobody knows."""
    if not (layers := (seen.figures.get("attention") or {}).get("by_layer")):
        return None
    most = max(map(max, layers))
    note = f"Rows: layers, the first on top. Columns: latents. Mean over problems and heads; darkest {100 * most:.1f}%."
    return HeatMap(
        heading="Attention by layer, in per cent", name="Attention to the latents by layer", matrix=layers,
        axes=("latent", "layer"), top=most, note=note,
    )  # fmt: skip


def attention_chart(seen: Inspection) -> Chart | None:
    """The attention that each latent gets, beside that of a position before them; None where nobody knows."""
    if (attention := seen.figures.get("attention")) is None:
        return None
    latents = Line(0, "a latent", tuple(Point(k + 1, share) for k, share in enumerate(attention["by_latent"])))
    even = attention["a_question_position"]
    flat = Line(7, "before them", (Point(1, even), Point(max(len(attention["by_latent"]), 2), even)))
    note = "Share of the answer's attention, mean over layers and heads. The level line: a position before the latents."
    name = "Attention that the answer pays"
    return Chart(name=name, lines=[latents, flat], x_label="latent", percent=True, markers=True, note=note)


def by_count(seen: Inspection) -> list[Chart]:
    """Distances and recovery by number of latents."""
    return _over(seen.counts, "latents", "number of latents", "by number of latents")


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
        label = kind if source == "words" else f"decoded {kind}"
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
    notes = []
    if problem.chain is not None and problem.chain["value"] is not None:
        notes.append(f"The decoded steps, carried out, give {problem.chain['value']}.")
    if problem.before is not None and problem.rest is not None:
        on = sum(latent.attention or 0.0 for latent in latents)
        notes.append(f"Attention: {100 * problem.before:.0f}% before the latents, {100 * on:.1f}% on them.")
    told = sum(len((thought.expected or "").splitlines()) for thought in problem.thoughts)
    return {
        "said": problem.said if problem.extracted is None else problem.extracted,
        "latents": latents,
        "maps": _maps(latents),
        "notes": notes,
        "beyond": problem.steps[told:],
    }


def _maps(latents: Sequence[Latent]) -> list[tuple[str, Any]]:
    """Small maps of one problem: similarity of its latents, and the attention on them layer by layer."""
    maps: list[tuple[str, Any]] = []
    if not 1 < len(latents) <= _MAPS:
        return maps
    name = "Similarity of the latents"
    maps.append(("similarity", heat_map([latent.similarity for latent in latents], name=name, small=True)))
    paid = [latent.attention_by_layer for latent in latents if latent.attention_by_layer is not None]
    if paid:
        most = max(map(max, paid))
        name = f"Attention on each latent (columns) by layer (rows); darkest {100 * most:.1f}%"
        maps.append(
            (f"attention by layer, up to {100 * most:.1f}%", heat_map(_turned(paid), name=name, small=True, top=most))
        )
    return maps


def _turned(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Rows as columns."""
    return [list(column) for column in zip(*rows, strict=True)]


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


_RULE = (
    f"Collapse: a distance divided by length below {SHRUNK:g} of its highest value in training, or below {FLOOR:g}; "
    "within a question or across questions."
)


def _sources(seen: Inspection, name: str) -> list[tuple[str, list[str]]]:
    """Where the numbers come from."""
    head = seen.head
    where = head["environment"]
    facts = [
        f"{head['task']['name']} / {head['split']}, fingerprint {head['fingerprint']}, the first {head['n']}",
        f"run {head['run'] or 'in memory'}",
        f"method {head['method']['name']}",
        *versions(where),
        str(where.get("time") or ""),
    ]
    return [(name, facts)]
