"""Questions one after the other, with commands between them: what `unspoken ask` does where it is given no question."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unspoken.core.checks import number_of
from unspoken.errors import ConfigError, UnspokenError
from unspoken.evaluation.records import same_step
from unspoken.evaluation.tables import cut_off
from unspoken.runs.directory import RunDir, load
from unspoken.tasks import make_task

if TYPE_CHECKING:
    from unspoken.runs.model import Model

HELP = """Type a question, or:
  /new            a problem of the test split, with its true steps
  /again          the last question once more
  /latents 3      think so many latents; without a number: as many as it was trained for
  /zero 2 3       feed zeros instead of these latents; without numbers: none
  /compare RUN    let another run answer too; without a name: no longer
  /help, /quit    also Ctrl-D; Ctrl-C stops an answer"""


@dataclass(frozen=True)
class Asked:
    """A question, with its true steps and answer where they are known."""

    question: str
    steps: tuple[str, ...] = ()
    answer: str = ""


class Conversation:
    """A run that is asked, and how.

    Args:
        run: the run directory, or a model inside the package.
        model: what was loaded from it.
        console: where everything is printed.
        latents: how many to think; None = as trained.
        how: arguments of `Model.answer` for every question.
        dtype: the precision that runs to compare with are loaded in.
    """

    def __init__(
        self,
        run: Path,
        model: Model,
        console: Any,
        *,
        latents: int | None = None,
        how: Mapping[str, Any] | None = None,
        dtype: str | None = None,
    ) -> None:
        self.run, self.model, self.console, self.dtype = run, model, console, dtype
        self.latents, self.how = latents, dict(how or {})
        self.zeroed: list[int] = []  # numbers of latents, from 1
        self.other: tuple[Path, Model] | None = None
        self.last: Asked | None = None
        self._problems: Iterator[Asked] | None = None

    def hear(self, line: str) -> bool:
        """Answer a question, or do what a command says; what is wrong with either is printed.

        Returns:
            Whether the conversation goes on.
        """
        line = line.strip()
        if line in ("/quit", "/exit", "/q"):
            return False
        try:
            if line.startswith("/"):
                self._command(*line[1:].split())
            elif line:
                self.ask(Asked(line))
        except UnspokenError as error:
            self._say(f"error: {error}")
        return True

    def _command(self, name: str = "help", *words: str) -> None:
        if name == "help":
            self._say(HELP)
        elif name == "new":
            self.ask(next(self._new()))
        elif name == "again":
            if self.last is None:
                raise ConfigError("no question was asked yet; type one, or /new")
            self.ask(self.last)
        elif name == "latents":
            self.latents = _numbers(words, "/latents 3", most=1)[0] if words else None
            self._say(f"latents: {'as trained' if self.latents is None else self.latents}")
        elif name == "zero":
            self.zeroed = _numbers(words, "/zero 2 3", least=1)
            self._say(f"zeroed: {', '.join(map(str, self.zeroed)) or 'none'}")
        elif name == "compare":
            path = Path(" ".join(words))
            self.other = (path, load(path, dtype=self.dtype)) if words else None
            self._say(f"compared with: {path if words else 'nothing'}")
        else:
            raise ConfigError(f"unknown command /{name}; /help names all")

    def _new(self) -> Iterator[Asked]:
        """Problems of the run's own task, one after the other."""
        if self._problems is None:
            problems = make_task(RunDir(self.run).config().task).examples("test")
            if not problems:
                raise ConfigError("the run's task has no test problems; type a question of your own")
            self._problems = cycle([Asked(one.question, one.steps, one.answer) for one in problems])
        return self._problems

    def ask(self, problem: Asked) -> None:
        """Let the model answer, and the other one if there is one; the true steps beside what was thought."""
        self.last = problem
        if problem.answer:
            self._say(f"  {problem.question}")
        self._answer(self.model, problem, "")
        if self.other is not None:
            self._answer(self.other[1], problem, f"{self.other[0]}:")

    def _answer(self, model: Model, problem: Asked, label: str) -> None:
        thinks = model is self.model or model.method.latents_per_group > 0  # what another run cannot do is not asked of it
        edit = _zeroing(self.zeroed) if self.zeroed and thinks else None
        latents = self.latents if thinks else None
        began = time.perf_counter()
        (answer,) = model.answer(
            [problem.question], names=["the question"], latents=latents, explain=model.explains, edit=edit, **self.how
        )
        took = time.perf_counter() - began
        if label:
            self._say(f"  {label}")
        for number, thought in enumerate(answer.thoughts or (), start=1):
            true = problem.steps[number - 1] if number <= len(problem.steps) else None
            beside = "" if true is None else f"   {'=' if same_step(true, thought) else '≠'} {true}"
            self._say(f"  thought {number}  {thought or '(no word)'}{beside}")
        text = "\n             ".join(answer.text.splitlines())
        self._say(f"  answer     {text}" + (f"   (true: {problem.answer})" if problem.answer else ""))
        zeroed = f", zeroed: {', '.join(map(str, self.zeroed))}" if edit is not None else ""
        cost = f"{answer.latents} latents, {answer.visible} tokens, {answer.passes} forward passes, {1000 * took:.0f} ms"
        self._say(f"             {cost}{zeroed}")
        if not answer.finished:
            self._say(f"             {cut_off(1, 1, self.how.get('max_new_tokens', model.speaking.max_new_tokens))}")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _numbers(words: tuple[str, ...], example: str, *, least: int = 0, most: int = 64) -> list[int]:
    found = [number for word in words if (number := number_of(word)) is not None and number >= least]
    if len(found) < len(words) or len(found) > most:
        raise ConfigError(f"numbers are needed, e.g. {example}; got {' '.join(words)!r:.60}")
    return found


def _zeroing(numbers: list[int]) -> Any:
    """An edit that feeds zeros instead of some latents, counted from 1."""

    def edit(latents_ND: Tensor, keys_N: Any, index_N: np.ndarray) -> Tensor:
        gone_N = torch.from_numpy(np.isin(index_N + 1, numbers)).to(latents_ND.device)
        return latents_ND.masked_fill(gone_N[:, None], 0.0)

    return edit


def converse(conversation: Conversation) -> None:
    """Read lines until they end. On a terminal there is a prompt, with a history; from a pipe each line is a question."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if not conversation.hear(line):
                return
        return
    with contextlib.suppress(ImportError):  # Windows has none; its console keeps a history of its own
        import readline  # noqa: F401
    conversation.hear("/help")
    while True:
        try:
            if not conversation.hear(input("\n> ")):
                return
        except KeyboardInterrupt:
            print("\n(stopped; /quit or Ctrl-D ends)", file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return
