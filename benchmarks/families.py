"""Does a family of models work? Random small ones, trained and asked every way that matters; the table of docs/families.md.

    python -m benchmarks.families            # every family, and write the page
    python -m benchmarks.families lfm2 mpt   # some, and print their rows

Each cell is found out by numbers: losses and gradients of a batch of unlike rows against its rows one by one, answers of
a batch against each alone, of the scheduler against the loop, and of transformers' own `generate` on the exported model.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from unspoken.core.builtin import builtin
from unspoken.core.engine import answering, kv_slots
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.ways import ways_of
from unspoken.core.loop import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.errors import UnspokenError
from unspoken.methods import make_method
from unspoken.runs.model import Model

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
HEADS = {**SHAPE, "head_dim": 8}

PADDED: dict[str, dict[str, Any]] = {
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256},
    "cohere": SHAPE,  # scales its logits
    "cohere2": SHAPE,
    "exaone4": SHAPE,
    "gemma": HEADS,  # scales its input embeddings
    "gemma2": {**HEADS, "sliding_window": 128},  # caps its logits
    "gemma3_text": {**HEADS, "sliding_window": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_position_embeddings": 256,
        "window_size": 128, "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": SHAPE,
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256},
    "granite": {**SHAPE, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "llama": SHAPE,
    "mistral": SHAPE,
    "nanochat": SHAPE,
    "olmo": SHAPE,
    "olmo2": SHAPE,
    "olmo3": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions with an offset
    "phi": SHAPE,  # a head with a bias
    "phi3": SHAPE,
    "qwen2": SHAPE,
    "qwen2_moe": {
        **SHAPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3": HEADS,
    "qwen3_moe": {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "smollm3": SHAPE,
    "stablelm": SHAPE,
    "starcoder2": SHAPE,
    "ernie4_5": HEADS,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
    "glm4": HEADS,
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "mixtral": {**SHAPE, "num_local_experts": 4},
    "seed_oss": HEADS,
    "vaultgemma": {**HEADS, "sliding_window": 128},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # no positions at all, but a bias by distance
}  # fmt: skip
"""Families whose rows may be padded inside a pass."""

_DELTA = {
    **HEADS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}

UNPADDED: dict[str, dict[str, Any]] = {
    "qwen3_5_text": _DELTA,
    "qwen3_next": {
        **_DELTA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"]},
    "falcon_h1": {**SHAPE, **_MAMBA, "mamba_d_ssm": 64},
    "granitemoehybrid": {
        **SHAPE, **_MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 32,
    },
    "bamba": {**SHAPE, **_MAMBA, "attn_layer_indices": [1]},
    "nemotron_h": {
        **HEADS, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16,
        "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
    },
    "zamba2": {
        **SHAPE, "num_hidden_layers": 3, "layer_types": ["linear_attention", "hybrid", "linear_attention"],
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"], "attention_hidden_size": 64,
        "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "hybrid_layer_ids": [1],
        "num_mem_blocks": 1, "adapter_rank": 4, "chunk_size": 16,
    },
    "mamba2": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1,
        "chunk_size": 16,
    },
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 256},  # its bias counts columns
    "jamba": {  # forgets its state in a pass of several columns
        **SHAPE, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "num_experts_per_tok": 1,
        "mamba_d_state": 8,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "recurrent_gemma": {**SHAPE, "lru_width": 32, "attention_window_size": 64},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 48},
}  # fmt: skip
"""Families that padding inside a pass would change."""

EXAMPLES = [
    Example(question="Ann has 3 pens and buys 4 more.", steps=("<<3+4=7>>",), answer="7", id="a"),
    Example(
        question="Bob has 9 figs. He eats 2. How many are left? Ann has 3 pens.",
        steps=("<<9-2=7>>", "<<7+3=10>>"),
        answer="10",
        id="b",
    ),
    Example(question="9", steps=("<<9-2=7>>",), answer="7", id="c"),
]
METHODS = {"cot": {"name": "cot"}, "coconut": {"name": "coconut", "max_stage": 1}, "codi": {"name": "codi", "latents": 3}}
SPEAKING = SamplingParams(max_new_tokens=8)
HEAD = ("family", "rows are fed", "`cot`", "`coconut`", "`codi`", "batch = alone", "scheduler = loop", "export = run")


def lm_of(family: str, words: Any, shape: dict[str, Any]) -> Any:
    """A random causal LM of a family, with weights wide enough that greedy decoding has no near ties."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), words.eos_token_id)
    config = AutoConfig.for_model(family, **{"vocab_size": len(words), "initializer_range": 0.2, **ids, **shape})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def row_of(family: str, columns: Sequence[str] = HEAD) -> tuple[str, ...]:
    """The family's row of the table, or some cells of it."""
    words = AutoTokenizer.from_pretrained(str(builtin("builtin:tiny") / "model"), trust_remote_code=False)
    shape = (PADDED | UNPADDED)[family]

    def model(name: str) -> Model:
        return Model(make_method(METHODS[name], Backbone(lm_of(family, words, shape), words)), SPEAKING)

    try:
        ways = ways_of(model("cot").method.backbone.lm)
    except UnspokenError as error:
        row = (f"`{family}`", f"refused: {error}", *("refused",) * 6)
        return tuple(cell for name, cell in zip(HEAD, row, strict=True) if name in columns)
    fed = ways.answering if ways.answering == ways.training else f"{ways.answering}; in training {ways.training}"
    checks: dict[str, Callable[[], str]] = {
        "family": lambda: f"`{family}`",
        "rows are fed": lambda: fed,
        **{f"`{name}`": lambda name=name: _trains(model(name)) for name in METHODS},
        "batch = alone": lambda: _batch(model("coconut")),
        "scheduler = loop": lambda: _scheduler(model("coconut")),
        "export = run": lambda: _export(model("cot")),
    }
    return tuple(_cell(check) for name, check in checks.items() if name in columns)


