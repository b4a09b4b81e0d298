"""Our LOTUS, and LOTUS + CODI, on the frozen inputs of `lotus_*`: built, run and stepped once."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from random import Random
from typing import Any

import numpy as np
import torch
from support.parity import cases
from torch import Tensor

from unspoken.core.losses import cross_entropy_sum
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import Row
from unspoken.methods import make_method
from unspoken.methods.base import LossReport
from unspoken.methods.distill import TEACHER_ROW
from unspoken.methods.lotus import BLOCK_TARGETS

NOT_OFFERED = ("uniform_prob", "cumulative_stages")
"""Settings of the released code that no recipe uses, and ours does not have."""


def offered(case: cases.Case) -> bool:
    """Whether ours has the case's settings."""
    return not any(case.facts["method_config"][name] for name in NOT_OFFERED)


def distilled(case: cases.Case) -> bool:
    """Whether the official run had a teacher."""
    return case.facts["method_config"]["codi_loss_weight"] > 0


def lotus_settings(case: cases.Case) -> dict[str, Any]:
    """Our LotusConfig for a case."""
    official = case.facts["method_config"]
    return {
        "name": "lotus",
        "latents_per_step": official["c_thought"],
        "max_stage": official["max_latent_stage"],
        "step_weight": official["intermediate_loss_weight"],
        "supervise": "last" if official["intermediate_loss_after_loop"] else "each",
        "injection": official["latent_injection_mode"],
    }


@functools.cache
def _teacher_folder(name: str) -> tempfile.TemporaryDirectory[str]:
    """The teacher's weights as a Hugging Face folder."""
    case = cases.load(name)
    state = {
        key.replace("state_teacher/", "state/"): t for key, t in case.tensors.items() if key.startswith("state_teacher/")
    }
    folder = tempfile.TemporaryDirectory(prefix="teacher-")
    cases.Case(case.facts, state).lm("", case.facts["teacher_config"]).save_pretrained(folder.name)
    case.tokenizer().save_pretrained(folder.name)
    return folder


def method_of(case: cases.Case, **changes: Any) -> Any:
    """Our method with a case's settings (and others for LOTUS), from the case's initial weights."""
    settings: dict[str, Any] = lotus_settings(case) | changes
    if distilled(case):
        official = case.facts["method_config"]
        settings = {
            "name": "distill",
            "inner": settings,
            "teacher": {"path": _teacher_folder(case.facts["case"]).name},
            "weight": official["codi_loss_weight"],
            "distance": official["codi_loss_type"],
        }
    method: Any = make_method(settings, case.backbone())
    missing, unexpected = method.backbone.lm.load_state_dict(case.state("base_causallm."), strict=False)
    assert not unexpected
    assert not [key for key in missing if not key.endswith((".attn.bias", ".attn.masked_bias"))]
    return method


def official_parameters(method: Any) -> dict[str, torch.nn.Parameter]:
    """Our parameters under the official names."""
    return {f"base_causallm.{name}": value for name, value in method.backbone.lm.named_parameters()}


def left_padding(case: cases.Case) -> list[int]:
    """Columns of padding before each row of the official batch."""
    return case.tensors["batch/attention_mask"].argmax(dim=1).tolist()


def own_rows(case: cases.Case, method: Any) -> list[Row]:
    """A case's problems as our method lays them out by itself."""
    stages = {phase.stage.index: phase.stage for phase in method.curriculum().phases}
    stage = stages[case.facts["method_config"]["stage"]]
    return [method.layout(example, stage, Random(0)) for example in case.examples]


def official_targets(case: cases.Case) -> list[list[tuple[int, ...]]]:
    """Per row, the whole step of every block."""
    steps = case.tensors.get("batch/replaced_cot_steps", torch.zeros(len(case.examples), 0, 0, dtype=torch.long))
    pad = case.facts["special_ids"]["pad"]
    return [[tuple(token for token in step if token != pad) for step in row] for row in steps.tolist()]


def rows_of(case: cases.Case, method: Any) -> list[Row]:
    """The same, with step targets that run on into the next block's slots, and the teacher's row with its padding."""
    rows = []
    c = case.facts["method_config"]["c_thought"]
    for b, (row, steps) in enumerate(zip(own_rows(case, method), official_targets(case), strict=True)):
        extra: dict[str, Any] = dict(row.extra)
        extra[BLOCK_TARGETS] = HostValue(tuple(step[: row.latents - k * c] for k, step in enumerate(steps)))
        if distilled(case):
            ids = case.tensors["batch_teacher/input_ids"][b].tolist()
            place = int(case.tensors["distill/teacher_position"][b])
            teacher = dataclasses.replace(row.value(TEACHER_ROW), ids=tuple(ids[: place + 1]), capture_at=place)
            teacher = dataclasses.replace(teacher, labels=(-100,) * (place + 1), start=place + 1)
            extra[TEACHER_ROW] = HostValue(teacher)
        rows.append(dataclasses.replace(row, extra=extra))
    return rows


def of_the_last_slot(case: cases.Case, rows: list[Row]) -> list[tuple[int, int]]:
    """(row, token) of steps so long that the last slot has to predict a token, which it never does in ours."""
    c = case.facts["method_config"]["c_thought"]
    found = []
    for b, (row, steps) in enumerate(zip(rows, official_targets(case), strict=True)):
        found += [(b, step[row.latents - k * c]) for k, step in enumerate(steps) if len(step) > row.latents - k * c]
    return found


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case.

    Attributes:
        rows: as `rows_of` gives them.
        terms: the report's, and in "steps" what the released code reads off the last slot.
        gradients: by official parameter name; None = none.
        after: parameters after one AdamW step, by the same names.
    """

    case: cases.Case
    method: Any
    rows: list[Row]
    batch: Batch
    report: LossReport
    terms: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]

    @property
    def lotus(self) -> Any:
        """The method without its teacher."""
        return self.method.at_inference


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    case = cases.load(name)
    method = method_of(case)
    rows = rows_of(case, method)
    batch = collate(rows)
    # Tokens behind the last slot have no loss, and are counted.
    counted = torch.tensor(case.facts["loss_counts"]["step_tokens_counted"]).double().numpy()
    report = method(batch, {**method.counts(batch), "steps": counted})
    terms = dict(report.terms)
    if spilled := of_the_last_slot(case, rows):
        which = np.array([b for b, _ in spilled])
        state_ND = report.trace.hidden_at(which, batch.starts_B[which] + batch.latents_B[which] - 1)
        tokens_N = torch.tensor([token for _, token in spilled])
        tail = cross_entropy_sum(state_ND, tokens_N, method.backbone.logits)
        terms["steps"] = terms["steps"] + method.at_inference.config.step_weight * tail / float(counted)
    torch.stack(list(terms.values())).sum().backward()
    named = official_parameters(method)
    gradients, after = cases.stepped(case, named)
    return Solved(case, method, rows, batch, report, terms, gradients, after)
