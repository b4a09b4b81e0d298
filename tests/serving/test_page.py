"""The page at /: latents that are touched, and the page itself in a real browser, as its readers use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from balance import parsed
from support.chromium import chromium, needs_chromium
from support.servers import running, thinker

from unspoken.pages.watch import page as page_of
from unspoken.runs.model import Model
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

QUESTION = "Ann has 7 figs. She finds 5. How many figs has Ann?"
OTHER = "Bob has 3 pens."


@pytest.fixture(scope="module")
def both():
    """A model that explains its latents and one that has none: the address, and the first."""
    served = thinker("sim_cot", slots=4)
    with running(Service(models=[served, ServedModel.load("builtin:tiny")])) as url:
        yield url, served.model


def touch(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/thoughts", json={"model": "sim_cot", "question": QUESTION, **body}, timeout=120)


def test_what_a_question_is_thought_about(both: Any):
    url, model = both
    told = touch(url).json()
    want = model.answer([QUESTION], explain=True)[0]
    assert (told["text"], tuple(told["thoughts"]), told["forward_passes"]) == (want.text, want.thoughts, want.passes)
    latents = model.think([QUESTION]).latents_BKD[0]
    assert len(told["latents"]) == len(latents) == want.latents
    for i, one in enumerate(told["latents"]):
        assert len(one["words"]) == 5
        assert one["length"] == pytest.approx(float(latents[i].norm()), rel=1e-4)
        assert one["similarity"][i] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["sim_cot", "softcot", "pause", "codi"])
@pytest.mark.parametrize("how", ["zero", "swap", "drop"])
def test_a_touched_latent_is_what_an_edit_makes_of_it(name: str, how: str):
    """Against `Model.answer(edit=...)`, for latents in turn and for those of the prompt."""
    served = thinker(name, slots=2)
    model: Model = served.model
    seen: list[Any] = []

    def think(question: str, latents: int | None = None) -> torch.Tensor:
        model.answer([question], latents=latents, on_trace=lambda trace, _: seen.append(trace.row(0).latents_BKD[0]))
        return seen[-1]

    own = think(QUESTION)
    count = model.rows([QUESTION], None, None)[0].latents
    other = think(OTHER, count)

    def edit(latents: torch.Tensor, keys: Any, index: Any) -> torch.Tensor:
        made = latents.clone()
        for row, i in enumerate(index.tolist()):
            if how == "drop":
                made[row] = own[i + 1] if i >= 1 else latents[row]
            elif i == 1:
                made[row] = 0 if how == "zero" else other[1]
        return made

    want = model.answer([QUESTION], edit=edit, latents=count - 1 if how == "drop" else None)[0]
    with running(Service(models=[served])) as url:
        body = {"model": served.name, "touch": {"latent": 1, "how": how, **({"other": OTHER} if how == "swap" else {})}}
        told = touch(url, **body).json()
    assert told["text"] == want.text
    assert len(told["latents"]) == count - (how == "drop")
    assert told["forward_passes"] == want.passes


def test_noise_is_the_same_noise_each_time(both: Any):
    url, _ = both
    first, again = (touch(url, touch={"latent": 0, "how": "noise"}).json() for _ in range(2))
    assert first == again
    assert first["latents"][0]["length"] == pytest.approx(touch(url).json()["latents"][0]["length"], rel=1e-4)
    assert first["latents"][0] != touch(url).json()["latents"][0]


@pytest.mark.parametrize(
    ("body", "said"),
    [({"touch": {"latent": 99, "how": "zero"}}, "no latent 99"), ({"touch": {"latent": -1, "how": "zero"}}, "latent"),
     ({"touch": {"latent": 0, "how": "burn"}}, "how"), ({"touch": {"latent": 0, "how": "swap"}}, "a swap needs"),
     ({"touch": {"latent": 0, "how": "zero", "other": "x"}}, "a swap needs"), ({"question": ""}, "not empty"),
     ({"model": "tiny", "touch": {"latent": 0, "how": "zero"}}, "no latent 0 among 0"),
     ({"model": "nope"}, "does not exist")],
)  # fmt: skip
def test_what_cannot_be_touched(both: Any, body: dict[str, Any], said: str):
    answer = touch(both[0], **body)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]


def test_problems_of_the_task(both: Any):
    url, _ = both
    assert len(httpx.get(f"{url}/v1/problems/tiny", timeout=60).json()["problems"]) == 12
    assert httpx.get(f"{url}/v1/problems/sim_cot", timeout=60).json()["problems"] == []


def test_the_page_is_whole_and_asks_nobody_else(both: Any):
    answer = httpx.get(both[0])
    assert answer.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    seen = parsed(answer.text)
    assert seen.tags.count("script") == 1
    assert not [value for name, value in seen.attributes if name in ("src", "href") and value]
    hostile, _ = page_of([{"name": "<b>\"'&", "method": "x", "latents": 1, "explains": False, "inspected": False}])
    assert "<b>\"'&" not in hostile
    parsed(hostile)


def test_the_inspectors_page_is_linked_where_there_is_one(tmp_path: Path):
    served = thinker("coconut")
    served.model.path = str(tmp_path)
    with running(Service(models=[served])) as url:
        assert httpx.get(f"{url}/inspect/coconut").status_code == 404
        (tmp_path / "inspect-tiny-test").mkdir()
        (tmp_path / "inspect-tiny-test" / "index.html").write_text("<p>seen</p>")
        assert httpx.get(f"{url}/inspect/coconut").text == "<p>seen</p>"
        assert 'data-inspected="True"' in httpx.get(url).text


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def open_page(both: Any, browser: Any):
    """open_page(**context) -> (playwright's page of the server, what its console complained of)."""
    contexts: list[Any] = []

    def start(width: int = 1100, url: str = both[0], **more: Any) -> tuple[Any, list[str]]:
        context = browser._browser.new_context(viewport={"width": width, "height": 1000}, **more)
        contexts.append(context)
        page, problems = context.new_page(), []
        page.set_default_timeout(30_000)
        page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(url) or problems.append(asked.url))
        page.goto(url)
        return page, problems

    yield start
    for context in contexts:
        context.close()


