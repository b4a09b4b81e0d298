"""`unspoken lm-eval`: hand over to lm-evaluation-harness."""

from __future__ import annotations

import typer

from unspoken.cli._options import app

_ALL = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("lm-eval", context_settings=_ALL)
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness's own command line, with our model and tasks: --model unspoken --model_args path=RUN."""
    from unspoken.evaluation.lm_eval import main

    main(context.args)
