"""`unspoken serve`: prompt embeddings in front of a stock engine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    app,
    argument,
)
from unspoken.errors import ConfigError


@app.command()
def serve(
    folder: Annotated[Path, argument("What `export --prompt-embeds` wrote.")],
    engine: Annotated[str | None, typer.Option(help="Base URL of the engine, e.g. http://localhost:8000/v1.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8100,
    key: Annotated[str | None, typer.Option(help="The environment variable that holds a key; clients must send it.")] = None,
) -> None:
    """Turn questions into prompt embeddings in front of a stock engine (vLLM --enable-prompt-embeds)."""
    from unspoken.exporters.prompt_embeds import PromptEmbedder
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
