"""The inspector's page: one HTML file, no script, nothing remote; in the style of the evaluation's page.

Everything on it stands in inspect.json too, with more words per latent. Problems are the first of the split, not the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import write_text
from unspoken.core.text.markup import escape, metric_rows, number, part
from unspoken.inspector.look import Inspection, Latent, Problem, Thought
from unspoken.inspector.stability import FLOOR, KINDS, SHRUNK, collapse
from unspoken.inspector.words import Word
from unspoken.pages.inspection_charts import heat_map
from unspoken.pages.runs import PageRun, document, figure, mark, training
from unspoken.pages.svg import Line, Point, line_chart

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
    sections = (
        _alarm(seen), _overall(seen), _charts(seen), _training(seen, label), _problems(seen), _sources(seen)
    )  # fmt: skip
    return document(f"The latents of {label}", summary(seen), "".join(sections), _STYLE)


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


def percent(rate: Mapping[str, Any]) -> str:
    """A rate in per cent, or a dash."""
    return "–" if rate["value"] is None else f"{100 * rate['value']:.1f}%"


def verdict(seen: Inspection) -> str | None:
    """What has collapsed in the model that is looked at, in words."""
    geometry = seen.figures["geometry"]
    return None if geometry is None or seen.head.get("learned_tokens") else collapse(geometry, seen.history)


def _alarm(seen: Inspection) -> str:
    """A box that says that the latents have collapsed, and when the monitor saw it first."""
    if seen.head.get("learned_tokens"):
        return '<p class="box">The thoughts of this method are learned tokens: the same for every question.</p>\n'
    said = verdict(seen)
    first = next((row for row in metric_rows(seen.history, "stability") if row.get("collapse")), None)
    if said is None and first is None:
        return ""
    parts = []
    if said is not None:
        parts.append(f"<b>The latents have collapsed:</b> {escape(said)}.")
    else:
        parts.append("<b>The latents had collapsed during training</b>, and have not at its end.")
    if first is not None:
        parts.append(f"The monitor first warned at step {escape(first['step'])}: {escape(first['collapse'])}.")
    return f'<p class="box alarm" role="alert">{" ".join(parts)}</p>\n'


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _overall(seen: Inspection) -> str:
    """Geometry, recovery, chaining."""
    f = seen.figures
    parts = []
    if (g := f["geometry"]) is not None:
        lines = (
            ("length of a latent", _number(g["norm"])),
            ("distance between two latents of a problem (Dist)", _number(g["distance"])),
            ("… divided by the length", _number(g["within"])),
            ("distance to the vocabulary's centre (DistVC)", _number(g["centre"])),
            ("distance between problems, latent by latent, divided by the length", _number(g["across"])),
        )
        parts.append(_table("Where they lie", ("mean",), lines))
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
    parts.append(_table("What can be read from them", KINDS, lines, note))
    if chaining := f.get("chaining"):
        lines = (
            ("equations that hold", percent(chaining["holds"])),
            ("… that use an earlier result", percent(chaining["linked"])),
            ("the chain gives what the true steps give", percent(chaining["is_the_steps"])),
            ("the chain gives the true answer", percent(chaining["is_the_true_answer"])),
            ("the chain gives the model's answer", percent(chaining["is_the_said_answer"])),
        )
        note = "" if chaining["is_the_true_answer"]["n"] else "The latents do not stand for the last step, so no chain ends."
        parts.append(_table("Decoded steps carried out", ("share",), lines, note))
    return f'<section><h2>All problems together</h2><div class="grid">{"".join(parts)}</div></section>\n'


def _table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    head = "".join(f'<th scope="col" class="num">{escape(c)}</th>' for c in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"""<td class="num">{escape(c)}</td>""" for c in row[1:])}</tr>'
        for row in rows
    )
    table = f'<table class="facts"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return figure(heading, table, note)


def _charts(seen: Inspection) -> str:
    """Similarity, attention, and the figures over training and over the number of latents."""
    f, figures = seen.figures, []
    if f["similarity"]:
        chart = heat_map(f["similarity"], name="Mean cosine similarity of the latents of a problem")
        figures.append(figure("Similarity of the latents", chart, "Mean cosine over problems; blue alike, orange opposed."))
    if attention := f.get("attention"):
        latents = Line(0, "a latent", tuple(Point(k + 1, share) for k, share in enumerate(attention["by_latent"])))
        even = attention["a_question_position"]
        flat = Line(7, "before them", (Point(1, even), Point(max(len(attention["by_latent"]), 2), even)))
        chart = line_chart(
            [latents, flat], name="Attention of the answer by latent", x_label="latent", percent=True, markers=True
        )
        note = "Share of the answer's attention, mean over layers and heads. The level line: a position before the latents."
        figures.append(figure("Attention that the answer pays", chart, note))
    figures += _over(seen.counts, "latents", "number of latents", "by number of latents")
    figures += _over(metric_rows(seen.history, "stability"), "step", "optimizer step", "over training")
    return f'<section><div class="grid">{"".join(figures)}</div></section>\n' if figures else ""


def _curve(colour: int, label: str, rows: Sequence[Mapping[str, Any]], x: str, path: Sequence[str]) -> list[Line]:
    points = []
    for row in rows:
        if (value := number(part(row, *path))) is not None:
            points.append(Point(float(row[x]), float(value)))
    return [Line(colour, label, tuple(points))] if points else []


def _over(rows: Sequence[Mapping[str, Any]], x: str, x_label: str, heading: str) -> list[str]:
    """Distances and recovery over something."""
    if len(rows) < 2:
        return []
    # Rows of the monitor have the figures of geometry and recovery at hand, those of a count have more of them.
    flat = "geometry" not in rows[0]
    lies = [] if flat else ["geometry"]
    figures = []
    lines = _curve(0, "one question", rows, x, [*lies, "within"]) + _curve(1, "across", rows, x, [*lies, "across"])
    marked = len(rows) <= 40
    if lines:
        chart = line_chart(lines, name=f"Distances {heading}", x_label=x_label, markers=marked)
        note = "Distance divided by length: between the latents of one question, and across questions."
        figures.append(figure(f"Distances {heading}", chart, note))
    lines = []
    for place, (kind, source) in enumerate((kind, source) for source in ("words", "steps") for kind in KINDS):
        path = ["recovery", source, kind] if flat else ["recovery", source, "anywhere", kind, "value"]
        label = kind if source == "words" else f"{kind}, decoded"
        lines += _curve(place, label, rows, x, path)
    if not flat:
        lines += _curve(7, "accuracy", rows, x, ["accuracy", "value"])
    if lines:
        chart = line_chart(lines, name=f"Recovery {heading}", x_label=x_label, percent=True, markers=marked)
        note = "Of what the true steps say, the share that stands among nearest words or in decoded steps."
        figures.append(figure(f"Recovery {heading}", chart, note))
    return figures


def _training(seen: Inspection, label: str) -> str:
    """The run's curves, as on the evaluation's page."""
    return training([PageRun(label=label, metrics=seen.metrics)]) if seen.metrics else ""


def _problems(seen: Inspection) -> str:
    legend = (
        f"{mark(True)} the decoded step equals the true one (white space aside) · {mark(False)} differs. Below each step, "
        "its latents: the words nearest to the state a latent was made from and, where it is another vector, to the latent "
        "that is fed; its length; the latent most like it (cosine); the share of the answer's attention on it."
    )
    cards = "".join(_problem(problem) for problem in seen.problems)
    return (
        f'<section><h2>Thoughts, problem by problem</h2><p class="note">{legend}</p>'
        f'<div class="problems">{cards}</div></section>\n'
    )


def _problem(problem: Problem) -> str:
    said = problem.extracted if problem.extracted is not None else problem.said
    answer = f"answers <code>{_shown(said) or '–'}</code>"
    answer += "" if problem.correct else f", true is <code>{_shown(problem.answer)}</code>"
    latents = [latent for thought in problem.thoughts for latent in thought.latents]
    thoughts = "".join(_thought(number, thought, len(latents)) for number, thought in enumerate(problem.thoughts, start=1))
    parts = []
    if (done := problem.chain) is not None and done["value"] is not None:
        parts.append(f"The decoded steps, carried out, give <b>{escape(done['value'])}</b>.")
    if problem.before is not None and problem.rest is not None:
        on = sum(latent.attention or 0.0 for latent in latents)
        parts.append(f"Attention: {100 * problem.before:.0f}% before the latents, {100 * on:.1f}% on them.")
    chart = ""
    if 1 < len(latents) <= _MAPS:
        chart = heat_map([latent.similarity for latent in latents], name="Similarity of the latents", small=True)
    left = len(problem.steps) - sum(len((thought.expected or "").splitlines()) for thought in problem.thoughts)
    if left > 0:
        parts.append(f"{left} true step{'' if left == 1 else 's'} beyond the thoughts: {_codes(problem.steps[-left:])}.")
    return (
        f'<article class="{"yes" if problem.correct else "no"}"><p class="question">{escape(problem.question)}</p>'
        f'<p class="answer">{mark(problem.correct)} {answer}</p><ol class="thoughts">{thoughts}</ol>'
        f'<div class="foot">{chart}<p class="note">{" ".join(parts)}</p></div></article>'
    )


def _codes(texts: Iterable[str]) -> str:
    return " ".join(f"<code>{_shown(text)}</code>" for text in texts)


def _thought(number: int, thought: Thought, latents: int) -> str:
    kind = "none" if thought.matches is None else "yes" if thought.matches else "no"
    step = f'<span class="soft">thought {number}</span> '
    if thought.decoded is not None:
        step += f'<span class="said"><code>{_shown(thought.decoded) or "–"}</code></span>'
        step += f" {mark(thought.matches)}" if thought.matches is not None else ""
    if thought.expected is None:
        step += ' <span class="soft">stands for no step</span>'
    elif not thought.matches:
        step += f' <span class="soft">true</span> {_codes([thought.expected])}'
    lines = "".join(map(_latent, thought.latents))
    if len(thought.latents) > 2 and latents > _MAPS:
        lines = f"<details><summary>{len(thought.latents)} latents</summary>{lines}</details>"
    return f'<li class="{kind}"><div class="step">{step}</div>{lines}</li>'


def _latent(latent: Latent) -> str:
    facts = [f"length {latent.norm:.3g}"]
    others = [(value, k + 1) for k, value in enumerate(latent.similarity) if k + 1 != latent.number]
    if others:
        value, which = max(others)
        facts.append(f"like {which}: {value:.2f}")
    if latent.attention is not None:
        facts.append(f"attention {100 * latent.attention:.1f}%")
    if not latent.fed:
        facts.append("not fed")
    lines = []
    before = latent.nearest_state
    if before is None or before == latent.nearest:
        lines.append(_words(f"{latent.number}", latent.nearest))
    else:
        lines += [_words(f"{latent.number} state", before), _words(f"{latent.number} fed", latent.nearest)]
    return f'<div class="latent">{"".join(lines)}<span class="soft facts">{" · ".join(facts)}</span></div>'


def _words(label: str, words: Sequence[Word]) -> str:
    """Words with the probability in a title; the likelier, the darker."""
    said = "".join(
        f'<code title="{100 * word.probability:.1f}%" style="opacity:{0.45 + 0.55 * word.probability:.2f}">'
        f"{_shown(word.text) or '∅'}</code>"
        for word in words[:WORDS]
    )
    return f'<span class="words"><span class="soft">{label}</span> {said}</span>'


def _shown(text: str) -> str:
    """Text with its spaces at the ends, line breaks and control characters made visible."""
    text = "".join(c if c.isprintable() else "⏎" if c == "\n" else f"\\x{ord(c):02x}" for c in text)
    inner = text.strip(" ")
    lead, tail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return escape("␣" * lead + inner + "␣" * (tail if inner else 0))


def _sources(seen: Inspection) -> str:
    head = seen.head
    where = head["environment"]
    facts = [
        f"{head['task']['name']} / {head['split']}, fingerprint {head['fingerprint']}, the first {head['n']}",
        f"run {head['run'] or 'in memory'}",
        f"method {head['method']['name']}",
        *(f"{name} {v}" for name in ("unspoken", "torch", "transformers") if (v := part(where, "versions", name))),
        str(where.get("time") or ""),
    ]
    rule = (
        f"Collapse: a distance divided by length below {SHRUNK:g} of its highest value in training, or below {FLOOR:g}; "
        "within a question or across questions."
    )
    return (
        f"<footer><h2>Sources</h2><dl><dt>Data and model</dt><dd>{escape(' · '.join(filter(None, facts)))}</dd>"
        f"<dt>Rule</dt><dd>{escape(rule)}</dd></dl></footer>\n"
    )


_STYLE = """
.box { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; margin: 1.4rem 0 0; background: var(--card) }
.alarm { border-color: var(--bad); background: var(--bad-back); color: var(--bad) }
.facts td, .facts th { padding: .25rem .4rem; border-bottom: 1px solid var(--line) } .facts tbody th { font-weight: 400 }
.facts .num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
svg.map { max-width: 330px } svg.map.small { width: 96px; flex: none } svg .edge { fill: none; stroke: var(--line) }
svg .cell { fill: var(--ink); font-size: 11px } svg .cell.strong { fill: var(--card) }
.answer { margin: 0 0 .5rem } .thoughts { list-style: none; margin: 0; padding: 0 }
.thoughts li { border-top: 1px solid var(--line); padding: .45rem 0 } .step { margin-bottom: .15rem }
.thoughts .yes .said code { background: var(--good-back); color: var(--good) }
.thoughts .no .said code { background: var(--bad-back); color: var(--bad) }
.latent { font-size: .86rem; margin-left: .8rem } .words { display: block }
.words code { border: 1px solid var(--line); margin-right: .2rem } .latent .facts { font-size: .8rem }
.foot { display: flex; gap: 14px; align-items: flex-start; border-top: 1px solid var(--line); padding-top: .6rem }
.foot .note { margin: 0 }
"""
