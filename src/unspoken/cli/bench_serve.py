"""`unspoken bench serve`: a server under load."""

from __future__ import annotations

from typing import Annotated

import typer

from unspoken.cli._bench import Json, Out, Threads, bench, use_threads, wants_table
from unspoken.cli._options import new_console, numbers, whole_numbers
from unspoken.errors import ConfigError


@bench.command("serve")
def serve(
    model: Annotated[
        str, typer.Option(help="A run directory, builtin:tiny, or a shape: gpt2-small, smollm2-135m; with --url, its name.")
    ] = "builtin:tiny",
    url: Annotated[
        str | None, typer.Option(help="Measure a server that runs already, at this address with /v1.", metavar="URL")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="With --url: ask for chats, not completions.")] = False,
    free: Annotated[bool, typer.Option("--free", help="With --url: answers end where the model ends them.")] = False,
    ours: Annotated[bool, typer.Option("--ours", help="With --url: it is `unspoken serve`.")] = False,
    requests: Annotated[int, typer.Option(help="Requests per load.")] = 128,
    clients: Annotated[str, typer.Option(help="Clients at a time, one load each.")] = "1,8,32",
    rates: Annotated[str | None, typer.Option(help="Requests a second, one load each.")] = None,
    latents: Annotated[int | None, typer.Option(help="How many to think; default: the run's own.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 20,
    chain: Annotated[int, typer.Option(help="Tokens of the explicit side, without latents; 0: without it.")] = 120,
    slots: Annotated[int, typer.Option(help="Answers at a time.")] = 32,
    rounds: Annotated[int, typer.Option(help="How often most clients and the engine alone are measured.")] = 1,
    threads: Threads = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """A server under load: requests a second, times to first token, between tokens, to the end; against the engine alone."""
    use_threads(threads)
    counts = whole_numbers(clients, "--clients", "1,8,32")
    per_second = [] if rates is None else numbers(rates, "--rates")
    if url is None and (chat or free or ours):
        raise ConfigError("--chat, --free and --ours say how to ask a server that runs already; name it with --url")
    try:
        from unspoken.bench.serve import run, run_at
    except ModuleNotFoundError as error:
        raise ConfigError(f"a server needs {error.name!r}, which is not installed; pip install 'unspoken[serve]'") from None
    from unspoken.core.text.table import Table

    def say(text: str) -> None:
        typer.echo(text, err=True)

    if url is not None:
        report = run_at(
            url, model, requests=requests, clients=counts, rates=per_second, latents=latents, tokens=tokens,
            free=free, chat=chat, ours=ours, progress=say,
        )  # fmt: skip
    else:
        report = run(
            model, requests=requests, clients=counts, rates=per_second, latents=latents, tokens=tokens, chain=chain,
            slots=slots, threads=threads, rounds=rounds, progress=say,
        )  # fmt: skip
    if not wants_table(report, as_json, out):
        return
    headings = ("side", "requests/s", *(f"{name} {q}" for name in ("TTFT", "ITL", "e2e") for q in ("p50", "p95", "p99")))
    rows = []
    for name, side in report["sides"].items():
        times = (
            [side[k][q] for k in ("ttft_ms", "itl_ms", "e2e_ms") for q in ("p50", "p95", "p99")] if "ttft_ms" in side else []
        )
        cells = [f"{value:.1f}" for value in times] or [""] * 9
        rows.append((name, f"{side['requests_per_second']:.2f}", *cells))
    console = new_console()
    console.print(Table(headings=headings, rows=rows))
    console.say("times in milliseconds, as the client sees them")
    for name, ratio in report["ratios"].items():
        console.say(f"{name}: {ratio:.2f}")