def _cell(check: Callable[[], str]) -> str:
    try:
        return check()
    except UnspokenError as error:
        return f"refused: {error}"


def _trains(model: Model) -> str:
    """Loss and gradients of a batch, against the sums over its rows, at the first stage and at the last."""
    method: Any = model.method
    method.eval()
    phases = method.curriculum().phases
    for phase in phases[:: max(len(phases) - 1, 1)]:
        rows = [method.layout(example, phase.stage, Random(example.id)) for example in EXAMPLES]
        counts = method.counts(collate(rows))
        whole = _gradients(method, rows, counts)
        parts = [_gradients(method, [row], counts) for row in rows]
        for name, gradient in whole.items():
            total = sum((part[name] for part in parts if name in part), start=torch.zeros_like(gradient))
            if not bool((total - gradient).abs().amax() <= 1e-4 * max(1.0, float(gradient.abs().amax()))):
                return "no"
    return "yes"


def _gradients(method: Any, rows: list[Any], counts: Any) -> dict[str, torch.Tensor]:
    method.zero_grad(set_to_none=True)
    total = method(collate(rows), counts).total
    total.backward()
    return {"": total.detach()} | {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def _batch(model: Model) -> str:
    """Latents and answers."""
    asked = [example.question for example in EXAMPLES]
    together = model.think(asked).latents_BKD
    for b, question in enumerate(asked):
        alone = model.think([question]).latents_BKD[0]
        if not bool((together[b] - alone).abs().amax() <= 1e-5 * alone.abs().amax()):
            return "no"
    said = [answer.tokens for answer in model.answer(asked)]
    return "yes" if said == [model.answer([question])[0].tokens for question in asked] else "no"


def _scheduler(model: Model) -> str:
    """Answers of kv_slots, where a family has them."""
    method: Any = model.method
    method.eval()
    if not kv_slots.supports_kv_slots(method.backbone, 64):
        return "loop only"
    rows = [method.prompt(example.question) for example in EXAMPLES]
    said = [
        [answer.tokens for (answer,) in sample(method.backbone, rows, method.source(), SPEAKING)]
        for sample in (answering.sample, generate.sample)
    ]
    return "yes" if said[0] == said[1] else "no"


def _export(model: Model) -> str:
    """transformers' own greedy answers of the saved model, question by question."""
    method: Any = model.method
    method.eval()
    with tempfile.TemporaryDirectory() as folder:
        method.backbone.save(Path(folder))
        lm: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    for example in EXAMPLES:
        ids = torch.tensor([method.prompt(example.question).ids])
        mask = torch.ones_like(ids)
        try:
            said = lm.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=SPEAKING.max_new_tokens)
        except Exception:  # its own fault: nothing of ours is in the way
            return "transformers itself fails"
        if tuple(said[0, ids.shape[1] :].tolist()) != model.answer([example.question])[0].tokens:
            return "no"
    return "yes"


def page(rows: list[tuple[str, ...]]) -> str:
    """docs/families.md."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ("---",) * len(HEAD), *rows)]
    return _TEXT + "\n".join(lines) + "\n"


_TEXT = """\
# Model families

Any causal language model of transformers that takes input embeddings can be tried. When a model is built, its rows are
held against each row alone, and the fastest way to feed them that agrees is taken. A model for which none does is
refused ([decision 017](decisions/017-rows-without-padding.md)).

- *padded*: rows of unlike length share a pass, as fast as can be. Beyond a sliding window rows go *alone*, beyond the
  length at which Phi-3's longrope changes they are *replayed*.
- *grouped*: rows that feed equally many tokens share a pass. *stepwise*: the same, token by token behind the prompt.
- *alone*: row by row. *replayed*: all of a row again in every pass, which is slow for long answers.
- *loop only*: answered in batches from start to end, not by the scheduler (no `--stop`).

A column says whether the method trains (loss and gradients of a batch are those of its rows), whether a row in a
batch answers as alone, whether the scheduler and the loop agree, and whether transformers' `generate` says the same
with the exported weights. Made by `python -m benchmarks.families` with small random weights; a test holds it.

"""


def main(names: list[str]) -> None:
    """Examine families, and write the page where all were asked for."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    rows = []
    for family in names or (*PADDED, *UNPADDED):
        rows.append(row_of(family))
        print(*rows[-1], sep=" | ", flush=True)
    if not names:
        (Path(__file__).resolve().parents[1] / "docs" / "families.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
