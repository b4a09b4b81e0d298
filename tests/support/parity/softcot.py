"""Our SoftCoT and SoftCoT++ on the frozen inputs of `softcot_*` and `softcotpp_*`: built, run and stepped once.

The released wording is no part of this package; it is read off the fixtures' own prompts.
"""

from __future__ import annotations

import dataclasses
import functools
from random import Random
from typing import Any

import torch
from support.parity import cases
from torch import Tensor

from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import Backbone
from unspoken.core.losses import info_nce_sum, labelled_cross_entropy_sum
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.methods import make_method
from unspoken.methods.base import LossReport

LORA = "base_model.base_model.model."
"""Where the base model's weights stand in a case whose base has LoRA."""


def several(case: cases.Case) -> bool:
    """Whether it is SoftCoT++."""
    return case.facts["method"] == "softcotpp"


def latents_of(case: cases.Case) -> int:
    """N."""
    return case.facts["method_config"]["num_thought_tokens"]


def slices_of(case: cases.Case) -> list[slice]:
    """The rows of each of the official base model's calls in training: `batch_step` of them at a time."""
    rows, step = len(case.facts["instances"]), case.facts["method_config"].get("batch_step") or 1
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def chains_of(case: cases.Case) -> int:
    """C."""
    return case.facts["method_config"].get("num_scaling_times", 1)


def examples_of(case: cases.Case) -> list[Example]:
    """The instances as the released code reads them: every line of the answer is a step, the one with "####" too."""
    made = []
    for i, instance in enumerate(case.facts["instances"]):
        lines = tuple(instance["answer"].split("\n"))
        answer = lines[-1].removeprefix("####").strip()
        made.append(Example(question=instance["question"], steps=lines, answer=answer, id=f"example {i}"))
    return made


def texts_of(case: cases.Case) -> dict[str, str]:
    """The released templates: what stands in a recorded prompt, with placeholders for question, number and slots."""
    tokenizer, tensors = case.tokenizer(), case.tensors
    question, n = case.facts["instances"][0]["question"], latents_of(case)
    hold, begin, end = case.facts["method_config"]["special_tokens"]
    llama = case.facts["method_config"]["backbone_family"] == "llama"
    head = "<|start_header_id|>{}<|end_header_id|>\n\n" if llama else "<|im_start|>{}\n"
    close = "<|eot_id|>" if llama else "<|im_end|>"

    def turn(name: str, role: str) -> str:
        text = tokenizer.decode(tensors[f"generate/{name}_0"])
        return text.split(head.format(role))[1].split(close)[0]

    base = turn("input_ids", "user").replace(question, "{question}").replace(begin + hold * n + end, "{slots}")
    before, hint = base.split("{question}")
    assert hint.endswith("{slots}")
    return {
        "assistant": turn("assistant_input_ids", "user").replace(question, "{question}").replace(f" {n} ", " {latents} "),
        "opening": turn("assistant_input_ids", "assistant").removesuffix(hold * n).replace(f" {n} ", " {latents} "),
        "base": before + "{question}{thoughts}",
        "hint": hint,
        "step": "## Step {number}: {step}\n",
        "answer": r"Therefore, the final answer is: $\boxed{{answer}}$.",
    }


def backbone_of(case: cases.Case) -> Backbone:
    """The base model; LoRA's own weights come later."""
    if not case.facts["method_config"]["tune_base_model"]:
        return Backbone(case.lm("base_model.", case.facts["backbone_config"]), case.tokenizer())
    plain = {}
    for key, value in case.tensors.items():
        if key.startswith(f"state/{LORA}") and "lora_" not in key:
            plain[key.replace(LORA, "base_model.").replace(".base_layer", "")] = value
    return Backbone(
        cases.Case({**case.facts, "state_aliases": []}, plain).lm("base_model.", case.facts["backbone_config"]),
        case.tokenizer(),
    )


def method_of(case: cases.Case, **more: Any) -> Any:
    """Our method with a case's settings (and others for SoftCoT), from the case's initial weights."""
    hold, begin, end = case.facts["method_config"]["special_tokens"]
    arch = {k: v for k, v in case.facts["assistant_config"].items() if k not in ("torch_dtype", "architectures")}
    slots = {"begin": begin, "hold": hold, "end": end}
    soft = {
        "name": "softcot",
        "assistant": {"arch": arch, "tokenizer": str(cases.tokenizers(case.facts["tokenizer"]))},
        "latents": latents_of(case),
        "texts": texts_of(case),
        "slots": slots,
        "assistant_slots": slots,
        "generation_header": False,
        **more,
    }
    backbone = backbone_of(case)
    method: Any
    if several(case):
        method = make_method({"name": "softcot_pp", "softcot": soft, "chains": chains_of(case)}, backbone)
    else:
        method = make_method(soft, backbone)
    with torch.no_grad():
        method.assistant.backbone.lm.load_state_dict(
            case.lm("assistant_model.", case.facts["assistant_config"]).state_dict()
        )
        projection = (method.soft if several(case) else method).projection
        projection.weight.copy_(case.tensors["state/projection.weight"])
        projection.bias.copy_(case.tensors["state/projection.bias"])
        if several(case):
            method.initial.weight.copy_(case.tensors["state/assistant_embedding"])
        if case.facts["method_config"]["tune_base_model"]:
            backbone.adapt(LoraSettings(r=16, alpha=32.0, targets=("q_proj", "v_proj")))
            named = dict(backbone.lm.named_parameters())
            for key, value in case.tensors.items():
                if key.startswith(f"state/{LORA}") and "lora_" in key:
                    named[key.removeprefix(f"state/{LORA}")].copy_(value)
    return method.eval()


