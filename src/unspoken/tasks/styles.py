"""Rows as other data sets write them, turned into rows with `question`, `answer` and `steps` or `reasoning`. Pure functions.

math             problem, solution, and answer or \\boxed{...} in the solution (Hendrycks et al. 2021); split the
                 solution with the task's rule: latex, sentences, lines, numbered
hotpotqa         question, answer, context, supporting_facts (Yang et al. 2018): the steps are the supporting
                 sentences, and the passages stand before the question
hotpotqa_closed  the same without the passages
chat             messages, the last of them the assistant's; nanochat's parts of type python and python_output become
                 tool calls; "#### 18" at the end is the answer
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from unspoken.errors import DataError

Style = Literal["plain", "math", "hotpotqa", "hotpotqa_closed", "chat"]
Fields = Mapping[str, Any]

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?P<brace>\{)?")
_PARTS = {
    "text": "{}",
    "python": "<|python_start|>{}<|python_end|>",
    "python_output": "<|output_start|>{}<|output_end|>",
}


def restyled(row: Any, where: str, style: Style) -> Any:
    """A row of a style as a plain one.

    Args:
        row: the row, unchecked.
        where: where it stands, for messages.
        style: which data set it looks like; "plain" changes nothing.

    Raises:
        DataError: a field that the style needs is missing or of another form.
    """
    return row if style == "plain" else _STYLES[style](row, where)


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...} of a solution, inner braces included; None where there is none."""
    matches = list(_BOXED.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    if last["brace"] is None:  # "\boxed 5"
        word = re.compile(r"[^\s$.,]+").match(text, last.end())
        return word[0] if word else None
    depth = 1
    for at in range(last.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[last.end() : at].strip() or None
    return None


def _math(row: Any, where: str) -> Fields:
    problem, solution = _field(row, "problem", where), _field(row, "solution", where)
    answer = row.get("answer")
    if answer is None:
        answer = boxed(str(solution))
        if answer is None:
            raise DataError(f"{where}: field 'solution' has no \\boxed{{...}} and there is no field 'answer'; add one")
    return {**_rest(row, "problem", "solution"), "question": problem, "reasoning": solution, "answer": answer}


def _hotpotqa(row: Any, where: str) -> Fields:
    plain = _hotpotqa_closed(row, where)
    passages = [f"{title}: {' '.join(part.strip() for part in sentences)}" for title, sentences in _context(row, where)]
    return {**plain, "question": "\n".join([*passages, plain["question"]])}


def _hotpotqa_closed(row: Any, where: str) -> Fields:
    passages = dict(_context(row, where))
    facts = _pairs(_field(row, "supporting_facts", where), "title", "sent_id", where, "supporting_facts")
    # Some published rows name a sentence that their passage does not have.
    steps = [passages[t][n].strip() for t, n in facts if t in passages and isinstance(n, int) and 0 <= n < len(passages[t])]
    rest = _rest(row, "context", "supporting_facts")
    return {**rest, "question": _field(row, "question", where), "answer": _field(row, "answer", where), "steps": steps}


def _context(row: Any, where: str) -> list[tuple[str, list[str]]]:
    return _pairs(_field(row, "context", where), "title", "sentences", where, "context")


def _pairs(value: Any, first: str, second: str, where: str, field: str) -> list[tuple[Any, Any]]:
    """[[a, b], ...] as in the original files, or {first: [a, ...], second: [b, ...]} as on the hub."""
    try:
        if isinstance(value, Mapping):
            return list(zip(value[first], value[second], strict=True))
        return [(a, b) for a, b in value]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: field '{field}' must be pairs, or an object with '{first}' and '{second}', got {value!r:.60}"
        ) from None


def _chat(row: Any, where: str) -> Fields:
    messages = row if isinstance(row, list) else _field(row, "messages", where)
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in messages):
        raise DataError(f"{where}: messages must be a list of objects with 'role' and 'content', got {messages!r:.60}")
    if [m["role"] for m in messages if m["role"] != "system"] != ["user", "assistant"]:
        roles = ", ".join(str(m["role"]) for m in messages)
        raise DataError(f"{where}: expected one message of the user and one of the assistant, got: {roles or 'none'}")
    *asked, said = messages
    question = "\n\n".join(_content(message["content"], where) for message in asked)
    rest = _rest(row, "messages") if isinstance(row, Mapping) else {}
    return {**rest, "question": question, "answer": _content(said["content"], where)}


def _content(content: Any, where: str) -> str:
    """A message's text, its parts joined."""
    if isinstance(content, str):
        return content
    try:
        return "".join(_PARTS[part["type"]].format(part["text"]) for part in content)
    except (KeyError, TypeError):
        kinds = ", ".join(_PARTS)
        raise DataError(
            f"{where}: a message's content must be text or a list of parts of type {kinds}, got {content!r:.60}"
        ) from None


def _field(row: Any, name: str, where: str) -> Any:
    if not isinstance(row, Mapping) or row.get(name) is None:
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise DataError(f"{where}: field '{name}' is missing; the row has: {got or 'nothing'}; is task.style right?")
    return row[name]


def _rest(row: Fields, *used: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in used}


_STYLES: dict[str, Callable[[Any, str], Fields]] = {
    "math": _math,
    "hotpotqa": _hotpotqa,
    "hotpotqa_closed": _hotpotqa_closed,
    "chat": _chat,
}
