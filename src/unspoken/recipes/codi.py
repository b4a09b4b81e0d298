"""CODI, and SIM-CoT on CODI, with the published settings. `backbone.path=...` takes another base model.

On GSM8K-Aug every number is a script's. On the other data sets CODI's scripts give them for CODI; SIM-CoT has no script
there and takes the same. No script trains on StrategyQA, though the released code reads it: CommonsenseQA's settings.

Sources: [Z] zhenyi4/codi 4fd88d4, scripts/*.sh and train.py; [S] InternLM/SIM-CoT f3ae967, CODI/scripts/*.sh; [P] arXiv
2502.21074; [M] the card of MisakiTaro0414/MUX; [ours] chosen here, see the comment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from unspoken.core.auxiliary.step_decoder import StepDecoderConfig
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods.base import replace_innermost
from unspoken.methods.codi import CodiConfig
from unspoken.methods.mux import MuxConfig
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.base import TaskConfig
from unspoken.tasks.data.choice import CommonsenseQaConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig
from unspoken.tasks.data.gsm8k_nl import Gsm8kAugNlConfig
from unspoken.tasks.data.strategyqa import StrategyQaConfig

LORA = LoraSettings(r=128, alpha=32, dropout=0.1)  # [Z] every script; train.py: dropout hard-coded, all linear layers


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """What the scripts set per base model."""

    path: str
    micro: int  # per_device_train_batch_size
    lr: float
    epochs: int
    distill: float  # distill_loss_factor; [P] appendix F: 20 was best for Llama
    dtype: Any = "float32"  # the scripts hold every base in bf16; ours: only those that do not fit otherwise
    most: int | None = None  # max_token_num: longer training examples are left out
    sharding: Any = "none"  # ours, for several processes: what fits on 8 cards of 80 GB (docs/scale.md)
    batch: int = 128  # micro x gradient_accumulation_steps


GPT2 = Scripts(path="openai-community/gpt2", micro=64, lr=3e-3, epochs=40, distill=1)  # [Z] train_gpt2_gsm8k-aug.sh
LLAMA_1B = Scripts(  # [Z] train_llama1b_gsm8k-aug.sh
    path="meta-llama/Llama-3.2-1B-Instruct", micro=32, lr=8e-4, epochs=10, distill=20, most=200
)
LLAMA_3B = Scripts(  # [S] train_llama3b_gsm8k-aug-decoder-2.sh
    path="meta-llama/Llama-3.2-3B-Instruct",
    micro=16,  # the script's 32 do not fit on one card of 80 GB
    lr=3e-4,
    epochs=8,
    distill=20,
    most=200,
    dtype="bfloat16",
    sharding="zero2",
)
LLAMA_8B = Scripts(  # [S] train_llama8b_gsm8k-aug-decoder-2.sh
    path="meta-llama/Llama-3.1-8B-Instruct",
    micro=8,
    lr=1e-4,
    epochs=6,
    distill=20,
    most=200,
    dtype="bfloat16",
    sharding="zero3",
)


def codi_of(base: Scripts, task: TaskConfig) -> RunConfig:
    """CODI on a base model and a task."""
    return RunConfig(
        backbone=BackboneConfig(path=base.path, lora=LORA, dtype=base.dtype),
        method=CodiConfig(
            latents=6,  # [Z] num_latent
            scale="batch",  # [Z] distill_loss_div_std
            distill_weight=base.distill,
        ),
        task=task,
        train=TrainConfig(
            epochs=base.epochs,
            batch_size=base.batch,
            micro_batch_size=base.micro,
            max_positions=base.most,
            lr=base.lr,
            weight_decay=0.1,  # [Z] weight_decay
            schedule="cosine",  # [Z] lr_scheduler_type
            warmup_share=0.03,  # [Z] warmup_ratio
            clip=2.0,  # [Z] max_grad_norm
            precision="bf16",  # [Z] bf16
            seed=11,  # [Z] seed
            validate_limit=500,  # [ours] the released code has no validation
        ),
        speaking=SamplingParams(max_new_tokens=256),  # [Z] test.py, greedy
    )


def sim_cot_of(base: Scripts, task: TaskConfig, explainer: str | None = None) -> RunConfig:
    """SIM-CoT on CODI, both from the base model and at once, as the scripts train it.

    Args:
        base, task: as for `codi_of`.
        explainer: the model that its decoder starts from; None = the base itself, as published.
    """
    inner = codi_of(base, task)
    return replace(
        inner,
        train=replace(inner.train, sharding=base.sharding),
        method=SimCotConfig(
            inner=replace(inner.method, trailing=True),  # [S] model.py: latent 7 is explained, not fed
            # [S] decoder: the same checkpoint, all of it trains, in training mode; positions from 0
            decoder=StepDecoderConfig(kind="model" if explainer else "copy", path=explainer, first_position=0, dropout=True),
            weight=1.0,  # [S] explain_loss_factor
            normalisation="group",  # [S] model.py
        ),
    )


def _in_words(config: RunConfig, *, whole: bool) -> RunConfig:
    """Chains of sentences. [Z] train.py: a line end behind the chain. On CommonsenseQA and StrategyQA the chain is kept
    whole and the question ends in a line end; on GSM8K-Aug-NL the last sentence is left out."""
    changed: dict[str, Any] = {"chain_end": "\n", "include_last_step": whole}
    if whole:
        changed["template"] = replace(CodiConfig().template, question="{question}\n")
    return replace(config, method=replace_innermost(config.method, **changed))


_NL_LLAMA_1B = replace(LLAMA_1B, epochs=3, most=256)  # [Z] train_llama1b_gsm8k-aug-nl.sh
_CSQA = replace(GPT2, epochs=50)  # [Z] train_gpt2_commonsense.sh
_CSQA_LLAMA_1B = replace(LLAMA_1B, epochs=3, most=1000, batch=64)  # [Z] train_llama_commonsense.sh: 32 x 2
_CSQA_DATA = CommonsenseQaConfig(cot=True)  # [Z] zen-E/CommonsenseQA-GPT4omini
_STRATEGY_DATA = StrategyQaConfig(cot=True)  # [Z] zen-E/StrategyQA_CoT_GPT4o


def gsm8k() -> RunConfig:
    """CODI, GPT-2. [Z] train_gpt2_gsm8k-aug.sh; published 43.7 on GSM8K."""
    return codi_of(GPT2, Gsm8kAugConfig())


def gsm8k_llama1b() -> RunConfig:
    """CODI, Llama-3.2-1B-Instruct. [Z] train_llama1b_gsm8k-aug.sh; published 55.6."""
    return codi_of(LLAMA_1B, Gsm8kAugConfig())


def gsm8k_llama3b() -> RunConfig:
    """CODI, Llama-3.2-3B-Instruct, with the settings of SIM-CoT's script. Published (as its baseline) 60.8."""
    return codi_of(LLAMA_3B, Gsm8kAugConfig())


