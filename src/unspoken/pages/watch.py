"""The page on which a served model is asked and watched while it thinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unspoken.pages.templating import render, script


def page(models: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    """The page as text, and its Content-Security-Policy: one script runs, and it may ask only the server it came from.

    Args:
        models: name, method, latents, explains, inspected of each served model.
    """
    code, code_hash = script("watch.js")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src '{code_hash}'; img-src data:"
    text = render(
        "watch.html",
        title="Watch a model think",
        lead="Ask a question. What the model thinks appears step by step, then its answer.",
        models=models,
        script=code,
    )
    return text, policy
