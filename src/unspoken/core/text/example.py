"""`Example`: one problem, in the form in which methods get it from every dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from unspoken.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem: a question, the explicit reasoning steps (may be empty), and the answer.

    Attributes:
        question: the text the model is given, without surrounding white space.
        steps: one string per reasoning step, in order; `()` where a dataset has none.
        answer: the reference answer as text. Never part of what a model sees at inference.
        id: a name that is unique and stable inside its split, e.g. "test-17".
        meta: anything else the dataset says (type of problem, graph, ...). Ignored by methods.

    Raises:
        DataError: a field has the wrong type, or question or answer is empty.
    """

    question: str
    steps: tuple[str, ...] = ()
    answer: str
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"example {self.id!r}" if self.id else "example"
        for name in ("question", "answer"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise DataError(f"{where}: field '{name}' must be a string, got {type(value).__name__} ({value!r:.60})")
            if not value.strip():
                raise DataError(f"{where}: field '{name}' is empty; give some text or drop the row")
        if not isinstance(self.steps, tuple) or not all(isinstance(s, str) for s in self.steps):
            raise DataError(f"{where}: field 'steps' must be a list of strings, got {self.steps!r:.80}")

    @property
    def bytes(self) -> int:
        """Bytes of question, steps and answer in UTF-8. No tokenizer makes more tokens of them."""
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in (self.question, *self.steps, self.answer))


class LazyExamples(Sequence[Example], ABC):
    """Examples of which each is made when it is asked for. A slice is a list."""

    @abstractmethod
    def at(self, place: int) -> Example:
        """The example at a place, from 0 up to but not including the length."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.at(index % len(self))
