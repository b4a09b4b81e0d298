"""LOTUS on GSM8K-Aug, with the published settings. Start from an SFT-CoT run: `backbone.path=RUN`.

Sources: [L] yingfan-bot/lotus eb77e2f, args/gsm8k_lotus_*.yaml and args/base/*.yaml; [ours] chosen here.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods.distill import DistillConfig
from unspoken.methods.lotus import LotusConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig

GPT2 = "openai-community/gpt2"
LLAMA_1B, LLAMA_3B = "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct"  # [L] model_id


def gsm8k() -> RunConfig:
    """LOTUS, GPT-2; published 44.1 (0.7), explicit CoT 42.7."""
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=LotusConfig(latents_per_step=13, max_stage=6, epochs_per_stage=1, first_stage=0, step_weight=0.05),
        task=Gsm8kAugConfig(),
        train=TrainConfig(
            epochs=30,  # [L] num_epochs
            batch_size=128,  # [L] batch_size_training 64 x 2 GPUs
            micro_batch_size=32,  # [ours]
            lr=1e-4,  # [L] lr
            weight_decay=0.01,  # [L] weight_decay
            schedule="constant",  # [L] lr_schedule
            clip=1.0,  # [L] grad_norm_clip
            seed=0,  # [L] seed
            validate_limit=500,  # [ours]
        ),
        speaking=SamplingParams(max_new_tokens=64),  # [ours] as Coconut's
    )


def _llama(path: str, lr: float, epochs: int) -> RunConfig:
    base = gsm8k()
    train = replace(base.train, lr=lr, epochs=epochs, micro_batch_size=16, precision="bf16")  # [ours] fp32 weights; [L] bf16
    method = replace(base.method, latents_per_step=25)  # [L] c_thought
    return replace(base, backbone=BackboneConfig(path=path), method=method, train=train)


def gsm8k_llama1b() -> RunConfig:
    """LOTUS, Llama-3.2-1B-Instruct; published 57.3 (0.2), explicit CoT 58.4.

    Blocks are supervised after the last loop, as in the paper; the released file leaves that out, which supervises block k
    after loop k: `method.supervise=each`.
    """
    return _llama(LLAMA_1B, lr=1e-4, epochs=100)  # [L] args/base/common.yaml; num_epochs


def gsm8k_llama3b() -> RunConfig:
    """LOTUS, Llama-3.2-3B-Instruct; published 70.0 (0.9), explicit CoT 71.5."""
    return _llama(LLAMA_3B, lr=5e-5, epochs=30)  # [L] lr, num_epochs


def codi_gsm8k_llama3b() -> RunConfig:
    """LOTUS + CODI, Llama-3.2-3B-Instruct; published 70.6 (0.2). The teacher is the run that training starts from:
    `method.teacher.path=RUN`; the published weight is in no file."""
    base = gsm8k_llama3b()
    teacher = BackboneConfig(path="yingfanbot/gsm-cot-llama3b")  # [L] teacher_model_path
    return replace(base, method=DistillConfig(inner=base.method, teacher=teacher, weight=1.0))  # [ours] weight
