"""The page: well formed, self-contained, escaped, and with the right numbers in it."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from balance import parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes.evaluation import record, report

from unspoken.errors import DataError
from unspoken.pages.runs import POINTS, PageRun, downsample, page, summary, thoughts_of, write_page
from unspoken.pages.svg import Chart, Line, Point, line_chart, scatter

EVIL = "<script>alert('x')</script> & \"quotes\""


def metrics(rows: int = 1000, terms: tuple[str, ...] = ("answer", "explain")) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for step in range(1, rows + 1):
        losses = {term: 4 * math.exp(-step / 100) + 0.01 for term in terms}
        row = {
            "kind": "train",
            "step": step,
            "seconds": 0.1 * step,
            "loss": sum(losses.values()),
            "terms": losses,
            "lr": 1e-3,
        }
        result.append({**row, "stage": 3 * step // (rows + 1)})
        if step % 100 == 0:
            result.append({"kind": "validation", "step": step, "accuracy": step / rows / 2, "loss": 1.0})
    return result


def full() -> list[PageRun]:
    thought = {
        "question": f"How many? {EVIL}",
        "steps": ["<<1+2=3>>", "<<3*2=6>>"],
        "thoughts": ["<<1 + 2=3>>", "<<3*2=7>>", "<<9>>"],
        "answer": "6",
        "said": "### 7",
    }
    explained = report([], records=tuple(record(i, i % 3 > 0, thoughts=("<<0+0=0>>",)) for i in range(30)))
    return [
        PageRun(label="CoT", metrics=metrics(terms=("answer",)), report=report([True] * 20 + [False] * 10)),
        PageRun(label=f"SIM {EVIL}", metrics=metrics(), report=explained, thoughts=[thought, *thoughts_of(explained, 2)]),
        PageRun(label="not evaluated"),
    ]


def test_the_page_is_well_formed_and_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, f"Title {EVIL}", full())
    text = path.read_text(encoding="utf-8")
    parser = parsed(text)
    assert "http" not in text
    assert not {"script", "link", "img", "iframe"} & set(parser.tags)
    assert not {"src", "href", "onclick"} & {name for name, _ in parser.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert f"Title {EVIL}" in "".join(parser.text)
    assert len(text) < 200_000


def test_the_page_holds_the_numbers() -> None:
    text = "".join(parsed(page("t", full())).text)
    assert "66.7%" in text
    assert "(48.8–80.8)" in text
    assert "McNemar p = " in text
    assert "Of 30 decoded steps that have a true partner, 3.3% equal it" in text
    assert "fingerprint 00112233" in text
    assert "stage 1" in text
    assert "Loss term: explain, log scale" in text


def test_matches_have_a_sign_and_not_only_a_colour() -> None:
    text = page("t", full()[1:2])
    article = text[text.index("<article>") : text.index("</article>")]
    assert re.findall('<tr class="(.*?)"', article) == ["yes", "no", "none", "no last"]
    assert re.findall(r"[✓✗]", article) == ["✓", "✗", "✗"]


def test_a_marked_answer_counts_as_the_answer() -> None:
    run = PageRun(label="r", thoughts=[{"question": "q", "steps": [], "thoughts": [], "answer": "7", "said": "so ### 7"}])
    assert '<tr class="yes last">' in page("t", [run])


def test_a_run_keeps_its_colour() -> None:
    runs = [PageRun(label=f"r{i}", metrics=metrics(50), report=report([True, False, True])) for i in range(10)]
    text = page("t", [PageRun(label="bare"), *runs])
    for i in range(10):
        name = rf'<g class="(c\d)">(?:<line[^>]*/>)?<text class="name"[^>]*><title>r{i}</title>'
        assert set(re.findall(name, text)) == {f"c{(i + 1) % 8}"}
    assert 'stroke-dasharray="6 3"' in text  # the ninth run and on: told apart from the first by dashes
    parsed(text)


@pytest.mark.parametrize(
    "run",
    [
        PageRun(label="empty"),
        PageRun(label="one row", metrics=[{"kind": "train", "step": 1, "loss": 2.0}]),
        PageRun(
            label="nan", metrics=[{"kind": "train", "step": s, "loss": math.nan, "terms": {"a": math.inf}} for s in (1, 2)]
        ),
        PageRun(label="flat", metrics=[{"kind": "validation", "step": s, "accuracy": 0.0} for s in (1, 2)]),
        PageRun(label="zero loss", metrics=[{"kind": "train", "step": s, "loss": 0.0, "terms": {"a": 0.0}} for s in (1, 2)]),
        PageRun(label="all wrong", report=report([False])),
        PageRun(label="all right", report=report([True] * 4)),
        PageRun(label="no thoughts", thoughts=[{}]),
    ],
)
def test_odd_runs_make_a_page(run: PageRun) -> None:
    text = page("t", [run])
    parsed(text)
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', text.split("</style>")[1].replace('aria-label="nan"', ""))


def test_a_resumed_run_shows_its_last_word() -> None:
    rows = [{"kind": "validation", "step": s, "accuracy": a} for s, a in ((10, 0.9), (20, 0.9), (10, 0.5), (20, 0.5))]
    text = page("t", [PageRun(label="r", metrics=rows)])
    assert "60%" not in text


def test_summary_sentences() -> None:
    few, many = report([True] * 5 + [False] * 25), report([True] * 25 + [False] * 5)
    assert summary([PageRun(label="a")]) == "1 run, not evaluated yet."
    assert summary([PageRun(label="a", report=many)]).startswith(
        "a answers 83.3% of 30 test problems of fake correctly (95%"
    )
    both = summary([PageRun(label="a", report=few), PageRun(label="b", report=many)])
    assert both.startswith("b answers 83.3%")
    assert "no run of the 2 scores higher. It: +66.7 points against a (McNemar p < 0.001)." in both
    leads = summary([PageRun(label="a", report=many), PageRun(label="b", report=few)])
    assert "Next, b: −66.7 points against a" in leads
    other = summary([PageRun(label="a", report=many), PageRun(label="b", report=report([True]))])
    assert "different problems, so they are not ranked" in other


@given(st.integers(1, 3000), st.integers(1, 500))
@settings(max_examples=40)
def test_downsampling_keeps_ends_and_mean(n: int, most: int) -> None:
    points = [(float(x), float(x % 7)) for x in range(n)]
    kept = downsample(points, most)
    assert len(kept) == min(n, most)
    assert kept[-1].x == n - 1
    assert all(a.x < b.x for a, b in pairwise(kept))
    if n % most == 0:
        assert sum(p.y for p in kept) / len(kept) == pytest.approx(sum(y for _, y in points) / n)


def test_curves_are_downsampled() -> None:
    text = page("t", [PageRun(label="r", metrics=metrics(3000))])
    assert max(path.count("L") + 1 for path in re.findall('class="curve" d="(.*?)"', text)) == POINTS


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3))


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60)
def test_charts_draw_anything_inside_the_frame(curves: list[list[tuple[float, float]]], markers: bool) -> None:
    lines = [Line(i, f"run {i}", tuple(Point(x, y) for x, y in sorted(points))) for i, points in enumerate(curves)]
    text = line_chart(Chart(lines=lines, name="n", x_label="x", markers=markers))
    parsed(text)
    for path in re.findall('class="curve" d="M(.*?)"', text):
        for place in path.split("L"):
            x, y = map(float, place.split())
            assert 41 <= x <= 341
            assert 17 <= y <= 229


def test_names_do_not_cover_each_other() -> None:
    lines = [Line(i, f"run {i}", (Point(10, 0.5 + i / 1000, 0.4, 0.6),)) for i in range(8)]
    places = sorted(float(y) for y in re.findall('class="name" x=".*?" y="(.*?)"', scatter(lines, name="n", x_label="x")))
    assert all(b - a >= 13.9 for a, b in pairwise(places))


def test_two_runs_with_one_label_are_refused() -> None:
    with pytest.raises(DataError, match="two runs on the page are called 'a'"):
        page("t", [PageRun(label="a"), PageRun(label="a")])


def test_no_runs_are_refused() -> None:
    with pytest.raises(DataError, match="at least one run, got none"):
        page("t", [])
