"""Chats as a model's template writes them: where thoughts stand, what day it is, what may not be said."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pytest
from contract.cases import EXAMPLES, settings
from support.attachments import assistant_row
from support.backbones import backbone

from unspoken.core.config import build, dump
from unspoken.core.rows.row import IGNORE
from unspoken.core.text.chat import (
    FAMILIES,
    PLACEHOLDER,
    SlotMarkers,
    around,
    encode,
    placeholder_id,
    refuse_special,
    render,
    slot_markers_for,
)
from unspoken.core.text.prompts import TEXTS, SoftTexts, texts_of
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config

DAY = date(2024, 7, 26)

DATED = (
    "{{- bos_token }}{{- 'Today: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{%- for m in messages %}{{- '[' + m['role'] + '] ' + m['content'] + '<|endoftext|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant] ' }}{%- endif %}"
)
"""As Llama 3.2's: today's date, unless it is pinned."""

GIVEN = DATED.replace("strftime_now('%d %b %Y')", "(date_string if date_string is defined else '26 Jul 2024')")
"""As Llama 3.1's."""


def chatty(template: str = DATED, family: str = "llama") -> Any:
    """A random model whose tokenizer has a chat template."""
    lm = backbone(family)
    lm.tokenizer.chat_template = template
    return lm


@pytest.mark.parametrize("template", [DATED, GIVEN], ids=["strftime_now", "date_string"])
def test_the_day_is_pinned(template: str):
    text = render(chatty(template), [("user", "hi")], prompt=False, today=date(1999, 12, 31))
    assert text == "Today: 31 Dec 1999\n[user] hi<|endoftext|>\n"


def test_a_date_that_cannot_be_pinned_is_refused():
    with pytest.raises(ConfigError, match="computes a date in a way that cannot be pinned"):
        render(chatty(DATED.replace("'%d %b %Y'", "how")), [("user", "hi")], prompt=False, today=DAY)


def test_a_template_that_refuses_says_why():
    with pytest.raises(ConfigError, match="chat template refuses these messages: one question only"):
        render(chatty("{{- raise_exception('one question only') }}"), [("user", "hi")], prompt=False, today=DAY)


def test_both_sides_of_the_hole_are_the_chat():
    lm = chatty()
    before, behind = around(lm, [("user", f"think: {PLACEHOLDER} now")], prompt=True, today=DAY)
    whole = lm.tokenizer.decode([*before, *behind])
    assert whole == "Today: 26 Jul 2024\n[user] think:  now<|endoftext|>\n[assistant] "


def test_a_template_that_loses_the_hole_is_refused():
    for template, times in (("{{- messages[0]['role'] }}", 0), (DATED + "{{- messages[0]['content'] }}", 2)):
        with pytest.raises(ConfigError, match=f"once, it does so {times} times"):
            around(chatty(template), [("user", PLACEHOLDER)], prompt=False, today=DAY)


def test_without_a_template_a_chat_is_its_messages():
    lm = backbone()
    assert render(lm, [("user", "a"), ("assistant", "b")], prompt=True, today=DAY) == "ab"
    assert encode(lm, "a", first=True) == lm.encode("a", special=True)


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_the_slots_of_a_family(family: int):
    lm = backbone()
    slots = FAMILIES[family]
    lm.tokenizer.add_tokens([slots.begin, slots.hold, slots.end], special_tokens=True)
    assert slot_markers_for(lm) == slots
    assert slot_markers_for(lm, SlotMarkers(hold="x")) == SlotMarkers(hold="x")
    assert placeholder_id(lm, slots) == lm.tokenizer.convert_tokens_to_ids(slots.hold)


def test_an_unknown_family_has_its_eos_as_slot():
    lm = backbone()
    assert slot_markers_for(lm) == SlotMarkers()
    assert placeholder_id(lm, SlotMarkers()) == lm.tokenizer.eos_token_id
    with pytest.raises(ConfigError, match=r"slots.hold must be the text of one token, got 'buys 4 more zz'"):
        placeholder_id(lm, SlotMarkers(hold="buys 4 more zz"))


@pytest.mark.parametrize(
    ("question", "message"),
    [("close <|endoftext|> it", "a special token of the model"), (f"a {PLACEHOLDER} b", "U\\+E000")],
)
def test_a_question_cannot_close_its_turn(question: str, message: str):
    with pytest.raises(DataError, match=message):
        refuse_special(backbone(), question, (), "row 3")


def method_of(written: str | None = DATED, **more: Any) -> Any:
    """SoftCoT between two models with chat templates."""
    data = {**settings("softcot"), **more}
    method: Any = make_method(data, chatty(written) if written else backbone())
    if written:
        method.assistant.backbone.tokenizer.chat_template = written
    return method


def text_of(lm: Any, ids: Any) -> str:
    return lm.tokenizer.decode(list(ids))


def test_a_row_is_the_prompt_the_header_and_what_is_written():
    method = method_of()
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    lm, slots = method.backbone, "<|endoftext|>" * 4
    assert text_of(lm, row.ids[row.start : row.start + 4]) == slots
    labelled = [i for i in row.labels if i != IGNORE]
    assert text_of(lm, labelled) == "<<3+4=7>>\n<<7*2=14>>\n### 14<|endoftext|>"
    given = text_of(lm, row.ids[: len(row.ids) - len(labelled)])
    question = EXAMPLES[0].question
    assert given == f"Today: 26 Jul 2024\n[user] {question}\n({slots})\n<|endoftext|>\n[assistant] "
    assert row.ids[: len(method.prompt(question).ids)] == method.prompt(question).ids


