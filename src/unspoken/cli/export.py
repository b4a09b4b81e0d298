"""`unspoken export`: what inference needs, by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from unspoken.cli._options import (
    FOLDER,
    Run,
    app,
    argument,
)
from unspoken.errors import ConfigError


@app.command()
def export(
    run: Run,
    out: Annotated[Path, argument("A new directory.", **FOLDER)],
    format: Annotated[
        str,
        typer.Option(help="run: a run directory; hf: for transformers alone; vllm: for vLLM; gguf: for llama.cpp."),
    ] = "run",
    bits: Annotated[Literal["f32", "q8_0"] | None, typer.Option(help="Of gguf's weights: 32, or 8 for matrices.")] = None,
    prompt_embeds: Annotated[bool, typer.Option("--prompt-embeds", help="A folder for `serve`; no base model.")] = False,
) -> None:
    """Write what inference needs: the inner method's parameters, without auxiliary decoder and training state."""
    if prompt_embeds:
        if format != "run":
            raise ConfigError("--prompt-embeds is a format of its own; leave --format out")
        from unspoken.exporters.prompt_embeds import export_prompt_embeds as write
    elif format == "run":
        from unspoken.runs.directory import export as write
    elif format == "hf":
        from unspoken.exporters.hf_folder import export_hf as write
    elif format == "vllm":
        from unspoken.exporters.vllm_folder import export_vllm as write
    elif format == "gguf":
        from unspoken.exporters.gguf_folder import export_gguf

        write = partial(export_gguf, bits=bits or "f32")
    else:
        raise ConfigError(f"unknown format {format!r}; known: run, hf, vllm, gguf")
    if bits is not None and format != "gguf":
        raise ConfigError(f"--bits is for --format gguf, got --format {format}; leave it out")
    write(run, out)
    typer.echo(str(out))
