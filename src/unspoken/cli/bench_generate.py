"""`unspoken bench generate`: thinking in latents against an explicit chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli._bench import Device, Json, Out, Rounds, Shape, Threads, bench, show, use_threads
from unspoken.cli._options import whole_numbers
from unspoken.errors import ConfigError


@bench.command()
def generate(
    model: Shape = "gpt2-small",
    latents: Annotated[int, typer.Option(help="Latents per question.")] = 6,
    question: Annotated[int, typer.Option(help="Tokens of a question.")] = 40,
    answer: Annotated[int, typer.Option(help="Tokens of an answer.")] = 20,
    chain: Annotated[int, typer.Option(help="Tokens of the explicit chain that latents stand for.")] = 100,
    task: Annotated[
        str | None, typer.Option(help="Take these lengths from a task's test split; needs --model FOLDER.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="Take the question's from a file, one a line.")] = None,
    batches: Annotated[str, typer.Option(help="Questions at a time, for our engine.")] = "1,8,32",
    explicit_batches: Annotated[str, typer.Option(help="Questions at a time, for the explicit chain.")] = "1,32",
    dtypes: Annotated[str, typer.Option(help="Of our engine: float32, bfloat16, int8.")] = "float32",
    vllm: Annotated[
        Path | None, typer.Option(help="The python of an environment with vLLM: it writes the chain, and so do we.")
    ] = None,
    rounds: Rounds = 5,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Thinking in latents: the released way, an explicit chain with transformers, our engine."""
    kinds: Any = [part.strip() for part in dtypes.split(",")]
    if unknown := [kind for kind in kinds if kind not in ("float32", "bfloat16", "int8")]:
        raise ConfigError(f"unknown dtype {unknown[0]!r} in --dtypes; known: float32, bfloat16, int8")
    sizes, explicit = _numbers("--batches", batches), _numbers("--explicit-batches", explicit_batches)
    use_threads(threads)
    if task is not None or questions is not None:
        from unspoken.bench.lengths import lengths_of

        own = lengths_of(model, task, questions)
        question, answer, chain = own["question"], own.get("answer", answer), own.get("chain", chain)
        typer.echo(f"lengths: question {question}, answer {answer}, chain {chain} tokens (medians)", err=True)
    from unspoken.bench.generate import run

    report = run(
        model, latents=latents, question=question, answer=answer, chain=chain, batches=sizes, explicit_batches=explicit,
        kinds=kinds, rounds=rounds, device=device, vllm=vllm, progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    columns = ("questions", "passes", "positions_per_question", "seconds_per_question", "cpu_seconds_per_question")
    show(report, columns, as_json, out)


def _numbers(option: str, text: str) -> list[int]:
    found = whole_numbers(text, option, "1,8,32", most=1 << 16)
    if not all(found):
        raise ConfigError(f"{option} needs numbers from 1 on, e.g. 1,8,32; got {text!r}")
    return found
