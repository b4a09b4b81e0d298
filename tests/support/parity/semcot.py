"""Our SemCoT on the frozen inputs of `semcot_*`: built with the released attention and path, run and stepped once.

The released code calls everything with one row; so do these helpers. Its targets have no eos.
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
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.methods import make_method
from unspoken.methods.base import LossReport

RELEASED: dict[str, Any] = {"attention": "bidirectional", "latents": "states"}
"""The encoder as released: its mask of ones makes attention bidirectional, and latents skip the layers below."""


def alpha_of(case: cases.Case) -> float:
    """The weight of the alignment."""
    return case.facts["method_config"]["alpha"]


def examples_of(case: cases.Case) -> list[Example]:
    """The samples, with both forms of reasoning where our data have them."""
    return [
        Example(
            question=sample["query"],
            answer=sample["answer"],
            id=f"example {i}",
            meta={"reasoning": sample["reasoning"], "condensed_reasoning": sample["condensed_reasoning"]},
        )
        for i, sample in enumerate(case.facts["samples"])
    ]


def method_of(case: cases.Case) -> Any:
    """Our method with a case's settings, from the case's initial weights."""
    facts = case.facts
    teacher = {key.replace("state_teacher/", "state/base."): value for key, value in case.tensors.items()}
    words = case.tokenizer()
    backbone = Backbone(cases.Case(facts, teacher).lm("base.", facts["teacher_config"]), words)
    arch = {k: v for k, v in facts["student_config"].items() if k not in ("torch_dtype", "dtype", "architectures")}
    arch["vocab_size"] = len(words)  # <thought> is added
    start, end = facts["prompts"]
    st = facts["custom_st"]
    method: Any = make_method(
        {
            "name": "semcot",
            "inner": {
                "name": "semcot_generator",
                "assistant": {"arch": arch, "tokenizer": str(cases.tokenizers(facts["tokenizer"]))},
                "latents": facts["method_config"]["train_max_contemp_tokens"],
                "plain": True,
                "texts": {
                    "assistant": start + "{question}",
                    "base": start + "{question}{thoughts}" + end,
                    "answer": "{answer}",
                },
            },
            "encoder": {
                "first": st["start_layer_idx"], "last": st["end_layer_idx"], "width": st["embedding_dim"], **RELEASED,
            },
            "align_weight": alpha_of(case),
            "temperature": 1.0,
        },
        backbone,
    )  # fmt: skip
    with torch.no_grad():
        named = official_parameters(method)
        for key, value in case.tensors.items():
            if key.startswith("state/"):
                named[key.removeprefix("state/")].copy_(value)
        encoder = official_encoder(method)
        for key, value in case.tensors.items():
            if key.startswith("state_st/"):
                encoder[key.removeprefix("state_st/")].copy_(value)
    return method.eval()


def official_parameters(method: Any) -> dict[str, torch.nn.Parameter]:
    """The generator's parameters under the official names."""
    generator = method.at_inference
    lm = generator.assistant.backbone.lm
    named = {f"model.{name}": p for name, p in lm.base_model.named_parameters()}
    return named | {f"projection_layer.{name}": p for name, p in generator.projection.named_parameters()}


def official_encoder(method: Any) -> dict[str, torch.nn.Parameter]:
    """The encoder's parameters under the official names."""
    body, head = method.encoder.body.named_parameters(), method.encoder.head.named_parameters()
    named = {name: p for name, p in body if not name.startswith("embed_tokens")}
    return named | {f"embedding_projection.{name}": p for name, p in head}


def released_row(row: Row) -> Row:
    """A row without a target behind its answer."""
    return dataclasses.replace(row, labels=(*row.labels[:-1], IGNORE))


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case: one report per sample, and the contrast of all four pairs."""

    case: cases.Case
    method: Any
    rows: list[Row]
    reports: list[LossReport]
    pairs: list[Row]
    contrast: Tensor
    encoder_gradients: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]


def _gradients(named: dict[str, torch.nn.Parameter]) -> dict[str, Tensor | None]:
    return {key: None if p.grad is None else p.grad.clone() for key, p in named.items()}


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    torch.manual_seed(0)
    case = cases.load(name)
    method = method_of(case)
    stages = [phase.stage for phase in method.curriculum().phases]
    assert [stage.trainable_part for stage in stages] == ["encoder head", "encoder", "projection", ""]
    pairs = [method.layout(example, stages[1], Random(0)) for example in examples_of(case)]
    batch = collate(pairs)
    contrast = method(batch, method.counts(batch)).total
    contrast.backward()
    encoder_gradients = {key: p.grad.clone() for key, p in official_encoder(method).items() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    stage = stages[2] if case.facts["method_config"]["phase"] == "linear" else stages[3]
    rows = [released_row(method.layout(example, stage, Random(0))) for example in examples_of(case)]
    batches = [collate([row]) for row in rows]
    reports = [method(batch, method.counts(batch)) for batch in batches]
    sum((report.total for report in reports), start=torch.zeros(())).backward()
    named = official_parameters(method)
    gradients = _gradients(named)
    _, after = cases.stepped(case, named)
    method.zero_grad(set_to_none=True)
    return Solved(case, method, rows, reports, pairs, contrast.detach(), encoder_gradients, gradients, after)
