"""`unspoken annotate`: have a language model write the reasoning steps of rows that have none."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import (
    FILE,
    BatchSize,
    Dtype,
    SplitName,
    TaskName,
    TaskOverrides,
    app,
    new_console,
    numbers,
    run_place,
    task_named,
)
from unspoken.cli._progress import bar
from unspoken.errors import ConfigError, DataError

if TYPE_CHECKING:
    from unspoken.core.text.example import Example
    from unspoken.core.text.prompts import SoftTexts
    from unspoken.tasks.annotate import Annotated as Told
    from unspoken.tasks.annotate import Writer


@app.command()
def annotate(
    task: TaskName,
    model: Annotated[
        str, typer.Option(help="With --url the server's name of it; else a run, a Hugging Face folder or a hub id.")
    ],
    out: Annotated[Path, typer.Option(help="The JSONL file; rows that are there already are kept.", **FILE)],
    overrides: TaskOverrides = None,
    url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible endpoint, e.g. http://localhost:8000/v1; none: this machine.")
    ] = None,
    split: SplitName = "train",
    steps: Annotated[
        str, typer.Option(help="How reasoning is split: lines, sentences, markers (equations only), ...")
    ] = "lines",
    tries: Annotated[int, typer.Option(help="Solutions per row, until one has the right answer.", min=1)] = 3,
    temperature: Annotated[float, typer.Option(help="Of the sampling.", min=0.0)] = 0.7,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest solution; default as the server or the model has it.", min=1)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="The answer must stand alone behind its mark.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows, to see what it costs.", min=1)] = None,
    again: Annotated[bool, typer.Option("--again", help="Ask for the rejected rows once more.")] = False,
    rewrite: Annotated[bool, typer.Option("--rewrite", help="Write steps for rows that have some, too.")] = False,
    price: Annotated[str | None, typer.Option(help="Money per million tokens, read and written, e.g. 0.15,0.60.")] = None,
    texts: Annotated[
        str | None, typer.Option(help="The prompt: plain, math, choice, yes_no, or a file with {question} in it.")
    ] = None,
    key: Annotated[str, typer.Option(help="The environment variable that holds the key.")] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(help="Calls of the endpoint at the same time.", min=1)] = 4,
    batch_size: BatchSize = 32,
    seed: Annotated[int, typer.Option(help="Of the sampling on this machine.", min=0)] = 0,
    dtype: Dtype = None,
) -> None:
    """Let a language model write reasoning steps for rows that have none; kept if its answer is right.

    Rows with steps are copied. Those that no solution got right go to OUT.rejected.jsonl. The same command goes on where it
    stopped.
    """
    from unspoken.tasks.annotate import annotate_file
    from unspoken.tasks.reading.segment import split_steps
    from unspoken.tasks.solutions import Judge

    split_steps("", steps)  # is it a rule?
    prices = _prices(price)
    if tries > 1 and temperature == 0:
        raise ConfigError(
            f"at --temperature 0 all {tries} tries write the same; give --tries 1, or a temperature such as 0.7"
        )
    chosen = task_named(task, overrides)
    if not (examples := chosen.examples(split)):
        raise DataError(f"the {split} split of {chosen.name} is empty")
    console = new_console()
    wording = _wording(texts, examples, steps)
    if url is not None:
        writer = _endpoint(url, model, wording, key, temperature, max_new_tokens, workers)
    else:
        writer = _local(model, wording, temperature, max_new_tokens, batch_size, seed, dtype)
    judge = Judge(score=chosen.score, steps=steps, strict=strict)
    with _goes_on(), bar(console, "rows") as tell:
        told = annotate_file(
            writer, examples, judge, out,
            tries=tries, again=again, rewrite=rewrite, limit=limit, progress=partial(tell, "rows"),
        )  # fmt: skip
    for line in _account(told, out, len(examples)):
        console.say(line)
    for line in _costs(told, prices):
        console.say(line)
    kind = getattr(chosen, "answers", None) or _kind(examples)
    more = "" if kind == "number" else f" task.answer={kind}"
    place = shlex.quote(str(out))
    typer.echo(
        f"next: unspoken train RECIPE task.name=files task.train={place} task.validation_fraction=0.1{more}", err=True
    )


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    found = numbers(text, "--price")
    if len(found) != 2 or not all(0 <= one < math.inf for one in found):
        raise ConfigError(f"--price needs two numbers, for a million tokens read and written, e.g. 0.15,0.60; got {text!r}")
    return found[0], found[1]


def _wording(texts: str | None, examples: Sequence[Example], steps: str) -> SoftTexts:
    """The prompt; if only equations are wanted, it says so."""
    from dataclasses import replace

    from unspoken.core.text.prompts import BY_KIND, SoftTexts, texts_of
    from unspoken.tasks.annotate import EQUATIONS
    from unspoken.tasks.reading.readers import read_text
    from unspoken.tasks.scoring.extractors import kind_of

    if texts is not None and Path(texts).is_file():
        written = read_text(texts)
        if written.count("{question}") != 1:
            raise ConfigError(f"{texts} must contain {{question}} once; it is replaced by each row's question")
        return SoftTexts(base=written + ("" if "{thoughts}" in written else "{thoughts}"))
    wording = texts_of(texts or BY_KIND.get(kind_of(examples[0].answer), "math"))
    return replace(wording, base=wording.base + EQUATIONS) if steps == "markers" else wording


def _endpoint(
    url: str, model: str, wording: SoftTexts, key: str, temperature: float, max_new_tokens: int | None, workers: int
) -> Writer:
    from unspoken.tasks.annotate import EndpointWriter
    from unspoken.tasks.endpoint import Client, Endpoint

    endpoint = Endpoint(url=url, model=model, key=key, temperature=temperature, max_tokens=max_new_tokens)
    return EndpointWriter(client=Client(endpoint), texts=wording, workers=workers)


def _local(
    model: str, wording: SoftTexts, temperature: float, most: int | None, at_once: int, seed: int, dtype: str | None
) -> Writer:
    from unspoken.runs.baseline import load_baseline
    from unspoken.runs.directory import load
    from unspoken.runs.places import is_plain
    from unspoken.runs.writer import LocalWriter

    if at_once < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {at_once}")
    if is_plain(model):
        loaded = load_baseline(model, texts=wording, dtype=dtype)
    else:
        loaded = load(run_place(model), explain=False, dtype=dtype)
    most = loaded.speaking.max_new_tokens if most is None else most
    return LocalWriter(loaded, at_once=at_once, temperature=temperature, max_new_tokens=most, seed=seed)


@contextlib.contextmanager
def _goes_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; what is settled is kept, and the same command goes on", err=True)
        raise typer.Exit(130) from None


def _account(told: Told, out: Path, rows: int) -> Iterator[str]:
    """What became of the rows, in words."""
    from unspoken.tasks.annotate import rejected_file

    yield f"{told.written} rows got steps; {out} holds {told.written + told.copied}"
    if told.copied:
        yield f"{told.copied} had steps and are copied"
    if told.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in told.reasons.items())
        yield f"{told.rejected} rejected ({reasons}): {rejected_file(out)}"
    if told.unanswered:
        yield f"{told.unanswered} got no answer from the server; the same command asks again"
    if rows > told.rows:
        yield f"{rows - told.rows} repeat an earlier row and are left out"
    if told.left:
        yield f"{told.left} were not asked for (--limit)"


def _costs(told: Told, prices: tuple[float, float] | None) -> Iterator[str]:
    """What all calls for this file have cost."""
    if not told.tries:
        return
    read, written = told.prompt_tokens, told.completion_tokens
    yield f"cost so far: {told.tries:,} solutions, {read:,} tokens read, {written:,} written, {told.seconds:,.0f} s of calls"
    if told.uncounted:
        yield f"{told.uncounted:,} solutions came without a count of tokens"
    if prices is not None:
        money = (read * prices[0] + written * prices[1]) / 1e6
        settled = told.written + told.rejected
        whole = (
            f"; at this rate {money * (settled + told.left) / settled:,.4f} for all rows" if told.left and settled else ""
        )
        yield f"money: {money:,.4f}{whole}"


def _kind(examples: Sequence[Example]) -> str:
    """Which kind of answers the task `files` is to be told."""
    from unspoken.tasks.scoring.extractors import kind_of

    kinds = {kind_of(example.answer) for example in examples}
    return kinds.pop() if kinds in ({"number"}, {"letter"}) else "text"
