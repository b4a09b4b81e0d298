"""Layouts of released checkpoints: how to recognise them by their keys, and the rules for each.

    family   keys                                                    released code
    coconut  base_causallm.*, embedding.weight [, expainable_llm.*]  facebookresearch/coconut 27273cb, SIM-CoT f3ae967
    codi     codi.* or coconut.* [, prj.*] [, decoder.*, pj_in.*]    zhenyi4/codi 4fd88d4, SIM-CoT f3ae967
    cot      a Hugging Face causal LM's own keys                     facebookresearch/coconut 27273cb (cot, no_cot)
    lotus    the same, with three rows more                          yingfan-bot/lotus eb77e2f
    pccot    the same, with four rows more [, prj.*]                 whyNLP/PCCoT 2e32e3e, LoRA merged
    cot      transformer.h.*.attn.c_q.weight, ...                    karpathy/nanochat, October 2025

Targets: lm.* the base model, decoder.* SIM-CoT's auxiliary decoder, projection.*, project.* (into a decoder of another
width). File names are ignored: the family, the presence of LoRA, projection and decoder, and their widths are derived from
the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from unspoken.errors import CheckpointError
from unspoken.importers.base import Architecture, BaseOutline
from unspoken.importers.lora import lora_rules
from unspoken.importers.nanochat import check_nanochat, is_nanochat, nanochat_rules
from unspoken.importers.rules import KeyRule, Mapped, listed

LM, DECODER, PROJECTION, PROJECT = "lm.", "decoder.", "projection.", "project."

_TIED = "the output head, equal to the input embedding to which this model ties it"
BUFFERS = (
    ("*.attn.bias", "a causal mask, which the model makes itself"),
    ("*.attn.masked_bias", "a constant, which the model makes itself"),
    ("*.rotary_emb.inv_freq", "rotary frequencies, which the model makes itself"),
)


_TITLES = {
    "coconut": "Coconut",
    "codi": "CODI",
    "cot": "plain language model (CoT or No-CoT)",
    "lotus": "LOTUS",
    "pccot": "PCCoT",
}
_ADDED = {"coconut": 3, "lotus": 3, "pccot": 4}
"""Tokens that are added to the tokenizer; PCCoT's last is for padding."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The layout of a checkpoint.

    Attributes:
        method: the paper it is from.
        lm: prefix of the base model's keys.
        decoder: prefix of an auxiliary decoder's keys; None = there is none.
        lora: whether the base model's layers have LoRA.
        nanochat: a language model under the names of nanochat's code.
    """

    method: Literal["coconut", "codi", "cot", "lotus", "pccot"]
    lm: str
    decoder: str | None = None
    lora: bool = False
    nanochat: bool = False

    @property
    def title(self) -> str:
        """Its name in messages."""
        name = "nanochat's language model" if self.nanochat else _TITLES[self.method]
        return f"SIM-CoT on {name}" if self.decoder else name

    def embedding_rows(self, base: BaseOutline) -> tuple[tuple[int, ...], int]:
        """The allowed numbers of embedding rows, and the number before tokens were added.

        Coconut, LOTUS and PCCoT resize to their tokenizers, CODI from the config's vocabulary V (pad is V, bot V + 1, eot
        V + 2). CODI's test.py also accepts files with two more rows, which are unused.
        """
        if (added := _ADDED.get(self.method)) is not None:
            return (base.words + added,), base.words
        return ((base.rows + 3, base.rows + 5) if self.method == "codi" else (base.rows,)), base.rows


def detect(keys: Iterable[str], base: Architecture) -> Family:
    """Recognise the family of a checkpoint.

    Raises:
        CheckpointError: unknown, or nanochat's of a later design or on another base.
    """
    keys = list(keys)
    if is_nanochat(keys):
        check_nanochat(keys, base)
        return Family(method="cot", lm="", nanochat=True)
    tops = {key.partition(".")[0] for key in keys}
    if "base_causallm" in tops:
        return Family(method="coconut", lm="base_causallm.", decoder="expainable_llm." if "expainable_llm" in tops else None)
    for top in ("codi", "coconut"):  # the older name
        if top in tops:
            wrapped = any(key.startswith(f"{top}.base_model.model.") for key in keys)  # by peft
            prefix = f"{top}.base_model.model." if wrapped else f"{top}."
            return Family(method="codi", lm=prefix, decoder="decoder." if "decoder" in tops else None, lora=wrapped)
    if base.body.rstrip(".") in tops:
        return Family(method="cot", lm="")
    raise CheckpointError(
        f"no known checkpoint: its keys begin with {listed(sorted(tops))}; expected base_causallm (Coconut), codi or "
        f"coconut (CODI), or {base.body.rstrip('.')} (a language model of the architecture of --base)"
    )


def told_by_rows(family: Family, tensors: Mapping[str, Tensor], base: BaseOutline, model: Architecture) -> Family:
    """A language model's own keys, with rows of added tokens: how many says whose they are.

    Args:
        family: as recognised by its keys.
        tensors: the checkpoint's.
        base, model: the model it was trained from, before tokens were added.
    """
    table = tensors.get(model.embedding, tensors.get(model.head))
    if family.method != "cot" or table is None or table.shape[0] == base.rows:
        return family
    found: dict[int, Literal["lotus", "pccot"]] = {_ADDED["lotus"]: "lotus", _ADDED["pccot"]: "pccot"}
    method = found.get(table.shape[0] - base.words)
    return family if method is None else replace(family, method=method)


def rules_of(family: Family, base: Architecture, decoder: Architecture, keys: Iterable[str]) -> tuple[KeyRule, ...]:
    """The rules of a family.

    Args:
        family: which.
        base, decoder: the models; an architecture decides whether a head repeats its embedding.
        keys: of the file: a tied head whose embedding was left out, as safetensors does, stands for it.
    """
    keys = set(keys)
    if family.nanochat:
        return tuple(nanochat_rules(keys, LM))
    rules: list[KeyRule] = []
    if family.method == "coconut":
        again = "the input embedding again, under the name of the module that wraps the model"
        rules.append(KeyRule(pattern="embedding.weight", reason=again, same_as=LM + base.embedding))
    if family.decoder:
        rules += _lm_rules(family.decoder, DECODER, decoder, keys)
    if family.method == "codi":
        rules += [
            KeyRule(pattern="prj.1.*", target=PROJECTION + "1.*"),
            KeyRule(pattern="prj.3.*", target=PROJECTION + "3.*"),
            KeyRule(pattern="prj.ln.*", target=PROJECTION + "4.*"),
            KeyRule(pattern="pj_in.*", target=PROJECT + "*"),
        ]
    if family.method == "pccot":
        layers = {"prj.0.*": "1.*", "prj.2.*": "3.*", "prj.3.*": "4.*"}  # ours begins with dropout
        rules += [KeyRule(pattern=theirs, target=PROJECTION + ours) for theirs, ours in layers.items()]
    return (*rules, *_lm_rules(family.lm, LM, base, keys, family.lora))


def _lm_rules(prefix: str, target: str, model: Architecture, keys: set[str], lora: bool = False) -> list[KeyRule]:
    """Rules for a causal LM under a prefix."""
    rules = [KeyRule(pattern=prefix + pattern, reason=reason) for pattern, reason in BUFFERS]
    if model.tied and prefix + model.embedding not in keys and prefix + model.head in keys:
        rules.append(KeyRule(pattern=prefix + model.head, target=target + model.embedding))
    elif model.tied:
        rules.append(KeyRule(pattern=prefix + model.head, reason=_TIED, same_as=target + model.embedding))
    if lora:
        rules += lora_rules(prefix, target)
    return [*rules, KeyRule(pattern=prefix + "*", target=target + "*")]


def wanted_of(family: Family, base: Architecture, decoder: Architecture, mapped: Mapped) -> dict[str, tuple[int, ...]]:
    """Every target that a checkpoint must have, with its shape. If any part of a projection is there, all of it must be."""
    wanted = {LM + name: shape for name, shape in base.shapes.items()}
    if family.decoder:
        wanted |= {DECODER + name: shape for name, shape in decoder.shapes.items()}
    width, narrow = base.width, decoder.width
    if projection := projection_of(mapped.tensors, width):
        hidden = projection["projection_width"]
        wanted |= {PROJECTION + "1.weight": (hidden, width), PROJECTION + "1.bias": (hidden,)}
        wanted |= {PROJECTION + "3.weight": (width, hidden), PROJECTION + "3.bias": (width,)}
        if projection["projection_norm"]:
            wanted |= {PROJECTION + "4.weight": (width,), PROJECTION + "4.bias": (width,)}
    if family.method == "codi" and family.decoder and narrow != width:
        wanted |= {PROJECT + "weight": (narrow, width), PROJECT + "bias": (narrow,)}
    return wanted


def projection_of(tensors: Mapping[str, Tensor], width: int) -> dict[str, Any]:
    """CODI's projection as fields of its config, derived from its tensors; empty if there are none."""
    found = {name.removeprefix(PROJECTION): t for name, t in tensors.items() if name.startswith(PROJECTION)}
    if not found:
        return {}
    places = (("1.weight", 0), ("1.bias", 0), ("3.weight", -1))
    hidden = next((found[name].shape[axis] for name, axis in places if name in found), width)
    return {"projection_width": int(hidden), "projection_norm": any(name.startswith("4.") for name in found)}
