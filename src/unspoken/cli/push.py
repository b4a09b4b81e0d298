"""`unspoken push`: a run to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from unspoken.cli._options import Run, app, argument


@app.command()
def push(
    run: Run,
    repo: Annotated[str, argument("The repository on the Hub, owner/name; made if there is none.", metavar="REPO")],
    private: Annotated[bool, typer.Option("--private", help="Only you see it.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; default main.", metavar="NAME")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.", metavar="TEXT")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another file of the run's folder, e.g. metrics.jsonl.", metavar="FILE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
) -> None:
    """Send a run to the Hugging Face Hub: run.json, model/ and a model card. The token: `hf auth login`, or HF_TOKEN.

    Whoever has unspoken takes it from there: `unspoken ask hf://owner/name`. The licence is yours to add to the card.
    """
    from unspoken.exporters.hub import parcel
    from unspoken.exporters.hub import push as send

    what = parcel(run, repo, revision=revision, also=also or ())
    for name, size in what.sizes.items():
        typer.echo(f"{size:>15,}  {name}")
    typer.echo(f"{sum(what.sizes.values()):>15,}  bytes to {what.to}")
    if dry_run:
        typer.echo("nothing was sent (--dry-run)", err=True)
        return
    typer.echo(send(what, private=private, message=message))
