"""Our Coconut and SIM-CoT on the frozen inputs of `coconut_*` and `simcot_coconut_*`: built, run and stepped once."""

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
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.row import Row
from unspoken.methods import make_method
from unspoken.methods.base import LossReport

RELEASED = {"surplus": "merge", "missing": "visible", "normalisation": "sequence"}
"""SIM-CoT's settings that give the released code's targets and loss."""


def method_of(case: cases.Case, backbone: Backbone, **inner: Any) -> Any:
    """Our method with a case's settings (and others for the inner one), from the case's initial weights."""
    official = case.facts["method_config"]
    coconut = {
        "name": "coconut",
        "latents_per_step": official["c_thought"],
        "max_stage": official["max_latent_stage"],
        "pad_to_max": official["pad_latent_to_max"],
        "first_stage": 0,
        **inner,
    }
    if case.facts["method"] == "coconut":
        return make_method(coconut, backbone)
    words = case.facts["generate"]["max_new_tokens"]
    method: Any = make_method({"name": "sim_cot", "inner": coconut, "max_step_tokens": words, **RELEASED}, backbone)
    # The released decoder is another checkpoint, with the vocabulary before tokens were added.
    method.decoder.lm = case.lm("expainable_llm.", case.facts["expainable_llm_config"])
    return method


def supervised(case: cases.Case) -> bool:
    """Whether the official run fed step targets; where it did not, the decoder is idle (parity/README.md, quirks)."""
    return case.facts.get("data_path") == "explain"


FROZEN = {
    "only_base_causallm": ("expainable_llm.",),
    "only_expainable_llm": ("base_causallm.",),
    "freeze_backbone": ("base_causallm.", "expainable_llm."),
}
"""SIM-CoT's `training_method` -> the modules that get no gradient; "full" trains both."""


def training_method(case: cases.Case) -> str:
    """Which modules the official run trained."""
    return case.facts["method_config"].get("training_method") or "full"


def latents_of(case: cases.Case) -> list[int]:
    """Latents per row of the official batch."""
    return (case.tensors["batch/input_ids"] == case.facts["special_ids"]["latent"]).sum(dim=1).tolist()


def stages_of(case: cases.Case, method: Any) -> list[Stage]:
    """The stage of every row; where the official code drew it per row (`uniform_prob`), read off the official batch."""
    stages = [phase.stage for phase in method.curriculum().phases]
    official = case.facts["method_config"]
    if not official["uniform_prob"]:
        return [stages[min(official["stage"], len(stages) - 1)]] * len(case.examples)
    drawn: list[Stage] = []
    labels = (case.tensors["batch/labels"] != -100).sum(dim=1).tolist()
    for example, latents, written in zip(case.examples, latents_of(case), labels, strict=True):
        stage = stages[latents // official["c_thought"]]
        text = method.at_inference.layout(example, stage, Random(0)).labels
        # As many latents as possible come from stage K, and from the last one, which leaves no step.
        drawn.append(stage if sum(label >= 0 for label in text) == written else stages[-1])
    return drawn


def left_padding(case: cases.Case) -> Tensor:
    """Columns of padding before each row of the official batch."""
    return case.tensors["batch/attention_mask"].argmax(dim=1)


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case.

    Attributes:
        method: SimCot or Coconut, with the initial weights.
        trained: what the official run trained: `method`, or its inner Coconut where the decoder was idle.
        gradients: by official parameter name; None = none.
        after: parameters after one AdamW step, by the same names.
    """

    case: cases.Case
    method: Any
    trained: Any
    rows: list[Row]
    batch: Batch
    report: LossReport
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]


def official_parameters(method: Any) -> dict[str, torch.nn.Parameter]:
    """Our parameters under the official names."""
    named = {f"base_causallm.{name}": value for name, value in method.backbone.lm.named_parameters()}
    if hasattr(method, "decoder"):
        named |= {f"expainable_llm.{name}": value for name, value in method.decoder.lm.named_parameters()}
    return named


def official_total(case: cases.Case, report: LossReport) -> Tensor:
    """The loss that the official run steps on: without the answers' where only the decoder is trained."""
    alone = training_method(case) == "only_expainable_llm" and "explain" in report.terms
    return report.terms["explain"] if alone else report.total


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    torch.manual_seed(0)
    case = cases.load(name)
    method = method_of(case, case.backbone())
    trained = method if supervised(case) or not hasattr(method, "decoder") else method.at_inference
    pairs = zip(case.examples, stages_of(case, method), strict=True)
    rows = [trained.layout(example, stage, Random(0)) for example, stage in pairs]
    batch = collate(rows)
    named = official_parameters(method)
    for key, p in named.items():
        if key.startswith(FROZEN.get(training_method(case), ())):
            p.requires_grad_(False)
    report = trained(batch, trained.counts(batch))
    total = official_total(case, report)
    if total.requires_grad:
        total.backward()
    gradients, after = cases.stepped(case, named)
    return Solved(case, method, trained, rows, batch, report, gradients, after)
