"""A model on this machine, a run or a plain Hugging Face model, that solves problems for `tasks/annotate.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.runs.model import Model
from unspoken.tasks.endpoint import Completion, Refusal


class LocalWriter:
    """Asks a model for a batch of problems at a time.

    What it writes for a problem depends on the problem's place, the attempt and the seed, not on the batch, so that a call
    that goes on writes what an uninterrupted one would have.
    """

    workers = 1

    def __init__(self, model: Model, *, at_once: int, temperature: float, max_new_tokens: int, seed: int) -> None:
        self.model, self.at_once, self.seed = model, at_once, seed
        self.temperature, self.max_new_tokens = temperature, max_new_tokens

    @property
    def said_of(self) -> Mapping[str, object]:
        """The model's place and how it is sampled."""
        return {"model": str(self.model.path), "at": "here", "temperature": self.temperature, "seed": self.seed}

    def write(self, examples: Sequence[Example], places: Sequence[int], attempt: int) -> Sequence[Completion]:
        """See `tasks.annotate.Writer`. A row that the model cannot take is refused, as an endpoint does it."""
        try:
            answers = self.model.sample(
                [example.question for example in examples],
                names=[example.id for example in examples],
                numbers=places,
                batch_size=self.at_once,
                seed=self.seed + attempt,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
            )
        except DataError as error:
            raise Refusal(str(error), 422) from error
        return [
            Completion(
                text=answer.text,
                finished=answer.finished,
                prompt_tokens=answer.positions - len(answer.tokens) + 1,
                completion_tokens=len(answer.tokens),
                seconds=answer.seconds,
            )
            for (answer,) in answers
        ]

    def stop(self) -> None:
        """Nothing waits here."""