@needs_chromium
def test_a_question_is_asked_and_thought_about(both: Any, open_page: Any):
    """By keyboard: thoughts, the answer, what it cost, words of each latent, and one that is changed."""
    page, problems = open_page()
    page.keyboard.press("Tab")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".each .latent", state="attached")
    want = both[1].answer([QUESTION], explain=True)[0]
    assert page.locator(".thoughts li").count() == len(want.thoughts)
    assert page.locator("article .answer").inner_text() == want.text.strip("\n")
    cost = page.locator(".cost").inner_text()
    assert f"{want.latents} latents" in cost
    assert f"{want.passes} passes" in cost
    assert " ms" in cost
    page.locator("summary").click()
    assert page.locator(".each .latent").count() == want.latents
    assert page.locator(".alike td").count() == want.latents**2
    page.get_by_role("button", name="zero latent 2").click()
    page.wait_for_selector(".becomes.same, .becomes.other")
    changed = touch(both[0], touch={"latent": 1, "how": "zero"}).json()["text"]
    said = page.locator(".becomes:not(:empty)").inner_text()
    assert said == ("zero: the same answer" if changed == want.text else f"zero: {changed}".strip())
    assert problems == []


@needs_chromium
def test_two_models_side_by_side_and_a_problem_of_the_task(open_page: Any):
    page, problems = open_page()
    page.select_option("#model", "tiny")
    page.locator("#example option").nth(1).wait_for(state="attached")
    page.select_option("#example", index=1)
    page.select_option("#beside", "sim_cot")
    page.get_by_role("button", name="Ask").click()
    page.locator(".cost", has_text=" ms").nth(1).wait_for()
    assert page.locator("article .run").count() == 2
    assert problems == []


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_it(open_page: Any, scheme: str):
    page, problems = open_page(width=390, color_scheme=scheme, is_mobile=True, has_touch=True)
    page.fill("#question", QUESTION + " word" * 30)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector(".each .latent", state="attached")
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert problems == []


@needs_chromium
def test_what_goes_wrong_is_told(open_page: Any):
    """In the server's words; a question that spells code is text."""
    page, _ = open_page()
    page.fill("#question", "<img src=x onerror=alert(1)> " + "figs " * 3000)
    page.get_by_role("button", name="Ask").click()
    page.locator(".alarm .cost", has_text="positions").wait_for()
    assert page.locator("article.alarm").count() == 1


@needs_chromium
def test_with_a_key(open_page: Any):
    with running(Service(models=[ServedModel.load("builtin:tiny")]), key="secret") as url:
        page, _ = open_page(url=url)
        page.wait_for_selector("#key", state="visible")
        page.fill("#key", "secret")
        page.fill("#question", QUESTION)
        page.get_by_role("button", name="Ask").click()
        page.locator(".cost", has_text=" ms").wait_for()
        assert "12" in page.locator(".answer").inner_text()
