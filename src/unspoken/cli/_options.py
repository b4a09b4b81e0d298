"""What the commands share: the program, options that several take, and the console."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unspoken.core.checks import number_of, shown
from unspoken.errors import ConfigError
from unspoken.tasks.base import SPLITS, Split, TaskConfig

if TYPE_CHECKING:
    from unspoken.cli._terminal import Terminal

app = typer.Typer(
    help="Language models that reason without writing the reasoning down: train, evaluate, ask, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        typer.echo(f"unspoken {importlib.metadata.version('unspoken')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Language models that reason without writing the reasoning down: train, evaluate, ask, compare."""


def group_help(program: typer.Typer, panels: Mapping[str, Sequence[str]]) -> None:
    """Put the commands of --help under headings, a file's command under that of its file.

    Args:
        program: its commands are registered.
        panels: heading -> the files of its commands.
    """
    headings = {f"unspoken.cli.{name}": heading for heading, names in panels.items() for name in names}
    for info in program.registered_commands:
        info.rich_help_panel = headings[info.callback.__module__] if info.callback is not None else None
    for group in program.registered_groups:
        inside = group.typer_instance.registered_commands if group.typer_instance is not None else []
        group.rich_help_panel = next((headings[info.callback.__module__] for info in inside if info.callback), None)


def argument(text: str, **more: Any) -> Any:
    """A positional argument with its help."""
    return typer.Argument(help=text, show_default=False, **more)


def out_file(text: str | Path) -> Path:
    """Check the path of an output file, before anything is computed for it."""
    path = _place(text)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file")
    return path


def out_folder(text: str | Path) -> Path:
    """Check the path of an output folder."""
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


MOST_SEEDS = 10_000


def seed_list(text: str, what: str) -> list[int]:
    """The seeds of --seeds. One number is how many: 5 = 0, 1, 2, 3, 4.

    Args:
        text: what was given.
        what: of what there is one per seed.

    Raises:
        ConfigError: something else, or too many.
    """
    parts = [part.strip() for part in text.split(",")]
    if any(len(part) > 18 for part in parts):
        raise ConfigError(f"--seeds needs numbers of at most 18 digits, got {text!r:.60}")
    if len(parts) == 1 and parts[0].isdecimal() and int(parts[0]):
        if int(parts[0]) > MOST_SEEDS:
            raise ConfigError(
                f"--seeds {parts[0]} asks for so many {what}; {MOST_SEEDS} at most. The one seed {parts[0]} "
                f"is --seeds {parts[0]},"
            )
        return list(range(int(parts[0])))
    if len(parts) == 2 and not parts[-1]:  # "41," is the seed 41 alone
        del parts[-1]
    elif len(parts) == 1:
        parts = [""]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"--seeds needs how many, e.g. 5 for 0 to 4, or different numbers with commas, e.g. 41,42,43; got {text!r}"
        )
    return [int(part) for part in parts]


def split_of(text: str) -> Split:
    """The name of a split, checked."""
    for split in SPLITS:
        if split == text:
            return split
    raise ConfigError(f"unknown split {text!r}; known: {', '.join(SPLITS)}")


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        ConfigError: something else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} needs numbers with commas between them, e.g. 0.5,1,2; got {text!r}") from None