def gsm8k_llama8b() -> RunConfig:
    """CODI, Llama-3.1-8B-Instruct, with the settings of SIM-CoT's script. Published (as its baseline) 61.1."""
    return codi_of(LLAMA_8B, Gsm8kAugConfig())


def mux_gsm8k() -> RunConfig:
    """MUX on CODI, GPT-2: CODI's script with the divergence in place of the distance. [M] 6 latents, LoRA r 128, alpha 32,
    cosine, "superposition KL-divergence distillation + reference loss"; published 48.45."""
    return _mux_of(GPT2)


def mux_gsm8k_llama1b() -> RunConfig:
    """MUX on CODI, Llama-3.2-1B-Instruct, likewise. [M] published 57.01."""
    return _mux_of(LLAMA_1B)


def _mux_of(base: Scripts) -> RunConfig:
    """MUX with what its weights' card [M] says, and CODI's numbers for the rest."""
    codi = codi_of(replace(base, distill=0.0), Gsm8kAugConfig())
    return replace(codi, method=MuxConfig(inner=codi.method))


def sim_gsm8k() -> RunConfig:
    """SIM-CoT on CODI, GPT-2. [S] train_gpt2_gsm8k-aug-decoder-2.sh; published 42.6."""
    return sim_cot_of(GPT2, Gsm8kAugConfig())


