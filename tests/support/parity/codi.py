"""Our CODI, and SIM-CoT on CODI, on the frozen inputs of `codi_*` and `simcot_codi_*`: built, run and stepped once.

Tokens behind the tokenizer's last: theirs are pad, bot, eot, ours bot, eot, latent. Nothing reads a pad that is masked, nor
a latent's placeholder, so our latent takes the row of their pad, and every tensor compares once its rows are in their order.
"""

from __future__ import annotations

import dataclasses
import functools
from random import Random
from typing import Any

import torch
from support.parity import cases
from support.parity.padding import AttendsPadding, Padding, attended, padded
from torch import Tensor

from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.methods import make_method
from unspoken.methods.base import LossReport
from unspoken.methods.sim_cot import STEP_TARGETS

TABLES = ("wte.weight", "embed_tokens.weight", "lm_head.weight")
"""How parameters with a row per token end."""


def is_explained(case: cases.Case) -> bool:
    """Whether it is a case of SIM-CoT."""
    return "decoder_config" in case.facts


def our_ids(case: cases.Case) -> Tensor:
    """Our token id of every official one [V]."""
    special = case.facts["special_ids"]
    ids = torch.arange(case.facts["backbone_config"]["vocab_size"])
    first = special["pad"]
    ids[[special["bot"], special["eot"], special["pad"]]] = torch.arange(first, first + 3)
    return ids


def in_our_ids(case: cases.Case, ids: Tensor) -> tuple[int, ...]:
    """Official token ids in ours; negative numbers stay."""
    return tuple(torch.where(ids < 0, ids, our_ids(case)[ids.clamp(min=0)]).tolist())


def base_prefix(case: cases.Case) -> str:
    """What stands before the names of the base model's parameters in the official checkpoint."""
    return "codi.base_model.model." if case.facts["method_config"]["use_lora"] else "codi."


def in_official_order(case: cases.Case, name: str, value: Tensor) -> Tensor:
    """Our value of an official parameter, its rows in the official order of tokens."""
    return value[our_ids(case)] if name.startswith("codi.") and name.endswith(TABLES) else value


def codi_settings(case: cases.Case) -> dict[str, Any]:
    """Our CodiConfig for a case, with the latent that is made after the last one: the released code always makes it."""
    official = case.facts["method_config"]
    return {
        "name": "codi",
        "latents": official["num_latent"],
        "trailing": True,
        "projection": official["use_prj"],
        "projection_width": official["prj_dim"],
        "projection_norm": not official["prj_no_ln"],
        "include_last_step": official["include_last_cot"],
        "distance": official["distill_loss_type"],
        "scale": "batch" if official["distill_loss_div_std"] else "none",
        "distill_weight": official["distill_loss_factor"],
        "teacher_weight": official["ref_loss_factor"],
    }


def sim_cot_settings(case: cases.Case) -> dict[str, Any]:
    """Our SimCotConfig for a case."""
    return {
        "name": "sim_cot",
        "inner": codi_settings(case),
        "normalisation": "group",
        "weight": case.facts["method_config"]["explain_loss_factor"],
        "decoder": {"first_position": 0},
        "max_step_tokens": case.facts["generate"]["max_new_tokens"],
    }


def plain_backbone(case: cases.Case) -> AttendsPadding:
    """The base model as it was before LoRA and before the official code added its tokens."""
    words = case.tokenizer()
    assert len(words) == case.facts["special_ids"]["pad"]
    return AttendsPadding(case.lm(base_prefix(case), case.facts["backbone_config"], len(words)), words)


def method_of(case: cases.Case, *, trains_markers: bool = False, **changes: Any) -> Any:
    """Our method with a case's settings (and others for CODI), from the case's initial weights.

    Args:
        trains_markers: with LoRA, let the markers' rows train, as our training does and the released does not.
    """
    settings: dict[str, Any] = codi_settings(case) | changes
    if is_explained(case):
        settings = sim_cot_settings(case) | {"inner": settings}
    method: Any = make_method(settings, plain_backbone(case))
    lm, official = method.backbone.lm, case.state(base_prefix(case))
    with torch.no_grad():
        for name, value in lm.state_dict().items():
            if name.endswith(TABLES):
                value[our_ids(case)] = official[name]
    if (lora := case.facts.get("lora")) is not None:
        assert lora["scaling"] == lora["alpha"] / lora["r"]
        adapter = LoraSettings(r=lora["r"], alpha=lora["alpha"], targets=tuple(lora["target_modules"]))
        method.backbone.adapt(adapter, method.at_inference.markers.ids if trains_markers else ())
        found = lm.load_state_dict({name: v for name, v in official.items() if ".lora_" in name}, strict=False)
        assert not found.unexpected_keys
        assert not [name for name in found.missing_keys if ".lora_" in name]
    if method.at_inference.projection is not None:
        projection = {name.replace("ln.", "4."): value for name, value in case.state("prj.").items()}
        method.at_inference.projection.load_state_dict(projection)
    if is_explained(case):
        # The released decoder is another checkpoint, with the vocabulary before tokens were added.
        method.decoder.lm = case.lm("decoder.", case.facts["decoder_config"])
        if project := case.state("pj_in."):
            wide, narrow = reversed(project["weight"].shape)
            method.decoder.project = torch.nn.Linear(wide, narrow)
            method.decoder.project.load_state_dict(project)
    return method


