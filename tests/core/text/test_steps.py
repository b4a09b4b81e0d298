"""Steps inside texts: every rule on what it is for, and what it must not take."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.finders import finder
from unspoken.core.text.steps import RULES
from unspoken.errors import ConfigError

NATALIA = "She sold 48/2 = <<48/2=24>>24 clips.\nTogether 48+24 = <<48+24=72>>72 clips."


def found(rule: str, text: str) -> list[tuple[str, str | None]]:
    """(step, result) of each span."""
    return [(text[s.start : s.end], text[slice(*s.result)] if s.result else None) for s in finder(rule)(text)]


@pytest.mark.parametrize(
    ("rule", "text", "steps"),
    [
        ("markers", NATALIA, [("<<48/2=24>>", "24"), ("<<48+24=72>>", "72")]),
        ("markers", "<<>> << >> <<a b>> <<1=1= 2 >>", [("<<a b>>", None), ("<<1=1= 2 >>", "2")]),
        ("lines", " one = 1.\n\n two\r\n", [("one = 1.", "1"), ("two", None)]),
        ("sentences", "He has 3. So 3+1 = 4.5. Done", [("He has 3.", None), ("So 3+1 = 4.5.", "4.5"), ("Done", None)]),
        ("numbered", "Thus:\nStep 1: add, 3+4 = 7\nmore\nStep 2: 7*2=14.", [("Step 1: add, 3+4 = 7\nmore", "7"),
                                                                             ("Step 2: 7*2=14.", "14")]),
        ("numbered", "1. Add 2.5 to it.\n  2) Halve it.\n(3) Stop. 4. no", [("1. Add 2.5 to it.", None),
                                                                           ("2) Halve it.", None),
                                                                           ("(3) Stop. 4. no", None)]),
        ("numbered", "**Step 1**: a\n## Step 2 b", [("**Step 1**: a", None), ("## Step 2 b", None)]),
        ("numbered", "2.5 is no number of a line\n3 pens", []),
        ("equations", "so 48/2 = 24 clips, 3 x 4 = 12 and $1,500 * (2 + 1) = $4,500.", [
            ("48/2 = 24", "24"), ("3 x 4 = 12", "12"), ("$1,500 * (2 + 1) = $4,500", "$4,500")]),
        ("equations", "x = 5, 5 = 5, in 2009-2010 she was 7", []),
        ("equations", "共3+4=7个，又３＋４＝７個", [("3+4=7", "7"), ("３＋４＝７", "７")]),
        ("equations", "कुल3+4=7हैं। ٣+٤=٧ تفاحات; (3+4)×2=14개", [("3+4=7", "7"), ("٣+٤=٧", "٧"), ("(3+4)×2=14", "14")]),
        ("equations", "x3+4=7, é3+4=7, π3+4=7", []),
        ("sentences", "共3+4=7个苹果。又 = ७।", [("共3+4=7个苹果。", "7"), ("又 = ७।", "७")]),
        ("numbered", "1、加\n第2步：乘\n步骤3 x\n（4）好", [
            ("1、加", None), ("第2步：乘", None), ("步骤3 x", None), ("（4）好", None)]),
        ("equations", "2+3 = 5 = 10/2", [("2+3 = 5 = 10/2", "10/2")]),
        ("latex", r"So $x+1$ and $x^2 = 4$, thus \[x \le 2.\] \begin{align*}a&=b\\&=c\end{align*} [asy]x=1[/asy]", [
            ("$x^2 = 4$", "4"), (r"\[x \le 2.\]", None), (r"\begin{align*}a&=b\\&=c\end{align*}", "c")]),
        ("latex", r"It costs \$5 = five, or \$6.", []),
        ("tool_calls", "a <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24.", [
            ("<|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>", "24")]),
        ("tool_calls", "<tool_call>\n{}\n</tool_call>\n<tool_response> 7 </tool_response>", [
            ("<tool_call>\n{}\n</tool_call>\n<tool_response> 7 </tool_response>", "7")]),
        ("tool_calls", "```py\nprint(1)\n```\n```output\n1\n```", [("```py\nprint(1)\n```\n```output\n1\n```", "1")]),
        ("tool_calls", "has [Calculator(3+(4)) -> 7] pens [1] [see (2)]", [("[Calculator(3+(4)) -> 7]", "7")]),
        (r"regex:do (\w+)(?: gives (?P<result>\d+))?", "do a gives 4, do sub", [("do a gives 4", "4"), ("do sub", None)]),
        ("numbered", "ধাপ ১: ৩ + ৪\nধাপ ২: ৭", [("ধাপ ১: ৩ + ৪", None), ("ধাপ ২: ৭", None)]),
        ("numbered", "ขั้นตอนที่ 1: ก\nขั้นที่ 2: ข", [("ขั้นตอนที่ 1: ก", None), ("ขั้นที่ 2: ข", None)]),
        ("numbered", "الخطوة ١: أ\nالخطوة ٢: ب", [("الخطوة ١: أ", None), ("الخطوة ٢: ب", None)]),
        ("numbered", "مرحله ۱: آ\nگام ۲: ب", [("مرحله ۱: آ", None), ("گام ۲: ب", None)]),
        ("numbered", "Шаг 1: а\nШаг 2: б", [("Шаг 1: а", None), ("Шаг 2: б", None)]),
        ("numbered", "①加\n②乘", [("①加", None), ("②乘", None)]),
        ("equations", r"So 3 \times 4 = 12 and 12 \div 2 = 6.", [(r"3 \times 4 = 12", "12"), (r"12 \div 2 = 6", "6")]),
        ("equations", "1\u00a0200 + 3 = 1\u00a0203 g", [("1\u00a0200 + 3 = 1\u00a0203", "1\u00a0203")]),
    ],
)  # fmt: skip
def test_rules(rule: str, text: str, steps: list[tuple[str, str | None]]) -> None:
    assert found(rule, text) == steps


@given(
    st.text(alphabet=st.sampled_from("<>=1234+*. \n()$\\{}|[]aSteppython_`"), max_size=80), st.sampled_from(sorted(RULES))
)
def test_spans_come_in_order_without_overlap_and_hold_their_result(text: str, rule: str) -> None:
    at = 0
    for span in RULES[rule](text):
        assert at <= span.start < span.end <= len(text)
        assert text[span.start : span.end].strip()
        if span.result is not None:
            assert span.start <= span.result[0] < span.result[1] <= span.end
            assert text[slice(*span.result)].strip()
        at = span.end


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("piece", ["1+", "1,234 ", "<<", "$", "(", "\\[", "a. ", "1. ", "<|python_start|>", "[a(", "\n"])
def test_long_text_is_read_in_time_that_grows_with_it(rule: str, piece: str) -> None:
    began = time.perf_counter()
    RULES[rule](piece * 2000)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("marker", r"unknown rule 'marker' for finding steps; did you mean 'markers'"),
        ("regex:(", r"rule 'regex:\(' for finding steps: .*; give a regular expression of Python"),
        (
            "learned:nowhere.json",
            r"no step tagger at nowhere.json: .*; make one: unspoken learn-steps TASK --out nowhere.json",
        ),
        ("regex:", r"unknown rule 'regex:'"),
    ],
)
def test_unknown_rules(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        finder(rule)