def main_process() -> bool:
    """This is the only process, or the one of several that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


CONTROLLED = 200
"""Problems per control; `causal/controls.py:LIMIT` says why. Stands here so that `--help` loads nothing."""


def run_place(text: str | Path) -> Path:
    """A run that is there: seen at once, long before torch is loaded."""
    from unspoken.runs.places import Places

    Places(text).read()
    return Path(text)


def model_place(text: str | Path) -> Path:
    """A run that is there, or a plain Hugging Face model: a folder, or the id of one on the hub."""
    from unspoken.runs.places import is_plain

    return Path(text) if is_plain(text) else run_place(text)


def _complete_runs(incomplete: str) -> list[str]:
    """Runs and models of the package that begin so, for the shell."""
    from unspoken.core.builtin import BUILTIN, builtin

    inside = [BUILTIN + run.parent.name for run in builtin(BUILTIN).glob("*/run.json")]
    begun = Path(incomplete + "x").parent  # "runs/" and "runs/s" both look into runs
    found = [file.parent.as_posix() for folder in {begun, Path("runs")} for file in folder.glob("*/run.json")]
    return sorted(name for name in {*inside, *found} if name.startswith(incomplete))


def _complete_recipes(incomplete: str) -> list[str]:
    """Recipes and files that begin so, for the shell."""
    from unspoken.recipes import RECIPES

    return [*(name for name in RECIPES if name.startswith(incomplete)), *map(str, Path().glob(f"{incomplete}*.json"))]


def _complete_tasks(incomplete: str) -> list[str]:
    """Tasks that begin so, for the shell."""
    from unspoken.tasks import TASKS

    return [name for name in TASKS if name.startswith(incomplete)]


RECIPE: Any = {"autocompletion": _complete_recipes}
RUNS: Any = {"metavar": "RUN", "autocompletion": _complete_runs}
RUN: Any = {"parser": run_place, **RUNS}
FILE: Any = {"parser": out_file, "metavar": "FILE"}
FOLDER: Any = {"parser": out_folder, "metavar": "FOLDER"}

Overrides = Annotated[list[str] | None, argument("Overrides, e.g. train.lr=1e-3 backbone.path=DIR.")]
TaskOverrides = Annotated[list[str] | None, argument("Overrides of the task's fields, e.g. root=DIR.")]
RunOrModel = Annotated[
    Path,
    argument(
        "A run directory, builtin:tiny-sim-cot, hf://owner/name, or a Hugging Face folder or hub id.",
        **RUN | {"parser": model_place},
    ),
]
Run = Annotated[Path, argument("A run directory, builtin:tiny-sim-cot, or hf://owner/name of the Hub.", **RUN)]
SplitName = Annotated[Split, typer.Option(help="train, validation or test.", parser=split_of, metavar="<str>")]
OtherTask = Annotated[str | None, typer.Option(help="Another task than the run's own.")]
Latents = Annotated[int | None, typer.Option(help="How many latents to think; default as trained.")]
Chains = Annotated[int | None, typer.Option(help="Sets of thoughts per question; default: all (SoftCoT++).")]
BatchSize = Annotated[int, typer.Option(help="Questions per batch.")]
Quiet = Annotated[bool, typer.Option(help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON.")]
TaskName = Annotated[str, argument("A task's name (see `list`).", autocompletion=_complete_tasks)]
Report = Annotated[Path, argument("A report file that `eval` wrote, or a run directory that has one.")]

Temperature = Annotated[float | None, typer.Option(help="0 = greedy; default as in the run.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; 1 = off.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0 = all.")]
Seed = Annotated[int | None, typer.Option(help="Seed of sampling.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer; default as in the run.")]

Stop = Annotated[str | None, typer.Option(help="Stop thinking: confidence:0.9, convergence:0.05, head:0.5 or fixed:3.")]
Expect = Annotated[str | None, typer.Option(help="How answers are expected to begin; changes none, saves passes.")]
Soft = Annotated[
    str | None,
    typer.Option(help="Think in mixtures of tokens: soft, or switch,window=64,... (docs/guides/soft-thinking.md)."),
]
Thinking = Annotated[bool, typer.Option("--thinking/--no-thinking", help="Let a plain model write its thinking first.")]
Texts = Annotated[str | None, typer.Option(help="A plain model's prompt: plain, math, choice, yes_no.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or int8 (CPU); default as trained.")]


def new_console(quiet: bool = False) -> Terminal:
    """The console for tables."""
    from unspoken.cli._terminal import Terminal

    return Terminal(emoji=False, quiet=quiet)  # "paper:coconut:" is a rule, not a picture


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


def task_of(run: Path, task: str | None, overrides: list[str] | None) -> Any:
    """The run's own task, or another one, with overrides of its fields."""
    from unspoken.runs.directory import RunDir

    return task_named(RunDir(run).config().task if task is None else task, overrides)


def task_named(task: str | TaskConfig, overrides: list[str] | None) -> Any:
    """A task by its name or config, with overrides of its fields."""
    from unspoken.core.config import dump, override
    from unspoken.tasks import make_task, task_config

    if place := next((text for text in overrides or () if "=" not in text and Path(text).exists()), None):
        raise ConfigError(f"{place} is a file of which split? Say train={place}, validation={place} or test={place}")
    return make_task(override(dump(task_config(task) if isinstance(task, str) else task), overrides or []))


def given(**options: object) -> dict[str, Any]:
    """The options that were given (not None)."""
    return {name: value for name, value in options.items() if value is not None}


def report_file(path: Path) -> Path:
    """A report file; of a run directory the one of a whole test split, or the only one.

    Raises:
        ConfigError: the run directory has none, or several that could be meant.
    """
    if not path.is_dir():
        return path
    from unspoken.runs.places import Places

    files, whole = Places(path).reports(), Places(path).reports(whole=True)
    if not files:
        raise ConfigError(f"{path} has no reports; run `unspoken eval {path}`, or name a file")
    if len(files) > 1 and len(whole) != 1:
        raise ConfigError(f"{path} has {len(files)} reports ({', '.join(map(str, files))}); name one of them")
    return whole[0] if whole else files[0]
