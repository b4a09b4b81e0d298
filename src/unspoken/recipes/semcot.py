"""SemCoT on the authors' five tasks with the published settings, one recipe per task and base model.

Sources: [S] YinhanHe123/SemCoT 27ca2ef; [B] its utils/utils.py, BEST_PARAMS, found by the authors on their test files;
[ours] chosen here. The released evaluation thinks 1 latent after training with 5, and takes the best of five sampling
temperatures on the test file: here it is 5 and greedy, so these recipes are not expected to give the published figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from unspoken.core.auxiliary.sentence_encoder import EncoderConfig
from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.curriculum import StageSettings
from unspoken.methods.semcot import SemCotConfig
from unspoken.methods.semcot_generator import SemCotGeneratorConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.semcot import SemCotTaskConfig

Subset = Literal["gsm8k", "svamp", "multiarith", "commonsense_qa", "coin_flip"]

LLAMA = ("meta-llama/Llama-2-7b-chat-hf", "princeton-nlp/Sheared-LLaMA-1.3B")  # [S] main.py: config "small"
MISTRAL = ("mistralai/Mistral-7B-Instruct-v0.2", "optimum/mistral-1.1b-testing")  # [S] main.py: config "mistral"
QWEN = ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")  # [S] main.py: config "qwen"


def _run(
    models: tuple[str, str],
    subset: Subset,
    *stages: tuple[float, float, float],
    align: float,
) -> RunConfig:
    """A run of four stages: the encoder's linear layer, the encoder, the projection, generator and projection.

    Args:
        stages: learning rate, weight decay and epochs of each.
        align: weight of the alignment.
    """
    head, encoder, warmup, _ = (StageSettings(lr=lr, weight_decay=decay, epochs=epochs) for lr, decay, epochs in stages)
    return RunConfig(
        backbone=BackboneConfig(path=models[0]),  # [S] fp32
        method=SemCotConfig(
            inner=SemCotGeneratorConfig(
                assistant=BackboneConfig(path=models[1]),
                latents=5,  # [S] main.py: train_max_contemp_tokens
                warmup=warmup,
            ),
            encoder=EncoderConfig(first=16, last=20, width=768),  # [S] models/semcot.py: start_layer_idx, end_layer_idx
            align_weight=align,
            temperature=0.05,  # [ours] [S] has none
            encoder_warmup=head,
            encoder_training=encoder,
            condensed="data",  # [S] written by GPT-4o-mini
        ),
        task=SemCotTaskConfig(subset=subset),
        train=TrainConfig(
            epochs=sum(epochs for _, _, epochs in stages),
            batch_size=4,  # [S] main.py: batch_size
            lr=stages[-1][0],
            weight_decay=stages[-1][1],
            schedule="constant",  # [S] train_semcot.py: no scheduler
            clip=None,  # [S] train_semcot.py: no clipping
            seed=42,  # [S] main.py
            select="loss",  # [S] the least loss is kept; here of a validation split
        ),
        fast=FastConfig(prefix_gb=0.0),  # [ours] a resumed run then is the same bit for bit
        speaking=SamplingParams(max_new_tokens=30),  # [S] utils.py: 30 new tokens; greedy is [ours]
    )


def gsm8k() -> RunConfig:
    """SemCoT on GSM8K, Llama-2-7B-chat with Sheared-LLaMA-1.3B. [B] small, gsm8k."""
    return _run(LLAMA, "gsm8k", (1e-3, 1e-2, 7), (1e-7, 1e-2, 1), (1e-3, 1e-3, 7), (1e-3, 1e-7, 2), align=0.25)


def svamp() -> RunConfig:
    """SemCoT on SVAMP, Llama-2-7B-chat with Sheared-LLaMA-1.3B. [B] small, svamp."""
    return _run(LLAMA, "svamp", (1e-2, 1e-3, 5), (1e-3, 1e-2, 1), (1e-3, 1e-2, 5), (1e-3, 1e-2, 2), align=0.25)


def multiarith() -> RunConfig:
    """SemCoT on MultiArith, Llama-2-7B-chat with Sheared-LLaMA-1.3B. [B] small, multiarith."""
    return _run(LLAMA, "multiarith", (1e-2, 1e-4, 7), (1e-3, 1e-5, 1), (1e-3, 1e-2, 5), (1e-7, 1e-5, 1), align=0.75)


def commonsense_qa() -> RunConfig:
    """SemCoT on CommonsenseQA, Llama-2-7B-chat with Sheared-LLaMA-1.3B. [B] small, commonsense_qa."""
    return _run(LLAMA, "commonsense_qa", (1e-3, 1e-3, 5), (1e-3, 1e-7, 3), (1e-2, 1e-2, 5), (1e-3, 1e-3, 3), align=0.75)


def coin_flip() -> RunConfig:
    """SemCoT on coin flips, Llama-2-7B-chat with Sheared-LLaMA-1.3B. [B] small, coin_flip."""
    return _run(LLAMA, "coin_flip", (1e-3, 1e-4, 5), (1e-3, 1e-2, 2), (1e-4, 1e-4, 5), (1e-3, 1e-7, 1), align=0.5)


def gsm8k_mistral() -> RunConfig:
    """SemCoT on GSM8K, Mistral-7B-Instruct with a Mistral of 1.1B. [B] mistral, gsm8k."""
    return _run(MISTRAL, "gsm8k", (1e-3, 1e-3, 5), (1e-5, 1e-5, 1), (1e-3, 1e-2, 1), (1e-5, 1e-5, 2), align=0.25)


def svamp_mistral() -> RunConfig:
    """SemCoT on SVAMP, Mistral-7B-Instruct with a Mistral of 1.1B. [B] mistral, svamp."""
    return _run(MISTRAL, "svamp", (1e-2, 1e-4, 1), (1e-7, 1e-7, 2), (1e-3, 1e-4, 1), (1e-5, 1e-5, 2), align=0.25)


def multiarith_mistral() -> RunConfig:
    """SemCoT on MultiArith, Mistral-7B-Instruct with a Mistral of 1.1B. [B] mistral, multiarith."""
    return _run(MISTRAL, "multiarith", (1e-4, 1e-2, 5), (1e-7, 1e-3, 2), (1e-4, 1e-2, 1), (1e-5, 1e-5, 2), align=0.25)


def commonsense_qa_mistral() -> RunConfig:
    """SemCoT on CommonsenseQA, Mistral-7B-Instruct with a Mistral of 1.1B. [B] mistral, commonsense_qa."""
    return _run(MISTRAL, "commonsense_qa", (1e-4, 1e-4, 3), (1e-5, 1e-7, 2), (1e-3, 1e-3, 1), (1e-3, 1e-3, 3), align=0.25)


def coin_flip_mistral() -> RunConfig:
    """SemCoT on coin flips, Mistral-7B-Instruct with a Mistral of 1.1B. [B] mistral, coin_flip."""
    return _run(MISTRAL, "coin_flip", (1e-4, 1e-2, 7), (1e-7, 1e-5, 3), (1e-3, 1e-4, 3), (1e-7, 1e-7, 2), align=0.5)


def gsm8k_qwen() -> RunConfig:
    """SemCoT on GSM8K, Qwen2.5-7B-Instruct with 0.5B. [B] has no Qwen: these are the defaults of [S] main.py, alpha ours."""
    base = _run(QWEN, "gsm8k", (1e-4, 1e-3, 7), (1e-7, 1e-5, 3), (1e-4, 1e-3, 7), (1e-7, 1e-5, 3), align=0.25)
    method = base.method  # [S] takes layers 16 to 20 of 28 too; ours: the middle
    return replace(base, method=replace(method, encoder=replace(method.encoder, first=14, last=18)))
