"""Learned step detection: a tagger that labels each word as beginning a step, continuing one, or outside. Uses numpy only,
is deterministic, and is saved as JSON.

A linear model with weights per feature of a word's neighbourhood and per pair of neighbouring tags: decoded by Viterbi,
trained by the averaged perceptron (Collins, EMNLP 2002). Trained on texts with marked steps, it finds steps in texts
without marks: `unspoken learn-steps TASK --out steps.json`, then the rule "learned:steps.json".

Shapes: N words, F features, 3 tags.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from unspoken.core.files import parse_json, write_text
from unspoken.core.text.steps import Finder, Span, result_of
from unspoken.errors import ConfigError, DataError

BEGIN, INSIDE, OUTSIDE = 0, 1, 2
_FORMAT = "unspoken step tagger 1"
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|\n|[^\w\s]|_")
_START = np.array([0.0, -np.inf, 0.0])  # nothing to continue at the beginning of a text
_FORBIDDEN = np.zeros((3, 3))
_FORBIDDEN[OUTSIDE, INSIDE] = -np.inf

TaggedText = tuple[str, Sequence[tuple[int, int]]]
"""A text, and (start, end) of each of its steps."""


def joined(steps: Sequence[str], separator: str = " ") -> TaggedText:
    """Steps joined into one text without marks, with the span of each."""
    text, bounds = "", []
    for step in (part for step in steps if (part := step.strip())):
        text += separator if text else ""
        bounds.append((len(text), len(text) + len(step)))
        text += step
    return text, bounds


def span_f1(found: Iterable[Sequence[tuple[int, int]]], known: Iterable[Sequence[tuple[int, int]]]) -> float:
    """F1 of whole steps: both ends must be right. 1.0 if there is nothing to find."""
    pairs = [(set(a), set(b)) for a, b in zip(found, known, strict=True)]
    wrong = sum(len(a ^ b) for a, b in pairs)
    right = sum(len(a & b) for a, b in pairs)
    return 2 * right / (2 * right + wrong) if right or wrong else 1.0


def learn(steps: Sequence[Sequence[str]], *, passes: int = 5, seed: int = 0) -> tuple[StepTagger, float | None]:
    """Fit a tagger on the steps of problems, joined in one line, and one per line.

    Returns:
        The tagger, and its `span_f1` on every tenth problem, which are held out; None for fewer than 10 problems.
    """
    shown = [part for number, part in enumerate(steps) if number % 10 != 9]
    tagger = fit([joined(part, separator) for part in shown for separator in (" ", "\n")], passes=passes, seed=seed)
    held = [joined(part) for part in steps[9::10]]
    found = [[(span.start, span.end) for span in tagger.find(text)] for text, _ in held]
    return tagger, span_f1(found, [bounds for _, bounds in held]) if held else None


class StepTagger:
    """A fitted tagger.

    Args:
        features: feature -> its row of the weights.
        weights_F3: weight of each tag per feature.
        moves_33: weight of a tag (last) after another.
    """

    def __init__(self, features: dict[str, int], weights_F3: np.ndarray, moves_33: np.ndarray) -> None:
        self.features, self.weights_F3, self.moves_33 = features, weights_F3, moves_33

    def find(self, text: str) -> list[Span]:
        """The steps of a text, as a `Finder` of `core/text/steps.py`."""
        words = list(_WORD.finditer(text))
        tags = self._tag([[i for f in row if (i := self.features.get(f)) is not None] for row in _features(text, words)])
        found: list[list[int]] = []
        for word, tag in zip(words, tags, strict=True):
            if tag == BEGIN:
                found.append([word.start(), word.end()])
            elif tag == INSIDE and word[0] != "\n":
                found[-1][1] = word.end()
        return [Span(start=a, end=b, result=result_of(text, a, b)) for a, b in found if text[a:b].strip()]

    def _tag(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """The best tags for words with given features."""
        if not rows:
            return []
        moves_33 = self.moves_33 + _FORBIDDEN
        scores = _START + self.weights_F3[rows[0]].sum(axis=0)
        came = []
        for row in rows[1:]:
            each_33 = scores[:, None] + moves_33
            came.append(each_33.argmax(axis=0))
            scores = each_33.max(axis=0) + self.weights_F3[row].sum(axis=0)
        tags = [int(scores.argmax())]
        for best in reversed(came):
            tags.append(int(best[tags[-1]]))
        return tags[::-1]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, without features of weight 0."""
        kept = {f: self.weights_F3[i].round(6).tolist() for f, i in self.features.items() if self.weights_F3[i].any()}
        data = {"format": _FORMAT, "moves": self.moves_33.round(6).tolist(), "weights": kept}
        write_text(path, json.dumps(data, ensure_ascii=False, sort_keys=True) + "\n")


