"""The inspector's page in the hands of a reader: clicks, keys, filters, links, saved figures, a phone, 200 problems."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.chromium import Page, chromium, needs_chromium
from support.fakes.inspection import Problems, model

from unspoken.inspector.look import Inspection, inspect
from unspoken.pages.inspection import write_inspection

pytestmark = needs_chromium

MANY = 200
WRONG = tuple(range(0, MANY, 3))
"""Problems that are answered wrongly, by their place."""

MOST_MB = 1.5
"""Of a page of 200 problems with 4 latents each; docs/guides/inspector.md states it."""


@pytest.fixture(scope="module")
def many() -> Inspection:
    """As many problems as the command looks at, some right, some wrong, each with a word of its own."""
    seen = inspect(model(), Problems(), counts=[])
    problems = []
    for i in range(MANY):
        one = seen.problems[i % len(seen.problems)]
        question = f"{one.question} Word number{i}end. ＦＵＬＬ Straße"
        problems.append(replace(one, id=f"test-{i}", question=question, correct=i not in WRONG))
    return replace(seen, problems=tuple(problems), vectors=())


@pytest.fixture(scope="module")
def shown(many: Inspection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run."""
    return write_inspection(many, tmp_path_factory.mktemp("one"))[-1]


@pytest.fixture(scope="module")
def pair(many: Inspection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs; the second is right on every other problem."""
    other = tuple(replace(problem, correct=i % 2 == 0) for i, problem in enumerate(many.problems))
    beside = replace(many, problems=other, head={**many.head, "run": "runs/other"})
    return write_inspection(replace(many, head={**many.head, "run": "runs/mine"}), tmp_path_factory.mktemp("two"), beside)[
        -1
    ]


@pytest.fixture(scope="module")
def browser() -> Any:
    """A page of a headless Chromium."""
    with chromium() as opened:
        yield opened


def visible(browser: Page) -> list[int]:
    """The numbers of the problems that are shown."""
    return browser.ask("[...document.querySelectorAll('article')].filter(e => !e.hidden).map(e => +e.id.slice(1))")


def focused(browser: Page) -> str:
    """The id of what has the focus."""
    return browser.ask("document.activeElement.id")


def test_filters_by_click(browser: Page, shown: Path) -> None:
    browser.open(shown)
    wrong = [i + 1 for i in WRONG]
    assert visible(browser) == list(range(1, MANY + 1))
    browser.page.get_by_role("button", name=f"wrong {len(WRONG)}").click()
    assert visible(browser) == wrong
    assert browser.page.get_by_role("status").inner_text() == f"{len(wrong)} of {MANY}"
    browser.page.get_by_role("button", name=f"right {MANY - len(WRONG)}").click()
    assert visible(browser) == [i for i in range(1, MANY + 1) if i not in wrong]
    assert browser.page.get_by_role("button", name="right").get_attribute("aria-pressed") == "true"
    browser.page.get_by_role("button", name="all 200", exact=True).click()
    assert len(visible(browser)) == MANY
    assert browser.problems == []


def test_search_in_the_text(browser: Page, shown: Path) -> None:
    browser.open(shown)
    search = browser.page.get_by_role("searchbox")
    search.fill("number17end")
    assert visible(browser) == [18]
    search.fill("NUMBER18END full STRASSE")  # whole words of any case; ＦＵＬＬ is FULL, but ß stays a letter of its own
    assert visible(browser) == []
    assert browser.page.get_by_text("No problem is like that.").is_visible()
    search.fill("  NUMBER18END   full straße ")
    assert visible(browser) == [19]
    browser.page.get_by_role("button", name="right").click()
    assert visible(browser) == []
    search.fill("(*[<script>")
    assert visible(browser) == []
    browser.page.keyboard.press("Escape")
    assert len(visible(browser)) == MANY
    assert search.input_value() == ""


def test_keys(browser: Page, shown: Path) -> None:
    browser.open(shown)
    press = browser.page.keyboard.press
    press("j")
    assert focused(browser) == "p1"
    press("j")
    assert focused(browser) == "p2"
    press("o")
    assert browser.ask("[...document.querySelectorAll('.side > details[open]')].map(e => e.closest('article').id)") == ["p2"]
    press("o")
    assert browser.ask("document.querySelectorAll('.side > details[open]').length") == 0
    press("k")
    assert focused(browser) == "p1"
    press("k")
    assert focused(browser) == "p1"
    press("w")
    assert visible(browser) == [i + 1 for i in WRONG]
    press("j")
    assert focused(browser) == "p4", "the next problem that is shown"
    top = browser.ask("document.getElementById('p4').getBoundingClientRect().top")
    assert 0 <= top < 400
    press("/")
    assert browser.ask("document.activeElement.type") == "search"
    browser.page.keyboard.type("jwo")
    assert browser.page.get_by_role("searchbox").input_value() == "jwo", "keys are text in a field"
    press("Escape")
    assert len(visible(browser)) == MANY
    press("Control+j")
    assert focused(browser) != "p5"
    assert browser.problems == []


def test_everything_is_reached_by_tab(browser: Page, shown: Path) -> None:
    """The links of the contents first, then filters, search, unfolding; each shows that it has the focus."""
    browser.open(shown)
    seen = []
    for _ in range(12):
        browser.page.keyboard.press("Tab")
        seen.append(browser.ask("document.activeElement.textContent.trim() || document.activeElement.type"))
        assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen[:3] == ["Thoughts, problem by problem", "All problems together", "Figures"]
    assert seen[4:11] == ["all 200", "right 133", "wrong 67", "search", "unfold all", "keys", "Problems by number"]
    browser.page.keyboard.press("Enter")


def test_problems_have_numbers_to_link_to(browser: Page, shown: Path) -> None:
    browser.open(shown, at="#p150")
    assert focused(browser) == "p150"
    assert 0 <= browser.ask("document.getElementById('p150').getBoundingClientRect().top") < 400
    browser.page.get_by_text("Problems by number").click()
    browser.page.get_by_role("link", name="42 ✓").click()
    assert browser.ask("location.hash") == "#p42"
    assert focused(browser) == "p42"
    browser.page.keyboard.press("w")
    assert 42 not in visible(browser)
    browser.ask("location.hash = '#p41'; 0")
    browser.ask("location.hash = '#p42'; 0")
    browser.page.wait_for_function("document.activeElement.id == 'p42'")
    assert len(visible(browser)) == MANY, "a link to a problem that is filtered away shows all again"


@pytest.mark.parametrize("dark", [False, True])
def test_figures_are_saved(browser: Page, shown: Path, tmp_path: Path, dark: bool) -> None:
    """As SVG that stands by itself, in the light colours, and as a PNG four times as large."""
    browser.open(shown, dark=dark)
    names = browser.page.get_by_role("button", name="Save as SVG")
    assert names.count() == browser.ask("document.querySelectorAll('figure > svg:not(.small)').length") > 2
    with browser.page.expect_download() as waited:
        names.first.click()
    waited.value.save_as(tmp_path / "a.svg")
    assert waited.value.suggested_filename == "mean-cosine-similarity-of-the-latents-of-a-problem.svg"
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in text
    assert "#2a66cf" in text
    with browser.page.expect_download() as waited:
        browser.page.get_by_role("button", name="Save as PNG").first.click()
    waited.value.save_as(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">I", data[16:20])[0] == round(4 * float(root.attrib["viewBox"].split()[2]))
    assert len(data) > 5_000
    assert browser.problems == []


@pytest.mark.parametrize("which", ["shown", "pair"])
@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_no_width_scrolls_sideways(browser: Page, which: str, width: int, request: pytest.FixtureRequest) -> None:
    browser.open(request.getfixturevalue(which), width=width, height=800)
    browser.page.get_by_role("button", name="unfold all").click()
    assert browser.overflow == 0
    assert (
        browser.ask("Math.max(...[...document.querySelectorAll('article, figure')].map(e => e.scrollWidth - e.clientWidth))")
        <= 0
    )
    assert browser.problems == []


def test_two_hundred_problems_on_a_phone(browser: Page, shown: Path) -> None:
    """The page is small, its details are folded, and it answers within a second on a machine much slower than this."""
    assert shown.stat().st_size < MOST_MB * 1e6
    browser.open(shown, width=390, height=844)
    assert browser.ask("document.querySelectorAll('.side > details[open]').length") == 0
    session = browser.page.context.new_cdp_session(browser.page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    for key, count in (("w", len(WRONG)), ("a", MANY)):
        took = browser.ask(
            f"""(() => {{ const began = performance.now();
            document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}));
            document.body.offsetHeight; return performance.now() - began }})()"""
        )
        assert len(visible(browser)) == count
        assert took < 1000
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    tools = browser.page.locator(".tools").bounding_box()
    assert tools is not None
    assert tools["height"] < 844 / 4, "what stays on top leaves room for what is read"


def test_two_runs_side_by_side(browser: Page, pair: Path) -> None:
    browser.open(pair)
    right = [i + 1 for i in range(MANY) if i not in WRONG and i % 2 == 0]
    differ = [i + 1 for i in range(MANY) if (i not in WRONG) != (i % 2 == 0)]
    for name, want in (("right", right), ("wrong", [i for i in range(1, MANY + 1) if i not in right]), ("differ", differ)):
        browser.page.get_by_role("button", name=f"{name} {len(want)}").click()
        assert visible(browser) == want
    browser.page.keyboard.press("a")
    first = browser.page.locator("#p1 .side")
    boxes = [first.nth(i).bounding_box() for i in range(2)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"], "side by side"
    assert first.nth(0).locator(".run").inner_text() == "mine"
    assert first.nth(1).locator(".run").inner_text() == "other"
    assert f"mine alone is right on {sum(i not in WRONG and i % 2 == 1 for i in range(MANY))}" in browser.text
    browser.page.keyboard.press("j")
    browser.page.keyboard.press("o")
    assert browser.ask("document.querySelectorAll('#p1 details[open]').length") == 2
    assert browser.problems == []


def test_without_scripts_all_is_there(browser: Page, shown: Path) -> None:
    context = browser._browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(shown.resolve().as_uri())
    assert page.locator("article").count() == MANY
    assert not page.locator(".tools").is_visible()
    page.locator("#p1 summary").click()
    assert page.locator("#p1 .latent").first.is_visible()
    context.close()


def test_a_stranger_cannot_run_anything(browser: Page, many: Inspection, tmp_path: Path) -> None:
    """Even if markup of a problem reached the page unescaped, its policy would not run it."""
    shown = write_inspection(many, tmp_path)[-1]
    text = shown.read_text(encoding="utf-8")
    evil = "<img src=x onerror='window.hit = 1'><script>window.hit = 2</script>"
    shown.write_text(text.replace('<p class="question">', f'{evil}<p class="question">', 1), encoding="utf-8")
    browser.open(shown)
    assert browser.ask("window.hit === undefined")
    assert browser.problems, "the browser says what it refused"
