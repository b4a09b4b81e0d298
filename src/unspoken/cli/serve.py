"""`unspoken serve`: runs behind OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli._options import Soft, Texts, Thinking, app, argument
from unspoken.errors import ConfigError


@app.command()
def serve(
    runs: Annotated[
        list[Path],
        argument(
            "Runs, builtin:tiny, hf://owner/name, Hugging Face models, `export --prompt-embeds` folders.", metavar="RUN..."
        ),
    ],
    name: Annotated[list[str] | None, typer.Option(help="What requests call each run.", metavar="NAME")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.", metavar="ADDR")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535, metavar="N")] = 8100,
    api_key: Annotated[
        str | None, typer.Option(help="What clients must send.", envvar="UNSPOKEN_API_KEY", metavar="KEY")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...", metavar="NAME")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or int8 (CPU).", metavar="NAME")] = None,
    soft: Soft = None,
    thinking: Thinking = False,
    texts: Texts = None,
    slots: Annotated[int, typer.Option(help="Answers at a time.", min=1, max=4096, metavar="N")] = 32,
    max_waiting: Annotated[int, typer.Option(help="Answers that may wait; beyond: 429.", min=0, metavar="N")] = 256,
    deadline: Annotated[float, typer.Option(help="Seconds for an answer; then 504.", min=0.1, metavar="S")] = 600.0,
    drain: Annotated[float, typer.Option(help="Seconds for running answers on SIGTERM.", min=0, metavar="S")] = 30.0,
    engine: Annotated[str | None, typer.Option(help="Engine behind --prompt-embeds folders.", metavar="URL")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log requests as JSON.")] = False,
) -> None:
    """Serve trained models behind OpenAI's API, with a page to watch them think at /."""
    try:
        from unspoken.exporters.prompt_embeds import PromptEmbedder, is_prompt_embeds
        from unspoken.serving.embeds import EmbedsService
        from unspoken.serving.models import ServedModel
        from unspoken.serving.server import Server, ServerConfig, about, curl, settle
        from unspoken.serving.service import Service
    except ModuleNotFoundError as error:
        raise ConfigError(f"a server needs {error.name!r}, which is not installed; pip install 'unspoken[serve]'") from None

    names = _names(runs, name or [])
    if engine is not None and not any(map(is_prompt_embeds, runs)):
        raise ConfigError("--engine is for folders of `unspoken export --prompt-embeds`; runs are answered here")
    if api_key is not None and not api_key.strip():
        raise ConfigError("the API key is empty; give one, or leave --api-key and UNSPOKEN_API_KEY away")
    models: list[ServedModel] = []
    folders: dict[str, Any] = {}
    for path, called in zip(runs, names, strict=True):
        if is_prompt_embeds(path):
            folders[called] = EmbedsService(PromptEmbedder.load(path), engine=engine)
        else:
            how = {"name": called, "device": device, "dtype": dtype, "slots": slots, "max_waiting": max_waiting}
            models.append(ServedModel.load(path, soft=soft, thinking=thinking, texts=texts, **how))
    service = Service(models=models, embeds=folders, deadline=deadline)
    config = ServerConfig(host=host, port=port, key=api_key, drain=drain, log_json=log_json)

    def ready(host: str, port: int) -> None:
        typer.echo(f"listening at http://{host}:{port}", err=True)
        for served in models:
            typer.echo(f"  {about(served)}", err=True)
        for called, embeds in folders.items():
            typer.echo(f"  {called}: prompt embeddings for {embeds.embedder.model}", err=True)
        typer.echo(f"try:\n{curl(host, port, names, api_key)}", err=True)

    server = Server(service, config, ready)
    if api_key is None and not server.local:
        typer.echo(f"warning: whoever reaches {host} may ask; set UNSPOKEN_API_KEY, or listen at 127.0.0.1", err=True)
    settle()
    server.serve_forever()


def _names(runs: list[Path], given: list[str]) -> list[str]:
    """What requests call each run.

    Raises:
        ConfigError: two have one name, or there are more names than runs.
    """
    if len(given) > len(runs):
        raise ConfigError(f"{len(given)} names for {len(runs)} runs; give --name once for each run, in their order")
    names = [
        *given,
        *(str(run).removeprefix("builtin:").rstrip("/").rpartition("/")[2] or "model" for run in runs[len(given) :]),
    ]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise ConfigError(f"two runs are called {twice!r}; tell them apart with --name, once for each, in their order")
    return names
