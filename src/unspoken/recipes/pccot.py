"""PCCoT on GSM8K-Aug, with the published settings.

Sources: [W] whyNLP/PCCoT 2e32e3e, run_ccot.sh.template; [P] arXiv 2506.18582; [ours] chosen here.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.template import Template
from unspoken.methods.codi import CodiConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig

_GPT2_LAYERS = ("c_attn", "c_fc", "c_proj")  # [W] lora_target_modules


def gsm8k() -> RunConfig:
    """PCCoT, GPT-2: 24 latents in 3 iterations; published 49.5."""
    return RunConfig(
        backbone=BackboneConfig(path="gpt2", lora=LoraSettings(r=128, alpha=32, dropout=0.1, targets=_GPT2_LAYERS)),
        method=CodiConfig(
            latents=24,  # [W] num_latent_tokens
            iterations=3,  # [W] num_iterations
            projection=False,  # [W] use_projection
            scale="batch",  # [W] use_layerwise_std
            compare_embeddings=False,  # [W] models/modeling_gpt2.py
            template=Template(question="{question}", step="{step}", answer="The answer is:{answer}"),  # [W] answer_prompt
            separator="",  # [W] models/data_processor.py
        ),
        task=Gsm8kAugConfig(),
        train=TrainConfig(
            epochs=40,  # [W] num_train_epochs
            batch_size=128,  # [W] per_device_train_batch_size
            micro_batch_size=64,  # [ours]
            lr=3e-3,  # [W] learning_rate
            weight_decay=1e-2,  # [W] weight_decay
            schedule="cosine",  # [W] lr_scheduler_type
            warmup_share=0.03,  # [W] warmup_ratio
            clip=1.0,  # transformers' Trainer, which [W] leaves as it is
            precision="bf16",  # [W] bf16
            validate_limit=500,  # [ours]
        ),
        speaking=SamplingParams(max_new_tokens=64),  # [ours]
    )


def gsm8k_llama1b() -> RunConfig:
    """PCCoT, Llama-3.2-1B-Instruct, with LoRA on every linear layer and CODI's rate; published 54.2."""
    base = gsm8k()
    train = replace(base.train, lr=8e-4, epochs=10, micro_batch_size=32)  # [ours] zhenyi4/codi: train_llama1b_gsm8k-aug.sh
    lora = LoraSettings(r=128, alpha=32, dropout=0.1)
    return replace(base, backbone=BackboneConfig(path="meta-llama/Llama-3.2-1B-Instruct", lora=lora), train=train)
