"""Interventions in the states of layers: at latents, positions of the prompt, and spoken tokens.

Shapes: B rows and W columns of a pass, N columns that are changed, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unspoken.causal.known import KnownStates, LayerIntervention, asked_of, places_of
from unspoken.core.lm.hf import layer_list
from unspoken.core.loop.layers import Columns, LayerEdit, LayerTrace, Part, layer_number
from unspoken.errors import ConfigError
from unspoken.runs.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """Where an intervention changes the states of a layer.

    Attributes:
        numbers: places in the part, counted from its end if `known` counts so.
        asked: numbers of the questions.
    """

    layer: int
    one: LayerIntervention
    numbers: np.ndarray
    asked: np.ndarray
    known: KnownStates

    def change(self, states_BWD: Tensor, columns: Columns) -> Tensor:
        """The states as they go on."""
        number_BW = columns.numbers(self.known.part)
        if self.known.from_end:
            number_BW = np.where(number_BW >= 0, columns.prompts_B[:, None] - 1 - number_BW, -1)
        here_BW = np.isin(number_BW, self.numbers) & np.isin(columns.rows_B, self.asked)[:, None]
        b_N, w_N = np.nonzero(here_BW)
        if not len(b_N):
            return states_BWD
        at = torch.from_numpy(b_N).to(states_BWD.device), torch.from_numpy(w_N).to(states_BWD.device)
        new_ND = self.one.new(states_BWD[at], columns.rows_B[b_N], number_BW[b_N, w_N], self.known)
        return states_BWD.index_put(at, new_ND.to(states_BWD.dtype))


def layer_edit(
    interventions: Sequence[LayerIntervention], traced: LayerTrace, names: Sequence[str], depth: int
) -> LayerEdit:
    """Interventions with a layer as what `LayerWatch(edit=...)` takes.

    Args:
        interventions: their `layer` is given.
        traced: states of the unmodified run, of all these layers.
        names: of the questions.
        depth: how many layers the model has.

    Raises:
        ConfigError: an intervention at a place or question that is not there.
    """
    targets = []
    for one in interventions:
        layer, asked = layer_number(one.layer, depth), asked_of(one, len(names))
        for part, numbers, from_end in _parts(one, traced, asked):
            known = KnownStates(traced, layer, part, from_end, names)
            numbers_n = np.array(numbers, dtype=np.int64)
            targets.append(_Target(layer=layer, one=one, numbers=numbers_n, asked=asked, known=known))

    def edit(layer: int, states_BWD: Tensor, columns: Columns) -> Tensor:
        for target in targets:
            if target.layer == layer:
                states_BWD = target.change(states_BWD, columns)
        return states_BWD

    return edit


def depth_of(model: Model) -> int:
    """How many layers a model's base model has.

    Raises:
        BackboneError: they are not one list.
    """
    return len(layer_list(model.method.backbone.lm))


def _parts(one: LayerIntervention, traced: LayerTrace, asked: np.ndarray) -> Iterator[tuple[Part, list[int], bool]]:
    """The places of an intervention in a layer: part of the row, numbers in it, whether from its end.

    Raises:
        ConfigError: a place that is not there.
    """
    if one.latents is not None or (one.positions is None and one.spoken is None):
        if not (K := int(traced.latents_B.max())):
            raise ConfigError("no latents were thought; name other places of the layer: positions=..., spoken=...")
        yield "latent", places_of(one.latents, K), False
    shortest = int(traced.prompts_B[asked].min()) if len(asked) else 0
    for place in one.positions or ():
        if not -shortest <= place < shortest:
            raise ConfigError(
                f"position {place} is not there: the shortest prompt has {shortest}, counted from 0 (from the end: from -1)"
            )
    if ahead := [place for place in one.positions or () if place >= 0]:
        yield "prompt", ahead, False
    if behind := [-1 - place for place in one.positions or () if place < 0]:
        yield "prompt", behind, True
    if odd := [place for place in one.spoken or () if place < 0]:
        raise ConfigError(f"spoken tokens are counted from 0, since the last is not known yet; got {odd[0]}")
    if one.spoken:
        yield "spoken", list(one.spoken), False
