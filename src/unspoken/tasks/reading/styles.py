"""Convert rows of well-known layouts into rows with `question`, `answer` and `steps` or `reasoning`.

math             problem, solution, and answer or \\boxed{...} in the solution (Hendrycks et al. 2021); split the
                 solution with the task's rule: latex, sentences, lines, numbered
hotpotqa         question, answer, context, supporting_facts (Yang et al. 2018): the steps are the supporting
                 sentences, and the passages stand before the question
hotpotqa_closed  the same without the passages
chat             messages, the last of them the assistant's; nanochat's parts of type python and python_output become
                 tool calls; "#### 18" at the end is the answer
sharegpt         conversations of from and value, else as chat
alpaca           instruction, input (may be empty), output
completion       prompt and completion, as texts or as messages
openr1           problem, solution, answer, generations (OpenR1-Math): the reasoning is the first generation that is whole
                 and right, else the solution
metamath         query and response, "... The answer is: 18" (MetaMathQA)

In an assistant's message, a reasoning trace (<think>, `reasoning_content`, ...) is the reasoning, and the answer is
searched after it; see `tasks/reading/traces.py`. A field `answer` of the row takes precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from unspoken.errors import DataError
from unspoken.tasks.reading.rows import REASONING, reasoning_field
from unspoken.tasks.reading.traces import boxed, read_trace, split_reasoning, untagged
from unspoken.tasks.scoring.answers import equal

Style = Literal[
    "plain", "math", "hotpotqa", "hotpotqa_closed", "chat", "sharegpt", "alpaca", "completion", "openr1", "metamath"
]  # fmt: skip
Fields = Mapping[str, object]

_PARTS = {
    "text": "{}",
    "python": "<|python_start|>{}<|python_end|>",
    "python_output": "<|output_start|>{}<|output_end|>",
}
_THOUGHTS = ("reasoning", "thinking", "thought")  # parts of a message that are no part of what is said
_SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
FIELDS: Mapping[str, tuple[str, ...]] = {
    "chat": ("messages",), "sharegpt": ("conversations",), "openr1": ("problem", "generations"),
    "math": ("problem", "solution"), "alpaca": ("instruction", "output"), "completion": ("prompt", "completion"),
    "metamath": ("query", "response"), "hotpotqa": ("question", "answer", "context", "supporting_facts"),
}  # fmt: skip
"""The fields by which a style is recognised."""


def restyled(row: object, where: str, style: Style) -> object:
    """Convert a row of a style to a plain row.

    Args:
        row: the row, unchecked.
        where: its place, for messages.
        style: the layout; "plain" changes nothing.

    Raises:
        DataError: a field that the style needs is missing or of another form.
    """
    if style == "plain":
        return row
    if style in _TALKS:
        return _TALKS[style](row, where)
    first = FIELDS[style.removesuffix("_closed")][0]
    return _STYLES[style](_with_field(row, first, where), where)


def _math(row: Fields, where: str) -> Fields:
    problem, solution = _field(row, "problem", where), _field(row, "solution", where)
    answer = row.get("answer")
    if answer is None:
        answer = boxed(str(solution))
        if answer is None:
            raise DataError(f"{where}: field 'solution' has no \\boxed{{...}} and there is no field 'answer'; add one")
    return {**_rest(row, "problem", "solution"), "question": problem, "reasoning": solution, "answer": answer}


def _hotpotqa(row: Fields, where: str) -> Fields:
    plain = _hotpotqa_closed(row, where)
    passages = [f"{title}: {' '.join(part.strip() for part in sentences)}" for title, sentences in _context(row, where)]
    return {**plain, "question": "\n".join([*passages, str(plain["question"])])}


def _hotpotqa_closed(row: Fields, where: str) -> Fields:
    passages = dict(_context(row, where))
    facts = _pairs(_field(row, "supporting_facts", where), "title", "sent_id", where, "supporting_facts")
    # Some published rows name a sentence that their passage does not have.
    steps = [passages[t][n].strip() for t, n in facts if t in passages and isinstance(n, int) and 0 <= n < len(passages[t])]
    rest = _rest(row, "context", "supporting_facts")
    return {**rest, "question": _field(row, "question", where), "answer": _field(row, "answer", where), "steps": steps}


def _context(row: Fields, where: str) -> list[tuple[str, list[str]]]:
    return _pairs(_field(row, "context", where), "title", "sentences", where, "context")


def _pairs(value: object, first: str, second: str, where: str, field: str) -> list[tuple[Any, Any]]:
    """[[a, b], ...] as in the original files, or {first: [a, ...], second: [b, ...]} as on the hub."""
    try:
        if isinstance(value, Mapping):
            return list(zip(value[first], value[second], strict=True))
        if isinstance(value, (list, tuple)):
            return [(a, b) for a, b in value]
        raise TypeError
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: field '{field}' must be pairs, or an object with '{first}' and '{second}', got {value!r:.60}"
        ) from None


def _chat(row: object, where: str) -> Fields:
    messages = row if isinstance(row, list) else _field(row, "messages", where)
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in messages):
        raise DataError(f"{where}: messages must be a list of objects with 'role' and 'content', got {messages!r:.60}")
    if [m["role"] for m in messages if m["role"] not in ("system", "developer")] != ["user", "assistant"]:
        roles = ", ".join(str(m["role"]) for m in messages)
        raise DataError(f"{where}: expected one message of the user and one of the assistant, got: {roles or 'none'}")
    *asked, said = messages
    question = "\n\n".join(text for message in asked if (text := _content(message["content"], where)))
    rest = _rest(row, "messages") if isinstance(row, Mapping) else {}
    beside = reasoning_field(said, REASONING)
    thought = "" if beside is None or not isinstance(said[beside], str) else said[beside]
    return _answered(rest, question, _content(said["content"], where), thought or _thought_parts(said["content"]), where)


def _content(content: object, where: str) -> str:
    """A message's text: its parts joined, without reasoning traces."""
    if isinstance(content, str):
        return content
    try:
        if not isinstance(content, Iterable):
            raise TypeError
        return "".join(_PARTS[part["type"]].format(part["text"]) for part in content if part["type"] not in _THOUGHTS)
    except (KeyError, TypeError):
        kinds = ", ".join(_PARTS)
        raise DataError(
            f"{where}: a message's content must be text or a list of parts of type {kinds}, got {content!r:.60}"
        ) from None


