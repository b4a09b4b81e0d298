"""unspoken: language models that reason without writing the reasoning down.

    model = unspoken.load("runs/quickstart/sim_cot")
    model.answer(["Ann has 7 figs. She finds 5. How many figs has Ann?"])
    model.think([...])      # a Trace: the latents themselves

Names are loaded when first used, so that `import unspoken` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unspoken.core.config import build, dump
    from unspoken.core.example import Example
    from unspoken.core.trace import Answer, Trace
    from unspoken.errors import UnspokenError
    from unspoken.evaluation.evaluator import evaluate
    from unspoken.evaluation.records import EvalReport
    from unspoken.model import Model
    from unspoken.recipes import recipe
    from unspoken.tasks import make_task
    from unspoken.training.checkpoint import export, load
    from unspoken.training.config import RunConfig
    from unspoken.training.loop import train

    __version__: str

_WHERE = {
    "Answer": "unspoken.core.trace",
    "EvalReport": "unspoken.evaluation.records",
    "Example": "unspoken.core.example",
    "Model": "unspoken.model",
    "RunConfig": "unspoken.training.config",
    "Trace": "unspoken.core.trace",
    "UnspokenError": "unspoken.errors",
    "build": "unspoken.core.config",
    "dump": "unspoken.core.config",
    "evaluate": "unspoken.evaluation.evaluator",
    "export": "unspoken.training.checkpoint",
    "load": "unspoken.training.checkpoint",
    "make_task": "unspoken.tasks",
    "recipe": "unspoken.recipes",
    "train": "unspoken.training.loop",
}

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
    "export",
    "load",
    "make_task",
    "recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # of the installed package, whose pyproject.toml is the one place that says it
        from importlib.metadata import version

        return version("unspoken")
    if name not in _WHERE:
        raise AttributeError(f"module 'unspoken' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
