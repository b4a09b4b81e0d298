"""`unspoken ask`: one question to one run."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from unspoken.cli._options import (
    AsJson,
    Dtype,
    Expect,
    MaxNewTokens,
    Run,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    app,
    argument,
    given,
)


@app.command()
def ask(
    run: Run,
    question: Annotated[str, argument("A question in plain text; - reads it from standard input.")],
    show_thoughts: Annotated[bool, typer.Option("--show-thoughts", help="Print the decoded thoughts.")] = False,
    latents: Annotated[int | None, typer.Option(help="How many latents to think.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    expect: Expect = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Ask a trained model one question."""
    from dataclasses import asdict

    from unspoken.evaluation.tables import cut_off
    from unspoken.runs.directory import load

    text = sys.stdin.read() if question == "-" else question
    model = load(run, explain=show_thoughts, dtype=dtype)
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    speaking |= given(stop=stop, expect=expect)
    said = model.answer([text], latents=latents, explain=show_thoughts, names=["the question"], **speaking)[0]
    if as_json:
        typer.echo(json.dumps(asdict(said), ensure_ascii=False))
        return
    for number, thought in enumerate(said.thoughts or (), start=1):
        typer.echo(f"thought {number}: {thought}")
    typer.echo(said.text)
    end = " and eos" if said.finished else ""
    typer.echo(f"({said.latents} latents, {said.visible} tokens{end}, {said.passes} forward passes)", err=True)
    if not said.finished:
        typer.echo(cut_off(1, 1, speaking.get("max_new_tokens", model.speaking.max_new_tokens)), err=True)
