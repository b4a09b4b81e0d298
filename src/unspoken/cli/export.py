"""`unspoken export`: what inference needs, by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        str, typer.Option(help="run: a run directory; hf: a folder for transformers alone; vllm: one for vLLM.")
    ] = "run",
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
    else:
        raise ConfigError(f"unknown format {format!r}; known: run, hf, vllm")
    write(run, out)
    typer.echo(str(out))