def _thought_parts(content: object) -> str:
    """The text of a message's reasoning parts."""
    parts = [part for part in content if part["type"] in _THOUGHTS] if isinstance(content, list) else []
    said = (next((part[key] for key in ("text", *_THOUGHTS) if isinstance(part.get(key), str)), "") for part in parts)
    return "\n".join(filter(None, said))


def _answered(rest: Fields, question: object, said: str, thought: str, where: str) -> Fields:
    """A plain row from an assistant's message; an `answer` or reasoning of the row itself takes precedence."""
    reasoning, answer = split_reasoning(said)
    own = rest.get("answer")
    if own is not None:
        whole = untagged(said)
        reasoning, answer = reasoning or (whole if whole.strip() != str(own).strip() else ""), own
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        raise DataError(
            f"{where}: no answer behind the reasoning ({said.strip()[-40:]!r}); give a field 'answer', or drop the row"
        )
    plain = {**_rest(rest, "answer"), "question": question, "answer": answer}
    reasoning = untagged(thought) or reasoning
    return plain | ({"reasoning": reasoning} if reasoning and reasoning_field(rest) is None else {})


def _sharegpt(row: object, where: str) -> Fields:
    turns = row if isinstance(row, list) else _field(row, "conversations", where)
    if not isinstance(turns, list) or not all(isinstance(t, Mapping) for t in turns):
        raise DataError(f"{where}: conversations must be a list of objects with 'from' and 'value', got {turns!r:.60}")
    messages = []
    for turn in turns:
        who, what = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if who is None or what is None:
            raise DataError(f"{where}: a turn of a conversation needs 'from' and 'value', got {turn!r:.60}")
        messages.append(
            {**_rest(turn, "from", "value"), "role": _SPEAKERS.get(str(who).lower(), str(who).lower()), "content": what}
        )
    rest = _rest(row, "conversations") if isinstance(row, Mapping) else {}
    if isinstance(rest.get("system"), str) and rest["system"].strip():
        messages.insert(0, {"role": "system", "content": rest["system"]})
    return _chat({**_rest(rest, "system"), "messages": messages}, where)


def _alpaca(row: Fields, where: str) -> Fields:
    instruction, said = _text(row, "instruction", where), _text(row, "output", where)
    more = row.get("input")
    if more is not None and not isinstance(more, str):
        raise DataError(f"{where}: field 'input' must be a string, got {type(more).__name__}")
    question = "\n\n".join(part.strip() for part in (instruction, more) if part and part.strip())
    return _answered(_rest(row, "instruction", "input", "output"), question, said, "", where)


