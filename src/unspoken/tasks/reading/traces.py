"""Split an assistant's message into its reasoning trace (<think> ... </think> and similar) and its answer.

    <think>First 3+4=7. Then 7-2=5.</think> Ann has \\boxed{5} figs.      ->  First 3+4=7. Then 7-2=5.  |  5

It recognises tags (think, thinking, thought, reasoning, ...), <|begin_of_thought|>, <|START_THINKING|>, [THINK], ◁think▷
and the channels of gpt-oss. Several traces are joined; a trace whose opening tag was part of the prompt (DeepSeek-R1)
begins with the text; an unclosed one extends to the end.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAMES = (
    r"(?:\w+:)?think|thinking|thoughts?|reasoning|reason|inner_thoughts?|antthinking|scratchpad|chain_of_thought|cot"
    r"|analysis"
)
_BAR, _GAP = "[|｜]", "[_▁]"
_OPENS = (
    rf"<(?P<tag>{_NAMES})(?:\s[^<>]*)?>",
    rf"<{_BAR}begin{_GAP}of{_GAP}(?P<of>thoughts?|thinking|reasoning){_BAR}>",
    rf"<{_BAR}START_(?P<start>THINKING|THOUGHT|REASONING){_BAR}>",
    rf"<{_BAR}(?P<bar>think|thinking|thought){_BAR}>",
    r"\[(?P<square>THINK|THINKING|REASONING)\]",
    r"◁(?P<kimi>think|thinking)▷",
    r"(?:<\|start\|>assistant)?<\|channel\|>(?P<channel>analysis|commentary)[^<>\n]*<\|message\|>",
)
_CLOSES = {
    "tag": "</{}>", "of": "<[|｜]end[_▁]of[_▁]{}[|｜]>", "start": r"<[|｜]END_{}[|｜]>", "bar": r"<[|｜]/{}[|｜]>",
    "square": r"\[/{}\]", "kimi": "◁/{}▷", "channel": r"<\|end\|>|(?=<\|start\|>|<\|channel\|>final)",
}  # fmt: skip
_OPEN = re.compile("|".join(_OPENS), re.IGNORECASE)
# One whose opening the prompt has written.
_LATE = re.compile(
    rf"</(?:{_NAMES})>|<{_BAR}end{_GAP}of{_GAP}(?:thoughts?|thinking|reasoning){_BAR}>|<{_BAR}END_(?:THINKING|THOUGHT)"
    rf"{_BAR}>|<{_BAR}/(?:think|thinking){_BAR}>|\[/THINK(?:ING)?\]|◁/think(?:ing)?▷",
    re.IGNORECASE,
)
_ANSWER_TAGS = re.compile(
    r"<(?P<tag>answer|final_answer|final|response|solution)>(?P<a>.*?)(?:</(?P=tag)>|\Z)"
    rf"|<{_BAR}begin{_GAP}of{_GAP}(?:solution|answer){_BAR}>(?P<b>.*?)(?:<{_BAR}end{_GAP}of{_GAP}(?:solution|answer){_BAR}>|\Z)"
    rf"|<{_BAR}START_(?:RESPONSE|ANSWER){_BAR}>(?P<c>.*?)(?:<{_BAR}END_(?:RESPONSE|ANSWER){_BAR}>|\Z)"
    r"|(?:<\|start\|>assistant)?<\|channel\|>final[^<>\n]*<\|message\|>(?P<d>.*?)(?:<\|(?:end|return)\|>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_LAST_TOKENS = re.compile(r"(?:\s*(?:</s>|<end_of_turn>|<[|｜](?![^|｜<>\n]*(?:python|output)_)[^|｜<>\n]*[|｜]>))+\s*\Z")
_CLAIM = re.compile(
    r"(?:\b(?:so|thus|hence|therefore)\b[\s,]*)?(?:\b(?:the|my)\s+)?\b(?:final\s+|correct\s+)?answer\s*(?:\*\*\s*)?(?:is\b\s*[:：]?|[:：])"
    r"|(?:所以|因此)?[，,]?(?:最终|最後|最后)?答案(?:是|为|為)?\s*[:：]?",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?P<brace>\{)?")
_ONLY_BOXED = re.compile(r"\s*(?:\$+|\\[(\[])?\s*\\(?:boxed|fbox)\b.*", re.DOTALL)
_BOLD = re.compile(r"(?P<mark>\*\*|__)(?P<said>[^*_\n]+)(?P=mark)\.?")
_MOST = 200  # characters of a line that claims an answer; a longer one tells something


class ParsedTrace(NamedTuple):
    """A text split into its reasoning trace and the rest.

    Attributes:
        thought: the traces, joined by lines; None if there is none.
        rest: the text without them.
        closed: whether the last trace is closed.
    """

    thought: str | None
    rest: str
    closed: bool


def holds_trace(text: str) -> bool:
    """Whether a text contains a reasoning trace."""
    return ("<" in text or "[" in text or "◁" in text) and (_OPEN.search(text) or _LATE.search(text)) is not None


def read_trace(text: str) -> ParsedTrace:
    """Separate the traces from a text."""
    thoughts: list[str] = []
    rest: list[str] = []
    at, closed = 0, True
    opened, late = _OPEN.search(text), _LATE.search(text)
    if late is not None and (opened is None or late.start() < opened.start()):
        thoughts.append(text[: late.start()])
        at = late.end()
    while (opened := _OPEN.search(text, at)) is not None:
        rest.append(text[at : opened.start()])
        kind = opened.lastgroup or "tag"
        end = re.compile(_CLOSES[kind].format(re.escape(opened[kind])), re.IGNORECASE).search(text, opened.end())
        thoughts.append(text[opened.end() : end.start() if end else len(text)])
        at, closed = (end.end(), True) if end else (len(text), False)
    rest.append(text[at:])
    if not thoughts:
        return ParsedTrace(None, text.strip(), True)
    said = "".join(rest)
    late = list(_LATE.finditer(said))
    if late:  # of a trace with another inside: it goes on to its own end
        thoughts.append(_LATE.sub("", said[: late[-1].start()]))
        said = said[late[-1].end() :]
    whole = "\n".join(part for thought in thoughts if (part := _OPEN.sub("", thought).strip()))
    return ParsedTrace(whole, said.strip(), closed)


def untagged(text: str) -> str:
    """Reasoning without tags around it."""
    if not holds_trace(text):
        return text
    trace = read_trace(text)
    return "\n".join(part for part in (trace.thought, trace.rest) if part)


def split_reasoning(text: str) -> tuple[str, str | None]:
    """The (reasoning, answer) of an assistant's message.

    The answer is what is tagged as such, stands behind "####" or behind "The answer is" in the last line, or in the last
    \\boxed{}; else all that is said outside of a trace. The reasoning is the trace; without one, what leads to the answer.
    None: a trace that never ends, with no answer in it.
    """
    trace = read_trace(_LAST_TOKENS.sub("", text))
    if trace.thought is not None and not trace.rest:
        body, answer, marked = concluded(trace.thought)
        return (body, answer) if marked else (trace.thought, None)
    body, answer, marked = concluded(trace.rest)
    return (trace.thought if trace.thought is not None else body if marked else ""), answer


def concluded(text: str) -> tuple[str, str, bool]:
    """Split a text without a trace into (text before the answer, answer, whether the answer is marked)."""
    tagged = list(_ANSWER_TAGS.finditer(text))
    if tagged:
        inside = next(part for name in "abcd" if (part := tagged[-1][name]) is not None)
        body, answer, _ = concluded(inside.strip())
        return "\n".join(part for part in (text[: tagged[0].start()].strip(), body) if part), answer, True
    lines = text.strip().split("\n")
    claims = list(_CLAIM.finditer(lines[-1]))
    if claims and 0 < len(said := _bare(lines[-1][claims[-1].end() :])) <= _MOST:
        body = "\n".join([*lines[:-1], lines[-1][: claims[-1].start()]])
        head, mark, tail = body.rpartition("####")  # MetaMath says its answer twice
        return (head if mark and "\n" not in tail.strip() else body).strip(" \n*"), said, True
    body, mark, last = text.rpartition("####")
    if mark and last.strip():
        return body.strip(), last.strip().partition("\n")[0].strip(), True
    if (inside := boxed(text)) is not None:
        return ("" if _ONLY_BOXED.fullmatch(text) else text.strip()), inside, True
    bold = _BOLD.fullmatch(text.strip())
    return "", bold["said"].strip() if bold else text.strip(), False


def _bare(said: str) -> str:
    """An answer after a claim, without Markdown, mathematics or a box around it."""
    inside = boxed(said)
    return inside if inside is not None else said.strip().strip("*_ ").removesuffix("。").removesuffix(".").strip("*_ ")


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
