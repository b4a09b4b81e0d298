"""unspoken: language models that reason without writing the reasoning down.

    model = unspoken.load("runs/quickstart/sim_cot")
    model.answer(["Ann has 7 figs. She finds 5. How many figs has Ann?"])
    model.think([...])      # a Trace: the latents themselves

Names are loaded when first used, so that `import unspoken` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unspoken.core.extensions import extend

if TYPE_CHECKING:
    from unspoken.api import evaluate, train
    from unspoken.causal.campaign import evaluate_run
    from unspoken.core.config import build, dump
    from unspoken.core.loop.trace import Answer, Trace
    from unspoken.core.text.example import Example
    from unspoken.errors import UnspokenError
    from unspoken.evaluation.records import EvalReport
    from unspoken.recipes import recipe
    from unspoken.runs.baseline import load_baseline
    from unspoken.runs.config import RunConfig
    from unspoken.runs.directory import export, load
    from unspoken.runs.model import Model
    from unspoken.tasks import make_task

    __version__: str

_WHERE = {
    "Answer": "unspoken.core.loop.trace",
    "EvalReport": "unspoken.evaluation.records",
    "Example": "unspoken.core.text.example",
    "Model": "unspoken.runs.model",
    "RunConfig": "unspoken.runs.config",
    "Trace": "unspoken.core.loop.trace",
    "UnspokenError": "unspoken.errors",
    "build": "unspoken.core.config",
    "dump": "unspoken.core.config",
    "evaluate": "unspoken.api",
    "evaluate_run": "unspoken.causal.campaign",
    "export": "unspoken.runs.directory",
    "load": "unspoken.runs.directory",
    "load_baseline": "unspoken.runs.baseline",
    "make_task": "unspoken.tasks",
    "recipe": "unspoken.recipes",
    "train": "unspoken.api",
}

extend(
    {
        "finder:learned": "unspoken.experimental.step_tagger:learned_finder",
        "stop": "unspoken.experimental.stopping:decider",
        "dtype:int8": "unspoken.experimental.int8:round_linears",
    }
)

__all__ = [
    "Answer",
    "EvalReport",
    "Example",
    "Model",
    "RunConfig",
    "Trace",
    "UnspokenError",
    "build",
    "dump",
    "evaluate",
    "evaluate_run",
    "export",
    "load",
    "load_baseline",
    "make_task",
    "recipe",
    "train",
]


def __dir__() -> list[str]:
    """What there is, for completion."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":  # of the installed package, whose pyproject.toml is the one place that says it
        from importlib.metadata import version

        return version("unspoken")
    if name not in _WHERE:
        raise AttributeError(f"module 'unspoken' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