def official_parameters(case: cases.Case, method: Any) -> dict[str, torch.nn.Parameter]:
    """Our parameters under the official names."""
    named = {base_prefix(case) + name: value for name, value in method.backbone.lm.named_parameters()}
    if method.at_inference.projection is not None:
        named |= {
            f"prj.{name.replace('4.', 'ln.')}": value for name, value in method.at_inference.projection.named_parameters()
        }
    if is_explained(case):
        named |= {f"decoder.{name}": value for name, value in method.decoder.lm.named_parameters()}
        named |= {f"pj_in.{name}": value for name, value in method.decoder.project.named_parameters()}
    return named


def explained_latents(case: cases.Case) -> list[int]:
    """Numbers of the latents that stand for a step in some row."""
    return [k for k in range(case.facts["method_config"]["num_latent"] + 1) if f"explain/{k}/labels" in case.tensors]


def official_targets(case: cases.Case) -> list[tuple[tuple[int, ...], ...]]:
    """Per row, per latent: what the released decoder was to write, as it was cut; () where there was nothing."""
    targets = [[()] * (case.facts["method_config"]["num_latent"] + 1) for _ in case.examples]
    for k in explained_latents(case):
        for b, labels in enumerate(case.tensors[f"explain/{k}/labels"].tolist()):
            targets[b][k] = tuple(label for label in labels if label != IGNORE)
    return [tuple(row) for row in targets]


def with_eos(row: Row, eos: int) -> Row:
    """A row of `layout` or `prompt` under the released `remove_eos=False`, which our CODI does not offer.

    An eos then stands behind the question, behind the chain, and between the student's eot and the answer.
    """
    asked, thought = row.start - 1, row.start + row.latents + 1
    question, thoughts, answer = row.ids[:asked], row.ids[asked:thought], row.ids[thought:]
    row = dataclasses.replace(
        row,
        ids=(*question, eos, *thoughts, eos, *answer),
        labels=(IGNORE,) * (thought + 1) + ((eos, *answer) if answer else (IGNORE,)),
        start=row.start + 1,
    )
    if row.branch is None or row.capture_at is None or row.branch.capture_at is None:
        return row
    text = (*row.branch.ids[asked : len(row.branch.ids) - len(answer)], eos, *answer)
    branch = dataclasses.replace(
        row.branch,
        ids=(*question, eos, *text),
        labels=(IGNORE,) * (asked + 1) + text,
        start=asked + 1 + len(text),
        capture_at=row.branch.capture_at + 2,
    )
    return dataclasses.replace(row, capture_at=row.capture_at + 2, branch=branch, shared=asked + 1)


def own_rows(case: cases.Case, method: Any) -> list[Row]:
    """A case's problems as our method lays them out by itself."""
    (phase,) = method.curriculum().phases
    return [method.layout(example, phase.stage, Random(0)) for example in case.examples]


def rows_of(case: cases.Case, method: Any) -> list[Row]:
    """The same without padding, but with the official eos and step targets."""
    rows = own_rows(case, method)
    if not case.facts["method_config"]["remove_eos"]:
        rows = [with_eos(row, case.facts["special_ids"]["eos"]) for row in rows]
    if is_explained(case):
        rows = [
            dataclasses.replace(row, extra={STEP_TARGETS: HostValue(t)})
            for row, t in zip(rows, official_targets(case), strict=True)
        ]
    return rows


def prompts_of(case: cases.Case, method: Any) -> list[Row]:
    """A case's questions, without padding, with the official eos."""
    rows = [method.prompt(example.question) for example in case.examples]
    if not case.facts["method_config"]["remove_eos"]:
        rows = [with_eos(row, case.facts["special_ids"]["eos"]) for row in rows]
    return rows


def padding_of(case: cases.Case, *, training: bool = True) -> Padding | None:
    """How a case pads and sees it; None where nothing is padded. At inference nothing ever hides padding."""
    if not case.facts["padding_attended"]:
        return None
    mask_BQ = case.tensors["batch/encoder_attention_mask" if training else "generate/attention_mask"]
    return Padding(
        left=tuple((mask_BQ == 0).sum(dim=1).tolist()),
        question=mask_BQ.shape[1],
        hidden=training and case.facts["method_config"]["fix_attn_mask"],
    )


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case.

    Attributes:
        method: SimCot or Codi, with the initial weights.
        rows: as `rows_of` gives them.
        batch: what was forwarded: the rows, with the padding where the released code sees it.
        gradients: by official name, rows in the official order; None = none. Empty where the official ones are wrong.
        after: parameters after one AdamW step, likewise.
    """

    case: cases.Case
    method: Any
    rows: list[Row]
    batch: Batch
    report: LossReport
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]


def has_gradients(case: cases.Case) -> bool:
    """Whether the official gradients are right (parity/README.md, "CPU flash kernel")."""
    return case.facts.get("gradients_reliable", True)


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    case = cases.load(name)
    method = method_of(case)
    rows, padding = rows_of(case, method), padding_of(case)
    batch = collate(padded(rows, padding, method.at_inference.markers.latent))
    with attended(method.backbone, padding, math=case.facts["sdpa_kernel"] == "math"):
        report = method(batch, method.counts(batch))
        if not has_gradients(case):
            return Solved(case, method, rows, batch, report, {}, {})
        report.total.backward()
    named = official_parameters(case, method)
    grads, after = cases.stepped(case, named)
    gradients = {key: None if grad is None else in_official_order(case, key, grad) for key, grad in grads.items()}
    after = {key: in_official_order(case, key, p) for key, p in after.items()}
    return Solved(case, method, rows, batch, report, gradients, after)
