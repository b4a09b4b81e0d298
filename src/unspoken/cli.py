"""The command line. Each command is a few lines over the library; heavy imports happen inside, so `--help` is instant."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.errors import ConfigError, DataError, UnspokenError

app = typer.Typer(
    help="Language models that reason without writing the reasoning down: train, evaluate, ask, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _argument(text: str) -> Any:
    return typer.Argument(help=text, show_default=False)


Overrides = Annotated[list[str] | None, _argument("Overrides, e.g. train.lr=1e-3 backbone.path=DIR.")]
TaskOverrides = Annotated[list[str] | None, _argument("Overrides of the task's fields, e.g. root=DIR.")]
Run = Annotated[Path, _argument("A run directory, or builtin:tiny.")]
Temperature = Annotated[float | None, typer.Option(help="0 = greedy; default as in the run.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; 1 = off.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0 = all.")]
Seed = Annotated[int | None, typer.Option(help="Seed of sampling.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer; default as in the run.")]


def _console() -> Any:
    from rich.console import Console

    return Console()


def _task_of(run: Path, task: str | None, overrides: list[str]) -> Any:
    """The run's own task, or another one, with overrides of its fields."""
    from unspoken.core.config import dump, override
    from unspoken.tasks import make_task, task_config
    from unspoken.training.checkpoint import RunDir

    config = RunDir(run).config().task if task is None else task_config(task)
    return make_task(override(dump(config), overrides))


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _seeds(text: str | None, seed: int | None, out: Path | None) -> list[int | None]:
    """The seeds of an evaluation; None = as the run says."""
    if text is None:
        return [seed]
    if seed is not None or out is not None:
        raise ConfigError("--seeds goes without --seed and --out: there is one report per seed, named by it")
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--seeds needs different numbers with commas between them, e.g. 41,42,43; got {text!r}")
    return [int(part) for part in parts]


def _report_path(run: Path, task: str, split: str, changed: dict[str, Any]) -> Path:
    """Where a report goes. Settings other than the run's own stand in its name: `compare` reads the plain one."""
    settings = "".join(f"-{name}-{value}" for name, value in changed.items())
    name = f"eval-{task}-{split}{settings}.json"
    return Path(f"{run.name.replace(':', '-')}-{name}") if str(run).startswith("builtin:") else run / name


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where the runs and the page go.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of every run.")] = 0,
) -> None:
    """Train No-CoT, Coconut and SIM-CoT on generated problems, compare them, and read the thoughts. Minutes on a laptop."""
    from unspoken.recipes.quickstart import quickstart as run

    run(out, seed, _console())