def sim_gsm8k_llama1b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.2-1B-Instruct. [S] train_llama1b_gsm8k-aug-decoder.sh (64 x 2); published 56.1."""
    return sim_cot_of(replace(LLAMA_1B, micro=64), Gsm8kAugConfig())


def sim_gsm8k_llama3b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.2-3B-Instruct. [S] train_llama3b_gsm8k-aug-decoder-2.sh; published 62.3."""
    return sim_cot_of(LLAMA_3B, Gsm8kAugConfig())


def sim_gsm8k_llama8b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.1-8B-Instruct. [S] train_llama8b_gsm8k-aug-decoder-2.sh; published 64.1."""
    return sim_cot_of(LLAMA_8B, Gsm8kAugConfig())


def nl() -> RunConfig:
    """CODI, GPT-2, GSM8K-Aug-NL. [Z] train_gpt2_gsm8k-aug-nl.sh."""
    return _in_words(codi_of(GPT2, Gsm8kAugNlConfig()), whole=False)


def nl_llama1b() -> RunConfig:
    """CODI, Llama-3.2-1B-Instruct, GSM8K-Aug-NL. [Z] train_llama1b_gsm8k-aug-nl.sh."""
    return _in_words(codi_of(_NL_LLAMA_1B, Gsm8kAugNlConfig()), whole=False)


def sim_nl() -> RunConfig:
    """SIM-CoT on CODI, GPT-2, GSM8K-Aug-NL. [Z] train_gpt2_gsm8k-aug-nl.sh; no script of SIM-CoT's."""
    return _in_words(sim_cot_of(GPT2, Gsm8kAugNlConfig()), whole=False)


def sim_nl_llama1b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.2-1B-Instruct, GSM8K-Aug-NL. [Z] train_llama1b_gsm8k-aug-nl.sh; no script of SIM-CoT's."""
    return _in_words(sim_cot_of(_NL_LLAMA_1B, Gsm8kAugNlConfig()), whole=False)


def commonsenseqa() -> RunConfig:
    """CODI, GPT-2, CommonsenseQA. [Z] train_gpt2_commonsense.sh."""
    return _in_words(codi_of(_CSQA, _CSQA_DATA), whole=True)


def commonsenseqa_llama1b() -> RunConfig:
    """CODI, Llama-3.2-1B-Instruct, CommonsenseQA. [Z] train_llama_commonsense.sh."""
    return _in_words(codi_of(_CSQA_LLAMA_1B, _CSQA_DATA), whole=True)


def sim_commonsenseqa() -> RunConfig:
    """SIM-CoT on CODI, GPT-2, CommonsenseQA. [Z] train_gpt2_commonsense.sh; no script of SIM-CoT's."""
    return _in_words(sim_cot_of(_CSQA, _CSQA_DATA), whole=True)


def sim_commonsenseqa_llama1b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.2-1B-Instruct, CommonsenseQA. [Z] train_llama_commonsense.sh; no script of SIM-CoT's."""
    return _in_words(sim_cot_of(_CSQA_LLAMA_1B, _CSQA_DATA), whole=True)


def strategyqa() -> RunConfig:
    """CODI, GPT-2, StrategyQA. No script; CommonsenseQA's settings."""
    return _in_words(codi_of(_CSQA, _STRATEGY_DATA), whole=True)


def strategyqa_llama1b() -> RunConfig:
    """CODI, Llama-3.2-1B-Instruct, StrategyQA. No script; CommonsenseQA's settings."""
    return _in_words(codi_of(_CSQA_LLAMA_1B, _STRATEGY_DATA), whole=True)


def sim_strategyqa() -> RunConfig:
    """SIM-CoT on CODI, GPT-2, StrategyQA. No script; CommonsenseQA's settings."""
    return _in_words(sim_cot_of(_CSQA, _STRATEGY_DATA), whole=True)


def sim_strategyqa_llama1b() -> RunConfig:
    """SIM-CoT on CODI, Llama-3.2-1B-Instruct, StrategyQA. No script; CommonsenseQA's settings."""
    return _in_words(sim_cot_of(_CSQA_LLAMA_1B, _STRATEGY_DATA), whole=True)