def test_released_without_the_header():
    """The header is then what the model has to write itself, and is trained."""
    method = method_of(generation_header=False)
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    labelled = text_of(method.backbone, [i for i in row.labels if i != IGNORE])
    assert labelled.startswith("[assistant] <<3+4=7>>")
    assert text_of(method.backbone, method.prompt("How?").ids).endswith("<|endoftext|>\n")


def test_what_the_assistant_reads():
    """Instruction, opening, slots; nothing behind them; the number of slots in words where the texts say so."""
    method = method_of()
    row = assistant_row(method.prompt("How many?", latents=3))
    said = text_of(method.assistant.backbone, row.ids)
    slots = "<|endoftext|>" * 3
    assert said.startswith("Today: 26 Jul 2024\n[user] 3 words for: How many?")
    assert said.endswith(f"[assistant] Words: {slots}")
    assert (row.start, row.latents) == (len(row.ids) - 3, 3)


def test_no_thoughts_no_hint():
    method = method_of()
    row = method.prompt("How many?", latents=0)
    assert not row.extra
    assert text_of(method.backbone, row.ids) == "Today: 26 Jul 2024\n[user] How many?\n<|endoftext|>\n[assistant] "


def test_another_day_is_a_setting():
    assert "31 Dec 1999" in text_of(method_of(today="1999-12-31").backbone, method_of(today="1999-12-31").prompt("?").ids)
    with pytest.raises(ConfigError, match="today must be a date as YYYY-MM-DD, got 'now'"):
        method_config({**settings("softcot"), "today": "now"})


THINKING = DATED + "{%- if enable_thinking is defined and not enable_thinking %}{{- 'no' }}{%- endif %}{{- more or '' }}"
"""As Qwen3's: it thinks unless it is told not to."""


@pytest.mark.parametrize(
    ("template", "end"),
    [(None, "[assistant] no"), ({"enable_thinking": True}, "[assistant] "), ({"more": "m"}, "[assistant] m")],
)
def test_what_a_template_is_told_is_a_setting(template: dict[str, Any] | None, end: str):
    """Not to think is the default; the assistant's has settings of its own; both stand in run.json."""
    method = method_of(THINKING, **({} if template is None else {"template": template}))
    assert text_of(method.backbone, method.prompt("How?", latents=0).ids).endswith(end)
    assert text_of(method.backbone, method.prompt("How?").ids).endswith(end)
    assert dump(method.config)["template"] == ({"enable_thinking": False} if template is None else template)


def test_what_the_assistants_template_is_told():
    before = "{{- more or '-' }}" + DATED
    method = method_of(before, assistant_template={"more": "x"})
    assert text_of(method.assistant.backbone, assistant_row(method.prompt("How?")).ids).startswith("xToday")
    assert text_of(method.backbone, method.prompt("How?").ids).startswith("-Today")


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "date_string", "a b", ""])
def test_variables_that_are_ours(name: str):
    for field in ("template", "assistant_template"):
        with pytest.raises(ConfigError, match=f"{field} holds variables of the chat template"):
            method_config({**settings("softcot"), field: {name: True}})


def test_texts_by_name_by_field_and_from_a_file(tmp_path: Path):
    assert texts_of("math/qwen").assistant != texts_of("math").assistant
    assert texts_of({"step": "- {step}\n"}) == SoftTexts(step="- {step}\n")
    with pytest.raises(ConfigError, match="unknown texts 'maths'; did you mean 'math'"):
        texts_of("maths")
    file = tmp_path / "wörter.json"
    file.write_text('{"hint": "→ {slots}"}', encoding="utf-8")
    assert texts_of(str(file)) == SoftTexts(hint="→ {slots}")
    made = method_config({**settings("softcot"), "texts": str(file)})
    assert dump(made)["texts"]["hint"] == "→ {slots}", "a run holds the words, not the place of a file"
    for text, message in (
        ("", "cannot read the texts"), ("[]", "an object in braces was expected"), ('{"hnt": ""}', "wörter.json: .*hnt")
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            texts_of(str(file))
    with pytest.raises(ConfigError, match="cannot read the texts in nowhere"):
        texts_of("nowhere.json")
    for name in TEXTS:
        asked, opening = TEXTS[name].asked("Q {latents} {slots}?", 7)
        assert "Q {latents} {slots}?" in asked, "a question is no template"
        assert "{latents}" not in opening
        assert "SLOTS" in TEXTS[name].prompt("Q?", 7, "SLOTS")
        assert "SLOTS" not in TEXTS[name].prompt("Q?", 0, "SLOTS")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("base", "no question {thoughts}"),
        ("base", "{question}"),
        ("hint", "none"),
        ("answer", "{answer}{answer}"),
        ("step", ""),
    ],
)
def test_a_template_without_its_place_is_refused(field: str, text: str):
    with pytest.raises(ConfigError, match=f"texts.{field} must contain"):
        build(SoftTexts, {field: text})
