"""Commands that make runs and hand them on: quickstart, train, import, export, serve."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli.options import (
    FOLDER,
    Overrides,
    Run,
    app,
    argument,
    new_console,
    run_training,
)
from unspoken.errors import ConfigError


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where the runs and the page go.", **FOLDER)] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of every run.")] = 0,
) -> None:
    """Train No-CoT, Coconut and SIM-CoT on generated problems, compare them, and read the thoughts. Minutes on a laptop."""
    from unspoken.recipes.quickstart import quickstart as run

    run(out, seed, new_console())


@app.command()
def train(
    recipe: Annotated[str, argument("A recipe's name (see `list`) or a JSON file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/RECIPE.", **FOLDER)] = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Train a recipe. The same command goes on where a killed run stopped."""
    from unspoken.recipes import recipe as load_recipe

    config = load_recipe(recipe, overrides or [])
    run_training(config, out or Path("runs") / recipe.removesuffix(".json").replace("/", "-"), recipe, quiet)


@app.command("import")
def import_(
    path: Annotated[Path, argument("A released checkpoint: a file (.safetensors, .bin, checkpoint_25) or a folder.")],
    base: Annotated[str, typer.Option(help="The model it was trained from: a folder (weights may be absent) or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.", **FOLDER)] = None,
    latents: Annotated[int | None, typer.Option(help="Latents of CODI (default 6), SemCoT (5) or SoftCoT.")] = None,
    latents_per_step: Annotated[int | None, typer.Option(help="Coconut: c; default 2, as published.")] = None,
    max_stage: Annotated[int | None, typer.Option(help="Coconut: K; default 3, with SIM-CoT 5, as published.")] = None,
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


@app.command()
def export(
    run: Run,
    out: Annotated[Path, argument("A new directory.", **FOLDER)],
    format: Annotated[str, typer.Option(help="run: a run directory; hf: a folder for transformers alone.")] = "run",
    prompt_embeds: Annotated[bool, typer.Option("--prompt-embeds", help="A folder for `serve`; no base model.")] = False,
) -> None:
    """Write what inference needs: the inner method's parameters, without auxiliary decoder and training state."""
    if prompt_embeds:
        if format != "run":
            raise ConfigError("--prompt-embeds is a format of its own; leave --format out")
        from unspoken.export.prompt_embeds import export_prompt_embeds as write
    elif format == "run":
        from unspoken.runs.directory import export as write
    elif format == "hf":
        from unspoken.export.hf_folder import export_hf as write
    else:
        raise ConfigError(f"unknown format {format!r}; known: run, hf")
    write(run, out)
    typer.echo(str(out))


@app.command()
def serve(
    folder: Annotated[Path, argument("What `export --prompt-embeds` wrote.")],
    engine: Annotated[str | None, typer.Option(help="Base URL of the engine, e.g. http://localhost:8000/v1.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8100,
    key: Annotated[str | None, typer.Option(help="The environment variable that holds a key; clients must send it.")] = None,
) -> None:
    """Turn questions into prompt embeddings in front of a stock engine (vLLM --enable-prompt-embeds)."""
    from unspoken.export.prompt_embeds import PromptEmbedder
    from unspoken.serving.prompt_embeds import Service

    secret = None if key is None else os.environ.get(key, "").strip()
    if secret == "":
        raise ConfigError(f"--key names the environment variable that holds the key, but {key!r} is not set")
    service = Service(PromptEmbedder.load(folder), (host, port), engine=engine, key=secret)
    with service:
        typer.echo(f"prompt embeddings for {service.embedder.model} at http://{host}:{service.server_port}", err=True)
        if secret is None and not service.local:
            typer.echo(f"warning: whoever reaches {host} may ask; set a key with --key, or listen at 127.0.0.1", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            service.serve_forever()
