"""`unspoken ask`: one question to one run, or questions one after the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli._options import (
    RUNS,
    AsJson,
    Dtype,
    Expect,
    MaxNewTokens,
    Seed,
    Soft,
    Stop,
    Temperature,
    Texts,
    Thinking,
    TopK,
    TopP,
    app,
    argument,
    given,
    model_place,
    new_console,
)
from unspoken.errors import ConfigError

SHIPPED = "builtin:tiny-sim-cot"
"""What is asked where no run is named."""


@app.command()
def ask(
    run: Annotated[str | None, argument(f"A run directory, or a Hugging Face model; default {SHIPPED}.", **RUNS)] = None,
    question: Annotated[
        str | None, argument("A question in plain text; - reads it from standard input; without one: a conversation.")
    ] = None,
    show_thoughts: Annotated[
        bool | None, typer.Option("--show-thoughts/--hide-thoughts", help="Print the decoded thoughts.")
    ] = None,
    latents: Annotated[int | None, typer.Option(help="How many latents to think.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    expect: Expect = None,
    soft: Soft = None,
    thinking: Thinking = False,
    texts: Texts = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Ask a trained model a question, or talk with it: `unspoken ask` alone starts a conversation with the shipped one."""
    place, question = _who_and_what(run, question)
    if as_json and question is None:
        raise ConfigError("--json goes with a question; give one, or - to read it from standard input")
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    speaking |= given(stop=stop, expect=expect, soft=soft)
    plain = {"thinking": thinking, "texts": texts}
    if question is None:
        _talk(place, latents, speaking, dtype, plain)
        return
    from dataclasses import asdict

    from unspoken.evaluation.tables import cut_off
    from unspoken.runs.baseline import load_any

    text = sys.stdin.read() if question == "-" else question
    shows = str(place) == SHIPPED if show_thoughts is None else show_thoughts
    model = load_any(place, explain=shows, dtype=dtype, **plain)
    said = model.answer([text], latents=latents, explain=shows, names=["the question"], **speaking)[0]
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


def _who_and_what(run: str | None, question: str | None) -> tuple[Path, str | None]:
    """The run and the question. One text alone is a run if it could be the name of one, else a question."""
    if run is None:
        return Path(SHIPPED), None
    text = question is None and (run == "-" or (len(run.split()) > 1 and not Path(run).exists()) or not run.strip())
    return (Path(SHIPPED), run) if text else (model_place(run), question)


def _talk(run: Path, latents: int | None, speaking: dict[str, object], dtype: str | None, plain: dict[str, Any]) -> None:
    typer.echo(f"loading {run} ...", err=True)
    from unspoken.cli._conversation import Conversation, converse
    from unspoken.runs.baseline import load_any

    converse(
        Conversation(run, load_any(run, dtype=dtype, **plain), new_console(), latents=latents, how=speaking, dtype=dtype)
    )
