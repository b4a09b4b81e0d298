"""`unspoken bench serve-offline`: a queue of mixed requests."""

from __future__ import annotations

from typing import Annotated

import typer

from unspoken.cli._bench import Device, Json, Out, Rounds, Shape, Threads, bench, show, use_threads
from unspoken.errors import ConfigError


@bench.command("serve-offline")
def serve_offline(
    model: Shape = "gpt2-small",
    requests: Annotated[int, typer.Option(help="Mixed requests.")] = 256,
    rows: Annotated[int, typer.Option(help="Requests at a time.")] = 32,
    chunk: Annotated[int, typer.Option(help="Prompt positions per pass.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or int8.")] = "float32",
    rounds: Rounds = 3,
    device: Device = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the requests.")] = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """A queue of mixed requests: continuous batching against static batches."""
    if dtype not in ("float32", "bfloat16", "int8"):
        raise ConfigError(f"unknown dtype {dtype!r}; known: float32, bfloat16, int8")
    use_threads(threads)
    from unspoken.bench.serve_offline import run

    report = run(
        model, requests=requests, rows=rows, chunk=chunk, kind=dtype, rounds=rounds, device=device, seed=seed,
        progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    show(report, ("passes", "positions", "padding_share", "cache_bytes", "seconds", "cpu_seconds"), as_json, out)