def _completion(row: Fields, where: str) -> Fields:
    prompt, said = _field(row, "prompt", where), _field(row, "completion", where)
    rest = _rest(row, "prompt", "completion")
    if isinstance(prompt, list) and isinstance(said, list):
        return _chat({**rest, "messages": [*prompt, *said]}, where)
    return _answered(rest, _text(row, "prompt", where), _text(row, "completion", where), "", where)


def _metamath(row: Fields, where: str) -> Fields:
    return _answered(_rest(row, "query", "response"), _text(row, "query", where), _text(row, "response", where), "", where)


def _openr1(row: Fields, where: str) -> Fields:
    problem = _field(row, "problem", where)
    plain = _math(row, where) if row_has(row, "solution") else {**_rest(row, "problem"), "question": problem}
    answer = plain.get("answer")
    made = row.get("generations") or []
    if not isinstance(made, list) or not all(isinstance(text, str) for text in made):
        raise DataError(f"{where}: field 'generations' must be a list of strings, got {made!r:.60}")
    chosen = next((text for number, text in enumerate(made) if _whole_and_right(row, number, text, answer)), None)
    if chosen is not None:
        return _answered(_rest(plain, "reasoning", "generations", "messages"), plain["question"], chosen, "", where)
    if "reasoning" not in plain:
        raise DataError(f"{where}: no generation is whole and right, and there is no field 'solution'; drop the row")
    return _rest(plain, "generations", "messages")


def _whole_and_right(row: Fields, number: int, text: str, answer: object) -> bool:
    def flag(name: str) -> object:
        values = row.get(name)
        return values[number] if isinstance(values, (list, tuple)) and number < len(values) else None

    if flag("is_reasoning_complete") is False or not read_trace(text).closed:
        return False
    verdicts = [verdict for name in ("correctness_math_verify", "correctness_llama") if (verdict := flag(name)) is not None]
    return any(verdicts) if verdicts else answer is None or equal(split_reasoning(text)[1], str(answer))


def row_has(row: object, name: str) -> bool:
    """Whether a row is an object with a non-empty field."""
    return isinstance(row, Mapping) and row.get(name) is not None


def advice(row: object) -> str:
    """Advice for a row without `question` or `answer`: a style with its fields, or names to map."""
    if not isinstance(row, Mapping):
        return "; is it a chat? task.style=chat" if isinstance(row, list) else ""
    style = next((style for style, fields in FIELDS.items() if all(row_has(row, field) for field in fields)), None)
    if style is not None:
        return f"; task.style={style} reads such rows"
    nearest = {name: key for name in ("question", "answer") if not row_has(row, name) for key in row if _alike(name, key)}
    told_names = ", ".join(f'"{name}": "{key}"' for name, key in (nearest or {"question": "...", "answer": "..."}).items())
    return f"; name the fields that it is in: task.fields='{{{told_names}}}'"


def _alike(name: str, key: object) -> bool:
    words = {"question": ("question", "problem", "prompt", "query", "instruction", "input", "ask"),
             "answer": ("answer", "target", "label", "output", "response", "completion", "result", "gold")}  # fmt: skip
    return any(word in str(key).lower() for word in words[name])


def _text(row: Fields, name: str, where: str) -> str:
    value = _field(row, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{name}' must be a string, got {type(value).__name__} ({value!r:.60})")
    return value


def _field(row: object, name: str, where: str) -> Any:
    return _with_field(row, name, where)[name]


def _with_field(row: object, name: str, where: str) -> Fields:
    if not isinstance(row, Mapping) or row.get(name) is None:
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        style = next((style for style, fields in FIELDS.items() if all(row_has(row, field) for field in fields)), None)
        other = f" it looks like task.style={style}" if style else ""
        raise DataError(f"{where}: field '{name}' is missing; the row has: {got or 'nothing'}; is task.style right?{other}")
    return row


def _rest(row: Fields, *used: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in used}


_TALKS: dict[str, Callable[[object, str], Fields]] = {"chat": _chat, "sharegpt": _sharegpt}
"""Styles whose row may be the list of what was said."""

_STYLES: dict[str, Callable[[Fields, str], Fields]] = {
    "math": _math,
    "hotpotqa": _hotpotqa,
    "hotpotqa_closed": _hotpotqa_closed,
    "alpaca": _alpaca,
    "completion": _completion,
    "openr1": _openr1,
    "metamath": _metamath,
}
