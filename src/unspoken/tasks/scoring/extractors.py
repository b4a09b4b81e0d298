"""Named rules that extract and score an answer in a model's text: ours, the papers', lm-evaluation-harness's.

Papers score the same outputs differently: one compares strings after a mark, another takes the last number, a third drops
its sign. All rules work on stored text, so scores can be recomputed by any of them without the model
(`evaluation/rescore.py`). What a rule extracts does not depend on the reference answer, except on its kind (number, letter,
yes or no, other text), which the authors' code knows from the data set's name; so it can be used in a vote.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unspoken.core.config import lookup
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, did_you_mean
from unspoken.tasks.base import ScoringRule
from unspoken.tasks.scoring.answers import SPECIAL, normalise, score_number
from unspoken.tasks.scoring.math_answers import first_answer

AnswerKind = Literal["number", "letter", "verdict", "text"]
"""The kind of a reference answer."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule extracted from a text, or None, and whether it is right by the same rule."""

    extracted: str | None
    right: bool


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A rule with a name.

    Attributes:
        judge: (example, text, the task's own rule) -> verdict; never raises.
        says: one line about the rule.
        reads: the kinds of answers it supports; None = all.
    """

    judge: Callable[[Example, str, ScoringRule], Verdict]
    says: str
    reads: tuple[AnswerKind, ...] | None = None
    first: bool = False  # the text ends at its first answer


def extractor(name: str) -> Extractor:
    """Get a rule by name: from `EXTRACTORS`, an installed package, or "module:NAME".

    Raises:
        ConfigError: no such name (with a did-you-mean), or a library that it needs is not installed.
    """
    if name == "math-verify":
        _math_verify()
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    if name.partition(":")[0] in {known.partition(":")[0] for known in EXTRACTORS}:  # "paper:" is no module
        raise ConfigError(f"unknown extractor {name!r}; {did_you_mean(name, EXTRACTORS)}")
    found = lookup(dict.fromkeys(EXTRACTORS, ""), name, "extractor")
    if not isinstance(found, Extractor):
        raise ConfigError(f"{name!r} is no extractor: expected an `Extractor`, got {type(found).__name__}")
    return found


def judge(name: str, example: Example, text: str, rule: ScoringRule = score_number, mark: str | None = None) -> Verdict:
    """Score a text by a named extractor.

    Args:
        name: a key of `EXTRACTORS`.
        example: its answer is the reference.
        text: what the model wrote, without the prompt.
        rule: the task's own rule, used by `strict` and `flexible`.
        mark: the answer mark of the task's template, for "first"; None = any of `answers.MARKS`, or a box.

    Raises:
        ConfigError: no such extractor, a library is missing, or the rule does not support this kind of answer.
    """
    chosen, kind = extractor(name), kind_of(example.answer)
    if chosen.reads is not None and kind not in chosen.reads:
        where = f" of {example.id!r}" if example.id else ""
        raise ConfigError(
            f"extractor {name!r} reads answers of kind {' or '.join(chosen.reads)}, but the reference answer{where} is "
            f"{example.answer!r:.40} ({kind}); use strict or flexible, which are the task's own rules"
        )
    return chosen.judge(example, first_answer(text, mark) if chosen.first else text, rule)


def kind_of(answer: str) -> AnswerKind:
    """The kind of a reference answer: a number, the letter of an option, yes or no (true or false), or other text."""
    plain = normalise(answer)
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", plain):
        return "number"
    if re.fullmatch(r"[a-j]", plain):
        return "letter"
    return "verdict" if plain in ("yes", "no", "true", "false") else "text"


# The task's own rules


def _strict(example: Example, text: str, rule: ScoringRule) -> Verdict:
    score = rule(example, text)
    return Verdict(extracted=score.extracted, right=bool(score.strict))


def _flexible(example: Example, text: str, rule: ScoringRule) -> Verdict:
    score = rule(example, text)
    return Verdict(extracted=score.extracted, right=bool(score.flexible))


# The papers' rules. Special tokens go first: the authors' decoders leave them out.


def _coconut(example: Example, text: str, rule: ScoringRule) -> Verdict:
    # Without "#" the released code compares the whole of prompt and output, which no reference answer equals.
    _, mark, behind = SPECIAL.sub("", text).rpartition("#")
    found = behind.replace(",", "").strip() if mark else None
    return Verdict(extracted=found, right=found == example.answer.replace(",", "").strip())


_SIGNED = re.compile(r"-?\d+\.?\d*")


def _codi(example: Example, text: str, rule: ScoringRule) -> Verdict:
    plain, kind = SPECIAL.sub("", text).replace(",", ""), kind_of(example.answer)
    numbers = _SIGNED.findall(plain)
    if numbers:
        return Verdict(extracted=numbers[-1].rstrip("."), right=_float(numbers[-1]) == _float(example.answer))
    if kind == "letter":  # whatever names no option counts as C
        first = plain.rpartition("The answer is:")[2].strip()[:1]
        letter = first if first and first in "ABCDE" else "C"
        return Verdict(extracted=letter, right=letter == example.answer.strip())
    return Verdict(extracted=None, right=False)


_UNSIGNED = re.compile(r"\d+(?:\.\d+)?")
_LETTER = re.compile(r"\b[a-f]\b")
_YES_NO = re.compile(r"\b(?:yes|no)\b")


def _softcot(example: Example, text: str, rule: ScoringRule) -> Verdict:
    plain, kind = SPECIAL.sub(" ", text), kind_of(example.answer)
    if kind == "number":
        numbers = _UNSIGNED.findall(re.sub("[,%$]", "", plain))
        value = _float(numbers[-1]) if numbers else math.nan
        # Only the prediction is rounded: a reference of 0.125 is met by nothing.
        right = (round(value, 2) if math.isfinite(value) else value) == _float(example.answer)
        return Verdict(extracted=numbers[-1] if numbers else None, right=right)
    said = (_LETTER if kind == "letter" else _YES_NO).findall(plain.lower())
    gold = {"true": "yes", "false": "no"}.get(normalise(example.answer), normalise(example.answer))
    return Verdict(extracted=said[-1] if said else None, right=bool(said) and said[-1] == gold)


def _float(text: str) -> float:
    """A number as a float, or nan, which equals nothing."""
    try:
        return float(text.replace(",", "").replace("$", "").strip())
    except ValueError:
        return math.nan


# lm-evaluation-harness, task gsm8k (version 3): the answer ends at the task's stop words, and strings are compared.

_STOP = re.compile(r"Question:|</s>|<\|im_end\|>")
_HARNESS_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_HARNESS_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def _harness_strict(example: Example, text: str, rule: ScoringRule) -> Verdict:
    return _harness(_HARNESS_STRICT.findall(_STOP.split(text, maxsplit=1)[0])[:1], example)


def _harness_flexible(example: Example, text: str, rule: ScoringRule) -> Verdict:
    return _harness(_HARNESS_FLEXIBLE.findall(_STOP.split(text, maxsplit=1)[0])[-1:], example)


def _harness(found: list[str], example: Example) -> Verdict:
    if not found:
        return Verdict(extracted=None, right=False)
    return Verdict(extracted=found[0].strip(), right=_bare(found[0]) == _bare(example.answer))


def _bare(text: str) -> str:
    """Drop commas, dollar signs and one closing period; 18.0 is still different from 18."""
    return re.sub(r"\.$", "", text.strip().replace(",", "").replace("$", "").lower())


# math-verify


def _math_verify() -> Any:
    try:
        import math_verify  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "extractor 'math-verify' needs the package math-verify, which is not installed; pip install 'unspoken[math]'"
        ) from None
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every text that it cannot parse
    return math_verify


def _math(example: Example, text: str, rule: ScoringRule) -> Verdict:
    library = _math_verify()
    # "9^9^9" would be computed forever. The library's timeouts use signals, which work only in the main thread.
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    gold = library.parse(f"${example.answer.strip()}$", parsing_timeout=limit)
    found = library.parse(SPECIAL.sub(" ", text), parsing_timeout=limit)
    right = bool(gold and found) and bool(library.verify(gold, found, timeout_seconds=limit))
    return Verdict(extracted=str(found[-1]) if found else None, right=right)


EXTRACTORS: Mapping[str, Extractor] = {
    "strict": Extractor(judge=_strict, says="the task's rule: what stands after the last answer mark"),
    "flexible": Extractor(judge=_flexible, says="the task's rule: that, or the last number (letter, ...) of the text"),
    "first": Extractor(
        judge=_strict, says="the task's rule at the first answer mark: for models that go on after it", first=True
    ),
    "paper:coconut": Extractor(judge=_coconut, says="Coconut, iCoT: text after the last '#', commas dropped, same string"),
    "paper:codi": Extractor(
        judge=_codi, says="CODI, SIM-CoT on it, SemCoT: commas dropped, last signed number, same float",
        reads=("number", "letter"),
    ),
    "paper:softcot": Extractor(
        judge=_softcot, says="SoftCoT: last number without its sign, 2 decimals; last letter; last yes or no",
        reads=("number", "letter", "verdict"),
    ),
    "lm-eval:strict": Extractor(
        judge=_harness_strict, says="lm-eval gsm8k, strict-match: first '#### number', same string", reads=("number",)
    ),
    "lm-eval:flexible": Extractor(
        judge=_harness_flexible, says="lm-eval gsm8k, flexible-extract: last number-like match, same string",
        reads=("number",),
    ),
    "math-verify": Extractor(
        judge=_math, says="math-verify: the last expression or LaTeX, equal as mathematics", reads=("number", "text")
    ),
}  # fmt: skip
"""Name -> rule. `docs/guides/evaluation.md` says where each comes from."""
