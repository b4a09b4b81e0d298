"""What the commands share: the program, options that several take, and the console."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.core.checks import number_of, shown
from unspoken.errors import ConfigError

app = typer.Typer(
    help="Language models that reason without writing the reasoning down: train, evaluate, ask, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def argument(text: str, **more: Any) -> Any:
    """A positional argument with its help."""
    return typer.Argument(help=text, show_default=False, **more)


def out_file(text: str | Path) -> Path:
    """Where a file goes: refused before anything is computed for it."""
    path = _place(text)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file")
    return path


def out_folder(text: str | Path) -> Path:
    """Where a folder goes."""
    path = _place(text)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; give the name of a folder")
    return path


def _place(text: str | Path) -> Path:
    if not str(text).strip():
        raise ConfigError("a place to write to must have a name, got an empty text")
    path = Path(text)
    if long := [part for part in path.parts if len(os.fsencode(part)) > 240]:
        raise ConfigError(f"the name {long[0][:20]}... is {len(os.fsencode(long[0]))} bytes long; give one of at most 240")
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"cannot write to {path}: {error.strerror}; give another place") from None
    return path


def whole_numbers(text: str, option: str, example: str, *, most: int = 999_999_999) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        ConfigError: something else.
    """
    found = [number_of(part.strip()) for part in text.split(",")]
    if any(number is None or number > most for number in found):
        raise ConfigError(f"{option} needs whole numbers with commas between them, e.g. {example}; got {shown(text)}")
    return [number for number in found if number is not None]


FILE: Any = {"parser": out_file, "metavar": "FILE"}
FOLDER: Any = {"parser": out_folder, "metavar": "FOLDER"}

Overrides = Annotated[list[str] | None, argument("Overrides, e.g. train.lr=1e-3 backbone.path=DIR.")]
TaskOverrides = Annotated[list[str] | None, argument("Overrides of the task's fields, e.g. root=DIR.")]
Run = Annotated[Path, argument("A run directory, or builtin:tiny.")]
Temperature = Annotated[float | None, typer.Option(help="0 = greedy; default as in the run.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; 1 = off.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0 = all.")]
Seed = Annotated[int | None, typer.Option(help="Seed of sampling.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer; default as in the run.")]

Stop = Annotated[str | None, typer.Option(help="Stop thinking: confidence:0.9, convergence:0.05, head:0.5 or fixed:3.")]
Expect = Annotated[str | None, typer.Option(help="How answers are expected to begin; changes none, saves passes.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or int8 (CPU); default as trained.")]


def new_console(quiet: bool = False) -> Any:
    """Where tables go."""
    from rich.console import Console

    class Plain(Console):
        """Prints text as it is: names, paths and questions may hold what rich takes for its own marks. Tables escape it."""

        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*objects, **({"markup": False} if all(isinstance(o, str) for o in objects) else {}), **how)

    return Plain(emoji=False, quiet=quiet)  # "paper:coconut:" is a rule, not a picture


def rule_names(text: str | None) -> tuple[str, ...]:
    """Names of extractors with commas between them, checked; "all" = those whose libraries are there; None = none."""
    from unspoken.tasks.scoring.extractors import EXTRACTORS, extractor

    if text is None:
        return ()
    if text == "all":
        return tuple(EXTRACTORS)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        extractor(name)
    return names


def task_of(run: Path, task: str | None, overrides: list[str]) -> Any:
    """The run's own task, or another one, with overrides of its fields."""
    from unspoken.core.config import dump, override
    from unspoken.runs.directory import RunDir
    from unspoken.tasks import make_task, task_config

    config = RunDir(run).config().task if task is None else task_config(task)
    return make_task(override(dump(config), overrides))


def run_training(config: Any, out: Path, label: str, quiet: bool) -> None:
    """Train, and print where the run is. Who stops it learns where the same command goes on, and what is lost."""
    from unspoken.runs.directory import RunDir
    from unspoken.training.loop import train
    from unspoken.training.progress import Live

    try:
        done = train(config, out, None if quiet else Live(label))
    except KeyboardInterrupt as stop:
        kept = RunDir(out).latest_step()
        whence = "from the start (no state had been saved: see train.save_every)" if kept is None else f"from step {kept}"
        lost = getattr(stop, "step", 0) - (kept or 0)
        steps = "" if lost <= 0 else f"; {lost} step{'s' if lost > 1 else ''} behind it {'are' if lost > 1 else 'is'} lost"
        typer.echo(f"interrupted; the same command goes on {whence}{steps}", err=True)
        raise typer.Exit(128 + getattr(stop, "number", 2)) from None
    typer.echo(str(done.path))


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