@app.command()
def train(
    recipe: Annotated[str, _argument("A recipe's name (see `list`) or a JSON file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/RECIPE.")] = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Train a recipe. The same command goes on where a killed run stopped."""
    from unspoken.recipes import recipe as load_recipe
    from unspoken.training.checkpoint import RunDir
    from unspoken.training.loop import train as run
    from unspoken.training.progress import Live

    config = load_recipe(recipe, overrides or [])
    target = out or Path("runs") / recipe.removesuffix(".json").replace("/", "-")
    try:
        done = run(config, target, None if quiet else Live(recipe))
    except KeyboardInterrupt:
        kept = RunDir(target).latest_step()
        whence = "from the start (no state had been saved: see train.save_every)" if kept is None else f"from step {kept}"
        typer.echo(f"interrupted; the same command goes on {whence}", err=True)
        raise typer.Exit(130) from None
    typer.echo(str(done.path))


@app.command("eval")
def evaluate(
    run: Run,
    overrides: TaskOverrides = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    latents: Annotated[int | None, typer.Option(help="How many latents to think; default as trained.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 32,
    explain: Annotated[bool, typer.Option(help="Decode the thoughts too, and score the steps.")] = False,
    chains: Annotated[int | None, typer.Option(help="Sets of thoughts per question; default: all (SoftCoT++).")] = None,
    samples: Annotated[int, typer.Option(help="Answers per set of thoughts; several answers vote.")] = 1,
    seeds: Annotated[str | None, typer.Option(help="Evaluate once per seed, e.g. 41,42,43; one report each.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default RUN/eval-TASK-SPLIT.json.")] = None,
) -> None:
    """Answer a split and score it: accuracy with intervals, and what it cost. Writes a JSON report."""
    from rich.progress import Progress

    from unspoken.evaluation.evaluator import evaluate as score
    from unspoken.evaluation.report import over_seeds, percent, table
    from unspoken.tasks.base import SPLITS
    from unspoken.training.checkpoint import load

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = _task_of(run, task, overrides or [])
    model = load(run, explain=explain)
    speaking = _given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    said = _seeds(seeds, seed, out)
    console = _console()
    reports = {}
    for one in said:
        settings = {**speaking, **_given(seed=one)}
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            job = bar.add_task("questions", total=None)
            report = score(
                model, chosen, split, limit=limit, latents=latents, batch_size=batch_size, explain=explain,
                chains=model.chains if chains is None else chains, samples=samples,
                progress=lambda done, total, job=job, bar=bar: bar.update(job, completed=done, total=total), **settings,
            )  # fmt: skip
        several = {"chains": chains, "samples": samples if samples > 1 else None}
        target = out or _report_path(
            run, chosen.name, split, _given(limit=limit, latents=latents, explain=explain or None, **several, **settings)
        )
        report.save(target)
        reports[f"{run.name}, seed {one}" if len(said) > 1 else run.name] = report
        written = f"report: {target}"
        if len(said) > 1:
            console.print(written, highlight=False, soft_wrap=True)
    console.print(table(reports))
    if len(said) > 1:
        console.print(over_seeds(list(reports.values())), highlight=False)
        return
    if (steps := report.step_accuracy) is not None:
        right = f"{percent(steps.correct_only.value)}%" if steps.correct_only.n else "there is none"
        told = f"{percent(steps.overall.value)}%; where the answer is right, {right}"
        console.print(f"decoded steps equal to the true step: {told}")
    console.print(written, highlight=False, soft_wrap=True)


@app.command()
def ask(
    run: Run,
    question: Annotated[str, _argument("A question in plain text; - reads it from standard input.")],
    show_thoughts: Annotated[bool, typer.Option("--show-thoughts", help="Print the decoded thoughts.")] = False,
    latents: Annotated[int | None, typer.Option(help="How many latents to think.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Ask a trained model one question."""
    from dataclasses import asdict

    from unspoken.training.checkpoint import load

    text = sys.stdin.read() if question == "-" else question
    model = load(run, explain=show_thoughts)
    speaking = _given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    said = model.answer([text], latents=latents, explain=show_thoughts, names=["the question"], **speaking)[0]
    if as_json:
        typer.echo(json.dumps(asdict(said), ensure_ascii=False))
        return
    for number, thought in enumerate(said.thoughts or (), start=1):
        typer.echo(f"thought {number}: {thought}")
    typer.echo(said.text)
    end = " and eos" if said.finished else ""
    typer.echo(f"({said.latents} latents, {said.visible} tokens{end}, {said.passes} forward passes)", err=True)


@app.command()
def compare(
    runs: Annotated[list[Path], _argument("Run directories (evaluated before) or report files.")],
    out: Annotated[Path | None, typer.Option(help="Also write Markdown (.md) or JSON (.json).")] = None,
) -> None:
    """Put evaluations side by side: a table, and a paired test on the problems they share."""
    from unspoken.evaluation.evaluator import EvalReport, write_atomic
    from unspoken.evaluation.report import compare as pair
    from unspoken.evaluation.report import comparison_markdown, comparison_table, table, to_json, to_markdown

    reports = {}
    for path in runs:
        files = sorted(path.glob("eval-*-test.json")) if path.is_dir() else [path]
        if len(files) != 1:
            there = files or (sorted(path.glob("eval-*.json")) if path.is_dir() else [])
            found = f"{len(files) or 'no'} report{'' if len(files) == 1 else 's'} of a whole test split"
            named = f" ({', '.join(f.name for f in there)})" if there else ""
            raise ConfigError(f"{path} has {found}{named}; run `unspoken eval {path}`, or name one report file")
        short = path.name if path.is_dir() else path.parent.name if path.stem.startswith("eval-") else path.stem
        label = next(n for n in (short, str(path), *(f"{path} ({k})" for k in range(2, 99))) if n not in reports)
        reports[label] = EvalReport.from_json(files[0])
    console = _console()
    console.print(table(reports))
    comparison = pair(reports) if len(reports) > 1 else None
    if comparison is not None:
        console.print(comparison_table(comparison))
    if out is not None:
        if out.suffix == ".json":
            write_atomic(out, to_json(reports))
        else:
            write_atomic(out, to_markdown(reports) + ("\n" + comparison_markdown(comparison) if comparison else ""))
        console.print(f"written: {out}", highlight=False)


@app.command()
def data(
    task: Annotated[str, _argument("A task's name (see `list`).")],
    overrides: TaskOverrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    n: Annotated[int, typer.Option("-n", help="How many to show.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the whole split as JSONL.")] = None,
) -> None:
    """Look at a task's problems, check a data file, or write a split as JSONL."""
    from unspoken.core.config import dump, override
    from unspoken.evaluation.evaluator import write_atomic
    from unspoken.tasks import make_task, task_config
    from unspoken.tasks.base import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = make_task(override(dump(task_config(task)), overrides or []))
    examples = chosen.examples(split)  # pyright: ignore[reportArgumentType]
    rows = [{"question": e.question, "steps": list(e.steps), "answer": e.answer, "id": e.id} for e in examples]
    if out is not None:
        write_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        typer.echo(f"{len(rows)} examples written to {out}")
        return
    for row in rows[:n]:
        typer.echo(json.dumps(row, ensure_ascii=False))
    if not examples:
        raise DataError(f"the {split} split of {chosen.name} is empty")
    lengths = sorted(len(e.steps) for e in examples)
    typer.echo(
        f"{len(rows)} examples, {lengths[0]} to {lengths[-1]} steps, fingerprint {chosen.fingerprint(split)}", err=True
    )  # pyright: ignore[reportArgumentType]


@app.command("learn-steps")
def learn_steps(
    task: Annotated[str, _argument("A task whose steps are known (see `list`).")],
    overrides: TaskOverrides = None,
    out: Annotated[Path, typer.Option(help="Where the rule goes: a JSON file.")] = Path("steps.json"),
    limit: Annotated[int, typer.Option(help="Learn from the first N training problems.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the order in which they are looked at.")] = 0,
) -> None:
    """Learn to find reasoning steps in text without marks. `learned:FILE` then is a rule, for tasks and step_weighted."""
    from unspoken.core.config import dump, override
    from unspoken.core.step_tagger import learn
    from unspoken.tasks import make_task, task_config

    examples = make_task(override(dump(task_config(task)), overrides or [])).examples("train")[:limit]
    tagger, f1 = learn([example.steps for example in examples], seed=seed)
    tagger.save(out)
    measured = "" if f1 is None else f"; of every tenth, not learned from, it finds steps with F1 {f1:.3f} (both ends right)"
    typer.echo(f"{out}: learned from {len(examples)} problems{measured}; use it as the rule learned:{out}")


@app.command()
def condense(
    task: Annotated[str, _argument("A task's name (see `list`).")],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The name of its model.")],
    out: Annotated[Path, typer.Option(help="The JSONL file; rows that are there already are kept.")],
    overrides: TaskOverrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    words: Annotated[int, typer.Option(help="Words to ask for.", min=1)] = 10,
    key: Annotated[str, typer.Option(help="The environment variable that holds the key.")] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(help="Calls at the same time.", min=1)] = 4,
) -> None:
    """Let a language model condense a task's reasoning, for SemCoT's encoder. The same command goes on where it stopped."""
    from rich.progress import Progress

    from unspoken.core.config import dump, override
    from unspoken.tasks import make_task, task_config
    from unspoken.tasks.base import SPLITS
    from unspoken.tasks.condense import Endpoint, condense_file

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = make_task(override(dump(task_config(task)), overrides or []))
    examples = chosen.examples(split)  # pyright: ignore[reportArgumentType]
    console = _console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("rows", total=len(examples))
        asked = condense_file(
            Endpoint(url=url, model=model, key=key), examples, out, words=words, workers=workers,
            progress=lambda done, total: bar.update(job, completed=done, total=total),
        )  # fmt: skip
    typer.echo(f"{len(examples)} rows in {out}, {asked} of them new; train on them with task files train={out}")


