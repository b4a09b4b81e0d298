"""Check, when a method is built, that a model does what the loop relies on: a family that does not is refused instead of
being silently wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from unspoken.core.fast.unhooked import without_hooks
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.loop import unroll
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import BackboneError

_ERRORS = (ValueError, TypeError, RuntimeError, AttributeError)


def _row(ids: tuple[int, ...]) -> Row:
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(ids), latents=0, capture_at=len(ids) - 1)


@torch.no_grad()
def check_branches(backbone: Backbone) -> None:
    """Check that a row and its branch, forwarded together, give the states that each gives alone. If not, they are
    forwarded separately from then on.

    Raises:
        BackboneError: they differ even when forwarded separately, or the model returns no layer states.
    """
    training = backbone.training
    backbone.eval()
    try:
        with without_hooks(backbone.lm):
            try:
                _try(backbone)
            except _ERRORS:  # a full attention mask is ignored or misread (Bloom)
                backbone.lm._branches_apart = True
                _try(backbone)
    except _ERRORS as error:
        raise BackboneError(
            f"{type(backbone.lm).__name__} cannot forward a teacher's row beside its student's ({error}); "
            "codi needs a family that gives the states of its layers, such as GPT-2, Llama, Qwen or Gemma"
        ) from error
    finally:
        backbone.train(training)


def _try(backbone: Backbone) -> None:
    """Compare two rows and their branches forwarded together with each forwarded alone."""
    words = [1 + k % (backbone.vocabulary - 1) for k in range(11)]
    branches = [_row((*words[:3], *words[6:])), _row((words[4], *words[9:]))]
    rows = [
        replace(_row(tuple(words[:6])), branch=branches[0], shared=3),
        replace(_row(tuple(words[4:6])), branch=branches[1], shared=1),
    ]
    together = unroll(backbone, collate(rows).to(backbone.device), None)
    for b, row in enumerate(rows):
        for trace, alone in ((together, replace(row, branch=None, shared=0)), (together.branch, branches[b])):
            want = unroll(backbone, collate([alone]).to(backbone.device), None)
            assert trace is not None
            states = trace.hidden_at(np.full(len(alone.ids), b), np.arange(len(alone.ids)))
            true = want.hidden_at(np.zeros(len(alone.ids), dtype=int), np.arange(len(alone.ids)))
            assert trace.captured_LBD is not None
            for got, wanted in ((states, true), (trace.captured_LBD[-1, b], true[-1])):
                if not torch.allclose(got.float(), wanted.float(), rtol=5e-2, atol=5e-2 * float(true.abs().max())):
                    raise ValueError("its states differ from those of the sequences alone")