def fit(examples: Iterable[TaggedText], *, passes: int = 5, seed: int = 0) -> StepTagger:
    """Fit a tagger.

    Args:
        examples: texts with known steps; `joined` makes one from a list of steps.
        passes: number of passes over the texts.
        seed: of their order.

    Raises:
        DataError: no text, or none with a step.
    """
    texts = [
        (_features(text, words), _tags(words, bounds)) for text, bounds in examples if (words := list(_WORD.finditer(text)))
    ]
    if not any(BEGIN in tags for _, tags in texts):
        raise DataError(f"cannot learn to find steps: none of {len(texts)} texts has one; give texts with known steps")
    features: dict[str, int] = {}
    for rows, _ in texts:
        for row in rows:
            for feature in row:
                features.setdefault(feature, len(features))
    known = [([[features[f] for f in row] for row in rows], tags) for rows, tags in texts]
    tagger = StepTagger(features, np.zeros((len(features), 3)), np.zeros((3, 3)))
    # The average over all moments is W - U / n, where U collects each update times the number of the moment it was made at.
    late_F3, late_33 = np.zeros_like(tagger.weights_F3), np.zeros((3, 3))
    rng, order, moment = Random(seed), list(range(len(known))), 0
    for _ in range(passes):
        rng.shuffle(order)
        for number in order:
            rows, tags = known[number]
            guess = tagger._tag(rows)
            before = was = -1
            for row, right, wrong in zip(rows, tags, guess, strict=True):
                for tag, sign in ((right, 1.0), (wrong, -1.0)) if right != wrong else ():
                    np.add.at(tagger.weights_F3[:, tag], row, sign)
                    np.add.at(late_F3[:, tag], row, sign * moment)
                if before >= 0 and (before, right) != (was, wrong):
                    for place, sign in (((before, right), 1.0), ((was, wrong), -1.0)):
                        tagger.moves_33[place] += sign
                        late_33[place] += sign * moment
                before, was = right, wrong
            moment += 1
    return StepTagger(features, tagger.weights_F3 - late_F3 / moment, tagger.moves_33 - late_33 / moment)


def _tags(words: Sequence[re.Match[str]], bounds: Sequence[tuple[int, int]]) -> list[int]:
    """The tag of each word, from the steps' spans."""
    tags = [OUTSIDE] * len(words)
    for start, end in bounds:
        inside = [i for i, word in enumerate(words) if word.start() < end and word.end() > start]
        for i in inside:
            tags[i] = BEGIN if i == inside[0] else INSIDE
    return tags


def _shape(word: str) -> str:
    """The shape of a word: numbers have the same shape, as have capitalised words."""
    if word[0].isdigit():
        return "0"
    return "\\n" if word == "\n" else word.casefold()


def _features(text: str, words: Sequence[re.Match[str]]) -> list[list[str]]:
    """The features of each word: itself, two words on each side, and the text between it and the previous one."""
    shapes = ["^", "^", *(_shape(word[0]) for word in words), "$", "$"]
    rows = []
    for i, word in enumerate(words):
        before2, before, here, after, after2 = shapes[i : i + 5]
        gap = "start" if i == 0 else "space" if word.start() > words[i - 1].end() else "none"
        case = "upper" if word[0][0].isupper() else "lower"
        rows.append(
            [
                "bias", f"0 {here}", f"-1 {before}", f"+1 {after}", f"-2 {before2}", f"+2 {after2}",
                f"-1 0 {before} {here}", f"0 +1 {here} {after}", f"-2 -1 {before2} {before}", f"+1 +2 {after} {after2}",
                f"gap {gap}", f"case {case}", f"-1 gap case {before} {gap} {case}", f"-2 -1 0 {before2} {before} {here}",
            ]
        )  # fmt: skip
    return rows


def learned_finder(path: str) -> Finder:
    """The rule "learned:PATH".

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    return load_tagger(path).find


def load_tagger(path: str | Path) -> StepTagger:
    """Load a tagger; the file is read again only if it has changed.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    try:
        return _load(str(path), os.stat(path).st_mtime_ns)
    except OSError as error:
        raise ConfigError(
            f"no step tagger at {path}: {error.strerror}; make one: unspoken learn-steps TASK --out {path}"
        ) from None


@functools.lru_cache(maxsize=8)
def _load(path: str, changed: int) -> StepTagger:
    try:
        data: Any = parse_json(Path(path).read_bytes())
        if data["format"] != _FORMAT:
            raise ValueError(f"its format is {data['format']!r}, expected {_FORMAT!r}")
        weights_F3 = np.array(list(data["weights"].values()), dtype=np.float64).reshape(-1, 3)
        moves_33 = np.array(data["moves"], dtype=np.float64).reshape(3, 3)
        if not (np.isfinite(weights_F3).all() and np.isfinite(moves_33).all()):
            raise ValueError("a weight is not finite")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no step tagger: {error}; give a file that StepTagger.save wrote") from None
    return StepTagger({feature: i for i, feature in enumerate(data["weights"])}, weights_F3, moves_33)