@app.command()
def export(
    run: Run,
    out: Annotated[Path, _argument("A new directory.")],
    format: Annotated[str, typer.Option(help="run: a run directory; hf: a folder for transformers alone.")] = "run",
    prompt_embeds: Annotated[bool, typer.Option("--prompt-embeds", help="A folder for `serve`; no base model.")] = False,
) -> None:
    """Write what inference needs: the inner method's parameters, without auxiliary decoder and training state."""
    if prompt_embeds:
        if format != "run":
            raise ConfigError("--prompt-embeds is a format of its own; leave --format out")
        from unspoken.training.prompt_export import export_prompt_embeds as write
    elif format == "run":
        from unspoken.training.checkpoint import export as write
    elif format == "hf":
        from unspoken.training.hf_export import export_hf as write
    else:
        raise ConfigError(f"unknown format {format!r}; known: run, hf")
    write(run, out)
    typer.echo(str(out))


@app.command()
def serve(
    folder: Annotated[Path, _argument("What `export --prompt-embeds` wrote.")],
    engine: Annotated[str | None, typer.Option(help="Base URL of the engine, e.g. http://localhost:8000/v1.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8100,
) -> None:
    """Turn questions into prompt embeddings in front of a stock engine (vLLM --enable-prompt-embeds)."""
    from unspoken.serve import Service
    from unspoken.training.prompt_export import PromptEmbedder

    embedder = PromptEmbedder.load(folder)
    try:
        service = Service(embedder, (host, port), engine=engine)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror or error}; give another --port") from None
    typer.echo(f"prompt embeddings for {embedder.model} at http://{host}:{service.server_port}", err=True)
    try:
        service.serve_forever()
    except KeyboardInterrupt:
        service.server_close()


@app.command("import")
def import_(
    path: Annotated[Path, _argument("A released checkpoint: a file (.safetensors, .bin, checkpoint_25) or a folder.")],
    base: Annotated[str, typer.Option(help="The model it was trained from: a folder (weights may be absent) or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")] = None,
    latents: Annotated[int | None, typer.Option(help="Latents of CODI (default 6) or SemCoT (5), as published.")] = None,
    latents_per_step: Annotated[int | None, typer.Option(help="Coconut: c; default 2, as published.")] = None,
    max_stage: Annotated[int | None, typer.Option(help="Coconut: K; default 3, with SIM-CoT 5, as published.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's alpha; default 32 at rank 128, as published.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends an answer; default BASE's own, checked.")] = None,
    decoder_base: Annotated[str | None, typer.Option(help="What the auxiliary decoder was made from; default BASE.")] = None,
    assistant: Annotated[str | None, typer.Option(help="SoftCoT, SemCoT: the small model (docs/importing.md).")] = None,
    texts: Annotated[str | None, typer.Option(help="SoftCoT: prompts, by name or as a JSON file; default math.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights written: float32 or bfloat16.")] = "float32",
    task: Annotated[str, typer.Option(help="What `eval` takes by default.")] = "gsm8k_aug",
) -> None:
    """Make a run directory of a released checkpoint (docs/importing.md). Accounts for every tensor, or fails."""
    from unspoken.importers import import_checkpoint

    done = import_checkpoint(
        path, base, out or Path("runs") / path.resolve().name.split(".")[0],
        latents=latents, latents_per_step=latents_per_step, max_stage=max_stage, alpha=alpha, eos=eos,
        decoder_base=decoder_base, assistant=assistant, texts=texts, dtype=dtype, task=task,
    )  # fmt: skip
    for line in done.lines():
        typer.echo(line, err=True)
    typer.echo(str(done.path))


@app.command("list")
def list_() -> None:
    """Recipes, methods, tasks, a line each."""
    import sys

    from unspoken.core.config import lookup
    from unspoken.methods import METHODS
    from unspoken.recipes import RECIPES
    from unspoken.tasks import TASKS

    for kind, table in (("recipe", RECIPES), ("method", METHODS), ("task", TASKS)):
        typer.echo(f"{kind}s:")
        for name in table:
            what = lookup(table, name, kind)
            text = (sys.modules[what.__module__] if kind == "method" else what).__doc__ or ""
            typer.echo(f"  {name:34} {text.strip().splitlines()[0]}")


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line, without source code; those meant for developers are left out."""
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: an error that unspoken raises is one line on standard error, and its exit code."""
    warnings.showwarning = _warn
    try:
        app()
    except UnspokenError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