def official_parameters(case: cases.Case, method: Any) -> dict[str, torch.nn.Parameter]:
    """Our trained parameters under the official names."""
    prefix = LORA if case.facts["method_config"]["tune_base_model"] else "base_model."
    named = {prefix + name: p for name, p in method.backbone.lm.named_parameters() if p.requires_grad}
    projection = (method.soft if several(case) else method).projection
    named |= {"projection.weight": projection.weight, "projection.bias": projection.bias}
    if several(case):
        named["assistant_embedding"] = method.initial.weight
    return named


def released_row(case: cases.Case, row: Row) -> Row:
    """A row as the released code cuts it: without its last token, which for Qwen is the line end behind eos.

    With Qwen it is also trained on the line end of the user's turn, which stands in the prompt.
    """
    if case.facts["method_config"]["backbone_family"] == "qwen":
        first = next(t for t, label in enumerate(row.labels) if label != IGNORE)
        return dataclasses.replace(row, labels=(*row.labels[: first - 1], row.ids[first - 1], *row.labels[first:]))
    return dataclasses.replace(row, ids=row.ids[:-1], labels=row.labels[:-1])


def one_by_one(solved_method: Any, rows: list[Row]) -> list[LossReport]:
    """Each row's own report: the released loss of SoftCoT++ is a mean over rows, each a mean over its tokens."""
    from unspoken.core.rows.batch import collate

    batches = [collate([row]) for row in rows]
    return [solved_method(batch, solved_method.counts(batch)) for batch in batches]


def chain_losses(case: cases.Case, method: Any, rows: list[Row], reports: list[LossReport]) -> Tensor:
    """[C, calls] cross-entropy of every set in every official call, mean over the tokens of the call's rows."""
    from unspoken.core.rows.batch import collate

    sums, counts = [], []
    for row, report in zip(rows, reports, strict=True):
        batch = collate([row])
        sets = [report.trace._rows(slice(c, c + 1)) for c in range(chains_of(case))]
        sums.append(torch.stack([labelled_cross_entropy_sum(one, batch, method.backbone.logits) for one in sets]))
        counts.append(sum(label != IGNORE for label in row.labels))
    return torch.stack([torch.stack(sums[call]).sum(dim=0) / sum(counts[call]) for call in slices_of(case)], dim=1)


def contrast(case: cases.Case, reports: list[LossReport]) -> Tensor:
    """The released contrastive loss of one row with the recorded dropout, before its own division by sets x rows."""
    (report,) = reports
    sets_BCF = report.trace.latents_BKD.flatten(1)[None]
    views_BCF = sets_BCF * case.tensors["nce/keep_mask"].flatten(1)[None] / 0.5
    return info_nce_sum(sets_BCF, views_BCF, 1 / case.facts["method_config"]["nce_scale"]) / chains_of(case)


@dataclasses.dataclass(frozen=True)
class Solved:
    """What ours makes of a case. `terms` are the official ones: ce; or lm_sum and nce."""

    case: cases.Case
    method: Any
    rows: list[Row]
    reports: list[LossReport]
    terms: dict[str, Tensor]
    per_chain: Tensor
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]


@functools.cache
def solve(name: str) -> Solved:
    """Build, forward, differentiate, step once, and put the initial weights back."""
    from unspoken.core.rows.batch import collate

    torch.manual_seed(0)
    case = cases.load(name)
    # The released [INI] get no gradient; that ours do is tested apart.
    method = method_of(case)
    if several(case):
        method.initial.requires_grad_(False)
    rows = [released_row(case, method.layout(example, method.curriculum().last, Random(0))) for example in examples_of(case)]
    if several(case):
        reports = one_by_one(method, rows)
        per_chain = chain_losses(case, method, rows, reports)
        # Divided by the rows, also where a call has several of them: with batch_step 2 it is half of the mean over calls.
        terms = {"lm_sum": per_chain.sum() / len(rows), "nce": torch.zeros(())}
        if case.facts["losses"]["nce"]:
            terms["nce"] = contrast(case, reports) / (chains_of(case) * len(rows))
    else:
        batch = collate(rows)
        reports = [method(batch, method.counts(batch))]
        terms, per_chain = {"ce": reports[0].total}, torch.zeros(0)
    sum(terms.values(), start=torch.zeros(())).backward()
    named = official_parameters(case, method)
    gradients, after = cases.stepped(case, named)
    return Solved(case, method, rows, reports, terms, per_chain.detach(), gradients, after)
