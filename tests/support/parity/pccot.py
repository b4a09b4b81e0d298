"""Our PCCoT on the frozen inputs of `pccot_*`: built, run and stepped once.

Released iterations attend to a question's padding. Of a padded batch, only what does not depend on it is compared: the
teacher, and the row that has no padding; all of the batch of one.
"""

from __future__ import annotations

import dataclasses
import functools
from random import Random
from typing import Any

import torch
from support.parity import cases
from torch import Tensor

from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import Row
from unspoken.methods import make_method
from unspoken.methods.base import LossReport

PROJECTION = {"0.": "1.", "2.": "3.", "3.": "4."}
"""Layers of the released projection, and of ours, which begins with dropout."""


def pccot_settings(case: cases.Case) -> dict[str, Any]:
    """Our CodiConfig for a case. Where one spread divides all layers, it is folded into the weight."""
    official = case.facts["method_config"]
    layerwise = official["use_layerwise_std"]
    return {
        "name": "codi",
        "latents": official["num_latent_tokens"],
        "iterations": official["num_iterations"],
        "projection": official["use_projection"],
        "scale": "batch" if layerwise else "none",
        "distill_weight": official["loss_gamma"] / (1.0 if layerwise else case.facts["teacher_std"]),
        "compare_embeddings": False,
        "teacher_weight": official["loss_alpha"],
        "template": {"question": "{question}", "step": "{step}", "answer": official["answer_prompt"] + "{answer}"},
        "separator": "",
    }


def method_of(case: cases.Case, **changes: Any) -> Any:
    """Our method with a case's settings (and others), from the case's initial weights."""
    words = case.tokenizer()
    state = {key: tensor for key, tensor in case.state("").items() if not key.startswith(projection_prefix(case))}
    plain = cases.Case(case.facts | {"state_aliases": []}, {f"state/{key}": tensor for key, tensor in state.items()})
    backbone = Backbone(plain.lm("", case.facts["backbone_config"], len(words)), words)
    method: Any = make_method(pccot_settings(case) | changes, backbone)
    # The released vocabulary has a pad token behind the markers.
    method.backbone.lm.resize_token_embeddings(case.facts["backbone_config"]["vocab_size"], mean_resizing=False)
    method.backbone.lm.load_state_dict(state, strict=False)
    if method.projection is not None:
        projection = case.state(projection_prefix(case))
        method.projection.load_state_dict({ours(key): tensor for key, tensor in projection.items()})
    return method


def projection_prefix(case: cases.Case) -> str:
    """What the keys of the released projection begin with."""
    keys = [key for key in case.state("") if ".prj." in key or key.startswith("prj.")]
    return keys[0][: keys[0].index("prj.") + 4] if keys else "prj."


def ours(key: str) -> str:
    """Our name of a layer of the projection."""
    return PROJECTION[key[:2]] + key[2:]


def official_parameters(case: cases.Case, method: Any) -> dict[str, torch.nn.Parameter]:
    """Our parameters under the official names."""
    named = dict(method.backbone.lm.named_parameters())
    if method.projection is not None:
        theirs = {value: key for key, value in PROJECTION.items()}
        named |= {projection_prefix(case) + theirs[n[:2]] + n[2:]: p for n, p in method.projection.named_parameters()}
    return named


def left_padding(case: cases.Case) -> list[int]:
    """Columns of padding before each row of the student."""
    return case.tensors["batch/attention_mask"].argmax(dim=1).tolist()


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case.

    Attributes:
        whole: the numbers of the rows without padding in the official batch.
        gradients: by official parameter name; None = none.
        after: parameters after one AdamW step, by the same names.
    """

    case: cases.Case
    method: Any
    rows: list[Row]
    batch: Batch
    report: LossReport
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]

    @property
    def whole(self) -> list[int]:
        return [b for b, left in enumerate(left_padding(self.case)) if left == 0]

    @property
    def padded(self) -> bool:
        """Whether some numbers of the case depend on padding."""
        return len(self.whole) < len(self.rows)


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    case = cases.load(name)
    method = method_of(case)
    (phase,) = method.curriculum().phases
    rows = [method.layout(example, phase.stage, Random(0)) for example in case.examples]
    batch = collate(rows)
    report = method(batch, method.counts(batch))
    report.total.backward()
    named = official_parameters(case, method)
    gradients, after = cases.stepped(case, named)
    return Solved(case, method, rows, batch, report, gradients, after)
