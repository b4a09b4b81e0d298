"""Splitting reasoning into steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.errors import ConfigError
from unspoken.tasks.reading.segment import RULES, drop_annotations, split_steps

NATALIA = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May."
)


def test_markers_keep_their_marks_and_order() -> None:
    assert split_steps(NATALIA, "markers") == ("<<48/2=24>>", "<<48+24=72>>")
    assert split_steps("<<600*30/100=180>> <<a b>>  <<>> << >><<c>>", "markers") == (
        "<<600*30/100=180>>",
        "<<a b>>",
        "<<c>>",
    )
    assert split_steps("no marks", "markers") == ()


def test_lines_are_stripped_and_not_empty() -> None:
    assert split_steps(" one \r\n\n\ttwo\n \n", "lines") == ("one", "two")
    assert split_steps("one\u2028still one\ntwo", "lines") == ("one\u2028still one", "two")


@pytest.mark.parametrize(
    "sentence",
    [
        "It weighs 3.5 pounds.",
        "Each costs $1.50 and he buys 2.",
        "It is .5 of that.",
        "Mr. Lee and Mrs. Smith-Jones met Dr. Who.",
        "He works from 9 a.m. to 5 p.m. every day.",
        "She gave 5 oz. of tea, 3 lbs. of rice, etc. to him.",
        "One side, i.e. the left, has 4 ft. more, e.g. here.",
        "The room has 200 sq. ft. of floor.",
        "Look at No. 5 and Fig. 2 for it.",
        "George R. R. Martin wrote it.",
        "He lives in St. Louis vs. Paris.",
        "Well... maybe not.",
        "1. He buys two.",
    ],
)
def test_a_sentence_stays_whole(sentence: str) -> None:
    assert split_steps(sentence, "sentences") == (sentence,)
    assert split_steps(f"Before it. {sentence}\nAfter it.", "sentences") == ("Before it.", sentence, "After it.")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He has 3. She has 4.", ("He has 3.", "She has 4.")),
        ("It is 3.5. It grows!  Why? Yes", ("It is 3.5.", "It grows!", "Why?", "Yes")),
        ("He left at 5 p.m. She stayed.", ("He left at 5 p.m.", "She stayed.")),
        ('He said "no." She left (late.) Then he came.', ('He said "no."', "She left (late.)", "Then he came.")),
        ("She said no. He left.", ("She said no.", "He left.")),
        ("It was I. He left.", ("It was I.", "He left.")),
        ("Wait... Then 5.", ("Wait...", "Then 5.")),
        ("They buy 1 lb. 2 are left. Done", ("They buy 1 lb. 2 are left.", "Done")),
        ("one\n\ntwo. three", ("one", "two.", "three")),
        ("", ()),
        (" \n ", ()),
    ],
)
def test_sentences(text: str, sentences: tuple[str, ...]) -> None:
    assert split_steps(text, "sentences") == sentences


def test_unknown_rule_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown rule 'line' for splitting steps; did you mean 'lines'"):
        split_steps("text", "line")


@given(st.text())
def test_no_step_is_empty_and_no_text_is_lost(text: str) -> None:
    for rule in RULES:
        assert all(step.strip() for step in split_steps(text, rule))
    for rule in ("lines", "sentences"):
        steps = split_steps(text, rule)
        assert all(step == step.strip() for step in steps)
        assert "".join("".join(steps).split()) == "".join(text.split())


def test_annotations_are_dropped_from_natural_text_only() -> None:
    assert drop_annotations(NATALIA).startswith("Natalia sold 48/2 = 24 clips")
    assert "<<" not in drop_annotations(NATALIA)
    assert drop_annotations("<<48/2=24>> <<48+24=72>>") == "<<48/2=24>> <<48+24=72>>"
