"""`Model`: a trained method as its user sees it. Answers, thinks, explains; nothing here knows which method it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unspoken.core.config import build, dump
from unspoken.core.engine import sample, think
from unspoken.core.example import Example
from unspoken.core.latents import Prompted, Source, edited, parallel
from unspoken.core.sampling import Speaking
from unspoken.core.trace import Answer, Trace
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Method


class Model:
    """A method ready to answer questions.

    Args:
        method: any method; a wrapping one (SIM-CoT) answers as its inner one does, and can explain.
        speaking: how to speak where a call does not say.
        latents: how many latents to think where a call does not say; None = as many as training ended with.
        path: where it was loaded from, for reports.

    Attributes:
        parallel: make the latents in so many parallel passes (`core/latents.py:Jacobi`); None = as the method says.
    """

    parallel: int | None = None

    def __init__(
        self, method: Method, speaking: Speaking | None = None, latents: int | None = None, path: str | None = None
    ) -> None:
        self.method = method
        self.path = path
        self.speaking = speaking or Speaking()
        self.latents = latents

    @property
    def explains(self) -> bool:
        """Whether latents can be decoded into words."""
        return self.method.explains

    def answer(
        self,
        questions: Sequence[str],
        *,
        latents: int | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
        explain: bool = False,
        edit: Callable[..., Any] | None = None,
        on_token: Callable[[int, int], None] | None = None,
        **speaking: Any,
    ) -> list[Answer]:
        """Think about questions and answer each of them once, batched; the arguments are those of `sample`.

        Returns:
            One `Answer` per question, in order.
        """
        how: Any = {"latents": latents, "names": names, "batch_size": batch_size, "explain": explain, "edit": edit}
        return [only for (only,) in self.sample(questions, on_token=on_token, **how, **speaking)]

    @property
    def chains(self) -> int:
        """How many sets of thoughts it can think about one question."""
        source = self.method.source()
        return source.chains if isinstance(source, Prompted) else 1

    def sample(
        self,
        questions: Sequence[str],
        *,
        chains: int = 1,
        samples: int = 1,
        latents: int | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
        explain: bool = False,
        edit: Callable[..., Any] | None = None,
        on_token: Callable[[int, int], None] | None = None,
        **speaking: Any,
    ) -> list[tuple[Answer, ...]]:
        """Think about questions and answer each of them `chains` x `samples` times, all of them in one batch.

        Args:
            chains: sets of thoughts per question, the model's first ones.
            samples: answers from each set.
            questions: plain texts.
            latents: how many latents to think; None = the model's own number.
            names: how errors name the questions; None = "question 0", ...
            batch_size: answers per batch; all answers to a question are in one batch, be they more.
            explain: decode the latents into steps (`Answer.thoughts`).
            edit: passes every latent on its way in: (latents_ND, rows_N, index_N) -> latents_ND; rows count inside the
                batch, so use one batch where they matter.
            on_token: called with (question number, token id) as tokens are chosen.
            speaking: fields of `Speaking` that this call changes: temperature, top_p, top_k, seed, max_new_tokens.

        Returns:
            The answers to each question, in order: all from the first set of thoughts, then all from the next.

        Raises:
            ConfigError: more sets of thoughts than the model has, several samples at temperature 0, explanations of a model
                without a decoder, or an unknown speaking field.
            DataError: a question is not a string, does not fit, or spells a marker.
        """
        if explain and not self.explains:
            raise ConfigError("this model has no auxiliary decoder, so its thoughts cannot be shown; train it with sim_cot")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        unknown = set(speaking) - set(Speaking.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"unknown speaking option {sorted(unknown)[0]!r}; known: {', '.join(Speaking.__dataclass_fields__)}"
            )
        said = build(Speaking, {**dump(self.speaking), **speaking})
        if samples < 1 or not 1 <= chains <= self.chains:
            raise ConfigError(
                f"samples must be at least 1 and chains in 1..{self.chains}, the sets of thoughts this model has; "
                f"got samples={samples}, chains={chains}"
            )
        if samples > 1 and said.temperature == 0:
            raise ConfigError(f"{samples} samples at temperature 0 would all be the same; set temperature, e.g. to 1.0")
        source = self._source()
        if edit is not None:
            if source is None:
                raise ConfigError("this method makes no latents while it thinks, so there is nothing to edit")
            source = edited(source, edit)
        was_training = self._eval()
        try:
            return sample(
                self.method.backbone,
                self._rows(questions, latents, names),
                source,
                said,
                batch_size=batch_size,
                chains=chains,
                samples=samples,
                explain=self.method.explain if explain else None,
                on_token=on_token,
            )
        finally:
            self.method.train(was_training)  # pyright: ignore[reportAttributeAccessIssue]

    def think(self, questions: Sequence[str], *, latents: int | None = None) -> Trace:
        """The thoughts about questions, as one batch, without an answer.

        Returns:
            A `Trace`: latents [B, K, D], the states they were made from, counts, cost.
        """
        was_training = self._eval()
        try:
            return think(self.method.backbone, self._rows(questions, latents, None), self._source())
        finally:
            self.method.train(was_training)  # pyright: ignore[reportAttributeAccessIssue]

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Decoded steps per row of a trace, one per thought group.

        Raises:
            ConfigError: the model has no auxiliary decoder.
        """
        if not self.explains:
            raise ConfigError("this model has no auxiliary decoder, so its thoughts cannot be shown; train it with sim_cot")
        return self.method.explain(trace)

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """What each of so many thought groups of a problem stands for; None where the method does not say."""
        say = getattr(self.method, "expected", None)
        return None if say is None else say(example, groups)

    def _rows(self, questions: Sequence[str], latents: int | None, names: Sequence[str] | None) -> list[Any]:
        if isinstance(questions, str):
            raise DataError("questions must be a list of texts, got one text; write [question]")
        rows = []
        for i, question in enumerate(questions):
            name = names[i] if names is not None else f"question {i}"
            if not isinstance(question, str) or not question.strip():
                raise DataError(f"{name} must be a text that is not empty, got {question!r:.60}")
            rows.append(self.method.prompt(question.strip(), self.latents if latents is None else latents, name))
        return rows

    def _source(self) -> Source | Prompted | None:
        """Where latents come from, and in how many passes."""
        return parallel(self.method.source(), self.parallel)

    def _eval(self) -> bool:
        """Switch dropout off; returns whether it was on."""
        module: Any = self.method
        was_training = module.training
        module.eval()
        return was_training
