"""`unspoken.train` and `unspoken.evaluate`: what scripts and notebooks call, with names, dicts and a progress bar.

They make configs and tasks of what they are given and call `training/loop.py` and `evaluation/evaluator.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Unpack

from rich.console import Console
from rich.progress import Progress

from unspoken.core.config import build, dump, override
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.generate import OnTrace
from unspoken.errors import ConfigError
from unspoken.evaluation import evaluator
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.resume import PartialReport
from unspoken.recipes import recipe
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, load
from unspoken.runs.model import AnswerOptions, Model
from unspoken.tasks import Split, Task, TaskConfig, make_task
from unspoken.training import loop
from unspoken.training.callbacks import Callback
from unspoken.training.progress import Live, Reporter


class EvaluateOptions(AnswerOptions, total=False):
    """The arguments of `evaluation/evaluator.py:evaluate` that may be left out."""

    limit: int | None
    latents: int | None
    batch_size: int
    explain: bool
    chains: int
    samples: int
    keep: PartialReport | None
    edit: Edit | None
    on_trace: OnTrace | None


def train(
    config: RunConfig | str | Mapping[str, object],
    out: str | Path | None = None,
    *overrides: str,
    progress: bool | Reporter | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunDir:
    """Train a run, or continue an interrupted one: the same call resumes from the last saved state.

        run = unspoken.train("tiny/coconut", "runs/coconut", "train.steps=200")

    Args:
        config: a recipe's name or JSON file, a `RunConfig`, or its fields as a dict.
        out: the run directory; None = runs/RECIPE, for a recipe.
        overrides: fields to change, e.g. "train.lr=1e-3".
        progress: True = a bar or lines, False = silent, or a `Reporter` of your own; None = shown in notebooks.
        callbacks: hear of steps, validations and saves, see `training/callbacks.py`.

    Returns:
        The run directory; `unspoken.load(run)` is the trained model.

    Raises:
        ConfigError: no such recipe or field.
        RunError: `out` holds something else, or a run with another config.
        TrainingError: the loss is not finite, or the disk is full; the last saved state is kept.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP (a KeyboardInterrupt). The current step is finished and a state is saved.
    """
    if isinstance(config, str):
        made = recipe(config, overrides)
        out = Path("runs") / config.removesuffix(".json").replace("/", "-") if out is None else out
    else:
        made = build(RunConfig, config)
        made = build(RunConfig, override(dump(made), overrides)) if overrides else made
    if out is None:
        raise ConfigError("train needs a place for the run, e.g. train(config, 'runs/NAME')")
    shown = in_notebook() if progress is None else progress
    if isinstance(shown, bool):
        label = config if isinstance(config, str) else Path(out).name
        return loop.train(made, out, Live(label, Console() if in_notebook() else None) if shown else None, callbacks)
    return loop.train(made, out, shown, callbacks)


def evaluate(
    model: Model | str | Path,
    task: Task | TaskConfig | str | Mapping[str, object] | None = None,
    split: Split = "test",
    *,
    progress: bool | Callable[[int, int], None] | None = None,
    **options: Unpack[EvaluateOptions],
) -> EvalReport:
    """Answer the questions of a split with a model and score the answers.

        report = unspoken.evaluate(model)                           # the task it was trained on
        report = unspoken.evaluate(model, "gsm8k", limit=100)

    Args:
        model: a model, or the place of a run.
        task: a task, its name, or its fields as a dict; None = the task that the model was trained on. A name is the task
            with its default settings, which need not be those the model was trained with.
        split: which split.
        progress: True = a bar, False = silent, or a function of (questions answered, questions in all); None = shown in
            notebooks.
        options: see `evaluation/evaluator.py:evaluate`: limit, latents, batch_size, explain, chains, samples, keep, edit,
            on_trace, and those of answers: temperature, top_p, top_k, seed, max_new_tokens, stop, expect.

    Raises:
        ConfigError: no such task, field or option.
        DataError: the split is empty, two examples share an id, or a question does not fit the model.
        RunError: there is no run at the place.
    """
    answers = load(model, explain=bool(options.get("explain"))) if isinstance(model, (str, Path)) else model
    chosen = answers.task if task is None else task if isinstance(task, Task) else make_task(task)
    shown = in_notebook() if progress is None else progress
    if not isinstance(shown, bool):
        return evaluator.evaluate(answers, chosen, split, progress=shown, **options)
    with _bar(shown) as draw:
        return evaluator.evaluate(answers, chosen, split, progress=draw, **options)


def in_notebook() -> bool:
    """Whether this runs in a notebook."""
    return Console().is_jupyter


@contextlib.contextmanager
def _bar(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of questions; in a notebook, where bars need ipywidgets, lines without it."""
    console = Console()
    if not shown:
        yield None
    elif console.is_jupyter and find_spec("ipywidgets") is None:
        yield lambda done, total: console.print(f"{done} of {total} questions", highlight=False)
    else:
        with Progress(console=console, transient=True) as drawn:
            job = drawn.add_task("questions", total=None)
            yield lambda done, total: drawn.update(job, completed=done, total=total)
