"""`unspoken demo`: the page on which a model is watched while it thinks, in a browser."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import RUN, app, argument
from unspoken.cli.ask import SHIPPED
from unspoken.errors import ConfigError

HOST = "127.0.0.1"


@app.command()
def demo(
    run: Annotated[Path, argument(f"A run directory; default {SHIPPED}, of the package.", **RUN)] = Path(SHIPPED),
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Watch a model think, in a browser: its latents in words, as they are made. Ctrl-C ends it."""
    from unspoken.cli.serve import serve

    port = _free(port)
    url = f"http://{HOST}:{port}/"
    typer.echo(f"the page will be at {url}; Ctrl-C ends it", err=True)
    if browser:
        threading.Thread(target=_open, args=(url, port), daemon=True).start()
    serve(
        runs=[run], name=None, host=HOST, port=port, api_key=None, device=None, dtype=None, soft=None, thinking=False,
        texts=None, slots=8, max_waiting=64, deadline=600.0, drain=2.0, engine=None, log_json=False,
    )  # fmt: skip


def _free(port: int) -> int:
    """The port, if nobody has it; for 0 one that nobody has.

    Raises:
        ConfigError: somebody has it.
    """
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"port {port} cannot be used: {error.strerror}; give another, or 0 for a free one") from None
        return probe.getsockname()[1]


def _open(url: str, port: int, patience: float = 120.0) -> None:
    """Open the page once the server answers, which it does when the model is loaded."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                break
        time.sleep(0.2)
    if not webbrowser.open(url):
        typer.echo(f"no browser could be opened here; open {url} yourself", err=True)
