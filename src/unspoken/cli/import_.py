"""`unspoken import`: a released checkpoint becomes a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    app,
    argument,
)


@app.command("import")
def import_(
    path: Annotated[Path, argument("A released checkpoint: a file (.safetensors, .bin, checkpoint_25) or a folder.")],
    base: Annotated[str, typer.Option(help="The model it was trained from: a folder (weights may be absent) or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.", **FOLDER)] = None,
    latents: Annotated[int | None, typer.Option(help="Latents of CODI (6), PCCoT (24), SemCoT (5) or SoftCoT.")] = None,
    latents_per_step: Annotated[int | None, typer.Option(help="Coconut: c; default 2, as published. LOTUS: 25.")] = None,
    max_stage: Annotated[int | None, typer.Option(help="Coconut: K; default 3, with SIM-CoT 5. LOTUS: 6.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's alpha; default 32 at rank 128, as published.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends an answer; default BASE's own, checked.")] = None,
    decoder_base: Annotated[str | None, typer.Option(help="What the auxiliary decoder was made from; default BASE.")] = None,
    assistant: Annotated[str | None, typer.Option(help="SoftCoT, SemCoT: small model; docs/guides/importing.md.")] = None,
    texts: Annotated[str | None, typer.Option(help="SoftCoT: prompts, by name or as a JSON file; default math.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights written: float32 or bfloat16.")] = "float32",
    task: Annotated[str, typer.Option(help="What `eval` takes by default.")] = "gsm8k_aug",
) -> None:
    """Make a run directory of a released checkpoint (docs/guides/importing.md). Accounts for every tensor, or fails."""
    from unspoken.importers import import_checkpoint

    done = import_checkpoint(
        path, base, out or Path("runs") / path.resolve().name.split(".")[0],
        latents=latents, latents_per_step=latents_per_step, max_stage=max_stage, alpha=alpha, eos=eos,
        decoder_base=decoder_base, assistant=assistant, texts=texts, dtype=dtype, task=task,
    )  # fmt: skip
    for line in done.lines():
        typer.echo(line, err=True)
    typer.echo(str(done.path))
