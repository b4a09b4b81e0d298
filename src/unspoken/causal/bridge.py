"""Other tools on models that think: nnsight, and hooks as TransformerLens names them.

`AnsweringModule` is a `torch.nn.Module` whose call answers questions, so that whatever traces modules traces it:

    from nnsight import NNsight

    answering = NNsight(AnsweringModule(model))
    with answering.trace(questions, latents=4) as tracer:
        for step in tracer.iter[0:5]:                       # the question, then a latent in each pass
            states = answering.lm.model.layers[1].output.save()

`run_with_cache` and `run_with_hooks` are named after those of TransformerLens, and so are hook points: of block l (from 0)
`blocks.l.hook_resid_pre` and `blocks.l.hook_resid_post`. A hook is called in every pass with states [rows, columns, width]
and a `HookPoint`, whose `columns` say what they are (`core/loop/layers.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

from torch import Tensor, nn

from unspoken.causal.layer_edits import depth_of
from unspoken.core.loop.layers import Columns, LayerTrace, LayerWatch
from unspoken.core.loop.trace import Answer
from unspoken.errors import ConfigError
from unspoken.runs.model import CallOptions, Model

_POINT = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


@dataclass(frozen=True, kw_only=True, eq=False)
class HookPoint:
    """Where a hook is called.

    Attributes:
        name: as it was asked for.
        layer: its number (`core/loop/layers.py`): `resid_pre` of block l is what layer l puts out, `resid_post` layer l + 1.
        columns: what the states of this pass are.
    """

    name: str
    layer: int
    columns: Columns


Hook = Callable[[Tensor, HookPoint], Tensor | None]
"""(states [rows, columns, width], where) -> states that go on; None = as they are."""


class AnsweringModule(nn.Module):
    """A model as a module whose call answers questions: `module(questions, latents=4)`. Its language model is `lm`.

    Passes come in order, whatever else is turned on: the questions, then a latent in each, then a token in each; a row that
    has less to read than others goes on before them. `watch.columns` says during a pass what its columns are.
    """

    model: Model

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.lm = model.method.backbone.lm
        object.__setattr__(self, "model", model)  # no module, and its method's parts are not this one's
        self.watch = LayerWatch()

    def forward(self, questions: Sequence[str], **how: Unpack[CallOptions]) -> list[Answer]:
        """Answer questions; `how` are the other arguments of `Model.answer`."""
        return self.model.answer(questions, watch=self.watch, **how)


def run_with_cache(
    model: Model, questions: Sequence[str], **how: Unpack[CallOptions]
) -> tuple[LayerTrace, dict[str, Tensor]]:
    """Answer questions, and keep what stands at every hook point.

    Args:
        how: the other arguments of `Model.answer`.

    Returns:
        The trace, which knows positions and answers, and by name of hook point the states [questions, positions, width].
    """
    traced = model.trace(questions, layers=True, **how)
    cache: dict[str, Tensor] = {}
    for block in range(depth_of(model)):
        cache[f"blocks.{block}.hook_resid_pre"] = traced.states_LBTD[block]
        cache[f"blocks.{block}.hook_resid_post"] = traced.states_LBTD[block + 1]
    return traced, cache


def run_with_hooks(
    model: Model, questions: Sequence[str], fwd_hooks: Sequence[tuple[str, Hook]], **how: Unpack[CallOptions]
) -> list[Answer]:
    """Answer questions with hooks that may change what goes on from a hook point.

    Args:
        fwd_hooks: (name of the hook point, hook), called in their order.
        how: the other arguments of `Model.answer`.

    Raises:
        ConfigError: no such hook point.
    """
    depth = depth_of(model)
    hooks = [(name, _layer_of(name, depth), hook) for name, hook in fwd_hooks]

    def edit(layer: int, states_BWD: Tensor, columns: Columns) -> Tensor:
        for name, number, hook in hooks:
            if number == layer:
                new = hook(states_BWD, HookPoint(name=name, layer=layer, columns=columns))
                states_BWD = states_BWD if new is None else new
        return states_BWD

    return model.answer(questions, watch=LayerWatch(edit=edit), **how)


def _layer_of(name: str, depth: int) -> int:
    """The number of the layer whose states stand at a hook point."""
    found = _POINT.fullmatch(name)
    if found is None or int(found[1]) >= depth:
        raise ConfigError(
            f"no hook point {name!r:.60}; known: blocks.0.hook_resid_pre to blocks.{depth - 1}.hook_resid_post, for others "
            "put a torch hook on a module of AnsweringModule(model).lm"
        )
    return int(found[1]) + (found[2] == "post")
