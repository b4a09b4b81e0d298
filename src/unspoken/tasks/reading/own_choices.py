"""Multiple choice in your own data: convert rows with options into questions that list them, with a letter as the answer.

{"question": ..., "choices": ["bank", "library"], "answer": 1}                    the index counts from 0
{"question": ..., "options": {"A": "bank", "B": "library"}, "answer": "B"}
{"question": ..., "choices": {"text": [...], "label": [...]}, "answerKey": "2"}   ARC, CommonsenseQA
{"question": ..., "A": "bank", "B": "library", "answer": "B"}                     columns of a table
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks.reading.rows import question_key
from unspoken.tasks.reading.traces import split_reasoning
from unspoken.tasks.scoring.letters import LETTERS, lettered, options_of, same_text, with_options

OPTIONS = ("choices", "options", "answer_choices", "candidates")
"""Names of the field with a question's options."""

ANSWERS = ("answer", "answerKey", "answer_key", "label", "answer_idx", "answer_index", "correct", "gold", "target")
"""Names of the field with the right option, preferred first."""

_LETTER = re.compile(r"\W*(?P<letter>[A-Ja-j])(?:\W*|[).:]\s.*)", re.DOTALL)


def option_field(row: object) -> str | None:
    """The name of a row's field with options, or None."""
    return next((name for name in OPTIONS if isinstance(row, Mapping) and row.get(name)), None)


def lettered_row(row: object, where: str) -> object:
    """Convert a row so that its question lists the options and its answer is a letter. A row without options is kept.

    Raises:
        DataError: options or answer of an unknown form, or an answer that is not among the options.
    """
    if not isinstance(row, Mapping):
        return row
    stem = row.get("question")
    if isinstance(stem, Mapping) and "stem" in stem:  # {"question": {"stem": ..., "choices": [...]}}, CommonsenseQA's files
        row = {**row, "question": stem["stem"], "choices": stem.get("choices")}
    field = option_field(row)
    columns = [letter for letter in LETTERS if isinstance(row.get(letter), (str, int, float))]
    if field is not None:
        labels, texts = _options(row[field], where, field)
    elif len(columns) > 1 and columns == list(LETTERS[: len(columns)]):
        labels, texts = columns, [str(row[letter]) for letter in columns]
    else:
        return _as_asked(row, where)
    if not 2 <= len(texts) <= len(LETTERS):
        raise DataError(f"{where}: a question needs 2 to {len(LETTERS)} options, got {len(texts)}")
    if not all(text.strip() for text in texts):
        raise DataError(f"{where}: an option is empty, got {texts!r:.60}; give each a text")
    options = lettered([" ".join(text.split()) for text in texts])
    name, reasoning, said = _said(row, where)
    letter = _letter(said, labels, list(options.values()), where, name)
    question = row.get("question")
    if isinstance(question, str) and options_of(question) != options:
        question = with_options(question, options)
    used = {field, name, "question", *(columns if field is None else ())}
    rest = {key: value for key, value in row.items() if key not in used}
    return {**rest, "question": question, "answer": letter, **({"reasoning": reasoning} if reasoning else {})}


def _said(row: Mapping[str, object], where: str) -> tuple[str, str, object]:
    """(field, reasoning, value) of a row's answer."""
    name = next((name for name in ANSWERS if row.get(name) is not None), None)
    if name is None:
        raise DataError(f"{where}: field 'answer' is missing; it says which option is right: a letter, or an index from 0")
    value = row[name]
    if isinstance(value, str):
        reasoning, answer = split_reasoning(value)
        return name, reasoning, answer
    return name, "", value


