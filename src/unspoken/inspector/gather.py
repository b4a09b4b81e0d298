"""Think about problems and answer them, and keep what the inspector's figures need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from torch import Tensor, nn

from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.row import LatentKey
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.inspector.attention import AttentionShares, attention_shares
from unspoken.inspector.words import TOP, RowWords, words_of
from unspoken.methods.base import Method
from unspoken.runs.model import Model
from unspoken.tasks.base import Task

BATCH = 32
"""Questions per batch."""


@contextlib.contextmanager
def at_rest(method: nn.Module) -> Iterator[None]:
    """Context manager: dropout is off."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)


def check_latents(method: Method, question: str, latents: int | None = None) -> None:
    """Refuse a method without latents.

    Raises:
        ConfigError: it makes no latents.
    """
    if not method.latents_per_group:
        raise ConfigError(
            f"{method.config.name!r} makes no latents while it answers, so there is nothing to inspect; take a run of a "
            "method that thinks (see `unspoken list`), or `unspoken eval` for its answers"
        )
    if not method.prompt(question, latents).latents:
        raise ConfigError("with 0 latents there is nothing to inspect; leave --latents out, or give at least 1")


@dataclass(frozen=True, kw_only=True)
class ObservedProblem:
    """One problem with the model's latents and answer.

    Attributes:
        latents_KD: its latents in fp32, of which the first `fed` were fed.
        decoded: steps decoded by the auxiliary decoder, one per thought group; None without a decoder.
        expected, covers_last: see `stands_for`.
        attention_shares: the attention of its answer; None if not requested, or the family returns no weights.
    """

    example: Example
    answer: Answer
    correct: bool
    extracted: str | None
    latents_KD: Tensor
    words: RowWords
    fed: int
    decoded: tuple[str, ...] | None
    expected: tuple[str | None, ...]
    covers_last: bool
    attention_shares: AttentionShares | None


def gather(
    model: Model, task: Task, examples: Sequence[Example], latents: int | None, top: int = TOP, attention: bool = True
) -> list[ObservedProblem]:
    """Think about problems and answer them."""
    with at_rest(model.method):
        return _gather(model, task, examples, latents, top, attention)


def _gather(
    model: Model, task: Task, examples: Sequence[Example], latents: int | None, top: int, attention: bool
) -> list[ObservedProblem]:
    method = model.method
    questions = [example.question for example in examples]
    names = [example.id or f"problem {i}" for i, example in enumerate(examples)]
    kept: dict[str, tuple[Tensor, RowWords, tuple[str, ...] | None]] = {}

    def keep(trace: Trace, keys: Sequence[LatentKey]) -> None:
        words = words_of(method.backbone, trace, top)
        thoughts = model.explain(trace) if model.explains else [None] * len(keys)
        for b, (name, _) in enumerate(keys):
            kept[name] = trace.latents_BKD[b, : int(trace.counts_B[b])], words[b], thoughts[b]

    answers = model.answer(questions, latents=latents, names=names, batch_size=BATCH, on_trace=keep)
    rows = [method.prompt(q.strip(), model.latents if latents is None else latents) for q in questions]
    shares: list[AttentionShares | None] = [None] * len(rows)
    if attention:
        shares = attention_shares(
            method.backbone, rows, [kept[name][0] for name in names], [answer.tokens for answer in answers]
        )
    found = []
    for b, (example, answer, row) in enumerate(zip(examples, answers, rows, strict=True)):
        score = task.score(example, answer.text)
        latents_KD, words, decoded = kept[names[b]]
        n = len(latents_KD)
        expected, whole = stands_for(model, example, n // method.latents_per_group)
        found.append(
            ObservedProblem(
                example=example,
                answer=answer,
                correct=bool(score.strict),
                extracted=score.extracted,
                latents_KD=latents_KD.float(),
                words=words,
                fed=min(row.latents, n),
                decoded=decoded,
                expected=expected,
                covers_last=whole,
                attention_shares=shares[b],
            )
        )
    return found


def stands_for(model: Model, example: Example, groups: int) -> tuple[tuple[str | None, ...], bool]:
    """The step that each of a problem's thought groups stands for, and whether the last step is covered.

    If the method does not define it, group k stands for step k of the steps that its latents cover.
    """
    method = model.method
    covered = method.layout(example, method.curriculum().last, Random(0)).steps_covered
    whole = 0 < covered >= len(example.steps)
    if (told := model.expected(example, groups)) is not None:
        return told, whole and any(told)
    steps = example.steps[:covered]
    return tuple(steps[k] if k < len(steps) else None for k in range(groups)), whole and groups >= covered
