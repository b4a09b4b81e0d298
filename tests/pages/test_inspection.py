"""The inspector's page as its reader sees it: opened in a headless Chromium, and as plain HTML where there is none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chromium import Page, chromium, needs_chromium
from support.fakes.inspection import Problems, collapsed, model

from unspoken.errors import ConfigError
from unspoken.inspector.look import Inspection, inspect
from unspoken.pages.inspection import page, verdict, write_inspection

METRICS: list[dict[str, Any]] = [
    {"kind": "train", "step": step, "loss": 2.0 / step, "terms": {"answer": 1.5 / step, "explain": 0.5 / step},
     "stage": step // 20}
    for step in range(1, 60)
] + [{"kind": "validation", "step": 30, "accuracy": 0.25}, {"kind": "validation", "step": 60, "accuracy": 0.5}]  # fmt: skip


def letters(text: str) -> str:
    """Without what the page may show in another way: spaces and signs."""
    return "".join(c for c in text if c.isalnum())


def row(step: int, within: float, across: float, said: str | None = None) -> dict[str, Any]:
    """What the monitor logs."""
    words = {"numbers": within / 2, "operators": across / 2, "results": 0.1}
    figures = {"within": within, "across": across, "norm": 4.0, "centre": 5.0, "recovery": {"words": words}}
    return {"kind": "stability", "step": step, "stage": 0, **figures, "collapse": said}


HEALTHY = [row(0, 1.2, 1.1), row(30, 1.1, 1.0), row(60, 1.15, 1.05)]
COLLAPSED = [row(0, 1.2, 1.1), row(30, 0.2, 0.1, "latents of one question have become alike"), row(60, 0.01, 0.01, "alike")]


@pytest.fixture(scope="module")
def sound() -> Inspection:
    """A model with a decoder; nothing has collapsed."""
    return inspect(model(), Problems(), metrics=[*METRICS, *HEALTHY])


@pytest.fixture(scope="module")
def broken() -> Inspection:
    """A Coconut model whose latents are all alike."""
    return inspect(collapsed(), Problems(), metrics=[*METRICS, *COLLAPSED])


@pytest.fixture(scope="module")
def browser() -> Any:
    """A page of a headless Chromium."""
    with chromium() as opened:
        yield opened


def opened(browser: Page, seen: Inspection, folder: Path, beside: Inspection | None = None, **how: Any) -> str:
    """The text that a reader sees who unfolds all, once it is known that nothing went wrong and nothing was fetched."""
    *data, shown = write_inspection(seen, folder, beside)
    browser.open(shown, **how)
    browser.page.get_by_role("button", name="unfold all").click()
    text = browser.text
    assert browser.problems == []
    assert browser.requests == [shown.resolve().as_uri()]
    assert json.loads(data[0].read_text(encoding="utf-8"))["format"] == 1
    return text


@needs_chromium
def test_a_reader_sees_thoughts_and_numbers(browser: Page, sound: Inspection, tmp_path: Path) -> None:
    text = opened(browser, sound, tmp_path)
    answers = browser.ask("[...document.querySelectorAll('.answer')].map(e => e.innerText)")
    for problem, answer in zip(sound.problems, answers, strict=True):
        assert problem.question in text
        assert letters(problem.extracted or problem.said) in letters(answer)
        assert ("✓" in answer) == problem.correct
        assert problem.correct or f"true is {problem.answer}" in answer
        for thought in problem.thoughts:
            assert (thought.expected or "stands for no step").splitlines()[0] in text
            for latent in thought.latents:
                assert f"length {latent.norm:.3g}" in text
                assert latent.attention is not None
                assert f"attention {100 * latent.attention:.1f}%" in text
    assert text.index("Thoughts, problem by problem") < text.index("All problems together") < text.index("Where they lie")
    shown = browser.ask("[...document.querySelectorAll('.said code')].map(e => e.innerText)")
    decoded = [thought.decoded or "" for problem in sound.problems for thought in problem.thoughts]
    plain = [(said, seen) for said, seen in zip(decoded, shown, strict=True) if said.isprintable()]
    assert len(plain) > 5
    assert all(letters(said) == letters(seen) for said, seen in plain)
    geometry = sound.figures["geometry"]
    for number in (f"{geometry['norm']:.2f}", f"{geometry['distance']:.2f}", f"{geometry['centre']:.2f}"):
        assert number in text
    for heading in (
        "Where they lie", "What can be read from them", "Decoded steps carried out", "Similarity of the latents",
        "Attention that the answer pays", "Attention by layer",
        "Distances by number of latents", "Distances over training", "Loss term: explain",
    ):  # fmt: skip
        assert heading in text
    cells = browser.ask("[...document.querySelectorAll('svg.map text.cell')].map(e => e.textContent)")
    by_layer = [f"{100 * value:.1f}" for line in sound.figures["attention"]["by_layer"] for value in line]
    assert cells == [f"{value:.2f}" for line in sound.figures["similarity"] for value in line] + by_layer
    assert "collapsed" not in text


@needs_chromium
def test_a_collapse_is_seen_first(browser: Page, broken: Inspection, tmp_path: Path) -> None:
    text = opened(browser, broken, tmp_path)
    assert "The latents have collapsed: latents of one question have become alike" in text
    assert "The monitor first warned at step 30" in text
    assert text.index("have collapsed") < text.index("Where they lie")
    assert browser.ask("document.querySelector('[role=alert]').getBoundingClientRect().top") < 400
    assert "Recovery over training" in text


@needs_chromium
@pytest.mark.parametrize("which", ["sound", "broken"])
def test_it_fits_a_phone_in_light_and_dark(browser: Page, which: str, tmp_path: Path, request: Any) -> None:
    seen: Inspection = request.getfixturevalue(which)
    colours = []
    for dark in (False, True):
        opened(browser, seen, tmp_path, width=390, height=844, dark=dark)
        assert browser.overflow == 0
        wide = (
            "Math.max(...[...document.querySelectorAll('figure, article, table')].map(e => e.scrollWidth - e.clientWidth))"
        )
        assert browser.ask(wide) <= 0
        colours.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_the_page_is_self_contained_and_escaped(sound: Inspection) -> None:
    text = page(sound)
    assert "//" not in text.replace("// ", "")  # but for comments of the script
    assert not re.search(r"<(link|img|iframe)|\bsrc=|href=\"[^#]|url\(|@import", text)
    assert text.count("<script") == 1
    evil = Inspection(
        **{
            **{name: getattr(sound, name) for name in ("figures", "counts", "history", "metrics", "problems")},
            "head": {**sound.head, "run": "<script>alert(1)</script>"},
        }
    )
    assert "<script>alert" not in page(evil)


def test_words_are_made_visible(sound: Inspection) -> None:
    from unspoken.pages.inspection import visible

    assert visible(" 12") == "␣12"
    assert visible("\n") == "⏎"
    assert visible("\x05<") == "\\x05<"
    assert visible("  ") == "␣␣"


def test_the_verdict(sound: Inspection, broken: Inspection) -> None:
    assert verdict(sound) is None
    assert "of different questions have become alike" in (verdict(broken) or "")


def test_a_collapse_that_passed_is_told_as_such() -> None:
    seen = inspect(model(), Problems(), counts=[], metrics=[row(0, 1.0, 1.0), row(30, 0.2, 1.0, "alike")])
    assert "had collapsed during training</b>, and have not at its end" in page(seen)


def test_learned_tokens_are_no_collapse() -> None:
    """Pauses are the same for every question by construction."""
    seen = inspect(model({"name": "pause", "pauses": 3}), Problems(), counts=[])
    assert seen.figures["geometry"]["across"] == pytest.approx(0.0, abs=1e-5)
    assert verdict(seen) is None
    assert "learned tokens: the same for every question" in page(seen)


def test_a_page_of_many_latents_stays_small() -> None:
    it = model({"name": "coconut", "latents_per_step": 8, "max_stage": 4})
    text = page(inspect(it, Problems(), counts=[]))
    assert len(text) / len(Problems().examples("test")) < 40_000


def test_averages_by_layer_are_means_of_the_problems(sound: Inspection) -> None:
    """The average on the page against the per-problem numbers in the JSON; layers add up to what a latent gets."""
    by_layer = sound.figures["attention"]["by_layer"]
    latents = [[latent for thought in problem.thoughts for latent in thought.latents] for problem in sound.problems]
    for layer, row in enumerate(by_layer):
        for k, share in enumerate(row):
            assert share == pytest.approx(np.mean([(one[k].attention_by_layer or ())[layer] for one in latents]))
    assert np.mean(by_layer, axis=0) == pytest.approx(sound.figures["attention"]["by_latent"])


def test_vectors_are_written_beside_the_page(sound: Inspection, tmp_path: Path) -> None:
    data, vectors, shown = write_inspection(sound, tmp_path)
    assert [data.name, vectors.name, shown.name] == ["inspect.json", "latents.npz", "index.html"]
    with np.load(vectors, allow_pickle=False) as kept:
        assert kept["ids"].tolist() == [problem.id for problem in sound.problems]
        assert kept["correct"].tolist() == [problem.correct for problem in sound.problems]
        latents, counts = kept["latents"], kept["counts"]
    trace = model().think([problem.question for problem in sound.problems])
    assert counts.tolist() == trace.counts_B.tolist()
    np.testing.assert_allclose(latents, trace.latents_BKD.numpy(), rtol=1e-4, atol=1e-4)
    for problem, vectors_KD in zip(sound.problems, latents, strict=True):
        norms = [latent.norm for thought in problem.thoughts for latent in thought.latents]
        assert np.linalg.norm(vectors_KD[: len(norms)], axis=1) == pytest.approx(norms, rel=1e-5)


def test_runs_side_by_side_are_about_the_same_problems(sound: Inspection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side by side on the same problems"):
        page(sound, replace(sound, problems=sound.problems[1:]))
    named = [replace(sound, head={**sound.head, "run": run}) for run in ("a/x", "b/x")]
    files = write_inspection(named[0], tmp_path, named[1])
    assert [file.name for file in files] == [
        "inspect-x-1.json", "latents-x-1.npz", "inspect-x-2.json", "latents-x-2.npz", "index.html"
    ]  # fmt: skip
    text = files[-1].read_text(encoding="utf-8")
    assert "The latents of x-1 and x-2" in text
    assert text.count('class="side"') == 2 * len(sound.problems)
