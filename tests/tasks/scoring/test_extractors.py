"""Named extractors on hard texts: what each of them calls right, and properties of all texts."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from hypothesis import example as always
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks.scoring.extractors import EXTRACTORS, extractor, judge, kind_of
from unspoken.tasks.scoring.letters import score_letter

HAS_MATH = importlib.util.find_spec("math_verify") is not None
LETTERS = {"S": "strict", "F": "flexible", "c": "paper:coconut", "d": "paper:codi", "o": "paper:softcot",
           "h": "lm-eval:strict", "l": "lm-eval:flexible"}  # fmt: skip

# (what the model wrote, the reference, the rules that call it right by their letter above, is it right for math-verify)
CASES = [
    # marks
    ("#### 18", "18", "SFcdohl", True),
    ("### 18", "18", "SFcdol", True),
    ("# 18", "18", "Fcdol", True),
    ("####18", "18", "SFcdol", False),
    ("The answer is: 18", "18", "SFdol", True),
    ("The answer is 18", "18", "Fdol", True),
    ("18", "18", "Fdol", True),
    ("<<9*2=18>>\n### 18<|endoftext|>", "18", "SFcdol", True),
    ("#### 18</s>", "18", "SFcdohl", True),
    ("#### 3\n#### 18", "18", "SFcdol", True),
    ("#### 18\n#### 3", "18", "h", False),
    ("#### 18 is the answer to question 2", "18", "Fh", False),
    ("#### 18\nQuestion: What is 3?", "18", "SFhl", False),
    ("#### 18\nThat took 2 steps.", "18", "SFh", False),
    ("18 ####", "18", "Fdol", True),
    ("", "18", "", False),
    ("####", "18", "", False),
    ("I do not know.", "18", "", False),
    ("#### eighteen", "18", "", False),
    # signs
    ("#### -5", "-5", "SFcdhl", True),
    ("#### -5", "5", "o", False),
    ("#### 5", "-5", "", False),
    ("#### - 5", "-5", "SF", False),
    ("#### +5", "5", "SFdol", False),
    ("#### \u22125", "-5", "SF", False),
    ("10-5", "5", "Fo", True),
    ("10-15 = -5", "-5", "Fdl", True),
    ("#### -0", "0", "SFdo", True),
    # commas and digit groups
    ("#### 1,450,000", "1450000", "SFcdohl", True),
    ("#### 1,450,000", "1,450,000", "SFcdohl", True),
    ("#### 1450000", "1,450,000", "SFcdohl", True),
    ("#### 1 450 000", "1450000", "SF", True),
    ("3,4 and 18", "18", "Fdol", True),
    ("the numbers 1,2,3", "3", "F", False),
    ("#### 18,", "18", "Fcdohl", True),
    # decimals
    ("#### 18.0", "18", "SFdo", True),
    ("#### 18.00", "18", "SFdo", True),
    ("#### 18.", "18", "SFdohl", True),
    ("It is 18.", "18", "Fdol", True),
    ("#### 2.5", "2.5", "SFcdohl", True),
    ("#### 2.50", "2.5", "SFdo", True),
    ("#### .5", "0.5", "SF", True),
    ("#### 0.125", "0.125", "SFcdhl", True),
    ("#### 0.33333", "0.33", "o", False),
    ("#### 1e3", "1000", "", False),
    ("#### 100000000000000000001", "100000000000000000000", "do", False),
    ("3.14.15", "15", "Fdo", False),
    # money and units
    ("#### $18", "18", "SFdol", True),
    ("#### $ 18", "18", "Fdol", True),
    ("#### -$18", "-18", "SFl", False),
    ("#### $-18", "-18", "SFdl", True),
    ("#### 18 dollars", "18", "Fdohl", True),
    ("#### 18kg", "18", "Fdohl", True),
    ("#### \u20ac18", "18", "SFdol", True),
    ("#### 18 (eighteen)", "18", "Fdohl", True),
    ("She has 18 eggs left.", "18", "Fdol", True),
    # percentages
    ("#### 50%", "50", "SFdohl", True),
    ("#### 50 %", "50", "SFdohl", True),
    ("#### 0.5", "50", "", False),
    ("#### 50\\%", "50", "SFdohl", True),
    # fractions
    ("#### 3/4", "0.75", "", True),
    ("#### 3/4", "4", "dol", False),
    ("#### 1/2", "2", "dol", False),
    ("#### 6/3", "2", "", True),
    ("#### 1 1/2", "1.5", "", False),
    # boxed, Markdown and LaTeX
    ("The answer is $\\boxed{18}$.", "18", "Fdo", True),  # lm-eval: "$.",
    ("\\boxed{18}. This uses Step 2.", "18", "", True),
    ("$\\boxed{-18}$", "-18", "Fdl", True),
    ("\\boxed{1{,}450}", "1450", "F", True),
    ("**18**", "18", "Fdol", True),
    ("#### **18**", "18", "Fdol", True),
    ("\\boxed{\\frac{3}{4}}", "0.75", "", True),
    # several numbers
    ("16 - 3 - 4 = 9, 9 * 2 = 18", "18", "Fdol", True),
    ("First 18, then 3", "18", "", False),
    ("3 of the 18", "18", "Fdol", True),
    ("#### 17 or 18", "18", "dol", True),
    ("#### 18 or 17", "18", "Fh", False),
    # letters in words, other digits
    ("A4 paper: 18 sheets", "18", "Fdol", True),
    ("#### x = 18", "18", "Fdol", True),
    ("#### 018", "18", "SFdo", True),
    ("#### \u0661\u0668", "18", "SFdo", False),
    ("#### 18<|eot_id|>128009", "18", "SFh", False),
]  # fmt: skip


def asked(answer: str) -> Example:
    return Example(question="How many?", answer=answer, id="test-1")


@pytest.mark.parametrize(("text", "gold", "right", "math"), CASES)
def test_hard_cases(text: str, gold: str, right: str, math: bool):
    said = "".join(letter for letter, name in LETTERS.items() if judge(name, asked(gold), text).right)
    assert said == right
    if HAS_MATH:
        assert judge("math-verify", asked(gold), text).right is math


# What is found, where the verdict alone would not show it
@pytest.mark.parametrize(
    ("name", "text", "gold", "found"),
    [
        ("strict", "so 17\n#### 18", "1", "18"),
        ("strict", "so it is 17", "1", "17"),  # what a vote reads: never by the reference
        ("flexible", "#### 1/2", "1", "1/2"),
        ("paper:coconut", "a # b # 1,8 c", "1", "18 c"),
        ("paper:coconut", "18", "18", None),
        ("paper:codi", "about 18.", "1", "18"),
        ("paper:codi", "1,000 - 1", "1", "1"),
        ("paper:codi", "none", "1", None),
        ("paper:softcot", "minus -2.50%", "1", "2.50"),
        ("lm-eval:strict", "#### 1,000. and #### 2", "1", "1,000."),
        ("lm-eval:flexible", "costs $12.", "1", "$12."),
        ("lm-eval:flexible", "12 Question: 13", "1", "12"),
    ],
)
def test_what_is_found(name: str, text: str, gold: str, found: str | None):
    assert judge(name, asked(gold), text).extracted == found


@pytest.mark.parametrize(
    ("text", "gold", "codi", "softcot"),
    [
        ("The answer is: B", "B", True, True),
        ("The answer is:B", "B", True, True),
        ("The answer is: A\nThe answer is: B", "B", True, True),
        ("(B) is right", "B", False, True),  # CODI: no mark, "(" is no option, so C
        ("I give up", "C", True, False),
        ("The answer is: F", "C", True, False),
        ("The answer is: 2, so B", "B", False, True),  # CODI: a digit, so a number
        ("boxed{C}. This is a good result.", "A", False, True),  # SoftCoT: the article
        ("boxed{C}. This is a good result.", "C", True, False),
    ],
)
def test_letters_as_the_papers_read_them(text: str, gold: str, codi: bool, softcot: bool):
    said = [judge(name, asked(gold), text, score_letter).right for name in ("paper:codi", "paper:softcot")]
    assert said == [codi, softcot]


def test_yes_and_no_as_softcot_reads_them():
    assert judge("paper:softcot", asked("no"), "Yes, there is no doubt.").right
    assert judge("paper:softcot", asked("Yes"), "No. I mean YES").right
    assert judge("paper:softcot", asked("false"), "so no").right
    assert not judge("paper:softcot", asked("no"), "I know nothing").right


def test_strict_and_flexible_are_the_tasks_own_rules():
    question = Example(question="Which?\nOptions:\nA) 1\nB) 2", answer="B")
    assert judge("strict", question, "### (B) 2", score_letter).right
    assert not judge("strict", question, "### (B) 2").right  # by the rule for numbers
    assert judge("flexible", question, "so it is B", score_letter).right


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("18", "number"), ("$1,000.50", "number"), ("50%", "number"), ("B", "letter"), ("(b)", "text"), ("Yes", "verdict"),
     ("false", "verdict"), ("3/4", "text"), ("Tom is a lempus.", "text"), ("K", "text")],
)  # fmt: skip
def test_kinds_of_answers(answer: str, kind: str):
    assert kind_of(answer) == kind


def test_a_rule_for_other_answers_is_refused():
    with pytest.raises(
        ConfigError, match=r"'lm-eval:strict' reads answers of kind number, but .* of 'test-1' is 'B' \(letter\)"
    ):
        judge("lm-eval:strict", asked("B"), "B")
    with pytest.raises(ConfigError, match=r"number or letter or verdict, but .*'Tom is a lempus' .*use strict or flexible"):
        judge("paper:softcot", asked("Tom is a lempus"), "B")


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="unknown extractor 'papercodi'; did you mean 'paper:codi'"):
        extractor("papercodi")


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        ConfigError, match=r"needs the package math-verify, which is not installed; pip install 'unspoken\[math\]'"
    ):
        extractor("math-verify")


# Properties

NAMES = [name for name in EXTRACTORS if name != "math-verify"]
NUMBERS = st.integers(-(10**12), 10**12)
TEXT = st.text(st.sampled_from("0123456789-+.,/%$# \n{}\\abAnsweris:ybox\u2212\u0661€<|>")) | st.text()


@given(text=TEXT, gold=st.sampled_from(["18", "-3", "0.5", "1,000"]))
@always(text="9" * 5000, gold="18")
@always(text="-" * 5000, gold="18")
@always(text="\ud83d", gold="18")
def test_no_text_is_too_odd(text: str, gold: str):
    """Nothing raises, nothing is extracted from nothing, and what is found is right or wrong, not both."""
    for name in NAMES:
        verdict = judge(name, asked(gold), text)
        assert isinstance(verdict.right, bool)
        assert not (verdict.right and verdict.extracted is None)


@given(text=TEXT, golds=st.lists(NUMBERS.map(str), min_size=2, max_size=2))
def test_what_is_found_does_not_depend_on_the_reference(text: str, golds: list[str]):
    for name in NAMES:
        first, second = (judge(name, asked(gold), text).extracted for gold in golds)
        assert first == second


@given(number=NUMBERS, before=st.sampled_from(["", "So 3 + 4.\n", "x = 5,\n"]))
def test_every_rule_reads_the_plain_form(number: int, before: str):
    """ "#### n" is right by every rule, but by SoftCoT's where n is negative; and another number is wrong by every rule."""
    text = f"{before}#### {number}"
    for name in NAMES:
        assert judge(name, asked(str(number)), text).right is (name != "paper:softcot" or number >= 0)
        assert not judge(name, asked(str(abs(number) + 1)), text).right


