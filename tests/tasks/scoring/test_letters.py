"""Options in a question, and the letter of an answer: a table of awkward texts, and properties of all texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.example import Example
from unspoken.tasks.scoring.letters import LETTERS, lettered, options_of, same_text, score_letter, with_options

OPTIONS = lettered(["bank", "library", "a dog", "mall", "new york"])
QUESTION = with_options("Where would you go?", OPTIONS)


def triple(text: str, gold: str = "B", question: str = QUESTION) -> tuple[bool, bool, str | None]:
    score = score_letter(Example(question=question, answer=gold), text)
    return score.strict, score.flexible, score.extracted


def test_layout() -> None:
    assert QUESTION == "Where would you go?\nOptions:\n(A) bank\n(B) library\n(C) a dog\n(D) mall\n(E) new york"
    assert options_of(QUESTION) == OPTIONS


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Where?\nChoices:\nA. bank\nB. library\n", {"A": "bank", "B": "library"}),
        ("Where?\nOptions:\n(A) 12/11/1937\n(B) 12/25/1937", {"A": "12/11/1937", "B": "12/25/1937"}),
        ("Question: Where? Choices: A: yell at E B: avoid it C: go", {"A": "yell at E", "B": "avoid it", "C": "go"}),
        ("Where?\nA) 5\nB) 6\nOptions:\nA) 7\nB) 8", {"A": "7", "B": "8"}),  # the last list counts
        ("Where? (A) is not a list", {}),
        ("Where?", {}),
    ],
)
def test_options_are_found(question: str, options: dict[str, str]) -> None:
    assert options_of(question) == options


@given(st.lists(st.from_regex(r"[a-z0-9$%.]{1,6}( [a-z0-9]{1,6}){0,3}", fullmatch=True), min_size=2, max_size=8))
def test_options_come_back_as_they_were_laid_out(texts: list[str]) -> None:
    assert list(options_of(with_options("Which?", lettered(texts))).values()) == texts


@pytest.mark.parametrize(
    "text",
    [
        "#### B",
        "### (B)",
        "The answer is: B",
        "#### B.",
        "#### **B**",
        "#### b",
        "#### B) library",
        "#### (B) library is quiet",
    ]
    + [
        "#### B. library",
        "#### B: library",
        "#### \\boxed{B}",
        "I say A.\n#### B<|endoftext|> A",
        "#### (B), since (A) is not",
    ],
)
def test_strict(text: str) -> None:
    assert triple(text) == (True, True, "B")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(b)",
        "B!",
        "B) library",
        "**B**",
        "library",
        "Library.",
        "the library",
        "#### the library",
        "#### B because it is quiet",
        "#### Option B",
        "The answer is B.",
        "The answer is b",
        "The correct option is (B)",
        "Final answer: **B**",
        "Answer:B",
        "So the answer is\nB",
        "The answer is the library.",
        "The answer is library because it is quiet.",
        "The answer is (B), not (A).",
        "The answer is not A. The answer is B.",
        "The answer is e.g. B",
        "(A) is wrong. (B) is right.",
        "It cannot be A. So B.",
        "A dog would go there, so B",
        "I think B is right",
        "A. bank\nB. library\nlibrary",
        "We choose the library.",
        "\\boxed{\\text{B}}",
    ],
)
def test_flexible(text: str) -> None:
    assert triple(text) == (False, True, "B")


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("#### A dog", "C"),  # an article, and the text of option C
        ("A dog", "C"),
        ("The answer is: A dog", "C"),
        ("#### A cat", None),
        ("A cat sat there", None),
        ("A dog barks in the library and in the mall", None),
        ("The answer is a cat", None),
        ("The answer is: A because it is", "A"),
        ("The answer is A, which is right", "A"),
        ("#### A or B", None),
        ("#### A, B", None),
        ("#### (A) and (B)", None),
        ("#### C\nno, B", "C"),
        ("#### not B", None),
        ("It is not (B)", None),
        ("#### H", None),
        ("E. coli, e.g. some", None),
        ("I am sure", None),
        ("Absolutely", None),
        ("", None),
        ("####", None),
    ],
)
def test_not_b(text: str, extracted: str | None) -> None:
    assert triple(text) == (False, False, extracted)


def test_texts_of_options_are_compared_as_numbers_too() -> None:
    question = with_options("How much?", lettered(["$27.30", "1,000", "15.38%", "42", "None of these"]))
    for text, letter in (
        ("27.3", "A"),
        ("The answer is 1000.", "B"),
        ("15.38", "C"),
        ("The answer is: 42", "D"),
        ("None of these", "E"),
    ):
        assert triple(text, letter, question) == (False, True, letter)
    assert triple("43", "D", question) == (False, False, None)


def test_a_text_that_two_options_have_names_none() -> None:
    question = with_options("Where?", lettered(["home", "shop", "home"]))
    assert triple("home", "A", question) == (False, False, None)
    assert triple("(C) home", "C", question) == (False, True, "C")


def test_a_question_without_options_has_letters_a_to_e() -> None:
    assert triple("#### B", "B", "Which?") == (True, True, "B")
    assert triple("#### F", "F", "Which?")[2] is None


def test_same_text() -> None:
    assert same_text("The dog", "a Dog.")
    assert not same_text("dog", "dogs")


@given(
    st.lists(
        st.sampled_from(
            ["A", "B", "(C)", "D)", "e", "not", "or", "dog", "library", "answer", "is", ":", "####", ".", "\n", "option"]
        )
        | st.text(max_size=4),
        max_size=14,
    )
)
def test_the_rule_is_sane(parts: list[str]) -> None:
    text = " ".join(parts)
    scores = [score_letter(Example(question=QUESTION, answer=letter), text) for letter in LETTERS[:5]]
    assert len({score.extracted for score in scores}) == 1, "what is extracted may not depend on the reference"
    assert scores[0].extracted is None or scores[0].extracted in OPTIONS
    assert sum(score.flexible for score in scores) == (scores[0].extracted is not None)
    assert all(score.flexible or not score.strict for score in scores)