def _as_asked(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    """A row whose question already lists its options."""
    options = options_of(str(row.get("question")))
    if not options:
        raise DataError(
            f"{where}: no options: answer=letter needs a field 'choices' or 'options', columns A, B, ..., or a question "
            "that lists them, a line each: (A) bank"
        )
    name, reasoning, said = _said(row, where)
    letter = _letter(said, list(options), list(options.values()), where, name)
    rest = {key: value for key, value in row.items() if key != name}
    return {**rest, "answer": letter, **({"reasoning": reasoning} if reasoning else {})}


def _options(value: object, where: str, field: str) -> tuple[list[str], list[str]]:
    """(labels, texts) of a row's options."""
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels):
            return [str(label) for label in labels], [str(text) for text in texts]
        if value and all(isinstance(text, (str, int, float)) for text in value.values()):
            return [str(label) for label in value], [str(text) for text in value.values()]
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        texts = [next((part[key] for key in ("text", "content", "value") if key in part), None) for part in value]
        labels = [next((part[key] for key in ("label", "key", "id") if key in part), None) for part in value]
        if None not in texts:
            return [str(LETTERS[i % 10] if name is None else name) for i, name in enumerate(labels)], [str(t) for t in texts]
    elif isinstance(value, list) and all(isinstance(part, (str, int, float)) for part in value):
        listed = [re.match(r"\(?([A-J])[).:]\s*(?P<text>.+)", str(part), re.DOTALL) for part in value]  # AQuA: "A)125"
        if value and all(match and match[1] == LETTERS[i % 10] for i, match in enumerate(listed)):
            return list(LETTERS[: len(value)]), [match["text"] for match in listed if match]
        return list(LETTERS[: len(value)]), [str(part) for part in value]
    raise DataError(f"{where}: field '{field}' must be a list of texts, or texts by letter, got {value!r:.60}")


def _letter(said: object, labels: list[str], texts: list[str], where: str, name: str) -> str:
    """The letter of the option that an answer names: by label, letter, text or index.

    Raises:
        DataError: it names none, or is ambiguous ("2" among the options 1, 2, 3).
    """
    found: set[int] = set()
    if isinstance(said, float) and said.is_integer():  # a column of indices with gaps
        said = int(said)
    if isinstance(said, int) and not isinstance(said, bool):
        found |= {said} if 0 <= said < len(texts) else set()
        found |= {labels.index(str(said))} if str(said) in labels else set()
        found |= {i for i, text in enumerate(texts) if text.strip() == str(said)}
    elif isinstance(said, str):
        match = _LETTER.fullmatch(said)
        if said.strip() in labels:
            found = {labels.index(said.strip())}
        elif match is not None and match["letter"].upper() in LETTERS[: len(texts)]:
            found = {LETTERS.index(match["letter"].upper())}
        else:
            found = {i for i, text in enumerate(texts) if same_text(text, said)}
            if not found and said.strip().isdecimal() and int(said) < len(texts):
                found = {int(said)}
    if len(found) == 1:
        return LETTERS[found.pop()]
    what = "names several of" if found else "is none of"
    told_of = f"{', '.join(labels)} (indices count from 0)"
    raise DataError(f"{where}: field '{name}' {what} the options: {said!r:.60}; write a letter: {told_of}")


def refuse_unshown(row: object, where: str) -> None:
    """Raise DataError if an answer is the index of an option that the question does not show."""
    field = option_field(row)
    if field is None or not isinstance(row, Mapping):
        return
    said = row.get("answer")
    try:
        texts = _options(row[field], where, field)[1]
    except DataError:
        return
    index = isinstance(said, int) and not isinstance(said, bool) and str(said) not in [text.strip() for text in texts]
    letter = isinstance(said, str) and _LETTER.fullmatch(said) is not None and not any(same_text(t, said) for t in texts)
    if said is None or index or letter:
        raise DataError(
            f"{where}: the answer is one of the options in the field '{field}', which the question does not show; set "
            "task.answer=letter"
        )


def choice_key(example: Example) -> str:
    """The key of a question: its text and its options in sorted order."""
    stem = question_key(re.split(r"\n(?:Options|Choices):?\s*\n", example.question)[0])
    return "|".join([stem, *sorted(question_key(text) for text in options_of(example.question).values())])