@given(number=NUMBERS)
def test_commas_do_not_matter_behind_a_mark(number: int):
    for name in NAMES:
        plain, grouped = (judge(name, asked(str(number)), f"#### {form}").right for form in (str(number), f"{number:,}"))
        assert plain is grouped


@given(number=st.decimals(-(10**6), 10**6, places=3), zeros=st.integers(1, 3))
def test_closing_zeros_matter_to_those_who_compare_strings(number, zeros: int):
    text, gold = f"#### {number:f}{'0' * zeros}", f"{number:f}"
    for name, right in (("strict", True), ("flexible", True), ("paper:codi", True), ("paper:coconut", False),
                        ("lm-eval:strict", False), ("lm-eval:flexible", False)):  # fmt: skip
        assert judge(name, asked(gold), text).right is right, name


@given(text=TEXT)
def test_strict_implies_flexible(text: str):
    for gold in ("18", "3"):
        assert judge("flexible", asked(gold), text).right or not judge("strict", asked(gold), text).right


# The harness's own filters and metric, where it is installed


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_the_harness_agrees_with_us_on_every_case():
    from pathlib import Path

    import lm_eval  # pyright: ignore[reportMissingImports]
    import yaml
    from lm_eval.api.metrics import exact_match_fn  # pyright: ignore[reportMissingImports]
    from lm_eval.filters.extraction import RegexFilter  # pyright: ignore[reportMissingImports]

    path = Path(str(lm_eval.__file__)).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    config = yaml.safe_load(path.read_text())
    options = {k: v for k, v in config["metric_list"][0].items() if k in ("ignore_case", "regexes_to_ignore")}
    for ours, theirs in zip(("lm-eval:strict", "lm-eval:flexible"), config["filter_list"], strict=True):
        settings = {k: v for k, v in theirs["filter"][0].items() if k != "function"}
        for text, gold, *_ in CASES:
            until = [text.find(stop) for stop in config["generation_kwargs"]["until"] if stop in text]
            said = text[: min(until)] if until else text
            ((found,),) = RegexFilter(**settings).apply([[said]], [{}])
            score = exact_match_fn(predictions=[found], references=[f"9 * 2 = 18\n#### {gold}"], **options)
            assert judge(ours, asked(gold), text).right is bool(score["exact_match"]), (ours, text, gold)
