"""Where sentences end: scripts without spaces, mathematics, prices, abbreviations; and digits of any script."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.digits import plain_digits
from unspoken.core.text.sentences import sentence_bounds


def sentences(text: str) -> list[str]:
    """The sentences as text."""
    return [text[start:end] for start, end in sentence_bounds(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("La Sra. Ruiz tiene ca. 3 kg. Mme. Roux en a 4.", ["La Sra. Ruiz tiene ca. 3 kg.", "Mme. Roux en a 4."]),
        ("小明有3个苹果。他又买了4个。共3+4=7个。", ["小明有3个苹果。", "他又买了4个。", "共3+4=7个。"]),
        ("राम के पास 3 आम हैं। उसने 4 और खरीदे। कुल 7।", ["राम के पास 3 आम हैं।", "उसने 4 और खरीदे।", "कुल 7।"]),
        ("３．５個です。４個！はい？｡そう", ["３．５個です。", "４個！", "はい？｡", "そう"]),
        ("كم تفاحة؟ لديه 3۔ ثم 4.", ["كم تفاحة؟", "لديه 3۔", "ثم 4."]),
        ("他说：“好！”然后走了。", ["他说：“好！”", "然后走了。"]),
        ("共7个.他有3.5个?走了", ["共7个.", "他有3.5个?", "走了"]),
        ("U.S.的人走了。", ["U.S.的人走了。"]),
        ("А. С. Пушкин ушёл. Он купил 3.", ["А. С. Пушкин ушёл.", "Он купил 3."]),
    ],
)
def test_stops_of_other_scripts(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So $x = 4. 5$ is it. Then", ["So $x = 4. 5$ is it.", "Then"]),
        ("So $x = 3.$ Then $y$.", ["So $x = 3.$", "Then $y$."]),
        ("We get \\[\nx = 3. \n\ny = 2. \\]\nThen done.", ["We get \\[\nx = 3. \n\ny = 2. \\]", "Then done."]),
        ("Is \\boxed{5. A {b. C} dog} right. And \\(a. B\\) end.",
         ["Is \\boxed{5. A {b. C} dog} right.", "And \\(a. B\\) end."]),
        ("\\begin{align}\na. B\n\\end{align}\nSo. It", ["\\begin{align}\na. B\n\\end{align}", "So.", "It"]),
        # Prices are no mathematics, and what is never closed is none.
        ("It costs $3. Then $4. She has 5$. He pays 10$. Left.",
         ["It costs $3.", "Then $4.", "She has 5$.", "He pays 10$.", "Left."]),
        ("It is \\$5. Then \\$6. Open \\[ x. Y", ["It is \\$5.", "Then \\$6.", "Open \\[ x.", "Y"]),
        ("\\boxed{open. So", ["\\boxed{open.", "So"]),
        ("Mr. Lee et al. use Eq. 5, e.g. 1.5 of it. See Fig. 3.",
         ["Mr. Lee et al. use Eq. 5, e.g. 1.5 of it.", "See Fig. 3."]),
    ],
)  # fmt: skip
def test_no_sentence_ends_inside_mathematics(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet=st.sampled_from("a 1.$\\[](){}。।\n!？B"), max_size=60))
def test_sentences_hold_every_letter_once_and_in_order(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("piece", ["\\[", "\\a{", "$a ", "$$", "\\begin{a}", "。", "a. ", "\\(a\\)\n"])
def test_long_text_is_read_in_time_that_grows_with_it(piece: str) -> None:
    began = time.perf_counter()
    sentence_bounds(piece * 2000)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("３＋４＝７", "3+4=7"), ("٣٫٥٪", "3.5%"), ("४२", "42"), ("１，０００", "1,000"), ("有3，400个", "有3，400个"),
        ("²½Ⅷ", "²½Ⅷ"),
        ("১২ ๑๒", "12 12"),
    ],
)  # fmt: skip
def test_digits_of_any_script(text: str, expected: str) -> None:
    assert plain_digits(text) == expected
    assert len(plain_digits(text)) == len(text)
