"""The frozen tensors from the authors' code: find them, load them, compare with them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from unspoken.core.lm.backbone import Backbone
from unspoken.core.text.example import Example

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "parity"

RTOL, ATOL = 1e-5, 1e-6
"""Of latents, logits and losses (parity/README.md, "Tolerance")."""

GRADIENT = 1e-5
"""Of gradients, |g - g_ref| / |g_ref|; the README allows 1e-4."""

WORST: dict[str, float] = {}
"""Largest error seen so far per kind of number, in units of its scale; printed at the end of a run."""


def folder() -> Path | None:
    """Where the fixtures are: UNSPOKEN_PARITY, else beside the repository; None = nowhere."""
    places = [Path(os.environ["UNSPOKEN_PARITY"])] if os.environ.get("UNSPOKEN_PARITY") else []
    return next((place for place in (*places, BESIDE) if place.is_dir()), None)


def recorded() -> bool:
    """Whether the cases are the whole recorded set; another folder may hold any of them, or a single one."""
    return folder() == BESIDE


def tokenizers(name: str) -> Path:
    """The folder of a tokenizer that a case names; a folder of cases without tokenizers takes the recorded ones."""
    where = folder()
    assert where is not None
    there = where / "tokenizers" / name
    return there if there.is_dir() else BESIDE / "tokenizers" / name


ABSENT = f"no parity fixtures: neither UNSPOKEN_PARITY nor {BESIDE} is a folder (see docs/design.md)"
"""Why a reference test is skipped where `folder()` is None."""


METHODS = ("coconut", "simcot_coconut", "codi", "simcot_codi", "icot_si", "softcot", "softcotpp", "semcot", "lotus", "pccot")
"""Methods whose cases tests/reference runs, as case.json names them."""


@functools.cache
def cases() -> dict[str, str]:
    """Every case -> its method."""
    where = folder()
    found = [] if where is None else sorted(where.glob("*/case.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")).get("method", "none") for file in found}


def names(*methods: str) -> list[str]:
    """Cases of some methods, whatever their directories are called."""
    return [name for name, method in cases().items() if method in methods]


@dataclasses.dataclass(frozen=True)
class Case:
    """One frozen run of official code: `facts` is case.json, `tensors` the arrays."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def examples(self) -> list[Example]:
        return [
            Example(question=e["question"], steps=tuple(e["steps"]), answer=e["answer"], id=f"example {i}")
            for i, e in enumerate(self.facts["examples"])
        ]

    def tokenizer(self) -> Any:
        """A fresh tokenizer, without the tokens that the method adds."""
        return AutoTokenizer.from_pretrained(tokenizers(self.facts["tokenizer"]))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The initial weights of one official submodule, aliases filled in, without its prefix."""
        state = {key.removeprefix("state/"): value for key, value in self.tensors.items() if key.startswith("state/")}
        for alias in self.facts.get("state_aliases", ()):
            key, same = (str(alias[name]).removeprefix("state/") for name in ("key", "same_storage_as"))
            if same in state:  # else it is of another of the case's modules
                state[key] = state[same]
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    def lm(self, prefix: str, config: dict[str, Any], words: int | None = None) -> PreTrainedModel:
        """A causal LM with the weights of an official submodule; the first `words` of its vocabulary only, if given."""
        # Below LoRA, if there is any, stands the plain model.
        state = {key.replace(".base_layer", ""): v for key, v in self.state(prefix).items() if ".lora_" not in key}
        config = {key: value for key, value in config.items() if key not in ("torch_dtype", "architectures")}
        if words is not None:
            config["vocab_size"] = words
            for key in state:
                if key.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight")):
                    state[key] = state[key][:words].clone()
        kind = config.pop("model_type")
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), dtype=torch.float32)
        missing, unexpected = lm.load_state_dict(state, strict=False)
        assert not unexpected
        # GPT-2's buffers hold no weights, and a tied head is stored once, as the embedding.
        known = (".attn.bias", ".attn.masked_bias", *(["lm_head.weight"] if lm.config.tie_word_embeddings else []))
        assert not [key for key in missing if not key.endswith(known)]
        lm.tie_weights()
        return lm.eval()

    def backbone(self) -> Backbone:
        """The base model as it was before the official code added its tokens."""
        words = self.tokenizer()
        return Backbone(self.lm("base_causallm.", self.facts["backbone_config"], len(words)), words)


@functools.cache
def load(name: str) -> Case:
    """A case by its directory's name."""
    where = folder()
    assert where is not None
    facts = json.loads((where / name / "case.json").read_text())
    return Case(facts, load_file(where / name / "tensors.safetensors"))


def note(kind: str, error: float) -> float:
    """Remember the largest error of a kind."""
    WORST[kind] = max(WORST.get(kind, 0.0), error)
    return error


def same(kind: str, got: Tensor, want: Tensor) -> None:
    """`got` is `want` to the fixtures' tolerance: by norm, and entry by entry against the tensor's largest entry.

    (Against its own size an entry near zero cannot be held: float32 leaves an error of the size of its summands there.)
    """
    got = got.detach()
    assert got.shape == want.shape
    if want.numel():
        error = note(kind, float((got - want).norm() / want.norm().clamp(min=ATOL)))
        assert error <= RTOL, f"{kind}: relative error {error:.2g} by norm"
        torch.testing.assert_close(got, want, rtol=RTOL, atol=max(ATOL, RTOL * float(want.abs().max())))


def same_gradient(name: str, got: Tensor, want: Tensor) -> None:
    """`got` is `want` by norm."""
    error = note("gradients", float((got - want).norm() / want.norm().clamp(min=1e-12)))
    assert error <= GRADIENT, f"gradient of {name}: relative error {error:.2g}"


def stepped(case: Case, named: dict[str, torch.nn.Parameter]) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """The gradients that parameters have, and the parameters after the recorded AdamW step, which is then taken back.

    Args:
        named: the parameters by the official names.
    """
    gradients = {key: None if p.grad is None else p.grad.clone() for key, p in named.items()}
    initial = {key: p.detach().clone() for key, p in named.items()}
    step = dict(case.facts["optimizer_step"])
    assert step.pop("optimizer") == "torch.optim.AdamW"
    assert step.pop("grad_clipping") is None
    torch.optim.AdamW(named.values(), **{**step, "betas": tuple(step["betas"])}).step()
    after = {key: p.detach().clone() for key, p in named.items()}
    with torch.no_grad():
        for key, p in named.items():
            p.copy_(initial[key])
    return gradients, after
